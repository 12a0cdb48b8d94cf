"""Progress lines in the terminal."""

import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model import PerformanceRNN, Session
from sequence import CURRENT
from tools.synthetic_data import TINY_SIZES
from training.evaluate import EvalResult
from training.logger import Logger, format_reference, format_time, get_log_dir
from training.trainer import Schedule, TrainState

RESULT = EvalResult(np.ones(240), np.ones(240), np.full(240, 2.5), CURRENT)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return step numbers from 1 on; each next one sets the clock forward by 10 s."""
    seconds = [0]
    monkeypatch.setattr("training.logger.time.monotonic", lambda: seconds[0])

    def tick() -> Iterator[int]:
        for number in itertools.count(1):
            seconds[0] += 10
            yield number

    return tick()


def test_terminal_progress_overwrites_its_line(
    clock: Iterator[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Logger(Schedule(1.0, max_steps=81)) as logger:
        for step in itertools.islice(clock, 5):
            # the speed is that of this run; the seconds of earlier runs do not count
            state = TrainState(step, seconds=1e6, events=92_100 * step)
            logger.log_step(state, 2.0 + step, 0.5, 0.0036)
        logger.log_validation(state, RESULT, is_best=True)
    lines = terminal.getvalue().split("\n")
    moving = next(line for line in lines if "step 5 | loss" in line)
    assert moving.count("\r") >= 5
    assert "step 5 | loss 5.000 | lr 3.6e-03 | 9,210 events/s | 12:40 left" in moving
    assert any(
        line.endswith("step 5 | val 2.500 nats/event (6.82 nats/note) | best so far")
        for line in lines
    )


def test_file_progress_has_one_line_per_interval(
    clock: Iterator[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with Logger(Schedule(1.0)) as logger:
        for step in itertools.islice(clock, 7):
            logger.log_step(TrainState(step, 10.0 * step, 1000 * step), 2.0, 0.5, 0.001)
        logger.log_validation(TrainState(7, best=2.25), RESULT, is_best=False)
    assert capsys.readouterr().out.splitlines() == [
        "step 4 | loss 2.000 | lr 1.0e-03 | 100 events/s | 0:40 elapsed",
        "step 7 | val 2.500 nats/event (6.82 nats/note) | best 2.250",
    ]


def test_progress_has_the_time_of_a_pass_and_validations_their_reference(
    clock: Iterator[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with Logger(Schedule(1.0), pass_events=6000, reference="untrained 5.48") as logger:
        for step in itertools.islice(clock, 4):  # 100 events/s
            logger.log_step(TrainState(step, 10.0 * step, 1000 * step), 2.0, 0.5, 0.001)
        logger.log_validation(TrainState(4, best=2.25), RESULT, is_best=False)
    progress_line, validation = capsys.readouterr().out.splitlines()
    assert progress_line.endswith("| 100 events/s | 1:00 per pass | 0:40 elapsed")
    assert validation.endswith("| best 2.250 | untrained 5.48")


def test_reference_has_the_loss_of_the_shipped_session(tmp_path: Path) -> None:
    path = tmp_path / "shipped.sess"
    assert format_reference(240, path) == "untrained 5.48"
    network = PerformanceRNN(TINY_SIZES).init_weights()
    session = Session(TINY_SIZES, network.state_dict(), 2, training={"best": 2.034})
    session.save(path)
    assert format_reference(240, path) == "untrained 5.48, shipped.sess 2.03 on its own data"


def test_format_time() -> None:
    assert [format_time(seconds) for seconds in (0, 59.6, 760, 3760)] == [
        *("0:00", "1:00", "12:40", "1:02:40")
    ]


def test_log_dir_is_named_after_the_session() -> None:
    assert get_log_dir(Path("model.sess")) == Path("runs/model")
    assert get_log_dir(Path("folder/model.sess")) == Path("runs/folder/model")


def test_no_two_sessions_share_a_log_dir(tmp_path: Path) -> None:
    names = ("m", "m.sess", "m.bin", "a/m.sess", "a-m.sess", "a/b/m.sess", "c/b/m.sess")
    paths = [*map(Path, names), tmp_path / "a" / "m.sess", tmp_path / "b" / "a" / "m.sess"]
    folders = {get_log_dir(path) for path in paths}
    assert len(folders) == len(paths)
    assert all(folder.parts[0] == "runs" for folder in folders)
    (tmp_path / "link.sess").symlink_to(tmp_path / "a" / "m.sess")
    assert get_log_dir(tmp_path / "link.sess") in folders
