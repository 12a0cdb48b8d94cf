"""Statistics of performances, and the filters that use them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from midi.notes import NoteSeq, get_program_name
from midi.playback import Instrument, MidiStats
from sequence import PITCHES
from utils import Array, format_count

# Chosen between the grid scores of performances by pianists and those of rhythms on a grid
# (docs/results.md, "Recognizing pieces").
QUANTIZED_SCORE = 0.8
UNIFORM_VELOCITY_SHARE = 0.9  # least share of notes with the most frequent velocity
MIN_ONSETS = 40  # onsets or notes; fewer are too few to detect a grid or a uniform velocity

MAX_INSTRUMENTS = 32  # that are listed
GRID_BIN = 0.008  # seconds
GRID_SECONDS, GRID_NOTES = 60, 100  # the grid score uses the first ones, whichever are more
GRID_RATES = (4, 32)  # grid lines/s; the lines of a coarser grid are also lines of one of these
QUICK_ONSETS = 64  # enough to see that there is no grid


@dataclass(frozen=True, eq=False)
class PerformanceStats:
    """Statistics of one MIDI file.

    seconds: from the first onset to the last end; pitch_counts, velocity_counts: notes by MIDI
    number, int32 [128]; grid_score: see `measure_grid_score`, or the share of the onsets on the
    file's own beat if that is higher; pedal_share: of the time, with the sustain pedal down;
    instruments: of the file, described, and the number of those that are used; selection, repairs,
    pedal_is_shared, has_stuck_pedal: as in midi.playback.MidiStats.
    """

    seconds: float
    pitch_counts: Array
    velocity_counts: Array
    grid_score: float
    pedal_share: float
    instruments: tuple[str, ...] = ()
    selection: str = ""
    repairs: Mapping[str, int] = field(default_factory=dict)
    pedal_is_shared: bool = False
    has_stuck_pedal: bool = False

    @staticmethod
    def measure(notes: NoteSeq, midi_stats: MidiStats) -> PerformanceStats:
        """Return the statistics of notes that start at 0."""
        score = max(measure_grid_score(notes.starts), midi_stats.on_beat_share)
        pedal_share = midi_stats.pedal_seconds / notes.seconds if notes.seconds else 0.0
        return PerformanceStats(
            seconds=notes.seconds,
            pitch_counts=np.bincount(notes.pitches, minlength=128).astype(np.int32),
            velocity_counts=np.bincount(notes.velocities, minlength=128).astype(np.int32),
            grid_score=score if len(notes) >= MIN_ONSETS else 0.0,
            pedal_share=min(1.0, pedal_share),
            instruments=tuple(map(format_instrument, midi_stats.instruments[:MAX_INSTRUMENTS])),
            selection=midi_stats.selection,
            repairs=dict(midi_stats.repairs),
            pedal_is_shared=midi_stats.pedal_is_shared,
            has_stuck_pedal=midi_stats.has_stuck_pedal,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as plain values."""
        return {
            **vars(self),
            "pitch_counts": self.pitch_counts.tolist(),
            "velocity_counts": self.velocity_counts.tolist(),
            "instruments": list(self.instruments),
            "repairs": dict(self.repairs),
        }

    @staticmethod
    def from_json(record: Any) -> PerformanceStats:
        """Return statistics from plain values; raise ValueError, TypeError or KeyError if wrong."""
        pitches, velocities = (
            np.array(record[name], np.int32) for name in ("pitch_counts", "velocity_counts")
        )
        if pitches.shape != (128,) or velocities.shape != (128,):
            raise ValueError("the counts are not 128 numbers")
        values = (float(record[name]) for name in ("seconds", "grid_score", "pedal_share"))
        seconds, grid_score, pedal_share = values
        return PerformanceStats(
            seconds,
            pitches,
            velocities,
            grid_score,
            pedal_share,
            tuple(map(str, record["instruments"])),
            str(record["selection"]),
            {str(kind): int(count) for kind, count in record["repairs"].items()},
            bool(record["pedal_is_shared"]),
            bool(record["has_stuck_pedal"]),
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
        return self.notes >= MIN_ONSETS and self.top_velocity_share >= UNIFORM_VELOCITY_SHARE


def format_instrument(instrument: Instrument) -> str:
    """Return a line about an instrument: `Left hand (Bright Acoustic Piano): 120 notes`."""
    kind = "drums" if instrument.is_drum else "no program"
    if instrument.program is not None and not instrument.is_drum:
        kind = get_program_name(instrument.program)
    name = kind if instrument.name in ("", kind) else f"{instrument.name} ({kind})"
    notes = format_count(instrument.notes, "note", "notes")
    return f"{name}: {notes}{'' if instrument.is_used else ', not used'}"


def measure_grid_score(starts: Array) -> float:
    """Return how well the first onsets, in seconds, fit the best grid: 0-1.

    The distance between two grid lines is mapped to a circle, and each onset to a point on it; the
    score is the length of the mean vector, for the tempo of the grid that makes it longest (the
    peak of the onsets' magnitude spectrum). It is 0.0 for fewer than MIN_ONSETS onsets.
    """
    is_used = (starts <= starts[:1] + GRID_SECONDS) | (np.arange(len(starts)) < GRID_NOTES)
    bins = np.rint((starts[is_used] - starts[:1]) / GRID_BIN).astype(np.int64)
    bins = bins[np.append(True, np.diff(bins) > 0)[: len(bins)]]
    if len(bins) < MIN_ONSETS:
        return 0.0
    score = _spectral_peak(bins[:QUICK_ONSETS])
    return score if score < QUANTIZED_SCORE else _spectral_peak(bins)


def _spectral_peak(bins: Array) -> float:
    """Return the grid score of distinct onsets, in units of GRID_BIN; the first one is 0."""
    size = 1 << int(2 * bins[-1] + 2).bit_length()
    onsets = np.zeros(size)
    onsets[bins] = 1
    low, high = (int(np.ceil(rate * size * GRID_BIN)) for rate in GRID_RATES)
    return float(np.abs(np.fft.rfft(onsets)[low : high + 1]).max()) / len(bins)


# ---------------------------------------------------------------------------------- filters

# the filter options of preprocess.py, and the values at which filters that are off are evaluated
SUGGESTED_LIMITS = {
    "min_seconds": 10,
    "max_seconds": 3600,
    "min_density": 1,
    "max_density": 40,
    "max_outside": 0.05,
    "expressive": True,
}


class Rejection(NamedTuple):
    """The reason why the filter of an option rejects a performance."""

    option: str
    reason: str
    detail: str


def select_filters(options: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of the filters that are on; options: by name, None or False for off."""
    values = {option: options[option] for option in SUGGESTED_LIMITS}
    return {
        option: value
        for option, value in values.items()
        if value is not None and value is not False  # 0.0 is a limit
    }


def format_flag(option: str, value: float | None = None) -> str:
    """Return the flag that sets a filter, `--min-density 1`; value: None for the suggested one."""
    flag = "--" + option.replace("_", "-")
    value = SUGGESTED_LIMITS[option] if value is None else value
    return flag if option == "expressive" else f"{flag} {value:g}"


def find_rejections(stats: PerformanceStats, limits: Mapping[str, float]) -> Iterator[Rejection]:
    """Yield a rejection for each filter in `limits` that rejects the performance."""
    ranges = (
        ("seconds", stats.seconds, "s", "too short", "too long"),
        ("density", stats.density, "notes/s", "too sparse", "too dense"),
        ("outside", stats.outside_share, "of the notes", "", "outside the piano's range"),
    )
    for name, value, unit, low_reason, high_reason in ranges:
        low = limits.get(f"min_{name}", -math.inf)
        high = limits.get(f"max_{name}", math.inf)
        if value < low:
            detail = f"{value:.4g} {unit}, at least {low:g} required"
            yield Rejection(f"min_{name}", low_reason, detail)
        if value > high:
            detail = f"{value:.4g} {unit}, at most {high:g} allowed"
            yield Rejection(f"max_{name}", high_reason, detail)
    if "expressive" in limits:
        if stats.is_quantized:
            yield Rejection(
                "expressive", "quantized", f"onsets on a grid, score {stats.grid_score:.2f} of 1"
            )
        elif stats.has_uniform_velocity:
            detail = f"the same in {stats.top_velocity_share:.0%} of the notes"
            yield Rejection("expressive", "uniform velocity", detail)
