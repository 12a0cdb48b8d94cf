"""Control schedules from text, in the grammar of generate.py's option -c, and from files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import utils
from config import DATA_SUFFIX, MIDI_SUFFIXES
from midi.control_schedule import (
    PITCH_CLASSES,
    TIME_STEP,
    WINDOW,
    Control,
    ControlSchedule,
    find_density_level,
    middle_notes,
    normalize_histogram,
)
from midi.harmony import NATURALS, Harmony, parse_harmonies
from sequence import (
    CONTROLS,
    CURRENT,
    MAX_SECONDS,
    NOTE_NAMES,
    PLAIN_LAYOUT,
    ControlKind,
    ControlLayout,
    ControlSeq,
    Encoding,
    EventSeq,
    NoteSeq,
)
from utils import Array, quote

MAX_RATE = 60  # notes/s that a control may request
TEMPO, METER = 120.0, 4.0  # quarter notes per minute and per bar, if none are given
TEMPOS = (20, 400)
FOREVER = 1e6  # seconds, the length of a harmony without end; over a day
DASHES = ("-", "\N{EN DASH}", "\N{EM DASH}")  # between chords
ROUNDING = 1e-6  # seconds by which sums of times may be off
EXAMPLE = "C major;3 | A minor;6 @20"
EXAMPLES = """\
  Am F C G                            chords, a bar each at 120 bpm
  Am F C G x8; 5/s                    eight times, 5 notes per second
  [Dm7 G7 | Cmaj7] @ 90bpm 3/4        bars with any number of chords
  C major; 5/s                        a scale (C alone is a chord)
  C major;3                           the same: density 3 is 5-6 notes/s
  5/s                                 only a density
  C major;3 | A minor;6 @20 | G7 @30  from second 20 on, then from 30 on
  C major;1 | ~ F# dorian;9 @40       a gradual change that ends at second 40
  1,0,1,0,1,1,0,1,0,1,0,1;3           weights of C, C#, ... B, then the density
  C major; loudness p; register C5    controls by name: density, loudness,
                                      register, spread, touch
  song.mid                            the controls of a MIDI file, event by
                                      event
  dataset/processed                   the controls of a .data file; the seed
                                      chooses one of the files in a folder"""


# ----------------------------------------------------------------------------------- files


def load_control(
    path: str,
    seed: int,
    encoding: Encoding = CURRENT,
    layout: ControlLayout = PLAIN_LAYOUT,
    tracks: str = "auto",
    start: float = 0.0,
) -> ControlSchedule:
    """Return the controls of a MIDI or .data file as a schedule with a row for each event.

    path: a file, or a folder, where `seed` chooses one of the .data files;
    encoding, layout: those of the session, whose controls the schedule has; tracks: of a MIDI
    file, see `NoteSeq.from_midi_file`; start: the second after the first note of a MIDI file at
    which the schedule starts. Raises ValueError with the path for a file that cannot be read, or
    has no notes after the start.
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
        times, values, seconds = _measure_file(file, encoding, tracks)
        is_left = (times >= start - ROUNDING) & (start < seconds - ROUNDING)
        values = {name: column[is_left] for name, column in values.items()}
    else:
        from corpus.performance import Performance  # imports torch

        performance = Performance.load(file)
        try:
            values = performance.compute_controls(encoding, layout)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    return _select_controls(values, layout, text=_check_rows(values, file, start))


def load_measured(
    path: str, encoding: Encoding, layout: ControlLayout, tracks: str = "auto", start: float = 0.0
) -> ControlSchedule:
    """Return the controls of a MIDI file over time, a row for each TIME_STEP; for --like.

    encoding, layout: those of the session; tracks, start: see `load_control`. Raises ValueError
    with the path for a file that cannot be read, or has no notes after the start.
    """
    if not path.lower().endswith(MIDI_SUFFIXES):
        raise ValueError(f"{path}: not a MIDI file")
    times, values, seconds = _measure_file(Path(path), encoding, tracks)
    grid = np.arange(start, seconds, TIME_STEP)
    rows = (np.searchsorted(times, grid + ROUNDING, "right") - 1).clip(0)
    values = {name: column[rows] for name, column in values.items()} if len(times) else values
    return _select_controls(
        values,
        layout,
        text=_check_rows(values, Path(path), start),
        times=grid - start,
        is_measured=True,
        length=seconds - start,
    )


def _measure_file(
    file: Path, encoding: Encoding, tracks: str
) -> tuple[Array, dict[str, Array], float]:
    """Return the second of each event of a MIDI file, its controls, and the length in seconds."""
    notes = NoteSeq.from_midi_file(file, sustain=not encoding.is_legacy, tracks=tracks)
    events = EventSeq.from_note_seq(notes.trim_start(), encoding)
    values = ControlSeq.from_event_seq(events).values
    return events.times / encoding.ticks_per_second, values, events.total_ms / 1000


def _check_rows(values: Mapping[str, Array], file: Path, start: float) -> str:
    """Return the name of a file; raise ValueError if no values of it are left."""
    if not len(values["density"]):
        where = f" after second {start:.1f}, where the primer ends" if start else ""
        raise ValueError(f"{file}: no notes{where}, so it has no control")
    return str(file)


def _select_controls(
    values: Mapping[str, Array], layout: ControlLayout, **fields: Any
) -> ControlSchedule:
    """Return a schedule with the controls that a network has; fields: its other fields."""
    rows = len(values["density"])
    nothing = {"density": np.full(rows, np.nan), "histogram": np.full((rows, 12), np.nan)}
    known = nothing | {name: values[name] for name in layout.names}
    density, histogram = known.pop("density"), known.pop("histogram")
    return ControlSchedule(density, histogram, scalars=known, **fields)


def average_controls(values: Mapping[str, Array], layout: ControlLayout) -> ControlSchedule:
    """Return the mean of each control of a network over rows of values, as a constant schedule.

    values: of each control, by name [rows], or [rows, 12] for the histogram. A mean ignores nan.
    """
    notes = middle_notes(values["density"])[:, None]
    means = {"histogram": (values["histogram"] * notes).sum(axis=0) / notes.sum()}
    for name, column in values.items():
        if name not in means:
            known = column[~np.isnan(column)]
            means[name] = known.mean() if len(known) else np.nan
    means["density"] = np.rint(means["density"])
    rows = {name: np.asarray(mean)[None] for name, mean in means.items()}
    return _select_controls(rows, layout, times=np.zeros(1))


# --------------------------------------------------------------------------------- grammar


@dataclass(frozen=True, eq=False)
class Progression:
    """Scales or chords that follow each other, and start again after the last one.

    starts: the second at which each one starts [n], the first at 0; weights: [n, 12];
    seconds: the length; repeats: how often it is played, or None if that is not given.
    """

    starts: Array
    weights: Array
    seconds: float = FOREVER
    repeats: int | None = None

    def find_changes(self, start: float, stop: float, origin: float) -> tuple[Array, Array]:
        """Return the times from `start` to `stop` at which a harmony begins, and their weights.

        origin: the second at which the progression starts. The first time is `start`.
        """
        if len(self.starts) == 1:
            return np.array([start]), self.weights
        cycles = np.arange((start - origin) // self.seconds, (stop - origin) // self.seconds + 1)
        times = (origin + self.seconds * cycles[:, None] + self.starts).ravel()
        weights = np.tile(self.weights, (len(cycles), 1))
        first = np.searchsorted(times, start + ROUNDING, "right") - 1
        inside = slice(int(first), int(np.searchsorted(times, stop - ROUNDING)))
        return np.maximum(times[inside], start), weights[inside]


@dataclass(frozen=True)
class Clause:
    """What follows "@": the start in seconds, and the tempo and meter, None if not given.

    tempo: quarter notes per minute; meter: quarter notes per bar; repeats: of the progression.
    """

    start: float | None = None
    tempo: float | None = None
    meter: float | None = None
    repeats: int | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a control in text form.

    start: the second at which the part begins, or at which the gradual change to it ends;
    values: the requested controls except pitch classes, by name; nan where one is open.
    origin: the second at which its progression starts; earlier than `start` if the part goes on
    with the progression of the part before; end: the second at which the part ends if nothing
    else is said, or None; is_timed: whether the music should end there, too.
    """

    text: str
    start: float
    is_gradual: bool
    values: dict[str, float]
    progression: Progression
    origin: float
    end: float | None
    is_timed: bool


OPEN_PITCHES = Progression(np.zeros(1), np.full((1, PITCH_CLASSES), np.nan))
VALUE_KINDS = {kind.name: kind for kind in CONTROLS if not kind.value_shape}
# words for values, such as "ff", with the name of their control; notes may be chords, too
VALUE_WORDS = {
    word.lower(): f"{kind.name} {word}"
    for kind in VALUE_KINDS.values()
    for word in kind.words
    if word not in NOTE_NAMES
}
PITCHES = "pitches"  # name of the pitch classes in a text


def parse_control(text: str) -> ControlSchedule:
    """Parse a control in text form into a schedule.

    The grammar is PART | PART | ..., where PART is [~] [PITCHES] [; CONTROL] ... [@ CLAUSE]; see
    docs/controls.md. A control that no part has named so far is open.
    Raises ValueError that names the wrong part and shows an example.
    """
    # full-width punctuation is read as ASCII
    text = unicodedata.normalize("NFKC", text).replace("\N{MULTIPLICATION SIGN}", "x")
    parts: list[Part] = []
    texts = _split(text, "|")
    if len(texts) > 2 and not texts[0].strip() and not texts[-1].strip():
        texts = texts[1:-1]  # the first and the last bar line of a lead sheet
    tempo, meter = TEMPO, METER
    for number, part in enumerate(texts, 1):
        try:
            fields, clause = _split_part(part)
            tempo, meter = clause.tempo or tempo, clause.meter or meter
            bar = 60 / tempo * meter
            parts.append(_parse_part(part, fields, clause, bar, parts[-1] if parts else None))
        except ValueError as error:
            if _is_path(text):
                raise ValueError(f"no such file or folder: {quote(text)}") from None
            where = f"part {number}, {quote(part)}: " if len(texts) > 1 else ""
            raise ValueError(f"{where}{error} (example: '{EXAMPLE}')") from error
    return _build_schedule(parts)


def _is_path(text: str) -> bool:
    """Return whether a text that is no control looks like the name of a file or folder."""
    name = text.partition(";")[0]
    is_file = text.lower().endswith((*MIDI_SUFFIXES, DATA_SUFFIX))
    return is_file or ("/" in name and not set("@|[, ") & set(name.strip()))


def _build_schedule(parts: Sequence[Part]) -> ControlSchedule:
    """Return a schedule with a row for each change of the harmony or of the part."""
    times, weights, is_gradual = [], [], []
    columns: dict[str, list[Array]] = {name: [] for name in VALUE_KINDS}
    last = parts[-1]
    has_loop = len(last.progression.starts) > 1
    end = last.start + last.progression.seconds
    for part, stop in zip(parts, [*(part.start for part in parts[1:]), end], strict=True):
        rows = part.progression.find_changes(part.start, stop, part.origin)
        times.append(rows[0])
        weights.append(normalize_histogram(rows[1]))
        is_gradual.append(np.arange(len(rows[0])) < part.is_gradual)
        for name, column in columns.items():
            column.append(np.full(len(rows[0]), part.values.get(name, np.nan)))
    values = {name: np.concatenate(column) for name, column in columns.items()}
    return ControlSchedule(
        values.pop("density"),
        np.concatenate(weights),
        np.concatenate(times),
        text=" | ".join(part.text for part in parts),
        parts=tuple((part.start, part.text) for part in parts),
        is_gradual=np.concatenate(is_gradual),
        loop=(last.start, last.progression.seconds) if has_loop else None,
        length=last.end if last.is_timed else None,
        scalars={name: column for name, column in values.items() if not np.isnan(column).all()},
    )


def _split(text: str, separator: str) -> list[str]:
    """Split a text at a separator, except inside brackets."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == separator and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _split_part(part: str) -> tuple[list[str], Clause]:
    """Return the fields of a part, which ";" separates, and what follows "@" in it.

    Repeats, such as x8, may stand at the end of any field, or before its "@".
    """
    fields: list[str] = []
    repeats: list[str] = []
    clauses: list[Clause] = []
    for text in _split(part.strip().removeprefix("~"), ";"):
        field, at, clause = text.replace("]", "] ").partition("@")
        sides = [field.split(), clause.split()]
        for words in sides:
            if len(words) > 1 and words[-2] in ("x", "X") and words[-1].isdecimal():
                words[-2:] = [words[-2] + words[-1]]
            if words and words[-1][0] in "xX" and words[-1][1:].isdecimal():
                repeats.append(words.pop())
        if at:
            clauses.append(_parse_clause(" ".join(sides[1])))
        if sides[0] or at or not text.strip():
            fields.append(" ".join(sides[0]))
    if len(clauses) > 1 or len(repeats) > 1:
        raise ValueError(f"it has more than one {quote('@' if len(clauses) > 1 else repeats[1])}")
    found = clauses[0] if clauses else Clause()
    return fields, replace(found, repeats=int(repeats[0][1:]) if repeats else None)


def _parse_clause(text: str) -> Clause:
    """Parse what follows "@": a start such as 20, a tempo such as 90bpm, a meter such as 3/4."""
    values: dict[str, Any] = {}
    for word in text.lower().replace(" bpm", "bpm").split():
        if word.endswith("bpm"):
            message = f"tempo {{}} is not a number from {TEMPOS[0]} to {TEMPOS[1]}"
            values["tempo"] = _parse_float(word.removesuffix("bpm"), message, TEMPOS)
        elif "/" in word:
            values["meter"] = _parse_meter(word)
        else:
            message = "{} after '@' is not a number of seconds"
            values["start"] = _parse_float(word, message)
    return Clause(**values)


def _parse_meter(text: str) -> float:
    """Return the quarter notes per bar of a meter such as 3/4."""
    beats, _, unit = text.partition("/")
    if not beats.isdecimal() or unit not in ("2", "4", "8", "16") or not 1 <= int(beats) <= 32:
        raise ValueError(f"{quote(text)} is not a meter, such as 3/4")
    return 4 * int(beats) / int(unit)


def _parse_part(
    text: str, fields: Sequence[str], clause: Clause, bar: float, previous: Part | None
) -> Part:
    """Return a part with these fields; bar: seconds per bar."""
    is_gradual = text.lstrip().startswith("~")
    if is_gradual and not previous:
        raise ValueError("the first part cannot be a gradual change (~)")
    values = _parse_fields(fields, bar, clause.repeats)
    start = _find_start(clause.start, previous)
    progression, origin = values.pop(PITCHES, None), start
    if is_gradual and progression is not None and len(progression.starts) > 1:
        raise ValueError("a gradual change (~) needs one scale or chord, not several")
    if previous is not None:  # a part keeps what it does not name
        values = previous.values | values
        if progression is None:
            progression, origin = previous.progression, previous.origin
    progression = progression or OPEN_PITCHES
    end = None
    if progression.seconds < FOREVER:
        end = start + (progression.repeats or 1) * progression.seconds
    is_implied = clause.start is None and previous is not None
    is_timed = is_implied or len(progression.starts) > 1 or progression.repeats is not None
    return Part(text.strip(), start, is_gradual, values, progression, origin, end, is_timed)


def _find_start(start: float | None, previous: Part | None) -> float:
    """Return the second at which a part starts: as given, or where the part before ends."""
    if previous is None:
        if start:
            raise ValueError(
                f"it starts at second {start:g}, but the first part must start at second 0; "
                f"a tempo is written '@ {start:g}bpm'"
            )
        return 0.0
    if start is None:
        if previous.end is None:
            raise ValueError("a start time is missing, such as '@20' (seconds)")
        start = previous.end
    if not start > previous.start:
        raise ValueError(f"it must start later than second {previous.start:g}, not at {start:g}")
    if start > MAX_SECONDS:
        raise ValueError(f"it must start within a day, not at second {start:g}")
    return start


def _parse_fields(fields: Sequence[str], bar: float, repeats: int | None) -> dict[str, Any]:
    """Return the values that the fields of a part give, by name.

    bar: seconds per bar; repeats: of the progression, or None if they are not given.
    """
    if not any(fields):
        raise ValueError("it is empty, but it needs pitch classes, a density, or both")
    values: dict[str, Any] = {}
    value: Any
    for number, field in enumerate(fields[:-1] if fields[-1] == "" != fields[0] else fields):
        name, rest = re.findall("^([A-Za-z]*)[ :=]*(.*)", field)[0]
        name = name.lower()
        is_named = name == PITCHES and rest.lower() not in ("", "any")
        if is_named:  # such as "pitches C major"
            name, field = "", rest
        if (name == PITCHES and rest.lower() == "any") or (number == 0 and not field):
            name, value = PITCHES, OPEN_PITCHES
        elif name in VALUE_KINDS:
            value = _parse_value(VALUE_KINDS[name], rest)
        elif "," in field and field.lstrip("[ ")[:1].upper() not in NATURALS:
            name, value = PITCHES, _parse_weights(field)
        elif field[:1] in "+-.0123456789" and not is_named:
            name, value = "density", _parse_density(field)
        elif PITCHES in values or not _may_be_pitches(field):
            raise ValueError(_explain_field(field, PITCHES in values))
        else:
            name, value = PITCHES, _parse_progression(field, bar, repeats)
        if name in values:
            raise ValueError(f"it has more than one {name}: {quote(field)}")
        values[name] = value
    return values


def _may_be_pitches(field: str) -> bool:
    """Return whether a field may be chords or scales: it begins with a bracket or a note name."""
    first = field[:1].upper()
    return (first in NATURALS or first in "[]") and (
        first == field.upper() or field.lower() not in VALUE_WORDS
    )


def _explain_field(field: str, has_pitches: bool) -> str:
    """Return why a field is no control; has_pitches: whether the part has pitch classes already."""
    if field.lower() in VALUE_WORDS:
        return f"{quote(field)} needs the name of its control: '{VALUE_WORDS[field.lower()]}'"
    names = f"none of {', '.join(VALUE_KINDS)}"
    if has_pitches:
        return f"{quote(field)} is no density, such as 8/s, and {names}"
    return f"{quote(field)} does not begin with a note name, such as C, F# or Bb, and is {names}"


def _parse_weights(text: str) -> Progression:
    """Return the 12 weights of a text as a progression that never changes."""
    weights = [_parse_float(weight, "weight {} is not a number") for weight in text.split(",")]
    return Progression(np.zeros(1), Control(weights, 0).pitch_histogram[None])


def _parse_progression(text: str, bar: float, repeats: int | None) -> Progression:
    """Parse scales and chords, a bar each, or bars in brackets; bar: seconds per bar.

    A scale alone, such as C major, never changes, unless it is repeated.
    """
    if "[" in text or "]" in text:
        if text.find("[") or text.find("]") != len(text) - 1:
            raise ValueError(f"{quote(text)}: bars are written as [Dm7 G7 | Cmaj7]")
        bars = [_parse_names(part) for part in text[1:-1].split("|")]
    else:
        bars = [[harmony] for harmony in _parse_names(text)]
        if len(bars) == 1 and bars[0][0].is_scale and repeats is None:
            return Progression(np.zeros(1), bars[0][0].weights[None])
    if not all(bars) or repeats == 0:
        raise ValueError(f"{quote(text)}: {'no repeats' if repeats == 0 else 'a bar is empty'}")
    starts = np.concatenate([k + np.arange(len(part)) / len(part) for k, part in enumerate(bars)])
    weights = np.array([harmony.weights for part in bars for harmony in part])
    if bar / max(map(len, bars)) < TIME_STEP:
        raise ValueError(f"{quote(text)}: its chords are shorter than {TIME_STEP} s")
    return Progression(bar * starts, weights, bar * len(bars), repeats)


def _parse_names(text: str) -> list[Harmony]:
    """Return scales and chords between spaces, commas or dashes, such as "Am - F - C"."""
    words = [word for word in text.replace(",", " ").split() if word not in DASHES]
    for word in words:
        if word.lower() in VALUE_KINDS or word.endswith("/s"):
            raise ValueError(f"a ';' is missing before {quote(word)}")
    return parse_harmonies(words)


def _parse_float(text: str, message: str, allowed: tuple[float, float] | None = None) -> float:
    """Return a number; ValueError with the message, which shows the text at its `{}`.

    allowed: the least and the greatest number that is possible.
    """
    try:
        value = float(text)
    except ValueError:
        raise ValueError(message.format(quote(text))) from None
    if allowed is not None and not allowed[0] <= value <= allowed[1]:
        raise ValueError(message.format(quote(text)))
    return value


def _parse_value(kind: ControlKind, text: str) -> float:
    """Return the value of a control, a number or one of its words; nan for "any"."""
    word = text.strip().lower()
    values = {name.lower(): value for name, value in kind.words.items()} | {"any": np.nan}
    if word in values:
        return values[word]
    if kind.name == "density":
        return _parse_density(text)
    low, high = kind.allowed
    allowed = ", ".join([f"{low:g} to {high:g} {kind.unit}", *list(kind.words)[:6], "any"])
    message = f"{kind.name} {quote(text)} is none of these: {allowed}"
    for other in VALUE_KINDS:
        if other in word.split():
            raise ValueError(f"a ';' is missing before '{other}'")
    value = _parse_float(word.removesuffix(kind.unit.lower()), message)
    if not low <= value <= high:
        raise ValueError(message)
    return value


def _parse_density(text: str) -> int:
    """Return the density level of a text: a level, '3', or notes per second, '8/s' or '5-6/s'."""
    number, slash, unit = "".join(text.split()).replace("notes/", "/").partition("/")
    if not slash and number.isdecimal():
        return Control(np.ones(12), int(number)).note_density
    message = "density {} is neither notes per second ('8/s') nor a whole number 0-11"
    if unit != "s":
        raise ValueError(message.format(quote(text)))
    low, dash, high = number.partition("-")
    message = message.replace("{}", quote(text))
    rate = (_parse_float(low, message) + _parse_float(high if dash else low, message)) / 2
    if not 0 <= rate <= MAX_RATE:
        raise ValueError(f"density {quote(text)} is not between 0 and {MAX_RATE} notes/s")
    return int(find_density_level(rate * WINDOW))
