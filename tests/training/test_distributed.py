"""Two processes against one: the same losses, one writer, and a clean end when one is lost."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from model import Session
from tools.synthetic_data import write_data
from training.distributed import Team, end

ROOT = Path(__file__).parents[2]
SIZES = "hidden_dim=16,gru_layers=2,init_dim=4"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_data(tmp_path / "data", count=6, notes=200)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(session: str, batch: int, *more: str) -> list[str]:
    common = [
        "-d",
        "data",
        "-w",
        "20",
        "-p",
        SIZES,
        "-l",
        "0.01",
        "--device",
        "cpu",
        "--carry",
        "3",
    ]
    common += ["--precision", "fp32", "-t", "-c", "0.7"]
    return ["-s", session, "-b", str(batch), *common, *more]


def processes(session: str, batch: int, *more: str) -> Iterator[subprocess.Popen[str]]:
    """The processes as torchrun starts them, with its environment."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for rank in range(2):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        environment = {key: str(value) for key, value in told.items()}
        environment |= {"MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "1"}
        yield subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments(session, batch, *more)],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def finished(runs: Iterator[subprocess.Popen[str]]) -> list[str]:
    """What each said, once all have ended well."""
    started = list(runs)
    said = [run.communicate(timeout=120) for run in started]
    assert [run.returncode for run in started] == [0, 0], said
    return [out for out, _ in said]


def losses(folder: Path) -> list[float]:
    """What a run logged at each step."""
    board = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in folder.iterdir():
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = board.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            found += [v.simple_value for v in event.summary.value if v.tag == "model/loss"]
    return found


def test_two_processes_with_half_the_batch_learn_as_one_does(here: Path) -> None:
    assert train.main(arguments("one.sess", 4, "--max-steps", "50")) == 0
    leader, other = finished(processes("two.sess", 2, "--max-steps", "50"))
    assert "two.sess: step 50" in leader
    assert other == ""
    one, both = (losses(here / "runs" / name) for name in ("one", "two"))
    assert len(one) == len(both) == 50
    np.testing.assert_allclose(both, one, atol=1e-3)
    ours, theirs = Session.load("one.sess"), Session.load("two.sess")
    assert theirs.training["step"] == 50
    assert theirs.training["best"] == pytest.approx(ours.training["best"], abs=1e-3)
    assert theirs.training["events"] == ours.training["events"] == 50 * 4 * 20
    assert ours.hidden_state is not None
    assert theirs.hidden_state is not None
    torch.testing.assert_close(theirs.hidden_state, ours.hidden_state, atol=1e-2, rtol=0)
    assert train.main(arguments("two.sess", 4, "--max-steps", "52")) == 0  # one goes on for two
    assert Session.load("two.sess").training["step"] == 52


@pytest.mark.slow
def test_two_processes_stopped_and_started_again_end_as_if_they_had_not_been(here: Path) -> None:
    leader, other = processes("parts.sess", 2, "--max-steps", "150")
    assert leader.stdout is not None
    while "to learn" not in leader.stdout.readline():
        pass
    time.sleep(0.2)
    for run in (leader, other):  # as a terminal does
        run.send_signal(signal.SIGINT)
    finished(iter((leader, other)))
    assert 0 < Session.load("parts.sess").training["step"] < 150
    for name in ("parts.sess", "whole.sess"):
        finished(processes(name, 2, "--max-steps", "150"))
    parts, whole = Session.load("parts.sess"), Session.load("whole.sess")
    assert parts.training["step"] == whole.training["step"] == 150
    assert all(torch.equal(parts.state[name], value) for name, value in whole.state.items())


def test_when_a_process_is_lost_the_others_end_with_the_session_intact(here: Path) -> None:
    leader, other = processes("two.sess", 2, "-i", "0")
    assert leader.stdout is not None
    while "to learn" not in leader.stdout.readline():
        pass
    time.sleep(1.0)
    other.kill()
    other.communicate()
    _, told = leader.communicate(timeout=60)
    assert leader.returncode == 1
    assert re.search("another process of the training is lost", told), told
    assert Session.load("two.sess").training["step"] > 0


@dataclass(frozen=True)
class Follower(Team):
    """A second process, alone here; its leader is lost, or says `said` and then the same."""

    said: tuple[float, ...] | None = None

    def told(self, values: Sequence[float]) -> list[float]:
        """What the leader says."""
        if self.said is None:
            raise RuntimeError("Connection closed by peer")
        return [*self.said, *values[len(self.said) :]]

    def summed(self, values: np.ndarray) -> np.ndarray:
        """With zeros of the leader."""
        return values

    def close(self) -> None:
        """There is nothing to leave."""


@pytest.mark.parametrize(
    ("said", "word"), [(None, "process of the training is lost"), ((7.0,), "same files")]
)
def test_a_process_that_can_not_go_with_its_leader_ends_with_a_sentence(
    here: Path,
    said: tuple[float, ...] | None,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train.main(arguments("two.sess", 2, "--max-steps", "2")) == 0
    monkeypatch.setattr(Team, "joined", lambda: Follower(1, 2, said))
    assert train.main(arguments("two.sess", 2)) == 1
    assert word in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_starts_the_processes(here: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command = [*torchrun, str(ROOT / "train.py"), *arguments("two.sess", 2, "--max-steps", "5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two.sess: step 5") == 1


def test_one_process_is_a_team_of_its_own() -> None:
    team = Team.joined()
    assert (team.rank, team.size, team.leads) == (0, 1, True)
    assert team.told([1.5, 2]) == [1.5, 2]


def test_a_process_of_a_team_ends_at_once_before_gloo_can_ask_for_an_interpreter_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_once: list[int] = []
    monkeypatch.setattr(os, "_exit", at_once.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        end(3)
    assert at_once == [3]
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(SystemExit) as ended:
        end(4)
    assert ended.value.code == 4
    assert at_once == [3]
