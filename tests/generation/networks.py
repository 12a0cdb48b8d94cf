"""Small networks, inputs and jobs for the tests of generation."""

from typing import Any

import numpy as np
import torch

from config import ModelConfig
from generation.control import parse_control
from generation.engine import NO_CONTROL, ControlTable, Engine, GenerationInputs
from generation.pipeline import GenerationJob, Primer, build_event_constraints
from generation.sampling import EventConstraints, Sampler
from midi.control_schedule import ControlSchedule
from model import PerformanceRNN
from sequence import CURRENT, ControlSeq, EventSeq
from tests import reference_network

INIT_DIM = 4
SIZES = ModelConfig(init_dim=INIT_DIM, hidden_dim=32, gru_layers=2)


def make_model(sizes: ModelConfig = SIZES) -> PerformanceRNN:
    """Return a network with random weights, whose distributions are far from uniform."""
    return reference_network.make_model(sizes, 3.0)


def make_rngs(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 * seed + row) for row in range(count)]


def make_no_constraints(events: int = SIZES.event_dim) -> EventConstraints:
    """Return constraints that allow everything."""
    none = np.zeros((events, events), bool)
    return EventConstraints(~none[0], none, none, none[0], np.zeros(events))


def make_inputs(
    init: torch.Tensor, controls: ControlTable = NO_CONTROL, seed: int = 0, **fields: Any
) -> GenerationInputs:
    """Return inputs with these start vectors [batch, init], by default without constraints."""
    constraints = fields.pop("constraints", make_no_constraints())
    return GenerationInputs(init, make_rngs(len(init), seed), constraints, controls, **fields)


def draw_events(steps: int, batch: int, seed: int = 0) -> torch.Tensor:
    (rng,) = make_rngs(1, seed)
    return torch.randint(0, SIZES.event_dim, (steps, batch), generator=rng)


def draw_controls(rows: int, batch: int) -> torch.Tensor:
    """Return random control vectors [rows, batch, control]."""
    rng = np.random.default_rng(0)
    density = np.eye(12)[rng.integers(0, 12, (rows, batch))]
    histogram = rng.dirichlet(np.ones(12), (rows, batch))
    return torch.from_numpy(np.concatenate([density, histogram], axis=-1)).float()


@torch.inference_mode()
def compute_forward_logits(
    model: PerformanceRNN, inputs: torch.Tensor, controls: torch.Tensor | None
) -> torch.Tensor:
    """Return the logits of the network's forward pass over inputs [steps, batch]."""
    init = torch.zeros(inputs.shape[1], INIT_DIM)
    return model(inputs, model.init_hidden_each(init), controls)[0]


@torch.inference_mode()
def compute_step_logits(
    engine: Engine, inputs: torch.Tensor, controls: ControlTable
) -> torch.Tensor:
    """Return the logits of the engine, step by step over inputs [steps, batch]."""
    state, _, _ = engine.prime(make_inputs(torch.zeros(inputs.shape[1], INIT_DIM), controls))
    return torch.stack([engine.step(state, row) for row in inputs])


def make_job(
    control: str | ControlSchedule | None = None, primer: list[int] | None = None, **fields: Any
) -> GenerationJob:
    """Return a job of 20 events of two samples.

    control: as text or as a schedule; primer: event indices; fields: other fields of the job.
    """
    schedule = parse_control(control) if isinstance(control, str) else control
    loaded = None
    if primer is not None:
        events = EventSeq(primer)
        loaded = Primer(events, ControlSeq.from_event_seq(events).to_array(), 0)
    fields = {
        "batch_size": 2,
        "constraints": build_event_constraints(CURRENT),
        "method": Sampler(),
        **fields,
    }
    return GenerationJob(
        make_model(), CURRENT, seed=5, steps=20, control=schedule, primer=loaded, **fields
    )
