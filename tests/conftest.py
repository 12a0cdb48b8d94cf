"""Files and settings that the tests share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: several workers share the cores

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=100)
settings.load_profile("suite")

DATA = Path(__file__).parent / "data"  # see its README.md
MIDI_PATHS = sorted([*DATA.glob("*.mid"), *(DATA.parents[1] / "docs").glob("*.mid")])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes a `midi_path` on each of the MIDI files."""
    if "midi_path" in metafunc.fixturenames:
        metafunc.parametrize("midi_path", MIDI_PATHS, ids=[path.stem for path in MIDI_PATHS])


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return tests/data."""
    return DATA


@pytest.fixture(scope="session")
def midi_paths() -> list[Path]:
    """Return four performances with pedal and tempo changes, and four generated samples."""
    return MIDI_PATHS


@pytest.fixture(scope="session")
def original_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the original's original.sess and original-torch04.sess."""
    folder = tmp_path_factory.mktemp("original")
    with tarfile.open(DATA / "original-sessions.tar.xz") as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            (folder / Path(member.name).name).write_bytes(content.read())
    return folder


@pytest.fixture(scope="session")
def original_logits() -> dict[str, torch.Tensor]:
    """Return the inputs that the original was given and the logits that it computed.

    init [3, 32], events [9, 3], controls [10, 3, 24]; logits_controlled and logits_uncontrolled
    [10, 3, 60] are those of every fourth event, `columns` [60].
    """
    with np.load(DATA / "original-logits.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
