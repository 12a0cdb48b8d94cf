"""How far a training run has come, and where it shows how it goes."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import progress

import utils
from config import TrainConfig
from training.evaluate import EvalResult
from training.learner import GRADIENT_NORM

LOGS = Path("runs")
TALK = 30.0  # seconds between lines of progress where there is no terminal


@dataclass(frozen=True)
class TrainState:
    """How far a session has come; kept in its file."""

    step: int = 0
    seconds: float = 0.0
    events: int = 0
    best: float = math.inf  # nats an event
    judges: str = ""  # what the best was judged by
    worse: int = 0  # validations since the best


class Board:
    """Where a run shows how it goes: the terminal and TensorBoard."""

    def __init__(self, options: TrainConfig, shown: bool = True) -> None:
        """With `shown` false nothing is written anywhere."""
        self.options = options
        self.line = progress.Infinite(file=sys.stderr if shown else io.StringIO())
        self.losses: deque[float] = deque(maxlen=100)
        self.norms: deque[float] = deque(maxlen=100)
        self.spoken = time.monotonic()
        self.begun: tuple[float, TrainState] | None = None  # when the first step was shown, and it
        self.writer: Any = None
        if options.enable_logging and shown:
            board = utils.import_optional("tensorboardX", "-L/--enable-logging")
            records = utils.import_optional("tensorboardX.record_writer", "-L/--enable-logging")
            records.register_writer_factory(_LogFiles.SCHEME, _LogFiles())
            folder = LOGS / _log_name(Path(options.session))
            self.writer = board.SummaryWriter(f"{_LogFiles.SCHEME}:{folder}")

    def step(self, reached: TrainState, loss: float, norm: float, rate: float) -> None:
        """Show one step."""
        self.losses.append(loss)
        self.norms.append(norm)
        self.begun = self.begun or (time.monotonic(), reached)
        if self.writer:
            for tag, value in (("loss", loss), ("norm", norm), ("learning_rate", rate)):
                self.writer.add_scalar(f"model/{tag}", value, reached.step)
            self.writer.add_scalar("speed/events_per_second", self._pace(reached)[0], reached.step)
        now = time.monotonic()
        if self.line.is_tty() or now - self.spoken > TALK:
            self.spoken = now
            text = self._text(reached)
            self.line.writeln(text) if self.line.is_tty() else print(text, flush=True)

    def _pace(self, reached: TrainState) -> tuple[float, float]:
        """Events and steps a second since the first step that was shown."""
        begun, first = self.begun or (0.0, reached)
        seconds = max(1e-9, time.monotonic() - begun)
        return (reached.events - first.events) / seconds, (reached.step - first.step) / seconds

    def _text(self, reached: TrainState) -> str:
        clipped = sum(norm > GRADIENT_NORM for norm in self.norms) / len(self.norms)
        return (
            f"step {reached.step}, loss {sum(self.losses) / len(self.losses):.4f}, "
            f"gradient {self.norms[-1]:.2f} ({clipped:.0%} clipped), "
            f"{self._pace(reached)[0]:,.0f} events/s, {self._left(reached)}"
        )

    def _left(self, reached: TrainState) -> str:
        options, left = self.options, []
        if options.max_minutes:
            left.append(60 * options.max_minutes - reached.seconds)
        _, pace = self._pace(reached)
        if options.max_steps and pace:
            left.append((options.max_steps - reached.step) / pace)
        if not left:
            return f"{reached.seconds / 60:.1f} min so far"
        return f"{max(0.0, min(left)) / 60:.1f} min left"

    def judged(self, reached: TrainState, judgement: EvalResult, picture: bytes) -> None:
        """Show a validation; `picture` is a PNG of music that the network made, or empty."""
        self.say(
            f"step {reached.step}, {reached.seconds / 60:.1f} min, validation: {judgement}"
            + ("" if reached.worse else ", the best so far")
        )
        if self.writer:
            figures = {
                "loss": judgement.nats_per_event,
                "nats_per_note": judgement.nats_per_note,
                "bits_per_second": judgement.bits_per_second,
                "perplexity": judgement.perplexity,
                "accuracy": judgement.accuracy,
            }
            figures |= {f"accuracy_{kind}": v for kind, v in judgement.accuracies().items()}
            for name, value in figures.items():
                self.writer.add_scalar(f"validation/{name}", value, reached.step)
            if picture:
                pixels = utils.import_optional("matplotlib.image", "a piano roll").imread(
                    io.BytesIO(picture)
                )
                self.writer.add_image("music", pixels, reached.step, dataformats="HWC")
            self.writer.add_text("report", "  \n".join(judgement.lines()), reached.step)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.line.writeln("")
        print("\r" * self.line.is_tty() + text, flush=True)

    def close(self) -> None:
        """Finish the line and the log."""
        self.line.finish()
        if self.writer:
            self.writer.close()


class _LogFiles:
    """Where TensorBoard's writer opens its files, so that a full disk does not end its thread.

    Without that thread its queue would be filled, and training would wait for ever.
    """

    SCHEME = "log"  # stands before the path

    def directory_check(self, path: str) -> None:
        """Make the folder."""
        os.makedirs(self._plain(path), exist_ok=True)

    def open(self, path: str) -> _LogFile:
        """A new file."""
        return _LogFile(self._plain(path))

    def _plain(self, path: str) -> str:
        return path.removeprefix(f"{self.SCHEME}:")


class _LogFile:
    """A file that is closed, and says so, once it can not be written."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open(path, "wb")

    def write(self, content: bytes) -> None:
        """Append, if it is still possible."""
        self._try(lambda: self._file.write(content))

    def flush(self) -> None:
        """Hand over to the system what was written."""
        self._try(self._file.flush)

    def close(self) -> None:
        """Be done with it."""
        self._try(self._file.close)

    def _try(self, act: Callable[[], object]) -> None:
        if self._file.closed:
            return
        try:
            act()
        except OSError as error:
            print(f"no more logs: {error.strerror}: {self.path!r}", flush=True)
            with contextlib.suppress(OSError):
                self._file.close()  # it tries to write again what it holds


def _log_name(session: Path) -> str:
    """`model` for model.sess, and `there-model` for a session in the folder there."""
    return "-".join(filter(None, (session.parent.name, session.stem)))
