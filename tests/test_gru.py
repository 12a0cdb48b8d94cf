"""The layer against torch's own, in double precision."""

import pytest
import torch
from torch import nn

from gru import Layer


def both(steps: int, batch: int, width: int, hidden: int) -> tuple[list[torch.Tensor], ...]:
    """States and gradients of all inputs and weights, by torch's layer and by ours."""
    torch.manual_seed(steps)
    theirs = nn.GRU(width, hidden).double()
    inputs = torch.randn(steps, batch, width, dtype=torch.double)
    before, toward = torch.randn(batch, hidden).double(), torch.randn(steps, batch, hidden).double()
    found = []
    for ours in (False, True):
        given = [inputs.clone().requires_grad_(), before.clone().requires_grad_()]
        weights = [weight.detach().clone().requires_grad_() for weight in theirs.parameters()]
        if ours:
            states = Layer.apply(*given, *weights)
        else:
            one = [*weights]
            states, _ = torch.gru(given[0], given[1][None], one, True, 1, 0.0, False, False, False)
        (states * toward).sum().backward()
        found.append([states.detach(), *(value.grad for value in (*given, *weights))])
    return tuple(found)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (7, 3, 5, 4), (20, 2, 4, 9)])
def test_states_and_gradients_are_those_of_torch(sizes: tuple[int, int, int, int]) -> None:
    theirs, ours = both(*sizes)
    for expected, found in zip(theirs, ours, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_gradients_are_those_of_small_differences() -> None:
    torch.manual_seed(0)
    shapes = ((4, 2, 3), (2, 2), (6, 3), (6, 2), (6,), (6,))
    values = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(Layer.apply, values)
