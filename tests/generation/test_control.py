"""The grammar of -c, and controls from files."""

from pathlib import Path

import numpy as np
import pytest

from generation.control import (
    EXAMPLE,
    EXAMPLES,
    load_control,
    parse_control,
)
from midi.harmony import parse_scale_or_chord
from sequence import LEGACY, PLAIN_LAYOUT, ControlSeq, EventSeq, NoteSeq, encode_schedule
from tools.synthetic_data import write_data, write_midi

SHARPS = "C C# D D# E F F# G G# A A# B".split()


# ---------------------------------------------------------------------------- pitch classes


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
        ("A minor pentatonic", "A C D E G"),
        ("C blues", "C D# F F# G A#"),
        ("C  Whole  Tone", "C D E F# G# A#"),
        ("G7", "G B D F"),
        ("Cmaj7", "C E G B"),
        ("Dm7", "D F A C"),
        ("AM", "A C# E"),
        ("C MAJ7", "C E G B"),
        ("F# dim", "F# A C"),
        ("Bm7b5", "B D F A"),
        ("Asus4", "A D E"),
        ("Am", "A C E"),
        ("Cb", "B D# F#"),
        ("C", "C E G"),
        ("Cadd9", "C D E G"),
        ("G7sus4", "G C D F"),
        ("Amin7", "A C E G"),
        ("Fmaj9", "F A C E G"),
        ("D9", "D F# A C E"),
        ("D11", "D F# A C E G"),
        ("D13", "D F# A C E B"),
        ("C6/9", "C E G A D"),
        ("C/G", "C E G"),
        ("Am7/F#", "A C E G F#"),
        ("D/F#", "D F# A"),
        ("E phrygian dominant", "E F G# A B C D"),
        ("C harmonic major", "C D E F G G# B"),
        ("A Hungarian minor", "A B C D# E F G#"),
        ("Bb°7", "A# C# E G"),
        ("F#ø", "F# A C E"),
        ("CΔ7", "C E G B"),
        ("C-7", "C D# G A#"),
        ("Cm(maj7)", "C D# G B"),
        ("C7(b9)", "C E G A# C#"),
        ("C major blues", "C D D# E G A"),
        ("A minor blues", "A C D D# E G"),
    ],
)
def test_scales_and_chords(text: str, notes: str) -> None:
    weights = parse_scale_or_chord(text)
    assert {SHARPS[k] for k in np.flatnonzero(weights)} == set(notes.split())


def test_root_and_fifth_have_larger_weights() -> None:
    assert parse_scale_or_chord("C major").tolist() == [2, 0, 1, 0, 1, 1, 0, 1.5, 0, 1, 0, 1]
    assert parse_scale_or_chord("A minor").tolist() == [1, 0, 1, 0, 1.5, 1, 0, 1, 0, 2, 0, 1]
    assert parse_scale_or_chord("F# dim")[1] == 0  # a diminished fifth is not a fifth


def test_bass_of_a_slash_chord_has_the_weight_of_a_root() -> None:
    assert parse_scale_or_chord("C/G").tolist() == [2, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0]
    assert parse_scale_or_chord("C/D").tolist() == [2, 0, 2, 0, 1, 0, 0, 1.5, 0, 0, 0, 0]


def normalize_weights(name: str) -> np.ndarray:
    weights = parse_scale_or_chord(name)
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("text", "density", "histogram"),
    [
        ("1,0,1,0,1,1,0,1,0,1,0,1;3", 3, np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1]) / 7),
        (";11", 11, np.full(12, 1 / 12)),
        (" 0,0,0,0,0,0,0,0,0,0,0,0 ; 0", 0, np.full(12, 1 / 12)),
        ("0,0,0,0,0,0,0,0,0,0,0,2.5;5", 5, np.eye(12)[11]),
    ],
)
def test_weights_are_normalized(text: str, density: int, histogram: np.ndarray) -> None:
    (row,) = encode_schedule(parse_control(text), PLAIN_LAYOUT)
    assert row[:12].tolist() == np.eye(12)[density].tolist()
    np.testing.assert_allclose(row[12:], histogram, atol=1e-7)


# ---------------------------------------------------------------------------------- density


@pytest.mark.parametrize(
    ("density", "level"),
    [
        *(("0", 0), (" 11 ", 11), ("8/s", 5), ("0/s", 0), ("0.4/s", 0), ("2 / s", 1), ("60/s", 11)),
        *(("5-6/s", 3), ("0-1.5 notes/s", 0), ("14 - 15/s", 9)),
    ],
)
def test_density_is_a_level_or_a_rate(density: str, level: int) -> None:
    """Level k stands for 1 + 3k to 3 + 3k notes in two seconds."""
    assert parse_control("C major;" + density).density.tolist() == [level]


def test_density_defaults_to_the_previous_part() -> None:
    assert set(parse_control("C major;7 | G7 @1").density) == {7}
    assert find_controls("C major", 0)[0, :12].argmax() == 3  # of a network without open controls


# ------------------------------------------------------------------------------------- time


def find_controls(text: str, *times: float) -> np.ndarray:
    """Return the control vectors at some seconds."""
    rows = parse_control(text).evaluate(np.array(times), np.zeros(len(times), int))
    return encode_schedule(rows, PLAIN_LAYOUT)


@pytest.mark.parametrize("start", [1.7, 3.4, 3.9, 6.8])  # 17 * 0.1 > 1.7 in floating point
def test_part_begins_exactly_at_its_time(start: float) -> None:
    rows = find_controls(f"C major;3 | C major;6 @{start}", start - 0.001, start)
    assert rows[:, :12].argmax(axis=1).tolist() == [3, 6]


def test_parts_begin_at_their_times() -> None:
    text = "C major;3 | A minor;6 @20 | G7;8/s @30.5"
    rows = find_controls(text, 0.0, 19.94, 20.0, 30.44, 30.5, 1e6)
    assert rows[:, :12].argmax(axis=1).tolist() == [3, 3, 6, 6, 5, 5]
    for row, name in zip(rows[::2], ("C major", "A minor", "G7"), strict=True):
        np.testing.assert_allclose(row[12:], normalize_weights(name), atol=1e-6)


def test_sections_are_the_parts() -> None:
    control = parse_control("C major;3 | A minor;6 @20 | G7;8/s @30.5")
    assert control.events is None
    assert control.split_sections(99.0) == [
        (0.0, 20.0, "C major;3"),
        (20.0, 30.5, "A minor;6 @20"),
        (30.5, np.inf, "G7;8/s @30.5"),
    ]
    assert len(control.split_sections(25.0)) == 2


def test_gradual_change_is_linear() -> None:
    text = "C major;1 | ~F# major;9 @40 | G7;2 @50"
    rows = find_controls(text, 0.0, 10.0, 20.0, 30.0, 40.0, 49.0, 50.0, 7.0, 8.0)
    assert rows[:, :12].argmax(axis=1).tolist() == [1, 3, 5, 7, 9, 9, 2, 2, 3]  # 2.4 and 2.6
    start, end = normalize_weights("C major"), normalize_weights("F# major")
    for row, share in zip(rows[:5], (0, 0.25, 0.5, 0.75, 1), strict=True):
        np.testing.assert_allclose(row[12:], (1 - share) * start + share * end, atol=1e-6)
    assert len(parse_control(text).split_sections(60.0)) == 6  # of ten seconds each


@pytest.mark.parametrize("start", ["0.04", "20.04", "19.96"])
@pytest.mark.parametrize("end", ["20.08", "40"])
def test_gradual_change_does_not_overshoot(start: str, end: str) -> None:
    rows = find_controls(f"C;1 | C;2 @{start} | ~F#;9 @{end}", *np.arange(0, 42, 0.01))
    assert rows[:, 12:].min() >= 0
    assert rows[:, :12].sum(axis=1).tolist() == [1] * len(rows)
    assert rows[-1, :12].argmax() == 9


def average_by_loop(text: str, start: float) -> np.ndarray:
    """Return the average histogram of the 1.8 s after a time, with a weight for each note."""
    total = np.zeros(12)
    for k in range(1800):
        row = find_controls(text, start + (k + 0.5) / 1000)[0]
        total += (2 + 3 * row[:12].argmax()) * row[12:]  # level k stands for 2 + 3k notes
    return total / total.sum()


@pytest.mark.parametrize("text", ["C;3 | F#;9 @4", "C;2 | ~F#;2 @6 | G;9 @6.5"])
def test_network_gets_averages_over_the_window(text: str) -> None:
    rows = parse_control(text).average(0, 70)
    np.testing.assert_allclose(rows.times, np.arange(70) / 10)
    for row in (0, 15, 25, 35, 39, 41, 55):
        expected = average_by_loop(text, row / 10)
        np.testing.assert_allclose(rows.histogram[row], expected, atol=0.01)


def test_averages_of_a_density() -> None:
    density = parse_control("C;3 | C;9 @4").average(0, 50).density
    assert density[:22].tolist() == [3] * 22
    assert density[31] == 6  # half of the window is at 3, half at 9
    assert density[40:].tolist() == [9] * 10


def test_constant_parts_are_not_changed_by_averaging() -> None:
    plan = parse_control("0.3,0.1,0.7,0,0,0,0,0,0,0,0,0;5 | A minor;5 @10")
    rows = plan.average(0, 200)
    assert (rows.histogram[:80] == plan.histogram[0]).all()
    assert (rows.histogram[100:] == plan.histogram[1]).all()


# ----------------------------------------------------------------------------- progressions


def list_chords(text: str, *times: float) -> list[str]:
    """Return the pitch classes that are requested at some seconds, such as "C E G"."""
    rows = find_controls(text, *times)[:, 12:]
    return [" ".join(SHARPS[k] for k in np.flatnonzero(row)) for row in rows]


AM, F, C, G = "C E A", "C F A", "C E G", "D G B"


@pytest.mark.parametrize(
    ("text", "bar", "length"),
    [
        ("Am F C G", 2.0, 8.0),
        ("am f c g", 2.0, 8.0),
        ("Am | F | C | G", 2.0, 8.0),
        ("Am F C G x8", 2.0, 64.0),
        ("[Am | F | C | G] x2; 5/s", 2.0, 16.0),
        ("Am F C G @ 60bpm", 4.0, 16.0),
        ("Am F C G @ 90 bpm 3/4", 2.0, 8.0),
        ("5/s; Am F C G @ 60bpm 6/8", 3.0, 12.0),
        ("Am F x1 | C G", 2.0, 8.0),
        ("Am\uff5cF\uff5cC\uff5cG\uff1b3", 2.0, 8.0),  # full-width | and ;
    ],
)
def test_chords_last_a_bar(text: str, bar: float, length: float) -> None:
    times = bar * np.array([0, 0.99, 1, 1.99, 2, 2.99, 3, 3.99])
    assert list_chords(text, *times) == [AM, AM, F, F, C, C, G, G]
    assert parse_control(text).length == pytest.approx(length)


def test_chords_of_a_bar_share_it() -> None:
    text = "[Am F | C G Am] @ 120bpm 3/4"  # a bar is 1.5 s
    assert list_chords(text, 0, 0.7, 0.8, 1.49, 1.5, 1.99, 2, 2.5) == [AM, AM, F, F, C, C, G, AM]
    assert parse_control(text).length == 3.0


def test_progression_repeats_until_the_next_part() -> None:
    text = "Am F | C major; 5/s @ 7 | G C; 3 @ 20"
    white = "C D E F G A B"
    assert list_chords(text, 4, 6, 6.9, 7, 19.9) == [AM, F, F, white, white]
    assert list_chords(text, 20, 22, 24, 26, 86400, 86402) == [G, C, G, C, G, C]
    assert parse_control(text).length == 24.0


def test_part_keeps_what_it_does_not_name() -> None:
    text = "Am F C G; 3 | 8/s @ 5 | C @ 12"
    assert list_chords(text, 0, 2, 4.9, 5, 6, 8, 11.9, 12) == [AM, F, C, C, G, AM, F, C]
    assert find_controls(text, 0, 4.9, 5, 12)[:, :12].argmax(axis=1).tolist() == [3, 3, 5, 5]


def test_empty_pitches_are_all_pitches() -> None:
    assert list_chords("C major;3 | ;6 @20", 20) == [" ".join(SHARPS)]


@pytest.mark.parametrize("text", ["C major", "Am", "Am;3 | F;3 @20", "5/s", "C major;1 | ~ A;9 @9"])
def test_controls_without_bars_have_no_length(text: str) -> None:
    assert parse_control(text).length is None


def test_names_of_density() -> None:
    texts = (
        "C major; density 5/s",
        "density 3; C major",
        "C major; 5 notes/s",
        "C major; Density 3",
    )
    for text in texts:
        assert parse_control(text).density.tolist() == [3]
        assert list_chords(text, 0) == ["C D E F G A B"]


FADERS = "C major; density 3; loudness 90 | loudness 40 @20; register C5 | touch legato @30"


def test_controls_by_name() -> None:
    control = parse_control(FADERS)
    nan = np.nan
    assert control.density.tolist() == [3, 3, 3]
    assert control.requested_controls == ["density", "histogram", "loudness", "register", "touch"]
    np.testing.assert_array_equal(control.scalars["loudness"], [90, 40, 40])
    np.testing.assert_array_equal(control.scalars["register"], [nan, 72, 72])
    np.testing.assert_array_equal(control.scalars["touch"], [nan, nan, 0.5])
    assert (control.histogram == control.histogram[0]).all()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("loudness pp", "loudness", 36),
        ("Loudness FF", "loudness", 86),
        ("register C4", "register", 60),
        ("register Bb3", "register", 58),
        ("register f#5", "register", 78),
        ("register 60.5", "register", 60.5),
        ("spread 8 semitones", "spread", 8),
        ("touch 0.3s", "touch", 0.3),
        ("touch 0.3 s", "touch", 0.3),
    ],
)
def test_words_and_units(text: str, name: str, value: float) -> None:
    control = parse_control(text)
    assert control.requested_controls == [name]
    assert control.scalars[name].tolist() == [value]


def test_controls_without_value_are_open() -> None:
    assert parse_control("loudness 60").requested_controls == ["loudness"]
    assert parse_control("C major").requested_controls == ["histogram"]
    assert parse_control(";3").requested_controls == ["density"]
    control = parse_control("C major; 3; loudness 60 | density any; pitches any; loudness any @9")
    for column in control.values.values():
        assert np.isnan(column[1]).all()
        assert not np.isnan(column[0]).any()


@pytest.mark.parametrize("field", ["C major", "Am F C G", "1,0,1,0,1,1,0,1,0,1,0,1"])
def test_pitches_may_be_named(field: str) -> None:
    times, counts = np.arange(0, 9, 0.5), np.zeros(18, int)
    named = parse_control(f"5/s; pitches {field}").evaluate(times, counts)
    plain = parse_control(f"{field}; 5/s").evaluate(times, counts)
    assert named.values.keys() == plain.values.keys()
    for name, column in named.values.items():
        np.testing.assert_array_equal(column, plain.values[name])


def test_pitches_are_no_density() -> None:
    with pytest.raises(ValueError, match="'5/s' does not begin with a note name"):
        parse_control("pitches 5/s")


def test_controls_glide() -> None:
    rows = parse_control("loudness 40; touch 0.1 | ~loudness 80; touch 0.3 @10").evaluate(
        np.array([0, 2.5, 10, 99]), np.zeros(4, int)
    )
    np.testing.assert_allclose(rows.scalars["loudness"], [40, 50, 80, 80])
    np.testing.assert_allclose(rows.scalars["touch"], [0.1, 0.15, 0.3, 0.3])


def test_repeats_may_follow_any_field() -> None:
    for text in (
        "Am F x4; 5/s",
        "Am F; 5/s x4",
        "Am F @ 120bpm x4",
        "Am F; 5/s; x4",
        "[Am | F] x4 @ 120bpm",
    ):
        assert parse_control(text).length == 16
        assert list_chords(text, 0, 2) == [AM, F]


@pytest.mark.parametrize(
    "text",
    ["Am, F", "Am - F", "Am F x 1", "| Am | F |", "[Am, | F]", "Am F;", "| Am | F |\n"],
)
def test_usual_ways_to_write_chords(text: str) -> None:
    control = parse_control(text)
    assert control.length == 4
    assert list_chords(text, 0, 2) == [AM, F]


@pytest.mark.parametrize("text", ["loudness: 90", "loudness=90", "Loudness = 90;"])
def test_sign_between_name_and_value(text: str) -> None:
    assert parse_control(text).scalars["loudness"].tolist() == [90]


def test_unit_after_the_value() -> None:
    control = parse_control("loudness 60 MIDI velocity; register 72 MIDI pitch; touch 0.2 s")
    assert {name: column.tolist() for name, column in control.scalars.items()} == {
        "loudness": [60],
        "register": [72],
        "touch": [0.2],
    }


def test_letter_f_alone_is_a_chord() -> None:
    assert list_chords("f", 0, 2) == [F, F]


def test_many_repeats_take_no_memory() -> None:
    assert len(parse_control("Am F C G x10000")) == 4


# ----------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("H minor;3", ["'H minor'", "note name"]),
        ("C majr;3", ["'majr'", "mixolydian"]),
        ("CM6;3", ["'M6' in 'CM6'"]),
        (";12", ["12"]),
        (";-1", ["'-1'"]),
        ("C major;1e9/s", ["'1e9/s'"]),
        ("C major;61/s", ["61", "60"]),
        ("C major;3;1", ["more than one density: '1'"]),
        ("Am F H C", ["'H' in 'F H'"]),
        ("C dorain", ["'dorain' in 'C dorain'", "dorian"]),
        ("Am F C/H", ["'/H' in 'C/H'"]),
        ("[Am F", ["[Dm7 G7 | Cmaj7]"]),
        ("[Am | | F]", ["a bar is empty"]),
        ("Am F x0", ["no repeats"]),
        ("Am F @ 5bpm", ["'5'", "20 to 400"]),
        ("Am F @ 4/5", ["'4/5'", "meter"]),
        ("Am F; 3 @1 ; @2", ["more than one '@'"]),
        ("[C F C F C F C F C F C F C F C F C F C F C F]", ["shorter than 0.1 s"]),
        ("C | ~ F G @9", ["one scale or chord"]),
        ("C; loudness x", ["loudness 'x'", "1 to 127", "pp, p, mp"]),
        ("C; loudness 128", ["loudness '128'", "1 to 127"]),
        ("C; register H4", ["register 'H4'", "21 to 108", "C4"]),
        ("C; touch -1", ["touch '-1'", "0.01 to 60 s"]),
        ("C; loudness 3; loudness 4", ["more than one loudness"]),
        ("C; volume 3", ["'volume 3'", "none of density, loudness"]),
        ("volume 3", ["'volume 3'", "note name", "none of density, loudness"]),
        ("C; ff", ["'ff'", "'loudness ff'"]),
        ("ff", ["'ff'", "'loudness ff'"]),
        ("pedal; 5/s", ["'pedal'", "'touch pedal'"]),
        ("loudness p register C5", ["';' is missing before 'register'"]),
        ("C major, loudness 90", ["';' is missing before 'loudness'"]),
        ("Am F C G 5/s", ["';' is missing before '5/s'"]),
        ("Am F @ 500bpm", ["tempo '500'", "20 to 400"]),
        ("Am F @90", ["'@ 90bpm'"]),
        ("C; register C0", ["'C0'", "21 to 108"]),
        ("Am F x2; 3 x4", ["more than one 'x4'"]),
        ("1,2;3", ["12 weights"]),
        ("1,0,1,0,1,1,0,1,0,1,0,x;3", ["'x'"]),
        ("1,-1,1,0,1,1,0,1,0,1,0,1;3", ["-1"]),
        ("nan,0,1,0,1,1,0,1,0,1,0,1;3", ["nan"]),
        ("C major;3 | A minor;6", ["part 2, 'A minor;6'", "@20"]),
        ("C major;3 | A minor;x @20", ["part 2", "'x'", "8/s"]),
        ("C major;3 | A minor;12 @20", ["part 2", "12"]),
        ("C major;3 | A minor;6 @20 | G7 @20", ["part 3", "later than second 20"]),
        ("C major;3 @5", ["must start at second 0"]),
        ("C major;3 | G7 @soon", ["part 2", "'soon'"]),
        ("C major;3 | G7 @nan", ["part 2", "nan"]),
        ("C major;3 | G7 @99999999", ["part 2", "a day"]),
        ("~C major;3", ["first part"]),
        ("C major;3 |", ["part 2"]),
        ("x" * 5000, ["..."]),
        ("", ["empty"]),
    ],
)
def test_error_names_part_and_has_example(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"\w") as error:
        parse_control(text)
    message = str(error.value)
    for word in [*words, EXAMPLE]:
        assert word in message
    assert len(message) < 600


@pytest.mark.parametrize("text", ["song.mid", "missing.data", "dataset/missing"])
def test_missing_file_is_not_parsed(text: str) -> None:
    with pytest.raises(ValueError, match=f"no such file or folder: '{text}'"):
        parse_control(text)


def test_help_examples_are_valid() -> None:
    texts = [line[2:].split("  ")[0] for line in EXAMPLES.splitlines()]
    for text in filter(None, texts):
        if text not in ("song.mid", "dataset/processed"):
            parse_control(text)


# ------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["a.mid", "A.MIDI", "a.kar", "a.rmi"])
def test_midi_file_has_a_control_for_each_event(tmp_path: Path, name: str) -> None:
    path = write_midi(tmp_path / name, 50, 1)
    control = load_control(str(path), 0)
    events = EventSeq.from_note_seq(NoteSeq.from_midi_file(path).trim_start())
    expected = ControlSeq.from_event_seq(events).to_array()
    np.testing.assert_array_equal(control.to_array(), expected)
    assert (control.events, control.times) == (len(expected), None)
    rows = control.evaluate(np.zeros(3), np.array([0, 7, 10**6]))
    np.testing.assert_array_equal(rows.to_array(), expected[[0, 7, -1]])


def test_midi_file_for_a_legacy_session(tmp_path: Path) -> None:
    path = write_midi(tmp_path / "a.mid", 50, 1)
    notes = NoteSeq.from_midi_file(path, sustain=False).trim_start()
    expected = len(EventSeq.from_note_seq(notes, LEGACY))
    assert load_control(str(path), 0, LEGACY).events == expected


def test_midi_file_without_notes(tmp_path: Path) -> None:
    NoteSeq().to_midi_file(tmp_path / "empty.mid")
    with pytest.raises(ValueError, match=r"empty\.mid: no notes"):
        load_control(str(tmp_path / "empty.mid"), 0)


def test_seed_selects_a_file_of_a_folder(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "d", count=4, notes=20)
    names = [load_control(str(folder), seed).text for seed in range(20)]
    assert set(names) == {str(path) for path in folder.iterdir()}
    assert names == [load_control(str(folder), seed).text for seed in range(20)]


def test_folder_without_data_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \.data files in this folder"):
        load_control(str(tmp_path), 0)
