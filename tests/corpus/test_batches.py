"""Windows and batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus.batches import Batch, WindowSampler
from corpus.performance import Corpus
from sequence import EventSeq
from tools.synthetic_data import performance, write_data


def batch(windows: WindowSampler, *how: Any) -> Batch:
    return windows.batch(*how).on(torch.device("cpu"), windows.corpus.encoding)


@pytest.mark.parametrize(("steps", "stride"), [(10, 3), (10, 10), (1, 1), (25, 4)])
def test_windows_are_counted_exactly_and_stay_inside_a_piece(steps: int, stride: int) -> None:
    pieces = [performance(np.full(size, k)) for k, size in enumerate((30, 5, 24, 10))]
    windows = WindowSampler(Corpus(pieces), steps, stride)
    expected = [
        (k, first)
        for k, piece in enumerate(pieces)
        for first in range(0, len(piece) - steps + 1, stride)
    ]
    assert len(windows) == len(expected)
    for index, (piece, first) in enumerate(expected):
        assert tuple(map(int, windows.places(np.array(index)))) == (piece, first)


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    windows = WindowSampler(Corpus([performance(np.arange(240))]), 20, 1)

    def targets(seed: int, number: int) -> torch.Tensor:
        return batch(windows, 8, seed, number, 0.5, True).targets

    assert torch.equal(targets(1, 2), targets(1, 2))
    assert not torch.equal(targets(1, 2), targets(1, 3))
    assert not torch.equal(targets(1, 2), targets(2, 2))


def test_every_window_is_drawn_about_as_often() -> None:
    windows = WindowSampler(
        Corpus([performance(np.arange(12)), performance(np.arange(100, 107))]), 3, 1
    )
    firsts = torch.cat([batch(windows, 50, 0, n, 1, False).targets[0] for n in range(100)])
    counts = torch.unique(firsts, return_counts=True)[1]
    assert len(counts) == len(windows) == 15
    expected = 5000 / 15
    assert float(((counts - expected) ** 2 / expected).sum()) < 36.1  # 0.1 % of fair draws


def test_targets_and_controls_of_a_batch_belong_together() -> None:
    events = np.arange(200)
    controls = np.zeros((200, 13), np.uint8)
    controls[np.arange(200), 1 + events % 12] = 255
    controls[:, 0] = events % 7
    windows = WindowSampler(Corpus([performance(events, controls)]), 20, 1)
    found = batch(windows, 16, 0, 0, 1.0, False)
    assert found.targets.shape == (20, 16)
    assert torch.equal(found.controls[..., 12:].argmax(dim=-1), found.targets % 12)
    assert torch.equal(found.controls[..., :12].argmax(dim=-1), found.targets % 7)
    assert bool(found.controlled.all())


def test_the_control_ratio_is_the_share_of_windows_with_control() -> None:
    windows = WindowSampler(Corpus([performance(np.arange(50))]), 5, 1)
    seen = torch.cat([batch(windows, 100, 0, n, 0.3, False).controlled for n in range(50)])
    assert 0.27 < float(seen.float().mean()) < 0.33


def test_transposed_batches_move_notes_with_their_histogram_and_stay_on_the_piano(
    tmp_path: Path,
) -> None:
    paths = sorted(write_data(tmp_path / "d").iterdir())
    windows = WindowSampler(Corpus.load(paths), 100, 7)
    plain, moved = (batch(windows, 32, 0, 0, 1.0, transposing) for transposing in (False, True))
    ranges = EventSeq.feat_ranges()
    notes = plain.targets < ranges["velocity"].start
    offsets = (moved.targets - plain.targets).masked_fill(~notes, 0)
    assert torch.equal(moved.targets[~notes], plain.targets[~notes])
    assert len(offsets.unique()) > 6
    for column in range(32):
        (offset,) = {int(value) for value in offsets[:, column][notes[:, column]]}
        assert -5 <= offset <= 6
        rolled = plain.controls[:, column, 12:].roll(offset, dims=-1)
        torch.testing.assert_close(moved.controls[:, column, 12:], rolled)
        assert torch.equal(moved.controls[:, column, :12], plain.controls[:, column, :12])


def test_notes_at_the_ends_of_the_piano_are_not_transposed_off_it() -> None:
    both_ends = np.tile([0, 87, 208], 20)
    found = batch(WindowSampler(Corpus([performance(both_ends)]), 12, 1), 16, 0, 0, 1.0, True)
    assert set(found.targets.unique().tolist()) == {0, 87, 208}


def test_carried_windows_follow_one_another_in_their_performance() -> None:
    pieces = [np.arange(100), np.arange(100, 141), np.arange(150, 172)]
    windows = WindowSampler(Corpus([performance(piece) for piece in pieces]), 10, 3, carry=4)
    before = batch(windows, 32, 5, 0, 1.0, False)
    carried, runs = 0, []
    for number in range(1, 40):
        now = batch(windows, 32, 5, number, 1.0, False)
        on = now.carried
        assert torch.equal(now.before[on], before.targets[-1][on])
        assert torch.equal(now.targets[0][on], before.targets[-1][on] + 1)
        assert bool((now.targets.diff(dim=0) == 1).all())
        carried, before = carried + int(on.sum()), now
        runs.append(on)
    assert 0.5 < carried / (39 * 32) < 0.75  # three of four, less what the ends of pieces cut
    assert len({tuple(on.tolist()) for on in runs}) > 1  # not all columns begin at once


def test_transposition_and_seen_control_stay_the_same_in_a_run() -> None:
    windows = WindowSampler(Corpus([performance(np.arange(40, 80))]), 5, 1, carry=3)
    before = batch(windows, 32, 1, 0, 0.5, True)
    for number in range(1, 20):
        now = batch(windows, 32, 1, number, 0.5, True)
        on = now.carried
        assert torch.equal(now.targets[0][on], before.targets[-1][on] + 1)
        assert torch.equal(now.controlled[on], before.controlled[on])
        assert len(now.targets[0].unique()) > 12
        before = now


def test_processes_cut_the_columns_of_one_batch_between_them() -> None:
    corpus = Corpus([performance(np.arange(240)) for _ in range(3)])
    whole = batch(WindowSampler(corpus, 10, 3, 4), 12, 5, 7, 0.5, True)
    for rank in range(3):
        part = batch(WindowSampler(corpus, 10, 3, 4, rank, 3), 4, 5, 7, 0.5, True)
        own = slice(4 * rank, 4 * rank + 4)
        assert torch.equal(part.targets, whole.targets[:, own])
        assert torch.equal(part.controls, whole.controls[:, own])
        assert torch.equal(part.carried, whole.carried[own])
        assert torch.equal(part.controlled, whole.controlled[own])


def test_a_tenth_of_the_runs_begins_where_the_performance_does() -> None:
    windows = WindowSampler(Corpus([performance(np.arange(200)[:150])]), 5, 1, carry=2)
    found = [batch(windows, 50, 0, number, 1.0, False) for number in range(40)]
    firsts = torch.cat([part.targets[0][~part.carried] for part in found])
    assert 0.08 < float((firsts == 0).float().mean()) < 0.13


def test_an_event_out_of_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="250"):
        WindowSampler(Corpus([performance(np.full(20, 250))]), 5, 1).batch(2, 0, 0, 1.0, False)
