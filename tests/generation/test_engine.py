"""Generation step by step: controls over time, contexts, guidance, 8-bit products."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from corpus.recall import recall_events
from generation import engine as engine_module
from generation.density import DensityTarget
from generation.engine import (
    NO_CONTROL,
    ControlTable,
    Engine,
    State,
    ThreadChooser,
    beam_search,
)
from generation.pipeline import build_density_target
from generation.sampling import Sampler
from model import PerformanceRNN
from sequence import CURRENT
from tests.generation.networks import (
    INIT_DIM,
    SIZES,
    compute_forward_logits,
    compute_step_logits,
    draw_controls,
    draw_events,
    make_inputs,
    make_model,
    make_no_constraints,
)

GREEDY = Sampler(greedy_ratio=1.0)
DURATIONS = torch.arange(240) % 7
needs_int8 = pytest.mark.skipif(
    engine_module.find_int8_products() is None,
    reason="torch has no 8-bit products on this CPU",
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model() -> PerformanceRNN:
    return make_model()


def make_zeros(batch: int) -> torch.Tensor:
    return torch.zeros(batch, INIT_DIM)


# --------------------------------------------------------------------------------- controls


@pytest.mark.parametrize(
    "controls",
    [None, draw_controls(1, 1), draw_controls(30, 1), draw_controls(30, 3)],
    ids=["none", "constant", "changing", "too many to precompute"],
)
def test_steps_match_forward_pass(model: PerformanceRNN, controls: torch.Tensor | None) -> None:
    inputs = draw_events(30, 3)
    expected = compute_forward_logits(
        model, inputs, None if controls is None else controls.expand(30, 3, -1)
    )
    logits = compute_step_logits(Engine(model, exact=True), inputs, ControlTable(controls))
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("rows", [2, 50])
def test_rows_change_with_elapsed_time(model: PerformanceRNN, rows: int) -> None:
    inputs = draw_events(60, 3)
    inputs[0] = model.primary_event  # takes no time
    controls = draw_controls(rows, 1)
    elapsed = DURATIONS[inputs]
    elapsed[0] = 0
    row = (elapsed.cumsum(dim=0) // 5).clamp(max=rows - 1)
    expected = compute_forward_logits(model, inputs, controls[row, 0])
    logits = compute_step_logits(
        Engine(model, exact=True), inputs, ControlTable(controls, DURATIONS, 5)
    )
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_bias_of_a_row_is_added_to_the_logits(
    model: PerformanceRNN, guidance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "BLOCK", 8)
    inputs, controls, bias = draw_events(60, 3), draw_controls(50, 1), torch.randn(50, 240)
    inputs[0] = model.primary_event  # takes no time
    elapsed = DURATIONS[inputs]
    elapsed[0] = 0
    row = (elapsed.cumsum(dim=0) // 5).clamp(max=49)
    engine = Engine(model, exact=True, guidance=guidance)
    plain = compute_step_logits(engine, inputs, ControlTable(controls, DURATIONS, 5))
    biased = compute_step_logits(engine, inputs, ControlTable(controls, DURATIONS, 5, bias=bias))
    torch.testing.assert_close(biased, plain + bias[row])


class CountedRows:
    """Rows of a table that counts how many of them were read."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.read = rows, 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        self.read += len(self.rows[rows])
        return self.rows[rows]


def test_rows_of_a_long_table_are_computed_as_needed(
    model: PerformanceRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "BLOCK", 8)
    inputs, rows = draw_events(60, 3), CountedRows(draw_controls(5000, 1))
    inputs[0] = model.primary_event  # takes no time
    elapsed = DURATIONS[inputs]
    elapsed[0] = 0
    row = elapsed.cumsum(dim=0) // 5
    expected = compute_forward_logits(model, inputs, rows.rows[row, 0])
    table = ControlTable(rows, DURATIONS, 5)
    logits = compute_step_logits(Engine(model, exact=True), inputs, table)
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=0)
    assert 8 < int(row.max()) < rows.read < 200


@pytest.mark.parametrize(
    ("controls", "durations", "target", "guidance"),
    [
        (draw_controls(12, 1), DURATIONS, None, 2.0),
        (draw_controls(1, 3), None, None, 1.0),
        (draw_controls(1, 1), None, build_density_target(CURRENT), 1.0),
    ],
    ids=["time and guidance", "each its own", "density"],
)
def test_selected_sequences_continue_unchanged(
    model: PerformanceRNN,
    controls: torch.Tensor,
    durations: torch.Tensor | None,
    target: DensityTarget | None,
    guidance: float,
) -> None:
    rows, inputs = torch.tensor([2, 0, 0]), draw_events(60, 3, seed=2)
    engine = Engine(model, exact=True, guidance=guidance)
    table = ControlTable(controls, durations, 5, target)
    with torch.inference_mode():
        state, _, _ = engine.prime(make_inputs(make_zeros(3), table))
        for row in inputs[:30]:
            engine.step(state, row)
        selected = state.select(rows)
        for row in inputs[30:]:
            expected = engine.step(state, row)[rows]
            logits = engine.step(selected, row[rows])
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.5])
def test_guidance_scales_the_effect_of_the_control(model: PerformanceRNN, guidance: float) -> None:
    inputs, controls = draw_events(20, 2), draw_controls(1, 1)
    conditional = compute_forward_logits(model, inputs, controls.expand(20, 2, -1))
    unconditional = compute_forward_logits(model, inputs, None)
    engine = Engine(model, exact=True, guidance=guidance)
    expected = unconditional + guidance * (conditional - unconditional)
    logits = compute_step_logits(engine, inputs, ControlTable(controls))
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


# ----------------------------------------------------------------------------------- recall


@pytest.fixture(scope="module")
def recall_model() -> PerformanceRNN:
    return make_model(replace(SIZES, recall_dim=6))


def draw_notes(steps: int, batch: int) -> torch.Tensor:
    """Return notes of a passage that returns, with other events between [steps, batch]."""
    passage = draw_events(20, batch, seed=5) % 60
    events = passage.repeat(steps // 20 + 1, 1)[:steps]
    for column in range(batch):  # at other steps in each column
        events[column::7, column] = 230
    return events


@torch.inference_mode()
def compute_recall_model_logits(model: PerformanceRNN, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits after inputs [steps, batch], those of the forward pass."""
    after = [recall_events(np.append(column, 0))[1:] for column in inputs.numpy().T]
    recall = torch.from_numpy(np.stack(after, axis=1))
    assert (recall[..., 0] > 0).any()
    hidden = model.init_hidden_each(make_zeros(inputs.shape[1]))
    return model(inputs, hidden, recall=recall)[0]


def test_steps_recall_as_the_forward_pass(recall_model: PerformanceRNN) -> None:
    inputs = draw_notes(70, 3)
    logits = compute_step_logits(Engine(recall_model, exact=True), inputs, NO_CONTROL)
    expected = compute_recall_model_logits(recall_model, inputs)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    nothing = compute_step_logits(
        Engine(recall_model, exact=True, use_recall=False), inputs, NO_CONTROL
    )
    without = compute_forward_logits(recall_model, inputs, None)
    torch.testing.assert_close(nothing, without, atol=1e-4, rtol=0)
    assert (logits - nothing).abs().max() > 0.1


def test_notes_before_the_context_are_recalled(recall_model: PerformanceRNN) -> None:
    inputs, engine = draw_notes(70, 1), Engine(recall_model, exact=True)
    keys = [key for key in inputs[:40, 0].tolist() if key < 88]
    context = inputs[40:60, 0]
    with torch.inference_mode():
        state, event, _ = engine.prime(
            make_inputs(make_zeros(2), context=context, earlier_keys=keys)
        )
        logits = engine.step(state, event)
        assert state.recall is not None
        assert state.recall.memories is not None
        rows = [memory.row for memory in state.recall.memories]
        shorter = engine.prime(make_inputs(make_zeros(2), context=context))
        assert (engine.step(shorter[0], shorter[1]) - logits).abs().max() > 0.01
    assert rows == [recall_events(np.append(inputs[:60, 0].numpy(), 0))[-1].tolist()] * 2


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_selected_sequences_keep_their_memories(
    recall_model: PerformanceRNN, guidance: float
) -> None:
    rows, inputs = torch.tensor([2, 0, 0]), draw_notes(90, 3)
    engine = Engine(recall_model, exact=True, guidance=guidance)
    table = ControlTable(draw_controls(1, 1))
    with torch.inference_mode():
        state, _, _ = engine.prime(make_inputs(make_zeros(3), table))
        for row in inputs[:50]:
            engine.step(state, row)
        selected = State.join([state.select(rows[:1]), state.select(rows[1:])])
        for row in inputs[50:]:
            logits = engine.step(selected, row[rows])
            torch.testing.assert_close(logits, engine.step(state, row)[rows], atol=1e-4, rtol=0)


# --------------------------------------------------------------------------------- contexts


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_generation_continues_from_context(model: PerformanceRNN, guidance: float) -> None:
    context, context_controls = draw_events(30, 1)[:, 0], draw_controls(30, 1)
    controls = draw_controls(1, 1)
    inputs = make_inputs(
        make_zeros(2),
        ControlTable(controls),
        context=context,
        context_controls=ControlTable(context_controls),
    )
    engine = Engine(model, exact=True, guidance=guidance)
    generated = torch.stack(list(engine.generate(inputs, 25, GREEDY)))
    whole = model.shift_right(torch.cat([context[:, None].expand(-1, 2), generated]))
    whole_controls = torch.cat([context_controls, controls.expand(25, 1, -1)]).expand(-1, 2, -1)
    unconditional = compute_forward_logits(model, whole, None)[30:]
    conditional = compute_forward_logits(model, whole, whole_controls)[30:]
    expected = unconditional + guidance * (conditional - unconditional)
    assert torch.equal(expected.argmax(dim=-1), generated)


def test_event_mask_includes_context(model: PerformanceRNN) -> None:
    disables = np.zeros((240, 240), bool)
    disables[3] = np.arange(240) != 7  # only event 7 may follow event 3
    constraints = replace(make_no_constraints(), disables=disables)
    inputs = make_inputs(make_zeros(2), constraints=constraints, context=torch.tensor([3]))
    assert torch.stack(list(Engine(model).generate(inputs, 1))).tolist() == [[7, 7]]


# ------------------------------------------------------------------------------ beam search


def test_beam_of_one_is_greedy(model: PerformanceRNN) -> None:
    engine = Engine(model, exact=True, guidance=1.5)
    controls = ControlTable(draw_controls(3, 1), DURATIONS, 20)
    inputs = make_inputs(make_zeros(1), controls, context=torch.tensor([3, 220, 91]))
    greedy = torch.stack(list(engine.generate(inputs, 30, GREEDY)))
    assert torch.equal(beam_search(engine, inputs, 30, 1), greedy)


@pytest.mark.parametrize("stochastic", [False, True])
def test_beams_keep_their_own_event_mask(model: PerformanceRNN, stochastic: bool) -> None:
    once = replace(make_no_constraints(), disables=np.eye(240, dtype=bool))
    inputs = make_inputs(torch.randn(2, INIT_DIM), constraints=once)
    events = beam_search(Engine(model), inputs, 40, 4, stochastic)
    for sequence in events.T:
        assert len(set(sequence.tolist())) == 40


# ------------------------------------------------------------------------- 8-bit products


@needs_int8
def test_int8_is_independent_of_the_batch(model: PerformanceRNN) -> None:
    init, controls = torch.randn(5, INIT_DIM), draw_controls(60, 5)
    engine = Engine(model)
    all_events, first_events = (
        torch.stack(list(engine.generate(make_inputs(init[:n], ControlTable(controls[:, :n])), 60)))
        for n in (5, 1)
    )
    assert torch.equal(all_events[:, :1], first_events)


def test_float32_is_the_fallback_without_int8(
    model: PerformanceRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "find_int8_products", lambda _: None)
    engine, inputs = Engine(model), draw_events(5, 2)
    expected = compute_step_logits(Engine(model, exact=True), inputs, NO_CONTROL)
    assert torch.equal(compute_step_logits(engine, inputs, NO_CONTROL), expected)


@needs_int8
def test_smallest_network_generates_in_int8() -> None:
    model = make_model(replace(SIZES, hidden_dim=1, gru_layers=1))
    events = list(Engine(model).generate(make_inputs(make_zeros(2)), 5))
    assert torch.stack(events).shape == (5, 2)


# ----------------------------------------------------------------------------------- threads


@needs_int8
def test_two_threads_give_the_same_bits() -> None:
    """Batch and hidden states are so large that torch shares all elementwise functions."""
    engine, logits = Engine(make_model(replace(SIZES, hidden_dim=256, gru_layers=1))), []
    for threads in (1, 2):
        state, event, _ = engine.prime(make_inputs(make_zeros(140)))
        assert engine._is_divisible(state, len(event))
        torch.set_num_threads(threads)
        for step in range(3):
            logits.append(engine.step(state, (event + 7 * torch.arange(140) + step) % 240))
        torch.set_num_threads(1)
    assert all(torch.equal(one, two) for one, two in zip(logits[:3], logits[3:], strict=True))


def test_threads_are_not_tried_if_bits_could_differ(model: PerformanceRNN) -> None:
    engine = Engine(model)
    for rows, batch, is_divisible in ((1, 8, True), (1, 7, False), (1, 2, False), (99, 8, False)):
        controls = ControlTable(draw_controls(rows, 1))
        state, _, _ = engine.prime(make_inputs(make_zeros(batch), controls))
        assert engine._is_divisible(state, batch) == (is_divisible and engine.products is not None)
    state, _, _ = Engine(model, exact=True).prime(make_inputs(make_zeros(8)))
    assert not Engine(model, exact=True)._is_divisible(state, 8)


@pytest.mark.parametrize(
    ("two", "expected"), [(0.6, 2), (0.9, 1), (50.0, 1)], ids=["faster", "equal", "much slower"]
)
def test_thread_chooser_keeps_what_is_faster(two: float, expected: int) -> None:
    chooser, threads, used = ThreadChooser(), 1, []
    for _ in range(30):
        threads = chooser.add(two if threads == 2 else 1.0)
        used.append(threads)
    assert used.index(2) < 6
    assert set(used[10:]) == {expected}


def test_thread_chooser_goes_back_when_two_become_slow() -> None:
    chooser, threads = ThreadChooser(), 1
    for step in range(60):
        threads = chooser.add(1.0 if threads == 1 else 0.6 if step < 40 or step == 50 else 20.0)
        assert (threads == 2) == (5 <= step + 1 <= 42)


def test_generation_restores_the_number_of_threads(
    model: PerformanceRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "WORTHWHILE", 1e9)  # always two threads
    inputs = [make_inputs(make_zeros(8)) for _ in range(2)]
    one, two = (
        torch.stack(list(Engine(model).generate(made, 140, max_threads=threads)))
        for made, threads in zip(inputs, (1, 2), strict=True)
    )
    assert torch.get_num_threads() == 1
    assert torch.equal(one, two)
