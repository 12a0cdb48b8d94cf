"""Check the surprise of a session with wrong chords.

In each trial one chord of a real performance is moved by a semitone. The
surprise at that place should rise.

example:
  python3 -m tools.wrong_chords -s pretrained.sess VALIDATION_MIDI_DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import utils
from analysis.memorization import number_chords
from analysis.surprise import measure_surprise
from config import MIDI_SUFFIXES, PRETRAINED
from model import PerformanceRNN, Session
from sequence import ENCODINGS, Encoding, EventSeq, NoteSeq
from utils import Array, find_files

SECONDS = (20, 80)  # the chord is in this part of a performance
MIN_NOTES = 3  # of the chord
NEAR = 0.05  # seconds from the chord


def choose_chord(notes: NoteSeq, rng: np.random.Generator) -> Array | None:
    """Return which notes are in a random chord, bool [notes]; None if there is no chord."""
    chords = number_chords(notes)
    _, first, sizes = np.unique(chords, return_index=True, return_counts=True)
    starts = notes.starts[first]
    fits = (sizes >= MIN_NOTES) & (starts > SECONDS[0]) & (starts < SECONDS[1])
    return chords == rng.choice(np.flatnonzero(fits)) if fits.any() else None


def measure_near(model: PerformanceRNN, encoding: Encoding, notes: NoteSeq, second: float) -> Array:
    """Return the nats of the notes near a second, and those of their pitches per note [2]."""
    events = EventSeq.from_note_seq(notes.trim_start(), encoding)
    surprise = measure_surprise(model, events)
    near = np.abs(surprise.onsets - (second - notes.starts[0])) < NEAR
    return np.array([surprise.nats[near].sum(), surprise.nats[near, 0].mean()])


def run_trials(session: Session, paths: Sequence[Path], trials: int, seed: int) -> Iterator[Array]:
    """Yield how much the two figures of `measure_near` rise, for one trial after another."""
    model, encoding = session.build_model(torch.device("cpu")), ENCODINGS[session.encoding]
    rng, count = np.random.default_rng(seed), 0
    for path in rng.permutation(np.array(paths, object)):
        notes = NoteSeq.from_midi_file(path).truncate(SECONDS[1] + 10)
        chord = choose_chord(notes, rng)
        if chord is None:
            continue
        pitches = np.clip(notes.pitches + chord * rng.choice([-1, 1]), 21, 108)
        wrong = NoteSeq(notes.starts, notes.ends, pitches, notes.velocities)
        second = float(notes.starts[chord][0])
        before, after = (measure_near(model, encoding, n, second) for n in (notes, wrong))
        yield after - before
        count += 1
        if count == trials:
            return


def run(options: argparse.Namespace) -> int:
    """Print in how many trials the surprise rises, and by how much."""
    torch.set_num_threads(1)
    paths = list(find_files(options.folder, MIDI_SUFFIXES))
    session = Session.load(options.session)
    rises = np.array(list(run_trials(session, paths, options.trials, options.seed)))
    for name, values in zip(("all notes there", "pitches, per note"), rises.T, strict=True):
        print(
            f"{name}: higher in {(values > 0).sum()} of {len(values)} trials, "
            f"median {np.median(values):+.2f} nats"
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print in how many trials the surprise rises, and by how much; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.wrong_chords",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-s", "--session", default=PRETRAINED)
    parser.add_argument("folder", type=Path, help="MIDI files that were not training data")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    return utils.run_command("tools.wrong_chords", lambda: run(options), "interrupted")


if __name__ == "__main__":
    raise SystemExit(main())
