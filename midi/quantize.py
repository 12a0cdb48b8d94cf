"""Played time to the clock of the events: which time shifts say it best.

A clock may stand REACH ms to either side of its point, rounded to the millisecond: 7.5 ms
in all. The 2 * REACH + 1 places are as many as the shortest shift has milliseconds, so
some multiple of that shift always lands on one of them.
"""

from __future__ import annotations

import numpy as np

from utils import Array

# 1.15**k / 65 seconds, rounded to the millisecond: 15, 18, 20, ... 1171
SHIFT_MS = np.rint(1000 * 1.15 ** np.arange(32) / 65).astype(np.int64)
SHORTEST_MS, LONGEST_MS = int(SHIFT_MS[0]), int(SHIFT_MS[-1])

REACH = 7
_PLACES = np.arange(-REACH, REACH + 1)
_TABLE_MS = 4800  # gaps that the tables cover; longer ones begin with longest shifts
_BLOCK = 64  # points between two pinned ones, about
_NEVER = 100  # more shifts than any gap in the tables needs
_NEAR = (16 * _PLACES[:, None] ** 2).astype(np.int32)  # decides between ways of equally many shifts
_SHIFT_COST = 16 * 4096


def _shift_tables() -> tuple[Array, Array]:
    """For each gap in ms: the fewest shifts that sum to it [gaps], and their bins [gaps, 8]."""
    size = _TABLE_MS + 2 * REACH + 1
    count, first = np.full(size, _NEVER), np.zeros(size, np.int64)
    count[0] = 0
    for number in range(1, 8):
        reached = np.flatnonzero(count == number - 1)
        for k, shift in enumerate(SHIFT_MS):
            sums = reached[reached + shift < size] + shift
            better = sums[count[sums] >= number]
            count[better], first[better] = number, k
    parts = np.zeros((size, 8), np.int64)
    left = np.where(count < _NEVER, np.arange(size), 0)
    for column in parts.T:  # the longest shift comes first
        column[:] = first[left]
        left = np.maximum(left - SHIFT_MS[first[left]], 0)
    return count, parts


_COUNT, _PARTS = _shift_tables()


def _step_costs() -> Array:
    """Of each gap between points, the cost of the shifts [gaps, place before * place after].

    Costs are multiples of 16, and the place before is added: the four low bits of a least
    cost say which place it came from. A sixteenth place before, never taken, makes a power
    of two of them.
    """
    padded = np.concatenate([np.full(2 * REACH, _NEVER), _COUNT])
    gap = np.arange(_TABLE_MS)[:, None, None] + _PLACES[None, None, :] - _PLACES[None, :, None]
    before = np.arange(len(_PLACES))[None, :, None]
    costs = np.full((_TABLE_MS, 16, len(_PLACES)), 2 * _NEVER * _SHIFT_COST, np.int32)
    costs[:, :-1] = padded[gap + 2 * REACH] * _SHIFT_COST + before
    return costs.reshape(_TABLE_MS, -1)


_COSTS = _step_costs()


def _long_shifts(gaps: Array) -> Array:
    """How many longest shifts to take off each gap, so that the rest is in the tables."""
    return np.maximum(0, (gaps - _TABLE_MS + LONGEST_MS) // LONGEST_MS)


def _pins(gaps: Array) -> Array:
    """Points whose clock is exact: the first, and one in each block but the last.

    That is the point after the block's longest gap. Between pins, the search can run on all
    stretches at once; a pin may cost a shift. Gaps under 60 ms pin nothing, for not every
    such gap is a sum of shifts.
    """
    padding = -len(gaps) % _BLOCK
    blocks = np.append(gaps, np.zeros(padding, np.int64)).reshape(-1, _BLOCK)
    longest = np.arange(len(blocks)) * _BLOCK + blocks.argmax(axis=1)
    return np.append(0, longest[:-1][blocks[:-1].max(axis=1) >= 60] + 1)


def quantize(points: Array) -> Array:
    """Clocks within REACH of each point, with the fewest time shifts between them.

    points: distinct int64 milliseconds [points], ascending; time starts at 0. Returns int64
    [points], not descending. This is Viterbi's search over the places near each point, with
    the number of shifts as cost; among equals, the least sum of squared distances. It finds
    the fewest, but for the few exact points that split its work (see `_pins`), and for one
    more in some rests of over 4.8 s (see `_TABLE_MS`).
    """
    first = 0 if points[0] == 0 else 1
    points = points if first == 0 else np.append(0, points)
    gaps = np.diff(points)
    gaps_in_table = gaps - _long_shifts(gaps) * LONGEST_MS
    starts = _pins(gaps)
    lengths = np.diff(np.append(starts, len(points) - 1))
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    order = np.argsort(-lengths, kind="stable")  # longest first, so the active ones are in front
    last = int(np.argmax(order)) if len(order) else 0
    return (points + _PLACES[_best_places(gaps_in_table, starts[order], lengths[order], last)])[
        first:
    ]


def _least_way(ways: Array) -> Array:
    """The minimum over axis 0, which has 16 rows: by halves, three times as fast as `min`."""
    for half in (8, 4, 2, 1):
        ways = np.minimum(ways[:half], ways[half:])
    return np.asarray(ways[0])


def _best_places(gaps: Array, starts: Array, lengths: Array, free: int) -> Array:
    """The best place [gaps + 1] for each point, for stretches of points side by side.

    Stretches start at `starts`, have `lengths` gaps (descending), and begin and end at place
    REACH (distance 0), but for the stretch `free`, whose end is open. Stretches are the last
    axis of all arrays, for that is the long one.
    """
    places = np.full(len(gaps) + 1, REACH)
    if not len(gaps):
        return places
    cost = np.full((16, 1, len(starts)), _NEVER * _SHIFT_COST, np.int32)
    cost[REACH] = 0
    back = np.zeros((len(_PLACES), len(gaps) + 1), np.uint8)
    active = np.searchsorted(-lengths, -np.arange(1, lengths[0] + 1), "right")
    for step, count in enumerate(active):
        point = starts[:count] + step
        ways = np.ascontiguousarray(_COSTS.take(gaps[point], axis=0).T)
        ways = ways.reshape(16, len(_PLACES), count)  # [place before, place after, stretches]
        ways += cost[:, :, :count]
        best = _least_way(ways)
        back[:, point + 1] = best & 15
        best &= ~15
        best += _NEAR
        cost[:-1, 0, :count] = best - best.min(axis=0)  # can not grow over int32
    places[starts[free] + lengths[free]] = cost[:-1, 0, free].argmin()
    for step in range(len(active) - 1, -1, -1):
        point = starts[: active[step]] + step
        places[point] = back[places[point + 1], point + 1]
    return places


def choose_time_shifts(clocks: Array) -> tuple[Array, Array, Array]:
    """The time shifts that lead from 0 to each of the ascending `clocks` in turn.

    Returns three int64 rows [shifts]: the clock led to, the place in the row of shifts that
    lead there (-1 is the last one), and the bin. Long shifts come first.
    """
    gaps = np.diff(clocks, prepend=0)
    longest = _long_shifts(gaps)
    rest = gaps - longest * LONGEST_MS
    counts = longest + _COUNT[rest]
    gap = np.repeat(np.arange(len(gaps)), counts)
    nth = np.arange(len(gap)) - np.repeat(np.cumsum(counts) - counts, counts)
    part = nth - longest[gap]
    bins = np.where(part < 0, len(SHIFT_MS) - 1, _PARTS[rest[gap], np.maximum(part, 0)])
    return clocks[gap], nth - counts[gap], bins


def floor_time_shifts(times: Array, lengths: Array) -> tuple[Array, Array, Array]:
    """As `time_shifts`, but of gaps that are rounded down each by itself, from the first time on.

    times: ascending seconds; lengths: those of the shifts, ascending, in seconds. The first
    row returned holds the place in `times` of the time led to, not a clock.
    """
    gaps, covered = np.diff(times), np.zeros(max(0, len(times) - 1))
    rows: list[tuple[Array, Array, Array]] = []
    at = np.arange(len(gaps))
    while len(at := at[gaps[at] - covered[at] >= lengths[0]]):
        bins = np.searchsorted(lengths, gaps[at] - covered[at], "right") - 1
        covered[at] += lengths[bins]
        rows.append((at + 1, np.full(len(at), len(rows)), bins))
    if not rows:
        return (np.empty(0, np.int64),) * 3
    where, nth, bins = (np.concatenate(column) for column in zip(*rows, strict=True))
    return where, nth - len(rows), bins
