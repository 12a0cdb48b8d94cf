import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi.control_schedule import ControlSchedule
from midi.metadata import (
    LABELS,
    MAX_ROWS,
    decode_metadata,
    encode_metadata,
    find_primer_end,
    format_command,
    format_title,
    is_command,
    summarize_sample,
)
from sequence import NoteSeq

C_MAJOR = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1]) / 7
METADATA = {
    "session": "a.sess",
    "seed": "7",
    "piece": "2",
    "control": "C major;3",
    "made with": "python3 generate.py -c 'C major;3' -b 3 --seed 7",
}


def test_text_events_have_fixed_format() -> None:
    requested = ControlSchedule(np.array([3, 5]), np.eye(12)[[0, 2]], np.array([0, 1.23456]))
    assert encode_metadata({"seed": "7"}, requested) == [
        "seed: 7",
        'asked: {"times":[0.0,1.235],"density":[3,5],"histogram":'
        "[[1000,0,0,0,0,0,0,0,0,0,0,0],[0,0,1000,0,0,0,0,0,0,0,0,0]]}",
    ]


def test_decode_inverts_encode() -> None:
    requested = ControlSchedule(
        np.array([1, 3, 9]), np.stack([C_MAJOR, np.eye(12)[7], C_MAJOR]), np.array([0, 4.0, 8.0])
    )
    metadata, decoded = decode_metadata(encode_metadata(METADATA, requested))
    assert metadata == METADATA
    assert decoded is not None
    for column, expected in zip(decoded.columns, requested.columns, strict=True):
        np.testing.assert_allclose(column, expected, atol=1e-3)
    assert decode_metadata([]) == ({}, None)


def test_constant_control_is_one_row() -> None:
    rows = 5000
    requested = ControlSchedule(np.full(rows, 3), np.tile(C_MAJOR, (rows, 1)), np.arange(rows))
    (text,) = encode_metadata({}, requested)
    assert len(text) < 120


def test_long_control_is_thinned_evenly() -> None:
    rows = 5000
    density = np.arange(rows) % 12
    requested = ControlSchedule(density, np.tile(C_MAJOR, (rows, 1)), np.arange(rows))
    _, decoded = decode_metadata(encode_metadata({}, requested))
    assert decoded is not None
    assert len(decoded) == MAX_ROWS
    assert (decoded.times[0], decoded.times[-1]) == (0, rows - 1)
    assert (decoded.density == decoded.times % 12).all()


@pytest.mark.parametrize(
    "columns",
    [
        *(7, [], {}, None, {"times": [0], "density": [3]}),
        {"times": [0], "density": [[3]], "histogram": [[1] * 12]},
        {"times": [0], "density": [12], "histogram": [[1] * 12]},
        {"times": [0], "density": [1.5], "histogram": [[1] * 12]},
        {"times": [float("nan")], "density": [1], "histogram": [[1] * 12]},
        {"times": [0], "density": [float("inf")], "histogram": [[1] * 12]},
        {"times": [0], "density": [1], "histogram": [[1e308] * 12]},
        {"times": [0], "density": [10**400], "histogram": [[1] * 12]},
        {"times": [0], "density": [1], "histogram": [1] * 12},
    ],
)
def test_invalid_control_is_ignored(columns: object) -> None:
    assert decode_metadata([f"asked: {json.dumps(columns)}"]) == ({}, None)


def test_other_texts_are_ignored() -> None:
    texts = ["asked: " + "[" * 99_999, "Copyright: me", "seed", "seed: 4"]
    assert decode_metadata(texts) == ({"seed": "4"}, None)


@given(st.lists(st.text(max_size=20), max_size=5))
def test_decode_never_fails(texts: list[str]) -> None:
    metadata, _ = decode_metadata(texts)
    assert set(metadata) <= set(LABELS)


@pytest.mark.parametrize(
    "line",
    [
        *("", "rm -rf ~", "python3 generate.py; rm -rf ~", "python3 generate.py $(reboot)"),
        *("python3 generate.py -s 'a", "python3 generate.py\nreboot", "python3 generate.py > a"),
        *("python3 generate.py # a\nreboot", "python3 other.py", "python3 generate.py `a`"),
        "python3 generate.py  # the last that it writes\nreboot",
    ],
)
def test_foreign_command_is_dropped(line: str) -> None:
    assert decode_metadata([f"made with: {line}"]) == ({}, None)


PRINTABLE = st.text(max_size=20).filter(str.isprintable)


@given(st.lists(PRINTABLE, max_size=5), st.sampled_from(["", "  # the last that it writes"]))
def test_own_command_is_recognized(argv: list[str], comment: str) -> None:
    assert is_command(format_command(argv) + comment)


def test_title() -> None:
    assert format_title(METADATA) == "a.sess, seed 7, sample 2"
    assert format_title({}) == ""


def test_summary_compares_generated_with_requested() -> None:
    requested = ControlSchedule(np.array([0, 1]), np.eye(12)[[0, 7]], np.array([0, 5]))
    notes = NoteSeq(np.arange(10.0), np.arange(10) + 0.5, [60] * 8 + [67] * 2, np.arange(40, 50))
    assert summarize_sample(notes, requested) == {
        "notes": "10",
        "length": "9.5 s",
        "density": "1.0 notes/s (requested 0.5-3)",
        "velocity": "40-49",
        "in requested pitch classes": "70.0%",  # 5 in the first half, 2 in the second
    }


def test_summary_does_not_count_the_primer() -> None:
    requested = ControlSchedule(np.array([3]), np.eye(12)[[7]], np.array([8.0]))
    notes = NoteSeq(np.arange(10.0), np.arange(10) + 0.5, [60] * 8 + [67] * 2, np.arange(40, 50))
    is_given = np.arange(10) < 8
    assert find_primer_end(notes, is_given) == 8.0
    assert find_primer_end(notes, ~is_given) == find_primer_end(notes, np.zeros(10, bool)) == 0.0
    assert summarize_sample(notes, requested, is_given) == {
        "notes": "2",
        "length": "1.5 s",
        "given notes": "8",
        "density": "1.0 notes/s (requested 5-6)",
        "velocity": "48-49",
        "in requested pitch classes": "100.0%",
    }


def test_summary_without_requested_pitch_classes() -> None:
    requested = ControlSchedule(np.zeros(1), np.full((1, 12), 1 / 12), np.zeros(1))
    assert "in requested pitch classes" not in summarize_sample(
        NoteSeq([0], [1], [60], [64]), requested
    )
    assert summarize_sample(NoteSeq(), requested) == {"notes": "0", "length": "0.0 s"}
