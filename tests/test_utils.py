"""Files found and written."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import utils

ROOT = Path(__file__).parents[1]


def test_files_are_found_to_the_bottom_in_any_case_and_in_order(tmp_path: Path) -> None:
    for name in ("b/c.MID", "b/a.midi", "a.Kar", "z.txt", "b.mid.bak"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = utils.find_files(tmp_path, (".mid", ".midi", ".kar"))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a.Kar",
        "b/a.midi",
        "b/c.MID",
    ]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(utils.find_files(tmp_path / "none", (".mid",)))


def test_a_missing_library_is_named_with_what_installs_it() -> None:
    with pytest.raises(ImportError, match=r"the moon needs cheese .*pip install cheese"):
        utils.import_optional("cheese.gouda", "the moon")


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    utils.atomic_write(target, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        utils.atomic_write(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def left_behind(folder: Path, name: str) -> Path:
    """What a killed write of a file leaves: a temporary file, here made by a process that dies."""
    code = "import os, sys, utils; os.fsync = lambda _: os._exit(9); "
    code += "utils.atomic_write(sys.argv[1], b'half')"
    before = set(folder.iterdir())
    subprocess.run([sys.executable, "-c", code, str(folder / name)], cwd=ROOT)
    (left,) = set(folder.iterdir()) - before
    return left


def test_what_a_killed_write_left_is_removed_but_nothing_of_other_files(tmp_path: Path) -> None:
    ours, other = (left_behind(tmp_path, name) for name in ("m.sess", "other.sess"))
    plain = tmp_path / ".m.sess.tmp"
    plain.touch()
    with utils.lock_file(tmp_path / "m.sess") as locked:
        assert locked
        assert not ours.exists()
    assert set(tmp_path.iterdir()) == {other, plain}


def test_a_file_that_is_claimed_can_not_be_claimed_again_but_another_one_can(
    tmp_path: Path,
) -> None:
    (tmp_path / "link").symlink_to("m.sess")
    with utils.lock_file(tmp_path / "m.sess"):
        with utils.lock_file(tmp_path / "other"):
            pass
        for name in ("m.sess", "link"):
            with pytest.raises(BlockingIOError), utils.lock_file(tmp_path / name):
                pass
    with utils.lock_file(tmp_path / "link"):
        pass
    assert os.listdir(tmp_path) == ["link"]


def test_the_claim_of_a_process_that_died_is_no_obstacle(tmp_path: Path) -> None:
    code = "import os, sys, utils; c = utils.lock_file(sys.argv[1]); c.__enter__(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.sess")], cwd=ROOT)
    assert len(os.listdir(tmp_path)) == 1, "its lock file"
    with utils.lock_file(tmp_path / "m.sess"):
        pass
    assert not os.listdir(tmp_path)


def test_a_name_of_255_bytes_can_be_written_and_claimed(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127 + "x")
    with utils.lock_file(path):
        utils.atomic_write(path, b"x")
    assert os.listdir(tmp_path) == [path.name]


def test_without_locks_nothing_is_removed_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = left_behind(tmp_path, "m.sess")

    def unknown(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unknown)
    with utils.lock_file(tmp_path / "m.sess") as locked:
        assert not locked
    assert list(tmp_path.iterdir()) == [left]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    utils.atomic_write(tmp_path / "ours", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def crave_in_torch() -> int:
    torch.empty(1 << 60, dtype=torch.uint8)
    return 0


def crave_in_python() -> int:
    return len(bytes(1 << 60))


class Full(io.BytesIO):
    """Memory that has no room for anything."""

    def write(self, content: object) -> int:
        raise MemoryError


def crave_in_torch_while_it_saves() -> int:
    torch.save({"a": torch.zeros(1000)}, Full())
    return 0


@pytest.mark.parametrize("verb", [crave_in_torch, crave_in_python, crave_in_torch_while_it_saves])
def test_want_of_memory_is_a_sentence(
    verb: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert utils.run_command("x.py", verb, "") == 1
    assert capsys.readouterr().err.startswith("x.py: not enough memory: ")


def test_other_errors_are_not_hidden() -> None:
    def fail() -> int:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="mistake of ours"):
        utils.run_command("x.py", fail, "")


def test_the_complaint_is_one_line_whatever_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise ValueError("two\nlines.sess: damaged")

    assert utils.run_command("x.py", fail, "") == 1
    assert capsys.readouterr().err == "x.py: two\\nlines.sess: damaged\n"
