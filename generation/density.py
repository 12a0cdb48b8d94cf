"""How what is played is kept to what was asked for: by asking for a little more of it, or less.

A network follows its control roughly, and off by the same all the time. So what is missing of a
quantity since the beginning is kept, forgotten slowly, and moves the level that the network is
asked for: feedback by a leaky integral (Astrom and Murray 2008, Feedback Systems, chapter 10).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GAIN = 0.15  # levels by which the control is moved, for each one that is missing
MEMORY = 20.0  # seconds in which what is missing falls to the e-th part
REACH = 3  # levels by which it is moved at most
NOTHING = REACH + 0.5  # how it is told that nothing is missing: see DensityController


@dataclass(frozen=True)
class DensityTarget:
    """A quantity of which a control asks for a level: what that means, and what comes of it.

    column: of a control [control], where the level stands, one-hot; goals: float [levels], how
    much a level asks for in a second, infinite where that has no end: such a level is not
    steered; given, seconds: float [events], how much each event gives, and how long it lasts.
    """

    column: int
    goals: Tensor
    given: Tensor
    seconds: Tensor


class DensityController:
    """DensityTarget under some controls [kinds, control], which are numbered by their rows.

    controls: [variants, control], those that the network is asked for, each once. What is
    missing is told in levels to move, counted from half a level below the most that is moved
    down: so the whole part is the number of the move. `kinds` is None if there is one alone.
    """

    def __init__(self, steering: DensityTarget, kinds: Tensor) -> None:
        levels, self._events = len(steering.goals), len(steering.given)
        place = slice(steering.column, steering.column + levels)
        goals, given, seconds = (
            row.to(kinds.device) for row in (steering.goals, steering.given, steering.seconds)
        )
        asked = kinds[:, place].argmax(dim=1)
        steered = goals[asked].isfinite()[:, None]
        missed = torch.where(steered, goals[asked, None] * seconds - given, 0.0)
        self._kept = torch.exp(-seconds / MEMORY)
        # [kinds * events]; beside what is missed: what keeps "nothing is missing" where it is
        self._missed = (GAIN * missed * self._kept + NOTHING * (1 - self._kept)).flatten()
        moves = torch.arange(-REACH, REACH + 1, device=kinds.device)
        moved = (asked[:, None] + moves * steered).clamp(0, levels - 1)
        variants = kinds[:, None].repeat(1, len(moves), 1)
        variants[:, :, place] = torch.eye(levels, device=kinds.device)[moved]
        self.controls, number = variants.flatten(0, 1).unique(dim=0, return_inverse=True)
        self._number, self._moves = number.flatten(), len(moves)  # [kinds * moves]

    def start(self, kinds: Tensor | None, heard: Tensor) -> Tensor:
        """What is missing [batch] at a beginning that comes after the heard events [batch]."""
        missed = self._missed[_numbered(heard, kinds, self._events)]
        return (NOTHING - missed) / self._kept[heard]

    def moved(self, missing: Tensor, kinds: Tensor | None, heard: Tensor) -> Tensor:
        """What is missing [batch] after the heard events [batch], under controls `kinds`."""
        missed = self._missed.index_select(0, _numbered(heard, kinds, self._events))
        kept = self._kept.index_select(0, heard)
        return torch.addcmul(missed, missing, kept).clamp_(NOTHING - REACH, NOTHING + REACH)

    def variants(self, missing: Tensor, kinds: Tensor | None) -> Tensor:
        """Which of `controls` [batch] to ask for instead of `kinds`."""
        return self._number.index_select(0, _numbered(missing.long(), kinds, self._moves))


def _numbered(inner: Tensor, outer: Tensor | None, count: int) -> Tensor:
    """The place in a table of so many entries for each `outer`."""
    return inner if outer is None else torch.add(inner, outer, alpha=count)
