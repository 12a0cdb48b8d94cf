"""How well a session does what its control asks for: asked-for against delivered music."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model import PerformanceRNN
from player import Player, sources
from sequence import Control, Encoding, EventSeq, NoteSeq

Array = npt.NDArray[Any]

SCALES = {  # pitch classes from C
    "C major": (0, 2, 4, 5, 7, 9, 11),
    "A minor": (0, 2, 4, 5, 7, 9, 11),
    "F# major": (6, 8, 10, 11, 1, 3, 5),
    "C pentatonic": (0, 2, 4, 7, 9),
}
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


def delivered(notes: NoteSeq, histogram: Array) -> Delivered:
    """Compare notes with the asked-for pitch-class histogram [12]."""
    found = np.bincount(notes.pitches % 12, minlength=12)
    lengths = np.linalg.norm(found) * np.linalg.norm(histogram)
    span = float(notes.starts[-1] - notes.starts[0]) if len(notes) > 1 else 0.0
    return Delivered(
        cosine=float(found @ histogram / lengths) if lengths else 0.0,
        inside=float(found[histogram > 0].sum() / max(1, len(notes))),
        density=2 * (len(notes) - 1) / span if span else 0.0,
    )


def play(
    model: PerformanceRNN, encoding: Encoding, controls: Sequence[Control], steps: int, seed: int
) -> list[NoteSeq]:
    """A piece of `steps` events to each of the controls."""
    dice = sources(seed, len(controls))
    init = torch.stack([torch.randn(model.config.init_dim, generator=s) for s in dice])
    asked = torch.from_numpy(np.stack([control.to_array() for control in controls])[None])
    events = Player(model).generate(
        init.to(model.device),
        steps,
        asked.to(model.device),
        dice,
        playable=EventSeq.playable(),
    )
    columns = torch.stack(list(events), dim=1).cpu().numpy()
    return [EventSeq.from_array(column, encoding).to_note_seq() for column in columns]


def adherence(model: PerformanceRNN, encoding: Encoding, seed: int = 0) -> Iterator[str]:
    """Play to each control of a fixed set, and tell what was asked for and what was delivered."""
    asked = [
        (scale, Control(np.isin(np.arange(12), classes), density))
        for scale, classes in SCALES.items()
        for density in DENSITIES
    ]
    pieces = play(model, encoding, [control for _, control in asked], STEPS, seed)
    found = [
        delivered(notes, control.pitch_histogram)
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
            f"asked for density {density} ({1 + 3 * density}-{3 + 3 * density} notes in 2 s): "
            f"{np.mean(rates):.1f} notes, {min(rates):.1f} to {max(rates):.1f}"
        )
