"""Events, hidden states and logits of generate.py, for tests of the network in the live page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from config import GenerateConfig, ModelConfig
from generate import prepare_job
from generation.control import parse_control
from generation.engine import Engine
from generation.int8 import ALL_LEVELS, InputLevels, Int8Matrix, Int8Products, Linear
from generation.pipeline import GenerationJob, build_event_constraints, build_inputs
from generation.sampling import NOISE_STEPS, Sampler
from midi.control_schedule import ControlSchedule
from model import PerformanceRNN
from sequence import CONTROLS, CURRENT, ControlLayout
from utils import Array
from web.live import LiveSettings, write_live

CONTROL = "C major;3 | A minor;8 @8 | ~ F# dorian;1 @30"
SEED, TEMPERATURE, REPEATS, SILENCE = 7, 0.95, 1, 1.5
# a hidden state this close to the middle between two 8-bit levels, in levels, may be rounded to
# either: the last bits of float32 differ between processors
TIE = 3e-5


@dataclass(frozen=True)
class Golden:
    """What generate.py computed.

    events: sampled events [steps]; greedy: the most likely events [steps]; logits [steps, 240];
    allowed: by the event mask, bool [steps, 240]; has_tie: whether a state after the step is
    close to the middle between two levels, bool [steps].
    """

    events: Array
    greedy: Array
    logits: Array
    allowed: Array
    has_tie: Array


def prepare_shipped_job() -> GenerationJob:
    """Return a job for the session in the box."""
    options = GenerateConfig(control=CONTROL, seed=SEED, repeats=REPEATS, silence=SILENCE)
    return replace(prepare_job(options, parse_control(CONTROL)), batch_size=1, steps=2000)


def prepare_small_job() -> GenerationJob:
    """Return a job for a small random network with all controls, some of them open."""
    layout = ControlLayout(kind.name for kind in CONTROLS)
    sizes = ModelConfig(
        init_dim=4, hidden_dim=30, gru_layers=2, control_dim=layout.dim, recall_dim=5
    )
    model = PerformanceRNN(sizes, controls=layout.names).eval()
    rng = np.random.default_rng(0)
    for weight in model.parameters():
        weight.data.copy_(torch.from_numpy(rng.normal(0, 0.4, weight.shape)))
    open_value = np.nan
    control = ControlSchedule(
        np.array([3, open_value, 8.0]),
        np.stack([rng.dirichlet(np.ones(12)), np.full(12, open_value), np.eye(12)[4]]),
        np.array([0, 1.5, 4]),
        is_gradual=np.array([False, False, True]),
        scalars={
            "loudness": np.array([40, 90, 64.5]),
            "touch": np.array([open_value, 0.4, 7]),
            "register": np.array([60, open_value, 71]),
        },
    )
    constraints = build_event_constraints(CURRENT, REPEATS, SILENCE)
    return GenerationJob(model, CURRENT, SEED, 300, 1, constraints, Sampler(), control)


def write_golden(page: Path, folder: Path, job: GenerationJob) -> Golden:
    """Generate; write the page of the session, and the states and numbers for a replay."""
    live = LiveSettings("a.sess", job.control, repeats=REPEATS, silence=SILENCE)
    write_live(page, job.model, job.encoding, live)

    inputs, sampler = build_inputs(job), Sampler(TEMPERATURE)
    engine = Engine(job.model, products=Int8Products(pack_integers))
    state, event, mask = engine.prime(inputs)
    rows: dict[str, list[torch.Tensor]] = {
        name: [] for name in ("states", "uniform", "logits", "allowed", "events", "greedy")
    }
    with torch.inference_mode():
        for step in range(job.steps):
            if step % NOISE_STEPS == 0:  # as draw_gumbel_noise
                noise = torch.rand(NOISE_STEPS, 240, generator=inputs.generators[0])
                noise.clamp_(min=1e-30)
                torch.rand(NOISE_STEPS, 1, generator=inputs.generators[0])
            uniform = noise[step % NOISE_STEPS]
            rows["states"].append(torch.cat(state.hidden, dim=1)[0])
            logits = engine.step(state, event)
            masked = mask.apply(logits)
            event = sampler.sample(masked, -(-uniform.log()).log())
            mask.update(event)
            values = (uniform, logits[0], masked[0] > -torch.inf, event[0], masked[0].argmax())
            for name, value in zip(list(rows)[1:], values, strict=True):
                rows[name].append(value.clone())
        rows["states"].append(torch.cat(state.hidden, dim=1)[0])
    arrays = {name: torch.stack(values).numpy() for name, values in rows.items()}
    arrays["states"][:-1].tofile(folder / "states.f32")
    arrays["uniform"].tofile(folder / "uniform.f32")
    levels = ALL_LEVELS.zero + arrays["states"][1:].astype(np.float64) / ALL_LEVELS.scale
    has_tie = (np.abs(levels - np.floor(levels) - 0.5) < TIE).any(axis=1)
    return Golden(arrays["events"], arrays["greedy"], arrays["logits"], arrays["allowed"], has_tie)


def pack_integers(matrix: Int8Matrix, bias: torch.Tensor, levels: InputLevels) -> Linear:
    """Return an 8-bit product that is the same on all processors."""
    values, scales = matrix.values.double().t(), matrix.scales.double() * levels.scale
    inverse = float(1 / np.float32(levels.scale))  # as FBGEMM and network.js

    def multiply(inputs: torch.Tensor) -> torch.Tensor:
        numbers = (inputs.double() * inverse + levels.zero).float().round()
        rounded = numbers.clamp(0, levels.top) - levels.zero
        sums = rounded.double() @ values  # exact: whole numbers below 2**53
        return (sums * scales).float() + bias

    return multiply
