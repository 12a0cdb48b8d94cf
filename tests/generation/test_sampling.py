"""How events are chosen: filters, temperatures, rules and dice."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from generation.sampling import EventMask, EventRules, GumbelNoise, Sampler

CPU = torch.device("cpu")


def chances(sampling: Sampler, *probabilities: float) -> list[float]:
    """What becomes of some probabilities."""
    logits = torch.tensor(probabilities).log()[None] + 3.0  # any constant says the same
    return [round(float(p), 4) for p in sampling.shaped(logits).softmax(dim=-1)[0]]


def test_by_itself_nothing_changes() -> None:
    assert chances(Sampler(), 0.5, 0.3, 0.2) == [0.5, 0.3, 0.2]


def test_a_temperature_raises_probabilities_to_its_inverse() -> None:
    assert chances(Sampler(temperature=0.5), 0.6, 0.3, 0.1) == [
        round(p * p / (0.36 + 0.09 + 0.01), 4) for p in (0.6, 0.3, 0.1)
    ]


@pytest.mark.parametrize("temperature", [1e30, 1e300])
def test_the_greatest_temperature_makes_all_that_is_possible_alike(temperature: float) -> None:
    """Infinite in float32, it would make what is impossible not a number, and so the choice."""
    assert chances(Sampler(temperature), 0.6, 0.4, 0.0) == [0.5, 0.5, 0.0]
    groups = {"temperatures": {0: temperature}, "groups": np.array([0, 0, 0, 1])}
    found = chances(Sampler(**groups), 0.6, 0.2, 0.0, 0.2)  # type: ignore[arg-type]
    assert found == [0.4, 0.4, 0.0, 0.2]


@pytest.mark.parametrize(
    ("filters", "left"),
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
        ({"temperature": 0.5, "min_p": 0.3}, [0, 1]),  # the filters see what temperature made
    ],
)
def test_filters_leave_the_likeliest_and_share_out_the_rest(
    filters: dict[str, float], left: list[int]
) -> None:
    given = np.array([0.5, 0.3, 0.2 - 1e-9, 1e-9])
    found = chances(Sampler(**filters), *given)  # type: ignore[arg-type]
    weights = given[left] ** (1 / filters.get("temperature", 1.0))
    assert np.flatnonzero(found).tolist() == [k for k in left if given[k] > 1e-4]
    np.testing.assert_allclose(np.array(found)[left], weights / weights.sum(), atol=1e-4)


def test_the_temperature_of_a_group_moves_its_events_and_no_other() -> None:
    groups = np.array([0, 0, 1, 1])
    found = chances(Sampler(temperatures={1: 0.5}, groups=groups), 0.3, 0.1, 0.4, 0.2)
    assert found == [0.3, 0.1, round(0.6 * 16 / 20, 4), round(0.6 * 4 / 20, 4)]
    alike = {"temperatures": {0: 2.0, 1: 2.0}, "temperature": 2.0, "groups": groups}
    assert chances(Sampler(**alike), 0.3, 0.1, 0.4, 0.2) == chances(  # type: ignore[arg-type]
        Sampler(temperature=2.0), 0.3, 0.1, 0.4, 0.2
    )


def test_a_group_of_which_nothing_is_possible_stays_impossible() -> None:
    sampling = Sampler(temperatures={1: 0.5}, groups=np.array([0, 0, 1]))
    assert chances(sampling, 0.5, 0.5, 0.0) == [0.5, 0.5, 0.0]


def test_the_dice_are_fair() -> None:
    """Chi-square over 4,000 rows, each of its own random numbers."""
    count, probabilities = 4000, torch.tensor([0.5, 0.3, 0.15, 0.05])
    dice = GumbelNoise([torch.Generator().manual_seed(k) for k in range(count)], 4, 0.0, CPU)
    for _ in range(3):
        events = Sampler().chosen(probabilities.log().expand(count, 4), dice.noise())
        expected = count * probabilities
        chi_square = ((events.bincount(minlength=4) - expected) ** 2 / expected).sum()
        assert float(chi_square) < 16.3  # 0.1 % of true samples, with 3 degrees of freedom


@pytest.mark.parametrize("temperature", [1e-300, 0.3, 1.0, 7.0, 1e300])
def test_with_a_temperature_alone_the_same_is_chosen_as_from_its_weights(
    temperature: float,
) -> None:
    random = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(500, 6, generator=random)
    logits[:, 2] = -torch.inf
    noise = GumbelNoise([random] * 500, 6, 0.2, CPU).noise()
    found = Sampler(temperature).chosen(logits, noise)
    expected = logits.double() / min(max(temperature, 1e-30), 1e30) + noise
    assert torch.equal(found, expected.argmax(dim=1))
    assert not (found == 2).any()


def test_greedy_steps_are_drawn_for_each_sequence_by_itself() -> None:
    dice = GumbelNoise([torch.Generator().manual_seed(k) for k in range(50)], 7, 0.3, CPU)
    silent = torch.stack([(dice.noise() == 0).all(dim=1) for _ in range(200)]).double()
    assert float(silent.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(silent.mean(dim=1).min()) > 0
    assert float(silent.mean(dim=1).max()) < 1


def struck(repeats: int) -> EventRules:
    """Events 0 and 1 are struck, 2 is not; all are free."""
    rules = EventRules.none(3)
    return replace(rules, struck=np.array([1, 1, 0], bool), repeats=repeats)


def test_a_key_struck_alone_too_often_has_to_wait_for_another() -> None:
    bounds = EventMask(struck(3), 1, CPU)

    def allowed() -> list[bool]:
        return bounds.applied(torch.zeros(1, 3)).isfinite()[0].tolist()

    for event in (0, 2, 0, 2, 2, 1, 0, 0):
        assert allowed() == [True, True, True]
        bounds.after(torch.tensor([event]))
    bounds.after(torch.tensor([0]))
    assert allowed() == [False, True, True]
    bounds.after(torch.tensor([2]))
    assert allowed() == [False, True, True]
    bounds.after(torch.tensor([1]))
    assert allowed() == [True, True, True]


def test_sequences_that_are_followed_keep_what_they_may_repeat() -> None:
    bounds = EventMask(struck(1), 2, CPU)
    bounds.after(torch.tensor([0, 1]))
    bounds.follow(torch.tensor([1, 1]))
    allowed = bounds.applied(torch.zeros(2, 3)).isfinite()
    assert allowed.tolist() == [[True, False, True]] * 2


def test_sequences_that_are_followed_keep_what_is_possible_for_them() -> None:
    closes = np.zeros((3, 3), bool)
    closes[0, 1] = True
    bounds = EventMask(replace(EventRules.none(3), closes=closes), 2, CPU)
    bounds.after(torch.tensor([0, 2]))
    for rows, possible in (([1, 0], [True, False]), ([1, 1], [False, False])):
        bounds.follow(torch.tensor(rows))
        assert bounds.applied(torch.zeros(2, 3)).isfinite()[:, 1].tolist() == possible


def test_what_is_limited_is_never_opened_or_closed_as_well() -> None:
    closes = np.zeros((3, 3), bool)
    closes[2, 0] = True
    with pytest.raises(ValueError, match=r"events \[0\] are limited, and opened or closed as well"):
        EventMask(replace(struck(3), closes=closes), 1, CPU)
    with pytest.raises(ValueError, match=r"events \[0\] are limited"):
        EventMask(replace(struck(3), start=np.array([False, True, True])), 1, CPU)


def test_without_a_limit_a_key_may_repeat_for_ever() -> None:
    bounds = EventMask(struck(0), 1, CPU)
    for _ in range(100):
        bounds.after(torch.tensor([0]))
    assert bounds.applied(torch.zeros(1, 3)).isfinite().all()


def test_free_rules_still_count_repeats() -> None:
    nothing = np.zeros((3, 3), bool)
    closed = replace(struck(1), start=nothing[0], closes=~nothing).free()
    bounds = EventMask(closed, 1, CPU)
    assert bounds.applied(torch.zeros(1, 3)).isfinite().all()
    bounds.after(torch.tensor([0]))
    assert bounds.applied(torch.zeros(1, 3)).isfinite()[0].tolist() == [False, True, True]


def test_a_silence_ends_before_its_limit() -> None:
    """Events: 0 and 1 are struck, 2 lasts one second and 3 two; three seconds are too long."""
    rules = replace(
        EventRules.none(4),
        struck=np.array([1, 1, 0, 0], bool),
        lengths=np.array([0, 0, 1.0, 2.0]),
        silence=3.0,
    )
    bounds = EventMask(rules, 2, CPU)

    def allowed(sequence: int) -> list[bool]:
        return bounds.applied(torch.zeros(2, 4)).isfinite()[sequence].tolist()

    assert allowed(0) == [True] * 4
    bounds.after(torch.tensor([2, 3]))  # one second has passed, and two
    assert (allowed(0), allowed(1)) == ([True, True, True, False], [True, True, False, False])
    bounds.after(torch.tensor([2, 0]))
    assert (allowed(0), allowed(1)) == ([True, True, False, False], [True] * 4)
    bounds.follow(torch.tensor([1, 0]))
    assert (allowed(1), allowed(0)) == ([True, True, False, False], [True] * 4)
    for _ in range(9):
        bounds.after(torch.tensor([0, 1]))
    assert allowed(0) == [True] * 4, "repeats are not limited here"


def test_repeats_and_silence_are_limited_together() -> None:
    rules = replace(struck(2), lengths=np.array([0, 0, 1.0]), silence=1.5)
    bounds = EventMask(rules, 1, CPU)

    def allowed() -> list[bool]:
        return bounds.applied(torch.zeros(1, 3)).isfinite()[0].tolist()

    for event, expected in (
        (0, [True, True, True]),
        (2, [True, True, False]),
        (0, [False, True, True]),
        (2, [False, True, False]),
        (1, [True, True, True]),
    ):
        bounds.after(torch.tensor([event]))
        assert allowed() == expected
