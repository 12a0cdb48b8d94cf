"""Kill preprocess.py before each change of the file system, and complete the run afterwards."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import preprocess
from corpus.manifest import check_complete
from corpus.performance import Performance
from tools.synthetic_data import write_midi

# functions of `os` that change the file system
CHANGES = ("replace", "rename", "unlink", "mkdir", "rmdir", "link", "fsync", "chmod")
# phases of preprocess.py: what the run does that is killed
PHASES = ("convert", "convert and split", "split", "follow renamed files", "follow them in a split")
KILLED = 9  # exit status of a child that was ended
SPLIT = ("--split", "50,25,25")


def run_until_change(argv: list[str], number: int = 0) -> tuple[int, int]:
    """Run preprocess.py in a forked process and end it before change `number`, from 1 on.

    Returns the exit status, KILLED if it was ended, and the number of changes.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _run_and_exit(argv, number, writer)
    os.close(writer)
    with open(reader, "rb") as file:
        count = len(file.read())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), count


def _run_and_exit(argv: list[str], number: int, writer: int) -> None:
    """Run preprocess.py without output; write a byte for each change."""
    status = 70
    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        parent, count = os.getpid(), 0

        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                if os.getpid() == parent:  # not in a worker
                    count += 1
                    os.write(writer, b".")
                    if count == number:
                        os._exit(KILLED)
                return function(*arguments, **options)

            return call

        for name in CHANGES:
            setattr(os, name, wrap(getattr(os, name)))
        status = preprocess.main(argv)
    except BaseException:  # noqa: BLE001 the child ends here in any case
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def prepare_phase(phase: str, midi: Path, data: Path) -> list[str]:
    """Make the MIDI files and the data folder before a phase; return the options of its run."""
    for number in range(4):  # in a split, "train" is also the name of a subset
        write_midi(midi / ("train", "other")[number % 2] / f"{number}.mid", 60, number)
    if phase == "convert":
        return []
    if phase == "convert and split":
        return [*SPLIT]
    in_split = phase == "follow them in a split"
    run_until_change([str(midi), str(data), "1", *(SPLIT if in_split else ())])
    if phase == "split":
        return [*SPLIT]
    paths = sorted(midi.rglob("*.mid"))
    for path in paths:  # each gets the name of the next one
        path.rename(path.with_suffix(".moved"))
    for path, name in zip(paths, [*paths[1:], paths[0]], strict=True):
        path.with_suffix(".moved").rename(name)
    write_midi(paths[0], 60, 30)  # the one that had this name is gone
    write_midi(midi / "new.mid", 60, 31)
    return ["--prune"]


def kill_in_phase(phase: str, folder: Path, kills: int) -> tuple[int, int]:
    """Kill a run `kills` times, at evenly spaced changes, and complete it each time.

    Returns the number of kills, and of changes in an uninterrupted run. Raises AssertionError if
    train.py would accept an incomplete folder, or if the completed folder is not that of an
    uninterrupted run.
    """
    midi, start, whole = folder / "midi", folder / "start", folder / "whole"
    options = prepare_phase(phase, midi, start)
    if start.exists():
        shutil.copytree(start, whole)
    status, changes = run_until_change([str(midi), str(whole), "1", *options])
    _expect(status == 0, f"{phase}: exit status {status}")
    before, after = list_data(start), list_data(whole)
    numbers = np.unique(np.linspace(1, changes, min(kills, changes)).astype(int)).tolist()
    for number in numbers:
        data = folder / "data"
        if start.exists():
            shutil.copytree(start, data)
        argv = [str(midi), str(data), "1", *options]
        status, _ = run_until_change(argv, number)
        _expect(status == KILLED, f"{phase}: exit status {status} instead of a kill at {number}")
        if _is_accepted(data):
            found = _drop_others(list_data(data))
            is_whole = found in (_drop_others(before), _drop_others(after))
            _expect(is_whole, f"{phase}: incomplete, but accepted, after a kill at {number}")
        status, _ = run_until_change(argv)
        _expect(status == 0, f"{phase}: exit status {status} after a kill at {number}")
        _expect(list_data(data) == after, f"{phase}: {list_data(data)} after a kill at {number}")
        _expect(_is_accepted(data), f"{phase}: not complete after a kill at {number}")
        shutil.rmtree(data)
    return len(numbers), changes


def list_data(folder: Path) -> dict[str, str]:
    """Return all files of a data folder, with the hash of the MIDI file of each `.data` file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): (
            Performance.load(path).source if path.suffix == ".data" else ""
        )
        for path in files
    }


def _drop_others(files: dict[str, str]) -> dict[str, str]:
    """Return the `.data` files of a listing."""
    return {path: source for path, source in files.items() if source}


def _is_accepted(data: Path) -> bool:
    """Return whether train.py would accept a data folder."""
    try:
        check_complete([data / "x", *data.rglob("*.data")])
    except ValueError:
        return False
    return True


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
