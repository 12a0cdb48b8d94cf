"""Comparison of generated music with its requested controls."""

from pathlib import Path

import numpy as np
import pytest

import generate
from generation.control import parse_control
from generation.control_metrics import (
    MAX_LINES,
    ControlMetrics,
    compare_sections,
    evaluate_controls,
    generate_samples,
    measure_control,
)
from midi.harmony import parse_scale_or_chord
from model import Session
from sequence import CURRENT, Control, EventSeq, NoteSeq
from tests.generation.networks import make_model


def measure(pitch_classes: list[int], seconds: float, histogram: np.ndarray) -> ControlMetrics:
    """Return the metrics of notes that are evenly spaced over some seconds."""
    onsets = np.linspace(0, seconds, len(pitch_classes))
    return measure_control(60 + np.array(pitch_classes, np.int64), onsets, histogram)


def test_similarity_and_density() -> None:
    requested = np.isin(np.arange(12), [0, 2, 4]) / 3
    metrics = measure([0, 2, 4, 0, 2, 4, 0, 2, 4, 0, 2, 4, 0], 4.0, requested)
    assert metrics.similarity == pytest.approx((5 + 4 + 4) / np.sqrt(57 * 3))
    assert metrics.share_in_classes == 1.0
    assert metrics.rate == pytest.approx(3.0)  # a note each third of a second


def test_pitch_classes_are_compared_in_all_octaves() -> None:
    metrics = measure([0, 12, 1, 13], 3.0, np.eye(12)[0])
    assert metrics.share_in_classes == 0.5
    assert metrics.similarity == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("pitch_classes", [[], [3]])
def test_too_few_notes_have_no_density(pitch_classes: list[int]) -> None:
    assert measure(pitch_classes, 1.0, np.eye(12)[0]) == ControlMetrics(0.0, 0.0, 0.0)


@pytest.fixture
def events() -> EventSeq:
    """Return ten seconds of C, two notes per second, then ten of F#, four per second."""
    starts = np.concatenate([np.arange(0, 10, 0.5), np.arange(10, 20, 0.25)])
    pitches = np.where(starts < 10, 60, 66)
    return EventSeq.from_note_seq(NoteSeq(starts, starts + 0.1, pitches, [64] * len(starts)))


def test_each_section_has_a_line(events: EventSeq) -> None:
    first, second = compare_sections(events, parse_control("C;1 | F#;2 @10"))
    assert first.startswith(
        "C;1: requested 2-3 notes/s, got 2.0; 100.0% of notes in requested pitch classes, "
    )
    assert "histogram similarity 0." in first
    assert second.startswith("F#;2 @10: requested 3.5-4.5 notes/s, got 4.0; ")


def test_wrong_notes_are_counted(events: EventSeq) -> None:
    (line,) = compare_sections(events, parse_control("C;11"))
    assert "33.3% of notes in requested pitch classes" in line
    assert "requested 17 or more notes/s, got " in line


@pytest.mark.parametrize("text", ["C;1", "C;1 | F#;2 @10", "loudness 60"])
def test_without_notes_there_is_nothing_to_compare(text: str) -> None:
    assert compare_sections(EventSeq.from_array([]), parse_control(text)) == []


def test_many_sections_are_averaged(events: EventSeq) -> None:
    count = MAX_LINES + 1
    text = "C;1" + "".join(f" | C;1 @{second}" for second in range(1, count))
    (line,) = compare_sections(events, parse_control(text))
    assert line.startswith(f"{text}: histogram similarity ")
    assert line.endswith(f"notes/s (average of {count} sections)")


def test_each_scale_and_density_has_a_line() -> None:
    lines = list(evaluate_controls(make_model(), CURRENT))
    assert [line.split(":")[0] for line in lines] == [
        *("C major", "A minor", "F# major", "C pentatonic"),
        *("density 1", "density 3", "density 6", "density 9"),
    ]


def test_samples_are_those_of_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of the evaluation is that of generate.py for the same control and seed."""
    monkeypatch.chdir(tmp_path)
    model = make_model()
    Session(model.config, model.state_dict(), 2).save("m.sess")
    argv = ["-s", "m.sess", "-b", "1", "-l", "200", "--seed", "5", "-o", "."]
    assert generate.main([*argv, "-c", "C major;6"]) == 0
    control = Control(parse_scale_or_chord("C major"), 6)
    values = {"density": [6], "histogram": [control.pitch_histogram]}
    (events,) = generate_samples(model.eval(), CURRENT, values, 200, seed=5)
    notes = NoteSeq.from_midi_file("output-000.mid")
    expected = events.to_note_seq().trim_start()
    assert notes.pitches.tolist() == expected.pitches.tolist()
    assert np.abs(notes.starts - expected.starts).max() < 0.002
