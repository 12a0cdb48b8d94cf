"""Performances played faster or slower, for training: their time shifts are searched anew.

Files stay as they are: what is learned from next is stretched as it is cut.
"""

from __future__ import annotations

import math

import numpy as np

from midi.quantize import choose_time_shifts, quantize
from sequence import CURRENT, ControlSeq, EventSeq
from utils import Array

SHIFTS = EventSeq.feat_ranges()["time_shift"]
LENGTHS = EventSeq.lengths(CURRENT)  # milliseconds
SPARE = 1.1  # times as many events as are wanted: stretch_excerpt, some have fewer time shifts
WINDOW = 1000 * ControlSeq.WINDOW  # milliseconds that a control looks ahead, or back from the end


def stretch_excerpt(events: Array, start: int, count: int, factor: float) -> tuple[Array, Array]:
    """`count` events from `start` on, `factor` times as long, and their controls.

    events: uint8, all of a performance in today's encoding. Returns uint8 [1 + count] and
    compressed controls uint8 [1 + count, 13]: first the event before, or the excerpt's own
    first one again. Where the performance ends too soon there are fewer.
    """
    around, before = _around(events, start, count, factor)
    played = stretch_events(around, factor)
    controls = ControlSeq.from_event_seq(EventSeq(played)).to_compressed_array()
    sounding = np.flatnonzero(played < SHIFTS.start)
    first = int(sounding[before]) if before < len(sounding) else len(played)
    places = np.maximum(0, np.arange(first - 1, min(first + count, len(played))))
    return played[places], controls[places]


def _around(events: Array, start: int, count: int, factor: float) -> tuple[Array, int]:
    """An excerpt with all that its controls depend on, and how many notes' and velocities'
    events stand before it there."""
    times = np.cumsum(LENGTHS[events]) - LENGTHS[events]
    last = min(len(times) - 1, start + math.ceil(SPARE * count))
    reach = WINDOW / factor + 100
    begin = np.searchsorted(times, times[start] - reach)
    end = np.searchsorted(times, times[last] + reach, "right")
    return events[begin:end], int((events[begin:start] < SHIFTS.start).sum())


def stretch_events(events: Array, factor: float) -> Array:
    """Event indices that last `factor` times as long, with the fewest time shifts for it.

    What happens at one time stays in its order; so it does where two times become one.
    """
    lengths = LENGTHS[events]
    sounding = np.flatnonzero(events < SHIFTS.start)
    times = np.append((np.cumsum(lengths) - lengths)[sounding], lengths.sum())
    points, where = np.unique(np.rint(factor * times).astype(np.int64), return_inverse=True)
    clocks = quantize(points)
    led, nth, shifts = choose_time_shifts(np.unique(clocks))
    when = np.concatenate([led, clocks[where[:-1]]])
    order = np.argsort((when << 32) + np.concatenate([nth, sounding]))
    written = np.concatenate([shifts + SHIFTS.start, events[sounding]])
    return np.asarray(written[order], np.uint8)
