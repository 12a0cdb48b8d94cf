"""Generation step by step: controls over time, contexts, guidance, 8-bit products."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from generation import engine as engine_module
from generation.beam_search import beam_search
from generation.engine import NO_CONTROL, Context, ControlTable, Engine, round_weights
from generation.sampling import EventRules, Sampler
from model import PerformanceRNN
from tests.generation.networks import (
    INIT_DIM,
    SIZES,
    forward_logits,
    make_model,
    make_rng,
    make_rngs,
    random_controls,
    random_events,
    step_logits,
)

CPU = torch.device("cpu")
GREEDY = Sampler(greedy_ratio=1.0)
DURATIONS = torch.arange(240) % 7
needs_int8 = pytest.mark.skipif(
    not engine_module.has_int8_linear(CPU), reason="torch has no 8-bit products on this CPU"
)


@pytest.fixture(scope="module")
def model() -> PerformanceRNN:
    return make_model()


def zeros(batch: int) -> torch.Tensor:
    return torch.zeros(batch, INIT_DIM)


# --------------------------------------------------------------------------------- controls


@pytest.mark.parametrize(
    "controls",
    [None, random_controls(1, 1), random_controls(20, 1), random_controls(20, 3)],
    ids=["none", "constant", "changing", "each its own"],
)
def test_steps_match_forward_pass(model: PerformanceRNN, controls: torch.Tensor | None) -> None:
    inputs = random_events(20, 3)
    expected = forward_logits(
        model, inputs, None if controls is None else controls.expand(-1, 3, -1)
    )
    logits = step_logits(Engine(model, exact=True), inputs, ControlTable(controls))
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("rows", [2, 50])
def test_rows_change_with_elapsed_time(model: PerformanceRNN, rows: int) -> None:
    inputs = random_events(60, 3)
    inputs[0] = model.primary_event  # takes no time
    controls = random_controls(rows, 1)
    elapsed = DURATIONS[inputs]
    elapsed[0] = 0
    row = (elapsed.cumsum(dim=0) // 5).clamp(max=rows - 1)
    expected = forward_logits(model, inputs, controls[row, 0])
    logits = step_logits(Engine(model, exact=True), inputs, ControlTable(controls, DURATIONS, 5))
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize(
    ("controls", "guidance"),
    [
        (ControlTable(random_controls(12, 1), DURATIONS, 5), 2.0),
        (ControlTable(random_controls(1, 3)), 1.0),
    ],
    ids=["time and guidance", "each its own"],
)
def test_selected_sequences_continue_unchanged(
    model: PerformanceRNN, controls: ControlTable, guidance: float
) -> None:
    rows, inputs = torch.tensor([2, 0, 0]), random_events(16, 3)
    engine = Engine(model, exact=True, guidance=guidance)
    with torch.inference_mode():
        state = engine.prepare(zeros(3), controls)
        for row in inputs[:6]:
            engine.step(state, row)
        selected = state.select(rows)
        for row in inputs[6:]:
            expected = engine.step(state, row)[rows]
            logits = engine.step(selected, row[rows])
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.5])
def test_guidance_scales_the_effect_of_the_control(model: PerformanceRNN, guidance: float) -> None:
    inputs, controls = random_events(20, 2), random_controls(1, 1)
    conditional = forward_logits(model, inputs, controls.expand(20, 2, -1))
    unconditional = forward_logits(model, inputs, None)
    logits = step_logits(
        Engine(model, exact=True, guidance=guidance), inputs, ControlTable(controls)
    )
    expected = unconditional + guidance * (conditional - unconditional)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


# --------------------------------------------------------------------------------- contexts


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_generation_continues_from_context(model: PerformanceRNN, guidance: float) -> None:
    context_events = random_events(30, 1)[:, 0]
    context_controls, controls = random_controls(30, 1), random_controls(1, 1)
    events = Engine(model, exact=True, guidance=guidance).generate(
        zeros(2),
        25,
        ControlTable(controls),
        make_rngs(2),
        sampler=GREEDY,
        context=Context(context_events, ControlTable(context_controls)),
    )
    generated = torch.stack(list(events))
    whole = torch.cat([context_events[:, None].expand(-1, 2), generated])
    whole_controls = torch.cat([context_controls, controls.expand(25, 1, -1)]).expand(-1, 2, -1)
    inputs = model.shift_right(whole)
    unconditional = forward_logits(model, inputs, None)[30:]
    conditional = forward_logits(model, inputs, whole_controls)[30:]
    expected = unconditional + guidance * (conditional - unconditional)
    assert torch.equal(expected.argmax(dim=-1), generated)


def test_event_mask_includes_context(model: PerformanceRNN) -> None:
    disables = np.zeros((240, 240), bool)
    disables[3] = np.arange(240) != 7  # only event 7 may follow event 3
    rules = replace(EventRules.unrestricted(240), disables=disables)
    context = Context(torch.tensor([3]), NO_CONTROL)
    events = Engine(model).generate(
        zeros(2), 1, NO_CONTROL, make_rngs(2), rules=rules, context=context
    )
    assert torch.stack(list(events)).tolist() == [[7, 7]]


# ------------------------------------------------------------------------------ beam search


def test_beam_of_one_is_greedy_with_context_and_controls(model: PerformanceRNN) -> None:
    engine = Engine(model, exact=True, guidance=1.5)
    controls = ControlTable(random_controls(3, 1), DURATIONS, 20)
    context = Context(torch.tensor([3, 220, 91]), NO_CONTROL)
    beam = beam_search(engine, zeros(1), 30, controls, make_rngs(1), beam_size=1, context=context)
    greedy = engine.generate(zeros(1), 30, controls, make_rngs(1), sampler=GREEDY, context=context)
    assert torch.equal(beam, torch.stack(list(greedy)))


@pytest.mark.parametrize("stochastic", [False, True])
def test_beams_keep_their_own_event_mask(model: PerformanceRNN, stochastic: bool) -> None:
    once = replace(EventRules.unrestricted(240), disables=np.eye(240, dtype=bool))
    init = torch.randn(2, INIT_DIM, generator=make_rng(1))
    events = beam_search(
        Engine(model),
        init,
        40,
        NO_CONTROL,
        make_rngs(2),
        beam_size=4,
        rules=once,
        stochastic=stochastic,
    )
    for sequence in events.T:
        assert len(set(sequence.tolist())) == 40


# ------------------------------------------------------------------------- 8-bit products


@needs_int8
@pytest.mark.parametrize("rows", [1, 150])
def test_int8_distribution_is_close_to_float32(model: PerformanceRNN, rows: int) -> None:
    inputs, controls = random_events(150, 4), ControlTable(random_controls(rows, 4))
    exact, rounded = (
        step_logits(Engine(model, exact=exact), inputs, controls).softmax(dim=-1)
        for exact in (True, False)
    )
    variation = (exact - rounded).abs().sum(dim=-1) / 2
    assert 0 < float(variation.mean()) < 0.01
    assert float(variation.max()) < 0.03


@needs_int8
def test_int8_sequences_do_not_depend_on_the_batch(model: PerformanceRNN) -> None:
    init, controls = torch.randn(5, INIT_DIM, generator=make_rng(1)), random_controls(60, 5)
    engine = Engine(model)
    batch = torch.stack(list(engine.generate(init, 60, ControlTable(controls), make_rngs(5))))
    for k in (0, 3):
        one = slice(k, k + 1)
        events = engine.generate(init[one], 60, ControlTable(controls[:, one]), make_rngs(5)[one])
        assert torch.equal(torch.stack(list(events))[:, 0], batch[:, k])


@needs_int8
def test_split_products_are_more_precise() -> None:
    weight, bias = torch.randn(40, 64, generator=make_rng(0)), torch.zeros(40)
    inputs = torch.randint(-127, 128, (5, 64), generator=make_rng(1)) / 127.5  # exact in 8 bits
    expected = inputs.double() @ weight.double().t()
    coarse, fine = (
        float((linear(weight, bias)(inputs) - expected).abs().max())
        for linear in (engine_module._int8_linear, engine_module._split_int8_linear)
    )
    assert fine < 0.001 < 0.02 < coarse


@needs_int8
def test_rounded_weights_are_exact_in_int8() -> None:
    weight, bias = torch.randn(96, 64, generator=make_rng(0)), torch.zeros(96)
    names = ("gru.weight_hh_l0", "gru.weight_ih_l0")  # the second one is used in float32
    state = round_weights(dict.fromkeys(names, weight))
    rounded, unchanged = (state[name].half().float() for name in names)  # as exported
    inputs = torch.randint(-127, 128, (5, 64), generator=make_rng(1)) / 127.5
    product = engine_module._int8_linear(rounded, bias)(inputs)
    torch.testing.assert_close(product, inputs @ rounded.t(), atol=1e-2, rtol=0)
    assert not torch.allclose(product, inputs @ weight.t(), atol=2e-2, rtol=0)
    assert torch.equal(unchanged, weight.half().float())


def test_rounding_twice_changes_nothing() -> None:
    weight = torch.randn(96, 64, generator=make_rng(0))
    weight[5] = 0
    once = round_weights({"gru.weight_hh_l0": weight})["gru.weight_hh_l0"].half()
    twice = round_weights({"gru.weight_hh_l0": once})["gru.weight_hh_l0"].half()
    torch.testing.assert_close(twice, once, rtol=2e-3, atol=0)  # two units of half precision
    assert not once[5].any()


def test_float32_is_the_fallback_without_int8(
    model: PerformanceRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise AttributeError

    monkeypatch.setattr(engine_module, "_int8_linear", missing)
    engine, inputs = Engine(model), random_events(5, 2)
    assert engine.exact
    expected = step_logits(Engine(model, exact=True), inputs, NO_CONTROL)
    assert torch.equal(step_logits(engine, inputs, NO_CONTROL), expected)


@needs_int8
def test_smallest_network_generates_in_int8() -> None:
    model = make_model(replace(SIZES, hidden_dim=1, gru_layers=1))
    events = Engine(model).generate(zeros(2), 5, NO_CONTROL, make_rngs(2))
    assert torch.stack(list(events)).shape == (5, 2)
