"""The pieces that are measured: excerpts of real performances, and what a session plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import utils
from config import DATA_SUFFIX, MIDI_SUFFIXES, GenerateConfig
from corpus.performance import Performance
from generation import pipeline as composer
from generation.engine import Engine, Schedule, make_generators
from generation.pipeline import RELEASE, SampleBuffer
from model import PerformanceRNN
from sequence import Control, ControlSeq, Encoding, EventSeq, NoteSeq
from tools.music_metrics import DENSITIES
from utils import Array

EVENTS = 150  # a second, at most; more is as good as standing still
REAL = "excerpts"  # of the validation performances themselves
LEARNED = "training excerpts"  # of the performances learned from: what free play comes to
RIGHT = "as validation"  # to the controls of these excerpts
FREE = "no control"
SCALES = {  # weights of the pitch classes from C
    "C major": (1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1),
    "A minor": (2, 0, 1, 0, 2, 1, 0, 1, 0, 2, 0, 1),  # natural; its triad twice as often
    "A harmonic minor": (1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1),
    "C pentatonic": (1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0),
    "F# pentatonic": (0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0),
}
SCALE_DENSITIES = (1, 3, 6, 9)  # of the pieces in a scale, in turn
LADDER = "density 0-11"

# ------------------------------------------------------------------------------ real music


def performances(folder: Path) -> list[tuple[str, NoteSeq]]:
    """The name of the piece (its folder) and the notes of each `.data` or MIDI file, decoded."""
    paths = list(utils.find_files(folder, (DATA_SUFFIX,)))
    paths = paths or list(utils.find_files(folder, MIDI_SUFFIXES))
    return [(str(path.parent.relative_to(folder)), decoded(path)) for path in paths]


def decoded(path: Path) -> NoteSeq:
    """The notes of a `.data` or MIDI file as they are after they were events."""
    if path.suffix.lower() != DATA_SUFFIX:
        return EventSeq.from_note_seq(NoteSeq.from_midi_file(path).trim_start()).to_note_seq()
    performance = Performance.load(path)
    return EventSeq.from_array(performance.events, performance.encoding).to_note_seq()


def part(notes: NoteSeq, begin: float, seconds: float) -> NoteSeq:
    """The notes that begin in a stretch of time, moved to begin at 0 and ended with it."""
    inside = (notes.starts >= begin) & (notes.starts < begin + seconds)
    starts, ends, pitches, velocities = (column[inside] for column in notes.columns)
    return NoteSeq(starts - begin, np.minimum(ends - begin, seconds), pitches, velocities)


def places(
    real: Sequence[NoteSeq], pieces: int, seconds: float, seed: int
) -> list[tuple[NoteSeq, float]]:
    """Performances that last long enough, as evenly as can be, and an onset to begin at in each.

    Raises ValueError if there is none.
    """
    dice = np.random.default_rng(seed)
    long = [notes for notes in real if len(notes) and notes.starts[-1] >= seconds]
    if not long:
        raise ValueError(f"no performance lasts {seconds:g} s")
    turns = [dice.permutation(len(long)) for _ in range(-(-pieces // len(long)))]
    chosen = [long[row] for row in np.concatenate(turns)[:pieces]]
    return [
        (notes, float(dice.choice(notes.starts[notes.starts <= notes.starts[-1] - seconds])))
        for notes in chosen
    ]


# --------------------------------------------------------------------------------- playing


def controls_of(notes: NoteSeq, encoding: Encoding) -> Array:
    """float32 [events, 24]: the control of each event, as `.data` files keep it."""
    controls = ControlSeq.from_event_seq(EventSeq.from_note_seq(notes, encoding))
    return ControlSeq.recover_compressed_array(controls.to_compressed_array(), encoding)


def side_by_side(controls: Sequence[Array]) -> Array:
    """float32 [steps, pieces, 24]; where one is shorter, its last control is held."""
    steps = max(map(len, controls))
    held = [np.minimum(np.arange(steps), len(column) - 1) for column in controls]
    return np.stack([c[rows] for c, rows in zip(controls, held, strict=True)], axis=1)


def settings(
    taken: Sequence[tuple[NoteSeq, float]], encoding: Encoding, pieces: int, seconds: float
) -> dict[str, Array | None]:
    """Controls [steps or 1, pieces, 24] by setting; None for none.

    "as validation" has the controls of excerpts of the validation performances, event by
    event; the scales come at four densities in turn; the densities come with all pitch classes
    alike and in C major in turn, at least `pieces` in all.
    """
    longer = 1.5 * seconds  # than the excerpt, for the piece may take more events to its end
    followed = [controls_of(part(notes, begin, longer), encoding) for notes, begin in taken]
    scales = {
        name: [Control(weights, SCALE_DENSITIES[k % 4]) for k in range(pieces)]
        for name, weights in SCALES.items()
    }
    both = 2 * DENSITIES
    ladder = [
        Control(SCALES["C major"] if k % both >= DENSITIES else [0] * 12, k % DENSITIES)
        for k in range(-(-pieces // both) * both)
    ]
    fixed = {
        name: np.stack([control.to_array() for control in controls])[None]
        for name, controls in [*scales.items(), (LADDER, ladder)]
    }
    return {RIGHT: side_by_side(followed), FREE: None, **fixed}


def play(
    model: PerformanceRNN,
    encoding: Encoding,
    controls: Array | None,
    pieces: int,
    seconds: float,
    seed: int,
    sampling: Mapping[str, Any],
) -> list[NoteSeq]:
    """Pieces of some seconds from their first onset, to controls [steps or 1, pieces, 24].

    As generate.py plays; `sampling` are its options. A piece that takes too many events ends
    early: more than the controls, if they change, or than 150 a second.
    """
    options = GenerateConfig(**sampling)
    dice = make_generators(seed, pieces)
    init = torch.stack([torch.randn(model.config.init_dim, generator=one) for one in dice])
    kept = composer.steering(encoding) if options.steering else None
    asked = Schedule(None if controls is None else torch.from_numpy(controls), steering=kept)
    changing = controls is not None and len(controls) > 1
    steps = len(controls) if changing else round(EVENTS * seconds)  # type: ignore[arg-type]
    player = Engine(model, options.exact, options.guidance)
    how = {"sampling": composer.sampling(options), "rules": composer.rules(options, encoding)}
    takes = SampleBuffer(pieces, encoding)
    for events in player.generate(init, steps, asked, dice, **how):  # type: ignore[arg-type]
        takes.add(events.numpy())
        if takes.elapsed.min() >= 1000 * seconds:
            break
    return [finished(EventSeq.from_array(takes.of(k), encoding), seconds) for k in range(pieces)]


def finished(events: EventSeq, seconds: float) -> NoteSeq:
    """What generate.py would write of the events, and of that the first seconds."""
    return part(events.to_note_seq().trim_start().limit_durations(RELEASE), 0.0, seconds)
