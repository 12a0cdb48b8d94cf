"""What is measured of music: each figure of `tests.quality`, from notes alone.

Times are seconds from the first onset; `seconds` is how long a piece is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from generation.pipeline import RELEASE
from sequence import ControlSeq, Encoding, EventSeq, NoteSeq
from tools.memorization import chords
from utils import Array

SILENCE = 4.0  # seconds without a note that are too long
LOOP = 13  # strikes of one pitch alone in a row; see `longest_repetition`
DENSITIES = len(ControlSeq.DENSITIES)

# ---------------------------------------------------------------------------------- faults


def longest_repetition(notes: NoteSeq) -> int:
    """The most strikes in a row of one pitch alone, with no other note between or within 30 ms.

    13 or more are a single-note loop. Of 1,200 excerpts of 60 s of the training performances 7
    have so many, of 322 of the validation performances none.
    """
    _, first, sizes = np.unique(chords(notes), return_index=True, return_counts=True)
    struck = np.where(sizes == 1, notes.pitches[first], -1 - np.arange(len(first)))
    edges = np.flatnonzero(np.diff(struck, prepend=-(2**31), append=-(2**31)))
    return int(np.diff(edges).max(initial=0))


def longest_silence(notes: NoteSeq, seconds: float) -> float:
    """The longest stretch from 0 to the end in which no note sounds, in seconds."""
    sounding = np.maximum.accumulate(np.append(0.0, notes.ends))  # until when, note by note
    return float((np.append(notes.starts, seconds) - sounding).max())


def longest_wait(notes: NoteSeq, seconds: float) -> float:
    """The longest time from an onset to the next, or to the end, in seconds."""
    return float(np.diff(np.concatenate([[0.0], notes.starts, [seconds]])).max())


def stops(notes: NoteSeq, seconds: float) -> bool:
    """Whether nothing is struck in the last 4 s."""
    return not len(notes) or float(notes.starts[-1]) < seconds - SILENCE


def held(notes: NoteSeq, seconds: float) -> float:
    """The share of notes held till generate.py lets go, of those that begin early enough for it."""
    lengths = (notes.ends - notes.starts)[notes.starts <= seconds - RELEASE]
    return float((lengths >= RELEASE - 1e-6).sum() / max(1, len(lengths)))


# --------------------------------------------------------------------------- distributions

LENGTHS = np.geomspace(0.02, 10.0, 25)  # seconds, edges of bins; one more at either end
GAPS = np.geomspace(0.01, SILENCE, 25)  # the same
MOST = 40  # notes at once, and in a second; more count as so many


def polyphony(notes: NoteSeq) -> Array:
    """How many notes sound, each 0.1 s from the first onset to the last."""
    times = np.arange(notes.starts[0], notes.starts[-1], 0.1) if len(notes) else np.empty(0)
    begun = np.searchsorted(notes.starts, times, "right")
    return np.asarray(begun - np.searchsorted(np.sort(notes.ends), times, "right"))


def notes_a_second(notes: NoteSeq) -> Array:
    """How many notes begin in each whole second from the first onset to the last."""
    if not len(notes):
        return np.empty(0, np.int64)
    since = (notes.starts - notes.starts[0]).astype(np.int64)
    return np.bincount(since, minlength=since[-1])[: since[-1]]


def _gaps(notes: NoteSeq) -> Array:
    """The time from each onset to the next, 0 in a chord."""
    return np.diff(notes.starts)


# number of bins, and the bin of each value
DISTRIBUTIONS: dict[str, tuple[int, Callable[[NoteSeq], Array]]] = {
    "pitch class": (12, lambda n: n.pitches % 12),
    "pitch": (128, lambda n: n.pitches),
    "velocity": (32, lambda n: n.velocities // 4),
    "note length": (len(LENGTHS) + 1, lambda n: np.searchsorted(LENGTHS, n.ends - n.starts)),
    "inter-onset time": (len(GAPS) + 1, lambda n: np.searchsorted(GAPS, _gaps(n))),
    "polyphony": (MOST + 1, lambda n: np.minimum(polyphony(n), MOST)),
    "notes per second": (MOST + 1, lambda n: np.minimum(notes_a_second(n), MOST)),
}


def histogram(music: Sequence[NoteSeq], name: str) -> Array:
    """How often each bin of a distribution comes in some pieces together."""
    bins, of = DISTRIBUTIONS[name]
    return np.sum([np.bincount(of(notes), minlength=bins) for notes in music], axis=0)


def overlap(left: Array, right: Array) -> float:
    """The overlapping area of two distributions, from histograms of one set of bins.

    It is the sum over the bins of the smaller of both shares, 1 for the same distribution;
    0.0 if one is empty. Yang and Lerch (2020, On the evaluation of generative models in
    music) take it of smoothed densities of distances between pieces; here it is of the
    values themselves, of all pieces together, and without smoothing.
    """
    if not left.sum() or not right.sum():
        return 0.0
    return float(np.minimum(left / left.sum(), right / right.sum()).sum())


def halves(real: Sequence[tuple[str, NoteSeq]], name: str, times: int = 20) -> list[float]:
    """How two random halves of the performances overlap; a piece is in one half with all of it."""
    pieces = sorted({piece for piece, _ in real})
    sums = [histogram([n for p, n in real if p == piece], name) for piece in pieces]
    found = []
    for seed in range(times):
        order = np.random.default_rng(seed).permutation(len(pieces))
        split = [np.sum([sums[k] for k in half], axis=0) for half in np.array_split(order, 2)]
        found.append(overlap(*split))
    return found


def classes_used(notes: NoteSeq) -> float:
    """2 to the entropy in bits of the pitch classes: 12 if all are alike, 7 for an even scale."""
    shares = np.bincount(notes.pitches % 12, minlength=12) / len(notes)
    return float(2 ** -(shares[shares > 0] @ np.log2(shares[shares > 0])))


# ------------------------------------------------------------------------ what was asked for


def in_scale(notes: NoteSeq, weights: Sequence[float]) -> float:
    """The share of the notes on pitch classes of a weight above 0; 0.0 without notes."""
    inside = np.asarray(weights)[notes.pitches % 12] > 0
    return float(inside.mean()) if len(notes) else 0.0


def bins_by_control(notes: NoteSeq, encoding: Encoding) -> Array:
    """The density delivered at each note on, as the project's own controls have it."""
    events = EventSeq.from_note_seq(notes, encoding)
    on = events.to_array() < EventSeq.feat_ranges()["note_on"].stop
    return ControlSeq.from_event_seq(events).note_density[on].astype(np.int64)


def bins_by_count(notes: NoteSeq, seconds: float) -> Array:
    """The same counted by itself: of the onsets in 2 s from each onset, up to 2 s before the end.

    1-3 onsets are density 0, 4-6 are 1, and so on to 11 for 34 or more.
    """
    begins = notes.starts[notes.starts <= seconds - 2]
    counts = [int(((notes.starts >= t) & (notes.starts <= t + 2)).sum()) for t in begins]
    return np.minimum((np.array(counts, np.int64) - 1) // 3, DENSITIES - 1)


def ranks(values: npt.ArrayLike) -> Array:
    """The place of each value in their order from 0; equal ones have the mean of their places."""
    values = np.asarray(values)
    below = (values[:, None] > values).sum(axis=1)
    return np.asarray(below + ((values[:, None] == values).sum(axis=1) - 1) / 2)


def spearman(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of the ranks; 0.0 if one side is all alike."""
    a, b = (ranks(side) - ranks(side).mean() for side in (left, right))
    product = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / product if product else 0.0


def share(true: Array) -> float:
    """The share of True; 0.0 of nothing."""
    return float(true.mean()) if len(true) else 0.0
