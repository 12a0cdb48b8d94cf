"""`.data` files, and which of them are held out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from corpus.performance import Performance, expand_controls, hold_out
from sequence import CURRENT, LEGACY, ControlSeq, Encoding
from tools.synthetic_data import performance


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


@given(arrays(np.uint8, (3, 2, 13)), st.sampled_from([CURRENT, LEGACY]))
def test_controls_expand_on_the_device_as_the_codec_says(
    packed: np.ndarray, encoding: Encoding
) -> None:
    packed[..., 0] %= 12
    expected = torch.from_numpy(ControlSeq.recover_compressed_array(packed, encoding))
    torch.testing.assert_close(expand_controls(torch.from_numpy(packed), encoding), expected)


def test_of_two_files_one_is_held_out_unless_the_share_is_zero() -> None:
    two = [Path("a/0.data"), Path("a/1.data")]
    assert [len(side) for side in hold_out(two, Path("a"), 1e-6)] == [1, 1]
    assert hold_out(two, Path("a"), 0.0) == (two, [])
    assert hold_out(two[:1], Path("a"), 1e-6) == (two[:1], [])


def test_the_held_out_share_is_stable_when_files_are_added() -> None:
    root = Path("somewhere")
    many = [root / f"{k}.data" for k in range(2000)]
    train, held = hold_out(many, root, 0.1)
    assert 150 < len(held) < 250
    assert sorted(train + held) == sorted(many)
    assert hold_out(many[:500], root, 0.1)[1] == [path for path in many[:500] if path in held]
    elsewhere = [Path("else") / path.name for path in many]
    moved = hold_out(elsewhere, Path("else"), 0.1)[1]
    assert [path.name for path in moved] == [path.name for path in held]
