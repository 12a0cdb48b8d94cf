"""Metrics of music, computed from notes: faults, distributions, controls.

Times are seconds from the first onset; `seconds` is the duration of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from analysis.memorization import number_chords
from generation.pipeline import MAX_NOTE_SECONDS
from midi.control_schedule import DENSITY_LEVELS
from sequence import ControlSeq, Encoding, EventSeq, NoteSeq
from utils import Array

MAX_SILENCE = 4.0  # seconds
LOOP = 13  # strikes of one pitch in a row, see `longest_repetition`

# -------------------------------------------------------------------------------- faults


def longest_repetition(notes: NoteSeq) -> int:
    """Return the most strikes of one pitch in a row, with no other note between or within 30 ms.

    LOOP or more are a single-note loop: of 1,200 excerpts of 60 s from training performances 7
    have so many, of 322 from validation performances none.
    """
    _, first, sizes = np.unique(number_chords(notes), return_index=True, return_counts=True)
    struck = np.where(sizes == 1, notes.pitches[first], -1 - np.arange(len(first)))
    edges = np.flatnonzero(np.diff(struck, prepend=-(2**31), append=-(2**31)))
    return int(np.diff(edges).max(initial=0))


def longest_silence(notes: NoteSeq, seconds: float) -> float:
    """Return the longest time in which no note sounds."""
    sounding_until = np.maximum.accumulate(np.append(0.0, notes.ends))
    return float((np.append(notes.starts, seconds) - sounding_until).max())


def stops_early(notes: NoteSeq, seconds: float) -> bool:
    """Return whether nothing is struck in the last 4 s."""
    return not len(notes) or float(notes.starts[-1]) < seconds - MAX_SILENCE


def cut_note_share(notes: NoteSeq, seconds: float) -> float:
    """Return the share of notes that generate.py cut, of those that begin early enough for it."""
    durations = (notes.ends - notes.starts)[notes.starts <= seconds - MAX_NOTE_SECONDS]
    return share(durations >= MAX_NOTE_SECONDS - 1e-6)


# --------------------------------------------------------------------------- distributions

DURATION_EDGES = np.geomspace(0.02, 10.0, 25)  # seconds; one more bin at either end
GAP_EDGES = np.geomspace(0.01, MAX_SILENCE, 25)  # the same
MAX_COUNT = 40  # notes at once, or per second; the last bin holds more, too


def polyphony(notes: NoteSeq) -> Array:
    """Return how many notes sound, every 0.1 s from the first onset to the last."""
    times = np.arange(notes.starts[0], notes.starts[-1], 0.1) if len(notes) else np.empty(0)
    struck = np.searchsorted(notes.starts, times, "right")
    return np.asarray(struck - np.searchsorted(np.sort(notes.ends), times, "right"))


def notes_per_second(notes: NoteSeq) -> Array:
    """Return how many notes begin in each whole second from the first onset to the last."""
    if not len(notes):
        return np.empty(0, np.int64)
    second = (notes.starts - notes.starts[0]).astype(np.int64)
    return np.bincount(second, minlength=second[-1])[: second[-1]]


# number of bins, and the bin of each value
DISTRIBUTIONS: dict[str, tuple[int, Callable[[NoteSeq], Array]]] = {
    "pitch class": (12, lambda n: n.pitches % 12),
    "pitch": (128, lambda n: n.pitches),
    "velocity": (32, lambda n: n.velocities // 4),
    "duration": (26, lambda n: np.searchsorted(DURATION_EDGES, n.ends - n.starts)),
    "inter-onset time": (26, lambda n: np.searchsorted(GAP_EDGES, np.diff(n.starts))),
    "polyphony": (MAX_COUNT + 1, lambda n: np.minimum(polyphony(n), MAX_COUNT)),
    "notes per second": (MAX_COUNT + 1, lambda n: np.minimum(notes_per_second(n), MAX_COUNT)),
}


def histogram(music: Sequence[NoteSeq], name: str) -> Array:
    """Return the counts of each bin of a distribution, over all of `music`."""
    bins, find_bins = DISTRIBUTIONS[name]
    return np.sum([np.bincount(find_bins(notes), minlength=bins) for notes in music], axis=0)


def overlap(left: Array, right: Array) -> float:
    """Return the overlapping area of two histograms: 1.0 for the same shares, 0.0 if one is empty.

    Yang and Lerch (2020, On the evaluation of generative models in music) take it of smoothed
    densities of distances between pieces; here it is of the values of all pieces together.
    """
    if not left.sum() or not right.sum():
        return 0.0
    return float(np.minimum(left / left.sum(), right / right.sum()).sum())


# ------------------------------------------------------------------------------- controls


def share_in_scale(notes: NoteSeq, weights: Sequence[float]) -> float:
    """Return the share of notes whose pitch class has a weight above 0."""
    return share(np.asarray(weights)[notes.pitches % 12] > 0)


def densities_by_control(notes: NoteSeq, encoding: Encoding) -> Array:
    """Return the density level at each note on, as the project computes controls."""
    events = EventSeq.from_note_seq(notes, encoding)
    is_note_on = events.to_array() < EventSeq.feat_ranges()["note_on"].stop
    return ControlSeq.from_event_seq(events).note_density[is_note_on].astype(np.int64)


def densities_by_count(notes: NoteSeq, seconds: float) -> Array:
    """Return the density level at each onset up to 2 s before the end, counted from the notes.

    1-3 onsets within 2 s are level 0, 4-6 level 1, and so on to 34 or more for level 11.
    """
    onsets = notes.starts[notes.starts <= seconds - 2]
    counts = [int(((notes.starts >= t) & (notes.starts <= t + 2)).sum()) for t in onsets]
    return np.minimum((np.array(counts, np.int64) - 1) // 3, DENSITY_LEVELS - 1)


def share(flags: Array) -> float:
    """Return the share of True; 0.0 if there are no flags."""
    return float(flags.mean()) if len(flags) else 0.0
