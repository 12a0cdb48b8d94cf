"""Sampling and beam search against plain definitions, on a small network."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from config import ModelConfig
from generation.beam_search import beam_search
from generation.engine import NO_CONTROL, ControlTable, Engine
from generation.sampling import EventRules, Sampler
from model import PerformanceRNN
from tests.reference_network import make_model, reference_logits

TINY_SIZES = ModelConfig(init_dim=2, event_dim=4, control_dim=2, hidden_dim=6, gru_layers=1)


def make_rngs(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + row) for row in range(count)]


def sample(
    model: PerformanceRNN,
    init: torch.Tensor,
    steps: int,
    seed: int = 0,
    controls: torch.Tensor | None = None,
    rules: EventRules | None = None,
    **options: Any,
) -> torch.Tensor:
    """Return sampled events [steps, batch]."""
    events = Engine(model, exact=True).generate(
        init,
        steps,
        ControlTable(controls),
        make_rngs(len(init), seed),
        sampler=Sampler(**options),
        rules=rules,
    )
    return torch.stack(list(events))


def search(
    model: PerformanceRNN, init: torch.Tensor, steps: int, beam_size: int, **options: Any
) -> torch.Tensor:
    """Return the events [steps, batch] that beam search finds."""
    engine, rngs = Engine(model, exact=True), make_rngs(len(init))
    return beam_search(engine, init, steps, NO_CONTROL, rngs, beam_size=beam_size, **options)


# --------------------------------------------------------------------------------- sampling


def test_sample_has_the_requested_length_and_valid_events() -> None:
    events = sample(make_model(), torch.zeros(3, 4), 301)
    assert events.shape == (301, 3)
    assert 0 <= int(events.min()) <= int(events.max()) < 11


def test_seed_decides_the_sample() -> None:
    model, init = make_model(), torch.zeros(2, 4)
    assert torch.equal(sample(model, init, 50), sample(model, init, 50))
    assert not torch.equal(sample(model, init, 50), sample(model, init, 50, seed=1))


def test_sample_does_not_depend_on_the_batch() -> None:
    model, init = make_model(), torch.randn(5, 4)
    assert torch.equal(sample(model, init, 60)[:, :2], sample(model, init[:2], 60))


def test_greedy_takes_the_most_probable_event_for_any_seed() -> None:
    model, init = make_model(), torch.randn(2, 4)
    events = sample(model, init, 30, greedy_ratio=1.0)
    assert torch.equal(events, sample(model, init, 30, greedy_ratio=1.0, seed=9))
    assert torch.equal(reference_logits(model, events, init, None).argmax(dim=-1), events)


@pytest.mark.parametrize("temperature", [1e-6, 1e-300])
def test_lowest_temperature_is_greedy(temperature: float) -> None:
    model, init = make_model(), torch.randn(2, 4)
    greedy = sample(model, init, 30, greedy_ratio=1.0)
    assert torch.equal(sample(model, init, 30, temperature=temperature), greedy)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_samples_follow_the_distribution_of_the_network(temperature: float) -> None:
    model, count = make_model(TINY_SIZES, 3.0), 4000
    first = sample(model, torch.zeros(count, 2), 1, temperature=temperature)[0]
    event, init = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 2)
    logits = reference_logits(model, event, init, None)[0, 0]
    expected = count * torch.softmax(logits / temperature, dim=0)
    chi_square = float(((first.bincount(minlength=4) - expected) ** 2 / expected).sum())
    assert chi_square < 16.3  # 0.1% of true samples exceed it, with 3 degrees of freedom


def test_each_step_sees_its_own_control() -> None:
    model, init, controls = make_model(scale=3.0), torch.randn(1, 4), torch.randn(12, 1, 5)
    events = sample(model, init, 12, controls=controls, greedy_ratio=1.0)
    assert torch.equal(reference_logits(model, events, init, controls).argmax(dim=-1), events)


def test_one_control_holds_for_all_steps() -> None:
    model, init, control = make_model(scale=3.0), torch.randn(1, 4), torch.randn(1, 1, 5)
    constant = sample(model, init, 12, controls=control, greedy_ratio=1.0)
    repeated = sample(model, init, 12, controls=control.expand(12, 1, 5), greedy_ratio=1.0)
    assert torch.equal(constant, repeated)


def alternating_rules() -> EventRules:
    """Return rules by which 0 and 1 alternate, 0 first; 2 and 3 are free."""
    enables, disables = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    enables[0, 1] = enables[1, 0] = disables[0, 0] = disables[1, 1] = True
    at_start = np.array([True, False, True, True])
    rules = EventRules.unrestricted(4)
    return replace(rules, allowed_at_start=at_start, enables=enables, disables=disables)


@pytest.mark.parametrize("beam_size", [0, 3])
def test_rules_hold_in_every_sequence(beam_size: int) -> None:
    model, init, rules = make_model(TINY_SIZES), torch.randn(3, 2), alternating_rules()
    if beam_size:
        events = search(model, init, 40, beam_size, stochastic=True, rules=rules)
    else:
        events = sample(model, init, 200, rules=rules)
    for column in events.T.tolist():
        limited = [event for event in column if event < 2]
        assert limited == [index % 2 for index in range(len(limited))]
        assert beam_size or len(limited) > 20


# ------------------------------------------------------------------------------ beam search


def test_beam_of_one_is_greedy() -> None:
    model, init = make_model(), torch.randn(3, 4)
    assert torch.equal(search(model, init, 25, 1), sample(model, init, 25, greedy_ratio=1.0))


@pytest.mark.parametrize("scale", [2.0, 5.0])
@torch.no_grad()
def test_beam_of_all_sequences_finds_the_most_probable_one(scale: float) -> None:
    sequences = torch.tensor(list(itertools.product(range(4), repeat=5))).T  # [steps, count]
    count = sequences.shape[1]
    model, init = make_model(TINY_SIZES, scale), 3 * torch.randn(8, 2)
    events = search(model, init, 5, beam_size=count)
    for row, found in enumerate(events.T.tolist()):
        hidden = model.init_hidden(init[row : row + 1].expand(count, -1))
        scores = model(model.shift_right(sequences), hidden)[0].log_softmax(dim=-1)
        best = scores.gather(2, sequences[..., None]).sum(dim=0).argmax()
        assert found == sequences[:, best].tolist()


def plain_beam_search(
    model: PerformanceRNN, steps: int, beam_size: int, init: torch.Tensor
) -> list[int]:
    """Return the best sequence; every candidate is evaluated from its first event."""
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(steps):
        candidates = []
        for total, sequence in beams:
            events = torch.tensor([*sequence, 0])[:, None]
            scores = reference_logits(model, events, init, None)[-1, 0].log_softmax(dim=0)
            candidates += [(total + float(x), [*sequence, event]) for event, x in enumerate(scores)]
        beams = sorted(candidates, reverse=True)[:beam_size]
    return beams[0][1]


def test_beams_match_plain_beam_search() -> None:
    model, init = make_model(scale=3.0), 2 * torch.randn(8, 4)
    expected = [plain_beam_search(model, 10, 3, vector[None]) for vector in init]
    assert search(model, init, 10, 3).T.tolist() == expected


def test_stochastic_beam_samples_from_the_network() -> None:
    """Its first sequence has the largest perturbed log-probability: a sample of the network."""
    model, steps, count = make_model(TINY_SIZES, 3.0), 2, 3000
    sequences = list(itertools.product(range(4), repeat=steps))
    expected = []
    for sequence in sequences:
        events = torch.tensor(sequence)[:, None]
        scores = reference_logits(model, events, torch.zeros(1, 2), None).log_softmax(dim=-1)
        expected.append(count * math.exp(float(scores.gather(2, events[..., None]).sum())))
    found = search(model, torch.zeros(count, 2), steps, beam_size=3, stochastic=True).T.tolist()
    counts = [found.count(list(sequence)) for sequence in sequences]
    chi_square = sum((n - e) ** 2 / e for n, e in zip(counts, expected, strict=True))
    assert chi_square < 37.7  # 0.1% of true samples exceed it, with 15 degrees of freedom
