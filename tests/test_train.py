"""The training command: what it learns, keeps, says and refuses."""

import contextlib
import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import config
import train
import utils
from config import TrainConfig
from corpus.batches import WindowSampler
from corpus.performance import Corpus, Performance
from model import PerformanceRNN, Session
from sequence import CURRENT
from tools.synthetic_data import TINY_MODEL, TINY_SIZES, performance, write_data
from training import logger as board
from training.evaluate import EvalResult, evaluate
from training.learner import Learner
from training.logger import TrainState
from training.trainer import Run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("train") / "data", count=4, notes=200)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(data: Path, *more: str) -> list[str]:
    small = ["-b", "4", "-w", "20", "-p", TINY_MODEL, "--no-enable-logging", "--warm-up", "2"]
    return ["-s", "m.sess", "-d", str(data), "--device", "cpu", *small, *more]


def run(data: Path, *more: str) -> int:
    return train.main(arguments(data, *more))


def weights(path: str = "m.sess") -> dict[str, torch.Tensor]:
    return Session.load(path).state


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_network_learns(here: Path, data: Path) -> None:
    assert run(data, "--max-steps", "1", "-v", str(data)) == 0
    first = Session.load("m.sess").training["best"]
    assert run(data, "--max-steps", "150", "-l", "0.01", "-v", str(data)) == 0
    assert Session.load("m.sess").training["best"] < first - 1


def test_a_missing_session_and_its_folder_are_made_at_once(here: Path, data: Path) -> None:
    options = train.parse_args([*arguments(data), "-s", "deep/down/m.sess"])
    train.open_run(options)
    assert Session.load("deep/down/m.sess").config == dataclasses.replace(TINY_SIZES)


def interrupted(data: Path, at: int, *more: str) -> None:
    """Run the command, with a Ctrl-C after step `at`."""
    options = train.parse_args(arguments(data, *more))
    run, ending = train.open_run(options), train.Ending()
    learn = run.learn

    def learn_and_wish() -> tuple[torch.Tensor, torch.Tensor]:
        if run.reached.step + 1 == at:
            signal.raise_signal(signal.SIGINT)
        return learn()

    run.learn = learn_and_wish  # type: ignore[method-assign]
    try:
        train.train(run, train.Board(options), ending)
    finally:
        ending.restore()


def test_interrupted_and_resumed_equals_uninterrupted_bit_by_bit(here: Path, data: Path) -> None:
    more = ("--max-steps", "12", "-t", "-c", "0.5")
    interrupted(data, 5, *more)
    assert Session.load("m.sess").training["step"] == 5
    torch.manual_seed(999)  # another process would know nothing of the first one's dice
    assert run(data, *more) == 0
    assert run(data, *more, "-s", "whole.sess") == 0
    assert same(weights(), weights("whole.sess"))


def test_the_best_is_kept_beside_the_last(here: Path, data: Path) -> None:
    more = ("-v", str(data), "--validation-interval", "0.000001", "--max-steps", "30")
    assert run(data, *more, "-l", "0.01") == 0
    best = Session.load("m.best.sess")
    assert best.optimizer_state is None
    judged = evaluate(
        best.build_model(torch.device("cpu")), Corpus.load(sorted(data.iterdir())), 1000
    )
    assert judged.nats_per_event == pytest.approx(best.training["best"], abs=1e-6)
    assert best.training["best"] == Session.load("m.sess").training["best"]


def test_a_run_at_its_end_says_so_and_changes_nothing(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "2")
    before = Path("m.sess").read_bytes()
    capsys.readouterr()
    assert run(data, "--max-steps", "2") == 0
    assert "at its end already" in capsys.readouterr().out
    assert Path("m.sess").read_bytes() == before


def test_a_flag_given_on_resume_is_obeyed(here: Path, data: Path) -> None:
    run(data, "--max-steps", "2")
    before = weights()
    run(data, "--max-steps", "3", "-l", "1e-30")
    assert all(torch.allclose(v, before[k], atol=1e-12) for k, v in weights().items())
    run(data, "--max-steps", "4", "-l", "0.01")
    assert not torch.allclose(weights()["output_fc.bias"], before["output_fc.bias"], atol=1e-5)


def test_the_optimizer_can_be_reset(here: Path, data: Path) -> None:
    run(data, "--max-steps", "3")
    options = train.parse_args(arguments(data))
    assert len(train.open_run(options).learner.optimizer.state) > 0
    reset = dataclasses.replace(options, reset_optimizer=True)
    assert len(train.open_run(reset).learner.optimizer.state) == 0


def test_what_a_run_does_in_another_way_than_before_is_said(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "2", "-l", "0.01", "--precision", "fp32")
    capsys.readouterr()
    run(data, "--max-steps", "3", "-l", "0.01")
    assert "from now on" not in capsys.readouterr().out
    other = ("--precision", "bf16", "-r", "-p", "gru_dropout=0.25")
    run(data, "--max-steps", "4", "-l", "0.02", "-t", *other)
    told = capsys.readouterr().out
    assert "learning rate: 0.02 from now on, 0.01 before" in told
    assert "use transposition: True from now on, False before" in told
    assert "precision: bf16 from now on, fp32 before" in told
    assert "gru dropout: 0.25 from now on, 0.0 before" in told
    assert "Adam's state is forgotten" in told
    assert told.count("from now on") == 4


def test_the_hidden_state_goes_on_only_over_the_windows_it_comes_from(
    here: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "2")
    others = write_data(tmp_path / "others", count=6, notes=150)

    def carried(folder: Path, *more: str) -> bool:
        capsys.readouterr()
        return train.open_run(train.parse_args(arguments(folder, *more))).learner.hidden is not None

    assert carried(data, "-l", "0.5")
    assert "other performances" not in capsys.readouterr().out
    assert not carried(data, "--seed", "9")
    assert not carried(data, "-w", "19")
    assert not carried(data, "--stretch", "0.1")
    assert not carried(others, "-v", str(data))
    assert "other performances to learn from than before" in capsys.readouterr().out


def test_patience_ends_a_run_that_gets_no_better(
    here: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, costs = np.ones((2, 240))
    costs_later = iter(costs * cost for cost in (3.0, 2.0, 2.5, 2.4, 2.3, 2.2))
    monkeypatch.setattr(
        Run, "evaluate", lambda _: EvalResult(counts, counts, next(costs_later), CURRENT)
    )
    often = ("-v", str(data), "--validation-interval", "0.000001", "--patience", "3")
    assert run(data, *often) == 0
    reached = Session.load("m.sess").training
    assert (reached["step"], reached["best"], reached["worse"]) == (5, 2.0, 3)
    assert run(data, *often) == 0
    assert Session.load("m.sess").training["step"] == 5


def test_patience_with_nothing_to_judge_by_is_a_sentence(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, "--validation-share", "0", "--patience", "3") == 1
    assert "--patience can not end the training" in said(capsys)
    assert not Path("m.sess").exists()


def test_a_session_made_from_another_begins_where_that_is(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "20", "-l", "0.01", "-v", str(data))
    base = Session.load("m.sess")
    assert base.ema_state is not None
    Path("m.sess").rename("base.sess")
    Path("m.best.sess").unlink()
    capsys.readouterr()
    options = train.parse_args(arguments(data, "--init-from", "base.sess"))
    assert (options.learning_rate, options.use_transposition, options.patience) == (5e-4, True, 5)
    flags = ("--init-from", "b", "-l", "0.004", "--no-use-transposition")
    given = train.parse_args(arguments(data, *flags))
    assert (given.learning_rate, given.use_transposition) == (4e-3, False)
    opened = train.open_run(options)
    assert "new session m.sess from base.sess" in capsys.readouterr().out
    assert same(base.ema_state, opened.learner.model.state_dict())
    assert len(opened.learner.optimizer.state) == 0
    assert opened.reached.step == 0
    assert run(data, "--init-from", "base.sess", "--max-steps", "2") == 0
    assert Session.load("m.sess").training["step"] == 2
    assert run(data, "--init-from", "nowhere.sess", "-s", "n.sess") == 1
    assert "nowhere.sess" in capsys.readouterr().err
    assert not Path("n.sess").exists()


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    options = TrainConfig(learning_rate=1.0, warm_up=10, max_steps=100)
    rates = [train.learning_rate(options, train.TrainState(step=step)) for step in range(101)]
    assert rates[0] < 0.1
    assert max(rates) == rates[10] == pytest.approx(0.9)
    assert rates[100] == 0
    assert np.all(np.diff(rates[10:]) < 0)
    short = TrainConfig(learning_rate=1.0, warm_up=1000, max_steps=100)
    assert train.learning_rate(short, train.TrainState(step=10)) == pytest.approx(0.9)
    endless = TrainConfig(learning_rate=1.0, warm_up=0)
    assert train.learning_rate(endless, train.TrainState(step=10**6)) == 1.0


@pytest.mark.parametrize("ratio", ["1.0", "0.5"])
def test_teacher_forcing_and_logs_run_through_the_command(
    here: Path, data: Path, ratio: str
) -> None:
    assert run(data, "--max-steps", "2", "-T", ratio, "-L") == 0
    logs = b"".join(path.read_bytes() for path in (here / "runs" / "m").iterdir())
    assert b"model/loss" in logs
    assert b"model/norm" in logs
    assert b"PNG" in logs
    for tag in (b"loss", b"perplexity", b"bits_per_second", b"accuracy_note_off"):
        assert b"validation/" + tag in logs
    assert b"perplexity" in logs


def by_hand(
    model: PerformanceRNN, pieces: list[Performance], controlled: bool = True
) -> tuple[float, float, int]:
    """Nats, hits and notes, one performance after the other and one event at a time."""
    nats, hits, notes = 0.0, 0.0, 0
    for piece in pieces:
        hidden = model.init_hidden(torch.zeros(1, model.config.init_dim))
        heard = torch.tensor([[239]])
        for event, row in zip(piece.events.tolist(), piece.controls, strict=True):
            control = torch.zeros(1, 1, 24)
            control[0, 0, row[0]] = 1
            control[0, 0, 12:] = torch.from_numpy(row[1:] / row[1:].sum())
            logits, hidden = model(heard, hidden, control if controlled else None)
            nats += float(functional.cross_entropy(logits[0], torch.tensor([event])))
            hits += int(logits.argmax()) == event
            notes += event < 88
            heard = torch.tensor([[event]])
    return nats, hits, notes


@torch.no_grad()
def test_judging_carries_the_hidden_state_through_pieces_of_any_length() -> None:
    torch.manual_seed(0)
    model = PerformanceRNN(TINY_SIZES).eval()
    model.event_embedding.weight.data *= 30  # so that a single wrong event is seen
    random = np.random.default_rng(0)
    pieces = [performance(random.integers(0, 240, size)) for size in (5, 300, 128, 1)]
    judged = evaluate(model, Corpus(pieces))
    nats, hits, notes = by_hand(model, pieces)
    assert judged.events == 434
    assert judged.nats == pytest.approx(nats, rel=1e-6)
    assert (judged.correct.sum(), judged.notes) == (hits, notes)
    blind = evaluate(model, Corpus(pieces), controlled=False)
    assert blind.nats == pytest.approx(by_hand(model, pieces, controlled=False)[0], rel=1e-6)
    assert blind.nats != judged.nats
    short = evaluate(model, Corpus(pieces), 3)
    assert short.events == 3 + 3 + 3 + 1
    assert short.nats < judged.nats


def test_a_judgement_says_its_figures_in_every_unit() -> None:
    counts, correct, costs = np.zeros((3, 240))
    counts[[60, 148, 180, 239]] = (4, 2, 1, 3)  # note ons, offs, velocity, longest shift
    correct[[60, 239]] = (1, 3)
    costs[[60, 148]] = (12.0, 8.0)
    found = EvalResult(counts, correct, costs, CURRENT)
    assert (found.events, found.notes, found.nats) == (10, 4, 20.0)
    assert found.seconds == pytest.approx(3 * 1.171)
    assert found.nats_per_note == 5.0
    assert found.perplexity == pytest.approx(math.exp(2))
    assert found.bits_per_second == pytest.approx(20 * 1.442695 / 3.513)
    assert found.accuracies() == {
        "note_on": 0.25,
        "note_off": 0.0,
        "velocity": 0.0,
        "time_shift": 1.0,
    }
    assert "accuracy by kind: note on 25.0%, note off 0.0%" in "\n".join(found.lines())


def test_a_network_that_is_far_off_is_judged_too() -> None:
    counts, correct, costs = np.zeros((3, 240))
    counts[0], costs[0] = 1, 800.0
    assert EvalResult(counts, correct, costs, CURRENT).perplexity == math.inf


def test_evaluation_tells_of_a_session_and_changes_nothing(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "2")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    told = []
    for _ in range(2):
        capsys.readouterr()
        assert run(data, "--evaluate") == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    for word in (
        "perplexity",
        "bits a second",
        "without control",
        "note off",
        "A minor",
        "density 9",
    ):
        assert word in told[0]
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_on_a_terminal_one_line_moves_and_others_stay(here: Path, data: Path) -> None:
    ours, theirs = os.openpty()
    command = [sys.executable, str(ROOT / "train.py"), *arguments(data, "--max-steps", "5")]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # what a terminal says when it is closed
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    lines = shown.decode().replace("\r\n", "\n").split("\n")
    assert running.returncode == 0, shown.decode()
    moving = next(line for line in lines if "step 5, loss" in line)
    assert moving.count("\r") >= 5
    assert "events/s" in moving
    assert "min left" in moving
    assert any("validation: " in line.split("\r")[-1] for line in lines)
    assert lines[-2].endswith("to hear it: python3 generate.py -s m.best.sess")


def test_the_time_left_is_by_the_pace_of_now_not_of_the_session_before(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0  # a clock that goes on by 40 s with each step
    monkeypatch.setattr("training.logger.time.monotonic", lambda: now)
    shown = train.Board(train.parse_args(["--max-steps", "1012", "--no-enable-logging"]))
    for step in (1001, 1002):
        now += 40
        reached = TrainState(step, seconds=1e6, events=400 * step)
        shown.step(reached, loss=1.0, norm=1.0, rate=0.1)
    assert "10 events/s, 6.7 min left" in capsys.readouterr().out


def test_an_event_that_is_none_is_a_sentence_when_judging_too() -> None:
    model = PerformanceRNN(TINY_SIZES)
    with pytest.raises(ValueError, match="250"):
        evaluate(model, Corpus([performance(np.full(20, 250))]))


# ------------------------------------------------------------------------------ refusals


def said(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    return error


def test_too_little_data_is_an_error_with_both_numbers(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, "-b", "60000") == 1
    error = said(capsys)
    assert "60000" in error
    assert "windows of 20 events" in error


def test_an_empty_dataset_says_what_fetches_data(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (here / "none", here):
        assert run(folder) == 1
        assert "scripts/maestro_scraper.sh" in said(capsys)
    assert not Path("m.sess").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"my only copy"])
def test_an_unreadable_session_is_an_error_and_is_never_overwritten(
    here: Path, data: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("m.sess").write_bytes(content)
    assert run(data, "--max-steps", "1") == 1
    assert "m.sess" in said(capsys)
    assert Path("m.sess").read_bytes() == content


def test_other_sizes_than_the_session_has_are_an_error(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "1")
    capsys.readouterr()
    assert train.main([*arguments(data), "-p", "hidden_dim=32"]) == 1
    assert "hidden_dim=16" in said(capsys)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_session(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, "--max-steps", "2")
    before = weights()
    monkeypatch.setattr(
        Learner,
        "_loss",
        lambda learner, *_: (learner.model.output_fc.bias.sum() * math.nan, learner.hidden),
    )
    capsys.readouterr()
    assert run(data, "--max-steps", "5") == 1
    told = said(capsys)
    assert "lower -l" in told
    assert "at step 3;" in told
    assert same(before, weights())


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_stopped_from_outside_the_command_saves_and_ends_well(
    here: Path, data: Path, number: signal.Signals
) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *arguments(data, "-i", "1000")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert config.LEGACY_RECIPE in running.stdout.readline()
        assert "new session" in running.stdout.readline()
        assert "to learn" in running.stdout.readline()
        time.sleep(1.0)
        running.send_signal(number)
        rest = running.stdout.read()
    assert running.returncode == 0, rest
    assert "to hear it: python3 generate.py -s m.sess" in rest
    assert Session.load("m.sess").training["step"] > 0


def test_killed_between_two_saves_a_run_goes_on_from_the_last_save(here: Path, data: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *arguments(data, "-i", "0.2")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        while not Path("m.sess").exists() or Session.load("m.sess").training.get("step", 0) < 2:
            assert running.poll() is None
            time.sleep(0.1)
        running.kill()
    step = int(Session.load("m.sess").training["step"])
    assert run(data, "--max-steps", str(step + 1)) == 0
    assert Session.load("m.sess").training["step"] == step + 1


@pytest.mark.parametrize("taken", ["m.sess", "m.best.sess"])
def test_a_second_training_of_a_session_refuses_and_reading_does_not(
    here: Path, data: Path, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, "--max-steps", "1") == 0
    before = Path("m.sess").read_bytes()
    with utils.lock_file(taken):
        assert run(data, "--max-steps", "2") == 1
        assert f"{taken}: another process is writing it" in said(capsys)
        assert run(data, "--max-steps", "2", "--export", taken) == 1
        assert Path("m.sess").read_bytes() == before
        assert run(data, "--evaluate") == 0
    assert run(data, "--max-steps", "2") == 0
    assert set(os.listdir()) == {"m.sess", "m.best.sess"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_where_logs_can_not_be_written_any_more_training_says_so_once_and_goes_on(
    here: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(board._LogFiles, "_plain", lambda *_: "/dev/full")
    monkeypatch.setattr(os, "makedirs", lambda *_, **__: None)
    assert run(data, "--enable-logging", "--max-steps", "60") == 0
    assert capsys.readouterr().out.count("no more logs: No space left on device") == 1
    assert Session.load("m.sess").training["step"] == 60


def test_a_folder_that_can_not_be_written_is_said_before_training(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert train.main([*arguments(data), "-s", "file/m.sess"]) == 1
    assert "'file'" in said(capsys)


# ------------------------------------------------------------------- what a run may not lose


def opened(data: Path, *more: str) -> tuple[train.Run, train.Board]:
    options = train.parse_args(arguments(data, *more))
    return train.open_run(options), train.Board(options)


class Accident(Exception):
    """Something that nobody thought of."""


@pytest.mark.parametrize("interval", ["0", "1000"])
def test_the_session_is_saved_every_interval_and_after_an_accident(
    here: Path, data: Path, interval: str
) -> None:
    run, board = opened(data, "-i", interval)
    learn, on_disk = run.learn, []

    def learn_four_times() -> tuple[torch.Tensor, torch.Tensor]:
        on_disk.append(Session.load("m.sess").training.get("step", 0))
        if len(on_disk) == 5:
            raise Accident
        return learn()

    run.learn = learn_four_times  # type: ignore[method-assign]
    with pytest.raises(Accident):
        train.train(run, board, train.Ending())
    assert on_disk == ([0, 1, 2, 3, 4] if interval == "0" else [0] * 5)
    assert Session.load("m.sess").training["step"] == 4


def test_a_run_that_is_killed_after_a_judgement_remembers_it(here: Path, data: Path) -> None:
    run, board = opened(data, "-i", "1000", "--validation-interval", "0.000001", "-v", str(data))
    learn = run.learn

    def learn_once() -> tuple[torch.Tensor, torch.Tensor]:
        if run.reached.step == 1:
            raise KeyboardInterrupt
        return learn()

    run.learn = learn_once  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train.train(run, board, train.Ending())
    best = Session.load("m.best.sess").training["best"]
    assert Session.load("m.sess").training.get("best") == best


def test_a_spoiled_network_never_replaces_a_good_one(here: Path, data: Path) -> None:
    run, board = opened(data, "-i", "0")
    before, learn = weights(), run.learn

    def spoil() -> tuple[torch.Tensor, torch.Tensor]:
        result = learn()
        run.learner.model.output_fc.bias.data[0] = math.inf
        return result

    run.learn = spoil  # type: ignore[method-assign]
    with pytest.raises(train.NotFinite, match="lower -l"):
        train.train(run, board, train.Ending())
    assert same(before, weights())


def test_a_new_session_does_not_overwrite_the_best_of_an_old_one(
    here: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "1")
    Path("m.sess").unlink()
    best = Path("m.best.sess").read_bytes()
    capsys.readouterr()
    assert run(data, "--max-steps", "1") == 1
    assert "m.best.sess" in said(capsys)
    assert Path("m.best.sess").read_bytes() == best


def test_a_best_by_other_judges_does_not_count(
    here: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "30", "-l", "0.01", "-v", str(data))
    first = Session.load("m.sess").training["best"]
    others = write_data(tmp_path / "others", count=1, notes=30)
    run(data, "--max-steps", "31", "-l", "0.01", "-v", str(others))
    assert "search for the best starts anew" in capsys.readouterr().out
    assert Session.load("m.sess").training["best"] != first


def test_the_options_reach_the_batches(
    here: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, batch = [], WindowSampler.sample_batch

    def record(windows: WindowSampler, *how: object) -> object:
        seen.append(how)
        return batch(windows, *how)  # type: ignore[arg-type]

    monkeypatch.setattr(WindowSampler, "sample_batch", record)
    run(data, "--max-steps", "2", "-t", "-c", "0.25", "--seed", "8")
    assert seen[:2] == [(4, 8, 0, 0.25, True), (4, 8, 1, 0.25, True)]


def test_an_exported_network_is_half_as_large_and_plays_the_same(here: Path, data: Path) -> None:
    run(data, "--max-steps", "2")
    assert run(data, "--export", "small.sess") == 0
    small = Session.load("small.sess")
    assert {weight.dtype for weight in small.state.values()} == {torch.float16}
    assert small.optimizer_state is None
    averaged = Session.load("m.sess").ema_state
    assert averaged is not None
    for name, weight in averaged.items():
        off = (small.state[name].float() - weight).abs()
        coarse = name.startswith("gru.weight") and name != "gru.weight_ih_l0"  # 8 bits, by rows
        level = weight.abs().amax(dim=1, keepdim=True) / 127 if coarse else torch.zeros(1)
        assert (off <= level / 2 + 1e-3 * weight.abs() + 1e-6).all()
        assert bool((off > 2e-3 * weight.abs() + 1e-6).any()) == coarse


@pytest.mark.parametrize("training", [{"step": "x"}, {"best": None}, {"seconds": 3}])
def test_a_session_with_odd_contents_is_a_sentence(
    here: Path, data: Path, training: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    state = PerformanceRNN(TINY_SIZES).state_dict()
    Session(TINY_SIZES, state, 2, None, training).save("m.sess")
    assert run(data, "--max-steps", "1") == 1
    assert next(iter(training)) in said(capsys)
