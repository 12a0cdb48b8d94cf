"""What became of the files of a run of preprocess.py, as sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from config import SPLIT_FILE, SUBSETS
from corpus.dedup import NEARLY, Link, Piece
from corpus.filters import FILTERS, USUAL, Traits, refusals
from corpus.performance import Performance
from corpus.split import Assignment, Folder
from utils import Array

LISTED = 20  # lines of one kind at most


class Refused(Exception):
    """A file that is not made into data; the two texts are the reason and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Row:
    """Figures of one performance that is in the data; onset errors in seconds."""

    name: str
    seconds: float
    density: float
    pedalled: float
    played: int  # notes in the file
    notes: int  # notes in the data
    error_mean: float
    error_max: float


@dataclass(frozen=True)
class Would:
    """What a filter that is off would refuse at its usual value."""

    name: str
    option: str
    reason: str
    detail: str


def flag(option: str) -> str:
    """A filter as one would switch it on, at its usual value."""
    value = "" if option == "expressive" else f" {USUAL[option]:g}"
    return f"--{option.replace('_', '-')}{value}"


@dataclass(frozen=True)
class Side:
    """What is on one side of a split."""

    name: str
    pieces: int
    performances: int
    hours: float


@dataclass
class Ledger:
    """What became of the files, and what is in the data."""

    found: int
    wanted: Mapping[str, float] = field(default_factory=dict)  # filters that are on
    done: int = 0
    skipped: int = 0
    refused: list[tuple[str, Refused]] = field(default_factory=list)
    twins: list[tuple[str, str]] = field(default_factory=list)
    milliseconds: int = 0
    notes: int = 0
    events: int = 0
    error_sum: float = 0.0
    error_max: float = 0.0
    measured: int = 0
    would: list[Would] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    pitches: Array = field(default_factory=lambda: np.zeros(128, np.int64))
    velocities: Array = field(default_factory=lambda: np.zeros(128, np.int64))
    remarks: list[str] = field(default_factory=list)
    same: list[list[str]] = field(default_factory=list)  # performances of one piece, by name
    nearly: list[tuple[str, str, float]] = field(default_factory=list)
    sides: list[Side] = field(default_factory=list)

    def count(self, name: str, performance: Performance, traits: Traits | None) -> None:
        """Add a performance to the totals."""
        self.milliseconds += performance.milliseconds
        self.notes += performance.notes
        self.events += len(performance)
        self.error_sum += performance.onset_error_mean * performance.notes
        self.error_max = max(self.error_max, performance.onset_error_max)
        if traits:
            self._measure(name, performance, traits)

    def _measure(self, name: str, performance: Performance, traits: Traits) -> None:
        self.measured += 1
        off = {option: usual for option, usual in USUAL.items() if option not in self.wanted}
        self.would += [Would(name, *refusal) for refusal in refusals(traits, off)]
        self.pitches += traits.pitches
        self.velocities += traits.velocities
        self.rows.append(
            Row(
                name=name,
                seconds=traits.seconds,
                density=traits.density,
                pedalled=traits.pedalled,
                played=traits.notes,
                notes=performance.notes,
                error_mean=performance.onset_error_mean,
                error_max=performance.onset_error_max,
            )
        )

    def note_pieces(
        self, pieces: Sequence[Piece], links: Sequence[Link], names: Sequence[str]
    ) -> None:
        """Add which of the performances, whose names these are, are of one piece."""
        self.same = [[names[n] for n in piece.members] for piece in pieces]
        close = sorted((link for link in links if link.share >= NEARLY), key=lambda k: -k.share)
        self.nearly = [(names[link.first], names[link.second], link.share) for link in close]
        several = sum(len(names) > 1 for names in self.same)
        largest = max(map(len, self.same), default=0)
        self.remarks.append(
            f"pieces: {len(pieces)} in {len(names)} performances, {several} of them played several "
            f"times, one up to {largest} times"
        )

    def note_split(
        self, folder: Folder, assignment: Assignment, pieces: Sequence[Piece], times: Sequence[int]
    ) -> None:
        """Add how the pieces were split; `times`: the performances' lengths in milliseconds."""
        shares, tell = folder.shares, self.remarks.append
        if folder.before and folder.before != shares:
            tell(f"the folder was split {folder.before} before: {shares} is for new pieces alone")
        tell(f"split {shares}, by piece ({folder.root / SPLIT_FILE} names them):")
        for name in SUBSETS:
            own = [
                piece for side, piece in zip(assignment.sides, pieces, strict=True) if side == name
            ]
            files = [number for piece in own for number in piece.members]
            hours = sum(times[number] for number in files) / 3.6e6
            self.sides.append(Side(name, len(own), len(files), hours))
            tell(f"  {name}: {len(own)} pieces, {len(files)} performances, {hours:.2f} hours")
        if assignment.kept:
            tell(f"kept where they were: {len(assignment.kept)} pieces that {shares} would move")
        for number in assignment.gathered:
            name, others = self.same[number][0], len(self.same[number]) - 1
            tell(
                f"found to be one piece, and now all on {assignment.sides[number]}: "
                f"{name} and {others} more"
            )

    def lines(self) -> Iterator[str]:
        """The report, as sentences and lists."""
        for name, refusal in self.refused:
            yield f"refused, {refusal.reason}: {name}" + (
                f" ({refusal.detail})" if refusal.detail else ""
            )
        for name, first in self.twins:
            yield f"the same performance, kept once: {name} is {first}"
        for name, other, share in self.nearly[:LISTED]:
            yield f"nearly the same notes: {other} and {name} ({share:.0%})"
        if len(self.nearly) > LISTED:
            yield f"nearly the same notes: {len(self.nearly) - LISTED} pairs more"
        reasons = Counter(refusal.reason for _, refusal in self.refused)
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        yield (
            f"files: {self.done} done, {self.skipped} skipped (unchanged), "
            f"{len(self.twins)} twins, {len(self.refused)} refused" + (f" ({told})" if told else "")
        )
        if self.notes:
            yield (
                f"music: {self.milliseconds / 3.6e6:.2f} hours, {self.notes:,} notes, "
                f"{self.events:,} events, {self.events / self.notes:.3f} events a note"
            )
        if self.error_max:
            yield (
                f"onsets: {1000 * self.error_sum / self.notes:.2f} ms off on average, "
                f"{1000 * self.error_max:.2f} ms at worst"
            )
        if self.measured and len(self.wanted) < len(FILTERS):
            yield f"filters that are off would refuse of {self.measured}: {self.would_told()}"
        yield from self.remarks

    def would_told(self) -> str:
        """What the filters that are off would refuse, at their usual values."""
        counts = Counter((one.option, one.reason) for one in self.would)
        by_flag: dict[str, list[str]] = {}
        for (option, reason), count in sorted(counts.items()):
            by_flag.setdefault(flag(option), []).append(f"{count} {reason}")
        told = (f"{', '.join(reasons)} ({name})" for name, reasons in by_flag.items())
        return ", ".join(told) or "none"
