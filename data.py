"""`.data` files, and the batches of windows that are cut from them.

A `.data` file is one performance: `torch.save` of a dict with `encoding` (its version),
`events` uint8 [events], `controls` uint8 [events, 13] (compressed), and what is known of it
(`notes`, `milliseconds`, `onset_error_mean`, `onset_error_max` in seconds, `source`, the hash
of the MIDI file). It takes 14 bytes an event, and training reads it through a memory map.
The original's files, a tuple of events and controls as numpy arrays, are read too.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

import tensorfile
from sequence import (
    CURRENT,
    ENCODINGS,
    ORIGINAL,
    ControlSeq,
    Encoding,
    EventSeq,
    room_to_transpose,
    transpose,
)
from stretch import stretched

Array = npt.NDArray[Any]

SUFFIX = ".data"
TRANSPOSITIONS = (-5, 6)  # lowest and highest, semitones
FROM_THE_START = 0.1  # share of runs of windows that begin where their performance does


@dataclass(frozen=True)
class Performance:
    """One performance as training reads it: events uint8 [n], compressed controls uint8 [n, 13].

    source is empty, and the onset errors are 0, for a file of the original, which does not
    say them.
    """

    events: Array
    controls: Array
    notes: int
    milliseconds: int
    onset_error_mean: float
    onset_error_max: float
    source: str
    encoding: Encoding = CURRENT

    def to_bytes(self) -> bytes:
        """The content of a `.data` file; the same performance gives the same bytes."""
        record = vars(self) | {"encoding": self.encoding.version}
        record["events"] = torch.from_numpy(np.array(self.events))
        record["controls"] = torch.from_numpy(np.array(self.controls))
        content = io.BytesIO()
        torch.save(record, content)
        return content.getvalue()

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Performance:
        """Map a `.data` file; ValueError, naming the path, for one that is not as above."""
        record = tensorfile.load(path, memory_map=True)
        try:
            return _performance(record)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __len__(self) -> int:
        return len(self.events)

    def controls_in(self, encoding: Encoding) -> Array:
        """Controls float32 [events, 24] that ask a network of `encoding` for such a performance.

        For another encoding than its own the events are decoded and encoded again, which
        changes their number.
        """
        controls = self.controls
        if encoding is not self.encoding:
            notes = EventSeq.from_array(self.events, self.encoding).to_note_seq()
            anew = EventSeq.from_note_seq(notes, encoding)
            controls = ControlSeq.from_event_seq(anew).to_compressed_array()
        return ControlSeq.recover_compressed_array(controls, encoding)


def _performance(record: Any) -> Performance:
    if isinstance(record, tuple):
        return _from_original(record)
    kinds = {"notes": int, "milliseconds": int, "source": str}
    kinds |= {"onset_error_mean": float, "onset_error_max": float}
    if not isinstance(record, dict) or "encoding" not in record:
        raise ValueError("not a .data file of this suite; preprocess.py makes them")
    version = record["encoding"]
    if type(version) is not int or version not in ENCODINGS:
        told = tensorfile.told(version)
        raise ValueError(f"encoding {told} is none of {list(ENCODINGS)}; preprocess again")
    events, controls = record.get("events", ()), record.get("controls", ())
    for name, tensor, shape in (("events", events, ()), ("controls", controls, (13,))):
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.uint8:
            raise ValueError(f"{name} are not uint8")
        if not tensor.ndim or tensor.shape != (len(events), *shape):
            raise ValueError(f"{name} have the shape {list(tensor.shape)}")
    if not len(events):
        raise ValueError("it holds no events")
    if not all(isinstance(record.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"one of {list(kinds)} is missing or wrong")
    about = {name: record[name] for name in kinds}
    return Performance(events.numpy(), controls.numpy(), **about, encoding=ENCODINGS[version])


def _from_original(record: tuple[Any, ...]) -> Performance:
    arrays = [part.array for part in record if isinstance(part, tensorfile.ByteArray)]
    if len(record) != 2 or len(arrays) != 2:
        raise ValueError("not a .data file: neither of this suite nor of the original")
    events, controls = arrays
    if events.ndim != 1 or controls.shape != (len(events), 13):
        raise ValueError(f"events and controls have the shapes {events.shape}, {controls.shape}")
    if not len(events):
        raise ValueError("it holds no events")
    check_packed(events, controls)
    known = EventSeq.from_array(events, ORIGINAL)
    return Performance(events, controls, known.note_ons, known.total_ms, 0.0, 0.0, "", ORIGINAL)


def check_packed(events: Array, controls: Array) -> None:
    """ValueError for an event or a density that there is not; files are not read whole for it."""
    if events.max() >= EventSeq.dim():
        raise ValueError(f"event {events.max()} in the data is not in 0-{EventSeq.dim() - 1}")
    if controls[..., 0].max() >= len(ControlSeq.DENSITIES):
        raise ValueError(f"note density {controls[..., 0].max()} in the data is not in 0-11")


def expanded(controls: Tensor, encoding: Encoding) -> Tensor:
    """float32 [..., 24] of compressed controls uint8 [..., 13], made on their device.

    The same as `ControlSeq.recover_compressed_array`.
    """
    density, weights = controls[..., 0].long(), controls[..., 1:].float()
    total = weights.sum(dim=-1, keepdim=True)
    shares = torch.where(total > 0, weights / total, 1 / 12)
    if encoding.floored:
        shares = weights / 255
    one_hot = functional.one_hot(density, len(ControlSeq.DENSITIES))
    return torch.cat([one_hot.float(), shares], dim=-1)


@dataclass(frozen=True)
class Batch:
    """Windows side by side, on one device.

    before: int64 [batch], the event before each window; targets: int64 [steps, batch];
    controls: float32 [steps, batch, 24]; controlled: bool [batch], the windows the network
    shall see the control of; carried: bool [batch], the windows that go on where that column
    of the batch before ended: `before` means something for these alone.
    """

    before: Tensor
    targets: Tensor
    controls: Tensor
    controlled: Tensor
    carried: Tensor


class Corpus:
    """The performances of a folder, mapped, in order of name."""

    def __init__(self, performances: Sequence[Performance]) -> None:
        self.performances = tuple(performances)

    def __len__(self) -> int:
        return len(self.performances)

    @staticmethod
    def load(paths: Iterable[Path]) -> Corpus:
        """Map `.data` files; ValueError also for files of two encodings, naming one of each."""
        places: dict[int, Path] = {}  # of the first file of each encoding
        performances = []
        for path in paths:
            performances.append(Performance.load(path))
            places.setdefault(performances[-1].encoding.version, path)
        if len(places) > 1:
            told = " and ".join(f"{path} (encoding {v})" for v, path in sorted(places.items()))
            raise ValueError(f"{told} are not for the same networks: use folders of one encoding")
        return Corpus(performances)

    @property
    def encoding(self) -> Encoding:
        """The encoding of all performances; the current one if there are none."""
        return self.performances[0].encoding if self.performances else CURRENT

    @property
    def fingerprint(self) -> str:
        """A hash of what the performances were made from."""
        sources = "\n".join(
            performance.source or _hash(performance.events) for performance in self.performances
        )
        return _hash(sources.encode())

    @property
    def events(self) -> int:
        """Number of events."""
        return sum(map(len, self.performances))


@dataclass(frozen=True)
class Packed:
    """A batch as bytes: events [1 + steps, batch], the one before each window first.

    Beside them controls [steps, batch, 13], and what `Batch` says of controlled and carried.
    """

    events: Array
    controls: Array
    controlled: Array
    carried: Array

    def on(self, device: torch.device, encoding: Encoding) -> Batch:
        """The batch on `device`: bytes are sent there, and expanded there."""
        parts = (torch.from_numpy(part) for part in vars(self).values())
        if device.type == "cuda":  # else the copy would wait for all that the GPU has to do
            parts = (part.pin_memory() for part in parts)
        events, controls, controlled, carried = (
            part.to(device, non_blocking=True) for part in parts
        )
        events = events.long()
        return Batch(events[0], events[1:], expanded(controls, encoding), controlled, carried)


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


class Windows:
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
        among: int = 1,
        stretch: float = 0.0,
    ) -> None:
        """With `rank` batches are that part of the batches that `among` processes share.

        stretch: each run is played up to so much faster or slower, 0.05 for 5 %; only for data
        of today's encoding.
        """
        self.corpus, self.steps, self.stride, self.carry = corpus, steps, stride, carry
        self.rank, self.among, self.stretch = rank, among, stretch
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

    def batch(
        self, size: int, seed: int, number: int, control_ratio: float, transposing: bool
    ) -> Packed:
        """Batch `number`: runs drawn evenly, with replacement."""
        runs = self._runs(self.among * size, seed, number)
        runs = runs.part(slice(self.rank * size, (self.rank + 1) * size))
        whole = self._whole(runs)
        cut = [self._cut(*run, nth) for run, nth in zip(whole, runs.nth, strict=True)]
        events, controls = (np.stack(column, axis=1) for column in zip(*cut, strict=True))
        check_packed(events, controls)
        if transposing:
            offsets = self._offsets([run for run, _ in whole], runs.mood)
            events, controls = transpose(events, controls, offsets)
        return Packed(events, controls[1:], runs.seen < control_ratio, runs.nth > 0)

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
        return stretched(events, start, count, 1 + self.stretch * tempo)

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
        rooms = [room_to_transpose(events[:, None]) for events in runs]
        low, high = np.array(rooms)[..., 0].T
        low, high = np.maximum(low, TRANSPOSITIONS[0]), np.minimum(high, TRANSPOSITIONS[1])
        return np.asarray(low + (mood * (high - low + 1)).astype(np.int64))


def _hash(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def held_out(paths: Sequence[Path], root: Path, share: float) -> tuple[list[Path], list[Path]]:
    """Split files into the ones to train on and the ones to judge by.

    A file's side depends on its name below `root` alone, so it stays when files are added;
    but of two or more files at least one is held out, if the share is not 0.
    """
    places = {path: _place(path.relative_to(root).as_posix()) for path in paths}
    edge = share
    if share and len(paths) > 1 and min(places.values()) >= share:
        edge = math.nextafter(min(places.values()), 1.0)
    held = [path for path in paths if places[path] < edge]
    return [path for path in paths if places[path] >= edge], held


def _place(name: str) -> float:
    """Where a name falls between 0 and 1, evenly."""
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
