"""How well a session does what its control asks for: asked-for against delivered music."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from generation.control import named
from generation.engine import Engine, Schedule, make_generators
from generation.sampling import EventRules
from midi.control_schedule import ControlSchedule, format_density, middle_notes
from model import PerformanceRNN
from sequence import PITCHES, Control, ControlSeq, Encoding, EventSeq, NoteSeq
from utils import Array

SCALES = ("C major", "A minor", "F# major", "C pentatonic")
DENSITIES = (1, 3, 6, 9)
STEPS = 800  # events of each piece


@dataclass(frozen=True)
class Delivered:
    """What a piece holds of what was asked for.

    cosine: of the angle between the asked-for and the delivered pitch-class histogram;
    inside: share of the notes on pitch classes that were asked for; density: note ons in
    two seconds, on average.
    """

    cosine: float
    inside: float
    density: float

    def __str__(self) -> str:
        return (
            f"histogram {self.cosine:.3f} alike, {self.inside:.1%} of the notes on asked-for "
            f"pitch classes, {self.density:.1f} notes in 2 s"
        )


def delivered(pitches: Array, onsets: Array, histogram: Array) -> Delivered:
    """Compare notes, MIDI pitches and onsets in seconds, with the histogram asked for [12]."""
    found = np.bincount(pitches % 12, minlength=12)
    lengths = np.linalg.norm(found) * np.linalg.norm(histogram)
    span = float(onsets[-1] - onsets[0]) if len(onsets) > 1 else 0.0
    return Delivered(
        cosine=float(found @ histogram / lengths) if lengths else 0.0,
        inside=float(found[histogram > 0].sum() / max(1, len(pitches))),
        density=ControlSeq.WINDOW * (len(pitches) - 1) / span if span else 0.0,
    )


def followed(events: EventSeq, asked: ControlSchedule, most: int = 4) -> Iterator[str]:
    """What was asked for in each section of a piece and what it holds; of many, the average."""
    numbers = np.flatnonzero(events.to_array() < EventSeq.feat_ranges()["note_on"].stop)
    onsets = events.times[numbers] / events.encoding.ticks_per_second
    pitches = events.to_array()[numbers].astype(np.int64) + PITCHES.start
    rows = asked.find_rows(onsets, numbers)
    found = []
    for begin, end, name in asked.split_sections(events.total_ms / 1000):
        inside = (onsets >= begin) & (onsets < end)
        if inside.any():
            index = float(asked.density[rows[inside]].mean())
            histogram = asked.histogram[rows[inside]].mean(axis=0)
            piece = delivered(pitches[inside], onsets[inside], histogram)
            found.append((name, index, piece))
    if len(found) <= most:
        for name, index, piece in found:
            yield f"asked for {name}: {piece}, {format_density(index)} asked for"
    else:
        cosine = np.mean([piece.cosine for _, _, piece in found])
        off = np.mean([abs(piece.density - middle_notes(index)) for _, index, piece in found])
        yield (
            f"asked for {asked.text}: in {len(found)} sections the histogram is {cosine:.3f} "
            f"alike, density {off:.1f} notes in 2 s off, on average"
        )


def play(
    model: PerformanceRNN, encoding: Encoding, controls: Sequence[Control], steps: int, seed: int
) -> list[NoteSeq]:
    """A piece of `steps` events to each of the controls."""
    dice = make_generators(seed, len(controls))
    init = torch.stack([torch.randn(model.config.init_dim, generator=s) for s in dice])
    asked = torch.from_numpy(np.stack([control.to_array() for control in controls])[None])
    events = Engine(model).generate(
        init.to(model.device),
        steps,
        Schedule(asked.to(model.device)),
        dice,
        rules=EventRules(*EventSeq.playable_events(), EventSeq.lengths(encoding)),
    )
    columns = torch.stack(list(events), dim=1).cpu().numpy()
    return [EventSeq.from_array(column, encoding).to_note_seq() for column in columns]


def adherence(model: PerformanceRNN, encoding: Encoding, seed: int = 0) -> Iterator[str]:
    """Play to each control of a fixed set, and tell what was asked for and what was delivered."""
    asked = [(scale, Control(named(scale), density)) for scale in SCALES for density in DENSITIES]
    pieces = play(model, encoding, [control for _, control in asked], STEPS, seed)
    found = [
        delivered(notes.pitches, notes.starts, control.pitch_histogram)
        for notes, (_, control) in zip(pieces, asked, strict=True)
    ]
    pairs = list(zip(found, asked, strict=True))
    for scale in SCALES:
        rows = [piece for piece, (name, _) in pairs if name == scale]
        yield (
            f"asked for {scale}: histogram {np.mean([row.cosine for row in rows]):.3f} alike, "
            f"{np.mean([row.inside for row in rows]):.1%} of the notes inside"
        )
    for density in DENSITIES:
        rates = [piece.density for piece, (_, control) in pairs if control.note_density == density]
        yield (
            f"asked for density {density} ({format_density(density)} notes in 2 s): "
            f"{np.mean(rates):.1f} notes, {min(rates):.1f} to {max(rates):.1f}"
        )
