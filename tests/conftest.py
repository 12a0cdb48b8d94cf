"""Where the real performances are, and how the property tests run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=100)
settings.load_profile("suite")

ASAP = Path(__file__).resolve().parents[2] / "shared" / "data" / "asap"


def evenly_spaced(part: str, count: int) -> list[Path]:
    """`count` of the MIDI files of one part of the collection; none where it is missing."""
    files = sorted((ASAP / part).rglob("*.mid"))
    return [files[i * len(files) // count] for i in range(count)] if files else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for a `real_path` on six files of each part."""
    if "real_path" in metafunc.fixturenames:
        paths = evenly_spaced("validation", 6) + evenly_spaced("train", 6)
        missing = pytest.param(None, marks=pytest.mark.skip(reason="no ../shared/data/asap"))
        metafunc.parametrize(
            "real_path", paths or [missing], ids=[path.stem for path in paths] or ["missing"]
        )


@pytest.fixture(scope="session")
def validation_paths() -> list[Path]:
    """Twelve validation files; skips the test where there are none."""
    return evenly_spaced("validation", 12) or pytest.skip("no ../shared/data/asap")
