"""Progress of a training, in the terminal, in TensorBoard logs and in metrics.jsonl."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import sys
import tempfile
import time
import wave
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import progress

import utils
from midi import synth
from midi.notes import NoteSeq
from model import Session
from training.evaluate import EvalResult, format_results_table
from training.trainer import MAX_GRAD_NORM, Schedule, TrainState
from utils import Array, format_time

LOG_DIR = Path("runs")
INTERVAL = 30.0  # seconds between progress lines if the output is not a terminal
WINDOW = 100  # steps, over which the displayed loss is averaged
METRICS_FILE = "metrics.jsonl"  # in the log folder, a JSON object per step and validation
DESCRIPTIONS = {  # of the curves in TensorBoard
    "loss/train": "Loss of each training batch, in nats/event",
    "loss/val": "Loss on the start of each validation performance, in nats/event; lower is better",
    "lr": "Learning rate",
    "grad_norm": "Norm of the gradients before clipping",
    "grad_clipped": f"Share of the last {WINDOW} steps whose gradients were clipped",
    "throughput": "Events trained on per second",
    "music/copied_notes": "Notes of the longest passage that the sample has from the training data",
}


@dataclass(frozen=True)
class LoggedSample:
    """A generated sample for the logs.

    picture: piano roll as PNG; copied: notes of its longest passage from the training data, or
    None if that is unknown; warning: printed, if there is one; audio: values from -1 to 1
    [frames], or None, and frame_rate: frames per second.
    """

    picture: bytes
    copied: int | None = None
    warning: str = ""
    audio: Array | None = None
    frame_rate: int = 0


class Logger:
    """A display of progress lines in the terminal and, with a `log_dir`, curves in TensorBoard.

    The curves are in metrics.jsonl, too. schedule: for the time left; is_silent: display nothing;
    pass_events: events of the training data, for the time of a pass, or 0; reference: losses to
    compare with, added to the lines of validations.
    It is a context manager, which closes the logs at the end.
    """

    def __init__(
        self,
        schedule: Schedule,
        log_dir: Path | None = None,
        is_silent: bool = False,
        pass_events: int = 0,
        reference: str = "",
    ) -> None:
        self.schedule = schedule
        self.pass_events, self.reference = pass_events, reference
        self.line = progress.Infinite(file=io.StringIO() if is_silent else sys.stderr)
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.grad_norms: deque[float] = deque(maxlen=WINDOW)
        self.first_step: tuple[float, TrainState] | None = None  # time and state
        self.last_print_time = time.monotonic()
        self.writer: Any = None
        self.metrics: _LogFile | None = None
        self.log_dir = log_dir
        if log_dir is not None and not is_silent:
            with self._stop_after_error():
                os.makedirs(log_dir, exist_ok=True)
                self.metrics = _LogFile(str(log_dir / METRICS_FILE), "ab")
        if log_dir is not None and self.metrics is not None:
            with self._stop_after_error():
                tensorboard = utils.import_optional("tensorboardX", "-L/--enable-logging")
                records = utils.import_optional("tensorboardX.record_writer", "-L/--enable-logging")
                records.register_writer_factory(_LogFiles.SCHEME, _LogFiles())
                self.writer = tensorboard.SummaryWriter(f"{_LogFiles.SCHEME}:{log_dir}")
                losses = ["Multiline", ["loss/train", "loss/val"]]
                self.writer.add_custom_scalars({"loss": {"train and validation": losses}})

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.finish()
        with self._stop_after_error():
            if self.writer:
                self.writer.close()
        if self.metrics:
            self.metrics.close()

    @contextlib.contextmanager
    def _stop_after_error(self) -> Iterator[None]:
        """Stop writing logs after an error of any kind, because training must go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 logs are never worth a training
            self.writer = None
            self._print(f"{self.log_dir}: logging stopped: {error}")

    def log_step(self, state: TrainState, loss: float, grad_norm: float, lr: float) -> None:
        """Display an optimizer step; state: after the step; loss: nats/event."""
        self.losses.append(loss)
        self.grad_norms.append(grad_norm)
        now = time.monotonic()
        self.first_step = self.first_step or (now, state)
        start_time, start_state = self.first_step
        seconds = max(1e-9, now - start_time)
        events_per_second = (state.events - start_state.events) / seconds
        with self._stop_after_error():
            clipped = sum(norm > MAX_GRAD_NORM for norm in self.grad_norms) / len(self.grad_norms)
            self._add_scalars(
                state.step,
                {
                    "loss/train": loss,
                    "grad_norm": grad_norm,
                    "grad_clipped": clipped,
                    "lr": lr,
                    "throughput": events_per_second,
                },
            )
        if self.line.is_tty() or now - self.last_print_time > INTERVAL:
            self.last_print_time = now
            steps_per_second = (state.step - start_state.step) / seconds
            left = self.schedule.estimate_seconds_left(state, steps_per_second)
            time_left = (
                f"{format_time(state.seconds)} elapsed"
                if left is None
                else f"{format_time(left)} left"
            )
            text = (
                f"step {state.step} | loss {sum(self.losses) / len(self.losses):.3f} | "
                f"lr {lr:.1e} | {events_per_second:,.0f} events/s | "
                f"{self._format_pass(events_per_second)}{time_left}"
            )
            self.line.writeln(text) if self.line.is_tty() else utils.print_line(text)

    def _format_pass(self, events_per_second: float) -> str:
        """Format the time for one pass over the training data, if it is known."""
        if not (self.pass_events and events_per_second):
            return ""
        return f"{format_time(self.pass_events / events_per_second)} per pass | "

    def log_start(self, state: TrainState, result: EvalResult) -> None:
        """Display a validation before the first step."""
        self._print(f"before training | val {result}{self._format_reference()}")
        with self._stop_after_error():
            self._write_validation(state, result)

    def _format_reference(self) -> str:
        return f" | {self.reference}" if self.reference else ""

    def log_validation(
        self,
        state: TrainState,
        result: EvalResult,
        is_best: bool,
        make_sample: Callable[[], LoggedSample] | None = None,
    ) -> None:
        """Display a validation; make_sample: returns a sample for the logs."""
        comparison = "best so far" if is_best else f"best {state.best:.3f}"
        self._print(f"step {state.step} | val {result} | {comparison}{self._format_reference()}")
        with self._stop_after_error():
            self._write_validation(state, result)
        if self.writer and make_sample is not None:
            try:
                self._write_sample(state, make_sample())
            except Exception as error:  # noqa: BLE001 a sample is never worth a training
                self._print(f"{self.log_dir}: no sample of step {state.step}: {error}")

    def log_go_back(self, state: TrainState) -> None:
        """Display that the training goes on from its best weights; state: after that."""
        rate = self.schedule.peak * state.lr_scale
        self._print(
            f"step {state.step} | validation no better: back to the best weights, learning rate "
            f"at most {rate:.1e}"
        )

    def log_open_controls(self, state: TrainState, results: Mapping[str, EvalResult]) -> None:
        """Display the losses with fewer and fewer controls, by label; nothing if there are none."""
        losses = {label: result.nats_per_event for label, result in results.items()}
        if losses:
            texts = [f"{label} {loss:.3f}" for label, loss in losses.items()]
            self._print(f"step {state.step} | val at the start of pieces: {', '.join(texts)}")
        with self._stop_after_error():
            self._add_scalars(
                state.step,
                {f"validation/{label.replace(' ', '_')}": x for label, x in losses.items()},
            )

    def _write_validation(self, state: TrainState, result: EvalResult) -> None:
        self._add_scalars(
            state.step,
            {
                "loss/val": result.nats_per_event,
                "validation/nats_per_note": result.nats_per_note,
                "validation/bits_per_second": result.bits_per_second,
                "validation/perplexity": result.perplexity,
                "validation/accuracy": result.accuracy,
            },
        )
        for kind, share in result.accuracy_by_kind.items():
            self._add_scalars(state.step, {f"validation/accuracy_{kind}": share})
        if self.writer:
            table = format_results_table({"validation": result})
            self.writer.add_text("report", f"```\n{table}\n```", state.step)

    def _write_sample(self, state: TrainState, sample: LoggedSample) -> None:
        image = utils.import_optional("matplotlib.image", "a piano roll")
        pixels = image.imread(io.BytesIO(sample.picture))
        self.writer.add_image("music", pixels, state.step, dataformats="HWC")
        if sample.audio is not None:
            rate = sample.frame_rate
            self.writer.add_audio("music", sample.audio, state.step, sample_rate=rate)
        if sample.copied is not None:
            self._add_scalars(state.step, {"music/copied_notes": sample.copied})
        if sample.warning:
            self._print(f"step {state.step} | {sample.warning}")

    def _add_scalars(self, step: int, values: dict[str, float]) -> None:
        if self.metrics:
            finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
            record = {"time": round(time.time(), 3), "step": step, **finite}
            self.metrics.write(json.dumps(record).encode() + b"\n")
        for tag, value in values.items() if self.writer else ():
            description = DESCRIPTIONS.get(tag, "")
            self.writer.add_scalar(tag, value, step, summary_description=description)

    def _print(self, text: str) -> None:
        """Print a line below the progress line, so that it stays."""
        if self.metrics:
            self.metrics.flush()
        self.line.writeln("")
        if self.line.is_tty():
            self.line.file.write("\r")
        utils.print_line(text)


def render_sample(notes: NoteSeq) -> tuple[Array | None, int]:
    """Return the audio of notes [frames] and its frame rate; (None, 0) if a library is missing.

    It has one channel and half the frames of a CD, so that logs stay small.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ImportError):
        utils.import_optional("soundfile", "audio in logs")  # tensorboardX writes with it
        midi_path, path = Path(folder, "sample.mid"), Path(folder, "sample.wav")
        midi_path.write_bytes(notes.to_midi_bytes())
        synth.render_audio(midi_path, path)
        with wave.open(str(path)) as file:
            rate, channels = file.getframerate(), file.getnchannels()
            frames = np.frombuffer(file.readframes(-1), "<i2").reshape(-1, channels)
        return frames[::2].mean(axis=1) / 32768, rate // 2
    return None, 0


def format_reference(event_dim: int, pretrained: Path) -> str:
    """Format the losses of an untrained network and, if its file exists, of the shipped session.

    The loss of the shipped session is that on its own validation data.
    """
    text = f"untrained {math.log(event_dim):.2f}"
    with contextlib.suppress(OSError, ValueError):
        best = float(Session.load(pretrained).training["best"])
        text += f", {pretrained.name} {best:.2f} on its own data" if math.isfinite(best) else ""
    return text


def get_log_dir(session: Path) -> Path:
    """Return the log folder: `runs/model` for model.sess, `runs/a/model` for a/model.sess.

    A session outside the working folder, or with another suffix, has a number from its path at
    the end, so that two sessions never share a log folder.
    """
    path, here = Path(os.path.realpath(session)), Path(os.path.realpath("."))
    if path.suffix == ".sess" and path.is_relative_to(here):
        return LOG_DIR / path.relative_to(here).with_suffix("")
    number = hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()
    return LOG_DIR / "-".join(filter(None, (path.parent.name, path.stem, number)))


class _LogFiles:
    """A factory of log files for tensorboardX, whose writer thread must survive a full disk.

    An error would end that thread; then its queue would fill up, and training would wait forever.
    """

    SCHEME = "log"  # tensorboardX uses this factory for paths that start with "log:"

    def directory_check(self, path: str) -> None:
        """Create the folder `path`."""
        os.makedirs(path.removeprefix(f"{self.SCHEME}:"), exist_ok=True)

    def open(self, path: str) -> _LogFile:
        """Open a new file `path`."""
        return _LogFile(path.removeprefix(f"{self.SCHEME}:"))


class _LogFile:
    """A file that prints its first write error and ignores everything that is written later.

    It is created by the first write, so that no run leaves it empty.
    """

    def __init__(self, path: str, mode: str = "wb") -> None:
        self._path, self._mode = path, mode
        self._file: BinaryIO | None = None
        self._has_failed = False
        self.write = functools.partial(self._call, self._write)
        self.flush = functools.partial(self._call, self._flush)
        self.close = functools.partial(self._call, self._close)

    def _write(self, content: bytes) -> None:
        is_first = self._file is None
        file = self._file = self._file or cast(BinaryIO, open(self._path, self._mode))
        file.write(content)
        if is_first:
            file.flush()

    def _flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _call(self, method: Callable[..., None], *arguments: object) -> None:
        if self._has_failed:
            return
        try:
            method(*arguments)
        except OSError as error:
            self._has_failed = True
            utils.print_line(f"{self._path}: logging stopped: {error.strerror}")
            with contextlib.suppress(OSError):
                self._close()  # writes the buffer, which fails again
            with contextlib.suppress(OSError):
                if os.path.isfile(self._path) and not os.path.getsize(self._path):
                    os.unlink(self._path)
