"""Sampling and beam search compared with plain definitions, on a small network."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from generation.engine import NO_CONTROL, ControlTable, Engine, beam_search
from generation.sampling import EventConstraints, Sampler
from model import PerformanceRNN
from tests.generation.networks import make_inputs, make_no_constraints
from tests.reference_network import FOUR_EVENT_SIZES, compute_logits, make_model


def sample(
    model: PerformanceRNN,
    init: torch.Tensor,
    steps: int,
    sampler: Sampler | None = None,
    controls: ControlTable = NO_CONTROL,
    constraints: EventConstraints | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Return sampled events [steps, batch]."""
    constraints = constraints or make_no_constraints(model.config.event_dim)
    inputs = make_inputs(init, controls, seed, constraints=constraints)
    events = Engine(model, exact=True).generate(inputs, steps, sampler or Sampler())
    return torch.stack(list(events))


def search(model: PerformanceRNN, init: torch.Tensor, *options: Any, **fields: Any) -> torch.Tensor:
    """Return the events [steps, batch] that beam search finds."""
    fields.setdefault("constraints", make_no_constraints(model.config.event_dim))
    return beam_search(Engine(model, exact=True), make_inputs(init, **fields), *options)


# --------------------------------------------------------------------------------- sampling


def test_greedy_takes_the_most_probable_event() -> None:
    model, init, greedy = make_model(), torch.randn(2, 4), Sampler(greedy_ratio=1.0)
    events = sample(model, init, 30, greedy)
    assert torch.equal(events, sample(model, init, 30, greedy, seed=9))
    assert torch.equal(compute_logits(model, events, init, None).argmax(dim=-1), events)
    for temperature in (1e-6, 1e-300):
        assert torch.equal(events, sample(model, init, 30, Sampler(temperature)))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_samples_follow_the_distribution(temperature: float) -> None:
    model, count = make_model(FOUR_EVENT_SIZES, 3.0), 4000
    first = sample(model, torch.zeros(count, 2), 1, Sampler(temperature))[0]
    event, init = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 2)
    logits = compute_logits(model, event, init, None)[0, 0]
    expected = count * torch.softmax(logits / temperature, dim=0)
    chi_square = float(((first.bincount(minlength=4) - expected) ** 2 / expected).sum())
    assert chi_square < 16.3  # 0.1% of true samples exceed it, with 3 degrees of freedom


@pytest.mark.parametrize("rows", [1, 12])
def test_each_step_sees_its_control(rows: int) -> None:
    model, init, controls = make_model(scale=3.0), torch.randn(1, 4), torch.randn(rows, 1, 5)
    events = sample(model, init, 12, Sampler(greedy_ratio=1.0), ControlTable(controls))
    expected = compute_logits(model, events, init, controls.expand(12, 1, 5)).argmax(dim=-1)
    assert torch.equal(events, expected)


@pytest.mark.parametrize("beam_size", [0, 3])
def test_rules_hold_in_every_sequence(beam_size: int) -> None:
    """The constraints are: 0 and 1 alternate and 0 is first; 2 and 3 are always allowed."""
    enables, disables = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    enables[0, 1] = enables[1, 0] = disables[0, 0] = disables[1, 1] = True
    at_start = np.array([True, False, True, True])
    constraints = replace(
        make_no_constraints(4), allowed_at_start=at_start, enables=enables, disables=disables
    )
    model, init = make_model(FOUR_EVENT_SIZES), torch.randn(3, 2)
    if beam_size:
        events = search(model, init, 40, beam_size, True, constraints=constraints)
    else:
        events = sample(model, init, 200, constraints=constraints)
    for column in events.T.tolist():
        limited = [event for event in column if event < 2]
        assert limited == [index % 2 for index in range(len(limited))]
        assert beam_size or len(limited) > 20


# ------------------------------------------------------------------------------ beam search


def plain_beam_search(
    model: PerformanceRNN, steps: int, beam_size: int, init: torch.Tensor
) -> list[int]:
    """Return the best sequence; each candidate is evaluated again from its first event."""
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(steps):
        candidates = []
        for total, sequence in beams:
            events = torch.tensor([*sequence, 0])[:, None]
            scores = compute_logits(model, events, init, None)[-1, 0].log_softmax(dim=0)
            candidates += [(total + float(x), [*sequence, event]) for event, x in enumerate(scores)]
        beams = sorted(candidates, reverse=True)[:beam_size]
    return beams[0][1]


@pytest.mark.parametrize("beam_size", [1, 3])
def test_beams_match_plain_beam_search(beam_size: int) -> None:
    model, init = make_model(scale=3.0), 2 * torch.randn(8, 4)
    expected = [plain_beam_search(model, 10, beam_size, vector[None]) for vector in init]
    assert search(model, init, 10, beam_size).T.tolist() == expected


@pytest.mark.parametrize("scale", [2.0, 5.0])
@torch.no_grad()
def test_full_beam_finds_the_most_probable_sequence(scale: float) -> None:
    sequences = torch.tensor(list(itertools.product(range(4), repeat=5))).T  # [steps, count]
    count = sequences.shape[1]
    model, init = make_model(FOUR_EVENT_SIZES, scale), 3 * torch.randn(8, 2)
    events = search(model, init, 5, count)
    for row, found in enumerate(events.T.tolist()):
        hidden = model.init_hidden(init[row : row + 1].expand(count, -1))
        scores = model(model.shift_right(sequences), hidden)[0].log_softmax(dim=-1)
        best = scores.gather(2, sequences[..., None]).sum(dim=0).argmax()
        assert found == sequences[:, best].tolist()


def test_stochastic_beam_samples_from_the_network() -> None:
    """Its first sequence, with the largest perturbed log-probability, is a plain sample."""
    model, steps, count = make_model(FOUR_EVENT_SIZES, 3.0), 2, 3000
    sequences = list(itertools.product(range(4), repeat=steps))
    expected = []
    for sequence in sequences:
        events = torch.tensor(sequence)[:, None]
        scores = compute_logits(model, events, torch.zeros(1, 2), None).log_softmax(dim=-1)
        expected.append(count * math.exp(float(scores.gather(2, events[..., None]).sum())))
    found = search(model, torch.zeros(count, 2), steps, 3, True).T.tolist()
    counts = [found.count(list(sequence)) for sequence in sequences]
    chi_square = sum((n - e) ** 2 / e for n, e in zip(counts, expected, strict=True))
    assert chi_square < 37.7  # 0.1% of true samples exceed it, with 15 degrees of freedom
