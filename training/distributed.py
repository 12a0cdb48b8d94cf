"""Training of one network in several processes that torchrun starts."""

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
    """The processes that train a network together, seen from this one; one without torchrun.

    rank: the number of this process, from 0; world_size: the number of processes.
    All processes must call the same methods in the same order.
    """

    rank: int = 0
    world_size: int = 1

    @staticmethod
    @contextlib.contextmanager
    def join() -> Iterator[Distributed]:
        """Connect to the other processes, which torchrun describes in environment variables."""
        if _environment_world_size() == 1:
            yield Distributed()
            return
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        except (RuntimeError, ValueError) as error:
            message = f"cannot connect to the other processes: {error}: start them with torchrun"
            raise ValueError(message) from error
        try:
            yield Distributed(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def select_device(self, device: torch.device) -> torch.device:
        """Return the device of this process: with CUDA each process has its own GPU."""
        if self.world_size == 1 or device.type != "cuda":
            return device
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        return device

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module whose backward pass averages gradients over the processes."""
        return module if self.world_size == 1 else nn.parallel.DistributedDataParallel(module)

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Return the values of the main process."""
        if self.world_size == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(message, 0)
        return message.tolist()

    def is_equal_in_all(self, values: Sequence[float]) -> bool:
        """Return whether all processes have the same values."""
        return not self.sum(np.array([self.broadcast(values) != list(values)])).any()

    def mean(self, value: Tensor) -> Tensor:
        """Replace a tensor with its mean over the processes; return it."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def sum(self, values: Array) -> Array:
        """Return the sum over the processes, float64."""
        total = torch.from_numpy(values.astype(np.float64))
        if self.world_size > 1:
            dist.all_reduce(total)
        return total.numpy()

    def gather(self, shard: Tensor) -> Tensor:
        """Return the shards [..., batch, width] of all processes as one batch, on the CPU."""
        shard = shard.cpu()
        if self.world_size == 1:
            return shard
        shards = [torch.empty_like(shard) for _ in range(self.world_size)]
        dist.all_gather(shards, shard.contiguous())
        return torch.cat(shards, dim=-2)

    def shard(self, whole: Tensor) -> Tensor:
        """Return the part of a batch [..., batch, width] that belongs to this process."""
        count = whole.shape[-2] // self.world_size
        return whole[..., self.rank * count : (self.rank + 1) * count, :]


def is_connection_error(error: RuntimeError) -> bool:
    """Return whether an error means that another process is lost; gloo raises RuntimeError."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def exit_process(status: int) -> NoReturn:
    """End this process with `status`.

    One of several processes skips Python's cleanup: threads of gloo may still hold Python objects,
    and abort when the interpreter is gone ("terminate called without an active exception").
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None if it was closed at the start
        stream.flush()
    if _environment_world_size() > 1:
        os._exit(status)
    sys.exit(status)


def _environment_world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
