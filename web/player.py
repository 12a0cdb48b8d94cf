"""Write one HTML page that shows and plays the generated MIDI files of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.surprise import PARTS, Surprise
from config import MIDI_SUFFIXES
from midi.control_schedule import PITCH_NAMES, ControlSchedule
from midi.metadata import (
    decode_given,
    decode_metadata,
    encode_schedule,
    find_primer_end,
    format_title,
    limit_rows,
    summarize_sample,
)
from midi.notes import NoteSeq, read_midi_texts
from midi.pianoroll import LOUD, SOFT, measure_density, scale_curves, scale_density_axis
from utils import Array, atomic_write, format_count, read_file
from web.page import PALETTE, bundle_script, check_page_path, format_time, render_page

FILE_NAME = "index.html"
MOST_NATS = 20  # surprise of a note that has the last color
MARK = "performance-rnn-page"  # in each page written here: other files are not overwritten


@dataclass(frozen=True, eq=False)
class Sample:
    """A generated MIDI file as the page shows it.

    is_given: the notes that were given, bool [notes]; midi: the content of the file; summary:
    figures by name; command: the shell command that generates it again, or "".
    nats: surprise of each note [notes], which then has a color for it instead of its velocity, and
    curve: surprise of each second in nats per note, nan without notes; None for both: unknown.
    """

    name: str
    notes: NoteSeq
    is_given: Array
    midi: bytes
    title: str
    requested: ControlSchedule | None
    summary: Mapping[str, str]
    command: str
    nats: Array | None = None
    curve: Array | None = None

    @property
    def primer(self) -> float:
        """The second at which the primer ends, or 0."""
        return find_primer_end(self.notes, self.is_given)


def read_sample(path: Path) -> Sample:
    """Read a sample from its MIDI file; raise ValueError, naming the path, if that fails."""
    content = read_file(path)
    try:
        notes = NoteSeq.from_midi_bytes(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    texts = read_midi_texts(content)
    metadata, requested = decode_metadata(texts)
    is_given = decode_given(texts, len(notes))
    summary = summarize_sample(notes, requested, is_given)
    if "control" in metadata:
        summary["control"] = metadata["control"]
    return Sample(
        path.stem,
        notes,
        is_given,
        content,
        format_title(metadata),
        requested,
        summary,
        metadata.get("made with", ""),
    )


def _natural_key(path: Path) -> list[tuple[int, str]]:
    """Return a sort key of a file name that compares its numbers as numbers."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def render_player(samples: Sequence[Sample], heading: str) -> bytes:
    """Return a self-contained HTML page that shows and plays samples.

    Names and texts come from files and may hold anything: the template escapes them, and the
    content security policy of the page allows only its own script.
    """
    return render_page(
        "player.html",
        bundle_script("player"),
        mark=MARK,
        heading=heading,
        count=_summarize(samples),
        has_given=any(sample.is_given.any() for sample in samples),
        most_nats=MOST_NATS if any(sample.nats is not None for sample in samples) else 0,
        samples=samples,
        data={
            "palette": PALETTE,
            "pitch_names": PITCH_NAMES,
            "samples": [_encode_sample(sample) for sample in samples],
        },
    )


def _encode_sample(sample: Sample) -> dict[str, Any]:
    """Return the notes (times in milliseconds) and the requested control of a sample as lists.

    With a requested control, `low` and `high` are its fewest and most notes per second in each
    row, `curves` are those of `scale_curves`, and `generated` is the density curve of the notes
    after the primer.
    """
    starts, ends, pitches, velocities = sample.notes.columns
    columns = [np.rint(1000 * starts), np.rint(1000 * ends), pitches, velocities]
    data: dict[str, Any] = {"notes": [column.astype(int).tolist() for column in columns]}
    if sample.is_given.any():
        data["given"] = sample.is_given.astype(int).tolist()
    if sample.nats is not None and sample.curve is not None:
        shades = SOFT + (LOUD - SOFT) * np.clip(sample.nats / MOST_NATS, 0, 1)
        data["shades"] = np.rint(shades).astype(int).tolist()
        data["curve"] = [None if np.isnan(n) else round(float(n), 2) for n in sample.curve]
    data["primer"] = sample.primer
    if sample.requested is not None:
        requested = limit_rows(sample.requested)
        low, high = requested.density_ranges()
        schedule = encode_schedule(requested)
        _, density = measure_density(starts, sample.primer)
        data["requested"] = {
            "times": schedule["times"],
            "low": _encode_column(low),
            "high": _encode_column(high),
            "histogram": schedule["histogram"],
            "curves": [[label, _encode_column(curve)] for label, curve in scale_curves(requested)],
        }
        data["generated"] = density.tolist()
        data["density_top"], data["density_step"] = scale_density_axis(np.nan_to_num(high), density)
    return data


def _encode_column(values: Array) -> list[float | None]:
    """Return values as a list for JSON; None where a control is open."""
    return [None if np.isnan(value) else float(value) for value in values]


def write_player(folder: Path) -> Iterator[str]:
    """Write index.html for the samples in a folder; yield messages about it and unreadable files.

    Samples are sorted by name, the last one first; numbers in names are compared as numbers.
    """
    target, samples = folder / FILE_NAME, []
    paths = (path for path in folder.iterdir() if path.suffix.lower() in MIDI_SUFFIXES)
    for path in sorted(filter(Path.is_file, paths), key=_natural_key, reverse=True):
        try:
            samples.append(read_sample(path))
        except ValueError as error:
            yield f"not in {target}: {error}"
    page = render_player(samples, f"Music in {folder.resolve().name}")
    atomic_write(target, page, durable=False)
    yield f"{target}: {_summarize(samples)}"


def describe_surprise(name: str, surprise: Surprise, how: str) -> Sample:
    """Return a measured MIDI file as the page of --surprise shows it.

    how: which control the network got.
    """
    order = np.lexsort((surprise.note_pitches, surprise.onsets))
    columns = (surprise.onsets, surprise.ends, surprise.note_pitches, surprise.velocities)
    notes = NoteSeq(*(column[order] for column in columns))
    per_second, counts = surprise.per_second()
    summary = {"notes": f"{len(notes):,}", "length": f"{notes.seconds:.1f} s"}
    summary["nats per note"] = f"{surprise.total / len(surprise):.3f}"
    for part, value in zip(PARTS, surprise.nats.mean(axis=0), strict=True):
        summary[part] = f"{value:.2f} nats"
    return Sample(
        name,
        notes,
        np.zeros(len(notes), bool),
        notes.to_midi_bytes(),
        how,
        None,
        summary,
        "",
        surprise.nats.sum(axis=1)[order],
        np.where(counts > 0, per_second / np.maximum(counts, 1), np.nan),
    )


def check_player_path(folder: Path) -> None:
    """Raise ValueError if a folder has an index.html that generate.py did not write."""
    check_page_path(folder / FILE_NAME, MARK)


def _summarize(samples: Sequence[Sample]) -> str:
    """Format the number of samples and their length: "4 samples, 3:20 of music"."""
    count = format_count(len(samples), "sample", "samples")
    return f"{count}, {format_time(sum(sample.notes.seconds for sample in samples))} of music"
