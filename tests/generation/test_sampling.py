"""Sampling: temperatures, filters, noise, and rules for events."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from generation.sampling import EventMask, EventRules, GumbelNoise, Sampler
from tests.generation.networks import make_rngs

CPU = torch.device("cpu")


def filtered(probabilities: list[float], **options: Any) -> list[float]:
    """Return what the filters of a Sampler make of probabilities."""
    logits = torch.tensor(probabilities).log()[None] + 3.0  # a constant changes nothing
    result = Sampler(**options).filter_logits(logits).softmax(dim=-1)[0]
    return [round(float(p), 4) for p in result]


# ---------------------------------------------------------------- temperatures and filters


def test_defaults_change_nothing() -> None:
    assert filtered([0.5, 0.3, 0.2]) == [0.5, 0.3, 0.2]


def test_temperature_raises_probabilities_to_its_inverse() -> None:
    expected = [round(p * p / (0.36 + 0.09 + 0.01), 4) for p in (0.6, 0.3, 0.1)]
    assert filtered([0.6, 0.3, 0.1], temperature=0.5) == expected


@pytest.mark.parametrize("temperature", [1e30, 1e300])  # the second is infinite in float32
def test_extreme_temperature_makes_possible_events_equal(temperature: float) -> None:
    assert filtered([0.6, 0.4, 0.0], temperature=temperature) == [0.5, 0.5, 0.0]
    groups = {"group_temperatures": {0: temperature}, "groups": np.array([0, 0, 0, 1])}
    assert filtered([0.6, 0.2, 0.0, 0.2], **groups) == [0.4, 0.4, 0.0, 0.2]


@pytest.mark.parametrize(
    ("options", "remaining"),
    [
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 4}, [0, 1, 2, 3]),
        ({"top_p": 0.01}, [0]),
        ({"top_p": 0.49}, [0]),
        ({"top_p": 0.51}, [0, 1]),
        ({"top_p": 0.79}, [0, 1]),
        ({"top_p": 0.95}, [0, 1, 2]),
        ({"min_p": 0.39}, [0, 1, 2]),
        ({"min_p": 0.41}, [0, 1]),
        ({"min_p": 1.0}, [0]),
        ({"top_k": 3, "min_p": 0.5}, [0, 1]),
        ({"temperature": 0.5, "min_p": 0.3}, [0, 1]),  # temperature comes first
    ],
)
def test_filters_keep_most_likely_events(options: dict[str, float], remaining: list[int]) -> None:
    probabilities = [0.5, 0.3, 0.2 - 1e-9, 1e-9]
    result = np.array(filtered(probabilities, **options))
    weights = np.array(probabilities)[remaining] ** (1 / options.get("temperature", 1.0))
    np.testing.assert_allclose(result[remaining], weights / weights.sum(), atol=1e-4)
    assert result.sum() == pytest.approx(result[remaining].sum(), abs=1e-4)


def test_group_temperature_keeps_group_probability() -> None:
    groups = np.array([0, 0, 1, 1])
    result = filtered([0.3, 0.1, 0.4, 0.2], group_temperatures={1: 0.5}, groups=groups)
    assert result == [0.3, 0.1, round(0.6 * 16 / 20, 4), round(0.6 * 4 / 20, 4)]


def test_equal_group_temperatures_are_one_temperature() -> None:
    probabilities, groups = [0.3, 0.1, 0.4, 0.2], np.array([0, 0, 1, 1])
    each = {"group_temperatures": {0: 2.0, 1: 2.0}, "groups": groups}
    expected = filtered(probabilities, temperature=2.0)
    assert filtered(probabilities, temperature=2.0, **each) == expected


def test_impossible_group_stays_impossible() -> None:
    groups = {"group_temperatures": {1: 0.5}, "groups": np.array([0, 0, 1])}
    assert filtered([0.5, 0.5, 0.0], **groups) == [0.5, 0.5, 0.0]


# ------------------------------------------------------------------------------------ noise


def test_samples_follow_probabilities() -> None:
    """Chi-square test over 4,000 sequences, each with its own generator."""
    count, probabilities = 4000, torch.tensor([0.5, 0.3, 0.15, 0.05])
    noise = GumbelNoise(make_rngs(count), 4, 0.0, CPU)
    for _ in range(3):
        events = Sampler().sample(probabilities.log().expand(count, 4), noise.next())
        expected = count * probabilities
        chi_square = ((events.bincount(minlength=4) - expected) ** 2 / expected).sum()
        assert float(chi_square) < 16.3  # for 99.9% of true samples, 3 degrees of freedom


@pytest.mark.parametrize("temperature", [1e-300, 0.3, 1.0, 7.0, 1e300])
def test_sampling_with_temperature_matches_definition(temperature: float) -> None:
    rng = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(500, 6, generator=rng)
    logits[:, 2] = -torch.inf
    noise = GumbelNoise([rng] * 500, 6, 0.2, CPU).next()
    expected = logits.double() / min(max(temperature, 1e-30), 1e30) + noise
    assert torch.equal(Sampler(temperature).sample(logits, noise), expected.argmax(dim=1))


def test_greedy_steps_are_drawn_per_sequence() -> None:
    noise = GumbelNoise(make_rngs(50), 7, 0.3, CPU)
    is_greedy = torch.stack([(noise.next() == 0).all(dim=1) for _ in range(200)]).double()
    assert float(is_greedy.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(is_greedy.mean(dim=1).min()) > 0
    assert float(is_greedy.mean(dim=1).max()) < 1


# ------------------------------------------------------------------------------------ rules


def make_rules(max_repeats: int = 0) -> EventRules:
    """Return rules for three events, of which 0 and 1 are note ons."""
    note_ons = np.array([True, True, False])
    return replace(EventRules.unrestricted(3), note_ons=note_ons, max_repeats=max_repeats)


def allowed(mask: EventMask, batch: int = 1, events: int = 3) -> list[list[bool]]:
    return mask.apply(torch.zeros(batch, events)).isfinite().tolist()


def update(mask: EventMask, *events: int) -> None:
    mask.update(torch.tensor(events))


def test_repeats_of_a_note_are_limited_until_another_note() -> None:
    mask = EventMask(make_rules(max_repeats=3), 1, CPU)
    for event in (0, 2, 0, 2, 2, 1, 0, 0):
        assert allowed(mask) == [[True, True, True]]
        update(mask, event)
    update(mask, 0)
    assert allowed(mask) == [[False, True, True]]
    update(mask, 2)
    assert allowed(mask) == [[False, True, True]]
    update(mask, 1)
    assert allowed(mask) == [[True, True, True]]


def test_repeats_without_limit() -> None:
    mask = EventMask(make_rules(), 1, CPU)
    for _ in range(100):
        update(mask, 0)
    assert allowed(mask) == [[True, True, True]]


def test_selected_sequences_keep_their_repeats() -> None:
    mask = EventMask(make_rules(max_repeats=1), 2, CPU)
    update(mask, 0, 1)
    mask.select(torch.tensor([1, 1]))
    assert allowed(mask, 2) == [[True, False, True]] * 2


def test_selected_sequences_keep_disabled_events() -> None:
    disables = np.zeros((3, 3), bool)
    disables[0, 1] = True
    mask = EventMask(replace(EventRules.unrestricted(3), disables=disables), 2, CPU)
    update(mask, 0, 2)
    mask.select(torch.tensor([1, 0]))
    assert allowed(mask, 2) == [[True, True, True], [True, False, True]]


def test_limited_event_cannot_be_enabled_or_disabled() -> None:
    disables = np.zeros((3, 3), bool)
    disables[2, 0] = True
    with pytest.raises(ValueError, match=r"events \[0\] have a limit and are enabled or disabled"):
        EventMask(replace(make_rules(3), disables=disables), 1, CPU)
    not_at_start = np.array([False, True, True])
    with pytest.raises(ValueError, match=r"events \[0\] have a limit"):
        EventMask(replace(make_rules(3), allowed_at_start=not_at_start), 1, CPU)


def test_rules_without_mask_still_limit_repeats() -> None:
    none = np.zeros((3, 3), bool)
    rules = replace(make_rules(1), allowed_at_start=none[0], disables=~none).without_mask()
    mask = EventMask(rules, 1, CPU)
    assert allowed(mask) == [[True, True, True]]
    update(mask, 0)
    assert allowed(mask) == [[False, True, True]]


def test_silence_stays_below_its_limit() -> None:
    """Events 0 and 1 are note ons, 2 takes one second and 3 two; three seconds are too long."""
    rules = replace(
        EventRules.unrestricted(4),
        note_ons=np.array([True, True, False, False]),
        durations=np.array([0, 0, 1.0, 2.0]),
        max_silence=3.0,
    )
    mask = EventMask(rules, 2, CPU)
    assert allowed(mask, 2, 4) == [[True] * 4] * 2
    update(mask, 2, 3)  # silent for 1 s, 2 s
    assert allowed(mask, 2, 4) == [[True, True, True, False], [True, True, False, False]]
    update(mask, 2, 0)  # silent for 2 s, 0 s
    assert allowed(mask, 2, 4) == [[True, True, False, False], [True] * 4]
    mask.select(torch.tensor([1, 0]))
    assert allowed(mask, 2, 4) == [[True] * 4, [True, True, False, False]]


def test_repeats_and_silence_are_limited_together() -> None:
    rules = replace(make_rules(2), durations=np.array([0, 0, 1.0]), max_silence=1.5)
    mask = EventMask(rules, 1, CPU)
    for event, expected in (
        (0, [True, True, True]),
        (2, [True, True, False]),
        (0, [False, True, True]),
        (2, [False, True, False]),
        (1, [True, True, True]),
    ):
        update(mask, event)
        assert allowed(mask) == [expected]
