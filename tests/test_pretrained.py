"""The session in the box."""

from pathlib import Path

import pytest
import torch

import generate
from config import GenerateConfig, ModelConfig
from model import Session
from sequence import CURRENT, NoteSeq

ROOT = Path(__file__).parents[1]
PATH = ROOT / GenerateConfig().session


def test_it_is_small_and_holds_the_network_alone() -> None:
    assert PATH.stat().st_size < 12_000_000
    session = Session.load(PATH)
    assert session.encoding == CURRENT.version
    assert session.optimizer_state is None
    assert {weight.dtype for weight in session.state.values()} == {torch.float16}
    assert session.config.hidden_dim == ModelConfig().hidden_dim


def test_it_plays_in_the_scale_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In C major at least nine notes of ten are white keys; of all keys, 7 of 12 are."""
    monkeypatch.chdir(ROOT)
    asked = ["-c", "C major;3", "-l", "400", "-b", "2", "--seed", "1", "-o", str(tmp_path)]
    assert generate.main(asked) == 0
    for path in sorted(tmp_path.iterdir()):
        pitches = NoteSeq.from_midi_file(path).pitches
        assert sum(pitch % 12 in (0, 2, 4, 5, 7, 9, 11) for pitch in pitches) > 0.9 * len(pitches)
        assert len(pitches) > 50
