"""Recall during generation: the notes of each sequence, and what they contribute to the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corpus.recall import NoteMemory, index_row
from model import PerformanceRNN
from sequence import KEYS


class RecallTables:
    """What each row of the network's table contributes to the first GRU layer and to the logits."""

    def __init__(self, model: PerformanceRNN) -> None:
        weight = torch.cat([model.recall_gates, model.recall_output])
        self._table = model.recall_table @ weight.t()  # [rows, 3 * hidden + events]
        self._sizes = (len(model.recall_gates), len(model.recall_output))

    def sum(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return the contributions to the gates [batch, 3 * hidden] and the logits [batch, events].

        rows: of `corpus.recall.find_recall`, [batch, 10].
        """
        indices = [index for row in rows for index in index_row(row)]
        selected = self._table.index_select(0, torch.tensor(indices, device=self._table.device))
        sums = selected.view(len(rows), -1, sum(self._sizes)).sum(dim=1)
        gates, logits = sums.split_with_sizes(self._sizes, 1)
        return gates, logits


@dataclass
class RecallState:
    """What the sequences of a batch recall; `update` changes it.

    memories: the notes of each sequence, or None if recall is turned off; gates
    [batch, 3 * hidden] and logits [batch, events]: the contributions to the next step.
    """

    tables: RecallTables
    memories: list[NoteMemory] | None
    gates: Tensor
    logits: Tensor

    @staticmethod
    def start(tables: RecallTables, batch: int, keys: Sequence[int] | None) -> RecallState:
        """Return the state of sequences after the same notes; keys: None to recall nothing."""
        memory = NoteMemory(keys or ())
        gates, logits = tables.sum([memory.row] * batch)
        memories = None if keys is None else [memory.copy() for _ in range(batch)]
        return RecallState(tables, memories, gates, logits)

    def update(self, event: Tensor) -> None:
        """Add an event of each sequence [batch]."""
        if self.memories is None:
            return
        notes = [(i, key) for i, key in enumerate(event.tolist()) if key < KEYS]
        if not notes:
            return
        gates, logits = self.tables.sum([self.memories[i].add(key) for i, key in notes])
        if len(notes) == len(self.memories):
            self.gates, self.logits = gates, logits
            return
        changed = torch.tensor([i for i, _ in notes], device=event.device)
        self.gates.index_copy_(0, changed, gates)
        self.logits.index_copy_(0, changed, logits)

    def select(self, indices: Tensor) -> RecallState:
        """Return the state of the sequences with these indices, which may repeat."""
        memories = None
        if self.memories is not None:
            memories = [self.memories[i].copy() for i in indices.tolist()]
        return RecallState(self.tables, memories, self.gates[indices], self.logits[indices])

    @staticmethod
    def join(states: Iterable[RecallState]) -> RecallState:
        """Return the states of several batches as one."""
        first, *rest = states
        together = [first, *rest]
        memories = None
        if first.memories is not None:
            memories = [memory for state in together for memory in state.memories or ()]
        gates = torch.cat([state.gates for state in together])
        logits = torch.cat([state.logits for state in together])
        return RecallState(first.tables, memories, gates, logits)
