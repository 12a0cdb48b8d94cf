"""Metadata of a generated MIDI file, as text events: how it was made, and its requested control.

Each text event is "label: text". The labels are those of `LABELS`, and "asked", which holds
the requested control over time as JSON. They are a file format: old files must stay readable.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from midi.control_schedule import (
    DENSITY_LEVELS,
    PITCH_CLASSES,
    ControlSchedule,
    measure_rate,
)
from midi.notes import NoteSeq
from utils import Array

LABELS = ("session", "seed", "piece", "control", "made with")  # "piece": number of the sample
MAX_SCALARS = 20  # most other controls
REQUESTED = "asked"  # label of the requested control
GIVEN = "given"  # label of the notes that were given
MAX_ROWS = 240  # most rows of a requested control in a file
PROGRAM = ("python3", "generate.py")
LAST_OF_SEVERAL = "  # the last that it writes"  # a shell comment in older files


def format_command(argv: Sequence[str]) -> str:
    """Return the shell command that generates a sample again."""
    return shlex.join([*PROGRAM, *argv])


def is_command(line: str) -> bool:
    """Return whether a line is exactly what `format_command` writes, or wrote in older files.

    A MIDI file from elsewhere may hold any text, and users paste this line into a shell. There an
    unprintable character, such as an escape sequence, could do what the page does not show.
    """
    if not line.isprintable():
        return False
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return False
    return line.removesuffix(LAST_OF_SEVERAL) == format_command(words[len(PROGRAM) :])


def encode_metadata(
    metadata: Mapping[str, str],
    requested: ControlSchedule | None = None,
    is_given: Array | None = None,
) -> list[str]:
    """Return text events: one for each label, for the requested control, and for given notes.

    is_given: whether each note was given, bool [notes].
    """
    texts = [f"{label}: {text}" for label, text in metadata.items()]
    if is_given is not None and is_given.any():
        texts.append(f"{GIVEN}: {_encode_runs(is_given)}")
    if requested is not None:
        columns = encode_schedule(requested)
        texts.append(f"{REQUESTED}: {json.dumps(columns, separators=(',', ':'))}")
    return texts


def limit_rows(schedule: ControlSchedule) -> ControlSchedule:
    """Return the rows in which the control changes; if there are many, `MAX_ROWS` of them."""
    changes = schedule.drop_repeats()
    rows = np.linspace(0, len(changes) - 1, min(len(changes), MAX_ROWS)).astype(int)
    return changes.select(rows, np.asarray(changes.columns[0])[rows])


def encode_schedule(schedule: ControlSchedule) -> dict[str, list[Any]]:
    """Return times in seconds, density levels, weights in thousandths and the values of other
    controls, as lists of rows; None where a control is open.

    Times are rounded to milliseconds. There are at most `MAX_ROWS` rows; see `limit_rows`.
    """
    rows = limit_rows(schedule)
    weights = np.rint(1000 * np.nan_to_num(rows.histogram)).astype(int)
    return {
        "times": np.round(rows.columns[0], 3).tolist(),
        "density": [None if np.isnan(level) else round(level) for level in rows.density.tolist()],
        "histogram": [
            None if np.isnan(old[0]) else new
            for old, new in zip(rows.histogram, weights.tolist(), strict=True)
        ],
        **{
            name: [None if np.isnan(value) else round(value, 3) for value in column.tolist()]
            for name, column in rows.scalars.items()
        },
    }


def _encode_runs(values: Array) -> str:
    """Return the lengths of the runs of equal bool values, the first one of False."""
    edges = np.flatnonzero(np.diff(values.astype(int), prepend=0)).tolist()
    return ",".join(map(str, np.diff([0, *edges, len(values)]).tolist()))


def decode_given(texts: Sequence[str], notes: int) -> Array:
    """Return which notes were given, bool [notes], from text events; none for invalid texts."""
    texts = [
        text for text in texts if re.fullmatch(rf"{GIVEN}: [0-9]{{1,9}}(,[0-9]{{1,9}})*", text)
    ]
    runs = [int(run) for run in texts[0].partition(": ")[2].split(",")] if texts else []
    if sum(runs) != notes:
        return np.zeros(notes, bool)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def decode_metadata(texts: Sequence[str]) -> tuple[dict[str, str], ControlSchedule | None]:
    """Return the text of each label, and the requested control, from text events.

    The inverse of `encode_metadata`. Never fails: other or invalid texts are ignored.
    """
    metadata: dict[str, str] = {}
    for text in texts:
        label, colon, rest = text.partition(": ")
        if colon and label in (*LABELS, REQUESTED):
            metadata.setdefault(label, rest)
    if not is_command(metadata.get("made with", "")):
        metadata.pop("made with", None)
    return metadata, _decode_schedule(metadata.pop(REQUESTED, ""))


def _decode_schedule(text: str) -> ControlSchedule | None:
    """Return the control that `encode_schedule` wrote as JSON; None for any other text."""
    try:
        columns = dict(json.loads(text))
        times, density = (np.array(columns.pop(name), np.float64) for name in ("times", "density"))
        nothing = [None] * PITCH_CLASSES
        weights = np.array([row or nothing for row in columns.pop("histogram")], np.float64)
        is_level = (np.isin(density, range(DENSITY_LEVELS)) | np.isnan(density)).all()
        # limits for files from elsewhere: weights in thousandths, some more rows than we write
        if not is_level or (np.abs(weights) > 1e6).any() or len(times) > 10 * MAX_ROWS:
            return None
        share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        scalars = dict(itertools.islice(columns.items(), MAX_SCALARS))
        return ControlSchedule(density, share, times, scalars=scalars)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def format_title(metadata: Mapping[str, str]) -> str:
    """Return session, seed and number of a sample, if known: "a.sess, seed 7, sample 2"."""
    formats = {"session": "{}", "seed": "seed {}", "piece": "sample {}"}
    parts = [formats[label].format(metadata[label]) for label in formats if metadata.get(label)]
    return ", ".join(parts)


def find_primer_end(notes: NoteSeq, is_given: Array) -> float:
    """Return the second of the first new note if all given notes come before it; else 0.

    is_given: whether each note was given, bool [notes].
    """
    count = int(is_given.sum())
    if not 0 < count < len(notes) or not is_given[:count].all():
        return 0.0
    return float(notes.starts[count])


def summarize_sample(
    notes: NoteSeq, requested: ControlSchedule | None = None, is_given: Array | None = None
) -> dict[str, str]:
    """Return figures of a sample as texts, by name, compared with the requested control.

    is_given: whether each note was given, bool [notes]. Given notes are not counted; the density
    is that of all notes from the first new one on. The length is that after a primer.
    """
    is_given = np.zeros(len(notes), bool) if is_given is None else is_given
    summary = {"length": f"{notes.seconds - find_primer_end(notes, is_given):.1f} s"}
    starts = notes.starts
    if is_given.any():
        summary["given notes"] = f"{is_given.sum():,}"
        starts = starts[is_given.argmin() :]
        notes = notes.select(~is_given)
    summary = {"notes": f"{len(notes):,}", **summary}
    if not len(notes):
        return summary
    low, high = (int(edge) for edge in (notes.velocities.min(), notes.velocities.max()))
    rate = f"{measure_rate(starts):.1f} notes/s"
    summary |= {"density": rate, "velocity": f"{low}-{high}"}
    if requested is None:
        return summary
    fewest, most = requested.density_ranges()
    if not np.isnan(fewest).all():
        summary["density"] += f" (requested {np.nanmin(fewest):g}-{np.nanmax(most):g})"
    if (requested.histogram == 0).any():  # else every pitch class is allowed
        histogram = requested.evaluate(notes.starts, np.arange(len(notes))).histogram
        shares = histogram[np.arange(len(notes)), notes.pitches % 12]
        in_key = shares[~np.isnan(shares)] > 0
        summary["in requested pitch classes"] = f"{in_key.mean():.1%}"
    return summary
