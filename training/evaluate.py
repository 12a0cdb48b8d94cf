"""Evaluation of a network on performances: negative log-likelihood and accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from corpus.performance import Corpus, Performance, expand_controls
from model import PerformanceRNN
from sequence import PLAIN_CONTROLS, ControlLayout, Encoding, EventSeq
from utils import Array

STEPS = 128  # events of each performance that are evaluated at once, to limit memory


@dataclass(frozen=True, eq=False)
class EvalResult:
    """Sums over all predicted events; each array has an entry for each kind of event [240].

    counts: how often the event occurred; correct: how often it was also the most likely one;
    losses: the sum of its negative log-likelihoods, in nats.
    """

    counts: Array
    correct: Array
    losses: Array
    encoding: Encoding

    @property
    def events(self) -> int:
        """The number of predicted events."""
        return int(self.counts.sum())

    @property
    def notes(self) -> int:
        """The number of note-on events."""
        return int(self.counts[EventSeq.feat_ranges()["note_on"]].sum())

    @property
    def nats(self) -> float:
        """The sum of the negative log-likelihoods of all events."""
        return float(self.losses.sum())

    @property
    def nats_per_event(self) -> float:
        """The mean negative log-likelihood of an event."""
        return self.nats / self.events

    @property
    def nats_per_note(self) -> float:
        """The sum of the negative log-likelihoods of all events, divided by the number of notes."""
        return self.nats / max(1, self.notes)

    @property
    def bits_per_second(self) -> float:
        """The negative log-likelihood in bits per second of music; time shifts give the seconds."""
        ticks = self.counts[EventSeq.feat_ranges()["time_shift"]] @ self.encoding.time_shifts
        seconds = float(ticks / self.encoding.ticks_per_second)
        return self.nats / math.log(2) / max(seconds, 0.001)

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-likelihood of an event."""
        return math.exp(self.nats_per_event) if self.nats_per_event < 700 else math.inf  # overflow

    @property
    def accuracy(self) -> float:
        """The share of the events that were the most likely ones."""
        return float(self.correct.sum()) / self.events

    @property
    def accuracy_by_kind(self) -> dict[str, float]:
        """The accuracy of note_on, note_off, velocity and time_shift; nan for no events."""
        accuracy = {}
        for kind, span in EventSeq.feat_ranges().items():
            correct, count = self.correct[span].sum(), self.counts[span].sum()
            accuracy[kind] = float(correct / count) if count else math.nan
        return accuracy

    def to_record(self) -> dict[str, Any]:
        """Return the metrics by name, for JSON; None for an accuracy without events."""
        kinds = self.accuracy_by_kind.items()
        return {
            "events": self.events,
            "notes": self.notes,
            "nats_per_event": self.nats_per_event,
            "nats_per_note": self.nats_per_note,
            "bits_per_second": self.bits_per_second,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "accuracy_by_kind": {k: None if math.isnan(share) else share for k, share in kinds},
        }

    def __str__(self) -> str:
        return f"{self.nats_per_event:.3f} nats/event ({self.nats_per_note:.2f} nats/note)"


def format_table(columns: dict[str, EvalResult]) -> str:
    """Format the metrics of several results as a table: a header, and a column for each result."""
    results = list(columns.values())
    rows = [
        ("", list(columns)),
        ("nats/event", [f"{result.nats_per_event:.4f}" for result in results]),
        ("nats/note", [f"{result.nats_per_note:.3f}" for result in results]),
        ("bits/s", [f"{result.bits_per_second:.2f}" for result in results]),
        ("perplexity", [f"{result.perplexity:.3f}" for result in results]),
        ("accuracy", [f"{result.accuracy:.1%}" for result in results]),
    ]
    for kind in EventSeq.feat_ranges():
        shares = [f"{result.accuracy_by_kind[kind]:.1%}" for result in results]
        rows.append((f"  {kind.replace('_', ' ')}", shares))
    width = 2 + max(len("nats/event"), *map(len, columns))
    lines = [f"{name:14}" + "".join(f"{cell:>{width}}" for cell in cells) for name, cells in rows]
    return "\n".join(lines)


def list_visible_controls(layout: ControlLayout) -> dict[str, tuple[str, ...]]:
    """Return sets of controls to evaluate a network with, by label: all, the first two, none."""
    choices = {"all controls": layout.names, "without control": ()}
    if layout.is_plain:
        return {"with control": layout.names, "without control": ()}
    if set(PLAIN_CONTROLS) <= set(layout.names):
        label = "density and histogram"
        choices = {"all controls": layout.names, label: PLAIN_CONTROLS, "without control": ()}
    return choices


@torch.inference_mode()
def evaluate(
    model: PerformanceRNN,
    corpus: Corpus,
    max_events: int | None = None,
    visible: Sequence[str] | None = None,
    show_progress: Callable[[float], None] | None = None,
) -> EvalResult:
    """Measure how well a network predicts each event of a performance from the events before it.

    max_events: the number of events to evaluate of each performance, or None for all;
    visible: the names of the controls that the network gets, those of the performance; None: all,
    empty: none. Only for a network whose controls can be open it may be some of them.
    show_progress: called with the share of the events that is done.
    The hidden state starts from a zero vector and is carried through the whole performance.
    """
    model.eval()
    performances = sorted(corpus.performances, key=len, reverse=True)
    lengths = np.array([len(performance) for performance in performances], np.int64)
    lengths = np.minimum(lengths, max_events) if max_events else lengths
    zeros = torch.zeros(1, model.config.init_dim, device=model.device)
    hidden = model.init_hidden(zeros).expand(-1, len(performances), -1)
    previous = torch.full((len(performances),), model.primary_event, device=model.device)
    layout, names = model.layout, model.layout.names
    is_open = torch.tensor([[visible is not None and name not in visible for name in names]])
    sums = np.zeros((3, EventSeq.dim()))  # counts, correct, losses
    for start in range(0, int(lengths.max(initial=0)), STEPS):
        active = int((lengths > start).sum())  # only the longest, which come first, go on
        width = layout.packed_dim
        events, packed = _cut_excerpts(performances[:active], lengths[:active], start, width)
        controls = expand_controls(
            torch.from_numpy(packed).to(model.device),
            corpus.encoding,
            layout,
            is_open.to(model.device),
        )
        targets = torch.from_numpy(np.maximum(events, 0)).to(model.device)  # [steps, active]
        inputs = torch.cat([previous[None, :active], targets[:-1]])
        logits, hidden = model(
            inputs,
            hidden[:, :active].contiguous(),
            controls if visible is None or visible else None,
        )
        previous = targets[-1]
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        correct = (logits.argmax(dim=-1) == targets).flatten()
        inside = events.ravel() >= 0
        for row, values in zip(sums, (None, correct, losses), strict=True):
            weights = None if values is None else values.cpu().numpy()[inside]
            row += np.bincount(events.ravel()[inside], weights, minlength=EventSeq.dim())
        if show_progress is not None:
            show_progress(float(sums[0].sum() / lengths.sum()))
    counts = sums[:2].astype(np.int64)
    return EvalResult(counts[0], counts[1], sums[2], corpus.encoding)


def _cut_excerpts(
    performances: Sequence[Performance], lengths: Array, start: int, width: int
) -> tuple[Array, Array]:
    """Return STEPS events of each performance from index `start` on, and their controls.

    lengths: how many events of each performance to use; width: of the packed controls.
    Returns events int64 [STEPS, n], -1 after the end, and packed controls uint8
    [STEPS, n, width].
    """
    events = np.full((STEPS, len(performances)), -1, np.int64)
    controls = np.zeros((STEPS, len(performances), width), np.uint8)
    for column, (performance, length) in enumerate(zip(performances, lengths, strict=True)):
        stop = min(length, start + STEPS)
        read_events, read_controls = performance.read(start, stop)
        events[: stop - start, column] = read_events
        controls[: stop - start, column] = read_controls[:, :width]
    return events, controls
