"""Products of 8 bits: nearly the same distribution, and each sequence for itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from config import ModelConfig
from generation import engine as player_module
from generation.beam_search import beam_search
from generation.engine import Context, Engine, Schedule
from generation.sampling import EventRules, Sampler
from model import PerformanceRNN, Session

CPU = torch.device("cpu")
SESSION = Path(__file__).parents[2] / "pretrained.sess"
small = pytest.mark.skipif(
    not player_module._has_small_products(CPU), reason="no products of 8 bits on this processor"
)


@pytest.fixture(scope="module")
def model() -> PerformanceRNN:
    return Session.load(SESSION).build_model(CPU).eval()


def controls(steps: int, batch: int) -> torch.Tensor:
    """Random ones: a density, and shares that sum to 1."""
    random = np.random.default_rng(0)
    density = np.eye(12)[random.integers(0, 12, (steps, batch))]
    shares = random.dirichlet(np.ones(12), (steps, batch))
    return torch.from_numpy(np.concatenate([density, shares], axis=-1)).float()


def make_generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def logits(player: Engine, heard: torch.Tensor, asked: torch.Tensor | None) -> torch.Tensor:
    """What the player thinks after each of `heard` [steps, batch]."""
    with torch.inference_mode():
        state = player.start(torch.zeros(heard.shape[1], 32), Schedule(asked))
        return torch.stack([player.step(row, state) for row in heard])


@pytest.mark.parametrize("kind", ["none", "one", "changing", "of each"])
def test_in_float32_it_plays_what_the_network_says(model: PerformanceRNN, kind: str) -> None:
    heard = torch.randint(0, 240, (20, 3), generator=make_generators(1)[0])
    asked = {
        "none": None,
        "one": controls(1, 1).expand(1, 3, -1),
        "changing": controls(20, 1).expand(-1, 3, -1),
        "of each": controls(20, 3),
    }[kind]
    with torch.inference_mode():
        expected, _ = model(heard, model.init_hidden_each(torch.zeros(3, 32)), asked)
    torch.testing.assert_close(
        logits(Engine(model, exact=True), heard, asked), expected, atol=2e-5, rtol=0
    )


@small
@pytest.mark.parametrize("steps", [1, 150])
def test_with_8_bits_the_distribution_stays_the_same_to_a_hundredth(
    model: PerformanceRNN, steps: int
) -> None:
    asked = controls(steps, 4)
    events = list(
        Engine(model, exact=True).generate(
            torch.zeros(4, 32), 150, Schedule(asked), make_generators(4)
        )
    )
    heard = torch.stack(events)
    exact, rough = (
        logits(Engine(model, exact=exact), heard, asked).softmax(dim=-1) for exact in (True, False)
    )
    variation = (exact - rough).abs().sum(dim=-1) / 2
    assert 0 < float(variation.mean()) < 0.01
    assert float(variation.max()) < 0.03


@small
def test_two_numbers_of_8_bits_for_each_weight_lose_next_to_nothing() -> None:
    random = make_generators(1)[0]
    weight, bias = torch.randn(40, 64, generator=random), torch.randn(40, generator=random)
    levels = torch.randint(-127, 128, (5, 64), generator=random) / 127.5  # no rounding of inputs
    expected = torch.nn.functional.linear(levels.double(), weight.double(), bias.double())
    coarse, fine = (
        float((product(weight, bias)(levels) - expected).abs().max())
        for product in (player_module._small_product, player_module._finer_product)
    )
    assert coarse > 0.02
    assert fine < 0.001


@small
def test_rounded_weights_are_the_same_in_8_bits_after_they_were_of_half_precision() -> None:
    random = make_generators(1)[0]
    weight, bias = torch.randn(96, 64, generator=random), torch.randn(96, generator=random)
    names = ("gru.weight_hh_l0", "gru.weight_ih_l0")
    state = player_module.round_weights({name: weight for name in names})
    kept, same = (state[name].half().float() for name in names)
    levels = torch.randint(-127, 128, (5, 64), generator=random) / 127.5  # no rounding of inputs
    rough = player_module._small_product(kept, bias)(levels)
    torch.testing.assert_close(rough, levels @ kept.t() + bias, atol=1e-2, rtol=0)
    assert not torch.allclose(rough, levels @ weight.t() + bias, atol=2e-2, rtol=0)
    assert torch.equal(same, weight.half().float())


def test_what_was_rounded_is_rounded_to_the_same_levels_and_rows_of_zeros_stay() -> None:
    weight = torch.randn(96, 64, generator=make_generators(1)[0])
    weight[5] = 0
    once = player_module.round_weights({"gru.weight_hh_l0": weight})["gru.weight_hh_l0"].half()
    again = player_module.round_weights({"gru.weight_hh_l0": once})["gru.weight_hh_l0"].half()
    torch.testing.assert_close(again, once, rtol=2e-3, atol=0)  # two units of half precision
    assert not once[5].any()


@small
def test_with_8_bits_a_sequence_does_not_depend_on_its_neighbours(model: PerformanceRNN) -> None:
    init, asked = torch.randn(5, 32, generator=make_generators(1)[0]), controls(60, 5)
    player = Engine(model)
    all_of_them = torch.stack(list(player.generate(init, 60, Schedule(asked), make_generators(5))))
    for row in (0, 3):
        alone = player.generate(
            init[row : row + 1],
            60,
            Schedule(asked[:, row : row + 1]),
            make_generators(5)[row : row + 1],
        )
        assert torch.equal(torch.stack(list(alone))[:, 0], all_of_them[:, row])


def test_where_there_are_no_products_of_8_bits_float32_is_taken(
    model: PerformanceRNN, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise AttributeError

    monkeypatch.setattr(player_module, "_small_product", missing)
    assert Engine(model).exact
    assert not player_module._has_small_products(CPU)
    heard = torch.randint(0, 240, (5, 2))
    assert torch.equal(
        logits(Engine(model), heard, None), logits(Engine(model, exact=True), heard, None)
    )


@small
@pytest.mark.parametrize("sizes", [ModelConfig(hidden_dim=1, gru_layers=1, init_dim=32)])
def test_a_network_of_any_size_plays_with_8_bits(sizes: ModelConfig) -> None:
    said = Engine(PerformanceRNN(sizes)).generate(
        torch.zeros(2, 32), 5, Schedule(), make_generators(2)
    )
    assert torch.stack(list(said)).shape == (5, 2)


# ------------------------------------------------------------- controls by the clock, primers


def plain(model: PerformanceRNN, heard: torch.Tensor, asked: torch.Tensor | None) -> torch.Tensor:
    """Logits after each of `heard` [steps, batch], by the network's own way through a row."""
    with torch.inference_mode():
        return model(heard, model.init_hidden_each(torch.zeros(heard.shape[1], 32)), asked)[0]


@pytest.mark.parametrize("kinds", [2, 50])
def test_by_the_clock_each_sequence_meets_a_row_when_it_gets_there(
    model: PerformanceRNN, kinds: int
) -> None:
    random = torch.Generator().manual_seed(3)
    heard = torch.randint(0, 240, (60, 3), generator=random)
    heard[0] = model.primary_event  # it is before the piece, and takes no time
    clock = torch.arange(240) % 7
    rows = controls(kinds, 1)
    after = clock[heard]
    after[0] = 0
    at = [[min(int(t) // 5, kinds - 1) for t in row] for row in after.cumsum(dim=0)]
    asked = torch.stack([rows[row, 0] for row in at])
    player = Engine(model, exact=True)
    with torch.inference_mode():
        state = player.start(torch.zeros(3, 32), Schedule(rows, clock, 5))
        found = torch.stack([player.step(row, state) for row in heard])
    torch.testing.assert_close(found, plain(model, heard, asked), atol=3e-5, rtol=0)


def test_sequences_that_are_followed_keep_their_place_and_what_they_are_without_control(
    model: PerformanceRNN,
) -> None:
    heard = torch.randint(0, 240, (16, 3), generator=make_generators(1)[0])
    rows = torch.tensor([2, 0, 0])
    player = Engine(model, exact=True, guidance=2.0)
    with torch.inference_mode():
        state = player.start(
            torch.zeros(3, 32), Schedule(controls(12, 1), torch.arange(240) % 7, 5)
        )
        for row in heard[:6]:
            player.step(row, state)
        followed = state.of(rows)
        for row in heard[6:]:
            expected = player.step(row, state)[rows]
            found = player.step(row[rows], followed)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_sequences_that_are_followed_keep_the_control_of_their_own(model: PerformanceRNN) -> None:
    heard, rows = (
        torch.randint(0, 240, (9, 3), generator=make_generators(1)[0]),
        torch.tensor([2, 0, 0]),
    )
    player = Engine(model, exact=True)
    with torch.inference_mode():
        state = player.start(torch.zeros(3, 32), Schedule(controls(1, 3)))
        followed = state.of(rows)
        for row in heard:
            expected = player.step(row, state)[rows]
            found = player.step(row[rows], followed)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_no_beam_takes_over_what_another_may_play(model: PerformanceRNN) -> None:
    """Where no event may come twice, none does, whatever beams it came along."""
    once = replace(EventRules.none(240), closes=np.eye(240, dtype=bool))
    init, plan = torch.randn(2, 32, generator=make_generators(1)[0]), Schedule()
    for stochastic in (False, True):
        found = beam_search(
            Engine(model),
            init,
            40,
            plan,
            make_generators(2),
            beam_size=4,
            rules=once,
            stochastic=stochastic,
        )
        for sequence in found.T:
            assert len(set(sequence.tolist())) == 40


def test_the_rules_know_what_a_primer_played(model: PerformanceRNN) -> None:
    closes = np.zeros((240, 240), bool)
    closes[3] = np.arange(240) != 7  # after event 3 only event 7 may come
    rules, primer = (
        replace(EventRules.none(240), closes=closes),
        Context(torch.tensor([3]), Schedule()),
    )
    said = Engine(model).generate(
        torch.zeros(2, 32), 1, Schedule(), make_generators(2), rules=rules, primer=primer
    )
    assert torch.stack(list(said)).tolist() == [[7, 7]]


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.5])
def test_guidance_goes_on_in_the_direction_of_the_control(
    model: PerformanceRNN, weight: float
) -> None:
    heard, asked = torch.randint(0, 240, (20, 2), generator=make_generators(1)[0]), controls(1, 1)
    player = Engine(model, exact=True, guidance=weight)
    led, free = plain(model, heard, asked.expand(20, 2, -1)), plain(model, heard, None)
    expected = free + weight * (led - free)
    torch.testing.assert_close(logits(player, heard, asked), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_what_follows_a_primer_is_what_the_network_says_after_hearing_it(
    model: PerformanceRNN, weight: float
) -> None:
    player = Engine(model, exact=True, guidance=weight)
    events = torch.randint(0, 240, (30,), generator=make_generators(1)[0])
    known, then = controls(30, 1), controls(1, 1)
    said = player.generate(
        torch.zeros(2, 32),
        25,
        Schedule(then),
        make_generators(2),
        sampling=Sampler(greedy_ratio=1.0),
        primer=Context(events, Schedule(known)),
    )
    played = torch.stack(list(said))
    whole = torch.cat([events[:, None].expand(-1, 2), played])
    asked = torch.cat([known, then.expand(25, 1, -1)]).expand(-1, 2, -1)
    led, free = (plain(model, model.shift_right(whole), control)[30:] for control in (asked, None))
    expected = free + weight * (led - free)
    assert torch.equal(expected.argmax(dim=-1), played)


def test_a_beam_goes_on_from_a_primer_and_by_the_clock(model: PerformanceRNN) -> None:
    player = Engine(model, exact=True, guidance=1.5)
    plan = Schedule(controls(3, 1), torch.arange(240) % 7, 20)
    primer = Context(torch.tensor([3, 220, 91]), Schedule())
    how = {"primer": primer}
    beam = beam_search(player, torch.zeros(1, 32), 30, plan, make_generators(1), beam_size=1, **how)
    greedy = Sampler(greedy_ratio=1.0)
    said = player.generate(torch.zeros(1, 32), 30, plan, make_generators(1), sampling=greedy, **how)
    assert torch.equal(beam, torch.stack(list(said)))
