"""Asked-for against delivered music."""

import numpy as np
import pytest

from generation.control import read
from generation.control_metrics import Delivered, delivered, followed
from sequence import EventSeq, NoteSeq


def scale(classes: list[int], seconds: float) -> NoteSeq:
    """One note of each class, evenly over some seconds."""
    starts = np.linspace(0, seconds, len(classes))
    return NoteSeq(starts, starts + 0.1, 60 + np.array(classes), np.full(len(classes), 64))


def of(notes: NoteSeq, histogram: np.ndarray) -> Delivered:
    """What notes hold of a histogram."""
    return delivered(notes.pitches, notes.starts, histogram)


def test_what_was_asked_for_and_delivered_is_all_alike() -> None:
    asked = np.isin(np.arange(12), [0, 2, 4]) / 3
    found = of(scale([0, 2, 4, 0, 2, 4, 0, 2, 4, 0, 2, 4, 0], 4.0), asked)
    assert found.cosine == pytest.approx((5 + 4 + 4) / np.sqrt(57 * 3))
    assert found.inside == 1.0
    assert found.density == pytest.approx(6.0)  # a note each third of a second


def test_notes_outside_are_counted_whatever_their_octave() -> None:
    asked = np.eye(12)[0]
    found = of(scale([0, 12, 1, 13], 3.0), asked)
    assert found.inside == 0.5
    assert found.cosine == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("classes", [[], [3]])
def test_too_few_notes_have_no_density(classes: list[int]) -> None:
    found = of(scale(classes, 1.0), np.eye(12)[0])
    assert (found.density, found.inside, found.cosine) == (0.0, 0.0, 0.0)


def test_each_part_of_a_plan_is_compared_with_its_own_notes() -> None:
    starts = np.concatenate([np.arange(0, 10, 0.5), np.arange(10, 20, 0.25)])
    pitches = np.where(starts < 10, 60, 66)
    notes = NoteSeq(starts, starts + 0.1, pitches, np.full(len(starts), 64))
    events = EventSeq.from_note_seq(notes)
    first, second = followed(events, read("C;1 | F#;2 @10", 0))
    assert "C;1: histogram" in first
    assert "100.0% of the notes" in first
    assert "4.0 notes in 2 s, 4-6 asked for" in first
    assert "8.0 notes in 2 s, 7-9 asked for" in second
    (wrong,) = followed(events, read("C;11", 0))
    assert "33.3% of the notes" in wrong
    assert "34 or more asked for" in wrong
    (many,) = followed(events, read("C;1 | ~C;2 @1", 0), most=1)
    assert "in 2 sections" in many
