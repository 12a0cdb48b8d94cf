"""Statistics of performances, and the filters that use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pretty_midi
import pytest

from config import PreprocessConfig
from corpus.filters import (
    QUANTIZED_SCORE,
    SUGGESTED_LIMITS,
    PerformanceStats,
    find_rejections,
    format_instrument,
    measure_grid_score,
    select_filters,
)
from midi.notes import MidiStats, read_midi
from midi.playback import Instrument
from sequence import NoteSeq


def play_freely(seed: int, notes: int, seconds: float) -> np.ndarray:
    """Return irregular onsets."""
    gaps = np.random.default_rng(seed).gamma(3.0, 1.0, notes)
    return np.asarray(np.cumsum(gaps) * seconds / gaps.sum())


def play_steadily(seed: int) -> np.ndarray:
    """Return regular onsets with the deviations of a human performance."""
    deviations = np.random.default_rng(seed).normal(0, 0.03, 300)
    return np.sort(np.arange(300) * 0.15 + deviations)


def play_score(seed: int) -> np.ndarray:
    """Return the onsets of a score at a random tempo, in whole milliseconds."""
    rng = np.random.default_rng(seed)
    beats = np.cumsum(rng.choice([1, 1, 2, 3, 4], 80 + 10 * seed)) / rng.choice([1, 2, 3, 4, 6])
    return np.asarray(np.rint(1000 * (beats - beats[0]) * 60 / rng.uniform(40, 200)) / 1000)


def measure(onsets: np.ndarray, **columns: np.ndarray) -> PerformanceStats:
    """Return the statistics of notes; pitches and velocities vary unless given."""
    rng = np.random.default_rng(len(onsets))
    pitches = columns.get("pitches", rng.integers(40, 90, len(onsets)))
    velocities = columns.get("velocities", rng.integers(30, 100, len(onsets)))
    notes = NoteSeq(onsets, onsets + 0.1, pitches, velocities)
    return PerformanceStats.measure(notes, MidiStats(0.0, 0, 0.0))


def test_grid_score_separates_scores_from_performances() -> None:
    scores = [measure_grid_score(play_score(seed)) for seed in range(60)]
    performances = [
        measure_grid_score(play_freely(seed, 60 + 10 * seed, 30 + 5 * seed)) for seed in range(60)
    ]
    performances += [measure_grid_score(play_steadily(seed)) for seed in range(20)]
    assert min(scores) > QUANTIZED_SCORE > max(performances)


def test_score_with_tempo_changes_is_quantized(tmp_path: Path) -> None:
    tempos = [60, 75, 90, 80, 66, 50, 72, 88] * 4
    midi = pretty_midi.PrettyMIDI(resolution=480, initial_tempo=60)
    midi._tick_scales = [(480 * n, 60.0 / (tempo * 480)) for n, tempo in enumerate(tempos)]
    midi._update_tick_to_time(480 * 40)
    piano = pretty_midi.Instrument(0)
    for n in range(120):
        times = [midi.tick_to_time(120 * (n + k)) for k in (0, 1)]
        piano.notes.append(pretty_midi.Note(30 + n % 70, 40 + 7 * n % 40, *times))
    midi.instruments.append(piano)
    midi.write(str(tmp_path / "score.mid"))
    notes, midi_stats = read_midi((tmp_path / "score.mid").read_bytes())
    assert measure_grid_score(notes.starts) < QUANTIZED_SCORE
    assert PerformanceStats.measure(notes, midi_stats).is_quantized


def test_pedal_share(tmp_path: Path) -> None:
    midi = pretty_midi.PrettyMIDI(resolution=500)
    piano = pretty_midi.Instrument(0)
    piano.notes = [pretty_midi.Note(64, 60 + n, n, n + 1) for n in range(10)]
    for second, value in ((1, 127), (2, 64), (3, 0), (5, 63), (6, 70), (8, 10)):
        piano.control_changes.append(pretty_midi.ControlChange(64, value, second))
    midi.instruments.append(piano)
    midi.write(str(tmp_path / "pedal.mid"))
    stats = PerformanceStats.measure(*read_midi((tmp_path / "pedal.mid").read_bytes()))
    assert stats.pedal_share == pytest.approx(0.4, abs=0.001)  # 1-3 s and 6-8 s of 10 s


def test_performances_are_expressive(data_dir: Path) -> None:
    for path in data_dir.glob("performance-*.mid"):
        stats = PerformanceStats.measure(*read_midi(path.read_bytes()))
        assert not stats.is_quantized
        assert not stats.has_uniform_velocity


HIGH_PITCHES = np.where(np.arange(220) % 10, 60, 112)
OUTSIDE = measure(play_freely(7, 220, 30), pitches=HIGH_PITCHES)
UNIFORM = measure(play_freely(6, 210, 30), velocities=np.full(210, 64))
REJECTED = [
    ("min_seconds", measure(play_freely(2, 30, 5)), "too short"),
    ("max_seconds", measure(play_freely(3, 4200, 4000)), "too long"),
    ("min_density", measure(play_freely(4, 50, 100)), "too sparse"),
    ("max_density", measure(play_freely(5, 1000, 20)), "too dense"),
    ("max_outside", OUTSIDE, "outside the piano's range"),
    ("expressive", UNIFORM, "uniform velocity"),
    ("expressive", measure(np.arange(200) * 0.17), "quantized"),
]


@pytest.mark.parametrize(("option", "stats", "reason"), REJECTED)
def test_each_filter_rejects_its_kind(option: str, stats: PerformanceStats, reason: str) -> None:
    limits = dict(SUGGESTED_LIMITS)
    (rejection,) = find_rejections(stats, {option: limits.pop(option)})
    assert (rejection.option, rejection.reason) == (option, reason)
    assert list(find_rejections(stats, limits)) == []


def test_ordinary_performance_passes() -> None:
    assert list(find_rejections(measure(play_freely(1, 200, 30)), SUGGESTED_LIMITS)) == []


def test_only_set_options_are_selected() -> None:
    assert select_filters(vars(PreprocessConfig())) == {}
    options = PreprocessConfig(min_seconds=5.0, max_outside=0.0, expressive=True)
    assert select_filters(vars(options)) == {
        "min_seconds": 5.0,
        "max_outside": 0.0,
        "expressive": True,
    }


@pytest.mark.parametrize(
    ("instrument", "text"),
    [
        (Instrument("Left", 0, 0, 1, False, 120, True), "Left (Bright Acoustic Piano): 120 notes"),
        (Instrument("Violin", 0, 0, 40, False, 1), "Violin: 1 note, not used"),
        (Instrument("", 0, 0, None, False, 2, True), "no program: 2 notes"),
        (Instrument("Beat", 0, 9, 40, True, 3), "Beat (drums): 3 notes, not used"),
    ],
)
def test_instruments_are_described(instrument: Instrument, text: str) -> None:
    assert format_instrument(instrument) == text
