"""Training in two processes: the same result as in one, interruptions, errors."""

import functools
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from model import Session
from tests.processes import Command, start_process, train_until_signal
from tools.synthetic_data import TINY_MODEL, write_data
from training.distributed import Distributed, exit_process
from training.logger import Logger

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

ROOT = Path(__file__).parents[2]
OPTIONS = [
    *("-d", "data", "-w", "20", "-p", TINY_MODEL, "-l", "0.01", "--carry", "3", "-t", "-c", "0.7"),
    *("--precision", "fp32", "--device", "cpu", "--no-enable-logging"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new working folder with data."""
    write_data(tmp_path / "data", count=6, notes=200)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_argv(session: str, batch_size: int, *more: str) -> list[str]:
    return ["-s", session, "-b", str(batch_size), *OPTIONS, *more]


def start_processes(
    argv: list[str], main: Command = train.main, count: int = 2
) -> list[BaseProcess]:
    """Start processes in the environment that torchrun would give them."""
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        port = unused.getsockname()[1]
    variables = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [
        start_process(
            main,
            argv,
            Path(f"output-{rank}.txt"),
            {**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def finish(processes: list[BaseProcess]) -> list[str]:
    """Wait for processes, which must succeed; return the output of each."""
    for process in processes:
        process.join(timeout=120)
    outputs = [Path(f"output-{rank}.txt").read_text() for rank in range(len(processes))]
    assert not any(process.exitcode for process in processes), outputs
    return outputs


def train_with_losses(argv: list[str]) -> int:
    """Train, and print the loss of each step."""
    Logger.log_step = lambda logger, state, loss, *_: print("loss", loss)  # type: ignore
    return train.main(argv)


def read_losses(output: str) -> list[float]:
    lines = (line.split() for line in output.splitlines())
    return [float(words[1]) for words in lines if words[0] == "loss"]


def test_two_processes_train_like_one(folder: Path) -> None:
    limit = ("--max-steps", "20", "--small-batches", "10")
    processes = start_processes(make_argv("two.sess", 2, *limit), train_with_losses)
    main_output, other_output = finish(processes)
    assert "two.sess: step 20" in main_output
    assert other_output == ""
    (output,) = finish(start_processes(make_argv("one.sess", 4, *limit), train_with_losses, 1))
    losses = read_losses(main_output)
    assert len(losses) == 20
    np.testing.assert_allclose(losses, read_losses(output), atol=1e-3)
    one, two = Session.load("one.sess"), Session.load("two.sess")
    assert two.training["step"] == 20
    assert two.training["best"] == pytest.approx(one.training["best"], abs=1e-3)
    assert two.training["events"] == one.training["events"] == 10 * 2 * 10 + 10 * 4 * 20
    assert one.hidden_state is not None
    assert two.hidden_state is not None
    torch.testing.assert_close(two.hidden_state, one.hidden_state, atol=1e-2, rtol=0)
    # one process continues the session of two
    assert train.main(make_argv("two.sess", 4, "--max-steps", "22")) == 0
    assert Session.load("two.sess").training["step"] == 22


def test_two_processes_resume_exactly(folder: Path) -> None:
    limit = ("--max-steps", "10")
    main = functools.partial(train_until_signal, signal.SIGINT, 5)  # in one of them only
    finish(start_processes(make_argv("parts.sess", 2, *limit), main))
    assert Session.load("parts.sess").training["step"] == 5
    for name in ("parts.sess", "whole.sess"):
        finish(start_processes(make_argv(name, 2, *limit)))
    parts, whole = Session.load("parts.sess"), Session.load("whole.sess")
    assert parts.training["step"] == whole.training["step"] == 10
    assert all(torch.equal(parts.state[name], value) for name, value in whole.state.items())


def test_lost_process_leaves_a_valid_session(folder: Path) -> None:
    main = functools.partial(train_until_signal, signal.SIGKILL, 5)
    first, _ = start_processes(make_argv("two.sess", 2), main)
    first.join(timeout=60)
    assert first.exitcode == 1
    assert "lost another process of the training" in Path("output-0.txt").read_text()
    assert Session.load("two.sess").training["step"] == 4


def train_in_own_folder(argv: list[str]) -> int:
    """Train in folder 0 or 1, like on two machines without a shared folder."""
    os.chdir(os.environ["RANK"])
    return train.main(argv)


def test_processes_with_different_data_fail(folder: Path) -> None:
    for rank in range(2):
        write_data(folder / str(rank) / "data", count=3 + rank)
    for process in start_processes(make_argv("two.sess", 2), train_in_own_folder):
        process.join(timeout=60)
        assert process.exitcode == 1
    for rank in range(2):
        assert "do not read the same files" in Path(f"output-{rank}.txt").read_text()


@pytest.mark.slow
def test_torchrun_starts_the_processes(folder: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command = [*torchrun, str(ROOT / "train.py"), *make_argv("two.sess", 2, "--max-steps", "5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two.sess: step 5") == 1


def test_single_process_is_main() -> None:
    with Distributed.join() as single:
        assert (single.rank, single.world_size, single.is_main) == (0, 1, True)
        assert single.broadcast([1.5, 2]) == [1.5, 2]
        assert single.is_equal_in_all([1.5, 2])


@pytest.mark.parametrize(("world_size", "calls"), [("2", [3]), ("1", [])])
def test_several_processes_exit_without_cleanup(
    world_size: str, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    with pytest.raises(SystemExit, match="3"):
        exit_process(3)
    assert exits == calls


@pytest.mark.parametrize(
    ("rank", "shared"),
    [(0, [0.0, 61.0, 1.0]), (1, [0.0, 0.0, 0.0])],
)
def test_only_the_main_process_keeps_the_time(
    rank: int, shared: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Distributed, "sum", lambda _, values: values)  # what this process adds
    assert train.synchronize(Distributed(rank, 2), False, 61.0, True) == shared
    assert train.synchronize(Distributed(rank, 2), True, 0.0)[0] == 1, "any process can stop all"
