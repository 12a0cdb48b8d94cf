"""Evaluation compared with a loop over single events, and the metrics of a result."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from corpus.performance import Corpus, Performance
from corpus.recall import recall_events
from model import PerformanceRNN, Session
from preprocess import encode_notes, read_notes
from sequence import CURRENT
from tools.synthetic_data import TINY_SIZES, make_performance
from training import evaluate as evaluation
from training.evaluate import EvalResult, evaluate, evaluate_choices, format_results_table

ROOT = Path(__file__).parents[2]


def evaluate_by_hand(
    model: PerformanceRNN, performances: list[Performance], use_control: bool = True
) -> tuple[float, int, int]:
    """Return nats, correct predictions and notes, from a loop over performances and events."""
    nats, correct, notes = 0.0, 0, 0
    for performance in performances:
        hidden = model.init_hidden(torch.zeros(1, model.config.init_dim))
        previous = torch.tensor([[239]])
        for event, row in zip(performance.events.tolist(), performance.controls, strict=True):
            control = torch.zeros(1, 1, 24)
            control[0, 0, row[0]] = 1
            control[0, 0, 12:] = torch.from_numpy(row[1:] / row[1:].sum())
            logits, hidden = model(previous, hidden, control if use_control else None)
            nats += float(functional.cross_entropy(logits[0], torch.tensor([event])))
            correct += int(logits.argmax()) == event
            notes += event < 88
            previous = torch.tensor([[event]])
    return nats, correct, notes


@pytest.fixture(scope="module")
def model() -> PerformanceRNN:
    torch.manual_seed(0)
    model = PerformanceRNN(TINY_SIZES).eval()
    model.event_embedding.weight.data *= 30  # so that a single wrong input changes the result
    return model


@pytest.fixture(scope="module")
def performances() -> list[Performance]:
    rng = np.random.default_rng(0)
    return [make_performance(rng.integers(0, 240, size)) for size in (5, 300, 128, 1)]


@pytest.mark.parametrize("use_control", [True, False])
@torch.no_grad()
def test_performances_of_any_length_are_evaluated(
    model: PerformanceRNN, performances: list[Performance], use_control: bool
) -> None:
    result = evaluate(model, Corpus(performances), visible=None if use_control else ())
    nats, correct, notes = evaluate_by_hand(model, performances, use_control)
    assert result.events == 434
    assert result.nats == pytest.approx(nats, rel=1e-6)
    assert (result.correct.sum(), result.notes) == (correct, notes)


@torch.no_grad()
def test_network_gets_what_it_recalls(
    performances: list[Performance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "READ_EVENTS", 64)
    monkeypatch.setattr(evaluation, "STEPS", 32)
    torch.manual_seed(0)
    model = PerformanceRNN(replace(TINY_SIZES, recall_dim=6)).init_weights().eval()
    for weight in (model.recall_gates, model.recall_output):
        torch.nn.init.normal_(weight)
    notes = np.tile(np.random.default_rng(5).integers(0, 88, 70), 5)
    corpus = Corpus([*performances, make_performance(notes)])
    nats = 0.0
    for performance in corpus.performances:
        events = torch.from_numpy(performance.events.astype(np.int64))[:, None]
        recall = torch.from_numpy(recall_events(performance.events))[:, None]
        hidden = model.init_hidden(torch.zeros(1, model.config.init_dim))
        logits, _ = model(model.shift_right(events), hidden, recall=recall)
        nats += float(functional.cross_entropy(logits[:, 0], events[:, 0], reduction="sum"))
    assert evaluate(model, corpus, visible=()).nats == pytest.approx(nats, rel=1e-5)


@pytest.fixture
def threads() -> Iterator[int]:
    """Two threads, also where the environment allows one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


@torch.no_grad()
def test_columns_and_threads_do_not_change_the_result(
    model: PerformanceRNN, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "CPU_COLUMNS", 4)  # two performances, with and without control
    monkeypatch.setattr(evaluation, "READ_EVENTS", 64)
    rng = np.random.default_rng(1)
    sizes = (40, 1, 33, 200, 7, 128, 64, 90, 5)
    performances = [make_performance(rng.integers(0, 240, size)) for size in sizes]
    shapes = []
    forward = model.forward

    def record_shape(inputs: torch.Tensor, *more: Any) -> Any:
        shapes.append(inputs.shape)
        return forward(inputs, *more)

    monkeypatch.setattr(model, "forward", record_shape)
    results = evaluate_choices(model, Corpus(performances), [None, ()])
    monkeypatch.undo()
    torch.set_num_threads(1)  # faster for the loop
    assert max(columns for _, columns in shapes) == 4  # so memory is bounded
    assert max(steps for steps, _ in shapes) == evaluation.STEPS
    for result, use_control in zip(results, (True, False), strict=True):
        nats, correct, notes = evaluate_by_hand(model, performances, use_control)
        assert result.events == sum(sizes)
        assert result.nats == pytest.approx(nats, rel=1e-6)
        assert (result.correct.sum(), result.notes) == (correct, notes)


def test_memory_limit_shortens_the_blocks(
    model: PerformanceRNN, performances: list[Performance], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(model, Corpus(performances))
    monkeypatch.setattr(evaluation, "MAX_MEMORY", 1_200_000)
    evaluator = evaluation._Evaluator(model, Corpus(performances), [None], [5, 300, 128, 1], "fp32")
    assert 1 < evaluator.choose_steps([range(4)]) < evaluation.STEPS
    result = evaluate(model, Corpus(performances))
    assert result.events == 434
    assert result.nats == pytest.approx(expected.nats, rel=1e-6)


def test_result_is_repeatable_and_leaves_threads_alone(
    model: PerformanceRNN, performances: list[Performance], threads: int
) -> None:
    first, second = (evaluate(model, Corpus(performances * 3)) for _ in range(2))
    assert np.array_equal(first.losses, second.losses)
    assert torch.get_num_threads() == threads


def test_progress_ends_at_one(model: PerformanceRNN, performances: list[Performance]) -> None:
    shares: list[float] = []
    evaluate_choices(model, Corpus(performances), [None], show_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_interrupt_ends_the_threads(
    model: PerformanceRNN, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "PROGRESS_INTERVAL", 0.001)
    performances = [make_performance(np.zeros(50_000)) for _ in range(2)]
    calls = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a: calls.append(None) or forward(*a))
    with pytest.raises(KeyboardInterrupt):
        evaluate_choices(model, Corpus(performances), [None], show_progress=interrupt)
    assert len(calls) < 2 * 50_000 / evaluation.STEPS  # all blocks


def test_bfloat16_hardly_changes_the_loss_of_music() -> None:
    model = Session.load(ROOT / "pretrained.sess").build_model(torch.device("cpu"))
    corpus = Corpus(
        [
            encode_notes(read_notes(path.read_bytes(), CURRENT)[0], path.name, CURRENT)
            for path in sorted(ROOT.glob("docs/sample-*.mid"))
        ]
    )
    exact, rounded = (evaluate(model, corpus, 500, precision=p) for p in ("fp32", "bf16"))
    assert exact.losses.tolist() != rounded.losses.tolist()
    assert rounded.nats_per_event == pytest.approx(exact.nats_per_event, abs=0.0005)


def test_only_the_first_events_are_evaluated(
    model: PerformanceRNN, performances: list[Performance]
) -> None:
    assert evaluate(model, Corpus(performances), max_events=3).events == 3 + 3 + 3 + 1


def test_invalid_event_is_an_error(model: PerformanceRNN) -> None:
    with pytest.raises(ValueError, match="250"):
        evaluate(model, Corpus([make_performance(np.full(20, 250))]))


def test_metrics_in_every_unit() -> None:
    counts, correct, losses = np.zeros((3, 240))
    counts[[60, 148, 180, 239]] = (4, 2, 1, 3)  # note ons, offs, velocity, longest time shift
    correct[[60, 239]] = (1, 3)
    losses[[60, 148]] = (12.0, 8.0)
    result = EvalResult(counts, correct, losses, CURRENT)
    assert (result.events, result.notes, result.nats) == (10, 4, 20.0)
    assert result.nats_per_event == 2.0
    assert result.nats_per_note == 5.0
    assert result.perplexity == pytest.approx(math.exp(2))
    assert result.bits_per_second == pytest.approx(20 * 1.442695 / 3.513)
    assert result.accuracy == 0.4
    assert result.accuracy_by_kind == {
        "note_on": 0.25,
        "note_off": 0.0,
        "velocity": 0.0,
        "time_shift": 1.0,
    }
    assert str(result) == "2.000 nats/event (5.00 nats/note)"


def test_perplexity_of_a_useless_network_is_infinite() -> None:
    counts, correct, losses = np.zeros((3, 240))
    counts[0], losses[0] = 1, 800.0
    assert EvalResult(counts, correct, losses, CURRENT).perplexity == math.inf


def test_table_has_a_column_for_each_result() -> None:
    one, two = (
        EvalResult(np.ones(240), np.ones(240), np.full(240, x), CURRENT) for x in (1.0, 2.0)
    )
    rows = format_results_table({"first": one, "second": two}).splitlines()
    assert rows[0].split() == ["first", "second"]
    assert rows[1].split() == ["nats/event", "1.0000", "2.0000"]
    assert rows[-1].split() == ["time", "shift", "100.0%", "100.0%"]
    assert len({len(row) for row in rows}) == 1
