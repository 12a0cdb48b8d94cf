"""Quantization: the fewest time shift events that keep every onset and end near its time.

A point is the time of an onset or end, rounded to whole milliseconds; its clock is the sum of the
time shifts before it. They may differ by MAX_OFFSET_MS; with the rounding, that is 7.5 ms. There
are 2 * MAX_OFFSET_MS + 1 = 15 possible offsets, and the shortest shift is 15 ms long, so repeating
that shift always reaches one of them.
"""

from __future__ import annotations

import numpy as np

from utils import Array

# 1.15**k / 65 seconds, rounded to milliseconds: 15, 18, 20, ... 1171
SHIFT_MS = np.rint(1000 * 1.15 ** np.arange(32) / 65).astype(np.int64)
SHORTEST_MS, LONGEST_MS = int(SHIFT_MS[0]), int(SHIFT_MS[-1])

MAX_OFFSET_MS = 7
_OFFSETS = np.arange(-MAX_OFFSET_MS, MAX_OFFSET_MS + 1)  # of the clock from a point
_NO_OFFSET = MAX_OFFSET_MS  # index of offset 0
_TABLE_MS = 4800  # the tables cover shorter gaps; other gaps begin with longest shifts
_MAX_PARTS = 8  # columns of the table of shifts; no gap in it needs more than 6
_BLOCK = 64  # points per block; one point of each block is pinned, that is, encoded exactly
_MIN_PINNED_GAP = 60  # all gaps over 52 ms are sums of shifts; an offset may shorten one by 7
_IMPOSSIBLE = 100  # number of shifts of a gap that is not a sum of shifts

# The number of shifts decides; between equal numbers, the sum of squared distances. Costs are
# multiples of 16: the four low bits are for the index of the offset that a cost comes from.
_SHIFT_COST = 16 * 4096  # one shift outweighs 83 points at the largest distance
_DISTANCE_COSTS = (16 * _OFFSETS[:, None] ** 2).astype(np.int32)  # [offsets, 1]


def _build_shift_tables() -> tuple[Array, Array]:
    """Return, for each gap in ms, the fewest shifts that sum to it and their bins, longest first.

    int64 [gaps], _IMPOSSIBLE where no shifts sum to the gap, and int64 [gaps, _MAX_PARTS].
    """
    size = _TABLE_MS + 2 * MAX_OFFSET_MS + 1
    counts, longest = np.full(size, _IMPOSSIBLE), np.zeros(size, np.int64)
    counts[0] = 0
    for count in range(1, _MAX_PARTS):
        sums_before = np.flatnonzero(counts == count - 1)
        for k, shift in enumerate(SHIFT_MS):  # ascending: the longest possible one is stored last
            sums = sums_before[sums_before + shift < size] + shift
            sums = sums[counts[sums] >= count]
            counts[sums], longest[sums] = count, k
    parts = np.zeros((size, _MAX_PARTS), np.int64)
    rest = np.where(counts < _IMPOSSIBLE, np.arange(size), 0)
    for column in parts.T:
        column[:] = longest[rest]
        rest = np.maximum(rest - SHIFT_MS[longest[rest]], 0)
    return counts, parts


_SHIFT_COUNTS, _SHIFT_PARTS = _build_shift_tables()


def _build_gap_costs() -> Array:
    """Return the cost of each gap between two points, int32 [gaps, 16 * offsets].

    The second axis is (offset before, offset after). The index of the offset before is added to
    the cost, so the four low bits of a minimum show where it comes from. The sixteenth offset
    before is impossible: it only makes their number a power of two.
    """
    counts = np.concatenate([np.full(2 * MAX_OFFSET_MS, _IMPOSSIBLE), _SHIFT_COUNTS])
    gap = np.arange(_TABLE_MS)[:, None, None] + _OFFSETS[None, None, :] - _OFFSETS[None, :, None]
    before = np.arange(len(_OFFSETS))[None, :, None]
    costs = np.full((_TABLE_MS, 16, len(_OFFSETS)), 2 * _IMPOSSIBLE * _SHIFT_COST, np.int32)
    costs[:, :-1] = counts[gap + 2 * MAX_OFFSET_MS] * _SHIFT_COST + before
    return costs.reshape(_TABLE_MS, -1)


_GAP_COSTS = _build_gap_costs()


def quantize(points: Array) -> Array:
    """Return a clock within MAX_OFFSET_MS of each point, so that the fewest time shifts are needed.

    points: distinct int64 milliseconds [points], ascending; time starts at 0. Returns int64
    [points], not descending.

    This is the Viterbi algorithm over the offsets of each point; the cost is the number of
    shifts, then the sum of squared distances. The result has the fewest shifts, with two
    exceptions: a pinned point (see `_pin_points`) or a rest over 4.8 s (see `_TABLE_MS`) may cost
    one shift more.
    """
    skip = 0 if points[0] == 0 else 1
    points = points if skip == 0 else np.append(0, points)
    gaps = np.diff(points)
    table_gaps = gaps - _count_longest(gaps) * LONGEST_MS
    starts = _pin_points(gaps)
    lengths = np.diff(np.append(starts, len(points) - 1))
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    order = np.argsort(-lengths, kind="stable")  # longest first, so the active ones are in front
    last = int(np.argmax(order)) if len(order) else 0
    offsets = _OFFSETS[_find_best_offsets(table_gaps, starts[order], lengths[order], last)]
    return (points + offsets)[skip:]


def _count_longest(gaps: Array) -> Array:
    """Return how many longest shifts to subtract from each gap to reach the tables."""
    return np.maximum(0, (gaps - _TABLE_MS + LONGEST_MS) // LONGEST_MS)


def _pin_points(gaps: Array) -> Array:
    """Return the indices of pinned points: the first point, and one in each block except the last.

    The clock of a pinned point is exact, so the search can run on all segments between them at
    once. The pinned point of a block is the one after its longest gap; none if all gaps are short.
    """
    padding = -len(gaps) % _BLOCK
    blocks = np.append(gaps, np.zeros(padding, np.int64)).reshape(-1, _BLOCK)
    longest = np.arange(len(blocks)) * _BLOCK + blocks.argmax(axis=1)
    return np.append(0, longest[:-1][blocks[:-1].max(axis=1) >= _MIN_PINNED_GAP] + 1)


def _find_best_offsets(gaps: Array, starts: Array, lengths: Array, last: int) -> Array:
    """Return the index of the best offset of each point [gaps + 1], all segments at once.

    starts: the first point of each segment; lengths: the number of its gaps, descending. Segments
    begin and end at offset 0; only the end of segment `last` is free. In all arrays the segments
    are the last axis, because it is the longest one.
    """
    best_offsets = np.full(len(gaps) + 1, _NO_OFFSET)
    if not len(gaps):
        return best_offsets
    costs = np.full((16, 1, len(starts)), _IMPOSSIBLE * _SHIFT_COST, np.int32)
    costs[_NO_OFFSET] = 0
    origins = np.zeros((len(_OFFSETS), len(gaps) + 1), np.uint8)
    active = np.searchsorted(-lengths, -np.arange(1, lengths[0] + 1), "right")
    for step, count in enumerate(active):
        point = starts[:count] + step
        paths = np.ascontiguousarray(_GAP_COSTS.take(gaps[point], axis=0).T)
        paths = paths.reshape(16, len(_OFFSETS), count)  # [offset before, offset after, segments]
        paths += costs[:, :, :count]
        best = _minimum(paths)
        origins[:, point + 1] = best & 15
        best &= ~15
        best += _DISTANCE_COSTS
        costs[:-1, 0, :count] = best - best.min(axis=0)  # relative, so int32 cannot overflow
    best_offsets[starts[last] + lengths[last]] = costs[:-1, 0, last].argmin()
    for step in range(len(active) - 1, -1, -1):
        point = starts[: active[step]] + step
        best_offsets[point] = origins[best_offsets[point + 1], point + 1]
    return best_offsets


def _minimum(paths: Array) -> Array:
    """Return the minimum over axis 0 (16 rows), by halving: three times as fast as `min`."""
    for half in (8, 4, 2, 1):
        paths = np.minimum(paths[:half], paths[half:])
    return np.asarray(paths[0])


def choose_time_shifts(clocks: Array) -> tuple[Array, Array, Array]:
    """Return the time shifts that lead from 0 to each of the ascending `clocks` in turn.

    Three int64 arrays [shifts]: the clock that the shift leads to, its rank among the shifts that
    lead there (-1 is the last one), and its bin. Longer shifts come first.
    """
    gaps = np.diff(clocks, prepend=0)
    longest = _count_longest(gaps)
    rest = gaps - longest * LONGEST_MS
    counts = longest + _SHIFT_COUNTS[rest]
    gap = np.repeat(np.arange(len(gaps)), counts)
    position = np.arange(len(gap)) - np.repeat(np.cumsum(counts) - counts, counts)
    part = position - longest[gap]
    bins = np.where(part < 0, len(SHIFT_MS) - 1, _SHIFT_PARTS[rest[gap], np.maximum(part, 0)])
    return clocks[gap], position - counts[gap], bins


def floor_time_shifts(times: Array, durations: Array) -> tuple[Array, Array, Array]:
    """Return time shifts as `choose_time_shifts` does, but round down each gap separately.

    times: seconds, ascending; durations: of the shifts, in seconds, ascending. Time starts at the
    first of `times`. The first array has indices of `times` in place of clocks.
    """
    gaps, covered = np.diff(times), np.zeros(max(0, len(times) - 1))
    rows: list[tuple[Array, Array, Array]] = []
    open_gaps = np.arange(len(gaps))
    while len(open_gaps := open_gaps[gaps[open_gaps] - covered[open_gaps] >= durations[0]]):
        bins = np.searchsorted(durations, gaps[open_gaps] - covered[open_gaps], "right") - 1
        covered[open_gaps] += durations[bins]
        rows.append((open_gaps + 1, np.full(len(open_gaps), len(rows)), bins))
    if not rows:
        return (np.empty(0, np.int64),) * 3
    indices, positions, bins = (np.concatenate(column) for column in zip(*rows, strict=True))
    return indices, positions - len(rows), bins
