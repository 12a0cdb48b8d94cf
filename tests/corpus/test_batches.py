"""Training batches: windows, segments, transposition, and shares of several processes."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus import batches
from corpus.batches import Batch, WindowSampler
from corpus.performance import Corpus
from corpus.recall import find_recall, recall_events, transpose_recall
from sequence import EventSeq, NoteSeq
from tools.synthetic_data import make_performance, write_data


def make_sampler(
    *performances: np.ndarray, steps: int, stride: int = 1, recall: bool = False, **options: Any
) -> WindowSampler:
    corpus = Corpus([make_performance(events) for events in performances], has_recall=recall)
    return WindowSampler(corpus, steps, stride, **options)


def sample(
    sampler: WindowSampler,
    number: int = 0,
    size: int = 16,
    seed: int = 0,
    ratio: float = 1.0,
    transposition: bool = False,
) -> Batch:
    packed = sampler.sample_batch(size, seed, number, ratio, transposition)
    return packed.to_device(torch.device("cpu"), sampler.corpus.encoding)


@pytest.mark.parametrize(("steps", "stride"), [(10, 3), (10, 10), (1, 1), (25, 4)])
def test_windows_stay_inside_a_performance(steps: int, stride: int) -> None:
    first_events, lengths = (0, 50, 100, 150), (30, 5, 24, 10)
    performances = [first + np.arange(n) for first, n in zip(first_events, lengths, strict=True)]
    sampler = make_sampler(*performances, steps=steps, stride=stride)
    expected = {
        first + start
        for first, n in zip(first_events, lengths, strict=True)
        for start in range(0, n - steps + 1, stride)
    }
    targets = torch.cat([sample(sampler, number, 50).targets for number in range(40)], dim=1)
    assert len(sampler) == len(expected)
    assert set(targets[0].tolist()) == expected
    assert bool((targets.diff(dim=0) == 1).all())


def test_batch_depends_on_seed_and_number_alone() -> None:
    sampler = make_sampler(np.arange(240), steps=20)

    def targets(seed: int, number: int) -> torch.Tensor:
        return sample(sampler, number, seed=seed, ratio=0.5, transposition=True).targets

    assert torch.equal(targets(1, 2), targets(1, 2))
    assert not torch.equal(targets(1, 2), targets(1, 3))
    assert not torch.equal(targets(1, 2), targets(2, 2))


def test_windows_are_drawn_uniformly() -> None:
    sampler = make_sampler(np.arange(12), np.arange(100, 107), steps=3)
    firsts = torch.cat([sample(sampler, number, 50).targets[0] for number in range(100)])
    counts = torch.unique(firsts, return_counts=True)[1]
    assert len(counts) == len(sampler) == 15
    expected = 5000 / 15
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 36.1  # exceeded with a probability of 0.1%, for 14 degrees of freedom


def test_targets_and_controls_are_aligned() -> None:
    events = np.arange(200)
    controls = np.zeros((200, 13), np.uint8)
    controls[np.arange(200), 1 + events % 12] = 255
    controls[:, 0] = events % 7
    batch = sample(WindowSampler(Corpus([make_performance(events, controls)]), 20, 1))
    assert batch.targets.shape == (20, 16)
    assert torch.equal(batch.controls[..., 12:].argmax(dim=-1), batch.targets % 12)
    assert torch.equal(batch.controls[..., :12].argmax(dim=-1), batch.targets % 7)


@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_control_ratio_is_a_share_of_windows(ratio: float) -> None:
    sampler = make_sampler(np.arange(50), steps=5)
    batches = [sample(sampler, number, 100, ratio=ratio) for number in range(50)]
    share = float(torch.cat([batch.use_control for batch in batches]).float().mean())
    assert share == pytest.approx(ratio, abs=0.03)


def test_transposition_moves_notes_and_histograms(tmp_path: Path) -> None:
    corpus = Corpus.load(sorted(write_data(tmp_path / "data").iterdir()))
    sampler = WindowSampler(corpus, 100, 7)
    plain, moved = sample(sampler, size=32), sample(sampler, size=32, transposition=True)
    notes = plain.targets < EventSeq.feat_ranges()["velocity"].start
    offsets = (moved.targets - plain.targets).masked_fill(~notes, 0)
    assert torch.equal(moved.targets[~notes], plain.targets[~notes])
    assert len(offsets.unique()) > 6
    for column in range(32):
        (offset,) = {int(value) for value in offsets[:, column][notes[:, column]]}
        assert -5 <= offset <= 6
        rolled = plain.controls[:, column, 12:].roll(offset, dims=-1)
        torch.testing.assert_close(moved.controls[:, column, 12:], rolled)
        assert torch.equal(moved.controls[:, column, :12], plain.controls[:, column, :12])


def test_windows_have_what_is_recalled(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    performances = [np.tile(rng.integers(0, 240, 150), 4) % 230 for _ in range(3)]
    sampler = make_sampler(*performances, steps=16, carry=4, recall=True)
    whole = [(recall_events(events), events) for events in performances]
    for number in range(20):
        plain = sample(sampler, number, 8)
        moved = sample(sampler, number, 8, transposition=True)
        assert plain.recall is not None
        assert moved.recall is not None
        assert plain.recall.shape == (16, 8, 10)
        for column in range(8):
            targets = plain.targets[:, column].numpy()
            assert any(
                np.array_equal(rows[start : start + 16], plain.recall[:, column])
                for rows, events in whole
                for start in range(len(events) - 15)
                if np.array_equal(events[start : start + 16], targets)
            )
            changes = moved.targets[:, column].numpy() - targets
            if (targets < 176).any():
                change = changes[targets < 176][:1]
                rows = plain.recall[:, column : column + 1].numpy()
                np.testing.assert_array_equal(
                    moved.recall[:, column], transpose_recall(rows, change)[:, 0]
                )
    assert sample(make_sampler(*performances, steps=16)).recall is None


def test_memory_for_recall_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    performances = [np.tile(rng.integers(0, 240, 100), 3) for _ in range(9)]
    wide, narrow = (make_sampler(*performances, steps=20, recall=True) for _ in range(2))
    expected = [sample(wide, number).recall for number in range(10)]
    monkeypatch.setattr(batches, "MAX_RECALL", 5000)
    for number in range(10):
        assert torch.equal(sample(narrow, number).recall, expected[number])
        assert narrow._recall_size == sum(recall.size for recall in narrow._recalls.values())
        assert narrow._recall_size <= 5000
    assert wide._recall_size > 10_000


def test_stretched_windows_recall_the_same_notes() -> None:
    notes = NoteSeq(
        0.3 * np.arange(300),
        0.3 * np.arange(300) + 0.2,
        np.tile(np.random.default_rng(0).integers(30, 90, 60), 5),
        np.full(300, 80),
    )
    performance = make_performance(EventSeq.from_note_seq(notes).to_array())
    corpus = Corpus([performance], has_recall=True)
    melody = notes.pitches.astype(np.int64) - 21
    whole = find_recall(melody)
    plain, stretched = (WindowSampler(corpus, 40, 1, 3, stretch=share) for share in (0.0, 0.1))
    for number in range(9):
        first, second = (sample(s, number, 8) for s in (plain, stretched))
        assert first.recall is not None
        assert second.recall is not None
        for column in range(8):
            rows = second.recall[:, column].numpy()
            targets = second.targets[:, column].numpy()
            is_note = targets < 88
            count = np.cumsum(is_note) - is_note
            assert any(
                np.array_equal(melody[n : n + is_note.sum()], targets[is_note])
                and np.array_equal(whole[n + count], rows)
                for n in range(301 - is_note.sum())
            )


def test_transposition_stays_on_the_piano() -> None:
    lowest_and_highest = np.tile([0, 87, 208], 20)
    batch = sample(make_sampler(lowest_and_highest, steps=12), transposition=True)
    assert set(batch.targets.unique().tolist()) == {0, 87, 208}


def test_windows_continue_the_previous_batch() -> None:
    performances = [np.arange(100), np.arange(100, 141), np.arange(150, 172)]
    sampler = make_sampler(*performances, steps=10, stride=3, carry=4)
    before, patterns = sample(sampler, 0, 32, seed=5), []
    for number in range(1, 40):
        batch = sample(sampler, number, 32, seed=5)
        on = batch.continues
        assert torch.equal(batch.previous[on], before.targets[-1][on])
        assert torch.equal(batch.targets[0][on], before.targets[-1][on] + 1)
        assert bool((batch.targets.diff(dim=0) == 1).all())
        patterns.append(on)
        before = batch
    # three of four windows, fewer where performances end
    assert 0.5 < float(torch.stack(patterns).float().mean()) < 0.75
    assert len({tuple(on.tolist()) for on in patterns}) > 1  # columns begin in turn


def test_batches_grow() -> None:
    sampler = make_sampler(np.arange(40), steps=20, stride=40, carry=2, small_batches=8)
    batches = [sample(sampler, number, 16) for number in range(20)]
    assert [tuple(batch.targets.shape) for batch in batches] == [(10, 8)] * 8 + [(20, 16)] * 12
    shares = []
    for before, batch in itertools.pairwise(batches):
        on = batch.continues
        shares.append(float(on.float().mean()))
        if on.any():
            assert torch.equal(batch.targets[0][on], before.targets[-1][on] + 1)
    # segments have four windows, then two, and none continues a window of another size
    assert shares == [3 / 4] * 7 + [0] + [1 / 2] * 11


def test_smallest_batches_do_not_shrink() -> None:
    batch = sample(make_sampler(np.arange(40), steps=1, small_batches=9), size=1)
    assert tuple(batch.targets.shape) == (1, 1)


@pytest.mark.parametrize("small", [0, 99])
def test_processes_share_the_columns_of_a_batch(small: int) -> None:
    corpus = Corpus([make_performance(np.arange(240)) for _ in range(3)])
    sampler = WindowSampler(corpus, 10, 3, carry=4, small_batches=small)
    whole = sample(sampler, 7, 12, ratio=0.5, transposition=True)
    width = 2 if small else 4
    assert whole.targets.shape[1] == 3 * width
    for rank in range(3):
        sampler = WindowSampler(corpus, 10, 3, 4, (rank, 3), small_batches=small)
        part = sample(sampler, 7, 4, ratio=0.5, transposition=True)
        own = slice(width * rank, width * rank + width)
        assert torch.equal(part.targets, whole.targets[:, own])
        assert torch.equal(part.controls, whole.controls[:, own])
        assert torch.equal(part.continues, whole.continues[own])
        assert torch.equal(part.use_control, whole.use_control[own])


def test_transposition_and_control_hold_for_a_segment() -> None:
    sampler = make_sampler(np.arange(40, 80), steps=5, carry=3)
    before = sample(sampler, 0, 32, ratio=0.5, transposition=True)
    for number in range(1, 20):
        batch = sample(sampler, number, 32, ratio=0.5, transposition=True)
        on = batch.continues
        assert torch.equal(batch.targets[0][on], before.targets[-1][on] + 1)
        assert torch.equal(batch.use_control[on], before.use_control[on])
        assert len(batch.targets[0].unique()) > 12
        before = batch


def test_tenth_of_segments_begins_at_the_start() -> None:
    sampler = make_sampler(np.arange(150), steps=5, carry=2)
    batches = [sample(sampler, number, 50) for number in range(40)]
    firsts = torch.cat([batch.targets[0][~batch.continues] for batch in batches])
    assert 0.08 < float((firsts == 0).float().mean()) < 0.13


def test_event_out_of_range_is_rejected() -> None:
    with pytest.raises(ValueError, match="event 250"):
        sample(make_sampler(np.full(20, 250), steps=5))
