"""PerformanceRNN: a GRU that says which event comes next, and the files it is kept in.

Shapes are [steps, batch, ...]. The network knows neither MIDI nor what an event means.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import utils
from config import MODEL_SIZES, ModelConfig
from corpus import tensorfile


class PerformanceRNN(nn.Module):
    """The network of `config`; inputs and outputs live on the device of its parameters."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        event_dim, hidden_dim, layers = config.event_dim, config.hidden_dim, config.gru_layers
        self.primary_event = event_dim - 1
        # the order of these lines is the order of the parameters in session files
        self.inithid_fc = nn.Linear(config.init_dim, layers * hidden_dim)
        # a weight of its own making would load libraries for a second, where it is not filled
        weight = torch.empty(event_dim, event_dim).uniform_(-(3**0.5), 3**0.5)
        self.event_embedding = nn.Embedding(event_dim, event_dim, _weight=weight)
        self.concat_input_fc = nn.Linear(event_dim + config.control_dim + 1, hidden_dim)
        self.gru = nn.GRU(hidden_dim, hidden_dim, layers)  # run layer by layer, see forward
        self.output_fc = nn.Linear(layers * hidden_dim, event_dim)

    @torch.no_grad()
    def init_weights(self) -> PerformanceRNN:
        """This network with the weights that training begins with; measured in CHANGELOG.md.

        Embeddings have variance 1, so that events differ from the start; recurrent weights are
        orthogonal; update gates begin nearly shut, so that the state is kept.
        """
        nn.init.normal_(self.event_embedding.weight)
        for linear in (self.inithid_fc, self.concat_input_fc, self.output_fc):
            nn.init.xavier_normal_(linear.weight)
        hidden = self.config.hidden_dim
        for layer in range(self.config.gru_layers):
            inputs, states, bias, _ = (getattr(self.gru, f"{n}_l{layer}") for n in GRU_WEIGHTS)
            for gate in range(3):
                rows = slice(gate * hidden, (gate + 1) * hidden)
                nn.init.xavier_uniform_(inputs[rows])
                nn.init.orthogonal_(states[rows])
            bias[hidden : 2 * hidden] += 1.0  # of the update gate: nearer to keeping
        return self

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.output_fc.weight.device

    def init_hidden(self, init: Tensor) -> Tensor:
        """Hidden state [layers, batch, hidden] from start vectors [batch, init].

        This is the original's layout, for its sessions' sake: of several vectors, it deals
        out the states to layers and sequences as they come.
        """
        layers, hidden = self.config.gru_layers, self.config.hidden_dim
        return torch.tanh(self.inithid_fc(init)).view(layers, len(init), hidden)

    def init_hidden_each(self, init: Tensor) -> Tensor:
        """As `start`, but of each vector for itself, so that it does not depend on the others."""
        return torch.cat([self.init_hidden(vector[None]) for vector in init], dim=1)

    def shift_right(self, events: Tensor) -> Tensor:
        """What is heard before each of `events` [steps, batch]: the start event first."""
        return torch.cat([torch.full_like(events[:1], self.primary_event), events[:-1]])

    def event_table(self) -> Tensor:
        """What each event says to the first layer [events, hidden]: embedding times weights.

        The linear layer over embedding, flag and control is the sum of one part for each.
        """
        events = self.config.event_dim
        weight, bias = self.concat_input_fc.weight, self.concat_input_fc.bias
        return functional.linear(self.event_embedding.weight, weight[:, :events], bias)

    def forward(
        self,
        heard: Tensor,
        hidden: Tensor,
        controls: Tensor | None = None,
        controlled: Tensor | None = None,
        table: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits [steps, batch, events] of what follows each heard event, and the new hidden state.

        heard: int64 [steps, batch]; hidden: [layers, batch, hidden]; controls, of the events
        that follow: [steps or 1, batch, control], or None for none; controlled: bool [batch],
        the sequences that shall see theirs, or None for all; table: what `table` gives, for
        many calls with the same weights.
        """
        said = functional.embedding(heard, self.event_table() if table is None else table)
        asked = self.project_controls(controls, controlled)
        output = functional.leaky_relu(said + asked, 0.1)  # [steps, batch, hidden]
        outputs, last = [], []
        for layer in range(self.config.gru_layers):
            if layer and self.training:
                output = functional.dropout(output, self.config.gru_dropout)
            weights = [getattr(self.gru, f"{name}_l{layer}") for name in GRU_WEIGHTS]
            output = self._layer(output, hidden[layer], weights)
            outputs.append(output)
            last.append(output[-1])
        return self.output_fc(torch.cat(outputs, dim=-1)), torch.stack(last)

    def _layer(self, inputs: Tensor, before: Tensor, weights: list[Tensor]) -> Tensor:
        """The states [steps, batch, hidden] of a layer, from the one before [batch, hidden]."""
        learns = self.training and torch.is_grad_enabled() and len(inputs) > 1
        if not learns or inputs.device.type != "cpu":
            states: Tensor = torch.gru(
                inputs, before[None], weights, True, 1, 0.0, False, False, False
            )[0]
            return states
        given = [inputs, before, *weights]
        if torch.is_autocast_enabled("cpu"):
            given = [value.to(torch.get_autocast_dtype("cpu")) for value in given]
        return GRULayer.apply(*given)  # type: ignore

    def project_controls(self, controls: Tensor | None, controlled: Tensor | None) -> Tensor:
        """What controls, or their absence, say to the first layer [steps or 1, batch, hidden]."""
        events = self.config.event_dim
        weight = self.concat_input_fc.weight  # [hidden, events + 1 + control]
        nothing = weight[:, events]
        if controls is None:
            return nothing
        asked = functional.linear(controls, weight[:, events + 1 :])
        if controlled is None:
            return asked
        return torch.where(controlled[:, None], asked, nothing.to(asked.dtype))

    def forward_scheduled(
        self,
        heard: Tensor,
        hidden: Tensor,
        controls: Tensor,
        controlled: Tensor,
        teacher_forcing_ratio: float,
    ) -> tuple[Tensor, Tensor]:
        """As forward, but some of what is heard after the first event the network said itself.

        Scheduled sampling (Bengio et al. 2015), step by step: each heard event is the true
        one with probability `teacher_forcing_ratio`, or else a sample from the logits.
        """
        logits, table = [], self.event_table()
        said = heard[0]
        for step, true in enumerate(heard):
            taught = torch.rand(true.shape, device=true.device) < teacher_forcing_ratio
            true = torch.where(taught | (step == 0), true, said)
            output, hidden = self(true[None], hidden, controls[step : step + 1], controlled, table)
            said = output[0].detach().float().softmax(dim=-1).multinomial(1)[:, 0]
            logits.append(output)
        return torch.cat(logits), hidden


GRU_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


# -------------------------------------------------------------------------------- GRU layer

CHUNK = 8  # steps whose factors are worked out at once: few enough to stay in a core's cache


class GRULayer(torch.autograd.Function):
    """The states [steps, batch, hidden] of a GRU layer, with torch's weights and equations.

    Inputs: [steps, batch, width], the state before [batch, hidden], and weight_ih, weight_hh,
    bias_ih, bias_hh as in `torch.nn.GRU`: rows of the reset, update and new gate. All are of
    one type, in which everything is worked out.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, before: Tensor, w_ih: Tensor, w_hh: Tensor, *biases: Tensor
    ) -> Tensor:
        """Keeps the gates, the states and what the state gives to the new gate, of each step."""
        (steps, batch, width), hidden = inputs.shape, w_hh.shape[1]
        bias_ih, bias_hh = biases
        gates = torch.addmm(bias_ih, inputs.reshape(-1, width), w_ih.t())
        gates = gates.view(steps, batch, 3 * hidden)  # of the inputs yet; filled in place
        states = inputs.new_empty(steps + 1, batch, hidden)
        states[0] = before
        kept = inputs.new_empty(steps, batch, hidden)
        given = inputs.new_empty(batch, 3 * hidden)  # by the state
        given_both, given_new = given.split_with_sizes((2 * hidden, hidden), 1)
        for gate, keep, state, after in zip(gates, kept, states[:-1], states[1:], strict=True):
            torch.addmm(bias_hh, state, w_hh.t(), out=given)
            keep.copy_(given_new)
            both, new = gate.split_with_sizes((2 * hidden, hidden), 1)
            reset, update = both.add_(given_both).sigmoid_().split_with_sizes((hidden, hidden), 1)
            torch.lerp(new.addcmul_(reset, keep).tanh_(), state, update, out=after)
        ctx.save_for_backward(inputs, w_ih, w_hh, gates, states, kept)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Back through time for the states; then one product for each matrix."""
        inputs, w_ih, w_hh, gates, states, kept = ctx.saved_tensors
        steps, batch, hidden = kept.shape
        of_state = torch.empty_like(gates)  # gradients of what the state gives
        of_new = torch.empty_like(kept)
        gradient = torch.zeros_like(states[0])
        for chunk in _chunks_from_the_end(steps):
            factors = _factors(gates[chunk], states[chunk], kept[chunk])
            parts = (gradients[0][chunk], of_state[chunk], of_new[chunk], *factors)
            for toward, given, new, to_new, to_update, to_reset, reset, update in zip(
                *map(_reversed, parts), strict=True
            ):
                gradient += toward
                of_reset, of_update, of_kept = given.split_with_sizes((hidden, hidden, hidden), 1)
                torch.mul(gradient, to_new, out=new)
                torch.mul(new, to_reset, out=of_reset)
                torch.mul(gradient, to_update, out=of_update)
                torch.mul(new, reset, out=of_kept)
                gradient = gradient.mul_(update).addmm_(given, w_hh)
        flat = of_state.view(-1, 3 * hidden)
        grad_w_hh = flat.t() @ states[:-1].reshape(-1, hidden)
        grad_bias_hh = flat.sum(dim=0)
        of_state[..., 2 * hidden :] = of_new  # from here on: of what the inputs give
        grad_w_ih = flat.t() @ inputs.reshape(steps * batch, -1)
        grad_inputs = (flat @ w_ih).view_as(inputs)
        return grad_inputs, gradient, grad_w_ih, grad_w_hh, flat.sum(dim=0), grad_bias_hh


def _chunks_from_the_end(steps: int) -> Iterator[slice]:
    for end in range(steps, 0, -CHUNK):
        yield slice(max(0, end - CHUNK), end)


def _reversed(steps: Tensor) -> Iterator[Tensor]:
    """One step after the other, the last one first."""
    return reversed(steps.unbind())


def _factors(gates: Tensor, states: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
    """What gradients are multiplied with at some steps [steps, batch, hidden], five of them.

    That of the state gives those of the new and the update gate, before their curves, by the
    first two; that of the new gate gives the reset gate's by the third, and what the state
    gives to it by the fourth; the fifth is what of the state's own goes on to the step before.
    """
    reset, update, new = gates.chunk(3, dim=-1)
    open_gate = 1 - update
    to_new = (new * new).neg_().add_(1).mul_(open_gate)
    to_update = (states - new).mul_(update).mul_(open_gate)
    to_reset = (1 - reset).mul_(reset).mul_(kept)
    return to_new, to_update, to_reset, reset, update


# --------------------------------------------------------------------------------- sessions

SESSION = 1  # version of the session file
OPTION = "option "  # before the names of the options that a session was last trained with


@dataclass(frozen=True)
class Session:
    """A session file: the network, and beside it what training and generation want to know.

    encoding: version of the event encoding; optimizer_state: None in a session that is only
    played; training: plain numbers and text, such as the step; ema_state: the moving average
    of the weights, which is judged and played, or None for the weights themselves; hidden_state:
    the hidden state after the last batch. In the file `model_config`, `model_state`
    and `model_optimizer_state` are as the original has them, so that it can read them.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    encoding: int
    optimizer_state: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    ema_state: dict[str, Tensor] | None = None
    hidden_state: Tensor | None = None

    def build_model(self, device: torch.device, ema: bool = True) -> PerformanceRNN:
        """The network with its averaged weights, or the last ones, as float32 on `device`."""
        with torch.device("meta"):
            model = PerformanceRNN(self.config)
        state = self.ema_state if ema and self.ema_state else self.state
        weights = {name: tensor.float() for name, tensor in state.items()}
        model.load_state_dict(weights, assign=True)
        return model.to(device)

    @property
    def control_ratio(self) -> float | None:
        """Share of what it learned from that it saw with control, if it is known."""
        ratio = self.training.get(f"{OPTION}control_ratio")
        return float(ratio) if isinstance(ratio, int | float) else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; killed at any instant, the old or the new one is there, whole."""
        record = {
            "session": SESSION,
            "encoding": self.encoding,
            "model_config": asdict(self.config),
            "model_state": self.state,
            "model_optimizer_state": self.optimizer_state or _unused_optimizer(self.config),
            "training": self.training,
            "averaged_state": self.ema_state,
            "carried_state": self.hidden_state,
        }
        content = io.BytesIO()
        torch.save(record, content)
        utils.atomic_write(path, content.getvalue())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Session:
        """Read a file of this suite or of the original.

        OSError if it can not be opened, ValueError if it is no session.
        """
        record = tensorfile.load(path)
        try:
            return _session(record)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _session(record: Any) -> Session:
    if not isinstance(record, dict) or "model_config" not in record:
        raise ValueError("not a session")
    version = record.get("session", SESSION)
    if type(version) is not int or version != SESSION:
        raise ValueError(f"session version {tensorfile.format_value(version)}, not {SESSION}")
    names = {entry.name for entry in fields(ModelConfig)}
    sizes = record["model_config"]
    if not isinstance(sizes, dict) or set(sizes) != names:
        raise ValueError(f"model_config has not the entries {sorted(names)}")
    for entry in fields(ModelConfig):
        if type(sizes[entry.name]) not in (int, MODEL_SIZES[entry.name][0]):
            told = tensorfile.format_value(sizes[entry.name])
            raise ValueError(f"{entry.name} is {told}, not a number of its kind")
    config, state = ModelConfig(**sizes), record.get("model_state", {})
    _check_state(config, state)
    optimizer_state = record.get("model_optimizer_state", record.get("optimizer_state"))
    encoding, training = record.get("encoding", 1), record.get("training", {})
    if not isinstance(optimizer_state, dict | None) or not isinstance(training, dict):
        raise ValueError("model_optimizer_state or training is not a dict")
    if optimizer_state is not None and not optimizer_state.get("state"):
        optimizer_state = None  # it has made no step
    if type(encoding) is not int:
        raise ValueError(f"encoding is {tensorfile.format_value(encoding)}, not a whole number")
    for key, value in training.items():
        if not isinstance(value, int | float | str):
            raise ValueError(f"{tensorfile.format_value(key)} in training is neither a number nor text")
    averaged, carried = record.get("averaged_state"), record.get("carried_state")
    if averaged is not None:
        _check_state(config, averaged)
    if carried is not None and not (
        isinstance(carried, Tensor) and carried.dtype == torch.float32 and carried.dim() == 3
    ):
        raise ValueError("carried_state is not float32 [layers, batch, hidden]")
    return Session(config, state, encoding, optimizer_state, training, averaged, carried)


def _unused_optimizer(config: ModelConfig) -> dict[str, Any]:
    """The state of an Adam that has made no step."""
    with torch.device("meta"):
        model = PerformanceRNN(config)
    # not in there: torch 2.6 imports its compiler for an optimizer, which fails on this device
    return torch.optim.Adam(model.parameters()).state_dict()


def _check_state(config: ModelConfig, state: Any) -> None:
    """ValueError unless `state` has finite weights of just the names and shapes of `config`."""
    with torch.device("meta"):  # nothing is allocated for sizes that a file only claims
        expected = {name: t.shape for name, t in PerformanceRNN(config).state_dict().items()}
    if not isinstance(state, dict) or set(state) != set(expected):
        raise ValueError("model_state has not the weights of such a network")
    for name, shape in expected.items():
        tensor = state[name]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{name} is not a tensor of numbers")
        if tensor.shape != shape:
            raise ValueError(f"{name} has the shape {list(tensor.shape)}, not {list(shape)}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has weights that are not finite")


def pick_device(name: str) -> torch.device:
    """The device called `name`; auto takes cuda, then mps, then cpu. ValueError if not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available()}
    there["mps"] = torch.backends.mps.is_available()
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there[name]:
        raise ValueError(f"argument --device: {name} is not available on this machine")
    return torch.device(name)
