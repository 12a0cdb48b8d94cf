"""Small MIDI and data files for tests, made without the code under test where that matters.

`python3 -m tools.synthetic_data FOLDER` writes the performances of tests/data.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import mido
import numpy as np
import pretty_midi

import utils
from config import ModelConfig
from corpus.performance import Performance
from preprocess import encode_notes, read_notes
from sequence import CURRENT

TINY_MODEL = "hidden_dim=16,gru_layers=2,init_dim=4"
TINY_SIZES = ModelConfig(init_dim=4, hidden_dim=16, gru_layers=2)
C_MAJOR = (0, 2, 4, 5, 7, 9, 11)

Message = tuple[int, int, mido.Message]  # tick, order within the tick, message


def write_midi(path: Path, notes: int = 120, seed: int = 0, drums: bool = False) -> Path:
    """Write random notes in C major, about six per second, with pretty_midi alone."""
    rng = np.random.default_rng(seed)
    midi = pretty_midi.PrettyMIDI(resolution=480)
    piano = pretty_midi.Instrument(0, is_drum=drums)
    for onset in np.cumsum(rng.exponential(0.17, notes)):
        pitch = int(rng.choice(C_MAJOR) + 12 * rng.integers(3, 7))
        length, velocity = 0.05 + rng.exponential(0.3), int(rng.integers(20, 110))
        piano.notes.append(pretty_midi.Note(velocity, pitch, onset, onset + length))
    midi.instruments.append(piano)
    path.parent.mkdir(parents=True, exist_ok=True)
    midi.write(str(path))
    return path


def write_performance(path: Path, seed: int, beats: int = 60) -> Path:
    """Write what a recording has: tempo changes, uneven chords and runs, rests and the pedal.

    It is written message by message with mido. No key is struck again before it is released,
    so that every MIDI library pairs the messages alike.
    """
    rng = np.random.default_rng(seed)
    midi = mido.MidiFile(ticks_per_beat=480)
    tempos: list[Message] = []
    tempo = rng.uniform(4e5, 9e5)  # microseconds per beat
    for beat in range(0, beats, 3):
        tempo = float(np.clip(tempo * rng.uniform(0.8, 1.25), 3e5, 1.2e6))
        tempos.append((480 * beat, 0, mido.MetaMessage("set_tempo", tempo=int(tempo))))
    midi.tracks += [
        make_track(tempos),
        make_track([*make_notes(rng, beats), *make_pedal(rng, beats)]),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    midi.save(path)
    return path


def make_notes(rng: np.random.Generator, beats: int) -> list[Message]:
    """Return note messages: dense chords, single notes and runs, with rests of several beats."""
    strikes: list[tuple[int, int, int, int]] = []  # start, end, pitch, velocity
    now, center = 0, 60
    while now < 480 * beats:
        center = int(np.clip(center + rng.integers(-6, 7), 40, 80))
        loudness = 64 + 30 * np.sin(now / 5000)
        size = int(rng.choice([1, 1, 2, 4, 8]))
        for offset in rng.choice(40, size, replace=False) - 20:
            start = now + int(rng.integers(0, 25))
            length = int(20 + rng.exponential(300))
            velocity = int(np.clip(loudness + rng.normal(0, 9), 1, 127))
            strikes.append(
                (start, start + length, int(np.clip(center + offset, 21, 108)), velocity)
            )
        now += int(rng.choice([47, 118, 239, 481, 2900], p=[0.3, 0.3, 0.25, 0.13, 0.02]))
    messages: list[Message] = []
    next_start: dict[int, int] = {}
    for start, end, pitch, velocity in sorted(strikes, reverse=True):
        end = min(end, next_start.get(pitch, end))
        if end > start:
            next_start[pitch] = start
            messages.append((start, 2, mido.Message("note_on", note=pitch, velocity=velocity)))
            messages.append((end, 0, mido.Message("note_off", note=pitch, velocity=64)))
    return messages


def make_pedal(rng: np.random.Generator, beats: int) -> list[Message]:
    """Return sustain pedal messages: gradual presses and releases, about one per bar."""
    messages: list[Message] = []
    for bar in range(0, beats, 4):
        if rng.random() < 0.8:
            down = 480 * bar + int(rng.integers(0, 200))
            up = down + int(rng.integers(600, 1600))
            values = np.linspace(0, 127, 6).astype(int)
            for begin, ramp in ((down, values), (up, values[::-1])):
                for step, value in enumerate(ramp.tolist()):
                    pedal = mido.Message("control_change", control=64, value=value)
                    messages.append((begin + 9 * step, 1, pedal))
    return messages


def make_track(messages: list[Message]) -> mido.MidiTrack:
    """Return a track of messages at absolute ticks."""
    track, now = mido.MidiTrack(), 0
    for tick, _, message in sorted(messages, key=lambda entry: entry[:2]):
        track.append(message.copy(time=tick - now))
        now = tick
    return track


def write_data(folder: Path, count: int = 3, notes: int = 120) -> Path:
    """Write `count` encoded files of random notes to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        content = write_midi(folder / "midi.tmp", notes, seed).read_bytes()
        source = hashlib.blake2b(content, digest_size=16).hexdigest()
        performance = encode_notes(read_notes(content, CURRENT)[0], source, CURRENT)
        utils.atomic_write(folder / f"{seed}.mid.data", performance.to_bytes())
    (folder / "midi.tmp").unlink()
    return folder


def make_performance(events: np.ndarray, controls: np.ndarray | None = None) -> Performance:
    """Return a performance of these events; its default controls count up, so that rows differ."""
    if controls is None:
        controls = np.zeros((len(events), 13), np.uint8)
        controls[:, 1] = 1 + np.arange(len(events)) % 255
    return Performance(np.asarray(events, np.uint8), controls, 1, 0, 0.0, 0.0, "")


def main() -> None:
    """Write performance-1.mid to performance-4.mid."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.synthetic_data", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for seed in range(1, 5):
        write_performance(folder / f"performance-{seed}.mid", seed)


if __name__ == "__main__":
    main()
