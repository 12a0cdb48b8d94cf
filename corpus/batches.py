"""Training batches: windows of performances.

Windows are read from memory maps as bytes, and expanded on the device that trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from corpus.augment import stretch_excerpt
from corpus.performance import Corpus, expand_controls
from corpus.recall import PerformanceRecall, transpose_recall
from sequence import (
    PLAIN_CONTROLS,
    PLAIN_LAYOUT,
    ControlLayout,
    Encoding,
    transpose,
    transposition_range,
)
from utils import Array

TRANSPOSITIONS = (-5, 6)  # lowest and highest, in semitones
HIDING = 1  # number of the stream of random numbers for open controls
MAIN_CONTROLS = PLAIN_CONTROLS  # those used most often
MAIN_SHOWN = 0.5  # share of the segments that always show these
ONLY_MAIN_SHOWN = 0.25  # share of the segments that show these alone; included in MAIN_SHOWN
NOTHING_SHOWN = 0.15  # share of the segments without any control, besides those by chance
MAX_RECALL = 2**28  # bytes of what is recalled, of all performances; about 70 million events
START_SHARE = 0.1  # share of segments that begin at the start of their performance


@dataclass(frozen=True)
class Batch:
    """Windows on one device, one per column.

    previous: int64 [batch], the event before each window; targets: int64 [steps, batch];
    controls: float32 [steps, batch, control]; use_control: bool [batch], whether the network sees
    the control of a window; continues: bool [batch], whether a window follows the one in the same
    column of the previous batch. Only for these windows, `previous` is used. recall: uint8
    [steps, batch, 10], see `corpus.recall.find_recall`, or None for a network without recall.
    """

    previous: Tensor
    targets: Tensor
    controls: Tensor
    use_control: Tensor
    continues: Tensor
    recall: Tensor | None = None


@dataclass(frozen=True)
class PackedBatch:
    """A batch as bytes: events [1 + steps, batch]; row 0 is the event before the window.

    controls: packed [steps, batch, columns]; is_open: the controls that the network does not see,
    bool [batch, controls]; use_control, continues and recall: see `Batch`.
    """

    events: Array
    controls: Array
    is_open: Array
    use_control: Array
    continues: Array
    recall: Array | None = None

    def to_device(
        self, device: torch.device, encoding: Encoding, layout: ControlLayout = PLAIN_LAYOUT
    ) -> Batch:
        """Copy the bytes to a device, and expand them there; layout: of the network's control."""
        parts = {k: torch.from_numpy(part) for k, part in vars(self).items() if part is not None}
        if device.type == "cuda":  # without it, the copy waits until the GPU is idle
            parts = {name: part.pin_memory() for name, part in parts.items()}
        parts = {name: part.to(device, non_blocking=True) for name, part in parts.items()}
        events = parts["events"].long()
        controls = expand_controls(parts["controls"], encoding, layout, parts["is_open"])
        flags = parts["use_control"], parts["continues"]
        return Batch(events[0], events[1:], controls, *flags, parts.get("recall"))


class _Segments(NamedTuple):
    """The segment of each column of a batch: consecutive windows of one performance; all [batch].

    performances: index; starts: index of the first event; windows: index, within the segment, of
    the window that is in the batch. The draws are random numbers, the same for all windows of a
    segment: transpose_draw and control_draw in [0, 1), tempo_draw in [-1, 1). is_open: the
    controls that are hidden from the network, bool [batch, controls].
    """

    performances: Array
    starts: Array
    windows: Array
    transpose_draw: Array
    tempo_draw: Array
    control_draw: Array
    is_open: Array


class WindowSampler:
    """A source of batches of random windows; a batch depends only on the seed and its number.

    Each column of the batches is a sequence of segments of `carry` consecutive windows, for a
    network that carries its hidden state from one window to the next. If a performance ends
    within a segment, the next segment begins at once. Columns begin their segments at different
    batches.

    The first batches can be smaller, with half as many windows of half the size, for more optimizer
    steps while a network learns fastest. A segment then has twice as many windows.
    """

    def __init__(
        self,
        corpus: Corpus,
        steps: int,
        stride: int,
        carry: int = 1,
        process: tuple[int, int] = (0, 1),
        stretch: float = 0.0,
        small_batches: int = 0,
    ) -> None:
        """Prepare windows of `steps` events that start every `stride` events.

        process: rank and world size; the processes share each batch, and this one gets part `rank`
        of the columns. stretch: play each segment up to this much faster or slower (0.05 is 5%);
        for the current encoding only. small_batches: number of smaller batches at the start.
        """
        self.corpus, self.steps, self.stride, self.carry = corpus, steps, stride, carry
        (self.rank, self.world_size), self.stretch = process, stretch
        self.small_batches = small_batches
        # stretched segments of the previous batch, by performance, start, length and factor
        self._stretched: dict[tuple[int, int, int, float], tuple[Array, Array]] = {}
        self._recalls: dict[int, PerformanceRecall] = {}  # by performance
        self._recall_size = 0  # of all of these
        self._lengths = np.array([len(p) for p in corpus.performances], np.int64)
        counts = np.maximum(0, (self._lengths - steps) // stride + 1)
        self._ends = np.cumsum(counts, dtype=np.int64)  # last window + 1 of each performance

    def __len__(self) -> int:
        """Return the number of different windows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def sample_batch(
        self, batch_size: int, seed: int, number: int, control_ratio: float, transposition: bool
    ) -> PackedBatch:
        """Return batch `number`: windows drawn uniformly, with replacement.

        batch_size: windows; half as many in the first batches;
        control_ratio: share of the segments whose control the network sees; transposition:
        transpose each segment by a random offset within TRANSPOSITIONS.
        """
        if number < self.small_batches:
            batch_size = max(1, batch_size // 2)
        steps, carry = self._size_windows(number)
        segments = self._find_segments(self.world_size * batch_size, seed, number)
        columns = slice(self.rank * batch_size, (self.rank + 1) * batch_size)
        segments = _Segments(*(values[columns] for values in segments))
        contents = self._read_segments(segments, steps, carry)
        windows, recall_columns = [], []
        for column, (events, controls) in enumerate(contents):
            start = int(segments.windows[column]) * steps
            rows = slice(start, start + steps + 1)
            windows.append((events[rows], controls[rows, : self.corpus.layout.packed_dim]))
            if self.corpus.has_recall:
                rows = slice(1, start + steps + 1)
                whole = self._find_recall(int(segments.performances[column]))
                first = int(segments.starts[column])
                recall_columns.append(whole.read(first, events[rows])[start:])
        events, controls = (np.stack(column, axis=1) for column in zip(*windows, strict=True))
        recall = np.stack(recall_columns, axis=1) if recall_columns else None
        if transposition:
            offsets = _choose_offsets([events for events, _ in contents], segments.transpose_draw)
            events, controls = transpose(events, controls, offsets)
            if recall is not None:
                recall = transpose_recall(recall, offsets)
        use_control = segments.control_draw < control_ratio
        is_first = number == self.small_batches > 0  # no window continues one of another size
        continues = (segments.windows > 0) & (not is_first)
        flags = segments.is_open, use_control, continues
        return PackedBatch(events, controls[1:], *flags, recall)

    def _size_windows(self, number: int) -> tuple[int, int]:
        """Return the events of a window and the windows of a segment in batch `number`."""
        if number < self.small_batches and self.steps > 1:
            return self.steps // 2, 2 * self.carry
        return self.steps, self.carry

    def _find_segments(self, columns: int, seed: int, number: int) -> _Segments:
        """Return the segment of each column in batch `number`."""
        # columns are out of step: with carry 4 and 4 columns, batch 0 has windows 0, 1, 2, 3
        steps, carry = self._size_windows(number)
        turn, windows = np.divmod(number + np.arange(columns) * carry // columns, carry)
        segments = self._draw_segments(seed, turn, windows, 0)
        for attempt in range(1, carry):
            available = self._count_windows(segments, steps)
            is_over = segments.windows >= available  # the performance has ended
            if not is_over.any():
                break
            following = self._draw_segments(seed, turn, segments.windows - available, attempt)
            pairs = zip(following, segments, strict=True)
            segments = _Segments(*(np.where(is_over, new.T, old.T).T for new, old in pairs))
        return segments

    def _draw_segments(self, seed: int, turn: Array, windows: Array, attempt: int) -> _Segments:
        """Draw the segment of each column; turn: the number of segments before it in the column."""
        draws = _draw_numbers(turn, 5, seed, attempt)
        window_draw, start_draw, transpose_draw, tempo_draw, control_draw = draws.T
        numbers = (window_draw * len(self)).astype(np.int64)
        performances = np.searchsorted(self._ends, numbers, "right")
        starts = (numbers - np.append(0, self._ends)[performances]) * self.stride
        at_start = (start_draw < START_SHARE) & (self.carry > 1)
        starts = np.where(at_start, 0, starts)
        return _Segments(
            performances,
            starts,
            windows,
            transpose_draw,
            2 * tempo_draw - 1,
            control_draw,
            self._draw_open_controls(turn, seed, attempt),
        )

    def _draw_open_controls(self, turn: Array, seed: int, attempt: int) -> Array:
        """Draw which controls are open in the segment of each column, bool [batch, controls].

        Each segment has its own rate, uniform in [0, 1), at which its controls are open. In
        `NOTHING_SHOWN` of the segments all are open. In `MAIN_SHOWN`, none of `MAIN_CONTROLS` is;
        in `ONLY_MAIN_SHOWN`, the others all are.
        """
        layout = self.corpus.layout
        draws = _draw_numbers(turn, 2 + len(layout.flags), seed, attempt, HIDING)
        kind, rate = draws[:, :1], draws[:, 1:2]
        is_open = draws[:, 2:] < rate
        names = layout.names[: len(layout.flags)]  # none in a plain network
        is_main = np.array([name in MAIN_CONTROLS for name in names], bool)
        is_open &= (kind >= MAIN_SHOWN) | ~is_main
        is_open |= (kind < ONLY_MAIN_SHOWN) & ~is_main
        return np.asarray(is_open | (kind >= 1 - NOTHING_SHOWN))

    def _count_windows(self, segments: _Segments, steps: int) -> Array:
        """Return the number of whole windows from each segment's start to its performance's end."""
        return (self._lengths[segments.performances] - segments.starts) // steps

    def _read_segments(
        self, segments: _Segments, steps: int, carry: int
    ) -> list[tuple[Array, Array]]:
        """Return events [1 + n] and packed controls [1 + n, columns] of each segment.

        A segment has up to `carry` windows of `steps` events. Row 0 is the event before the
        segment; see `_read`.
        """
        counts = np.minimum(self._count_windows(segments, steps), carry) * steps
        columns = (segments.performances, segments.starts, counts)
        places = list(zip(*(column.tolist() for column in columns), strict=True))
        plain = [self._read(*place) for place in places]
        if not self.stretch:
            return plain
        factors = (1 + self.stretch * segments.tempo_draw).tolist()
        keys = [(*place, factor) for place, factor in zip(places, factors, strict=True)]
        cached = self._stretched
        self._stretched = {key: cached.get(key) or self._stretch(*key) for key in keys}
        stretched = [self._stretched[key] for key in keys]
        # a performance that ends too soon when it is played faster stays as it is
        return [
            new if len(new[0]) == len(old[0]) else old
            for old, new in zip(plain, stretched, strict=True)
        ]

    def _find_recall(self, performance: int) -> PerformanceRecall:
        """Return what is recalled in a performance; the last ones are kept, up to MAX_RECALL."""
        recall = self._recalls.pop(performance, None)
        if recall is None:
            data = self.corpus.performances[performance]
            recall = PerformanceRecall.from_events(data.read_events(0, len(data)))
            self._recall_size += recall.size
        self._recalls[performance] = recall  # the newest is the last
        while self._recall_size > MAX_RECALL and len(self._recalls) > 1:
            oldest = next(iter(self._recalls))
            self._recall_size -= self._recalls.pop(oldest).size
        return recall

    def _read(self, performance: int, start: int, count: int) -> tuple[Array, Array]:
        """Return events and controls from index `start` - 1 on; for -1, the first one again."""
        data = self.corpus.performances[performance]
        if start:
            return data.read(start - 1, start + count)
        events, controls = data.read(0, count)
        rows = np.maximum(0, np.arange(-1, count))
        return events[rows], controls[rows]

    def _stretch(
        self, performance: int, start: int, count: int, factor: float
    ) -> tuple[Array, Array]:
        """Return events and controls as `_read` does, `factor` times as slow."""
        data = self.corpus.performances[performance]
        return stretch_excerpt(data.read_events(0, len(data)), start, count, factor)


def _draw_numbers(turn: Array, count: int, seed: int, *stream: int) -> Array:
    """Draw `count` random numbers in [0, 1) for each column, float64 [batch, count].

    turn: the number of segments before this one in the column; the numbers depend only on it, on
    the seed, on the stream and on the column.
    """
    draws = np.empty((len(turn), count))
    for number in np.unique(turn):
        columns = np.flatnonzero(turn == number)  # these are adjacent
        bits = np.random.PCG64([seed, number, *stream])
        bits.advance(count * int(columns[0]))  # each column has its own numbers
        draws[columns] = np.random.Generator(bits).random((len(columns), count))
    return draws


def _choose_offsets(segments: list[Array], draws: Array) -> Array:
    """Choose transpositions [batch] that keep the notes of each segment on the piano."""
    ranges = [transposition_range(events[:, None]) for events in segments]
    low, high = np.array(ranges)[..., 0].T
    low, high = np.maximum(low, TRANSPOSITIONS[0]), np.minimum(high, TRANSPOSITIONS[1])
    return np.asarray(low + (draws * (high - low + 1)).astype(np.int64))
