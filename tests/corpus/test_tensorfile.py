"""Tensor files: what is read, and hostile files, which are refused and cost nothing."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus import tensorfile
from sequence import NoteSeq

ROOT = Path(__file__).parents[2]
SCALE = NoteSeq(np.arange(8) / 2, np.arange(8) / 2 + 0.5, 60 + np.arange(8), 40 + 10 * np.arange(8))
HUGE = 10**10
KEPT = {"weights": torch.arange(12.0).view(3, 4), "deep": [{"step": 3}, "text"]}
SIZES_2018 = {"short": 2, "int": 4, "long": 4}


def saved(record: object, new: bool = True) -> bytes:
    content = io.BytesIO()
    torch.save(record, content, _use_new_zipfile_serialization=new)
    return content.getvalue()


# ---------------------------------------------------- pickles and files, put together by hand


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    long = pickle.encode_long(value)
    return b"\x8a" + bytes([len(long)]) + long


def row(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def named(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(name: str, *arguments: bytes) -> bytes:
    return named(name) + row(*arguments) + b"R"


def record(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def storage(numel: int, key: str = "0", view: bytes = b"", location: str = "cpu") -> bytes:
    names = text("storage") + named("torch.FloatStorage") + text(key) + text(location)
    return b"(" + names + number(numel) + view + b"tQ"


def tensor(numel: int, shape: tuple[int, ...], strides: tuple[int, ...], view: bytes) -> bytes:
    sizes, steps = (row(*map(number, sizes)) for sizes in (shape, strides))
    hooks = call("collections.OrderedDict")
    content = (storage(numel, view=view), number(0), sizes, steps, b"\x89", hooks)
    return call("torch._utils._rebuild_tensor_v2", *content)


def encoded(value: bytes, codec: str = "latin1") -> bytes:
    return call("_codecs.encode", value, text(codec))


def array(shape: bytes, content: bytes, kind: bytes) -> bytes:
    made = call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), row(), text("b"))
    dtype = call("numpy.dtype", kind, number(0), number(1))
    return made + row(number(1), shape, dtype, b"\x89", content) + b"b"


def zipped(
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


def of_2018(content: bytes, padding: int = 0) -> bytes:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": SIZES_2018}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    keys = pickle.dumps(["0"], 2)
    return head + b"\x80\x02" + content + b"." + keys + struct.pack("<q", 4) + bytes(16 + padding)


COMMAND = text("touch it-ran")
REACHED = text("open('it-ran', 'w')")
U1 = text("u1")


def chain(codec: str) -> bytes:
    """Bytes that each codec makes longer than the one before."""
    made = encoded(text("ab" * 50))
    for _ in range(28):
        made = encoded(made, codec)
    return made


def stack_global(module: str, name: str, argument: bytes) -> bytes:
    return text(module) + text(name) + b"\x93" + row(argument) + b"R"


def table_of(content: bytes) -> tuple[int, bytes]:
    """Where the table of contents of a zip begins, and the table."""
    size, start = struct.unpack("<2L", content[-10:-2])
    return start, content[start : start + size]


def moved(table: bytes, by: int) -> bytes:
    """A table of contents whose entries begin `by` bytes later."""
    changed, at = bytearray(table), 0
    while at < len(table):
        (offset,) = struct.unpack_from("<L", table, at + 42)
        struct.pack_into("<L", changed, at + 42, offset + by)
        at += 46 + sum(struct.unpack_from("<3H", table, at + 28))
    return bytes(changed)


def end_of(content: bytes, start: int) -> bytes:
    """The end of a zip, but with its table of contents at `start`."""
    return content[-22:-6] + struct.pack("<L", start) + content[-2:]


def tables_in_two_places() -> bytes:
    """A zip with a table of contents where its end says, and a harmless one before the end."""
    evil, harmless = zipped(call("builtins.bytearray", number(HUGE))), zipped(b"}")
    (start, table), (other_start, other) = table_of(evil), table_of(harmless)
    # who goes by the end adds the length of the table that is between
    last = moved(other, start - len(table))
    entries = evil[:start] + harmless[:other_start]
    return entries + table + last + end_of(evil, len(entries))


def zip_behind_pickles() -> bytes:
    """A file of 2018 that ends as a harmless zip."""
    evil, harmless = of_2018(call("builtins.bytearray", number(HUGE))), zipped(b"}")
    start, table = table_of(harmless)
    entries = evil + harmless[:start]
    return entries + moved(table, len(evil)) + end_of(harmless, len(entries))


def running() -> Iterator[tuple[str, bytes]]:
    """Pickles that would run code."""
    for place in ("posix", "os", "nt"):
        yield f"{place}.system", call(f"{place}.system", COMMAND)
    yield "subprocess", call("subprocess.getoutput", COMMAND)
    for place in ("builtins", "__builtin__"):
        yield f"{place}.eval", call(f"{place}.eval", REACHED)
    yield "stack global eval", stack_global("builtins", "eval", REACHED)
    yield "stack global system", stack_global("os", "system", COMMAND)
    yield "inst", b"(" + COMMAND + b"ios\nsystem\n"
    yield "obj", b"(" + named("os.system") + COMMAND + b"o"
    yield "newobj", named("subprocess.Popen") + row(COMMAND) + b"\x81"
    yield "in a dict of tensors", record(model_config=call("os.system", COMMAND))
    yield "torch's own", call("torch.serialization.load", text("it-ran"))
    yield "loads", call("pickle.loads", encoded(named("os.system") + row(COMMAND) + b"R."))


def claiming() -> Iterator[tuple[str, bytes]]:
    """Files of a few kilobytes that say they hold gigabytes."""
    for name in ("torch.Tensor", "torch.FloatTensor", "torch.FloatStorage", "builtins.bytearray"):
        yield f"{name} zip", zipped(call(name, number(HUGE)))
        yield f"{name} 2018", of_2018(call(name, number(HUGE)))
    for name in ("builtins.bytes", "__builtin__.bytes", "torch.Size", "builtins.range"):
        yield name, zipped(call(name, number(HUGE)))
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
        yield f"{name} zip", zipped(record(a=tensor(*shape, b"")))
        yield f"{name} 2018", of_2018(record(a=tensor(*shape, b"N")), padding=2000)
    view = row(text("1"), number(0), number(HUGE))
    yield "view 2018", of_2018(record(a=tensor(4, (4,), (1,), view)))
    yield "length of text 2018", of_2018(b"X" + struct.pack("<I", 2**32 - 9) + b"abc")
    for opcode in (b"\x8d", b"\x8e", b"\x96"):
        long = opcode + struct.pack("<Q", HUGE) + b"abc"
        yield f"length in {opcode.hex()} zip", zipped(long)
        yield f"length in {opcode.hex()} 2018", of_2018(long)
    for codec in ("hex", "HEX codec", "quopri", "uu", "base-64"):
        yield f"chain of {codec}", zipped(chain(codec))
    copies = b"".join(named("_codecs.encode") + b"h\x01h\x02\x86R" for _ in range(2000))
    long, latin = text("x" * 2_000_000) + b"q\x01", text("latin1") + b"q\x02"
    yield "copies", zipped(row(long, latin, copies))
    for shape in (
        row(number(HUGE)),
        row(number(2)),
        row(text("ab" * 1000), number(HUGE // 1000)),
        row(number(-1), number(-3)),
        number(3),
        b"N",
    ):
        yield f"array {shape.hex()[:20]}", zipped(array(shape, encoded(text("abc")), U1))
    three = row(number(3))
    for kind in ("O", "f8", "i1", "S3", "b1", "V3"):
        yield f"array of {kind}", zipped(array(three, encoded(text("abc")), text(kind)))
    yield "array of a list", zipped(array(three, b"]", U1))
    yield "array of text", zipped(array(three, text("abc"), U1))
    yield "array of a stranger", zipped(array(three, encoded(text("abc")), named("numpy.dtype")))
    yield "compressed", zipped(text("x" * 10**7), method=zipfile.ZIP_DEFLATED)
    yield "upper case", zipped(call("builtins.bytearray", number(HUGE)), name="data.PKL")
    yield "a zip behind", zip_behind_pickles()
    yield "two tables", tables_in_two_places()
    cases = (
        "".join(c.upper() if k >> place & 1 else c for place, c in enumerate("abcdefgh"))
        for k in range(256)
    )
    many = b"".join(storage(1_000_000, key) for key in cases)
    yield "one storage under many names", zipped(row(many), {"abcdefgh": bytes(4_000_000)})


RUNNING, CLAIMING = dict(running()), dict(claiming())


def refusal(path: Path) -> str:
    """The sentence with which a file is refused, however it is read."""
    for memory_map in (True, False):
        with pytest.raises(ValueError, match=path.name) as refused:
            tensorfile.load(path, memory_map=memory_map)
    told = str(refused.value)
    assert told.startswith(f"{path}: ")
    assert len(told.splitlines()) == 1
    assert len(told) < 300 + len(str(path))
    return told


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("memory_map", [True, False])
def test_what_torch_saved_comes_back(tmp_path: Path, new: bool, memory_map: bool) -> None:
    path = tmp_path / "a.sess"
    path.write_bytes(saved(KEPT, new))
    loaded = tensorfile.load(path, memory_map)
    assert torch.equal(loaded["weights"], KEPT["weights"])
    assert loaded["deep"] == KEPT["deep"]


@pytest.mark.parametrize("spelling", ["core", "_core"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("new", [True, False])
def test_arrays_of_both_numpys_come_back_as_they_were(
    tmp_path: Path, spelling: str, order: str, new: bool
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (7, 13)).astype(np.uint8, order=order)
    content = saved(values, new)
    at = b"numpy._core" if np.__version__ >= "2" else b"numpy.core"
    if new:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            inner = archive.read(name)[2:-1]
        content = zipped(inner.replace(at, f"numpy.{spelling}".encode()))
    else:
        content = content.replace(at, f"numpy.{spelling}".encode())
    path = tmp_path / "a.data"
    path.write_bytes(content)
    np.testing.assert_array_equal(tensorfile.load(path).array, values)


@pytest.mark.parametrize("location", ["cuda:0", "cuda:7", "mps", "xpu:0"])
def test_tensors_of_any_device_are_read_to_the_cpu(tmp_path: Path, location: str) -> None:
    kind = "torch.cuda.FloatStorage" if location.startswith("cuda") else "torch.FloatStorage"
    for name, write, view in (("new", zipped, b""), ("old", of_2018, b"N")):
        content = record(a=tensor(4, (4,), (1,), view))
        content = content.replace(named("torch.FloatStorage"), named(kind))
        content = content.replace(text("cpu"), text(location))
        (tmp_path / name).write_bytes(write(content))
        assert tensorfile.load(tmp_path / name)["a"].device == torch.device("cpu")


@pytest.mark.skipif(sys.platform == "darwin", reason="names are Unicode there")
@pytest.mark.parametrize("new", [True, False])
def test_a_file_whose_name_is_not_unicode_is_read(tmp_path: Path, new: bool) -> None:
    path = tmp_path / os.fsdecode(b"\xff.sess")
    path.write_bytes(saved(KEPT, new))
    assert torch.equal(tensorfile.load(path, memory_map=True)["weights"], KEPT["weights"])


def test_a_midi_file_in_place_of_data_is_named_as_one(tmp_path: Path) -> None:
    SCALE.to_midi_file(tmp_path / "a.mid")
    assert "it is a MIDI file; preprocess" in refusal(tmp_path / "a.mid")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tensorfile.load(tmp_path / "none")


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 broken", b"\x80\x02}q\x00."])
def test_a_file_that_torch_did_not_write_is_a_value_error_with_its_path(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad.sess"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize("write", [zipped, of_2018])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    here: Path, name: str, write: Callable[[bytes], bytes]
) -> None:
    path = here / "evil.sess"
    path.write_bytes(write(RUNNING[name]))
    told = refusal(path)
    assert "it names" in told or "it makes objects" in told, "torch has not begun to read it"
    assert os.listdir(here) == ["evil.sess"]


@pytest.mark.parametrize("place", range(5))
def test_no_pickle_of_an_old_file_is_left_unsearched(here: Path, place: int) -> None:
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, {}, [])]
    parts[place] = b"\x80\x02" + RUNNING["os.system"] + b"."
    path = here / "evil.sess"
    path.write_bytes(b"".join(parts))
    assert "it names 'os system'" in refusal(path)
    assert os.listdir(here) == ["evil.sess"]


LOAD_ALL = """
import resource, sys
from pathlib import Path
import numpy, torch
from corpus import tensorfile
tensorfile.load("good")
room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path("claims").iterdir()):
    for memory_map in (True, False):
        try:
            loaded = tensorfile.load(path, memory_map)
            # a map may show more of the file than the storage, but never more than the file
            if memory_map and loaded["a"].untyped_storage().nbytes() < path.stat().st_size:
                continue
            print(path.name, "was loaded")
        except ValueError as error:
            if str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1:
                continue
            print(path.name, error)
        except BaseException as error:
            print(path.name, repr(error))
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print("done" if more < 100_000 else f"took {more} kB")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it looks into /proc")
def test_files_that_claim_gigabytes_are_refused_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "good").write_bytes(saved(KEPT, False))
    for name, content in CLAIMING.items():
        (tmp_path / "claims" / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_compressed_file_is_refused_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.data").write_bytes(zipped(b"}", method=zipfile.ZIP_DEFLATED))
    assert "it is compressed" in refusal(tmp_path / "a.data")


def test_an_expanded_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.sess"
    for new in (True, False):
        path.write_bytes(saved({"a": torch.zeros(1).expand(10**6)}, new))
        assert "claims more than" in refusal(path)


def test_nested_dicts_that_repeat_each_other_take_no_time(tmp_path: Path) -> None:
    bomb: object = torch.zeros(2)
    for _ in range(60):
        bomb = {"a": bomb, "b": bomb, "c": [bomb, (bomb,)]}
    for new in (True, False):
        (tmp_path / "bomb.sess").write_bytes(saved({"model_config": bomb}, new))
        assert set(tensorfile.load(tmp_path / "bomb.sess")) == {"model_config"}


def test_a_name_of_a_megabyte_is_not_told_in_full(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(zipped(b"c" + b"x" * 10**6 + b"\ny\n"))
    refusal(tmp_path / "long")


@pytest.mark.parametrize("new", [True, False])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, new: bool) -> None:
    path, content = tmp_path / "cut.sess", saved(KEPT, new)
    for size in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:size])
        refusal(path)
    path.write_bytes(content[:-1])
    refusal(path)


@pytest.mark.parametrize("new", [True, False])
def test_a_damaged_file_is_refused_or_read_and_nothing_else(here: Path, new: bool) -> None:
    """Bytes are changed at random; what torch wrote may still be readable then."""
    dice, content = np.random.default_rng(5), saved((KEPT, np.arange(9, dtype=np.uint8)), new)
    read, sentences = 0, set()
    for _ in range(120):
        damaged = bytearray(content)
        for _ in range(int(dice.choice((1, 1, 2, 8)))):
            damaged[dice.integers(len(damaged))] = int(dice.integers(256))
        (here / "hurt.sess").write_bytes(damaged)
        try:
            tensorfile.load(here / "hurt.sess")
            read += 1
        except ValueError as error:
            sentences.add(str(error).split(",")[0])
    assert sentences == {f"{here}/hurt.sess: not a session or .data file"}
    assert 0 < read < 120
    assert os.listdir(here) == ["hurt.sess"]
