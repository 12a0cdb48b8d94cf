"""`.data` files, and a folder of them.

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
import torch
from torch import Tensor
from torch.nn import functional

from corpus import tensorfile
from sequence import CURRENT, ENCODINGS, LEGACY, ControlSeq, Encoding, EventSeq
from utils import Array



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

    def convert_controls(self, encoding: Encoding) -> Array:
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
        told = tensorfile.format_value(version)
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
    check_encoded(events, controls)
    known = EventSeq.from_array(events, LEGACY)
    return Performance(events, controls, known.note_ons, known.total_ms, 0.0, 0.0, "", LEGACY)


def check_encoded(events: Array, controls: Array) -> None:
    """ValueError for an event or a density that there is not; files are not read whole for it."""
    if events.max() >= EventSeq.dim():
        raise ValueError(f"event {events.max()} in the data is not in 0-{EventSeq.dim() - 1}")
    if controls[..., 0].max() >= len(ControlSeq.DENSITIES):
        raise ValueError(f"note density {controls[..., 0].max()} in the data is not in 0-11")


def expand_controls(controls: Tensor, encoding: Encoding) -> Tensor:
    """float32 [..., 24] of compressed controls uint8 [..., 13], made on their device.

    The same as `ControlSeq.recover_compressed_array`.
    """
    density, weights = controls[..., 0].long(), controls[..., 1:].float()
    total = weights.sum(dim=-1, keepdim=True)
    shares = torch.where(total > 0, weights / total, 1 / 12)
    if encoding.is_legacy:
        shares = weights / 255
    one_hot = functional.one_hot(density, len(ControlSeq.DENSITIES))
    return torch.cat([one_hot.float(), shares], dim=-1)


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


def _hash(content: Any) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def hold_out(paths: Sequence[Path], root: Path, share: float) -> tuple[list[Path], list[Path]]:
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
