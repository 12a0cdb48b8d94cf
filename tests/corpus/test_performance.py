"""`.data` files, and the choice of those for validation."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from corpus.performance import Corpus, Performance, expand_controls, hold_out
from sequence import CURRENT, LEGACY, ControlSeq, Encoding
from tools.synthetic_data import make_performance


def test_data_file_round_trip(tmp_path: Path) -> None:
    original = make_performance(np.arange(240))
    (tmp_path / "a.data").write_bytes(original.to_bytes())
    loaded = Performance.load(tmp_path / "a.data")
    assert np.array_equal(loaded.events, original.events)
    assert np.array_equal(loaded.controls, original.controls)
    assert original.to_bytes() == original.to_bytes() == loaded.to_bytes()


def test_data_file_holds_plain_byte_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    path.write_bytes(make_performance(np.zeros(10000)).to_bytes())
    record = torch.load(path, weights_only=True, mmap=True)
    assert record["events"].dtype == record["controls"].dtype == torch.uint8
    assert record["encoding"] == 2
    assert path.stat().st_size < 200_000  # 14 bytes per event


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": 7}, "encoding 7"),
        ({"events": torch.zeros(3)}, "events"),
        ({"controls": torch.zeros(9, 13, dtype=torch.uint8)}, "controls"),
        ({"notes": "many"}, "'notes' is 'many', not a whole number from 1 to 10"),
        ({"notes": True}, "'notes' is True, not a whole number"),
        ({"notes": 0}, "'notes' is 0, not a whole number from 1 to 10"),
        ({"notes": 11}, "'notes' is 11, not"),
        ({"milliseconds": -1}, "'milliseconds' is -1, not"),
        ({"milliseconds": 10**600}, r"'milliseconds' is 10+\.\.\.0+, not"),
        ({"milliseconds": 1e3}, r"'milliseconds' is 1000\.0, not a whole number"),
        ({"onset_error_mean": math.inf}, "'onset_error_mean' is inf, not a number from 0 to 10"),
        ({"onset_error_max": math.nan}, "'onset_error_max' is nan, not"),
        ({"onset_error_max": -0.1}, "'onset_error_max' is -0.1, not"),
        ({"onset_error_max": "0"}, "'onset_error_max' is '0', not"),
        ({"source": 3}, "'source' is 3, not a hash"),
        ({"source": "a" * 1000}, "'source' is 'aaa"),
        ({"source": "\x1b[2J\u202e"}, "'source' is"),
        ({"events": torch.zeros(0).byte(), "controls": torch.zeros(0, 13).byte()}, "no events"),
    ],
)
def test_invalid_data_file_is_rejected(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "odd.data"
    path.write_bytes(make_performance(np.zeros(10)).to_bytes())
    torch.save(torch.load(path, weights_only=True) | changes, path)
    with pytest.raises(ValueError, match=message) as caught:
        Performance.load(path)
    assert str(caught.value).startswith(f"{path}: ")


@given(arrays(np.uint8, (3, 2, 13)), st.sampled_from([CURRENT, LEGACY]))
def test_controls_expand_as_in_numpy(packed: np.ndarray, encoding: Encoding) -> None:
    packed[..., 0] %= 12
    expected = torch.from_numpy(ControlSeq.recover_compressed_array(packed, encoding))
    torch.testing.assert_close(expand_controls(torch.from_numpy(packed), encoding), expected)


def test_fingerprint_depends_on_the_sources() -> None:
    first, second = (make_performance(np.full(9, event)) for event in (1, 2))
    assert Corpus([first]).fingerprint == Corpus([make_performance(np.full(9, 1))]).fingerprint
    assert Corpus([first]).fingerprint != Corpus([second]).fingerprint
    assert Corpus([first]).fingerprint != Corpus([first, second]).fingerprint


def test_one_of_two_files_is_held_out() -> None:
    paths = [Path("a/0.data"), Path("a/1.data")]
    assert [len(subset) for subset in hold_out(paths, Path("a"), 1e-6)] == [1, 1]
    assert hold_out(paths, Path("a"), 0.0) == (paths, [])
    assert hold_out(paths[:1], Path("a"), 1e-6) == (paths[:1], [])


def test_files_of_one_piece_are_held_out_together() -> None:
    paths = [Path("a") / f"{k}.data" for k in range(1000)]
    pieces = [range(start, start + 5) for start in range(0, 1000, 5)]
    train_paths, val_paths = hold_out(paths, Path("a"), 0.1, pieces)
    assert sorted(train_paths + val_paths) == sorted(paths)
    assert 50 < len(val_paths) < 150
    numbers = {int(path.stem) // 5 for path in val_paths}
    assert not numbers & {int(path.stem) // 5 for path in train_paths}
    # at least one piece, one with the fewest files
    assert hold_out(paths[:9], Path("a"), 1e-6, [range(8), [8]])[1] == [paths[8]]


def test_new_files_do_not_change_subsets() -> None:
    root = Path("somewhere")
    paths = [root / f"{k}.data" for k in range(2000)]
    train_paths, val_paths = hold_out(paths, root, 0.1)
    assert 150 < len(val_paths) < 250
    assert sorted(train_paths + val_paths) == sorted(paths)
    assert hold_out(paths[:500], root, 0.1)[1] == [p for p in paths[:500] if p in val_paths]
    elsewhere = [Path("else") / path.name for path in paths]
    moved = hold_out(elsewhere, Path("else"), 0.1)[1]
    assert [path.name for path in moved] == [path.name for path in val_paths]
