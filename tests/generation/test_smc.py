"""Sequential Monte Carlo compared with enumeration of all sequences, on small networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from config import ModelConfig
from generation.engine import Engine, GenerationInputs, draw_init
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


def make_network() -> PerformanceRNN:
    """Return a network that likes time shifts, so that long sequences are rare."""
    model = make_model(SIZES, 2.5)
    model.output_fc.bias.data += torch.tensor([-1.0, 1, -1, 2, -2, -2, 3, 2])
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
    model: PerformanceRNN, given: GivenEvents, least: float = 1e-8
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
    if is_due and event == given.events[passed]:
        required = given.velocities[passed]
        if required >= 0 and (node.velocity != required or node.events[-1] == required == -1):
            return None
        passed += 1
    elif event in (ON_1, OFF_1) or (is_due and not given.due[passed, event]):
        return None
    if passed < 2 and time > given.latest[passed]:
        return None
    keys = node.keys | {event} if event < 2 else node.keys - {event - 2}
    velocity = event if event in (SOFT, LOUD) else node.velocity
    probability = node.probability * float(probs[event])
    return Node((*node.events, event), probability, time, passed, keys, velocity)


@pytest.fixture(scope="module")
def model() -> PerformanceRNN:
    return make_network()


@pytest.fixture(scope="module")
def exact(model: PerformanceRNN) -> dict[tuple[int, ...], float]:
    return enumerate_sequences(model, make_given())


def test_evidence_is_the_sum_over_all_sequences(
    model: PerformanceRNN, exact: dict[tuple[int, ...], float]
) -> None:
    evidence = sum(exact.values())
    estimates = [math.exp(run(model, make_given(), 256, seed).log_evidence) for seed in range(20)]
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(evidence, abs=4 * error)
    assert 4 * error < 0.1 * evidence


if __name__ == "__main__":
    import time

    t = time.time()
    m = make_network()
    ex = enumerate_sequences(m, make_given())
    print(len(ex), sum(ex.values()), time.time() - t)
    top = sorted(ex.items(), key=lambda kv: -kv[1])[:8]
    print(top)
    est = [math.exp(run(m, make_given(), 1000, seed).log_evidence) for seed in range(20)]
    print(np.mean(est), np.std(est) / math.sqrt(20), time.time() - t)
    tr = run(m, make_given(), 1000, 0)
    print(tr)
