"""Density feedback, compared with a plain loop."""

import math

import numpy as np
import pytest
import torch

from generation.density import (
    GAIN,
    MAX_CORRECTION,
    TIME_CONSTANT,
    DensityController,
    DensityTarget,
)
from generation.engine import ControlTable, Engine
from generation.pipeline import build_density_target
from sequence import CURRENT, ControlSeq, EventSeq
from tests.generation.networks import (
    compute_forward_logits,
    compute_step_logits,
    draw_controls,
    draw_events,
    make_model,
)

# event 0 is a note on, events 1 and 2 take half a second and three seconds
TARGET = DensityTarget(
    column=1,
    rates=torch.tensor([2.0, 4.0, math.inf]),
    notes=torch.tensor([1.0, 0.0, 0.0]),
    seconds=torch.tensor([0.0, 0.5, 3.0]),
)
CONTROLS = torch.tensor([[0.5, 1, 0, 0, 7], [0.5, 0, 1, 0, 7], [0.5, 0, 0, 1, 8]])


def compute_levels(
    events: list[int], levels: list[int], target: DensityTarget, start_event: int
) -> list[int]:
    """Return the corrected level after each event; levels: the requested level at each event."""
    rates, notes, seconds = (row.tolist() for row in (target.rates, target.notes, target.seconds))
    missing, result = 0.0, []
    for step, (event, level) in enumerate(zip(events, levels, strict=True)):
        is_controlled = math.isfinite(rates[level])
        if step or event != start_event:  # the start event does not count
            if is_controlled:
                missing += rates[level] * seconds[event] - notes[event]
            missing *= math.exp(-seconds[event] / TIME_CONSTANT)
            missing = min(max(missing, -MAX_CORRECTION / GAIN), MAX_CORRECTION / GAIN)
        corrected = level + (GAIN * missing if is_controlled else 0.0)
        result.append(min(max(round(corrected), 0), len(rates) - 1))
    return result


@pytest.mark.parametrize("probabilities", [(0.7, 0.2, 0.1), (0.9, 0.07, 0.03)])
def test_level_is_corrected_by_missing_notes(probabilities: tuple[float, ...]) -> None:
    levels = [0] * 50 + [1] * 50 + [2] * 50
    rng = np.random.default_rng(0)
    events = [1, *rng.choice(3, 149, p=probabilities).tolist()]
    expected = compute_levels(events, levels, TARGET, start_event=1)
    controller = DensityController(TARGET, CONTROLS)
    error = controller.reset(torch.tensor(0), torch.tensor([1]))
    for event, level, corrected in zip(events, levels, expected, strict=True):
        index = torch.tensor(level)
        error = controller.update(error, index, torch.tensor([event]))
        control = controller.controls[controller.select(error, index)][0]
        assert control[1:4].tolist() == np.eye(3)[corrected].tolist()
        assert control[[0, 4]].tolist() == CONTROLS[level, [0, 4]].tolist()
    assert len(set(expected[:100])) > 1


def test_correction_is_limited_after_long_silence() -> None:
    controller = DensityController(TARGET, CONTROLS)
    index = torch.tensor(1)
    error = controller.reset(index, torch.tensor([1]))
    for _ in range(100):
        error = controller.update(error, index, torch.tensor([2]))
    notes = 0
    while float(controller.controls[controller.select(error, index)][0, 2]) != 1:
        error = controller.update(error, index, torch.tensor([0]))
        notes += 1
    # at most 5 levels are missing, which is 20.8 notes; under half a level there is no correction
    assert notes == 19


@pytest.mark.parametrize("rows", [1, 3, 12])  # with and without precomputed input gates
def test_network_gets_the_corrected_level(rows: int) -> None:
    columns, target, model = slice(0, 12), build_density_target(CURRENT), make_model()
    inputs = draw_events(80, 3, seed=1)
    inputs[0] = model.primary_event
    controls = draw_controls(rows, 1)
    requested = controls[[min(step, rows - 1) for step in range(80)]]  # a row for each event
    levels = requested[:, 0, columns].argmax(dim=1).tolist()
    corrected = requested.expand(-1, 3, -1).clone()
    for k in range(3):
        expected = compute_levels(inputs[:, k].tolist(), levels, target, model.primary_event)
        assert len(set(expected)) > 1
        corrected[:, k, columns] = torch.eye(12)[expected]
    logits = compute_step_logits(
        Engine(model, exact=True), inputs, ControlTable(controls, target=target)
    )
    expected_logits = compute_forward_logits(model, inputs, corrected)
    torch.testing.assert_close(logits, expected_logits, atol=3e-5, rtol=0)


def test_targets_are_the_middle_of_each_level() -> None:
    """Density k requests 1 + 3k to 3 + 3k notes per 2 s, density 11 34 or more."""
    target = build_density_target(CURRENT)
    expected = [(1 + 3 * k + 3 + 3 * k) / 2 / 2 for k in range(11)]
    assert target.column == ControlSeq.feat_ranges()["note_density"].start
    assert target.rates.tolist() == [*expected, math.inf]
    assert target.notes.nonzero().flatten().tolist() == list(range(88))
    time_shifts = target.seconds[EventSeq.feat_ranges()["time_shift"]]
    assert float(time_shifts[0]) == pytest.approx(0.015)
    assert float(time_shifts[-1]) == pytest.approx(1.171)
    assert float(target.seconds.sum() - time_shifts.sum()) == 0
