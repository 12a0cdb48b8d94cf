"""Beam search: the likeliest sequence that a network would play, or a sample of likely ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generation.engine import Context, Engine, Schedule
from generation.sampling import EventRules, tempered


@torch.inference_mode()
def beam_search(
    player: Engine,
    init: Tensor,
    steps: int,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    *,
    beam_size: int,
    stochastic: bool = False,
    temperature: float = 1.0,
    rules: EventRules | None = None,
    primer: Context | None = None,
) -> Tensor:
    """The best sequence that a beam finds for each start vector, int64 [steps, batch].

    All candidates have the same length, so sums of log-probabilities compare. With
    `stochastic` the beam is a sample without replacement, ranked by perturbed
    log-probability (Kool, van Hoof and Welling 2019, algorithm 1).
    """
    batch = len(init)
    rows = torch.arange(batch, device=player.device)
    state, heard, bounds = player.primed(init, schedule, rules, primer)
    beams = rows.repeat_interleave(beam_size)
    state, heard = state.of(beams), heard[beams]
    bounds.follow(beams)
    # before the first step all beams are alike: only the first may be continued
    score = torch.full((batch, beam_size), -torch.inf, device=player.device)
    score[:, 0] = 0.0
    rank = score.clone()  # what beams are chosen by
    rows = rows[:, None] * beam_size
    choices, parents = [], []
    for _ in range(steps):
        logits = _probable(bounds.applied(player.step(heard, state)), temperature)
        total = logits.view(batch, beam_size, -1) + score[..., None]
        ranks = _perturbed(total, rank, generators) if stochastic else total
        rank, chosen = ranks.flatten(1).topk(beam_size)  # [batch, beam]
        score = total.flatten(1).gather(1, chosen)
        parent, heard = chosen // logits.shape[-1], (chosen % logits.shape[-1]).flatten()
        choices.append(heard.view(batch, beam_size))
        parents.append(parent)
        lineage = (rows + parent).flatten()
        state = state.of(lineage)
        bounds.follow(lineage)
        bounds.after(heard)
    return _traced(choices, parents)


def _probable(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities in the widest type of the device."""
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    return tempered(logits.to(wide), temperature).log_softmax(dim=-1)


def _perturbed(total: Tensor, parent: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Gumbel-perturbed log-probabilities [batch, beam, events] with their maximum at `parent`.

    total: log-probabilities of the continuations; parent: the beams' own perturbed ones
    [batch, beam]. Kool et al. 2019, equations 23 and 24 of appendix B.3, in stable form.
    """
    shape = total.shape[1:]
    dice = torch.stack([torch.rand(shape, generator=g, dtype=torch.double) for g in generators])
    gumbel = -torch.log(-torch.log(dice.clamp(1e-300, 1 - 1e-16)))
    gumbel = gumbel.to(total.dtype).to(total.device)
    raw = total + gumbel
    top = raw.max(dim=-1, keepdim=True).values
    parent = parent[..., None]
    gap = parent - raw + torch.log1p(-torch.exp(raw - top))  # -inf at the top: it gets `parent`
    result = parent - gap.clamp(min=0) - torch.log1p(torch.exp(-gap.abs()))
    return torch.where(total.isfinite() & parent.isfinite(), result, -torch.inf)


def _traced(choices: list[Tensor], parents: list[Tensor]) -> Tensor:
    """Follow the best beam back from the end: int64 [steps, batch]."""
    beam = torch.zeros_like(choices[0][:, :1])
    path = []
    for chosen, parent in zip(reversed(choices), reversed(parents), strict=True):
        path.append(chosen.gather(1, beam)[:, 0])
        beam = parent.gather(1, beam)
    return torch.stack(path[::-1])
