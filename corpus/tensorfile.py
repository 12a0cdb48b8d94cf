"""Tensor files, as `torch.save` writes them, read without trust.

Before a file is loaded its pickles are searched: they may name nothing but tensors, numpy's
arrays of bytes (as the original's `.data` files have them) and the few types around them, and
they may claim nothing that is larger than the file. Only then does torch's own restricted
reader see it.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import pickletools
import re
import reprlib
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Name = str | os.PathLike[str]

_ALLOWED = re.compile(
    r"collections\.OrderedDict|_codecs\.encode"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(cuda\.)?[A-Z][A-Za-z0-9]*Storage"
    r"|numpy\.(_core|core)\.multiarray\._reconstruct|numpy\.(ndarray|dtype)"
)
_NAMING = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
# codecs from bytes to bytes: a chain of them makes gigabytes of a kilobyte
_WIDENING = re.compile(r"(base64|bz2|hex|quopri|quotedprintable|rot13|uu|zip|zlib)(codec)?")
_MOST_CALLS = 16  # in a file with arrays; the original's have 6
# what stands behind a number that is a size; keys of an old Adam are larger numbers
_BEHIND_SIZES = {"NONE", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT"}
_LEADING = 3  # pickles of an old file before its content: magic number, version, system
_OLD_PICKLES = 5  # the content is followed by the names of its storages
_LONGEST_REASON = 200  # characters


class ByteArray:
    """What a file holds in place of a numpy array of uint8; `array` is that array."""

    def __init__(self) -> None:
        self.array: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Take numpy's own state: version, shape, type, whether by columns, content."""
        _, shape, kind, by_columns, content = state
        if not (isinstance(kind, _Kind) and kind.name in ("u1", "uint8", "|u1")):
            raise ValueError("an array of it is not uint8")
        if not all(type(size) is int for size in shape):
            raise ValueError("an array of it has no shape")
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
    kind written before 2020, and torch can open its name. Raises OSError for a file that can not
    be opened, ValueError (naming the path) for one that is not such a file.
    """
    import torch  # here, so that notes and events can be used without waiting for it

    with Path(path).open("rb") as file:
        try:
            mapped = _check(file) and memory_map and _is_unicode(path)
            file.seek(0)
            with torch.serialization.safe_globals(_STAND_INS):  # type: ignore[arg-type]
                record = torch.load(
                    path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped
                )
            _check_tensors(record)
            return record
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            why = re.split(r"[.\n]", str(error).strip() or type(error).__name__)[0]
            why = why[:_LONGEST_REASON]
            raise ValueError(f"{path}: not a file of this suite, or damaged ({why})") from error


def format_value(value: Any) -> str:
    """What a file holds, as a sentence about it can say it, however large that is."""
    return reprlib.repr(value)[:60]


def _is_unicode(path: Name) -> bool:
    """Whether torch can open a file by its name."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check(file: IO[bytes]) -> bool:
    """ValueError for a file that is not to be loaded; whether it is of the newer kind."""
    head, size = file.read(4), os.fstat(file.fileno()).st_size
    if head == b"MThd":
        raise ValueError("it is a MIDI file; preprocess.py makes a .data file of it")
    if head != b"PK\x03\x04":  # what torch goes by
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for number in range(_OLD_PICKLES):
                _check_pickle(content, size if number >= _LEADING else None)
        return False
    _check_end(file, size)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("it claims to hold more than its size")
        for name, entry in ((entry.filename.lower(), entry) for entry in entries):
            # torch takes upper for lower case: one storage could be read under many names
            if "/data/" in name and not re.fullmatch(r"[^/]*/data/[0-9]+", name):
                raise ValueError("its storages are not numbered")
            if name.endswith(".pkl"):
                with archive.open(entry) as content:
                    _check_pickle(content, None)
    return True


def _check_end(file: IO[bytes], size: int) -> None:
    """ValueError unless every reader finds the table of contents at the one same place."""
    file.seek(max(0, size - 98))
    tail = file.read().rjust(98, b"\0")  # [table's place of 64 bits | where that is | of 32 bits]
    long, where, short = tail[:56], tail[56:76], tail[76:]
    if where[:4] == b"PK\x06\x07":
        good = long[:4] == b"PK\x06\x06" and struct.unpack("<Q", where[8:16])[0] == size - 98
        (length, offset), end = struct.unpack("<2Q", long[40:]), size - 98
    else:
        good = True
        (length, offset), end = struct.unpack("<2L", short[12:20]), size - 22
    if not good or short[:4] != b"PK\x05\x06" or offset + length != end:
        raise ValueError("it is cut off, or other things stand around its content")


def _check_pickle(file: Any, largest: int | None) -> None:
    """UnpicklingError for what could run code or take more memory than the file has.

    That are names that are not of tensors, and sizes over `largest`.
    """
    encoding = widening = over = False
    calls = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _NAMING:
            raise pickle.UnpicklingError("it makes objects that are no tensors")
        if opcode.name == "GLOBAL":
            name = str(argument)
            if not _ALLOWED.fullmatch(name.replace(" ", ".")):
                raise pickle.UnpicklingError(f"it names {name.replace('.', ' ')!r}")
            encoding |= name == "_codecs encode"
        elif isinstance(argument, str):
            widening |= bool(_WIDENING.fullmatch(re.sub("[^0-9A-Za-z]+", "", argument).lower()))
        if over and opcode.name in _BEHIND_SIZES:
            raise pickle.UnpicklingError("it claims more than its size")
        over = largest is not None and type(argument) is int and argument > largest
        calls += opcode.name == "REDUCE"
    if encoding and (widening or calls > _MOST_CALLS):
        raise pickle.UnpicklingError("it makes much of little")


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
