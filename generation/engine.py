"""A network at play: event by event.

On a CPU most products are taken in whole numbers of 8 bits, several times as fast; what the
network says then differs by less than 0.01 in total variation on average.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

import utils
from generation.density import DensityController, DensityTarget
from generation.sampling import EventMask, EventRules, GumbelNoise, Sampler
from model import PerformanceRNN

TABLES = 64  # different controls for which the first layer is worked out beforehand
LEVELS = 255  # of a number of 8 bits, and the level of zero
ZERO = 128

PLAIN = Sampler()
Product = Callable[[Tensor], Tensor]  # weights times inputs, and a bias


@dataclass(frozen=True)
class Schedule:
    """What is asked for, and when.

    controls: [rows, 1 or batch, control], or None for no control; clock: int64 [events], how
    long each event lasts; row: how long a row holds, by that clock; without a clock a row
    is for one event. The last row holds on. steering: what to keep to it, if anything.
    """

    controls: Tensor | None = None
    clock: Tensor | None = None
    row: int = 1
    steering: DensityTarget | None = None

    def length(self, events: Tensor) -> Tensor:
        """How long events last, by the clock."""
        return torch.ones_like(events) if self.clock is None else self.clock[events]


@dataclass(frozen=True)
class Context:
    """What is heard first: events int64 [steps], and what they were asked to be."""

    events: Tensor
    schedule: Schedule


@dataclass
class State:
    """What a network at play remembers, for each of its sequences.

    hidden: of each layer [batch, hidden]; asked: the schedule as the first layer sees it;
    place: when each sequence is [batch], by the schedule's clock, None while that is all
    the same; column: which column of the schedule is each one's [batch]; missing: how much of
    what is steered [batch], as the helm tells it; free: the state of the same sequences
    without control, for guidance.
    """

    hidden: list[Tensor]
    asked: Asked
    place: Tensor | None
    column: Tensor
    missing: Tensor | None = None
    free: State | None = None

    def of(self, rows: Tensor) -> State:
        """The state of some sequences; they may come several times."""
        return State(
            [layer[rows] for layer in self.hidden],
            self.asked,
            None if self.place is None else self.place[rows],
            self.column[rows],
            None if self.missing is None else self.missing[rows],
            None if self.free is None else self.free.of(rows),
        )


@dataclass(frozen=True)
class Asked:
    """A schedule as the first layer sees it.

    which: the control of each row [rows, 1 or batch], as a number; helm: which is asked for
    instead; first: what each event under each control gives to the gates
    [controls * events, 3 * hidden], or None if there are too many controls; then said: what
    each says to the layer [controls, hidden].
    """

    schedule: Schedule
    which: Tensor
    helm: DensityController | None
    first: Tensor | None
    said: Tensor

    def at(self, place: Tensor | None, column: Tensor) -> Tensor | None:
        """The number of the control [batch] in force at a place by the clock [batch].

        None if there is one alone, which is number 0.
        """
        if self.which.numel() == 1:
            return None
        row: Tensor | int = 0
        if place is not None:
            row = (place // self.schedule.row).clamp_(min=0, max=len(self.which) - 1)
        return self.which[row, column] if self.which.shape[1] > 1 else self.which[row, 0]


def make_generators(seed: int, count: int) -> list[torch.Generator]:
    """Random numbers for each of `count` pieces; piece k's depend on seed and k alone."""
    return [torch.Generator().manual_seed(utils.derive_seed(seed, k)) for k in range(count)]


class Engine:
    """Plays with a network; `exact` takes all products in float32, as training does.

    guidance: how much further than the control leads to go (classifier-free guidance, Ho and
    Salimans 2022): logits without control, plus so many times what the control adds; 1: as
    the network says.
    """

    def __init__(self, model: PerformanceRNN, exact: bool = False, guidance: float = 1.0) -> None:
        self.model, self.device = model.eval(), model.device
        self.exact = exact or not _has_small_products(model.device)
        self.guidance = guidance
        with torch.inference_mode():
            self._table = model.event_table()
            self._layers = [
                # what the first layer is given has no bounds: 8 bits would be too coarse for it
                (self._product(f"ih_l{layer}", layer > 0), self._product(f"hh_l{layer}", True))
                for layer in range(model.config.gru_layers)
            ]
            weight, bias = model.output_fc.weight, model.output_fc.bias
            self._output = (_plain_product if self.exact else _finer_product)(weight, bias)

    def _product(self, name: str, bounded: bool) -> Product:
        """That of the GRU's weights called `name`; bounded: by inputs between -1 and 1."""
        weight, bias = (getattr(self.model.gru, f"{kind}_{name}") for kind in ("weight", "bias"))
        if self.exact or not bounded:
            return _plain_product(weight, bias)
        return _small_product(weight, bias)

    @torch.inference_mode()
    def start(self, init: Tensor, schedule: Schedule) -> State:
        """The state before the first event, from start vectors [batch, init]."""
        column = torch.arange(len(init), device=self.device)
        return self._state(
            list(self.model.init_hidden_each(init)), column, schedule, self._nothing(len(init))
        )

    def _nothing(self, batch: int) -> Tensor:
        """What is heard before the first event [batch]."""
        return torch.full((batch,), self.model.primary_event, device=self.device)

    @torch.inference_mode()
    def under(self, state: State, schedule: Schedule, heard: Tensor) -> State:
        """The same state with another schedule, which begins after the heard events [batch]."""
        free = None if state.free is None else state.free.hidden
        return self._state(state.hidden, state.column, schedule, heard, free)

    def _state(
        self,
        hidden: list[Tensor],
        column: Tensor,
        schedule: Schedule,
        heard: Tensor,
        free: list[Tensor] | None = None,
    ) -> State:
        asked = self._asked(schedule)
        place = -schedule.length(heard) if len(asked.which) > 1 else None
        missing = None
        if asked.helm is not None:
            missing = asked.helm.start(asked.at(place, column), heard)
        state = State(list(hidden), asked, place, column, missing)
        if self.guidance != 1 and schedule.controls is not None:
            state.free = self._state(free or hidden, column, Schedule(), heard)
        return state

    def _asked(self, schedule: Schedule) -> Asked:
        controls, helm = schedule.controls, None
        if controls is None:
            which = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            said = self.model.project_controls(None, None)[None]
        else:
            # equal rows are one control, and a schedule that never changes is one row
            kinds, which = controls.flatten(0, 1).unique(dim=0, return_inverse=True)
            which = which.view(controls.shape[:2])
            if bool((which == which[:1]).all()):
                which = which[:1]
            if schedule.steering is not None:
                helm = DensityController(schedule.steering, kinds)
                kinds = helm.controls
            said = self.model.project_controls(kinds, None)
        first = None
        if len(said) <= TABLES:
            heard = functional.leaky_relu(self._table + said[:, None], 0.1)
            first = self._layers[0][0](heard.flatten(0, 1))
        return Asked(schedule, which, helm, first, said)

    def step(self, heard: Tensor, state: State) -> Tensor:
        """Logits [batch, events] of what follows the heard events [batch]; moves the state on."""
        logits = self._step(heard, state)
        if state.free is None:
            return logits
        return torch.lerp(self._step(heard, state.free), logits, self.guidance)

    def _step(self, heard: Tensor, state: State) -> Tensor:
        # split_with_sizes and index_select: several times as fast as split and [] on few numbers
        width = self.model.config.hidden_dim
        parts = (2 * width, width)  # reset and update gates, and the new state's
        given = self._given(heard, state)
        for layer, (of_input, of_state) in enumerate(self._layers):
            if layer:
                given = of_input(state.hidden[layer - 1])
            gates_given, new_given = given.split_with_sizes(parts, 1)
            gates_kept, new_kept = of_state(state.hidden[layer]).split_with_sizes(parts, 1)
            gates = (gates_given + gates_kept).sigmoid_()
            reset, update = gates.split_with_sizes((width, width), 1)
            new = torch.addcmul(new_given, reset, new_kept).tanh_()
            state.hidden[layer] = torch.lerp(new, state.hidden[layer], update)
        return self._output(torch.cat(state.hidden, dim=1))

    def _given(self, heard: Tensor, state: State) -> Tensor:
        """What the first layer's gates are given [batch, 3 * hidden]; moves the place on."""
        asked = state.asked
        if state.place is not None:
            state.place = state.place + asked.schedule.length(heard)
        which = asked.at(state.place, state.column)
        if asked.helm is not None and state.missing is not None:
            state.missing = asked.helm.moved(state.missing, which, heard)
            which = asked.helm.variants(state.missing, which)
        if asked.first is not None:
            if which is not None:
                heard = torch.add(heard, which, alpha=self.model.config.event_dim)
            return asked.first.index_select(0, heard)
        said = asked.said[0 if which is None else which]
        said = functional.leaky_relu(self._table[heard] + said, 0.1)
        return self._layers[0][0](said)

    @torch.inference_mode()
    def generate(
        self,
        init: Tensor,
        steps: int,
        schedule: Schedule,
        generators: Sequence[torch.Generator],
        *,
        sampling: Sampler = PLAIN,
        rules: EventRules | None = None,
        primer: Context | None = None,
    ) -> Iterator[Tensor]:
        """Sample events, one int64 [batch] after another, each heard by the next.

        init: [batch, init]; generators: one CPU generator for each sequence, so that a
        sequence does not depend on its neighbours. The schedule begins after the primer,
        which is heard and not said.
        """
        state, heard, bounds = self.primed(init, schedule, rules, primer)
        dice = GumbelNoise(
            generators, self.model.config.event_dim, sampling.greedy_ratio, self.device
        )
        for _ in range(steps):
            logits = bounds.applied(self.step(heard, state))
            heard = sampling.chosen(logits, dice.noise())
            bounds.after(heard)
            yield heard

    def primed(
        self, init: Tensor, schedule: Schedule, rules: EventRules | None, primer: Context | None
    ) -> tuple[State, Tensor, EventMask]:
        """The state after the primer, the last event heard [batch], and what may follow."""
        batch = len(init)
        rules = rules or EventRules.none(self.model.config.event_dim)
        bounds = EventMask(rules, batch, self.device)
        heard = self._nothing(batch)
        if primer is None or not len(primer.events):
            return self.start(init, schedule), heard, bounds
        state = self.start(init, primer.schedule)
        for event in primer.events.to(self.device):
            self.step(heard, state)
            heard = event.expand(batch)
            bounds.after(heard)
        return self.under(state, schedule, heard), heard, bounds


def round_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network, those that are played in one number of 8 bits rounded to it.

    What the network says is then the same in 8 bits as in float32, but for the rounding of
    the states; so it is judged as it is played.
    """
    played = [n for n in state if n.startswith("gru.weight") and n != "gru.weight_ih_l0"]
    return state | {name: _rounded(state[name].float()) for name in played}


def _rounded(weight: Tensor) -> Tensor:
    scales = _scales(weight)[:, None]
    return (weight / scales).round() * scales


def _scales(weight: Tensor) -> Tensor:
    """What the 127 levels of 8 bits stand for [rows], either side of 0."""
    least, greatest = weight.aminmax(dim=1)
    return (torch.maximum(-least, greatest) / 127).clamp(min=1e-12)


def _plain_product(weight: Tensor, bias: Tensor) -> Product:
    return lambda inputs: functional.linear(inputs, weight, bias)


def _finer_product(weight: Tensor, bias: Tensor) -> Product:
    """As `_small_product`, of two numbers of 8 bits for each weight: what the first leaves, too."""
    coarse, rows = _rounded(weight), len(weight)
    both = torch.cat([coarse, weight - coarse])
    product = _small_product(both, torch.cat([bias, torch.zeros_like(bias)]))

    def times(inputs: Tensor) -> Tensor:
        first, rest = product(inputs).split_with_sizes((rows, rows), 1)
        return first + rest

    return times


def _small_product(weight: Tensor, bias: Tensor) -> Product:
    """A product in numbers of 8 bits, of inputs between -1 and 1; each row has its scale."""
    scales = _scales(weight).double()
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
