"""Sampling of the next event from logits: temperatures, filters, constraints, random noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from utils import Array

FULL = 1 - 1e-4  # a limit is used up from this share on, because sums of shares are not exact
DISABLED = 1e9  # far above 1, so that it stays above 1 while time is subtracted: not allowed
NOISE_STEPS = 64  # steps for which noise is computed at once


@dataclass(frozen=True)
class Sampler:
    """Settings for sampling events from logits.

    temperature: divides the logits.
    greedy_ratio: share of the events that are the most likely one; for each sequence it is
    random which ones.
    top_k: keep only so many of the most likely events (0: all). top_p: keep the fewest events
    whose probabilities sum to at least this (Holtzman et al. 2020). min_p: keep events that have
    at least this share of the probability of the most likely one (Nguyen et al. 2024).
    range_temperatures: other temperatures among the events of a range of indices; the probability
    of the whole range stays as `temperature` makes it.
    """

    temperature: float = 1.0
    greedy_ratio: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    range_temperatures: Mapping[range, float] = field(default_factory=dict)

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return events [batch] from logits and Gumbel noise [batch, events]."""
        if self.range_temperatures or self.top_k or self.top_p < 1 or self.min_p > 0:
            return (self.filter_logits(logits) + noise).argmax(dim=-1)
        # scaling the noise instead of the logits has the same maximum, and is faster
        return torch.add(logits, noise, alpha=_clamp(self.temperature)).argmax(dim=-1)

    def filter_logits(self, logits: Tensor) -> Tensor:
        """Apply the temperatures and filters to logits [..., events]; -inf: filtered out."""
        if self.range_temperatures:
            logits = self._apply_range_temperatures(logits)
        elif self.temperature != 1:
            logits = apply_temperature(logits, self.temperature)
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1:
            sorted_probs, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
            before = sorted_probs.cumsum(dim=-1) - sorted_probs  # 0 for the most likely event
            outside = before >= self.top_p
            outside = torch.zeros_like(outside).scatter(-1, order, outside)
            logits = logits.masked_fill(outside, -torch.inf)
        if self.min_p > 0:
            least = logits.amax(dim=-1, keepdim=True) + math.log(self.min_p)
            logits = logits.masked_fill(logits < least, -torch.inf)
        return logits

    def _apply_range_temperatures(self, logits: Tensor) -> Tensor:
        common = apply_temperature(logits, self.temperature)
        result = common.clone()
        for events, temperature in self.range_temperatures.items():
            members = slice(events.start, events.stop)
            inside = apply_temperature(logits[..., members], temperature)
            total = common[..., members].logsumexp(dim=-1, keepdim=True)
            scaled = total + inside - inside.logsumexp(dim=-1, keepdim=True)
            result[..., members] = scaled.nan_to_num(-torch.inf, neginf=-torch.inf)
        return result


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Shift logits to a maximum of 0 and divide them by a temperature above 0."""
    return (logits - logits.amax(dim=-1, keepdim=True)) / _clamp(temperature)


def _clamp(temperature: float) -> float:
    return min(max(temperature, 1e-30), 1e30)  # within the range of float32


@dataclass(frozen=True)
class EventConstraints:
    """Constraints on which events may follow; EventMask applies them.

    allowed_at_start: events that may come first, bool [events]. enables, disables: bool [events,
    events], in row k the events that are allowed, or not allowed, from event k on.
    note_ons: which events are note ons, bool [events]; max_repeats: how often the same note on
    may come without another note on between (0: no limit).
    durations: of each event [events]; max_silence: the time between two note ons must be shorter,
    in the same unit (0: no limit).
    releases: which events end a note, bool [events]; release_after: how long a note may sound
    before its end becomes more likely, in the same unit, and release_rate: by how many nats for
    each unit (0: none).
    """

    allowed_at_start: Array
    enables: Array
    disables: Array
    note_ons: Array
    durations: Array
    max_repeats: int = 0
    max_silence: float = 0.0
    releases: Array | None = None
    release_after: float = 0.0
    release_rate: float = 0.0


class EventMask:
    """A mask of the events that the constraints allow next, for a batch of sequences.

    Each event has a share of a limit, and is allowed while the share is below 1. For a note on,
    this is its number of repeats so far, divided by their maximum; for an event with a duration,
    the silence if this event came next, divided by the maximum; for any other event 0 or DISABLED,
    because only these can be enabled and disabled. An event k changes all shares at once:
    share = share * factors[k] + terms[k]. With `release_rate`, the share of an event that ends a
    note is minus the time for which this note has sounded.
    """

    def __init__(self, constraints: EventConstraints, batch: int, device: torch.device) -> None:
        repeat = 1 / constraints.max_repeats if constraints.max_repeats else 0.0
        silence = constraints.durations / (constraints.max_silence or np.inf)
        limited = (constraints.note_ons & (repeat > 0)) | (silence > 0)
        note_ons = constraints.note_ons[:, None]
        same = np.eye(len(silence)) * constraints.note_ons
        # a note on ends the silence: after it, the share of an event is only its own duration
        terms = repeat * same + np.where(note_ons, silence, silence[:, None] * (silence > 0))
        terms = np.where(limited, terms, DISABLED * constraints.disables)
        factors = np.where(note_ons, same, 1.0)
        factors = np.where(limited, factors, ~(constraints.enables | constraints.disables))
        self._release_after, self._release_rate = constraints.release_after, 0.0
        if constraints.releases is not None and constraints.release_rate:
            self._release_rate = constraints.release_rate
            terms = terms - constraints.durations[:, None] * constraints.releases
        start = np.where(constraints.allowed_at_start, silence, DISABLED)
        table = np.stack([factors, terms], axis=1)  # [events, 2, events]
        self._table = torch.as_tensor(table, dtype=torch.float32).to(device)
        used = torch.as_tensor(start, dtype=torch.float32).to(device)
        self._used = used.repeat(batch, 1)  # share of each event's limit [batch, events]

    def apply(self, logits: Tensor) -> Tensor:
        """Return logits [batch, events] with -inf for events that are not allowed.

        Ends of notes that have sounded for long get more.
        """
        if self._release_rate:
            late = (-self._used - self._release_after).clamp_(min=0)  # 0 for all other events
            logits = torch.add(logits, late, alpha=self._release_rate)
        return logits.masked_fill(self._used > FULL, -torch.inf)

    def update(self, event: Tensor) -> None:
        """Update the mask with the next event of each sequence [batch]."""
        factors, terms = self._table.index_select(0, event).unbind(1)
        self._used = torch.addcmul(terms, self._used, factors)

    def select(self, indices: Tensor) -> None:
        """Keep the sequences with these indices, which may repeat."""
        self._used = self._used[indices]

    @staticmethod
    def join(masks: Sequence[EventMask]) -> EventMask:
        """Return the mask of the sequences of several masks with the same constraints."""
        joined = copy.copy(masks[0])
        joined._used = torch.cat([mask._used for mask in masks])
        return joined


def draw_gumbel_noise(
    generators: Sequence[torch.Generator], events: int, greedy_ratio: float, device: torch.device
) -> Iterator[Tensor]:
    """Yield the Gumbel noise of each step [batch, events], with a generator for each sequence.

    The event with the largest sum of logit and noise is a sample (Gumbel 1954). A share of
    `greedy_ratio` of the rows is zero, which gives the most likely event.
    """
    while True:
        noise = []
        for rng in generators:
            uniform = torch.rand(NOISE_STEPS, events, generator=rng).clamp_(min=1e-30)
            greedy = torch.rand(NOISE_STEPS, 1, generator=rng) < greedy_ratio
            noise.append(uniform.log_().neg_().log_().neg_().masked_fill_(greedy, 0.0))
        yield from torch.stack(noise, dim=1).to(device)  # [steps, batch, events]
