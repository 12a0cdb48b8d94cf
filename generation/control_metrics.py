"""How closely generated music follows its requested controls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from config import GenerateConfig
from generation.engine import ControlTable, Engine, GenerationInputs, draw_init
from generation.pipeline import build_density_target, build_event_constraints
from generation.sampling import Sampler
from midi.control_schedule import (
    PITCH_CLASSES,
    WINDOW,
    ControlSchedule,
    format_density,
    measure_rate,
    middle_notes,
)
from midi.harmony import parse_scale_or_chord
from model import PerformanceRNN
from sequence import (
    CONTROLS,
    PITCHES,
    Control,
    ControlKind,
    ControlSeq,
    Encoding,
    EventSeq,
)
from utils import Array

# the samples of `evaluate_controls`
EVAL_SCALES = ("C major", "A minor", "F# major", "C pentatonic")
EVAL_LEVELS = (1, 3, 6, 9)  # of density
EVAL_POSITIONS = (2, 4, 6, 8)  # of other controls, between their first and last center: 0-11
EVAL_REPEATS = 4  # samples for each of these
EVAL_STEPS = 800  # events per sample
MAX_LINES = 4  # more sections of a sample are averaged


@dataclass(frozen=True)
class ControlMetrics:
    """A comparison of notes with a requested control.

    similarity: cosine similarity of the generated and the requested pitch-class histogram, 0-1;
    share_in_classes: share of the notes in requested pitch classes; rate: notes per second.
    """

    similarity: float
    share_in_classes: float
    rate: float

    def format(self, level: float = math.nan, has_histogram: bool = True) -> str:
        """Format the metrics; level: the requested density level, nan for none."""
        if math.isnan(level):
            text = f"{self.rate:.1f} notes/s"
        else:
            text = f"requested {format_density(level)} notes/s, got {self.rate:.1f}"
        if has_histogram:
            text += (
                f"; {self.share_in_classes:.1%} of notes in requested pitch classes, "
                f"histogram similarity {self.similarity:.3f}"
            )
        return text


def measure_control(pitches: Array, onsets: Array, histogram: Array) -> ControlMetrics:
    """Compare notes with a requested pitch-class histogram [12], or with one for each note.

    pitches: MIDI pitches [notes]; onsets: seconds, ascending [notes]; histogram: [12] or
    [notes, 12].
    """
    requested = np.broadcast_to(histogram, (len(pitches), PITCH_CLASSES))
    is_requested = requested[np.arange(len(pitches)), pitches % PITCH_CLASSES] > 0
    histogram = requested.mean(axis=0) if len(pitches) else np.zeros(PITCH_CLASSES)
    counts = np.bincount(pitches % PITCH_CLASSES, minlength=PITCH_CLASSES)
    norms = np.linalg.norm(counts) * np.linalg.norm(histogram)
    return ControlMetrics(
        similarity=float(counts @ histogram / norms) if norms else 0.0,
        share_in_classes=float(is_requested.sum() / max(1, len(pitches))),
        rate=measure_rate(onsets),
    )


def compare_sections(events: EventSeq, control: ControlSchedule) -> list[str]:
    """Compare each section of a sample with its requested control; return a line for each.

    Sections without notes are left out; without any note there are no lines. More than MAX_LINES
    become one line of averages. A line for each control other than density and histogram follows.
    """
    note_ons = np.flatnonzero(events.to_array() < EventSeq.feat_ranges()["note_on"].stop)
    if not len(note_ons):
        return []
    onsets = events.times[note_ons] / events.encoding.ticks_per_second
    pitches = events.to_array()[note_ons].astype(np.int64) + PITCHES.start
    requested = control.evaluate(onsets, note_ons)
    lines, similarities, errors = [], [], []
    for start, end, name in control.split_sections(events.total_ms / 1000):
        inside = (onsets >= start) & (onsets < end)
        if inside.any():
            density, histogram = requested.density[inside], requested.histogram[inside]
            level = float(density.mean()) if not np.isnan(density).any() else math.nan
            has_histogram = not np.isnan(histogram).any()
            metrics = measure_control(pitches[inside], onsets[inside], histogram)
            lines.append(f"{name}: {metrics.format(level, has_histogram)}")
            similarities.append(metrics.similarity if has_histogram else math.nan)
            errors.append(abs(metrics.rate - middle_notes(level) / WINDOW))
    if len(lines) > MAX_LINES:
        lines = [_average_sections(control.text, similarities, errors)]
    adherence = measure_adherence(events, control)
    return lines + [str(entry) for name, entry in adherence.items() if name in control.scalars]


def _average_sections(text: str, similarities: Sequence[float], errors: Sequence[Any]) -> str:
    """Return one line for many sections; nan: a section in which the control is open."""
    parts = []
    if not np.isnan(similarities).all():
        parts.append(f"histogram similarity {np.nanmean(similarities):.3f}")
    if not np.isnan(errors).all():
        parts.append(f"density error {np.nanmean(errors):.1f} notes/s")
    return f"{text}: {', '.join(parts)} (average of {len(errors)} sections)"


# -------------------------------------------------------------------------------- adherence


def rank(values: npt.ArrayLike) -> Array:
    """Return the rank of each value from 0; equal values have the mean of their ranks."""
    first, end = (np.searchsorted(np.sort(values), values, side) for side in ("left", "right"))
    return np.asarray(first + end - 1) / 2


def spearman(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Return Spearman's rank correlation; nan if all values of one side are equal."""
    ranks = rank(left), rank(right)
    if not (np.ptp(ranks[0]) and np.ptp(ranks[1])):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


@dataclass(frozen=True, eq=False)
class Adherence:
    """How closely music follows one control.

    requested, generated: the value at each note on, measured over the two seconds after it
    [note ons].
    """

    kind: ControlKind
    requested: Array
    generated: Array

    @property
    def close_share(self) -> float:
        """The share of the note ons with a value at most one step from the requested one.

        A step is the distance between two centers of the control, see `ControlKind`; for the
        density it is a level.
        """
        requested, generated = map(self.kind.find_positions, (self.requested, self.generated))
        return float((np.abs(requested - generated) <= 1).mean())

    @property
    def correlation(self) -> float:
        """Spearman's rank correlation of requested and generated values; nan if one is constant."""
        return spearman(self.requested, self.generated)

    def __str__(self) -> str:
        unit, digits = self.kind.unit, 2 if self.kind.high < 20 else 1
        generated, requested = self.generated.mean(), self.requested.mean()
        got, wanted = f"{generated:.{digits}f} {unit}", f"{requested:.{digits}f}"
        if self.kind.name == "density":
            got = f"{middle_notes(generated) / WINDOW:.1f} notes/s"
            wanted = format_density(float(requested))
        text = (
            f"{self.kind.name}: {got} (requested {wanted}), {self.close_share:.0%} within one step"
        )
        correlation = self.correlation
        return text if math.isnan(correlation) else f"{text}, Spearman {correlation:.2f}"


def measure_adherence(events: EventSeq, control: ControlSchedule) -> dict[str, Adherence]:
    """Compare music with each requested control that is one number; by name.

    Note ons at which a control is open, or that no value can be measured for, are left out.
    """
    note_ons = np.flatnonzero(events.to_array() < EventSeq.feat_ranges()["note_on"].stop)
    if not len(note_ons):
        return {}
    onsets = events.times[note_ons] / events.encoding.ticks_per_second
    # a value describes WINDOW seconds, so a plan is read in their middle
    offset = 0 if control.is_measured else WINDOW / 2
    requested = control.evaluate(onsets + offset, note_ons).values
    generated = ControlSeq.from_event_seq(events).values
    adherence = {}
    for kind in CONTROLS:
        if kind.name in requested and kind.name in generated and not kind.value_shape:
            pair = requested[kind.name], generated[kind.name][note_ons]
            is_known = ~np.isnan(pair[0]) & ~np.isnan(pair[1])
            if is_known.any():
                adherence[kind.name] = Adherence(kind, *(column[is_known] for column in pair))
    return adherence


def summarize_adherence(samples: Sequence[Adherence]) -> tuple[float, float]:
    """Return how closely samples follow one control that is constant in each of them.

    These are the mean of their shares within one step, nan without samples, and Spearman's rank
    correlation of the requested values and the means of the generated ones.
    """
    if not samples:
        return math.nan, math.nan
    requested = [float(entry.requested[0]) for entry in samples]
    generated = [float(entry.generated.mean()) for entry in samples]
    share = float(np.mean([entry.close_share for entry in samples]))
    return share, spearman(requested, generated)


def generate_samples(
    model: PerformanceRNN,
    encoding: Encoding,
    values: Mapping[str, Sequence[Any]],
    steps: int,
    seed: int,
) -> list[EventSeq]:
    """Generate a sample of `steps` events for each row of values, which stay constant.

    They are generated as generate.py does by default: with its temperature, its limits, and
    feedback for the density if that is requested.
    values: those of each requested control, by name, a row for each sample. Controls that the
    network lacks are not requested.
    """
    default = GenerateConfig()
    constraints = build_event_constraints(encoding, default.repeats, default.silence)
    has_density = "density" in values and "density" in model.layout.names
    target = build_density_target(encoding) if has_density else None
    count = max(map(len, values.values()))
    vectors = torch.from_numpy(model.layout.encode(values, count)).to(model.device)
    table = ControlTable(vectors[None], target=target)  # [1, batch, control]
    inputs = GenerationInputs(*draw_init(model, seed, count), constraints, table)
    events = list(Engine(model).generate(inputs, steps, Sampler(default.temperature)))
    samples = torch.stack(events, dim=1).cpu().numpy()  # [batch, steps]
    return [EventSeq.from_array(sample, encoding) for sample in samples]


def evaluate_controls(model: PerformanceRNN, encoding: Encoding, seed: int = 0) -> Iterator[str]:
    """Measure how closely a network follows its controls; yield a line for each result.

    Density and histogram are requested together, the other controls one at a time. A network that
    can leave controls open has the density among these, and only there.
    """
    if {"density", "histogram"} <= set(model.layout.names):
        yield from _evaluate_scales(model, encoding, seed)
    for kind in model.layout.kinds:
        if not kind.value_shape and not model.layout.is_plain:
            yield from _evaluate_control(model, encoding, kind, seed)


def _evaluate_control(
    model: PerformanceRNN, encoding: Encoding, kind: ControlKind, seed: int
) -> Iterator[str]:
    """Request values of one control, with all others open, EVAL_REPEATS samples for each value.

    Yields a line for each value, and a summary.
    """
    values = np.repeat(kind.find_values(EVAL_POSITIONS), EVAL_REPEATS)
    samples = generate_samples(model, encoding, {kind.name: values.tolist()}, EVAL_STEPS, seed)
    pairs = []
    for sample, value in zip(samples, values, strict=True):
        schedule = make_schedule({kind.name: value})
        pairs.append(measure_adherence(sample, schedule).get(kind.name))
    found = [entry for entry in pairs if entry is not None]
    for value in dict.fromkeys(values.tolist()):
        parts = [entry for entry in found if entry.requested[0] == value]
        if parts:
            columns = (
                np.concatenate([getattr(p, name) for p in parts])
                for name in ("requested", "generated")
            )
            yield str(Adherence(kind, *columns))
    if found:
        share, correlation = summarize_adherence(found)
        yield f"{kind.name}: {share:.0%} within one step, Spearman {correlation:.2f}"


def make_schedule(values: Mapping[str, float]) -> ControlSchedule:
    """Return a constant schedule of controls that are one number; all others are open."""
    scalars = {name: np.array([value]) for name, value in values.items() if name != "density"}
    density = np.array([values.get("density", np.nan)])
    return ControlSchedule(density, np.full((1, 12), np.nan), np.zeros(1), scalars=scalars)


def _evaluate_scales(model: PerformanceRNN, encoding: Encoding, seed: int) -> Iterator[str]:
    """Yield a line for each of EVAL_SCALES; a sample is generated for each with each EVAL_LEVELS.

    For a plain network, a line for each of EVAL_LEVELS follows.
    """
    pairs = [(scale, density) for scale in EVAL_SCALES for density in EVAL_LEVELS]
    controls = [Control(parse_scale_or_chord(scale), density) for scale, density in pairs]
    values: dict[str, list[Any]] = {
        "density": [control.note_density for control in controls],
        "histogram": [control.pitch_histogram for control in controls],
    }
    samples = [
        events.to_note_seq()
        for events in generate_samples(model, encoding, values, EVAL_STEPS, seed)
    ]
    metrics = {
        pair: measure_control(notes.pitches, notes.starts, control.pitch_histogram)
        for pair, notes, control in zip(pairs, samples, controls, strict=True)
    }
    for scale in EVAL_SCALES:
        rows = [metrics[scale, density] for density in EVAL_LEVELS]
        yield (
            f"{scale}: histogram similarity {np.mean([row.similarity for row in rows]):.3f}, "
            f"{np.mean([row.share_in_classes for row in rows]):.1%} of notes in requested "
            "pitch classes"
        )
    for density in EVAL_LEVELS if model.layout.is_plain else ():
        rates = [metrics[scale, density].rate for scale in EVAL_SCALES]
        yield (
            f"density {density}: requested {format_density(density)} notes/s, got "
            f"{np.mean(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"
        )
