"""Samples as their files tell of them, and one page on which all of a folder are seen and heard."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from midi.control_schedule import ControlSchedule
from midi.metadata import decode_metadata, format_title, summarize_sample
from midi.notes import NoteSeq, read_midi_texts
from midi.pianoroll import COLORS, LOUD, SOFT
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
class Sample:
    """A piece as the page shows it; `midi` is the content of its file."""

    name: str
    notes: NoteSeq
    midi: bytes = b""
    title: str = ""
    requested: ControlSchedule | None = None
    summary: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def read_sample(path: Path) -> Sample:
    """A piece from its MIDI file; ValueError, naming the path, if it is not readable."""
    content = path.read_bytes()
    try:
        notes = NoteSeq.from_midi_bytes(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    metadata, requested = decode_metadata(read_midi_texts(content))
    summary = summarize_sample(notes, requested)
    if "control" in metadata:
        summary["control"] = metadata["control"]
    command = metadata.get("made with", "")
    return Sample(path.stem, notes, content, format_title(metadata), requested, summary, command)


def read_samples(folder: Path) -> tuple[list[Sample], list[str]]:
    """The pieces whose files lie in a folder, the last name first, and what could not be read.

    Numbers in names are compared as numbers.
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in MIDI and path.is_file()]
    pieces, left_out = [], []
    for path in sorted(paths, key=_by_number, reverse=True):
        try:
            pieces.append(read_sample(path))
        except ValueError as error:
            left_out.append(str(error))
    return pieces, left_out


def _by_number(path: Path) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


# ------------------------------------------------------------------------------------- page


def render_player(pieces: Sequence[Sample], heading: str) -> bytes:
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


def write_player(folder: Path) -> Iterator[str]:
    """Write `index.html` for the pieces of a folder, telling of it a line at a time."""
    pieces, left_out = read_samples(folder)
    target = folder / NAME
    atomic_write(target, render_player(pieces, f"Music in {folder.resolve().name}"), durable=False)
    for reason in left_out:
        yield f"left out of {target}: {reason}"
    yield f"{target}: {_summary(pieces)}"


def check_player_path(folder: Path) -> None:
    """ValueError if in a folder something else has the name that the page would take."""
    target = folder / NAME
    if target.exists():
        with target.open("rb") as file:
            if f'content="{MARK}"'.encode() not in file.read(1000):
                raise ValueError(f"{target} is not a page that was written here (--force: replace)")


def _summary(pieces: Sequence[Sample]) -> str:
    many = "1 piece" if len(pieces) == 1 else f"{len(pieces)} pieces"
    return f"{many}, {_clock(sum(piece.notes.seconds for piece in pieces))} of music"


def _clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _json(value: Any) -> str:
    """JSON that can stand within a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _data(piece: Sample) -> dict[str, Any]:
    """The notes of a piece in whole milliseconds, and what was requested for, for the script."""
    starts, ends, pitches, velocities = piece.notes.columns
    columns = [np.rint(1000 * starts), np.rint(1000 * ends), pitches, velocities]
    data: dict[str, Any] = {"notes": [column.astype(int).tolist() for column in columns]}
    if piece.requested is not None:
        times, density, histogram = piece.requested.drop_repeats().columns
        data["asked"] = {
            "times": np.round(times, 3).tolist(),
            "density": np.asarray(density).astype(int).tolist(),
            "histogram": np.round(histogram, 3).tolist(),
        }
    return data


def _article(number: int, piece: Sample) -> str:
    name, title = html.escape(piece.name), html.escape(piece.title)
    midi = base64.b64encode(piece.midi).decode()
    rows = [(html.escape(label), html.escape(text)) for label, text in piece.summary.items()]
    told = "".join(f"<div><dt>{label}</dt><dd>{text}</dd></div>" for label, text in rows)
    again = html.escape(piece.command)
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
