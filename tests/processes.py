"""Processes that run a command of this project, started without importing torch again."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch._dynamo  # noqa: F401  takes seconds, which each forked process would need again

Command = Callable[[list[str]], int]
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def start_process(
    main: Command, argv: list[str], output: Path, environment: dict[str, str] | None = None
) -> BaseProcess:
    """Run main(argv) in a process; what it prints is in `output` once it ends."""
    process = CONTEXT.Process(target=_run, args=(main, argv, output, environment or {}))
    process.start()
    return process


def _run(main: Command, argv: list[str], output: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with output.open("w") as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            status = main(argv)
        file.flush()
        os._exit(status)
