"""Windows of performances side by side: the batches that a network learns from.

They are cut from memory maps as bytes, and expanded on the device that learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corpus.augment import stretch_excerpt
from corpus.performance import Corpus, check_encoded, expand_controls
from sequence import Encoding, transpose, transposition_range
from utils import Array

TRANSPOSITIONS = (-5, 6)  # lowest and highest, semitones
FROM_THE_START = 0.1  # share of runs of windows that begin where their performance does


@dataclass(frozen=True)
class Batch:
    """Windows side by side, on one device.

    before: int64 [batch], the event before each window; targets: int64 [steps, batch];
    controls: float32 [steps, batch, 24]; use_control: bool [batch], the windows the network
    shall see the control of; continues: bool [batch], the windows that go on where that column
    of the batch before ended: `before` means something for these alone.
    """

    previous: Tensor
    targets: Tensor
    controls: Tensor
    use_control: Tensor
    continues: Tensor


@dataclass(frozen=True)
class PackedBatch:
    """A batch as bytes: events [1 + steps, batch], the one before each window first.

    MidiStats them controls [steps, batch, 13], and what `Batch` says of use_control and continues.
    """

    events: Array
    controls: Array
    use_control: Array
    continues: Array

    def to_device(self, device: torch.device, encoding: Encoding) -> Batch:
        """The batch on `device`: bytes are sent there, and expanded there."""
        parts = (torch.from_numpy(part) for part in vars(self).values())
        if device.type == "cuda":  # else the copy would wait for all that the GPU has to do
            parts = (part.pin_memory() for part in parts)
        events, controls, use_control, continues = (
            part.to(device, non_blocking=True) for part in parts
        )
        events = events.long()
        return Batch(
            events[0], events[1:], expand_controls(controls, encoding), use_control, continues
        )


@dataclass(frozen=True)
class _Runs:
    """Of each column of a batch, the run of windows that it is in; all [batch]."""

    pieces: Array
    starts: Array  # first event of the run
    nth: Array  # which window of the run it is
    mood: Array  # evenly in [0, 1), to choose the transposition
    tempo: Array  # evenly in [-1, 1), to choose the tempo
    seen: Array  # evenly in [0, 1), to choose whether the control is seen

    def part(self, columns: slice) -> _Runs:
        """The runs of some columns."""
        return _Runs(*(values[columns] for values in vars(self).values()))

    def replaced(self, where: Array, other: _Runs) -> _Runs:
        """These runs, but `other` where `where` is true."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Runs(*(np.where(where, theirs, ours) for ours, theirs in pairs))


class WindowSampler:
    """Random windows of a corpus; batch number and seed alone decide what is in a batch.

    Each column of the batches holds runs of `carry` windows that follow one another in one
    performance, for a network that carries its hidden state from one to the next; where the
    performance ends too soon, another run begins. The columns begin their runs in turn.
    """

    def __init__(
        self,
        corpus: Corpus,
        steps: int,
        stride: int,
        carry: int = 1,
        rank: int = 0,
        world_size: int = 1,
        stretch: float = 0.0,
    ) -> None:
        """With `rank` batches are that part of the batches that `world_size` processes share.

        stretch: each run is played up to so much faster or slower, 0.05 for 5 %; only for data
        of today's encoding.
        """
        self.corpus, self.steps, self.stride, self.carry = corpus, steps, stride, carry
        self.rank, self.world_size, self.stretch = rank, world_size, stretch
        self._stretched: dict[tuple[tuple[int, int, int], float], tuple[Array, Array]] = {}
        self._lengths = np.array([len(p) for p in corpus.performances], np.int64)
        counts = np.maximum(0, (self._lengths - steps) // stride + 1)
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        """How many windows there are, `stride` events apart and each inside one performance."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def places(self, indices: Array) -> tuple[Array, Array]:
        """Of windows by number: the performances they are in, and their first events."""
        pieces = np.searchsorted(self._ends, indices, "right")
        return pieces, (indices - np.append(0, self._ends)[pieces]) * self.stride

    def sample_batch(
        self, size: int, seed: int, number: int, control_ratio: float, transposing: bool
    ) -> PackedBatch:
        """Batch `number`: runs drawn evenly, with replacement."""
        runs = self._runs(self.world_size * size, seed, number)
        runs = runs.part(slice(self.rank * size, (self.rank + 1) * size))
        whole = self._whole(runs)
        cut = [self._cut(*run, nth) for run, nth in zip(whole, runs.nth, strict=True)]
        events, controls = (np.stack(column, axis=1) for column in zip(*cut, strict=True))
        check_encoded(events, controls)
        if transposing:
            offsets = self._offsets([run for run, _ in whole], runs.mood)
            events, controls = transpose(events, controls, offsets)
        return PackedBatch(events, controls[1:], runs.seen < control_ratio, runs.nth > 0)

    def _whole(self, runs: _Runs) -> list[tuple[Array, Array]]:
        """Events and controls of each run, and of the event before it, or its first one again."""
        rooms = np.minimum(self._rooms(runs), self.carry) * self.steps
        places = list(zip(runs.pieces.tolist(), runs.starts.tolist(), rooms.tolist(), strict=True))
        plain = [self._excerpt(*place) for place in places]
        if not self.stretch:
            return plain
        keys = list(zip(places, runs.tempo.tolist(), strict=True))
        known = self._stretched
        self._stretched = {key: known.get(key) or self._slower(*key) for key in keys}
        return [
            other if len(other[0]) == len(run[0]) else run  # a piece that ends too soon for it
            for run, other in zip(plain, map(self._stretched.__getitem__, keys), strict=True)
        ]

    def _excerpt(self, piece: int, start: int, count: int) -> tuple[Array, Array]:
        performance = self.corpus.performances[piece]
        if start:
            part = slice(start - 1, start + count)
            return performance.events[part], performance.controls[part]
        places = np.maximum(0, np.arange(-1, count))
        return performance.events[places], performance.controls[places]

    def _slower(self, place: tuple[int, int, int], tempo: float) -> tuple[Array, Array]:
        """A run in its tempo."""
        piece, start, count = place
        events = self.corpus.performances[piece].events
        return stretch_excerpt(events, start, count, 1 + self.stretch * tempo)

    def _rooms(self, runs: _Runs) -> Array:
        """How many windows there are from the start of each run to the end of its performance."""
        return (self._lengths[runs.pieces] - runs.starts) // self.steps

    def _cut(self, events: Array, controls: Array, nth: int) -> tuple[Array, Array]:
        """A window of a run, and the event before it."""
        part = slice(nth * self.steps, (nth + 1) * self.steps + 1)
        return events[part], controls[part]

    def _runs(self, size: int, seed: int, number: int) -> _Runs:
        """The runs that the columns are in, after those that their performance cut short."""
        run, nth = np.divmod(number + np.arange(size) * self.carry // size, self.carry)
        runs = self._drawn(seed, run, nth, 0)
        for attempt in range(1, self.carry):
            room = self._rooms(runs)
            over = runs.nth >= room
            if not over.any():
                break
            runs = runs.replaced(over, self._drawn(seed, run, runs.nth - room, attempt))
        return runs

    def _drawn(self, seed: int, run: Array, nth: Array, attempt: int) -> _Runs:
        dice = np.empty((len(run), 5))
        for number in np.unique(run):
            columns = np.flatnonzero(run == number)  # neighbours
            bits = np.random.PCG64([seed, number, attempt])
            bits.advance(5 * int(columns[0]))  # each column has its own five numbers
            dice[columns] = np.random.Generator(bits).random((len(columns), 5))
        where, begin, mood, tempo, seen = dice.T
        pieces, starts = self.places((where * len(self)).astype(np.int64))
        at_the_start = (begin < FROM_THE_START) & (self.carry > 1)
        return _Runs(pieces, np.where(at_the_start, 0, starts), nth, mood, 2 * tempo - 1, seen)

    def _offsets(self, runs: Sequence[Array], mood: Array) -> Array:
        """Semitones [batch] that leave every note of a run on the piano."""
        rooms = [transposition_range(events[:, None]) for events in runs]
        low, high = np.array(rooms)[..., 0].T
        low, high = np.maximum(low, TRANSPOSITIONS[0]), np.minimum(high, TRANSPOSITIONS[1])
        return np.asarray(low + (mood * (high - low + 1)).astype(np.int64))
