"""Tempo augmentation: the same notes at stretched times, in excerpts and in batches."""

import numpy as np
import pytest

from corpus.augment import stretch_events, stretch_excerpt
from corpus.batches import PackedBatch, WindowSampler
from corpus.performance import Corpus, Performance
from sequence import EventSeq
from tools.synthetic_data import write_data

FACTORS = [0.95, 1.0, 1.05, 1.25]
NOTE_OFF, TIME_SHIFT = 88, 208  # first index of these events
DENSITIES = np.arange(1, 37, 3)  # fewest note ons in two seconds at each density level


@pytest.fixture(scope="module")
def performance(tmp_path_factory: pytest.TempPathFactory) -> Performance:
    folder = write_data(tmp_path_factory.mktemp("data"), 2, notes=600)
    return Performance.load(folder / "1.mid.data")


@pytest.mark.parametrize("factor", FACTORS)
def test_stretched_notes_have_stretched_times(performance: Performance, factor: float) -> None:
    before = EventSeq(performance.events).to_note_seq()
    after = EventSeq(stretch_events(performance.events, factor)).to_note_seq()
    assert len(before) == len(after)
    order, new_order = (np.lexsort((notes.starts, notes.pitches)) for notes in (before, after))
    assert np.array_equal(before.pitches[order], after.pitches[new_order])
    assert np.array_equal(before.velocities[order], after.velocities[new_order])
    for old, new in ((before.starts, after.starts), (before.ends, after.ends)):
        errors = np.abs(factor * old[order] - new[new_order])
        assert errors.max() <= 0.016  # the quantization of 7.5 ms, or the shortest note
    assert after.seconds == pytest.approx(factor * before.seconds, abs=0.0076)


def test_close_notes_merge_at_a_faster_tempo(performance: Performance) -> None:
    after = EventSeq(stretch_events(performance.events, 0.7)).to_note_seq()
    assert 0.98 * performance.notes < len(after) < performance.notes


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("start", [0, 1, 700, 701, 702, 703])
def test_excerpt_continues_from_its_start(
    performance: Performance, start: int, factor: float
) -> None:
    events, controls = stretch_excerpt(performance.events, start, 200, factor)
    assert len(events) == len(controls) == 201
    expected = performance.events[start:][performance.events[start:] < TIME_SHIFT]
    found = events[1:][events[1:] < TIME_SHIFT]
    assert np.array_equal(found, expected[: len(found)])
    assert start or events[0] == events[1]


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("start", [0, 700])
def test_excerpt_has_density_of_stretched_performance(
    performance: Performance, start: int, factor: float
) -> None:
    """Note ons are counted in the whole performance, at its onsets times the factor."""
    events, controls = stretch_excerpt(performance.events, start, 200, factor)
    onsets = np.sort(EventSeq(performance.events).to_note_seq().starts) * factor
    last_window = factor * performance.milliseconds / 1000 - 2
    first = int((performance.events[:start] < NOTE_OFF).sum())
    levels = controls[1:][events[1:] < NOTE_OFF, 0]
    matches = []
    for number, level in enumerate(levels):
        begin = min(onsets[first + number], last_window)
        count = int(((onsets >= begin - 1e-6) & (onsets <= begin + 2)).sum())
        low, high = np.searchsorted(DENSITIES, [count - 2, count + 2], "right") - 1
        matches.append(low <= level <= high)
    assert np.mean(matches) >= 0.95


@pytest.mark.parametrize("rest", [50, 1])
def test_excerpt_ends_with_the_performance(performance: Performance, rest: int) -> None:
    events, controls = stretch_excerpt(performance.events, len(performance.events) - rest, 80, 0.8)
    assert 1 < len(events) == len(controls) <= rest + 1
    assert events[-1] == performance.events[-1]


def make_sampler(performance: Performance, stretch: float) -> WindowSampler:
    return WindowSampler(Corpus([performance]), 20, 1, carry=5, stretch=stretch)


def sample(sampler: WindowSampler, number: int) -> PackedBatch:
    return sampler.sample_batch(8, 3, number, 0.9, True)


def test_stretched_segments_continue(performance: Performance) -> None:
    stretched, plain = make_sampler(performance, 0.2), make_sampler(performance, 0.0)
    previous = sample(stretched, 0)
    for number in range(1, 12):
        batch = sample(stretched, number)
        on = batch.continues
        assert np.array_equal(batch.events[0][on], previous.events[-1][on])
        assert np.array_equal(on, sample(plain, number).continues)
        previous = batch
    assert not np.array_equal(previous.events, sample(plain, 11).events)


def test_stretched_batches_are_independent(performance: Performance) -> None:
    """Resumed training has the same batches as uninterrupted training."""
    sampler = make_sampler(performance, 0.2)
    for number in range(12):
        batch, fresh = sample(sampler, number), sample(make_sampler(performance, 0.2), number)
        for name in vars(batch):
            assert np.array_equal(getattr(batch, name), getattr(fresh, name))


def test_tempos_are_uniform_up_to_the_limit(
    performance: Performance, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = []

    def record(events: np.ndarray, start: int, count: int, factor: float) -> tuple[np.ndarray, ...]:
        factors.append(factor)
        return np.zeros(0), np.zeros((0, 17))  # too short, so the plain events are used

    monkeypatch.setattr("corpus.batches.stretch_excerpt", record)
    sampler = make_sampler(performance, 0.2)
    for number in range(0, 500, 5):
        sample(sampler, number)
    assert 0.8 <= min(factors) < 0.804
    assert 1.196 < max(factors) <= 1.2
    assert abs(np.mean(factors) - 1) < 0.01
