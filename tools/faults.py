"""What the suite withstands, in figures: kills, full disks, floods, hostile files, odd machines.

    python3 -m tools.faults                    every fault, at full size (hours)
    python3 -m tools.faults kills midi         some of them
    python3 -m tools.faults midi --count 500   at another size

Each prints one line, "name: figure". One that is not withstood prints what happened, and the
exit status is 1. What can not be tried here (no root, no tmpfs, no atheris) says so.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import mmap
import os
import resource
import shutil
import signal
import string
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pretty_midi
import symusic
import torch

import generate
import preprocess
import train
from config import GenerateConfig, PreprocessConfig, TrainConfig
from corpus.performance import Performance
from model import PerformanceRNN, Session
from sequence import CURRENT, LEGACY, EventSeq
from tools import hostile_files as hostile
from tools.synthetic_data import TINY_MODEL, TINY_SIZES, write_data, write_midi
from training.trainer import Run

ROOT = Path(__file__).parents[1]
MB = 1 << 20


class Broken(AssertionError):
    """What was not withstood."""


def expect(good: object, told: object) -> None:
    """Broken, with what happened, unless `good`."""
    if not good:
        raise Broken(str(told)[-3000:])


@dataclass(frozen=True)
class Ended:
    """How a child process ended: exit status (negative: by a signal), output, peak of memory."""

    status: int
    told: str
    late: bool
    peak: int  # bytes

    def refused(self, *words: str) -> None:
        """Broken unless it was a sentence, with these words, and exit status 1."""
        last = self.told.strip().splitlines()[-1:]
        good = self.status == 1 and "Traceback" not in self.told and last
        expect(good and all(word in last[0] for word in words), f"{self.status}: {self.told}")


def child(
    verb: Callable[[], Any], seconds: float = 300.0, kill: Callable[[float], bool] | None = None
) -> Ended:
    """Run `verb` in a process of its own, which is killed when `kill` says so, or after `seconds`.

    `kill` is told the seconds since the start.
    """
    reading, writing = os.pipe()  # a file would be under the limits that are tried
    os.set_blocking(reading, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: the child has none
        number = os.fork()
    if not number:
        os.close(reading)
        _be_child(verb, writing)
    os.close(writing)
    begun, late, ended, told = time.monotonic(), False, 0, []
    while not ended:
        ended, status, usage = os.wait4(number, os.WNOHANG)
        told.append(_read(reading))
        passed = time.monotonic() - begun
        late = passed > seconds
        if not ended and (late or (kill is not None and kill(passed))):
            os.kill(number, signal.SIGKILL)
            ended, status, usage = os.wait4(number, 0)
        if not ended:
            time.sleep(0.002)
    told.append(_read(reading))
    os.close(reading)
    text = b"".join(told).decode(errors="replace")
    return Ended(os.waitstatus_to_exitcode(status), text, late, usage.ru_maxrss * 1024)


def _read(pipe: int) -> bytes:
    """All that is in a pipe now."""
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(pipe, 65536):
            parts.append(part)
    return b"".join(parts)


def _be_child(verb: Callable[[], Any], output: int) -> None:
    status = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True)
        torch.set_num_threads(1)  # threads of the parent are not here
        status = verb() or 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001 the child ends here, whatever it was
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)


def arguments(data: Path, *more: str) -> list[str]:
    """Of train.py, for a tiny network."""
    small = ["-b", "4", "-w", "20", "-p", TINY_MODEL, "--warm-up", "2", "--precision", "fp32"]
    return ["-s", "m.sess", "-d", str(data), "--device", "cpu", *small, "-L", *more]


def quiet(data: Path, *more: str) -> list[str]:
    """The same without logs."""
    return [*arguments(data), "--no-enable-logging", *more]


def trained(data: Path, *more: str) -> Callable[[], int]:
    return lambda: train.main(quiet(data, *more))


def stray(folder: Path = Path()) -> list[str]:
    """Temporary and lock files in a folder."""
    return [path.name for path in folder.iterdir() if path.suffix in (".tmp", ".lock")]


# ---------------------------------------------------------------------------------- sessions


def kills(count: int) -> str:
    """kill -9 at random moments of a training that saves after every step."""
    data, dice = write_data(Path("data"), 4, 200), np.random.default_rng(0)
    with open("begun", "wb") as file:
        file.write(bytes(8))
    with open("begun", "r+b") as file, mmap.mmap(file.fileno(), 8) as begun:
        options = train.parse_args(quiet(data, "-i", "0"))
        train.open_run(options)  # the session is there from now on
        learn = Run.learn

        def told(run: Run) -> Any:
            begun[:] = struct.pack("<q", run.reached.step + 1)
            return learn(run)

        def verb() -> int:
            Run.learn = told  # type: ignore[method-assign]
            return trained(data, "-i", "0")()

        lost, left, before = Counter[int](), 0, 0
        for number in range(count):
            begun[:] = bytes(8)
            wait = float(dice.uniform(0, 0.6))
            ended = child(verb, kill=_after_a_step(begun, wait, at_once=number % 4 == 3))
            expect(ended.status == -signal.SIGKILL, ended.told)
            step = int(Session.load("m.sess").training.get("step", 0))
            lost[max(0, struct.unpack("<q", begun[:])[0] - step)] += 1
            expect(step >= before, f"step {before}, and {step} after it")
            before = step
            left += any(name.endswith(".tmp") for name in stray())
    expect(max(lost) <= 1, f"steps lost: {lost}")
    state = Session.load("m.sess").state
    expect(child(trained(data, "--max-steps", "1")).status == 0, "the next start")
    expect(not stray(), stray())
    whole = train.open_run(replace(options, session="whole.sess"))
    for _ in range(step):
        whole.learn()
        whole.reached = replace(whole.reached, step=whole.reached.step + 1)
    same = all(torch.equal(state[k], v) for k, v in whole.learner.model.state_dict().items())
    expect(same, "the weights are not those of an uninterrupted training")
    return (
        f"{count} of {count} sessions load, {lost[1]} lost the step that was under way, none "
        f"more; the weights after {step} steps are, to the bit, those of an uninterrupted "
        f"training; {left} left a temporary file, none is there after the next start"
    )


def _after_a_step(begun: mmap.mmap, wait: float, at_once: bool) -> Callable[[float], bool]:
    """Whether it is time: `wait` seconds after a step was done, or after the start of it all."""
    steps, first = set(), list[float]()

    def come(passed: float) -> bool:
        steps.add(begun[:])
        if not first and (at_once or len(steps) > 2):  # the second is begun
            first.append(passed)
        return bool(first) and passed > first[0] + wait

    return come


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of `size` bytes at `folder`, and whether it could be made."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        made = False
    try:
        yield made
    finally:
        if made:
            subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def full_disk(count: int) -> str:
    """A disk that is full from some moment on: of the session, of the logs, of the data."""
    data = write_data(Path("data").absolute(), 4, 200)
    with small_disk(Path("disk"), 3 * MB) as made:
        if not made:
            return "not tried: no tmpfs can be mounted here"
        os.chdir("disk")
        try:
            return _full_disk(data)
        finally:
            os.chdir("..")


def _full_disk(data: Path) -> str:
    expect(child(trained(data, "--max-steps", "1")).status == 0, "on an empty disk")
    before = Path("m.sess").read_bytes()
    filler = _fill()
    child(trained(data, "--max-steps", "50")).refused("No space left", "m.sess")
    expect(Path("m.sess").read_bytes() == before, "the session has changed")
    expect(not stray(), stray())
    logged = child(lambda: train.main(arguments(data, "--max-steps", "200", "-s", "../m.sess")))
    expect("Traceback" not in logged.told and not logged.late, logged)
    expect(logged.status == 0 and "no more logs" in logged.told, logged)
    write_midi(Path("../midi/a.mid"))
    child(lambda: preprocess.main(["../midi", "out", "1"])).refused("No space left")
    made = child(lambda: generate.main(_play("../m.sess", "-o", "music")))
    made.refused("No space left")
    filler.unlink()
    expect(child(trained(data, "--max-steps", "3")).status == 0, "with room again")
    expect(Session.load("m.sess").training["step"] == 3, "it goes on")
    return (
        "training, logs, preprocess.py and generate.py on a full tmpfs: a sentence each, the old "
        "session byte for byte, no stray file; with room again it goes on"
    )


def _fill() -> Path:
    filler = Path("filler")
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


def _play(session: str, *more: str) -> list[str]:
    return ["-s", session, "-b", "1", "-l", "20", "--seed", "1", "--device", "cpu", *more]


def limits(count: int) -> str:
    """Limits of the system: bytes in a file, open files."""
    data = write_data(Path("data"), 30, 40)
    expect(child(trained(data, "--max-steps", "1")).status == 0, "without limits")
    before = Path("m.sess").read_bytes()

    def limited(kind: int, most: int, *more: str) -> Ended:
        def verb() -> int:
            resource.setrlimit(kind, (most, most))
            return trained(data, *more)()

        return child(verb)

    for share in (0, 1, len(before) // 2, len(before) - 1):
        limited(resource.RLIMIT_FSIZE, share, "--max-steps", "9").refused("m.sess")
        expect(Path("m.sess").read_bytes() == before, "the session has changed")
        expect(not stray(), stray())
    refused = 0
    for most in (3, 4, 5, 6, 8, 12, 20):
        ended = limited(resource.RLIMIT_NOFILE, most, "--max-steps", "1")
        if ended.status:
            ended.refused()
            refused += 1
        expect(Path("m.sess").read_bytes() == before, "the session has changed")
    return (
        f"4 limits of file size and {refused} of 7 of open files end in a sentence (with 20 open "
        "files 30 .data files train); the session byte for byte, no stray file"
    )


def closed_folders(count: int) -> str:
    """A folder that can not be written, for another user than root, and one that goes away."""
    data = write_data(Path("data").absolute(), 4, 200)
    Path("there").mkdir()
    os.chdir("there")
    expect(child(trained(data, "--max-steps", "1")).status == 0, "as we are")
    before = Path("m.sess").read_bytes()
    os.chmod(".", 0o555)  # noqa: S103

    def as_nobody() -> int:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        return trained(data, "--max-steps", "2")()

    child(as_nobody).refused("Permission denied")
    expect(Path("m.sess").read_bytes() == before, "the session has changed")
    os.chmod(".", 0o755)  # noqa: S103

    learn = Run.learn

    def and_remove(run: Run) -> Any:
        if run.reached.step == 5:
            shutil.rmtree("../gone")
        return learn(run)

    def verb() -> int:
        Run.learn = and_remove  # type: ignore[method-assign]
        return trained(data, "-i", "0", "-s", "../gone/m.sess", "--max-steps", "9")()

    child(verb).refused("../gone/m.sess")
    os.chdir("..")
    expect(sorted(os.listdir()) == ["data", "there"], os.listdir())
    return "read-only: a sentence, the session as it was; removed while training: a sentence"


def two_trainings(count: int) -> str:
    """Two trainings of one session; a lock that a killed one left."""
    data = write_data(Path("data"), 4, 200)
    number = os.fork()
    if not number:
        _be_child(trained(data, "-i", "0"), os.open(os.devnull, os.O_WRONLY))
    try:
        while not Path("m.sess").exists():
            time.sleep(0.01)
        for more in ((), ("-s", "m.best.sess")):
            child(trained(data, "--max-steps", "1", *more)).refused("another process is writing")
        expect(child(trained(data, "--evaluate")).status == 0, "--evaluate")
        expect(child(lambda: generate.main(_play("m.sess"))).status == 0, "generate.py")
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
    locks = len(stray())
    step = int(Session.load("m.sess").training["step"]) + 1
    ended = child(trained(data, "--max-steps", str(step)))
    expect(ended.status == 0 and not stray(), ended.told)
    return (
        "the second training refuses, of the best session too; judging and playing go on; the "
        f"{locks} files that a killed one left are no obstacle, and gone"
    )


# -------------------------------------------------------------------------------------- MIDI


def midi(count: int) -> str:
    """Mutated MIDI files, and every kind of odd one, through preprocess.py."""
    dice, folder = np.random.default_rng(1), Path("midi")
    folder.mkdir()
    seeds = [content for _, content in hostile.built_midi(dice)]
    for number in range(min(120, count)):
        seeds.append(write_midi(Path("seed.tmp"), 150, number, number == 3).read_bytes())
    for number, content in enumerate(seeds):
        (folder / f"built-{number}.mid").write_bytes(content)
    for number in range(count):
        seed = seeds[dice.integers(len(seeds))]
        suffix = (".mid", ".midi", ".kar")[number % 3]
        below = folder / str(number // 1000)
        below.mkdir(exist_ok=True)
        content = hostile.mutated(seed, seeds, dice)[:300_000]
        (below / f"{number}{suffix}").write_bytes(content)
    figures, told = _preprocessed(folder, len(seeds) + count, "20")
    reasons = told.splitlines()[-1] if "files: " in told.splitlines()[-1] else _line(told)
    expect("crashed" not in reasons, told)
    return f"{count:,} mutated and {len(seeds)} built files, {figures}; {reasons}"


def floods(count: int) -> str:
    """Files of up to 60 MB with millions of notes, instruments, meta events."""
    folder = Path("midi")
    folder.mkdir()
    for name, content in hostile.floods(count):
        (folder / f"{name}.mid").write_bytes(content)
    number = len(os.listdir(folder))
    write_midi(folder / "good.mid")
    figures, told = _preprocessed(folder, number + 1, "60")
    return f"{number} files of up to {count:,} notes or events, {figures}; {_line(told)}"


def _line(told: str) -> str:
    return next(line for line in told.splitlines() if line.startswith("files: "))


def _preprocessed(folder: Path, count: int, limit: str) -> tuple[str, str]:
    """Run preprocess.py; figures of it, and what it said. Broken if a file is not accounted for."""

    def verb() -> int:
        status = preprocess.main([str(folder), "out", "1", "--time-limit", limit])
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        Path("peak").write_text(json.dumps(peak))
        return status

    begun = time.monotonic()
    ended = child(verb, seconds=3 * 3600)
    seconds = time.monotonic() - begun
    expect(ended.status == 0, ended.told)
    expect("Traceback" not in ended.told, ended.told)
    done = _accounted(ended.told)
    expect(done == count, f"{done} of {count} files are accounted for: {_line(ended.told)}")
    named = ended.told.count("\nrefused, ") + ended.told.startswith("refused, ")
    worker = json.loads(Path("peak").read_text())
    return (
        f"every one done or named ({named:,} with a reason), none hung, {seconds:.0f} s, peak "
        f"{ended.peak // MB} MB, of a worker {worker // MB} MB",
        ended.told,
    )


def _accounted(told: str) -> int:
    """Done, skipped, twins and refused together, as the report has them."""
    words = _line(told).replace("(", " ").replace(")", " ").replace(",", " ").split()
    return sum(
        int(words[words.index(word) - 1]) for word in ("done", "skipped", "twins", "refused")
    )


# ------------------------------------------------------------------------- .data and .sess


def _tensor_seeds() -> list[bytes]:
    data = write_data(Path("data"), 1, 60)
    performance = Performance.load(next(data.iterdir()))
    record = torch.load(next(data.iterdir()), weights_only=True)
    pair = (np.array(performance.events), np.array(performance.controls))
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2).save("m.sess")
    session = torch.load("m.sess", weights_only=True)
    return [hostile.saved(r, new) for r in (record, pair, session) for new in (True, False)]


def tensors(count: int) -> str:
    """Mutated .data and .sess files, of today and of before 2020: read, or refused."""
    seeds, dice = _tensor_seeds(), np.random.default_rng(2)
    Path("here").mkdir()

    def verb() -> int:
        os.chdir("here")
        outcomes, worst = Counter[str](), 0.0
        for number in range(count):
            content = hostile.mutated_tensors(seeds[number % len(seeds)], seeds, dice)
            Path("hurt").write_bytes(content)
            begun = time.monotonic()
            before = _peak_of_now()
            for load in (Performance.load, Session.load):
                try:
                    load("hurt")
                    outcomes["read"] += 1
                except ValueError as error:
                    told = str(error)
                    expect(told.startswith("hurt: ") and "\n" not in told, told)
                    outcomes["refused"] += 1
            worst = max(worst, time.monotonic() - begun)
            grown = _peak_of_now() - before
            expect(grown < 32 * MB + 8 * len(content), f"{grown} bytes for {len(content)}")
            expect(os.listdir() == ["hurt"], os.listdir())
        print(json.dumps([outcomes["read"], outcomes["refused"], worst]))
        return 0

    ended = child(verb, seconds=3 * 3600)
    expect(ended.status == 0, ended.told)
    read, refused, worst = json.loads(ended.told.splitlines()[-1])
    return (
        f"{count:,} mutated files read as data and as a session: {refused:,} times refused in a "
        f"sentence, {read:,} times read (what was changed is a value), nothing run; the slowest "
        f"took {worst:.2f} s, peak of all {ended.peak // MB} MB"
    )


def _peak_of_now() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ----------------------------------------------------------------------------------- decoding


def decoding(count: int) -> str:
    """Random event arrays become MIDI that three libraries read, with the same notes."""
    dice, notes = np.random.default_rng(3), 0
    begun = time.monotonic()
    for number in range(count):
        events = dice.integers(0, 240, int(dice.choice((0, 1, 5, 20, 60))))
        played = EventSeq.from_array(events, (CURRENT, LEGACY)[number % 2]).to_note_seq()
        notes += len(played)
        content = io.BytesIO()
        played.to_midi().write(content)
        counts = set(_note_counts(content.getvalue()))
        expect(counts == {len(played)}, f"{counts} for {events.tolist()}")
    return (
        f"{count:,} random event arrays ({notes:,} notes) decode, and are written as MIDI, which "
        f"symusic, pretty_midi and mido read with as many notes; {time.monotonic() - begun:.0f} s"
    )


def _note_counts(content: bytes) -> Iterator[int]:
    """How many notes each of three libraries finds in a MIDI file."""
    yield sum(len(track.notes) for track in symusic.Score.from_midi(content).tracks)
    parsed = pretty_midi.PrettyMIDI(io.BytesIO(content))
    yield sum(len(instrument.notes) for instrument in parsed.instruments)
    tracks = mido.MidiFile(file=io.BytesIO(content)).tracks
    yield sum(m.type == "note_on" and m.velocity > 0 for track in tracks for m in track)


# ------------------------------------------------------------------------------------- values

ABSURD = [
    *("", " ", "-", "--", "nan", "inf", "-inf", "1e999", "-1", "0", "0.0", "1", "1.5", "1e400"),
    *("9" * 400, "-" + "9" * 400, "0x10", "1_000", "٣", "½", "true", "None", "[]", "💥"),
    *("two words", "a'b", 'a"b', "line\nbreak", "tab\t", "%s", "%(x)s", "{x}", "\\", "\x7f"),
    *(".", "..", "/", "/dev/null", "/dev/full", "/nowhere/at/all", "x" * 255, "x" * 5000),
    *(";", ";;", ";3", ";12", "1,2;3", ",".join("1" * 12) + ";3", ",".join("n" * 12) + ";3"),
    *(
        "1," * 11 + "1e308;3",
        "hidden_dim=0",
        "hidden_dim=16384,gru_layers=64",
        "hidden_dim=8192",
        "hidden_dim=1e9",
        "hidden_dim=" + "9" * 400,
    ),
    *("=", ",", "gru_layers", "gru_dropout=nan", "gru_dropout=inf", "(" * 500, "\udcff"),
]
SCRIPTS: dict[str, tuple[Any, type]] = {
    "preprocess.py": (preprocess, PreprocessConfig),
    "train.py": (train, TrainConfig),
    "generate.py": (generate, GenerateConfig),
}


def edges(entry: Any) -> list[str]:
    """The ends of an option's range, and values just outside."""
    rule = entry.metadata
    if rule["type"] not in (int, float):
        return [*(rule["choices"] or ())]
    found = []
    for end in (rule["low"], rule["high"], rule["above"]):
        if end is not None and abs(end) != float("inf"):
            step = 1 if rule["type"] is int else 1e-9
            found += [end - step, end, end + step]
    return [str(value) for value in found]


def parsed(script: Any, argv: list[str]) -> str:
    """What becomes of a command line: "accepted", or the complaint; Broken for anything else."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            script.parse_args(argv)
    except SystemExit as stop:
        told = err.getvalue()
        good = stop.code == 2 and told.endswith("\n") and told.count("\n") == 1
        expect(good or (stop.code == 0 and out.getvalue()), f"{argv!r}: {stop.code}, {told!r}")
        return told
    except Exception as error:
        raise Broken(f"{argv!r}: {error!r}") from error
    return "accepted"


def command_lines(kind: type, dice: np.random.Generator, count: int) -> Iterator[list[str]]:
    """Each option with each absurd value and at the ends of its range; then some at random."""
    entries = fields(kind)
    for entry in entries:
        for value in (*ABSURD, *edges(entry)):
            for flag in entry.metadata["flags"] or ("",):
                yield [flag, value] if flag else [value]
                if flag.startswith("--"):
                    yield [f"{flag}={value}"]
    flags = [flag for entry in entries for flag in entry.metadata["flags"]]
    letters = list(string.printable)
    for _ in range(count):
        line: list[str] = []
        for _ in range(int(dice.integers(1, 6))):
            words = (flags, ABSURD, ["".join(dice.choice(letters, 6))])[dice.integers(3)]
            line.append(str(words[dice.integers(len(words))] if words else ""))
        yield line


def values(count: int) -> str:
    """Command lines with absurd values: accepted, or one line and exit status 2."""
    dice, told, lines = np.random.default_rng(4), Counter[str](), 0
    for script, kind in SCRIPTS.values():
        every = 1 if count >= 1000 else 10
        for argv in itertools.islice(command_lines(kind, dice, count), 0, None, every):
            told["accepted" if parsed(script, argv) == "accepted" else "refused"] += 1
            lines += 1
    return (
        f"{lines:,} command lines, {told['refused']:,} refused in one line with exit status 2, "
        f"{told['accepted']:,} accepted, no traceback"
    )


def commands(count: int) -> str:
    """Whole commands with each option at the ends of its range, in 6 GB and 20 s."""
    data = write_data(Path("data").absolute(), 2, 60)
    write_midi(Path("midi/a.mid"))
    expect(child(trained(data, "--max-steps", "1", "--export", "")).status == 0, "a session")
    bases = {
        "preprocess.py": ["midi", "out", "1"],
        "train.py": [*quiet(data, "--max-steps", "2"), "-s", "new.sess"],
        "generate.py": _play("m.sess", "-o", "music"),
    }
    ways, late = Counter[int](), 0
    for name, (script, kind) in SCRIPTS.items():
        for entry in fields(kind):
            values = ABSURD if entry.metadata["type"] is str else edges(entry)
            for value in values:
                if "\0" in value or not entry.metadata["flags"]:
                    continue
                argv = [*bases[name], f"{entry.metadata['flags'][-1]}={value}"]
                if len(entry.metadata["flags"][-1]) == 2:
                    argv[-1:] = [entry.metadata["flags"][-1], value]
                before = set(os.listdir())

                def verb(script: Any = script, argv: list[str] = argv) -> int:
                    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
                    return int(script.main(argv))

                ended = child(verb, seconds=20)
                late += ended.late
                expect(ended.late or ended.status in (0, 1, 2), f"{argv}: {ended}")
                expect("Traceback" not in ended.told, f"{argv}: {ended.told}")
                ways[ended.status] += 1
                _tidy(before)
    return (
        f"{sum(ways.values())} whole commands with one option at an end of its range or absurd: "
        f"{ways[0]} did it, {ways[1] + ways[2]} refused in a sentence, {late} were still at work "
        "after 20 s; no traceback"
    )


def _tidy(before: set[str]) -> None:
    for name in set(os.listdir()) - before:
        shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)


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
]


def paths(count: int) -> str:
    """All three commands at paths with odd names, and names of 255 bytes."""
    longest = "ä" * 120
    for name in (*NAMES, longest):
        with contextlib.ExitStack() as stack:
            home = tempfile.mkdtemp(dir=".")
            stack.callback(shutil.rmtree, home)
            stack.callback(os.chdir, os.getcwd())
            os.chdir(home)
            _pipeline_at(name)
    at_most = "x" * 250 + ".sess"
    data = write_data(Path("data"), 2, 60)
    ended = child(trained(data, "--max-steps", "2", "-s", at_most))
    expect(ended.status in (0, 1) and "Traceback" not in ended.told, ended.told)
    return (
        f"{len(NAMES) + 1} odd names (spaces, quotes, newlines, emoji, a leading dash, not UTF-8, "
        "240 bytes) for folders, data, sessions and music: all three commands do their work; a "
        f"session of 255 bytes: exit status {ended.status}, {ended.told.splitlines()[-1][-60:]!r}"
    )


def _pipeline_at(name: str) -> None:
    """MIDI to music in folders and files of that name."""
    write_midi(Path(name, name + ".mid"), 120)
    write_midi(Path(name, "other.mid"), 120, 1)
    lines = [
        lambda: preprocess.main(["--", name, name + " out", "1"]),
        lambda: train.main(quiet(Path(), f"--dataset={name} out", "--max-steps", "2",
                                 f"--session={name}.sess")),
        lambda: generate.main(_play("", f"--session={name}.sess", f"--output-dir={name} music",
                                    f"--control={name} out/{name}.mid.data", "-l", "30")),
    ]  # fmt: skip
    for line in lines:
        ended = child(line)
        expect(ended.status == 0 and "Traceback" not in ended.told, f"{name!r}: {ended.told}")
    expect(sorted(map(str, Path(f"{name} music").iterdir())), "no music")


def crowded_folder(count: int) -> str:
    """A folder with many entries of which one is MIDI, and loops of links."""
    folder = Path("many")
    folder.mkdir()
    for number in range(count):
        os.close(os.open(f"many/{number}.txt", os.O_CREAT | os.O_WRONLY))
    write_midi(folder / "one.mid")
    (folder / "self").symlink_to(".")
    (folder / "loop.mid").symlink_to("loop.mid")
    (folder / "a").mkdir()
    (folder / "a" / "up").symlink_to("..")
    (folder / "a" / "root").symlink_to(folder.absolute())
    begun = time.monotonic()
    ended = child(lambda: preprocess.main(["many", "out", "1"]))
    expect(ended.status == 0 and " 1 done" in ended.told, ended.told)
    return (
        f"{count:,} entries and three loops of links: {time.monotonic() - begun:.1f} s, peak "
        f"{ended.peak // MB} MB; {_line(ended.told)}"
    )


# --------------------------------------------------------------------------------------- load


def week(count: int) -> str:
    """Steps of a tiny network with a week's saves and validations: nothing grows."""
    saves, validations = _lasting(count, logging=False)
    return saves + "; " + validations


def logged_week(count: int) -> str:
    """The same with logs, and a piano roll at each validation."""
    saves, validations = _lasting(count, logging=True)
    return saves + "; " + validations


def _lasting(count: int, logging: bool) -> tuple[str, str]:
    data = write_data(Path("data"), 4, 200)
    learn, save, judged = Run.learn, Run.save, Run.evaluate
    seen: list[tuple[int, int, int]] = []
    done: Counter[str] = Counter()
    every = max(1, count // 20)

    def watched(run: Run) -> Any:
        begun = run.reached.step >= count // 4 and Path("m.best.sess").exists()
        if run.reached.step % every == 0 and begun:
            seen.append((_resident(), len(os.listdir("/proc/self/fd")), _files()))
        return learn(run)

    def counted(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **more: Any) -> Any:
            done[kind] += 1
            return function(*arguments, **more)

        return counting

    def verb() -> int:
        Run.learn = watched  # type: ignore[method-assign]
        Run.save = counted("saves", save)  # type: ignore[method-assign]
        Run.evaluate = counted("validations", judged)  # type: ignore[method-assign]
        judges = write_data(Path("judges").absolute(), 1, 30)
        pace = ("-i", "0.05", "--validation-interval", "0.25", "-v", str(judges))
        line = arguments if logging else quiet
        status = train.main(line(data, *pace, "--max-steps", str(count)))
        print(json.dumps([seen, done]))
        return status

    begun = time.monotonic()
    ended = child(verb, seconds=3 * 3600)
    expect(ended.status == 0, ended.told)
    seen, done = json.loads(ended.told.splitlines()[-1])
    first, last = seen[0], seen[-1]
    grown = last[0] - first[0]
    expect(grown < 8 * MB + first[0] // 20, f"memory grew by {grown} bytes: {seen}")
    expect(first[1:] == last[1:], f"descriptors or files grew: {seen}")
    return (
        f"{count:,} steps, {done['saves']:,} saves and {done['validations']:,} validations in "
        f"{(time.monotonic() - begun) / 60:.1f} min" + (" with logs" if logging else ""),
        f"from a quarter of it to the end memory {first[0] / MB:.1f} to {last[0] / MB:.1f} MB, "
        f"{first[1]} to {last[1]} descriptors, {first[2]} to {last[2]} files",
    )


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _files() -> int:
    return sum(len(names) for _, _, names in os.walk("."))


# ----------------------------------------------------------------------------------- platforms

SPAWNING = "import multiprocessing; multiprocessing.get_all_start_methods = lambda: ['spawn']"
PLATFORMS: dict[str, tuple[dict[str, str | None], list[str], str]] = {
    # environment (None: without it), what stands before the command, what Python runs first
    "as it is": ({}, [], ""),
    "no AVX": ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}, [], ""),
    "AVX2 at most": ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}, [], ""),
    "no bfloat16": ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, [], ""),
    "one core": ({}, ["taskset", "-c", "0"], ""),
    "spawn, not fork": ({}, [], SPAWNING),
    "no HOME": ({"HOME": None, "USER": None, "LOGNAME": None}, [], ""),
    "HOME that is not there": ({"HOME": "/nowhere"}, [], ""),
    "locale C, not UTF-8": (
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None},
        [],
        "",
    ),
    "locale POSIX, ASCII output": ({"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"}, [], ""),
    "warnings are errors": ({"PYTHONWARNINGS": "error::DeprecationWarning:__main__"}, [], ""),
    "optimised Python": ({"PYTHONOPTIMIZE": "2"}, [], ""),
    "no temporary folder": ({"TMPDIR": "/nowhere"}, [], ""),
}


def platforms(count: int) -> str:
    """MIDI to music, as whole commands, in each environment; output is no terminal."""
    lines, done = [], 0
    for name, (changes, before, code) in PLATFORMS.items():
        if before and not shutil.which(before[0]):
            continue
        home = Path(tempfile.mkdtemp(dir="."))
        seconds = _through(home, changes, before, code)
        lines.append(f"{name} {seconds:.0f} s")
        done += 1
        if done >= count:
            break
    version = ".".join(map(str, sys.version_info[:3]))
    return f"Python {version}, torch {torch.__version__}, {done} environments: {', '.join(lines)}"


def _through(home: Path, changes: dict[str, str | None], before: list[str], code: str) -> float:
    write_midi(home / "midi" / "Prélude 🎹.mid", 200)
    write_midi(home / "midi" / "other.mid", 200, 1)
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **{k: v or "" for k, v in changes.items()}}
    for key, value in changes.items():
        if value is None:
            del environment[key]
    if code:
        (home / "site").mkdir()
        (home / "site" / "sitecustomize.py").write_text(code)  # Python runs it before the script
        environment["PYTHONPATH"] = str((home / "site").resolve())
    commands = [
        ["preprocess.py", "midi", "data", "2"],
        ["train.py", *arguments(Path("data"), "--max-steps", "3", "-v", "data")],
        ["generate.py", *_play("m.sess", "-o", "music", "-c", ";3", "--png")],
    ]
    begun = time.monotonic()
    for command in commands:
        done = subprocess.run(
            [*before, sys.executable, str(ROOT / command[0]), *command[1:]],
            cwd=home,
            env=environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        told = (done.stdout + done.stderr).decode(errors="replace")
        expect(done.returncode == 0 and "Traceback" not in told, f"{changes} {command}: {told}")
    expect(len(list((home / "music").iterdir())) == 2, os.listdir(home / "music"))
    return time.monotonic() - begun


# ------------------------------------------------------------------------------------ fuzzing


def fuzz(count: int) -> str:
    """Coverage-guided mutation of the content of a MIDI file, for `count` seconds."""
    return _fuzzed("midi", count)


def fuzz_tensors(count: int) -> str:
    """The same for .data and .sess files."""
    return _fuzzed("tensors", count)


def _fuzzed(kind: str, seconds: int) -> str:
    """By atheris in a process of its own."""
    if subprocess.run([sys.executable, "-c", "import atheris"], capture_output=True).returncode:
        return "not tried: atheris is not installed"
    seeds = Path("seeds").absolute()
    seeds.mkdir()
    contents = _tensor_seeds()
    if kind == "midi":
        contents = [c for _, c in hostile.built_midi(np.random.default_rng(0)) if len(c) < 9000]
    for number, content in enumerate(contents):
        (seeds / str(number)).write_bytes(content)
    command = [sys.executable, "-m", "tools.fuzz", kind, str(seeds), f"-max_total_time={seconds}"]
    command += ["-timeout=20", "-rss_limit_mb=4000", "-max_len=20000", "-print_final_stats=1"]
    command += [f"-artifact_prefix={Path().absolute()}/"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    expect(done.returncode == 0, done.stdout + done.stderr)
    lines = done.stderr.splitlines()
    stats = {line.split(":")[1]: line.split(":")[2] for line in lines if line.startswith("stat::")}
    stats |= {k: v for k, v in (line[6:].split(":") for line in lines if line[:6] == "stat::")}
    runs = int(stats["number_of_executed_units"])
    covered = [line for line in lines if " cov: " in line][-1].split(" cov: ")[1].split()[0]
    return f"{runs:,} inputs in {seconds} s (atheris), {covered} edges of our own code, no finding"


# --------------------------------------------------------------------------------------- main

# what each is, its full size, and a size for the tests
FAULTS: dict[str, tuple[Callable[[int], str], int, int]] = {
    "kills": (kills, 200, 2),
    "full_disk": (full_disk, 1, 0),
    "limits": (limits, 1, 1),
    "closed_folders": (closed_folders, 1, 1),
    "two_trainings": (two_trainings, 1, 1),
    "midi": (midi, 20_000, 60),
    "floods": (floods, 10_000_000, 30_000),
    "tensors": (tensors, 20_000, 100),
    "decoding": (decoding, 1_000_000, 100),
    "values": (values, 20_000, 100),
    "commands": (commands, 1, 0),
    "paths": (paths, 1, 0),
    "crowded_folder": (crowded_folder, 1_000_000, 500),
    "week": (week, 100_000, 80),
    "logged_week": (logged_week, 3_000, 0),
    "platforms": (platforms, len(PLATFORMS), 0),
    "fuzz": (fuzz, 600, 0),
    "fuzz_tensors": (fuzz_tensors, 600, 0),
}


def withstood(name: str, count: int | None = None) -> str:
    """The figure of a fault, tried in a folder of its own that goes away; Broken otherwise."""
    verb, full, _ = FAULTS[name]
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 another user has to come in, too
        os.chdir(folder)
        try:
            return verb(full if count is None else count)
        finally:
            os.chdir(before)


def main() -> int:
    """Print every figure that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="*", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--count", type=int, help="how many kills, files, arrays, steps, seconds")
    options = parser.parse_args()
    unknown = set(options.name) - set(FAULTS)
    if unknown:
        parser.error(f"{sorted(unknown)} is not of {list(FAULTS)}")
    status = 0
    for name in options.name or FAULTS:
        try:
            print(f"{name}: {withstood(name, options.count)}", flush=True)
        except Broken as broken:
            print(f"{name}: BROKEN: {broken}", flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
