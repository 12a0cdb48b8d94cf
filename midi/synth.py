"""Render MIDI files to audio."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np

from utils import PathLike, atomic_write, import_optional, open_file

PEAK = 0.9  # loudest sample, as a share of the 16-bit range
FADE = 0.25  # seconds, at the end


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


def render_audio(midi_path: PathLike, path: PathLike, soundfont: PathLike | None = None) -> None:
    """Render a MIDI file to a 16-bit WAV file, with a soundfont or the one in pretty_midi.

    Raises ValueError, with both paths, if the renderer fails.
    """
    renderer, font = import_optional("midirenderer", "audio"), find_soundfont(soundfont)
    try:
        content = renderer.render_wave_from(font.read_bytes(), Path(midi_path).read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{midi_path}: cannot be rendered with {font}: {error}") from error
    atomic_write(path, _normalize(content), durable=False)


def _normalize(content: bytes) -> bytes:
    """Return a 16-bit WAV file, scaled so that its peak is PEAK, with a fade-out at the end."""
    with wave.open(io.BytesIO(content)) as file:
        params, samples = file.getparams(), np.frombuffer(file.readframes(-1), "<i2")
    peak = max(1, np.abs(samples.astype(np.int32)).max(initial=0))
    samples = samples * (PEAK * 32767 / peak)
    samples = samples.reshape(-1, params.nchannels)
    fade = np.linspace(1, 0, min(len(samples), int(FADE * params.framerate)))[:, None]
    samples[len(samples) - len(fade) :] *= fade
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setparams(params)
        file.writeframes(np.rint(samples).astype("<i2").tobytes())
    return target.getvalue()
