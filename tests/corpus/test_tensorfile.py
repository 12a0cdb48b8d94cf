"""Loading of sessions and .data files: valid files, and hostile ones, which are rejected."""

from __future__ import annotations

import io
import itertools
import os
import pickle
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
from tools import hostile_tensors
from tools.hostile_tensors import (
    call,
    global_name,
    number,
    record,
    tensor,
    text,
    write_old,
    write_zip,
)

ROOT = Path(__file__).parents[2]
RECORD = {"weights": torch.arange(12.0).view(3, 4), "nested": [{"step": 3}, "text"]}


def save(record: object, new: bool = True) -> bytes:
    content = io.BytesIO()
    torch.save(record, content, _use_new_zipfile_serialization=new)
    return content.getvalue()


CODE_PICKLES = dict(hostile_tensors.pickles_that_run_code())


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
import resource, time
from pathlib import Path
import numpy, torch
from corpus import tensorfile
tensorfile.load("good")
limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path("files").iterdir()):
    for memory_map in (True, False):
        start = time.process_time()
        try:
            tensorfile.load(path, memory_map)
            print(path.name, "was loaded")
        except ValueError as error:
            if str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1:
                continue
            print(path.name, error)
        except BaseException as error:
            print(path.name, repr(error))
        finally:
            if time.process_time() - start > 10:
                print(path.name, time.process_time() - start, "s")
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print("done" if used < 100_000 else f"used {used} kB")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "build_files",
    [
        hostile_tensors.oversized_files,
        hostile_tensors.dishonest_storages,
        hostile_tensors.endless_files,
    ],
)
@pytest.mark.parametrize("part", range(3))
def test_hostile_files_are_rejected_in_little_time_and_memory(
    tmp_path: Path, build_files: Callable[[], Iterator[tuple[str, bytes]]], part: int
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "good").write_bytes(save(RECORD, False))
    for name, content in itertools.islice(build_files(), part, None, 3):
        (tmp_path / "files" / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(("write", "view"), [(write_zip, b""), (write_old, b"N")])
def test_attributes_of_a_dict_are_not_loaded(
    tmp_path: Path, write: Callable[[bytes], bytes], view: bytes
) -> None:
    """torch adds an attribute to the weights of a network; it could hide a method of the dict."""
    attributes = record(_metadata=b"}", values=number(3), items=number(3))
    weights = call("collections.OrderedDict") + attributes + b"b"
    entry = text("a") + tensor(4, (4,), (1,), view) + b"s"
    (tmp_path / "a.sess").write_bytes(write(record(weights=weights + entry)))
    loaded = tensorfile.load(tmp_path / "a.sess")["weights"]
    assert type(loaded) is dict
    assert loaded["a"].tolist() == [0, 0, 0, 0]


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.data")
    with pytest.raises(ValueError, match=r"a\.data: not a file"):
        tensorfile.load(tmp_path / "a.data")


@pytest.mark.parametrize("memory_map", [True, False])
def test_tensors_may_share_or_leave_out_parts_of_a_storage(
    tmp_path: Path, memory_map: bool
) -> None:
    whole = torch.arange(12.0).view(3, 4)
    for new in (True, False):
        (tmp_path / "a.sess").write_bytes(save({"a": whole[1:, :2], "b": whole.t()[2:]}, new))
        loaded = tensorfile.load(tmp_path / "a.sess", memory_map)
        assert loaded["a"].tolist() == [[4, 5], [8, 9]]
        assert loaded["b"].tolist() == [[2, 6, 10], [3, 7, 11]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("memory_map", [True, False])
def test_types_of_tensors(tmp_path: Path, dtype: torch.dtype, memory_map: bool) -> None:
    saved = {"one": torch.tensor(3, dtype=dtype), "none": torch.zeros(0, 3, dtype=dtype)}
    for new in (True, False):
        (tmp_path / "a.sess").write_bytes(save(saved, new))
        loaded = tensorfile.load(tmp_path / "a.sess", memory_map)
        for name, value in saved.items():
            assert loaded[name].dtype == dtype
            assert loaded[name].tolist() == value.tolist()


def test_changed_weight_is_noticed(tmp_path: Path) -> None:
    content = save(RECORD)
    place = content.index(RECORD["weights"].numpy().tobytes()) + 2  # type: ignore[attr-defined]
    (tmp_path / "a.sess").write_bytes(content[:place] + b"\x01" + content[place + 1 :])
    with pytest.raises(ValueError, match="checksum"):
        tensorfile.load(tmp_path / "a.sess")


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
