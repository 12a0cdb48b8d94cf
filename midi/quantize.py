"""Quantization: the fewest time shift events that keep every event near its time.

The clock after some time shifts may be up to MAX_OFFSET_MS from the time of an event, which is
rounded to whole milliseconds: 7.5 ms in all. The 2 * MAX_OFFSET_MS + 1 offsets are as many as
the shortest shift has milliseconds, so a multiple of that shift always reaches one of them.
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
_TABLE_MS = 4800  # gaps that the tables cover; longer ones begin with the longest shift
_MAX_PARTS = 8  # no gap in the tables needs more shifts
_BLOCK = 64  # points between two pinned ones, about
_IMPOSSIBLE = 100  # more shifts than any gap in the tables needs

# Costs are multiples of 16: the four low bits are for the offset that a cost comes from.
# The number of shifts decides; among equals, the sum of squared distances.
_SHIFT_COST = 16 * 4096
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
        for k, shift in enumerate(SHIFT_MS):  # ascending, so the longest one is recorded
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

    The second axis is (offset before, offset after). The number of the offset before is added to
    the cost, so that the four low bits of a minimum tell where it comes from. The sixteenth
    offset before is impossible: it makes their number a power of two.
    """
    counts = np.concatenate([np.full(2 * MAX_OFFSET_MS, _IMPOSSIBLE), _SHIFT_COUNTS])
    gap = np.arange(_TABLE_MS)[:, None, None] + _OFFSETS[None, None, :] - _OFFSETS[None, :, None]
    before = np.arange(len(_OFFSETS))[None, :, None]
    costs = np.full((_TABLE_MS, 16, len(_OFFSETS)), 2 * _IMPOSSIBLE * _SHIFT_COST, np.int32)
    costs[:, :-1] = counts[gap + 2 * MAX_OFFSET_MS] * _SHIFT_COST + before
    return costs.reshape(_TABLE_MS, -1)


_GAP_COSTS = _build_gap_costs()


def quantize(points: Array) -> Array:
    """Return a clock within MAX_OFFSET_MS of each point, with the fewest time shifts between them.

    points: distinct int64 milliseconds [points], ascending; time starts at 0. Returns int64
    [points], not descending.

    This is the Viterbi algorithm over the offsets of each point, with the number of shifts as
    cost and the sum of squared distances to decide between equals. The result has the fewest
    shifts except for the pinned points that split the search (see `_pin_points`), and for one
    shift more in some rests over 4.8 s (see `_TABLE_MS`).
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
    """Return how many longest shifts to take off each gap so that the rest is in the tables."""
    return np.maximum(0, (gaps - _TABLE_MS + LONGEST_MS) // LONGEST_MS)


def _pin_points(gaps: Array) -> Array:
    """Return the points whose clock is exact: the first, and one in each block but the last.

    The pinned point is the one after the longest gap of the block. The search runs on all
    segments between pinned points at once; a pin may cost one shift. Gaps under 60 ms pin
    nothing, because not every such gap is a sum of shifts.
    """
    padding = -len(gaps) % _BLOCK
    blocks = np.append(gaps, np.zeros(padding, np.int64)).reshape(-1, _BLOCK)
    longest = np.arange(len(blocks)) * _BLOCK + blocks.argmax(axis=1)
    return np.append(0, longest[:-1][blocks[:-1].max(axis=1) >= 60] + 1)


def _find_best_offsets(gaps: Array, starts: Array, lengths: Array, last: int) -> Array:
    """Return the index of the best offset of each point [gaps + 1], all segments at once.

    Segments begin at the points `starts` and have `lengths` gaps (descending). They begin and end
    at offset 0, except that the end of segment `last` is free. Segments are the last axis of all
    arrays, because it is the longest one.
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
    """Return the minimum over axis 0 (16 rows): by halves, three times as fast as `min`."""
    for half in (8, 4, 2, 1):
        paths = np.minimum(paths[:half], paths[half:])
    return np.asarray(paths[0])


def choose_time_shifts(clocks: Array) -> tuple[Array, Array, Array]:
    """Return the time shifts that lead from 0 to each of the ascending `clocks` in turn.

    Three int64 rows [shifts]: the clock that the shift leads to, its position among the shifts
    that lead there (-1 is the last one), and its bin. Longer shifts come first.
    """
    gaps = np.diff(clocks, prepend=0)
    longest = _count_longest(gaps)
    rest = gaps - longest * LONGEST_MS
    counts = longest + _SHIFT_COUNTS[rest]
    gap = np.repeat(np.arange(len(gaps)), counts)
    nth = np.arange(len(gap)) - np.repeat(np.cumsum(counts) - counts, counts)
    part = nth - longest[gap]
    bins = np.where(part < 0, len(SHIFT_MS) - 1, _SHIFT_PARTS[rest[gap], np.maximum(part, 0)])
    return clocks[gap], nth - counts[gap], bins


def floor_time_shifts(times: Array, lengths: Array) -> tuple[Array, Array, Array]:
    """Return time shifts as `choose_time_shifts` does, rounding down each gap by itself.

    times: ascending seconds; lengths: of the shifts, ascending, in seconds. Time starts at the
    first of `times`. The first row returned is an index into `times`, not a clock.
    """
    gaps, covered = np.diff(times), np.zeros(max(0, len(times) - 1))
    rows: list[tuple[Array, Array, Array]] = []
    open_gaps = np.arange(len(gaps))
    while len(open_gaps := open_gaps[gaps[open_gaps] - covered[open_gaps] >= lengths[0]]):
        bins = np.searchsorted(lengths, gaps[open_gaps] - covered[open_gaps], "right") - 1
        covered[open_gaps] += lengths[bins]
        rows.append((open_gaps + 1, np.full(len(open_gaps), len(rows)), bins))
    if not rows:
        return (np.empty(0, np.int64),) * 3
    indices, nth, bins = (np.concatenate(column) for column in zip(*rows, strict=True))
    return indices, nth - len(rows), bins
