"""Output files of a sample: MIDI file with metadata, piano roll, audio."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import utils
from config import AUDIO_FORMATS
from generation.control_metrics import compare_sections
from generation.given_notes import Arrangement
from generation.pipeline import GenerationJob, decode_sample, ring_out
from midi import synth
from midi.control_schedule import TIME_STEP, ControlSchedule
from midi.metadata import encode_metadata, find_primer_end, format_title, summarize_sample
from midi.notation import Meter, TempoMap, find_beats, quantize_onsets, write_tempo_map
from midi.pianoroll import draw_piano_roll
from sequence import EventSeq, NoteSeq
from utils import Array


@dataclass(frozen=True)
class Formats:
    """How a sample is written: its MIDI file, and a picture and audio besides.

    audio: suffixes of audio files; soundfont: .sf2 file for them; None: that of pretty_midi;
    two_tracks: whether the MIDI file has a second track with the given notes; pedal: whether it
    has the sustain pedal, and shorter notes; tempo_map: its tempos and meters; meter: estimate
    beats, and write a tempo map with this meter instead; grid: step in quarter notes on which the
    onsets are put.
    """

    png: bool = False
    audio: tuple[str, ...] = ()
    soundfont: str | None = None
    two_tracks: bool = False
    pedal: bool = False
    tempo_map: TempoMap | None = None
    meter: Meter | None = None
    grid: float | None = None

    def find_tempo_map(self, notes: NoteSeq) -> TempoMap | None:
        """Return the tempo map of the file for these notes; None for none."""
        if self.meter is not None:
            return TempoMap.from_beats(find_beats(notes), self.meter)
        return self.tempo_map


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
                for suffix in ("png", *AUDIO_FORMATS):
                    path.with_suffix(f".{suffix}").unlink(missing_ok=True)
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
    notes, generated = decode_sample(job, events), events
    events = trim_events(job, events, notes)
    requested = find_requested_control(job, events)
    notes = ring_out(job, notes)
    primer = 0.0
    if job.primer is not None and not job.extent.continuation_only:
        primer = job.primer.seconds
    is_given = notes.starts < primer - 1e-6  # rounding errors
    if formats.tempo_map is None and job.primer is not None and job.primer.tempo_map is not None:
        start = 0.0 if primer else job.primer.seconds + max(0.0, -find_start(job, generated))
        formats = replace(formats, tempo_map=job.primer.tempo_map.crop(start))
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
        count = min(trace.fewest_parents for trace in arrangement.traces)
        candidates = utils.format_count(count, "candidate fits", "different candidates fit")
        yield f"  at least {candidates} each chord (see --particles)"
    if job.control is not None:
        if arrangement.is_for_new:
            notes = notes.select(~arrangement.is_given)
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
    tempo_map = formats.find_tempo_map(notes)
    if tempo_map is not None and formats.grid is not None:
        notes, is_given = quantize_onsets(notes, tempo_map, formats.grid, is_given)
    texts = encode_metadata(metadata, requested, is_given)
    second = is_given if formats.two_tracks else None
    content = notes.to_midi_bytes(texts=texts, second=second, pedal=formats.pedal)
    if tempo_map is not None:
        content = write_tempo_map(content, tempo_map, formats.grid)
    path = write(content)
    if formats.png:
        title = f"{path.stem}   {format_title(metadata)}"
        command, primer = metadata["made with"], find_primer_end(notes, is_given)
        summary = summarize_sample(notes, requested, is_given)
        picture = draw_piano_roll(notes, title, requested, summary, command, is_given, primer)
        utils.atomic_write(path.with_suffix(".png"), picture, durable=False)
    for suffix in formats.audio:
        synth.render_audio(path, path.with_suffix(f".{suffix}"), formats.soundfont)
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
