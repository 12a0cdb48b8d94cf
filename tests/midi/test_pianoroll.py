"""Pictures and audio that open, and show and sound what they should."""

import io
import shutil
import struct
import wave
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from midi import pianoroll as render
from midi import synth
from midi.control_schedule import ControlSchedule
from sequence import ControlSeq, NoteSeq

SCALE = NoteSeq(np.arange(8) / 2, np.arange(8) / 2 + 0.5, 60 + np.arange(8), 40 + 10 * np.arange(8))
ONE_CLASS = np.eye(12)


def schedule(times: np.ndarray, density: np.ndarray, histogram: np.ndarray) -> ControlSchedule:
    return ControlSchedule(density, histogram, times)


def pixels(picture: bytes) -> np.ndarray:
    """A PNG as whole numbers [rows, columns, 3]."""
    return np.rint(255 * matplotlib.image.imread(io.BytesIO(picture))[..., :3]).astype(int)


def places(image: np.ndarray, color: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a colour."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero((image == wanted).all(axis=2))
    return rows, columns


# --------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("notes", [SCALE, NoteSeq()])
def test_a_piano_roll_opens(notes: NoteSeq) -> None:
    content = render.draw_piano_roll(*notes.columns, "a title")
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 800
    assert height > 300


def test_velocity_is_colour_pitch_is_height_and_time_is_width() -> None:
    soft_then_loud = NoteSeq([0, 5], [4, 9], [50, 70], [render.SOFT, render.LOUD])
    image = pixels(render.draw_piano_roll(*soft_then_loud.columns, ""))
    image = image[:, : int(0.88 * image.shape[1])]  # without the bar of colours
    soft, loud = (places(image, render.COLORS[end]) for end in (0, -1))
    assert len(soft[0]) > 1000 < len(loud[0])
    assert soft[0].min() > loud[0].max(), "the lower note is below"
    assert soft[1].max() < loud[1].min(), "the later note is at the right"
    assert np.ptp(soft[1]) / image.shape[1] == pytest.approx(0.4, abs=0.05)


def test_the_control_over_time_is_above_the_roll_and_all_texts_are_taken() -> None:
    asked = schedule(np.array([0.0, 5.0]), np.array([1, 9]), ONE_CLASS[[0, 11]])
    notes = NoteSeq([0, 9], [1, 10], [60, 64], [64, 64])
    title, told = r"$\frac{ <b> 中 piece", {"notes": "2", "$x_": "&"}
    picture = render.draw_piano_roll(
        *notes.columns, title, asked, told, ["make $ it", "again" * 99]
    )
    image = pixels(picture)
    roll = places(image, "#f3f3f6")[0].min()  # the rows of the black keys
    for color in ("#0b5c4d", "#7fb8a8"):  # the class of each half, the band of its density
        rows, columns = places(image, color)
        early, late = (rows[columns < 400], rows[(columns > 600) & (columns < 850)])
        assert len(early) > 500 < len(late)
        assert early.mean() > late.mean() + 20, "C and few notes are low, B and many are high"
        assert late.max() < early.max() < roll


def test_a_control_drops_the_rows_that_repeat() -> None:
    asked = schedule(np.arange(6), np.array([1, 1, 2, 2, 2, 1]), ONE_CLASS[[0, 0, 0, 5, 5, 5]])
    times, density, histogram = asked.drop_repeats().columns
    assert times.tolist() == [0, 2, 3, 5]
    assert density.tolist() == [1, 2, 2, 1]
    assert histogram.argmax(axis=1).tolist() == [0, 0, 5, 5]


@pytest.mark.parametrize(
    "wrong",
    [
        ([], [], np.empty((0, 12))),
        ([0, 1], [3], ONE_CLASS[:2]),
        ([0], [3], np.eye(11)[:1]),
        ([1, 0], [3, 3], ONE_CLASS[:2]),
        ([0], [12], ONE_CLASS[:1]),
        ([np.nan], [3], ONE_CLASS[:1]),
        ([0], [3], -ONE_CLASS[:1]),
    ],
)
def test_a_control_that_is_none_is_refused(wrong: tuple[list, list, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="schedule"):
        schedule(*map(np.asarray, wrong))


def test_densities_mean_what_they_mean_to_the_network() -> None:
    asked = schedule(np.arange(12), np.arange(12), ONE_CLASS)
    fewest, most = asked.density_ranges()
    assert fewest.tolist() == ControlSeq.DENSITIES.tolist()
    assert most[:-1].tolist() == (ControlSeq.DENSITIES[1:] - 1).tolist()


def test_the_delivered_density_counts_the_onsets_of_two_seconds() -> None:
    starts = np.random.default_rng(0).uniform(0, 20, 50)
    times, counts = render.measure_density(starts, 20.0)
    assert (times[0], times[-1]) == (0, 18)
    assert counts.tolist() == [sum(t <= s < t + 2 for s in starts) for t in times]
    assert render.measure_density(np.empty(0), 0.0)[1].tolist() == [0]


# ------------------------------------------------------------------------------------ audio


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    """Samples [frames, channels] and rate of a WAV file."""
    with wave.open(str(path)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
        return samples.reshape(-1, sound.getnchannels()).astype(int), sound.getframerate()


def test_audio_opens_and_sounds_as_long_as_the_music(tmp_path: Path) -> None:
    SCALE.to_midi_file(tmp_path / "scale.mid", texts=["session: a.sess", "seed: 3"])
    synth.render_audio(tmp_path / "scale.mid", tmp_path / "scale.wav")
    samples, rate = sound_of(tmp_path / "scale.wav")
    assert -0.1 < len(samples) / rate - SCALE.seconds < 5
    assert np.abs(samples[-1]).max() < 100, "it fades out"
    assert 0.89 < np.abs(samples).max() / 32767 < 0.91


def test_a_note_sounds_at_its_pitch_and_time_with_a_soundfont_of_ones_own(tmp_path: Path) -> None:
    own = shutil.copy(synth.find_soundfont(), tmp_path / "own.sf2")
    NoteSeq([0, 1.0], [0.1, 2.0], [21, 69], [1, 100]).to_midi_file(tmp_path / "a.mid")
    synth.render_audio(tmp_path / "a.mid", tmp_path / "a.wav", own)
    samples, rate = sound_of(tmp_path / "a.wav")
    loud = np.abs(samples).max(axis=1) > 3000
    assert loud.argmax() / rate == pytest.approx(1.0, abs=0.05)
    note = samples[int(1.1 * rate) : int(1.9 * rate)].sum(axis=1)
    strengths = np.abs(np.fft.rfft(note * np.hanning(len(note))))
    assert strengths.argmax() * rate / len(note) == pytest.approx(440, abs=4)


def test_what_is_no_soundfont_is_refused_by_name(tmp_path: Path) -> None:
    SCALE.to_midi_file(tmp_path / "a.mid")
    (tmp_path / "a.sf2").write_bytes(b"RIFFxxxxsfbk and no more")
    with pytest.raises(ValueError, match=r"a\.sf2"):
        synth.render_audio(tmp_path / "a.mid", tmp_path / "a.wav", tmp_path / "a.sf2")
    with pytest.raises(ValueError, match=r"a\.mid: not a soundfont"):
        synth.find_soundfont(tmp_path / "a.mid")
    with pytest.raises(FileNotFoundError):
        synth.find_soundfont(tmp_path / "none.sf2")
    assert not (tmp_path / "a.wav").exists()
