"""The grammar of -c, and the controls that it stands for over time."""

from pathlib import Path

import numpy as np
import pytest

from generation import control
from generation.control import named, read
from sequence import LEGACY, ControlSeq, EventSeq, NoteSeq
from tools.synthetic_data import write_data, write_midi

SPELLED = "C C# D D# E F F# G G# A A# B".split()


def classes(text: str) -> set[str]:
    """The names of the pitch classes that are asked for."""
    return {SPELLED[k] for k in np.flatnonzero(named(text))}


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("C major", "C D E F G A B"),
        ("A minor", "A B C D E F G"),
        ("a harmonic minor", "A B C D E F G#"),
        ("D dorian", "D E F G A B C"),
        ("E phrygian", "E F G A B C D"),
        ("F lydian", "F G A B C D E"),
        ("G mixolydian", "G A B C D E F"),
        ("B locrian", "B C D E F G A"),
        ("Bb major", "A# C D D# F G A"),
        ("F# major", "F# G# A# B C# D# F"),
        ("C pentatonic", "C D E G A"),
        ("A minor pentatonic", "A C D E G"),
        ("C blues", "C D# F F# G A#"),
        ("C  Whole  Tone", "C D E F# G# A#"),
        ("G7", "G B D F"),
        ("Cmaj7", "C E G B"),
        ("CM7", "C E G B"),
        ("Dm7", "D F A C"),
        ("AM", "A C# E"),
        ("C MAJ7", "C E G B"),
        ("F# dim", "F# A C"),
        ("Bm7b5", "B D F A"),
        ("Ebaug", "D# G B"),
        ("Asus4", "A D E"),
        ("C", "C E G"),
        ("Am", "A C E"),
        ("Cb", "B D# F#"),
    ],
)
def test_scales_and_chords_are_what_every_musician_knows(text: str, notes: str) -> None:
    assert classes(text) == set(notes.split())


def test_the_root_and_then_the_fifth_are_asked_for_most() -> None:
    assert named("C major").tolist() == [2, 0, 1, 0, 1, 1, 0, 1.5, 0, 1, 0, 1]
    assert named("A minor").tolist() == [1, 0, 1, 0, 1.5, 1, 0, 1, 0, 2, 0, 1]
    assert named("F# dim")[1] == 0, "a diminished fifth is none"


def densities(text: str) -> list[int]:
    return read(text, 0).to_array()[:, :12].argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("density", "index"),
    [("0", 0), (" 11 ", 11), ("8/s", 5), ("0/s", 0), ("0.4/s", 0), ("2 / s", 1), ("60/s", 11)],
)
def test_a_density_is_an_index_or_notes_a_second(density: str, index: int) -> None:
    """Index k stands for 1 + 3k to 3 + 3k notes in two seconds."""
    assert densities("C major;" + density) == [index]


def test_each_part_holds_from_its_second_on() -> None:
    asked = read("C major;3 | A minor;6 @20 | G7;8/s @30.5", 0)
    times = np.array([0.0, 19.94, 20.0, 30.44, 30.5, 1e6])
    rows = asked.to_array()[asked.find_rows(times, np.zeros(6, np.int64))]
    assert rows[:, :12].argmax(axis=1).tolist() == [3, 3, 6, 6, 5, 5]
    for row, name in zip(rows, ["C major"] * 2 + ["A minor"] * 2 + ["G7"] * 2, strict=True):
        np.testing.assert_allclose(row[12:], named(name) / named(name).sum(), atol=1e-6)
    assert asked.events is None
    assert asked.split_sections(25.0)[1][:2] == (20.0, np.inf)
    assert [name for _, _, name in asked.split_sections(99.0)] == [
        "C major;3",
        "A minor;6 @20",
        "G7;8/s @30.5",
    ]


def test_a_part_begins_with_the_row_that_is_nearest() -> None:
    for begin, row in (("20.04", 200), ("20.06", 201)):
        density = read(f"C;1 | C;2 @{begin}", 0).to_array()[:, :12].argmax(axis=1)
        assert np.flatnonzero(density == 2)[0] == row


def test_a_part_without_a_density_keeps_the_one_before() -> None:
    assert sorted(set(densities("C major;7 | G7 @1"))) == [7]
    assert densities("C major") == [control.DENSITY]


def test_a_glide_moves_in_a_line_from_the_part_before() -> None:
    asked = read("C major;1 | ~F# major;9 @40 | G7;2 @50", 0)
    times = np.array([0.0, 10.0, 20.0, 30.0, 40.0, 49.0, 50.0, 7.0, 8.0])
    rows = asked.to_array()[asked.find_rows(times, np.zeros(9, np.int64))]
    assert rows[:, :12].argmax(axis=1).tolist() == [1, 3, 5, 7, 9, 9, 2, 2, 3]  # 2.4 and 2.6
    begin, end = (named(name) / named(name).sum() for name in ("C major", "F# major"))
    for row, share in zip(rows[:5], (0, 0.25, 0.5, 0.75, 1), strict=True):
        np.testing.assert_allclose(row[12:], (1 - share) * begin + share * end, atol=1e-6)
    assert len(asked.split_sections(60.0)) == 6, "a glide is compared in tens of seconds"


@pytest.mark.parametrize("begin", ["0.04", "20.04", "19.96"])
@pytest.mark.parametrize("end", ["20.08", "40"])
def test_a_glide_from_between_two_rows_stays_between_its_ends(begin: str, end: str) -> None:
    rows = read(f"C;1 | C;2 @{begin} | ~F#;9 @{end}", 0).to_array()
    assert rows[:, 12:].min() >= 0
    assert rows[:, :12].sum(axis=1).tolist() == [1] * len(rows)
    assert rows[-1, :12].argmax() == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("H minor;3", ["'H minor'", "note name"]),
        ("C majr;3", ["'majr'", "mixolydian"]),
        ("CM6;3", ["'M6' in 'CM6'"]),
        ("C major;3 | A minor;6", ["part 2, 'A minor;6'", "@20"]),
        ("C major;3 | A minor;x @20", ["part 2", "'x'", "8/s"]),
        ("C major;3 | A minor;12 @20", ["part 2", "12"]),
        ("C major;3 | A minor;6 @20 | G7 @20", ["part 3", "later than second 20"]),
        ("C major;3 @5", ["at second 0"]),
        ("C major;3 | G7 @soon", ["part 2", "'soon'"]),
        ("C major;3 | G7 @nan", ["part 2", "nan"]),
        ("C major;3 | G7 @99999999", ["part 2", "a day"]),
        ("~C major;3", ["first part"]),
        ("C major;3 |", ["part 2"]),
        ("C major;1e9/s", ["'1e9/s'"]),
        ("C major;61/s", ["61", "60"]),
        ("1,2;3", ["12 weights"]),
        ("song.mid", ["no file", "'song.mid'"]),
        ("missing.data", ["no file"]),
        ("dataset/missing", ["no file or folder", "'dataset/missing'"]),
        ("x" * 5000, ["..."]),
        ("", ["empty"]),
    ],
)
def test_a_wrong_one_is_a_sentence_that_names_the_part_and_a_right_one(
    text: str, words: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"\w") as error:
        read(text, 0)
    told = str(error.value)
    for word in words:
        assert word in told
    assert len(told) < 600
    if "no file" not in told:
        assert control.EXAMPLE in told


def test_the_examples_of_the_help_are_right() -> None:
    for text, _ in control.EXAMPLES:
        if not text.endswith((".mid", "processed")):
            read(text, 0)


@pytest.mark.parametrize("name", ["a.mid", "A.MIDI", "a.kar"])
def test_a_midi_file_is_followed_event_by_event(tmp_path: Path, name: str) -> None:
    path = write_midi(tmp_path / name, 50, 1)
    notes = NoteSeq.from_midi_file(path).trim_start()
    asked = read(str(path), 0)
    expected = ControlSeq.from_event_seq(EventSeq.from_note_seq(notes)).to_array()
    np.testing.assert_array_equal(asked.to_array(), expected)
    assert (asked.events, asked.times) == (len(expected), None)
    numbers = np.array([0, 7, 10**6])
    np.testing.assert_array_equal(
        asked.to_array()[asked.find_rows(np.zeros(3), numbers)], expected[[0, 7, -1]]
    )
    old = read(str(path), 0, LEGACY)
    notes = NoteSeq.from_midi_file(path, sustain=False).trim_start()
    assert old.events == len(EventSeq.from_note_seq(notes, LEGACY))


def test_a_midi_file_without_notes_has_no_control(tmp_path: Path) -> None:
    NoteSeq().to_midi_file(tmp_path / "empty.mid")
    with pytest.raises(ValueError, match=r"empty\.mid: it has no notes"):
        read(str(tmp_path / "empty.mid"), 0)


def test_a_folder_without_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \.data files"):
        read(str(tmp_path), 0)
    write_data(tmp_path / "d", count=1)
    assert read(str(tmp_path / "d"), 0).events
