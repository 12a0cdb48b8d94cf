"""What `tools.quality` measures: excerpts of real performances, and samples of a session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import utils
from config import DATA_SUFFIX, MIDI_SUFFIXES, GenerateConfig
from corpus.performance import Performance
from generate import build_sampler
from generation.engine import NO_CONTROL, ControlTable, Engine, GenerationInputs, draw_init
from generation.pipeline import (
    MAX_NOTE_SECONDS,
    SampleBuffer,
    build_density_target,
    build_event_constraints,
)
from midi.control_schedule import DENSITY_LEVELS
from model import PerformanceRNN
from sequence import Control, ControlSeq, Encoding, EventSeq, NoteSeq
from utils import Array

MAX_EVENTS = 150  # per second; a sample with more of them ends early
# the settings of the controls
VALIDATION = "validation controls"  # those of validation excerpts, event by event
NO_CONTROLS = "no control"
DENSITY_SETTING = "density 0-11"
SCALE_WEIGHTS = {  # weights of the pitch classes from C
    "C major": (1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1),
    "A minor": (2, 0, 1, 0, 2, 1, 0, 1, 0, 2, 0, 1),  # natural; its triad twice as often
    "A harmonic minor": (1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1),
    "C pentatonic": (1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0),
    "F# pentatonic": (0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0),
}
SCALE_DENSITIES = (1, 3, 6, 9)  # of the samples of a scale, in turn

Excerpt = tuple[NoteSeq, float]  # a performance, and the second in which the excerpt begins

# ------------------------------------------------------------------------ real performances


def load_performances(folder: Path) -> list[tuple[str, NoteSeq]]:
    """Return the path in the folder and the notes of each `.data` file, or else of MIDI files."""
    paths = list(utils.find_files(folder, (DATA_SUFFIX,)))
    paths = paths or list(utils.find_files(folder, MIDI_SUFFIXES))
    return [(str(path.relative_to(folder)), load_notes(path)) for path in paths]


def load_notes(path: Path) -> NoteSeq:
    """Return the notes of a `.data` or MIDI file, encoded and decoded."""
    if path.suffix.lower() != DATA_SUFFIX:
        return EventSeq.from_note_seq(NoteSeq.from_midi_file(path).trim_start()).to_note_seq()
    performance = Performance.load(path)
    return EventSeq.from_array(performance.events, performance.encoding).to_note_seq()


def cut_excerpt(notes: NoteSeq, begin: float, seconds: float) -> NoteSeq:
    """Return the notes that begin in an excerpt, from time 0, and end at its end at the latest."""
    inside = (notes.starts >= begin) & (notes.starts < begin + seconds)
    starts, ends, pitches, velocities = (column[inside] for column in notes.columns)
    return NoteSeq(starts - begin, np.minimum(ends - begin, seconds), pitches, velocities)


def choose_excerpts(
    performances: Sequence[NoteSeq], count: int, seconds: float, seed: int
) -> list[Excerpt]:
    """Return excerpts that begin at random onsets, spread evenly over long enough performances.

    Raises ValueError if no performance is long enough.
    """
    rng = np.random.default_rng(seed)
    long = [notes for notes in performances if len(notes) and notes.starts[-1] >= seconds]
    if not long:
        raise ValueError(f"no performance has {seconds:g} s")
    rounds = [rng.permutation(len(long)) for _ in range(-(-count // len(long)))]
    chosen = [long[row] for row in np.concatenate(rounds)[:count]]
    return [
        (notes, float(rng.choice(notes.starts[notes.starts <= notes.starts[-1] - seconds])))
        for notes in chosen
    ]


# ------------------------------------------------------------------------------- settings


def compute_controls(notes: NoteSeq, encoding: Encoding) -> Array:
    """Return the control of each event as `.data` files store it: float32 [events, 24]."""
    controls = ControlSeq.from_event_seq(EventSeq.from_note_seq(notes, encoding))
    return ControlSeq.recover_compressed_array(controls.to_compressed_array(), encoding)


def stack_controls(controls: Sequence[Array]) -> Array:
    """Return float32 [steps, samples, 24]; the last control of a shorter column is repeated."""
    steps = max(map(len, controls))
    rows = [np.minimum(np.arange(steps), len(column) - 1) for column in controls]
    return np.stack([c[r] for c, r in zip(controls, rows, strict=True)], axis=1)


def build_settings(
    excerpts: Sequence[Excerpt], encoding: Encoding, count: int, seconds: float
) -> dict[str, Array | None]:
    """Return the controls of each setting: [steps or 1, samples, 24], or None for no control.

    VALIDATION has the controls of the excerpts; scales have four densities in turn; the density
    levels come with a uniform histogram and in C major, for at least `count` samples.
    """
    longer = 1.5 * seconds  # because a sample may take more events than the excerpt
    followed = [
        compute_controls(cut_excerpt(notes, begin, longer), encoding) for notes, begin in excerpts
    ]
    fixed = {
        name: [Control(weights, SCALE_DENSITIES[k % 4]) for k in range(count)]
        for name, weights in SCALE_WEIGHTS.items()
    }
    c_major, both = SCALE_WEIGHTS["C major"], 2 * DENSITY_LEVELS
    fixed[DENSITY_SETTING] = [
        Control(c_major if k % both >= DENSITY_LEVELS else [0] * 12, k % DENSITY_LEVELS)
        for k in range(-(-count // both) * both)
    ]
    arrays = {
        name: np.stack([control.to_array() for control in controls])[None]
        for name, controls in fixed.items()
    }
    return {VALIDATION: stack_controls(followed), NO_CONTROLS: None, **arrays}


# ------------------------------------------------------------------------------- sampling


def draw_samples(
    model: PerformanceRNN,
    encoding: Encoding,
    controls: Array | None,
    count: int,
    seconds: float,
    seed: int,
    options: GenerateConfig,
) -> list[NoteSeq]:
    """Return samples of some seconds from their first onset, made as generate.py makes them.

    controls: [steps or 1, samples, 24]. A sample that takes more events than there are controls,
    or more than MAX_EVENTS, ends early.
    """
    table, steps = NO_CONTROL, round(MAX_EVENTS * seconds)
    if controls is not None:
        target = build_density_target(encoding) if options.steering else None
        table = ControlTable(torch.from_numpy(controls), target=target)
        steps = len(controls) if len(controls) > 1 else steps
    buffer = SampleBuffer(count, encoding)
    engine = Engine(model, options.exact, options.guidance)
    limits = (options.repeats, options.silence)
    constraints = build_event_constraints(encoding, *limits, free=options.free)
    inputs = GenerationInputs(*draw_init(model, seed, count), constraints, table)
    for events in engine.generate(inputs, steps, build_sampler(options)):
        buffer.add(events.numpy())
        if buffer.elapsed.min() >= 1000 * seconds:
            break
    return [decode(buffer.get(number), seconds) for number in range(count)]


def decode(events: EventSeq, seconds: float) -> NoteSeq:
    """Return the first seconds of what generate.py would write of the events."""
    notes = events.to_note_seq().trim_start().limit_durations(MAX_NOTE_SECONDS)
    return cut_excerpt(notes, 0.0, seconds)
