"""Test the programs with kills, full disks, hostile files, unusual machines.

examples:
  python3 -m tools.faults                    every fault at full size (hours)
  python3 -m tools.faults kills midi         some of them
  python3 -m tools.faults midi --count 500   another size

Each fault prints one line, "name: result". A failure prints what happened and
makes the exit status 1. `full_disk` is skipped where no tmpfs can be mounted.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # optimizers need it; each child would import it for seconds

import generate
import preprocess
import train
from config import MIDI_SUFFIXES
from corpus.performance import Performance, check_encoded
from model import PerformanceRNN, Session
from sequence import ENCODINGS
from tools import data_faults, hostile_files, hostile_tensors
from tools.synthetic_data import TINY_MODEL, TINY_SIZES, write_data, write_midi
from training.sessions import load_state, print_changes
from training.trainer import Schedule, StepOptions, Trainer

ROOT = Path(__file__).parents[1]
MB = 1 << 20
HOURS = 3 * 3600.0  # seconds after which a long child process is killed

# ------------------------------------------------------------------------ child processes


class Failure(AssertionError):
    """A fault that was not withstood; the text says what happened."""


def expect(condition: object, details: object) -> None:
    """Raise Failure unless the condition is true."""
    if not condition:
        raise Failure(str(details)[-3000:])


@dataclass(frozen=True)
class Result:
    """How a child process ended."""

    status: int  # negative: killed by this signal
    output: str
    peak: int  # bytes of memory

    @property
    def last_line(self) -> str:
        """Return the last line of the output."""
        return (self.output.strip().splitlines() or [""])[-1]


def expect_success(result: Result) -> None:
    """Raise Failure unless the exit status is 0, without a traceback."""
    expect(result.status == 0 and "Traceback" not in result.output, result)


def expect_error(result: Result, *words: str) -> None:
    """Raise Failure unless the exit status is 1 and the last line is a message with these words."""
    is_message = result.status == 1 and "Traceback" not in result.output and result.last_line
    expect(is_message and all(word in result.last_line for word in words), result)


def run_child(run: Callable[[], int], seconds: float = 300.0) -> Result:
    """Run a function in a forked process, and kill it after `seconds`."""
    with tempfile.TemporaryFile() as output:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # threads of the parent: the child uses none of them
            pid = os.fork()
        if not pid:
            _run_and_exit(run, output.fileno())
        deadline = time.monotonic() + seconds
        while not (ended := os.wait4(pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        output.seek(0)
        text = output.read().decode(errors="replace")
    _, status, usage = ended
    return Result(os.waitstatus_to_exitcode(status), text, usage.ru_maxrss * 1024)


def _run_and_exit(run: Callable[[], int], output: int) -> None:
    status = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)
        torch.set_num_threads(1)  # the threads of the parent do not exist here
        status = run()
    except BaseException:  # noqa: BLE001 the child ends here in any case
        traceback.print_exc()
    finally:
        os._exit(status)


@contextlib.contextmanager
def working_folder(folder: str | Path) -> Iterator[None]:
    """Change the working folder and back (contextlib.chdir needs Python 3.11)."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# ------------------------------------------------------------------------------- programs


def train_argv(data: Path, *more: str) -> list[str]:
    """Return arguments of train.py for a tiny network, with logs."""
    tiny = ["-b", "4", "-w", "20", "-p", TINY_MODEL, "--warm-up", "2", "--precision", "fp32"]
    return ["-s", "m.sess", "-d", str(data), "--device", "cpu", *tiny, "-L", *more]


def training(data: Path, *more: str) -> Callable[[], int]:
    """Return a function that trains without logs."""
    return lambda: train.main(train_argv(data, "--no-enable-logging", *more))


def generation(session: str, *more: str) -> Callable[[], int]:
    """Return a function that generates one short sample."""
    argv = ["-s", session, "-b", "1", "-l", "20", "--seed", "1", "--device", "cpu", *more]
    return lambda: generate.main(argv)


def with_hook(
    method: str, hook: Callable[[Trainer], object], run: Callable[[], int]
) -> Callable[[], int]:
    """Return `run` with `hook` called before a method of Trainer; for a child process only."""

    def run_with_hook() -> int:
        original = getattr(Trainer, method)

        def call(trainer: Trainer, *arguments: Any, **more: Any) -> Any:
            hook(trainer)
            return original(trainer, *arguments, **more)

        setattr(Trainer, method, call)
        return run()

    return run_with_hook


def temporary_files() -> list[str]:
    """Return the names of temporary and lock files in the working folder."""
    return [path.name for path in Path().iterdir() if path.suffix in (".tmp", ".lock")]


# ------------------------------------------------------------------------------- sessions


def kills(count: int) -> str:
    """kill -9 during a training that saves after every step."""
    data, rng = write_data(Path("data"), 4, 200), np.random.default_rng(0)
    started = time.monotonic()
    expect_success(run_child(training(data, "--max-steps", "1")))
    longest = 3 * (time.monotonic() - started)
    shutil.copy("m.sess", "reference.sess")
    lost, leftovers, saved = Counter[int](), 0, 1
    run = with_hook(
        "step",
        lambda trainer: print("step", trainer.state.step + 1),
        training(data, "-i", "0"),
    )
    for _ in range(count):
        result = run_child(run, rng.uniform(0, longest))
        expect(result.status == -signal.SIGKILL, result)
        before, saved = saved, Session.load("m.sess").training["step"]
        steps = [int(step) for step in re.findall(r"^step (\d+)$", result.output, re.MULTILINE)]
        last = max(steps, default=before)
        expect(before <= saved <= last, f"saved steps {before} and {saved}, last step {last}")
        lost[last - saved] += 1
        leftovers += any(name.endswith(".tmp") for name in temporary_files())
    expect(max(lost) <= 1, f"steps lost: {lost}")
    expect_success(run_child(training(data, "--max-steps", "1")))  # ends at once
    expect(not temporary_files(), temporary_files())
    state, reference = Session.load("m.sess").state, train_reference(data, saved)
    same = all(torch.equal(state[name], weight) for name, weight in reference.items())
    expect(same, "the weights differ from those of an uninterrupted training")
    return (
        f"{count} of {count} sessions load, {lost[1]} lost the step in progress, none more; the "
        f"weights after {saved} steps are bit for bit those of an uninterrupted training; "
        f"{leftovers} left a temporary file, none of them after the next start"
    )


def train_reference(data: Path, step: int) -> dict[str, torch.Tensor]:
    """Train reference.sess up to a step without interruption; return its weights."""

    def stop(trainer: Trainer) -> None:
        if trainer.state.step == step - 1:  # the step that follows is still done
            os.kill(os.getpid(), signal.SIGINT)

    if step > 1:
        run = with_hook("step", stop, training(data, "-i", "1000000", "-s", "reference.sess"))
        run_child(run, HOURS)
    session = Session.load("reference.sess")
    expect(session.training["step"] == step, session.training)
    return session.state


def full_disk(count: int) -> str:
    """A full disk for the session, the logs, the data, the music."""
    data = write_data(Path("data").absolute(), 4, 200)
    write_midi(Path("midi/a.mid"))
    Path("disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={3 * MB}", "none", "disk"]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        return "skipped: no tmpfs can be mounted here"
    try:
        with working_folder("disk"):
            expect_success(run_child(training(data, "--max-steps", "1")))
            before = Path("m.sess").read_bytes()
            fill_disk(Path("filler"))
            expect_error(run_child(training(data, "--max-steps", "50")), "No space left", "m.sess")
            expect(Path("m.sess").read_bytes() == before, "the session has changed")
            expect(not temporary_files(), temporary_files())
            argv = train_argv(data, "--max-steps", "200", "-s", "../m.sess")
            logged = run_child(lambda: train.main(argv))
            expect_success(logged)
            expect("logging stopped" in logged.output, logged)
            converted = run_child(lambda: preprocess.main(["../midi", "out", "1"]))
            expect_error(converted, "No space left")
            expect_error(run_child(generation("../m.sess", "-o", "music")), "No space left")
            Path("filler").unlink()
            expect_success(run_child(training(data, "--max-steps", "3")))
            expect(Session.load("m.sess").training["step"] == 3, "training does not continue")
    finally:
        subprocess.run(["umount", "disk"], check=True)  # noqa: S607
    return (
        "training, logs, preprocess.py and generate.py on a full tmpfs: one message each, the old "
        "session byte for byte, no temporary file; with space again training continues"
    )


def fill_disk(path: Path) -> None:
    """Write to a file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def week(count: int) -> str:
    """Memory and open files of a training with many saves."""
    data, val_data = write_data(Path("data"), 4, 200), write_data(Path("val").absolute(), 1, 30)
    pace = ("-i", "0.05", "--validation-interval", "0.25", "-v", str(val_data))
    argv = train_argv(data, *pace, "--max-steps", str(count))
    usage: list[tuple[int, int, int]] = []
    calls = Counter[str]()

    def measure(trainer: Trainer) -> None:
        step, every = trainer.state.step, max(1, count // 20)
        if step % every == 0 and step >= count // 4 and Path("m.best.sess").exists():
            files = sum(len(names) for _, _, names in os.walk("."))
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory = pages * resource.getpagesize()
            usage.append((memory, len(os.listdir("/proc/self/fd")), files))

    def run() -> int:
        status = train.main(argv)
        print(json.dumps([usage, calls["save"], calls["evaluate"]]))
        return status

    run_measured = with_hook("step", measure, run)
    run_measured = with_hook("save", lambda _: calls.update(["save"]), run_measured)
    run_measured = with_hook("evaluate", lambda _: calls.update(["evaluate"]), run_measured)
    started = time.monotonic()
    result = run_child(run_measured, HOURS)
    minutes = (time.monotonic() - started) / 60
    expect_success(result)
    usage, saves, validations = json.loads(result.last_line)
    halves = usage[: len(usage) // 2], usage[len(usage) // 2 :]
    before, after = (max(memory for memory, *_ in half) / MB for half in halves)
    expect(after - before < 8 + before / 20, f"memory grew: {usage}")
    _, *first = usage[0]
    _, *last = usage[-1]
    expect(first == last, f"open files or files grew: {usage}")
    return (
        f"{count:,} steps, {saves:,} saves and {validations:,} validations in {minutes:.1f} min; "
        f"after the first quarter: at most {before:.1f} MB, then {after:.1f} MB of memory, "
        f"{last[0]} open files, {last[1]} files"
    )


def data(count: int) -> str:
    """Kills of preprocess.py in each of its phases."""
    results = []
    for number, phase in enumerate(data_faults.PHASES):
        folder = Path(str(number))
        folder.mkdir()
        try:
            kills, changes = data_faults.kill_in_phase(phase, folder, count)
        except AssertionError as error:
            raise Failure(str(error)) from error
        results.append(f"{phase}: {kills} at {changes} changes of files")
    return (
        f"{'; '.join(results)}. train.py accepts no incomplete folder, and the next run gives the "
        "files of an uninterrupted one, without any other file"
    )


# -------------------------------------------------------------------------- hostile files


def midi(count: int) -> str:
    """Mutated and unusual MIDI files through preprocess.py."""
    rng, folder = np.random.default_rng(1), Path("midi")
    seeds = hostile_files.build_midi_files(rng)
    for number in range(min(120, count)):
        seeds.append(write_midi(Path("seed.tmp"), 150, number, number == 3).read_bytes())
    for number, content in enumerate(seeds):
        write_file(folder / f"built-{number}.mid", content)
    for number in range(count):
        content = hostile_files.mutate_midi(seeds[rng.integers(len(seeds))], seeds, rng)
        suffix = MIDI_SUFFIXES[number % len(MIDI_SUFFIXES)]
        write_file(folder / str(number // 1000) / f"{number}{suffix}", content[:300_000])
    result = preprocess_folder(folder, len(seeds) + count, limit=20)
    expect("crashed" not in result, result)
    return f"{count:,} mutated and {len(seeds)} built files: {result}"


def floods(count: int) -> str:
    """Files of up to 60 MB with millions of events."""
    folder = Path("midi")
    for name, content in hostile_files.build_large_files(count):
        write_file(folder / f"{name}.mid", content)
    write_midi(folder / "good.mid")
    files = len(os.listdir(folder))
    return f"files of up to {count:,} notes or events: {preprocess_folder(folder, files, limit=60)}"


def write_file(path: Path, content: bytes) -> None:
    """Write a file and its folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)


def preprocess_folder(folder: Path, files: int, limit: int) -> str:
    """Convert a folder; return figures. Failure unless every file is accounted for."""

    def run() -> int:
        status = preprocess.main([str(folder), "out", "1", "--time-limit", str(limit)])
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
        return status

    started = time.monotonic()
    result = run_child(run, HOURS)
    seconds = time.monotonic() - started
    expect_success(result)
    lines = result.output.splitlines()
    summary = next(line for line in lines if line.startswith("files: "))
    pairs = re.findall(r"([\d,]+) (converted|skipped|duplicate|rejected)", summary)
    counts = {kind: int(number.replace(",", "")) for number, kind in pairs}
    total = sum(counts.values())
    expect(total == files, f"{total} of {files} files are accounted for: {summary}")
    named = sum(line.startswith("rejected: ") for line in lines)
    expect(named == counts["rejected"], f"{named} rejected files have a reason: {summary}")
    return f"{seconds:.0f} s, peak {result.peak // MB} MB, worker {result.last_line} MB; {summary}"


def tensors(count: int) -> str:
    """Built, mutated and re-valued .data and .sess files, in both formats of torch."""
    records = make_tensor_records()
    Path("empty").mkdir()

    def run() -> int:
        os.chdir("empty")
        limit_memory(512 * MB)
        loaded, slowest, kinds = Counter[str](), 0.0, Counter[str]()
        for kind, content in make_tensor_files(records, count):
            Path("input").write_bytes(content)
            started, before = time.process_time(), peak_memory()
            kinds[kind] += 1
            loaded[kind] += sum(is_usable(read_and_use) for read_and_use in (use_data, use_session))
            slowest = max(slowest, time.process_time() - started)
            growth = peak_memory() - before
            expect(growth < 48 * MB + 8 * len(content), f"{growth} bytes for {len(content)}")
            expect(os.listdir() == ["input"], os.listdir())  # no code has made a file
        expect(not loaded["built"], f"{loaded['built']} built files were read")
        expect(slowest < 20, f"{slowest} s for a file")
        print(json.dumps([kinds, loaded, slowest]))
        return 0

    result = run_child(run, HOURS)
    expect_success(result)
    kinds, loaded, slowest = json.loads(result.last_line)
    shown = ", ".join(
        f"{number:,} {kind} ({loaded.get(kind, 0):,} times accepted)"
        for kind, number in kinds.items()
    )
    return (
        f"each file read and used as data and as a session: {shown}; all others rejected with a "
        f"message, no code run; slowest {slowest:.2f} s, peak {result.peak // MB} MB"
    )


def limit_memory(size: int) -> None:
    """Limit this process to so many more bytes than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size,) * 2)


def is_usable(read_and_use: Callable[[str], None]) -> bool:
    """Return whether a file can be used; Failure unless it is, or there is a message."""
    try:
        read_and_use("input")
        return True
    except ValueError as error:
        text = str(error)
        expect(text.startswith("input: ") and text.isprintable(), ascii(text))
        return False


def use_data(path: str) -> None:
    """Read a .data file, and what a training reads of it."""
    performance = Performance.load(path)
    try:
        check_encoded(performance.events, performance.controls)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error  # as its callers do
    for encoding in ENCODINGS.values():
        for name, values in performance.compute_controls(encoding).items():
            expect(not np.isinf(values).any(), name)  # nan: unknown
    expect(math.isfinite(performance.onset_error_max / performance.notes), "onset errors")
    performance.to_bytes()


def use_session(path: str) -> None:
    """Read a session, compute with it, and continue its training."""
    session = Session.load(path)
    config, model = session.config, session.build_model(torch.device("cpu"))
    inputs = torch.zeros(3, 1, dtype=torch.int64)
    hidden = model.init_hidden_each(torch.randn(1, config.init_dim))
    logits, _ = model(inputs, hidden, torch.ones(3, 1, config.control_dim))
    expect(logits.isfinite().all(), "logits are not finite")
    trainer = Trainer(model, StepOptions(), load_state(session, ""))
    trainer.restore(Path(path), session, with_hidden=True, with_optimizer=True)
    print_changes(session, {"carry": 0.5}, drop_optimizer=True)
    Schedule(1e-3, warm_up=3, max_steps=9, max_minutes=1.0).compute_learning_rate(trainer.state)


def make_tensor_files(records: list[Any], count: int) -> Iterator[tuple[str, bytes]]:
    """Yield a kind and the content of hostile files: all built ones, and `count` others."""
    rng = np.random.default_rng(2)
    for _, content in itertools.islice(hostile_tensors.build_files(), count):
        yield "built", content
    seeds = [hostile_files.serialize(record, new) for record in records for new in (True, False)]
    for number in range(count):
        if number % 2:
            seed = seeds[number // 2 % len(seeds)]
            yield "mutated", hostile_files.mutate_tensors(seed, seeds, rng)
        else:
            record = records[number // 2 % len(records)]
            for _ in range(int(rng.choice((1, 1, 2)))):
                record = hostile_tensors.mutate_value(record, rng)
            yield "with odd values", hostile_files.serialize(record, rng.random() < 0.5)


def make_tensor_records() -> list[Any]:
    """Return the content of small .data and .sess files, of this project and of the original."""
    data = write_data(Path("data"), 2, 60)
    path = next(data.iterdir())
    performance = Performance.load(path)
    legacy = (np.array(performance.events), np.array(performance.controls))
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2).save("new.sess")
    expect_success(run_child(training(data, "--max-steps", "2")))  # with an optimizer state
    paths = (path, "new.sess", "m.sess")
    return [*(torch.load(path, weights_only=True) for path in paths), legacy]


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -------------------------------------------------------------------- names and platforms

ODD_NAMES = [
    *("with spaces", 'it\'s "quoted"', "line\nbreak", "emoji 🎹", "-dash", "--session", "%s{x}"),
    *("[glob]*?", "a;b", "$HOME", "\udcff not utf-8", "tab\t", "back\\slash", "~", "..."),
    *("Ünïcödé", "ä" * 120),
]


def paths(count: int) -> str:
    """All three programs with odd names."""
    for name in ODD_NAMES:
        with tempfile.TemporaryDirectory(dir=".") as folder, working_folder(folder):
            run_with_name(name)
    return (
        f"{len(ODD_NAMES)} odd names (spaces, quotes, newlines, emoji, a leading dash, not UTF-8, "
        "240 bytes) for folders, data, sessions and music: all three programs work"
    )


def run_with_name(name: str) -> None:
    """Convert, train and generate in folders and files of that name."""
    write_midi(Path(name, name + ".mid"), 120)
    write_midi(Path(name, "other.mid"), 120, 1)
    more = (f"--control={name} out/{name}.mid.data", f"--output-dir={name} music", "-l", "30")
    session = f"--session={name}.sess"
    for run in (
        lambda: preprocess.main(["--", name, name + " out", "1"]),
        training(Path(), f"--dataset={name} out", "--max-steps", "2", session),
        generation("", session, *more),
    ):
        expect_success(run_child(run))
    expect(os.listdir(f"{name} music"), "no music")


# changes of the environment (None: unset); CODE runs in Python before the script
SPAWN = "import multiprocessing as m; get = m.get_context; m.get_context = lambda *_: get('spawn')"
# what Windows lacks, as far as it can be taken away
NO_POSIX = """
import multiprocessing, os, signal, sys
get = multiprocessing.get_context
multiprocessing.get_context = lambda *_: get("spawn")
sys.modules["fcntl"] = None  # importing it fails
del signal.SIGHUP, os.chown, os.O_NONBLOCK
def link(*_):
    raise OSError(22, "Invalid argument")
os.link = link
"""
NOT_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
PLATFORMS: dict[str, dict[str, str | None]] = {
    "unchanged": {},
    "no AVX": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2 at most": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "no bfloat16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "one core": {"CODE": "import os; os.sched_setaffinity(0, {0})"},
    "spawn, not fork": {"CODE": SPAWN},
    "nothing but what Windows has": {"CODE": NO_POSIX, "PYTHONIOENCODING": "cp1252"},
    "no HOME": {"HOME": None, "USER": None, "LOGNAME": None},
    "missing HOME": {"HOME": "/nowhere"},
    "locale C, not UTF-8": NOT_UTF8,
    "locale POSIX, ASCII output": {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
    "output in code page 437": {"PYTHONIOENCODING": "cp437:strict", "PYTHONUNBUFFERED": "1"},
    "warnings as errors": {"PYTHONWARNINGS": "error::DeprecationWarning:__main__"},
    "optimized Python": {"PYTHONOPTIMIZE": "2"},
    "no temporary folder": {"TMPDIR": "/nowhere"},
}


def platforms(count: int) -> str:
    """All three programs on unusual platforms, without a terminal."""
    results = []
    for name in list(PLATFORMS)[:count]:
        started = time.monotonic()
        run_on_platform(name, Path(tempfile.mkdtemp(dir=".")))
        results.append(f"{name} {time.monotonic() - started:.0f} s")
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"Python {version}, torch {torch.__version__}, {len(results)} platforms: "
        f"{', '.join(results)}"
    )


def run_on_platform(name: str, folder: Path) -> None:
    """Convert, train and generate in a folder."""
    write_midi(folder / "midi" / "Prélude 🎹.mid", 200)
    write_midi(folder / "midi" / "other.mid", 200, 1)
    variables = {"OMP_NUM_THREADS": "1", **os.environ, **PLATFORMS[name]}
    if code := variables.pop("CODE", None):
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(code)
        variables["PYTHONPATH"] = str((folder / "site").resolve())
    generate_argv = ["-s", "m.sess", "-b", "1", "-l", "20", "-o", "music", "-c", ";3", "--png"]
    for command in (
        ["preprocess.py", "midi", "data", "2"],
        ["train.py", *train_argv(Path("data"), "--max-steps", "3")],
        ["generate.py", *generate_argv],
    ):
        result = subprocess.run(
            [sys.executable, str(ROOT / command[0]), *command[1:]],
            cwd=folder,
            env={key: value for key, value in variables.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        output = result.stdout.decode(errors="replace")
        is_good = result.returncode == 0 and "Traceback" not in output
        expect(is_good, f"{name}: {command}: {output}")
    expect(len(os.listdir(folder / "music")) == 2, os.listdir(folder / "music"))


# ----------------------------------------------------------------------------- command line

# the function of each fault, and its full size: kills, steps, files, notes or platforms
FAULTS: dict[str, tuple[Callable[[int], str], int]] = {
    "kills": (kills, 200),
    "data": (data, 25),
    "full_disk": (full_disk, 1),
    "week": (week, 100_000),
    "midi": (midi, 20_000),
    "floods": (floods, 10_000_000),
    "tensors": (tensors, 20_000),
    "paths": (paths, 1),
    "platforms": (platforms, len(PLATFORMS)),
}


def run_fault(name: str, count: int | None = None) -> str:
    """Return the result of a fault, run in a temporary folder; raises Failure."""
    run, full_size = FAULTS[name]
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, working_folder(folder):
        return run(full_size if count is None else count)


def main() -> int:
    """Run faults and print their results."""
    rows = [f"  {name:<12}{run.__doc__} [{size:,}]" for name, (run, size) in FAULTS.items()]
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["faults [full size]:", *rows]),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to run (default: all)")
    parser.add_argument("--count", type=int, help="number of kills, files, steps, platforms")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(FAULTS)):
        parser.error(f"no fault {unknown[0]!r}; see --help")
    status = 0
    for name in options.names or FAULTS:
        try:
            result = run_fault(name, options.count)
        except Failure as failure:
            result, status = f"FAILED: {failure}", 1
        print(f"{name}: {result}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
