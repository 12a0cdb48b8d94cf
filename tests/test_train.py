"""The command train.py: sessions, resuming, options, messages and errors."""

import dataclasses
import functools
import importlib.util
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
import utils
from config import TrainConfig
from corpus.batches import WindowSampler
from corpus.manifest import Manifest
from corpus.performance import Corpus, Performance
from model import PerformanceRNN, Session
from sequence import CURRENT
from tests.processes import start_process, train_until_signal
from tools.synthetic_data import TINY_MODEL, TINY_SIZES, write_data
from training import logger
from training.evaluate import EvalResult, evaluate
from training.trainer import StepResult, Trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("train") / "data", count=4, notes=200)


@pytest.fixture(scope="module")
def val_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("validate") / "data", count=2, notes=150)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_argv(data: Path, *more: str) -> list[str]:
    small = ["-b", "4", "-w", "20", "-p", TINY_MODEL, "--no-enable-logging", "--warm-up", "2"]
    small += ["--small-batches", "0"]
    fixed = ["--device", "cpu", "--precision", "fp32"]
    return ["-s", "m.sess", "-d", str(data), *fixed, *small, *more]


def run(data: Path, *more: str) -> int:
    return train.main(make_argv(data, *more))


def load_weights(path: str = "m.sess") -> dict[str, torch.Tensor]:
    return Session.load(path).state


def load_training(path: str = "m.sess") -> dict[str, Any]:
    return Session.load(path).training


def is_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def read_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed to stderr, which must be one line."""
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    return error


def call_before_step(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[int], object], number: int | None = None
) -> None:
    """Call action(step) before each optimizer step, or only before step `number`."""
    original = Trainer.step

    def step(trainer: Trainer, *arguments: Any) -> StepResult:
        if number in (None, trainer.state.step + 1):
            action(trainer.state.step + 1)
        return original(trainer, *arguments)

    monkeypatch.setattr(Trainer, "step", step)


def fail(step: int) -> None:
    raise AssertionError("an unexpected error")


# ------------------------------------------------------------------------ training, resuming


def test_training_lowers_the_loss(folder: Path, data: Path, val_data: Path) -> None:
    assert run(data, "--max-steps", "1", "-v", str(val_data)) == 0
    first = load_training()["best"]
    assert run(data, "--max-steps", "120", "-l", "0.02", "-v", str(val_data)) == 0
    assert load_training()["best"] < first - 1


def test_session_is_created_before_training(folder: Path, data: Path) -> None:
    train.prepare(train.parse_args(make_argv(data, "-s", "a/b/m.sess")))
    config = Session.load("a/b/m.sess").config
    assert config == dataclasses.replace(TINY_SIZES, control_dim=78, recall_dim=64)  # all controls


def test_stopped_and_resumed_equals_uninterrupted(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--max-steps", "9", "--small-batches", "4", "-t", "-c", "0.5")
    # the first stop is where the batches grow
    for number, step in ((signal.SIGINT, 4), (signal.SIGTERM, 7)):
        with monkeypatch.context() as patch:
            call_before_step(patch, lambda _: signal.raise_signal(number), step)  # noqa: B023
            assert run(data, *more) == 0
        assert load_training()["step"] == step
        assert "to hear it: python3 generate.py -s m.sess" in capsys.readouterr().out
        torch.manual_seed(999)  # a new process has another state of the random generator
    assert run(data, *more) == run(data, *more, "-s", "whole.sess") == 0
    assert is_equal(load_weights(), load_weights("whole.sess"))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_and_resumed_equals_uninterrupted(folder: Path, data: Path) -> None:
    main = functools.partial(train_until_signal, signal.SIGKILL, 4)
    limit = ("--max-steps", "5")
    process = start_process(main, make_argv(data, *limit, "-i", "0"), Path("output.txt"))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert load_training()["step"] == 3
    assert run(data, *limit) == run(data, *limit, "-s", "whole.sess") == 0
    assert is_equal(load_weights(), load_weights("whole.sess"))
    names = {"m.sess", "m.best.sess", "whole.sess", "whole.best.sess", "output.txt"}
    assert set(os.listdir()) == names


@pytest.mark.parametrize(("interval", "on_disk"), [("0", [0, 1, 2, 3]), ("1000", [0, 0, 0, 0])])
def test_session_is_saved_at_intervals(
    folder: Path,
    data: Path,
    interval: str,
    on_disk: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    call_before_step(monkeypatch, fail, 4)
    call_before_step(monkeypatch, lambda _: seen.append(load_training().get("step", 0)))
    assert run(data, "-i", interval) == 1
    assert seen == on_disk
    assert load_training()["step"] == 3


def test_finished_session_is_not_changed(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "2")
    before = Path("m.sess").read_bytes()
    capsys.readouterr()
    assert run(data, "--max-steps", "2") == 0
    assert "training is finished" in capsys.readouterr().out
    assert Path("m.sess").read_bytes() == before


def test_options_of_a_resumed_run_are_used(folder: Path, data: Path) -> None:
    run(data, "--max-steps", "1")
    before = load_weights()
    run(data, "--max-steps", "2", "-l", "1e-30")
    assert all(
        torch.allclose(value, before[name], atol=1e-12) for name, value in load_weights().items()
    )
    run(data, "--max-steps", "3", "-l", "0.01")
    assert not torch.allclose(load_weights()["output_fc.bias"], before["output_fc.bias"], atol=1e-5)


def test_optimizer_state_is_restored_or_dropped(folder: Path, data: Path) -> None:
    run(data, "--max-steps", "1")
    options = train.parse_args(make_argv(data))
    assert train.prepare(options)[0].optimizer.state
    assert not train.prepare(dataclasses.replace(options, reset_optimizer=True))[0].optimizer.state


def test_changed_options_are_reported(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "2", "-l", "0.01")
    capsys.readouterr()
    run(data, "--max-steps", "3", "-l", "0.01")
    assert "changed" not in capsys.readouterr().out
    other = ("--precision", "bf16", "-r", "-p", "gru_dropout=0.25")
    run(data, "--max-steps", "4", "-l", "0.02", "-t", *other)
    lines = capsys.readouterr().out.splitlines()
    assert (
        "changed since the last run: learning rate 0.01 -> 0.02, use transposition False -> True, "
        "gru dropout 0.0 -> 0.25, precision fp32 -> bf16, the state of the optimizer is dropped"
    ) in lines


def test_options_that_are_not_repeated_stay_as_they_were(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "1", "-l", "0.02", "-t", "-c", "0.5", "--carry", "2")
    before = load_training()["options"]
    assert (before["batch_size"], before["window_size"], before["carry"]) == (4, 20, 2)
    capsys.readouterr()
    argv = ["-s", "m.sess", "-d", str(data), "--no-enable-logging", "--device", "cpu"]
    assert train.main([*argv, "--max-steps", "2"]) == 0
    assert "changed" not in capsys.readouterr().out
    assert load_training()["options"] == before
    assert train.main([*argv, "--max-steps", "3", "-w", "24", "--no-use-transposition"]) == 0
    assert (
        "changed since the last run: window size 20 -> 24, use transposition True -> False"
    ) in capsys.readouterr().out.splitlines()


def test_stored_options_that_are_not_allowed_are_left_out(folder: Path, data: Path) -> None:
    run(data, "--max-steps", "1")
    session = Session.load("m.sess")
    session.training["options"] |= {"batch_size": -3, "carry": "4", "stride_size": 7}
    session.save("m.sess")
    options = train.parse_args(["-s", "m.sess"])
    default = TrainConfig()
    assert (options.batch_size, options.carry) == (default.batch_size, default.carry)
    assert options.stride_size == 7


def test_hidden_state_is_kept_for_continuing_windows(
    folder: Path, data: Path, val_data: Path, tmp_path: Path
) -> None:
    run(data, "--max-steps", "2")
    other = write_data(tmp_path / "other", count=6, notes=100)

    def is_carried(dataset: Path, *more: str) -> bool:
        trainer, _, _ = train.prepare(train.parse_args(make_argv(dataset, *more)))
        return trainer.hidden is not None

    assert is_carried(data, "-l", "0.5")
    assert not is_carried(data, "--seed", "9")
    assert not is_carried(data, "-w", "19")
    assert not is_carried(data, "--small-batches", "3")
    assert not is_carried(data, "--stretch", "0.1")
    assert not is_carried(other, "-v", str(val_data))


def test_sessions_of_older_versions_are_resumed(folder: Path, data: Path) -> None:
    run(data, "--max-steps", "3", "-c", "0.5", "--precision", "fp16")
    record = torch.load("m.sess", weights_only=True)
    entries = record["training"]
    for name in ("init_from", "seen", "seen_is_complete", "before", "lr_scale"):
        del entries[name]
    record["training"] = {
        **{name: entries[name] for name in ("step", "seconds", "events", "best", "precision")},
        "judges": entries["val_data"],
        "worse": entries["stale_validations"],
        "data": entries["train_data"],
        "seed": 0,
        **{f"option {name}": value for name, value in entries["options"].items()},
        **{f"scaler {name}": value for name, value in entries["scaler"].items()},
    }
    record["training"]["option averaging"] = record["training"].pop("option ema_decay")
    torch.save(record, "old.sess")

    old = Session.load("old.sess")
    assert old.training == {**entries, "seed": 0}
    assert old.control_ratio == 0.5
    for path in ("m.sess", "old.sess"):
        run(data, "--max-steps", "5", "-c", "0.5", "--precision", "fp16", "-s", path)
    assert is_equal(load_weights("m.sess"), load_weights("old.sess"))


def test_sessions_from_before_small_batches_keep_their_size(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "2")
    session = Session.load("m.sess")
    del session.training["options"]["small_batches"]
    session.save("m.sess")
    capsys.readouterr()
    argv = ["-s", "m.sess", "-d", str(data), "--device", "cpu"]
    options = train.parse_args(argv)
    assert options.small_batches == 0
    trainer, sampler, _ = train.prepare(options)
    assert trainer.hidden is not None
    assert "changed" not in capsys.readouterr().out
    with train.open_batches(trainer, sampler, options) as batches:
        assert tuple(next(batches).targets.shape) == (20, 4)


@pytest.mark.parametrize(("minutes", "shape"), [("2", (10, 2)), ("3", (20, 4))])
def test_short_trainings_begin_with_small_batches(
    folder: Path, data: Path, minutes: str, shape: tuple[int, int]
) -> None:
    argv = ["-s", "m.sess", "-d", str(data), "-b", "4", "-w", "20", "-p", TINY_MODEL]
    options = train.parse_args([*argv, "--device", "cpu", "--max-minutes", minutes])
    trainer, sampler, _ = train.prepare(options)
    with train.open_batches(trainer, sampler, options) as batches:
        assert tuple(next(batches).targets.shape) == shape


# ------------------------------------------------------------------------------- validation


def test_best_session_has_the_best_weights(folder: Path, data: Path, val_data: Path) -> None:
    more = ("-v", str(val_data), "--validation-interval", "0.000001", "--max-steps", "3")
    assert run(data, *more, "-l", "0.01") == 0
    best = Session.load("m.best.sess")
    result = evaluate(
        best.build_model(torch.device("cpu")), Corpus.load(sorted(val_data.iterdir()))
    )
    assert best.optimizer_state is None
    assert result.nats_per_event == pytest.approx(best.training["best"], abs=1e-6)
    assert best.training["best"] == load_training()["best"]


def test_best_session_is_saved_at_once(
    folder: Path, data: Path, val_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(step: int) -> None:
        raise KeyboardInterrupt  # like a kill, this saves nothing

    call_before_step(monkeypatch, interrupt, 2)
    assert run(data, "-i", "1000", "--validation-interval", "0.000001", "-v", str(val_data)) == 130
    assert load_training("m.best.sess")["best"] == load_training()["best"] < math.inf


def test_patience_ends_training(
    folder: Path, data: Path, val_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = np.ones(240)
    losses = iter((3.0, 2.0, 2.5, 2.4, 2.3, 2.2))
    monkeypatch.setattr(
        Trainer, "evaluate", lambda *_: EvalResult(counts, counts, next(losses) * counts, CURRENT)
    )
    more = ("-v", str(val_data), "--validation-interval", "0.000001", "--patience", "3")
    for _ in range(2):  # the second run has nothing to do
        assert run(data, *more) == 0
        entries = load_training()
        assert (entries["step"], entries["best"], entries["stale_validations"]) == (5, 2.0, 3)


def test_other_validation_data_resets_the_best(
    folder: Path, data: Path, val_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "10", "-l", "0.01", "-v", str(val_data))
    first = load_training()["best"]
    other = write_data(tmp_path / "other", count=1, notes=30)
    run(data, "--max-steps", "11", "-l", "0.01", "-v", str(other))
    assert "the validation data has changed" in capsys.readouterr().out
    assert load_training()["best"] != first


def test_evaluate_leaves_out_training_data(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("generation.control_metrics.EVAL_STEPS", 40)
    data = write_data(tmp_path / "data", count=6, notes=100)
    (data / "train").mkdir()
    for number in range(3):
        (data / f"{number}.mid.data").rename(data / "train" / f"{number}.mid.data")
    run(data / "train", "--max-steps", "1", "--validation-share", "0")

    def evaluate_on(dataset: Path, *more: str, session: str = "m.sess") -> tuple[str, str]:
        capsys.readouterr()
        assert train.main(["-s", session, "-d", str(dataset), "--evaluate", *more]) == 0
        lines = capsys.readouterr().out.splitlines()
        return lines[2], lines[3]

    note, header = evaluate_on(data)
    assert "3 of 6 performances were training data of this session and are left out" in note
    assert "*" not in header
    note, header = evaluate_on(data, "--include-training")
    assert note == "3 of 6 performances were training data of this session"
    assert "without control*" in header
    note, header = evaluate_on(data / "train")
    assert note == "3 of 3 performances were training data of this session"
    assert "without control*" in header


def test_sessions_without_record_may_have_seen_the_data(
    folder: Path,
    data: Path,
    val_data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("generation.control_metrics.EVAL_STEPS", 40)
    run(data, "--max-steps", "1", "--validation-share", "0")
    record = torch.load("m.sess", weights_only=True)
    for name in ("seen", "seen_is_complete"):
        del record["training"][name]
    torch.save(record, "old.sess")
    capsys.readouterr()
    assert train.main(["-s", "old.sess", "-d", str(val_data), "--evaluate"]) == 0
    output = capsys.readouterr().out
    assert "2 performances may be training data: the session does not record all of it" in output
    assert "without control?" in output
    assert train.main(["-s", "old.sess", "-d", str(data), "--evaluate"]) == 0
    assert "4 of 4 performances were training data" in capsys.readouterr().out
    run(val_data, "--max-steps", "2", "-s", "old.sess", "--validation-share", "0")
    assert not load_training("old.sess")["seen_is_complete"]


def test_record_of_training_data_grows_and_is_inherited(
    folder: Path, data: Path, val_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "1", "--validation-share", "0")
    run(val_data, "--max-steps", "2", "--validation-share", "0")
    run(data, "--init-from", "m.sess", "-s", "new.sess", "--max-steps", "1", "-v", str(val_data))
    assert (
        "2 of 2 files for validation were training data of this session before"
        in capsys.readouterr().out
    )
    sources = Corpus.load([*sorted(data.iterdir()), *sorted(val_data.iterdir())]).sources
    entries = load_training("new.sess")
    assert entries["seen"] == "".join(sorted(source[:12] for source in sources))
    assert entries["seen_is_complete"]


# --------------------------------------------------------- training and validation together


def test_validation_data_is_not_trained_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data", count=5, notes=200)
    (data / "validation").mkdir()
    (data / "4.mid.data").rename(data / "validation" / "4.mid.data")  # the same file
    shutil.copy(data / "3.mid.data", data / "validation" / "other.data")  # the same source
    run(data, "-v", str(data / "validation"), "--max-steps", "1")
    output = capsys.readouterr().out
    assert "3 performances are both in the training and the validation data: not trained" in output
    assert "in 3 files | val" in output
    assert len(load_training()["seen"]) == 3 * 12


def test_same_notes_of_another_midi_file_are_not_trained_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data", count=4, notes=200)
    copy = Performance.load(data / "1.mid.data")
    (tmp_path / "val").mkdir()
    content = dataclasses.replace(copy, source="0123456789abcdef").to_bytes()
    (tmp_path / "val" / "other.data").write_bytes(content)
    train_data, val_data = train.load_data(
        train.parse_args(make_argv(data, "-v", str(tmp_path / "val")))
    )
    assert "1 performance is both in the training and the validation" in capsys.readouterr().out
    assert (len(train_data), len(val_data)) == (3, 1)
    assert copy.source not in train_data.sources


def test_training_only_on_validation_data_is_an_error(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, "-v", str(data)) == 1
    assert "all training performances are validation data, too" in read_error_line(capsys)
    assert not Path("m.sess").exists()


def test_copies_are_not_held_out_and_trained_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data", count=3, notes=200)
    for path in sorted(data.iterdir()):
        shutil.copy(path, data / f"copy of {path.name}")
    train_data, val_data = train.load_data(train.parse_args(make_argv(data)))
    assert len(val_data) > 0
    assert not set(train_data.sources) & set(val_data.sources)


@pytest.mark.parametrize("option", ["-d", "-v", "--evaluate"])
def test_folder_that_is_not_complete_is_an_error(
    folder: Path, data: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_data(tmp_path / "other" / "train", count=3, notes=150)
    Manifest(is_complete=False).save(other.parent)
    run(data, "--max-steps", "1")
    capsys.readouterr()
    argv = ["-v", str(other)] if option == "-v" else ["-d", str(other), "-v", str(data)]
    assert run(data, *argv, *([option] if option == "--evaluate" else [])) == 1
    assert f"{str(other.parent)!r} is not complete" in read_error_line(capsys)


# ----------------------------------------------------------------- files that change meanwhile


@pytest.mark.parametrize("change", ["cut", "other content", "damaged event"])
def test_file_that_changes_ends_training_with_a_message(
    folder: Path,
    tmp_path: Path,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_data(tmp_path / "data", count=1, notes=2000)
    path = data / "0.mid.data"

    def damage(step: int) -> None:
        content = path.read_bytes()
        if change == "cut":
            os.truncate(path, 5000)
        elif change == "other content":
            path.write_bytes(bytes(len(content)))

    if change == "damaged event":
        events = Performance.load(path).events.tobytes()
        path.write_bytes(path.read_bytes().replace(events, b"\xff" * len(events)))
    else:
        call_before_step(monkeypatch, damage, 2)
    assert run(data, "--max-steps", "5", "-S", "1") == 1
    error = read_error_line(capsys)
    assert str(path) in error
    assert "run preprocess.py" in error or "preprocess.py makes it again" in error
    # the batch of step 3 may have been prepared before
    assert load_training().get("step", 0) in ((0,) if change == "damaged event" else (2, 3))


def test_replaced_file_does_not_end_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path / "data", count=2, notes=500)
    whole = run(data, "--max-steps", "5", "--validation-share", "0", "-s", "whole.sess")

    def replace_files(step: int) -> None:
        (data / "1.mid.data").unlink()
        utils.atomic_write(data / "0.mid.data", b"another file")

    call_before_step(monkeypatch, replace_files, 2)
    assert run(data, "--max-steps", "5", "--validation-share", "0") == whole == 0
    assert is_equal(load_weights(), load_weights("whole.sess"))


def test_evaluate_prints_metrics_and_changes_nothing(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("generation.control_metrics.EVAL_STEPS", 40)
    run(data, "--max-steps", "2")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outputs = []
    for _ in range(2):
        capsys.readouterr()
        assert run(data, "--evaluate") == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    for word in ("nats/event", "perplexity", "without control", "note off", "A minor", "density: "):
        assert word in outputs[0]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# ---------------------------------------------------------------------- options and commands


def test_init_from_starts_with_the_averaged_weights(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "5", "-l", "0.01", "-s", "base.sess")
    base = Session.load("base.sess")
    assert base.ema_state is not None
    options = train.parse_args(make_argv(data, "--init-from", "base.sess"))
    trainer, _, _ = train.prepare(options)
    assert "new session m.sess from base.sess" in capsys.readouterr().out
    assert is_equal(base.ema_state, trainer.model.state_dict())
    assert not trainer.optimizer.state
    assert trainer.state.step == 0


def test_init_from_can_add_recall(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "-p", f"{TINY_MODEL},recall_dim=0", "--max-steps", "3", "-s", "base.sess")
    base = Session.load("base.sess").build_model(torch.device("cpu"))
    argv = make_argv(data, "-p", "recall_dim=4", "--init-from", "base.sess")
    trainer, sampler, _ = train.prepare(train.parse_args(argv))
    assert sampler.corpus.has_recall
    inputs, hidden = torch.randint(0, 240, (9, 2)), torch.zeros(2, 2, 16)
    recall = torch.randint(0, 4, (9, 2, 10), dtype=torch.uint8)
    with torch.no_grad():
        expected, _ = base(inputs, hidden)
        logits, _ = trainer.model.eval()(inputs, hidden, recall=recall)
    torch.testing.assert_close(logits, expected)  # nothing is recalled yet
    assert trainer.model.recall_table.std() > 0.1  # but it can be learned
    assert run(data, "-p", "recall_dim=4", "--init-from", "base.sess", "--max-steps", "2") == 0
    assert Session.load("m.sess").config.recall_dim == 4
    capsys.readouterr()
    assert run(data, "-p", "recall_dim=5", "--max-steps", "4") == 1
    assert "recall_dim of a session cannot change, and m.sess has 4" in read_error_line(capsys)
    removing = ("-p", "recall_dim=0", "--init-from", "m.sess", "-s", "new.sess")
    assert run(data, *removing) == 1
    assert "m.sess has 4: leave it out" in read_error_line(capsys)


def test_init_from_missing_session_is_an_error(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, "--init-from", "nowhere.sess") == 1
    assert "nowhere.sess" in read_error_line(capsys)
    assert not Path("m.sess").exists()


def test_options_reach_the_batches(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, sample_batch = [], WindowSampler.sample_batch

    def record(sampler: WindowSampler, *arguments: Any) -> object:
        calls.append(arguments)
        return sample_batch(sampler, *arguments)

    monkeypatch.setattr(WindowSampler, "sample_batch", record)
    run(data, "--max-steps", "2", "-t", "-c", "0.25", "--seed", "8")
    assert calls[:2] == [(4, 8, 0, 0.25, True), (4, 8, 1, 0.25, True)]


def test_logs_contain_curves_and_a_picture(folder: Path, data: Path) -> None:
    assert run(data, "--max-steps", "2", "-T", "0.5", "-L") == 0
    content = b"".join(path.read_bytes() for path in (folder / "runs" / "m").iterdir())
    tags = ("loss/train", "loss/val", "lr", "grad_norm", "grad_clipped", "throughput")
    audio = ["audio/wav"] if importlib.util.find_spec("soundfile") else []
    for name in (*tags, "in nats/event", "PNG", *audio):
        assert name.encode() in content
    for name in ("perplexity", "bits_per_second", "accuracy_note_off"):
        assert f"validation/{name}".encode() in content


def test_metrics_file_goes_on_with_a_resumed_training(folder: Path, data: Path) -> None:
    for steps in ("2", "3"):
        assert run(data, "--max-steps", steps, "-L") == 0
    text = (folder / "runs" / "m" / "metrics.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["step"] for record in records if "loss/train" in record] == [1, 2, 3]
    assert [record["step"] for record in records if "loss/val" in record] == [2, 3]
    assert all(0 < record["loss/val"] < 10 for record in records if "loss/val" in record)


def test_fine_tuning_shows_the_loss_before_and_after(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "2")
    arguments = ("-s", "tuned.sess", "--init-from", "m.sess", "--max-steps")
    capsys.readouterr()
    assert run(data, *arguments, "2") == 0
    lines = capsys.readouterr().out.splitlines()
    (before,) = [line for line in lines if line.startswith("before training | val ")]
    loss = before.split()[4]
    assert "untrained 5.48" in before
    (end,) = [line for line in lines if line.startswith(f"before {loss}, now ")]
    assert float(end.split()[3]) <= float(loss)
    assert run(data, *arguments, "3") == 0  # resumed: the loss before is still known
    output = capsys.readouterr().out
    assert "before training" not in output
    assert f"before {loss}, now " in output


def test_fine_tuning_without_time_for_a_step_asks_for_more_minutes(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "2")
    capsys.readouterr()
    arguments = ("-s", "tuned.sess", "--init-from", "m.sess", "--max-minutes", "1e-6")
    assert run(data, *arguments) == 0
    output = capsys.readouterr().out
    assert "no time was left for a step: try a larger --max-minutes" in output
    assert "more music" not in output


def test_first_validation_comes_after_a_tenth_of_the_minutes(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, "--max-minutes", "0.05", "--validation-interval", "300") == 0
    lines = capsys.readouterr().out.splitlines()
    validations = [line for line in lines if "nats/event (" in line]
    steps = [int(line.split()[1]) for line in validations]
    assert len(steps) == 2  # the second at the end
    assert steps[0] < 0.6 * steps[1]


def test_evaluation_as_json(
    folder: Path, data: Path, val_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "1")
    capsys.readouterr()
    assert run(val_data, "--evaluate", "--json") == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    result = record["results"]["all controls"]
    assert f"{result['nats_per_event']:.4f}" in captured.err  # the table
    assert 0 < result["nats_per_event"] < 8
    assert set(result["accuracy_by_kind"]) == {"note_on", "note_off", "velocity", "time_shift"}
    assert (record["is_training_data"], record["performances"]) == (False, 2)
    assert run(val_data, "--evaluate", "--json", "--quiet") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == record
    assert captured.err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk_stops_the_logs_only(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_file = logger._LogFile
    monkeypatch.setattr(logger, "_LogFile", lambda path, mode="wb": open_file("/dev/full", mode))
    assert run(data, "-L", "--validation-share", "0", "--max-steps", "30") == 0
    # TensorBoard's file and metrics.jsonl
    assert capsys.readouterr().out.count("logging stopped: No space left on device") == 2
    assert load_training()["step"] == 30


def test_log_file_is_never_empty(tmp_path: Path) -> None:
    for name in ("unused", "used"):
        file = logger._LogFile(str(tmp_path / name))
        assert not (tmp_path / name).exists()
        if name == "used":
            file.write(b"x")
            assert (tmp_path / name).read_bytes() == b"x"
        file.close()
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_export_cannot_replace_its_session(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "1")
    before = Path("m.sess").read_bytes()
    assert run(data, "--export", "./m.sess") == 1
    assert "--export would replace" in capsys.readouterr().err
    assert Path("m.sess").read_bytes() == before


def test_session_needs_a_file_name(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["-s", "", "-d", str(data)])
    assert "argument -s/--session: '' is not a file name" in capsys.readouterr().err


def test_export_writes_averaged_half_precision(folder: Path, data: Path) -> None:
    run(data, "--max-steps", "2")
    assert run(data, "--export", "small.sess") == 0
    small, ema = Session.load("small.sess"), Session.load("m.sess").ema_state
    assert {weight.dtype for weight in small.state.values()} == {torch.float16}
    assert small.optimizer_state is None
    assert ema is not None
    for name, weight in ema.items():
        error = (small.state[name].float() - weight).abs()
        # generate.py rounds these matrices to 8 bits per row
        is_rounded = name.startswith("gru.weight") and name != "gru.weight_ih_l0"
        level = weight.abs().amax(dim=1, keepdim=True) / 127 if is_rounded else torch.zeros(1)
        assert (error <= level / 2 + 1e-3 * weight.abs() + 1e-6).all()
        assert bool((error > 2e-3 * weight.abs() + 1e-6).any()) == is_rounded


def test_exported_session_is_not_trained_further(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(data, "--max-steps", "1")
    assert run(data, "--export", "small.sess") == 0
    before = Path("small.sess").read_bytes()
    capsys.readouterr()
    assert run(data, "-s", "small.sess", "--max-steps", "2") == 1
    assert "use --init-from small.sess -s mine.sess" in read_error_line(capsys)
    assert Path("small.sess").read_bytes() == before
    assert run(data, "--init-from", "small.sess", "-s", "mine.sess", "--max-steps", "2") == 0
    assert run(data, "-s", "mine.sess", "--max-steps", "3") == 0


# ----------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("-b", "60000"), "windows of 20 events"),
        (("-d", "nowhere"), "scripts/maestro_scraper.sh"),
        (("-d", "."), "scripts/maestro_scraper.sh"),
        (("--validation-share", "0", "--patience", "3"), "--patience cannot end the training"),
        (("-s", "file/m.sess"), "file"),
    ],
)
def test_missing_data_creates_no_session(
    folder: Path,
    data: Path,
    more: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("file").touch()
    assert run(data, *more) == 1
    assert message in read_error_line(capsys)
    assert os.listdir() == ["file"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"my only copy"])
def test_invalid_session_is_never_overwritten(
    folder: Path, data: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("m.sess").write_bytes(content)
    assert run(data, "--max-steps", "1") == 1
    assert "m.sess" in read_error_line(capsys)
    assert Path("m.sess").read_bytes() == content


@pytest.mark.parametrize("entries", [{"step": "x"}, {"best": None}, {"seconds": 3}])
def test_session_with_invalid_state_is_an_error(
    folder: Path, data: Path, entries: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    state = PerformanceRNN(TINY_SIZES).state_dict()
    Session(TINY_SIZES, state, CURRENT.version, None, entries).save("m.sess")
    assert run(data, "--max-steps", "1") == 1
    assert next(iter(entries)) in read_error_line(capsys)


def test_sizes_of_a_session_cannot_change(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.prepare(train.parse_args(make_argv(data)))
    assert run(data, "-p", "hidden_dim=32") == 1
    assert "hidden_dim=16" in read_error_line(capsys)


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_nonfinite_network_is_not_saved(
    folder: Path,
    data: Path,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(data, "--max-steps", "2")
    before, step = load_weights(), Trainer.step

    def destroy(trainer: Trainer, *arguments: Any) -> StepResult:
        result = step(trainer, *arguments)
        if what == "loss":
            return dataclasses.replace(result, loss=result.loss * math.nan)
        trainer.model.output_fc.bias.data[0] = math.inf
        return result

    monkeypatch.setattr(Trainer, "step", destroy)
    capsys.readouterr()
    assert run(data, "--max-steps", "5", "-i", "1000" if what == "loss" else "0") == 1
    error = read_error_line(capsys)
    assert "at step 3;" in error
    assert "lower -l" in error
    assert is_equal(before, load_weights())


@pytest.mark.parametrize("locked", ["m.sess", "m.best.sess"])
def test_locked_session_can_only_be_read(
    folder: Path,
    data: Path,
    locked: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("generation.control_metrics.EVAL_STEPS", 40)
    assert run(data, "--max-steps", "1") == 0
    before = Path("m.sess").read_bytes()
    with utils.lock_file(locked):
        assert run(data, "--max-steps", "2") == 1
        assert f"{locked}: another process is writing it" in read_error_line(capsys)
        assert run(data, "--export", locked) == 1
        assert run(data, "--evaluate") == 0
    assert Path("m.sess").read_bytes() == before
    assert set(os.listdir()) == {"m.sess", "m.best.sess"}


def test_new_session_keeps_an_old_best_session(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("m.best.sess").write_bytes(b"hours of training")
    assert run(data, "--max-steps", "1") == 1
    assert "m.best.sess" in read_error_line(capsys)
    assert os.listdir() == ["m.best.sess"]
