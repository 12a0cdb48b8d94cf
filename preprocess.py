"""Convert a folder of MIDI files to the .data files that train.py reads.

examples:
  python3 preprocess.py
  python3 preprocess.py midi dataset/processed --split 80,10,10 --report
  python3 preprocess.py midi dataset/processed --min-seconds 30 --expressive
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

# Ctrl-C while torch is imported ends the program without a traceback
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import utils
from config import FETCH_COMMAND, MANIFEST_FILE, MIDI_SUFFIXES, PreprocessConfig, parse_split
from midi.playback import TRACKS_HELP, MissingTrackError, check_tracks
from utils import Number, Parser

# ------------------------------------------------------------------------------ command line


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

    add("--quiet", action="store_true", help="print nothing but errors")

    add = parser.add_argument_group("data").add_argument
    add("--split", metavar="A,B,C", help="shares of train, validation, test, such as 80,10,10")
    prune = "remove the data of MIDI files that are gone from midi_dir"
    add("--prune", action="store_true", help=prune)
    add("--tracks", metavar="auto|all|piano|NAME,..", help=TRACKS_HELP)
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
        check_tracks("--tracks", options.tracks)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    parse_args()  # before the slow imports: --help and errors in the command line come at once

import numpy as np
import progress.bar

from corpus.dedup import NEAR_DUPLICATE_PART, Fingerprint, find_pieces
from corpus.filters import PerformanceStats, find_rejections, select_filters
from corpus.manifest import DataEntry, DataSet, MidiFile, Plan, load_checked, read_stamp
from corpus.performance import Performance, format_made_with, hash_source
from corpus.pool import Job, JobFailure, Result, WorkerPool
from corpus.split import DataFolder, assign_subsets
from corpus.summary import (
    CONVERTED,
    DUPLICATE,
    PREVIOUS,
    REJECTED,
    SKIPPED,
    DataChanges,
    FileRecord,
    Summary,
    count_reasons,
    format_summary,
)
from midi.notes import READER_VERSION, has_only_drums, read_midi
from sequence import CURRENT, LEGACY, ControlSeq, Encoding, EventSeq, NoteSeq, measure_onset_errors
from web.report import check_report_path, render_report

MIN_NOTES = 10  # of a performance; files with fewer are rejected
MAX_FILE_SIZE = 64 << 20  # bytes
# errors that only the name of one file causes; any other error while writing ends the run
NAME_ERRORS = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
DATA_REMAINS = "its .data file of an earlier run remains"
DATA_REMOVED = "its .data file is removed"


# --------------------------------------------------------------- one file, in a worker process


class Rejected(Exception):
    """The reason why a file cannot be used, and optionally a detail."""


def convert_file(
    record: FileRecord,
    encoding: Encoding,
    tracks: str,
    filters: Mapping[str, float],
    current: Mapping[str, bool],
    fingerprint: bool,
) -> tuple[FileRecord, Performance | None]:
    """Encode one file; return its record, and the performance if it is new.

    tracks: see `midi.playback.select_instruments`; filters: the limit of each filter that is on;
    current: the hashes of MIDI files whose performance is in the data folder, and whether their
    statistics are needed; fingerprint: compute the fingerprint.
    """
    performance = None
    try:
        content = read_content(record.path)
        source = hash_source(content)
        record = replace(record, source=source)
        if current.get(source, True):
            notes, stats = read_notes(content, encoding, tracks)
            for rejection in find_rejections(stats, filters):
                raise Rejected(rejection.reason, rejection.detail)
            record = replace(record, stats=stats)
        if source not in current:
            performance = encode_notes(notes, source, encoding, tracks)
            if fingerprint:
                record = replace(record, fingerprint=Fingerprint.compute(performance))
    except Rejected as error:
        return reject(record, *error.args), None
    return record, performance


def describe_data(path: str, root: Path, fingerprint: bool) -> DataEntry | str:
    """Check a `.data` file; return its entry for the manifest, or the reason why it is damaged.

    path: below the data folder `root`; fingerprint: compute the sketch, too.
    """
    try:
        performance = load_checked(root / path)
    except (OSError, ValueError) as error:
        return str(error).removeprefix(f"{root / path}: ")
    words = Fingerprint.compute(performance).words if fingerprint else None
    return DataEntry.describe(path, performance, words=words)


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


def read_notes(
    content: bytes, encoding: Encoding, tracks: str = "auto"
) -> tuple[NoteSeq, PerformanceStats]:
    """Return the notes, moved to start at 0, and their statistics.

    Raises Rejected without notes, or if nearly all notes are of other instruments.
    """
    try:
        notes, midi_stats = read_midi(content, tracks, sustain=not encoding.is_legacy)
        if not len(notes) and has_only_drums(content):
            raise Rejected("only drums")
    except MissingTrackError as error:
        raise Rejected("no such track", str(error)) from error
    except ValueError as error:
        raise Rejected("unreadable", str(error)) from error
    others = sum(i.notes for i in midi_stats.instruments if not (i.is_used or i.is_drum))
    if len(notes) < MIN_NOTES and others:
        detail = f"{len(notes)}, and {others:,} of other instruments; see --tracks"
        raise Rejected("too few piano notes", detail)
    if not len(notes):
        raise Rejected("no notes")
    notes = notes.trim_start()
    return notes, PerformanceStats.measure(notes, midi_stats)


def encode_notes(
    notes: NoteSeq, source: str, encoding: Encoding, tracks: str = "auto"
) -> Performance:
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
        reader=READER_VERSION,
        tracks=tracks,
    )


# ------------------------------------------------------------------------------ the folder


def preprocess(options: PreprocessConfig) -> Summary:
    """Convert the files that are new or have changed; with a split, move them to its subsets.

    Raises OSError if SAVE_DIR cannot be written, and ValueError if its split.json is damaged, or
    if it is not certain which MIDI files are gone.
    """
    root, save_dir = Path(options.midi_dir), Path(options.save_dir)
    errors: list[OSError] = []
    paths = list(utils.find_files(root, MIDI_SUFFIXES, errors)) if root.is_dir() else []
    records = [FileRecord(path.relative_to(root).as_posix(), path) for path in paths]
    unreadable = [reject_unreadable(error) for error in errors]
    utils.check_writable(save_dir)
    folder = DataFolder.open(save_dir, options.split)
    if not records:
        return Summary(unreadable)
    if options.prune and any(record.path.is_dir() for record in unreadable):
        raise ValueError(
            f"argument --prune: {unreadable[0].path} cannot be read, so it is not certain which "
            "MIDI files are gone"
        )
    with utils.lock_file(save_dir / MANIFEST_FILE):
        dataset = DataSet(folder, needs_words(options, folder))
        take_over_data(dataset, options)
        dataset.start_split()
        sources = MidiSources(root, save_dir, paths)
        records = convert_files(dataset, sources, records, options)
        if all(record.outcome == REJECTED for record in records):  # keep what there is
            dataset.end()
            return Summary([*unreadable, *records], select_filters(vars(options)))
        summary = update_folder(dataset, sources, records, options)
        return replace(summary, records=[*unreadable, *summary.records])


def needs_words(options: PreprocessConfig, folder: DataFolder) -> bool:
    """Return whether the files are grouped by piece."""
    return options.report or bool(folder.split)


def reject(record: FileRecord, reason: str, detail: str = "") -> FileRecord:
    """Return the record of a file that is not used."""
    return replace(record, outcome=REJECTED, reason=reason, detail=detail, fingerprint=None)


def reject_unreadable(error: OSError) -> FileRecord:
    """Return the record of a folder that cannot be read, or of something that is no file."""
    path, detail = Path(error.filename), str(error.strerror)
    reason = "unreadable folder" if path.is_dir() else "not a file"
    return FileRecord(str(path), path, REJECTED, reason, detail)


class MidiSources:
    """The places of MIDI files, as paths from the data folder."""

    def __init__(self, root: Path, save_dir: Path, paths: Iterable[Path]) -> None:
        self._base = os.path.realpath(save_dir)
        self._root = self._locate(root)
        folders: dict[Path, str] = {}
        self._paths = {}
        for path in paths:
            if path.parent not in folders:
                folders[path.parent] = self._locate(path.parent)
            place = os.path.join(folders[path.parent], path.name)
            self._paths[path.relative_to(root).as_posix()] = place
        self._found = set(self._paths.values())

    def _locate(self, path: Path) -> str:
        try:
            return os.path.relpath(os.path.realpath(path), self._base)
        except ValueError:  # on another drive of Windows
            return os.path.realpath(path)

    def get_path(self, name: str) -> str:
        """Return the path of the MIDI file `name` from the data folder."""
        return self._paths[name]

    def is_elsewhere(self, entry: DataEntry) -> bool:
        """Return whether the MIDI file of an entry exists, but not below MIDI_DIR."""
        if not entry.midi or entry.midi in self._found:
            return False
        is_below = entry.midi.startswith(os.path.join(self._root, ""))
        return not is_below and os.path.isfile(os.path.join(self._base, entry.midi))


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], options: PreprocessConfig
) -> Iterator[Result | JobFailure]:
    """Apply a function to each job in worker processes; yield the results in order."""
    workers = min(options.workers or os.cpu_count() or 1, len(jobs))
    return WorkerPool(function, workers, options.time_limit).run(iter(jobs))


def take_over_data(dataset: DataSet, options: PreprocessConfig) -> None:
    """Open the `.data` files that the manifest does not know."""
    describe = partial(
        describe_data, root=dataset.root, fingerprint=needs_words(options, dataset.folder)
    )
    results = run_jobs(describe, dataset.unknown, options)
    for path, result in zip(dataset.unknown, results, strict=True):
        if isinstance(result, JobFailure):
            result = f"{result.reason} {result.detail}".strip()
        dataset.take_over(path, result)


# ---------------------------------------------------------------------------- conversion


def convert_files(
    dataset: DataSet,
    sources: MidiSources,
    records: Sequence[FileRecord],
    options: PreprocessConfig,
) -> list[FileRecord]:
    """Write a `.data` file for each new performance; return the records.

    The records of usable files have the digest of their events.
    """
    filters, folder = select_filters(vars(options)), dataset.folder
    encoding = LEGACY if options.legacy else CURRENT
    digests = dataset.find_sources(format_made_with(encoding, READER_VERSION, options.tracks))
    must_measure = options.report or bool(filters)
    current = {
        source: must_measure and dataset.get(digest).stats is None
        for source, digest in digests.items()
    }
    records = [add_source(record, dataset.manifest.files) for record in records]
    jobs = [record for record in records if current.get(record.source, True)]
    convert = partial(
        convert_file,
        encoding=encoding,
        tracks=options.tracks,
        filters=filters,
        current=current,
        fingerprint=needs_words(options, folder),
    )
    results = run_jobs(convert, jobs, options)
    stored = []
    suffix = "%(index)d/%(max)d  %(eta_td)s"
    with progress.bar.Bar("preprocessing", max=len(records), suffix=suffix, file=sys.stderr) as bar:
        for record in records:
            bar.next()
            result = next(results) if current.get(record.source, True) else (record, None)
            if isinstance(result, JobFailure):
                record = reject(replace(record, source=""), result.reason, result.detail)
            else:
                record, performance = result
                if record.outcome != REJECTED and performance is None:
                    record = replace(record, digest=digests[record.source])
                    record = keep_result(dataset, record, filters)
                elif performance is not None:
                    record = store_result(dataset, sources, record, performance)
            stored.append(record)
    for _ in results:  # ends the workers
        pass
    return stored


def add_source(record: FileRecord, files: Mapping[str, MidiFile]) -> FileRecord:
    """Return the record with its stamp, and with its hash if the last run had the same stamp."""
    stamp, before = read_stamp(record.path), files.get(record.name)
    source = before.source if before is not None and before.stamp == stamp else ""
    return replace(record, stamp=stamp, source=source)


def keep_result(dataset: DataSet, record: FileRecord, filters: Mapping[str, float]) -> FileRecord:
    """Return the record of a file whose performance the data folder has."""
    if record.stats is not None:  # just measured
        dataset.update(dataset.get(record.digest).path, stats=record.stats)
    stats = dataset.get(record.digest).stats
    if stats is not None:
        for rejection in find_rejections(stats, filters):
            return reject(record, rejection.reason, rejection.detail)
    return record


def store_result(
    dataset: DataSet, sources: MidiSources, record: FileRecord, performance: Performance
) -> FileRecord:
    """Write the `.data` file of a performance unless the data folder has it; return the record."""
    words = None if record.fingerprint is None else record.fingerprint.words
    entry = DataEntry.describe("", performance, stats=record.stats, words=words)
    entry = replace(entry, midi=sources.get_path(record.name))
    record = replace(record, digest=entry.digest)
    if dataset.has(entry.digest, entry.made_with):
        return record
    for other in dataset.find_name(record.name):
        if other.digest != entry.digest and sources.is_elsewhere(other):
            detail = f"{other.path} is that of {other.midi}; use another SAVE_DIR"
            return reject(record, "name in use", detail)
    try:
        dataset.store(record.name, performance, entry)
    except OSError as error:
        if error.errno not in NAME_ERRORS:
            raise
        return reject(record, "cannot be written", str(error.strerror))
    return record


# ------------------------------------------------------------------------- the whole folder


def update_folder(
    dataset: DataSet,
    sources: MidiSources,
    records: Sequence[FileRecord],
    options: PreprocessConfig,
) -> Summary:
    """Make the data folder agree with the MIDI files; return the summary of the run."""
    filters, previous_filters = select_filters(vars(options)), dataset.previous_filters
    usable = {record.name: record.digest for record in records if record.outcome != REJECTED}
    rejected = {record.name: record.source for record in records if record.outcome == REJECTED}
    plan = dataset.make_plan(usable, rejected, sources.is_elsewhere)
    dataset.inherit_subsets(plan)
    changes = remove_data(dataset, plan, usable, options.prune)
    for name, entry in plan.owners.items():
        dataset.update(entry.path, midi=sources.get_path(name))
    records = [finish_record(record, dataset, plan) for record in records]
    summary = group_records(dataset, plan, records, by_piece=needs_words(options, dataset.folder))
    made_with = {entry.digest: entry.made_with for entry in dataset.entries.values()}
    files = {
        record.name: MidiFile(record.stamp, record.source, record.digest, made_with[record.digest])
        for record in records
        if record.outcome != REJECTED
    }
    dataset.save(is_complete=True, files=files, filters=filters)
    changes = replace(changes, previous_filters=previous_filters)
    return replace(summary, active_filters=filters, changes=changes)


def remove_data(dataset: DataSet, plan: Plan, usable: Container[str], prune: bool) -> DataChanges:
    """Remove the `.data` files that must not stay; return what was done and found.

    usable: the names of the usable MIDI files; prune: remove data without MIDI file, too.
    """
    damaged = [
        (path, reason, dataset.get_name(path) in usable) for path, reason in dataset.damaged.items()
    ]
    gone = [dataset.get_name(entry.path) for entry in plan.gone]
    old_names = {name: dataset.get_name(entry.path) for name, entry in plan.owners.items()}
    pruned = [entry.path for entry in plan.gone]
    pruned += [path for path, _, is_repaired in damaged if not is_repaired]
    repaired = [path for path, _, is_repaired in damaged if is_repaired]
    dataset.remove(entry.path for entry in [*plan.filtered, *plan.replaced])
    dataset.remove([*repaired, *(copy.path for copy, _ in plan.copies)])
    if prune:
        dataset.remove(pruned)
    return DataChanges(
        renamed=[(old, name) for name, old in old_names.items() if old != name],
        copies=[(copy.path, kept) for copy, kept in plan.copies],
        gone=[] if prune else gone,
        pruned=pruned if prune else [],
        damaged=[
            (str(dataset.root / path), reason, is_repaired)
            for path, reason, is_repaired in damaged
            if is_repaired or not prune
        ],
        split=dataset.split_count,
        others=len(plan.others),
    )


def finish_record(record: FileRecord, dataset: DataSet, plan: Plan) -> FileRecord:
    """Return the record of a MIDI file with its outcome."""
    if record.outcome == REJECTED:
        remark = ""
        if record.source and record.source in {entry.source for entry in plan.filtered}:
            remark = DATA_REMOVED
        elif record.name in plan.remaining:
            remark = DATA_REMAINS
        return replace(record, detail="; ".join(filter(None, (record.detail, remark))))
    if record.name in plan.duplicates:
        other = plan.duplicates[record.name]
        return replace(record, outcome=DUPLICATE, duplicate_of=other, fingerprint=None)
    outcome = CONVERTED if record.digest in dataset.written else SKIPPED
    return replace(record, outcome=outcome).with_entry(dataset.get(record.digest))


def group_records(
    dataset: DataSet, plan: Plan, records: Sequence[FileRecord], by_piece: bool
) -> Summary:
    """Move each `.data` file to its place, with a split by piece; return the summary.

    by_piece: group the performances, which all have a fingerprint, by piece.
    """
    folder = dataset.folder
    by_path = {plan.owners[r.name].path: r for r in records if r.name in plan.owners}
    others = {
        path: FileRecord(dataset.get_name(path), dataset.root / path, PREVIOUS).with_entry(entry)
        for path, entry in dataset.entries.items()
        if path not in by_path
    }
    by_path |= others
    files = [(path, r, r.fingerprint) for path, r in by_path.items() if by_piece and r.fingerprint]
    pieces, links = find_pieces([fingerprint for *_, fingerprint in files])
    assignment = None
    if folder.split:
        current = {n: dataset.entries[path].subset for n, (path, *_) in enumerate(files)}
        current = {number: subset for number, subset in current.items() if subset}
        assignment = assign_subsets(pieces, current, folder.split)
        for piece, subset in zip(pieces, assignment.subsets, strict=True):
            for number in piece.members:
                dataset.update(files[number][0], piece=piece.identity.hex(), subset=subset)
    grouped = [[files[number][1] for number in piece.members] for piece in pieces]
    dataset.place({path: record.name for path, record in by_path.items()})
    if assignment is not None:
        names = [[record.name for record in group] for group in grouped]
        folder.write_split(list(zip(assignment.subsets, names, strict=True)))
    near = [link for link in links if link.part >= NEAR_DUPLICATE_PART]
    near.sort(key=lambda link: -link.part)
    return Summary(
        [*records, *others.values()],
        pieces=grouped,
        near_duplicates=[(files[n][1].name, files[m][1].name, part) for n, m, part in near],
        split=None if assignment is None else (folder, assignment),
    )


# --------------------------------------------------------------------------------- command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after an error, which includes that no file is usable."""
    options = parse_args(argv)

    def run() -> int:
        report = Path(options.save_dir, "report.html")
        if options.report:  # fail before the work, not after
            utils.import_optional("matplotlib", "--report")
            check_report_path(report)
        with utils.redirect_messages(options.quiet):
            return convert(report)

    def convert(report: Path) -> int:
        summary = preprocess(options)
        if options.report:
            utils.atomic_write(report, render_report(summary, options.midi_dir))
        if summary.midi_files:
            for line in format_summary(summary):
                utils.print_line(line)
            if options.report:
                utils.print_line(f"report: {report}")
            if all(record.outcome == REJECTED for record in summary.records):
                files = utils.format_count(summary.midi_files, "file", "files")
                reasons = count_reasons(summary)
                raise ValueError(
                    f"{options.midi_dir}: no file can be used: {reasons} of {files}; the data of "
                    "earlier runs has not changed"
                )
        else:
            problem = "no MIDI file in it" if Path(options.midi_dir).is_dir() else "no such folder"
            raise ValueError(
                f"{options.midi_dir}: {problem}: put MIDI files there, "
                f"or download some: {FETCH_COMMAND}"
            )
        return 0

    return utils.run_command("preprocess.py", run, "interrupted; run it again to complete the data")


if __name__ == "__main__":
    sys.exit(main())
