"""How far a training run has come, and where it shows how it goes."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import progress

import utils
from config import TrainConfig
from judge import Judgement

LOGS = Path("runs")
TALK = 30.0  # seconds between lines of progress where there is no terminal


@dataclass(frozen=True)
class Reached:
    """How far a session has come; kept in its file."""

    step: int = 0
    seconds: float = 0.0
    events: int = 0
    best: float = math.inf  # nats an event
    judges: str = ""  # what the best was judged by


class Board:
    """Where a run shows how it goes: the terminal and TensorBoard."""

    def __init__(self, options: TrainConfig) -> None:
        self.options = options
        self.line = progress.Infinite()
        self.losses: deque[float] = deque(maxlen=100)
        self.spoken = self.begun = time.monotonic()
        self.events = 0
        self.writer: Any = None
        if options.enable_logging:
            board = utils.optional("tensorboardX", "-L/--enable-logging")
            self.writer = board.SummaryWriter(str(LOGS / _log_name(Path(options.session))))

    def step(self, reached: Reached, loss: float, norm: float, rate: float, events: int) -> None:
        """Show one step."""
        self.losses.append(loss)
        self.events += events
        if self.writer:
            for tag, value in (("loss", loss), ("norm", norm), ("learning_rate", rate)):
                self.writer.add_scalar(f"model/{tag}", value, reached.step)
        now = time.monotonic()
        if self.line.is_tty() or now - self.spoken > TALK:
            self.spoken = now
            text = self._text(reached, now)
            self.line.writeln(text) if self.line.is_tty() else print(text, flush=True)

    def _text(self, reached: Reached, now: float) -> str:
        speed = self.events / max(1e-9, now - self.begun)
        return (
            f"step {reached.step}, loss {sum(self.losses) / len(self.losses):.4f}, "
            f"{speed:,.0f} events/s, {self._left(reached)}"
        )

    def _left(self, reached: Reached) -> str:
        options, left = self.options, []
        if options.max_minutes:
            left.append(60 * options.max_minutes - reached.seconds)
        if options.max_steps and reached.step:
            left.append((options.max_steps - reached.step) * reached.seconds / reached.step)
        if not left:
            return f"{reached.seconds / 60:.1f} min so far"
        return f"{max(0.0, min(left)) / 60:.1f} min left"

    def judged(self, reached: Reached, judgement: Judgement, best: bool) -> None:
        """Show a validation."""
        self.say(
            f"step {reached.step}, {reached.seconds / 60:.1f} min, validation: {judgement}"
            + (", the best so far" if best else "")
        )
        if self.writer:
            per_note = judgement.nats / max(1, judgement.notes)
            self.writer.add_scalar("validation/loss", judgement.nats_per_event, reached.step)
            self.writer.add_scalar("validation/nats_per_note", per_note, reached.step)
            accuracy = judgement.correct / judgement.events
            self.writer.add_scalar("validation/accuracy", accuracy, reached.step)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.line.writeln("")
        print("\r" * self.line.is_tty() + text, flush=True)

    def close(self) -> None:
        """Finish the line and the log."""
        self.line.finish()
        if self.writer:
            self.writer.close()


def _log_name(session: Path) -> str:
    """`model` for model.sess, and `there-model` for a session in the folder there."""
    return "-".join(filter(None, (session.parent.name, session.stem)))
