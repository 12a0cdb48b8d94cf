"""Beam search for the most likely sequence, or for a sample of likely sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generation.engine import Engine, GenerationInputs
from generation.sampling import apply_temperature


@torch.inference_mode()
def beam_search(
    engine: Engine,
    inputs: GenerationInputs,
    steps: int,
    beam_size: int,
    stochastic: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Return the best sequence of the beam for each start vector, int64 [steps, batch].

    All candidates have the same length, so their log-probabilities can be compared. With
    `stochastic` the beam is a sample without replacement, ranked by perturbed log-probability
    (Kool, van Hoof and Welling 2019, algorithm 1).
    """
    batch = len(inputs.init)
    sequences = torch.arange(batch, device=engine.device)
    state, event, mask = engine.prime(inputs)
    indices = sequences.repeat_interleave(beam_size)  # [batch * beam]
    state, event = state.select(indices), event[indices]
    mask.select(indices)
    dtype = torch.float32 if engine.device.type == "mps" else torch.float64  # MPS has no float64
    # at first all candidates of a beam are equal, so only one of them may be continued
    log_probs = torch.full((batch, beam_size), -torch.inf, device=engine.device)
    log_probs[:, 0] = 0.0
    scores = log_probs.clone()  # candidates are ranked by these [batch, beam]
    events, parents = [], []
    for _ in range(steps):
        logits = mask.apply(engine.step(state, event))
        step_log_probs = apply_temperature(logits.to(dtype), temperature).log_softmax(dim=-1)
        totals = step_log_probs.view(batch, beam_size, -1) + log_probs[..., None]
        ranked = _perturb(totals, scores, inputs.generators) if stochastic else totals
        scores, best = ranked.flatten(1).topk(beam_size)  # [batch, beam]
        log_probs = totals.flatten(1).gather(1, best)
        parent, event = best // logits.shape[-1], (best % logits.shape[-1]).flatten()
        events.append(event.view(batch, beam_size))
        parents.append(parent)
        indices = (sequences[:, None] * beam_size + parent).flatten()
        state = state.select(indices)
        mask.select(indices)
        mask.update(event)
    return _trace_best(events, parents)


def _perturb(log_probs: Tensor, parent: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return Gumbel-perturbed log-probabilities [batch, beam, events] with maxima `parent`.

    log_probs: of the continuations [batch, beam, events]; parent: perturbed log-probabilities of
    the candidates [batch, beam]. Numerically stable form of equations 23 and 24 in appendix B.3
    of Kool et al. 2019.
    """
    shape = log_probs.shape[1:]
    uniform = torch.stack([torch.rand(shape, generator=g, dtype=torch.double) for g in generators])
    gumbel = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
    gumbel = gumbel.to(log_probs.dtype).to(log_probs.device)
    perturbed = log_probs + gumbel
    top = perturbed.max(dim=-1, keepdim=True).values
    parent = parent[..., None]
    # -inf at the maximum, so the result there is `parent`
    gap = parent - perturbed + torch.log1p(-torch.exp(perturbed - top))
    result = parent - gap.clamp(min=0) - torch.log1p(torch.exp(-gap.abs()))
    return torch.where(log_probs.isfinite() & parent.isfinite(), result, -torch.inf)


def _trace_best(events: list[Tensor], parents: list[Tensor]) -> Tensor:
    """Return the sequence [steps, batch] that ends in the best candidate of the last step.

    events, parents: event of each candidate, and its index in the beam of the step before, for
    each step [batch, beam].
    """
    candidate = torch.zeros_like(events[0][:, :1])
    path = []
    for event, parent in zip(reversed(events), reversed(parents), strict=True):
        path.append(event.gather(1, candidate)[:, 0])
        candidate = parent.gather(1, candidate)
    return torch.stack(path[::-1])
