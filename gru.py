"""A GRU layer over whole sequences, whose gradients are learned faster on a CPU.

torch's own layer adds up the gradient of its weights step by step; here that is one product over
all steps, which makes training faster and, in bfloat16, the gradients of the recurrent weights more
exact (figures in CHANGELOG.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK = 8  # steps whose factors are worked out at once: few enough to stay in a core's cache


class Layer(torch.autograd.Function):
    """The states [steps, batch, hidden] of a GRU layer, with torch's weights and equations.

    Inputs: [steps, batch, width], the state before [batch, hidden], and weight_ih, weight_hh,
    bias_ih, bias_hh as in `torch.nn.GRU`: rows of the reset, update and new gate. All are of
    one type, in which everything is worked out.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, before: Tensor, w_ih: Tensor, w_hh: Tensor, *biases: Tensor
    ) -> Tensor:
        """Keeps the gates, the states and what the state gives to the new gate, of each step."""
        (steps, batch, width), hidden = inputs.shape, w_hh.shape[1]
        bias_ih, bias_hh = biases
        gates = torch.addmm(bias_ih, inputs.reshape(-1, width), w_ih.t())
        gates = gates.view(steps, batch, 3 * hidden)  # of the inputs yet; filled in place
        states = inputs.new_empty(steps + 1, batch, hidden)
        states[0] = before
        kept = inputs.new_empty(steps, batch, hidden)
        given = inputs.new_empty(batch, 3 * hidden)  # by the state
        given_both, given_new = given.split_with_sizes((2 * hidden, hidden), 1)
        for gate, keep, state, after in zip(gates, kept, states[:-1], states[1:], strict=True):
            torch.addmm(bias_hh, state, w_hh.t(), out=given)
            keep.copy_(given_new)
            both, new = gate.split_with_sizes((2 * hidden, hidden), 1)
            reset, update = both.add_(given_both).sigmoid_().split_with_sizes((hidden, hidden), 1)
            torch.lerp(new.addcmul_(reset, keep).tanh_(), state, update, out=after)
        ctx.save_for_backward(inputs, w_ih, w_hh, gates, states, kept)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Back through time for the states; then one product for each matrix."""
        inputs, w_ih, w_hh, gates, states, kept = ctx.saved_tensors
        steps, batch, hidden = kept.shape
        of_state = torch.empty_like(gates)  # gradients of what the state gives
        of_new = torch.empty_like(kept)
        gradient = torch.zeros_like(states[0])
        for chunk in _chunks_from_the_end(steps):
            factors = _factors(gates[chunk], states[chunk], kept[chunk])
            parts = (gradients[0][chunk], of_state[chunk], of_new[chunk], *factors)
            for toward, given, new, to_new, to_update, to_reset, reset, update in zip(
                *map(_reversed, parts), strict=True
            ):
                gradient += toward
                of_reset, of_update, of_kept = given.split_with_sizes((hidden, hidden, hidden), 1)
                torch.mul(gradient, to_new, out=new)
                torch.mul(new, to_reset, out=of_reset)
                torch.mul(gradient, to_update, out=of_update)
                torch.mul(new, reset, out=of_kept)
                gradient = gradient.mul_(update).addmm_(given, w_hh)
        flat = of_state.view(-1, 3 * hidden)
        grad_w_hh = flat.t() @ states[:-1].reshape(-1, hidden)
        grad_bias_hh = flat.sum(dim=0)
        of_state[..., 2 * hidden :] = of_new  # from here on: of what the inputs give
        grad_w_ih = flat.t() @ inputs.reshape(steps * batch, -1)
        grad_inputs = (flat @ w_ih).view_as(inputs)
        return grad_inputs, gradient, grad_w_ih, grad_w_hh, flat.sum(dim=0), grad_bias_hh


def _chunks_from_the_end(steps: int) -> Iterator[slice]:
    for end in range(steps, 0, -CHUNK):
        yield slice(max(0, end - CHUNK), end)


def _reversed(steps: Tensor) -> Iterator[Tensor]:
    """One step after the other, the last one first."""
    return reversed(steps.unbind())


def _factors(gates: Tensor, states: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
    """What gradients are multiplied with at some steps [steps, batch, hidden], five of them.

    That of the state gives those of the new and the update gate, before their curves, by the
    first two; that of the new gate gives the reset gate's by the third, and what the state
    gives to it by the fourth; the fifth is what of the state's own goes on to the step before.
    """
    reset, update, new = gates.chunk(3, dim=-1)
    open_gate = 1 - update
    to_new = (new * new).neg_().add_(1).mul_(open_gate)
    to_update = (states - new).mul_(update).mul_(open_gate)
    to_reset = (1 - reset).mul_(reset).mul_(kept)
    return to_new, to_update, to_reset, reset, update
