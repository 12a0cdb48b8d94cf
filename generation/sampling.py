"""How the next event is chosen from what a network says: filters, rules, and the dice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from utils import Array

FULL = 1 - 1e-4  # of a limit; sums of shares are not exact
CLOSED = 2.0  # what counts as spent of an event that is not possible
CHUNK = 64  # steps for which random numbers are drawn at once


@dataclass(frozen=True)
class Sampler:
    """How events are chosen from their probabilities.

    temperature: probabilities are raised to its inverse. temperatures: of the events of some
    groups, among themselves; how likely a group is as a whole stays as `temperature` makes
    it. groups: int [events], the group of each event. Then only those events are left that
    are among the `top_k` likeliest (0: all), among the likeliest that together have
    `top_p` of the probability (Holtzman et al. 2020), and at least `min_p` times as
    likely as the likeliest (Nguyen et al. 2024). greedy_ratio: share of events that are
    the likeliest instead of a sample, drawn for each sequence by itself.
    """

    temperature: float = 1.0
    greedy_ratio: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    temperatures: dict[int, float] = field(default_factory=dict)
    groups: Array = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def plain(self) -> bool:
        """Whether there is a temperature and nothing else."""
        return not (self.temperatures or self.top_k or self.top_p < 1 or self.min_p > 0)

    def chosen(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Events [batch] from logits and noise [batch, events]."""
        if self.plain:  # all multiplied by it; the same but for ties near 0
            return torch.add(logits, noise, alpha=_bounded(self.temperature)).argmax(dim=-1)
        return (self.shaped(logits) + noise).argmax(dim=-1)

    def shaped(self, logits: Tensor) -> Tensor:
        """Log-weights [..., events] to sample from; -inf for what is left out."""
        if self.temperatures:
            logits = self._by_group(logits)
        elif self.temperature != 1:
            logits = tempered(logits, self.temperature)
        if 0 < self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1:
            logits = logits.masked_fill(_beyond(logits, self.top_p), -torch.inf)
        if self.min_p > 0:
            least = logits.amax(dim=-1, keepdim=True) + math.log(self.min_p)
            logits = logits.masked_fill(logits < least, -torch.inf)
        return logits

    def _by_group(self, logits: Tensor) -> Tensor:
        """Each group at its own temperature, with its whole probability at the common one."""
        common = tempered(logits, self.temperature)
        result = common.clone()
        for group, temperature in self.temperatures.items():
            chosen = torch.as_tensor(self.groups == group, device=logits.device)
            inside = tempered(logits[..., chosen], temperature)
            whole = common[..., chosen].logsumexp(dim=-1, keepdim=True)
            share = whole + inside - inside.logsumexp(dim=-1, keepdim=True)
            result[..., chosen] = share.nan_to_num(-torch.inf, neginf=-torch.inf)
        return result


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits with their maximum at 0, divided by any temperature above 0."""
    return (logits - logits.amax(dim=-1, keepdim=True)) / _bounded(temperature)


def _bounded(temperature: float) -> float:
    return min(max(temperature, 1e-30), 1e30)


def _beyond(logits: Tensor, share: float) -> Tensor:
    """Whether an event is less likely than all of the fewest that have `share` together."""
    sizes, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    beyond = sizes.cumsum(dim=-1) - sizes >= share  # the likeliest is never
    return torch.zeros_like(beyond).scatter(-1, order, beyond)


@dataclass(frozen=True)
class EventRules:
    """What can be played, known to a sampler that knows no music.

    start: bool [events], what is possible at first; opens, closes: bool [events, events],
    what each event makes possible and impossible; struck: bool [events], the events of
    which one alone may not come more than `repeats` times in a row, not counting events
    that are not struck (0: as often as it likes); lengths: how long each event lasts [events],
    and silence: what must not be reached between two that are struck (0: anything may).
    """

    start: Array
    opens: Array
    closes: Array
    struck: Array
    lengths: Array
    repeats: int = 0
    silence: float = 0.0

    def free(self) -> EventRules:
        """These with everything possible always, but for repeats and silence."""
        nothing = np.zeros_like(self.opens)
        return replace(self, start=~nothing[0], opens=nothing, closes=nothing)

    @staticmethod
    def none(events: int) -> EventRules:
        """No rules for so many events."""
        nothing = np.zeros((events, events), bool)
        return EventRules(~nothing[0], nothing, nothing, nothing[0], np.zeros(events))

    def spending(self) -> tuple[Array, Array, Array]:
        """How what each event has spent of its limit begins [events], and goes on.

        After an event [events, events] it is multiplied by the second, and the third is added.
        One that has spent 1 is impossible: a struck one by being repeated, one that lasts by
        what it would add to the silence, any other by being closed until it is opened.
        ValueError if one is limited, and opened, closed or impossible at first as well.
        """
        lasting = (self.lengths > 0) & bool(self.silence)
        limited = (self.struck & bool(self.repeats)) | lasting
        ruled = ~self.start | self.opens.any(axis=0) | self.closes.any(axis=0)
        if (limited & ruled).any():
            both = np.flatnonzero(limited & ruled).tolist()
            raise ValueError(f"events {both} are limited, and opened or closed as well")
        shares = self.lengths / self.silence if lasting.any() else np.zeros(len(self.start))
        again = np.eye(len(self.start)) * self.struck
        after = np.where(self.struck[:, None], again, 1.0)  # what is struck ends the silence
        plus = again / self.repeats if self.repeats else np.zeros_like(again)
        plus = plus + np.where(self.struck[:, None], shares, shares[:, None] * lasting)
        times = np.where(limited, after, ~(self.opens | self.closes))
        plus = np.where(limited, plus, CLOSED * self.closes)
        return np.where(self.start, shares, CLOSED), times, plus


class EventMask:
    """What the rules allow each of some sequences now."""

    def __init__(self, rules: EventRules, batch: int, device: torch.device) -> None:
        spent, times, plus = (
            torch.as_tensor(rows, dtype=torch.float32).to(device) for rows in rules.spending()
        )
        self._table = torch.stack([times, plus], dim=1)  # what each event does [events, 2, events]
        self._spent = spent.repeat(batch, 1)  # [batch, events]

    def applied(self, logits: Tensor) -> Tensor:
        """Logits [batch, events], -inf where an event is not allowed."""
        return logits.masked_fill(self._spent > FULL, -torch.inf)

    def after(self, said: Tensor) -> None:
        """Go on by an event of each sequence [batch]."""
        times, plus = self._table.index_select(0, said).unbind(1)
        self._spent = torch.addcmul(plus, self._spent, times)

    def follow(self, rows: Tensor) -> None:
        """Go on as these of the sequences; they may come several times."""
        self._spent = self._spent[rows]


class GumbelNoise:
    """Gumbel noise for some sequences, of each one's own random numbers.

    The index of the greatest sum of log-weight and noise is a sample (Gumbel 1954); without
    noise it is the likeliest.
    """

    def __init__(
        self, generators: Sequence[torch.Generator], events: int, greedy: float, to: torch.device
    ) -> None:
        self._generators, self._events, self._greedy, self._device = generators, events, greedy, to
        self._chunk: list[Tensor] = []

    def noise(self) -> Tensor:
        """That of the next step [batch, events]."""
        if not self._chunk:
            drawn = torch.stack([self._drawn(source) for source in self._generators], dim=1)
            self._chunk = list(drawn.to(self._device))[::-1]
        return self._chunk.pop()

    def _drawn(self, source: torch.Generator) -> Tensor:
        """The noise of some steps of one sequence [CHUNK, events]; zeros in greedy steps."""
        uniform = torch.rand(CHUNK, self._events, generator=source).clamp_(min=1e-30)
        greedy = torch.rand(CHUNK, 1, generator=source) < self._greedy
        return uniform.log_().neg_().log_().neg_().masked_fill_(greedy, 0.0)
