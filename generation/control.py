"""Control schedules from text, in the grammar of generate.py's option -c, and from files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import utils
from config import DATA_SUFFIX, MIDI_SUFFIXES
from corpus.performance import Performance
from midi.control_schedule import (
    DEFAULT_DENSITY,
    WINDOW,
    Control,
    ControlSchedule,
    find_density_level,
)
from sequence import CURRENT, MAX_SECONDS, ControlSeq, Encoding, EventSeq, NoteSeq
from utils import Array

MAX_RATE = 60  # notes/s that a control may request
EXAMPLE = "C major;3 | A minor;6 @20"
EXAMPLES = """\
  1,0,1,0,1,1,0,1,0,1,0,1;3           weights of C, C#, ... B, then the density
  ;3                                  all pitch classes equally, density 3
  C major;3                           a scale or chord by name
  G7;8/s                              eight notes per second
  C major;3 | A minor;6 @20 | G7 @30  from second 20 on, then from 30 on
  C major;1 | ~ F# dorian;9 @40       a gradual change that ends at second 40
  song.mid                            the controls of a MIDI file, event by
                                      event
  dataset/processed                   the controls of a .data file; the seed
                                      chooses one of the files in a folder"""

NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"#": 1, "♯": 1, "b": -1, "♭": -1}
# semitones above the root; a name follows the note name, with or without a space
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 9, 11),
    "ionian": (0, 2, 4, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "aeolian": (0, 2, 3, 5, 7, 8, 10),
    "locrian": (0, 1, 3, 5, 6, 8, 10),
    "pentatonic": (0, 2, 4, 7, 9),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
    "whole tone": (0, 2, 4, 6, 8, 10),
    "octatonic": (0, 2, 3, 5, 6, 8, 9, 11),
    "chromatic": tuple(range(12)),
    "maj": (0, 4, 7),
    "M": (0, 4, 7),
    "M7": (0, 4, 7, 11),
    "m": (0, 3, 7),
    "min": (0, 3, 7),
    "5": (0, 7),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "9": (0, 2, 4, 7, 10),
    "dim": (0, 3, 6),
    "dim7": (0, 3, 6, 9),
    "m7b5": (0, 3, 6, 10),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
}


# ----------------------------------------------------------------------------------- files


def load_control(path: str, seed: int, encoding: Encoding = CURRENT) -> ControlSchedule:
    """Return the controls of a MIDI or .data file as a schedule with a row for each event.

    path: a file, or a folder, where `seed` chooses one of the .data files;
    encoding: that of the session. Raises ValueError with the path for a file that cannot be
    read or has no notes.
    """
    file = Path(path)
    if file.is_dir():
        files = list(utils.find_files(file, (DATA_SUFFIX,)))
        if not files:
            raise ValueError(f"{path}: no {DATA_SUFFIX} files in this folder")
        file = files[int(np.random.default_rng(seed).integers(len(files)))]
    if not file.is_file():
        raise ValueError(f"{file}: not a file")
    if file.name.lower().endswith(MIDI_SUFFIXES):
        notes = NoteSeq.from_midi_file(file, sustain=not encoding.is_legacy)
        events = EventSeq.from_note_seq(notes.trim_start(), encoding)
        controls = ControlSeq.from_event_seq(events).to_array()
    else:
        performance = Performance.load(file)
        try:
            controls = performance.convert_controls(encoding)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    if not len(controls):
        raise ValueError(f"{file}: no notes, so it has no control")
    density, histogram = (controls[:, columns] for columns in ControlSeq.feat_ranges().values())
    return ControlSchedule(density.argmax(axis=1), histogram, text=str(file))


# --------------------------------------------------------------------------------- grammar


@dataclass(frozen=True)
class Part:
    """A part of a control in text form.

    start: the second at which the part begins, or at which the gradual change to it ends.
    """

    control: Control
    start: float
    is_gradual: bool
    text: str


def parse_control(text: str) -> ControlSchedule:
    """Parse a control in text form into a schedule.

    The grammar is PART | PART @SECONDS | ..., where PART is [~] [PITCHES] [;DENSITY].
    Raises ValueError that names the wrong part and shows an example.
    """
    if text.lower().endswith((*MIDI_SUFFIXES, DATA_SUFFIX)) or "/" in text.partition(";")[0]:
        raise ValueError(f"no such file or folder: {_quote(text)}")
    parts: list[Part] = []
    texts = text.split("|")
    for number, part in enumerate(texts, 1):
        try:
            parts.append(_parse_part(part, parts[-1] if parts else None))
        except ValueError as error:
            where = f"part {number}, {_quote(part)}: " if len(texts) > 1 else ""
            raise ValueError(f"{where}{error} (example: '{EXAMPLE}')") from error
    return _build_schedule(parts)


def _build_schedule(parts: Sequence[Part]) -> ControlSchedule:
    """Return a schedule with a row for each part."""
    return ControlSchedule(
        np.array([part.control.note_density for part in parts]),
        np.array([part.control.pitch_histogram for part in parts]),
        np.array([part.start for part in parts]),
        text=" | ".join(part.text for part in parts),
        parts=tuple((part.start, part.text) for part in parts),
        is_gradual=np.array([part.is_gradual for part in parts]),
    )


def _quote(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) < 60 else text[:57] + "...")


def _parse_part(text: str, previous: Part | None) -> Part:
    """Parse a part: [~] [PITCHES] [;DENSITY] [@SECONDS]."""
    control, at, time = text.partition("@")
    control = control.lstrip()
    is_gradual = control.startswith("~")
    start = _parse_start(time, previous) if at else 0.0
    if previous and not at:
        raise ValueError("a start time is missing, such as '@20' (seconds)")
    if is_gradual and not previous:
        raise ValueError("the first part cannot be a gradual change (~)")
    pitches, semicolon, density = control.removeprefix("~").partition(";")
    if "," in pitches:
        histogram = np.array(
            [_parse_float(weight, "weight {} is not a number") for weight in pitches.split(",")]
        )
    elif pitches.strip():
        histogram = parse_scale_or_chord(pitches)
    elif semicolon:
        histogram = np.zeros(12)
    else:
        raise ValueError("it is empty, but it needs pitch classes, a density, or both")
    level = previous.control.note_density if previous else DEFAULT_DENSITY
    if semicolon:
        level = _parse_density(density)
    return Part(Control(histogram, level), start, is_gradual, text.strip())


def _parse_float(text: str, message: str) -> float:
    """Return a number; ValueError with the message, which shows the text at its `{}`."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(message.format(_quote(text))) from None


def _parse_start(text: str, previous: Part | None) -> float:
    start = _parse_float(text, "{} after '@' is not a number of seconds")
    if previous is None and start != 0:
        raise ValueError(
            f"it starts at second {start:g}, but the first part must start at second 0"
        )
    if previous is not None and not start > previous.start:
        raise ValueError(f"it must start later than second {previous.start:g}, not at {start:g}")
    if start > MAX_SECONDS:
        raise ValueError(f"it must start within a day, not at second {start:g}")
    return start


def _parse_density(text: str) -> int:
    """Return the density level of a text: a level such as '3', or notes per second, '8/s'."""
    if re.fullmatch(r"\s*\d+\s*", text):
        return int(text)
    rate = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*/\s*s\s*", text)
    if not rate:
        raise ValueError(
            f"density {_quote(text)} is neither a whole number 0-11 nor notes per second ('8/s')"
        )
    if float(rate[1]) > MAX_RATE:
        raise ValueError(f"density {rate[1]} notes/s is over {MAX_RATE} notes/s")
    return int(find_density_level(float(rate[1]) * WINDOW))


def parse_scale_or_chord(text: str) -> Array:
    """Return the 12 weights, from C on, of a name such as 'C major', 'F# dim' or 'Bb7'.

    The root has weight 2, the fifth 1.5, the other notes of the scale or chord 1.
    Raises ValueError for an unknown name.
    """
    match = re.fullmatch(r"\s*([A-Ga-g])([#♯b♭]?)\s*(.*?)\s*", text)
    if not match:
        raise ValueError(f"{_quote(text)} does not begin with a note name, such as C, F# or Bb")
    natural, accidental, kind = match.groups()
    kind = " ".join(kind.split())
    if kind not in SCALES and not re.match("M(?![A-Za-z])", kind):  # M is major, m is minor
        kind = kind.lower() or "maj"
    if kind not in SCALES:
        names = ", ".join(SCALES)
        raise ValueError(
            f"unknown scale or chord {_quote(kind)} in {_quote(text)}, use one of {names}"
        )
    weights = np.zeros(12)
    weights[list(SCALES[kind])] = 1
    weights[0] = 2  # so C major differs from A minor, which has the same notes
    weights[7] *= 1.5
    return np.roll(weights, NATURALS[natural.upper()] + ACCIDENTALS.get(accidental, 0))
