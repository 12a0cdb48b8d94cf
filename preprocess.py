"""Turn a folder of MIDI files into `.data` files that train.py learns from."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import progress.bar

import config
import utils
from config import PreprocessConfig
from data import SUFFIX, Performance
from notes import only_drums
from sequence import CURRENT, ORIGINAL, ControlSeq, Encoding, EventSeq, NoteSeq, onset_errors
from workers import Crew, Lost

MIDI_SUFFIXES = (".mid", ".midi", ".kar")
FEWEST_NOTES = 10
LARGEST_FILE = 64 << 20  # bytes


class Refused(Exception):
    """A file that is not made into data; the two texts are the reason and the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Job:
    """A MIDI file, and the hash of what its `.data` file was made from, if there is one."""

    path: Path
    known_source: str | None
    encoding: Encoding


Outcome = Performance | Refused | None  # None: unchanged


def convert(job: Job) -> Outcome:
    """Encode one file, or say why not."""
    try:
        content = _content(job.path)
        source = hashlib.blake2b(content, digest_size=16).hexdigest()
        return None if source == job.known_source else encode(content, source, job.encoding)
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
    try:
        notes = NoteSeq.from_midi_bytes(content, sustain=not encoding.floored).trimmed()
        if not len(notes):
            raise Refused("only drums" if only_drums(content) else "no notes")
    except ValueError as error:
        raise Refused("unreadable", str(error)) from error
    try:
        events = EventSeq.from_note_seq(notes, encoding)
    except ValueError as error:
        raise Refused("too long", str(error)) from error
    struck = events.note_ons
    if struck < FEWEST_NOTES:
        raise Refused("too short", f"{struck} notes on the piano, {FEWEST_NOTES} are needed")
    errors = np.zeros(1) if encoding.floored else onset_errors(notes, events)
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


# ----------------------------------------------------------------------------------- report


@dataclass
class Report:
    """What became of the files, and what is in the data."""

    found: int
    done: int = 0
    skipped: int = 0
    refused: list[tuple[str, Refused]] = field(default_factory=list)
    twins: list[tuple[str, str]] = field(default_factory=list)
    milliseconds: int = 0
    notes: int = 0
    events: int = 0
    error_sum: float = 0.0
    error_max: float = 0.0

    def count(self, performance: Performance) -> None:
        """Add a performance to the totals."""
        self.milliseconds += performance.milliseconds
        self.notes += performance.notes
        self.events += len(performance)
        self.error_sum += performance.onset_error_mean * performance.notes
        self.error_max = max(self.error_max, performance.onset_error_max)

    def lines(self) -> Iterator[str]:
        """The report, as sentences and lists."""
        for name, refusal in self.refused:
            yield f"refused, {refusal.reason}: {name}" + (
                f" ({refusal.detail})" if refusal.detail else ""
            )
        for name, first in self.twins:
            yield f"the same performance, kept once: {name} is {first}"
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


def preprocess(options: PreprocessConfig) -> Report:
    """Convert what is new or changed; OSError if the folder for the data can not be used."""
    root, save = Path(options.midi_dir), Path(options.save_dir)
    closed: list[OSError] = []
    paths = list(utils.find_files(root, MIDI_SUFFIXES, closed)) if root.is_dir() else []
    utils.check_writable(save)
    names = [path.relative_to(root).as_posix() for path in paths]
    targets = [save / (name + SUFFIX) for name in names]
    encoding = ORIGINAL if options.original else CURRENT
    jobs = (
        Job(path, _source(target, encoding), encoding)
        for path, target in zip(paths, targets, strict=True)
    )
    workers = min(options.workers or os.cpu_count() or 1, max(1, len(paths)))
    report = Report(len(paths) + len(closed))
    report.refused += [(str(e.filename), Refused("closed folder", str(e.strerror))) for e in closed]
    seen: dict[bytes, str] = {}
    bar = progress.bar.Bar("preprocessing", max=len(paths), suffix="%(index)d/%(max)d  %(eta_td)s")
    results = Crew(convert, workers, options.time_limit).outcomes(jobs)
    for name, target, outcome in zip(names, targets, results, strict=True):
        bar.next()
        if isinstance(outcome, Lost):
            outcome = Refused(outcome.reason, outcome.detail)
        if isinstance(outcome, Refused):
            report.refused.append((name, outcome))
            continue
        performance = outcome or Performance.load(target)
        twin = seen.setdefault(_fingerprint(performance), name)
        if twin != name:
            report.twins.append((name, twin + (", but has data" if outcome is None else "")))
        elif outcome is None:
            report.skipped += 1
            report.count(performance)
        elif _written(target, name, performance, report):
            report.done += 1
            report.count(performance)
    bar.finish()
    return report


def _source(target: Path, encoding: Encoding) -> str | None:
    try:
        there = Performance.load(target)
    except (OSError, ValueError):  # not there, or not whole: made again
        return None
    return there.source if there.encoding is encoding else None


def _fingerprint(performance: Performance) -> bytes:
    return hashlib.blake2b(performance.events.tobytes(), digest_size=16).digest()


# what is wrong with one name, not with the disk
OF_ONE_NAME = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def _written(target: Path, name: str, performance: Performance, report: Report) -> bool:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        utils.atomic_write(target, performance.to_bytes(), durable=False)
    except OSError as error:
        if error.errno not in OF_ONE_NAME:
            raise
        report.refused.append((name, Refused("can not be written", str(error.strerror))))
        return False
    return True


def parse_args(argv: Sequence[str] | None = None) -> PreprocessConfig:
    """Read the command line; a wrong one ends the program with a sentence and exit 2."""
    parser = config.Parser(prog="preprocess.py", description=__doc__)
    return config.parse(parser, PreprocessConfig, argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if nothing could be written, 0 otherwise."""
    options = parse_args(argv)

    def verb() -> int:
        report = preprocess(options)
        if report.found:
            print(*report.lines(), sep="\n")
        if not report.done + report.skipped:
            raise ValueError(_without_files(options, report))
        return 0

    return utils.run_command("preprocess.py", verb, "stopped; what is done is kept")


def _without_files(options: PreprocessConfig, report: Report) -> str:
    if not Path(options.midi_dir).is_dir():
        found = "this is no folder:"
    else:
        found = f"no {'usable ' if report.found else ''}MIDI file in"
    return f"{found} {options.midi_dir!r}; to fetch some: {config.FETCH_COMMAND}"


if __name__ == "__main__":
    sys.exit(main())
