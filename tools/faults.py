"""Test what the programs withstand: kills, full disks, hostile files, unusual machines.

examples:
  python3 -m tools.faults                    every fault at full size (hours)
  python3 -m tools.faults kills midi         some of them
  python3 -m tools.faults midi --count 500   another size

Each fault prints one line, "name: result". A failure prints what happened and makes the exit
status 1. `full_disk` is skipped where no tmpfs can be mounted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import mmap
import os
import re
import resource
import shutil
import signal
import string
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import generate
import preprocess
import train
from corpus.performance import Performance
from model import PerformanceRNN, Session
from tools import hostile_files
from tools.child_process import (
    Failure,
    Result,
    expect,
    expect_error,
    expect_success,
    fork,
    run_and_exit,
    run_child,
    working_folder,
)
from tools.synthetic_data import TINY_MODEL, TINY_SIZES, write_data, write_midi
from training.trainer import Trainer

ROOT = Path(__file__).parents[1]
MB = 1 << 20
HOURS = 3 * 3600.0  # seconds after which a long child process is killed


# ------------------------------------------------------------------------------- commands


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
    method: str, hook: Callable[[Trainer], None], run: Callable[[], int]
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


def temporary_files(folder: Path = Path()) -> list[str]:
    """Return the names of temporary and lock files in a folder."""
    return [path.name for path in folder.iterdir() if path.suffix in (".tmp", ".lock")]


def expect_unchanged(content: bytes) -> None:
    """Raise Failure unless m.sess has this content, and there are no temporary files."""
    expect(Path("m.sess").read_bytes() == content, "the session has changed")
    expect(not temporary_files(), temporary_files())


# ------------------------------------------------------------------------------- sessions


def kills(count: int) -> str:
    """kill -9 at random moments of a training that saves after every step."""
    data, rng = write_data(Path("data"), 4, 200), np.random.default_rng(0)
    expect_success(run_child(training(data, "--max-steps", "1")))
    shutil.copy("m.sess", "reference.sess")
    Path("counter").write_bytes(bytes(8))
    lost, leftovers, step = Counter[int](), 0, 1
    with open("counter", "r+b") as file, mmap.mmap(file.fileno(), 8) as counter:

        def count_step(trainer: Trainer) -> None:
            counter[:] = struct.pack("<q", trainer.state.step + 1)

        run = with_hook("step", count_step, training(data, "-i", "0"))
        for number in range(count):
            counter[:] = bytes(8)
            kill = kill_after(counter, float(rng.uniform(0, 0.6)), at_start=number % 4 == 3)
            result = run_child(run, kill=kill)
            expect(result.status == -signal.SIGKILL, result)
            saved = Session.load("m.sess").training["step"]
            expect(saved >= step, f"step {step}, and {saved} after it")
            step = saved
            lost[max(0, struct.unpack("<q", counter[:])[0] - step)] += 1
            leftovers += any(name.endswith(".tmp") for name in temporary_files())
    expect(max(lost) <= 1, f"steps lost: {lost}")
    state = Session.load("m.sess").state
    expect_success(run_child(training(data, "--max-steps", "1")))
    expect(not temporary_files(), temporary_files())
    reference = train_reference(data, step)
    same = all(torch.equal(state[name], weight) for name, weight in reference.items())
    expect(same, "the weights differ from those of an uninterrupted training")
    return (
        f"{count} of {count} sessions load, {lost[1]} lost the step in progress, none more; the "
        f"weights after {step} steps are bit for bit those of an uninterrupted training; "
        f"{leftovers} left a temporary file, none of them after the next start"
    )


def kill_after(counter: mmap.mmap, wait: float, at_start: bool) -> Callable[[float], bool]:
    """Return when to kill: `wait` seconds after the first whole step, or after the start."""
    values, since = set(), list[float]()

    def is_time(elapsed: float) -> bool:
        values.add(counter[:])
        if not since and (at_start or len(values) > 2):  # the second step has begun
            since.append(elapsed)
        return bool(since) and elapsed > since[0] + wait

    return is_time


def train_reference(data: Path, step: int) -> dict[str, torch.Tensor]:
    """Train reference.sess up to a step without interruption; return its weights."""

    def stop(trainer: Trainer) -> None:
        if trainer.state.step == step - 1:  # the step that follows is still done
            os.kill(os.getpid(), signal.SIGINT)

    if step > 1:
        run = with_hook("step", stop, training(data, "-i", "1000000", "-s", "reference.sess"))
        run_child(run, seconds=HOURS)
    session = Session.load("reference.sess")
    expect(session.training["step"] == step, session.training)
    return session.state


def full_disk(count: int) -> str:
    """A disk that becomes full: of the session, the logs, the data, the music."""
    data = write_data(Path("data").absolute(), 4, 200)
    Path("disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={3 * MB}", "none", "disk"]
    with contextlib.ExitStack() as stack:
        try:
            subprocess.run(mount, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return "skipped: no tmpfs can be mounted here"
        stack.callback(subprocess.run, ["umount", "disk"], check=True)
        stack.enter_context(working_folder("disk"))
        expect_success(run_child(training(data, "--max-steps", "1")))
        before = Path("m.sess").read_bytes()
        fill_disk(Path("filler"))
        expect_error(run_child(training(data, "--max-steps", "50")), "No space left", "m.sess")
        expect_unchanged(before)
        argv = train_argv(data, "--max-steps", "200", "-s", "../m.sess")
        logged = run_child(lambda: train.main(argv))
        expect_success(logged)
        expect("logging stopped" in logged.output, logged)
        write_midi(Path("../midi/a.mid"))
        expect_error(run_child(lambda: preprocess.main(["../midi", "out", "1"])), "No space left")
        expect_error(run_child(generation("../m.sess", "-o", "music")), "No space left")
        Path("filler").unlink()
        expect_success(run_child(training(data, "--max-steps", "3")))
        expect(Session.load("m.sess").training["step"] == 3, "training does not continue")
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


def limits(count: int) -> str:
    """Limits of the system: bytes in a file, open files."""
    data = write_data(Path("data"), 30, 40)
    expect_success(run_child(training(data, "--max-steps", "1")))
    before = Path("m.sess").read_bytes()

    def run_limited(kind: int, limit: int, steps: str) -> Result:
        def run() -> int:
            resource.setrlimit(kind, (limit, limit))
            return training(data, "--max-steps", steps)()

        return run_child(run)

    for size in (0, len(before) // 2, len(before) - 1):
        expect_error(run_limited(resource.RLIMIT_FSIZE, size, "9"), "m.sess")
        expect_unchanged(before)
    errors = 0
    for files in (3, 6, 20):
        result = run_limited(resource.RLIMIT_NOFILE, files, "1")
        if result.status:
            expect_error(result)
            errors += 1
        expect(Path("m.sess").read_bytes() == before, "the session has changed")
    return (
        f"3 limits of file size and {errors} of 3 limits of open files end with a message (with 20 "
        "open files, 30 .data files can be trained on); the session byte for byte"
    )


def two_trainings(count: int) -> str:
    """Two trainings of one session, and a lock that a killed training leaves."""
    data = write_data(Path("data"), 4, 200)
    pid = fork()
    if not pid:
        run_and_exit(training(data, "-i", "0"), os.open(os.devnull, os.O_WRONLY))
    try:
        while not Path("m.sess").exists():
            time.sleep(0.01)
        for more in ((), ("-s", "m.best.sess")):
            result = run_child(training(data, "--max-steps", "1", *more))
            expect_error(result, "another process is writing")
        expect_success(run_child(training(data, "--evaluate")))
        expect_success(run_child(generation("m.sess")))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    locks = len(temporary_files())
    step = Session.load("m.sess").training["step"] + 1
    expect_success(run_child(training(data, "--max-steps", str(step))))
    expect(not temporary_files(), temporary_files())
    return (
        "the second training ends with an error, of the best session too; evaluation and "
        f"generation still work; the {locks} files that a killed training left are removed"
    )


# ----------------------------------------------------------------------------------- MIDI


def midi(count: int) -> str:
    """Mutated MIDI files, and unusual ones, through preprocess.py."""
    rng, folder = np.random.default_rng(1), Path("midi")
    folder.mkdir()
    seeds = hostile_files.build_midi_files(rng)
    for number in range(min(120, count)):
        seeds.append(write_midi(Path("seed.tmp"), 150, number, number == 3).read_bytes())
    for number, content in enumerate(seeds):
        (folder / f"built-{number}.mid").write_bytes(content)
    for number in range(count):
        content = hostile_files.mutate(seeds[rng.integers(len(seeds))], seeds, rng)[:300_000]
        subfolder = folder / str(number // 1000)
        subfolder.mkdir(exist_ok=True)
        suffix = (".mid", ".midi", ".kar")[number % 3]
        (subfolder / f"{number}{suffix}").write_bytes(content)
    result = preprocess_folder(folder, len(seeds) + count, limit=20)
    expect("crashed" not in result, result)
    return f"{count:,} mutated and {len(seeds)} built files: {result}"


def floods(count: int) -> str:
    """Files of up to 60 MB with millions of notes, instruments, meta events."""
    folder = Path("midi")
    folder.mkdir()
    for name, content in hostile_files.build_large_files(count):
        (folder / f"{name}.mid").write_bytes(content)
    write_midi(folder / "good.mid")
    files = len(os.listdir(folder))
    return f"files of up to {count:,} notes or events: {preprocess_folder(folder, files, limit=60)}"


def preprocess_folder(folder: Path, files: int, limit: int) -> str:
    """Convert a folder; return figures. Failure unless every file is accounted for."""

    def run() -> int:
        status = preprocess.main([str(folder), "out", "1", "--time-limit", str(limit)])
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
        return status

    started = time.monotonic()
    result = run_child(run, seconds=HOURS)
    seconds = time.monotonic() - started
    expect_success(result)
    summary = find_summary(result.output)
    pairs = re.findall(r"([\d,]+) (converted|skipped|duplicate|rejected)", summary)
    counts = {kind: int(number.replace(",", "")) for number, kind in pairs}
    total = sum(counts.values())
    expect(total == files, f"{total} of {files} files are accounted for: {summary}")
    named = sum(line.startswith("rejected: ") for line in result.output.splitlines())
    expect(named == counts["rejected"], f"{named} rejected files have a reason: {summary}")
    return f"{seconds:.0f} s, peak {result.peak // MB} MB, worker {result.last_line} MB; {summary}"


def find_summary(output: str) -> str:
    """Return the line of preprocess.py that counts files."""
    return next(line for line in output.splitlines() if line.startswith("files: "))


# -------------------------------------------------------------------------- .data and .sess


def write_tensor_seeds() -> list[bytes]:
    """Return small .data and .sess files in both formats of torch."""
    path = next(write_data(Path("data"), 1, 60).iterdir())
    performance = Performance.load(path)
    legacy = (np.array(performance.events), np.array(performance.controls))
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2).save("m.sess")
    records = [torch.load(path, weights_only=True), legacy]
    records.append(torch.load("m.sess", weights_only=True))
    return [hostile_files.serialize(record, new) for record in records for new in (True, False)]


def tensors(count: int) -> str:
    """Mutated .data and .sess files, of today and of before 2020."""
    seeds, rng = write_tensor_seeds(), np.random.default_rng(2)
    Path("empty").mkdir()

    def run() -> int:
        os.chdir("empty")
        loaded, slowest = 0, 0.0
        for number in range(count):
            content = hostile_files.mutate_tensors(seeds[number % len(seeds)], seeds, rng)
            Path("input").write_bytes(content)
            started, before = time.monotonic(), peak_memory()
            for load in (Performance.load, Session.load):
                try:
                    load("input")
                    loaded += 1
                except ValueError as error:
                    text = str(error)
                    expect(text.startswith("input: ") and "\n" not in text, text)
            slowest = max(slowest, time.monotonic() - started)
            growth = peak_memory() - before
            expect(growth < 32 * MB + 8 * len(content), f"{growth} bytes for {len(content)}")
            expect(os.listdir() == ["input"], os.listdir())
        print(json.dumps([loaded, slowest]))
        return 0

    result = run_child(run, seconds=HOURS)
    expect_success(result)
    loaded, slowest = json.loads(result.last_line)
    return (
        f"{count:,} mutated files, read as data and as a session: {2 * count - loaded:,} rejected "
        f"with a message, {loaded:,} loaded (a value had changed), no code run; slowest "
        f"{slowest:.2f} s, peak {result.peak // MB} MB"
    )


def peak_memory() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---------------------------------------------------------------------------- command lines

SCRIPTS = (preprocess, train, generate)
ODD_VALUES = [
    *("", " ", "-", "--", "nan", "inf", "-inf", "1e999", "-1", "0", "0.0", "1", "1.5", "1e400"),
    *("9" * 400, "-" + "9" * 400, "0x10", "1_000", "٣", "½", "true", "None", "[]", "💥"),
    *("two words", "a'b", 'a"b', "line\nbreak", "tab\t", "%s", "%(x)s", "{x}", "\\", "\x7f"),
    *(".", "..", "/", "/dev/null", "/dev/full", "/nowhere/at/all", "x" * 255, "x" * 5000),
    *(";", ";;", ";3", ";12", "1,2;3", ",".join("1" * 12) + ";3", ",".join("n" * 12) + ";3"),
    *("1," * 11 + "1e308;3", "=", ",", "(" * 500, "\udcff", "gru_layers", "hidden_dim=0"),
    *("hidden_dim=16384,gru_layers=64", "hidden_dim=8192", "hidden_dim=1e9"),
    *("hidden_dim=" + "9" * 400, "gru_dropout=nan", "gru_dropout=inf"),
]


def limit_values(option: argparse.Action) -> list[str]:
    """Return the limits of an option's range and values just outside, or its choices."""
    number: Any = option.type
    if not hasattr(number, "low"):
        return list(map(str, option.choices or ()))
    step = 1 if number.kind is int else 1e-9
    ends = {end for end in (number.low, number.high, number.above) if abs(end) != float("inf")}
    return [str(end + change) for end in ends for change in (-step, 0, step)]


def find_options(script: Any) -> list[argparse.Action]:
    """Return the options and arguments of a script, without --help."""
    return [action for action in script.build_parser()._actions if action.dest != "help"]


def command_lines(script: Any, rng: np.random.Generator, count: int) -> Iterator[list[str]]:
    """Yield each option with each odd value and limit, then random command lines."""
    options = find_options(script)
    for option in options:
        for value in (*ODD_VALUES, *limit_values(option)):
            for flag in option.option_strings:
                yield [flag, value]
                if flag.startswith("--"):
                    yield [f"{flag}={value}"]
            if not option.option_strings:
                yield [value]
    flags = [flag for option in options for flag in option.option_strings]
    for _ in range(count):
        words = (flags, ODD_VALUES, ["".join(rng.choice(list(string.printable), 6))])
        kinds = rng.integers(3, size=int(rng.integers(1, 6)))
        yield [str(words[kind][rng.integers(len(words[kind]))]) for kind in kinds]


def is_accepted(script: Any, argv: list[str]) -> bool:
    """Parse a command line; Failure unless it is accepted, or rejected with one line."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            script.parse_args(argv)
    except SystemExit as stop:
        is_help = stop.code == 0 and out.getvalue()
        is_one_line = stop.code == 2 and err.getvalue().splitlines(True)[0] == err.getvalue()
        expect(is_help or is_one_line, f"{argv!r}: {stop.code}, {err.getvalue()!r}")
        return False
    except Exception as error:
        raise Failure(f"{argv!r}: {error!r}") from error
    return True


def values(count: int) -> str:
    """Command lines with odd values: accepted, or one line and exit status 2."""
    rng, every = np.random.default_rng(4), 1 if count >= 1000 else 10
    outcomes = [
        is_accepted(script, argv)
        for script in SCRIPTS
        for argv in itertools.islice(command_lines(script, rng, count), 0, None, every)
    ]
    return (
        f"{len(outcomes):,} command lines, {outcomes.count(False):,} rejected in one line with "
        f"exit status 2, {outcomes.count(True):,} accepted, no traceback"
    )


# ---------------------------------------------------------------------------------- paths

NAMES = [
    *("with spaces", 'it\'s "quoted"', "line\nbreak", "emoji 🎹", "-dash", "--session", "%s{x}"),
    *(
        "[glob]*?",
        "a;b",
        "$HOME",
        "\udcff not utf-8",
        "tab\t",
        "back\\slash",
        "~",
        "...",
        "Ünïcödé",
    ),
    "ä" * 120,
]


def paths(count: int) -> str:
    """All three programs with odd names, and names of 255 bytes."""
    for name in NAMES:
        with tempfile.TemporaryDirectory(dir=".") as folder, working_folder(folder):
            run_pipeline(name)
    data = write_data(Path("data"), 2, 60)
    result = run_child(training(data, "--max-steps", "2", "-s", "x" * 250 + ".sess"))
    expect(result.status in (0, 1) and "Traceback" not in result.output, result)
    return (
        f"{len(NAMES)} odd names (spaces, quotes, newlines, emoji, a leading dash, not UTF-8, 240 "
        "bytes) for folders, data, sessions and music: all three programs work; a session of 255 "
        f"bytes: exit status {result.status}, {result.last_line[-60:]!r}"
    )


def run_pipeline(name: str) -> None:
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


# ---------------------------------------------------------------------------- long trainings


def week(count: int) -> str:
    """A training with as many saves as a week has: memory and open files do not grow."""
    data, val_data = write_data(Path("data"), 4, 200), write_data(Path("val").absolute(), 1, 30)
    pace = ("-i", "0.05", "--validation-interval", "0.25", "-v", str(val_data))
    argv = train_argv(data, *pace, "--max-steps", str(count))
    usage: list[tuple[int, int, int]] = []
    calls = Counter[str]()

    def measure(trainer: Trainer) -> None:
        step, every = trainer.state.step, max(1, count // 20)
        if step % every == 0 and step >= count // 4 and Path("m.best.sess").exists():
            files = sum(len(names) for _, _, names in os.walk("."))
            usage.append((resident_memory(), len(os.listdir("/proc/self/fd")), files))

    def run() -> int:
        status = train.main(argv)
        print(json.dumps([usage, calls["save"], calls["evaluate"]]))
        return status

    run = with_hook("step", measure, run)
    for method in ("save", "evaluate"):
        run = with_hook(method, lambda _, method=method: calls.update([method]), run)  # type: ignore[misc]
    started = time.monotonic()
    result = run_child(run, seconds=HOURS)
    expect_success(result)
    usage, saves, validations = json.loads(result.last_line)
    (memory, *first), (last_memory, *last) = usage[0], usage[-1]
    expect(last_memory - memory < 8 * MB + memory // 20, f"memory grew: {usage}")
    expect(first == last, f"open files or files grew: {usage}")
    return (
        f"{count:,} steps, {saves:,} saves and {validations:,} validations in "
        f"{(time.monotonic() - started) / 60:.1f} min; from the first quarter to the end: memory "
        f"{memory / MB:.1f} to {last_memory / MB:.1f} MB, {last[0]} open files, {last[1]} files"
    )


def resident_memory() -> int:
    """Return the memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


# ------------------------------------------------------------------------------- platforms

SPAWN = "import multiprocessing; multiprocessing.get_all_start_methods = lambda: ['spawn']"
NOT_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}


@dataclass(frozen=True)
class Platform:
    """Changes of the environment (None: unset), a command prefix, code that Python runs first."""

    name: str
    environment: dict[str, str | None]
    prefix: tuple[str, ...] = ()
    code: str = ""


PLATFORMS = [
    Platform("unchanged", {}),
    Platform("no AVX", {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    Platform("AVX2 at most", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Platform("no bfloat16", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    Platform("one core", {}, ("taskset", "-c", "0")),
    Platform("spawn, not fork", {}, code=SPAWN),
    Platform("no HOME", {"HOME": None, "USER": None, "LOGNAME": None}),
    Platform("missing HOME", {"HOME": "/nowhere"}),
    Platform("locale C, not UTF-8", NOT_UTF8),
    Platform("locale POSIX, ASCII output", {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}),
    Platform("warnings as errors", {"PYTHONWARNINGS": "error::DeprecationWarning:__main__"}),
    Platform("optimized Python", {"PYTHONOPTIMIZE": "2"}),
    Platform("no temporary folder", {"TMPDIR": "/nowhere"}),
]


def platforms(count: int) -> str:
    """All three programs on unusual platforms; the output is not a terminal."""
    results = []
    for platform in PLATFORMS[:count]:
        if not platform.prefix or shutil.which(platform.prefix[0]):
            seconds = run_on_platform(platform, Path(tempfile.mkdtemp(dir=".")))
            results.append(f"{platform.name} {seconds:.0f} s")
    version = ".".join(map(str, sys.version_info[:3]))
    return (
        f"Python {version}, torch {torch.__version__}, {len(results)} platforms: "
        f"{', '.join(results)}"
    )


def run_on_platform(platform: Platform, folder: Path) -> float:
    """Convert, train and generate in a folder; return the seconds."""
    write_midi(folder / "midi" / "Prélude 🎹.mid", 200)
    write_midi(folder / "midi" / "other.mid", 200, 1)
    variables = {"OMP_NUM_THREADS": "1", **os.environ, **platform.environment}
    if platform.code:
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(platform.code)  # runs before the script
        variables["PYTHONPATH"] = str((folder / "site").resolve())
    generate_argv = ["-s", "m.sess", "-b", "1", "-l", "20", "-o", "music", "-c", ";3", "--png"]
    started = time.monotonic()
    for command in (
        ["preprocess.py", "midi", "data", "2"],
        ["train.py", *train_argv(Path("data"), "--max-steps", "3", "-v", "data")],
        ["generate.py", *generate_argv],
    ):
        result = subprocess.run(
            [*platform.prefix, sys.executable, str(ROOT / command[0]), *command[1:]],
            cwd=folder,
            env={key: value for key, value in variables.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        output = result.stdout.decode(errors="replace")
        is_good = result.returncode == 0 and "Traceback" not in output
        expect(is_good, f"{platform.name}: {command}: {output}")
    expect(len(os.listdir(folder / "music")) == 2, os.listdir(folder / "music"))
    return time.monotonic() - started


# ----------------------------------------------------------------------------- command line


@dataclass(frozen=True)
class Fault:
    """A fault: its function, the full size, and a size for the tests (0: not in the tests)."""

    run: Callable[[int], str]
    size: int = 1
    test_size: int = 0


FAULTS = {
    "kills": Fault(kills, 200, 2),
    "full_disk": Fault(full_disk),
    "limits": Fault(limits, 1, 1),
    "two_trainings": Fault(two_trainings, 1, 1),
    "midi": Fault(midi, 20_000, 60),
    "floods": Fault(floods, 10_000_000, 30_000),
    "tensors": Fault(tensors, 20_000, 100),
    "values": Fault(values, 20_000, 100),
    "paths": Fault(paths),
    "week": Fault(week, 100_000),
    "platforms": Fault(platforms, len(PLATFORMS)),
}


def run_fault(name: str, count: int) -> str:
    """Return the result of a fault, run in a temporary folder; raises Failure."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 another user has to enter it, too
        with working_folder(folder):
            return FAULTS[name].run(count)


def main() -> int:
    """Run faults and print their results."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="faults:\n"
        + "\n".join(f"  {name:<16}{fault.run.__doc__}" for name, fault in FAULTS.items()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to run (default: all)")
    parser.add_argument("--count", type=int, help="number of kills, files, steps, platforms")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(FAULTS)):
        parser.error(f"no fault {unknown[0]!r}; see --help")
    status = 0
    for name in options.names or FAULTS:
        try:
            result = run_fault(name, FAULTS[name].size if options.count is None else options.count)
        except Failure as failure:
            result, status = f"FAILED: {failure}", 1
        print(f"{name}: {result}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
