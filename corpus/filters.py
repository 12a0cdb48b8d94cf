"""Statistics of a performance, and the filters that reject performances by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from midi.notes import MidiStats, NoteSeq
from sequence import PITCHES
from utils import Array

# In 991 performances by pianists the highest grid score was 0.63, and 0.13 by the file's own beat;
# in 300 random rhythms on a grid the lowest was 0.86.
QUANTIZED_SCORE = 0.8
UNIFORM_VELOCITY_SHARE = 0.9  # of the notes have the most frequent velocity
MIN_SAMPLE = 40  # onsets or notes; fewer may agree by chance

GRID_BIN = 0.008  # seconds
GRID_SECONDS, GRID_NOTES = 60, 100  # the grid score uses the longer one of these two beginnings
GRID_RATES = (4, 32)  # grid lines/s; the lines of a coarser grid are also lines of one of these
QUICK_ONSETS = 64  # enough to show that there is no grid


@dataclass(frozen=True, eq=False)
class PerformanceStats:
    """Statistics of one MIDI file.

    seconds: from the first onset to the last end; pitch_counts, velocity_counts: notes by MIDI
    number, int32 [128]; grid_score: see `measure_grid_score`, or the share of the onsets on the
    file's own beat if that is higher; pedal_share: of the time, with the sustain pedal down.
    """

    seconds: float
    pitch_counts: Array
    velocity_counts: Array
    grid_score: float
    pedal_share: float

    @staticmethod
    def measure(notes: NoteSeq, midi_stats: MidiStats) -> PerformanceStats:
        """Return the statistics of notes that start at 0."""
        score = 0.0
        if len(notes) >= MIN_SAMPLE:
            score = max(measure_grid_score(notes.starts), midi_stats.on_beat_share)
        pedal_share = midi_stats.pedal_seconds / notes.seconds if notes.seconds else 0.0
        return PerformanceStats(
            seconds=notes.seconds,
            pitch_counts=np.bincount(notes.pitches, minlength=128).astype(np.int32),
            velocity_counts=np.bincount(notes.velocities, minlength=128).astype(np.int32),
            grid_score=score,
            pedal_share=min(1.0, pedal_share),
        )

    @property
    def notes(self) -> int:
        """Number of notes, with those outside the piano's range."""
        return int(self.pitch_counts.sum())

    @property
    def density(self) -> float:
        """Notes per second."""
        return self.notes / self.seconds if self.seconds else 0.0

    @property
    def outside_share(self) -> float:
        """Share of the notes outside the piano's range."""
        inside = float(self.pitch_counts[PITCHES.start : PITCHES.stop].sum())
        return 1 - inside / max(1, self.notes)

    @property
    def top_velocity_share(self) -> float:
        """Share of the notes that have the most frequent velocity."""
        return float(self.velocity_counts.max()) / max(1, self.notes)

    @property
    def is_quantized(self) -> bool:
        """Whether the onsets are on a grid: a score, not a performance."""
        return self.grid_score >= QUANTIZED_SCORE

    @property
    def has_uniform_velocity(self) -> bool:
        """Whether nearly all notes have the same velocity."""
        return self.notes >= MIN_SAMPLE and self.top_velocity_share >= UNIFORM_VELOCITY_SHARE


def measure_grid_score(starts: Array) -> float:
    """Return how well the first onsets, in seconds, fit the grid that fits them best: 0-1.

    Onsets are mapped to a circle that turns once from one grid line to the next; the score is the
    length of their mean vector, maximized over the tempo of the grid (the highest magnitude of
    the onsets' spectrum). It is 0.0 for fewer than MIN_SAMPLE onsets.
    """
    is_used = (starts <= starts[:1] + GRID_SECONDS) | (np.arange(len(starts)) < GRID_NOTES)
    bins = np.rint((starts[is_used] - starts[:1]) / GRID_BIN).astype(np.int64)
    bins = bins[np.append(True, np.diff(bins) > 0)[: len(bins)]]
    if len(bins) < MIN_SAMPLE:
        return 0.0
    score = _spectral_peak(bins[:QUICK_ONSETS])
    return score if score < QUANTIZED_SCORE else _spectral_peak(bins)


def _spectral_peak(bins: Array) -> float:
    """Return the grid score of distinct onsets in bins of time, the first of them 0."""
    size = 1 << int(2 * bins[-1] + 2).bit_length()
    onsets = np.zeros(size)
    onsets[bins] = 1
    low, high = (int(np.ceil(rate * size * GRID_BIN)) for rate in GRID_RATES)
    return float(np.abs(np.fft.rfft(onsets)[low : high + 1]).max()) / len(bins)


# ---------------------------------------------------------------------------------- filters

Criterion = Callable[[PerformanceStats, float], tuple[str, str] | None]


@dataclass(frozen=True)
class Filter:
    """A filter that preprocess.py applies if its option is set.

    suggested: a value to evaluate the filter with while it is off. criterion: takes the
    statistics and the value of the option; returns None, or a reason and a detail for rejection.
    """

    option: str
    suggested: float
    criterion: Criterion

    @property
    def flag(self) -> str:
        """The flag that sets the filter to the suggested value, for example `--min-density 1`."""
        value = "" if self.option == "expressive" else f" {self.suggested:g}"
        return f"--{self.option.replace('_', '-')}{value}"


@dataclass(frozen=True)
class Rejection:
    """Why a filter rejects a performance."""

    filter: Filter
    reason: str
    detail: str


def _require_minimum(
    reason: str, unit: str, measure: Callable[[PerformanceStats], float]
) -> Criterion:
    def criterion(stats: PerformanceStats, limit: float) -> tuple[str, str] | None:
        value = measure(stats)
        detail = f"{value:.4g} {unit}, at least {limit:g} required"
        return (reason, detail) if value < limit else None

    return criterion


def _require_maximum(
    reason: str, unit: str, measure: Callable[[PerformanceStats], float]
) -> Criterion:
    def criterion(stats: PerformanceStats, limit: float) -> tuple[str, str] | None:
        value = measure(stats)
        detail = f"{value:.4g} {unit}, at most {limit:g} allowed"
        return (reason, detail) if value > limit else None

    return criterion


def _require_expression(stats: PerformanceStats, _: float) -> tuple[str, str] | None:
    if stats.is_quantized:
        return "quantized", f"grid score {stats.grid_score:.2f} of 1"
    if stats.has_uniform_velocity:
        return "uniform velocity", f"the same in {stats.top_velocity_share:.0%} of the notes"
    return None


FILTERS = (
    Filter("min_seconds", 10, _require_minimum("too short", "s", lambda s: s.seconds)),
    Filter("max_seconds", 3600, _require_maximum("too long", "s", lambda s: s.seconds)),
    Filter("min_density", 1, _require_minimum("too sparse", "notes/s", lambda s: s.density)),
    Filter("max_density", 40, _require_maximum("too dense", "notes/s", lambda s: s.density)),
    Filter(
        "max_outside",
        0.05,
        _require_maximum("outside the piano's range", "of the notes", lambda s: s.outside_share),
    ),
    Filter("expressive", 1, _require_expression),
)


def select_filters(options: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of those options that are filters and are set, by name."""
    values = {rule.option: options[rule.option] for rule in FILTERS}
    return {
        option: float(value)
        for option, value in values.items()
        if value is not None and value is not False
    }


def find_rejections(stats: PerformanceStats, limits: Mapping[str, float]) -> Iterator[Rejection]:
    """Yield the rejections by the filters whose options have a value in `limits`."""
    for rule in FILTERS:
        if rule.option in limits:
            rejection = rule.criterion(stats, limits[rule.option])
            if rejection:
                yield Rejection(rule, *rejection)
