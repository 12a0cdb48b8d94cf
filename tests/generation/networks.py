"""Small networks for the tests of generation, and their logits by the plain forward pass."""

import numpy as np
import torch

from config import ModelConfig
from generation.engine import ControlTable, Engine
from model import PerformanceRNN

INIT_DIM = 4
SIZES = ModelConfig(init_dim=INIT_DIM, hidden_dim=32, gru_layers=2)


def make_model(sizes: ModelConfig = SIZES) -> PerformanceRNN:
    """Return a network with random weights, and distributions far from uniform."""
    torch.manual_seed(0)
    model = PerformanceRNN(sizes).init_weights().eval()
    with torch.no_grad():
        model.output_fc.weight *= 4
        model.concat_input_fc.weight[:, sizes.event_dim :] *= 3  # of the control
    return model


def make_rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_rngs(count: int) -> list[torch.Generator]:
    return [make_rng(seed) for seed in range(count)]


def random_events(steps: int, batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, SIZES.event_dim, (steps, batch), generator=make_rng(seed))


def random_controls(rows: int, batch: int) -> torch.Tensor:
    """Return random control vectors [rows, batch, control]."""
    rng = np.random.default_rng(0)
    density = np.eye(12)[rng.integers(0, 12, (rows, batch))]
    histogram = rng.dirichlet(np.ones(12), (rows, batch))
    return torch.from_numpy(np.concatenate([density, histogram], axis=-1)).float()


@torch.inference_mode()
def forward_logits(
    model: PerformanceRNN, inputs: torch.Tensor, controls: torch.Tensor | None
) -> torch.Tensor:
    """Return the logits of the network's forward pass over inputs [steps, batch]."""
    init = torch.zeros(inputs.shape[1], INIT_DIM)
    return model(inputs, model.init_hidden_each(init), controls)[0]


@torch.inference_mode()
def step_logits(engine: Engine, inputs: torch.Tensor, controls: ControlTable) -> torch.Tensor:
    """Return the logits of the engine, step by step over inputs [steps, batch]."""
    state = engine.prepare(torch.zeros(inputs.shape[1], INIT_DIM), controls)
    return torch.stack([engine.step(state, row) for row in inputs])
