"""Child processes that run a command of this project without importing torch again."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch._dynamo  # noqa: F401  takes seconds; otherwise each forked process would import it

import train
from corpus.batches import Batch
from training.trainer import StepResult, Trainer

Command = Callable[[list[str]], int]
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def start_process(
    main: Command, argv: list[str], output: Path, environment: dict[str, str] | None = None
) -> BaseProcess:
    """Run main(argv) in a new process, which prints to the file `output`; return the process."""
    process = CONTEXT.Process(target=_run, args=(main, argv, output, environment or {}))
    process.start()
    return process


def train_until_signal(number: int, step: int, argv: list[str]) -> int:
    """Train; before optimizer step `step` the process of the highest rank sends itself a signal."""
    original = Trainer.step

    def interrupted_step(trainer: Trainer, batch: Batch, lr: float) -> StepResult:
        is_last = trainer.distributed.rank == trainer.distributed.world_size - 1
        if is_last and trainer.state.step == step - 1:
            signal.raise_signal(number)
        return original(trainer, batch, lr)

    Trainer.step = interrupted_step  # type: ignore[method-assign]
    return train.main(argv)


def _run(main: Command, argv: list[str], output: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with output.open("w") as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            status = main(argv)
        file.flush()
        os._exit(status)
