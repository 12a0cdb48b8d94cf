"""Asked-for against delivered music."""

import numpy as np
import pytest

from adherence import delivered
from sequence import NoteSeq


def scale(classes: list[int], seconds: float) -> NoteSeq:
    """One note of each class, evenly over some seconds."""
    starts = np.linspace(0, seconds, len(classes))
    return NoteSeq(starts, starts + 0.1, 60 + np.array(classes), np.full(len(classes), 64))


def test_what_was_asked_for_and_delivered_is_all_alike() -> None:
    asked = np.isin(np.arange(12), [0, 2, 4]) / 3
    found = delivered(scale([0, 2, 4, 0, 2, 4, 0, 2, 4, 0, 2, 4, 0], 4.0), asked)
    assert found.cosine == pytest.approx((5 + 4 + 4) / np.sqrt(57 * 3))
    assert found.inside == 1.0
    assert found.density == pytest.approx(6.0)  # a note each third of a second


def test_notes_outside_are_counted_whatever_their_octave() -> None:
    asked = np.eye(12)[0]
    found = delivered(scale([0, 12, 1, 13], 3.0), asked)
    assert found.inside == 0.5
    assert found.cosine == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("classes", [[], [3]])
def test_too_few_notes_have_no_density(classes: list[int]) -> None:
    found = delivered(scale(classes, 1.0), np.eye(12)[0])
    assert (found.density, found.inside, found.cosine) == (0.0, 0.0, 0.0)
