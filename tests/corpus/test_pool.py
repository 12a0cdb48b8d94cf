"""A job that fails in a worker process does not harm the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from corpus.pool import JobFailure, WorkerPool

ROOT = Path(__file__).parents[2]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def work(job: str | int) -> str | int:
    if job == "crash":
        os._exit(7)
    if job == "hang":
        time.sleep(60)
    if job == "flood":
        np.ones(2 << 30, np.uint8)
    return job


def get_pid(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize(("workers", "jobs"), [(1, 100), (3, 100), (2, 0), (0, 0)])
def test_results_are_in_order(workers: int, jobs: int) -> None:
    assert list(WorkerPool(work, workers, 60).run(iter(range(jobs)))) == list(range(jobs))


@pytest.mark.parametrize(
    ("job", "seconds", "failure"),
    [
        ("crash", 60, JobFailure("crashed", "exit code 7")),
        ("hang", 0.5, JobFailure("timed out")),
        pytest.param(
            "flood", 60, JobFailure("too large", "needs over 1 GB of memory"), marks=linux_only
        ),
    ],
)
def test_failure_loses_one_job(job: str, seconds: float, failure: JobFailure) -> None:
    jobs: list[str | int] = [0, 1, job, 3, 4, 5]
    results = list(WorkerPool(work, 2, seconds).run(iter(jobs)))
    assert results == [0, 1, failure, 3, 4, 5]


def test_killed_worker_loses_at_most_one_job() -> None:
    results = WorkerPool(get_pid, 1, 60).run(iter(range(10)))
    pid = next(results)
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGTERM)
    failures = [result for result in results if isinstance(result, JobFailure)]
    assert len(failures) <= 1


def test_jobs_are_taken_as_needed() -> None:
    taken = 0

    def count_jobs() -> Iterator[int]:
        nonlocal taken
        for job in range(1000):
            taken += 1
            yield job

    for number, _ in enumerate(WorkerPool(work, 2, 60).run(count_jobs())):
        assert taken - number <= 20


# prints the process ids of two workers, and then leaves them with results that fill their pipes
PARENT = """
import os, sys, time
from corpus import pool
work = lambda job: os.getpid() if job < 8 else bytes(1 << 22)
pool.PARENT_CHECK_SECONDS = 0.05
results = pool.WorkerPool(work, 2, 60).run(iter(range(100)))
try:
    print(*{next(results) for _ in range(8)}, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    results.close()
    sys.exit(130)
"""


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and ") Z " not in status.read_text()


@linux_only
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(stop: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers
        assert all(map(is_alive, workers))
        if stop == signal.SIGKILL:
            parent.kill()
        else:
            os.killpg(parent.pid, stop)  # as the terminal does
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, workers))
    assert parent.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
