"""What is asked of a piece: the grammar of -c, and the controls that it stands for over time."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import utils
from config import DATA_SUFFIX, MIDI_SUFFIXES
from corpus.performance import Performance
from midi.control_schedule import Control, ControlSchedule, find_density_level
from sequence import CURRENT, ControlSeq, Encoding, EventSeq, NoteSeq
from utils import Array

ROW = 0.1  # seconds that a row of a plan that changes holds
DENSITY = 3  # where none is said
EXAMPLE = "C major;3 | A minor;6 @20"
EXAMPLES = (
    ("1,0,1,0,1,1,0,1,0,1,0,1;3", "weights of C, C#, ... B, then the density"),
    (";3", "all pitch classes alike, at density 3"),
    ("C major;3", "a scale or chord by name"),
    ("G7;8/s", "eight notes a second"),
    ("C major;3 | A minor;6 @20 | G7 @30", "from second 20 on, then from 30 on"),
    ("C major;1 | ~ F# dorian;9 @40", "glides from one to the other in 40 s"),
    ("song.mid", "play like this: what it holds, event by event"),
    ("dataset/processed", "so with a file of the folder, chosen by the seed; or one .data file"),
)

LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
SIGNS = {"#": 1, "♯": 1, "b": -1, "♭": -1}
# semitones above the root; a name may stand after a note name, with or without a space
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
# how much more than the rest the root and the fifth are asked for, so that C major is not A minor
ROOT, FIFTH = 2.0, 1.5


def named(text: str) -> Array:
    """The 12 weights from C of 'C major', 'A minor', 'F# dim', 'Bb7'; ValueError for others.

    The root has weight 2, the fifth 1.5, all other notes of the scale or chord 1.
    """
    match = re.fullmatch(r"\s*([A-Ga-g])([#♯b♭]?)\s*(.*?)\s*", text)
    if not match:
        raise ValueError(f"{_short(text)} does not begin with a note name, such as C, F# or Bb")
    letter, sign, kind = match.groups()
    kind = " ".join(kind.split())
    if kind not in SCALES and not re.match("M(?![A-Za-z])", kind):  # M is major, m is minor
        kind = kind.lower() or "maj"
    if kind not in SCALES:
        raise ValueError(f"{_short(kind)} in {_short(text)} is none of {', '.join(SCALES)}")
    weights = np.zeros(12)
    weights[list(SCALES[kind])] = 1
    weights[0] = ROOT
    weights[7] *= FIFTH
    return np.roll(weights, LETTERS[letter.upper()] + SIGNS.get(sign, 0))


@dataclass(frozen=True)
class Part:
    """One part of a plan: a control, when it holds from, and whether it is glided into."""

    control: Control
    at: float
    glided: bool
    text: str


def read(text: str, seed: int, encoding: Encoding = CURRENT) -> ControlSchedule:
    """What -c says; of a folder's .data files, `seed` chooses one.

    Raises ValueError, naming the wrong part and a right one, or the file.
    """
    path = Path(text)
    if os.path.isdir(text):
        found = list(utils.find_files(path, (DATA_SUFFIX,)))
        if not found:
            raise ValueError(f"no {DATA_SUFFIX} files in the folder {text!r}")
        path = found[int(np.random.default_rng(seed).integers(len(found)))]
    if os.path.isfile(path):
        rows = _of_file(path, encoding)
        density, histogram = (rows[:, part] for part in ControlSeq.feat_ranges().values())
        return ControlSchedule(density.argmax(axis=1), histogram, text=str(path))
    if text.lower().endswith((*MIDI_SUFFIXES, DATA_SUFFIX)) or "/" in text.partition(";")[0]:
        raise ValueError(f"there is no file or folder {_short(text)}")
    return planned(parts(text))


def _of_file(path: Path, encoding: Encoding) -> Array:
    if path.name.lower().endswith(MIDI):
        notes = NoteSeq.from_midi_file(path, sustain=not encoding.is_legacy)
        events = EventSeq.from_note_seq(notes.trim_start(), encoding)
        controls = ControlSeq.from_event_seq(events).to_array()
    else:
        performance = Performance.load(path)
        try:
            controls = performance.convert_controls(encoding)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if not len(controls):
        raise ValueError(f"{path}: it has no notes, and so no control")
    return controls


def parts(text: str) -> list[Part]:
    """The parts of a written plan; ValueError for a wrong one."""
    found: list[Part] = []
    pieces = text.split("|")
    for number, piece in enumerate(pieces, 1):
        try:
            found.append(_part(piece, found))
        except ValueError as error:
            where = f"part {number}, {_short(piece)}: " if len(pieces) > 1 else ""
            raise ValueError(f"{where}{error}; right is, for example, '{EXAMPLE}'") from error
    return found


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) < 60 else text[:57] + "...")


def _part(text: str, before: Sequence[Part]) -> Part:
    """One part: [~] [HISTOGRAM] [;DENSITY] [@SECONDS]."""
    body, sign, time = text.partition("@")
    glided = body.lstrip().startswith("~")
    at = _seconds(time, before) if sign else 0.0
    if before and not sign:
        raise ValueError("it does not say when it begins, such as '@20' (seconds)")
    if glided and not before:
        raise ValueError("the first part can not be glided into: there is nothing before it")
    histogram, semicolon, density = body.lstrip().removeprefix("~").partition(";")
    weights = _histogram(histogram, bool(semicolon))
    index = before[-1].control.note_density if before else DENSITY
    if semicolon:
        index = _density(density)
    return Part(Control(weights, index), at, glided, text.strip())


def _seconds(text: str, before: Sequence[Part]) -> float:
    try:
        at = float(text)
    except ValueError:
        raise ValueError(f"{_short(text)} after '@' is not a number of seconds") from None
    least = before[-1].at if before else 0.0
    if not (at > least if before else at == 0):
        rule = f"later than second {least:g}" if before else "at second 0"
        raise ValueError(f"it begins at second {at:g}, but must begin {rule}")
    if at > 24 * 3600:
        raise ValueError(f"it begins at second {at:g}, after more than a day")
    return at


def _density(text: str) -> int:
    """A density index from '3' or from notes a second, '8/s'."""
    rate = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*/\s*s\s*", text)
    if rate:
        notes = float(rate[1]) * ControlSeq.WINDOW
        if notes > 60 * ControlSeq.WINDOW:
            raise ValueError(f"{rate[1]} notes a second are more than 60")
        return int(find_density_level(notes))
    if not re.fullmatch(r"\s*\d+\s*", text):
        raise ValueError(
            f"the density {_short(text)} is neither a whole number 0-11 nor notes a second ('8/s')"
        )
    return int(text)


def _histogram(text: str, with_density: bool) -> Array:
    if "," in text:
        return np.array([_weight(part) for part in text.split(",")])
    if text.strip():
        return named(text)
    if not with_density:
        raise ValueError("it is empty")
    return np.zeros(12)


def _weight(part: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise ValueError(f"{_short(part)} is not a number") from None


def planned(plan: Sequence[Part]) -> ControlSchedule:
    """The controls of a plan over time: held, or glided into from the part before.

    In a glide the histogram changes in a line, and the density index by whole steps.
    """
    begins = np.array([part.at for part in plan])
    glided = np.array([part.glided for part in plan])
    wishes = np.array([(p.control.note_density, *p.control.pitch_histogram) for p in plan])
    times = np.arange(round(begins[-1] / ROW) + 1) * ROW
    now = np.searchsorted(begins, times + ROW / 2, "right") - 1
    then = np.minimum(now + 1, len(plan) - 1)
    span = np.maximum(begins[then] - begins[now], ROW)
    # a part may begin up to half a row after the row that is its first
    share = np.where(glided[then], (times - begins[now]) / span, 0.0).clip(0, 1)[:, None]
    rows = (1 - share) * wishes[now] + share * wishes[then]
    texts = tuple((part.at, part.text) for part in plan)
    written = " | ".join(part.text for part in plan)
    return ControlSchedule(np.rint(rows[:, 0]).astype(int), rows[:, 1:], times, written, texts)
