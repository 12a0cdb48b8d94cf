"""The profile of the training data, and how it comes back from a session file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.profile import TrainProfile
from analysis.ranking import STATISTICS
from corpus.performance import Corpus, Performance
from model import PerformanceRNN, Session
from sequence import EventSeq, NoteSeq
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


def test_short_performances_have_a_profile() -> None:
    """They have no self-similarity, and file names may have line breaks."""
    starts = 0.5 * np.arange(8)
    notes = NoteSeq(starts, starts + 0.5, 60 + np.arange(8), np.full(8, 64))
    performance = make_performance(EventSeq.from_note_seq(notes).to_array())
    corpus = Corpus([replace(performance, name=name) for name in ("line\nbreak.data", "a.data")])
    profile = TrainProfile.build(corpus, Corpus([]))
    assert profile is not None
    loaded = TrainProfile.from_record(profile.to_record())
    assert loaded is not None
    assert loaded.index.names == ("line break.data", "a.data")
    distances = loaded.reference.standardize(notes.adjust_pitches(1))
    assert dict(zip(STATISTICS, distances, strict=True))["mean pitch"] > 0
    assert np.isfinite(distances).all()


NO_STATISTICS = torch.zeros(2 * len(STATISTICS), dtype=torch.float64)  # with scales of 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("copy_limit", 0),
        ("statistics", torch.zeros(3)),
        ("statistics", NO_STATISTICS),
        ("statistics", torch.full_like(NO_STATISTICS, torch.inf)),
        ("names", torch.zeros(1)),
    ],
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
