"""Accompanying notes, filling gaps, performing scores and repeating sections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generation import pipeline
from generation.engine import NO_CONTROL
from generation.given_notes import (
    KEYS,
    NOTE_ONS,
    Accompaniment,
    Arrangement,
    Form,
    Gap,
    ScorePerformance,
    Section,
    build_context,
    build_gap_controls,
    build_given_events,
    load_accompaniment,
    load_gap,
    load_score,
    merge_notes,
    parse_form,
    run_particles,
)
from generation.recall import RecallState, RecallTables
from generation.sampling import Sampler
from midi.control_schedule import TIME_STEP
from sequence import CONTROLS, CURRENT, LEGACY, ControlLayout, EventSeq, NoteSeq
from tests import reference_network
from tests.generation.networks import SIZES, make_job

MELODY = NoteSeq(
    [1.0, 1.5, 2.0, 2.25, 3.0],
    [1.4, 2.0, 2.2, 2.9, 3.5],
    [72, 74, 76, 72, 67],
    [80, 70, 60, 90, 64],
)
PARTICLES = 16
CURRENT_DURATIONS = EventSeq.event_durations(CURRENT)


def test_notes_before_the_context_are_kept_for_recall() -> None:
    rng = np.random.default_rng(0)
    starts = np.repeat(np.arange(0, 60, 2.0), 2) + np.tile([0.0, 0.001], 30)  # chords of two notes
    notes = NoteSeq(starts, starts + 1, rng.integers(30, 90, 60), np.full(60, 64))
    context = build_context(make_job(), notes, 50.0)
    chords = [notes.pitches[i : i + 2] for i in range(0, 20, 2)]  # before second 20
    assert context.earlier_keys == tuple(int(p) - 21 for chord in chords for p in sorted(chord))
    silent = build_context(make_job(), notes.select(notes.starts < 10), 50.0)
    assert len(silent.earlier_keys) == 10
    assert build_context(make_job(), notes, 5.0).earlier_keys == ()


@pytest.mark.parametrize("use_recall", [True, False])
def test_new_notes_recall_all_notes_before_them(
    use_recall: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, rows = [], RecallState.start

    def record(tables: RecallTables, batch: int, keys: Any) -> RecallState:
        starts.append(keys)
        return rows(tables, batch, keys)

    monkeypatch.setattr(RecallState, "start", record)
    pitches = np.tile([60, 62, 64, 65, 67], 16)
    notes = NoteSeq(np.arange(80) / 2, np.arange(80) / 2 + 0.4, pitches, np.full(80, 64))
    model = reference_network.make_model(replace(SIZES, recall_dim=6), 3.0)
    job = replace(make_job(), model=model, use_recall=use_recall)
    context = build_context(job, notes, 36.0)
    given = build_given_events(NoteSeq(), context.origin, CURRENT, end=context.origin + 2)
    run_particles(job, given, 0, PARTICLES, NO_CONTROL, context=context)
    expected = tuple(int(p) - 21 for p in pitches[:12]) if use_recall else None
    assert starts == [expected]


def ignore(seconds: float) -> None:
    """Show no progress."""


def list_rows(notes: NoteSeq) -> list[tuple[float, ...]]:
    return list(zip(*(column.tolist() for column in notes.columns), strict=True))


def get_given(arrangement: Arrangement) -> NoteSeq:
    return arrangement.notes.select(arrangement.is_given)


def get_new(arrangement: Arrangement) -> NoteSeq:
    return arrangement.notes.select(~arrangement.is_given)


def make_piece() -> NoteSeq:
    """Return twelve seconds of music, four notes per second."""
    starts = 0.25 * np.arange(48)
    return NoteSeq(starts, starts + 0.3, 60 + np.arange(48) * 7 % 24, 50 + np.arange(48))


# ----------------------------------------------------------------------------- accompaniment


@pytest.mark.parametrize("encoding", [CURRENT, LEGACY], ids=["current", "legacy"])
def test_kept_notes_stay_exactly(encoding: object) -> None:
    job = replace(make_job("C major;6/s"), encoding=encoding)
    arrangement = Accompaniment(MELODY).generate(job, 0, PARTICLES, ignore)
    assert list_rows(get_given(arrangement)) == list_rows(MELODY)
    new = get_new(arrangement)
    assert len(new) > 0
    assert (new.starts >= 1.0 - 0.008).all()
    assert (new.ends <= 3.5).all()


def test_new_notes_leave_the_keys_of_kept_notes_alone() -> None:
    arrangement = Accompaniment(MELODY).generate(make_job(), 0, PARTICLES, ignore)
    new = get_new(arrangement)
    for start, end, pitch, _ in list_rows(MELODY):
        same = new.pitches == pitch
        assert not (same & (new.starts < end) & (new.ends > start)).any()


def test_kept_notes_are_generated_within_the_tolerance_of_the_encoding() -> None:
    trace = Accompaniment(MELODY).generate(make_job(), 0, PARTICLES, ignore).traces[0]
    times = np.cumsum(np.append(0, CURRENT_DURATIONS[trace.events]))[:-1]
    onsets = times[trace.is_given & NOTE_ONS[trace.events]] / 1000
    assert onsets + 1.0 == pytest.approx(MELODY.starts, abs=0.0075)
    keys = KEYS[trace.events[trace.is_given & NOTE_ONS[trace.events]]]
    assert (keys + 21).tolist() == MELODY.pitches.tolist()


def test_same_seed_same_accompaniment() -> None:
    task = Accompaniment(MELODY)
    first, again = (task.generate(make_job(), 0, PARTICLES, ignore) for _ in range(2))
    other = task.generate(make_job(), 1, PARTICLES, ignore)
    assert first.notes == again.notes
    assert first.notes != other.notes


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance": 2.0},
        {"method": Sampler(1.1, top_k=20, min_p=0.01)},
        {"init_zero": True, "exact": True, "steering": False},
    ],
    ids=["guidance", "filters", "other"],
)
def test_other_options_of_generation(changes: dict[str, object]) -> None:
    job = replace(make_job("C major;6/s"), **changes)
    arrangement = Accompaniment(MELODY).generate(job, 0, PARTICLES, ignore)
    assert list_rows(get_given(arrangement)) == list_rows(MELODY)
    assert len(get_new(arrangement)) > 0


def test_new_note_ends_where_a_kept_note_strikes_its_key() -> None:
    new = NoteSeq([0.5, 2.1], [1.2, 3.0], [72, 76], [64, 64])
    arrangement = merge_notes(MELODY, new)
    assert list_rows(get_new(arrangement)) == [(0.5, 1.0, 72, 64), (2.2, 3.0, 76, 64)]


def test_given_events_of_a_chord_are_in_the_order_of_the_encoding() -> None:
    chord = NoteSeq([1.003, 1.0, 1.5], [1.5, 1.4, 2.0], [60, 64, 64], [40, 80, 80])
    given = build_given_events(chord, 1.0, CURRENT)
    names = [("on " if e < 88 else "off ") + str(KEYS[e] + 21) for e in given.events]
    assert names == ["on 60", "on 64", "off 64", "off 60", "on 64", "off 64"]
    assert given.group_ends.tolist() == [False, True, False, False, True, True]


# --------------------------------------------------------------------------------------- gap


def test_notes_outside_the_gap_stay_exactly() -> None:
    piece = make_piece()
    arrangement = Gap(piece, 4.0, 7.0).generate(make_job(), 0, PARTICLES, ignore)
    outside = (piece.starts < 4) | (piece.starts >= 7)
    assert list_rows(get_given(arrangement)) == list_rows(piece.select(outside))
    new = get_new(arrangement)
    assert len(new) > 0
    assert (new.starts >= 4).all()
    assert (new.starts < 7).all()


@pytest.mark.parametrize("gap", [(0.0, 3.0), (9.0, 12.0)], ids=["start", "end"])
def test_gap_at_an_end_of_the_piece(gap: tuple[float, float]) -> None:
    arrangement = Gap(make_piece(), *gap).generate(make_job("C major;3"), 0, PARTICLES, ignore)
    starts = get_new(arrangement).starts
    assert len(starts) > 0
    assert (starts >= gap[0]).all()
    assert (starts < gap[1]).all()


def test_gap_leaves_the_next_chord_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for hold_back in (-30.0, 0.0):
        monkeypatch.setattr(pipeline, "HOLD_BACK", hold_back)
        job = make_job("C F# @ 120bpm; 5/s")  # two seconds each
        arrangement = Gap(make_piece(), 0.5, 1.9).generate(job, 0, 20, ignore)
        pitches = get_new(arrangement).pitches
        shares.append(np.isin(pitches % 12, (1, 6, 10)).mean())
    assert shares[0] == 0 < shares[1]


def test_controls_of_a_gap_go_from_those_before_to_those_after() -> None:
    layout = ControlLayout(kind.name for kind in CONTROLS)
    model = reference_network.make_model(replace(SIZES, control_dim=layout.dim))
    model.layout = layout
    soft = NoteSeq(0.5 * np.arange(8), 0.5 * np.arange(8) + 0.4, np.full(8, 48), np.full(8, 38))
    loud = replace(soft, pitches=np.full(8, 72), velocities=np.full(8, 94)).adjust_time(8.0)
    job = replace(make_job(), model=model)
    vectors = build_gap_controls(job, soft, loud, 4.0, 8.0)
    assert vectors is not None
    middle = vectors[round(2 / TIME_STEP)]
    for name, value in {"loudness": 66, "register": 60, "spread": 0, "touch": 0.4}.items():
        (kind,) = (kind for kind in CONTROLS if kind.name == name)
        columns = middle[list(layout.ranges[name])]
        position = columns @ np.arange(len(columns))
        assert position == pytest.approx(kind.find_positions(value), abs=0.2)
        assert columns == pytest.approx(kind.encode(kind.find_values(position)), abs=1e-6)
    assert not middle[list(layout.flags)].any()


# ------------------------------------------------------------------------------- performance


def test_performance_without_strength_is_the_score() -> None:
    arrangement = ScorePerformance(MELODY, 0.0).generate(make_job(), 0, PARTICLES, ignore)
    assert list_rows(arrangement.notes) == list_rows(MELODY)


def test_performance_keeps_pitches_and_order() -> None:
    piece = make_piece()
    notes = ScorePerformance(piece, 1.0).generate(make_job(), 0, PARTICLES, ignore).notes
    assert notes.pitches.tolist() == piece.pitches.tolist()
    shift = notes.starts - piece.starts
    assert np.abs(shift).max() <= 0.3 + 0.008
    assert np.abs(shift).max() > 0
    ratios = np.diff(notes.starts) / 0.25
    assert ratios.min() >= 0.75 - 0.04 / 0.25 - 0.07  # the last two: chord spread, rounding
    assert len(set(notes.velocities.tolist())) > 1


def test_strength_scales_the_change() -> None:
    half, whole = (
        ScorePerformance(MELODY, strength).generate(make_job(), 0, PARTICLES, ignore).notes
        for strength in (0.5, 1.0)
    )
    assert half.starts - MELODY.starts == pytest.approx((whole.starts - MELODY.starts) / 2)


# -------------------------------------------------------------------------------------- form


def test_returning_section_plays_the_same_notes() -> None:
    sections, control = parse_form("A B A", 9.0)
    assert control is None
    notes = Form(sections, 0.0).generate(make_job("C major;3"), 0, PARTICLES, ignore).notes
    first = notes.select(notes.starts < 3)
    last = notes.select(notes.starts >= 6)
    assert len(first) > 0
    assert last.starts[: len(first)] - 6 == pytest.approx(first.starts)
    assert last.pitches.tolist() == first.pitches.tolist()


def test_form_with_controls() -> None:
    assert parse_form("A(C;3) B(C;6) A", 20.0)[1] == "C;3 | C;6 @6.7 | C;3 @13.3"
    sections, control = parse_form("A(C major;3) B(A minor;6) A", 30.0)
    assert sections[1] == Section("B", 10.0, 20.0)
    assert control == "C major;3 | A minor;6 @10 | C major;3 @20"


# ------------------------------------------------------------------------------------ errors


def write(folder: Path, notes: NoteSeq) -> str:
    path = folder / "notes.mid"
    notes.to_midi_file(path)
    return str(path)


def test_note_off_the_piano_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, NoteSeq([0.5], [1.0], [110], [64]))
    message = "pitch 110 at second 0.50 is not one of the piano's 88 keys"
    with pytest.raises(ValueError, match=message):
        load_accompaniment(path, "auto", None, True)
    with pytest.raises(ValueError, match=message):
        load_score(path, 1.0, True)


def test_overlapping_kept_notes_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, NoteSeq([0.5, 0.505], [1.0, 1.0], [60, 60], [64, 70]))
    with pytest.raises(ValueError, match=r"two notes of pitch 60 start at second 0\.50"):
        load_accompaniment(path, "auto", None, True)


def test_range_of_pitches_to_keep(tmp_path: Path) -> None:
    path = write(tmp_path, MELODY)
    assert load_accompaniment(path, "auto", "70-75", True).notes.pitches.tolist() == [72, 74, 72]
    with pytest.raises(ValueError, match="no notes from pitch 21 to 40"):
        load_accompaniment(path, "auto", "21-40", True)


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        ("3-2", "'3-2' is not a range"),
        ("1-9", r"ends at second 3\.50"),
        ("0-3.5", "no notes outside"),
        ("x", "'x' is not a range"),
    ],
)
def test_impossible_gap_is_an_error(tmp_path: Path, seconds: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_gap(seconds, write(tmp_path, MELODY), True)


@pytest.mark.parametrize("text", ["", "A 1", "A(C major", "A(C major) B"])
def test_invalid_form_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="--form"):
        parse_form(text, 10.0)
