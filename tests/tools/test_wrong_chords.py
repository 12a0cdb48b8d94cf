"""The check of surprise with wrong chords, on a network that knows one chord."""

import numpy as np
import pytest

from sequence import CURRENT, NoteSeq
from tools import wrong_chords


def test_a_chord_is_chosen_in_the_middle() -> None:
    starts = np.repeat(np.arange(5.0, 100, 5), 3)
    notes = NoteSeq(starts, starts + 1, np.tile([60, 64, 67], 19), np.full(57, 64))
    chord = wrong_chords.choose_chord(notes, np.random.default_rng(0))
    assert chord is not None
    assert chord.sum() == 3
    assert 20 < notes.starts[chord][0] < 80


def test_single_notes_are_no_chord() -> None:
    starts = np.arange(0, 100, 0.5)
    notes = NoteSeq(starts, starts + 1, np.full(200, 60), np.full(200, 64))
    assert wrong_chords.choose_chord(notes, np.random.default_rng(0)) is None


def test_the_nats_of_the_chord_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        onsets = np.array([0.0, 20.0, 20.01, 21.0])
        nats = np.arange(16.0).reshape(4, 4)

    monkeypatch.setattr(wrong_chords, "measure_surprise", lambda *_: Fake())
    notes = NoteSeq([1.0, 21.0], [2.0, 22.0], [60, 60], [64, 64])
    total, pitch = wrong_chords.measure_near(None, CURRENT, notes, 21.0)  # type: ignore[arg-type]
    assert (total, pitch) == (4 + 5 + 6 + 7 + 8 + 9 + 10 + 11, 6.0)
