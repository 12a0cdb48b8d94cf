"""A network at play: event by event, sampled or searched.

On a CPU most products are taken in whole numbers of 8 bits, several times as fast; what the
network says then differs by less than 0.01 in total variation on average (tests/benchmark.py
measures it).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import utils
from model import PerformanceRNN

CHUNK = 256  # steps for which random numbers are drawn at once
LEVELS = 255  # of a number of 8 bits, and the level of zero
ZERO = 128

# what can come first, and what each event makes possible and impossible:
# bool [events], [events, events], [events, events]; tensors, or arrays of numpy
Playable = tuple[Any, Any, Any]
Product = Callable[[Tensor], Tensor]  # weights times inputs, and a bias


@dataclass
class State:
    """What a network at play remembers, for each of its sequences.

    hidden: of each layer [batch, hidden]; asked: what the controls say to the first layer
    [steps or 1, batch or 1, hidden]; first: what each event gives to the first layer's gates
    [events, 3 * hidden], if the controls are the same always and for all.
    """

    hidden: list[Tensor]
    asked: Tensor
    first: Tensor | None
    step: int = 0

    def of(self, rows: Tensor) -> State:
        """The state of some sequences; they may come several times."""
        asked = self.asked if self.asked.shape[1] == 1 else self.asked[:, rows]
        return State([layer[rows] for layer in self.hidden], asked, self.first, self.step)


def sources(seed: int, count: int) -> list[torch.Generator]:
    """Random numbers for each of `count` pieces; piece k's depend on seed and k alone."""
    return [torch.Generator().manual_seed(utils.mixed_seed(seed, k)) for k in range(count)]


class Player:
    """Plays with a network; `exact` takes all products in float32, as training does."""

    def __init__(self, model: PerformanceRNN, exact: bool = False) -> None:
        self.model, self.device = model.eval(), model.device
        self.exact = exact or not _has_small_products(model.device)
        with torch.inference_mode():
            self._table = model.table()
            self._layers = [
                # what the first layer is given has no bounds: 8 bits would be too coarse for it
                (self._product(f"ih_l{layer}", layer > 0), self._product(f"hh_l{layer}", True))
                for layer in range(model.config.gru_layers)
            ]

    def _product(self, name: str, bounded: bool) -> Product:
        """That of the GRU's weights called `name`; bounded: by inputs between -1 and 1."""
        weight, bias = (getattr(self.model.gru, f"{kind}_{name}") for kind in ("weight", "bias"))
        if self.exact or not bounded:
            return lambda inputs: functional.linear(inputs, weight, bias)
        return _small_product(weight, bias)

    @torch.inference_mode()
    def start(self, init: Tensor, controls: Tensor | None) -> State:
        """The state before the first event, from start vectors [batch, init].

        controls: [steps or 1, batch or 1, control], or None.
        """
        asked = self.model.asked(controls, None)
        asked = asked.view(-1, asked.shape[-2] if asked.dim() > 1 else 1, asked.shape[-1])
        first = None
        if bool((asked == asked[:1, :1]).all()):
            asked = asked[:1, :1]
            inputs = functional.leaky_relu(self._table + asked[0], 0.1)
            gru = self.model.gru
            first = functional.linear(inputs, gru.get_parameter("weight_ih_l0"))
            first += gru.get_parameter("bias_ih_l0")
        return State(list(self.model.starts(init)), asked, first)

    def step(self, heard: Tensor, state: State) -> Tensor:
        """Logits [batch, events] of what follows the heard events [batch]; moves the state on."""
        width = self.model.config.hidden_dim
        output = heard
        for layer, (of_input, of_state) in enumerate(self._layers):
            hidden = state.hidden[layer]
            if layer:
                given = of_input(output)
            elif state.first is not None:
                given = state.first[heard]
            else:
                asked = state.asked[min(state.step, len(state.asked) - 1)]
                given = of_input(functional.leaky_relu(self._table[heard] + asked, 0.1))
            kept = of_state(hidden)
            gates = (given[:, : 2 * width] + kept[:, : 2 * width]).sigmoid_()
            new = torch.addcmul(given[:, 2 * width :], gates[:, :width], kept[:, 2 * width :])
            output = torch.lerp(new.tanh_(), hidden, gates[:, width:])
            state.hidden[layer] = output
        state.step += 1
        said: Tensor = self.model.output_fc(torch.cat(state.hidden, dim=1))
        return said

    def _here(self, playable: Playable | None) -> Playable | None:
        if playable is None:
            return None
        start, opens, closes = (torch.as_tensor(part, device=self.device) for part in playable)
        return start, opens, closes

    @torch.inference_mode()
    def generate(
        self,
        init: Tensor,
        steps: int,
        controls: Tensor | None,
        generators: Sequence[torch.Generator],
        *,
        temperature: float = 1.0,
        greedy_ratio: float = 0.0,
        playable: Playable | None = None,
    ) -> Iterator[Tensor]:
        """Sample events, one int64 [batch] after another, each heard by the next.

        init: [batch, init]; controls: [steps or 1, batch, control] or None; generators: one
        CPU generator for each sequence, so that a sequence does not depend on its
        neighbours. Each event is the likeliest with probability `greedy_ratio`.
        """
        state = self.start(init, controls)
        heard = torch.full((len(init),), self.model.primary_event, device=self.device)
        playable = self._here(playable)
        allowed = None if playable is None else playable[0].expand(len(init), -1)
        for step in range(steps):
            if step % CHUNK == 0:
                draws = torch.stack([torch.rand(CHUNK, 2, generator=g) for g in generators], dim=2)
                draws = draws.to(self.device)  # [chunk, 2, batch]
            logits = _restricted(self.step(heard, state), allowed)
            greedy, dice = draws[step % CHUNK]
            heard = _sample(logits, temperature, dice)
            if greedy_ratio > 0:
                heard = torch.where(greedy < greedy_ratio, logits.argmax(dim=-1), heard)
            allowed = _after(allowed, heard, playable)
            yield heard

    @torch.inference_mode()
    def beam_search(
        self,
        init: Tensor,
        steps: int,
        controls: Tensor | None,
        generators: Sequence[torch.Generator],
        *,
        beam_size: int,
        stochastic: bool = False,
        temperature: float = 1.0,
        playable: Playable | None = None,
    ) -> Tensor:
        """The best sequence that a beam finds for each start vector, int64 [steps, batch].

        All candidates have the same length, so sums of log-probabilities compare. With
        `stochastic` the beam is a sample without replacement, ranked by perturbed
        log-probability (Kool, van Hoof and Welling 2019, algorithm 1).
        """
        batch = len(init)
        rows = torch.arange(batch, device=self.device)
        state = self.start(init, controls).of(rows.repeat_interleave(beam_size))
        heard = torch.full((batch * beam_size,), self.model.primary_event, device=self.device)
        playable = self._here(playable)
        allowed = None if playable is None else playable[0].expand(len(heard), -1)
        # before the first step all beams are alike: only the first may be continued
        score = torch.full((batch, beam_size), -torch.inf, device=self.device)
        score[:, 0] = 0.0
        rank = score.clone()  # what beams are chosen by
        rows = rows[:, None] * beam_size
        choices, parents = [], []
        for _ in range(steps):
            logits = _tempered(_restricted(self.step(heard, state), allowed), temperature)
            total = logits.view(batch, beam_size, -1) + score[..., None]
            ranks = _perturbed(total, rank, generators) if stochastic else total
            rank, chosen = ranks.flatten(1).topk(beam_size)  # [batch, beam]
            score = total.flatten(1).gather(1, chosen)
            parent, heard = chosen // logits.shape[-1], (chosen % logits.shape[-1]).flatten()
            choices.append(heard.view(batch, beam_size))
            parents.append(parent)
            lineage = (rows + parent).flatten()
            state = state.of(lineage)
            allowed = None if allowed is None else allowed[lineage]
            allowed = _after(allowed, heard, playable)
        return _traced(choices, parents)


def _small_product(weight: Tensor, bias: Tensor) -> Product:
    """A product in numbers of 8 bits, of inputs between -1 and 1; each row has its scale."""
    scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12).double()
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        # torch plans to remove these; `_has_small_products` finds out when it has
        warnings.simplefilter("ignore", UserWarning)
        small = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(small, bias)
    times = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return lambda inputs: times(inputs, 2 / LEVELS, ZERO, packed)


def _has_small_products(device: torch.device) -> bool:
    """Whether torch has them here: not on every kind of processor, nor on GPUs."""
    if device.type != "cpu":
        return False
    try:
        product = _small_product(torch.ones(16, 16), torch.zeros(16))
        return float(product(torch.ones(1, 16))[0, 0]) > 15
    except (AttributeError, RuntimeError):
        return False


def _restricted(logits: Tensor, allowed: Tensor | None) -> Tensor:
    return logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)


def _after(allowed: Tensor | None, said: Tensor, playable: Playable | None) -> Tensor | None:
    """What is possible [batch, events] once `said` [batch] has happened."""
    if allowed is None or playable is None:
        return None
    _, opens, closes = playable
    return (allowed | opens[said]) & ~closes[said]


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities in the widest type of the device, at any temperature above 0."""
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    below_top = (logits - logits.max(dim=-1, keepdim=True).values).to(wide)
    return (below_top / temperature).log_softmax(dim=-1)


def _sample(logits: Tensor, temperature: float, dice: Tensor) -> Tensor:
    """Events [batch] by inverting the distribution function at `dice` [batch], in [0, 1)."""
    reached = _tempered(logits, temperature).exp().cumsum(dim=-1)
    target = dice.to(reached.dtype) * reached[:, -1]
    found = torch.searchsorted(reached, target[:, None], right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1)


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
