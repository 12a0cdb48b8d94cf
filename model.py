"""PerformanceRNN, a GRU that predicts the next event, and session files.

Tensors are [steps, batch, ...]. To the network, events are only indices.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import utils
from config import MODEL_SIZES, PRETRAINED, ModelConfig
from corpus import tensorfile
from corpus.recall import RECALL_ROWS, RECALL_WIDTH, index_recall
from sequence import PLAIN_CONTROLS, ControlLayout

RECALL_STD = 0.1  # of the initial weights of the table
GRU_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # in the order of torch.nn.GRU


class PerformanceRNN(nn.Module):
    """A network that predicts the next event from the previous events and a control.

    event embedding, control -> linear, leaky ReLU -> GRU layers -> linear -> event logits.
    The last linear layer sees the states of all GRU layers. With `recall_dim`, the first GRU
    layer and the last linear layer also see what is recalled of earlier passages: the sum of some
    rows of a table (corpus/recall.py).
    """

    def __init__(self, config: ModelConfig, controls: Sequence[str] = PLAIN_CONTROLS) -> None:
        """Create the network with random weights; controls: the names of its controls."""
        super().__init__()
        self.config, self.layout = config, ControlLayout(controls)
        event_dim, hidden_dim, layers = config.event_dim, config.hidden_dim, config.gru_layers
        self.primary_event = event_dim - 1  # the input before the first event
        # the order of these lines is the order of the parameters in session files, except that
        # those of recall come first, because they belong to the module itself
        self.inithid_fc = nn.Linear(config.init_dim, layers * hidden_dim)
        # with its own initialization, nn.Embedding imports the compiler on the meta device (1 s)
        weight = torch.empty(event_dim, event_dim).uniform_(-(3**0.5), 3**0.5)  # variance 1
        self.event_embedding = nn.Embedding(event_dim, event_dim, _weight=weight)
        self.concat_input_fc = nn.Linear(event_dim + config.control_dim + 1, hidden_dim)
        self.gru = nn.GRU(hidden_dim, hidden_dim, layers)  # run layer by layer, see forward
        self.output_fc = nn.Linear(layers * hidden_dim, event_dim)
        if recall_dim := config.recall_dim:  # with zeros, recall changes nothing
            self.recall_table = nn.Parameter(torch.zeros(RECALL_ROWS, recall_dim))
            self.recall_gates = nn.Parameter(torch.zeros(3 * hidden_dim, recall_dim))
            self.recall_output = nn.Parameter(torch.zeros(event_dim, recall_dim))

    @torch.no_grad()
    def init_weights(self) -> PerformanceRNN:
        """Set the initial weights for training; return this network.

        Embeddings have variance 1, so that events differ from the start; recurrent weights are
        orthogonal; the bias of the update gate is raised, so that the state changes slowly.
        docs/experiments.md compares them with other initial weights.
        """
        nn.init.normal_(self.event_embedding.weight)
        for linear in (self.inithid_fc, self.concat_input_fc, self.output_fc):
            nn.init.xavier_normal_(linear.weight)
        hidden_dim = self.config.hidden_dim
        for layer in range(self.config.gru_layers):
            weight_ih, weight_hh, bias_ih = (
                getattr(self.gru, f"{name}_l{layer}") for name in GRU_WEIGHTS[:3]
            )
            for gate in range(3):
                rows = slice(gate * hidden_dim, (gate + 1) * hidden_dim)
                nn.init.xavier_uniform_(weight_ih[rows])
                nn.init.orthogonal_(weight_hh[rows])
            bias_ih[hidden_dim : 2 * hidden_dim] += 1.0
        if self.config.recall_dim:  # the other weights of recall are 0: it changes nothing at first
            nn.init.normal_(self.recall_table, std=RECALL_STD)
        return self

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.output_fc.weight.device

    def init_hidden(self, init: Tensor) -> Tensor:
        """Return the hidden state [layers, batch, hidden] for start vectors [batch, init].

        As in the original, several vectors are reshaped without a transposition, so the state of
        one sequence mixes several vectors. Sessions are trained this way, so it must stay.
        """
        layers, hidden_dim = self.config.gru_layers, self.config.hidden_dim
        return torch.tanh(self.inithid_fc(init)).view(layers, len(init), hidden_dim)

    def init_hidden_each(self, init: Tensor) -> Tensor:
        """Return the hidden state [layers, batch, hidden] with each vector used by itself.

        The state of a sequence then does not depend on the rest of the batch.
        """
        return torch.cat([self.init_hidden(vector[None]) for vector in init], dim=1)

    def shift_right(self, events: Tensor) -> Tensor:
        """Return the inputs that predict `events` [steps, batch]: the primary event comes first."""
        return torch.cat([torch.full_like(events[:1], self.primary_event), events[:-1]])

    def compute_event_table(self) -> Tensor:
        """Return what each event contributes to the first linear layer [events, hidden].

        The input of that layer is the concatenation of the event's embedding, a flag "no control"
        and the control. So its output is a sum: this table, and the result of `project_controls`.
        """
        event_dim = self.config.event_dim
        weight, bias = self.concat_input_fc.weight, self.concat_input_fc.bias
        return functional.linear(self.event_embedding.weight, weight[:, :event_dim], bias)

    def project_controls(self, controls: Tensor | None, use_control: Tensor | None) -> Tensor:
        """Return what the flag "no control" and the control contribute to the first linear layer.

        Shape [steps or 1, batch, hidden], or [hidden] without controls. Arguments as in forward.
        """
        event_dim = self.config.event_dim
        weight = self.concat_input_fc.weight  # [hidden, events + 1 + control]
        no_control = weight[:, event_dim]  # the weights of the flag
        if self.layout.flags:  # each control can be left open: no control means that all are
            first = event_dim + 1 + self.layout.flags.start
            no_control = weight[:, first : first + len(self.layout.flags)].sum(dim=1)
        if controls is None:
            return no_control
        projected = functional.linear(controls, weight[:, event_dim + 1 :])
        if use_control is None:
            return projected
        return torch.where(use_control[:, None], projected, no_control.to(projected.dtype))

    def sum_recall(self, recall: Tensor | None) -> Tensor:
        """Return the sum of the table's rows that `recall` selects, [steps, batch, recall_dim].

        recall: uint8 [steps, batch, 10] as in `corpus.recall.find_recall`, or None for nothing,
        which gives [1, 1, recall_dim].
        """
        if recall is None:
            recall = torch.zeros(1, 1, RECALL_WIDTH, dtype=torch.uint8, device=self.device)
        rows = index_recall(recall)
        if self.device.type == "mps":  # which has no embedding_bag before torch 2.10
            return functional.embedding(rows, self.recall_table).sum(dim=-2)
        sums = functional.embedding_bag(rows.flatten(0, 1), self.recall_table, mode="sum")
        return sums.view(*rows.shape[:2], -1)

    def forward(
        self,
        inputs: Tensor,
        hidden: Tensor,
        controls: Tensor | None = None,
        use_control: Tensor | None = None,
        event_table: Tensor | None = None,
        layers: Sequence[Callable[[Tensor, Tensor], Tensor]] | None = None,
        recall: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits [steps, batch, events] and the hidden state after the last step.

        inputs: int64 [steps, batch], the event before each predicted event;
        hidden: [layers, batch, hidden];
        controls: [steps or 1, batch, control], those of the predicted events, or None;
        use_control: bool [batch], the sequences that use their controls, or None for all;
        event_table: the result of `compute_event_table()`, which saves time in many calls;
        layers: run these, such as BFloat16Layer, instead of the GRU layers of the network;
        recall: uint8 [steps, batch, 10], what is recalled before the predicted event
        (corpus.recall.find_recall), or None for nothing; a network without recall ignores it.
        """
        table = self.compute_event_table() if event_table is None else event_table
        embedded = functional.embedding(inputs, table)  # [steps, batch, hidden]
        projected = self.project_controls(controls, use_control)
        output = functional.leaky_relu(embedded + projected, 0.1)
        recall_sum = None
        if self.config.recall_dim:
            recall_sum = self.sum_recall(recall).to(output.dtype).expand(*inputs.shape, -1)
            output = torch.cat([output, recall_sum], dim=-1)
        outputs, last = [], []
        for layer in range(self.config.gru_layers):
            if layer and self.training and self.config.gru_dropout:
                # the same units at all steps of this call (Gal and Ghahramani 2016)
                mask = functional.dropout(torch.ones_like(output[0]), self.config.gru_dropout)
                output = output * mask
            if layers is None:
                output = self._run_layer(output, hidden[layer], self.get_gru_weights(layer))
            else:
                output = layers[layer](output, hidden[layer])
            outputs.append(output)
            last.append(output[-1])
        logits = self.output_fc(torch.cat(outputs, dim=-1))
        if recall_sum is not None:
            logits = logits + functional.linear(recall_sum, self.recall_output)
        return logits, torch.stack(last)

    def forward_scheduled(
        self,
        inputs: Tensor,
        hidden: Tensor,
        controls: Tensor,
        use_control: Tensor,
        teacher_forcing_ratio: float,
        recall: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the same as `forward`, with some inputs replaced by samples of the network.

        From the second step on, an input is the true event with probability
        `teacher_forcing_ratio`, and otherwise an event that is sampled from the logits of the
        step before (scheduled sampling, Bengio et al. 2015). `recall` is that of the true events.
        """
        logits, table = [], self.compute_event_table()
        sampled = inputs[0]
        for step, true_event in enumerate(inputs):
            use_true = torch.rand(true_event.shape, device=inputs.device) < teacher_forcing_ratio
            event = torch.where(use_true | (step == 0), true_event, sampled)
            control = controls[step : step + 1]
            row = None if recall is None else recall[step : step + 1]
            output, hidden = self(event[None], hidden, control, use_control, table, recall=row)
            probabilities = output[0].detach().float().softmax(dim=-1)
            sampled = probabilities.multinomial(1)[:, 0]  # [batch]
            logits.append(output)
        return torch.cat(logits), hidden

    def get_gru_weights(self, layer: int) -> list[Tensor]:
        """Return the weights of a layer, in the order of GRU_WEIGHTS.

        In a network with recall, the inputs of the first layer end with the sum of the table's
        rows, and its weight_ih is a copy.
        """
        weights = [getattr(self.gru, f"{name}_l{layer}") for name in GRU_WEIGHTS]
        if layer == 0 and self.config.recall_dim:
            weights[0] = torch.cat([weights[0], self.recall_gates], dim=1)
        return weights

    def _run_layer(self, inputs: Tensor, initial: Tensor, weights: list[Tensor]) -> Tensor:
        """Return the states [steps, batch, hidden] of a layer after `initial` [batch, hidden].

        Training on a CPU uses GRULayer, which is faster there; everything else uses torch's GRU.
        """
        has_backward = self.training and torch.is_grad_enabled() and len(inputs) > 1
        if not has_backward or inputs.device.type != "cpu":
            states: Tensor = torch.gru(
                inputs, initial[None], weights, True, 1, 0.0, False, False, False
            )[0]
            return states
        arguments = [inputs, initial, *weights]
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            arguments = [value.to(dtype) for value in arguments]
        return GRULayer.apply(*arguments)  # type: ignore


# -------------------------------------------------------------------------------- GRU layer
#
# With reset gate r, update gate z, new gate n and state h, as in torch.nn.GRU:
#   r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
#   z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
#   n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
#   h' = (1 - z) * n + z * h

CHUNK = 8  # steps whose derivatives are computed at once; so few stay in the processor's cache


class GRULayer(torch.autograd.Function):
    """A GRU layer that computes the states [steps, batch, hidden] of all steps.

    Arguments: inputs [steps, batch, width], initial state [batch, hidden], and weight_ih,
    weight_hh, bias_ih, bias_hh as in `torch.nn.GRU`: rows of the reset, update and new gates.
    All have the same dtype, in which the layer also computes.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, *biases: Tensor
    ) -> Tensor:
        """Compute the states; save the gates, the states and W_hn h + b_hn of each step."""
        (steps, batch, width), hidden_dim = inputs.shape, w_hh.shape[1]
        bias_ih, bias_hh = biases
        # first W_i x + b_i for all steps at once; each step then overwrites its part with the gates
        gates = torch.addmm(bias_ih, inputs.reshape(-1, width), w_ih.t())
        gates = gates.view(steps, batch, 3 * hidden_dim)
        states = inputs.new_empty(steps + 1, batch, hidden_dim)
        states[0] = initial
        hidden_new = inputs.new_empty(steps, batch, hidden_dim)  # W_hn h + b_hn
        hidden_part = inputs.new_empty(batch, 3 * hidden_dim)  # W_h h + b_h of one step
        widths = (2 * hidden_dim, hidden_dim)  # reset and update gates, new gate
        hidden_reset_update, hidden_rest = hidden_part.split_with_sizes(widths, 1)
        for step_gates, saved, state, next_state in zip(
            gates, hidden_new, states[:-1], states[1:], strict=True
        ):
            torch.addmm(bias_hh, state, w_hh.t(), out=hidden_part)
            saved.copy_(hidden_rest)
            reset_update, new = step_gates.split_with_sizes(widths, 1)
            reset_update.add_(hidden_reset_update).sigmoid_()
            reset, update = reset_update.split_with_sizes((hidden_dim, hidden_dim), 1)
            new.addcmul_(reset, saved).tanh_()
            torch.lerp(new, state, update, out=next_state)
        ctx.save_for_backward(inputs, w_ih, w_hh, gates, states, hidden_new)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        """Compute the gradients of the gates step by step from the last, then those of the weights.

        Each weight takes one matrix product over all steps.
        """
        inputs, w_ih, w_hh, gates, states, hidden_new = ctx.saved_tensors
        (grad_states,) = grads
        steps, batch, hidden_dim = hidden_new.shape
        grad_gates = torch.empty_like(gates)  # gradient of W_h h + b_h
        grad_new = torch.empty_like(hidden_new)  # gradient of W_in x + b_in
        grad_hidden = torch.zeros_like(states[0])
        for end in range(steps, 0, -CHUNK):
            chunk = slice(max(0, end - CHUNK), end)
            derivatives = _gate_derivatives(gates[chunk], states[chunk], hidden_new[chunk])
            columns = (grad_states[chunk], grad_gates[chunk], grad_new[chunk], *derivatives)
            last_to_first = (reversed(column.unbind()) for column in columns)
            for grad_state, grad_gate, d_new, to_new, to_update, to_reset, reset, update in zip(
                *last_to_first, strict=True
            ):
                grad_hidden += grad_state
                d_reset, d_update, d_hidden_new = grad_gate.split_with_sizes((hidden_dim,) * 3, 1)
                torch.mul(grad_hidden, to_new, out=d_new)
                torch.mul(d_new, to_reset, out=d_reset)
                torch.mul(grad_hidden, to_update, out=d_update)
                torch.mul(d_new, reset, out=d_hidden_new)
                grad_hidden = grad_hidden.mul_(update).addmm_(grad_gate, w_hh)
        flat = grad_gates.view(-1, 3 * hidden_dim)  # [steps * batch, 3 * hidden]
        grad_w_hh = flat.t() @ states[:-1].reshape(-1, hidden_dim)
        grad_bias_hh = flat.sum(dim=0)
        grad_gates[..., 2 * hidden_dim :] = grad_new  # now the gradient of W_i x + b_i
        grad_bias_ih = grad_bias_hh.clone()  # differs in the new gate only
        grad_bias_ih[2 * hidden_dim :] = grad_new.view(-1, hidden_dim).sum(dim=0)
        grad_w_ih = flat.t() @ inputs.reshape(steps * batch, -1)
        grad_inputs = (flat @ w_ih).view_as(inputs)
        return grad_inputs, grad_hidden, grad_w_ih, grad_w_hh, grad_bias_ih, grad_bias_hh


def _gate_derivatives(gates: Tensor, states: Tensor, hidden_new: Tensor) -> tuple[Tensor, ...]:
    """Return the factors of the backward pass at some steps, each [steps, batch, hidden].

    In order: dh'/d(input of n's tanh), dh'/d(input of z's sigmoid), d(input of n's tanh)/d(input
    of r's sigmoid), d(input of n's tanh)/d(W_hn h + b_hn), and the direct part of dh'/dh.
    """
    reset, update, new = gates.chunk(3, dim=-1)
    one_minus_update = 1 - update
    to_new = (new * new).neg_().add_(1).mul_(one_minus_update)
    to_update = (states - new).mul_(update).mul_(one_minus_update)
    to_reset = (1 - reset).mul_(reset).mul_(hidden_new)
    return to_new, to_update, to_reset, reset, update


class BFloat16Layer:
    """A trained GRU layer with its matrix products in bfloat16, the rest in float32.

    If the states were in bfloat16, too, the loss of a whole performance would change by 0.001
    nats/event, with states in float32 it changes by 0.00002. Arguments: see GRULayer.
    """

    def __init__(self, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> None:
        # tanh(x) = 2 sigmoid(2 x) - 1, and torch's sigmoid is much faster than its tanh
        scale = torch.ones(len(w_hh), 1)
        scale[2 * w_hh.shape[1] :] = 2.0
        weights = (w_ih * scale, w_hh * scale, b_ih * scale[:, 0], b_hh * scale[:, 0])
        self.w_ih, self.w_hh, self.b_ih, self.b_hh = (w.detach().bfloat16() for w in weights)

    def __call__(self, inputs: Tensor, initial: Tensor) -> Tensor:
        """Return the states, float32 [steps, batch, hidden].

        inputs: float32 [steps, batch, width]; initial: float32 [batch, hidden].
        """
        (steps, batch), hidden_dim = inputs.shape[:2], self.w_hh.shape[1]
        input_products = functional.linear(inputs.bfloat16(), self.w_ih, self.b_ih)
        states = inputs.new_empty(steps, batch, hidden_dim)
        rounded, w_hh, minus_one = initial.bfloat16(), self.w_hh.t(), inputs.new_tensor(-1.0)
        product = rounded.new_empty(batch, 3 * hidden_dim)
        # of one step: W_i x + b_i, which the gates overwrite, and W_h h + b_h
        gates, hidden_part = inputs.new_empty(2, batch, 3 * hidden_dim)
        widths = (2 * hidden_dim, hidden_dim)  # reset and update gates, new gate
        reset_update, new = gates.split_with_sizes(widths, 1)
        hidden_reset_update, hidden_new = hidden_part.split_with_sizes(widths, 1)
        reset, update = reset_update.split_with_sizes((hidden_dim, hidden_dim), 1)
        state = initial
        for step_input, next_state in zip(input_products.unbind(), states.unbind(), strict=True):
            torch.addmm(self.b_hh, rounded, w_hh, out=product)
            gates.copy_(step_input)
            hidden_part.copy_(product)
            reset_update.add_(hidden_reset_update).sigmoid_()
            new.addcmul_(reset, hidden_new).sigmoid_()
            torch.add(minus_one, new, alpha=2, out=new)
            torch.lerp(new, state, update, out=next_state)
            rounded.copy_(next_state)
            state = next_state
        return states


# ----------------------------------------------------------------------------- session file

# 2: "options" and "scaler" in `training` are dicts; 3: "controls", if not density and histogram;
# 4: recall
SESSION_VERSION = 4
# names in the entry `training` of older session files, and what they are called now
OLD_TRAINING_NAMES = {"judges": "val_data", "worse": "stale_validations", "data": "train_data"}
OLD_PREFIXES = {"option": "options", "scaler": "scaler"}
OLD_OPTION_NAMES = {"averaging": "ema_decay"}
# type and range of numbers in `training`; those of its dicts "options" and "scaler" have two names
TRAINING_NUMBERS: dict[str, tuple[type, float, float]] = {
    "step": (int, 0, 2**53),
    "seconds": (float, 0.0, 1e12),
    "events": (int, 0, 2**63),
    "best": (float, 0.0, math.inf),
    "before": (float, 0.0, math.inf),
    "stale_validations": (int, 0, 2**53),
    "lr_scale": (float, 0.0, 1.0),
    "options control_ratio": (float, 0.0, 1.0),
    "scaler scale": (float, 1e-45, 1e38),
    "scaler growth_factor": (float, 1.0, 1e6),
    "scaler backoff_factor": (float, 1e-6, 1.0),
    "scaler growth_interval": (int, 1, 2**53),
    "scaler _growth_tracker": (int, 0, 2**53),
}
TRAINING_TEXTS = ("val_data", "train_data", "precision")
LFS_MARK = "version https://git-lfs"  # at the start of a pointer file
# before the names of weights, if a wrapped network was saved: DistributedDataParallel, compile
WRAPPERS = ("module.", "_orig_mod.")
MAX_TEXT = 10_000  # characters
MAX_SEEN = 2**30  # characters of the text "seen": 12 for each performance that was trained on
MAX_WEIGHT = 1e10  # with larger weights the network could compute what is not finite


@dataclass(frozen=True)
class Session:
    """The content of a session file: a network and what training and generation need.

    state: the weights; encoding: the version of the event encoding;
    optimizer_state: the state of Adam, or None if it has made no step;
    training: numbers and text such as the step; "options" is a dict of numbers and text;
    ema_state: the moving average of the weights, for evaluation and generation, or None;
    hidden_state: [layers, batch, hidden] after the last batch, or None;
    controls: the names of the controls, in the order of the table;
    train_profile: what `analysis.profile` knows of the training data, as a dict of numbers, texts
    and tensors, or None.

    The original can read the entries `model_config`, `model_state` and `model_optimizer_state`.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    encoding: int
    optimizer_state: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    ema_state: dict[str, Tensor] | None = None
    hidden_state: Tensor | None = None
    controls: tuple[str, ...] = PLAIN_CONTROLS
    train_profile: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Return a short description: controls, sizes, steps of training."""
        sizes = f"{self.config.gru_layers} x {self.config.hidden_dim} units"
        step, names = self.training.get("step", 0), ",".join(self.controls)
        return f"<Session: {sizes}, encoding {self.encoding}, controls {names}, step {step}>"

    def build_model(self, device: torch.device, ema: bool = True) -> PerformanceRNN:
        """Return the network in float32; its weights are the average if there is one and `ema`."""
        with torch.device("meta"):
            model = PerformanceRNN(self.config, self.controls)
        state = self.ema_state if ema and self.ema_state else self.state
        weights = {name: tensor.float() for name, tensor in state.items()}
        model.load_state_dict(weights, assign=True)
        return model.to(device)

    @property
    def version(self) -> int:
        """The oldest version of the format that has all that the network has."""
        if self.config.recall_dim:
            return SESSION_VERSION
        return 2 if self.controls == PLAIN_CONTROLS else 3

    @property
    def control_ratio(self) -> float | None:
        """The share of the training windows that used their controls, or None if unknown."""
        ratio = self.training.get("options", {}).get("control_ratio")
        return float(ratio) if isinstance(ratio, int | float) else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; if the process is killed, the old file or the whole new one remains."""
        sizes = asdict(self.config)
        if not self.config.recall_dim:  # unknown to the original
            del sizes["recall_dim"]
        record = {
            "session": self.version,
            "encoding": self.encoding,
            "model_config": sizes,
            "model_state": self.state,
            "model_optimizer_state": self.optimizer_state or _unused_optimizer(self.config),
            "training": self.training,
            "averaged_state": self.ema_state,
            "carried_state": self.hidden_state,
        }
        if self.controls != PLAIN_CONTROLS:
            record["controls"] = list(self.controls)
        if self.train_profile:
            record["train_profile"] = self.train_profile
        content = io.BytesIO()
        torch.save(record, content)
        utils.atomic_write(path, content.getvalue())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Session:
        """Read a session file of this project or of the original.

        The name of the shipped session, without a folder, is found from any folder. Raises OSError
        if it cannot be opened, ValueError with the path if its content is invalid.
        """
        shipped = Path(__file__).with_name(PRETRAINED)
        is_shipped = os.fspath(path) == PRETRAINED and not os.path.exists(path)
        try:
            record = tensorfile.load(shipped if is_shipped and shipped.exists() else path)
        except FileNotFoundError as error:
            hint = "no such session file: train.py makes one, and pretrained.sess is ready to use"
            raise FileNotFoundError(error.errno, hint, os.fspath(path)) from error
        except ValueError as error:
            if os.path.isfile(path) and utils.has_mark(path, LFS_MARK):
                raise ValueError(
                    f"{path}: only a pointer to a file in Git LFS: get the file with git lfs pull"
                ) from error
            raise
        try:
            return _parse_session(record)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _parse_session(record: Any) -> Session:
    """Check the content of a session file; return it as a Session."""
    if not isinstance(record, dict) or "model_config" not in record:
        raise ValueError("not a session file (missing 'model_config')")
    version, encoding = record.get("session", 1), record.get("encoding", 1)
    if type(version) is not int or not 1 <= version <= SESSION_VERSION:
        shown = tensorfile.format_value(version)
        raise ValueError(
            f"session version {shown} is unknown, this program reads 1 to {SESSION_VERSION}"
        )
    tensorfile.check_number("encoding", encoding, int, 0, 2**31)
    sizes = record["model_config"]
    known = set(MODEL_SIZES)
    if not isinstance(sizes, dict) or set(sizes) not in (known, known - {"recall_dim"}):
        raise ValueError(f"model_config does not have the entries {sorted(known)}")
    for name in sizes:
        if type(sizes[name]) not in (int, MODEL_SIZES[name][0]):
            raise ValueError(f"{name} is {tensorfile.format_value(sizes[name])}, not a number")
    config, state = ModelConfig(**sizes), _remove_wrappers(record.get("model_state", {}))
    _check_state(config, state)
    ema_state = _remove_wrappers(record.get("averaged_state"))
    hidden_state = record.get("carried_state")
    if ema_state is not None:
        _check_state(config, ema_state)
    if hidden_state is not None:
        _check_hidden(config, hidden_state)
        if not hidden_state.isfinite().all():  # an overflow in fp16; the weights are still good
            hidden_state = None
    optimizer_state = record.get("model_optimizer_state", record.get("optimizer_state"))
    if not isinstance(optimizer_state, dict | None):
        raise ValueError("model_optimizer_state is not a dict")
    if isinstance(optimizer_state, dict) and _is_empty(optimizer_state.get("state")):
        optimizer_state = None  # no optimizer step was made
    training = _parse_training(record.get("training", {}))
    return Session(
        config,
        state,
        encoding,
        optimizer_state,
        training,
        ema_state,
        hidden_state,
        _parse_controls(record, config),
        _parse_profile(record.get("train_profile")),
    )


def _remove_wrappers(state: Any) -> Any:
    """Return the weights with their names in the network itself; anything else unchanged."""
    for _ in range(len(WRAPPERS)):
        for prefix in WRAPPERS:
            if isinstance(state, dict) and state and all(str(k).startswith(prefix) for k in state):
                state = {str(name)[len(prefix) :]: state[name] for name in state}
    return state


def _parse_controls(record: dict[str, Any], config: ModelConfig) -> tuple[str, ...]:
    """Return the controls in a session file; raise ValueError if they do not fit the network."""
    names = record.get("controls")
    if names is None:
        return PLAIN_CONTROLS
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("controls is not a list of names")
    layout = ControlLayout(names)
    if list(layout.names) != names or layout.dim != config.control_dim:
        raise ValueError(
            f"control_dim {config.control_dim} does not fit the controls {names!r:.200}"
        )
    return layout.names


def _parse_profile(profile: Any) -> dict[str, Any] | None:
    """Return the entry `train_profile`; raise ValueError unless it is a dict of plain values."""
    kinds = (str, int, float, Tensor)
    if profile is not None and not (
        isinstance(profile, dict)
        and all(isinstance(k, str) and isinstance(v, kinds) for k, v in profile.items())
    ):
        raise ValueError("train_profile is not a dict of numbers, texts and tensors")
    return profile


def _parse_training(training: Any) -> dict[str, Any]:
    """Check the entry `training` of a session file; return it in the current layout.

    Older files have training["option control_ratio"] instead of
    training["options"]["control_ratio"], and training["scaler scale"] instead of
    training["scaler"]["scale"].
    """
    if not isinstance(training, dict):
        raise ValueError("training is not a dict")
    parsed: dict[str, Any] = {name: {} for name in OLD_PREFIXES.values()}
    for key, value in training.items():
        if not isinstance(key, str):
            raise ValueError(f"{tensorfile.format_value(key)} in training is not a name")
        prefix, _, name = key.partition(" ")
        if key in parsed:
            if not isinstance(value, dict):
                raise ValueError(f"{key} in training is not a dict of numbers and text")
            parsed[key] |= {name: _parse_value(f"{key} {name}", value[name]) for name in value}
        elif prefix in OLD_PREFIXES and name:
            name = OLD_OPTION_NAMES.get(name, name)
            group = OLD_PREFIXES[prefix]
            parsed[group][name] = _parse_value(f"{group} {name}", value)
        else:
            name = OLD_TRAINING_NAMES.get(key, key)
            parsed[name] = _parse_value(name, value)
    return {name: value for name, value in parsed.items() if value != {}}


def _parse_value(name: str, value: Any) -> int | float | str:
    """Return a number or a text in `training`; raise ValueError for a wrong type or range."""
    shown = f"{name[:60]} in training"
    if name in TRAINING_NUMBERS:
        kind, low, high = TRAINING_NUMBERS[name]
        is_option = " " in name  # where 1 and 1.0 mean the same
        number = float(value) if kind is float and type(value) is int and is_option else value
        tensorfile.check_number(shown, number, kind, low, high)
        return number
    if isinstance(value, str) and len(value) <= (MAX_SEEN if name == "seen" else MAX_TEXT):
        return value
    is_number = isinstance(value, int | float) and abs(value) <= 2**64
    if name in TRAINING_TEXTS or not is_number:
        raise ValueError(f"{shown} is {tensorfile.format_value(value)}, neither a number nor text")
    return value


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, dict | list) and not value)


def _unused_optimizer(config: ModelConfig) -> dict[str, Any]:
    """Return the state of an Adam that has made no step; the original cannot load None."""
    with torch.device("meta"):
        model = PerformanceRNN(config)
    # not inside the block: in torch 2.6 creating an optimizer fails with the meta device
    return torch.optim.Adam(model.parameters()).state_dict()


def _check_state(config: ModelConfig, state: Any) -> None:
    """Raise ValueError unless `state` has exactly the weights of the network, none too large."""
    with torch.device("meta"):  # a file may claim huge sizes: allocate nothing for them
        expected = {name: t.shape for name, t in PerformanceRNN(config).state_dict().items()}
    if not isinstance(state, dict) or set(state) != set(expected):
        raise ValueError("model_state does not have the weights of a network of this size")
    for name, shape in expected.items():
        tensor = state[name]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{name} is not a tensor of floating-point numbers")
        if tensor.shape != shape:
            raise ValueError(f"{name} has the shape {list(tensor.shape)}, not {list(shape)}")
        if not (tensor.abs() <= MAX_WEIGHT).all():  # false for nan
            raise ValueError(f"{name} has weights that are not finite, or over {MAX_WEIGHT:g}")


def _check_hidden(config: ModelConfig, hidden: Any) -> None:
    """Raise ValueError unless this is a hidden state for the network, of any batch size."""
    if not isinstance(hidden, Tensor) or hidden.dtype != torch.float32 or hidden.dim() != 3:
        raise ValueError("carried_state is not float32 [layers, batch, hidden]")
    if (len(hidden), hidden.shape[2]) != (config.gru_layers, config.hidden_dim):
        raise ValueError(f"carried_state has the shape {list(hidden.shape)} of another network")


# ----------------------------------------------------------------------------------- device


def pick_device(name: str) -> torch.device:
    """Return the device `name`, one of config.DEVICES; "auto" prefers cuda, then mps, then cpu.

    Raises ValueError if this machine does not have the device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_available in available.items() if is_available)
    if not available[name]:
        raise ValueError(f"argument --device: {name} is not available on this machine")
    return torch.device(name)
