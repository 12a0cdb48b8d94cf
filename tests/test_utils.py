"""Finding, writing and locking files, and the errors of a command."""

import io
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import utils
from config import TrainConfig

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


def test_new_file_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError, match="file"):
        utils.atomic_write(path, b"new", overwrite=False)
    assert path.read_bytes() == b"old"
    utils.atomic_write(tmp_path / "new", b"new", overwrite=False)
    assert sorted(os.listdir(tmp_path)) == ["file", "new"]


def test_new_file_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")  # as FAT does

    monkeypatch.setattr("os.link", fail)
    rename = utils._rename

    def create_first(temporary: str, target: str, overwrite: bool) -> None:
        Path(target).write_bytes(b"other")
        rename(temporary, target, overwrite)

    utils.atomic_write(tmp_path / "new", b"new", overwrite=False)
    assert (tmp_path / "new").read_bytes() == b"new"
    monkeypatch.setattr(utils, "_rename", create_first)
    with pytest.raises(FileExistsError):
        utils.atomic_write(tmp_path / "taken", b"new", overwrite=False)
    assert (tmp_path / "taken").read_bytes() == b"other"
    assert sorted(os.listdir(tmp_path)) == ["new", "taken"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_only_regular_files_are_read_and_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path(os.devnull)):
        with pytest.raises(OSError, match=r"Not a regular file.*" + re.escape(str(path))):
            utils.atomic_write(path, b"x")
        with pytest.raises(OSError, match=r"Not a regular file.*" + re.escape(str(path))):
            utils.read_file(path)
    with pytest.raises(IsADirectoryError):
        utils.open_file(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]
    assert not Path(os.devnull).is_file()


def test_interrupt_just_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def interrupted(*paths: str) -> None:
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        utils.atomic_write(tmp_path / "file", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for number in range(3):
        kill_while_writing(tmp_path / f"{number}.sess")
    code = "import os, sys, utils; c = utils.lock_file(sys.argv[1]); c.__enter__(); os._exit(9)"
    run_python(code, tmp_path / "m.sess")
    foreign = [".m.sess.tmp", "a.tmp", "b.lock", f".{'0' * 16}-ABCDEFGH.tmp"]
    for name in foreign:
        (tmp_path / name).touch()
    utils.check_writable(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(foreign)


def test_files_of_running_processes_are_not_removed(tmp_path: Path) -> None:
    write = "import os, sys, utils; os.fsync = lambda _: (print(flush=True), input()); "
    write += "utils.atomic_write(sys.argv[1], b'whole')"
    lock = "import sys, utils; c = utils.lock_file(sys.argv[1]); c.__enter__(); "
    lock += "print(flush=True); input()"
    processes = []
    for code, name in ((write, "written"), (lock, "locked")):
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes.append(subprocess.Popen(command, cwd=ROOT, **pipes))  # type: ignore[call-overload]
    for process in processes:
        process.stdout.readline()
    before = set(tmp_path.iterdir())
    utils.check_writable(tmp_path)
    after = set(tmp_path.iterdir())
    for process in processes:
        process.communicate(b"\n")
        assert process.returncode == 0
    assert after == before
    assert len(before) == 2
    assert (tmp_path / "written").read_bytes() == b"whole"


# ---------------------------------------------------------------------------------------- lock


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
    utils.remove_leftovers(tmp_path)  # it may belong to a running process
    assert list(tmp_path.iterdir()) == [temporary]
    utils.atomic_write(tmp_path / "m.sess", b"x")
    assert (tmp_path / "m.sess").read_bytes() == b"x"


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
        (KeyboardInterrupt(15), 143, "x.py: stopped"),
        (ValueError("\u202e\u2066\u2028\x9b"), 1, r"x.py: error: \u202e\u2066\u2028\x9b"),
    ],
)
def test_user_errors_are_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert utils.run_command("x.py", fail, "stopped") == status
    assert capsys.readouterr().err == line + "\n"


def test_printed_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    utils.print_line("Prélude 🎹 \x1b]0;title\x07\x1b[2J\r\n\u202egnp.exe\u200f\udcff")
    expected = r"Prélude 🎹 \x1b]0;title\x07\x1b[2J\r\n\u202egnp.exe\u200f\udcff"
    assert capsys.readouterr().out == expected + "\n"


def run_script(code: str, redirection: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in run_command in another process, with a redirection of the shell."""
    code = f"import sys, os, signal, time, utils\ndef run():\n {code}\n return 0\n"
    code += "sys.exit(utils.run_command('x.py', run, 'stopped'))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {redirection}"
    return subprocess.run(  # noqa: S602 the redirections need a shell
        command, shell=True, cwd=ROOT, text=True, capture_output=True, **options
    )


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize("redirection", ["| true", ">&- 2>&-", "<&- >&- 2>&-", "2>&1 | true"])
def test_closed_outputs_do_not_end_a_run(tmp_path: Path, redirection: str) -> None:
    path = tmp_path / "file"
    code = f"""for n in range(300):
  utils.print_line('x' * 1000); sys.stderr.write('y' * 1000); time.sleep(0.001)
 fd = os.open({str(path)!r}, os.O_CREAT | os.O_WRONLY); assert fd > 2; os.write(fd, b'done')"""
    result = run_script(code, redirection)
    assert path.read_bytes() == b"done"
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_incomplete_output_is_an_error() -> None:
    result = run_script("utils.print_line('x')", "> /dev/full")
    assert result.returncode == 1
    assert result.stderr == "x.py: error: the output is not complete: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="needs signals of POSIX")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (1, 129)]
)
def test_signals_end_a_run_with_a_message(number: int, status: int) -> None:
    result = run_script(f"os.kill(os.getpid(), {number}); time.sleep(9)", "")
    assert (result.returncode, result.stderr) == (status, "x.py: stopped\n")


@pytest.mark.skipif(os.name != "posix", reason="needs signals of POSIX")
def test_ignored_signal_stays_ignored() -> None:
    code = "signal.signal(1, signal.SIG_IGN)\n"
    code = f"import os, signal, utils; {code}run = lambda: os.kill(os.getpid(), 1) or 0\n"
    code += "raise SystemExit(utils.run_command('x.py', run, 'stopped'))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("a bug")])
def test_a_bug_says_how_to_get_the_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert utils.run_command("x.py", fail, "") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"x.py: error: unexpected {type(error).__name__}: {error};")
    assert "PRNN_DEBUG=1" in line


@pytest.mark.parametrize("error", [ValueError("wrong"), RuntimeError("a bug")])
def test_debug_prints_the_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> int:
        raise error

    monkeypatch.setenv("PRNN_DEBUG", "1")
    assert utils.run_command("x.py", fail, "") == 1
    text = capsys.readouterr().err
    assert text.startswith("Traceback (most recent call last)")
    assert "in fail" in text
    assert text.splitlines()[-1].startswith("x.py: error: ")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("--sesion", " (did you mean --session?)"),
        ("--batchsize=3", " (did you mean --batch-size?)"),
        ("--zzzzz", ""),
        ("stray", ""),
    ],
)
def test_unknown_option_names_a_similar_one(
    typed: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = utils.Parser("x.py", "", TrainConfig())
    parser.add_argument("--session")
    parser.add_argument("-b", "--batch-size")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([typed])
    assert capsys.readouterr().err == f"x.py: error: unrecognized arguments: {typed}{hint}\n"


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        utils.Parser("x.py", "", TrainConfig()).parse_args(["--version"])
    assert capsys.readouterr().out == f"x.py {utils.VERSION}\n"


def test_quiet_output_takes_any_character() -> None:
    with utils.redirect_messages(quiet=True):
        print("\N{MUSICAL KEYBOARD} \udcff", flush=True)  # the last one is not UTF-8
