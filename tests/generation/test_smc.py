"""Sequential Monte Carlo compared with enumeration of all sequences, on small networks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from config import ModelConfig
from generation.engine import Engine, GenerationInputs
from generation.sampling import EventConstraints, Sampler
from generation.smc import (
    FOREVER,
    EventTable,
    GivenEvents,
    ParticleFilter,
    Trace,
    effective_size,
    find_exponent,
    resample_systematically,
)
from model import PerformanceRNN
from tests.reference_network import make_model

# a vocabulary of two keys, two velocities and two time shifts
ON_0, ON_1, OFF_0, OFF_1, SOFT, LOUD, SHORT, LONG = range(8)
SIZES = ModelConfig(init_dim=2, event_dim=8, control_dim=2, hidden_dim=6, gru_layers=1)
MILLISECOND = 1000  # microseconds
TABLE = EventTable(
    keys=np.array([0, 1, 0, 1, -1, -1, -1, -1]),
    note_ons=np.isin(np.arange(8), [ON_0, ON_1]),
    velocities=np.isin(np.arange(8), [SOFT, LOUD]),
    durations=np.array([0] * 6 + [15, 30]) * MILLISECOND,
)


def make_network(velocity_bias: float = -2.0) -> PerformanceRNN:
    """Return a network that likes time shifts, so that long sequences are rare."""
    model = make_model(SIZES, 2.5)
    model.output_fc.bias.data += torch.tensor([-1.0, 1, -1, 2, velocity_bias, velocity_bias, 3, 2])
    return model


def make_constraints() -> EventConstraints:
    """Return constraints that allow a note off only while its key sounds."""
    enables = np.zeros((8, 8), bool)
    enables[[ON_0, ON_1], [OFF_0, OFF_1]] = True
    disables = np.zeros((8, 8), bool)
    disables[[OFF_0, OFF_1], [OFF_0, OFF_1]] = True
    start = ~np.isin(np.arange(8), [OFF_0, OFF_1])
    return EventConstraints(start, enables, disables, TABLE.note_ons, TABLE.durations)


def make_given(velocity: int = -1, **changes: Any) -> GivenEvents:
    """Return a note of key 1 from 30 to 60 ms; only key 0 is free, and the music lasts 90 ms."""
    early = np.ones((3, 8), bool)
    early[:, [ON_1, OFF_1]] = False
    due = early[:2].copy()
    due[1, ON_0] = False  # a due note off comes before note ons
    times = np.array([30, 60]) * MILLISECOND
    given = GivenEvents(
        events=np.array([ON_1, OFF_1]),
        velocities=np.array([velocity, -1]),
        earliest=times - 7500,
        latest=times + 7500,
        after=np.zeros(2, np.int64),
        within=np.full(2, FOREVER),
        early=early,
        due=due,
        group_ends=np.ones(2, bool),
        opening=0,
        closing=FOREVER,
        end=90 * MILLISECOND,
    )
    return replace(given, **changes)


def run(model: PerformanceRNN, given: GivenEvents, particles: int, seed: int = 0) -> Trace:
    init = torch.zeros(1, SIZES.init_dim)
    rng = torch.Generator().manual_seed(seed)
    inputs = GenerationInputs(init, [rng], make_constraints())
    engine = Engine(model, exact=True)
    return ParticleFilter(engine, inputs, TABLE, given, Sampler(), rng).run(particles)


# ------------------------------------------------------------------------------ enumeration


@dataclass(frozen=True)
class Node:
    """A sequence: its events, its probability, its time, and the number of given events in it."""

    events: tuple[int, ...]
    probability: float
    time: int
    passed: int
    keys: frozenset[int]
    velocity: int


def enumerate_sequences(
    model: PerformanceRNN, given: GivenEvents, least: float = 3e-9
) -> dict[tuple[int, ...], float]:
    """Return the probability of every sequence that has the given events, by their definition.

    Sequences with a probability below `least` are left out. This is a plain loop over events.
    """
    complete, layer = {}, [Node((), 1.0, 0, 0, frozenset(), -1)]
    while layer:
        following = []
        for node, probs in zip(layer, compute_next(model, layer), strict=True):
            if node.passed == 2 and node.time >= given.end:
                complete[node.events] = node.probability
                continue
            following += [n for e in range(8) if (n := extend(node, e, probs, given)) is not None]
        layer = [node for node in following if node.probability > least]
    return complete


def compute_next(model: PerformanceRNN, layer: list[Node]) -> np.ndarray:
    """Return the distribution of the next event of each sequence, without masked note offs."""
    inputs = torch.tensor([[*node.events, 0] for node in layer]).T
    init = torch.zeros(len(layer), SIZES.init_dim)
    with torch.no_grad():
        logits = model(model.shift_right(inputs), model.init_hidden_each(init))[0][-1]
    for row, node in zip(logits, layer, strict=True):
        for key, off in ((0, OFF_0), (1, OFF_1)):
            if key not in node.keys:
                row[off] = -torch.inf
    return logits.softmax(dim=1).double().numpy()


def extend(node: Node, event: int, probs: np.ndarray, given: GivenEvents) -> Node | None:
    """Return the sequence with one event more; None if it cannot have the given events."""
    time, passed = node.time + int(TABLE.durations[event]), node.passed
    is_due = passed < 2 and node.time >= given.earliest[passed]
    required = given.velocities[passed] if passed < 2 else -1
    if is_due and event == given.events[passed]:
        if required >= 0 and node.velocity != required:
            return None
        passed += 1
    elif is_due and event == required != node.velocity:
        pass  # the velocity event of the given note; the note itself must follow
    elif not (given.due if is_due else given.early)[passed, event]:
        return None
    if is_bound(node, given) and event != ON_1:
        return None
    if node.passed < 2 and time > given.latest[node.passed]:
        return None
    keys = node.keys | {event} if event < 2 else node.keys - {event - 2}
    velocity = event if event in (SOFT, LOUD) else node.velocity
    probability = node.probability * float(probs[event])
    return Node((*node.events, event), probability, time, passed, keys, velocity)


def is_bound(node: Node, given: GivenEvents) -> bool:
    """Return whether the last event is the velocity event of the next given note."""
    if node.passed != 0 or given.velocities[0] < 0 or not node.events:
        return False
    before = [event for event in node.events[:-1] if event in (SOFT, LOUD)][-1:]
    is_change = node.events[-1] == given.velocities[0] and before != [node.events[-1]]
    return is_change and node.time >= given.earliest[0]


@pytest.fixture(scope="module")
def model() -> PerformanceRNN:
    return make_network()


def check_evidence(
    model: PerformanceRNN, given: GivenEvents, particles: int = 400, least: float = 3e-9
) -> None:
    """Compare the estimated probability of the given events with the sum over all sequences."""
    evidence = sum(enumerate_sequences(model, given, least).values())
    estimates = [math.exp(run(model, given, particles, seed).log_evidence) for seed in range(20)]
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(evidence, abs=4 * error)
    assert 4 * error < 0.15 * evidence


def test_evidence_is_the_sum_over_all_sequences(model: PerformanceRNN) -> None:
    check_evidence(model, make_given())


def test_evidence_with_a_given_velocity() -> None:
    check_evidence(make_network(1.0), make_given(LOUD), particles=3000, least=1e-9)


def test_evidence_in_a_wide_window(model: PerformanceRNN) -> None:
    earliest, latest = np.array([[10, 50], [40, 80]]) * MILLISECOND
    check_evidence(model, make_given(earliest=earliest, latest=latest))


def test_evidence_without_free_note_ons(model: PerformanceRNN) -> None:
    early, due = make_given().early, make_given().due
    check_evidence(
        model,
        make_given(early=early & ~TABLE.note_ons, due=due & ~TABLE.note_ons, closing=0, end=60_000),
    )


def test_sequences_are_drawn_by_their_probability(model: PerformanceRNN) -> None:
    exact = enumerate_sequences(model, make_given())
    total, runs = sum(exact.values()), 300
    drawn = Counter(
        tuple(run(model, make_given(), 40, seed).events.tolist()) for seed in range(runs)
    )
    best = sorted(exact, key=exact.__getitem__)[-3:]
    for events in best:
        share = exact[events] / total
        assert drawn[events] / runs == pytest.approx(share, abs=4 * math.sqrt(share / runs))


def test_same_seed_same_sequence(model: PerformanceRNN) -> None:
    first, again, other = (run(model, make_given(), 50, seed).events for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_impossible_events_are_an_error(model: PerformanceRNN) -> None:
    early, due = make_given().early, make_given().due
    nothing = make_given(early=early & False, due=due & False)
    with pytest.raises(ValueError, match="second 0"):
        run(model, nothing, 10)


def test_given_events_come_within_their_windows(model: PerformanceRNN) -> None:
    given = make_given()
    for seed in range(20):
        trace = run(model, given, 8, seed)
        times = np.cumsum(TABLE.durations[trace.events])[trace.is_given]
        assert trace.events[trace.is_given].tolist() == [ON_1, OFF_1]
        assert (given.earliest <= times).all()
        assert (times <= given.latest).all()


# -------------------------------------------------------------------------------- resampling


def test_resampling_gives_each_parent_its_share() -> None:
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    parents = resample_systematically(np.repeat(probabilities / 2, 2), 0.3)
    assert np.bincount(parents // 2, minlength=4).tolist() == [4, 2, 1, 1]


def test_effective_size_of_equal_weights_is_their_number() -> None:
    assert effective_size(np.full(7, -3.0)) == pytest.approx(7)
    assert effective_size(np.array([0.0, -np.inf])) == pytest.approx(1)


def test_exponent_reaches_the_size() -> None:
    log_weight = np.linspace(0, 50, 100)
    exponent = find_exponent(log_weight, 25)
    assert effective_size(exponent * log_weight) == pytest.approx(25, rel=1e-3)
    assert find_exponent(np.zeros(10), 5) == 1
