"""How closely generated music follows its requested controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from generation.engine import ControlTable, Engine, GenerationInputs, draw_init
from generation.sampling import EventConstraints
from midi.control_schedule import (
    PITCH_CLASSES,
    WINDOW,
    ControlSchedule,
    format_density,
    middle_notes,
)
from midi.harmony import parse_scale_or_chord
from model import PerformanceRNN
from sequence import PITCHES, Control, Encoding, EventSeq, NoteSeq
from utils import Array

# the samples of `evaluate_controls`
EVAL_SCALES = ("C major", "A minor", "F# major", "C pentatonic")
EVAL_LEVELS = (1, 3, 6, 9)  # of density
EVAL_STEPS = 800  # events per sample
MAX_LINES = 4  # more sections of a sample are averaged


@dataclass(frozen=True)
class ControlMetrics:
    """A comparison of notes with a requested control.

    similarity: cosine similarity of the generated and the requested pitch-class histogram, 0-1;
    share_in_classes: share of the notes in requested pitch classes; density: average number of
    note ons in two seconds.
    """

    similarity: float
    share_in_classes: float
    density: float

    def __str__(self) -> str:
        return (
            f"histogram similarity {self.similarity:.3f}, "
            f"{self.share_in_classes:.1%} of notes in requested pitch classes, "
            f"{self.density:.1f} notes per 2 s"
        )


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
    span = float(onsets[-1] - onsets[0]) if len(onsets) > 1 else 0.0
    return ControlMetrics(
        similarity=float(counts @ histogram / norms) if norms else 0.0,
        share_in_classes=float(is_requested.sum() / max(1, len(pitches))),
        density=WINDOW * (len(pitches) - 1) / span if span else 0.0,
    )


def compare_sections(events: EventSeq, control: ControlSchedule) -> list[str]:
    """Compare each section of a sample with its requested control; return a line for each.

    Sections without notes are left out. More than MAX_LINES become one line of averages.
    """
    note_ons = np.flatnonzero(events.to_array() < EventSeq.feat_ranges()["note_on"].stop)
    onsets = events.times[note_ons] / events.encoding.ticks_per_second
    pitches = events.to_array()[note_ons].astype(np.int64) + PITCHES.start
    requested = control.evaluate(onsets, note_ons)
    lines, similarities, errors = [], [], []
    for start, end, name in control.split_sections(events.total_ms / 1000):
        inside = (onsets >= start) & (onsets < end)
        if inside.any():
            level = float(requested.density[inside].mean())
            metrics = measure_control(pitches[inside], onsets[inside], requested.histogram[inside])
            lines.append(f"{name}: {metrics} (requested {format_density(level)})")
            similarities.append(metrics.similarity)
            errors.append(abs(metrics.density - middle_notes(level)))
    if len(lines) <= MAX_LINES:
        return lines
    return [
        f"{control.text}: histogram similarity {np.mean(similarities):.3f}, density error "
        f"{np.mean(errors):.1f} notes per 2 s (average of {len(lines)} sections)"
    ]


def generate_samples(
    model: PerformanceRNN, encoding: Encoding, controls: Sequence[Control], steps: int, seed: int
) -> list[NoteSeq]:
    """Generate a sample of `steps` events for each of the controls, which stay constant."""
    constraints = EventConstraints(*EventSeq.playable_events(), EventSeq.event_durations(encoding))
    values = {
        "density": [control.note_density for control in controls],
        "histogram": [control.pitch_histogram for control in controls],
    }
    vectors = torch.from_numpy(model.layout.encode(values, len(controls))).to(model.device)
    table = ControlTable(vectors[None])  # [1, batch, control]
    inputs = GenerationInputs(*draw_init(model, seed, len(controls)), constraints, table)
    events = list(Engine(model).generate(inputs, steps))
    samples = torch.stack(events, dim=1).cpu().numpy()  # [batch, steps]
    return [EventSeq.from_array(sample, encoding).to_note_seq() for sample in samples]


def evaluate_controls(model: PerformanceRNN, encoding: Encoding, seed: int = 0) -> Iterator[str]:
    """Measure how closely a network follows controls, with a sample for each scale and density.

    Yields a line for each of EVAL_SCALES and EVAL_LEVELS.
    """
    pairs = [(scale, density) for scale in EVAL_SCALES for density in EVAL_LEVELS]
    controls = [Control(parse_scale_or_chord(scale), density) for scale, density in pairs]
    samples = generate_samples(model, encoding, controls, EVAL_STEPS, seed)
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
    for density in EVAL_LEVELS:
        notes = [metrics[scale, density].density for scale in EVAL_SCALES]
        yield (
            f"density {density}: {np.mean(notes):.1f} notes per 2 s, {min(notes):.1f} to "
            f"{max(notes):.1f} (requested {format_density(density)})"
        )
