"""PerformanceRNN as a plain loop over sequences and events, with torch's multi-layer GRU."""

import torch
from torch import Tensor, nn

from config import ModelConfig
from model import PerformanceRNN

SIZES = ModelConfig(
    init_dim=4, event_dim=11, control_dim=5, hidden_dim=8, gru_layers=3, gru_dropout=0.3
)
FOUR_EVENT_SIZES = ModelConfig(init_dim=2, event_dim=4, control_dim=2, hidden_dim=6, gru_layers=1)


def make_model(sizes: ModelConfig = SIZES, scale: float = 1.0) -> PerformanceRNN:
    """Return a network with random weights; a larger scale gives less uniform distributions."""
    torch.manual_seed(1)
    model = PerformanceRNN(sizes).eval()
    for name, weight in model.named_parameters():
        weight.data *= scale
        if name.startswith("recall"):
            nn.init.normal_(weight, std=0.3)
    return model


def compute_logits(
    model: PerformanceRNN,
    events: Tensor,
    init: Tensor,
    controls: Tensor | None,
    recall: Tensor | None = None,
) -> Tensor:
    """Return the logits [steps, batch, events] that predict events [steps, batch].

    init: start vectors [batch, init]; controls: [steps, batch, control] or None; recall: indices
    of the rows of the table [steps, batch, n] for a network with recall.
    """
    shape = (model.config.gru_layers, 1, model.config.hidden_dim)
    with torch.no_grad():
        hidden = [torch.tanh(model.inithid_fc(vector)).view(shape) for vector in init]
    return compute_logits_from(model, events, hidden, controls, recall)


@torch.no_grad()
def compute_logits_from(
    model: PerformanceRNN,
    events: Tensor,
    initial: list[Tensor],
    controls: Tensor | None,
    recall: Tensor | None = None,
) -> Tensor:
    """Return the same, but start from a hidden state [layers, 1, hidden] for each sequence."""
    sizes, state = model.config, model.gru.state_dict()
    if sizes.recall_dim:
        state["weight_ih_l0"] = torch.cat([state["weight_ih_l0"], model.recall_gates], dim=1)
    gru = nn.GRU(sizes.hidden_dim + sizes.recall_dim, sizes.hidden_dim, sizes.gru_layers)
    gru.load_state_dict(state)
    columns = []
    for column, hidden in enumerate(initial):
        previous, logits = sizes.event_dim - 1, []
        for step in range(len(events)):
            control = torch.zeros(sizes.control_dim) if controls is None else controls[step, column]
            flag = torch.tensor([1.0 if controls is None else 0.0])
            joined = torch.cat([model.event_embedding.weight[previous], flag, control])
            merged = nn.functional.leaky_relu(model.concat_input_fc(joined), 0.1)
            more = torch.zeros(sizes.event_dim)
            if recall is not None:
                recalled = sum(model.recall_table[row] for row in recall[step, column].tolist())
                merged, more = torch.cat([merged, recalled]), model.recall_output @ recalled
            _, hidden = gru(merged.view(1, 1, -1), hidden)
            logits.append(model.output_fc(hidden.flatten()) + more)
            previous = int(events[step, column])
        columns.append(torch.stack(logits))
    return torch.stack(columns, dim=1)
