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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import progress.bar

import utils
from config import DATA_SUFFIX, FETCH_COMMAND, MIDI_SUFFIXES, PreprocessConfig, parse_split
from corpus.dedup import Heard, find_pieces, fingerprint
from corpus.filters import Traits, refusals, wishes
from corpus.performance import Performance
from corpus.pool import Crew, Lost
from corpus.split import Folder, assign
from corpus.summary import Ledger, Refused
from midi.notes import has_only_drums, read_midi
from sequence import CURRENT, LEGACY, ControlSeq, Encoding, EventSeq, NoteSeq, measure_onset_errors
from utils import Number, Parser
from web.report import render_report

FEWEST_NOTES = 10
LARGEST_FILE = 64 << 20  # bytes


@dataclass(frozen=True)
class Job:
    """A MIDI file, and what is known of it and asked about it.

    data: its `.data` file, there or not; known_source: the hash of what that was made from;
    wanted: filters that are on; measured, sketched: whether that is asked of a file that is
    unchanged.
    """

    path: Path
    data: Path
    known_source: str | None
    encoding: Encoding
    wanted: Mapping[str, float] = field(default_factory=dict)
    measured: bool = False
    sketched: bool = False


@dataclass(frozen=True)
class Converted:
    """What a worker found: the performance, unless unchanged, and what was asked for."""

    performance: Performance | None = None
    traits: Traits | None = None
    heard: Heard | None = None


Outcome = Converted | Refused


def convert(job: Job) -> Outcome:
    """Encode one file, or say why not."""
    try:
        content, performance, traits = _content(job.path), None, None
        source = hashlib.blake2b(content, digest_size=16).hexdigest()
        if source != job.known_source or job.measured:
            notes, traits = _played(content, job.encoding)
            for _, reason, detail in refusals(traits, job.wanted):
                raise Refused(reason, detail)
        if source != job.known_source:
            performance = _encoded(notes, source, job.encoding)
        heard = Heard.of(performance or Performance.load(job.data)) if job.sketched else None
        return Converted(performance, traits, heard)
    except Refused as refusal:
        return refusal


def _content(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise Refused("not a file")
        if path.stat().st_size > LARGEST_FILE:
            raise Refused("too large", f"over {LARGEST_FILE >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise Refused("unreadable", str(error)) from error


def encode(content: bytes, source: str, encoding: Encoding = CURRENT) -> Performance:
    """Make a performance, starting at its first note, of a MIDI file's content; or Refused."""
    return _encoded(_played(content, encoding)[0], source, encoding)


def _played(content: bytes, encoding: Encoding) -> tuple[NoteSeq, Traits]:
    """The notes, from the first one on, and what they are like."""
    try:
        notes, beside = read_midi(content, sustain=not encoding.is_legacy)
        if not len(notes):
            raise Refused("only drums" if has_only_drums(content) else "no notes")
    except ValueError as error:
        raise Refused("unreadable", str(error)) from error
    notes = notes.trim_start()
    return notes, Traits.of(notes, beside)


def _encoded(notes: NoteSeq, source: str, encoding: Encoding) -> Performance:
    try:
        events = EventSeq.from_note_seq(notes, encoding)
    except ValueError as error:
        raise Refused("too long", str(error)) from error
    struck = events.note_ons
    if struck < FEWEST_NOTES:
        raise Refused("too short", f"{struck} notes on the piano, {FEWEST_NOTES} are needed")
    errors = np.zeros(1) if encoding.is_legacy else measure_onset_errors(notes, events)
    return Performance(
        events=events.to_array(),
        controls=ControlSeq.from_event_seq(events).to_compressed_array(),
        notes=struck,
        milliseconds=events.total_ms,
        onset_error_mean=float(errors.mean()),
        onset_error_max=float(errors.max()),
        source=source,
        encoding=encoding,
    )


# ------------------------------------------------------------------------------ the folder


def preprocess(options: PreprocessConfig) -> Ledger:
    """Convert what is new or changed; OSError if the folder for the data can not be used."""
    root, save = Path(options.midi_dir), Path(options.save_dir)
    closed: list[OSError] = []
    paths = list(utils.find_files(root, MIDI_SUFFIXES, closed)) if root.is_dir() else []
    utils.check_writable(save)
    names = [path.relative_to(root).as_posix() for path in paths]
    folder = Folder.open(save, DATA_SUFFIX, options.split, names)
    ledger = Ledger(len(paths) + len(closed), wishes(options))
    ledger.refused += [(str(e.filename), Refused("closed folder", str(e.strerror))) for e in closed]
    heard = _convert_all(dict(zip(names, paths, strict=True)), folder, options, ledger)
    if folder.shares:
        _settle(folder, heard, options, ledger)
    elif options.report:
        pieces, links = find_pieces(list(heard.values()))
        ledger.note_pieces(
            pieces,
            links,
            [path.relative_to(save).as_posix()[: -len(DATA_SUFFIX)] for path in heard],
        )
    if options.report:
        utils.atomic_write(save / "report.html", render_report(ledger, options.midi_dir))
        ledger.remarks.append(f"the page: {save / 'report.html'}")
    return ledger


def _convert_all(
    paths: Mapping[str, Path], folder: Folder, options: PreprocessConfig, ledger: Ledger
) -> dict[Path, Heard]:
    """Convert the files and count them; what was heard in each that has data, if it is asked."""
    targets = [folder.target(name) for name in paths]
    jobs = _jobs(zip(paths.values(), targets, strict=True), folder, options, ledger)
    bar = progress.bar.Bar("preprocessing", max=len(paths), suffix="%(index)d/%(max)d  %(eta_td)s")
    seen: dict[bytes, str] = {}
    heard: dict[Path, Heard] = {}
    outcomes = _crew(convert, len(paths), options).outcomes(jobs)
    for name, target, outcome in zip(paths, targets, outcomes, strict=True):
        bar.next()
        if isinstance(outcome, Lost):
            outcome = Refused(outcome.reason, outcome.detail)
        if isinstance(outcome, Refused):
            ledger.refused.append((name, _with_data(outcome, target)))
            continue
        unchanged = outcome.performance is None
        performance = outcome.performance or Performance.load(target)
        twin = seen.setdefault(fingerprint(performance), name)
        if twin != name:
            ledger.twins.append((name, twin + (", but has data" if unchanged else "")))
        elif unchanged:
            ledger.skipped += 1
            ledger.count(name, performance, outcome.traits)
        elif _written(target, name, performance, ledger):
            ledger.done += 1
            ledger.count(name, performance, outcome.traits)
        if outcome.heard and (unchanged or twin == name) and target.is_file():
            heard[target] = outcome.heard
    bar.finish()
    return heard


def _jobs(
    places: Iterable[tuple[Path, Path]], folder: Folder, options: PreprocessConfig, ledger: Ledger
) -> Iterator[Job]:
    encoding = LEGACY if options.legacy else CURRENT
    measured = options.report or bool(ledger.wanted)
    sketched = options.report or bool(folder.shares)
    for path, data in places:
        source = _source(data, encoding)
        yield Job(path, data, source, encoding, ledger.wanted, measured, sketched)


def _crew(function: Callable[[Any], Any], jobs: int, options: PreprocessConfig) -> Crew[Any, Any]:
    workers = min(options.workers or os.cpu_count() or 1, max(1, jobs))
    return Crew(function, workers, options.time_limit)


def _with_data(refusal: Refused, target: Path) -> Refused:
    if not target.is_file():
        return refusal
    stays = "its data of an earlier run stays"
    return Refused(refusal.reason, f"{refusal.detail}; {stays}" if refusal.detail else stays)


def recall(path: Path) -> Heard | Refused:
    """Listen to a `.data` file."""
    try:
        return Heard.of(Performance.load(path))
    except (OSError, ValueError) as error:
        return Refused("damaged", str(error))


def _settle(
    folder: Folder, heard: dict[Path, Heard], options: PreprocessConfig, ledger: Ledger
) -> None:
    """Bring all data to the side of its piece, with what earlier runs left on the sides."""
    sides = dict(folder.sided())
    others = [path for path in sides if path not in heard]
    outcomes = _crew(recall, len(others), options).outcomes(iter(others)) if others else iter(())
    for path, outcome in zip(others, outcomes, strict=True):
        if isinstance(outcome, Heard):
            heard[path] = outcome
        else:
            ledger.remarks.append(f"left where it is, {outcome.reason}: {path}")
    pieces, links = find_pieces(list(heard.values()))
    there = {number: sides[path] for number, path in enumerate(heard) if path in sides}
    chosen = assign(pieces, there, folder.shares)
    ledger.note_pieces(pieces, links, list(map(folder.name, heard)))
    ledger.note_split(folder, chosen, pieces, [h.milliseconds for h in heard.values()])
    folder.settle(list(heard), pieces, chosen)


def _source(target: Path, encoding: Encoding) -> str | None:
    try:
        there = Performance.load(target)
    except (OSError, ValueError):  # not there, or not whole: made again
        return None
    return there.source if there.encoding is encoding else None


# what is wrong with one name, not with the disk
OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def _written(target: Path, name: str, performance: Performance, ledger: Ledger) -> bool:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        utils.atomic_write(target, performance.to_bytes(), durable=False)
    except OSError as error:
        if error.errno not in OF_ONE_NAME:
            raise
        ledger.refused.append((name, Refused("can not be written", str(error.strerror))))
        return False
    return True


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
    """Run the command; 1 if nothing could be written, 0 otherwise."""
    options = parse_args(argv)

    def verb() -> int:
        ledger = preprocess(options)
        if ledger.found:
            print(*ledger.lines(), sep="\n")
        if not ledger.done + ledger.skipped:
            raise ValueError(_without_files(options, ledger))
        return 0

    return utils.run_command("preprocess.py", verb, "stopped; what is done is kept")


def _without_files(options: PreprocessConfig, ledger: Ledger) -> str:
    if not Path(options.midi_dir).is_dir():
        found = "this is no folder:"
    else:
        found = f"no {'usable ' if ledger.found else ''}MIDI file in"
    return f"{found} {options.midi_dir!r}; to fetch some: {FETCH_COMMAND}"


if __name__ == "__main__":
    sys.exit(main())
