"""One step of training: carried state, averaged weights, precision."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import utils
from config import ModelConfig
from corpus.batches import Batch, WindowSampler
from corpus.performance import Corpus
from model import PerformanceRNN
from tools.synthetic_data import performance
from training import learner as learner_module
from training.learner import Learner, pick_precision

SIZES = ModelConfig(init_dim=4, hidden_dim=16, gru_layers=2, gru_dropout=0.0)
CPU = torch.device("cpu")
SEED = 5


def learner(precision: str = "fp32", averaging: float = 0.0, decay: float = 0.0) -> Learner:
    torch.manual_seed(1)
    return Learner(PerformanceRNN(SIZES), precision, averaging, decay)


def batches(carry: int, steps: int = 10, count: int = 2) -> list[Batch]:
    windows = WindowSampler(Corpus([performance(np.arange(220))]), steps, 1, carry)
    cut = (windows.sample_batch(4, 3, number, 1.0, False) for number in range(count))
    return [packed.to_device(CPU, windows.corpus.encoding) for packed in cut]


def test_the_hidden_state_is_carried_as_if_the_windows_were_one() -> None:
    made = learner()
    first, second = batches(carry=40)
    carried = second.continues
    assert 0 < int(carried.sum()) < 5
    made.step(first, 0.0, 1.0, 0, SEED)
    loss, _ = made.step(second, 0.0, 1.0, 1, SEED)

    model = made.averaged  # a rate of 0 has changed nothing
    first_start, fresh = (
        model.init_hidden(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)))
        for seed in (utils.derive_seed(SEED, 0), utils.derive_seed(SEED, 1))
    )
    with torch.no_grad():
        _, hidden = model(model.shift_right(first.targets), first_start, first.controls)
        hidden = torch.where(carried[:, None], hidden, fresh)
        heard = model.shift_right(second.targets)
        heard[0] = torch.where(carried, first.targets[-1], heard[0])
        logits, _ = model(heard, hidden, second.controls)
        expected = functional.cross_entropy(logits.flatten(0, 1), second.targets.flatten())
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_an_accident_in_a_step_leaves_the_hidden_state_of_the_step_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = learner()
    first, second = batches(carry=40)
    made.step(first, 0.01, 1.0, 0, SEED)
    before = made.hidden

    def accident() -> None:
        raise MemoryError

    monkeypatch.setattr(made.optimizer, "step", accident)
    with pytest.raises(MemoryError):
        made.step(second, 0.01, 1.0, 1, SEED)
    assert made.hidden is before


def test_averaged_weights_are_a_moving_average() -> None:
    made = learner(averaging=0.5)
    expected = [weight.detach().clone() for weight in made.weights]
    for number, batch in enumerate(batches(carry=1, count=12)):
        made.step(batch, 0.01, 1.0, number, SEED)
        keep = min(0.5, (1 + number) / (10 + number))
        expected = [keep * e + (1 - keep) * w for e, w in zip(expected, made.weights, strict=True)]
    for average, wanted in zip(made.averaged.parameters(), expected, strict=True):
        torch.testing.assert_close(average, wanted)
    assert not torch.allclose(next(made.averaged.parameters()), made.weights[0])


def test_without_averaging_the_average_is_the_network() -> None:
    made = learner(averaging=0.0)
    made.step(batches(carry=1)[0], 0.01, 1.0, 0, SEED)
    for average, weight in zip(made.averaged.parameters(), made.weights, strict=True):
        assert torch.equal(average, weight)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_learns_about_the_same_with_weights_in_fp32(precision: str) -> None:
    exact, rough = learner(), learner(precision)
    for number, batch in enumerate(batches(carry=1, count=3)):
        losses = []
        for each in (exact, rough):
            losses.append(float(each.step(batch, 0.01, 1.0, number, SEED)[0]))
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert not all(torch.equal(a, b) for a, b in zip(exact.weights, rough.weights, strict=True))
    assert {weight.dtype for weight in rough.weights} == {torch.float32}


def test_a_step_that_fp16_skips_to_find_its_scale_is_no_failure() -> None:
    made = learner("fp16")
    made.scaler = torch.amp.GradScaler("cpu", init_scale=1e30)
    before = [weight.detach().clone() for weight in made.weights]
    loss, norm = made.step(batches(carry=1)[0], 0.01, 1.0, 0, SEED)
    assert math.isfinite(float(loss))
    assert float(norm) == 0
    assert made.scaler.get_scale() < 1e30
    assert all(torch.equal(a, b) for a, b in zip(before, made.weights, strict=True))


def test_long_gradients_are_shortened_and_their_length_is_told() -> None:
    made = learner()
    made.model.output_fc.weight.data *= 300
    before = [weight.detach().clone() for weight in made.weights]
    _, norm = made.step(batches(carry=1)[0], 0.0, 1.0, 0, SEED)
    shortened = math.sqrt(sum(float((weight.grad**2).sum()) for weight in made.weights))
    assert float(norm) > 2
    assert shortened == pytest.approx(1.0, abs=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, made.weights, strict=True))


def test_weight_decay_shrinks_weights_by_rate_times_decay() -> None:
    plain, decayed = learner(), learner(decay=0.1)
    before = plain.weights[1].detach().clone()
    for made in (plain, decayed):
        made.step(batches(carry=1)[0], 0.01, 1.0, 0, SEED)
    torch.testing.assert_close(plain.weights[1] - decayed.weights[1], before * 0.01 * 0.1)


@pytest.mark.parametrize(("rates", "chosen"), [((1.0, 1.2), "fp32"), ((1.0, 3.0), "bf16")])
def test_precision_is_chosen_by_what_multiplies_faster(
    rates: tuple[float, float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(zip((torch.float32, torch.bfloat16), rates, strict=True))
    monkeypatch.setattr(learner_module, "_rate", lambda dtype, device: found[dtype])
    assert pick_precision(CPU) == chosen


def test_the_measured_rate_is_positive() -> None:
    assert learner_module._rate(torch.float32, CPU) > 0
