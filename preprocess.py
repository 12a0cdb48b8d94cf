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
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

# Ctrl-C while torch is imported ends the program without a traceback
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import numpy as np
import progress.bar

import utils
from config import FETCH_COMMAND, MIDI_SUFFIXES, PreprocessConfig, parse_split
from corpus.dedup import NEAR_DUPLICATE_PART, Fingerprint, find_pieces, hash_events
from corpus.filters import PerformanceStats, find_rejections, select_filters
from corpus.performance import Performance
from corpus.pool import JobFailure, Result, WorkerPool
from corpus.split import DataFolder, assign_subsets
from corpus.summary import (
    CONVERTED,
    DUPLICATE,
    PREVIOUS,
    REJECTED,
    SKIPPED,
    FileRecord,
    Summary,
    format_summary,
)
from midi.notes import has_only_drums, read_midi
from sequence import CURRENT, LEGACY, ControlSeq, Encoding, EventSeq, NoteSeq, measure_onset_errors
from utils import Number, Parser
from web.report import check_report_path, render_report

MIN_NOTES = 10  # of a performance; files with fewer are rejected
MAX_FILE_SIZE = 64 << 20  # bytes
# errors that only the name of one file causes; any other error while writing ends the run
NAME_ERRORS = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
DATA_REMAINS = "its .data file of an earlier run remains"


# --------------------------------------------------------------- one file, in a worker process


class Rejected(Exception):
    """The reason why a file cannot be used, and optionally a detail."""


def convert_file(
    record: FileRecord,
    encoding: Encoding,
    filters: Mapping[str, float],
    measure: bool,
    fingerprint: bool,
) -> tuple[FileRecord, Performance | None]:
    """Encode one file; return its record, and the performance if it is new.

    filters: the limit of each filter that is on; measure: compute the statistics of an unchanged
    file too; fingerprint: compute the fingerprint.
    """
    try:
        content = read_content(record.path)
        source = hashlib.blake2b(content, digest_size=16).hexdigest()
        previous = load_previous(record.data_path, source, encoding)
        if measure or not previous:
            notes, stats = read_notes(content, encoding)
            for rejection in find_rejections(stats, filters):
                raise Rejected(rejection.reason, rejection.detail)
            record = replace(record, stats=stats)
        performance = previous or encode_notes(notes, source, encoding)
        if fingerprint:
            record = replace(record, fingerprint=Fingerprint.compute(performance))
    except Rejected as error:
        return reject(record, *error.args), None
    return record, None if previous else performance


def load_previous(path: Path, source: str, encoding: Encoding) -> Performance | None:
    """Load the `.data` file of an earlier run; return None if it is out of date or unreadable."""
    try:
        performance = Performance.load(path)
    except (OSError, ValueError):  # missing or damaged
        return None
    is_unchanged = performance.source == source and performance.encoding is encoding
    return performance if is_unchanged else None


def read_content(path: Path) -> bytes:
    """Return the content of a MIDI file; raise Rejected if it cannot be read or is too large."""
    try:
        if not path.is_file():
            raise Rejected("not a file")
        if path.stat().st_size > MAX_FILE_SIZE:
            raise Rejected("too large", f"over {MAX_FILE_SIZE >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise Rejected("unreadable", str(error)) from error


def read_notes(content: bytes, encoding: Encoding) -> tuple[NoteSeq, PerformanceStats]:
    """Return the notes, moved to start at 0, and their statistics; raise Rejected without notes."""
    try:
        notes, midi_stats = read_midi(content, sustain=not encoding.is_legacy)
        if not len(notes):
            raise Rejected("only drums" if has_only_drums(content) else "no notes")
    except ValueError as error:
        raise Rejected("unreadable", str(error)) from error
    notes = notes.trim_start()
    return notes, PerformanceStats.measure(notes, midi_stats)


def encode_notes(notes: NoteSeq, source: str, encoding: Encoding) -> Performance:
    """Encode notes that start at 0; raise Rejected if they are too few or too long.

    source: the hash of their MIDI file.
    """
    try:
        events = EventSeq.from_note_seq(notes, encoding)
    except ValueError as error:
        raise Rejected("too long", str(error)) from error
    if events.note_ons < MIN_NOTES:
        raise Rejected("too short", f"{events.note_ons} notes, at least {MIN_NOTES} are needed")
    errors = np.zeros(1) if encoding.is_legacy else measure_onset_errors(notes, events)
    return Performance(
        events=events.to_array(),
        controls=ControlSeq.from_event_seq(events).pack(),
        notes=events.note_ons,
        milliseconds=events.total_ms,
        onset_error_mean=float(errors.mean()),
        onset_error_max=float(errors.max()),
        source=source,
        encoding=encoding,
    )


# ------------------------------------------------------------------------------ the folder


def preprocess(options: PreprocessConfig) -> Summary:
    """Convert the files that are new or have changed; with a split, move them to its subsets.

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
    convert = partial(
        convert_file,
        encoding=LEGACY if options.legacy else CURRENT,
        filters=filters,
        measure=options.report or bool(filters),
        fingerprint=options.report or bool(folder.split),
    )
    results = run_jobs(convert, records, options)
    records = [*map(reject_folder, unreadable), *store_results(records, results)]
    subsets = folder.find_subsets()
    records = [*records, *load_others(folder, subsets, records, options)]
    return group_records(folder, subsets, records, filters)


def reject(record: FileRecord, reason: str, detail: str = "") -> FileRecord:
    """Return the record of a file that is not used."""
    if os.path.isfile(record.data_path):
        detail = f"{detail}; {DATA_REMAINS}" if detail else DATA_REMAINS
    return replace(record, outcome=REJECTED, reason=reason, detail=detail, fingerprint=None)


def reject_folder(error: OSError) -> FileRecord:
    """Return the record of a folder that cannot be read."""
    path, detail = Path(error.filename), str(error.strerror)
    return FileRecord(str(path), path, path, REJECTED, "unreadable folder", detail)


def run_jobs(
    function: Callable[[FileRecord], Result],
    records: Sequence[FileRecord],
    options: PreprocessConfig,
) -> Iterator[Result | JobFailure]:
    """Apply a function to each record in worker processes; yield the results in order."""
    workers = min(options.workers or os.cpu_count() or 1, len(records))
    return WorkerPool(function, workers, options.time_limit).run(iter(records))


def store_results(
    records: Sequence[FileRecord],
    results: Iterable[tuple[FileRecord, Performance | None] | JobFailure],
) -> list[FileRecord]:
    """Write a `.data` file for each new performance; return the records with their outcomes."""
    suffix = "%(index)d/%(max)d  %(eta_td)s"
    names: dict[bytes, str] = {}  # of the first file, by the hash of its events
    stored = []
    with progress.bar.Bar("preprocessing", max=len(records), suffix=suffix, file=sys.stderr) as bar:
        for record, result in zip(records, results, strict=True):
            bar.next()
            if isinstance(result, JobFailure):
                record = reject(record, result.reason, result.detail)
            elif result[0].outcome == REJECTED:
                record = result[0]
            else:
                record = store_result(*result, names)
            stored.append(record)
    return stored


def store_result(
    record: FileRecord, performance: Performance | None, names: dict[bytes, str]
) -> FileRecord:
    """Write the `.data` file of a new performance that is no duplicate; return the final record.

    names: of the first file, by the hash of its events; this file is added if it is new.
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
            # the .data file of an unchanged duplicate stays in the split
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


def load_others(
    folder: DataFolder,
    subsets: Iterable[Path],
    records: Iterable[FileRecord],
    options: PreprocessConfig,
) -> list[FileRecord]:
    """Return records of the `.data` files in `subsets` that belong to none of `records`."""
    known = {record.data_path for record in records if record.fingerprint}
    others = [
        FileRecord(folder.find_midi_name(path), path, path, PREVIOUS)
        for path in subsets
        if path not in known
    ]
    results = run_jobs(load_fingerprint, others, options)
    return [
        replace(record, reason=result.reason) if isinstance(result, JobFailure) else result
        for record, result in zip(others, results, strict=True)
    ]


def load_fingerprint(record: FileRecord) -> FileRecord:
    """Return the record of a `.data` file with its length and fingerprint."""
    try:
        performance = Performance.load(record.data_path)
    except (OSError, ValueError):
        return replace(record, reason="damaged")
    record = record.with_performance(performance)
    return replace(record, fingerprint=Fingerprint.compute(performance))


def group_records(
    folder: DataFolder,
    subsets: Mapping[Path, str],
    records: Sequence[FileRecord],
    filters: Mapping[str, float],
) -> Summary:
    """Group the records that have a fingerprint by piece; with a split, move their files.

    subsets: the subset of each `.data` file that is already in one.
    """
    files = [(record, record.fingerprint) for record in records if record.fingerprint]
    pieces, links = find_pieces([fingerprint for _, fingerprint in files])
    split = None
    if folder.split:
        paths = [record.data_path for record, _ in files]
        current = {n: subsets[path] for n, path in enumerate(paths) if path in subsets}
        split = folder, assign_subsets(pieces, current, folder.split)
        folder.apply_split(paths, pieces, split[1].subsets)
    near = [link for link in links if link.part >= NEAR_DUPLICATE_PART]
    near.sort(key=lambda link: -link.part)
    return Summary(
        records,
        filters,
        pieces=[[files[n][0] for n in piece.members] for piece in pieces],
        near_duplicates=[(files[n][0].name, files[m][0].name, part) for n, m, part in near],
        split=split,
    )


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

    filters = parser.add_argument_group("filters (files outside these limits are rejected)")
    add = filters.add_argument
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
        help="reject scores: onsets on a grid, or nearly all velocities the same",
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> PreprocessConfig:
    """Parse the command line; print an error as one line, and exit with status 2."""
    parser = build_parser()
    options = PreprocessConfig(**vars(parser.parse_args(argv)))
    try:
        if options.split:
            parse_split(options.split)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after an error, which includes that no file is usable."""
    options = parse_args(argv)

    def run() -> int:
        report = Path(options.save_dir, "report.html")
        if options.report:  # fail before the work, not after
            utils.import_optional("matplotlib", "--report")
            check_report_path(report)
        summary = preprocess(options)
        if options.report:
            utils.atomic_write(report, render_report(summary, options.midi_dir))
        if summary.midi_files:
            for line in format_summary(summary):
                utils.print_line(line)
            if options.report:
                utils.print_line(f"report: {report}")
        if not summary.performances:
            problem = "no usable MIDI file in it" if summary.midi_files else "no MIDI file in it"
            if not Path(options.midi_dir).is_dir():
                problem = "not a folder"
            message = f"{options.midi_dir}: {problem}; to download some: {FETCH_COMMAND}"
            raise ValueError(message)
        return 0

    return utils.run_command("preprocess.py", run, "interrupted; finished files are kept")


if __name__ == "__main__":
    sys.exit(main())
