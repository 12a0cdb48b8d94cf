"""Output files: their names, and the control that a MIDI file records."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import utils
from generation.given_notes import Arrangement
from generation.writer import Formats, OutputFiles, find_requested_control, write_arrangement
from midi.control_schedule import ControlSchedule
from sequence import ControlSeq, EventSeq, NoteSeq
from tests.generation.networks import make_job

LONGEST_SHIFT = 239  # 1.171 s


def test_concurrent_runs_take_different_names(tmp_path: Path) -> None:
    one, other = OutputFiles(tmp_path), OutputFiles(tmp_path)
    writes = [(one, 0), (other, 0), (one, 1), (other, 1), (one, 0), (other, 1)]
    names = [outputs.write(number, b"x").name for outputs, number in writes]
    assert names == [f"output-00{number}.mid" for number in (0, 1, 2, 3, 0, 3)]


def test_name_taken_at_the_last_moment_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, other = utils._rename, tmp_path / "output-000.mid"

    def create_first(*arguments: Any) -> None:
        other.write_bytes(b"other")
        rename(*arguments)

    monkeypatch.setattr(utils, "_rename", create_first)
    assert OutputFiles(tmp_path).write(0, b"mine").name == "output-001.mid"
    assert other.read_bytes() == b"other"
    assert len(list(tmp_path.iterdir())) == 2


def test_names_are_free_until_they_are_written(tmp_path: Path) -> None:
    outputs = OutputFiles(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "output-007.png").touch()
    assert outputs.write(0, b"x").name == "output-008.mid"


def test_recorded_control_starts_at_the_first_note() -> None:
    rows = ControlSeq([1, 2, 3, 4], np.eye(12)[:4])
    control = ControlSchedule(rows.note_density, rows.pitch_histogram)
    events = EventSeq([LONGEST_SHIFT, 40, LONGEST_SHIFT, 41])
    requested = find_requested_control(make_job(control), events)
    assert requested is not None
    assert requested.times is not None
    assert requested.times.tolist() == [0, 0, 0, 1.171]
    assert requested.density.tolist() == [1, 2, 3, 4]
    assert requested.histogram.argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("is_for_new", [True, False])
def test_notes_that_are_compared_with_the_control(is_for_new: bool, tmp_path: Path) -> None:
    # given notes are soft, and the new ones in the gap are loud
    starts = 0.25 * np.arange(24)
    is_given = (starts < 2) | (starts >= 4)
    notes = NoteSeq(starts, starts + 0.2, np.full(24, 60), np.where(is_given, 40, 90))
    arrangement = Arrangement(notes, is_given, is_for_new=is_for_new)
    metadata = {"made with": "", "seed": "0", "piece": "0", "control": ""}
    write = partial(OutputFiles(tmp_path).write, 0)
    job = make_job("loudness 90")
    _, density, loudness = map(str, write_arrangement(write, job, arrangement, metadata, Formats()))
    assert ("100% within one step" in loudness) == is_for_new
    assert "4.0 notes/s" in density


def test_recorded_control_starts_after_the_primer() -> None:
    job = make_job("C;1 | G;9 @2", [40, LONGEST_SHIFT, LONGEST_SHIFT])
    requested = find_requested_control(job, EventSeq([LONGEST_SHIFT, 41, LONGEST_SHIFT, 42]))
    assert requested is not None
    assert requested.times is not None
    assert requested.times.tolist() == [2.342, 3.513, 3.513, 4.684]
    assert requested.density.tolist() == [1, 1, 1, 9]
