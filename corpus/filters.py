"""What a performance is like, in figures, and the filters that go by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from config import PreprocessConfig
from midi.notes import MidiStats, NoteSeq
from sequence import PITCHES
from utils import Array

# Of 991 performances by pianists the most regular had 0.63 of its onsets in step with a grid,
# and 0.13 on its file's beats; 0.86 were the least of 300 random rhythms on a grid.
QUANTISED = 0.8
ONE_VELOCITY = 0.9  # share of the notes that have the commonest velocity
GLANCE = 64  # onsets that tell most hands from a grid
TELLING = 40  # onsets and notes; of fewer chance may make anything

BIN = 0.008  # seconds
SPAN = 60, 100  # seconds and notes of a performance, the longer of them, that are looked at
GRIDS = (4, 32)  # lines of a grid in a second; a coarser one is part of one of these


@dataclass(frozen=True, eq=False)
class Traits:
    """Figures of one performance as its file has it.

    seconds: from the first onset to the last end; pitches, velocities: how many notes have
    each MIDI number, int64 [128]; on_grid: how well the onsets keep to a grid in time, 0-1,
    at the best of all tempos or by the file's own beat; presses, pedalled: of the sustain
    pedal, and the share of the time for which it is down.
    """

    seconds: float
    pitches: Array
    velocities: Array
    on_grid: float
    presses: int
    pedalled: float

    @staticmethod
    def of(notes: NoteSeq, beside: MidiStats) -> Traits:
        """Measure notes that begin at 0."""
        return Traits(
            seconds=notes.seconds,
            pitches=np.bincount(notes.pitches, minlength=128),
            velocities=np.bincount(notes.velocities, minlength=128),
            on_grid=max(grid_share(notes.starts), beside.on_beat_share) if len(notes) >= TELLING else 0.0,
            presses=beside.pedal_presses,
            pedalled=min(1.0, beside.pedal_seconds / notes.seconds) if notes.seconds else 0.0,
        )

    @property
    def notes(self) -> int:
        """Number of notes, also those outside the piano."""
        return int(self.pitches.sum())

    @property
    def density(self) -> float:
        """Notes a second."""
        return self.notes / self.seconds if self.seconds else 0.0

    @property
    def outside(self) -> float:
        """Share of the notes that no piano has."""
        return 1 - float(self.pitches[PITCHES.start : PITCHES.stop].sum()) / max(1, self.notes)

    @property
    def commonest(self) -> float:
        """Share of the notes that have the commonest velocity."""
        return float(self.velocities.max()) / max(1, self.notes)

    @property
    def quantised(self) -> bool:
        """Whether the onsets are on a grid, as a score's are and no pianist's."""
        return self.on_grid >= QUANTISED

    @property
    def flat(self) -> bool:
        """Whether nearly all notes have one velocity."""
        return self.notes >= TELLING and self.commonest >= ONE_VELOCITY


def grid_share(starts: Array) -> float:
    """How well the first onsets, in seconds, keep to the best grid: 0-1.

    It is the length of the mean of the onsets as directions on a circle, that turns once from
    a line of the grid to the next; 0.0 for too few onsets. Where a few onsets tell already
    that there is no grid, it is that of these.
    """
    seconds, notes = SPAN
    heard = starts[(starts <= starts[:1] + seconds) | (np.arange(len(starts)) < notes)] - starts[:1]
    places = np.rint(heard / BIN).astype(np.int64)
    places = places[np.append(True, np.diff(places) > 0)[: len(places)]]
    if len(places) < TELLING:
        return 0.0
    glance = _in_step(places[:GLANCE])
    return glance if glance < QUANTISED else _in_step(places)


def _in_step(places: Array) -> float:
    """The same of distinct onsets in bins, the first of them 0."""
    size = 1 << int(2 * places[-1] + 2).bit_length()
    struck = np.zeros(size)
    struck[places] = 1
    low, high = (int(np.ceil(lines * size * BIN)) for lines in GRIDS)
    return float(np.abs(np.fft.rfft(struck)[low : high + 1]).max()) / len(places)


# ---------------------------------------------------------------------------------- filters


@dataclass(frozen=True)
class Filter:
    """A wish for the files to use, by an option of preprocess.py that is off by default.

    usual: a value that a corpus may be told by while it is off; refusal: what is wrong with
    a performance by a value of the option, as reason and detail, or None.
    """

    option: str
    usual: float
    refusal: Callable[[Traits, float], tuple[str, str] | None]


def _limit(
    side: str, reason: str, unit: str, figure: Callable[[Traits], float]
) -> Callable[[Traits, float], tuple[str, str] | None]:
    """A refusal of what is `side`, "under" or "over", a limit."""

    def refusal(traits: Traits, limit: float) -> tuple[str, str] | None:
        value = figure(traits)
        beyond = value < limit if side == "under" else value > limit
        return (reason, f"{value:.4g} {unit}, {side} {limit:g}") if beyond else None

    return refusal


def _without_expression(traits: Traits, _: float) -> tuple[str, str] | None:
    if traits.quantised:
        return "quantised", f"{traits.on_grid:.0%} in step with a grid"
    if traits.flat:
        return "one velocity", f"{traits.commonest:.0%} of the notes have it"
    return None


FILTERS = (
    Filter("min_seconds", 10, _limit("under", "too short", "s", lambda t: t.seconds)),
    Filter("max_seconds", 3600, _limit("over", "too long", "s", lambda t: t.seconds)),
    Filter("min_density", 1, _limit("under", "too sparse", "notes a second", lambda t: t.density)),
    Filter("max_density", 40, _limit("over", "too dense", "notes a second", lambda t: t.density)),
    Filter("max_outside", 0.05, _limit("over", "outside the piano", "of it", lambda t: t.outside)),
    Filter("expressive", 1, _without_expression),
)
USUAL = {rule.option: rule.usual for rule in FILTERS}


def wishes(options: PreprocessConfig) -> dict[str, float]:
    """The filters that are on, with their values."""
    given = {rule.option: getattr(options, rule.option) for rule in FILTERS}
    return {name: float(value) for name, value in given.items() if value not in (None, False)}


def refusals(traits: Traits, wanted: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    """Of filters with their values those that refuse: option, reason and detail of each."""
    for rule in FILTERS:
        if rule.option in wanted:
            told = rule.refusal(traits, wanted[rule.option])
            if told:
                yield rule.option, *told
