"""Notes, events and controls, compared with handwritten lists and plain loops."""

from __future__ import annotations

import functools
import itertools
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sequence import (
    ENCODINGS,
    Control,
    ControlSeq,
    EventSeq,
    NoteSeq,
    measure_onset_errors,
    transpose,
    transposition_range,
)

SHIFTS = [round(1000 * 1.15**k / 65) for k in range(32)]  # milliseconds
TOLERANCE_MS = 7.5 + 1e-6  # between an encoded time and the decoded one
OFF, VELOCITY, SHIFT, END = 88, 176, 208, 240  # first index of each kind of event


class Note(NamedTuple):
    """A note in milliseconds."""

    start: float
    end: float
    pitch: int
    velocity: int


def on(pitch: int) -> int:
    return pitch - 21


def off(pitch: int) -> int:
    return OFF + pitch - 21


def velocity(value: int) -> int:
    return VELOCITY + (value - 1) // 4


def wait(ms: int) -> int:
    return SHIFT + SHIFTS.index(ms)


def note_seq(notes: list[Note]) -> NoteSeq:
    columns = np.array(notes, float).reshape(-1, 4).T
    return NoteSeq(columns[0] / 1000, columns[1] / 1000, columns[2], columns[3])


def notes_of(seq: NoteSeq) -> list[Note]:
    columns = (seq.starts * 1000, seq.ends * 1000, seq.pitches, seq.velocities)
    return [Note(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def assert_notes(seq: NoteSeq, expected: list[Note]) -> None:
    """Assert that the notes are the expected ones, in order of (onset, pitch)."""
    table = np.array(sorted(expected, key=lambda n: (n.start, n.pitch)), float).reshape(-1, 4)
    np.testing.assert_allclose(np.array(notes_of(seq)).reshape(-1, 4), table, atol=1e-6, rtol=0)


# ----------------------------------------------------------------------------------------- NoteSeq


def three_notes() -> NoteSeq:
    return NoteSeq([1.0, 0.5, 1.0], [2.0, 0.75, 3.0], [64, 72, 60], [1, 127, 64])


def test_notes_are_sorted_by_onset_and_pitch() -> None:
    columns = [column.tolist() for column in three_notes().columns]
    assert columns == [[0.5, 1, 1], [0.75, 3, 2], [72, 60, 64], [127, 64, 1]]
    assert len(three_notes()) == 3
    assert three_notes().seconds == 3.0


def test_empty_sequence() -> None:
    assert NoteSeq() == NoteSeq([], [], [], []) == NoteSeq().trim_start() == NoteSeq.merge()
    assert NoteSeq().seconds == 0.0
    assert three_notes().truncate(0.5) == NoteSeq()


VALID: dict[str, list[float]] = {
    "start": [0, 1],
    "end": [0, 2],
    "pitch": [0, 127],
    "velocity": [1, 127],
}


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("start", [0, np.nan], "onset nan"),
        ("start", [-0.01, 1], "onset -0.01"),
        ("start", [0, np.inf], "onset inf"),
        ("end", [1, np.nan], "end nan"),
        ("end", [1, 0.999], "end 0.999"),
        ("end", [1, np.inf], "end inf"),
        ("pitch", [60, 128], "pitch 128"),
        ("pitch", [-1, 60], "pitch -1"),
        ("pitch", [np.nan, 60], "pitch nan"),
        ("velocity", [64, 0], "velocity 0"),
        ("velocity", [128, 64], "velocity 128"),
        ("start", [0], "differ"),
        ("end", [1, 2, 3], "differ"),
        ("pitch", [], "differ"),
        ("velocity", [[64, 64]], "differ"),
    ],
)
def test_invalid_notes_are_rejected(column: str, values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoteSeq(*(VALID | {column: values}).values())


def test_notes_are_read_only() -> None:
    source = np.array([0.5])
    notes = NoteSeq(source, [1], [60], [64])
    source[0] = 0.75
    for column in notes.columns:
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1
    with pytest.raises(AttributeError):
        notes.starts = source  # type: ignore[misc]
    assert notes == NoteSeq([0.5], [1], [60], [64])


@pytest.mark.parametrize(
    ("column", "values"),
    [("start", [0, 0.5]), ("end", [1, 3]), ("pitch", [0, 126]), ("velocity", [2, 127])],
)
def test_equality_compares_all_values(column: str, values: list[float]) -> None:
    notes = NoteSeq(*VALID.values())
    assert notes == NoteSeq(*VALID.values())
    assert notes != NoteSeq(*(VALID | {column: values}).values())
    assert notes not in (NoteSeq(), "notes")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (three_notes().adjust_time(0.25), {"starts": [0.75, 1.25, 1.25], "ends": [1, 3.25, 2.25]}),
        (three_notes().adjust_pitches(-60), {"pitches": [12, 0, 4]}),
        (three_notes().adjust_velocities(100), {"velocities": [127, 127, 101]}),
        (three_notes().adjust_velocities(-100), {"velocities": [27, 1, 1]}),
        (three_notes().trim_start(), {"starts": [0, 0.5, 0.5], "ends": [0.25, 2.5, 1.5]}),
        (three_notes().limit_durations(0.5), {"ends": [0.75, 1.5, 1.5]}),
        (three_notes().limit_durations(0.5, after=1.25), {"ends": [0.75, 1.75, 1.75]}),
        (three_notes().truncate(2.5), {"ends": [0.75, 2.5, 2]}),
        (three_notes().crop(0.5, 2), {"starts": [0, 0.5, 0.5], "ends": [0.25, 2, 1.5]}),
    ],
    ids=[
        *("later", "lower", "louder", "softer", "trimmed", "shorter", "shorter at end", "cut"),
        "cropped",
    ],
)
def test_adjustments(changed: NoteSeq, expected: dict[str, list[float]]) -> None:
    for name in ("starts", "ends", "pitches", "velocities"):
        column = expected.get(name, getattr(three_notes(), name).tolist())
        assert getattr(changed, name).tolist() == column


def test_crop_keeps_notes_that_start_inside() -> None:
    notes = NoteSeq([0, 1, 2.5, 4], [9, 2, 9, 5], [60, 61, 62, 63], [64] * 4)
    assert notes.crop(1, 3) == NoteSeq([0, 1.5], [1, 3], [61, 62], [64, 64])
    assert notes.crop(5, 3) == NoteSeq()


@pytest.mark.parametrize(("adjust", "value"), [("time", -0.6), ("pitches", 56), ("pitches", -61)])
def test_adjustments_out_of_range_are_rejected(adjust: str, value: float) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        getattr(three_notes(), f"adjust_{adjust}")(value)


def test_merge_cuts_notes_at_the_next_onset() -> None:
    merged = NoteSeq.merge(
        note_seq([Note(0, 900, 60, 1), Note(500, 800, 61, 2)]),
        note_seq([]),
        note_seq([Note(400, 500, 60, 3), Note(900, 950, 61, 4)]),
    )
    assert_notes(
        merged,
        [Note(0, 400, 60, 1), Note(400, 500, 60, 3), Note(500, 800, 61, 2), Note(900, 950, 61, 4)],
    )


# ----------------------------------------------------------------------------- EventSeq: indices


LAYOUTS = {
    EventSeq: {"note_on": 88, "note_off": 88, "velocity": 32, "time_shift": 32},
    ControlSeq: {"note_density": 12, "pitch_histogram": 12},
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layout(kind: Any) -> None:
    kind.feat_dims().clear()  # changes a copy
    kind.feat_ranges().clear()
    widths = LAYOUTS[kind]
    ends = np.cumsum(list(widths.values())).tolist()
    ranges = [range(end - width, end) for end, width in zip(ends, widths.values(), strict=True)]
    assert list(kind.feat_dims().items()) == list(widths.items())
    assert list(kind.feat_ranges().items()) == list(zip(widths, ranges, strict=True))
    assert kind.dim() == ends[-1]


@pytest.mark.parametrize("values", [[0.0], [True], ["1"], [[1, 2]], 3, [None], np.ones(3)])
def test_events_must_be_one_dimensional_integers(values: Any) -> None:
    with pytest.raises(TypeError, match="integers"):
        EventSeq.from_array(values)


@pytest.mark.parametrize("wrong", [-1, 240, 256, -256, 2**40])
def test_events_must_be_in_range(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"event {wrong} "):
        EventSeq.from_array(np.array([0, 239, wrong, 5]))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_integer_events_become_read_only_bytes(dtype: type) -> None:
    source = np.array([0, 239, 7], dtype)
    array = EventSeq.from_array(source).to_array()
    source[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 9
    assert (array.dtype, array.tolist()) == (np.uint8, [0, 239, 7])


def test_only_time_shifts_take_time() -> None:
    events = EventSeq([on(60), wait(15), velocity(9), wait(1171), wait(15), off(60)])
    assert events.times.tolist() == [0, 0, 15, 15, 1186, 1201]
    assert events.total_ms == 1201
    assert [EventSeq([event]).total_ms for event in range(SHIFT, END)] == SHIFTS


# ------------------------------------------------------------------------------ EventSeq: decoding


DECODED = {
    "nothing": ([], []),
    "only time": ([wait(1171), velocity(1)], []),
    "note": ([velocity(64), on(60), wait(886), off(60)], [Note(0, 886, 60, 63)]),
    "lowest and highest key": (
        [on(21), on(108), wait(15), off(108), wait(18), off(21)],
        [Note(0, 33, 21, 64), Note(0, 15, 108, 64)],
    ),
    "lowest and highest velocity": (
        [velocity(1), on(60), velocity(127), on(61), wait(15), off(60), off(61)],
        [Note(0, 15, 60, 3), Note(0, 15, 61, 127)],
    ),
    "velocity holds until the next": (
        [on(60), velocity(5), on(61), wait(15), on(62), velocity(9), wait(15)],
        [Note(0, 30, 60, 64), Note(0, 30, 61, 7), Note(15, 30, 62, 7)],
    ),
    "note off of a silent key": (
        [off(60), wait(15), off(61), on(60), wait(18)],
        [Note(15, 33, 60, 64)],
    ),
    "second note off": ([on(60), wait(15), off(60), wait(15), off(60)], [Note(0, 15, 60, 64)]),
    "note on of a sounding key": (
        [on(60), wait(20), velocity(1), on(60), wait(18), off(60)],
        [Note(0, 20, 60, 64), Note(20, 38, 60, 3)],
    ),
    "no note off": (
        [on(60), wait(15), on(61), wait(18), off(61), wait(20), off(99)],
        [Note(0, 53, 60, 64), Note(15, 33, 61, 64)],
    ),
    "no length": ([wait(18), on(60), off(60), wait(20)], [Note(18, 33, 60, 64)]),
    "two note ons at one time": (
        [velocity(9), on(60), velocity(1), on(60), wait(20)],
        [Note(0, 20, 60, 3)],
    ),
    "two note ons at one time with a note off": (
        [on(60), off(60), velocity(1), on(60), wait(20), off(60)],
        [Note(0, 20, 60, 3)],
    ),
    "note off and note on at one time": (
        [on(60), wait(20), off(60), on(60), wait(15), off(60)],
        [Note(0, 20, 60, 64), Note(20, 35, 60, 64)],
    ),
}


@pytest.mark.parametrize("name", DECODED)
def test_decoding_matches_hand_written_notes(name: str) -> None:
    events, notes = DECODED[name]
    assert_notes(EventSeq.from_array(events).to_note_seq(), notes)


def decode_plainly(events: list[int]) -> list[Note]:
    """Decode events one by one."""
    now, current = 0, 64
    sounding: dict[int, tuple[int, int]] = {}  # start and velocity, by pitch
    found: dict[tuple[int, int], Note] = {}  # by pitch and start; the last one counts

    def close(pitch: int) -> None:
        if pitch in sounding:
            start, value = sounding.pop(pitch)
            found[pitch, start] = Note(start, max(now, start + 15), pitch, value)

    for event in events:
        if event >= SHIFT:
            now += SHIFTS[event - SHIFT]
        elif event >= VELOCITY:
            current = 4 * (event - VELOCITY) + 3
        else:
            pitch = 21 + event % OFF
            close(pitch)
            if event < OFF:
                sounding[pitch] = (now, current)
    for pitch in list(sounding):
        close(pitch)
    return list(found.values())


FEW_KEYS = st.sampled_from([on(60), off(60), on(61), off(61), wait(15), wait(18), velocity(1)])
EVENTS = st.one_of(
    st.lists(st.integers(0, 239), max_size=80),
    st.lists(st.one_of(FEW_KEYS, st.integers(0, 239)), max_size=200),
)


@given(EVENTS)
def test_decoding_matches_a_plain_loop(events: list[int]) -> None:
    assert_notes(EventSeq.from_array(events).to_note_seq(), decode_plainly(events))


# ------------------------------------------------------------------------------ EventSeq: encoding


def merge_close_notes(notes: list[Note]) -> list[Note]:
    """Return the notes that events should encode, sorted by (pitch, start).

    Notes of a key that start less than 15 whole ms apart are merged, overlapping notes are cut, and
    pitches outside the piano are dropped.
    """
    by_pitch: dict[int, list[list[Note]]] = {pitch: [] for pitch in range(21, 109)}
    for note in sorted(notes):
        groups = by_pitch.get(note.pitch, [])
        if groups and round(note.start) - round(groups[-1][-1].start) < 15:
            groups[-1].append(note)
        else:
            groups.append([note])
    found = []
    for pitch, groups in by_pitch.items():
        onsets = [group[0].start for group in groups] + [np.inf]
        for group, following in zip(groups, onsets[1:], strict=True):
            end = min(max(note.end for note in group), following)
            found.append(Note(group[0].start, end, pitch, max(note.velocity for note in group)))
    return found


def round_trip(notes: list[Note]) -> list[tuple[Note, Note]]:
    """Encode and decode notes; return pairs of (expected, decoded) notes."""
    decoded = notes_of(EventSeq.from_note_seq(note_seq(notes)).to_note_seq())
    decoded.sort(key=lambda note: (note.pitch, note.start))
    expected = merge_close_notes(notes)
    assert [note.pitch for note in decoded] == [note.pitch for note in expected]
    return list(zip(expected, decoded, strict=True))


def build_notes(steps: list[tuple[int, int, int, int]]) -> list[Note]:
    """Return notes from (time since the last onset, length, pitch, velocity), in thirds of a ms.

    Thirds, so that no time is halfway between two milliseconds.
    """
    now, notes = 0, []
    for gap, length, pitch, velocity in steps:
        now += gap
        notes.append(Note(now / 3, (now + length) / 3, pitch, velocity))
    return notes


GAPS = st.one_of(  # chords, clusters, trills, phrases, rests of up to 30 s
    st.just(0), *(st.integers(0, longest) for longest in (60, 600, 3000, 90_000))
)
LENGTHS = st.one_of(st.integers(3, 120), st.integers(3, 6000))
KEYS = st.one_of(st.integers(60, 62), st.integers(21, 108))
Ints = st.SearchStrategy[int]


def performances(
    gaps: Ints, lengths: Ints, pitches: Ints = KEYS, size: int = 60
) -> st.SearchStrategy[list[Note]]:
    """Generate 1 to `size` notes; gaps and lengths are in thirds of a ms."""
    steps = st.tuples(gaps, lengths, pitches, st.integers(1, 127))
    return st.lists(steps, min_size=1, max_size=size).map(build_notes)


TRILLS = performances(st.integers(0, 90), st.integers(3, 300), st.integers(60, 61))
MUSIC = st.one_of(performances(GAPS, LENGTHS), TRILLS)


def random_music(count: int, rate: float, seed: int = 0) -> list[Note]:
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.exponential(1000 / rate, count))
    ends = starts + rng.exponential(300, count) + 1
    pitches, velocities = rng.integers(21, 109, count), rng.integers(1, 128, count)
    columns = (starts, ends, pitches, velocities)
    return [Note(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


@given(MUSIC)
def test_notes_are_within_tolerance(notes: list[Note]) -> None:
    for old, new in round_trip(notes):
        assert abs(old.start - new.start) <= TOLERANCE_MS
        assert abs(old.velocity - new.velocity) <= 2
        if old.end - old.start >= 15:
            assert abs(old.end - new.end) <= TOLERANCE_MS
        else:
            assert 15 <= new.end - new.start + 1e-6 <= 15 + 2 * TOLERANCE_MS
    total = EventSeq.from_note_seq(note_seq(notes)).total_ms
    assert abs(total - points_of(notes)[-1]) <= TOLERANCE_MS


def test_time_does_not_drift_over_ten_minutes() -> None:
    notes = random_music(12_000, rate=20)
    assert notes[-1].start > 590_000
    pairs = round_trip(notes)
    errors = np.array([new.start - old.start for old, new in pairs])
    assert np.abs(errors).max() <= TOLERANCE_MS
    starts = np.array([old.start for old, _ in pairs])
    for early, late in pairwise(np.linspace(0, 600_000, 11)):  # each minute
        assert abs(errors[(starts >= early) & (starts < late)].mean()) < 0.5


@given(MUSIC)
def test_event_order(notes: list[Note]) -> None:
    """At one time: note offs, then note ons by pitch; velocities only where they change."""
    events = EventSeq.from_note_seq(note_seq(notes)).to_array().tolist()
    sounding: set[int] = set()
    last_velocity, same_time, after_velocity = None, [], False
    for event in events:
        assert not after_velocity or event < OFF, "a velocity must be right before its note on"
        after_velocity = False
        if event >= SHIFT:
            same_time = []
        elif event >= VELOCITY:
            assert event != last_velocity
            last_velocity, after_velocity = event, True
        else:
            kind_and_key = (event < OFF, event % OFF)
            assert same_time == [] or same_time[-1] < kind_and_key
            same_time.append(kind_and_key)
            assert (event % OFF in sounding) is (event >= OFF)
            sounding ^= {event % OFF}
    assert not sounding
    assert OFF <= events[-1] < VELOCITY


ENCODED = {
    "nothing": ([], []),
    "note": ([Note(0, 886, 60, 64)], [velocity(64), on(60), wait(886), off(60)]),
    "chord sorted by pitch": (
        [Note(15, 30, 64, 9), Note(15, 30, 60, 9), Note(15, 33, 62, 9)],
        [wait(15), velocity(9), on(60), on(62), on(64), wait(15), off(60), off(62), off(64)],
    ),
    "note off before note on": (
        [Note(0, 886, 60, 64), Note(886, 900, 21, 1), Note(886, 900, 60, 4)],
        [
            *(velocity(64), on(60), wait(886), off(60)),
            *(velocity(1), on(21), on(60), wait(15), off(21), off(60)),
        ],
    ),
    "shorter than 15 ms": ([Note(0, 1, 60, 64)], [velocity(64), on(60), wait(15), off(60)]),
    "no length": ([Note(0, 0, 60, 64)], [velocity(64), on(60), wait(15), off(60)]),
    "two notes within 15 ms": (
        [Note(0, 5, 60, 64), Note(14, 41, 60, 100)],
        [velocity(100), on(60), wait(41), off(60)],
    ),
    "outside the piano": (
        [Note(0, 900, pitch, 1) for pitch in (0, 20, 109, 127)] + [Note(20, 35, 108, 64)],
        [wait(20), velocity(64), on(108), wait(15), off(108)],
    ),
    "rest of three longest shifts": (
        [Note(3 * 1171, 3 * 1171 + 15, 60, 64)],
        [*[wait(1171)] * 3, velocity(64), on(60), wait(15), off(60)],
    ),
}


@pytest.mark.parametrize("name", ENCODED)
def test_encoding_matches_hand_written_events(name: str) -> None:
    notes, events = ENCODED[name]
    assert EventSeq.from_note_seq(note_seq(notes)).to_array().tolist() == events


def test_performance_of_a_day_is_encoded() -> None:
    (note,) = notes_of(EventSeq.from_note_seq(NoteSeq([0], [24 * 3600], [60], [64])).to_note_seq())
    assert note.end == pytest.approx(24 * 3_600_000, abs=TOLERANCE_MS)


@pytest.mark.parametrize("end", [24 * 3600 + 1, 1e9, 9e15, 1e16, 1e300])
def test_performance_over_a_day_is_rejected(end: float) -> None:
    with pytest.raises(ValueError, match=r"s long, over 86400 s"):
        EventSeq.from_note_seq(NoteSeq([0], [end], [60], [64]))


# ---------------------------------------------------------------- EventSeq: the fewest time shifts

LONGEST_GAP = 30_100


@functools.cache
def count_shifts() -> list[float]:
    """Return the fewest shifts that sum to each number of milliseconds."""
    fewest: list[float] = [0]
    for ms in range(1, LONGEST_GAP):
        fewest.append(1 + min((fewest[ms - s] for s in SHIFTS if s <= ms), default=np.inf))
    return fewest


def points_of(notes: list[Note]) -> list[int]:
    """Return the times of all onsets and ends, in whole milliseconds."""
    merged = merge_close_notes(notes)
    onsets = {round(n.start) for n in merged}
    return sorted(onsets | {max(round(n.end), round(n.start) + 15) for n in merged})


def fewest_shifts(notes: list[Note]) -> float:
    """Return the fewest shifts that reach all points within 7 ms, by trying every path."""
    best: dict[int, float] = {0: 0}  # by clock
    for point in points_of(notes):
        following = dict.fromkeys(range(max(0, point - 7), point + 8), np.inf)
        for clock, before in itertools.product(following, best):
            if before <= clock:
                shifts = best[before] + count_shifts()[clock - before]
                following[clock] = min(following[clock], shifts)
        best = following
    return min(best.values())


def encoded_shifts(notes: list[Note]) -> int:
    return int((EventSeq.from_note_seq(note_seq(notes)).to_array() >= SHIFT).sum())


def music_without_rests(longest_ms: int) -> st.SearchStrategy[list[Note]]:
    """Generate up to 30 notes; lengths and gaps between onsets are at most `longest_ms`."""
    return performances(st.integers(0, 3 * longest_ms), st.integers(3, 3 * longest_ms), size=30)


@given(st.one_of(music_without_rests(longest) for longest in (20, 55, 100, 400, 2300, 4700)))
@example([Note(0, 2542, 60, 64)])
def test_fewest_time_shifts(notes: list[Note]) -> None:
    assert encoded_shifts(notes) == fewest_shifts(notes)


@given(performances(GAPS, LENGTHS, size=30))
def test_long_rest_costs_at_most_one_more_shift(notes: list[Note]) -> None:
    rests = sum(late - early >= 4800 for early, late in pairwise([0, *points_of(notes)]))
    assert fewest_shifts(notes) <= encoded_shifts(notes) <= fewest_shifts(notes) + rests


def test_long_performance_has_few_shifts() -> None:
    """About one point in 64 is encoded exactly, which may cost one more shift."""
    notes = random_music(400, rate=8)
    assert fewest_shifts(notes) <= encoded_shifts(notes) <= 1.02 * fewest_shifts(notes)


# ------------------------------------------------------------------------- EventSeq: example files


def test_example_files_are_encoded_within_tolerance(midi_path: Path) -> None:
    notes = NoteSeq.from_midi_file(midi_path).trim_start()
    events = EventSeq.from_note_seq(notes)
    pairs = round_trip(notes_of(notes))
    errors = [abs(new.start - old.start) for old, new in pairs]
    assert max(errors) <= 8
    np.testing.assert_allclose(1000 * measure_onset_errors(notes, events), errors, atol=1e-6)
    assert abs(events.total_ms - 1000 * notes.ends.max()) <= 20
    assert max(abs(new.velocity - old.velocity) for old, new in pairs) <= 2
    assert max(abs(new.end - old.end) for old, new in pairs if old.end - old.start >= 15) <= 8


def test_a_note_takes_about_four_events(midi_paths: list[Path]) -> None:
    performances = [NoteSeq.from_midi_file(path).trim_start() for path in midi_paths]
    ratios = [len(EventSeq.from_note_seq(notes)) / len(notes) for notes in performances]
    assert np.mean(ratios) <= 4.15


def test_measure_onset_errors() -> None:
    notes = [Note(3, 500, 60, 64), Note(700, 800, 60, 64), Note(704, 800, 40, 64)]
    errors = measure_onset_errors(note_seq(notes), EventSeq.from_note_seq(note_seq(notes)))
    expected = [abs(new.start - old.start) / 1000 for old, new in round_trip(notes)]
    assert errors.tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="3 notes were encoded, 1 decoded"):
        measure_onset_errors(note_seq(notes), EventSeq([on(60), wait(15)]))


# ---------------------------------------------------------------------------------------- controls


def count_plainly(events: list[int]) -> tuple[list[int], list[list[float]]]:
    """Return density level and histogram of each event, by a loop over the two seconds after it."""
    now, times = 0, []
    for event in events:
        times.append(now)
        now += SHIFTS[event - SHIFT] if event >= SHIFT else 0
    densities, histograms = [], []
    for index, time in enumerate(times):
        first = index
        if time > now - 2000:
            first = next(j for j, other in enumerate(times) if other >= now - 2000)
        classes = [0] * 12
        for event, other in zip(events[first:], times[first:], strict=True):
            if other > times[first] + 2000:
                break
            if event < OFF:
                classes[(event + 21) % 12] += 1
        count = sum(classes)
        densities.append(max([k for k in range(12) if count >= 1 + 3 * k], default=0))
        histograms.append([n / count for n in classes] if count else [1 / 12] * 12)
    return densities, histograms


def random_events(seed: int, steps: int = 400, notes: float = 0.4) -> np.ndarray:
    """Return events of all kinds; `notes` is the share of note ons."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, steps, p=[notes, 0.3, 0.1, 0.6 - notes])
    first = np.array([0, OFF, VELOCITY, SHIFT])[kinds]
    lowest, highest = np.sort(rng.integers(0, 88, 2))
    keys = rng.integers(lowest, highest + 1, steps)
    return (first + np.where(kinds < 2, keys, rng.integers(0, 32, steps))).astype(np.uint8)


TWO_SECONDS = [wait(1171), wait(770), wait(41), wait(18)]


@given(EVENTS)
@example([on(60), wait(20), on(61), on(62), *TWO_SECONDS])  # two seconds before the end
@example(random_events(0, notes=0.05).tolist())
@example(random_events(1, notes=0.3).tolist())
@example(random_events(2, notes=0.58).tolist())
def test_controls_match_a_plain_loop(events: list[int]) -> None:
    controls = ControlSeq.from_event_seq(EventSeq(events))
    densities, histograms = count_plainly(events)
    assert controls.note_density.tolist() == densities
    expected = np.array(histograms).reshape(-1, 12)
    np.testing.assert_allclose(controls.pitch_histogram, expected, atol=1e-12)
    assert controls.to_array().shape == (len(events), 24)


@pytest.mark.parametrize(
    ("count", "density"),
    [(0, 0), (1, 0), (3, 0), (4, 1), (6, 1), (7, 2), (31, 10), (33, 10), (34, 11), (80, 11)],
)
def test_density_levels_are_three_note_ons_wide(count: int, density: int) -> None:
    controls = ControlSeq.from_event_seq(EventSeq([*range(count), wait(1171)]))
    assert controls.note_density.tolist() == [density] * (count + 1)


def test_window_is_two_seconds_inclusive() -> None:
    events = [on(60), *TWO_SECONDS, on(61), wait(15), on(62), *[wait(1171)] * 2]
    histogram = ControlSeq.from_event_seq(EventSeq(events)).pitch_histogram
    assert histogram[0].tolist() == [0.5, 0.5, *[0] * 10]  # C now, C sharp after two seconds
    assert histogram[1].tolist() == [0, 1, *[0] * 10]  # only later ones
    assert histogram[-1].tolist() == [1 / 12] * 12


def test_control_vectors() -> None:
    controls = ControlSeq.from_event_seq(EventSeq(random_events(0)))
    array = controls.to_array()
    assert (array.dtype, array.shape) == (np.float32, (400, 24))
    np.testing.assert_array_equal(array[:, :12].argmax(axis=1), controls.note_density)
    np.testing.assert_array_equal(np.sort(array[:, :12])[:, -2:], [[0, 1]] * 400)
    np.testing.assert_allclose(array[:, 12:], controls.pitch_histogram, atol=1e-7)


def test_compressed_controls_are_recovered() -> None:
    controls = ControlSeq.from_event_seq(EventSeq(random_events(0)))
    compressed = controls.to_compressed_array()
    assert (compressed.dtype, compressed.shape) == (np.uint8, (400, 13))
    np.testing.assert_array_equal(compressed[:, 0], controls.note_density)
    error = 255 * controls.pitch_histogram - compressed[:, 1:]
    assert error.min() >= -1e-9
    assert error.max() < 1 + 1e-9
    found, array = ControlSeq.recover_compressed_array(compressed), controls.to_array()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :12], array[:, :12])
    np.testing.assert_allclose(found[:, 12:].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found[:, 12:], array[:, 12:], atol=3 / 255)
    assert np.abs(found[:, 12:] - array[:, 12:]).mean() < 1 / 255


def test_compressed_zeros_become_a_uniform_histogram() -> None:
    found = ControlSeq.recover_compressed_array(np.zeros((1, 13), np.uint8))
    np.testing.assert_allclose(found, [[1, *[0] * 11, *[1 / 12] * 12]], atol=1e-7)


@pytest.mark.parametrize("shape", [(13,), (0, 13), (5, 13), (2, 3, 13)])
def test_compressed_controls_of_any_shape(shape: tuple[int, ...]) -> None:
    rows = np.random.default_rng(0).integers(0, 12, shape).astype(np.uint8)
    found = ControlSeq.recover_compressed_array(rows)
    assert found.shape == (*shape[:-1], 24)
    one_by_one = [ControlSeq.recover_compressed_array(row) for row in rows.reshape(-1, 13)]
    np.testing.assert_array_equal(found.reshape(-1, 24), np.reshape(one_by_one, (-1, 24)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        *((np.zeros(shape), "13 columns") for shape in [(12,), (4, 24), (0, 12), (13, 4), ()]),
        (np.full((3, 13), 12), "density 12 "),
        (np.full((3, 13), 255), "density 255 "),
    ],
)
def test_invalid_compressed_controls_are_rejected(rows: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ControlSeq.recover_compressed_array(rows.astype(np.uint8))


def test_control_histogram_is_normalized() -> None:
    control = Control([2, 0, 1, 0, 1, *[0] * 7], 3)
    expected = [0, 0, 0, 1, *[0] * 8, 0.5, 0, 0.25, 0, 0.25, *[0] * 7]
    assert control.to_array().dtype == np.float32
    assert control.to_array().tolist() == expected
    assert control.note_density == 3
    assert Control([0] * 12, 0).pitch_histogram.tolist() == [1 / 12] * 12


def test_control_is_read_only() -> None:
    weights = np.ones(12)
    control = Control(weights, 0)
    weights[0] = 5
    with pytest.raises(ValueError, match="read-only"):
        control.pitch_histogram[0] = 5
    assert control.pitch_histogram.tolist() == [1 / 12] * 12


@pytest.mark.parametrize(
    ("weights", "density", "message"),
    [
        ([1] * 11, 0, "12 weights"),
        ([1] * 13, 0, "12 weights"),
        ([[1] * 12], 0, "12 weights"),
        ([-0.1, *[1] * 11], 0, "0 or more"),
        ([np.nan, *[1] * 11], 0, "0 or more"),
        ([np.inf, *[1] * 11], 0, "0 or more"),
        ([1] * 12, 12, "got 12"),
        ([1] * 12, -1, "got -1"),
    ],
)
def test_invalid_control_is_rejected(weights: list[Any], density: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Control(weights, density)


# ----------------------------------------------------------------------------------- transposition


def batch(seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Return events [steps, batch] and their compressed controls [steps, batch, 13]."""
    columns = [random_events(seed, steps=300) for seed in seeds]
    controls = [ControlSeq.from_event_seq(EventSeq(c)).to_compressed_array() for c in columns]
    return np.stack(columns, axis=1), np.stack(controls, axis=1)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([on(21), wait(15)], (0, 87)),
        ([off(108), wait(15)], (-87, 0)),
        ([on(21), off(108)], (0, 0)),
        ([on(60), off(64), velocity(127), wait(1171)], (-39, 44)),
        ([velocity(127), wait(15)], (-88, 88)),
    ],
)
def test_transposition_range(events: list[int], expected: tuple[int, int]) -> None:
    others = [on(60)] * len(events)
    lowest, highest = transposition_range(np.array([events, others], np.uint8).T)
    assert (lowest[0], highest[0]) == expected
    assert (lowest[1], highest[1]) == (-39, 48)


@pytest.mark.parametrize("where", ["lowest", "highest", "between"])
def test_transposed_events_match_transposed_notes(where: str) -> None:
    events, controls = batch(range(12))
    lowest, highest = transposition_range(events)
    between = np.random.default_rng(0).integers(lowest, highest + 1)
    offsets = {"lowest": lowest, "highest": highest, "between": between}[where]
    before = events.copy()
    moved, moved_controls = transpose(events, controls, offsets)
    np.testing.assert_array_equal(events, before)
    assert moved.dtype == moved_controls.dtype == np.uint8
    for k, offset in enumerate(offsets.tolist()):
        higher = [n._replace(pitch=n.pitch + offset) for n in decode_plainly(events[:, k].tolist())]
        seq = EventSeq(moved[:, k])
        assert_notes(seq.to_note_seq(), higher)
        expected = ControlSeq.from_event_seq(seq).to_compressed_array()
        np.testing.assert_array_equal(moved_controls[:, k], expected)


# --------------------------------------------------------------------------------- playable events


@pytest.mark.parametrize("seed", range(5))
def test_playable_events_match_the_sounding_keys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    possible, enables, disables, is_note_on = EventSeq.playable_events()
    assert np.flatnonzero(is_note_on).tolist() == list(range(88))
    sounding: set[int] = set()
    for _ in range(400):
        keys = set(range(88))
        allowed = keys | {OFF + key for key in sounding} | set(range(VELOCITY, END))
        assert set(np.flatnonzero(possible).tolist()) == allowed
        event = int(rng.choice(sorted(allowed)))
        possible = (possible | enables[event]) & ~disables[event]
        if event < OFF:
            sounding |= {event}
        elif event < VELOCITY:
            sounding -= {event - OFF}
    assert len(sounding) > 5


def test_kind_and_duration_of_each_event() -> None:
    kinds = EventSeq.event_kinds()
    assert [kinds[k] for k in (0, 87, 88, 175, 176, 207, 208, 239)] == [0, 0, 1, 1, 2, 2, 3, 3]
    for encoding in ENCODINGS.values():
        durations = EventSeq.event_durations(encoding)
        assert not durations[:208].any()
        assert (durations[208], durations[239]) == (15, 1171)
