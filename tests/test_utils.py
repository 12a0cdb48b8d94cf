"""Finding, writing and locking files, and the errors of a command."""

import io
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import utils

ROOT = Path(__file__).parents[1]


def run_python(code: str, *argv: object) -> None:
    """Run code in another process."""
    subprocess.run([sys.executable, "-c", code, *map(str, argv)], cwd=ROOT)


def kill_while_writing(path: Path) -> Path:
    """Kill a process while it writes `path`; return the temporary file that it leaves."""
    before = set(path.parent.iterdir())
    code = "import os, sys, utils; os.fsync = lambda _: os._exit(9); "
    run_python(code + "utils.atomic_write(sys.argv[1], b'half')", path)
    (temporary,) = set(path.parent.iterdir()) - before
    return temporary


# ---------------------------------------------------------------------------------------- find


def test_find_files_ignores_case_and_sorts(tmp_path: Path) -> None:
    for name in ("b/c.MID", "b/a.midi", "a.Kar", "z.txt", "b.mid.bak"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = utils.find_files(tmp_path, (".mid", ".midi", ".kar"))
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert names == ["a.Kar", "b/a.midi", "b/c.MID"]


def test_find_files_enters_linked_folders_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mid").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("a")
    assert list(utils.find_files(tmp_path, (".mid",))) == [tmp_path / "a" / "x.mid"]


def test_missing_folder_raises_or_is_collected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(utils.find_files(tmp_path / "none", (".mid",)))
    errors: list[OSError] = []
    assert not list(utils.find_files(tmp_path / "none", (".mid",), errors))
    assert [error.filename for error in errors] == [str(tmp_path / "none")]


# --------------------------------------------------------------------------------------- write


def test_failed_write_leaves_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    utils.atomic_write(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=r"No space.*file"):
        utils.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_of_new_and_existing_files(tmp_path: Path) -> None:
    path, plain = tmp_path / "file", tmp_path / "plain"
    plain.touch()
    utils.atomic_write(path, b"x")
    assert path.stat().st_mode == plain.stat().st_mode
    for mode in (0o600, 0o640, 0o664, 0o444):
        path.chmod(mode)
        utils.atomic_write(path, b"new")
        assert path.read_bytes() == b"new"
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    utils.atomic_write(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"x"


# ---------------------------------------------------------------------------------------- lock


def test_lock_removes_only_own_temporary_files(tmp_path: Path) -> None:
    own = kill_while_writing(tmp_path / "m.sess")
    other = kill_while_writing(tmp_path / "other.sess")
    foreign = tmp_path / ".m.sess.tmp"
    foreign.touch()
    with utils.lock_file(tmp_path / "m.sess") as is_locked:
        assert is_locked
        assert not own.exists()
    assert set(tmp_path.iterdir()) == {other, foreign}


def test_locked_file_cannot_be_locked_again(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("m.sess")
    with utils.lock_file(tmp_path / "m.sess"):
        with utils.lock_file(tmp_path / "other"):
            pass
        for name in ("m.sess", "link"):
            with pytest.raises(BlockingIOError, match=name), utils.lock_file(tmp_path / name):
                pass
    with utils.lock_file(tmp_path / "link"):
        pass
    assert os.listdir(tmp_path) == ["link"]


def test_lock_ends_with_a_killed_process(tmp_path: Path) -> None:
    code = "import os, sys, utils; c = utils.lock_file(sys.argv[1]); c.__enter__(); os._exit(9)"
    run_python(code, tmp_path / "m.sess")
    assert len(os.listdir(tmp_path)) == 1  # the lock file
    with utils.lock_file(tmp_path / "m.sess") as is_locked:
        assert is_locked
    assert not os.listdir(tmp_path)


def test_longest_name_can_be_written_and_locked(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127 + "x")  # 255 bytes
    with utils.lock_file(path):
        utils.atomic_write(path, b"x")
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("code", [37, 38, 95])  # ENOLCK, ENOSYS, EOPNOTSUPP
def test_file_system_without_locks_yields_false(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    temporary = kill_while_writing(tmp_path / "m.sess")

    def fail(*_: object) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr("fcntl.flock", fail)
    with utils.lock_file(tmp_path / "m.sess") as is_locked:
        assert not is_locked
    assert list(tmp_path.iterdir()) == [temporary]


# ------------------------------------------------------------------------------------- command


def test_missing_library_error_says_how_to_install_it() -> None:
    with pytest.raises(ImportError, match=r"--moon needs cheese .*pip install cheese"):
        utils.import_optional("cheese.gouda", "--moon")


class FullFile(io.BytesIO):
    def write(self, content: object) -> int:
        raise MemoryError


@pytest.mark.parametrize(
    "command",
    [
        lambda: torch.empty(1 << 60, dtype=torch.uint8),
        lambda: bytes(1 << 60),
        lambda: torch.save({"a": torch.zeros(1000)}, FullFile()),
    ],
)
def test_lack_of_memory_is_one_line(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert utils.run_command("x.py", command, "") == 1
    assert capsys.readouterr().err.startswith("x.py: error: not enough memory: ")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("two\nlines\x1b: damaged"), 1, r"x.py: error: two\nlines\x1b: damaged"),
        (FileNotFoundError(2, "No such file", "a.sess"), 1, "x.py: error: a.sess: No such file"),
        (OSError("no name"), 1, "x.py: error: no name"),
        (KeyboardInterrupt(), 130, "x.py: stopped"),
    ],
)
def test_user_errors_are_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert utils.run_command("x.py", fail, "stopped") == status
    assert capsys.readouterr().err == line + "\n"


def test_other_errors_are_not_hidden() -> None:
    def fail() -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        utils.run_command("x.py", fail, "")
