"""Render MIDI files to audio."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np

from utils import PathLike, atomic_write, import_optional


def find_soundfont(path: PathLike | None = None) -> Path:
    """A soundfont of your own, or pretty_midi's; ValueError if it is none, OSError if missing."""
    home = import_optional("pretty_midi", "audio")
    found = Path(str(home.__file__)).with_name("TimGM6mb.sf2") if path is None else Path(path)
    with found.open("rb") as file:
        start = file.read(12)
    if start[:4] != b"RIFF" or start[8:] != b"sfbk":
        raise ValueError(f"{found}: not a soundfont (.sf2)")
    return found


def render_audio(midi_path: PathLike, path: PathLike, soundfont: PathLike | None = None) -> None:
    """Play a MIDI file into a WAV file, with a soundfont of your own or pretty_midi's.

    Raises ValueError, naming both, if they can not be played.
    """
    renderer, font = import_optional("midirenderer", "audio"), find_soundfont(soundfont)
    try:
        sound = renderer.render_wave_from(font.read_bytes(), Path(midi_path).read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{midi_path} can not be played with {font}: {error}") from error
    atomic_write(path, _loud(sound), durable=False)


def _loud(sound: bytes) -> bytes:
    """16-bit WAV content with its peak at nine tenths of the range, faded out at the end."""
    with wave.open(io.BytesIO(sound)) as quiet:
        shape, samples = quiet.getparams(), np.frombuffer(quiet.readframes(-1), "<i2")
    scaled = samples * (0.9 * 32767 / max(1, np.abs(samples.astype(np.int32)).max(initial=0)))
    scaled = scaled.reshape(-1, shape.nchannels)
    fade = np.linspace(1, 0, min(len(scaled), shape.framerate // 4))[:, None]
    scaled[len(scaled) - len(fade) :] *= fade
    content = io.BytesIO()
    with wave.open(content, "wb") as loud:
        loud.setparams(shape)
        loud.writeframes(np.rint(scaled).astype("<i2").tobytes())
    return content.getvalue()
