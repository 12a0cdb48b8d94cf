"""Output files: their names, and the control that a MIDI file records."""

from pathlib import Path

import numpy as np

from generation.writer import choose_output_paths, find_requested_control
from midi.control_schedule import ControlSchedule
from sequence import ControlSeq, EventSeq
from tests.generation.networks import make_job

LONGEST_SHIFT = 239  # 1.171 s


def test_concurrent_runs_take_different_names(tmp_path: Path) -> None:
    one, other = choose_output_paths(tmp_path, False), choose_output_paths(tmp_path, False)
    names = [next(paths).name for paths in (one, other, one, other)]
    assert names == [f"output-00{number}.mid" for number in range(4)]


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


def test_recorded_control_starts_after_the_primer() -> None:
    job = make_job("C;1 | G;9 @2", [40, LONGEST_SHIFT, LONGEST_SHIFT])
    requested = find_requested_control(job, EventSeq([LONGEST_SHIFT, 41, LONGEST_SHIFT, 42]))
    assert requested is not None
    assert requested.times is not None
    assert requested.times.tolist() == [2.342, 3.513, 3.513, 4.684]
    assert requested.density.tolist() == [1, 1, 1, 9]
