"""Child processes that can be killed at any moment, with their output and peak memory."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers need it; each child would import it for seconds


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
    timed_out: bool
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


def run_child(
    run: Callable[[], Any], seconds: float = 300.0, kill: Callable[[float], bool] | None = None
) -> Result:
    """Run a function in a forked process, and kill it after `seconds`.

    kill: called with the seconds since the start; the process is killed when it returns True.
    """
    reading, writing = os.pipe()  # not a file: the limits under test would apply to it
    os.set_blocking(reading, False)
    pid = fork()
    if not pid:
        os.close(reading)
        run_and_exit(run, writing)
    os.close(writing)
    started, timed_out, ended, parts = time.monotonic(), False, 0, []
    while not ended:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        parts.append(_read_available(reading))
        elapsed = time.monotonic() - started
        timed_out = elapsed > seconds
        if not ended and (timed_out or (kill is not None and kill(elapsed))):
            os.kill(pid, signal.SIGKILL)
            ended, status, usage = os.wait4(pid, 0)
        if not ended:
            time.sleep(0.002)
    parts.append(_read_available(reading))
    os.close(reading)
    output = b"".join(parts).decode(errors="replace")
    return Result(os.waitstatus_to_exitcode(status), output, timed_out, usage.ru_maxrss * 1024)


def fork() -> int:
    """Fork without the warning about threads: the child uses none of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return os.fork()


def _read_available(pipe: int) -> bytes:
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(pipe, 65536):
            parts.append(part)
    return b"".join(parts)


def run_and_exit(run: Callable[[], Any], output: int) -> None:
    """Run a function in a forked process, print to a descriptor, and end the process."""
    status = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), line_buffering=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), line_buffering=True)
        torch.set_num_threads(1)  # the threads of the parent do not exist here
        status = run() or 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001 the child ends here in any case
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
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
