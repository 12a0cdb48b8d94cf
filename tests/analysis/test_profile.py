"""The profile of the training data, and how it comes back from a session file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.profile import TrainProfile
from corpus.performance import Corpus, Performance
from model import PerformanceRNN, Session
from sequence import EventSeq
from tools.synthetic_data import TINY_SIZES, make_performance


@pytest.fixture(scope="module")
def performances() -> list[Performance]:
    rng = np.random.default_rng(0)
    pieces = [make_performance(rng.integers(0, 240, 3000)) for _ in range(5)]
    return [replace(piece, name=f"{k}.data", source=str(k)) for k, piece in enumerate(pieces)]


@pytest.fixture(scope="module")
def profile(performances: list[Performance]) -> TrainProfile:
    profile = TrainProfile.build(Corpus(performances[:3]), Corpus(performances[3:4]))
    assert profile is not None
    return profile


def test_a_training_performance_is_named(
    profile: TrainProfile, performances: list[Performance]
) -> None:
    notes = EventSeq(performances[1].events).to_note_seq()
    message = profile.format_passage(profile.index.find_longest(notes))
    assert message.startswith("warning: ")
    assert "1.data at 0:00" in message


def test_other_music_gives_no_warning(
    profile: TrainProfile, performances: list[Performance]
) -> None:
    notes = EventSeq(performances[3].events).to_note_seq()
    message = profile.format_passage(profile.index.find_longest(notes))
    assert message.endswith(f"(other music: up to {profile.copy_limit})")


def test_a_session_keeps_the_profile(profile: TrainProfile, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = PerformanceRNN(TINY_SIZES).state_dict()
    Session(TINY_SIZES, state, 2, train_profile=profile.to_record()).save(tmp_path / "a.sess")
    loaded = TrainProfile.from_record(Session.load(tmp_path / "a.sess").train_profile)
    assert loaded is not None
    np.testing.assert_array_equal(loaded.index.hashes, profile.index.hashes)
    np.testing.assert_array_equal(loaded.reference.median, profile.reference.median)
    assert (loaded.copy_limit, loaded.index.names) == (profile.copy_limit, profile.index.names)


@pytest.mark.parametrize(
    ("name", "value"),
    [("copy_limit", 0), ("statistics", torch.zeros(3)), ("names", torch.zeros(1))],
)
def test_an_invalid_profile_is_an_error(profile: TrainProfile, name: str, value: object) -> None:
    with pytest.raises(ValueError, match="invalid"):
        TrainProfile.from_record(profile.to_record() | {name: value})


def test_a_session_with_another_profile_is_rejected(tmp_path: Path) -> None:
    state = PerformanceRNN(TINY_SIZES).state_dict()
    Session(TINY_SIZES, state, 2, train_profile={"names": [1]}).save(tmp_path / "a.sess")
    with pytest.raises(ValueError, match="train_profile"):
        Session.load(tmp_path / "a.sess")


def test_no_notes_no_profile() -> None:
    assert TrainProfile.build(Corpus([make_performance(np.full(50, 220))]), Corpus([])) is None


def test_later_training_data_is_added(
    profile: TrainProfile, performances: list[Performance]
) -> None:
    later = TrainProfile.build(Corpus(performances[4:]), Corpus([]))
    assert later is not None
    both = later.add(profile)
    for number in (1, 4):
        notes = EventSeq(performances[number].events).to_note_seq()
        passage = both.index.find_longest(notes)
        assert passage is not None
        assert passage.name == f"{number}.data"
        assert passage.there == pytest.approx(passage.start, abs=1)
    assert both.fingerprint == later.fingerprint
