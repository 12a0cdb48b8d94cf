"""One step of training: precision, loss, gradient, optimizer, averaged weights."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import utils
from corpus.batches import Batch
from model import PerformanceRNN
from training.distributed import Team

GRADIENT_NORM = 1.0  # longer gradients are scaled down to this
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ALONE = Team()
WORTH = 1.5  # bf16 is taken if its products are so many times as fast


class _Lesson(nn.Module):
    """The loss of a batch, as one module, so that processes can share its gradients."""

    def __init__(self, model: PerformanceRNN, team: Team) -> None:
        super().__init__()
        self.model, self.team = model, team

    def forward(
        self, batch: Batch, carried: Tensor | None, init: Tensor, taught: float
    ) -> tuple[Tensor, Tensor]:
        """The loss in nats, and the hidden state [layers, batch, hidden] after the batch.

        carried: the state after the batch before; init: start vectors of the whole team.
        """
        model = self.model
        hidden = self.team.part(model.init_hidden(init))
        heard = model.shift_right(batch.targets)
        if carried is not None and carried.shape == hidden.shape:
            hidden = torch.where(batch.continues[:, None], carried, hidden)
            heard[0] = torch.where(batch.continues, batch.previous, heard[0])
        control = (batch.controls, batch.use_control)
        if taught < 1:
            logits, last = model.forward_scheduled(heard, hidden, *control, taught)
        else:
            logits, last = model(heard, hidden, *control)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten())
        return loss, last.detach().float()


class Learner:
    """A network being trained, and what its training remembers from step to step.

    averaged: the network with an exponential moving average of the weights, which is what is
    judged and played; hidden: the state [layers, batch, hidden] after the last batch, or None.
    """

    def __init__(
        self,
        model: PerformanceRNN,
        precision: str,
        averaging: float,
        weight_decay: float,
        team: Team = ALONE,
    ) -> None:
        self.model, self.precision, self.averaging = model, precision, averaging
        self.team = team
        self.weights = list(model.parameters())
        self.averaged = copy.deepcopy(model).requires_grad_(False)
        self.hidden: Tensor | None = None
        kind = model.device.type
        self.optimizer = torch.optim.AdamW(
            self.weights, weight_decay=weight_decay, fused=kind in ("cpu", "cuda")
        )
        self.scaler = torch.amp.GradScaler(kind, enabled=precision == "fp16")
        self._lesson = team.parallel(_Lesson(model, team))

    def step(
        self, batch: Batch, rate: float, taught: float, number: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Learn from one batch; the loss in nats and the norm of the gradient, on the device.

        The norm is 0 where fp16 skips the step because its scale was too large.

        rate: learning rate; taught: the share of inputs from the data; number: of the step,
        from 0. Start vectors and dropout depend on seed and number alone.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        loss, hidden = self._loss(batch, taught, (seed, number))
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average(number)
        self.hidden = hidden  # not before, for an accident may end the step
        if self.scaler.is_enabled():
            norm = norm.nan_to_num(0.0, 0.0)
        return self.team.averaged(loss.detach()), norm

    def _loss(self, batch: Batch, taught: float, seed: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The loss, and the hidden state after the batch."""
        torch.manual_seed(utils.derive_seed(*seed))
        size = self.team.size * batch.targets.shape[1]
        init = torch.randn(size, self.model.config.init_dim, device=self.model.device)
        if not self.team.leads:  # dropout of its own
            torch.manual_seed(utils.derive_seed(*seed, self.team.rank))
        with self._autocast():
            loss, hidden = self._lesson(batch, self.hidden, init, taught)
            return loss, hidden

    def _autocast(self) -> Any:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, TYPES[self.precision])

    @torch.no_grad()
    def _average(self, number: int) -> None:
        """Follow the weights; at first more closely, for they are still far from good."""
        keep = min(self.averaging, (1 + number) / (10 + number))
        for average, weight in zip(self.averaged.parameters(), self.weights, strict=True):
            average.lerp_(weight, 1 - keep)

    def restore(self, state: dict[str, Any]) -> None:
        """Give Adam the moments it had; an error of some kind if they are not of its weights.

        Its settings stay those of today: a file of an old torch does not know them all.
        """
        (saved,) = state["param_groups"]
        if not isinstance(state["state"], dict):
            raise TypeError("it is no dict")
        moments: dict[int, dict[str, Any]] = {}
        for number, (weight, key) in enumerate(zip(self.weights, saved["params"], strict=True)):
            if key in state["state"]:  # else it has made no step
                moments[number] = _moments(number, weight, state["state"][key])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

    def finite(self) -> bool:
        """Whether all weights are finite."""
        return all(bool(weight.isfinite().all()) for weight in self.weights)


def _moments(number: int, weight: Tensor, known: dict[str, Any]) -> dict[str, Tensor]:
    """What Adam remembers of a weight, checked."""
    moments = {"step": torch.tensor(float(known["step"]))}
    for name in ("exp_avg", "exp_avg_sq"):
        moment = known[name]
        if not isinstance(moment, Tensor) or moment.shape != weight.shape:
            raise ValueError(f"{name} of weight {number} has another shape")
        moments[name] = moment
    if not all(value.isfinite().all() for value in moments.values()):
        raise ValueError(f"what it knows of weight {number} is not finite")
    return moments


def pick_precision(device: torch.device) -> str:
    """fp32, or bf16 where that multiplies so much faster that it pays; a quick measurement."""
    faster = _rate(torch.bfloat16, device) > WORTH * _rate(torch.float32, device)
    return "bf16" if faster else "fp32"


def _rate(dtype: torch.dtype, device: torch.device) -> float:
    """Products of the size of training in a second, the best of some."""
    left = torch.ones(1024, 512, dtype=dtype, device=device)
    right = torch.ones(512, 1536, dtype=dtype, device=device)
    return 1 / min(_seconds(lambda: left @ right, device) for _ in range(3))


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    begun = time.perf_counter()
    float(work()[0, 0])  # waits for the device
    return time.perf_counter() - begun
