"""Which of several pieces are the best, for pieces with known faults."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from analysis.ranking import (
    STATISTICS,
    Candidate,
    Reference,
    choose_best,
    find_adherence,
    measure_losses,
    measure_statistics,
    score_candidates,
)
from corpus.recall import recall_columns
from generation.control import parse_control
from model import PerformanceRNN
from sequence import EventSeq, NoteSeq
from tests.reference_network import make_model
from tools.synthetic_data import TINY_SIZES


def make_notes(seed: int = 0, count: int = 300, low: int = 40, high: int = 80) -> NoteSeq:
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.choice([0.1, 0.2, 0.3], count))
    return NoteSeq(
        starts, starts + 0.3, rng.integers(low, high, count), rng.integers(30, 100, count)
    )


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.measure([make_notes(seed) for seed in range(10, 40)])


def candidate(notes: NoteSeq, loss: float = 8.0, **values: object) -> Candidate:
    return Candidate(notes, {"density": 0.9}, loss, **values)  # type: ignore[arg-type]


def test_statistics_are_worked_out_by_hand() -> None:
    notes = NoteSeq([0.0, 0.5, 1.0], [1.0, 1.0, 2.0], [60, 64, 72], [50, 70, 90])
    values = dict(zip(STATISTICS, measure_statistics(notes), strict=True))
    assert values["notes/s"] == pytest.approx(np.log(3 / 2))
    assert values["note length"] == pytest.approx(np.mean(np.log([1, 0.5, 1])))
    assert values["mean pitch"] == pytest.approx(196 / 3)
    assert values["pitch range"] == pytest.approx(np.sqrt(224 / 9))  # 14 / 3, 4 / 3, 20 / 3 off
    # every 0.1 s up to the last onset: one note in the first half second, two in the second
    assert values["polyphony"] == pytest.approx(1.5)
    assert values["mean velocity"] == 70
    assert values["velocity range"] == pytest.approx(np.sqrt(800 / 3))
    assert values["pitch classes"] == pytest.approx(-np.log(1 / 3) / 3 - 2 * np.log(2 / 3) / 3)


def test_the_reference_ignores_outliers(reference: Reference) -> None:
    music = [make_notes(seed) for seed in range(10, 40)]
    with_outlier = Reference.measure([*music, make_notes(1, low=100, high=108)])
    np.testing.assert_allclose(with_outlier.median, reference.median, rtol=0.1, atol=0.2)
    assert np.abs(reference.standardize(make_notes(50))).mean() < 1.5


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("statistics", candidate(make_notes(3, low=100, high=108))),
        ("likelihood", candidate(make_notes(3), loss=20.0)),
        ("likelihood", candidate(make_notes(3), loss=2.0)),
        ("copied", candidate(make_notes(3), copied=60)),
        ("controls", Candidate(make_notes(3), {"density": 0.1}, 8.0)),
        ("faults", candidate(NoteSeq(np.arange(30.0), np.arange(30.0) + 1, [60] * 30, [64] * 30))),
    ],
)
def test_what_is_wrong_costs_most(name: str, bad: Candidate, reference: Reference) -> None:
    losses = (7.8, 7.9, 8.1, 8.2)
    good = [candidate(make_notes(k), loss, copied=9) for k, loss in enumerate(losses)]
    scores = score_candidates([*good, bad], reference, copy_limit=15)
    assert max(score.penalties.get(name, 0) for score in scores[:-1]) < scores[-1].penalties[name]
    assert choose_best(scores, 5)[-1] == 4


def test_kept_pieces_differ(reference: Reference) -> None:
    """Of two equal pieces and one that is a little worse, the worse one is kept with the first."""
    first, other = make_notes(1), make_notes(2, low=45, high=76)
    scores = score_candidates([candidate(n) for n in (first, first, other)], reference, None)
    assert sorted(choose_best(scores, 2)) in ([0, 2], [1, 2])
    assert len(choose_best(scores, 10)) == 3


def test_without_a_reference_only_the_rest_counts() -> None:
    (score,) = score_candidates([candidate(make_notes(1))], None, None)
    assert set(score.penalties) == {"controls", "likelihood", "faults"}
    assert "controls 0.10" in str(score)


# ------------------------------------------------------------------------------- measuring


def test_losses_are_those_of_the_generated_events_only() -> None:
    """Two samples after a context, against one step of the network after the other."""
    torch.manual_seed(0)
    model = PerformanceRNN(TINY_SIZES).eval()
    context = np.array([40, 220, 180])
    events = np.array([[50, 60], [225, 61], [51, 225], [138, 62]])  # 2 and 3 notes
    expected = []
    for sample in events.T:
        row = [model.primary_event, *context.tolist(), *sample.tolist()]
        hidden, losses = model.init_hidden(torch.zeros(1, TINY_SIZES.init_dim)), []
        for before, event in itertools.pairwise(row):
            with torch.inference_mode():
                logits, hidden = model(torch.tensor([[before]]), hidden)
            losses.append(-float(logits[0, 0].log_softmax(0)[event]))
        expected.append(sum(losses[len(context) :]) / (sample < 88).sum())
    assert measure_losses(model, context, events) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_losses_use_recall() -> None:
    model = make_model(dataclasses.replace(TINY_SIZES, recall_dim=6))
    rng = np.random.default_rng(0)
    context, events = rng.integers(0, 88, 40), rng.integers(0, 88, (60, 2))
    events[:40, 0] = context  # the passage of the context returns in one sample
    whole = np.concatenate([np.repeat(context[:, None], 2, axis=1), events])
    targets = torch.from_numpy(whole)
    hidden = model.init_hidden_each(torch.zeros(2, model.config.init_dim))
    for use_recall in (True, False):
        recall = recall_columns(whole) if use_recall else None
        logits, _ = model(model.shift_right(targets), hidden, recall=recall)
        losses = -logits.log_softmax(-1).gather(2, targets[..., None])[40:, :, 0]
        expected = losses.sum(dim=0).numpy() / 60
        measured = measure_losses(model, context, events, use_recall)
        assert measured == pytest.approx(expected, rel=1e-5)


def test_adherence_to_pitch_classes_and_loudness() -> None:
    starts = np.arange(8.0)
    pitches = [60, 64, 67, 60, 64, 67, 61, 63]  # six of eight are in C major
    notes = NoteSeq(starts, starts + 1, pitches, np.full(8, 64))
    events = EventSeq.from_note_seq(notes)
    adherence = find_adherence(events, parse_control("C major; loudness 64"))
    assert adherence == {"loudness": 1.0, "pitch classes": 6 / 8}
    assert find_adherence(events, None) == {}
