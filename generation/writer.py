"""Output files of a sample: MIDI file with metadata, piano roll, audio."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import utils
from generation.control_metrics import compare_sections
from generation.given_notes import Arrangement
from generation.pipeline import GenerationJob, decode_sample
from midi import synth
from midi.control_schedule import TIME_STEP, ControlSchedule
from midi.metadata import encode_metadata, find_primer_end, format_title, summarize_sample
from midi.pianoroll import draw_piano_roll
from sequence import EventSeq, NoteSeq
from utils import Array


@dataclass(frozen=True)
class Formats:
    """The formats of a sample besides MIDI: picture and audio.

    soundfont: .sf2 file for the audio; None: that of pretty_midi; two_tracks: whether the MIDI
    file has a second track with the given notes.
    """

    png: bool = False
    wav: bool = False
    soundfont: str | None = None
    two_tracks: bool = False


@dataclass(frozen=True)
class WrittenSample:
    """What was written; its text is the message about it.

    notes: the number of new notes; primer: seconds before them; given: the number of given notes;
    metadata: the texts in the MIDI file.
    """

    path: Path
    notes: int
    seconds: float
    metadata: dict[str, str]
    primer: float = 0.0
    given: int = 0

    def __str__(self) -> str:
        if self.given:
            return (
                f"{self.path}: {self.given} given and {self.notes} new notes, {self.seconds:.1f} s"
            )
        after = f" after the primer of {self.primer:.1f} s" if self.primer else ""
        unit = "note" if self.notes == 1 else "notes"
        return f"{self.path}: {self.notes} {unit}, {self.seconds - self.primer:.1f} s{after}"

    def to_record(self) -> dict[str, Any]:
        """Return the sample for JSON, with a list for the details that follow."""
        return {
            "path": str(self.path),
            "notes": self.notes,
            "given_notes": self.given,
            "seconds": round(self.seconds, 3),
            "primer_seconds": round(self.primer, 3),
            "seed": int(self.metadata["seed"]),
            "piece": int(self.metadata["piece"]),
            "control": self.metadata["control"],
            "command": self.metadata["made with"],
            "details": [],
        }


class OutputFiles:
    """The MIDI files of a run: FOLDER/output-000.mid and so on, after the existing files.

    A sample gets its name when it is first written, with its content, so that a run that ends
    early leaves no empty file, and two runs at the same time take different names.
    overwrite: start at 000, and remove the picture and audio of each old file.
    """

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.paths: dict[int, Path] = {}  # by the number of the sample
        self._names: Iterator[Path] = self._choose_names()

    def write(self, sample: int, content: bytes) -> Path:
        """Write a sample, or write it again; return its path."""
        while sample not in self.paths:
            path = next(self._names)
            with contextlib.suppress(FileExistsError):  # another run has taken the name
                utils.atomic_write(path, content, overwrite=self.overwrite)
                self.paths[sample] = path
                return path
        utils.atomic_write(self.paths[sample], content)
        return self.paths[sample]

    def _choose_names(self) -> Iterator[Path]:
        existing = (re.fullmatch(r"output-(\d+)\..*", path.name) for path in self.folder.iterdir())
        numbers = [] if self.overwrite else [int(match[1]) for match in existing if match]
        for number in itertools.count(max(numbers, default=-1) + 1):
            path = self.folder / f"output-{number:03d}.mid"
            if self.overwrite:
                for suffix in (".png", ".wav"):
                    path.with_suffix(suffix).unlink(missing_ok=True)
            yield path


def write_sample(
    write: Callable[[bytes], Path],
    job: GenerationJob,
    events: EventSeq,
    metadata: dict[str, str],
    formats: Formats,
) -> Iterator[str | WrittenSample]:
    """Write a sample as MIDI, and in the other formats; yield messages.

    write: writes the MIDI file and returns its path; events: the generated events;
    metadata: texts for the MIDI file.
    """
    notes = decode_sample(job, events)
    events = trim_events(job, events, notes)
    requested = find_requested_control(job, events)
    primer = 0.0
    if job.primer is not None and not job.extent.continuation_only:
        primer = job.primer.seconds
    is_given = notes.starts < primer - 1e-6  # rounding errors
    path = _write_files(write, notes, is_given, requested, metadata, formats)
    yield WrittenSample(path, int((~is_given).sum()), notes.seconds, metadata, primer)
    if job.control is not None:
        yield from (f"  {line}" for line in compare_sections(events, job.control))


def write_arrangement(
    write: Callable[[bytes], Path],
    job: GenerationJob,
    arrangement: Arrangement,
    metadata: dict[str, str],
    formats: Formats,
) -> Iterator[str | WrittenSample]:
    """Write given and new notes as `write_sample` writes a sample; yield messages."""
    notes = arrangement.notes
    requested = None
    if job.control is not None:
        times = np.arange(0.0, max(notes.seconds, TIME_STEP), TIME_STEP)
        rows = np.arange(1 if len(job.control) == 1 else len(times))
        requested = job.control.evaluate(times, rows).select(rows, times[rows])
    path = _write_files(write, notes, arrangement.is_given, requested, metadata, formats)
    given = int(arrangement.is_given.sum())
    yield WrittenSample(path, len(notes) - given, notes.seconds, metadata, given=given)
    if arrangement.traces:
        size = min(trace.lowest_size for trace in arrangement.traces)
        parents = min(trace.fewest_parents for trace in arrangement.traces)
        ancestors = min(trace.ancestors for trace in arrangement.traces)
        yield (
            f"  particles: lowest effective number {size:.1f}, at least {parents} distinct "
            f"parents, {ancestors} distinct at the start"
        )
    if job.control is not None:
        events = EventSeq.from_note_seq(notes, job.encoding)
        yield from (f"  {line}" for line in compare_sections(events, job.control))


def _write_files(
    write: Callable[[bytes], Path],
    notes: NoteSeq,
    is_given: Array,
    requested: ControlSchedule | None,
    metadata: dict[str, str],
    formats: Formats,
) -> Path:
    """Write notes as MIDI and in the other formats; return the path of the MIDI file."""
    texts = encode_metadata(metadata, requested, is_given)
    second = is_given if formats.two_tracks else None
    path = write(notes.to_midi_bytes(texts=texts, second=second))
    if formats.png:
        title = f"{path.stem}   {format_title(metadata)}"
        command, primer = metadata["made with"], find_primer_end(notes, is_given)
        summary = summarize_sample(notes, requested, is_given)
        picture = draw_piano_roll(notes, title, requested, summary, command, is_given, primer)
        utils.atomic_write(path.with_suffix(".png"), picture, durable=False)
    if formats.wav:
        synth.render_audio(path, path.with_suffix(".wav"), formats.soundfont)
    return path


def find_start(job: GenerationJob, events: EventSeq) -> float:
    """Return the second in the file at which the generated events start.

    This is the end of the primer. Without a primer the first note is at second 0, so the result
    is negative if there is a rest before it.
    """
    if job.primer is not None and not job.extent.continuation_only:
        return job.primer.seconds
    is_note_on = events.to_array() < EventSeq.feat_ranges()["note_on"].stop
    return -float(events.times[is_note_on.argmax()]) / events.encoding.ticks_per_second


def trim_events(job: GenerationJob, events: EventSeq, notes: NoteSeq) -> EventSeq:
    """Return the events before the end of the notes, which the extent may have cut."""
    if job.extent.seconds is None:
        return events
    end = notes.seconds - find_start(job, events)
    is_before = events.times / events.encoding.ticks_per_second < end - 1e-6  # rounding errors
    return EventSeq(events.to_array()[: max(1, is_before.sum())], events.encoding)


def find_requested_control(job: GenerationJob, events: EventSeq) -> ControlSchedule | None:
    """Return the requested control with times in seconds of the file, after the primer."""
    if job.control is None:
        return None
    seconds = events.times / events.encoding.ticks_per_second
    requested = job.control.evaluate(seconds, np.arange(len(seconds)))
    # in the legacy encoding, rounding errors may make a time smaller than the one before
    times = np.maximum.accumulate(np.maximum(seconds + find_start(job, events), 0))
    rows = np.arange(1 if len(job.control) == 1 else len(times))
    return requested.select(rows, times[rows])
