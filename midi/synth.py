"""Render MIDI files to audio files: WAV, and with soundfile FLAC, Ogg Vorbis and MP3."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import mido
import numpy as np

from utils import Array, PathLike, atomic_write, import_optional, open_file, read_file

PEAK = 0.9  # loudest sample, as a share of the 16-bit range
RELEASE = 4.0  # seconds that are rendered after the last event
SILENCE = 0.001  # of the full range (-60 dB): the audio ends when the release is softer
FADE = 0.25  # seconds, at the end
BLOCK = 1 << 15  # frames written at a time: libsndfile has a limit for Ogg Vorbis


def find_soundfont(path: PathLike | None = None) -> Path:
    """Check a soundfont and return its path; without `path`, that of the one in pretty_midi.

    Raises ValueError if the file is not a soundfont, OSError if it is missing.
    """
    library = import_optional("pretty_midi", "audio")
    path = Path(str(library.__file__)).with_name("TimGM6mb.sf2") if path is None else Path(path)
    with open_file(path) as file:
        header = file.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"sfbk":
        raise ValueError(f"{path}: not a soundfont (.sf2)")
    return path


def check_audio(audio_format: str, soundfont: PathLike | None = None) -> None:
    """Raise an error if audio of a format could not be written.

    ImportError: a library is missing, or cannot write the format; else as `find_soundfont`.
    """
    import_optional("midirenderer", "audio")
    find_soundfont(soundfont)
    if audio_format != "wav":
        feature = f"audio in {audio_format}"
        library = import_optional("soundfile", feature)
        if audio_format.upper() not in library.available_formats():
            raise ImportError(f"{feature} needs a newer soundfile: pip install --upgrade soundfile")


def render_audio(midi_path: PathLike, path: PathLike, soundfont: PathLike | None = None) -> None:
    """Render a MIDI file to audio, with a soundfont or the one in pretty_midi.

    The suffix of `path`, one of `config.AUDIO_FORMATS`, decides the format. The release of the last
    notes is rendered, too. Raises ValueError, with both paths, if the renderer fails.
    """
    renderer, font = import_optional("midirenderer", "audio"), find_soundfont(soundfont)
    midi = _append_rest(Path(midi_path).read_bytes())
    try:
        content = renderer.render_wave_from(read_file(font), midi)
    except RuntimeError as error:
        raise ValueError(f"{midi_path}: cannot be rendered with {font}: {error}") from error
    with wave.open(io.BytesIO(content)) as file:
        rate, channels = file.getframerate(), file.getnchannels()
        samples = np.frombuffer(file.readframes(-1), "<i2").reshape(-1, channels)
    samples = _normalize(_trim_silence(samples, rate), rate)
    suffix = Path(path).suffix[1:]
    encoded = _encode_wave(samples, rate) if suffix == "wav" else _encode(samples, rate, suffix)
    atomic_write(path, encoded, durable=False)


def _append_rest(content: bytes) -> bytes:
    """Return a MIDI file with a rest of RELEASE seconds at its end, which the renderer plays."""
    file = mido.MidiFile(file=io.BytesIO(content))
    tempos = [
        message.tempo for track in file.tracks for message in track if message.type == "set_tempo"
    ]
    fastest = min(tempos, default=500_000)
    rest = round(1e6 * RELEASE * file.ticks_per_beat / fastest)
    track = max(file.tracks, key=lambda track: sum(message.time for message in track))
    if track and track[-1].type == "end_of_track":
        track.pop()
    # a controller without a meaning, as the renderer ends with the last message of a channel
    track.append(mido.Message("control_change", control=119, value=0, time=rest))
    result = io.BytesIO()
    file.save(file=result)
    return result.getvalue()


def _trim_silence(samples: Array, rate: int) -> Array:
    """Return the samples without the silence at their end, but for a fade."""
    is_loud = np.abs(samples.astype(np.int32)).max(axis=1, initial=0) > SILENCE * 32767
    last = len(is_loud) - int(is_loud[::-1].argmax()) if is_loud.any() else 0
    return samples[: last + int(FADE * rate)]


def _normalize(samples: Array, rate: int) -> Array:
    """Return samples, float64 [frames, channels], with the peak PEAK and a fade-out at the end."""
    peak = max(1, np.abs(samples.astype(np.int32)).max(initial=0))
    result = samples * (PEAK / peak)
    fade = np.linspace(1, 0, min(len(result), int(FADE * rate)))[:, None]
    result[len(result) - len(fade) :] *= fade
    return np.asarray(result)


def _encode_wave(samples: Array, rate: int) -> bytes:
    """Return the content of a 16-bit WAV file."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setparams((samples.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return target.getvalue()


def _encode(samples: Array, rate: int, suffix: str) -> bytes:
    """Return the content of an audio file that soundfile writes; ImportError if it is missing."""
    soundfile = import_optional("soundfile", f"audio in {suffix}")
    target, name = io.BytesIO(), suffix.upper()
    with soundfile.SoundFile(target, "w", rate, samples.shape[1], format=name) as file:
        for start in range(0, len(samples), BLOCK):
            file.write(samples[start : start + BLOCK])
    return target.getvalue()
