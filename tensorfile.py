"""Tensor files, as `torch.save` writes them, read without trust.

Before a file is loaded its pickles are searched: they may name nothing but tensors, numpy's
arrays of bytes (as the original's `.data` files have them) and the few types around them, and
they may claim nothing that is larger than the file. Only then does torch's own restricted
reader see it.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Name = str | os.PathLike[str]

_ALLOWED = re.compile(
    r"collections\.OrderedDict|_codecs\.encode|__builtin__\.bytes|builtins\.bytes"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(cuda\.)?[A-Z][A-Za-z0-9]*Storage"
    r"|numpy\.(_core|core)\.multiarray\._reconstruct|numpy\.(ndarray|dtype)"
)
_NAMING = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_LEADING = 3  # pickles of an old file before its content: magic number, version, system
_OLD_PICKLES = 5  # the content is followed by the names of its storages


class ByteArray:
    """What a file holds in place of a numpy array of uint8; `array` is that array."""

    def __init__(self) -> None:
        self.array: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Take numpy's own state: version, shape, type, whether by columns, content."""
        _, shape, kind, by_columns, content = state
        if not (isinstance(kind, _Kind) and kind.name in ("u1", "uint8", "|u1")):
            raise ValueError("an array of it is not uint8")
        if not isinstance(content, bytes) or len(content) != math.prod(shape):
            raise ValueError("an array of it has not the size that it claims")
        flat = np.frombuffer(content, np.uint8)
        self.array = flat.reshape(shape, order="F" if by_columns else "C")


class _Kind:
    """Stands for numpy.dtype."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _reconstruct(*_: Any) -> ByteArray:
    """Stands for numpy's function, which makes an empty array before its state is set."""
    return ByteArray()


_STAND_INS = [
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    (ByteArray, "numpy.ndarray"),
    (_Kind, "numpy.dtype"),
]


def load(path: Name, memory_map: bool = False) -> Any:
    """What `torch.save` wrote, on the CPU; numpy's arrays come as ByteArray.

    With `memory_map` tensors stay on disk until they are read, if the file is not of the
    kind written before 2020. Raises OSError for a file that can not be opened, ValueError
    (naming the path) for one that is not such a file.
    """
    import torch  # here, so that notes and events can be used without waiting for it

    with Path(path).open("rb") as file:
        try:
            zipped = _check(file)
            with torch.serialization.safe_globals(_STAND_INS):  # type: ignore[arg-type]
                record = torch.load(
                    path, map_location="cpu", weights_only=True, mmap=memory_map and zipped
                )
            _check_tensors(record)
            return record
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            why = re.split(r"[.\n]", str(error).strip() or type(error).__name__)[0]
            raise ValueError(f"{path}: not a file of this suite, or damaged ({why})") from error


def _check(file: IO[bytes]) -> bool:
    """ValueError for a file that is not to be loaded; whether it is of the newer kind."""
    if file.read(4) == b"MThd":
        raise ValueError("it is a MIDI file; preprocess.py makes a .data file of it")
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if not zipfile.is_zipfile(file):
        file.seek(0)
        for number in range(_OLD_PICKLES):
            _check_pickle(_opcodes(file), size if number >= _LEADING else None)
        return False
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("it claims to hold more than its size")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                with archive.open(entry) as content:
                    _check_pickle(_opcodes(content), None)
    return True


def _opcodes(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    return ((opcode.name, argument) for opcode, argument, _ in pickletools.genops(file))


def _check_pickle(opcodes: Iterator[tuple[str, Any]], largest: int | None) -> None:
    """UnpicklingError for names that are not of tensors, and for numbers over `largest`."""
    for name, argument in opcodes:
        if name in _NAMING:
            raise pickle.UnpicklingError("it makes objects that are no tensors")
        if name == "GLOBAL" and not _ALLOWED.fullmatch(argument.replace(" ", ".")):
            raise pickle.UnpicklingError(f"it names {argument.replace('.', ' ')!r}")
        if largest is not None and type(argument) is int and argument > largest:
            raise pickle.UnpicklingError("it claims more than its size")


def _check_tensors(record: Any) -> None:
    """ValueError for a tensor that would be larger than what the file holds of it."""
    import torch

    waiting, seen = [record], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, torch.Tensor):
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError("a tensor of it claims more than the file holds")
