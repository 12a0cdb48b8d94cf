"""The trainer: the state of a training run, the learning-rate schedule and the optimizer step."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import utils
from corpus.batches import Batch
from corpus.performance import Corpus
from model import PerformanceRNN, Session
from sequence import CURRENT, Encoding
from training.distributed import Distributed
from training.evaluate import EvalResult, evaluate

MAX_GRAD_NORM = 1.0  # longer gradients are scaled down to this length
EVAL_EVENTS = 1000  # events of each performance that a validation during training reads
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_SPEEDUP = 1.5  # "auto" takes bf16 if its matrix products are so many times as fast
ONE_PROCESS = Distributed()


class NotFiniteError(ValueError):
    """The loss or the weights are not finite; the session file must not be overwritten."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(
            f"the loss or the weights are no longer finite at step {step}; "
            f"{path} holds the last good state: try a lower -l, or -r"
        )


@dataclass(frozen=True)
class TrainState:
    """How far a session has been trained; stored in its file."""

    step: int = 0
    seconds: float = 0.0  # of training and validation, over all runs of the session
    events: int = 0
    best: float = math.inf  # lowest validation loss, nats/event
    val_data: str = ""  # fingerprint of the data that `best` was measured on
    stale_validations: int = 0  # in a row without a new best


@dataclass(frozen=True)
class Schedule:
    """The learning rate during a run, and the limits of the run; None is no limit."""

    peak: float  # highest learning rate
    warm_up: int = 0  # steps
    max_steps: int | None = None
    max_minutes: float | None = None
    patience: int | None = None  # validations in a row without a new best

    def learning_rate(self, state: TrainState) -> float:
        """Return the learning rate of the next step.

        It rises in a line over `warm_up` steps, but over a tenth of the run at most. If the run
        has an end, it also falls in a line, from the peak at the start to zero at the end.
        """
        done = 0.0  # share of the run
        if self.max_steps:
            done = state.step / self.max_steps
        if self.max_minutes:
            done = max(done, state.seconds / 60 / self.max_minutes)
        rise = min(1.0, max((state.step + 1) / (self.warm_up + 1), 10 * done))
        return self.peak * rise * max(0.0, 1 - done)

    def is_finished(self, state: TrainState) -> bool:
        """Return whether one of the limits is reached."""
        return (
            (self.max_steps is not None and state.step >= self.max_steps)
            or (self.max_minutes is not None and state.seconds >= 60 * self.max_minutes)
            or (self.patience is not None and state.stale_validations >= self.patience)
        )

    def seconds_left(self, state: TrainState, steps_per_second: float) -> float | None:
        """Return the time until the first limit is reached, or None without one."""
        left = []
        if self.max_minutes:
            left.append(60 * self.max_minutes - state.seconds)
        if self.max_steps and steps_per_second:
            left.append((self.max_steps - state.step) / steps_per_second)
        return max(0.0, min(left)) if left else None


@dataclass(frozen=True)
class StepOptions:
    """What an optimizer step depends on, besides the batch and the learning rate."""

    precision: str = "fp32"  # a key of DTYPES, for the matrix products; weights stay fp32
    weight_decay: float = 0.0
    ema_decay: float = 0.999  # of the averaged weights, per step
    teacher_forcing_ratio: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class StepResult:
    """An optimizer step, which a GPU may still be computing: reading a tensor waits for it."""

    state: TrainState  # after the step
    loss: Tensor  # nats/event
    grad_norm: Tensor  # before clipping; 0 if fp16 has skipped the step
    lr: float


class BatchLoss(nn.Module):
    """The loss of a batch, in one module so that DistributedDataParallel averages gradients."""

    def __init__(self, model: PerformanceRNN, distributed: Distributed) -> None:
        super().__init__()
        self.model, self.distributed = model, distributed

    def forward(
        self, batch: Batch, carried: Tensor | None, init: Tensor, teacher_forcing_ratio: float
    ) -> tuple[Tensor, Tensor]:
        """Return the loss in nats/event and the hidden state [layers, batch, hidden] at the end.

        carried: the hidden state after the previous batch, for the windows that continue it;
        init: start vectors [batch of all processes, init].
        """
        model = self.model
        hidden = self.distributed.shard(model.init_hidden(init))
        inputs = model.shift_right(batch.targets)
        if carried is not None and carried.shape == hidden.shape:
            hidden = torch.where(batch.continues[:, None], carried, hidden)
            inputs[0] = torch.where(batch.continues, batch.previous, inputs[0])
        control = (batch.controls, batch.use_control)
        if teacher_forcing_ratio < 1:
            logits, last = model.forward_scheduled(inputs, hidden, *control, teacher_forcing_ratio)
        else:
            logits, last = model(inputs, hidden, *control)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten())
        return loss, last.detach().float()


class Trainer:
    """A network in training, with all that a resumed run needs to continue exactly.

    state: the TrainState, which only the trainer changes;
    ema: the network with the exponential moving average of the weights, which is evaluated and
    generated with; hidden: the state [layers, batch, hidden] after the last batch, or None.
    """

    def __init__(
        self,
        model: PerformanceRNN,
        options: StepOptions,
        state: TrainState | None = None,
        distributed: Distributed = ONE_PROCESS,
        encoding: Encoding = CURRENT,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Start with empty optimizer state.

        encoding: the event encoding of the data;
        metadata: other entries of `training` in the session file, such as the options.
        """
        self.model, self.options, self.distributed = model, options, distributed
        self.encoding, self.metadata = encoding, metadata or {}
        self.state = state or TrainState()
        self.validated_step = self.state.step  # nothing new to validate before the next step
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.hidden: Tensor | None = None
        self.weights = list(model.parameters())
        kind = model.device.type
        self.optimizer = torch.optim.AdamW(
            self.weights, weight_decay=options.weight_decay, fused=kind in ("cpu", "cuda")
        )
        self.scaler = torch.amp.GradScaler(kind, enabled=options.precision == "fp16")
        self._batch_loss = distributed.wrap(BatchLoss(model, distributed))

    # ---------------------------------------------------------------------------- training

    def step(self, batch: Batch, lr: float) -> StepResult:
        """Update the weights and their average by one batch.

        Random numbers depend on the seed and the number of the step alone.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss, hidden = self._forward(batch)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.weights, MAX_GRAD_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._update_ema()
        self.hidden = hidden  # not before: an error above leaves the state of the last step
        if self.scaler.is_enabled():
            grad_norm = grad_norm.nan_to_num(0.0, 0.0)  # the step was skipped, the scale lowered
        loss = self.distributed.mean(loss.detach())
        events = self.distributed.world_size * batch.targets.numel()
        self.state = replace(
            self.state, step=self.state.step + 1, events=self.state.events + events
        )
        return StepResult(self.state, loss, grad_norm, lr)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss and the hidden state after the batch."""
        seed = (self.options.seed, self.state.step)
        torch.manual_seed(utils.derive_seed(*seed))
        count = self.distributed.world_size * batch.targets.shape[1]
        init = torch.randn(count, self.model.config.init_dim, device=self.model.device)
        if not self.distributed.is_main:  # each process has its own dropout
            torch.manual_seed(utils.derive_seed(*seed, self.distributed.rank))
        autocast: Any = contextlib.nullcontext()
        if self.options.precision != "fp32":
            autocast = torch.autocast(self.model.device.type, DTYPES[self.options.precision])
        with autocast:
            loss, hidden = self._batch_loss(
                batch, self.hidden, init, self.options.teacher_forcing_ratio
            )
            return loss, hidden

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Move the average towards the weights; faster in the first steps, when they are bad."""
        step = self.state.step
        decay = min(self.options.ema_decay, (1 + step) / (10 + step))
        for average, weight in zip(self.ema.parameters(), self.weights, strict=True):
            average.lerp_(weight, 1 - decay)

    def set_seconds(self, seconds: float) -> None:
        """Set how long the session has been trained; the training loop has the clock."""
        self.state = replace(self.state, seconds=seconds)

    # -------------------------------------------------------------------------- validation

    def evaluate(self, val_data: Corpus) -> EvalResult:
        """Evaluate the averaged weights; each process takes its share of the performances."""
        rank, world_size = self.distributed.rank, self.distributed.world_size
        share = Corpus(val_data.performances[rank::world_size])
        result = evaluate(self.ema, share, EVAL_EVENTS)
        sums = np.stack([result.counts, result.correct, result.losses])
        counts, correct, losses = self.distributed.sum(sums)
        return EvalResult(counts, correct, losses, val_data.encoding)

    def update_best(self, result: EvalResult) -> bool:
        """Record a validation in the state; return whether it is the best so far."""
        self.validated_step = self.state.step
        state, loss = self.state, result.nats_per_event
        is_best = loss < state.best
        stale_validations = 0 if is_best else state.stale_validations + 1
        best = loss if is_best else state.best
        self.state = replace(state, best=best, stale_validations=stale_validations)
        return is_best

    # -------------------------------------------------------------------- saving, resuming

    def save(self, path: Path, collective: bool = True) -> None:
        """Write the session, with all that is needed to resume.

        collective: false after an error, when other processes may not answer.
        Raises NotFiniteError, and writes nothing, if a weight is not finite.
        """
        if not all(bool(weight.isfinite().all()) for weight in self.weights):
            raise NotFiniteError(path, self.state.step)
        hidden = self.hidden
        if hidden is not None:
            can_gather = collective or self.distributed.world_size == 1
            hidden = self.distributed.gather(hidden) if can_gather else None
        session = replace(
            self._build_session(self.model),
            optimizer_state=self.optimizer.state_dict(),
            ema_state=self.ema.state_dict(),
            hidden_state=hidden,
        )
        if self.distributed.is_main:
            session.save(path)

    def save_best(self, path: Path) -> None:
        """Write a session with the averaged weights alone, to generate with."""
        if self.distributed.is_main:
            self._build_session(self.ema).save(path)

    def _build_session(self, model: PerformanceRNN) -> Session:
        training = {**asdict(self.state), "precision": self.options.precision, **self.metadata}
        if self.scaler.is_enabled():
            training["scaler"] = self.scaler.state_dict()
        return Session(model.config, model.state_dict(), self.encoding.version, training=training)

    def restore(
        self, path: Path, session: Session, with_hidden: bool, with_optimizer: bool
    ) -> None:
        """Continue the session of this network, which was read from `path`."""
        if session.ema_state:
            self.ema.load_state_dict(session.ema_state)
        if with_hidden and session.hidden_state is not None:
            self.hidden = self.distributed.shard(session.hidden_state).to(self.model.device)
        try:
            if self.scaler.is_enabled() and "scaler" in session.training:
                saved = session.training["scaler"]
                self.scaler.load_state_dict(
                    {name: saved[name] for name in self.scaler.state_dict()}
                )
            if with_optimizer and session.optimizer_state:
                self._restore_optimizer(session.optimizer_state)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).split("\n")[0][:200]
            raise ValueError(
                f"{path}: the state of the optimizer does not fit the network ({reason}): "
                "drop it with -r"
            ) from error

    def _restore_optimizer(self, saved: dict[str, Any]) -> None:
        """Set the moments of Adam.

        Its settings stay the current ones, because files of an old torch do not have all of them.
        """
        (group,) = saved["param_groups"]
        if not isinstance(saved["state"], dict):
            raise TypeError("its state is not a dict")
        moments: dict[int, dict[str, Any]] = {}
        for number, (weight, key) in enumerate(zip(self.weights, group["params"], strict=True)):
            if key in saved["state"]:  # otherwise the weight has never been updated
                moments[number] = _parse_moments(number, weight, saved["state"][key])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def _parse_moments(number: int, weight: Tensor, saved: dict[str, Any]) -> dict[str, Tensor]:
    """Check what Adam stores for a weight."""
    moments = {"step": torch.tensor(float(saved["step"]))}
    for name in ("exp_avg", "exp_avg_sq"):
        moment = saved[name]
        if not isinstance(moment, Tensor) or moment.shape != weight.shape:
            raise ValueError(f"{name} of weight {number} has another shape")
        moments[name] = moment
    if not all(value.isfinite().all() for value in moments.values()):
        raise ValueError(f"the moments of weight {number} are not finite")
    return moments


def pick_precision(device: torch.device) -> str:
    """Return bf16 if a quick measurement shows that it pays on this device, otherwise fp32."""
    speedup = _measure_speed(torch.bfloat16, device) / _measure_speed(torch.float32, device)
    return "bf16" if speedup > BF16_SPEEDUP else "fp32"


def _measure_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Return matrix products per second, of a size as in training, the best of three."""
    left = torch.ones(1024, 512, dtype=dtype, device=device)
    right = torch.ones(512, 1536, dtype=dtype, device=device)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        float((left @ right)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 1 / min(seconds)
