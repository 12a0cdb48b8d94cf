"""Step-by-step generation with a network.

On an x86-64 processor with AVX2, most matrix products use 8-bit integers, which is faster than
float32. The distribution of the next event then differs by less than 0.01 on average (total
variation).
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

import utils
from generation.density import DensityController, DensityTarget
from generation.int8 import Int8Products, Linear, find_int8_products
from generation.recall import RecallState, RecallTables
from generation.sampling import (
    EventConstraints,
    EventMask,
    Sampler,
    apply_temperature,
    draw_gumbel_noise,
)
from model import PerformanceRNN

MAX_CONTROLS = 64  # the first layer's input gates are precomputed for at most so many controls
BLOCK = 512  # rows of a long control table that are prepared at a time
MIN_SHARED_BATCH = 4  # sequences from which on two threads are tried
TRIED_STEPS = 5  # steps to measure a number of threads
WORTHWHILE = 0.8  # two threads are used if a step takes at most this share of the time

DEFAULT_SAMPLER = Sampler()
NO_CONTEXT = torch.empty(0, dtype=torch.long)


class TableRows(Protocol):
    """Rows of vectors: a tensor, or an object that computes them when they are needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Return some rows, float32 [rows, ...]."""


@dataclass(frozen=True)
class ControlTable:
    """A control schedule as tensors: rows of control vectors, one after another.

    controls: float32 [rows, 1 or batch, control], or None for no control; a column for each
    sequence, or one for all. After its end the last row stays valid.
    durations: duration of each of the 240 events, int64 [events], and row_duration: duration of
    a row, in the same unit. With durations of None each row is for one event.
    target: for density feedback, or None for none.
    bias: what is added to the logits in each row, float32 [rows, events], or None for nothing.
    """

    controls: TableRows | None = None
    durations: Tensor | None = None
    row_duration: int = 1
    target: DensityTarget | None = None
    bias: TableRows | None = None

    def get_durations(self, event: Tensor) -> Tensor:
        """Return the durations [batch] of events [batch]; 1 if a row is for one event."""
        return torch.ones_like(event) if self.durations is None else self.durations[event]

    def __len__(self) -> int:
        return 1 if self.controls is None else len(self.controls)

    def find_rows(self, time: Tensor) -> Tensor:
        """Return the index of the row in force at each time [batch]."""
        return (time // self.row_duration).clamp_(min=0, max=len(self) - 1)


NO_CONTROL = ControlTable()


@dataclass(frozen=True)
class GenerationInputs:
    """The inputs for the generation of a batch of sequences.

    init: start vectors [batch, init]; generators: a random generator on the CPU for each
    sequence, so that a sequence does not depend on the others in its batch; constraints: on the
    events that may be generated; controls: from the first generated event on; context: events
    before the first generated event, int64 [steps], the same for all sequences;
    context_controls: the controls of the context; earlier_keys: 0 to 87, of the notes before the
    context, for recall.
    """

    init: Tensor
    generators: Sequence[torch.Generator]
    constraints: EventConstraints
    controls: ControlTable = NO_CONTROL
    context: Tensor = NO_CONTEXT
    context_controls: ControlTable = NO_CONTROL
    earlier_keys: Sequence[int] = ()


@dataclass(frozen=True)
class _CompiledControls:
    """Rows of a control table, and what each distinct control contributes to the first layers.

    start: number of the first row; stop: number of the first row after these rows;
    index: index of the distinct control in each row [rows, 1 or batch];
    controller: of the density, or None; it selects another control instead of that one;
    projections: contribution of each control to the first linear layer [controls, hidden], or
    [1, hidden] without controls;
    input_gates: of the first GRU layer for each event with each control
    [controls * events, 3 * hidden], or None if there are too many controls;
    bias: what is added to the logits in each row [rows, events], or None for nothing.
    """

    table: ControlTable
    start: int
    stop: int
    index: Tensor
    controller: DensityController | None
    projections: Tensor
    input_gates: Tensor | None
    bias: Tensor | None

    def add_bias(self, logits: Tensor, time: Tensor | None) -> Tensor:
        """Return logits [batch, events] with the bias at each time [batch]; time: see State."""
        if self.bias is None:
            return logits
        if time is None:
            return logits + self.bias[0]
        return logits + self.bias[self.table.find_rows(time) - self.start]

    def find(self, time: Tensor | None, column: Tensor) -> Tensor | None:
        """Return the index of the control [batch] at a time [batch]; None if there is only one.

        time, column: see State.
        """
        if len(self.table) == self.index.numel() == 1:
            return None
        row: Tensor | int = 0
        if time is not None:
            row = self.table.find_rows(time) - self.start
        return self.index[row, column] if self.index.shape[1] > 1 else self.index[row, 0]


@dataclass
class State:
    """The state of a batch of sequences; `Engine.step` updates it.

    hidden: hidden states of each layer [batch, hidden]; time: position of each sequence in the
    control table [batch], or None if the table has one row; column: column of each sequence in
    the control table [batch]; density_error: see DensityController [batch]; unconditional: the
    state of the same sequences without control, for guidance; recall: what the sequences recall,
    or None for a network without recall and in the state without control.
    """

    hidden: list[Tensor]
    controls: _CompiledControls
    time: Tensor | None
    column: Tensor
    density_error: Tensor | None = None
    unconditional: State | None = None
    recall: RecallState | None = None

    def select(self, indices: Tensor) -> State:
        """Return the state of the sequences with these indices, which may repeat."""
        return State(
            [layer[indices] for layer in self.hidden],
            self.controls,
            None if self.time is None else self.time[indices],
            self.column[indices],
            None if self.density_error is None else self.density_error[indices],
            None if self.unconditional is None else self.unconditional.select(indices),
            None if self.recall is None else self.recall.select(indices),
        )

    @staticmethod
    def join(states: Sequence[State]) -> State:
        """Return the state of the sequences of several states with the same controls."""
        first = states[0]

        def cat(values: Iterable[Tensor | None]) -> Tensor | None:
            present = [value for value in values if value is not None]
            return torch.cat(present) if present else None

        unconditional = [s.unconditional for s in states if s.unconditional is not None]
        recall = [s.recall for s in states if s.recall is not None]
        return State(
            [torch.cat(layer) for layer in zip(*(s.hidden for s in states), strict=True)],
            first.controls,
            cat(s.time for s in states),
            torch.cat([s.column for s in states]),
            cat(s.density_error for s in states),
            State.join(unconditional) if unconditional else None,
            RecallState.join(recall) if recall else None,
        )


def draw_init(
    model: PerformanceRNN, seed: int, batch: int, numbers: Sequence[int] | None = None
) -> tuple[Tensor, list[torch.Generator]]:
    """Return random start vectors [batch, init], and the random generators that drew them.

    numbers: of the sequences, or None for 0, 1, 2 and so on. The vector and the generator of a
    sequence depend only on the seed and its number.
    """
    seeds = [utils.derive_seed(seed, k) for k in (range(batch) if numbers is None else numbers)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    init = torch.stack([torch.randn(model.config.init_dim, generator=rng) for rng in generators])
    return init.to(model.device), generators


class ThreadChooser:
    """Chooses between one and two threads by the time that the last steps took.

    Two are used as long as they save a fifth of the time. Two threads can be far slower than one
    while another program uses the processor.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {n: deque(maxlen=TRIED_STEPS) for n in (1, 2)}
        self._threads = 1

    @property
    def is_settled(self) -> bool:
        """Whether one thread is used for the rest."""
        return self._threads == 1 and len(self._seconds[2]) == TRIED_STEPS

    def add(self, seconds: float) -> int:
        """Add the time of a step, and return the number of threads for the next one."""
        one, two = self._seconds[1], self._seconds[2]
        self._seconds[self._threads].append(seconds)
        if len(two) == TRIED_STEPS:
            is_faster = statistics.median(two) < WORTHWHILE * statistics.median(one)
            self._threads = 2 if self._threads == 2 and is_faster else 1  # never again after 1
        elif len(one) == TRIED_STEPS:
            self._threads = 2
        return self._threads


class Engine:
    """A network with its weights prepared for generation.

    exact: compute all products in float32, not in 8 bits.
    guidance: scale of classifier-free guidance (Ho and Salimans 2022): the logits are those
    without control, plus `guidance` times their change by the control. 1 is no guidance.
    products: those in 8 bits; None for the fastest ones here.
    use_recall: whether a network with recall recalls anything.
    """

    def __init__(
        self,
        model: PerformanceRNN,
        exact: bool = False,
        guidance: float = 1.0,
        products: Int8Products | None = None,
        use_recall: bool = True,
    ) -> None:
        self.model, self.device = model.eval(), model.device
        self.products = None if exact else products or find_int8_products(model.device.type)
        self.guidance, self._use_recall = guidance, use_recall
        with torch.inference_mode():
            self._event_table = model.compute_event_table()
            self._layers = [
                # 8 bits need inputs between -1 and 1, which the first layer does not have
                (self._gru_linear(f"ih_l{layer}", layer > 0), self._gru_linear(f"hh_l{layer}"))
                for layer in range(model.config.gru_layers)
            ]
            weight, bias = model.output_fc.weight, model.output_fc.bias
            make = _float_linear if self.products is None else self.products.make_split_linear
            self._output = make(weight, bias)
            self._recall = RecallTables(model) if model.config.recall_dim else None

    def describe_products(self) -> str:
        """Return how the products are computed: "float32" or "8 bits (FBGEMM, 256 levels)"."""
        return "float32" if self.products is None else str(self.products)

    def _gru_linear(self, name: str, is_bounded: bool = True) -> Linear:
        """Return the product with GRU weights; is_bounded: inputs are between -1 and 1."""
        weight, bias = (getattr(self.model.gru, f"{kind}_{name}") for kind in ("weight", "bias"))
        if self.products is None or not is_bounded:
            return _float_linear(weight, bias)
        return self.products.make_linear(weight, bias)

    @torch.inference_mode()
    def prime(self, inputs: GenerationInputs) -> tuple[State, Tensor, EventMask]:
        """Return the state after the context, the input of the next step [batch], and the mask."""
        batch = len(inputs.init)
        mask = EventMask(inputs.constraints, batch, self.device)
        event = torch.full((batch,), self.model.primary_event, device=self.device)
        hidden = list(self.model.init_hidden_each(inputs.init))
        state = self._make_state(hidden, hidden, inputs.context_controls, event)
        if self._recall is not None:
            state.recall = RecallState.start(
                self._recall, batch, inputs.earlier_keys if self._use_recall else None
            )
        for next_event in inputs.context.to(self.device):
            self.step(state, event)
            event = next_event.expand(batch)
            mask.update(event)
        unconditional, recall = state.unconditional or state, state.recall
        state = self._make_state(state.hidden, unconditional.hidden, inputs.controls, event)
        state.recall = recall
        return state, event, mask

    def _make_state(
        self,
        hidden: list[Tensor],
        unconditional_hidden: list[Tensor],
        controls: ControlTable,
        event: Tensor,
    ) -> State:
        """Return a state at the start of the controls.

        event: the input of the next step [batch]; it comes before the controls, so its duration
        and notes do not count.
        """
        compiled = self._compile(controls, 0, BLOCK)
        time = -controls.get_durations(event) if len(controls) > 1 else None  # 0 after it
        column = torch.arange(len(event), device=self.device)
        state = State(list(hidden), compiled, time, column)
        if compiled.controller is not None:
            state.density_error = compiled.controller.reset(compiled.find(time, column), event)
        if self.guidance != 1 and controls.controls is not None:
            hidden = unconditional_hidden
            state.unconditional = self._make_state(hidden, hidden, NO_CONTROL, event)
        return state

    def _compile(self, table: ControlTable, start: int, stop: int) -> _CompiledControls:
        """Prepare the rows `start` to `stop` - 1 of a control table."""
        controller, stop = None, min(stop, len(table))
        if table.controls is None:
            index = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            projections = self.model.project_controls(None, None)[None]
        else:
            rows = table.controls[start:stop]
            distinct, index = rows.flatten(0, 1).unique(dim=0, return_inverse=True)
            index = index.view(rows.shape[:2])
            if table.target is not None:
                controller = DensityController(table.target, distinct)
                distinct = controller.controls
            projections = self.model.project_controls(distinct, None)
        input_gates = None
        if len(projections) <= MAX_CONTROLS and stop - start == len(table):
            inputs = self._event_table + projections[:, None]  # [controls, events, hidden]
            input_gates = self._layers[0][0](functional.leaky_relu(inputs, 0.1).flatten(0, 1))
        bias = None if table.bias is None else table.bias[start:stop].to(self.device)
        if bias is not None and not bias.any():
            bias = None
        return _CompiledControls(
            table, start, stop, index, controller, projections, input_gates, bias
        )

    def _cover(self, controls: _CompiledControls, time: Tensor) -> _CompiledControls:
        """Return compiled controls that have the rows of all times [batch].

        Only rows that are needed are computed and kept, so memory does not grow with the table.
        """
        if controls.stop - controls.start == len(controls.table):
            return controls
        low, high = (int(row) for row in controls.table.find_rows(time).aminmax())
        if controls.start <= low and high < controls.stop:
            return controls
        return self._compile(controls.table, low, high + BLOCK)

    def step(self, state: State, event: Tensor) -> Tensor:
        """Update the state with an event [batch]; return the logits of the next [batch, events]."""
        if state.recall is not None:
            state.recall.update(event)
        logits = self._step(state, event, state.recall)
        if state.unconditional is not None:
            without = self._step(state.unconditional, event, state.recall)
            logits = torch.lerp(without, logits, self.guidance)
        return state.controls.add_bias(logits, state.time)

    def _step(self, state: State, event: Tensor, recall: RecallState | None) -> Tensor:
        # on small tensors split_with_sizes and index_select are much faster than split and []
        width = self.model.config.hidden_dim
        sizes = (2 * width, width)  # reset and update gates, new gate
        inputs = self._input_gates(state, event)
        if recall is not None:
            inputs = inputs + recall.gates
        for layer, (input_linear, hidden_linear) in enumerate(self._layers):
            if layer:
                inputs = input_linear(state.hidden[layer - 1])
            input_gates, input_new = inputs.split_with_sizes(sizes, 1)
            products = hidden_linear(state.hidden[layer])
            hidden_gates, hidden_new = products.split_with_sizes(sizes, 1)
            gates = (input_gates + hidden_gates).sigmoid_()
            reset, update = gates.split_with_sizes((width, width), 1)
            new = torch.addcmul(input_new, reset, hidden_new).tanh_()
            state.hidden[layer] = torch.lerp(new, state.hidden[layer], update)
        logits = self._output(torch.cat(state.hidden, dim=1))
        return logits if recall is None else logits + recall.logits

    def _input_gates(self, state: State, event: Tensor) -> Tensor:
        """Update time and density error; return the first layer's gates [batch, 3 * hidden]."""
        if state.time is not None:
            state.time = state.time + state.controls.table.get_durations(event)
            state.controls = self._cover(state.controls, state.time)
        controls = state.controls
        index = controls.find(state.time, state.column)
        if controls.controller is not None and state.density_error is not None:
            state.density_error = controls.controller.update(state.density_error, index, event)
            index = controls.controller.select(state.density_error, index)
        if controls.input_gates is not None:
            if index is not None:
                event = torch.add(event, index, alpha=self.model.config.event_dim)
            return controls.input_gates.index_select(0, event)
        inputs = self._event_table[event] + controls.projections[0 if index is None else index]
        return self._layers[0][0](functional.leaky_relu(inputs, 0.1))

    @torch.inference_mode()
    def generate(
        self,
        inputs: GenerationInputs,
        steps: int,
        sampler: Sampler = DEFAULT_SAMPLER,
        max_threads: int = 1,
    ) -> Iterator[Tensor]:
        """Yield the sampled events of each step, int64 [batch].

        max_threads: if above 1, two threads where they are faster; their results are the same. The
        number of torch's threads must be 1 then, and is 1 again at the end.
        """
        state, event, mask = self.prime(inputs)
        events = self.model.config.event_dim
        noise = draw_gumbel_noise(inputs.generators, events, sampler.greedy_ratio, self.device)
        is_divisible = self._is_divisible(state, len(event))
        chooser = ThreadChooser() if max_threads > 1 and is_divisible else None
        before = threads = torch.get_num_threads()
        try:
            for _ in range(steps):
                values, started = next(noise), time.perf_counter()
                event = sampler.sample(mask.apply(self.step(state, event)), values)
                mask.update(event)
                if chooser is not None and not chooser.is_settled:
                    wanted = chooser.add(time.perf_counter() - started)
                    if wanted != threads:  # each call stops and starts threads
                        threads = wanted
                        torch.set_num_threads(threads)
                yield event
        finally:
            if threads != before:
                torch.set_num_threads(before)

    def _is_divisible(self, state: State, batch: int) -> bool:
        """Return whether two threads give the same bits as one, and there is work for them.

        Products in float32 and the ends of vectors may differ by the last bit.
        """
        is_int8 = self.products is not None and state.controls.input_gates is not None
        is_even = batch % 2 == 0 and self.model.config.hidden_dim % 32 == 0
        return is_int8 and is_even and batch >= MIN_SHARED_BATCH


def _float_linear(weight: Tensor, bias: Tensor) -> Linear:
    return lambda inputs: functional.linear(inputs, weight, bias)


# ---------------------------------------------------------------------------- beam search


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
