"""Feedback control of the note density.

A network follows a requested density only roughly, with a steady error. The controller sums the
error in notes, lets the sum decay with time, and accordingly raises or lowers the density level
that the network gets: integral feedback, with a leak (Astrom and Murray 2008, Feedback Systems,
chapter 10).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GAIN = 0.24  # levels of correction for each missing note
TIME_CONSTANT = 60.0  # seconds in which the accumulated error decays to 1/e
MAX_CORRECTION = 5  # levels up or down
ZERO_ERROR = MAX_CORRECTION + 0.5  # stored value of no error, see DensityController


@dataclass(frozen=True)
class DensityTarget:
    """Requested rates of the density levels, and the notes and seconds of each event.

    column: index of the first density column in a control vector, one for each level;
    rates: notes/s that each level requests, float [levels]; infinite for a level without a
    maximum, which is not corrected; notes: 1 for a note on, else 0, float [events];
    seconds: duration of each event, float [events].
    """

    column: int
    rates: Tensor
    notes: Tensor
    seconds: Tensor


class DensityController:
    """A controller that selects corrected control vectors for a batch of sequences.

    requested: the requested control vectors [requests, control]. The methods take an index into
    them; None if there is only one.
    controls: the distinct corrected control vectors [variants, control].

    The error of a sequence is stored as levels of correction plus ZERO_ERROR. So it is positive,
    and its whole part is the index of the correction.
    """

    def __init__(self, target: DensityTarget, requested: Tensor) -> None:
        levels, self._events = len(target.rates), len(target.notes)
        columns = slice(target.column, target.column + levels)
        rates, notes, seconds = (
            row.to(requested.device) for row in (target.rates, target.notes, target.seconds)
        )
        # a control vector may lie between two levels; an open density has zeros
        weights = requested[:, columns]
        numbers = torch.arange(levels, dtype=weights.dtype, device=requested.device)
        level = (weights * numbers).sum(dim=1)
        low, share = level.long(), level.frac()
        rate = torch.where(
            share > 0, torch.lerp(rates[low], rates[level.ceil().long()], share), rates[low]
        )
        is_controlled = (rate.isfinite() & (weights.sum(dim=1) > 0))[:, None]
        missing = torch.where(is_controlled, rate[:, None] * seconds - notes, 0.0)
        self._decay = torch.exp(-seconds / TIME_CONSTANT)  # [events]
        # what each event adds to the error with each request [requests * events]; the second term
        # keeps ZERO_ERROR constant while the error decays
        self._change = (GAIN * missing * self._decay + ZERO_ERROR * (1 - self._decay)).flatten()
        corrections = torch.arange(-MAX_CORRECTION, MAX_CORRECTION + 1, device=requested.device)
        corrected = (level[:, None] + corrections * is_controlled).clamp(0, levels - 1)
        variants = requested[:, None].repeat(1, len(corrections), 1)
        interpolated = (1 - (corrected[..., None] - numbers).abs()).clamp(min=0)
        variants[:, :, columns] = torch.where(
            is_controlled[..., None], interpolated, weights[:, None]
        )
        self.controls, index = variants.flatten(0, 1).unique(dim=0, return_inverse=True)
        self._variant, self._corrections = index.flatten(), len(corrections)

    def reset(self, index: Tensor | None, event: Tensor) -> Tensor:
        """Return the error [batch] before an event, such that there is no error after it.

        index: of the requested control [batch]; event: the event [batch], which does not count.
        """
        change = self._change[_flat_index(event, index, self._events)]
        return (ZERO_ERROR - change) / self._decay[event]

    def update(self, error: Tensor, index: Tensor | None, event: Tensor) -> Tensor:
        """Return the error [batch] after an event [batch]; index: of the requested control."""
        change = self._change.index_select(0, _flat_index(event, index, self._events))
        decay = self._decay.index_select(0, event)
        error = torch.addcmul(change, error, decay)
        return error.clamp_(ZERO_ERROR - MAX_CORRECTION, ZERO_ERROR + MAX_CORRECTION)

    def select(self, error: Tensor, index: Tensor | None) -> Tensor:
        """Return the index in `controls` [batch] of the control that corrects the error [batch]."""
        correction = _flat_index(error.long(), index, self._corrections)
        return self._variant.index_select(0, correction)


def _flat_index(column: Tensor, row: Tensor | None, width: int) -> Tensor:
    """Return the index in a flattened table with `width` columns; row None means row 0."""
    return column if row is None else torch.add(column, row, alpha=width)
