"""Show what a session expects after some notes, as a table and a picture.

The table is for docs/how-it-works.md; the picture is docs/prediction.png.

examples:
  python3 -m tools.explain
  python3 -m tools.explain -s mine.sess --pitches 57,60,64 --gap 0.4 -o a-minor.png
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import utils
from config import PRETRAINED
from corpus.recall import recall_columns
from midi.control_schedule import PITCH_NAMES
from midi.pianoroll import INK
from model import PerformanceRNN, Session
from sequence import ENCODINGS, PITCHES, Encoding, EventSeq, NoteSeq
from utils import Array, atomic_write, import_optional

PICTURE = Path(__file__).parents[1] / "docs" / "prediction.png"
SOFTER = 8  # MIDI velocity
COUNT = 12  # events in the table
HELD = 0.9  # share of the time to the next note for which a note sounds
COLORS = {
    "note_on": "#4b4fc4",
    "note_off": "#9fd0e6",
    "velocity": "#f5701c",
    "time_shift": "#0b5c4d",
}


def name_pitch(pitch: int) -> str:
    """Return the name of a MIDI pitch: "C4" is 60."""
    return f"{PITCH_NAMES[pitch % 12]}{pitch // 12 - 1}"


def describe_event(event: int, encoding: Encoding) -> tuple[str, str]:
    """Return the kind of an event, and words for it such as "play G4" or "wait 60 ms"."""
    ranges = EventSeq.feat_ranges()
    kind = next(name for name, indices in ranges.items() if event in indices)
    number = event - ranges[kind].start
    if kind == "velocity":
        return kind, f"velocity {min(127, int(encoding.velocity_values[number]))}"
    if kind == "time_shift":
        return kind, f"wait {EventSeq.event_durations(encoding)[event]} ms"
    return (
        kind,
        f"{'play' if kind == 'note_on' else 'release'} {name_pitch(number + PITCHES.start)}",
    )


def encode_notes(
    pitches: Sequence[int], gap: float, velocity: int, encoding: Encoding
) -> list[int]:
    """Return the events of notes that follow one another, up to the moment of the next note.

    The next note is a little softer, so the last event is its velocity.
    """
    starts = gap * np.arange(len(pitches) + 1)
    columns = np.array([*pitches, pitches[-1]]), np.full(len(starts), velocity)
    columns[1][-1] = max(1, velocity - SOFTER)
    notes = NoteSeq(starts, starts + HELD * gap, *columns)
    events = EventSeq.from_note_seq(notes, encoding).to_array().tolist()
    note_ons = [number for number, event in enumerate(events) if event < len(PITCHES)]
    return list(events[: note_ons[-1]])


@torch.inference_mode()
def predict_next(model: PerformanceRNN, events: Sequence[int]) -> Array:
    """Return the probability of each event after `events`, float64 [events], without control."""
    hidden = model.init_hidden(torch.zeros(1, model.config.init_dim))
    inputs = torch.tensor([model.primary_event, *events])[:, None]
    recall = recall_columns(np.array([*events, 0])[:, None])  # also before the next event
    logits, _ = model(inputs, hidden, recall=recall)
    return np.asarray(logits[-1, 0].double().softmax(0).numpy())


def draw_prediction(labels: Sequence[tuple[str, str]], shares: Array, title: str) -> bytes:
    """Return a PNG bar chart of the likeliest events; a color for each kind."""
    figures = import_optional("matplotlib.figure", "the picture")
    figure = figures.Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    colors = [COLORS[kind] for kind, _ in labels]
    bars = axes.barh([words for _, words in labels], 100 * shares, color=colors)
    axes.bar_label(bars, fmt="%.1f%%", padding=3, fontsize=8, color=INK)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, color=INK)
    axes.set_xlabel("probability of the next event (%)", fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def run(options: argparse.Namespace) -> int:
    """Print the table and write the picture."""
    session = Session.load(options.session)
    encoding = ENCODINGS[session.encoding]
    pitches = [int(text) for text in options.pitches.split(",")]
    events = encode_notes(pitches, options.gap, options.velocity, encoding)
    shares = predict_next(session.build_model(torch.device("cpu")).eval(), events)
    best = np.argsort(-shares, kind="stable")[:COUNT]
    print("events so far:", ", ".join(describe_event(event, encoding)[1] for event in events))
    labels = [describe_event(event, encoding) for event in best.tolist()]
    for (_, words), share in zip(labels, shares[best], strict=True):
        print(f"  {words:<16} {share:.1%}")
    title = "After " + " ".join(map(name_pitch, pitches))
    atomic_write(options.output, draw_prediction(labels, shares[best], title))
    print(options.output)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and write the picture; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-s", "--session", default=PRETRAINED)
    parser.add_argument(
        "--pitches",
        default="60,62,64,65,67,69,71,72,60,62,64,65",
        help="MIDI pitches, one after another",
    )
    parser.add_argument("--gap", type=float, default=0.15, help="seconds from one to the next")
    parser.add_argument("--velocity", type=int, default=64)
    parser.add_argument("-o", "--output", type=Path, default=PICTURE)
    options = parser.parse_args(argv)
    return utils.run_command("tools.explain", lambda: run(options), "interrupted")


if __name__ == "__main__":
    raise SystemExit(main())
