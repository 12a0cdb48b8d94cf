"""Safe reading of the files that `torch.save` writes: sessions and `.data` files of strangers.

Such a file is a pickle, a program that makes objects, with the bytes of its tensors. Unpickling can
run any code, and even `torch.load(weights_only=True)` allocates what a file claims. So this module
reads the pickle itself, and these three rules make it safe:

1. Nothing in the file is called. `_Interpreter` knows some 30 instructions. They make numbers,
   text, tuples, lists, dicts and descriptions of tensors; every other instruction or name is an
   error. Keys of dicts are text or whole numbers, so that hashing them is fast.
2. Time and memory are in proportion to the size of the file: the number of instructions, the bytes
   of text that are encoded, the depth and the number of the values are limited.
3. A tensor is made last. Before that, each storage has exactly the size that is stored for it, each
   tensor lies within its storage, and all tensors together are at most MAX_SHARING times larger
   than all storages.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickletools
import re
import reprlib
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from utils import Array

MAX_INSTRUCTIONS = 200_000  # of a pickle; a session with 64 layers has some 50,000
MAX_DEPTH = 20  # of values in values
MAX_DIMS = 8  # of a tensor
MAX_SHARING = 4  # size of all tensors / size of all storages: weights and average may be the same
MAX_TABLE = 1 << 20  # bytes of the table of contents of a zip archive; about 10,000 entries

DTYPES = {
    f"torch.{device}{name}Storage": dtype
    for device in ("", "cuda.")
    for name, dtype in {
        "BFloat16": torch.bfloat16,
        "Byte": torch.uint8,
        "Char": torch.int8,
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "Int": torch.int32,
        "Long": torch.int64,
        "Short": torch.int16,
    }.items()
}

# The two formats of torch.save: a zip archive, and before 2020 ("legacy") a sequence of pickles
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001

# The end of a zip archive: [zip64 record | zip64 locator | end record]
_ZIP64_RECORD, _ZIP64_LOCATOR, _ZIP_END = 56, 20, 22  # bytes
_ZIP_ENTRY = 30  # bytes before the name of an entry


def load(path: str | os.PathLike[str], memory_map: bool = False) -> Any:
    """Return what `torch.save` wrote, with tensors on the CPU; numpy arrays become `ByteArray`.

    memory_map: tensors stay on disk until they are used, if the name of the file is valid Unicode.
    Raises OSError for a file that cannot be opened; ValueError, naming the path, for one that is
    damaged, unsafe or of another kind.
    """
    if not os.path.isfile(path) and os.path.exists(path):  # opening a pipe would wait
        raise ValueError(f"{path}: not a file")
    with Path(path).open("rb") as file:
        try:
            content = _read_content(file, os.fstat(file.fileno()).st_size)
            mapped_path = os.fspath(path) if memory_map and _is_unicode(path) else None
            return _Builder(content, file, mapped_path).build(content.record)
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


def check_number(name: str, value: Any, kind: type, low: float, high: float) -> None:
    """Raise ValueError unless a value from a file is a number of this type and in this range."""
    has_type = type(value) is kind
    if not has_type or not low <= value <= high:
        number = "a whole number" if kind is int else "a number"
        shown = format_value(value)
        raise ValueError(f"{name} is {shown}, not {number} from {low:.12g} to {high:.12g}")


def _is_unicode(path: str | os.PathLike[str]) -> bool:
    """Return whether a path can be encoded as UTF-8."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


# ------------------------------------------------------------------------- values in a file


class ByteArray:
    """A numpy array of uint8 in a file; `array` is that array.

    The pickle of an array first creates an empty one, and then sets its state.
    """

    def __init__(self) -> None:
        self.array: Array = np.empty(0, np.uint8)

    def set_state(self, state: Any) -> None:
        """Set the state that numpy pickles: version, shape, dtype, Fortran order, content."""
        _, shape, dtype, is_fortran, content = state
        if not (isinstance(dtype, _ArrayType) and dtype.name in ("u1", "uint8", "|u1")):
            raise ValueError("an array is not uint8")
        _check_sizes(shape)
        if not isinstance(content, bytes) or len(content) != math.prod(shape):
            raise ValueError("an array does not have the size of its shape")
        flat = np.frombuffer(content, np.uint8)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


@dataclass(frozen=True)
class _ArrayType:
    """The dtype of a numpy array."""

    name: Any


@dataclass(frozen=True)
class _Name:
    """The name of a function or a type: a key of CALLS or DTYPES, or numpy.ndarray."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """The name of a storage, the type of its elements, and how many it claims to have."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class _TensorView:
    """The description of a tensor: a part of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise ValueError if the tensor is not within its storage, or is larger."""
        _check_sizes(self.shape)
        _check_sizes(self.strides)
        _check_sizes((self.offset,))
        steps = zip(self.shape, self.strides, strict=True)
        end = self.offset + sum((size - 1) * stride for size, stride in steps) + 1
        if self.count and max(end, self.count) > self.storage.count:
            raise ValueError("a tensor claims more than its storage holds")

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.count * self.storage.dtype.itemsize


def _check_sizes(sizes: Any) -> None:
    """Raise ValueError unless these are a few whole numbers, none negative."""
    if not isinstance(sizes, tuple) or len(sizes) > MAX_DIMS:
        raise ValueError("a shape is not a tuple of a few numbers")
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("a size is not a whole number, 0 or more")


# ------------------------------------------------------------------------------- the pickle


def _make_dict() -> dict[Any, Any]:
    return {}


def _make_array(_kind: Any, _shape: Any, _code: Any) -> ByteArray:
    return ByteArray()


def _make_array_type(name: Any, _align: Any, _copy: Any) -> _ArrayType:
    return _ArrayType(name)


def _make_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _TensorView:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor has no storage")
    return _TensorView(storage, offset, shape, strides)


def _make_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _encode(text: Any, codec: Any) -> bytes:
    # other codecs can expand their input, or take a time that grows with its square
    if codec not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError("its text is not encoded as latin1")
    return text.encode("latin1")


# what the functions that a file may name are replaced by
CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _make_dict,
    "_codecs.encode": _encode,
    "torch._utils._rebuild_tensor": _make_tensor,
    "torch._utils._rebuild_tensor_v2": _make_tensor,
    "torch._utils._rebuild_parameter": _make_parameter,
    "numpy.core.multiarray._reconstruct": _make_array,
    "numpy._core.multiarray._reconstruct": _make_array,
    "numpy.dtype": _make_array_type,
}
NAMES = {*CALLS, *DTYPES, "numpy.ndarray"}


class _Interpreter:
    """An interpreter of one pickle. Its errors are of any type.

    max_encoded: bytes of text that may be encoded.
    Afterwards, `storages` and `tensors` are all that the pickle describes.
    """

    def __init__(self, file: Any, max_encoded: int) -> None:
        self._file, self._encoded_left = file, max_encoded
        self._stack: list[Any] = []
        self._marks: list[int] = []  # sizes of the stack at the marks
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}
        self.tensors: list[_TensorView] = []

    def run(self) -> Any:
        """Read the file up to the end of the pickle; return the value that it makes."""
        for number, (opcode, argument, _) in enumerate(pickletools.genops(self._file)):
            if number >= MAX_INSTRUCTIONS:
                raise ValueError(f"it has over {MAX_INSTRUCTIONS:,} parts")
            if opcode.name == "STOP":
                break
            self._execute(opcode.name, argument)
        return self._stack.pop()

    def _execute(self, name: str, argument: Any) -> None:
        """Execute an instruction."""
        stack = self._stack
        match name:
            case "PROTO":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1":  # of at most 255 bytes
                stack.append(argument)
            case "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop_from(len(stack) - int(name[-1]))))
            case "MARK":
                self._marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(self._pop_from(self._marks.pop())))
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._pop_from(self._marks.pop()))
            case "SETITEM":
                self._set_items(self._pop_from(len(stack) - 2))
            case "SETITEMS":
                self._set_items(self._pop_from(self._marks.pop()))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                full_name = argument.replace(" ", ".")
                if full_name not in NAMES:
                    raise ValueError(f"it names {argument.replace('.', ' ')!r}")
                stack.append(_Name(full_name))
            case "REDUCE":
                self._call(*self._pop_from(len(stack) - 2))
            case "BUILD":
                self._set_state(stack.pop())
            case "BINPERSID":
                self._add_storage(stack.pop())
            case _:
                raise ValueError(f"it makes objects that are not tensors ({name})")

    def _pop_from(self, start: int) -> list[Any]:
        """Remove and return the values from position `start` of the stack on."""
        if not 0 <= start <= len(self._stack):
            raise ValueError("a value is missing")
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _extend(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise ValueError("values are added to what is not a list")
        self._stack[-1] += values

    def _set_items(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        if type(self._stack[-1]) is not dict:
            raise ValueError("entries are set in what is not a dict")
        if not all(type(key) in (str, int) for key in keys):
            raise ValueError("a key is neither text nor a whole number")
        self._stack[-1].update(zip(keys, values, strict=True))

    def _call(self, function: Any, arguments: Any) -> None:
        """Put the result of one of CALLS on the stack."""
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("it calls what is not a function")
        result = CALLS[function.name](*arguments)
        if isinstance(result, bytes):
            self._encoded_left -= len(result)
            if self._encoded_left < 0:
                raise ValueError("it expands to more than its size")
        elif isinstance(result, _TensorView):
            self.tensors.append(result)
        self._stack.append(result)

    def _set_state(self, state: Any) -> None:
        """Set the content of an array; attributes of dicts and of array types are not kept."""
        value = self._stack[-1]
        if isinstance(value, ByteArray):
            value.set_state(state)
        elif not isinstance(value, dict | _ArrayType):
            raise ValueError("it sets attributes of what has none")

    def _add_storage(self, description: Any) -> None:
        """Put a storage on the stack; its description ends with a view in legacy files."""
        kind, dtype, key, _device, count, *view = description
        if kind != "storage" or not isinstance(dtype, _Name) or type(key) is not str:
            raise ValueError("a storage is not described")
        if view not in ([], [None]):
            raise ValueError("it has a view of a storage")
        _check_sizes((count,))
        storage = _Storage(key, DTYPES[dtype.name], count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key[:20]!r} is described in two ways")
        self._stack.append(storage)


# ---------------------------------------------------------------------------- the two formats


@dataclass(frozen=True)
class _Content:
    """What a file holds: a value with descriptions of tensors, and where their bytes are.

    places: the first byte of each storage in the file, and the checksum, if there is one.
    """

    record: Any
    places: dict[str, tuple[int, int | None]]
    size: int  # of the file, bytes


def _read_content(file: IO[bytes], size: int) -> _Content:
    """Read all but the tensors of a file, and check that it is safe to make them."""
    magic = file.read(4)
    if magic == b"MThd":
        raise ValueError("it is a MIDI file; preprocess.py converts it to a .data file")
    return _read_zip(file, size) if magic == _ZIP_MAGIC else _read_legacy(file, size)


def _read_zip(file: IO[bytes], size: int) -> _Content:
    """Read a zip archive of torch: NAME/data.pkl, and NAME/data/KEY for each storage."""
    _check_zip_end(file, size)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise ValueError("it claims to hold more than its size")
        (pickle_name,) = (name for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name))
        root = pickle_name.removesuffix("data.pkl")
        order = archive.read(root + "byteorder") if root + "byteorder" in entries else b"little"
        interpreter = _Interpreter(io.BytesIO(archive.read(pickle_name)), size)
    if order != sys.byteorder.encode():
        raise ValueError("the bytes of its numbers have another order than on this machine")
    record = interpreter.run()
    places: dict[str, tuple[int, int | None]] = {}
    for key, storage in interpreter.storages.items():
        entry = entries[f"{root}data/{key}"]
        if entry.file_size != storage.size:
            raise ValueError("a storage claims more or less than the file holds")
        places[key] = (_find_entry_content(file, entry), entry.CRC)
    _check_total(interpreter)
    return _Content(record, places, size)


def _check_zip_end(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless a zip archive ends with its table of contents, and that is small.

    The zip library would search for the table, and make an object for each of its entries.
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
    if length > MAX_TABLE:
        raise ValueError("it has too many entries")


def _find_entry_content(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Return the position of the content of an entry, which follows a header with its name."""
    file.seek(entry.header_offset)
    header = file.read(_ZIP_ENTRY)
    if header[:4] != _ZIP_MAGIC:
        raise ValueError("it is damaged")
    return entry.header_offset + _ZIP_ENTRY + sum(struct.unpack("<2H", header[26:]))


def _read_legacy(file: IO[bytes], size: int) -> _Content:
    """Read a file in the format before 2020.

    Pickles of a magic number, the version, the system, the value and the keys of the storages;
    then for each of these keys the number of elements, int64, and the elements.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        magic, version = (_Interpreter(content, 0).run() for _ in range(2))
        system = _Interpreter(content, 0).run()
        if (magic, version) != (_LEGACY_MAGIC, _LEGACY_VERSION) or not isinstance(system, dict):
            raise ValueError("not a file of torch.save")
        if system.get("little_endian", True) is not (sys.byteorder == "little"):
            raise ValueError("the bytes of its numbers have another order than on this machine")
        interpreter = _Interpreter(content, size)
        record = interpreter.run()
        keys = _Interpreter(content, 0).run()
        if not isinstance(keys, list) or not all(type(key) is str for key in keys):
            raise ValueError("it does not list its storages")
        if sorted(keys) != sorted(interpreter.storages):
            raise ValueError("the storages that it names are not those that it holds")
        places: dict[str, tuple[int, int | None]] = {}
        for key in keys:
            (count,) = struct.unpack("<q", content.read(8))
            if count != interpreter.storages[key].count:
                raise ValueError("a storage claims more or less than the file holds")
            places[key] = (content.tell(), None)
            content.seek(interpreter.storages[key].size, os.SEEK_CUR)  # an error after the end
    _check_total(interpreter)
    return _Content(record, places, size)


def _check_total(interpreter: _Interpreter) -> None:
    """Raise ValueError if the tensors together are much larger than the storages.

    Many tensors could be views of one storage, and a program copies each of them.
    """
    held = sum(storage.size for storage in interpreter.storages.values())
    if sum(tensor.size for tensor in interpreter.tensors) > MAX_SHARING * held:
        raise ValueError("its tensors claim more than the file holds")


# ------------------------------------------------------------------------------- the tensors


class _Builder:
    """A builder of the value in a file, with tensors in place of their descriptions.

    mapped_path: the path of the file, to map the tensors; None to read them.
    """

    def __init__(self, content: _Content, file: IO[bytes], mapped_path: str | None) -> None:
        self._content, self._file = content, file
        self._whole: Tensor | None = None  # uint8, the whole file
        if mapped_path is not None and content.places:
            self._whole = torch.from_file(mapped_path, False, content.size, dtype=torch.uint8)
        self._storages: dict[str, Tensor] = {}
        self._tensors: dict[_TensorView, Tensor] = {}
        self._values_left = MAX_INSTRUCTIONS

    def build(self, value: Any, depth: int = 0) -> Any:
        """Return a value with its tensors.

        Raises ValueError if it has too many values, each counted as often as it occurs, because a
        program that walks through them would never end.
        """
        self._values_left -= 1
        if depth > MAX_DEPTH or self._values_left < 0:
            raise ValueError("its values are nested too deeply")
        if isinstance(value, dict):
            return {key: self.build(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.build(item, depth + 1) for item in value)
        if isinstance(value, _TensorView):
            if value not in self._tensors:
                self._tensors[value] = self._make_tensor(value)
            return self._tensors[value]
        if isinstance(value, bool | int | float | str | bytes | ByteArray | None):
            return value
        raise ValueError("it holds a part of a tensor")

    def _make_tensor(self, view: _TensorView) -> Tensor:
        storage = view.storage
        if not view.count:
            return torch.empty(view.shape, dtype=storage.dtype)
        if storage.key not in self._storages:
            self._storages[storage.key] = self._make_storage(storage)
        elements = self._storages[storage.key]
        start = elements.storage_offset() + view.offset  # in the file, if it is mapped
        return elements.as_strided(view.shape, view.strides, start)

    def _make_storage(self, storage: _Storage) -> Tensor:
        """Return the elements of a storage, mapped or read."""
        start, checksum = self._content.places[storage.key]
        if self._whole is not None and start % storage.dtype.itemsize == 0:
            return self._whole[start : start + storage.size].view(storage.dtype)
        content = bytearray(storage.size)
        self._file.seek(start)
        if self._file.readinto(content) != storage.size:  # type: ignore[attr-defined]
            raise ValueError("it is cut short")
        if checksum is not None and zlib.crc32(content) != checksum:
            raise ValueError("a checksum is wrong")
        return torch.frombuffer(content, dtype=storage.dtype)
