"""Processes that train one network together, as torchrun starts them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils import Array


@dataclass(frozen=True)
class Team:
    """This process among those of a training; a team of one without torchrun.

    All of them go through the same steps and call the same methods here, in the same order.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def expected() -> int:
        """How many processes torchrun's environment tells of; 1 without torchrun."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    @staticmethod
    def joined() -> Team:
        """The team that torchrun's environment tells of."""
        if Team.expected() == 1:
            return Team()
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return Team(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """The device of this process: on CUDA each has its own."""
        if self.size == 1 or chosen.type != "cuda":
            return chosen
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        return own

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over the team after each backward pass."""
        return module if self.size == 1 else nn.parallel.DistributedDataParallel(module)

    def told(self, values: Sequence[float]) -> list[float]:
        """The leader's `values`, for all."""
        if self.size == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(message, 0)
        return message.tolist()

    def agreed(self, values: Sequence[float]) -> bool:
        """Whether all processes have the leader's `values`."""
        return not self.summed(np.array([self.told(values) != list(values)])).any()

    def averaged(self, value: Tensor) -> Tensor:
        """The mean of the processes' values."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def summed(self, values: Array) -> Array:
        """The sum of the processes' arrays, as float64."""
        total = torch.from_numpy(values.astype(np.float64))
        if self.size > 1:
            dist.all_reduce(total)
        return total.numpy()

    def gathered(self, columns: Tensor) -> Tensor:
        """The processes' [..., columns, width] side by side, on the CPU."""
        columns = columns.cpu()
        if self.size == 1:
            return columns
        parts = [torch.empty_like(columns) for _ in range(self.size)]
        dist.all_gather(parts, columns.contiguous())
        return torch.cat(parts, dim=-2)

    def part(self, columns: Tensor) -> Tensor:
        """This process's part of [..., columns of all, width]."""
        own = columns.shape[-2] // self.size
        return columns[..., self.rank * own : (self.rank + 1) * own, :]

    def close(self) -> None:
        """Leave the team."""
        if self.size > 1:
            dist.destroy_process_group()


def end(status: int) -> NoReturn:
    """End this process with `status`; one of a team at once, without Python's own clearing up.

    Threads of gloo may still hold Python objects then, and asking for the interpreter while
    it goes ends in "terminate called without an active exception".
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if Team.expected() > 1:
        os._exit(status)
    sys.exit(status)
