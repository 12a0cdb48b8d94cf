"""The layer against torch's own, in double precision."""

import pytest
import torch
from torch import nn

from config import ModelConfig
from model import GRULayer, PerformanceRNN


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
            states = GRULayer.apply(*given, *weights)
        else:
            one = [*weights]
            states, _ = torch.gru(given[0], given[1][None], one, True, 1, 0.0, False, False, False)
        (states * toward).sum().backward()
        found.append([states.detach(), *(value.grad for value in (*given, *weights))])
    return tuple(found)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (7, 3, 5, 4), (16, 2, 3, 4), (20, 2, 4, 9)])
def test_states_and_gradients_are_those_of_torch(sizes: tuple[int, int, int, int]) -> None:
    theirs, ours = both(*sizes)
    for expected, found in zip(theirs, ours, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_gradients_are_those_of_small_differences() -> None:
    torch.manual_seed(0)
    shapes = ((4, 2, 3), (2, 2), (6, 3), (6, 2), (6,), (6,))
    values = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(GRULayer.apply, values)


def test_in_bfloat16_no_gradient_is_off_by_a_hundredth() -> None:
    """Sums over 100 steps and 8 sequences; torch's own layer loses 1.4 % of those of weight_hh."""
    torch.manual_seed(0)
    theirs = nn.GRU(64, 64).double()
    inputs, toward = torch.randn(100, 8, 64).double(), torch.randn(100, 8, 64).double()
    found = []
    for kind in (torch.double, torch.bfloat16):
        given = [inputs, torch.zeros(8, 64), *(weight.detach() for weight in theirs.parameters())]
        given = [value.to(kind).clone().requires_grad_() for value in given]
        (GRULayer.apply(*given) * toward.to(kind)).sum().backward()
        found.append([value.grad.double() for value in given])
    for exact, rough in zip(*found, strict=True):
        assert float((exact - rough).norm() / exact.norm()) < 0.01


def test_the_network_learns_with_it_in_any_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    apply = GRULayer.apply
    monkeypatch.setattr(GRULayer, "apply", lambda *given: used.append(given) or apply(*given))
    config = ModelConfig(init_dim=4, hidden_dim=16, gru_layers=2, gru_dropout=0.0)
    model = PerformanceRNN(config)
    heard, hidden = torch.zeros(5, 3, dtype=torch.long), torch.zeros(2, 3, 16)
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        used.clear()
        with torch.autocast("cpu", kind, enabled=kind != torch.float32):
            model(heard, hidden)[0].float().sum().backward()
        assert [{value.dtype for value in given} for given in used] == [{kind}] * 2
    used.clear()
    model(heard[:1], hidden)
    assert not used, "one step by itself, as in scheduled sampling, would copy all weights"
    model.eval()(heard, hidden)
    assert not used, "torch's own layer is the faster one where nothing is learned"
