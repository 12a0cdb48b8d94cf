"""Metrics of music, computed from notes: faults, distributions, form.

Times are seconds from the first onset; `seconds` is the duration of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from analysis.memorization import hash_windows, number_chords
from corpus.recall import find_recall, follows_long_passage
from generation.pipeline import MAX_NOTE_SECONDS
from sequence import PITCHES, NoteSeq
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
PRIOR = 0.5  # count that is added to each bin for a divergence (the prior of Jeffreys 1946)


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


def kl_divergence(reference: Array, counts: Array) -> float:
    """Return the Kullback-Leibler divergence D(reference || counts) of two histograms, in nats.

    It is the mean extra cost of a value of the reference if it is predicted with the shares of
    `counts`. As in the validation loss, a value that is missing in `counts` costs much (Kullback
    and Leibler 1951, On information and sufficiency).
    PRIOR is added to each bin of both, so that empty bins have a share.
    """
    expected = (counts + PRIOR) / (counts + PRIOR).sum()
    shares = (reference + PRIOR) / (reference + PRIOR).sum()
    return float((shares * np.log(shares / expected)).sum())


# ----------------------------------------------------------------------------------- form

PATTERN = 3  # intervals in a pattern, so it has four notes
OPENING = 30.0  # seconds; its patterns are searched in what follows
SIMILARITY_LAGS = (8, 30)  # seconds


def find_patterns(notes: NoteSeq, start: float, end: float = math.inf) -> Array:
    """Return hashes of the distinct interval patterns from second `start` to before `end`, sorted.

    A pattern is PATTERN intervals in a row, in semitones with their direction, of the top line:
    the highest note of each chord (`number_chords`). Its key and rhythm do not matter.
    """
    inside = (notes.starts >= start) & (notes.starts < end)
    part = notes.select(inside)
    chords = number_chords(part)
    by_pitch = np.lexsort((part.pitches, chords))
    is_highest = np.append(np.diff(chords[by_pitch]) != 0, True)[: len(part)]
    top_line = part.pitches[by_pitch][is_highest]
    return np.unique(hash_windows(np.diff(top_line), PATTERN))


def measure_returns(music: Sequence[NoteSeq]) -> tuple[float, float]:
    """Return how often the patterns of the first OPENING seconds return later, and by chance.

    The first figure is the share of a sample's distinct patterns that occur again after
    OPENING seconds, averaged over the samples; the second is the share that occur after OPENING
    seconds of another sample instead. Compare only figures of samples of the same length.
    Samples without a pattern in the opening are left out. nan if all samples end before OPENING,
    or if there is no other sample.
    """
    openings = [find_patterns(notes, 0.0, OPENING) for notes in music]
    endings = [find_patterns(notes, OPENING) for notes in music]
    own: list[float] = []
    others: list[float] = []
    for row, opening in enumerate(openings):
        if len(opening) and any(map(len, endings)):
            shares = [share(np.isin(opening, ending)) for ending in endings]
            own.append(shares.pop(row))
            others += shares
    own_share, by_chance = (float(np.mean(part)) if part else math.nan for part in (own, others))
    return own_share, by_chance


def repeated_share(notes: NoteSeq) -> float:
    """Return the share of notes that end a repeated passage of 8 notes or more, in any key.

    The newest note and the notes before it, in any order, occurred before in the same music
    (corpus/recall.py). 0.0 without notes.
    """
    order = np.lexsort((notes.pitches, notes.starts))
    keys = notes.pitches[order].astype(np.int64) - PITCHES.start
    rows = find_recall(keys[(keys >= 0) & (keys < len(PITCHES))])[1:]
    return share(follows_long_passage(rows))


def chroma_similarity(notes: NoteSeq) -> float:
    """Return how similar the pitch classes of each second are to those 8 to 30 s later.

    It is the mean over all of these lags of the cosine similarity of the rows of a chromagram:
    the sounding seconds of each pitch class in each second (Foote 1999, Visualizing music and
    audio using self-similarity). nan if the music is shorter.
    """
    length = math.ceil(notes.seconds)
    chroma = np.zeros((length, 12))
    for second in range(length):
        sounding = np.clip(
            np.minimum(notes.ends, second + 1) - np.maximum(notes.starts, second), 0, 1
        )
        chroma[second] = np.bincount(notes.pitches % 12, sounding, 12)
    chroma /= np.maximum(np.linalg.norm(chroma, axis=1, keepdims=True), 1e-9)
    lags = range(SIMILARITY_LAGS[0], min(SIMILARITY_LAGS[1], length - 1) + 1)
    products = [(chroma[:-lag] * chroma[lag:]).sum(axis=1).mean() for lag in lags]
    return float(np.mean(products)) if products else float("nan")


# ------------------------------------------------------------------------------- controls


def share_in_scale(notes: NoteSeq, weights: Sequence[float]) -> float:
    """Return the share of notes whose pitch class has a weight above 0."""
    return share(np.asarray(weights)[notes.pitches % 12] > 0)


def share(flags: Array) -> float:
    """Return the share of true values; 0.0 if there are none."""
    return float(np.mean(flags)) if len(flags) else 0.0
