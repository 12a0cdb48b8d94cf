"""Convert a folder of MIDI files to the .data files that train.py reads.

examples:
  python3 preprocess.py
  python3 preprocess.py midi dataset/processed --split 80,10,10 --report
  python3 preprocess.py midi dataset/processed --min-seconds 30 --expressive
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import progress.bar

import utils
from config import FETCH_COMMAND, MIDI_SUFFIXES, PreprocessConfig, parse_split
from corpus.dedup import NEAR_DUPLICATE_PART, Fingerprint, Piece, find_pieces, hash_events
from corpus.filters import PerformanceStats, find_rejections, select_filters
from corpus.performance import Performance
from corpus.pool import Job, JobFailure, Result, WorkerPool
from corpus.split import DataFolder, assign_subsets
from corpus.summary import (
    CONVERTED,
    DUPLICATE,
    PREVIOUS,
    REJECTED,
    SKIPPED,
    FileRecord,
    SplitResult,
    Summary,
    format_summary,
)
from midi.notes import has_only_drums, read_midi
from sequence import CURRENT, LEGACY, ControlSeq, Encoding, EventSeq, NoteSeq, measure_onset_errors
from utils import Number, Parser
from web.report import render_report

MIN_NOTES = 10
MAX_FILE_SIZE = 64 << 20  # bytes
# errors of one file's name; any other error while writing ends the run
NAME_ERRORS = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
DATA_REMAINS = "its .data file of an earlier run remains"


# --------------------------------------------------------------- one file, in a worker process


class Rejected(Exception):
    """A file that cannot be used: the reason, and a detail that may be empty."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Conversion:
    """A file to convert, and how.

    record: with the source hash of its `.data` file, if that is whole; filters: their limits;
    measure, fingerprint: whether to do that for an unchanged file too.
    """

    record: FileRecord
    encoding: Encoding
    filters: Mapping[str, float]
    measure: bool
    fingerprint: bool


def convert_file(job: Conversion) -> tuple[FileRecord, Performance | None]:
    """Encode one file; return its record, and the performance unless unchanged or rejected."""
    performance, stats, fingerprint = None, None, None
    try:
        content = read_content(job.record.path)
        source = hashlib.blake2b(content, digest_size=16).hexdigest()
        is_new = source != job.record.source
        if is_new or job.measure:
            notes, stats = read_notes(content, job.encoding)
            for rejection in find_rejections(stats, job.filters):
                raise Rejected(rejection.reason, rejection.detail)
        if is_new:
            performance = encode_notes(notes, source, job.encoding)
        if job.fingerprint:
            fingerprint = Fingerprint.compute(performance or Performance.load(job.record.data_path))
    except Rejected as error:
        return reject(job.record, error.reason, error.detail), None
    return replace(job.record, stats=stats, fingerprint=fingerprint), performance


def read_content(path: Path) -> bytes:
    """Return the content of a MIDI file; raises Rejected."""
    try:
        if not path.is_file():
            raise Rejected("not a file")
        if path.stat().st_size > MAX_FILE_SIZE:
            raise Rejected("too large", f"over {MAX_FILE_SIZE >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise Rejected("unreadable", str(error)) from error


def read_notes(content: bytes, encoding: Encoding) -> tuple[NoteSeq, PerformanceStats]:
    """Return the notes, moved so that the first starts at 0, and statistics; raises Rejected."""
    try:
        notes, midi_stats = read_midi(content, sustain=not encoding.is_legacy)
        if not len(notes):
            raise Rejected("only drums" if has_only_drums(content) else "no notes")
    except ValueError as error:
        raise Rejected("unreadable", str(error)) from error
    notes = notes.trim_start()
    return notes, PerformanceStats.measure(notes, midi_stats)


def encode_notes(notes: NoteSeq, source: str, encoding: Encoding) -> Performance:
    """Encode notes that start at 0, from a MIDI file with the hash `source`; raises Rejected."""
    try:
        events = EventSeq.from_note_seq(notes, encoding)
    except ValueError as error:
        raise Rejected("too long", str(error)) from error
    if events.note_ons < MIN_NOTES:
        raise Rejected("too short", f"{events.note_ons} notes, at least {MIN_NOTES} are needed")
    errors = np.zeros(1) if encoding.is_legacy else measure_onset_errors(notes, events)
    return Performance(
        events=events.to_array(),
        controls=ControlSeq.from_event_seq(events).to_compressed_array(),
        notes=events.note_ons,
        milliseconds=events.total_ms,
        onset_error_mean=float(errors.mean()),
        onset_error_max=float(errors.max()),
        source=source,
        encoding=encoding,
    )


def encode(content: bytes, source: str, encoding: Encoding = CURRENT) -> Performance:
    """Encode the content of a MIDI file, without the silence before its first note.

    Raises Rejected if it cannot be used.
    """
    return encode_notes(read_notes(content, encoding)[0], source, encoding)


def load_fingerprint(record: FileRecord) -> FileRecord:
    """Return the record of a `.data` file with its length and fingerprint."""
    try:
        performance = Performance.load(record.data_path)
    except (OSError, ValueError):
        return replace(record, reason="damaged")
    return replace(
        record.with_performance(performance), fingerprint=Fingerprint.compute(performance)
    )


# ------------------------------------------------------------------------------ the folder


def preprocess(options: PreprocessConfig) -> Summary:
    """Convert the files that are new or have changed; move the results to the subsets of a split.

    Raises OSError if SAVE_DIR cannot be written, and ValueError if it cannot be split.
    """
    root, save_dir = Path(options.midi_dir), Path(options.save_dir)
    unreadable: list[OSError] = []
    paths = list(utils.find_files(root, MIDI_SUFFIXES, unreadable)) if root.is_dir() else []
    utils.check_writable(save_dir)
    names = [path.relative_to(root).as_posix() for path in paths]
    folder = DataFolder.open(save_dir, options.split, names)
    records = [
        FileRecord(name, path, folder.find_data(name))
        for name, path in zip(names, paths, strict=True)
    ]
    filters = select_filters(vars(options))
    jobs = create_jobs(records, options, filters, bool(folder.split))
    results = run_jobs(convert_file, jobs, len(records), options)
    records = [*map(reject_folder, unreadable), *store_results(records, results)]
    near_duplicates: list[tuple[str, str, float]] = []
    split = None
    if folder.split:
        records, near_duplicates, split = split_folder(folder, records, options)
    elif options.report:
        pieces, near_duplicates = group_records(records)
        records = set_pieces(records, pieces, [""] * len(pieces))
    return Summary(records, filters, near_duplicates, split)


def reject(record: FileRecord, reason: str, detail: str = "") -> FileRecord:
    """Return the record of a file that is not used."""
    if os.path.isfile(record.data_path):
        detail = f"{detail}; {DATA_REMAINS}" if detail else DATA_REMAINS
    return replace(record, outcome=REJECTED, reason=reason, detail=detail, fingerprint=None)


def reject_folder(error: OSError) -> FileRecord:
    """Return the record of a folder that cannot be read."""
    path, detail = Path(error.filename), str(error.strerror)
    return FileRecord(str(path), path, path, REJECTED, "unreadable folder", detail)


def create_jobs(
    records: Iterable[FileRecord],
    options: PreprocessConfig,
    filters: Mapping[str, float],
    is_split: bool,
) -> Iterator[Conversion]:
    """Yield a job for each file; reads the source hash in its `.data` file just before."""
    encoding = LEGACY if options.legacy else CURRENT
    for record in records:
        yield Conversion(
            record=replace(record, source=read_source(record.data_path, encoding)),
            encoding=encoding,
            filters=filters,
            measure=options.report or bool(filters),
            fingerprint=options.report or is_split,
        )


def read_source(path: Path, encoding: Encoding) -> str:
    """Return the source hash of a `.data` file; empty if it is to be written again."""
    try:
        performance = Performance.load(path)
    except (OSError, ValueError):  # missing or damaged
        return ""
    return performance.source if performance.encoding is encoding else ""


def run_jobs(
    function: Callable[[Job], Result], jobs: Iterator[Job], count: int, options: PreprocessConfig
) -> Iterator[Result | JobFailure]:
    """Yield the results of `count` jobs in order, with at most as many workers."""
    workers = min(options.workers or os.cpu_count() or 1, max(1, count))
    return WorkerPool(function, workers, options.time_limit).run(jobs)


def store_results(
    records: Sequence[FileRecord],
    results: Iterable[tuple[FileRecord, Performance | None] | JobFailure],
) -> list[FileRecord]:
    """Write a `.data` file for each new performance, once; return the records with outcomes."""
    bar = progress.bar.Bar(
        "preprocessing", max=len(records), suffix="%(index)d/%(max)d  %(eta_td)s"
    )
    names: dict[bytes, str] = {}  # of the first file with these events
    stored = []
    for record, result in zip(records, results, strict=True):
        bar.next()
        if isinstance(result, JobFailure):
            stored.append(reject(record, result.reason, result.detail))
            continue
        record, performance = result
        if record.outcome != REJECTED:
            record = store_result(record, performance, names)
        stored.append(record)
    bar.finish()
    return stored


def store_result(
    record: FileRecord, performance: Performance | None, names: dict[bytes, str]
) -> FileRecord:
    """Write one `.data` file unless it is unchanged or a duplicate; return the final record.

    names: the name of the first file for each hash of the events; extended.
    """
    is_new = performance is not None
    performance = performance or Performance.load(record.data_path)
    record = record.with_performance(performance)
    first_name = names.setdefault(hash_events(performance), record.name)
    if first_name != record.name:
        return replace(
            record,
            outcome=DUPLICATE,
            duplicate_of=first_name,
            detail=DATA_REMAINS if os.path.isfile(record.data_path) else "",
            fingerprint=None if is_new else record.fingerprint,
        )
    if not is_new:
        return replace(record, outcome=SKIPPED)
    try:
        record.data_path.parent.mkdir(parents=True, exist_ok=True)
        utils.atomic_write(record.data_path, performance.to_bytes(), durable=False)
    except OSError as error:
        if error.errno not in NAME_ERRORS:
            raise
        return reject(record, "cannot be written", str(error.strerror))
    return replace(record, outcome=CONVERTED)


# ---------------------------------------------------------------------------------- pieces


def split_folder(
    folder: DataFolder, records: list[FileRecord], options: PreprocessConfig
) -> tuple[list[FileRecord], list[tuple[str, str, float]], SplitResult]:
    """Move every `.data` file, of this run or an earlier one, to the subset of its piece.

    Returns the records with pieces and subsets, the near duplicates, and the result.
    """
    subsets = folder.find_subsets()
    current = {record.data_path for record in records if record.fingerprint}
    others = [
        FileRecord(folder.midi_name(path), path, path, PREVIOUS)
        for path in subsets
        if path not in current
    ]
    results = run_jobs(load_fingerprint, iter(others), len(others), options) if others else []
    for record, result in zip(others, results, strict=True):
        if isinstance(result, JobFailure):
            result = replace(record, reason=result.reason)
        records.append(result)

    paths = [record.data_path for record in records if record.fingerprint]
    pieces, near_duplicates = group_records(records)
    known_subsets = {n: subsets[path] for n, path in enumerate(paths) if path in subsets}
    assignment = assign_subsets(pieces, known_subsets, folder.split)
    folder.apply_split(paths, pieces, assignment.subsets)
    split = SplitResult(
        shares=folder.split,
        previous_shares=folder.previous_split,
        path=folder.split_file,
        pinned_pieces=len(assignment.pinned),
        merged_pieces=assignment.merged,
    )
    return set_pieces(records, pieces, assignment.subsets), near_duplicates, split


def group_records(
    records: Iterable[FileRecord],
) -> tuple[list[Piece], list[tuple[str, str, float]]]:
    """Return the pieces of the records that have a fingerprint, and the near duplicates.

    A near duplicate is two names and the part of the shorter sketch that they share.
    """
    files = [(record.name, record.fingerprint) for record in records if record.fingerprint]
    pieces, links = find_pieces([fingerprint for _, fingerprint in files])
    near = [link for link in links if link.part >= NEAR_DUPLICATE_PART]
    near.sort(key=lambda link: -link.part)
    return pieces, [(files[k.first][0], files[k.second][0], k.part) for k in near]


def set_pieces(
    records: Iterable[FileRecord], pieces: Sequence[Piece], subsets: Sequence[str]
) -> list[FileRecord]:
    """Return the records with the piece and the subset of those that have a fingerprint."""
    piece_of = {member: n for n, piece in enumerate(pieces) for member in piece.members}
    updated, number = [], 0
    for record in records:
        if record.fingerprint:
            piece = piece_of[number]
            record = replace(record, piece=piece, subset=subsets[piece])
            number += 1
        updated.append(record)
    return updated


# --------------------------------------------------------------------------------- command


def build_parser() -> Parser:
    """Return the parser of the command line."""
    usage = "python3 %(prog)s [options] [midi_dir] [save_dir] [workers]"
    parser = Parser("preprocess.py", __doc__ or "", PreprocessConfig(), usage=usage)
    count, seconds = Number(int, 1, 1024), Number(float, above=0)

    add = parser.add_argument_group("input and output").add_argument
    add("midi_dir", nargs="?", help="folder of MIDI files, with all folders below it")
    add("save_dir", nargs="?", help="folder for the .data files")
    add("workers", nargs="?", type=count, help="worker processes (default: one per core)")
    add("--time-limit", type=seconds, metavar="SECONDS", help="time limit for one file")
    add("--report", action="store_true", help="also write SAVE_DIR/report.html with statistics")

    add = parser.add_argument_group("data").add_argument
    add("--split", metavar="A,B,C", help="shares of train, validation, test, such as 80,10,10")
    add("--legacy", "--original", action="store_true", help="use the original's event encoding")

    add = parser.add_argument_group(
        "filters (files outside these limits are rejected)"
    ).add_argument
    add("--min-seconds", type=Number(float, 0), metavar="SECONDS", help="shortest performance")
    add("--max-seconds", type=seconds, metavar="SECONDS", help="longest performance")
    add("--min-density", type=Number(float, 0), metavar="RATE", help="fewest notes/s")
    add("--max-density", type=seconds, metavar="RATE", help="most notes/s")
    add(
        "--max-outside",
        type=Number(float, 0, 1),
        metavar="SHARE",
        help="largest share of notes outside the piano's range",
    )
    add(
        "--expressive",
        action="store_true",
        help="reject onsets on a grid, and velocities that are all the same, as in a score",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> PreprocessConfig:
    """Parse the command line; a wrong one ends the program with one line and exit status 2."""
    parser = build_parser()
    options = PreprocessConfig(**vars(parser.parse_args(argv)))
    try:
        if options.split:
            parse_split(options.split)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 if SAVE_DIR holds none of the files."""
    options = parse_args(argv)

    def run() -> int:
        if options.report:
            utils.import_optional("matplotlib", "--report")  # fail before the work, not after
        summary = preprocess(options)
        if options.report:
            report = Path(options.save_dir, "report.html")
            utils.atomic_write(report, render_report(summary, options.midi_dir))
        if summary.midi_files:
            print(*format_summary(summary), sep="\n")
            if options.report:
                print(f"report: {report}")
        if not summary.performances:
            raise ValueError(format_no_files(options.midi_dir, summary))
        return 0

    return utils.run_command("preprocess.py", run, "interrupted; finished files are kept")


def format_no_files(midi_dir: str, summary: Summary) -> str:
    """Return what is wrong with a MIDI folder without usable files, and what to do."""
    if not Path(midi_dir).is_dir():
        problem = "not a folder"
    else:
        problem = "no usable MIDI file in it" if summary.midi_files else "no MIDI file in it"
    return f"{midi_dir!r}: {problem}; to download some: {FETCH_COMMAND}"


if __name__ == "__main__":
    sys.exit(main())
