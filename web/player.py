"""Pieces as their files tell of them, and one page on which all of a folder are seen and heard."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from midi.control_schedule import ControlSchedule
from midi.notes import NoteSeq, read_midi_texts
from midi.pianoroll import COLORS, LOUD, SOFT, measure_density
from utils import atomic_write

TEMPLATE = Path(__file__).with_name("player.html")
MARK = "performance-rnn-page"  # stands in every page that is written here
NAME = "index.html"
MIDI = (".mid", ".midi")
ROWS = 240  # of a control that a file holds, at most
PROGRAM = ("python3", "generate.py")
LAST = "  # the last that it writes"
LABELS = ("session", "seed", "piece", "control", "made with")


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece as the page shows it; `midi` is the content of its file."""

    name: str
    notes: NoteSeq
    midi: bytes = b""
    title: str = ""
    asked: ControlSchedule | None = None
    figures: Mapping[str, str] = field(default_factory=dict)
    made_with: Sequence[str] = ()


# ------------------------------------------------------------------- what a file says of itself


def to_command(argv: Sequence[str], many: bool = False) -> str:
    """The line that makes a piece again; of `many` that the command writes it is the last."""
    return shlex.join([*PROGRAM, *argv]) + (LAST if many else "")


def is_command(line: str) -> bool:
    """Whether a line is such a command and no more: a file by other hands may hold anything."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return False
    argv = words[len(PROGRAM) :]
    return line in (to_command(argv), to_command(argv, many=True))


def to_texts(said: Mapping[str, str], asked: ControlSchedule | None = None) -> list[str]:
    """Text events for a MIDI file: 'label: text' for each of `said`, and the control asked for.

    The control is rounded to milliseconds and thousandths, and of more than 240 rows only so
    many are kept, evenly.
    """
    texts = [f"{label}: {text}" for label, text in said.items()]
    if asked is None:
        return texts
    times, density, histogram = asked.drop_repeats().columns
    kept = np.unique(np.linspace(0, len(times) - 1, min(len(times), ROWS)).astype(int))
    rows = {
        "times": np.round(np.asarray(times)[kept], 3).tolist(),
        "density": np.asarray(density)[kept].astype(int).tolist(),
        "histogram": np.rint(1000 * np.asarray(histogram)[kept]).astype(int).tolist(),
    }
    return [*texts, f"asked: {json.dumps(rows, separators=(',', ':'))}"]


def from_texts(texts: Sequence[str]) -> tuple[dict[str, str], ControlSchedule | None]:
    """What `to_texts` was given; texts by other hands are left out, whatever they hold."""
    found: dict[str, str] = {}
    for text in texts:
        label, colon, rest = text.partition(": ")
        if colon and label in (*LABELS, "asked"):
            found.setdefault(label, rest)
    if not is_command(found.get("made with", "")):
        found.pop("made with", None)
    return found, _asked(found.pop("asked", ""))


def _asked(text: str) -> ControlSchedule | None:
    try:
        rows = json.loads(text)
        times, density, weights = (
            np.array(rows[name], np.float64) for name in ("times", "density", "histogram")
        )
        sound = (np.abs(weights) <= 1e6).all() and np.isin(density, range(12)).all()
        if not sound or len(times) > 10 * ROWS:
            return None
        share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        return ControlSchedule(density.astype(np.int64), share, times)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None  # the piece is shown without its control


def figures(notes: NoteSeq, asked: ControlSchedule | None = None) -> dict[str, str]:
    """What a piece came to, and how well it does what was asked for, for people."""
    told = {"notes": f"{len(notes):,}", "length": f"{notes.seconds:.1f} s"}
    if not len(notes):
        return told
    _, density = measure_density(notes.starts, float(notes.starts[-1]))
    low, high = (int(edge) for edge in (notes.velocities.min(), notes.velocities.max()))
    told |= {"notes in 2 s": f"{density.mean():.1f}", "velocity": f"{low}-{high}"}
    if asked is None:
        return told
    row = np.maximum(asked.find_rows(notes.starts, np.arange(len(notes))), 0)
    inside = asked.histogram[row, notes.pitches % 12] > 0
    fewest, most = asked.density_ranges()
    told["notes in 2 s"] += f" (asked for {fewest.min()}-{most.max()})"
    if (asked.histogram == 0).any():  # else every note would be
        told["on asked-for pitch classes"] = f"{inside.mean():.1%}"
    return told


def title_of(said: Mapping[str, str]) -> str:
    """Session, seed and number of a piece, as far as they are known."""
    numbers = [f"{label} {said[label]}" for label in ("seed", "piece") if label in said]
    return ", ".join(filter(None, [said.get("session", ""), *numbers]))


def read_piece(path: Path) -> Piece:
    """A piece from its MIDI file; ValueError, naming the path, if it is not readable."""
    content = path.read_bytes()
    try:
        notes = NoteSeq.from_midi_bytes(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    said, asked = from_texts(read_midi_texts(content))
    made_with = [said["made with"]] if "made with" in said else []
    told = figures(notes, asked) | {key: said[key] for key in ("control",) if key in said}
    return Piece(path.stem, notes, content, title_of(said), asked, told, made_with)


def read_folder(folder: Path) -> tuple[list[Piece], list[str]]:
    """The pieces whose files lie in a folder, the last name first, and what could not be read.

    Numbers in names are compared as numbers.
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in MIDI and path.is_file()]
    pieces, left_out = [], []
    for path in sorted(paths, key=_by_number, reverse=True):
        try:
            pieces.append(read_piece(path))
        except ValueError as error:
            left_out.append(str(error))
    return pieces, left_out


def _by_number(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


# ------------------------------------------------------------------------------------- page


def page(pieces: Sequence[Piece], heading: str) -> bytes:
    """One HTML page, in need of nothing else, on which the pieces are seen and heard.

    Whatever the names and texts hold is shown as text: it is escaped, and no script runs but
    the page's own.
    """
    template = TEMPLATE.read_text(encoding="utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = {"colors": COLORS, "range": (SOFT, LOUD), "pieces": [_data(piece) for piece in pieces]}
    parts = {
        "MARK": MARK,
        "SCRIPT_HASH": f"'sha256-{digest}'",
        "HEADING": html.escape(heading),
        "RAMP": ", ".join(COLORS),
        "SUMMARY": _summary(pieces),
        "PIECES": "\n".join(_article(number, piece) for number, piece in enumerate(pieces)),
        "DATA": _json(data),
    }
    whole = re.sub(r"\{\{([A-Z_]+)\}\}", lambda found: parts[found[1]], template)
    return whole.encode("utf-8", "backslashreplace")


def write_page(folder: Path) -> Iterator[str]:
    """Write `index.html` for the pieces of a folder, telling of it a line at a time."""
    pieces, left_out = read_folder(folder)
    target = folder / NAME
    atomic_write(target, page(pieces, f"Music in {folder.resolve().name}"), durable=False)
    for reason in left_out:
        yield f"left out of {target}: {reason}"
    yield f"{target}: {_summary(pieces)}"


def check_page(folder: Path) -> None:
    """ValueError if in a folder something else has the name that the page would take."""
    target = folder / NAME
    if target.exists():
        with target.open("rb") as file:
            if f'content="{MARK}"'.encode() not in file.read(1000):
                raise ValueError(f"{target} is not a page that was written here (--force: replace)")


def _summary(pieces: Sequence[Piece]) -> str:
    many = "1 piece" if len(pieces) == 1 else f"{len(pieces)} pieces"
    return f"{many}, {_clock(sum(piece.notes.seconds for piece in pieces))} of music"


def _clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _json(value: Any) -> str:
    """JSON that can stand within a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _data(piece: Piece) -> dict[str, Any]:
    """The notes of a piece in whole milliseconds, and what was asked for, for the script."""
    starts, ends, pitches, velocities = piece.notes.columns
    columns = [np.rint(1000 * starts), np.rint(1000 * ends), pitches, velocities]
    data: dict[str, Any] = {"notes": [column.astype(int).tolist() for column in columns]}
    if piece.asked is not None:
        times, density, histogram = piece.asked.drop_repeats().columns
        data["asked"] = {
            "times": np.round(times, 3).tolist(),
            "density": np.asarray(density).astype(int).tolist(),
            "histogram": np.round(histogram, 3).tolist(),
        }
    return data


def _article(number: int, piece: Piece) -> str:
    name, title = html.escape(piece.name), html.escape(piece.title)
    midi = base64.b64encode(piece.midi).decode()
    rows = [(html.escape(label), html.escape(text)) for label, text in piece.figures.items()]
    told = "".join(f"<div><dt>{label}</dt><dd>{text}</dd></div>" for label, text in rows)
    again = html.escape("\n".join(piece.made_with))
    made = f"<details><summary>Make it again</summary><pre>{again}</pre></details>" if again else ""
    seconds = piece.notes.seconds
    return f"""<article data-piece="{number}" aria-label="{name}">
<header><h2>{name}</h2><p>{title}</p></header>
<div class="bar"><button class="play">Play</button><button class="stop" disabled>Stop</button>
<span class="clock">0:00 / {_clock(seconds)}</span>
<a class="save" download="{name}.mid" href="data:audio/midi;base64,{midi}">Save MIDI</a></div>
<div class="roll" tabindex="0" role="slider" aria-label="Position in {name}" aria-valuemin="0"
 aria-valuemax="{seconds:.2f}" aria-valuenow="0" aria-valuetext="0:00"><canvas></canvas></div>
<dl>{told}</dl>{made}
</article>"""
