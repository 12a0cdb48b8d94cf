"""Events, hidden states and logits of generate.py, for tests of the network in the live page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from config import PRETRAINED, GenerateConfig
from generate import prepare_job
from generation.control import parse_control
from generation.engine import INPUT_SCALE, INPUT_ZERO, Engine, _int8_linear
from generation.pipeline import build_inputs
from generation.sampling import NOISE_STEPS, Sampler
from utils import Array
from web.live import LiveSettings, write_live

CONTROL = "C major;3 | A minor;8 @8 | ~ F# dorian;1 @30"
SEED, STEPS, TEMPERATURE = 7, 2000, 0.95
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


def write_golden(page: Path, folder: Path) -> Golden:
    """Generate with the session in the box; write its page, and the states for a replay."""
    options = GenerateConfig(control=CONTROL, seed=SEED, repeats=3, silence=1.5)
    control = parse_control(CONTROL)
    job = replace(prepare_job(options, control), batch_size=1)
    live = LiveSettings(PRETRAINED, control, repeats=3, silence=1.5, can_omit_control=True)
    write_live(page, job.model, job.encoding, live)

    inputs, sampler = build_inputs(job), Sampler(TEMPERATURE)
    engine = Engine(job.model)
    state, event, mask = engine.prime(inputs)
    rows: dict[str, list[torch.Tensor]] = {
        name: [] for name in ("states", "uniform", "logits", "allowed", "events", "greedy")
    }
    with torch.inference_mode():
        for step in range(STEPS):
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
    levels = INPUT_ZERO + arrays["states"][1:].astype(np.float64) / INPUT_SCALE
    has_tie = (np.abs(levels - np.floor(levels) - 0.5) < TIE).any(axis=1)
    return Golden(arrays["events"], arrays["greedy"], arrays["logits"], arrays["allowed"], has_tie)


def has_exact_products() -> bool:
    """Return whether the 8-bit products of torch are exact; some processors' sums saturate."""
    product = _int8_linear(torch.ones(16, 64), torch.zeros(16))
    return bool((product(torch.ones(1, 64)) - 64 * 127 * INPUT_SCALE).abs().max() < 1e-3)
