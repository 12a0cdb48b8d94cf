"""`.data` files, windows and batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data import Corpus, Performance, Windows, held_out
from sequence import EventSeq
from tests.music import performance, write_data


def test_a_data_file_comes_back_as_it_was_and_twice_the_same(tmp_path: Path) -> None:
    made = performance(np.arange(240))
    (tmp_path / "a.data").write_bytes(made.to_bytes())
    loaded = Performance.load(tmp_path / "a.data")
    assert np.array_equal(loaded.events, made.events)
    assert np.array_equal(loaded.controls, made.controls)
    assert made.to_bytes() == made.to_bytes() == loaded.to_bytes()


def test_a_data_file_is_plain_tensors_and_takes_under_20_bytes_an_event(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    path.write_bytes(performance(np.zeros(10000)).to_bytes())
    record = torch.load(path, weights_only=True, mmap=True)
    assert record["events"].dtype == record["controls"].dtype == torch.uint8
    assert record["encoding"] == 2
    assert path.stat().st_size < 200_000


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"encoding": 7}, "encoding 7"),
        ({"events": torch.zeros(3)}, "events"),
        ({"controls": torch.zeros(9, 13, dtype=torch.uint8)}, "controls"),
        ({"notes": "many"}, "notes"),
        ({"events": torch.zeros(0).byte(), "controls": torch.zeros(0, 13).byte()}, "no events"),
    ],
)
def test_a_data_file_that_does_not_hold_together_is_refused(
    tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    path = tmp_path / "odd.data"
    path.write_bytes(performance(np.zeros(10)).to_bytes())
    torch.save(torch.load(path, weights_only=True) | changes, path)
    with pytest.raises(ValueError, match=word) as refusal:
        Performance.load(path)
    assert "odd.data" in str(refusal.value)


@pytest.mark.parametrize(("steps", "stride"), [(10, 3), (10, 10), (1, 1), (25, 4)])
def test_windows_are_counted_exactly_and_stay_inside_a_piece(steps: int, stride: int) -> None:
    pieces = [performance(np.full(size, k)) for k, size in enumerate((30, 5, 24, 10))]
    windows = Windows(Corpus(pieces), steps, stride)
    expected = [
        (k, first)
        for k, piece in enumerate(pieces)
        for first in range(0, len(piece) - steps + 1, stride)
    ]
    assert len(windows) == len(expected)
    for index, (piece, first) in enumerate(expected):
        events, controls = windows.window(index)
        assert events.tolist() == [piece] * steps
        assert controls[:, 1].tolist() == list(range(first + 1, first + 1 + steps))


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    windows = Windows(Corpus([performance(np.arange(240))]), 20, 1)

    def batch(seed: int, number: int) -> torch.Tensor:
        return windows.batch(8, seed, number, 0.5, True).targets

    assert torch.equal(batch(1, 2), batch(1, 2))
    assert not torch.equal(batch(1, 2), batch(1, 3))
    assert not torch.equal(batch(1, 2), batch(2, 2))


def test_every_window_is_drawn_about_as_often() -> None:
    windows = Windows(Corpus([performance(np.arange(12)), performance(np.arange(100, 107))]), 3, 1)
    firsts = torch.cat([windows.batch(50, 0, n, 1, False).targets[0] for n in range(100)])
    counts = torch.unique(firsts, return_counts=True)[1]
    assert len(counts) == len(windows) == 15
    expected = 5000 / 15
    assert float(((counts - expected) ** 2 / expected).sum()) < 36.1  # 0.1 % of fair draws


def test_targets_and_controls_of_a_batch_belong_together() -> None:
    events = np.arange(200)
    controls = np.zeros((200, 13), np.uint8)
    controls[np.arange(200), 1 + events % 12] = 255
    controls[:, 0] = events % 7
    batch = Windows(Corpus([performance(events, controls)]), 20, 1).batch(16, 0, 0, 1.0, False)
    assert batch.targets.shape == (20, 16)
    assert torch.equal(batch.controls[..., 12:].argmax(dim=-1), batch.targets % 12)
    assert torch.equal(batch.controls[..., :12].argmax(dim=-1), batch.targets % 7)
    assert bool(batch.controlled.all())


def test_the_control_ratio_is_the_share_of_windows_with_control() -> None:
    windows = Windows(Corpus([performance(np.arange(50))]), 5, 1)
    seen = torch.cat([windows.batch(100, 0, n, 0.3, False).controlled for n in range(50)])
    assert 0.27 < float(seen.float().mean()) < 0.33


def test_transposed_batches_move_notes_with_their_histogram_and_stay_on_the_piano(
    tmp_path: Path,
) -> None:
    paths = sorted(write_data(tmp_path / "d").iterdir())
    windows = Windows(Corpus.load(paths), 100, 7)
    plain, moved = (windows.batch(32, 0, 0, 1.0, transposing) for transposing in (False, True))
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
    batch = Windows(Corpus([performance(both_ends)]), 12, 1).batch(16, 0, 0, 1.0, True)
    assert set(batch.targets.unique().tolist()) == {0, 87, 208}


def test_of_two_files_one_is_held_out_unless_the_share_is_zero() -> None:
    two = [Path("a/0.data"), Path("a/1.data")]
    assert [len(side) for side in held_out(two, Path("a"), 1e-6)] == [1, 1]
    assert held_out(two, Path("a"), 0.0) == (two, [])
    assert held_out(two[:1], Path("a"), 1e-6) == (two[:1], [])


def test_an_event_out_of_range_is_an_error() -> None:
    with pytest.raises(ValueError, match="250"):
        Windows(Corpus([performance(np.full(20, 250))]), 5, 1).batch(2, 0, 0, 1.0, False)


def test_the_held_out_share_is_stable_when_files_are_added() -> None:
    root = Path("somewhere")
    many = [root / f"{k}.data" for k in range(2000)]
    train, held = held_out(many, root, 0.1)
    assert 150 < len(held) < 250
    assert sorted(train + held) == sorted(many)
    assert held_out(many[:500], root, 0.1)[1] == [path for path in many[:500] if path in held]
    elsewhere = [Path("else") / path.name for path in many]
    moved = held_out(elsewhere, Path("else"), 0.1)[1]
    assert [path.name for path in moved] == [path.name for path in held]
