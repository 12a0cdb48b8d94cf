"""The results of preprocess.py: a record for each file, and a summary in numbers and in lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from config import SUBSETS
from corpus.dedup import Fingerprint
from corpus.filters import (
    SUGGESTED_LIMITS,
    PerformanceStats,
    Rejection,
    find_rejections,
    format_flag,
)
from corpus.manifest import DataEntry
from corpus.split import Assignment, DataFolder
from midi.playback import ONLY_PIANO, format_repair
from utils import format_count

CONVERTED = "converted"
SKIPPED = "skipped"  # unchanged since an earlier run
DUPLICATE = "duplicate"  # of the file `duplicate_of`
REJECTED = "rejected"  # for a reason
PREVIOUS = "previous"  # not a MIDI file of this run, but a .data file of an earlier one

MAX_LINES = 20  # of one kind


@dataclass(frozen=True, eq=False)
class FileRecord:
    """The results of a run of preprocess.py for one file.

    name: path below the MIDI folder; stamp, source, digest: see corpus.manifest, if known; notes,
    events, milliseconds and onset errors (seconds): of the `.data` file; stats: of the MIDI file,
    if measured; fingerprint: if there is a `.data` file and the files are grouped by piece.
    """

    name: str
    path: Path
    outcome: str = ""
    reason: str = ""
    detail: str = ""
    duplicate_of: str = ""
    stamp: str = ""
    source: str = ""
    digest: str = ""
    notes: int = 0
    events: int = 0
    milliseconds: int = 0
    onset_error_mean: float = 0.0
    onset_error_max: float = 0.0
    stats: PerformanceStats | None = None
    fingerprint: Fingerprint | None = None

    def with_entry(self, entry: DataEntry) -> FileRecord:
        """Return the record with the figures of its `.data` file."""
        return replace(
            self,
            notes=entry.notes,
            events=entry.events,
            milliseconds=entry.milliseconds,
            onset_error_mean=entry.onset_error_mean,
            onset_error_max=entry.onset_error_max,
            stats=self.stats or entry.stats,
            fingerprint=entry.fingerprint,
        )


@dataclass(frozen=True)
class DataChanges:
    """What a run did with the `.data` files of earlier runs, and what it found there.

    renamed: old and new name of the MIDI file; copies: removed paths, and the path of the same
    performance; gone: names of MIDI files that are gone, with data; pruned: paths that were
    removed for that; damaged: path, reason, and whether it was made again; split: number of files
    that moved from a flat folder into subsets; others: number of files without a MIDI file in
    MIDI_DIR that are not gone; previous_filters: of the last run, or None.
    """

    renamed: Sequence[tuple[str, str]] = ()
    copies: Sequence[tuple[str, str]] = ()
    gone: Sequence[str] = ()
    pruned: Sequence[str] = ()
    damaged: Sequence[tuple[str, str, bool]] = ()
    split: int = 0
    others: int = 0
    previous_filters: Mapping[str, float] | None = None


class SubsetStats(NamedTuple):
    """The size of one subset of a split."""

    name: str
    pieces: int
    performances: int
    hours: float


@dataclass(frozen=True, eq=False)
class Summary:
    """The results of a run.

    pieces: the performances of each piece; near_duplicates: two names, and the part of the shorter
    sketch that they share; split: the folder and the subset of each piece, or None if it is flat.
    """

    records: Sequence[FileRecord]
    active_filters: Mapping[str, float] = field(default_factory=dict)
    pieces: Sequence[Sequence[FileRecord]] = ()
    near_duplicates: Sequence[tuple[str, str, float]] = ()
    split: tuple[DataFolder, Assignment] | None = None
    changes: DataChanges = DataChanges()

    def select(self, *outcomes: str) -> list[FileRecord]:
        """Return the records with one of the outcomes."""
        return [record for record in self.records if record.outcome in outcomes]

    @cached_property
    def midi_files(self) -> int:
        """Number of MIDI files, and of folders that cannot be read."""
        return len(self.records) - len(self.select(PREVIOUS))

    @cached_property
    def performances(self) -> list[FileRecord]:
        """The records of the files that are in the data: converted and skipped ones."""
        return self.select(CONVERTED, SKIPPED)

    @cached_property
    def measured(self) -> list[tuple[FileRecord, PerformanceStats]]:
        """The performances that have statistics, with their statistics."""
        return [(record, record.stats) for record in self.performances if record.stats]

    @property
    def hours(self) -> float:
        """Length of the music in hours."""
        return sum(record.milliseconds for record in self.performances) / 3.6e6

    @property
    def notes(self) -> int:
        """Number of notes in the data."""
        return sum(record.notes for record in self.performances)

    @cached_property
    def filter_matches(self) -> list[tuple[FileRecord, Rejection]]:
        """What the filters that are off would reject at their suggested values."""
        limits = {
            option: value
            for option, value in SUGGESTED_LIMITS.items()
            if option not in self.active_filters
        }
        return [
            (record, rejection)
            for record, stats in self.measured
            for rejection in find_rejections(stats, limits)
        ]

    @property
    def subsets(self) -> Iterator[SubsetStats]:
        """The size of each subset; empty for a flat folder."""
        assigned = self.split[1].subsets if self.split else ()
        for name in SUBSETS if self.split else ():
            pieces = [p for p, subset in zip(self.pieces, assigned, strict=True) if subset == name]
            records = [record for piece in pieces for record in piece]
            hours = sum(record.milliseconds for record in records) / 3.6e6
            yield SubsetStats(name, len(pieces), len(records), hours)


# ------------------------------------------------------------------------------------ lines


def format_summary(summary: Summary) -> Iterator[str]:
    """Yield the lines that preprocess.py prints."""
    yield from _format_files(summary)
    yield from _format_totals(summary)
    if summary.split:
        yield from _format_split(summary, *summary.split)


def format_filter_matches(summary: Summary) -> str:
    """Return how many files each filter that is off would reject, and the flag that turns it on."""
    counts = Counter((match.option, match.reason) for _, match in summary.filter_matches)
    reasons: dict[str, list[str]] = {}
    for (option, reason), count in sorted(counts.items()):
        reasons.setdefault(option, []).append(f"{count:,} {reason}")
    return ", ".join(f"{', '.join(reasons[option])} ({format_flag(option)})" for option in reasons)


def count_reasons(summary: Summary) -> str:
    """Return how many files were rejected for each reason, the most frequent reason first."""
    reasons = Counter(record.reason for record in summary.select(REJECTED))
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())


def _format_files(summary: Summary) -> Iterator[str]:
    """Yield a line for each file that is not used, and for near duplicates."""
    for record in summary.select(REJECTED):
        yield f"rejected: {record.name}: {record.reason}{_parenthesize(record.detail)}"
    yield from _format_changes(summary.changes)
    for record in summary.select(DUPLICATE):
        yield (
            f"duplicate: {record.name} has the same notes as {record.duplicate_of}"
            f"{_parenthesize(record.detail)}"
        )
    lines = (
        f"near duplicate: {first} and {second} share {part:.0%} of their note patterns"
        for first, second, part in summary.near_duplicates
    )
    yield from _cut(lines, "pair", "pairs")


def _format_changes(changes: DataChanges) -> Iterator[str]:
    """Yield lines about the `.data` files of earlier runs."""
    for path, reason, is_repaired in changes.damaged:
        yield f"damaged: {path} ({reason}): " + (
            "made again" if is_repaired else "there is no MIDI file to make it again; remove it"
        )
    yield from _cut(f"renamed: {old} is now {new}" for old, new in changes.renamed)
    yield from _cut(
        f"removed: {path}, the same performance as {other}" for path, other in changes.copies
    )
    yield from _cut(f"removed: {path}, its MIDI file is gone" for path in changes.pruned)
    yield from _cut(f"MIDI file is gone: {name}" for name in changes.gone)
    if changes.gone:
        files = format_count(len(changes.gone), "performance", "performances")
        yield f"data: {files} without MIDI file; --prune removes them"
    if changes.others:
        files = format_count(changes.others, "performance", "performances")
        yield f"data: {files} more, whose MIDI files are not in this folder"


def _cut(lines: Iterable[str], singular: str = "file", plural: str = "files") -> Iterator[str]:
    """Yield the first lines, which have a common start, and how many there are more."""
    first, *_ = all_lines = [*lines, ""]
    yield from all_lines[: min(MAX_LINES, len(all_lines) - 1)]
    more = len(all_lines) - 1 - MAX_LINES
    if more > 0:
        count = format_count(more, f"more {singular}", f"more {plural}")
        yield f"{first.partition(':')[0]}: {count}"


def _format_filters(filters: Mapping[str, float]) -> str:
    """Return the flags that set filters, or "none"."""
    return " ".join(format_flag(name, value) for name, value in filters.items()) or "none"


def _format_totals(summary: Summary) -> Iterator[str]:
    """Yield lines about all files: outcomes, music, timing, filters and pieces."""
    duplicates, rejected = summary.select(DUPLICATE), summary.select(REJECTED)
    yield (
        f"files: {len(summary.select(CONVERTED)):,} converted, "
        f"{len(summary.select(SKIPPED)):,} skipped (unchanged), "
        f"{format_count(len(duplicates), 'duplicate', 'duplicates')}, "
        f"{len(rejected):,} rejected{_parenthesize(count_reasons(summary))}"
    )
    yield from _format_reading(summary)
    if summary.notes:
        events = sum(record.events for record in summary.performances)
        yield (
            f"music: {summary.hours:.2f} hours, {summary.notes:,} notes, "
            f"{events:,} events ({events / summary.notes:.2f} events/note)"
        )
    worst = max((record.onset_error_max for record in summary.performances), default=0)
    if worst:
        total = sum(record.onset_error_mean * record.notes for record in summary.performances)
        mean = total / max(1, summary.notes)
        yield f"timing: onset error {1000 * mean:.2f} ms mean, {1000 * worst:.2f} ms max"
    previous = summary.changes.previous_filters
    if previous is not None and previous != summary.active_filters:
        yield (
            f"filters: {_format_filters(summary.active_filters)}; "
            f"in the run before: {_format_filters(previous)}"
        )
    if summary.measured and len(summary.active_filters) < len(SUGGESTED_LIMITS):
        names = {record.name for record, _ in summary.filter_matches}
        matches = f": {format_filter_matches(summary)}" if names else ""
        files = format_count(len(summary.measured), "file", "files")
        yield f"filters (off) would reject {len(names):,} of {files}{matches}"
    sizes = [len(records) for records in summary.pieces]
    if sizes:
        several = sum(size > 1 for size in sizes)
        yield (
            f"pieces: {len(sizes):,} in {format_count(sum(sizes), 'performance', 'performances')}; "
            f"{several:,} with several performances, at most {max(sizes):,}"
        )


def _format_reading(summary: Summary) -> Iterator[str]:
    """Yield lines about instruments, pedals and repairs in the MIDI files."""
    stats = [stats for _, stats in summary.measured]
    selections = Counter(one.selection for one in stats if one.selection not in ("", ONLY_PIANO))
    parts = [f"{_count_files(count)}: {text}" for text, count in selections.most_common()]
    shared = sum(one.pedal_is_shared for one in stats)
    if shared:
        parts.append(f"{_count_files(shared)}: one pedal for all channels")
    if parts:
        yield f"reading: {'; '.join(parts)}"
    repairs = count_repairs(summary)
    if repairs:
        counts = (
            f"{format_repair(kind, count)} in {_count_files(files)}"
            for kind, count, files in repairs
        )
        yield f"repaired: {'; '.join(counts)}"
    stuck = (record.name for record, one in summary.measured if one.has_stuck_pedal)
    yield from _cut(f"pedal stuck, or never released: {name}" for name in stuck)


def _count_files(count: int) -> str:
    return format_count(count, "file", "files")


def count_repairs(summary: Summary) -> list[tuple[str, int, int]]:
    """Return each kind of repair, with the number of repairs and of files, the most frequent first.

    This is about the performances that have statistics.
    """
    repairs, files = Counter[str](), Counter[str]()
    for _, stats in summary.measured:
        repairs.update(stats.repairs)
        files.update(stats.repairs.keys())
    return [(kind, count, files[kind]) for kind, count in repairs.most_common()]


def _format_split(summary: Summary, folder: DataFolder, assignment: Assignment) -> Iterator[str]:
    """Yield lines about the subsets, and about pieces that stay in one or change it."""
    if folder.previous_split not in ("", folder.split):
        previous = folder.previous_split
        yield f"split: {folder.split} is for new pieces only; it was {previous} before"
    yield f"split: {folder.split} by piece, listed in {folder.split_file}"
    if summary.changes.split:
        files = format_count(summary.changes.split, "file", "files")
        yield f"split: {files} of earlier runs moved from {folder.root} into its subsets"
    for subset in summary.subsets:
        yield (
            f"  {subset.name}: {format_count(subset.pieces, 'piece', 'pieces')}, "
            f"{format_count(subset.performances, 'performance', 'performances')}, "
            f"{subset.hours:.2f} hours"
        )
    empty = [subset.name for subset in summary.subsets if not subset.pieces]
    if len(summary.pieces) == 1:
        yield (
            f"split: {' and '.join(empty)} are empty, because there is only one piece: add others, "
            "or use train.py --tune MIDI_FOLDER -s mine.sess"
        )
    if assignment.pinned:
        pieces = format_count(len(assignment.pinned), "piece", "pieces")
        yield f"split: {pieces} not moved, although {folder.split} would select another subset"
    for number in assignment.merged:
        first, *others = summary.pieces[number]
        yield (
            f"split: {first.name} and {len(others)} more are one piece; "
            f"all are now in {assignment.subsets[number]}"
        )


def _parenthesize(text: str) -> str:
    """Return " (text)", or "" for an empty text."""
    return f" ({text})" if text else ""
