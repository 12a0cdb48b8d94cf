"""Hostile files in both formats of torch.save, assembled byte by byte, and hostile values.

The files run code, claim more than they hold, or take a time without end to read. The code under
test is not used here.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

HUGE = 10**10
SIZES_2018 = {"short": 2, "int": 4, "long": 4}

# -------------------------------------------------------------------- pickles, part by part


def text(value: str) -> bytes:
    """Return the instruction for a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """Return the instruction for a whole number."""
    long = pickle.encode_long(value)
    return b"\x8a" + bytes([len(long)]) + long


def row(*parts: bytes) -> bytes:
    """Return instructions for a tuple."""
    return b"(" + b"".join(parts) + b"t"


def global_name(name: str) -> bytes:
    """Return the instruction for a function or a type."""
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(name: str, *arguments: bytes) -> bytes:
    """Return instructions that call a function."""
    return global_name(name) + row(*arguments) + b"R"


def record(**entries: bytes) -> bytes:
    """Return instructions for a dict."""
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def storage(
    numel: int,
    key: str = "0",
    view: bytes = b"",
    location: str = "cpu",
    kind: str = "torch.FloatStorage",
) -> bytes:
    """Return instructions for a storage; `view` is a legacy file's last entry, such as b"N"."""
    names = text("storage") + global_name(kind) + text(key) + text(location)
    return b"(" + names + number(numel) + view + b"tQ"


def tensor(
    numel: int,
    shape: Sequence[int],
    strides: Sequence[int],
    view: bytes,
    key: str = "0",
    kind: str = "torch.FloatStorage",
    offset: int = 0,
) -> bytes:
    """Return instructions for a tensor in a storage of `numel` elements."""
    sizes, steps = (row(*map(number, sizes)) for sizes in (shape, strides))
    hooks = call("collections.OrderedDict")
    content = (storage(numel, key, view, kind=kind), number(offset), sizes, steps, b"\x89", hooks)
    return call("torch._utils._rebuild_tensor_v2", *content)


def encode(value: bytes, codec: str = "latin1") -> bytes:
    """Return instructions for bytes."""
    return call("_codecs.encode", value, text(codec))


def array(shape: bytes, content: bytes, kind: bytes) -> bytes:
    """Return instructions for a numpy array."""
    empty = call(
        "numpy.core.multiarray._reconstruct", global_name("numpy.ndarray"), row(), text("b")
    )
    dtype = call("numpy.dtype", kind, number(0), number(1))
    return empty + row(number(1), shape, dtype, b"\x89", content) + b"b"


# ------------------------------------------------------------------------------- whole files


def write_zip(
    content: bytes,
    storages: dict[str, bytes] | None = None,
    name: str = "data.pkl",
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    """Return a zip archive with a pickle and storages, by default 4 floats with the key "0"."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(f"archive/{name}", b"\x80\x02" + content + b".")
        archive.writestr("archive/version", "3\n")
        for key, values in ({"0": bytes(16)} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", values)
    return file.getvalue()


def write_old(
    content: bytes,
    padding: int = 0,
    storages: Sequence[tuple[str, int, bytes]] = (("0", 4, bytes(16)),),
) -> bytes:
    """Return a legacy file with storages: the key, the number of elements, and the elements."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": SIZES_2018}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    keys = pickle.dumps([key for key, _, _ in storages], 2)
    stored = b"".join(struct.pack("<q", count) + values for _, count, values in storages)
    return head + b"\x80\x02" + content + b"." + keys + stored + bytes(padding)


COMMAND = text("touch it-ran")
EXPRESSION = text("open('it-ran', 'w')")
U1 = text("u1")


def chain(codec: str) -> bytes:
    """Return a pickle of bytes that grow with each of 28 codecs."""
    value = encode(text("ab" * 50))
    for _ in range(28):
        value = encode(value, codec)
    return value


def stack_global(module: str, name: str, argument: bytes) -> bytes:
    """Return instructions that call a function whose name is on the stack."""
    return text(module) + text(name) + b"\x93" + row(argument) + b"R"


def table_of(content: bytes) -> tuple[int, bytes]:
    """Return the offset of the table of contents of a zip, and the table."""
    size, start = struct.unpack("<2L", content[-10:-2])
    return start, content[start : start + size]


def shift_table(table: bytes, by: int) -> bytes:
    """Return a table of contents with all offsets increased by `by` bytes."""
    changed, at = bytearray(table), 0
    while at < len(table):
        (offset,) = struct.unpack_from("<L", table, at + 42)
        struct.pack_into("<L", changed, at + 42, offset + by)
        at += 46 + sum(struct.unpack_from("<3H", table, at + 28))
    return bytes(changed)


def end_of(content: bytes, start: int) -> bytes:
    """Return the end record of a zip, with its table of contents at `start`."""
    return content[-22:-6] + struct.pack("<L", start) + content[-2:]


def tables_in_two_places() -> bytes:
    """Return a zip with two tables of contents: its end record points to the first one."""
    evil, harmless = write_zip(call("builtins.bytearray", number(HUGE))), write_zip(b"}")
    (start, table), (other_start, other) = table_of(evil), table_of(harmless)
    # readers that search from the end add the length of the table in between
    last = shift_table(other, start - len(table))
    entries = evil[:start] + harmless[:other_start]
    return entries + table + last + end_of(evil, len(entries))


def zip_after_pickles() -> bytes:
    """Return a file in the old format that ends as a harmless zip."""
    evil, harmless = write_old(call("builtins.bytearray", number(HUGE))), write_zip(b"}")
    start, table = table_of(harmless)
    entries = evil + harmless[:start]
    return entries + shift_table(table, len(evil)) + end_of(harmless, len(entries))


# --------------------------------------------------------------------------------- the kinds


def pickles_that_run_code() -> Iterator[tuple[str, bytes]]:
    """Yield pickles that would make the file it-ran."""
    for place in ("posix", "os", "nt"):
        yield f"{place}.system", call(f"{place}.system", COMMAND)
    yield "subprocess", call("subprocess.getoutput", COMMAND)
    for place in ("builtins", "__builtin__"):
        yield f"{place}.eval", call(f"{place}.eval", EXPRESSION)
    yield "stack global eval", stack_global("builtins", "eval", EXPRESSION)
    yield "stack global system", stack_global("os", "system", COMMAND)
    yield "inst", b"(" + COMMAND + b"ios\nsystem\n"
    yield "obj", b"(" + global_name("os.system") + COMMAND + b"o"
    yield "newobj", global_name("subprocess.Popen") + row(COMMAND) + b"\x81"
    yield "in a dict of tensors", record(model_config=call("os.system", COMMAND))
    yield "torch's own", call("torch.serialization.load", text("it-ran"))
    yield "loads", call("pickle.loads", encode(global_name("os.system") + row(COMMAND) + b"R."))


def oversized_files() -> Iterator[tuple[str, bytes]]:
    """Yield files of a few kilobytes that claim gigabytes."""
    for name in ("torch.Tensor", "torch.FloatTensor", "torch.FloatStorage", "builtins.bytearray"):
        yield f"{name} zip", write_zip(call(name, number(HUGE)))
        yield f"{name} 2018", write_old(call(name, number(HUGE)))
    for name in ("builtins.bytes", "__builtin__.bytes", "torch.Size", "builtins.range"):
        yield name, write_zip(call(name, number(HUGE)))
    shapes = {
        "storage": (HUGE, (HUGE,), (1,)),
        "storage, small tensor": (HUGE, (4,), (1,)),
        "a little more": (5, (5,), (1,)),
        "shape": (4, (HUGE,), (1,)),
        "shape of three": (4, (700, 700, 700), (1, 1, 1)),
        "strides": (4, (HUGE,), (0,)),
        "strides of three": (4, (700, 700, 700), (0, 0, 0)),
        "negative": (-1, (4,), (1,)),
        "negative shape": (4, (-4,), (1,)),
    }
    for name, shape in shapes.items():
        yield f"{name} zip", write_zip(record(a=tensor(*shape, b"")))
        yield f"{name} 2018", write_old(record(a=tensor(*shape, b"N")), padding=2000)
    view = row(text("1"), number(0), number(HUGE))
    yield "view 2018", write_old(record(a=tensor(4, (4,), (1,), view)))
    yield "length of text 2018", write_old(b"X" + struct.pack("<I", 2**32 - 9) + b"abc")
    for opcode in (b"\x8d", b"\x8e", b"\x96"):
        long = opcode + struct.pack("<Q", HUGE) + b"abc"
        yield f"length in {opcode.hex()} zip", write_zip(long)
        yield f"length in {opcode.hex()} 2018", write_old(long)
    for codec in ("hex", "HEX codec", "quopri", "uu", "base-64"):
        yield f"chain of {codec}", write_zip(chain(codec))
    copies = b"".join(global_name("_codecs.encode") + b"h\x01h\x02\x86R" for _ in range(2000))
    long, latin = text("x" * 2_000_000) + b"q\x01", text("latin1") + b"q\x02"
    yield "copies", write_zip(row(long, latin, copies))
    yield from oversized_arrays()
    yield "compressed", write_zip(text("x" * 10**7), method=zipfile.ZIP_DEFLATED)
    yield "upper case", write_zip(call("builtins.bytearray", number(HUGE)), name="data.PKL")
    yield "zip after pickles", zip_after_pickles()
    yield "two tables", tables_in_two_places()
    cases = (
        "".join(c.upper() if k >> place & 1 else c for place, c in enumerate("abcdefgh"))
        for k in range(256)
    )
    many = b"".join(storage(1_000_000, key) for key in cases)
    yield "one storage under many names", write_zip(row(many), {"abcdefgh": bytes(4_000_000)})


def oversized_arrays() -> Iterator[tuple[str, bytes]]:
    """Yield files with arrays whose sizes or types do not fit their contents."""
    for sizes in (
        row(number(HUGE)),
        row(number(2)),
        row(text("ab" * 1000), number(HUGE // 1000)),
        row(number(-1), number(-3)),
        number(3),
        b"N",
    ):
        yield f"array {sizes.hex()[:20]}", write_zip(array(sizes, encode(text("abc")), U1))
    three = row(number(3))
    for kind in ("O", "f8", "i1", "S3", "b1", "V3"):
        yield f"array of {kind}", write_zip(array(three, encode(text("abc")), text(kind)))
    yield "array of a list", write_zip(array(three, b"]", U1))
    yield "array of text", write_zip(array(three, text("abc"), U1))
    yield (
        "array of another type",
        write_zip(array(three, encode(text("abc")), global_name("numpy.dtype"))),
    )


def dishonest_storages() -> Iterator[tuple[str, bytes]]:
    """Yield files whose storages are not those that their pickles name."""
    four, floats = record(a=tensor(4, (4,), (1,), b"N")), bytes(16)
    grown = record(a=tensor(1, (20_000,), (1,), b"N", kind="torch.ByteStorage"))
    big = 500_000_000
    large = record(a=tensor(big, (big,), (1,), b"N"))
    both = row(tensor(4, (4,), (1,), b"N"), tensor(big, (big,), (1,), b"N", "1"))
    yield "grows, 2018", write_old(grown, 20_000, [("0", 1, b"x")])
    yield "grows, not stored, 2018", write_old(grown, 20_000, [])
    yield "grows, zip", write_zip(grown.replace(b"NtQ", b"tQ"), {"0": b"x"})
    yield "not stored, 2018", write_old(large, 20_000, [])
    yield "one of two stored, 2018", write_old(both, 20_000)
    yield "not stored, zip", write_zip(record(a=tensor(4, (4,), (1,), b"", "1")))
    yield "stored, not named, 2018", write_old(four, 0, [("0", 4, floats), ("1", 4, floats)])
    yield "stored twice, 2018", write_old(four, 0, [("0", 4, floats), ("0", 4, floats)])
    yield "stored larger, 2018", write_old(four, 0, [("0", 5, floats + bytes(4))])
    yield "stored smaller, 2018", write_old(large, 20_000, [("0", 4, floats)])
    yield "stored huge, 2018", write_old(large, 20_000, [("0", big, floats)])
    yield "stored negative, 2018", write_old(four, 0, [("0", -4, floats)])
    yield "cut short, 2018", write_old(four, 0, [("0", 4, floats[:-1])])
    yield "stored larger, zip", write_zip(four.replace(b"NtQ", b"tQ"), {"0": bytes(20)})
    yield "stored smaller, zip", write_zip(large.replace(b"NtQ", b"tQ"), {"0": floats})
    for name, write, view in (("2018", write_old, b"N"), ("zip", write_zip, b"")):
        double = tensor(2, (2,), (1,), view, kind="torch.DoubleStorage")
        yield f"two types, {name}", write(row(tensor(4, (4,), (1,), view), double))
        views = b"".join(tensor(4, (4,), (1,), view) for _ in range(1000))
        yield f"a thousand views, {name}", write(row(views))
        hidden = call("collections.OrderedDict") + record(values=b"]") + b"b"
        entry = text("a") + tensor(HUGE, (HUGE,), (1,), view) + b"s"
        yield f"hidden in a dict with attributes, {name}", write(hidden + entry)
        yield f"beyond its storage, {name}", write(record(a=tensor(4, (2,), (1,), view, offset=3)))
        for at, shape, strides in ((15, (2,), (1,)), (0, (4, 4), (5, 1)), (0, (17,), (0,))):
            part = tensor(16, shape, strides, view, kind="torch.ByteStorage", offset=at)
            content = record(a=part)
            old = write_old(content, 0, [("0", 16, bytes(16))])
            yield f"bytes beyond, {at} {shape}, {name}", old if view else write_zip(content)
        text_sizes = tensor(4, (4,), (1,), view).replace(row(number(4)), row(text("4")))
        yield f"text for a size, {name}", write(record(a=text_sizes))
        many = (tensor(10**6, (10**6,), (1,), view, str(key)) for key in range(1000))
        yield f"a thousand large storages, {name}", write(row(*many))


def endless_files() -> Iterator[tuple[str, bytes]]:
    """Yield files that take a time or a memory without end to read or to use."""
    pair = text("k")
    for _ in range(45):  # hashing it takes 2**45 steps
        pair += b"q\x01" + b"h\x01\x86"
    keys = {
        "nested tuple": pair,
        "tuple": row(number(1)),
        "float": b"G" + struct.pack(">d", 1.5),
        "None": b"N",
        "bool": b"\x88",
        "tensor": tensor(4, (4,), (1,), b"N"),
        "bytes": encode(text("a")),
    }
    bomb, lists = b"}", b"]"
    for _ in range(60):  # 3**60 values
        bomb = bomb + b"q\x01" + row(b"h\x01", b"h\x01", b"h\x01")
    for _ in range(60):
        lists = lists + b"q\x01]" + b"(h\x01h\x01e"
    pickles = {
        **{f"{name} as a key": b"}" + key + number(1) + b"s" for name, key in keys.items()},
        **{
            f"{name} as a key of many": b"}(" + key + number(1) + b"u" for name, key in keys.items()
        },
        "nested tuples": bomb,
        "nested lists": lists,
        "deep lists": b"]" * 100_000 + b"a" * 99_999,
        "deep tuples": b")" + b"\x85" * 100_000,
        "list in itself": b"]q\x01h\x01a",
        "dict in itself": b"}q\x01" + text("a") + b"h\x01s",
        "many values": b"(" + b"N" * 250_000 + b"t",
        "many dicts": b"(" + b"}" * 10_000_000 + b"t",
        "many marks": b"(" * 250_000,
        **{
            f"codec {codec}": encode(text("\xfc" * 100_000), codec)
            for codec in ("punycode", "idna", "utf-7", "unicode_escape", "rot13", "utf-8", "")
        },
        "number of many digits": b"L" + b"9" * 300_000 + b"L\n",
        "number of many bytes": b"\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6,
    }
    for name, content in pickles.items():
        yield f"{name}, zip", write_zip(content.replace(b"NtQ", b"tQ"))
        yield f"{name}, 2018", write_old(content)
    entries = io.BytesIO()
    with zipfile.ZipFile(entries, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        for entry in range(30_000):
            archive.writestr(str(entry), b"")
    yield "many entries", entries.getvalue()


def build_files() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of all hostile files."""
    for name, content in pickles_that_run_code():
        yield f"{name}, zip", write_zip(content)
        yield f"{name}, 2018", write_old(content)
    yield from oversized_files()
    yield from dishonest_storages()
    yield from endless_files()


# ----------------------------------------------------------------------------------- values

NUMBERS = (-5, 0, 1, True, 2**31, 2**63, 10**30, 10**600, -0.5, 1e30, 1e308, math.nan, math.inf)
TEXTS = ("", "7", "\x1b[2J", "\u202e", "a\nb", "\ud800", "a" * 100_000)


def make_value(rng: np.random.Generator) -> Any:
    """Return a value of a type or in a range that nobody expects."""
    match int(rng.integers(5)):
        case 0 | 1:
            return NUMBERS[int(rng.integers(len(NUMBERS)))]
        case 2:
            return TEXTS[int(rng.integers(len(TEXTS)))]
        case 3:
            values: tuple[Any, ...] = (None, [], {}, (), [[[1]]], {"a": {"b": 1}}, b"bytes")
            return values[int(rng.integers(len(values)))]
        case _:
            shape = tuple(int(size) for size in rng.integers(0, 4, int(rng.integers(0, 4))))
            dtypes = (torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64)
            number = float(rng.choice((-1.0, 0.0, 1.0, 1e30, 1e308, math.nan, math.inf)))
            dtype = dtypes[int(rng.integers(len(dtypes)))]
            number = number if dtype.is_floating_point else float(rng.integers(256))
            return torch.full(shape, number, dtype=torch.float64).to(dtype)


def mutate_value(value: Any, rng: np.random.Generator) -> Any:
    """Return a copy of a record with a value somewhere in it replaced, removed or changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.1:
            return {name: entry for name, entry in value.items() if name is not key}
        if rng.random() < 0.05:
            return {**value, rng.choice(["", "odd", "step"]).item(): make_value(rng)}
        return {**value, key: mutate_value(value[key], rng)}
    if isinstance(value, list | tuple) and value and rng.random() < 0.9:
        at = int(rng.integers(len(value)))
        changed = [*value[:at], mutate_value(value[at], rng), *value[at + 1 :]]
        return type(value)(changed)
    if isinstance(value, torch.Tensor) and value.numel() and rng.random() < 0.7:
        return _mutate_tensor(value, rng)
    return make_value(rng)


def _mutate_tensor(value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return a tensor with another type, another shape, or other elements."""
    match int(rng.integers(5)):
        case 0:
            return value.double() * 1e300
        case 1:
            return value[: int(rng.integers(len(value) + 1))] if value.dim() else value[None]
        case 2:
            return value.flatten() if value.dim() != 1 else value[None]
        case 3:
            return value.to((torch.uint8, torch.int64, torch.bfloat16)[int(rng.integers(3))])
        case _:
            changed = value.clone().flatten()
            at = int(rng.integers(len(changed)))
            if value.is_floating_point():
                changed[at] = float(rng.choice((math.nan, math.inf, -1e30, 1e9, -1.0)))
            else:
                changed[at] = int(
                    rng.choice((0, 100, 255) if value.dtype == torch.uint8 else (-1, 2))
                )
            return changed.view(value.shape)
