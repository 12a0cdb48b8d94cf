"""The numbers of a run and the lines that show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from corpus.filters import PerformanceStats
from corpus.split import Assignment, DataFolder
from corpus.summary import (
    CONVERTED,
    DUPLICATE,
    PREVIOUS,
    REJECTED,
    SKIPPED,
    FileRecord,
    Summary,
    format_summary,
)


def make_record(name: str, outcome: str, **fields: Any) -> FileRecord:
    return FileRecord(name, Path(name), outcome, **fields)


def make_stats(seconds: float) -> PerformanceStats:
    """Return the statistics of 100 notes of one pitch and different velocities."""
    pitches, velocities = np.zeros((2, 128), np.int32)
    pitches[60], velocities[20:120] = 100, 1
    return PerformanceStats(seconds, pitches, velocities, 0.1, 0.5)


def test_totals_count_converted_and_skipped_files() -> None:
    summary = Summary(
        [
            make_record(
                "a.mid",
                CONVERTED,
                notes=1000,
                events=4000,
                milliseconds=5_400_000,
                onset_error_mean=0.003,
                onset_error_max=0.007,
            ),
            make_record(
                "b.mid",
                SKIPPED,
                notes=3000,
                events=12400,
                milliseconds=1_800_000,
                onset_error_mean=0.001,
                onset_error_max=0.004,
            ),
            make_record("c.mid", DUPLICATE, duplicate_of="a.mid", notes=1000, events=4000),
            make_record("d.mid", REJECTED, reason="unreadable", detail="not a MIDI file"),
            make_record("e.mid", REJECTED, reason="too long"),
        ]
    )
    assert list(format_summary(summary)) == [
        "rejected: d.mid: unreadable (not a MIDI file)",
        "rejected: e.mid: too long",
        "duplicate: c.mid has the same notes as a.mid",
        "files: 1 converted, 1 skipped (unchanged), 1 duplicate, 2 rejected (1 unreadable, "
        "1 too long)",
        "music: 2.00 hours, 4,000 notes, 16,400 events (4.10 events/note)",
        "timing: onset error 1.50 ms mean, 7.00 ms max",
    ]


def test_inactive_filters_report_their_matches() -> None:
    records = [
        make_record("a.mid", CONVERTED, stats=make_stats(60)),
        make_record("b.mid", CONVERTED, stats=make_stats(2)),
        make_record("c.mid", CONVERTED, stats=make_stats(200)),
    ]
    assert list(format_summary(Summary(records)))[-1] == (
        "filters (off) would reject 2 of 3 files: 1 too dense (--max-density 40), "
        "1 too sparse (--min-density 1), 1 too short (--min-seconds 10)"
    )
    active = {"min_density": 1.0, "max_density": 40.0}
    assert list(format_summary(Summary(records, active)))[-1] == (
        "filters (off) would reject 1 of 3 files: 1 too short (--min-seconds 10)"
    )


def test_pieces_and_subsets() -> None:
    a = make_record("a.mid", CONVERTED, milliseconds=3_600_000)
    b = make_record("b.mid", SKIPPED, milliseconds=3_600_000)
    c = make_record("c.mid", CONVERTED, milliseconds=1_800_000)
    old = make_record("old.mid", PREVIOUS, milliseconds=1_800_000)
    folder = DataFolder(Path("data"), "80,10,10", "50,25,25")
    summary = Summary(
        [a, b, c, old],
        pieces=[[a, c, old], [b]],
        near_duplicates=[("a.mid", "c.mid", 0.951)],
        split=(folder, Assignment(("train", "test"), pinned=(1,), merged=(0,))),
    )
    lines = list(format_summary(summary))
    assert lines[:2] == [
        "near duplicate: a.mid and c.mid share 95% of their note patterns",
        "files: 2 converted, 1 skipped (unchanged), 0 duplicates, 0 rejected",
    ]
    assert lines[2:] == [
        "pieces: 2 in 4 performances; 1 with several performances, at most 3",
        "split: 80,10,10 is for new pieces only; it was 50,25,25 before",
        "split: 80,10,10 by piece, listed in data/split.json",
        "  train: 1 piece, 3 performances, 2.00 hours",
        "  validation: 0 pieces, 0 performances, 0.00 hours",
        "  test: 1 piece, 1 performance, 1.00 hours",
        "split: 1 piece not moved, although 80,10,10 would select another subset",
        "split: a.mid and 2 more are one piece; all are now in train",
    ]


def test_split_of_one_piece_suggests_tuning() -> None:
    split = (DataFolder(Path("data"), "80,10,10"), Assignment(("train",), (), ()))
    record = make_record("a.mid", CONVERTED)
    *_, last = format_summary(Summary([record], pieces=[[record]], split=split))
    assert last == (
        "split: validation and test are empty, because there is only one piece: add others, or use "
        "train.py --tune MIDI_FOLDER -s mine.sess"
    )


def test_near_duplicates_are_cut_to_twenty_lines() -> None:
    pairs = [("a.mid", f"{n}.mid", 0.95) for n in range(25)]
    lines = list(format_summary(Summary([], near_duplicates=pairs)))
    assert sum(line.startswith("near duplicate: a.mid and") for line in lines) == 20
    assert "near duplicate: 5 more pairs" in lines
