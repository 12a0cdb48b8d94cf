"""The short parts of tests/faults.py, which prints the figures of the README's "What was tried"."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("resource")  # it forks, and counts memory
from tools import faults

SHORT = [name for name, (_, _, count) in faults.FAULTS.items() if count]


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize("name", SHORT)
def test_it_is_withstood(name: str) -> None:
    assert faults.withstood(name, faults.FAULTS[name][2])


@pytest.mark.slow
@pytest.mark.parametrize("name", faults.FAULTS)
def test_it_is_withstood_at_full_size(name: str) -> None:
    assert faults.withstood(name)


def test_what_is_not_withstood_is_said() -> None:
    def crash() -> int:
        raise RuntimeError("nobody thought of it")

    with pytest.raises(faults.Broken, match="nobody thought of it"):
        faults.child(crash).refused()
    with pytest.raises(faults.Broken):
        faults.child(lambda: 1).refused()
    assert faults.child(lambda: 3).status == 3
