"""The results of preprocess.py: a record for each file, and a summary as numbers and as lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from config import SUBSETS
from corpus.dedup import Fingerprint
from corpus.filters import FILTERS, PerformanceStats, Rejection, find_rejections
from corpus.performance import Performance
from utils import Array

CONVERTED = "converted"
SKIPPED = "skipped"  # unchanged since an earlier run
DUPLICATE = "duplicate"  # of the file `duplicate_of`
REJECTED = "rejected"  # for a reason
PREVIOUS = "previous"  # not a MIDI file, but a .data file that an earlier run left in a subset

MAX_NEAR_DUPLICATES = 20  # lines


@dataclass(frozen=True, eq=False)
class FileRecord:
    """A MIDI file, and what a run of preprocess.py finds out about it.

    name: path below the MIDI folder; data_path: its `.data` file, whether it exists or not; source:
    hash of the MIDI file that the `.data` file was made from; notes, events, milliseconds and
    onset errors (seconds): of the `.data` file; stats: of the MIDI file, if measured; fingerprint,
    piece (a number) and subset: only if there is a `.data` file and pieces are looked for.
    """

    name: str
    path: Path
    data_path: Path
    outcome: str = ""
    reason: str = ""
    detail: str = ""
    duplicate_of: str = ""
    source: str = ""
    notes: int = 0
    events: int = 0
    milliseconds: int = 0
    onset_error_mean: float = 0.0
    onset_error_max: float = 0.0
    stats: PerformanceStats | None = None
    fingerprint: Fingerprint | None = None
    piece: int | None = None
    subset: str = ""

    def with_performance(self, performance: Performance) -> FileRecord:
        """Return the record with the figures of its `.data` file."""
        return replace(
            self,
            source=performance.source,
            notes=performance.notes,
            events=len(performance),
            milliseconds=performance.milliseconds,
            onset_error_mean=performance.onset_error_mean,
            onset_error_max=performance.onset_error_max,
        )


@dataclass(frozen=True)
class SubsetStats:
    """What one subset of a split holds."""

    name: str
    pieces: int
    performances: int
    hours: float


@dataclass(frozen=True)
class SplitResult:
    """How the pieces were split.

    path: of split.json; pinned_pieces: number of pieces that stay in their subset although the
    present shares would move them; merged_pieces: those, by number, that were in several subsets.
    """

    shares: str
    previous_shares: str
    path: Path
    pinned_pieces: int
    merged_pieces: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Summary:
    """The numbers of a run.

    near_duplicates: two names, and the part of the shorter sketch that they share.
    """

    records: Sequence[FileRecord]
    active_filters: Mapping[str, float] = field(default_factory=dict)
    near_duplicates: Sequence[tuple[str, str, float]] = ()
    split: SplitResult | None = None

    def select(self, *outcomes: str) -> list[FileRecord]:
        """Return the records with one of the outcomes."""
        return [record for record in self.records if record.outcome in outcomes]

    @cached_property
    def midi_files(self) -> int:
        """Number of MIDI files, with folders that cannot be read."""
        return len(self.records) - len(self.select(PREVIOUS))

    @cached_property
    def performances(self) -> list[FileRecord]:
        """The files whose music is in the data: those converted and those skipped."""
        return self.select(CONVERTED, SKIPPED)

    @cached_property
    def measured(self) -> list[tuple[FileRecord, PerformanceStats]]:
        """The performances that have statistics, and these."""
        return [(record, record.stats) for record in self.performances if record.stats]

    @property
    def hours(self) -> float:
        """Length of the music."""
        return sum(record.milliseconds for record in self.performances) / 3.6e6

    @property
    def notes(self) -> int:
        """Number of notes in the data."""
        return sum(record.notes for record in self.performances)

    @property
    def events(self) -> int:
        """Number of events in the data."""
        return sum(record.events for record in self.performances)

    @property
    def onset_error_mean(self) -> float:
        """Mean distance of the encoded onsets from those of the MIDI files, in seconds."""
        total = sum(record.onset_error_mean * record.notes for record in self.performances)
        return total / max(1, self.notes)

    @property
    def onset_error_max(self) -> float:
        """Largest of these distances."""
        return max((record.onset_error_max for record in self.performances), default=0.0)

    @cached_property
    def pitch_counts(self) -> Array:
        """Notes of the measured MIDI files by pitch, int64 [128]."""
        return sum((s.pitch_counts for _, s in self.measured), np.zeros(128, np.int64))

    @cached_property
    def velocity_counts(self) -> Array:
        """Notes of the measured MIDI files by velocity, int64 [128]."""
        return sum((s.velocity_counts for _, s in self.measured), np.zeros(128, np.int64))

    @cached_property
    def filter_matches(self) -> list[tuple[FileRecord, Rejection]]:
        """What the filters that are off would reject at their suggested values."""
        limits = {
            rule.option: rule.suggested
            for rule in FILTERS
            if rule.option not in self.active_filters
        }
        return [
            (r, match) for r, stats in self.measured for match in find_rejections(stats, limits)
        ]

    @cached_property
    def pieces(self) -> list[list[FileRecord]]:
        """The performances of each piece, by the number of the piece; empty if not looked for."""
        groups: dict[int, list[FileRecord]] = {}
        for record in self.records:
            if record.piece is not None:
                groups.setdefault(record.piece, []).append(record)
        return [groups[number] for number in sorted(groups)]

    @cached_property
    def subsets(self) -> list[SubsetStats]:
        """What the subsets hold; empty for a flat folder."""
        found = []
        for name in SUBSETS if self.split else ():
            records = [record for record in self.records if record.subset == name]
            hours = sum(record.milliseconds for record in records) / 3.6e6
            pieces = len({record.piece for record in records})
            found.append(SubsetStats(name, pieces, len(records), hours))
        return found


# ------------------------------------------------------------------------------------ lines


def format_summary(summary: Summary) -> Iterator[str]:
    """Yield the lines that preprocess.py prints."""
    yield from _format_rejected(summary)
    yield from _format_duplicates(summary)
    yield _format_counts(summary)
    yield from _format_totals(summary)
    yield from _format_pieces(summary)
    yield from _format_split(summary)


def format_filter_matches(summary: Summary) -> str:
    """Return how many files each filter that is off would reject, with the flag that sets it."""
    counts = Counter((match.filter.option, match.reason) for _, match in summary.filter_matches)
    flags = {match.filter.option: match.filter.flag for _, match in summary.filter_matches}
    by_flag: dict[str, list[str]] = {}
    for (option, reason), count in sorted(counts.items()):
        by_flag.setdefault(flags[option], []).append(f"{count} {reason}")
    return ", ".join(f"{', '.join(reasons)} ({flag})" for flag, reasons in by_flag.items())


def count_reasons(summary: Summary) -> str:
    """Return how many files were rejected for each reason, the most frequent reason first."""
    reasons = Counter(record.reason for record in summary.select(REJECTED))
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def _format_rejected(summary: Summary) -> Iterator[str]:
    for record in summary.select(REJECTED):
        detail = f" ({record.detail})" if record.detail else ""
        yield f"rejected: {record.name}: {record.reason}{detail}"
    for record in summary.select(PREVIOUS):
        if record.reason:
            yield f"not in the split: {record.path}: {record.reason}"


def _format_duplicates(summary: Summary) -> Iterator[str]:
    for record in summary.select(DUPLICATE):
        detail = f" ({record.detail})" if record.detail else ""
        yield f"duplicate: {record.name} has the same notes as {record.duplicate_of}{detail}"
    for first, second, part in summary.near_duplicates[:MAX_NEAR_DUPLICATES]:
        yield f"near duplicate: {first} and {second} share {part:.0%} of their note patterns"
    more = len(summary.near_duplicates) - MAX_NEAR_DUPLICATES
    if more > 0:
        yield f"near duplicate: {_count(more, 'more pair')}"


def _format_counts(summary: Summary) -> str:
    counts = {name: len(summary.select(name)) for name in (CONVERTED, SKIPPED, DUPLICATE, REJECTED)}
    reasons = f" ({count_reasons(summary)})" if counts[REJECTED] else ""
    return (
        f"files: {counts[CONVERTED]} converted, {counts[SKIPPED]} skipped (unchanged), "
        f"{_count(counts[DUPLICATE], 'duplicate')}, {counts[REJECTED]} rejected{reasons}"
    )


def _format_totals(summary: Summary) -> Iterator[str]:
    if summary.notes:
        yield (
            f"music: {summary.hours:.2f} hours, {summary.notes:,} notes, "
            f"{summary.events:,} events ({summary.events / summary.notes:.2f} events/note)"
        )
    if summary.onset_error_max:
        yield (
            f"timing: onset error {1000 * summary.onset_error_mean:.2f} ms mean, "
            f"{1000 * summary.onset_error_max:.2f} ms max"
        )
    if summary.measured and len(summary.active_filters) < len(FILTERS):
        names = {record.name for record, _ in summary.filter_matches}
        matches = f": {format_filter_matches(summary)}" if names else ""
        files = _count(len(summary.measured), "file")
        yield f"filters (off) would reject {len(names)} of {files}{matches}"


def _format_pieces(summary: Summary) -> Iterator[str]:
    sizes = [len(records) for records in summary.pieces]
    if sizes:
        several = sum(size > 1 for size in sizes)
        yield (
            f"pieces: {len(sizes)} in {_count(sum(sizes), 'performance')}; {several} with several "
            f"performances, at most {max(sizes)}"
        )


def _format_split(summary: Summary) -> Iterator[str]:
    split = summary.split
    if not split:
        return
    if split.previous_shares not in ("", split.shares):
        yield f"split: {split.shares} is for new pieces only; it was {split.previous_shares} before"
    yield f"split: {split.shares} by piece, listed in {split.path}"
    for subset in summary.subsets:
        yield (
            f"  {subset.name}: {_count(subset.pieces, 'piece')}, "
            f"{_count(subset.performances, 'performance')}, {subset.hours:.2f} hours"
        )
    if split.pinned_pieces:
        pieces = _count(split.pinned_pieces, "piece")
        yield f"split: {pieces} not moved, although {split.shares} would select another subset"
    for number in split.merged_pieces:
        first, *others = summary.pieces[number]
        yield (
            f"split: {first.name} and {len(others)} more are one piece; "
            f"all are now in {first.subset}"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
