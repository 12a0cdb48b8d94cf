"""How the next event is sampled from logits: temperature, filters, event rules, random noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from utils import Array

FULL = 1 - 1e-4  # share of a limit that counts as used up; sums of shares are not exact
DISABLED = 2.0  # share that marks a disabled event
NOISE_STEPS = 64  # steps for which noise is computed at once


@dataclass(frozen=True)
class Sampler:
    """How events are sampled from logits.

    temperature: divides the logits.
    range_temperatures: temperature among the events of a range; the probability of the range
    as a whole stays as `temperature` gives it.
    top_k: keep the most likely events only (0: all). top_p: keep the fewest events that have
    this probability together (Holtzman et al. 2020). min_p: keep events at least this many times
    as likely as the most likely one (Nguyen et al. 2024).
    greedy_ratio: share of steps that take the most likely event, chosen for each sequence.
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
        # only one temperature: scale the noise instead, the same except for ties near 0
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
            sizes, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
            outside = sizes.cumsum(dim=-1) - sizes >= self.top_p  # never the most likely event
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
    return min(max(temperature, 1e-30), 1e30)  # float32 has no more


@dataclass(frozen=True)
class EventRules:
    """Which events may follow which, for a sampler that knows nothing about music.

    allowed_at_start: bool [events]. enables, disables: bool [events, events], the events that
    each event makes possible and impossible.
    note_ons: bool [events]; max_repeats: how often one of them may come in a row, not counting
    events that are no note ons (0: no limit).
    durations: number [events]; max_silence: the time between two note ons stays below it
    (0: no limit).
    """

    allowed_at_start: Array
    enables: Array
    disables: Array
    note_ons: Array
    durations: Array
    max_repeats: int = 0
    max_silence: float = 0.0


class EventMask:
    """The events that the rules allow now, for a batch of sequences.

    Each event has used a share of its limit: `start` before the first event; after event k,
    share * factors[k] + terms[k]. An event that has used 1 is not allowed. A note on uses its
    share by repeats, an event with a duration by the silence that would follow, and any other
    event, which alone may be enabled or disabled, by being disabled.
    """

    def __init__(self, rules: EventRules, batch: int, device: torch.device) -> None:
        repeat = 1 / rules.max_repeats if rules.max_repeats else 0.0
        silence = rules.durations / (rules.max_silence or np.inf)
        limited = (rules.note_ons & (repeat > 0)) | (silence > 0)
        note_ons = rules.note_ons[:, None]
        same = np.eye(len(silence)) * rules.note_ons
        # a note on ends the silence: what an event may add to it counts from zero again
        terms = repeat * same + np.where(note_ons, silence, silence[:, None] * (silence > 0))
        terms = np.where(limited, terms, DISABLED * rules.disables)
        factors = np.where(note_ons, same, 1.0)
        factors = np.where(limited, factors, ~(rules.enables | rules.disables))
        start = np.where(rules.allowed_at_start, silence, DISABLED)
        table = np.stack([factors, terms], axis=1)  # [events, 2, events]
        self._table = torch.as_tensor(table, dtype=torch.float32).to(device)
        used = torch.as_tensor(start, dtype=torch.float32).to(device)
        self._used = used.repeat(batch, 1)  # share of each event's limit [batch, events]

    def apply(self, logits: Tensor) -> Tensor:
        """Return logits [batch, events] with -inf for events that are not allowed."""
        return logits.masked_fill(self._used > FULL, -torch.inf)

    def update(self, event: Tensor) -> None:
        """Apply the effect of the next event of each sequence [batch]."""
        factors, terms = self._table.index_select(0, event).unbind(1)
        self._used = torch.addcmul(terms, self._used, factors)

    def select(self, rows: Tensor) -> None:
        """Keep these sequences; an index may appear several times."""
        self._used = self._used[rows]


def gumbel_noise(
    generators: Sequence[torch.Generator], events: int, greedy_ratio: float, device: torch.device
) -> Iterator[Tensor]:
    """Yield the noise of each step [batch, events], from a generator for each sequence.

    The index of the largest sum of logit and noise is a sample (Gumbel 1954). In greedy steps the
    noise is zero, which gives the most likely event.
    """
    while True:
        noise = []
        for rng in generators:
            uniform = torch.rand(NOISE_STEPS, events, generator=rng).clamp_(min=1e-30)
            greedy = torch.rand(NOISE_STEPS, 1, generator=rng) < greedy_ratio
            noise.append(uniform.log_().neg_().log_().neg_().masked_fill_(greedy, 0.0))
        yield from torch.stack(noise, dim=1).to(device)  # [steps, batch, events]
