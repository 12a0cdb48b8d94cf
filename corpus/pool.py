"""Work done by processes of which each may be lost, to a crash or for want of an end."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

ROOM = 2  # jobs a worker has, so that it need not wait while an outcome is taken
AHEAD = 8  # jobs for each worker that may be under way while an earlier one is not done
MEMORY = 1 << 30  # bytes that a worker may take for its job, where Linux counts them


@dataclass(frozen=True)
class Lost:
    """What comes back for a job that took its worker with it."""

    reason: str  # "crashed", "timed out" or "too large"
    detail: str = ""


def _work(function: Callable[[Any], Any], connection: Connection, parent: int) -> None:
    """A worker process: one job in, one outcome out, as long as the parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bound_memory()
    while True:
        while not connection.poll(1.0):
            if os.getppid() != parent:
                return
        try:
            job = connection.recv()
            try:
                outcome = function(job)
            except MemoryError:
                outcome = Lost("too large", f"it takes over {MEMORY >> 30} GB of memory")
            connection.send(outcome)
        except (EOFError, BrokenPipeError):
            return


def _bound_memory() -> None:
    """Let this process have MEMORY bytes more than it has now, but no more."""
    if sys.platform == "linux":
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        bound = min(limit for limit in (now + MEMORY, soft, hard) if limit >= 0)
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context(
            "fork" if sys.platform == "linux" and "fork" in methods else "spawn"
        )
        self.function = function
        self.connection, other = context.Pipe()
        arguments = (function, other, os.getpid())
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        other.close()
        self.numbers: list[int] = []  # of the jobs it has, the one it is at first
        self.since = 0.0

    def give(self, number: int, job: object) -> None:
        """Put job `number` behind those it has."""
        if not self.numbers:
            self.since = time.monotonic()
        self.numbers.append(number)
        with contextlib.suppress(BrokenPipeError):  # it is dead: `take` will find out
            self.connection.send(job)

    def take(self) -> tuple[int, Any]:
        """The number of its oldest job, and the outcome, or Lost if it died of it or is late."""
        number, self.since = self.numbers.pop(0), time.monotonic()
        try:
            if self.connection.poll():
                return number, self.connection.recv()
            return number, Lost("timed out")
        except (EOFError, OSError):
            self.process.join()
            return number, Lost("crashed", f"exit code {self.process.exitcode}")

    def stop(self) -> None:
        """End the process now."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class Crew(Generic[Job, Outcome]):
    """So many processes that apply `function` to jobs; each job may take `time_limit` seconds."""

    def __init__(self, function: Callable[[Job], Outcome], workers: int, time_limit: float) -> None:
        self.time_limit = time_limit
        self._workers = [_Worker(function) for _ in range(workers)]
        self._given: dict[int, Job] = {}  # from the one that is due on

    def outcomes(self, jobs: Iterator[Job]) -> Iterator[Outcome | Lost]:
        """The outcomes in the order of the jobs, with few of either in memory."""
        numbered, done = enumerate(jobs), dict[int, Outcome | Lost]()
        try:
            for due in itertools.count():
                while due not in done:
                    self._hand_out(numbered)
                    if not self._given:
                        return
                    for worker in self._ready():
                        number, done[number] = worker.take()
                        if isinstance(done[number], Lost):
                            self._replace(worker)
                del self._given[due]
                yield done.pop(due)
        finally:
            for worker in self._workers:
                worker.stop()

    def _hand_out(self, numbered: Iterator[tuple[int, Job]]) -> None:
        for worker in self._workers * ROOM:
            if len(worker.numbers) < ROOM and len(self._given) < AHEAD * len(self._workers):
                for number, job in itertools.islice(numbered, 1):
                    self._given[number] = job
                    worker.give(number, job)

    def _ready(self) -> list[_Worker]:
        """The workers that have an outcome or are late; sleeps until there are some."""
        busy = {worker.connection: worker for worker in self._workers if worker.numbers}
        left = min(w.since for w in busy.values()) + self.time_limit - time.monotonic()
        ready = wait(list(busy), timeout=max(0.0, left))
        late = time.monotonic() - self.time_limit
        return [worker for at, worker in busy.items() if at in ready or worker.since <= late]

    def _replace(self, lost: _Worker) -> None:
        """Put a new worker in place of a lost one, with the jobs that one had not begun."""
        lost.stop()
        fresh = _Worker(lost.function)
        self._workers[self._workers.index(lost)] = fresh
        for number in lost.numbers:
            fresh.give(number, self._given[number])
