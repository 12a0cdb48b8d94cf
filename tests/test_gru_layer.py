"""GRULayer against torch's own GRU, in double precision."""

import pytest
import torch
from torch import nn

from config import ModelConfig
from model import GRULayer, PerformanceRNN


def states_and_gradients(
    arguments: list[torch.Tensor], grad_states: torch.Tensor, use_torch: bool = False
) -> list[torch.Tensor]:
    """Return the states of a layer, then the gradient of each argument."""
    arguments = [argument.detach().clone().requires_grad_() for argument in arguments]
    if use_torch:
        inputs, initial, *weights = arguments
        states, _ = torch.gru(inputs, initial[None], weights, True, 1, 0.0, False, False, False)
    else:
        states = GRULayer.apply(*arguments)
    (states * grad_states.to(states.dtype)).sum().backward()
    return [states.detach(), *(argument.grad for argument in arguments)]


def make_arguments(steps: int, batch: int, width: int, hidden_dim: int) -> list[torch.Tensor]:
    torch.manual_seed(steps)
    weights = list(nn.GRU(width, hidden_dim).double().parameters())
    inputs = torch.randn(steps, batch, width, dtype=torch.double)
    return [inputs, torch.randn(batch, hidden_dim, dtype=torch.double), *weights]


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (7, 3, 5, 4), (16, 2, 3, 4), (20, 2, 4, 9)])
def test_states_and_gradients_match_torch(sizes: tuple[int, int, int, int]) -> None:
    arguments = make_arguments(*sizes)
    grad_states = torch.randn(sizes[0], sizes[1], sizes[3], dtype=torch.double)
    expected = states_and_gradients(arguments, grad_states, use_torch=True)
    actual = states_and_gradients(arguments, grad_states)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(0)
    shapes = ((4, 2, 3), (2, 2), (6, 3), (6, 2), (6,), (6,))
    values = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(GRULayer.apply, values)


def test_bfloat16_gradients_are_within_one_percent() -> None:
    """Sums over 100 steps and 8 sequences; torch's own layer is 1.4% off for weight_hh."""
    arguments = make_arguments(100, 8, 64, 64)
    grad_states = torch.randn(100, 8, 64, dtype=torch.double)
    exact = states_and_gradients(arguments, grad_states)[1:]
    rough = states_and_gradients([value.bfloat16() for value in arguments], grad_states)[1:]
    for one, other in zip(exact, rough, strict=True):
        assert float((one - other).norm() / one.norm()) < 0.01


def test_network_trains_with_it_in_any_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, apply = [], GRULayer.apply
    monkeypatch.setattr(GRULayer, "apply", lambda *given: calls.append(given) or apply(*given))
    model = PerformanceRNN(ModelConfig(init_dim=4, hidden_dim=16, gru_layers=2))
    inputs, hidden = torch.zeros(5, 3, dtype=torch.long), torch.zeros(2, 3, 16)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        calls.clear()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            model(inputs, hidden)[0].float().sum().backward()
        assert [{value.dtype for value in given} for given in calls] == [{dtype}] * 2
    calls.clear()
    model(inputs[:1], hidden)  # a single step, where it would be slower
    model.eval()(inputs, hidden)
    assert not calls
