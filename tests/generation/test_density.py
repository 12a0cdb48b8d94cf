"""The density is kept to what was asked for: by feedback, worked out here step by step."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from config import GenerateConfig
from generation import pipeline as composer
from generation.control import read
from generation.density import GAIN, MEMORY, NOTHING, REACH, DensityController, DensityTarget
from generation.engine import Engine, Schedule
from generation.pipeline import GenerationJob, SampleBuffer, generate_events
from model import PerformanceRNN, Session
from sequence import CURRENT, ControlSeq, EventSeq
from tests.generation.test_engine import controls, plain

CPU = torch.device("cpu")
# event 0 gives one, events 1 and 2 last half a second and three seconds
THREE = DensityTarget(
    column=1,
    goals=torch.tensor([2.0, 4.0, math.inf]),
    given=torch.tensor([1.0, 0.0, 0.0]),
    seconds=torch.tensor([0.0, 0.5, 3.0]),
)


@pytest.fixture(scope="module")
def model() -> PerformanceRNN:
    path = Path(__file__).parents[2] / "pretrained.sess"
    return Session.load(path).build_model(CPU).eval()


def followed(
    events: list[int], levels: list[int], steering: DensityTarget, first: int | None = None
) -> list[int]:
    """The level to ask for after each event, while `levels` are asked for: in plain numbers."""
    goals, given, seconds = (
        row.tolist() for row in (steering.goals, steering.given, steering.seconds)
    )
    missing, found = 0.0, []
    for number, (event, level) in enumerate(zip(events, levels, strict=True)):
        if number or event != first:  # what is heard before the first event does not count
            if math.isfinite(goals[level]):
                missing += goals[level] * seconds[event] - given[event]
            missing *= math.exp(-seconds[event] / MEMORY)
            missing = min(max(missing, -REACH / GAIN), REACH / GAIN)
        moved = level + (GAIN * missing if math.isfinite(goals[level]) else 0.0)
        found.append(min(max(round(moved), 0), len(goals) - 1))
    return found


@pytest.mark.parametrize("chances", [(0.7, 0.2, 0.1), (0.9, 0.07, 0.03)])  # too few, too many
def test_a_level_is_moved_by_what_is_missing(chances: tuple[float, ...]) -> None:
    kinds = torch.tensor([[0.5, 1, 0, 0, 7], [0.5, 0, 1, 0, 7], [0.5, 0, 0, 1, 8]])
    helm, random = DensityController(THREE, kinds), np.random.default_rng(0)
    levels = [0] * 50 + [1] * 50 + [2] * 50  # the last one has no end
    events = [1, *random.choice(3, 149, p=chances).tolist()]
    expected = followed(events, levels, THREE, first=1)
    missing = helm.start(torch.tensor(0), torch.tensor([1]))
    for event, asked, level in zip(events, levels, expected, strict=True):
        kind = torch.tensor(asked)
        missing = helm.moved(missing, kind, torch.tensor([event]))
        row = helm.controls[helm.variants(missing, kind)][0]
        assert row[1:4].tolist() == np.eye(3)[level].tolist()
        assert row[[0, 4]].tolist() == [0.5, 8.0 if asked == 2 else 7.0]
    assert len(set(expected[:100])) > 1, "else this shows little"


def test_what_is_missing_is_not_made_up_for_for_ever() -> None:
    """After any silence so much is missing that it moves the control by three levels at most."""
    helm, kind = DensityController(THREE, torch.eye(5)[1:4]), torch.tensor(1)  # four in a second
    missing = helm.start(kind, torch.tensor([1]))
    for _ in range(100):
        missing = helm.moved(missing, kind, torch.tensor([2]))
    given = 0
    while float(helm.controls[helm.variants(missing, kind)][0, 2]) != 1:
        missing = helm.moved(missing, kind, torch.tensor([0]))
        given += 1
    assert given == 17  # 20 are missing then, and with 3 the level is less than half a one off


def test_under_a_level_without_end_nothing_is_missing_and_nothing_is_moved() -> None:
    helm, steered, without_end = (
        DensityController(THREE, torch.eye(5)[1:4]),
        torch.tensor(0),
        torch.tensor(2),
    )
    missing = helm.start(steered, torch.tensor([1]))
    for event in [1] + 15 * [0]:
        missing = helm.moved(missing, steered, torch.tensor([event]))
    assert float(missing) == pytest.approx(NOTHING - 15 * GAIN)  # so many were given, in no time
    for event in (0, 0, 0, 2):
        missing = helm.moved(missing, without_end, torch.tensor([event]))
    assert float(missing) == pytest.approx(NOTHING - 15 * GAIN * math.exp(-3 / MEMORY))
    assert float(helm.controls[helm.variants(missing, without_end)][0, 3]) == 1


def test_variants_of_two_controls_are_made_once() -> None:
    kinds = torch.tensor([[0.5, 1, 0, 0, 7], [0.5, 0, 1, 0, 7], [0.5, 0, 0, 1, 8]])
    assert len(DensityController(THREE, kinds).controls) == 4  # an open end has none but itself


@pytest.mark.parametrize("kinds", [1, 3, 9])  # with tables for the first layer, and without
def test_the_network_is_asked_for_the_moved_level(model: PerformanceRNN, kinds: int) -> None:
    density = ControlSeq.feat_ranges()["note_density"]
    steering = composer.steering(CURRENT)
    heard = torch.randint(0, 240, (80, 3), generator=torch.Generator().manual_seed(1))
    heard[0] = model.primary_event
    rows = controls(kinds, 1)
    at = [min(step, kinds - 1) for step in range(80)]  # a row for each event
    levels = [int(rows[row, 0, density].argmax()) for row in at]
    asked = rows[at].expand(-1, 3, -1).clone()
    for piece in range(3):
        moved = followed(heard[:, piece].tolist(), levels, steering, first=model.primary_event)
        assert len(set(moved)) > 1, "else this shows little"
        asked[:, piece, density] = torch.eye(len(density))[moved]
    player = Engine(model, exact=True)
    with torch.inference_mode():
        state = player.start(torch.zeros(3, 32), Schedule(rows, steering=steering))
        found = []
        for number, row in enumerate(heard):
            found.append(player.step(row, state))
            if number == 40:  # it goes on as the same
                state = state.of(torch.tensor([0, 1, 2]))
    torch.testing.assert_close(torch.stack(found), plain(model, heard, asked), atol=3e-5, rtol=0)


def test_sequences_that_are_followed_take_along_what_is_missing(model: PerformanceRNN) -> None:
    player, rows = Engine(model, exact=True), torch.tensor([2, 0, 0])
    heard = torch.randint(0, 240, (60, 3), generator=torch.Generator().manual_seed(2))
    plan = Schedule(controls(1, 1), steering=composer.steering(CURRENT))
    with torch.inference_mode():
        state = player.start(torch.zeros(3, 32), plan)
        for row in heard[:30]:
            player.step(row, state)
        other = state.of(rows)
        for row in heard[30:]:
            expected = player.step(row, state)[rows]
            torch.testing.assert_close(player.step(row[rows], other), expected, atol=1e-4, rtol=0)


def test_the_density_means_what_the_readme_says() -> None:
    """Density k asks for 1 + 3k to 3 + 3k notes in two seconds, 11 for 34 or more."""
    steering = composer.steering(CURRENT)
    expected = [(1 + 3 * k + 3 + 3 * k) / 2 / 2 for k in range(11)]
    assert steering.goals.tolist() == [*expected, math.inf]
    assert steering.given.nonzero().flatten().tolist() == list(range(88))
    shifts = steering.seconds[EventSeq.feat_ranges()["time_shift"]]
    assert float(shifts[0]) == pytest.approx(0.015)
    assert float(shifts[-1]) == pytest.approx(1.171)
    assert float(steering.seconds.sum() - shifts.sum()) == 0


def test_generate_py_keeps_the_density_unless_it_shall_not(model: PerformanceRNN) -> None:
    """At density 9 each piece has 28-30 notes in 2 s; the network alone strays further."""
    order = GenerationJob(model, CURRENT, 3, read("C major;9", 0), None, 900)

    def strays(steering: bool) -> float:
        takes = SampleBuffer(8, CURRENT)
        for events in generate_events(order, GenerateConfig(batch_size=8, steering=steering)):
            takes.add(events)
        notes = np.array([(takes.of(piece) < 88).sum() for piece in range(8)])
        return float(np.abs(2000 * notes / takes.elapsed - 29).max())

    assert strays(True) < 1 < strays(False)
