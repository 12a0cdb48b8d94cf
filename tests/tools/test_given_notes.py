"""The measures of tools.given_notes, and the melodies of tools.examples."""

import numpy as np
import pytest

from sequence import NoteSeq
from tools import examples
from tools.given_notes import compare_performances, find_melody, match_notes, measure_return

SCALE = NoteSeq(0.5 * np.arange(8), 0.5 * np.arange(8) + 0.4, 60 + np.arange(8), 50 + np.arange(8))


def test_passages_that_return() -> None:
    again = SCALE.adjust_time(20.0)
    assert measure_return(SCALE) == 0
    both = NoteSeq.merge(SCALE, again)  # 16 notes have 11 passages of 6; the last 3 return
    assert measure_return(both) == pytest.approx(3 / 11)


def test_melody_is_the_highest_voice() -> None:
    bass = NoteSeq(SCALE.starts + 0.01, SCALE.ends, SCALE.pitches - 12, SCALE.velocities)
    assert find_melody(NoteSeq.merge(SCALE, bass)) == SCALE


def test_notes_of_a_performance_are_matched_by_pitch_and_time() -> None:
    played = NoteSeq([0.1, 0.1, 9.0], [1, 1, 10], [60, 62, 64], [64, 64, 64])
    assert match_notes(SCALE, played, np.array([0.1, 0.9, 9.0]))[:3].tolist() == [0, -1, 1]


def test_correlation_of_performances() -> None:
    velocities = SCALE.velocities.astype(float)
    starts = SCALE.starts + np.array([0, 0, 0.1, 0, 0.1, 0, 0, 0])
    same = compare_performances(SCALE, (starts, velocities), (starts, velocities))
    opposite = compare_performances(SCALE, (starts, velocities), (starts, -velocities))
    flat = compare_performances(SCALE, (SCALE.starts, np.full(8, 64.0)), (starts, velocities))
    assert same == pytest.approx((1, 1))
    assert opposite == pytest.approx((-1, 1))
    assert flat == (0, 0)


def test_tunes_are_read_from_text() -> None:
    notes = examples.parse_tune("C4:1 -:.5 F#4+Bb4:2", tempo=120)
    assert notes == NoteSeq([0, 0.75, 0.75], [0.5, 1.75, 1.75], [60, 66, 70], [64, 64, 64])
    assert examples.parse_tune(examples.LULLABY, 60).seconds == 24


def test_commands_of_the_examples_are_recorded_in_their_files() -> None:
    for name, text in examples.COMMANDS.items():
        content = (examples.FOLDER / f"{name}.mid").read_bytes()
        command = examples.format_command([*examples.split_options(text)[:1]])
        assert command.split()[2].encode() in content, name
