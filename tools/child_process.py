"""Child processes that can be killed at any moment, with their output and peak memory."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
