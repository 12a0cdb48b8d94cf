"""A split keeps each piece in one subset, also in later runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import preprocess
import train
from config import SUBSETS, parse_split
from corpus.dedup import Piece
from corpus.split import assign_subsets
from tests.corpus.random_pieces import compose, join, write_performance

Convert = Callable[..., str]

# ------------------------------------------------------------------------------- assignment


def make_pieces(count: int) -> list[Piece]:
    return [Piece((n,), f"piece {n}".encode()) for n in range(count)]


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (0.8, 0.2, 0)])
def test_subsets_have_the_requested_shares(shares: tuple[float, ...]) -> None:
    subsets = assign_subsets(make_pieces(5000), {}, ",".join(map(str, shares))).subsets
    for name, share in zip(SUBSETS, shares, strict=True):
        assert subsets.count(name) / 5000 == pytest.approx(share, abs=0.02 if share else 0)


@pytest.mark.parametrize("count", range(3, 12))
def test_each_subset_with_a_share_gets_a_piece(count: int) -> None:
    assert set(assign_subsets(make_pieces(count), {}, "98,1,1").subsets) == set(SUBSETS)


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


@pytest.fixture(scope="module")
def performances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with eight pieces, two performances of each."""
    folder = tmp_path_factory.mktemp("performances")
    for piece in range(8):
        for number in (1, 2):
            path = folder / str((7 * piece + number) % 5) / f"{piece * 37 % 100}-{number}.mid"
            write_performance(path, compose(piece, 150), number, wrong=0.02)
    return folder


@pytest.fixture
def midi(performances: Path, tmp_path: Path) -> Path:
    """Return a copy of the performances."""
    return Path(shutil.copytree(performances, tmp_path / "midi"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the folder for the .data files."""
    return tmp_path / "data"


@pytest.fixture
def convert(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> Convert:
    """Return a function that runs preprocess.py and returns what it prints."""

    def run(*split: str, code: int = 0) -> str:
        options = ["--split", *split] if split else []
        assert preprocess.main([str(tmp_path / "midi"), str(data), "1", *options]) == code
        return "".join(capsys.readouterr())

    return run


def find_subsets(data: Path) -> dict[str, str]:
    """Return the subset of every .data file; each name must be in one only."""
    subsets: dict[str, str] = {}
    for path in data.rglob("*.data"):
        subset, name = path.relative_to(data).as_posix().split("/", 1)
        assert name not in subsets
        subsets[name] = subset
    return subsets


def count_pieces(subsets: dict[str, str]) -> int:
    """Return the number of pieces, each of which must be in one subset."""
    places = {(Path(name).name.split("-")[0], subset) for name, subset in subsets.items()}
    assert len({piece for piece, _ in places}) == len(places)
    return len(places)


def test_each_piece_is_in_one_subset(midi: Path, data: Path, convert: Convert) -> None:
    output = convert("50,25,25")
    subsets = find_subsets(data)
    assert len(subsets) == 16
    assert set(subsets.values()) == {"train", "validation", "test"}
    assert count_pieces(subsets) == 8
    assert "pieces: 8 in 16 performances; 8 with several performances, at most 2" in output
    listed = json.loads((data / "split.json").read_text())["pieces"]
    assert {f"{name}.data": p["side"] for p in listed for name in p["performances"]} == subsets


def test_new_files_join_their_piece(
    midi: Path, tmp_path: Path, data: Path, convert: Convert
) -> None:
    late = sorted(midi.rglob("*-2.mid"))[:4]
    for path in late:
        path.rename(tmp_path / path.name)
    convert("50,25,25")
    first = find_subsets(data)
    for path in late:
        (tmp_path / path.name).rename(path)
    for seed in range(50, 54):
        write_performance(midi / f"new/{seed}-1.mid", compose(seed, 150))
    output, subsets = convert(), find_subsets(data)
    assert "8 converted, 12 skipped" in output
    assert "split: 50,25,25 by piece" in output
    assert len(subsets) == 20
    assert first.items() <= subsets.items()
    assert count_pieces(subsets) == 12
    assert not (data / ".waiting").exists()


def test_changed_shares_apply_to_new_pieces(midi: Path, data: Path, convert: Convert) -> None:
    convert("100,0,0")
    write_performance(midi / "new.mid", compose(77))
    output, subsets = convert("0,0,100"), find_subsets(data)
    assert subsets.pop("new.mid.data") == "test"
    assert set(subsets.values()) == {"train"}
    assert "split: 0,0,100 is for new pieces only; it was 100,0,0 before" in output
    assert "split: 8 pieces not moved" in output


def test_flat_folder_is_split_without_conversion(midi: Path, data: Path, convert: Convert) -> None:
    write_performance(midi / "train" / "99-1.mid", compose(99))
    convert()
    flat = {path.read_bytes() for path in data.rglob("*.data")}
    assert "0 converted, 17 skipped" in convert("40,30,30")
    assert {path.read_bytes() for path in data.rglob("*.data")} == flat
    assert len(find_subsets(data)) == 17


def test_interrupted_run_is_completed_by_the_next(
    midi: Path, data: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "find_pieces", interrupt)
        convert("50,25,25", code=130)
    assert set(find_subsets(data).values()) == {".waiting"}
    assert "0 converted, 16 skipped" in convert()
    assert set(find_subsets(data).values()) == {"train", "validation", "test"}


def test_training_on_all_subsets_is_an_error(
    midi: Path, tmp_path: Path, data: Path, convert: Convert, capsys: pytest.CaptureFixture[str]
) -> None:
    convert("50,25,25")
    assert train.main(["-d", str(data), "-s", str(tmp_path / "m.sess"), "-L"]) == 1
    assert f"-d {data / 'train'} -v {data / 'validation'}" in capsys.readouterr().err
    assert not (tmp_path / "m.sess").exists()


def test_old_data_keeps_its_piece_in_a_subset(midi: Path, data: Path, convert: Convert) -> None:
    convert("0,0,100")
    for path in [*midi.rglob("*-1.mid"), *data.rglob("*-2.mid.data")]:
        path.unlink()
    convert("100,0,0")
    assert set(find_subsets(data).values()) == {"test"}


def test_damaged_data_without_midi_file_is_named(midi: Path, data: Path, convert: Convert) -> None:
    damaged = data / "test" / "old.mid.data"
    convert("50,25,25")
    damaged.write_bytes(b"damaged")
    assert f"damaged: {damaged} (" in convert()
    assert damaged.exists()


def test_damaged_data_is_made_again_in_its_subset(midi: Path, data: Path, convert: Convert) -> None:
    convert("50,25,25")
    before = find_subsets(data)
    damaged = data / "test" / next(name for name, s in before.items() if s == "test")
    content = bytearray(damaged.read_bytes())
    content[content.index(b"data/0") + 100] ^= 1
    damaged.write_bytes(content)
    output = convert()
    assert f"damaged: {damaged} (a checksum is wrong): made again" in output
    assert "1 converted, 15 skipped" in output
    assert find_subsets(data) == before


def test_too_long_name_rejects_one_file(midi: Path, data: Path, convert: Convert) -> None:
    write_performance(midi / f"{'x' * 250}.mid", compose(99))
    assert "xxx.mid: cannot be written (File name too long)" in convert("50,25,25")
    assert len(find_subsets(data)) == 16


def test_merged_pieces_move_to_train(tmp_path: Path, data: Path, convert: Convert) -> None:
    write_performance(tmp_path / "midi" / "a.mid", compose(1))
    convert("1,0,0")
    write_performance(tmp_path / "midi" / "b.mid", compose(2))
    convert("0,1,0")
    assert find_subsets(data) == {"a.mid.data": "train", "b.mid.data": "validation"}
    write_performance(tmp_path / "midi" / "both.mid", join(compose(1), compose(2)))
    assert "a.mid and 2 more are one piece; all are now in train" in convert()
    assert set(find_subsets(data).values()) == {"train"}


def test_data_in_a_folder_named_like_a_subset_is_split(
    midi: Path, data: Path, convert: Convert
) -> None:
    write_performance(midi / "train" / "x.mid", compose(99))
    convert()
    (midi / "train" / "x.mid").unlink()
    output = convert("0,0,100")
    assert "split: 17 files of earlier runs moved from" in output
    assert "MIDI file is gone: train/x.mid" in output
    assert (data / "test" / "train" / "x.mid.data").exists()
    assert not (data / "train").exists()


BAD_SPLITS = ("3", '"a"', '"1e999,1,1"', '"nan,1,1"', '"-1,1,1"', "null", "9" * 5000, "true")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 200_000, '{"split":' * 200_000, *(f'{{"split": {s}}}' for s in BAD_SPLITS)],
    ids=range(4 + len(BAD_SPLITS)),
)
def test_damaged_split_file_is_an_error(text: str, data: Path, convert: Convert) -> None:
    data.mkdir()
    (data / "split.json").write_text(text)
    (line,) = convert(code=1).splitlines()
    assert "split.json: damaged" in line
