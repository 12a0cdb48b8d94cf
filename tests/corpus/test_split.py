"""A split keeps each piece in one subset, in this run and in later ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import preprocess
import train
from config import parse_split
from corpus.dedup import Piece
from corpus.split import assign_subsets
from tests.corpus.random_pieces import compose, join, write_performance

# ------------------------------------------------------------------------------- assignment


def make_pieces(count: int) -> list[Piece]:
    return [Piece((n,), f"piece {n}".encode()) for n in range(count)]


def test_subsets_have_the_requested_shares() -> None:
    subsets = assign_subsets(make_pieces(5000), {}, "70,20,10").subsets
    for name, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        assert abs(subsets.count(name) / 5000 - share) < 0.02


def test_subset_without_a_share_stays_empty() -> None:
    subsets = assign_subsets(make_pieces(300), {}, "80,20,0").subsets
    assert set(subsets) == {"train", "validation"}


@pytest.mark.parametrize("count", range(3, 12))
def test_each_subset_with_a_share_gets_a_piece(count: int) -> None:
    subsets = assign_subsets(make_pieces(count), {}, "98,1,1").subsets
    assert set(subsets) == {"train", "validation", "test"}


def test_single_piece_is_for_training() -> None:
    assert assign_subsets(make_pieces(1), {}, "1,1,98").subsets == ("train",)


def test_pieces_stay_in_their_subset() -> None:
    first = assign_subsets(make_pieces(40), {}, "80,10,10").subsets
    later = assign_subsets(make_pieces(400), dict(enumerate(first)), "10,80,10")
    assert later.subsets[:40] == first
    assert later.subsets[40:].count("validation") > 250
    assert len(later.pinned) > 10
    assert max(later.pinned) < 40


def test_piece_in_several_subsets_goes_to_the_first() -> None:
    pieces = [Piece((0, 1, 2), b"one"), Piece((3, 4), b"two")]
    current = {0: "test", 1: "train", 3: "test", 4: "validation"}
    assignment = assign_subsets(pieces, current, "0,0,1")
    assert assignment.subsets == ("train", "validation")
    assert assignment.merged == (0, 1)


@pytest.mark.parametrize(
    "text", ["80,20", "a,b,c", "80,-1,21", "0,0,0", "nan,1,1", "inf,1,1", ",,"]
)
def test_wrong_shares_raise(text: str) -> None:
    with pytest.raises(ValueError, match="--split"):
        parse_split(text)


def test_shares_sum_to_one() -> None:
    assert parse_split("8,1,1") == (0.8, 0.1, 0.1)


# ------------------------------------------------------------------------------ the command


def run(midi: Path, save: Path, *options: str) -> int:
    return preprocess.main([str(midi), str(save), "1", *options])


def find_subsets(save: Path) -> dict[str, str]:
    """Return the subset of every .data file; each name must be in one only."""
    subsets: dict[str, str] = {}
    for path in save.rglob("*.data"):
        subset, name = path.relative_to(save).as_posix().split("/", 1)
        assert name not in subsets
        subsets[name] = subset
    return subsets


def subsets_by_piece(subsets: dict[str, str]) -> dict[str, set[str]]:
    pieces: dict[str, set[str]] = {}
    for name, subset in subsets.items():
        pieces.setdefault(Path(name).name.split("-")[0], set()).add(subset)
    return pieces


@pytest.fixture(scope="module")
def performances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with eight pieces, two performances of each."""
    folder = tmp_path_factory.mktemp("performances")
    for piece in range(8):
        for take in (1, 2):
            path = folder / str((7 * piece + take) % 5) / f"{piece * 37 % 100}-{take}.mid"
            write_performance(path, compose(piece, 150), take, wrong=0.02)
    return folder


@pytest.fixture
def midi(performances: Path, tmp_path: Path) -> Path:
    """Return a copy of the performances."""
    return Path(shutil.copytree(performances, tmp_path / "midi"))


def test_each_piece_is_in_one_subset(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(midi, tmp_path / "data", "--split", "50,25,25") == 0
    subsets = find_subsets(tmp_path / "data")
    pieces = subsets_by_piece(subsets)
    assert len(subsets) == 16
    assert set(subsets.values()) == {"train", "validation", "test"}
    assert len(pieces) == 8
    assert all(len(found) == 1 for found in pieces.values())
    output = capsys.readouterr().out
    assert "pieces: 8 in 16 performances; 8 with several performances, at most 2" in output
    listed = json.loads((tmp_path / "data" / "split.json").read_text())["pieces"]
    assert {f"{name}.data": p["side"] for p in listed for name in p["performances"]} == subsets


def test_new_files_join_their_piece(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = sorted(midi.rglob("*-2.mid"))[:4]
    for path in late:
        path.rename(tmp_path / path.name)
    run(midi, tmp_path / "data", "--split", "50,25,25")
    first = find_subsets(tmp_path / "data")
    for path in late:
        (tmp_path / path.name).rename(path)
    for seed in range(50, 54):
        write_performance(midi / f"new/{seed}-1.mid", compose(seed, 150))
    capsys.readouterr()
    assert run(midi, tmp_path / "data") == 0
    output, subsets = capsys.readouterr().out, find_subsets(tmp_path / "data")
    assert "8 converted, 12 skipped" in output
    assert "split: 50,25,25 by piece" in output
    assert len(subsets) == 20
    assert first.items() <= subsets.items()
    assert all(len(found) == 1 for found in subsets_by_piece(subsets).values())
    assert not (tmp_path / "data" / ".waiting").exists()


def test_changed_shares_apply_to_new_pieces(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(midi, tmp_path / "data", "--split", "100,0,0")
    write_performance(midi / "new.mid", compose(77))
    assert run(midi, tmp_path / "data", "--split", "0,0,100") == 0
    output, subsets = capsys.readouterr().out, find_subsets(tmp_path / "data")
    assert subsets.pop("new.mid.data") == "test"
    assert set(subsets.values()) == {"train"}
    assert "split: 0,0,100 is for new pieces only; it was 100,0,0 before" in output
    assert "split: 8 pieces not moved" in output


def test_flat_folder_is_split_without_converting_again(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_performance(midi / "train" / "99-1.mid", compose(99))
    run(midi, tmp_path / "data")
    flat = {path.read_bytes() for path in (tmp_path / "data").rglob("*.data")}
    capsys.readouterr()
    assert run(midi, tmp_path / "data", "--split", "40,30,30") == 0
    assert "0 converted, 17 skipped" in capsys.readouterr().out
    assert {path.read_bytes() for path in (tmp_path / "data").rglob("*.data")} == flat
    assert len(find_subsets(tmp_path / "data")) == 17


def test_interrupted_run_is_completed_by_the_next(
    midi: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "find_pieces", interrupt)
        assert run(midi, tmp_path / "data", "--split", "50,25,25") == 130
    assert set(find_subsets(tmp_path / "data").values()) == {".waiting"}
    assert run(midi, tmp_path / "data") == 0
    assert "0 converted, 16 skipped" in capsys.readouterr().out
    assert set(find_subsets(tmp_path / "data").values()) == {"train", "validation", "test"}


def test_training_on_all_subsets_at_once_is_an_error(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(midi, tmp_path / "data", "--split", "50,25,25")
    assert train.main(["-d", str(tmp_path / "data"), "-s", str(tmp_path / "m.sess"), "-L"]) == 1
    error = capsys.readouterr().err
    assert f"-d {tmp_path / 'data' / 'train'} -v {tmp_path / 'data' / 'validation'}" in error
    assert not (tmp_path / "m.sess").exists()


def test_data_without_its_midi_file_keeps_its_piece_in_place(midi: Path, tmp_path: Path) -> None:
    run(midi, tmp_path / "data", "--split", "0,0,100")
    for path in midi.rglob("*-1.mid"):
        path.unlink()
    for path in sorted((tmp_path / "data").rglob("*-2.mid.data")):
        path.unlink()
    assert run(midi, tmp_path / "data", "--split", "100,0,0") == 0
    assert set(find_subsets(tmp_path / "data").values()) == {"test"}


def test_damaged_data_of_an_earlier_run_stays_in_place(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "data" / "test" / "old.mid.data"
    run(midi, tmp_path / "data", "--split", "50,25,25")
    damaged.write_bytes(b"damaged")
    assert run(midi, tmp_path / "data") == 0
    assert f"not in the split: {damaged}: damaged" in capsys.readouterr().out
    assert damaged.exists()


def test_name_that_is_too_long_loses_one_file(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_performance(midi / f"{'x' * 250}.mid", compose(99))
    assert run(midi, tmp_path / "data", "--split", "50,25,25") == 0
    assert "xxx.mid: cannot be written (File name too long)" in capsys.readouterr().out
    assert len(find_subsets(tmp_path / "data")) == 16


def test_merged_pieces_move_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    midi, data = tmp_path / "midi", tmp_path / "data"
    write_performance(midi / "a.mid", compose(1))
    run(midi, data, "--split", "1,0,0")
    write_performance(midi / "b.mid", compose(2))
    run(midi, data, "--split", "0,1,0")
    assert find_subsets(data) == {"a.mid.data": "train", "b.mid.data": "validation"}
    write_performance(midi / "both.mid", join(compose(1), compose(2)))
    capsys.readouterr()
    assert run(midi, data) == 0
    assert set(find_subsets(data).values()) == {"train"}
    assert "a.mid and 2 more are one piece; all are now in train" in capsys.readouterr().out


def test_unknown_data_in_a_folder_named_train_is_an_error(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_performance(midi / "train" / "x.mid", compose(99))
    run(midi, tmp_path / "data")
    (midi / "train" / "x.mid").unlink()
    assert run(midi, tmp_path / "data", "--split", "80,10,10") == 1
    assert "use another SAVE_DIR" in capsys.readouterr().err
    assert (tmp_path / "data" / "train" / "x.mid.data").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"split": 3}', '{"split": "a"}'])
def test_damaged_split_file_is_an_error(
    text: str, midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "split.json").write_text(text)
    assert run(midi, tmp_path / "data") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "split.json: damaged" in line
