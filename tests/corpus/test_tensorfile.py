"""Loading of sessions and .data files: valid files, and hostile ones, which are rejected."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus import tensorfile

ROOT = Path(__file__).parents[2]
HUGE = 10**10
RECORD = {"weights": torch.arange(12.0).view(3, 4), "nested": [{"step": 3}, "text"]}
SIZES_2018 = {"short": 2, "int": 4, "long": 4}


def save(record: object, new: bool = True) -> bytes:
    content = io.BytesIO()
    torch.save(record, content, _use_new_zipfile_serialization=new)
    return content.getvalue()


# ---------------------------------------------------- pickles and files, assembled by hand


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    long = pickle.encode_long(value)
    return b"\x8a" + bytes([len(long)]) + long


def row(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def global_name(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(name: str, *arguments: bytes) -> bytes:
    return global_name(name) + row(*arguments) + b"R"


def record(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def storage(numel: int, key: str = "0", view: bytes = b"", location: str = "cpu") -> bytes:
    names = text("storage") + global_name("torch.FloatStorage") + text(key) + text(location)
    return b"(" + names + number(numel) + view + b"tQ"


def tensor(numel: int, shape: tuple[int, ...], strides: tuple[int, ...], view: bytes) -> bytes:
    sizes, steps = (row(*map(number, sizes)) for sizes in (shape, strides))
    hooks = call("collections.OrderedDict")
    content = (storage(numel, view=view), number(0), sizes, steps, b"\x89", hooks)
    return call("torch._utils._rebuild_tensor_v2", *content)


def encode(value: bytes, codec: str = "latin1") -> bytes:
    return call("_codecs.encode", value, text(codec))


def array(shape: bytes, content: bytes, kind: bytes) -> bytes:
    empty = call(
        "numpy.core.multiarray._reconstruct", global_name("numpy.ndarray"), row(), text("b")
    )
    dtype = call("numpy.dtype", kind, number(0), number(1))
    return empty + row(number(1), shape, dtype, b"\x89", content) + b"b"


def write_zip(
    content: bytes,
    storages: dict[str, bytes] | None = None,
    name: str = "data.pkl",
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(f"archive/{name}", b"\x80\x02" + content + b".")
        archive.writestr("archive/version", "3\n")
        for key, values in (storages or {"0": bytes(16)}).items():
            archive.writestr(f"archive/data/{key}", values)
    return file.getvalue()


def write_old(content: bytes, padding: int = 0) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": SIZES_2018}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    keys = pickle.dumps(["0"], 2)
    return head + b"\x80\x02" + content + b"." + keys + struct.pack("<q", 4) + bytes(16 + padding)


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


def pickles_that_run_code() -> Iterator[tuple[str, bytes]]:
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
    for shape in (
        row(number(HUGE)),
        row(number(2)),
        row(text("ab" * 1000), number(HUGE // 1000)),
        row(number(-1), number(-3)),
        number(3),
        b"N",
    ):
        yield f"array {shape.hex()[:20]}", write_zip(array(shape, encode(text("abc")), U1))
    three = row(number(3))
    for kind in ("O", "f8", "i1", "S3", "b1", "V3"):
        yield f"array of {kind}", write_zip(array(three, encode(text("abc")), text(kind)))
    yield "array of a list", write_zip(array(three, b"]", U1))
    yield "array of text", write_zip(array(three, text("abc"), U1))
    yield (
        "array of another type",
        write_zip(array(three, encode(text("abc")), global_name("numpy.dtype"))),
    )
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


CODE_PICKLES, OVERSIZED_FILES = dict(pickles_that_run_code()), dict(oversized_files())


def load_error(path: Path) -> str:
    """Return the one-line error of a file, which is rejected with and without a memory map."""
    for memory_map in (True, False):
        with pytest.raises(ValueError, match=path.name) as caught:
            tensorfile.load(path, memory_map=memory_map)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 300 + len(str(path))
    return message


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------- valid files


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("memory_map", [True, False])
def test_load_returns_what_torch_saved(tmp_path: Path, new: bool, memory_map: bool) -> None:
    path = tmp_path / "a.sess"
    path.write_bytes(save(RECORD, new))
    loaded = tensorfile.load(path, memory_map)
    assert torch.equal(loaded["weights"], RECORD["weights"])
    assert loaded["nested"] == RECORD["nested"]


@pytest.mark.parametrize("spelling", ["core", "_core"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("new", [True, False])
def test_byte_arrays_of_numpy_are_loaded(
    tmp_path: Path, spelling: str, order: str, new: bool
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (7, 13)).astype(np.uint8, order=order)
    module = b"numpy._core" if np.__version__ >= "2" else b"numpy.core"
    content = pickle.dumps(values, 2)[2:-1] if new else save(values, new=False)
    content = content.replace(module, f"numpy.{spelling}".encode())
    (tmp_path / "a.data").write_bytes(write_zip(content) if new else content)
    np.testing.assert_array_equal(tensorfile.load(tmp_path / "a.data").array, values)


@pytest.mark.parametrize("location", ["cuda:0", "cuda:7", "mps", "xpu:0"])
def test_tensors_of_any_device_load_on_the_cpu(tmp_path: Path, location: str) -> None:
    kind = "torch.cuda.FloatStorage" if location.startswith("cuda") else "torch.FloatStorage"
    for name, write, view in (("new", write_zip, b""), ("old", write_old, b"N")):
        content = record(a=tensor(4, (4,), (1,), view))
        content = content.replace(global_name("torch.FloatStorage"), global_name(kind))
        content = content.replace(text("cpu"), text(location))
        (tmp_path / name).write_bytes(write(content))
        assert tensorfile.load(tmp_path / name)["a"].device == torch.device("cpu")


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are Unicode there")
@pytest.mark.parametrize("new", [True, False])
def test_file_name_may_be_invalid_unicode(tmp_path: Path, new: bool) -> None:
    path = tmp_path / os.fsdecode(b"\xff.sess")
    path.write_bytes(save(RECORD, new))
    assert torch.equal(tensorfile.load(path, memory_map=True)["weights"], RECORD["weights"])


def test_missing_file_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tensorfile.load(tmp_path / "none")


# ----------------------------------------------------------------------------- hostile files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a session or .data file"),
        (b"hello", "not a session or .data file"),
        (b"PK\x03\x04 broken", "not a session or .data file"),
        (b"\x80\x02}q\x00.", "not a session or .data file"),
        (b"MThd\x00\x00\x00\x06", "it is a MIDI file; preprocess.py converts it to a .data file"),
        (write_zip(b"}", method=zipfile.ZIP_DEFLATED), "it is compressed"),
        (write_zip(b"c" + b"x" * 10**6 + b"\ny\n"), "it names 'xxx"),  # not the whole name
    ],
)
def test_other_files_are_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.sess"
    path.write_bytes(content)
    assert message in load_error(path)


@pytest.mark.parametrize("name", CODE_PICKLES)
@pytest.mark.parametrize("write", [write_zip, write_old])
def test_code_in_a_pickle_is_not_run(
    folder: Path, name: str, write: Callable[[bytes], bytes]
) -> None:
    path = folder / "evil.sess"
    path.write_bytes(write(CODE_PICKLES[name]))
    message = load_error(path)
    assert "it names" in message or "it makes objects" in message, "torch must not read it"
    assert os.listdir(folder) == ["evil.sess"]


@pytest.mark.parametrize("place", range(5))
def test_every_pickle_of_an_old_file_is_scanned(folder: Path, place: int) -> None:
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, {}, [])]
    parts[place] = b"\x80\x02" + CODE_PICKLES["os.system"] + b"."
    path = folder / "evil.sess"
    path.write_bytes(b"".join(parts))
    assert "it names 'os system'" in load_error(path)
    assert os.listdir(folder) == ["evil.sess"]


LOAD_ALL = """
import resource, sys
from pathlib import Path
import numpy, torch
from corpus import tensorfile
tensorfile.load("good")
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path("files").iterdir()):
    for memory_map in (True, False):
        try:
            loaded = tensorfile.load(path, memory_map)
            # a memory map may expose more of the file than the storage, but not more than the file
            if memory_map and loaded["a"].untyped_storage().nbytes() < path.stat().st_size:
                continue
            print(path.name, "was loaded")
        except ValueError as error:
            if str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1:
                continue
            print(path.name, error)
        except BaseException as error:
            print(path.name, repr(error))
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print("done" if used < 100_000 else f"used {used} kB")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_oversized_files_are_rejected_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "good").write_bytes(save(RECORD, False))
    for name, content in OVERSIZED_FILES.items():
        (tmp_path / "files" / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_nested_dicts_with_repeated_objects_load_fast(tmp_path: Path) -> None:
    bomb: object = torch.zeros(2)
    for _ in range(60):
        bomb = {"a": bomb, "b": bomb, "c": [bomb, (bomb,)]}
    (tmp_path / "bomb.sess").write_bytes(save({"model_config": bomb}))
    assert set(tensorfile.load(tmp_path / "bomb.sess")) == {"model_config"}


@pytest.mark.parametrize("new", [True, False])
def test_truncated_file_is_rejected(tmp_path: Path, new: bool) -> None:
    path, content = tmp_path / "cut.sess", save(RECORD, new)
    for size in [*range(0, len(content), len(content) // 40), len(content) - 1]:
        path.write_bytes(content[:size])
        load_error(path)


@pytest.mark.parametrize("new", [True, False])
def test_damaged_file_is_rejected_or_loaded(folder: Path, new: bool) -> None:
    """Random bytes are changed; the file may still be readable."""
    rng, content = np.random.default_rng(5), save((RECORD, np.arange(9, dtype=np.uint8)), new)
    loaded, messages = 0, set()
    for _ in range(120):
        damaged = bytearray(content)
        for _ in range(int(rng.choice((1, 1, 2, 8)))):
            damaged[rng.integers(len(damaged))] = int(rng.integers(256))
        (folder / "damaged.sess").write_bytes(damaged)
        try:
            tensorfile.load(folder / "damaged.sess")
            loaded += 1
        except ValueError as error:
            messages.add(str(error).split(",")[0])
    assert messages == {f"{folder}/damaged.sess: not a session or .data file"}
    assert 0 < loaded < 120
    assert os.listdir(folder) == ["damaged.sess"]


def test_nested_values_are_formatted_by_type() -> None:
    value: OrderedDict = OrderedDict()
    for _ in range(60):  # its text has over 2**60 characters
        value = OrderedDict(a=value, b=value)
    assert tensorfile.format_value(value) == "OrderedDict"
    assert tensorfile.format_value(7) == "7"
