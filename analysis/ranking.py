"""Ranking of generated pieces: which of many are the best, why, and different from one another.

The score of a piece is the sum of its penalties; 0 is best:

controls    1 - the mean adherence to the requested controls
statistics  how far its statistics are from those of the training data (see `STATISTICS`): half
            the root mean square of their distances from the median, in scales
likelihood  how far its nats/note are from those of the other candidates, from 0 to 1; very likely
            music is dull, very unlikely music is wrong
copied      notes of its longest passage from the training data beyond what human music shares
faults      loops of one note, silences, an early end, and notes that are held too long
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from analysis.music_metrics import (
    LOOP,
    MAX_SILENCE,
    chroma_similarity,
    cut_note_share,
    longest_repetition,
    longest_silence,
    polyphony,
    stops_early,
)
from corpus.recall import recall_columns
from generation.control_metrics import measure_adherence, measure_control
from midi.control_schedule import ControlSchedule
from model import PerformanceRNN
from sequence import PITCHES, EventSeq, NoteSeq
from utils import Array

EXCERPT = 60.0  # seconds; the statistics of training data are those of excerpts of this length
MAX_DISTANCE = 4.0  # scales from the median; what is farther away counts as much
FAULT = 1.0  # penalty of a fault
LONG_NOTES = 20.0  # penalty of a piece with only notes that are held too long
VARIETY = 0.5  # penalty of a piece that has the same statistics as one that is kept
LOSS_STEPS = 128  # events at once


def _entropy(counts: Array) -> float:
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum())


STATISTICS: dict[str, Callable[[NoteSeq], float]] = {
    "notes/s": lambda n: float(np.log(len(n) / max(n.seconds, 1.0))),
    "note length": lambda n: float(np.log(np.maximum(n.ends - n.starts, 0.01)).mean()),
    "polyphony": lambda n: float(polyphony(n).mean()) if n.seconds > 1 else 0.0,
    "mean pitch": lambda n: float(n.pitches.mean()),
    "pitch range": lambda n: float(n.pitches.std()),
    "mean velocity": lambda n: float(n.velocities.mean()),
    "velocity range": lambda n: float(n.velocities.std()),
    "pitch classes": lambda n: _entropy(np.bincount(n.pitches % 12, minlength=12)),
    "self-similarity": chroma_similarity,
}


def measure_statistics(notes: NoteSeq) -> Array:
    """Return the value of each of `STATISTICS` [statistics]; nan where the music has none."""
    if not len(notes):
        return np.full(len(STATISTICS), np.nan)
    return np.array([measure(notes) for measure in STATISTICS.values()])


@dataclass(frozen=True, eq=False)
class Reference:
    """Median and scale of each statistic in real music, both [statistics].

    The scale is 1.4826 times the median distance from the median, which is the standard
    deviation of a normal distribution but ignores outliers. Both are nan for a statistic that no
    excerpt has, such as the self-similarity of short ones; it does not count.
    """

    median: Array
    scale: Array

    @staticmethod
    def measure(music: Sequence[NoteSeq]) -> Reference:
        """Return the reference of excerpts of `EXCERPT` seconds."""
        table = np.array([measure_statistics(notes) for notes in music])
        is_known = ~np.isnan(table).all(axis=0)
        median, scale = np.full((2, len(STATISTICS)), np.nan)
        median[is_known] = np.nanmedian(table[:, is_known], axis=0)
        distances = np.abs(table - median)[:, is_known]
        scale[is_known] = np.maximum(1.4826 * np.nanmedian(distances, axis=0), 1e-3)
        return Reference(median, scale)

    def standardize(self, notes: NoteSeq) -> Array:
        """Return the distance of each statistic from the median, in scales [statistics]."""
        distances = (measure_statistics(notes) - self.median) / self.scale
        return np.clip(np.nan_to_num(distances), -MAX_DISTANCE, MAX_DISTANCE)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A generated piece and what is known of it.

    adherence: 0-1 for each requested control; nats_per_note: its loss under the network;
    copied: notes of its longest passage from the training data, or None if that is unknown.
    """

    notes: NoteSeq
    adherence: Mapping[str, float]
    nats_per_note: float
    copied: int | None = None


@dataclass(frozen=True, eq=False)
class Score:
    """The penalties of a piece by name, and its standardized statistics (None: no reference)."""

    penalties: Mapping[str, float]
    statistics: Array | None

    @property
    def total(self) -> float:
        """The sum of the penalties."""
        return sum(self.penalties.values())

    def __str__(self) -> str:
        parts = (f"{name} {value:.2f}" for name, value in self.penalties.items() if value >= 0.005)
        return f"penalty {self.total:.2f} ({', '.join(parts) or 'none'})"


def score_candidates(
    candidates: Sequence[Candidate], reference: Reference | None, copy_limit: int | None
) -> list[Score]:
    """Return the score of each candidate.

    reference: of the training data, or None if the session has none; copy_limit: the most notes
    that human music shares with the training data.
    """
    losses = np.array([candidate.nats_per_note for candidate in candidates])
    middle = np.median(losses)
    spread = max(1.4826 * float(np.median(np.abs(losses - middle))), 1e-3)
    scores = []
    for candidate, loss in zip(candidates, losses, strict=True):
        notes, penalties = candidate.notes, {}
        if candidate.adherence:
            penalties["controls"] = 1 - float(np.mean(list(candidate.adherence.values())))
        statistics = None if reference is None else reference.standardize(notes)
        if statistics is not None:
            penalties["statistics"] = math.sqrt((statistics**2).mean()) / 2
        distance = min(abs(loss - middle) / spread, MAX_DISTANCE)
        penalties["likelihood"] = float(distance) / MAX_DISTANCE
        if candidate.copied is not None and copy_limit is not None:
            penalties["copied"] = max(0, candidate.copied - copy_limit) / max(1, copy_limit)
        penalties["faults"] = _penalize_faults(notes)
        scores.append(Score(penalties, statistics))
    return scores


def _penalize_faults(notes: NoteSeq) -> float:
    """Return FAULT for each fault, and LONG_NOTES times the share of notes held too long."""
    if not len(notes):
        return 4 * FAULT
    faults = longest_repetition(notes) >= LOOP, longest_silence(notes, notes.seconds) > MAX_SILENCE
    too_long = cut_note_share(notes, notes.seconds)
    return FAULT * (sum(faults) + stops_early(notes, notes.seconds)) + LONG_NOTES * too_long


def choose_best(scores: Sequence[Score], count: int) -> list[int]:
    """Return the numbers of the best candidates, the best first, which differ from one another.

    One by one, the piece with the lowest sum of score and similarity to those that are chosen
    already; two pieces with the same statistics have a similarity of VARIETY.
    """
    totals = np.array([score.total for score in scores])
    chosen: list[int] = []
    similarity = np.zeros(len(scores))
    while len(chosen) < min(count, len(scores)):
        order = totals + similarity
        order[chosen] = np.inf
        best = int(order.argmin())
        chosen.append(best)
        for number, score in enumerate(scores):
            first, second = score.statistics, scores[best].statistics
            if first is not None and second is not None:
                near = VARIETY * float(np.exp(-((first - second) ** 2).mean()))
                similarity[number] = max(similarity[number], near)
    return chosen


# ------------------------------------------------------------------------------- measuring


@torch.inference_mode()
def measure_losses(
    model: PerformanceRNN, context: Array, events: Array, use_recall: bool = True
) -> Array:
    """Return the nats/note of generated events under the network, without control [samples].

    context: events before them, of all samples [steps]; events: [steps, samples]. use_recall:
    whether a network with recall recalls anything.
    """
    whole = np.concatenate([np.repeat(context[:, None], events.shape[1], axis=1), events])
    targets = torch.from_numpy(whole.astype(np.int64)).to(model.device)  # [steps, samples]
    hidden = model.init_hidden(torch.zeros(1, model.config.init_dim, device=model.device))
    hidden = hidden.expand(-1, events.shape[1], -1).contiguous()
    inputs, losses, recall = model.shift_right(targets), [], None
    if use_recall and model.config.recall_dim:
        recall = recall_columns(whole).to(model.device)
    for start in range(0, len(targets), LOSS_STEPS):
        part = slice(start, start + LOSS_STEPS)
        rows = None if recall is None else recall[part]
        logits, hidden = model(inputs[part], hidden, recall=rows)
        flat = functional.cross_entropy(
            logits.flatten(0, 1), targets[part].flatten(), reduction="none"
        )
        losses.append(flat.view(logits.shape[:2]).double().cpu().numpy())
    notes = (events < EventSeq.feat_ranges()["note_on"].stop).sum(axis=0)
    return np.asarray(np.concatenate(losses)[len(context) :].sum(axis=0) / np.maximum(notes, 1))


def find_adherence(events: EventSeq, control: ControlSchedule | None) -> dict[str, float]:
    """Return how closely music follows each requested control, 0-1, by name.

    For the pitch classes, the share of notes in the requested ones; for the others, the share of
    note ons with a value within one step of the requested one.
    """
    if control is None:
        return {}
    measured = measure_adherence(events, control)
    adherence = {name: entry.close_share for name, entry in measured.items()}
    note_ons = np.flatnonzero(events.to_array() < EventSeq.feat_ranges()["note_on"].stop)
    onsets = events.times[note_ons] / events.encoding.ticks_per_second
    histogram = control.evaluate(onsets, note_ons).histogram
    is_known = ~np.isnan(histogram).any(axis=1)
    if is_known.any() and (histogram[is_known] == 0).any():  # else every pitch class is requested
        pitches = events.to_array()[note_ons].astype(np.int64) + PITCHES.start
        metrics = measure_control(pitches[is_known], onsets[is_known], histogram[is_known])
        adherence["pitch classes"] = metrics.share_in_classes
    return adherence
