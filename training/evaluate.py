"""How good a session is, in figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from corpus.performance import Corpus, Performance, check_encoded, expand_controls
from model import PerformanceRNN
from sequence import Encoding, EventSeq
from utils import Array


@dataclass(frozen=True, eq=False)
class EvalResult:
    """How well a network foretells performances it did not learn from.

    Of each of the 240 events: how often it came (`counts`), how often it was the likeliest
    when it came (`correct`), and its negative log-likelihood, summed (`costs`, nats).
    """

    counts: Array
    correct: Array
    costs: Array
    encoding: Encoding

    @property
    def events(self) -> int:
        """Number of events."""
        return int(self.counts.sum())

    @property
    def notes(self) -> int:
        """Number of note ons."""
        return int(self.counts[EventSeq.feat_ranges()["note_on"]].sum())

    @property
    def seconds(self) -> float:
        """How long the music lasts: the sum of its time shifts."""
        shifts = self.counts[EventSeq.feat_ranges()["time_shift"]]
        return float(shifts @ self.encoding.time_shifts / self.encoding.ticks_per_second)

    @property
    def nats(self) -> float:
        """Negative log-likelihood, summed."""
        return float(self.costs.sum())

    @property
    def nats_per_event(self) -> float:
        """Mean negative log-likelihood of an event."""
        return self.nats / self.events

    @property
    def nats_per_note(self) -> float:
        """Negative log-likelihood of all events, for each note on."""
        return self.nats / max(1, self.notes)

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-likelihood of an event."""
        return math.exp(self.nats_per_event) if self.nats_per_event < 700 else math.inf

    @property
    def bits_per_second(self) -> float:
        """Negative log-likelihood in bits, for each second of music."""
        return self.nats / math.log(2) / max(self.seconds, 0.001)

    @property
    def accuracy(self) -> float:
        """The share of events that were the likeliest."""
        return float(self.correct.sum()) / self.events

    def accuracies(self) -> dict[str, float]:
        """The same for each kind of event; nan for a kind that did not come."""
        kinds = EventSeq.feat_ranges().items()
        sums = {kind: (self.correct[span].sum(), self.counts[span].sum()) for kind, span in kinds}
        return {kind: hit / count if count else math.nan for kind, (hit, count) in sums.items()}

    def __str__(self) -> str:
        return (
            f"{self.nats_per_event:.4f} nats an event, {self.nats_per_note:.3f} nats a note, "
            f"accuracy {self.accuracy:.1%} ({self.events:,} events)"
        )

    def lines(self) -> Iterator[str]:
        """The whole of it."""
        yield str(self)
        yield f"perplexity {self.perplexity:.3f}, {self.bits_per_second:.2f} bits a second of music"
        told = (f"{kind.replace('_', ' ')} {hit:.1%}" for kind, hit in self.accuracies().items())
        yield "accuracy by kind: " + ", ".join(told)


STEPS = 128  # how many events of each performance are in memory at once


@torch.inference_mode()
def evaluate(
    model: PerformanceRNN, corpus: Corpus, longest: int | None = None, controlled: bool = True
) -> EvalResult:
    """Judge by every performance, up to `longest` events of it, from a start vector of zeros.

    The hidden state is carried from the first event to the last; with `controlled` the
    network sees the control of each performance.
    """
    model.eval()
    pieces = sorted(corpus.performances, key=len, reverse=True)
    lengths = np.array([min(len(piece), longest or len(piece)) for piece in pieces])
    zeros = torch.zeros(1, model.config.init_dim, device=model.device)
    hidden = model.init_hidden(zeros).expand(-1, len(pieces), -1)
    heard = torch.full((len(pieces),), model.primary_event, device=model.device)
    sums = np.zeros((3, EventSeq.dim()))  # counts, correct, costs
    for first in range(0, int(lengths.max(initial=0)), STEPS):
        active = int((lengths > first).sum())
        targets, packed = _excerpts(pieces[:active], lengths[:active], first)
        controls = expand_controls(torch.from_numpy(packed).to(model.device), corpus.encoding)
        true = torch.from_numpy(np.maximum(targets, 0)).to(model.device)
        inputs = torch.cat([heard[None, :active], true[:-1]])
        logits, hidden = model(
            inputs, hidden[:, :active].contiguous(), controls if controlled else None
        )
        heard = true[-1]
        losses = functional.cross_entropy(logits.flatten(0, 1), true.flatten(), reduction="none")
        hits = (logits.argmax(dim=-1) == true).flatten()
        real = targets.ravel() >= 0
        for row, values in zip(sums, (None, hits, losses), strict=True):
            weights = None if values is None else values.cpu().numpy()[real]
            row += np.bincount(targets.ravel()[real], weights, minlength=EventSeq.dim())
    counts, correct, costs = sums
    return EvalResult(counts.astype(np.int64), correct.astype(np.int64), costs, corpus.encoding)


def _excerpts(pieces: Sequence[Performance], lengths: Array, first: int) -> tuple[Array, Array]:
    """Events int64 [STEPS, pieces], -1 after the end; controls uint8 [STEPS, pieces, 13]."""
    events = np.full((STEPS, len(pieces)), -1, np.int64)
    controls = np.zeros((STEPS, len(pieces), 13), np.uint8)
    for column, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
        inside = slice(first, min(length, first + STEPS))
        size = inside.stop - first
        events[:size, column] = piece.events[inside]
        controls[:size, column] = piece.controls[inside]
    check_encoded(events, controls)
    return events, controls
