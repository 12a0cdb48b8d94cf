"""The trainer: the state of a training, the learning-rate schedule and the optimizer step."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Sequence
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
from training.evaluate import EvalResult, Visible, evaluate_choices, list_visible_controls

MAX_GRAD_NORM = 1.0  # gradients with a larger norm are scaled down to it
EVAL_EVENTS = 1000  # of each performance, in a validation during training
OPEN_EVAL_EVENTS = 250  # of each performance, with fewer and fewer controls
GO_BACK_SCALE = 1 / 3  # of the learning rate, each time that a training goes back
MIN_SCALE = 0.01  # of the learning rate, after going back many times
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16_SPEEDUP = 1.5  # from this speedup of its products on, precision "auto" is bf16
ONE_PROCESS = Distributed()


class NotFiniteError(ValueError):
    """An error for a loss or weights that are not finite: the session must not be saved."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(
            f"the loss or the weights are no longer finite at step {step}; "
            f"{path} holds the last good state: try a lower -l, or -r"
        )


@dataclass(frozen=True)
class TrainState:
    """The progress of a session over all its runs; it is stored in the session file."""

    step: int = 0
    seconds: float = 0.0  # of training and validation
    events: int = 0  # that the network was trained on
    best: float = math.inf  # lowest validation loss, nats/event
    val_data: str = ""  # fingerprint of the data that `best` was measured on, and how much of it
    stale_validations: int = 0  # validations since the best one
    before: float = math.inf  # validation loss before fine-tuning, measured on `val_data`
    lr_scale: float = 1.0  # of the learning rate, see `Trainer.go_back`


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a training, and its limits; None means no limit."""

    peak: float  # highest learning rate
    warm_up: int = 0  # steps
    max_steps: int | None = None
    max_minutes: float | None = None
    patience: int | None = None  # validations without a new best

    def compute_learning_rate(self, state: TrainState) -> float:
        """Return the learning rate of the next step.

        It rises linearly over `warm_up` steps, or over the first tenth of the training if that is
        shorter. With a limit of steps or minutes it also falls linearly, from `peak` at the start
        to zero at the limit. `state.lr_scale` scales it.
        """
        done = 0.0  # share of the training that is done
        if self.max_steps:
            done = state.step / self.max_steps
        if self.max_minutes:
            done = max(done, state.seconds / 60 / self.max_minutes)
        rise = min(1.0, max((state.step + 1) / (self.warm_up + 1), 10 * done))
        return self.peak * rise * max(0.0, 1 - done) * state.lr_scale

    def is_finished(self, state: TrainState) -> bool:
        """Return whether a limit is reached."""
        return (
            (self.max_steps is not None and state.step >= self.max_steps)
            or (self.max_minutes is not None and state.seconds >= 60 * self.max_minutes)
            or (self.patience is not None and state.stale_validations >= self.patience)
        )

    def estimate_seconds_left(self, state: TrainState, steps_per_second: float) -> float | None:
        """Return the time until the first limit of steps or minutes, or None if there is none."""
        left = []
        if self.max_minutes:
            left.append(60 * self.max_minutes - state.seconds)
        if self.max_steps and steps_per_second:
            left.append((self.max_steps - state.step) / steps_per_second)
        return max(0.0, min(left)) if left else None


@dataclass(frozen=True)
class StepOptions:
    """Options of an optimizer step."""

    precision: str = "fp32"  # of the matrix products, a key of DTYPES; weights stay float32
    weight_decay: float = 0.0
    ema_decay: float = 0.999  # decay per step of the moving average of the weights
    teacher_forcing_ratio: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class StepResult:
    """The result of an optimizer step.

    A GPU may still be computing the tensors; converting one to a float waits for it.
    """

    state: TrainState  # after the step
    loss: Tensor  # nats/event
    grad_norm: Tensor  # before clipping; 0 if fp16 has skipped the step
    lr: float


class BatchLoss(nn.Module):
    """The loss of a batch as a module, which DistributedDataParallel can wrap."""

    def __init__(self, model: PerformanceRNN, distributed: Distributed) -> None:
        super().__init__()
        self.model, self.distributed = model, distributed

    def forward(
        self, batch: Batch, hidden: Tensor | None, init: Tensor, teacher_forcing_ratio: float
    ) -> tuple[Tensor, Tensor]:
        """Return the loss in nats/event and the hidden state after the batch.

        hidden: hidden state [layers, batch, hidden] after the previous batch, for the windows
        that continue those of that batch;
        init: start vectors [batch of all processes, init].
        """
        model = self.model
        start = self.distributed.shard(model.init_hidden(init))
        inputs = model.shift_right(batch.targets)
        if hidden is None or hidden.shape != start.shape:
            hidden = start
        else:
            hidden = torch.where(batch.continues[:, None], hidden, start)
            inputs[0] = torch.where(batch.continues, batch.previous, inputs[0])
        control = (batch.controls, batch.use_control)
        if teacher_forcing_ratio < 1:
            logits, last = model.forward_scheduled(
                inputs, hidden, *control, teacher_forcing_ratio, batch.recall
            )
        else:
            logits, last = model(inputs, hidden, *control, recall=batch.recall)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten())
        return loss, last.detach().float()


class Trainer:
    """A network in training, with everything that a resumed run needs to continue exactly.

    state: the TrainState, which only the trainer changes;
    ema: the network with the exponential moving average of the weights, for evaluation and
    generation; hidden: hidden state [layers, batch, hidden] after the last batch, or None;
    train_profile: see Session.
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
        """Create a trainer with an empty optimizer state.

        encoding: the event encoding of the data;
        metadata: more entries for `training` in the session file, such as the options.
        """
        self.model, self.options, self.distributed = model, options, distributed
        self.encoding, self.metadata = encoding, metadata or {}
        self.state = state or TrainState()
        self.validated_step = self.state.step  # a validation needs at least one new step
        self.ema = copy.deepcopy(model).requires_grad_(False)
        self.hidden: Tensor | None = None
        self.train_profile: dict[str, Any] | None = None
        self.weights = list(model.parameters())
        kind = model.device.type
        self.optimizer = torch.optim.AdamW(
            self.weights, weight_decay=options.weight_decay, fused=kind in ("cpu", "cuda")
        )
        self.scaler = torch.amp.GradScaler(kind, enabled=options.precision == "fp16")
        self._batch_loss = distributed.wrap(BatchLoss(model, distributed))

    # ---------------------------------------------------------------------------- training

    def step(self, batch: Batch, lr: float) -> StepResult:
        """Update the weights and their moving average with one batch.

        Random numbers depend only on the seed and the number of the step.
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss, hidden = self._forward(batch)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.weights, MAX_GRAD_NORM)
        # before the weights change, because it fails if another process is lost
        loss = self.distributed.mean(loss.detach())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        events = self.distributed.world_size * batch.targets.numel()
        self._update_ema(self.state.events / events)
        self.hidden = hidden  # so late, because an error above must leave the old hidden state
        if self.scaler.is_enabled():
            grad_norm = grad_norm.nan_to_num(0.0, 0.0)  # overflow: the scaler skipped the step
        self.state = replace(
            self.state, step=self.state.step + 1, events=self.state.events + events
        )
        return StepResult(self.state, loss, grad_norm, lr)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch and the hidden state after it."""
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
    def _update_ema(self, batches: float) -> None:
        """Move the average toward the weights, faster in the first steps.

        batches: the events so far, in batches of the current size, so that the average covers the
        same share of the events when batches grow. The schedule is that of TensorFlow's
        ExponentialMovingAverage with num_updates.
        """
        decay = min(self.options.ema_decay, (1 + batches) / (10 + batches))
        for average, weight in zip(self.ema.parameters(), self.weights, strict=True):
            average.lerp_(weight, 1 - decay)

    def set_seconds(self, seconds: float) -> None:
        """Set the training time in the state; the training loop measures it."""
        self.state = replace(self.state, seconds=seconds)

    # -------------------------------------------------------------------------- validation

    def evaluate(self, val_data: Corpus, max_events: int = EVAL_EVENTS) -> EvalResult:
        """Evaluate the averaged weights on the start of each performance."""
        (result,) = self._evaluate(val_data, max_events, [None])
        return result

    def evaluate_open(self, val_data: Corpus) -> dict[str, EvalResult]:
        """Evaluate with fewer and fewer controls, on the start of each performance; by label.

        Returns nothing for a network whose controls cannot be open.
        """
        if self.model.layout.is_plain:
            return {}
        choices = list_visible_controls(self.model.layout)
        results = self._evaluate(val_data, OPEN_EVAL_EVENTS, list(choices.values()))
        return dict(zip(choices, results, strict=True))

    def _evaluate(
        self, val_data: Corpus, max_events: int, choices: Sequence[Visible]
    ) -> list[EvalResult]:
        """Evaluate the averaged weights; each process evaluates a share of the performances.

        max_events, choices: as in `training.evaluate.evaluate_choices`.
        """
        rank, world_size = self.distributed.rank, self.distributed.world_size
        share = Corpus(val_data.performances[rank::world_size])
        precision = self.options.precision
        results = evaluate_choices(self.ema, share, choices, max_events, precision)
        sums = np.array([[r.counts, r.correct, r.losses] for r in results])
        return [
            EvalResult(counts, correct, losses, val_data.encoding)
            for counts, correct, losses in self.distributed.sum(sums)
        ]

    def set_start(self, result: EvalResult) -> None:
        """Record a validation before the first step in the state, as the first best one."""
        loss = result.nats_per_event
        self.state = replace(self.state, before=loss, best=loss, stale_validations=0)

    def update_best(self, result: EvalResult) -> bool:
        """Record a validation in the state; return whether it is the best so far."""
        self.validated_step = self.state.step
        state, loss = self.state, result.nats_per_event
        is_best = loss < state.best
        stale_validations = 0 if is_best else state.stale_validations + 1
        best = loss if is_best else state.best
        self.state = replace(state, best=best, stale_validations=stale_validations)
        return is_best

    def go_back(self, weights: dict[str, Tensor]) -> None:
        """Continue from earlier weights, and with lower learning rates from now on.

        The moments of the optimizer stay: they are still about right.
        """
        self.model.load_state_dict(weights)
        self.ema.load_state_dict(weights)
        self.hidden = None
        scale = max(MIN_SCALE, self.state.lr_scale * GO_BACK_SCALE)
        self.state = replace(self.state, lr_scale=scale)

    # -------------------------------------------------------------------- saving, resuming

    def save(self, path: Path, collective: bool = True) -> None:
        """Write the session with everything that is needed to resume it.

        collective: whether the other processes call this method, too; not after an error.
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
        """Write a session with only the averaged weights, to generate from."""
        if self.distributed.is_main:
            self._build_session(self.ema).save(path)

    def _build_session(self, model: PerformanceRNN) -> Session:
        training = {**asdict(self.state), "precision": self.options.precision, **self.metadata}
        if self.scaler.is_enabled():
            training["scaler"] = self.scaler.state_dict()
        names = model.layout.names
        state, version = model.state_dict(), self.encoding.version
        return Session(
            model.config,
            state,
            version,
            training=training,
            controls=names,
            train_profile=self.train_profile,
        )

    def restore(
        self, path: Path, session: Session, with_hidden: bool, with_optimizer: bool
    ) -> None:
        """Restore what the session has besides the weights and the TrainState.

        path: the session file, for messages. with_hidden, with_optimizer: restore these states.
        Raises ValueError if the state of the optimizer does not fit the network.
        """
        self.train_profile = session.train_profile
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
        """Restore the moments of Adam.

        Its other settings stay as they are, because files of old torch versions lack some.
        """
        (group,) = saved["param_groups"]
        if not isinstance(saved["state"], dict) or not isinstance(group, dict):
            raise TypeError("it is not a dict")
        if not isinstance(group["params"], list):
            raise TypeError("its params are not a list")
        moments: dict[int, dict[str, Any]] = {}
        for number, (weight, key) in enumerate(zip(self.weights, group["params"], strict=True)):
            if key in saved["state"]:  # otherwise the weight was never updated
                moments[number] = _parse_moments(number, weight, saved["state"][key])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def _parse_moments(number: int, weight: Tensor, saved: Any) -> dict[str, Tensor]:
    """Check and return what Adam stores for a weight."""
    if not isinstance(saved, dict):
        raise TypeError(f"the moments of weight {number} are not in a dict")
    step = float(saved["step"])
    if not 0 <= step <= 2**53:
        raise ValueError(f"step {step:g} of weight {number} is not in 0-2**53")
    moments = {"step": torch.tensor(step)}
    for name in ("exp_avg", "exp_avg_sq"):
        moment = saved[name]
        if not isinstance(moment, Tensor) or moment.shape != weight.shape:
            raise ValueError(f"{name} of weight {number} does not have the shape of the weight")
        moments[name] = moment.float()
        if not moments[name].isfinite().all():  # float64 may be finite, but not as float32
            raise ValueError(f"{name} of weight {number} is not finite")
    if (moments["exp_avg_sq"] < 0).any():
        raise ValueError(f"exp_avg_sq of weight {number} is negative, but it is a mean of squares")
    return moments


def pick_precision(device: torch.device) -> str:
    """Return "bf16" if a short measurement shows that it is faster here, and otherwise "fp32"."""
    speedup = _measure_speed(torch.bfloat16, device) / _measure_speed(torch.float32, device)
    return "bf16" if speedup > BF16_SPEEDUP else "fp32"


def _measure_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Return matrix products per second, the best of three measurements."""
    left = torch.ones(1024, 512, dtype=dtype, device=device)  # about the sizes in training
    right = torch.ones(512, 1536, dtype=dtype, device=device)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        float((left @ right)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 1 / min(seconds)
