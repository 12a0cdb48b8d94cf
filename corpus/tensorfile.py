"""Safe loading of files that `torch.save` wrote: sessions and `.data` files from untrusted sources.

The pickles of a file are scanned before it is loaded. They may name only tensors, numpy arrays of
bytes (in legacy `.data` files) and the few types that these need, and they may not contain a size
that is larger than the file. After that, torch's own restricted unpickler reads the file.
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
import torch

from utils import Array

_ALLOWED_NAMES = re.compile(
    r"collections\.OrderedDict|_codecs\.encode"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(cuda\.)?[A-Z][A-Za-z0-9]*Storage"
    r"|numpy\.(_core|core)\.multiarray\._reconstruct|numpy\.(ndarray|dtype)"
)
# opcodes other than GLOBAL that name or make objects
_FORBIDDEN_OPCODES = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
# codecs from bytes to bytes: a chain of them can expand a kilobyte to gigabytes
_BYTES_CODECS = re.compile(r"(base64|bz2|hex|quopri|quotedprintable|rot13|uu|zip|zlib)(codec)?")
_MAX_CALLS = 16  # in a file with arrays; legacy files have 6
# a number is a size if one of these opcodes follows; keys of an old Adam state are larger numbers
_AFTER_SIZES = {"NONE", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINPUT", "LONG_BINPUT"}

# The two formats of torch.save: a zip archive, and before 2020 a sequence of pickles
_ZIP_MAGIC = b"PK\x03\x04"
_OLD_HEADER_PICKLES = 3  # magic number, version, system
_OLD_PICKLES = 5  # header, content, names of the storages

# The end of a zip archive: [zip64 record | zip64 locator | end record]
_ZIP64_RECORD, _ZIP64_LOCATOR, _ZIP_END = 56, 20, 22  # bytes


class ByteArray:
    """A stand-in for a numpy array of uint8 in a file; `array` is that array.

    The pickle of an array first creates an empty one, and then sets its state.
    """

    def __init__(self, *_: Any) -> None:
        self.array: Array = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        """Set the state that numpy pickles: version, shape, dtype, Fortran order, content."""
        _, shape, dtype, is_fortran, content = state
        if not (isinstance(dtype, _Dtype) and dtype.name in ("u1", "uint8", "|u1")):
            raise ValueError("an array is not uint8")
        if not all(type(size) is int for size in shape):
            raise ValueError("an array has an invalid shape")
        if not isinstance(content, bytes) or len(content) != math.prod(shape):
            raise ValueError("an array does not have the size of its shape")
        flat = np.frombuffer(content, np.uint8)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


class _Dtype:
    """A stand-in for numpy.dtype."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


_STAND_INS = [
    (ByteArray, "numpy.core.multiarray._reconstruct"),
    (ByteArray, "numpy._core.multiarray._reconstruct"),
    (ByteArray, "numpy.ndarray"),
    (_Dtype, "numpy.dtype"),
]


def load(path: str | os.PathLike[str], memory_map: bool = False) -> Any:
    """Return what `torch.save` wrote, with tensors on the CPU; numpy arrays become `ByteArray`.

    memory_map: tensors stay on disk until they are used. torch cannot do that for files in the
    format from before 2020 and for names that are not valid Unicode: these are read whole.
    Raises OSError for a file that cannot be opened; ValueError, naming the path, for one that is
    damaged, unsafe or of another kind.
    """
    with Path(path).open("rb") as file:
        try:
            is_zip = _scan(file)
            mapped = is_zip and memory_map and _is_unicode(path)
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
            reason = re.split(r"\.\s|\n", str(error).strip() or type(error).__name__)[0][:200]
            raise ValueError(
                f"{path}: not a session or .data file, or damaged ({reason})"
            ) from error


def format_value(value: Any) -> str:
    """Format a value from a file for a message: numbers and short texts, else only the type.

    The containers in a small file can be nested so that their text does not fit into memory.
    """
    if isinstance(value, bool | int | float | str | None):
        return reprlib.repr(value)[:60]
    return type(value).__name__


def _is_unicode(path: str | os.PathLike[str]) -> bool:
    """Return whether a path can be encoded as UTF-8."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _scan(file: IO[bytes]) -> bool:
    """Check a file before it is loaded; return whether it is in the zip format.

    Raises ValueError or UnpicklingError for a file that must not be loaded.
    """
    magic, size = file.read(4), os.fstat(file.fileno()).st_size
    if magic == b"MThd":
        raise ValueError("it is a MIDI file; preprocess.py converts it to a .data file")
    if magic == _ZIP_MAGIC:  # torch distinguishes the formats in the same way
        _scan_zip(file, size)
        return True
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number in range(_OLD_PICKLES):
            _scan_pickle(content, size if number >= _OLD_HEADER_PICKLES else None)
    return False


def _scan_zip(file: IO[bytes], size: int) -> None:
    """Raise ValueError or UnpicklingError for a zip archive that must not be loaded."""
    _check_zip_end(file, size)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("it claims to hold more than its size")
        for name, entry in ((entry.filename.lower(), entry) for entry in entries):
            # torch ignores case: one storage could be read under many names
            if "/data/" in name and not re.fullmatch(r"[^/]*/data/[0-9]+", name):
                raise ValueError("its storages are not numbered")
            if name.endswith(".pkl"):
                with archive.open(entry) as content:
                    _scan_pickle(content, None)


def _check_zip_end(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless all readers find the same table of contents, at the end.

    Readers look for it in different places: a file could show one table to this scan and another
    to torch.
    """
    total = _ZIP64_RECORD + _ZIP64_LOCATOR + _ZIP_END
    file.seek(max(0, size - total))
    tail = file.read().rjust(total, b"\0")
    record, locator = tail[:_ZIP64_RECORD], tail[_ZIP64_RECORD:-_ZIP_END]
    end_record = tail[-_ZIP_END:]
    if locator[:4] == b"PK\x06\x07":
        table_end = size - total
        (record_offset,) = struct.unpack("<Q", locator[8:16])
        is_consistent = record[:4] == b"PK\x06\x06" and record_offset == table_end
        length, offset = struct.unpack("<2Q", record[40:])
    else:
        table_end = size - _ZIP_END
        is_consistent = True
        length, offset = struct.unpack("<2L", end_record[12:20])
    if not is_consistent or end_record[:4] != b"PK\x05\x06" or offset + length != table_end:
        raise ValueError("it is cut short, or has data before or after the archive")


def _scan_pickle(file: Any, max_size: int | None) -> None:
    """Raise UnpicklingError for a pickle that could run code or take more memory than the file.

    That is a pickle that names anything but tensors and arrays, expands short bytes to long ones,
    or has a size over `max_size`.
    """
    has_encode = has_bytes_codec = is_too_large = False
    calls = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _FORBIDDEN_OPCODES:
            raise pickle.UnpicklingError("it makes objects that are not tensors")
        if opcode.name == "GLOBAL":
            name = str(argument)
            if not _ALLOWED_NAMES.fullmatch(name.replace(" ", ".")):
                raise pickle.UnpicklingError(f"it names {name.replace('.', ' ')!r}")
            has_encode |= name == "_codecs encode"
        elif isinstance(argument, str):
            codec = re.sub("[^0-9A-Za-z]+", "", argument).lower()
            has_bytes_codec |= bool(_BYTES_CODECS.fullmatch(codec))
        if is_too_large and opcode.name in _AFTER_SIZES:
            raise pickle.UnpicklingError("it claims to hold more than its size")
        is_too_large = max_size is not None and type(argument) is int and argument > max_size
        calls += opcode.name == "REDUCE"
    if has_encode and (has_bytes_codec or calls > _MAX_CALLS):
        raise pickle.UnpicklingError("it expands to more than its size")


def _check_tensors(record: Any) -> None:
    """Raise ValueError for a tensor that is larger than its storage in the file."""
    queue, visited = [record], set()
    while queue:
        value = queue.pop()
        if id(value) in visited:  # a pickle can repeat one object many times
            continue
        visited.add(id(value))
        if isinstance(value, dict):
            queue += value.values()
        elif isinstance(value, list | tuple):
            queue += value
        elif isinstance(value, torch.Tensor):
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError("a tensor claims more than the file holds")
