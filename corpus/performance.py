"""Performances as training data: `.data` files, and a corpus of performances.

A `.data` file holds one performance: `torch.save` of a dict with `encoding` (its version),
`events` uint8 [events], `controls` uint8 [events, 17] (packed), and `notes`, `milliseconds`,
`onset_error_mean`, `onset_error_max` (seconds) and `source` (the hash of the MIDI file). It has
18 bytes per event; training reads it through a memory map. Older files have the first 13 columns
of the controls; the others are computed from the events when a session needs them.
Legacy files, a tuple of events and controls as numpy arrays, are read too.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from config import DATA_SUFFIX
from corpus import tensorfile
from midi.control_schedule import DENSITY_LEVELS, PITCH_CLASSES
from sequence import (
    CURRENT,
    ENCODINGS,
    LEGACY,
    PLAIN_LAYOUT,
    UNKNOWN,
    ControlKind,
    ControlLayout,
    ControlSeq,
    Encoding,
    EventSeq,
    get_control_kind,
    packed_dims,
    split_packed,
)
from utils import Array

MAX_ONSET_ERROR = 10.0  # seconds, in a file; an encoded performance has a few milliseconds
MAX_SOURCE = 128  # characters
MAX_READER = 1_000_000  # version
MAX_TRACKS = 1000  # characters


class _File(NamedTuple):
    """A memory-mapped `.data` file, and where its arrays are.

    identity: device, inode, size and time of the last change, when it was mapped; events, controls:
    offsets in bytes; columns: of the controls.
    """

    path: str
    identity: tuple[int, int, int, int]
    events: int
    controls: int
    columns: int

    @staticmethod
    def find(
        path: str | os.PathLike[str], status: os.stat_result, record: dict[str, Any]
    ) -> _File | None:
        """Return the file of a record; None if its tensors are not mapped.

        status: of the file, before it was mapped.
        """
        events, controls = record["events"], record["controls"]
        for tensor in (events, controls):  # a mapped tensor is a view of the whole file
            if tensor.untyped_storage().nbytes() != status.st_size or not tensor.is_contiguous():
                return None
        places = (events.storage_offset(), controls.storage_offset(), controls.shape[1])
        return _File(os.fspath(path), _identify(status), *places)

    def read(self, offset: int, count: int) -> bytes | None:
        """Return bytes of the file; None if another file has its name now.

        Then the memory map is safe: a file without a name cannot be cut. Raises ValueError if the
        file was changed in place.
        """
        try:
            with open(self.path, "rb", buffering=0) as file:
                identity = _identify(os.fstat(file.fileno()))
                if identity[:2] != self.identity[:2]:
                    return None
                file.seek(offset)
                content = file.read(count)
        except FileNotFoundError:
            return None
        if identity != self.identity or len(content) != count:
            raise ValueError(
                f"{self.path}: was changed while it was in use; run preprocess.py, which makes it "
                "again if it is damaged"
            )
        return content


def _identify(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Performance:
    """One performance: events uint8 [events], packed controls uint8 [events, columns].

    notes: number of notes; milliseconds: length; onset_error_mean, onset_error_max: in seconds;
    file: where they are, if they are memory-mapped; source: hash of the MIDI file. A legacy file
    has no source ("") and no onset errors (0). reader: version of the code that read the MIDI file,
    0 if unknown; tracks: the choice of its tracks (--tracks). Not stored: name: of its file and the
    folder of that; added: more columns of packed controls, which an older file lacks, or None.
    """

    events: Array
    controls: Array
    notes: int
    milliseconds: int
    onset_error_mean: float
    onset_error_max: float
    source: str
    encoding: Encoding = CURRENT
    reader: int = 0
    tracks: str = "auto"
    name: str = ""
    file: _File | None = field(default=None, compare=False, repr=False)
    added: Array | None = None

    @property
    def made_with(self) -> str:
        """What decides which events a MIDI file gives: encoding, reader and choice of tracks."""
        return format_made_with(self.encoding, self.reader, self.tracks)

    def to_bytes(self) -> bytes:
        """Return the content of a `.data` file; equal performances give equal bytes."""
        record = vars(self) | {"encoding": self.encoding.version}
        for name in ("name", "file", "added"):
            del record[name]
        record["events"] = torch.from_numpy(np.array(self.events))
        record["controls"] = torch.from_numpy(np.array(self.controls))
        content = io.BytesIO()
        torch.save(record, content)
        return content.getvalue()

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Performance:
        """Memory-map a `.data` file; raise ValueError, naming the path, for any other file."""
        status = os.stat(path)
        record = tensorfile.load(path, memory_map=True)
        try:
            performance = _parse_legacy(record) if isinstance(record, tuple) else _parse(record)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        name = "/".join(Path(path).parts[-2:]).removesuffix(DATA_SUFFIX)
        file = _File.find(path, status, record) if isinstance(record, dict) else None
        return replace(performance, name=name, file=file)

    def __len__(self) -> int:
        return len(self.events)

    def read(self, start: int, stop: int) -> tuple[Array, Array]:
        """Return copies of events [n] and packed controls [n, columns] from `start` to `stop`.

        Raises ValueError or OSError, naming the file, if it has changed or cannot be read any
        more. The arrays `events` and `controls` are a memory map: to use them after the file was
        cut ends the process.
        """
        return self.read_events(start, stop), self._read_controls(start, stop)

    def read_events(self, start: int, stop: int) -> Array:
        """Return a copy of the events [n] from `start` to `stop`; see `read`."""
        stop = min(stop, len(self))
        content = self.file and self.file.read(self.file.events + start, stop - start)
        events = np.frombuffer(content, np.uint8) if content else np.array(self.events[start:stop])
        return self._check(events, events.max(initial=0), EventSeq.dim(), "event")

    def _read_controls(self, start: int, stop: int) -> Array:
        """Return a copy of the packed controls [n, columns]; see `read`."""
        stop, columns = min(stop, len(self)), self.controls.shape[1]
        content = None
        if self.file and self.file.columns == columns:  # otherwise they are in memory
            offset = self.file.controls + start * columns
            content = self.file.read(offset, (stop - start) * columns)
        controls = self.controls[start:stop]
        if content:
            controls = np.frombuffer(content, np.uint8).reshape(-1, columns)
        self._check(controls, controls[:, 0].max(initial=0), DENSITY_LEVELS, "note density")
        if self.added is None:
            return controls
        return np.concatenate([controls, self.added[start:stop]], axis=1)

    def _check(self, values: Array, largest: int, count: int, name: str) -> Array:
        """Return values; raise ValueError, naming the file, unless the largest is below `count`."""
        if largest >= count:
            path = self.file.path if self.file else "the data"
            raise ValueError(
                f"{path}: damaged ({name} {largest} is not in 0-{count - 1}): preprocess.py makes "
                "it again"
            )
        return values

    def add_controls(self, layout: ControlLayout) -> Performance:
        """Return the performance with the controls of a network; compute them if it lacks some.

        Raises ValueError for a legacy performance, which has only density and histogram.
        """
        stored = self.controls.shape[1]
        if stored >= layout.packed_dim:
            return self
        if self.encoding.is_legacy:
            names = ", ".join(layout.names)
            raise ValueError(f"data in the original's encoding does not have all of {names}")
        check_encoded(self.events, self.controls)
        packed = ControlSeq.from_event_seq(EventSeq(self.events)).pack()
        # the stored columns stay in the memory map
        return replace(self, added=packed[:, stored : layout.packed_dim].copy())

    def compute_controls(
        self, encoding: Encoding, layout: ControlLayout = PLAIN_LAYOUT
    ) -> dict[str, Array]:
        """Return the values of the controls by name, for a network of `encoding` and `layout`.

        If the performance has another encoding, its events are decoded and encoded again, which
        changes their number. Raises ValueError for an event or a density out of range.
        """
        performance = self
        if encoding is not self.encoding:
            notes = EventSeq.from_array(self.events, self.encoding).to_note_seq()
            events = EventSeq.from_note_seq(notes, encoding)
            packed = ControlSeq.from_event_seq(events).pack()
            performance = replace(
                self, events=events.to_array(), controls=packed, encoding=encoding, file=None
            )
        check_encoded(performance.events, performance.controls)
        parts = split_packed(performance.add_controls(layout).read(0, len(performance))[1])
        return {name: get_control_kind(name).unpack(parts[name], encoding) for name in parts}


def hash_source(content: bytes) -> str:
    """Return the hash of a MIDI file, which its performance keeps as `source`."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def format_made_with(encoding: Encoding, reader: int, tracks: str) -> str:
    """Return a text for the things that decide which events a MIDI file gives."""
    return f"encoding {encoding.version}, reader {reader}, tracks {tracks}"


def _parse(record: Any) -> Performance:
    """Return the performance in a `.data` file; raise ValueError for missing or wrong entries."""
    if not isinstance(record, dict) or "encoding" not in record:
        raise ValueError("not a .data file of preprocess.py")
    version = record["encoding"]
    if type(version) is not int or version not in ENCODINGS:
        found = tensorfile.format_value(version)
        raise ValueError(f"encoding {found} is not in {list(ENCODINGS)}; run preprocess.py again")
    for name in ("events", "controls"):
        if not isinstance(record.get(name), Tensor) or record[name].dtype != torch.uint8:
            raise ValueError(f"'{name}' is not a uint8 tensor")
    events, controls = record["events"].numpy(), record["controls"].numpy()
    _check_shapes(events, controls)
    facts = _parse_facts(record, len(events), ENCODINGS[version])
    return Performance(events, controls, **facts, encoding=ENCODINGS[version])


def _parse_facts(record: dict[Any, Any], events: int, encoding: Encoding) -> dict[str, Any]:
    """Return the entries of a `.data` file that are numbers and text.

    events: how many it has. Raises ValueError for a missing entry, a wrong type, or a number out of
    range.
    """
    longest = 1 + int(EventSeq.event_durations(encoding).max())  # milliseconds
    ranges: dict[str, tuple[type, float, float]] = {
        "notes": (int, 1, events),
        "milliseconds": (int, 0, longest * events),
        "onset_error_mean": (float, 0.0, MAX_ONSET_ERROR),
        "onset_error_max": (float, 0.0, MAX_ONSET_ERROR),
    }
    for name, (kind, low, high) in ranges.items():
        tensorfile.check_number(f"'{name}'", record.get(name), kind, low, high)
    source = record.get("source")
    if not isinstance(source, str) or not source.isascii() or len(source) > MAX_SOURCE:
        raise ValueError(f"'source' is {tensorfile.format_value(source)}, not a hash")
    # older files lack these
    reader, tracks = record.get("reader", 0), record.get("tracks", "auto")
    tensorfile.check_number("'reader'", reader, int, 0, MAX_READER)
    if not isinstance(tracks, str) or len(tracks) > MAX_TRACKS:
        raise ValueError(f"'tracks' is {tensorfile.format_value(tracks)}, not a choice of tracks")
    facts = {name: record[name] for name in (*ranges, "source")}
    return {**facts, "reader": reader, "tracks": tracks}


def _parse_legacy(record: tuple[Any, ...]) -> Performance:
    """Return the performance in a legacy file; raise ValueError for wrong content."""
    arrays = [part.array for part in record if isinstance(part, tensorfile.ByteArray)]
    if len(record) != 2 or len(arrays) != 2:
        raise ValueError("not a .data file of preprocess.py or of the original")
    events, controls = arrays
    _check_shapes(events, controls)
    check_encoded(events, controls)
    seq = EventSeq.from_array(events, LEGACY)
    if not seq.note_ons:
        raise ValueError("the file has no notes")
    return Performance(events, controls, seq.note_ons, seq.total_ms, 0.0, 0.0, "", LEGACY)


def _check_shapes(events: Array, controls: Array) -> None:
    """Raise ValueError unless there are events, and one control for each."""
    widths = packed_dims()
    if events.ndim != 1 or controls.shape not in [(len(events), width) for width in widths]:
        shapes = f"{events.shape}, {controls.shape}"
        raise ValueError(f"events and controls have the wrong shapes {shapes}")
    if not len(events):
        raise ValueError("the file has no events")


def check_encoded(events: Array, controls: Array) -> None:
    """Raise ValueError for an event or a density level out of range.

    This is checked when data is used, because loading does not read the whole file.
    """
    if events.max() >= EventSeq.dim():
        raise ValueError(f"event {events.max()} in the data is not in 0-{EventSeq.dim() - 1}")
    level = controls[..., 0].max()
    if level >= DENSITY_LEVELS:
        raise ValueError(f"note density {level} in the data is not in 0-{DENSITY_LEVELS - 1}")


def expand_controls(
    controls: Tensor,
    encoding: Encoding,
    layout: ControlLayout = PLAIN_LAYOUT,
    is_open: Tensor | None = None,
) -> Tensor:
    """Return control vectors, float32 [..., dim], from packed controls, uint8 [..., columns].

    The result is on the device of the tensor; it is the same as that of `ControlLayout.encode`.
    layout: of the network; is_open: the controls to leave open, bool [batch, controls], for
    controls [steps, batch, columns] and a layout with flags. Unknown controls are open, too.
    """
    packed, columns, flags = split_packed(controls), [], []
    for number, kind in enumerate(layout.kinds):
        part = packed[kind.name]
        if kind.value_shape:
            vectors, unknown = _expand_histogram(part, encoding), torch.zeros_like(part[..., 0]) > 0
        else:
            table = _encode_bytes(kind, controls.device)
            vectors, unknown = (
                functional.embedding(part[..., 0].long(), table),
                part[..., 0] == UNKNOWN,
            )
        if layout.flags:
            hidden = unknown if is_open is None else unknown | is_open[:, number]
            vectors = vectors.masked_fill(hidden[..., None], 0)
            flags.append(hidden[..., None].float())
        columns.append(vectors)
    return torch.cat([*columns, *flags], dim=-1)


def _expand_histogram(packed: Tensor, encoding: Encoding) -> Tensor:
    """Return pitch-class histograms, float32 [..., 12], from bytes."""
    weights = packed.float()
    if encoding.is_legacy:
        return weights / 255
    total = weights.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, weights / total, 1 / PITCH_CLASSES)


@functools.cache
def _encode_bytes(kind: ControlKind, device: torch.device) -> Tensor:
    """Return the columns of a control vector for each byte, float32 [256, width]."""
    values = kind.unpack(np.arange(256)[:, None])
    return torch.from_numpy(kind.encode(values)).to(device)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Performances of one encoding, memory-mapped.

    layout: the control of the network that they are for; all of them have its controls.
    has_recall: whether that network has recall.
    """

    performances: Sequence[Performance]
    layout: ControlLayout = PLAIN_LAYOUT
    has_recall: bool = False

    def __len__(self) -> int:
        return len(self.performances)

    @staticmethod
    def load(paths: Iterable[Path]) -> Corpus:
        """Memory-map `.data` files, in this order.

        Raises ValueError if they have different encodings, naming a file of each.
        """
        first_paths: dict[int, Path] = {}  # of each encoding
        performances = []
        for path in paths:
            performances.append(Performance.load(path))
            first_paths.setdefault(performances[-1].encoding.version, path)
        if len(first_paths) > 1:
            old, new = (f"{first_paths[version]} (encoding {version})" for version in ENCODINGS)
            raise ValueError(f"{old} and {new} need different sessions: do not mix encodings")
        return Corpus(performances)

    def add_controls(self, layout: ControlLayout, has_recall: bool = False) -> Corpus:
        """Return the corpus for a network; see `Performance.add_controls`."""
        performances = [performance.add_controls(layout) for performance in self.performances]
        return Corpus(performances, layout, has_recall)

    @property
    def encoding(self) -> Encoding:
        """The encoding of all performances; the current one if there are none."""
        return self.performances[0].encoding if self.performances else CURRENT

    @property
    def fingerprint(self) -> str:
        """A hash of the sources of the performances."""
        return _hash("\n".join(self.sources).encode())

    @property
    def sources(self) -> list[str]:
        """The hash of the MIDI file of each performance; of its events if that is unknown."""
        return [p.source or _hash(p.events) for p in self.performances]

    @property
    def events(self) -> int:
        """The total number of events."""
        return sum(map(len, self.performances))


def _hash(content: Any) -> str:
    """Return a hash of bytes or of an array, 16 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def hold_out(
    paths: Sequence[Path],
    root: Path,
    share: float,
    pieces: Sequence[Sequence[int]] | None = None,
) -> tuple[list[Path], list[Path]]:
    """Split files into training files and validation files, the latter about a `share` of them.

    pieces: the numbers of the files of each piece, which all get the subset of the piece's first
    file by name; by default each file is a piece. The subset of a file depends only on its name
    below `root`, so it stays when files are added. Exception: if there are two or more pieces, at
    least one is for validation, unless `share` is 0; it is one with the fewest files.
    """
    names = [path.relative_to(root).as_posix().encode(errors="surrogateescape") for path in paths]
    groups = []  # of each piece: a number from 0 to 1, and the numbers of its files
    for piece in pieces or [[number] for number in range(len(paths))]:
        digest = hashlib.blake2b(min(names[number] for number in piece), digest_size=8).digest()
        groups.append((int.from_bytes(digest, "big") / 2**64, piece))
    chosen = [piece for position, piece in groups if position < share]
    if share and len(groups) > 1 and not chosen:
        chosen = [min(groups, key=lambda group: (len(group[1]), group[0]))[1]]
    held_out = {number for piece in chosen for number in piece}
    train_paths = [path for number, path in enumerate(paths) if number not in held_out]
    return train_paths, [paths[number] for number in sorted(held_out)]
