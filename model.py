"""PerformanceRNN: a GRU that says which event comes next, and the files it is kept in.

Shapes are [steps, batch, ...]. The network knows neither MIDI nor what an event means.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import tensorfile
import utils
from config import ModelConfig

CHUNK = 256  # steps for which random numbers are drawn at once

# what can come first, and what each event makes possible and impossible:
# bool [events], [events, events], [events, events]
Playable = tuple[Tensor, Tensor, Tensor]


class PerformanceRNN(nn.Module):
    """The network of `config`; inputs and outputs live on the device of its parameters."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        event_dim, hidden_dim, layers = config.event_dim, config.hidden_dim, config.gru_layers
        self.primary_event = event_dim - 1
        # the order of these lines is the order of the parameters in session files
        self.inithid_fc = nn.Linear(config.init_dim, layers * hidden_dim)
        self.event_embedding = nn.Embedding(event_dim, event_dim)
        self.concat_input_fc = nn.Linear(event_dim + config.control_dim + 1, hidden_dim)
        self.gru = nn.GRU(hidden_dim, hidden_dim, layers)  # run layer by layer, see forward
        self.output_fc = nn.Linear(layers * hidden_dim, event_dim)
        nn.init.xavier_normal_(self.event_embedding.weight)
        nn.init.xavier_normal_(self.inithid_fc.weight)
        nn.init.xavier_normal_(self.concat_input_fc.weight)
        nn.init.xavier_normal_(self.output_fc.weight)

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

    def forward(
        self,
        heard: Tensor,
        hidden: Tensor,
        controls: Tensor | None = None,
        controlled: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits [steps, batch, events] of what follows each heard event, and the new hidden state.

        heard: int64 [steps, batch]; hidden: [layers, batch, hidden]; controls, of the events
        that follow: [steps, batch, control], or None for none; controlled: bool [batch], the
        sequences that shall see theirs, or None for all.
        """
        output = functional.leaky_relu(
            self.concat_input_fc(self._inputs(heard, controls, controlled)), 0.1
        )
        outputs, last = [], []
        for layer in range(self.config.gru_layers):
            if layer and self.training:
                output = functional.dropout(output, self.config.gru_dropout)
            weights = [getattr(self.gru, f"{name}_l{layer}") for name in _GRU_WEIGHTS]
            output, state = torch.gru(
                output, hidden[layer : layer + 1], weights, True, 1, 0.0, False, False, False
            )
            outputs.append(output)  # [steps, batch, hidden]
            last.append(state)
        return self.output_fc(torch.cat(outputs, dim=-1)), torch.cat(last)

    def _inputs(self, heard: Tensor, controls: Tensor | None, controlled: Tensor | None) -> Tensor:
        """[steps, batch, events + 1 + control]: embedding, 1 for no control, control or zeros."""
        steps, batch = heard.shape
        if controls is None:
            controls = self.output_fc.weight.new_zeros(1, 1, self.config.control_dim)
            controlled = torch.zeros(batch, dtype=torch.bool, device=heard.device)
        elif controlled is None:
            controlled = torch.ones(batch, dtype=torch.bool, device=heard.device)
        seen = controlled[None, :, None].to(controls.dtype)  # [1, batch, 1]
        parts = [self.event_embedding(heard), (1 - seen).expand(steps, batch, 1)]
        parts.append((controls * seen).expand(steps, batch, -1))
        return torch.cat(parts, dim=-1)

    def scheduled(
        self,
        events: Tensor,
        hidden: Tensor,
        controls: Tensor,
        controlled: Tensor,
        teacher_forcing_ratio: float,
    ) -> tuple[Tensor, Tensor]:
        """As forward over `shifted(events)`, but some of what is heard the network said itself.

        Scheduled sampling (Bengio et al. 2015), step by step: each heard event is the true
        one with probability `teacher_forcing_ratio`, or else a sample from the logits.
        """
        logits, said = [], None
        for step, true in enumerate(self.shifted(events)):
            if said is not None:
                taught = torch.rand(true.shape, device=true.device) < teacher_forcing_ratio
                true = torch.where(taught, true, said)
            output, hidden = self(true[None], hidden, controls[step : step + 1], controlled)
            said = torch.distributions.Categorical(logits=output[0].detach()).sample()
            logits.append(output)
        return torch.cat(logits), hidden

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
        hidden = self.starts(init)
        heard = torch.full((len(init),), self.primary_event, device=self.device)
        allowed = None if playable is None else playable[0].expand(len(init), -1)
        for step in range(steps):
            if step % CHUNK == 0:
                draws = torch.stack([torch.rand(CHUNK, 2, generator=g) for g in generators], dim=2)
                draws = draws.to(self.device)  # [chunk, 2, batch]
            logits, hidden = self(heard[None], hidden, _at(controls, step))
            logits = _restricted(logits[0].float(), allowed)
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
        hidden = self.starts(init).repeat_interleave(beam_size, dim=1)
        heard = torch.full((batch * beam_size,), self.primary_event, device=self.device)
        allowed = None if playable is None else playable[0].expand(len(heard), -1)
        # before the first step all beams are alike: only the first may be continued
        score = torch.full((batch, beam_size), -torch.inf, device=self.device)
        score[:, 0] = 0.0
        rank = score.clone()  # what beams are chosen by
        rows = torch.arange(batch, device=self.device)[:, None] * beam_size
        choices, parents = [], []
        for step in range(steps):
            control = _at(controls, step)
            if control is not None:
                control = control.expand(1, batch, -1).repeat_interleave(beam_size, dim=1)
            logits, hidden = self(heard[None], hidden, control)
            logits = _tempered(_restricted(logits[0].float(), allowed), temperature)
            total = logits.view(batch, beam_size, -1) + score[..., None]
            ranks = _perturbed(total, rank, generators) if stochastic else total
            rank, chosen = ranks.flatten(1).topk(beam_size)  # [batch, beam]
            score = total.flatten(1).gather(1, chosen)
            parent, heard = chosen // logits.shape[-1], (chosen % logits.shape[-1]).flatten()
            choices.append(heard.view(batch, beam_size))
            parents.append(parent)
            lineage = (rows + parent).flatten()
            hidden = hidden[:, lineage]
            allowed = None if allowed is None else allowed[lineage]
            allowed = _after(allowed, heard, playable)
        return _traced(choices, parents)


_GRU_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _at(controls: Tensor | None, step: int) -> Tensor | None:
    """The control [1, batch, control] of one step; a single one holds throughout."""
    if controls is None or len(controls) == 1:
        return controls
    return controls[step : step + 1]


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


# --------------------------------------------------------------------------------- sessions

SESSION = 1  # version of the session file


@dataclass(frozen=True)
class Session:
    """A session file: the network, and beside it what training and generation want to know.

    encoding: version of the event encoding; optimizer_state: None in a session that is only
    played; training: plain numbers and text, such as the step. `model_config`, `model_state`
    and `model_optimizer_state` are as the original has them, so that it can read them.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    encoding: int
    optimizer_state: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)

    def model(self, device: torch.device) -> PerformanceRNN:
        """The network with its weights, as float32 on `device`."""
        with torch.device("meta"):
            model = PerformanceRNN(self.config)
        weights = {name: tensor.float() for name, tensor in self.state.items()}
        model.load_state_dict(weights, assign=True)
        return model.to(device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; killed at any instant, the old or the new one is there, whole."""
        record = {
            "session": SESSION,
            "encoding": self.encoding,
            "model_config": asdict(self.config),
            "model_state": self.state,
            "model_optimizer_state": self.optimizer_state or _unused_optimizer(self.config),
            "training": self.training,
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
    if type(encoding) is not int:
        raise ValueError(f"encoding is {tensorfile.told(encoding)}, not a whole number")
    for key, value in training.items():
        if not isinstance(value, int | float | str):
            raise ValueError(f"{tensorfile.told(key)} in training is neither a number nor text")
    return Session(config, state, encoding, optimizer_state, training)


def _unused_optimizer(config: ModelConfig) -> dict[str, Any]:
    """The state of an Adam that has made no step."""
    with torch.device("meta"):
        return torch.optim.Adam(PerformanceRNN(config).parameters()).state_dict()


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
