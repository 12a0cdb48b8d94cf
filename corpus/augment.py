"""Tempo augmentation: performances played faster or slower, with newly quantized times.

Excerpts are stretched when a training batch is made; `.data` files do not change.
"""

from __future__ import annotations

import math

import numpy as np

from midi.control_schedule import WINDOW
from midi.quantize import choose_time_shifts, quantize
from sequence import CURRENT, ControlSeq, EventSeq
from utils import Array

_DURATIONS = EventSeq.event_durations(CURRENT)  # of each of the 240 events, in milliseconds
_NOTE_ONS = EventSeq.feat_ranges()["note_on"].stop
_FIRST_SHIFT = EventSeq.feat_ranges()["time_shift"].start
_SPARE = 1.1  # events to read per event needed, because stretching can remove time shifts
_MARGIN_MS = 100  # added to a window, because quantization moves events


def stretch_excerpt(events: Array, start: int, count: int, factor: float) -> tuple[Array, Array]:
    """Return `count` events from index `start` on, `factor` times as slow, and their controls.

    events: uint8 [all events of a performance], in the current encoding. Returns events uint8
    [1 + count] and packed controls uint8 [1 + count, columns]; row 0 is the event before the
    excerpt, or at the start of the performance the first event again. There are fewer rows if
    the performance ends before.
    """
    # controls look WINDOW seconds ahead; near the end of the performance, they look back
    times = np.cumsum(_DURATIONS[events]) - _DURATIONS[events]
    last = min(len(times) - 1, start + math.ceil(_SPARE * count))
    reach = 1000 * WINDOW / factor + _MARGIN_MS
    first = int(np.searchsorted(times, times[start] - reach))
    excerpt = slice(first, np.searchsorted(times, times[last] + reach, "right"))
    stretched = stretch_events(events[excerpt], factor)
    # the excerpt may lack the first velocity event and the last note offs
    whole, inside = EventSeq(events), np.zeros(len(events), bool)
    inside[excerpt] = True
    inside = inside[events < _NOTE_ONS]
    velocities, lengths = whole.note_velocities[inside], factor * whole.note_lengths[inside]
    controls = ControlSeq.from_event_seq(EventSeq(stretched), velocities, lengths).pack()
    # time shifts are new; the other events are the same, in the same order
    fixed_before = int((_DURATIONS[events[first:start]] == 0).sum())
    fixed = np.flatnonzero(_DURATIONS[stretched] == 0)
    begin = int(fixed[fixed_before]) if fixed_before < len(fixed) else len(stretched)
    rows = np.maximum(0, np.arange(begin - 1, min(begin + count, len(stretched))))
    return stretched[rows], controls[rows]


def stretch_events(events: Array, factor: float) -> Array:
    """Return events, uint8, that last `factor` times as long, with the fewest time shifts.

    Events at one time keep their order, even if two times become one.
    """
    durations = _DURATIONS[events]
    fixed = np.flatnonzero(durations == 0)  # all events except time shifts
    times = np.append((np.cumsum(durations) - durations)[fixed], durations.sum())
    points, where = np.unique(np.rint(factor * times).astype(np.int64), return_inverse=True)
    clocks = quantize(points)
    shift_clocks, shift_ranks, shifts = choose_time_shifts(np.unique(clocks))
    # sort by (clock, rank); shift ranks are negative: the shifts that lead to a clock come first
    new_times = np.concatenate([shift_clocks, clocks[where[:-1]]])
    order = np.argsort((new_times << 32) + np.concatenate([shift_ranks, fixed]))
    stretched = np.concatenate([shifts + _FIRST_SHIFT, events[fixed]])
    return np.asarray(stretched[order], np.uint8)
