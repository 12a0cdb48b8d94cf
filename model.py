"""PerformanceRNN: a GRU that says which event comes next, and the files it is kept in.

Shapes are [steps, batch, ...]. The network knows neither MIDI nor what an event means.
"""

from __future__ import annotations

import io
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import gru
import utils
from config import ModelConfig
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
    def initialised(self) -> PerformanceRNN:
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

    def start(self, init: Tensor) -> Tensor:
        """Hidden state [layers, batch, hidden] from start vectors [batch, init].

        This is the original's layout, for its sessions' sake: of several vectors, it deals
        out the states to layers and sequences as they come.
        """
        layers, hidden = self.config.gru_layers, self.config.hidden_dim
        return torch.tanh(self.inithid_fc(init)).view(layers, len(init), hidden)

    def starts(self, init: Tensor) -> Tensor:
        """As `start`, but of each vector for itself, so that it does not depend on the others."""
        return torch.cat([self.start(vector[None]) for vector in init], dim=1)

    def shifted(self, events: Tensor) -> Tensor:
        """What is heard before each of `events` [steps, batch]: the start event first."""
        return torch.cat([torch.full_like(events[:1], self.primary_event), events[:-1]])

    def table(self) -> Tensor:
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
        said = functional.embedding(heard, self.table() if table is None else table)
        asked = self.asked(controls, controlled)
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
        return gru.Layer.apply(*given)  # type: ignore

    def asked(self, controls: Tensor | None, controlled: Tensor | None) -> Tensor:
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

    def scheduled(
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
        logits, table = [], self.table()
        said = heard[0]
        for step, true in enumerate(heard):
            taught = torch.rand(true.shape, device=true.device) < teacher_forcing_ratio
            true = torch.where(taught | (step == 0), true, said)
            output, hidden = self(true[None], hidden, controls[step : step + 1], controlled, table)
            said = output[0].detach().float().softmax(dim=-1).multinomial(1)[:, 0]
            logits.append(output)
        return torch.cat(logits), hidden


GRU_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


# --------------------------------------------------------------------------------- sessions

SESSION = 1  # version of the session file
OPTION = "option "  # before the names of the options that a session was last trained with


@dataclass(frozen=True)
class Session:
    """A session file: the network, and beside it what training and generation want to know.

    encoding: version of the event encoding; optimizer_state: None in a session that is only
    played; training: plain numbers and text, such as the step; averaged: the moving average
    of the weights, which is judged and played, or None for the weights themselves; carried:
    the hidden state after the last batch. In the file `model_config`, `model_state`
    and `model_optimizer_state` are as the original has them, so that it can read them.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    encoding: int
    optimizer_state: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    averaged: dict[str, Tensor] | None = None
    carried: Tensor | None = None

    def model(self, device: torch.device, averaged: bool = True) -> PerformanceRNN:
        """The network with its averaged weights, or the last ones, as float32 on `device`."""
        with torch.device("meta"):
            model = PerformanceRNN(self.config)
        state = self.averaged if averaged and self.averaged else self.state
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
            "averaged_state": self.averaged,
            "carried_state": self.carried,
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
        raise ValueError(f"session version {tensorfile.told(version)}, not {SESSION}")
    names = {entry.name for entry in fields(ModelConfig)}
    sizes = record["model_config"]
    if not isinstance(sizes, dict) or set(sizes) != names:
        raise ValueError(f"model_config has not the entries {sorted(names)}")
    for entry in fields(ModelConfig):
        if type(sizes[entry.name]) not in (int, entry.metadata["type"]):
            told = tensorfile.told(sizes[entry.name])
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
        raise ValueError(f"encoding is {tensorfile.told(encoding)}, not a whole number")
    for key, value in training.items():
        if not isinstance(value, int | float | str):
            raise ValueError(f"{tensorfile.told(key)} in training is neither a number nor text")
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
