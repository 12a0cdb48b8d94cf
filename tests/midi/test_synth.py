import shutil
import wave
from pathlib import Path

import numpy as np
import pytest

from midi.synth import find_soundfont, render_audio
from sequence import NoteSeq

SCALE = NoteSeq(np.arange(8) / 2, np.arange(8) / 2 + 0.5, 60 + np.arange(8), 40 + 10 * np.arange(8))


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Return the samples [frames, channels] and the sample rate of a WAV file."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return samples.reshape(-1, file.getnchannels()).astype(int), file.getframerate()


def test_audio_has_length_and_level(tmp_path: Path) -> None:
    SCALE.to_midi_file(tmp_path / "scale.mid", texts=["session: a.sess", "seed: 3"])
    render_audio(tmp_path / "scale.mid", tmp_path / "scale.wav")
    samples, rate = read_wav(tmp_path / "scale.wav")
    assert -0.1 < len(samples) / rate - SCALE.seconds < 5
    assert np.abs(samples[-1]).max() < 100, "faded out"
    assert 0.89 < np.abs(samples).max() / 32767 < 0.91


def test_audio_has_pitch_and_time_of_notes(tmp_path: Path) -> None:
    soundfont = shutil.copy(find_soundfont(), tmp_path / "own.sf2")
    NoteSeq([0, 1.0], [0.1, 2.0], [21, 69], [1, 100]).to_midi_file(tmp_path / "a.mid")
    render_audio(tmp_path / "a.mid", tmp_path / "a.wav", soundfont)
    samples, rate = read_wav(tmp_path / "a.wav")
    loud = np.abs(samples).max(axis=1) > 3000
    assert loud.argmax() / rate == pytest.approx(1.0, abs=0.05)
    note = samples[int(1.1 * rate) : int(1.9 * rate)].sum(axis=1)
    spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note))))
    assert spectrum.argmax() * rate / len(note) == pytest.approx(440, abs=4)


def test_invalid_soundfont_raises(tmp_path: Path) -> None:
    SCALE.to_midi_file(tmp_path / "a.mid")
    (tmp_path / "a.sf2").write_bytes(b"RIFFxxxxsfbk and nothing else")
    with pytest.raises(ValueError, match=r"a\.mid: cannot be rendered with .*a\.sf2"):
        render_audio(tmp_path / "a.mid", tmp_path / "a.wav", tmp_path / "a.sf2")
    assert not (tmp_path / "a.wav").exists()
    with pytest.raises(ValueError, match=r"a\.mid: not a soundfont"):
        find_soundfont(tmp_path / "a.mid")
    with pytest.raises(FileNotFoundError):
        find_soundfont(tmp_path / "missing.sf2")


def test_release_is_rendered_and_fades(tmp_path: Path) -> None:
    chord = NoteSeq([0, 0, 0], [2, 2, 2], [36, 60, 64], [110] * 3)
    chord.to_midi_file(tmp_path / "a.mid")
    render_audio(tmp_path / "a.mid", tmp_path / "a.wav")
    samples, rate = read_wav(tmp_path / "a.wav")
    assert 2.1 < len(samples) / rate < 6
    levels = [np.abs(samples[int(t * rate) :]).max() / 32767 for t in (2.02, 2.1, 2.2)]
    assert levels[0] > levels[1] > levels[2] > 0
    assert np.abs(samples[-int(0.02 * rate) :]).max() / 32767 < 0.002


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_formats_have_the_same_music(tmp_path: Path, suffix: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    SCALE.to_midi_file(tmp_path / "a.mid")
    for name in ("wav", suffix):
        render_audio(tmp_path / "a.mid", tmp_path / f"a.{name}")
    expected, rate = read_wav(tmp_path / "a.wav")
    samples, new_rate = soundfile.read(tmp_path / f"a.{suffix}")
    assert new_rate == rate
    assert samples.shape == expected.shape
    correlation = np.corrcoef(samples[:, 0], expected[:, 0])[0, 1]
    assert correlation > (0.9999 if suffix == "flac" else 0.98)
