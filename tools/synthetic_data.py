"""Small MIDI and data files for the tests, made without the code under test where it matters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pretty_midi

from config import ModelConfig
from corpus.performance import Performance
from preprocess import encode

TINY_MODEL = "hidden_dim=16,gru_layers=2,init_dim=4"
TINY_SIZES = ModelConfig(init_dim=4, hidden_dim=16, gru_layers=2)


def write_midi(path: Path, notes: int = 120, seed: int = 0, drums: bool = False) -> Path:
    """A file of random notes in C major, about six a second, written by pretty_midi alone."""
    random = np.random.default_rng(seed)
    midi = pretty_midi.PrettyMIDI(resolution=480)
    piano = pretty_midi.Instrument(0, is_drum=drums)
    onsets = np.cumsum(random.exponential(0.17, notes))
    for onset in onsets:
        pitch = int(random.choice([0, 2, 4, 5, 7, 9, 11]) + 12 * random.integers(3, 7))
        length, velocity = 0.05 + random.exponential(0.3), int(random.integers(20, 110))
        piano.notes.append(pretty_midi.Note(velocity, pitch, onset, onset + length))
    midi.instruments.append(piano)
    path.parent.mkdir(parents=True, exist_ok=True)
    midi.write(str(path))
    return path


def write_data(folder: Path, count: int = 3, notes: int = 120) -> Path:
    """A folder of `.data` files."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        content = write_midi(folder / "midi.tmp", notes, seed).read_bytes()
        (folder / f"{seed}.mid.data").write_bytes(encode(content, str(seed)).to_bytes())
    (folder / "midi.tmp").unlink()
    return folder


def performance(events: np.ndarray, controls: np.ndarray | None = None) -> Performance:
    """A performance of given events; its controls count up, so that rows can be told apart."""
    if controls is None:
        controls = np.zeros((len(events), 13), np.uint8)
        controls[:, 1] = 1 + np.arange(len(events)) % 255
    return Performance(np.asarray(events, np.uint8), controls, 0, 0, 0.0, 0.0, "")
