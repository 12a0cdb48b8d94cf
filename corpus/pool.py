"""Worker processes: a job that crashes, hangs or needs too much memory does not harm the others.

The library pebble offers the same, but its workers share one pipe: a worker that the kernel kills
while it sends a result, or between two jobs, ends the whole run. See docs/experiments.md.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

QUEUE_LENGTH = 2  # jobs per worker: it starts the second one while its result is read
MAX_PENDING = 8  # jobs per worker that run or wait; results wait for those of earlier jobs
PARENT_CHECK_SECONDS = 1.0  # how often a worker checks that its parent is alive
MEMORY_LIMIT = 1 << 30  # bytes that a worker may allocate after its start (Linux)


@dataclass(frozen=True)
class JobFailure:
    """The reason why a job has no result."""

    reason: str  # "crashed", "timed out" or "too large"
    detail: str = ""


class WorkerPool(Generic[Job, Result]):
    """Processes that apply a function to jobs.

    workers: number of processes; time_limit: seconds that a job may take.
    """

    def __init__(self, function: Callable[[Job], Result], workers: int, time_limit: float) -> None:
        self._time_limit = time_limit
        self._workers = [_Worker(function) for _ in range(workers)]
        self._pending: dict[int, Job] = {}  # by number: jobs without a yielded result

    def run(self, jobs: Iterator[Job]) -> Iterator[Result | JobFailure]:
        """Yield the results in the order of the jobs; end the workers after the last one.

        Jobs are taken from the iterator as needed, so that memory does not grow with their number.
        """
        numbered_jobs, results = enumerate(jobs), dict[int, Result | JobFailure]()
        try:
            for number in itertools.count():
                while number not in results:
                    self._send_jobs(numbered_jobs)
                    if not self._pending:
                        return
                    for worker in self._wait():
                        finished, result = worker.receive()
                        results[finished] = result
                        if isinstance(result, JobFailure):
                            self._replace(worker)
                del self._pending[number]
                yield results.pop(number)
        finally:
            for worker in self._workers:
                worker.stop()

    def _send_jobs(self, numbered_jobs: Iterator[tuple[int, Job]]) -> None:
        """Fill the workers' queues."""
        for worker in self._workers * QUEUE_LENGTH:
            is_full = len(worker.queue) >= QUEUE_LENGTH
            if not is_full and len(self._pending) < MAX_PENDING * len(self._workers):
                for number, job in itertools.islice(numbered_jobs, 1):
                    self._pending[number] = job
                    worker.send(number, job)

    def _wait(self) -> list[_Worker]:
        """Wait for workers that have a result, have died or take too long, and return them.

        The pipe of a worker that has died is ready, too: it is at its end.
        """
        busy = {worker.connection: worker for worker in self._workers if worker.queue}
        deadline = min(worker.start for worker in busy.values()) + self._time_limit
        ready = wait(list(busy), timeout=max(0.0, deadline - time.monotonic()))
        latest = time.monotonic() - self._time_limit
        return [w for connection, w in busy.items() if connection in ready or w.start <= latest]

    def _replace(self, worker: _Worker) -> None:
        """Start a new worker in place of a failed one, with the jobs that are still queued."""
        worker.stop()
        replacement = _Worker(worker.function)
        self._workers[self._workers.index(worker)] = replacement
        for number in worker.queue:
            replacement.send(number, self._pending[number])


class _Worker:
    """A process that does one job after another, with a pipe of its own."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        # fork starts fastest: the child need not import torch again
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.function = function
        self.connection, child_connection = context.Pipe()
        arguments = (function, child_connection, os.getpid())
        self.process = context.Process(target=_run_worker, args=arguments, daemon=True)
        self.process.start()
        child_connection.close()
        self.queue: list[int] = []  # numbers of its jobs; it works on the first one
        self.start = 0.0  # earliest start of the first job, by time.monotonic

    def send(self, number: int, job: object) -> None:
        """Append job `number` to the queue."""
        if not self.queue:
            self.start = time.monotonic()
        self.queue.append(number)
        with contextlib.suppress(BrokenPipeError):  # it has died; `receive` reports this
            self.connection.send(job)

    def receive(self) -> tuple[int, Any]:
        """Return the number of the first job in the queue, and its result or a JobFailure."""
        number, self.start = self.queue.pop(0), time.monotonic()
        try:
            if self.connection.poll():
                return number, self.connection.recv()
            return number, JobFailure("timed out")
        except (EOFError, OSError):
            self.process.join()
            return number, JobFailure("crashed", f"exit code {self.process.exitcode}")

    def stop(self) -> None:
        """End the process now."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _run_worker(function: Callable[[Any], Any], connection: Connection, parent: int) -> None:
    """Receive jobs and send results until the parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the parent's handler
    threading.Thread(target=_exit_after_parent, args=(parent,), daemon=True).start()
    _limit_memory()
    while True:
        try:
            job = connection.recv()
            try:
                result = function(job)
            except MemoryError:
                result = JobFailure("too large", f"needs over {MEMORY_LIMIT >> 30} GB of memory")
            connection.send(result)
        except (EOFError, BrokenPipeError):
            return


def _exit_after_parent(parent: int) -> None:
    """End this process when its parent has ended.

    A thread waits for that: with fork, workers hold the parent's ends of pipes, so that sending and
    receiving can block without an end.
    """
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)


def _limit_memory() -> None:
    """Limit this process to MEMORY_LIMIT more bytes than it has now; on Linux only."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_LIMIT
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        # a negative value means no limit
        limit = min(value for value in (limit, soft, hard) if value >= 0)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
