"""What `tools.quality` measures: excerpts of real performances, and samples of a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from sequence import (
    PLAIN_CONTROLS,
    Control,
    ControlKind,
    ControlLayout,
    ControlSeq,
    Encoding,
    EventSeq,
    NoteSeq,
)
from utils import Array

MAX_EVENTS = 150  # per second; a sample with more of them ends early
# the settings of the controls
VALIDATION = "all controls"  # those of validation excerpts, event by event
PLAIN = "density and histogram"  # the same, but all other controls are open
NO_CONTROLS = "without control"
SCALE_WEIGHTS = {  # weights of the pitch classes from C
    "C major": (1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1),
    "A minor": (2, 0, 1, 0, 2, 1, 0, 1, 0, 2, 0, 1),  # natural; its triad twice as often
    "A harmonic minor": (1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1),
    "C pentatonic": (1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0),
    "F# pentatonic": (0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0),
}
SCALE_DENSITIES = (1, 3, 6, 9)  # of the samples of a scale, in turn
# positions of the values that a setting of one control requests, from sample to sample in turn;
# 0 is the first center of the control, 11 the last
REQUESTED_POSITIONS = (2, 3, 4, 5, 6, 7, 8, 9)

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


@dataclass(frozen=True, eq=False)
class Setting:
    """A setting of the controls: the controls of each of its samples.

    controls: float32 [steps or 1, samples, control], or None for no control;
    requested: for a setting of one control, the value of each sample [samples].
    """

    controls: Array | None = None
    requested: Array | None = None


def compute_controls(notes: NoteSeq, encoding: Encoding, layout: ControlLayout) -> Array:
    """Return the control of each event, as a network gets it: float32 [events, control]."""
    return ControlSeq.from_event_seq(EventSeq.from_note_seq(notes, encoding)).encode(layout)


def stack_controls(controls: Sequence[Array]) -> Array:
    """Return [steps, samples, control]; the last control of a shorter column is repeated."""
    steps = max(map(len, controls))
    rows = [np.minimum(np.arange(steps), len(column) - 1) for column in controls]
    return np.stack([c[r] for c, r in zip(controls, rows, strict=True)], axis=1)


def build_settings(
    excerpts: Sequence[Excerpt],
    encoding: Encoding,
    layout: ControlLayout,
    count: int,
    seconds: float,
) -> dict[str, Setting]:
    """Return the settings that a network with these controls can be measured in, by name.

    VALIDATION has all controls of the excerpts, and PLAIN only density and histogram; scales have
    four densities in turn. A control that is one number has a setting with its name, of at least
    `count` samples, in which all other controls are open.
    """
    longer = 1.5 * seconds  # because a sample may take more events than the excerpt
    followed = [
        compute_controls(notes.crop(begin, longer), encoding, layout) for notes, begin in excerpts
    ]
    settings = {VALIDATION: Setting(stack_controls(followed))}
    if not layout.is_plain and set(PLAIN_CONTROLS) <= set(layout.names):
        hidden = [layout.hide(rows, PLAIN_CONTROLS) for rows in followed]
        settings[PLAIN] = Setting(stack_controls(hidden))
    settings[NO_CONTROLS] = Setting()
    if set(PLAIN_CONTROLS) <= set(layout.names):
        levels = np.resize(SCALE_DENSITIES, count)
        for name, weights in SCALE_WEIGHTS.items():
            histogram = Control(weights, 0).pitch_histogram
            values = {"density": levels, "histogram": histogram}
            settings[name] = Setting(layout.encode(values, count)[None])
    for kind in layout.kinds:
        # a network without flags has the histogram, too, which is the same for all samples
        if not kind.value_shape and (kind.name == "density" or not layout.is_plain):
            settings[kind.name] = _build_setting(kind, layout, count)
    return settings


def _build_setting(kind: ControlKind, layout: ControlLayout, count: int) -> Setting:
    """Return a setting in which only one control is requested: several values in turn."""
    is_density = kind.name == "density"
    values = np.arange(DENSITY_LEVELS) if is_density else kind.find_values(REQUESTED_POSITIONS)
    requested = np.resize(values, -(-count // len(values)) * len(values))
    return Setting(layout.encode({kind.name: requested}, len(requested))[None], requested)


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

    controls: [steps or 1, samples, control]. A sample that takes more events than there are
    controls, or more than MAX_EVENTS, ends early.
    """
    table, steps = NO_CONTROL, round(MAX_EVENTS * seconds)
    if controls is not None:
        has_density = "density" in model.layout.names
        target = build_density_target(encoding) if options.steering and has_density else None
        table = ControlTable(torch.from_numpy(controls), target=target)
        steps = len(controls) if len(controls) > 1 else steps
    buffer = SampleBuffer(count, encoding)
    engine = Engine(model, options.exact, options.guidance, use_recall=options.recall)
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
    return notes.crop(0.0, seconds)
