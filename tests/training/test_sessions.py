"""No command of train.py destroys a session, and none uses one in another way than it says."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import generate
import train
from config import FINE_TUNING
from model import Session
from tools.synthetic_data import TINY_MODEL, write_data
from training import logger
from training.trainer import StepResult, Trainer

Run = Callable[..., int]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("sessions") / "data", count=4, notes=200)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_argv(data: Path, *more: str) -> list[str]:
    small = ["-b", "4", "-w", "20", "-p", TINY_MODEL, "--no-enable-logging", "--warm-up", "2"]
    fixed = ["--device", "cpu", "--precision", "fp32"]
    return ["-s", "m.sess", "-d", str(data), *fixed, *small, *more]


@pytest.fixture
def run(folder: Path, data: Path) -> Run:
    """Return a function that runs train.py on the data."""
    return lambda *more: train.main(make_argv(data, *more))


def read_folder(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def read_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed to stderr, which must be one line."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


# ------------------------------------------------------------------------------- export


def make_targets(folder: Path) -> list[str]:
    """Create files that --export must not replace; return their names."""
    os.link("m.sess", "hard.sess")
    os.link("m.best.sess", "hard-best.sess")
    for name, target in (("link", "m.sess"), ("link2", "link"), ("best-link", "m.best.sess")):
        Path(name).symlink_to(target)
    Path("dangling").symlink_to("dangling-target")
    Path("text.sess").write_bytes(b"my only copy")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    links = ["hard.sess", "hard-best.sess", "link", "link2", "best-link"]
    others = ["m.sess", "./m.sess", "folder/../m.sess", str(folder / "m.sess"), "m.best.sess"]
    return [*links, *others, "other.sess", "text.sess", "folder", "pipe", os.devnull]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_export_replaces_only_exported_files(
    folder: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--max-steps", "1") == run("--max-steps", "1", "-s", "other.sess") == 0
    targets = make_targets(folder)
    capsys.readouterr()
    before, names = read_folder(folder), set(os.listdir())
    for target in targets:
        assert run("--export", target) == 1, target
        assert str(Path(target)) in read_error(capsys)
        assert read_folder(folder) == before, target
        assert set(os.listdir()) == names
    # nor does the best session replace the session of the training
    assert run("-s", "m.best.sess", "--export", "m.sess") == 1
    assert run("--max-steps", "2") == run("--export", "small.sess") == 0
    old = Path("small.sess").read_bytes()
    assert run("--max-steps", "4", "-l", "0.1") == run("--export", "small.sess") == 0
    assert Path("small.sess").read_bytes() != old
    assert run("--export", "dangling") == 0
    assert {w.dtype for w in Session.load("dangling-target").state.values()} == {torch.float16}


def test_best_session_is_kept_free_for_the_training(
    folder: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--max-steps", "1", "--validation-share", "0")
    assert run("--export", "m.best.sess") == 1
    assert "--export would replace m.best.sess" in read_error(capsys)
    assert os.listdir() == ["m.sess"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--evaluate", "--export", "x.sess"], "argument --export: not together with --evaluate"),
        (["--evaluate", "--init-from", "m.sess"], "argument --init-from: only for training"),
        (
            ["--export", "x.sess", "--init-from", "m.sess"],
            "argument --init-from: only for training",
        ),
    ],
)
def test_commands_that_exclude_each_other(
    run: Run, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*options)
    assert stop.value.code == 2
    assert message in read_error(capsys)


# -------------------------------------------------------------------------- fine-tuning


def watch_options(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list to which each training adds its options, instead of training."""
    options: list[Any] = []
    monkeypatch.setattr(train, "train", lambda *arguments: options.append(arguments[-1]))
    return options


def test_resumed_fine_tuning_keeps_its_defaults(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--max-steps", "2", "-s", "base.sess")
    run("--max-steps", "2", "--init-from", "base.sess")
    options = watch_options(monkeypatch)
    capsys.readouterr()
    assert run("--init-from", "base.sess") == run() == run("-l", "0.01", "--patience", "9") == 0
    assert run("-s", "new.sess") == run("-s", "base.sess") == 0
    again, resumed, other, new, base = (vars(entry) for entry in options)
    assert again.items() >= FINE_TUNING.items()
    assert resumed.items() >= FINE_TUNING.items()
    assert other.items() >= {**FINE_TUNING, "learning_rate": 0.01, "patience": 9}.items()
    assert new["patience"] is base["patience"] is None
    output = capsys.readouterr().out
    assert output.count("m.sess started from base.sess: the defaults are for fine-tuning") == 3
    assert output.count("changed since the last run: learning rate 0.0005 -> 0.01\n") == 1


def test_init_from_is_not_ignored(
    folder: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("base.sess", "other.sess"):
        assert run("--max-steps", "1", "-s", name) == 0
    assert run("--max-steps", "1", "--init-from", "base.sess") == 0
    before = read_folder(folder)
    capsys.readouterr()
    for name, source in (("m.sess", "other.sess"), ("other.sess", "base.sess")):
        assert run("--max-steps", "2", "-s", name, "--init-from", source) == 1
        error = read_error(capsys)
        assert f"{name} exists and did not start from {source}: give -s the name" in error
    for source in ("none.sess", "none/base.sess"):
        assert run("--max-steps", "2", "--init-from", source) == 1
        assert f"{source}: no such session file: train.py makes one" in read_error(capsys)
    assert read_folder(folder) == before
    # a session of an older version does not record where it started
    record = torch.load("m.sess", weights_only=True)
    del record["training"]["init_from"]
    torch.save(record, "m.sess")
    assert run("--max-steps", "2", "--init-from", "other.sess") == 0
    assert "m.sess exists: it is trained further, and other.sess is not used" in (
        capsys.readouterr().out
    )


# ------------------------------------------------------------------- logs and pictures


def fail(*_: object, **__: object) -> Any:
    raise RuntimeError("a bug\x1b[2J")


@pytest.mark.parametrize(
    "name",
    [
        *("train.draw_piano_roll", "train.generate_samples", "tensorboardX.SummaryWriter"),
        *("tensorboardX.SummaryWriter.add_scalar", "tensorboardX.SummaryWriter.add_image"),
        *("tensorboardX.SummaryWriter.add_text", "tensorboardX.SummaryWriter.close"),
        "training.logger.utils.import_optional",
    ],
)
def test_failed_log_or_picture_does_not_end_a_training(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(name, fail)
    assert run("--max-steps", "3", "-L", "--validation-interval", "0.001") == 0
    assert Session.load("m.sess").training["step"] == 3
    output = capsys.readouterr().out
    assert r": a bug\x1b[2J" in output
    assert "\x1b" not in output
    is_picture = name.startswith("train.") or name.endswith("image")
    message = "runs/m: no sample of step 3: " if is_picture else "runs/m: logging stopped: "
    assert message in output


@pytest.mark.parametrize("blocked", ["runs", "runs/m"])
def test_log_folder_that_cannot_be_made(
    run: Run, blocked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(blocked).parent.mkdir(exist_ok=True)
    Path(blocked).write_text("a file")
    assert run("--max-steps", "2", "-L") == 0
    assert Session.load("m.sess").training["step"] == 2
    assert capsys.readouterr().out.count("runs/m: logging stopped: ") == 1


def test_sessions_of_one_name_have_their_own_logs(folder: Path, run: Run) -> None:
    for name in ("m.sess", "a/m.sess", "b/m.sess", str(folder.parent / "m.sess")):
        assert run("--max-steps", "1", "-L", "-s", name) == 0
    assert len({path.parent for path in (folder / logger.LOG_DIR).rglob("events*")}) == 4


# ------------------------------------------------------------------------------ signals


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP")
@pytest.mark.parametrize("is_ignored", [False, True])
def test_hangup_saves_unless_it_is_ignored(
    run: Run, monkeypatch: pytest.MonkeyPatch, is_ignored: bool
) -> None:
    step = Trainer.step

    def hang_up(trainer: Trainer, *arguments: Any) -> StepResult:
        if trainer.state.step == 2:
            signal.raise_signal(signal.SIGHUP)
        return step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "step", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    try:
        assert run("--max-steps", "6", "-i", "1000") == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert Session.load("m.sess").training["step"] == (6 if is_ignored else 3)


@pytest.mark.parametrize("name", ["save", "evaluate"])
def test_error_at_the_end_keeps_the_training(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """As in torchrun, where saving and evaluating fail if another process is lost."""
    original = getattr(Trainer, name)

    def fail_at_the_end(trainer: Trainer, *arguments: Any, collective: bool = True) -> Any:
        if trainer.state.step == 4 and collective:
            raise RuntimeError("lost")
        if name == "save":
            return original(trainer, *arguments, collective=collective)
        return original(trainer, *arguments)

    monkeypatch.setattr(Trainer, name, fail_at_the_end)
    assert run("--max-steps", "4", "-i", "1000") == 1
    assert "unexpected RuntimeError: lost" in capsys.readouterr().err
    assert Session.load("m.sess").training["step"] == 4


# ---------------------------------------------------------------------------- messages


@pytest.mark.parametrize("name", ["m.sess", "it's \x1b[31m.sess"])
def test_last_line_is_a_command_that_suits_the_session(
    run: Run, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {}
    for ratio in ("1", "0.5"):
        options = ("-c", ratio, "--controls", "density,histogram", "-s", f"{ratio} {name}")
        assert run("--max-steps", "1", *options) == 0
        output = capsys.readouterr().out
        assert output.isprintable() or set(filter(lambda c: not c.isprintable(), output)) == {"\n"}
        commands[ratio] = output.splitlines()[-1].removeprefix("to hear it: ")
    for ratio, command in commands.items():
        if "\x1b" not in name:
            python, script, *argv = shlex.split(command)
            assert (python, script) == ("python3", "generate.py")
            assert generate.main([*argv, "-l", "20", "-b", "1", "--device", "cpu"]) == 0
            assert "warning" not in capsys.readouterr().out
        assert ("-c 'C major;3'" in command) == (ratio == "1")


def test_generating_without_control_is_warned_of(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = ("--controls", "density,histogram")  # other sessions learn to leave controls open
    for ratio, name, more in (("1", "1.sess", plain), ("0.9", "0.9.sess", plain), ("1", "6", ())):
        run("--max-steps", "1", "-c", ratio, "-s", name, *more)
    assert capsys.readouterr().out.splitlines()[-1].endswith("generate.py -s 6.best")
    for name, is_warned in (("1.sess", True), ("0.9.sess", False), ("6", False)):
        assert generate.main(["-s", name, "-l", "9", "-b", "1", "--device", "cpu"]) == 0
        warning = "warning: 1.sess has learned only music with a control: give one with -c"
        assert (warning in capsys.readouterr().out.splitlines()) == is_warned


def test_missing_session_says_what_to_do(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for main in (
        lambda: generate.main(["-s", "nothere"]),
        lambda: run("-s", "nothere", "--evaluate"),
        lambda: run("-s", "nothere", "--export", "x.sess"),
        lambda: run("--init-from", "nothere"),
    ):
        assert main() == 1
        hint = (
            "nothere: no such session file: train.py makes one, and pretrained.sess is ready to use"
        )
        assert re.fullmatch(rf"(train|generate)\.py: error: {hint}", read_error(capsys))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_pipe_is_no_session(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    for main in (
        lambda: generate.main(["-s", "pipe"]),
        lambda: run("-s", "pipe"),
        lambda: run("-s", "pipe", "--evaluate"),
        lambda: run("-s", "pipe", "--export", "x.sess"),
        lambda: run("--init-from", "pipe"),
    ):
        assert main() == 1
        assert "pipe: not a file" in read_error(capsys)
    assert os.listdir() == ["pipe"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_script_with_closed_outputs(folder: Path, data: Path) -> None:
    argv = [sys.executable, str(Path(train.__file__)), *make_argv(data, "--max-steps", "2")]
    command = f"{shlex.join(argv)} >&- 2>&-"
    assert subprocess.run(command, shell=True).returncode == 0  # noqa: S602
    assert Session.load("m.sess").training["step"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")
@pytest.mark.parametrize("script", ["preprocess.py", "train.py", "generate.py"])
def test_interrupt_while_torch_is_imported(folder: Path, script: str) -> None:
    for name in ("torch", "numpy"):  # preprocess.py imports numpy first
        Path(f"{name}.py").write_text("import os\nos.kill(os.getpid(), 2)\n")
    root = Path(train.__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, str(root / script), "--help"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr, result.stdout) == (-signal.SIGINT, "", "")
