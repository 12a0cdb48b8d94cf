"""Small versions of the faults of tools.faults."""

from __future__ import annotations

import signal
import sys

import pytest

pytest.importorskip("resource")  # limits and peaks of memory
from tools import child_process, faults

SMALL = [name for name, fault in faults.FAULTS.items() if fault.test_size]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("name", SMALL)
def test_fault_is_withstood(name: str) -> None:
    assert faults.run_fault(name, faults.FAULTS[name].test_size)


def test_traceback_of_child_is_a_failure() -> None:
    def crash() -> int:
        raise RuntimeError("unexpected")

    with pytest.raises(child_process.Failure, match="unexpected"):
        child_process.expect_error(child_process.run_child(crash))


def test_error_without_message_is_a_failure() -> None:
    with pytest.raises(child_process.Failure):
        child_process.expect_error(child_process.run_child(lambda: 1))


def test_child_is_killed_after_its_time() -> None:
    def hang() -> None:
        signal.pause()

    result = child_process.run_child(hang, seconds=0.05)
    assert (result.status, result.timed_out) == (-signal.SIGKILL, True)


def test_exit_status_of_child() -> None:
    assert child_process.run_child(lambda: 3).status == 3
