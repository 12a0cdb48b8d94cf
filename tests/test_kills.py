"""Kills at each file operation and at random moments: nothing is lost, nothing remains.

A killed process is a fork of this one. An audit hook of Python kills it just before an operation on
a file in the working folder: opening, locking, renaming, linking or removing one.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import generate
import train
import utils
from midi.notes import NoteSeq
from model import PerformanceRNN, Session
from tests.processes import start_process
from tools.synthetic_data import TINY_MODEL, TINY_SIZES, write_data

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]

KILLS = 25  # in each phase, of each kind
KINDS = ["operations", "times"]
OPERATIONS = {
    *("open", "os.rename", "os.link", "os.remove", "os.chmod", "os.chown", "os.mkdir", "os.rmdir"),
    *("os.truncate", "fcntl.flock", "tempfile.mkstemp"),
}
TRAIN = [
    *("-s", "m.sess", "-d", "data", "-b", "4", "-w", "20", "-p", TINY_MODEL, "--device", "cpu"),
    *("--precision", "fp32", "--warm-up", "2", "-i", "0"),
]
GENERATE = ["-s", "m.sess", "-o", "out", "-l", "60", "--device", "cpu", "--seed", "3"]
# the arguments of each phase, and whether a session must exist before
TRAIN_PHASES = {
    "create": (["--no-enable-logging", "--max-steps", "1"], False),
    "save": (["--no-enable-logging", "--validation-share", "0"], True),
    "validate": (["--no-enable-logging", "--validation-interval", "0.001"], True),
    "log": (["-L", "--validation-interval", "0.001"], True),
    "export": (["--export", "small.sess"], True),
}
GENERATE_PHASES = {
    "write": ["-b", "4"],
    "stream": ["-b", "2", "--stream"],
    "overwrite": ["-b", "1", "--force", "--png"],
    "page": ["-b", "1", "--png", "--html"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with data and a session."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "STREAM_INTERVAL", 0.0)
    write_data(tmp_path / "data", count=3, notes=150)
    return tmp_path


def run_until_operation(
    main: Callable[[list[str]], int], last: float, folder: Path, argv: list[str]
) -> int:
    """Run a command, and kill this process before operation `last`; print their number."""
    numbers = itertools.count(1)
    count = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS:
            return
        if event != "fcntl.flock":
            if not isinstance(arguments[0], str | bytes | os.PathLike):
                return
            if not os.path.abspath(os.fsdecode(arguments[0])).startswith(f"{folder}/"):
                return
        count[0] = next(numbers)
        if count[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    status = main(argv)
    Path("count.txt").write_text(str(count[0]))
    return status


def run_and_kill(
    main: Callable[[list[str]], int],
    argv: list[str],
    operation: float = np.inf,
    seconds: float = np.inf,
) -> int:
    """Run a command in a process that is killed at an operation or after some time.

    Returns its exit status.
    """
    command = functools.partial(run_until_operation, main, operation, Path.cwd())
    process = start_process(command, argv, Path("output.txt"))
    process.join(None if seconds == np.inf else seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL), Path("output.txt").read_text()
    return process.exitcode


def choose_kills(
    kind: str, main: Callable[[list[str]], int], argv: list[str], reset: Callable[[], object]
) -> list[dict[str, float]]:
    """Return KILLS operations, from the first to the last, or random times of a run.

    There are more, because a later run may end before its time, or with fewer operations.
    """
    reset()
    started = time.monotonic()
    assert run_and_kill(main, argv) == 0
    seconds = time.monotonic() - started
    count = int(Path("count.txt").read_text())
    assert count >= 5
    if kind == "operations":
        numbers = [*np.linspace(1, count, KILLS).round(), *range(1, count)]
        return [{"operation": number} for number in numbers]
    return [{"seconds": time} for time in np.random.default_rng(0).uniform(0, seconds, 4 * KILLS)]


def check_folder(folder: Path) -> None:
    """Check that no temporary file or lock is in a folder."""
    hidden = [name for name in os.listdir(folder) if utils.HIDDEN_NAME.fullmatch(name)]
    assert not hidden


# ------------------------------------------------------------------------------- train.py


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", TRAIN_PHASES)
def test_no_kill_loses_a_session(folder: Path, phase: str, kind: str) -> None:
    more, needs_session = TRAIN_PHASES[phase]
    start = [*TRAIN, "--no-enable-logging", "--validation-share", "0"]

    def reset() -> None:
        for path in folder.glob("*.sess"):
            path.unlink()
        if needs_session:
            assert train.main([*start, "--max-steps", "2"]) == 0

    limit = [] if phase in ("create", "export") else ["--max-steps", "5"]
    argv = [*TRAIN, *more, *limit]
    killed = 0
    for kill in choose_kills(kind, train.main, argv, reset):
        reset()
        killed += run_and_kill(train.main, argv, **kill) != 0
        for path in folder.glob("*.sess"):
            step = Session.load(path).training.get("step", 0)
            assert step >= (2 if needs_session and path.name == "m.sess" else 0)
        assert not needs_session or Path("m.sess").exists()
        # another command in this folder removes what is left, also of another session
        assert train.main([*start, "--max-steps", "1", "-s", "other.sess"]) == 0
        check_folder(folder)
        assert train.main([*start, "--max-steps", "6"]) == 0
        assert Session.load("m.sess").training["step"] == 6
        if killed == KILLS:
            break
    assert killed == KILLS


# ---------------------------------------------------------------------------- generate.py


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", GENERATE_PHASES)
def test_no_kill_leaves_a_stray_file(folder: Path, phase: str, kind: str) -> None:
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2).save("m.sess")
    argv = [*GENERATE, *GENERATE_PHASES[phase]]
    assert generate.main([*GENERATE, "-b", "3"]) == 0
    killed, generated = 0, len(os.listdir("out"))
    for kill in choose_kills(kind, generate.main, argv, lambda: None):
        before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
        killed += run_and_kill(generate.main, argv, **kill) != 0
        if phase != "overwrite":
            names = [name for name in before if name.endswith((".mid", ".png"))]
            assert all(Path("out", name).read_bytes() == before[name] for name in names)
        assert generate.main([*GENERATE, "-b", "1", "-l", "20"]) == 0  # the next run
        check_folder(Path("out"))
        for path in Path("out").iterdir():
            content = path.read_bytes()
            assert path.suffix in (".mid", ".png", ".html")
            if path.suffix == ".mid":
                assert len(NoteSeq.from_midi_bytes(content)), path
            elif path.suffix == ".png":
                assert content.endswith(b"IEND\xaeB`\x82"), path
            else:
                assert content.endswith(b"</html>"), path
        if killed == KILLS:
            break
    assert killed == KILLS
    assert len(os.listdir("out")) > generated
