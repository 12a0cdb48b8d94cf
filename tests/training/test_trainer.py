"""The optimizer step, the learning-rate schedule and the limits of a run."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import utils
from corpus.batches import Batch, WindowSampler
from corpus.performance import Corpus
from model import PerformanceRNN
from tools.synthetic_data import TINY_SIZES, make_performance
from training import trainer as trainer_module
from training.trainer import Schedule, StepOptions, Trainer, TrainState, pick_precision

CPU = torch.device("cpu")
SEED = 5


def make_trainer(
    precision: str = "fp32", ema_decay: float = 0.0, weight_decay: float = 0.0
) -> Trainer:
    torch.manual_seed(1)
    options = StepOptions(precision, weight_decay, ema_decay, seed=SEED)
    return Trainer(PerformanceRNN(TINY_SIZES), options)


def make_batches(carry: int = 1, count: int = 1) -> list[Batch]:
    sampler = WindowSampler(Corpus([make_performance(np.arange(220))]), 10, 1, carry)
    packed = (sampler.sample_batch(4, 3, number, 1.0, False) for number in range(count))
    return [batch.to_device(CPU, sampler.corpus.encoding) for batch in packed]


@pytest.mark.parametrize("teacher_forcing_ratio", [1.0, 0.5])
def test_step_uses_recall(teacher_forcing_ratio: float) -> None:
    torch.manual_seed(1)
    model = PerformanceRNN(dataclasses.replace(TINY_SIZES, recall_dim=6)).init_weights()
    torch.nn.init.normal_(model.recall_output)
    (batch,) = make_batches()
    recall = torch.randint(1, 4, (10, 4, 10), dtype=torch.uint8)
    losses = []
    for rows in (recall, None):
        options = StepOptions(teacher_forcing_ratio=teacher_forcing_ratio, seed=SEED)
        trainer = Trainer(copy.deepcopy(model), options)
        losses.append(float(trainer.step(dataclasses.replace(batch, recall=rows), 0.01).loss))
        assert bool((trainer.model.recall_gates != 0).any())
    assert abs(losses[0] - losses[1]) > 0.01


def copy_weights(trainer: Trainer) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in trainer.weights]


def test_learning_rate_rises_then_falls_to_zero() -> None:
    schedule = Schedule(1.0, warm_up=10, max_steps=100)
    rates = [schedule.compute_learning_rate(TrainState(step)) for step in range(101)]
    assert rates[0] < 0.1
    assert max(rates) == rates[10] == pytest.approx(0.9)
    assert rates[100] == 0
    assert np.all(np.diff(rates[10:]) < 0)


def test_warm_up_is_at_most_a_tenth() -> None:
    state = TrainState(step=10, seconds=60.0)
    for schedule in (Schedule(1.0, 1000, max_steps=100), Schedule(1.0, 1000, max_minutes=10)):
        assert schedule.compute_learning_rate(state) == pytest.approx(0.9)


def test_learning_rate_is_constant_without_limits() -> None:
    assert Schedule(1.0).compute_learning_rate(TrainState(10**6)) == 1.0


def test_training_is_finished_at_each_limit() -> None:
    state = TrainState(step=10, seconds=120.0, stale_validations=3)
    assert Schedule(1.0, max_steps=10).is_finished(state)
    assert Schedule(1.0, max_minutes=2.0).is_finished(state)
    assert Schedule(1.0, patience=3).is_finished(state)
    assert not Schedule(1.0, 0, 11, 2.1, 4).is_finished(state)
    assert not Schedule(1.0).is_finished(state)


def test_carried_hidden_state_equals_one_long_window() -> None:
    trainer = make_trainer()
    first, second = make_batches(carry=40, count=2)
    continues = second.continues
    assert 0 < int(continues.sum()) < 5
    trainer.step(first, lr=0.0)  # changes nothing but the hidden state
    loss = trainer.step(second, lr=0.0).loss

    model = trainer.model
    first_start, second_start = (
        model.init_hidden(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)))
        for seed in (utils.derive_seed(SEED, 0), utils.derive_seed(SEED, 1))
    )
    with torch.no_grad():
        _, hidden = model(model.shift_right(first.targets), first_start, first.controls)
        hidden = torch.where(continues[:, None], hidden, second_start)
        inputs = model.shift_right(second.targets)
        inputs[0] = torch.where(continues, first.targets[-1], inputs[0])
        logits, _ = model(inputs, hidden, second.controls)
        expected = functional.cross_entropy(logits.flatten(0, 1), second.targets.flatten())
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_step_counts_steps_and_events() -> None:
    trainer = make_trainer()
    for batch in make_batches(count=2):
        result = trainer.step(batch, lr=0.01)
    assert result.state == trainer.state == TrainState(step=2, events=2 * 4 * 10)


def test_failed_step_leaves_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    first, second = make_batches(carry=40, count=2)
    trainer.step(first, lr=0.01)
    before, hidden = trainer.state, trainer.hidden

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(trainer.optimizer, "step", fail)
    with pytest.raises(MemoryError):
        trainer.step(second, lr=0.01)
    assert trainer.state == before
    assert trainer.hidden is hidden


@pytest.mark.parametrize("ema_decay", [0.5, 0.0])
def test_ema_is_a_moving_average_of_the_weights(ema_decay: float) -> None:
    trainer = make_trainer(ema_decay=ema_decay)
    expected = copy_weights(trainer)
    for number, batch in enumerate(make_batches(count=12)):
        trainer.step(batch, lr=0.01)
        decay = min(ema_decay, (1 + number) / (10 + number))
        pairs = zip(expected, trainer.weights, strict=True)
        expected = [decay * average + (1 - decay) * weight for average, weight in pairs]
    for average, value in zip(trainer.ema.parameters(), expected, strict=True):
        torch.testing.assert_close(average, value)


def test_ema_counts_batches_of_the_current_size() -> None:
    trainer = make_trainer(ema_decay=0.9)
    (large,) = make_batches()
    small = dataclasses.replace(
        large,
        targets=large.targets[:5],
        controls=large.controls[:5],
    )
    for _ in range(4):  # as many events as two large batches
        trainer.step(small, lr=0.01)
    before = [average.clone() for average in trainer.ema.parameters()]
    trainer.step(large, lr=0.01)
    decay = (1 + 2) / (10 + 2)
    for average, old, weight in zip(trainer.ema.parameters(), before, trainer.weights, strict=True):
        torch.testing.assert_close(average, decay * old + (1 - decay) * weight)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_has_similar_losses(precision: str) -> None:
    exact, rough = make_trainer(), make_trainer(precision)
    for batch in make_batches(count=3):
        losses = [float(trainer.step(batch, lr=0.01).loss) for trainer in (exact, rough)]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert not all(torch.equal(a, b) for a, b in zip(exact.weights, rough.weights, strict=True))
    assert {weight.dtype for weight in rough.weights} == {torch.float32}


def test_fp16_overflow_skips_the_step() -> None:
    trainer = make_trainer("fp16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1e30)
    before = copy_weights(trainer)
    result = trainer.step(make_batches()[0], lr=0.01)
    assert math.isfinite(float(result.loss))
    assert float(result.grad_norm) == 0
    assert trainer.scaler.get_scale() < 1e30
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.weights, strict=True))


def test_long_gradients_are_clipped() -> None:
    trainer = make_trainer()
    trainer.model.output_fc.weight.data *= 300
    result = trainer.step(make_batches()[0], lr=0.0)
    clipped = math.sqrt(sum(float((weight.grad**2).sum()) for weight in trainer.weights))
    assert float(result.grad_norm) > 2
    assert clipped == pytest.approx(1.0, abs=1e-3)


def test_weight_decay_is_scaled_by_learning_rate() -> None:
    plain, decayed = make_trainer(), make_trainer(weight_decay=0.1)
    before = plain.weights[1].detach().clone()
    for trainer in (plain, decayed):
        trainer.step(make_batches()[0], lr=0.01)
    torch.testing.assert_close(plain.weights[1] - decayed.weights[1], before * 0.01 * 0.1)


@pytest.mark.parametrize(("speed", "precision"), [(1.2, "fp32"), (3.0, "bf16")])
def test_auto_precision_is_bf16_if_much_faster(
    speed: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {torch.float32: 1.0, torch.bfloat16: speed}
    monkeypatch.setattr(trainer_module, "_measure_speed", lambda dtype, device: speeds[dtype])
    assert pick_precision(CPU) == precision


def test_auto_precision_is_measured() -> None:
    assert pick_precision(CPU) in ("fp32", "bf16")
