"""Small versions of the faults of tools.faults."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import pytest

pytest.importorskip("resource")  # limits and peaks of memory
from tools.faults import Failure, expect_error, run_child, run_fault

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize(
    ("name", "count"),
    [("kills", 2), ("data", 4), ("midi", 60), ("floods", 30_000), ("tensors", 100)],
)
def test_fault_is_withstood(name: str, count: int) -> None:
    assert run_fault(name, count)


def crash() -> int:
    raise RuntimeError("unexpected")


@pytest.mark.parametrize("run", [crash, lambda: 1], ids=["traceback", "no message"])
def test_error_that_is_not_one_line_is_a_failure(run: Callable[[], int]) -> None:
    with pytest.raises(Failure):
        expect_error(run_child(run))


def test_child_is_killed_after_its_time() -> None:
    assert run_child(signal.pause, seconds=0.05).status == -signal.SIGKILL


def test_status_and_output_of_a_child() -> None:
    result = run_child(lambda: print("text") or 3)
    assert (result.status, result.output) == (3, "text\n")
