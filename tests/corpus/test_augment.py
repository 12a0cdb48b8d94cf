"""Performances played faster and slower: the same notes at other times, in runs that go on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import train
from corpus.augment import stretch_events, stretch_excerpt
from corpus.batches import WindowSampler
from corpus.performance import Corpus, Performance
from preprocess import encode
from sequence import LEGACY, ControlSeq, EventSeq
from tools.synthetic_data import write_data, write_midi
from training import trainer as run

FACTORS = [0.95, 1.0, 1.05, 1.25]


@pytest.fixture(scope="module")
def piece(tmp_path_factory: pytest.TempPathFactory) -> Performance:
    path = write_midi(tmp_path_factory.mktemp("midi") / "a.mid", 600, 1)
    return encode(path.read_bytes(), "")


@pytest.mark.parametrize("factor", FACTORS)
def test_the_same_notes_come_at_stretched_times(piece: Performance, factor: float) -> None:
    before = EventSeq(piece.events).to_note_seq()
    after = EventSeq(stretch_events(piece.events, factor)).to_note_seq()
    assert len(before) == len(after)
    order, other = (np.lexsort((n.starts, n.pitches)) for n in (before, after))
    assert np.array_equal(before.pitches[order], after.pitches[other])
    assert np.array_equal(before.velocities[order], after.velocities[other])
    for times, new in ((before.starts, after.starts), (before.ends, after.ends)):
        assert np.abs(factor * times[order] - new[other]).max() <= 0.016  # 7.5 ms, or the shortest
    assert after.seconds == pytest.approx(factor * before.seconds, abs=0.0076)


def test_strikes_of_one_key_that_come_to_one_time_are_one(piece: Performance) -> None:
    after = EventSeq(stretch_events(piece.events, 0.7)).to_note_seq()
    assert 0.98 * piece.notes < len(after) < piece.notes


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("start", [0, 1, 700, 701, 702, 703])
def test_an_excerpt_begins_where_it_is_told_with_the_controls_of_its_music(
    piece: Performance, start: int, factor: float
) -> None:
    events, controls = stretch_excerpt(piece.events, start, 200, factor)
    assert len(events) == len(controls) == 201
    sounding = piece.events < 208
    begin = int(sounding[:start].sum())
    expected = piece.events[sounding][begin:]
    played = events[1:]
    found = played[played < 208]
    assert np.array_equal(found, expected[: len(found)])
    assert start or events[0] == events[1]
    # the controls, counted by note ons: of the whole piece, stretched by multiplication
    notes = EventSeq(piece.events).to_note_seq()
    onsets = np.sort(notes.starts) * factor
    struck = int((piece.events[:start] < 88).sum())
    close = 0
    for number, row in enumerate(np.flatnonzero(played < 88)):
        now = min(onsets[struck + number], factor * piece.milliseconds / 1000 - 2)
        count = ((onsets >= now - 1e-6) & (onsets <= now + 2)).sum()
        low, high = (np.searchsorted(ControlSeq.DENSITIES, count + d, "right") - 1 for d in (-2, 2))
        close += low <= controls[1 + row][0] <= high
    assert close >= 0.95 * (played < 88).sum()


def test_near_the_end_of_a_performance_there_is_what_there_is(piece: Performance) -> None:
    whole = len(piece.events)
    for left in (50, 1):
        events, controls = stretch_excerpt(piece.events, whole - left, 80, 0.8)
        assert 1 < len(events) == len(controls) <= left + 1
        assert events[-1] == piece.events[-1]


def windows(piece: Performance, stretch: float) -> WindowSampler:
    return WindowSampler(Corpus([piece]), 20, 1, carry=5, stretch=stretch)


def test_runs_go_on_in_their_tempo_whether_or_not_they_were_seen_to_begin(
    piece: Performance,
) -> None:
    """A training that is stopped and goes on has the very batches that it would have had."""
    lasting, plain = windows(piece, 0.2), windows(piece, 0.0)
    before = None
    for number in range(12):
        now = lasting.batch(8, 3, number, 0.9, True)
        fresh = windows(piece, 0.2).batch(8, 3, number, 0.9, True)
        for mine, other in zip(vars(now).values(), vars(fresh).values(), strict=True):
            assert np.array_equal(mine, other)
        if before is not None:
            assert np.array_equal(now.events[0][now.carried], before.events[-1][now.carried])
        straight = plain.batch(8, 3, number, 0.9, True)
        assert np.array_equal(now.carried, straight.carried)
        before = now
    assert not np.array_equal(now.events, straight.events)
    assert len(lasting._stretched) <= 8


def test_without_a_stretch_nothing_is_rewritten(
    piece: Performance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpus.batches.stretch_excerpt", None)
    windows(piece, 0.0).batch(8, 3, 0, 0.9, True)


def test_tempos_are_spread_evenly_up_to_the_limit(piece: Performance) -> None:
    tempos: list[float] = []
    many = windows(piece, 0.2)
    many._slower = lambda place, tempo: tempos.append(tempo) or ([], [])  # type: ignore
    for number in range(0, 500, 5):
        many.batch(8, 3, number, 0.9, False)
    assert min(tempos) < -0.98
    assert max(tempos) > 0.98
    assert abs(np.mean(tempos)) < 0.05


def test_a_training_stretches_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_data(tmp_path / "data", 4, 200)
    line = ["-s", "m.sess", "-d", str(data), "-w", "20", "-b", "4", "-p", "hidden_dim=16"]
    options = train.parse_args([*line, "--stretch", "0.05"])
    assert run.open_run(options).windows.stretch == 0.05
    theirs = tmp_path / "theirs"  # the first run may still read its files
    theirs.mkdir()
    for path in data.iterdir():
        original = replace(Performance.load(path), encoding=LEGACY)
        (theirs / path.name).write_bytes(original.to_bytes())
    with pytest.raises(run.Failure, match="today's encoding"):
        run.open_run(replace(options, dataset=str(theirs), session="other.sess"))
