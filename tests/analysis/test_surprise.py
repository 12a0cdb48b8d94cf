"""Surprise compared with a loop over single events, and with an evaluation."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from analysis.surprise import Surprise, format_csv, format_json, measure_surprise
from corpus.performance import Corpus, Performance
from corpus.recall import recall_columns
from model import PerformanceRNN
from sequence import CURRENT, ControlSeq, EventSeq, NoteSeq
from tests.reference_network import make_model
from tools.synthetic_data import TINY_SIZES
from training.evaluate import evaluate


@pytest.fixture(scope="module")
def model() -> PerformanceRNN:
    torch.manual_seed(0)
    model = PerformanceRNN(TINY_SIZES).eval()
    model.event_embedding.weight.data *= 30  # so that each input changes the prediction
    return model


@pytest.fixture(scope="module")
def events() -> EventSeq:
    rng = np.random.default_rng(1)
    starts = np.cumsum(rng.choice([0.0, 0.2, 0.5], 100))
    return EventSeq.from_note_seq(
        NoteSeq(starts, starts + 0.3, rng.integers(21, 109, 100), rng.integers(1, 128, 100))
    )


@pytest.fixture(scope="module")
def surprise(model: PerformanceRNN, events: EventSeq) -> Surprise:
    return measure_surprise(model, events)


@torch.no_grad()
def test_surprise_uses_recall() -> None:
    model = make_model(replace(TINY_SIZES, recall_dim=6))
    pitches = np.tile(np.random.default_rng(0).integers(40, 80, 30), 5)
    starts = 0.2 * np.arange(150)
    events = EventSeq.from_note_seq(NoteSeq(starts, starts + 0.1, pitches, np.full(150, 64)))
    targets = torch.from_numpy(events.to_array().astype(np.int64))[:, None]
    hidden = model.init_hidden(torch.zeros(1, model.config.init_dim))
    recall = recall_columns(targets.numpy())
    logits, _ = model(model.shift_right(targets), hidden, recall=recall)
    losses = functional.cross_entropy(logits[:, 0], targets[:, 0], reduction="none")
    measured = measure_surprise(model, events)
    assert measured.nats.sum() + measured.rest.sum() == pytest.approx(float(losses.sum()))


@torch.no_grad()
def predict(model: PerformanceRNN, events: EventSeq) -> list[list[float]]:
    """Return the probabilities before each event, from single steps."""
    hidden = model.init_hidden(torch.zeros(1, model.config.init_dim))
    rows, previous = [], 239
    for event in events.to_array().tolist():
        logits, hidden = model(torch.tensor([[previous]]), hidden)
        rows.append(logits[0, 0].double().softmax(0).tolist())
        previous = event
    return rows


def test_parts_of_each_note(model: PerformanceRNN, events: EventSeq, surprise: Surprise) -> None:
    """Each part is worked out from the probabilities, event by event."""
    expected, note = [], dict.fromkeys(("pitch", "time", "velocity", "release"), 0.0)
    for event, p in zip(events.to_array().tolist(), predict(model, events), strict=True):
        if event < 88:
            note["pitch"] -= math.log(p[event] / sum(p[:88]))
            note["time"] -= math.log(sum(p[:88]))
            expected.append(list(note.values()))
            note = dict.fromkeys(note, 0.0)
        else:
            part = "release" if event < 176 else "velocity" if event < 208 else "time"
            note[part] -= math.log(p[event])
    np.testing.assert_allclose(surprise.nats, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(surprise.rest, list(note.values()), rtol=1e-4, atol=1e-5)


def test_entropy_and_likeliest_pitches(
    model: PerformanceRNN, events: EventSeq, surprise: Surprise
) -> None:
    rows = predict(model, events)
    at_notes = [p for event, p in zip(events.to_array(), rows, strict=True) if event < 88]
    for number in (0, 7, 50):
        p = at_notes[number]
        entropy = -sum(x * math.log(x) for x in p)
        assert surprise.entropy[number] == pytest.approx(entropy, abs=1e-4)
        pitches = [x / sum(p[:88]) for x in p[:88]]
        assert surprise.pitch_entropy[number] == pytest.approx(
            -sum(x * math.log(x) for x in pitches), abs=1e-4
        )
        best = sorted(range(88), key=lambda key: -pitches[key])[:5]
        assert surprise.pitches[number].tolist() == [key + 21 for key in best]
        assert surprise.probabilities[number] == pytest.approx(
            [pitches[key] for key in best], abs=1e-5
        )


def test_sum_is_the_loss_of_an_evaluation(model: PerformanceRNN, events: EventSeq) -> None:
    controls = ControlSeq.from_event_seq(events)
    performance = Performance(
        events.to_array(),
        controls.to_compressed_array(),
        events.note_ons,
        events.total_ms,
        0,
        0,
        "",
    )
    for use_control in (False, True):
        rows = ControlSeq.recover_compressed_array(performance.controls) if use_control else None
        total = measure_surprise(model, events, rows).total
        result = evaluate(model, Corpus([performance]), visible=None if use_control else ())
        assert total == pytest.approx(result.nats, rel=1e-6)


def test_notes_are_those_of_the_events(events: EventSeq, surprise: Surprise) -> None:
    notes = events.to_note_seq()
    order = np.lexsort((surprise.note_pitches, surprise.onsets))
    columns = (surprise.onsets, surprise.ends, surprise.note_pitches, surprise.velocities)
    for column, expected in zip(columns, notes.columns, strict=True):
        np.testing.assert_allclose(column[order], expected)


def test_each_second_has_the_notes_that_start_in_it(surprise: Surprise) -> None:
    nats, counts = surprise.per_second()
    assert counts.sum() == len(surprise)
    assert nats.sum() == pytest.approx(surprise.nats.sum())
    inside = (surprise.onsets >= 3) & (surprise.onsets < 4)
    assert (nats[3], counts[3]) == (pytest.approx(surprise.nats[inside].sum()), inside.sum())


def test_tables_have_the_same_numbers(surprise: Surprise) -> None:
    rows = list(csv.DictReader(io.StringIO(format_csv(surprise))))
    record = json.loads(format_json(surprise, {"file": "a.mid"}))
    assert record["file"] == "a.mid"
    assert len(rows) == len(record["notes"]) == len(surprise)
    for row, note in zip(rows, record["notes"], strict=True):
        assert float(row["nats_pitch"]) == note["nats_pitch"]
        assert int(row["likely_5"]) == note["likely"][4]
    total = sum(note["nats"] for note in record["notes"]) + record["after_last_note"]
    assert total == pytest.approx(record["nats"], abs=0.01)


def test_events_without_notes_are_an_error(model: PerformanceRNN) -> None:
    with pytest.raises(ValueError, match="no notes"):
        measure_surprise(model, EventSeq([210, 220], CURRENT))
