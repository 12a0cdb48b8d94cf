"""Evaluation of a network on performances: negative log-likelihood and accuracy.

The performances are divided among threads. Each thread has a batch of columns, which are evaluated
side by side; when a performance ends, the next one goes on in its column. So the memory does not
depend on the number of performances. The batches depend only on the data and on the number of
threads: with the same number on the same machine, the result is the same to the last bit.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from corpus.performance import Corpus, expand_controls
from corpus.recall import RECALL_WIDTH, PerformanceRecall
from model import BFloat16Layer, PerformanceRNN
from sequence import PLAIN_CONTROLS, ControlLayout, Encoding, EventSeq
from utils import Array

STEPS = 128  # events of each column that are evaluated at once, at most
READ_EVENTS = 2048  # events that are read from a file at once, about
CPU_COLUMNS, GPU_COLUMNS = 128, 512  # in the batch of a thread, at most
MAX_THREADS = 16  # more of them would have few events each, and wait for each other
MAX_MEMORY = 2**28  # bytes, of the tensors of all threads, about
PROGRESS_INTERVAL = 0.2  # seconds

Visible = Sequence[str] | None  # names of the controls that the network gets; None: all


@dataclass(frozen=True, eq=False)
class EvalResult:
    """Sums over all predicted events; each array has an entry for each of the 240 events.

    counts: how often the event occurred; correct: how often it was also the most likely one;
    losses: the sum of its negative log-likelihoods, in nats.
    """

    counts: Array
    correct: Array
    losses: Array
    encoding: Encoding

    @property
    def events(self) -> int:
        """The number of predicted events."""
        return int(self.counts.sum())

    @property
    def notes(self) -> int:
        """The number of note-on events."""
        return int(self.counts[EventSeq.feat_ranges()["note_on"]].sum())

    @property
    def nats(self) -> float:
        """The sum of the negative log-likelihoods of all events."""
        return float(self.losses.sum())

    @property
    def nats_per_event(self) -> float:
        """The mean negative log-likelihood of an event."""
        return self.nats / self.events

    @property
    def nats_per_note(self) -> float:
        """The sum of the negative log-likelihoods of all events, divided by the number of notes."""
        return self.nats / max(1, self.notes)

    @property
    def bits_per_second(self) -> float:
        """The negative log-likelihood in bits per second of music; time shifts give the seconds."""
        ticks = self.counts[EventSeq.feat_ranges()["time_shift"]] @ self.encoding.time_shifts
        seconds = float(ticks / self.encoding.ticks_per_second)
        return self.nats / math.log(2) / max(seconds, 0.001)

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-likelihood of an event."""
        return math.exp(self.nats_per_event) if self.nats_per_event < 700 else math.inf  # overflow

    @property
    def accuracy(self) -> float:
        """The share of the events that were the most likely ones."""
        return float(self.correct.sum()) / self.events

    @property
    def accuracy_by_kind(self) -> dict[str, float]:
        """The accuracy of note_on, note_off, velocity and time_shift; nan for no events."""
        accuracy = {}
        for kind, span in EventSeq.feat_ranges().items():
            correct, count = self.correct[span].sum(), self.counts[span].sum()
            accuracy[kind] = float(correct / count) if count else math.nan
        return accuracy

    def to_record(self) -> dict[str, Any]:
        """Return the metrics by name, for JSON; None for an accuracy without events."""
        kinds = self.accuracy_by_kind.items()
        return {
            "events": self.events,
            "notes": self.notes,
            "nats_per_event": self.nats_per_event,
            "nats_per_note": self.nats_per_note,
            "bits_per_second": self.bits_per_second,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
            "accuracy_by_kind": {k: None if math.isnan(share) else share for k, share in kinds},
        }

    def __str__(self) -> str:
        return f"{self.nats_per_event:.3f} nats/event ({self.nats_per_note:.2f} nats/note)"


def format_results_table(columns: dict[str, EvalResult]) -> str:
    """Format the metrics of several results as a table: a header, and a column for each result."""
    results = list(columns.values())
    rows = [
        ("", list(columns)),
        ("nats/event", [f"{result.nats_per_event:.4f}" for result in results]),
        ("nats/note", [f"{result.nats_per_note:.3f}" for result in results]),
        ("bits/s", [f"{result.bits_per_second:.2f}" for result in results]),
        ("perplexity", [f"{result.perplexity:.3f}" for result in results]),
        ("accuracy", [f"{result.accuracy:.1%}" for result in results]),
    ]
    for kind in EventSeq.feat_ranges():
        shares = [f"{result.accuracy_by_kind[kind]:.1%}" for result in results]
        rows.append((f"  {kind.replace('_', ' ')}", shares))
    width = 2 + max(len("nats/event"), *map(len, columns))
    lines = [f"{name:14}" + "".join(f"{cell:>{width}}" for cell in cells) for name, cells in rows]
    return "\n".join(lines)


def list_visible_controls(layout: ControlLayout) -> dict[str, tuple[str, ...]]:
    """Return sets of controls to evaluate a network with, by label: all, the first two, none."""
    choices = {"all controls": layout.names, "without control": ()}
    if layout.is_plain:
        return {"with control": layout.names, "without control": ()}
    if set(PLAIN_CONTROLS) <= set(layout.names):
        label = "density and histogram"
        choices = {"all controls": layout.names, label: PLAIN_CONTROLS, "without control": ()}
    return choices


def evaluate(
    model: PerformanceRNN,
    corpus: Corpus,
    max_events: int | None = None,
    visible: Visible = None,
    precision: str = "fp32",
) -> EvalResult:
    """Evaluate with one choice of controls; see `evaluate_choices`."""
    (result,) = evaluate_choices(model, corpus, [visible], max_events, precision)
    return result


def evaluate_choices(
    model: PerformanceRNN,
    corpus: Corpus,
    choices: Sequence[Visible],
    max_events: int | None = None,
    precision: str = "fp32",
    show_progress: Callable[[float], None] | None = None,
) -> list[EvalResult]:
    """Measure how well a network predicts each event of a performance from the events before it.

    choices: for each result, the names of the controls of the performance that the network gets;
    None: all; empty: none. A choice of some is only for a network whose controls can be left open.
    max_events: the number of events to evaluate of each performance, or None for all;
    precision: "bf16" computes the products of the GRU layers in bfloat16, on a CPU; otherwise all
    is in float32. show_progress: called with the share of the events that is done.
    The hidden state starts from a zero vector and is carried through the whole performance.
    """
    model.eval()
    is_cpu, before = model.device.type == "cpu", torch.get_num_threads()
    threads = min(before, MAX_THREADS)
    lengths = [min(len(p), max_events or len(p)) for p in corpus.performances]
    batches = _share_out(lengths, threads if is_cpu else 1)
    evaluator = _Evaluator(model, corpus, choices, lengths, precision if is_cpu else "fp32")
    steps = evaluator.choose_steps(batches)
    done, stop = np.zeros(len(batches), np.int64), threading.Event()
    total = np.zeros((len(choices), 3, EventSeq.dim()))

    def work(number: int) -> Array:
        torch.set_num_threads(max(1, threads // len(batches)))  # of this thread
        sums = np.zeros_like(total)
        for events, block_sums in evaluator.run(batches[number], steps):
            sums += block_sums
            done[number] += events
            if stop.is_set():
                break
        return sums

    try:
        with ThreadPoolExecutor(max(1, len(batches))) as pool:
            futures = [pool.submit(work, number) for number in range(len(batches))]
            unfinished = set(futures)
            try:
                while unfinished:
                    finished, unfinished = wait(unfinished, PROGRESS_INTERVAL, FIRST_EXCEPTION)
                    for future in finished:
                        future.result()  # raises its error
                    if show_progress is not None:
                        show_progress(float(done.sum() / sum(lengths)))
            finally:  # after an error or Ctrl-C, too
                stop.set()
    finally:
        torch.set_num_threads(before)  # of threads that start later
    for future in futures:
        total += future.result()
    return [
        EvalResult(counts.astype(np.int64), correct.astype(np.int64), losses, corpus.encoding)
        for counts, correct, losses in total
    ]


def _share_out(lengths: Sequence[int], shares: int) -> list[list[int]]:
    """Divide performances into shares of about equally many events; return their numbers.

    The longest performance comes first, into the share that has the fewest events so far. There
    are at most as many shares as performances.
    """
    totals = np.zeros(min(shares, len(lengths)), np.int64)
    members: list[list[int]] = [[] for _ in totals]
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        share = int(totals.argmin())
        members[share].append(number)
        totals[share] += lengths[number]
    return members


class _Block(NamedTuple):
    """Successive events uint8 [n] of a performance, and packed controls uint8 [n, width].

    is_first: whether it is the first of its performance; recall: uint8 [n, 10], zeros for a
    network without recall.
    """

    is_first: bool
    events: Array
    controls: Array
    recall: Array


class _Evaluator:
    """A network, and performances with choices of controls to evaluate it on.

    Its methods do not change it, so threads can share it.
    """

    def __init__(
        self,
        model: PerformanceRNN,
        corpus: Corpus,
        choices: Sequence[Visible],
        lengths: Sequence[int],
        precision: str,
    ) -> None:
        """Prepare the weights; the arguments are those of `evaluate_choices`.

        lengths: how many events of each performance to use.
        """
        self.model, self.corpus, self.choices, self.lengths = model, corpus, choices, lengths
        self.columns = CPU_COLUMNS if model.device.type == "cpu" else GPU_COLUMNS
        device, names = model.device, model.layout.names
        is_open = [[c is not None and name not in c for name in names] for c in choices]
        self.is_open = torch.tensor(is_open, device=device)  # [choices, controls]
        use_control = [choice is None or len(choice) > 0 for choice in choices]
        self.use_control = torch.tensor(use_control, device=device)  # [choices]
        with torch.inference_mode():
            self.event_table = model.compute_event_table()
            self.start = model.init_hidden(torch.zeros(1, model.config.init_dim, device=device))
            self.layers = None
            if precision == "bf16":
                layers = range(model.config.gru_layers)
                self.layers = [BFloat16Layer(*model.get_gru_weights(layer)) for layer in layers]

    def choose_steps(self, batches: Sequence[Sequence[int]]) -> int:
        """Return how many events of each column to evaluate at once in these batches."""
        config = self.model.config
        values = (8 + 3 * config.gru_layers) * config.hidden_dim + 5 * config.event_dim  # an event
        if config.recall_dim:
            values += config.hidden_dim + 3 * config.recall_dim
        columns = sum(min(self.columns, len(self.choices) * len(batch)) for batch in batches)
        return max(1, min(STEPS, MAX_MEMORY // (4 * values * max(1, columns))))

    @torch.inference_mode()
    def run(self, numbers: Sequence[int], steps: int) -> Iterator[tuple[int, Array]]:
        """Evaluate some performances; yield the events and the sums of each block of steps.

        numbers: of the performances; the sums are float64 [choices, 3, events]: how often each
        event occurred, how often it was the most likely one, and its losses.
        """
        count = max(1, self.columns // len(self.choices))
        shares = _share_out([self.lengths[number] for number in numbers], count)
        columns = [self._read([numbers[i] for i in share], steps) for share in shares]
        hidden = self.start[:, :, None].expand(-1, len(columns), len(self.choices), -1)
        previous = torch.zeros(len(columns), dtype=torch.long, device=self.model.device)
        while columns:
            blocks = {i: block for i, column in enumerate(columns) for block in islice(column, 1)}
            if len(blocks) < len(columns):  # some columns have ended
                columns = [columns[i] for i in blocks]
                hidden, previous = hidden[:, list(blocks)], previous[list(blocks)]
            if blocks:
                sums, hidden, previous = self._run_block(list(blocks.values()), hidden, previous)
                yield int(sums[0, 0].sum()), sums

    def _read(self, numbers: Sequence[int], steps: int) -> Iterator[_Block]:
        """Yield the events of performances, one after the other; a block has at most `steps`."""
        width = self.model.layout.packed_dim
        for number in numbers:
            performance, length = self.corpus.performances[number], self.lengths[number]
            count = steps * max(1, READ_EVENTS // steps)  # so that only the last block is shorter
            whole_recall = None
            if self.model.config.recall_dim:
                whole_recall = PerformanceRecall.from_events(performance.read_events(0, length))
            for begin in range(0, length, count):
                events, controls = performance.read(begin, min(length, begin + count))
                recall = np.zeros((len(events), RECALL_WIDTH), np.uint8)
                if whole_recall is not None:
                    recall = whole_recall.read(begin, events)
                for start in range(0, len(events), steps):
                    part = slice(start, start + steps)
                    columns = events[part], controls[part, :width], recall[part]
                    yield _Block(begin + start == 0, *columns)

    def _run_block(
        self, blocks: Sequence[_Block], hidden: Tensor, previous: Tensor
    ) -> tuple[Array, Tensor, Tensor]:
        """Evaluate a block of each column.

        hidden: the states [layers, columns, choices, hidden] and previous: the events [columns]
        before it. Returns the sums, see `run`, and the states and events after it.
        """
        device, choices = self.model.device, len(self.choices)
        is_first = torch.tensor([block.is_first for block in blocks], device=device)
        hidden = torch.where(is_first[:, None, None], self.start[:, :, None], hidden)
        previous = previous.masked_fill(is_first, self.model.primary_event)
        events, packed, recall = _join_blocks(blocks)
        targets = torch.from_numpy(np.maximum(events, 0)).to(device)  # [steps, columns]
        inputs = torch.cat([previous[None], targets[:-1]])
        controls = None
        if self.use_control.any():
            controls = expand_controls(
                torch.from_numpy(packed).to(device).repeat_interleave(choices, dim=1),
                self.corpus.encoding,
                self.model.layout,
                self.is_open.repeat(len(blocks), 1),
            )
        logits, last = self.model(
            inputs.repeat_interleave(choices, dim=1),
            hidden.flatten(1, 2),
            controls,
            self.use_control.repeat(len(blocks)),
            self.event_table,
            self.layers,
            torch.from_numpy(recall).to(device).repeat_interleave(choices, dim=1),
        )
        sums = _sum_up(logits.unflatten(1, (len(blocks), choices)), targets, events >= 0)
        return sums, last.unflatten(1, (len(blocks), choices)), targets[-1]


def _join_blocks(blocks: Sequence[_Block]) -> tuple[Array, Array, Array]:
    """Return the events int64 [steps, columns], and controls and recall [steps, columns, width].

    After the end of a block that is shorter than others, events are -1.
    """
    steps, width = max(len(block.events) for block in blocks), blocks[0].controls.shape[1]
    events = np.full((steps, len(blocks)), -1, np.int64)
    controls = np.zeros((steps, len(blocks), width), np.uint8)
    recall = np.zeros((steps, len(blocks), RECALL_WIDTH), np.uint8)
    for column, block in enumerate(blocks):
        events[: len(block.events), column] = block.events
        controls[: len(block.events), column] = block.controls
        recall[: len(block.events), column] = block.recall
    return events, controls, recall


def _sum_up(logits: Tensor, targets: Tensor, is_event: Array) -> Array:
    """Return counts, correct predictions and losses by event, float64 [choices, 3, events].

    logits: [steps, columns, choices, events]; targets: [steps, columns]; is_event: bool
    [steps, columns], false for targets that do not count.
    """
    choices, dim = logits.shape[2:]
    repeated = targets[..., None].expand(-1, -1, choices)
    losses = functional.cross_entropy(logits.flatten(0, 2), repeated.flatten(), reduction="none")
    correct = logits.argmax(dim=-1) == repeated
    kinds = (repeated + dim * torch.arange(choices, device=targets.device)).cpu().numpy()[is_event]
    sums = [
        np.bincount(kinds.ravel(), weights, minlength=choices * dim)
        for weights in (
            None,
            correct.cpu().numpy()[is_event].ravel(),
            losses.view(repeated.shape).cpu().numpy()[is_event].ravel(),
        )
    ]
    return np.stack(sums).astype(np.float64).reshape(3, choices, dim).swapaxes(0, 1)
