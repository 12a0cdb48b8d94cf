"""Training one network in several processes, as torchrun starts them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils import Array


@dataclass(frozen=True)
class Distributed:
    """This process among the `world_size` processes of a training; without torchrun the only one.

    All processes must call the same methods in the same order.
    """

    rank: int = 0
    world_size: int = 1

    @staticmethod
    @contextlib.contextmanager
    def join() -> Iterator[Distributed]:
        """Connect to the processes that torchrun's environment variables describe."""
        if _environment_world_size() == 1:
            yield Distributed()
            return
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield Distributed(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def select_device(self, device: torch.device) -> torch.device:
        """Return the device of this process: on CUDA each has its own."""
        if self.world_size == 1 or device.type != "cuda":
            return device
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        return device

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module, its gradients averaged over the processes in each backward pass."""
        return module if self.world_size == 1 else nn.parallel.DistributedDataParallel(module)

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Return the values of the main process."""
        if self.world_size == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(message, 0)
        return message.tolist()

    def all_equal(self, values: Sequence[float]) -> bool:
        """Return whether all processes have the values of the main process."""
        return not self.sum(np.array([self.broadcast(values) != list(values)])).any()

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over the processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def sum(self, values: Array) -> Array:
        """Return the sum over the processes as float64."""
        total = torch.from_numpy(values.astype(np.float64))
        if self.world_size > 1:
            dist.all_reduce(total)
        return total.numpy()

    def gather(self, columns: Tensor) -> Tensor:
        """Return the [..., columns, width] of all processes side by side, on the CPU."""
        columns = columns.cpu()
        if self.world_size == 1:
            return columns
        parts = [torch.empty_like(columns) for _ in range(self.world_size)]
        dist.all_gather(parts, columns.contiguous())
        return torch.cat(parts, dim=-2)

    def shard(self, columns: Tensor) -> Tensor:
        """Return the part of [..., columns, width] that belongs to this process."""
        count = columns.shape[-2] // self.world_size
        return columns[..., self.rank * count : (self.rank + 1) * count, :]


def exit_process(status: int) -> NoReturn:
    """End this process with `status`.

    One of several processes ends without Python's cleanup: threads of gloo may still hold Python
    objects, and without an interpreter they abort ("terminate called without an active exception").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if _environment_world_size() > 1:
        os._exit(status)
    sys.exit(status)


def _environment_world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
