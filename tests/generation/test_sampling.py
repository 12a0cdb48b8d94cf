"""Sampling: temperatures, filters, noise, and constraints on events."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from generation.sampling import EventConstraints, EventMask, Sampler, draw_gumbel_noise
from tests.generation.networks import make_no_constraints, make_rngs

CPU = torch.device("cpu")


def filter_probabilities(probabilities: list[float], **options: Any) -> list[float]:
    """Return probabilities after the temperatures and filters of a Sampler."""
    logits = torch.tensor(probabilities).log()[None] + 3.0  # a constant changes nothing
    result = Sampler(**options).filter_logits(logits).softmax(dim=-1)[0]
    return [round(float(p), 4) for p in result]


# ---------------------------------------------------------------- temperatures and filters


def test_temperature_is_an_inverse_exponent() -> None:
    expected = [round(p * p / (0.36 + 0.09 + 0.01), 4) for p in (0.6, 0.3, 0.1)]
    assert filter_probabilities([0.6, 0.3, 0.1], temperature=0.5) == expected
    assert filter_probabilities([0.6, 0.3, 0.1]) == [0.6, 0.3, 0.1]


@pytest.mark.parametrize("temperature", [1e30, 1e300])  # the second is infinite in float32
def test_extreme_temperature_makes_events_equal(temperature: float) -> None:
    assert filter_probabilities([0.6, 0.4, 0.0], temperature=temperature) == [0.5, 0.5, 0.0]
    ranges = {range(3): temperature}
    assert filter_probabilities([0.6, 0.2, 0.0, 0.2], range_temperatures=ranges) == [
        0.4,
        0.4,
        0.0,
        0.2,
    ]


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
    result = np.array(filter_probabilities(probabilities, **options))
    weights = np.array(probabilities)[remaining] ** (1 / options.get("temperature", 1.0))
    np.testing.assert_allclose(result[remaining], weights / weights.sum(), atol=1e-4)
    assert result.sum() == pytest.approx(result[remaining].sum(), abs=1e-4)


def test_range_temperature_keeps_range_probability() -> None:
    result = filter_probabilities([0.3, 0.1, 0.4, 0.2], range_temperatures={range(2, 4): 0.5})
    assert result == [0.3, 0.1, round(0.6 * 16 / 20, 4), round(0.6 * 4 / 20, 4)]
    assert filter_probabilities([0.5, 0.5, 0.0], range_temperatures={range(2, 3): 0.5}) == [
        0.5,
        0.5,
        0.0,
    ]


def test_equal_range_temperatures_are_one_temperature() -> None:
    probabilities, ranges = [0.3, 0.1, 0.4, 0.2], {range(2): 2.0, range(2, 4): 2.0}
    expected = filter_probabilities(probabilities, temperature=2.0)
    assert (
        filter_probabilities(probabilities, temperature=2.0, range_temperatures=ranges) == expected
    )


# ------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize("temperature", [1e-300, 0.3, 1.0, 7.0, 1e300])
def test_sampling_with_temperature_matches_definition(temperature: float) -> None:
    (rng,) = make_rngs(1)
    logits = 3 * torch.randn(500, 6, generator=rng)
    logits[:, 2] = -torch.inf
    noise = next(draw_gumbel_noise([rng] * 500, 6, 0.2, CPU))
    expected = logits.double() / min(max(temperature, 1e-30), 1e30) + noise
    assert torch.equal(Sampler(temperature).sample(logits, noise), expected.argmax(dim=1))


def test_greedy_steps_are_drawn_per_sequence() -> None:
    noise = draw_gumbel_noise(make_rngs(50), 7, 0.3, CPU)
    is_greedy = torch.stack([(next(noise) == 0).all(dim=1) for _ in range(200)]).double()
    assert float(is_greedy.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(is_greedy.mean(dim=1).min()) > 0
    assert float(is_greedy.mean(dim=1).max()) < 1


# ------------------------------------------------------------------------------ constraints


def make_mask(batch: int = 1, **constraints: Any) -> EventMask:
    """Return the mask of events 0 and 1, which are note ons, 2 (one second) and 3 (two)."""
    note_ons, durations = np.array([True, True, False, False]), np.array([0, 0, 1.0, 2.0])
    constraints.update(note_ons=note_ons, durations=durations)
    return EventMask(replace(make_no_constraints(4), **constraints), batch, CPU)


def list_allowed(mask: EventMask, batch: int = 1) -> list[list[int]]:
    """Return the events that are allowed in each sequence."""
    rows = mask.apply(torch.zeros(batch, 4)).isfinite()
    return [row.nonzero().flatten().tolist() for row in rows]


def update(mask: EventMask, *events: int) -> None:
    mask.update(torch.tensor(events))


def test_repeats_of_a_note_are_limited() -> None:
    mask = make_mask(max_repeats=3)
    for event in (0, 2, 0, 2, 2, 1, 0, 0):
        assert list_allowed(mask) == [[0, 1, 2, 3]]
        update(mask, event)
    for event in (0, 2):
        update(mask, event)
        assert list_allowed(mask) == [[1, 2, 3]]
    update(mask, 1)
    assert list_allowed(mask) == [[0, 1, 2, 3]]


def test_limits_of_zero_are_off() -> None:
    mask = make_mask()
    for event in [0] * 100 + [3] * 100:
        update(mask, event)
    assert list_allowed(mask) == [[0, 1, 2, 3]]


def test_silence_stays_below_its_limit() -> None:
    mask = make_mask(2, max_silence=3.0)
    assert list_allowed(mask, 2) == [[0, 1, 2, 3]] * 2
    update(mask, 2, 3)  # silent for 1 s, 2 s
    assert list_allowed(mask, 2) == [[0, 1, 2], [0, 1]]
    update(mask, 2, 0)  # silent for 2 s, 0 s
    assert list_allowed(mask, 2) == [[0, 1], [0, 1, 2, 3]]


def test_end_of_a_long_note_becomes_more_likely() -> None:
    note_ons, durations = np.array([1, 0, 0, 0, 0], bool), np.array([0, 0, 1.0, 2.0, 0])
    enables, disables, releases = np.zeros((5, 5), bool), np.zeros((5, 5), bool), ~note_ons
    releases[2:] = False  # event 0 starts the note, and event 1 ends it
    enables[0, 1] = disables[1, 1] = True
    at_start = np.array([1, 0, 1, 1, 1], bool)
    constraints = EventConstraints(
        at_start, enables, disables, note_ons, durations, 0, 9.0, releases, 3.0, 0.5
    )
    mask = EventMask(constraints, 1, CPU)
    none = -torch.inf
    for event, expected in (
        (3, none),
        (0, 0.0),  # sounds for 0 s
        (3, 0.0),
        (2, 0.0),  # 3 s
        (4, 0.0),
        (2, 0.5),
        (3, 1.5),  # 6 s
        (0, 0.0),  # struck again
        (3, 0.0),
        (3, 0.5),
        (1, none),
        (3, none),
    ):
        update(mask, event)
        logits = mask.apply(torch.zeros(1, 5))[0]
        assert float(logits[1]) == expected
        assert not logits[[0, 4]].any()


def test_repeats_and_silence_are_limited_together() -> None:
    mask = make_mask(max_repeats=2, max_silence=1.5)
    for event, expected in ((0, [0, 1, 2]), (2, [0, 1]), (0, [1, 2]), (2, [1]), (1, [0, 1, 2])):
        update(mask, event)
        assert list_allowed(mask) == [expected]


def test_selected_sequences_keep_their_mask() -> None:
    disables = np.zeros((4, 4), bool)
    disables[0, 2] = True
    mask = make_mask(3, max_repeats=1, disables=disables)
    update(mask, 0, 1, 3)
    mask.select(torch.tensor([2, 0, 1, 1]))
    assert list_allowed(mask, 4) == [[0, 1, 2, 3], [1, 3], [0, 2, 3], [0, 2, 3]]
