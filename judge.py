"""How good a session is, in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from data import Corpus, Performance, check_packed, expanded
from model import PerformanceRNN
from sequence import EventSeq

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Judgement:
    """How well a network foretells performances it did not learn from, with their control."""

    events: int
    notes: int
    nats: float  # negative log-likelihood, summed
    correct: int  # events that were the likeliest

    @property
    def nats_per_event(self) -> float:
        """Mean negative log-likelihood of an event."""
        return self.nats / self.events

    def __str__(self) -> str:
        return (
            f"{self.nats_per_event:.4f} nats an event, {self.nats / max(1, self.notes):.3f} nats "
            f"a note, accuracy {self.correct / self.events:.1%} ({self.events:,} events)"
        )


STEPS = 128  # how many events of each performance are in memory at once


@torch.inference_mode()
def judge(model: PerformanceRNN, corpus: Corpus, longest: int | None = None) -> Judgement:
    """Judge by every performance, up to `longest` events of it, from a start vector of zeros.

    The hidden state is carried from the first event to the last.
    """
    model.eval()
    pieces = sorted(corpus.performances, key=len, reverse=True)
    lengths = np.array([min(len(piece), longest or len(piece)) for piece in pieces])
    zeros = torch.zeros(1, model.config.init_dim, device=model.device)
    hidden = model.start(zeros).expand(-1, len(pieces), -1)
    heard = torch.full((len(pieces),), model.primary_event, device=model.device)
    nats, correct, notes = 0.0, 0, 0
    for first in range(0, int(lengths.max()), STEPS):
        active = int((lengths > first).sum())
        targets, packed = _excerpts(pieces[:active], lengths[:active], first)
        controls = expanded(torch.from_numpy(packed).to(model.device), corpus.encoding)
        real = (torch.from_numpy(targets) >= 0).to(model.device)
        true = torch.from_numpy(np.maximum(targets, 0)).to(model.device)
        inputs = torch.cat([heard[None, :active], true[:-1]])
        logits, hidden = model(inputs, hidden[:, :active].contiguous(), controls)
        heard = true[-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), true.flatten(), reduction="none")
        nats += float(loss[real.flatten()].double().sum())
        correct += int(((logits.argmax(dim=-1) == true) & real).sum())
        notes += int(np.isin(targets, EventSeq.feat_ranges()["note_on"]).sum())
    return Judgement(int(lengths.sum()), notes, nats, correct)


def _excerpts(pieces: Sequence[Performance], lengths: Array, first: int) -> tuple[Array, Array]:
    """Events int64 [STEPS, pieces], -1 after the end; controls uint8 [STEPS, pieces, 13]."""
    events = np.full((STEPS, len(pieces)), -1, np.int64)
    controls = np.zeros((STEPS, len(pieces), 13), np.uint8)
    for column, (piece, length) in enumerate(zip(pieces, lengths, strict=True)):
        inside = slice(first, min(length, first + STEPS))
        size = inside.stop - first
        events[:size, column] = piece.events[inside]
        controls[:size, column] = piece.controls[inside]
    check_packed(events, controls)
    return events, controls
