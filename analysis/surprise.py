"""Surprise: how improbable a network finds each note of a performance.

The surprise of an event is its negative log-likelihood in nats, given all events before it. It is
the sum of two parts: that of the kind of event (note on, note off, velocity, time shift) and that
of the event among those of its kind. A note gets all events since the note before it:

pitch     its note on among all note ons: which key, given that a note starts now
time      the time shifts, and the kind of its note on: when the note starts
velocity  the velocity event, if there is one
release   the note offs

So the sum over all notes, and the events after the last one, is the loss of the performance.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corpus.performance import expand_controls
from corpus.recall import recall_columns
from model import PerformanceRNN
from sequence import PITCHES, ControlSeq, Encoding, EventSeq, NoteSeq
from utils import Array, atomic_write

STEPS = 128  # events at once, as in training.evaluate
ALTERNATIVES = 5  # likeliest pitches of each note
KINDS = ("note_on", "note_off", "velocity", "time_shift")
PARTS = ("pitch", "time", "velocity", "release")


@dataclass(frozen=True, eq=False)
class Surprise:
    """The surprise of each note of a performance, in order of their note ons.

    onsets and ends in seconds, note_pitches and velocities [notes]: those of the events;
    nats: pitch, time, velocity and release of each note, float64 [notes, 4]; rest: the same for
    the events after the last note [4];
    entropy: of the prediction before the note on, over all events, in nats [notes];
    pitch_entropy: over the pitches, given that a note starts [notes];
    pitches, probabilities: the likeliest pitches and their probabilities, given that a note
    starts [notes, ALTERNATIVES].
    """

    onsets: Array
    ends: Array
    note_pitches: Array
    velocities: Array
    nats: Array
    rest: Array
    entropy: Array
    pitch_entropy: Array
    pitches: Array
    probabilities: Array

    def __len__(self) -> int:
        return len(self.onsets)

    @property
    def total(self) -> float:
        """The loss of the whole performance in nats; the same as that of an evaluation."""
        return float(self.nats.sum() + self.rest.sum())

    def per_second(self) -> tuple[Array, Array]:
        """Return the nats and the number of the notes that start in each second [seconds]."""
        second = self.onsets.astype(np.int64)
        length = int(second.max(initial=-1)) + 1
        nats = np.bincount(second, self.nats.sum(axis=1), minlength=length)
        return nats, np.bincount(second, minlength=length)


@torch.inference_mode()
def measure_surprise(
    model: PerformanceRNN, events: EventSeq, controls: Array | None = None
) -> Surprise:
    """Return the surprise of each note.

    controls: control vectors float32 [events, control], or None for no control.
    The hidden state starts from a zero vector, as in an evaluation.
    Raises ValueError for events without a note on.
    """
    indices = events.to_array().astype(np.int64)
    is_note = indices < EventSeq.feat_ranges()["note_on"].stop
    if not is_note.any():
        raise ValueError("no notes")
    kind_nats, inner_nats = np.empty(len(indices)), np.empty(len(indices))
    recall = recall_columns(indices[:, None])
    on_rows = []  # log-probabilities at the note ons [note ons, events]
    model.eval()
    hidden = model.init_hidden(torch.zeros(1, model.config.init_dim, device=model.device))
    previous = torch.full((1, 1), model.primary_event, device=model.device)
    for start in range(0, len(indices), STEPS):
        part = slice(start, start + STEPS)
        targets = torch.from_numpy(indices[part])[:, None].to(model.device)
        control = None
        if controls is not None:
            control = torch.from_numpy(controls[part])[:, None].to(model.device)
        recall_rows = recall[part].to(model.device)
        inputs = torch.cat([previous, targets[:-1]])
        logits, hidden = model(inputs, hidden, control, recall=recall_rows)
        previous = targets[-1:]
        logs = logits[:, 0].double().log_softmax(dim=-1)  # [steps, events]
        kinds = _log_kinds(logs)  # [steps, kinds]
        of_event = kinds[:, torch.from_numpy(EventSeq.event_kinds())]
        kind_nats[part] = -of_event.gather(1, targets)[:, 0].cpu().numpy()
        inner_nats[part] = (of_event - logs).gather(1, targets)[:, 0].cpu().numpy()
        on_rows.append(logs[torch.from_numpy(is_note[part])].cpu())
    return _collect(events, indices, is_note, kind_nats, inner_nats, torch.cat(on_rows))


def _log_kinds(logs: Tensor) -> Tensor:
    """Return the log-probability of each kind [steps, kinds] from those of the events."""
    ranges = EventSeq.feat_ranges()
    parts = [logs[:, ranges[kind].start : ranges[kind].stop].logsumexp(1) for kind in KINDS]
    return torch.stack(parts, dim=1)


def _collect(
    events: EventSeq,
    indices: Array,
    is_note: Array,
    kind_nats: Array,
    inner_nats: Array,
    on: Tensor,
) -> Surprise:
    """Add up the nats of the events of each note; `on`: log-probabilities [note ons, events]."""
    kinds = EventSeq.event_kinds()[indices]
    part_of_kind = np.array(
        [PARTS.index(part) for part in ("pitch", "release", "velocity", "time")]
    )
    owner = np.cumsum(is_note) - is_note  # number of the note that each event leads to
    table = np.zeros((is_note.sum() + 1, len(PARTS)))
    np.add.at(table, (owner, part_of_kind[kinds]), inner_nats)
    kind_parts = np.where(is_note, PARTS.index("time"), part_of_kind[kinds])
    np.add.at(table, (owner, kind_parts), kind_nats)

    onsets, ends, pitches, velocities = _match_notes(events, indices, is_note)
    pitch_logs = on[:, : len(PITCHES)].log_softmax(dim=1)
    best = pitch_logs.topk(ALTERNATIVES, dim=1)
    return Surprise(
        onsets,
        ends,
        pitches,
        velocities,
        table[:-1],
        table[-1],
        _entropy(on),
        _entropy(pitch_logs),
        best.indices.numpy() + PITCHES.start,
        best.values.exp().numpy(),
    )


def _entropy(logs: Tensor) -> Array:
    """Return the entropy in nats of each row of log-probabilities."""
    return np.asarray(-(logs.exp() * logs).nansum(dim=1).numpy())


def _match_notes(
    events: EventSeq, indices: Array, is_note: Array
) -> tuple[Array, Array, Array, Array]:
    """Return onset, end, pitch and velocity of each note on, in order of the events.

    A note on that another one at the same time replaces has no note of its own: it ends at once.
    """
    onsets = events.times[is_note] / events.encoding.ticks_per_second
    pitches, decoded = indices[is_note] + PITCHES.start, events.to_note_seq()
    order = np.lexsort((pitches, onsets))  # that of the decoded notes
    steps = np.diff(onsets[order]) != 0, np.diff(pitches[order]) != 0
    order = order[np.append(steps[0] | steps[1], True)]
    ends, velocities = onsets.copy(), np.zeros(len(onsets), np.int64)
    ends[order], velocities[order] = decoded.ends, decoded.velocities
    return onsets, ends, pitches, velocities


# ------------------------------------------------------------------------------------ files


def analyze_file(
    path: Path, model: PerformanceRNN, encoding: Encoding, use_control: bool
) -> Surprise:
    """Return the surprise of each note of a MIDI file, from its first note on.

    use_control: give the network the controls of the file. Raises ValueError, naming the path.
    """
    notes = NoteSeq.from_midi_file(path, sustain=not encoding.is_legacy).trim_start()
    events = EventSeq.from_note_seq(notes, encoding)
    controls = None
    if use_control:  # those that an evaluation uses: packed, then unpacked
        packed = torch.from_numpy(ControlSeq.from_event_seq(events).pack())
        controls = expand_controls(packed, encoding, model.layout).numpy()
    try:
        return measure_surprise(model, events, controls)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_surprise(
    surprise: Surprise, name: str, folder: Path, facts: dict[str, Any]
) -> list[Path]:
    """Write NAME.surprise.csv and NAME.surprise.json; return their paths."""
    paths = [folder / f"{name}.surprise.{suffix}" for suffix in ("csv", "json")]
    for path, text in zip(paths, (format_csv(surprise), format_json(surprise, facts)), strict=True):
        atomic_write(path, text.encode(), durable=False)
    return paths


def summarize(surprise: Surprise) -> Iterator[str]:
    """Yield the surprise of all notes, and where it is greatest."""
    count, names = (
        len(surprise),
        ", ".join(
            f"{part} {value:.2f}"
            for part, value in zip(PARTS, surprise.nats.mean(axis=0), strict=True)
        ),
    )
    yield f"{surprise.total / count:.3f} nats/note ({names}), {count:,} notes"
    nats, counts = surprise.per_second()
    per_note = np.divide(nats, counts, out=np.zeros(len(nats)), where=counts > 0)
    best = np.argsort(-per_note, kind="stable")[:3]
    shown = ", ".join(f"{second} ({per_note[second]:.1f} nats/note)" for second in best)
    yield f"most surprising seconds: {shown}"


def format_csv(surprise: Surprise) -> str:
    """Return a table with a line for each note; docs/surprise.md explains its columns."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    likeliest = [f"{name}_{k}" for k in range(1, ALTERNATIVES + 1) for name in ("likely", "p")]
    writer.writerow([*_COLUMNS, *likeliest])
    for row in _list_notes(surprise):
        pairs = zip(row["likely"], row["p"], strict=True)
        writer.writerow(
            [*(row[name] for name in _COLUMNS), *(cell for pair in pairs for cell in pair)]
        )
    return content.getvalue()


def format_json(surprise: Surprise, facts: dict[str, Any]) -> str:
    """Return the same table as JSON, with facts, sums, and the surprise of each second."""
    seconds, counts = surprise.per_second()
    record = {
        **facts,
        "nats": round(surprise.total, 4),
        "after_last_note": round(float(surprise.rest.sum()), 4),
        "seconds": {"nats": seconds.round(4).tolist(), "notes": counts.tolist()},
        "notes": _list_notes(surprise),
    }
    return json.dumps(record, indent=1) + "\n"


_NATS = tuple(f"nats_{part}" for part in PARTS)
_COLUMNS = ("onset", "end", "pitch", "velocity", "nats", *_NATS, "entropy", "pitch_entropy")


def _list_notes(surprise: Surprise) -> list[dict[str, Any]]:
    """Return a record of plain numbers for each note, rounded to four digits."""
    numbers = np.column_stack([surprise.nats.sum(axis=1), surprise.nats])
    numbers = np.column_stack([numbers, surprise.entropy, surprise.pitch_entropy]).round(4)
    columns = [surprise.onsets.round(3), surprise.ends.round(3), surprise.note_pitches]
    columns += [surprise.velocities, *numbers.T]
    columns += [surprise.pitches, surprise.probabilities.round(4)]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip((*_COLUMNS, "likely", "p"), row, strict=True)) for row in rows]
