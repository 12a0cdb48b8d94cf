"""How the next event is sampled from logits: temperature, filters, event rules, random noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
    group_temperatures: temperature among the events of a group; the probability of the group
    as a whole stays as `temperature` gives it. groups: int [events], the group of each event.
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
    group_temperatures: dict[int, float] = field(default_factory=dict)
    groups: Array = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def has_filters(self) -> bool:
        """Whether there is more than one temperature for all events."""
        return bool(self.group_temperatures or self.top_k or self.top_p < 1 or self.min_p > 0)

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return events [batch] from logits and Gumbel noise [batch, events]."""
        if not self.has_filters:  # scale the noise instead: the same, except for ties near 0
            return torch.add(logits, noise, alpha=_clamp(self.temperature)).argmax(dim=-1)
        return (self.filter_logits(logits) + noise).argmax(dim=-1)

    def filter_logits(self, logits: Tensor) -> Tensor:
        """Apply the temperatures and filters to logits [..., events]; -inf: filtered out."""
        if self.group_temperatures:
            logits = self._apply_group_temperatures(logits)
        elif self.temperature != 1:
            logits = apply_temperature(logits, self.temperature)
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1:
            logits = logits.masked_fill(_is_outside_top_p(logits, self.top_p), -torch.inf)
        if self.min_p > 0:
            least = logits.amax(dim=-1, keepdim=True) + math.log(self.min_p)
            logits = logits.masked_fill(logits < least, -torch.inf)
        return logits

    def _apply_group_temperatures(self, logits: Tensor) -> Tensor:
        """Apply each group's temperature inside the group, the common one to all groups."""
        common = apply_temperature(logits, self.temperature)
        result = common.clone()
        for group, temperature in self.group_temperatures.items():
            members = torch.as_tensor(self.groups == group, device=logits.device)
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


def _is_outside_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Return whether an event is not among the fewest that have probability `top_p`."""
    sizes, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    outside = sizes.cumsum(dim=-1) - sizes >= top_p  # never the most likely event
    return torch.zeros_like(outside).scatter(-1, order, outside)


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

    def without_mask(self) -> EventRules:
        """Return the rules with repeats and silence limited, and everything else allowed."""
        none = np.zeros_like(self.enables)
        return replace(self, allowed_at_start=~none[0], enables=none, disables=none)

    @staticmethod
    def unrestricted(events: int) -> EventRules:
        """Return rules for this number of events that allow everything."""
        none = np.zeros((events, events), bool)
        return EventRules(~none[0], none, none, none[0], np.zeros(events))

    def compile(self) -> tuple[Array, Array, Array]:
        """Return the rules as `start` [events], `factors` and `terms` [events, events].

        Each event has used a share of its limit: `start` before the first event; after event k,
        share * factors[k] + terms[k]. An event that has used 1 is not allowed. A note on uses its
        share by repeats, an event with a duration by the silence that would follow, and any other
        event by being disabled.
        Raises ValueError if an event has a limit and is also enabled, disabled, or not
        allowed at the start.
        """
        has_duration = (self.durations > 0) & bool(self.max_silence)
        limited = (self.note_ons & bool(self.max_repeats)) | has_duration
        masked = ~self.allowed_at_start | self.enables.any(axis=0) | self.disables.any(axis=0)
        if (limited & masked).any():
            both = np.flatnonzero(limited & masked).tolist()
            raise ValueError(f"events {both} have a limit and are enabled or disabled too")
        shares = np.zeros(len(self.note_ons))
        if has_duration.any():
            shares = self.durations / self.max_silence
        note_ons = self.note_ons[:, None]
        same = np.eye(len(self.note_ons)) * self.note_ons
        terms = same / self.max_repeats if self.max_repeats else np.zeros_like(same)
        # a note on ends the silence: what an event may add to it counts from zero again
        terms = terms + np.where(note_ons, shares, shares[:, None] * has_duration)
        terms = np.where(limited, terms, DISABLED * self.disables)
        factors = np.where(note_ons, same, 1.0)
        factors = np.where(limited, factors, ~(self.enables | self.disables))
        return np.where(self.allowed_at_start, shares, DISABLED), factors, terms


class EventMask:
    """The events that the rules allow now, for a batch of sequences."""

    def __init__(self, rules: EventRules, batch: int, device: torch.device) -> None:
        start, factors, terms = (
            torch.as_tensor(array, dtype=torch.float32).to(device) for array in rules.compile()
        )
        self._table = torch.stack([factors, terms], dim=1)  # [events, 2, events]
        self._used = start.repeat(batch, 1)  # share of each event's limit [batch, events]

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


class GumbelNoise:
    """Gumbel noise for a batch of sequences, each with its own generator.

    The index of the largest sum of logit and noise is a sample (Gumbel 1954). In greedy steps the
    noise is zero, which gives the most likely event.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        events: int,
        greedy_ratio: float,
        device: torch.device,
    ) -> None:
        self._generators, self._events = generators, events
        self._greedy_ratio, self._device = greedy_ratio, device
        self._steps: list[Tensor] = []  # noise of the next steps, last step first

    def next(self) -> Tensor:
        """Return the noise of the next step [batch, events]."""
        if not self._steps:
            noise = torch.stack([self._draw(rng) for rng in self._generators], dim=1)
            self._steps = list(noise.to(self._device))[::-1]  # [steps, batch, events]
        return self._steps.pop()

    def _draw(self, rng: torch.Generator) -> Tensor:
        """Return the noise of some steps of one sequence [steps, events]."""
        uniform = torch.rand(NOISE_STEPS, self._events, generator=rng).clamp_(min=1e-30)
        greedy = torch.rand(NOISE_STEPS, 1, generator=rng) < self._greedy_ratio
        return uniform.log_().neg_().log_().neg_().masked_fill_(greedy, 0.0)
