"""Performances of one piece are found by what is played, and kept on one side of a split."""

from __future__ import annotations

import json
import re
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import preprocess
import train
from config import parse_split
from corpus.dedup import Heard, Piece, find_pieces, sketch
from corpus.split import assign
from sequence import NoteSeq
from tests.conftest import ASAP

TUNE = 400  # notes


def tune(seed: int, notes: int = TUNE) -> tuple[np.ndarray, np.ndarray]:
    """Onsets in seconds and pitches of two hands, as a composer of random notes writes them."""
    random = np.random.default_rng(seed)
    steps = np.cumsum(random.choice([0.0, 0.125, 0.25], notes, p=[0.2, 0.5, 0.3]))
    return steps, 60 + random.integers(-14, 15, notes)


def played(
    written: tuple[np.ndarray, np.ndarray],
    seed: int = 0,
    tempo: float = 1.0,
    key: int = 0,
    wrong: float = 0.0,
) -> NoteSeq:
    """A pianist's way with it: uneven onsets, some notes left out and others put in."""
    random = np.random.default_rng(1000 + seed)
    starts, pitches = written
    starts = starts / tempo + (random.normal(0, 0.008, len(starts)) if seed else 0.0)
    kept = random.random(len(starts)) >= wrong
    extra = random.random(len(starts)) < wrong
    starts = np.concatenate([starts[kept], starts[extra] + 0.06])
    pitches = np.concatenate([pitches[kept], pitches[extra] + 1]) + key
    starts = np.maximum(starts - starts.min(), 0)
    return NoteSeq(starts, starts + 0.2, pitches, 40 + random.integers(0, 40, len(starts)))


def heard(*performances: NoteSeq) -> list[Heard]:
    return [Heard(str(n).encode(), sketch(notes), 1000) for n, notes in enumerate(performances)]


def members(performances: list[Heard]) -> list[tuple[int, ...]]:
    return [piece.members for piece in find_pieces(performances)[0]]


ALTERED = {
    "faster": played(tune(1), tempo=1.6),
    "slower": played(tune(1), tempo=0.6),
    "in another key": played(tune(1), key=-7),
    "another pianist": played(tune(1), seed=1, tempo=1.1, wrong=0.05),
    "another pianist, slower, in another key": played(
        tune(1), seed=2, tempo=0.8, key=3, wrong=0.05
    ),
    "an excerpt": played((tune(1)[0][150:270], tune(1)[1][150:270])),
    "a part left out": played(tuple(np.delete(column, np.s_[100:250]) for column in tune(1))),  # type: ignore[arg-type]
    "all but its beginning twice": played(
        (np.append(tune(1)[0], 99 + tune(1)[0]), np.tile(tune(1)[1], 2))
    ),
}


@pytest.mark.parametrize("how", ALTERED)
def test_a_piece_is_known_again(how: str) -> None:
    others = [played(tune(seed)) for seed in range(2, 6)]
    found = members(heard(played(tune(1)), *others, ALTERED[how]))
    assert found == [(0, 5), (1,), (2,), (3,), (4,)]


def test_another_key_and_chords_struck_in_another_order_change_no_word() -> None:
    starts, pitches = tune(1)
    rolled = starts + 0.002 * np.arange(len(starts))[::-1] / len(starts)
    assert np.array_equal(sketch(played(tune(1))), sketch(played(tune(1), key=11)))
    assert np.array_equal(sketch(played((starts, pitches))), sketch(played((rolled, pitches))))


@pytest.mark.parametrize("run", [np.arange(300) % 40, np.arange(300) % 2, np.zeros(300, int)])
def test_scales_trills_and_repeated_notes_say_nothing(run: np.ndarray) -> None:
    time = 0.11 * np.arange(300)
    assert not len(sketch(played((time, 40 + run))))
    longer = played((np.append(tune(1)[0], 99 + time), np.append(tune(1)[1], 40 + run)))
    assert len(sketch(longer)) <= len(sketch(played(tune(1)))) + 4


def test_a_flourish_that_many_short_pieces_share_does_not_join_them() -> None:
    flourish = tune(99, 16)[1]
    short = [np.append(tune(seed, 44)[1], flourish) for seed in range(40)]
    time = 0.15 * np.arange(60)
    assert len(members(heard(*(played((time, pitches)) for pitches in short)))) == 40


def test_a_medley_joins_what_it_is_made_of_and_nothing_else() -> None:
    pair = [tune(1), tune(2)]
    medley = played((np.append(pair[0][0], 99 + pair[1][0]), np.append(pair[0][1], pair[1][1])))
    found = members(heard(played(tune(1)), played(tune(2)), played(tune(3)), medley))
    assert found == [(0, 1, 3), (2,)]


def test_two_hundred_pieces_of_two_each_stay_apart() -> None:
    seeds = [seed for seed in range(200) for _ in range(2)]
    order = np.random.default_rng(0).permutation(len(seeds))
    some = [played(tune(seeds[n], 150), seed=int(n) + 1, wrong=0.03) for n in order]
    found = {frozenset(seeds[order[n]] for n in group) for group in members(heard(*some))}
    assert found == {frozenset([seed]) for seed in range(200)}


def test_what_is_too_short_for_words_is_together_if_it_is_the_same() -> None:
    brief = Heard(b"same", np.empty(0, np.uint64), 0)
    other = Heard(b"other", np.empty(0, np.uint64), 0)
    assert members([brief, other, brief]) == [(0, 2), (1,)]
    assert members([]) == []


def test_an_identity_knows_neither_order_nor_most_newcomers() -> None:
    pianists = heard(*(played(tune(7), seed=n, wrong=0.03) for n in range(1, 9)))
    (all_of_them,), _ = find_pieces(pianists)
    (backwards,), _ = find_pieces(pianists[::-1])
    without = [find_pieces(pianists[:n] + pianists[n + 1 :])[0][0].identity for n in range(8)]
    least = min(int(performance.words.min()) for performance in pianists)
    assert backwards.identity == all_of_them.identity
    assert (
        all_of_them.identity
        == find_pieces([Heard(b"", np.array([least], np.uint64), 0)])[0][0].identity
    )
    assert without.count(all_of_them.identity) >= 6


# ------------------------------------------------------------------------------------- sides


def numbered(count: int) -> list[Piece]:
    return [Piece((n,), f"piece {n}".encode()) for n in range(count)]


def test_shares_of_the_pieces_are_those_asked_for() -> None:
    sides = assign(numbered(5000), {}, "70,20,10").sides
    for side, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        assert abs(sides.count(side) / 5000 - share) < 0.02


def test_a_side_without_a_share_gets_nothing_and_one_with_a_share_something() -> None:
    assert set(assign(numbered(300), {}, "80,20,0").sides) == {"train", "validation"}
    for count in range(3, 12):
        assert set(assign(numbered(count), {}, "98,1,1").sides) == {"train", "validation", "test"}
    assert assign(numbered(1), {}, "1,1,98").sides == ("train",)


def test_more_pieces_and_other_shares_move_none_that_is_there() -> None:
    first = assign(numbered(40), {}, "80,10,10").sides
    later = assign(numbered(400), dict(enumerate(first)), "10,80,10")
    assert later.sides[:40] == first
    assert len(later.kept) > 10
    assert all(n < 40 for n in later.kept)
    assert later.sides[40:].count("validation") > 250


def test_a_piece_found_on_several_sides_goes_where_it_was_trained_on() -> None:
    pieces = [Piece((0, 1, 2), b"one"), Piece((3, 4), b"two")]
    there = {0: "test", 1: "train", 3: "test", 4: "validation"}
    chosen = assign(pieces, there, "0,0,1")
    assert chosen.sides == ("train", "validation")
    assert chosen.gathered == (0, 1)


@pytest.mark.parametrize(
    "text", ["80,20", "a,b,c", "80,-1,21", "0,0,0", "nan,1,1", "inf,1,1", ",,"]
)
def test_shares_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--split"):
        parse_split(text)
    assert parse_split("8,1,1") == (0.8, 0.1, 0.1)


# ----------------------------------------------------------------------------------- command


def write(path: Path, notes: NoteSeq) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    notes.to_midi_file(path)


def run(midi: Path, save: Path, *more: str) -> int:
    return preprocess.main([str(midi), str(save), "1", *more])


def sides(save: Path) -> dict[str, str]:
    """The side of every MIDI file, and nothing else may hold data."""
    found = {}
    for path in save.rglob("*.data"):
        side, name = path.relative_to(save).as_posix().split("/", 1)
        assert name not in found
        found[name] = side
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pieces, each by two pianists, with names that tell nothing."""
    folder = tmp_path_factory.mktemp("written")
    for seed in range(8):
        for pianist in (1, 2):
            name = f"{(7 * seed + pianist) % 5}/{seed * 37 % 100}-{pianist}.mid"
            write(folder / name, played(tune(seed, 150), seed=pianist, wrong=0.02))
    return folder


@pytest.fixture
def midi(written: Path, tmp_path: Path) -> Path:
    """The same, to take files from."""
    return Path(shutil.copytree(written, tmp_path / "midi"))


def of_pieces(found: dict[str, str]) -> dict[str, set[str]]:
    pieces: dict[str, set[str]] = {}
    for name, side in found.items():
        pieces.setdefault(name.split("/")[1].split("-")[0], set()).add(side)
    return pieces


def test_a_split_holds_every_file_once_and_each_piece_on_one_side(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(midi, tmp_path / "data", "--split", "50,25,25") == 0
    found = sides(tmp_path / "data")
    assert len(found) == 16
    assert set(found.values()) == {"train", "validation", "test"}
    assert all(len(on) == 1 for on in of_pieces(found).values())
    assert "pieces: 8 in 16 performances, 8 of them played several times" in capsys.readouterr().out
    listed = json.loads((tmp_path / "data" / "split.json").read_text())["pieces"]
    assert {f"{name}.data": p["side"] for p in listed for name in p["performances"]} == found


def test_a_later_run_keeps_what_is_there_and_puts_new_files_beside_their_piece(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = [path for path in sorted(midi.rglob("*.mid")) if "-2" in path.name][:4]
    for number, path in enumerate(late):
        path.rename(tmp_path / f"late{number}")
    run(midi, tmp_path / "data", "--split", "50,25,25")
    first = sides(tmp_path / "data")
    for number, path in enumerate(late):
        shutil.move(tmp_path / f"late{number}", path)
    for seed in range(50, 54):
        write(midi / f"new/{seed}-1.mid", played(tune(seed, 150)))
    capsys.readouterr()
    assert run(midi, tmp_path / "data") == 0
    told, found = capsys.readouterr().out, sides(tmp_path / "data")
    assert "8 done, 12 skipped" in told
    assert "split 50,25,25, by piece" in told
    assert len(found) == 20
    assert all(found[name] == side for name, side in first.items())
    assert all(len(on) == 1 for on in of_pieces(found).values())
    assert not (tmp_path / "data" / ".waiting").exists()


def test_other_shares_are_for_new_pieces_and_that_is_said(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(midi, tmp_path / "data", "--split", "100,0,0")
    write(midi / "new.mid", played(tune(77)))
    assert run(midi, tmp_path / "data", "--split", "0,0,100") == 0
    told, found = capsys.readouterr().out, sides(tmp_path / "data")
    assert found.pop("new.mid.data") == "test"
    assert set(found.values()) == {"train"}
    assert "was split 100,0,0 before: 0,0,100 is for new pieces alone" in told
    assert "kept where they were: 8 pieces" in told


def test_a_folder_that_was_not_split_is_split_without_doing_the_work_again(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (midi / "train").mkdir()
    write(midi / "train" / "99-1.mid", played(tune(99)))
    run(midi, tmp_path / "data")
    flat = {path.read_bytes() for path in (tmp_path / "data").rglob("*.data")}
    capsys.readouterr()
    assert run(midi, tmp_path / "data", "--split", "40,30,30") == 0
    assert "0 done, 17 skipped" in capsys.readouterr().out
    assert {path.read_bytes() for path in (tmp_path / "data").rglob("*.data")} == flat
    assert len(sides(tmp_path / "data")) == 17


def test_a_run_that_was_stopped_goes_on_where_it_was(
    midi: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "_settle", stopped)
        assert run(midi, tmp_path / "data", "--split", "50,25,25") == 130
    assert set(sides(tmp_path / "data").values()) == {".waiting"}
    assert run(midi, tmp_path / "data") == 0
    assert "0 done, 16 skipped" in capsys.readouterr().out
    assert set(sides(tmp_path / "data").values()) == {"train", "validation", "test"}


def test_training_on_a_split_folder_as_a_whole_is_refused(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(midi, tmp_path / "data", "--split", "50,25,25")
    assert train.main(["-d", str(tmp_path / "data"), "-s", str(tmp_path / "m.sess"), "-L"]) == 1
    told = capsys.readouterr().err
    assert f"use -d {tmp_path / 'data' / 'train'} -v {tmp_path / 'data' / 'validation'}" in told
    assert not (tmp_path / "m.sess").exists()


def test_data_whose_midi_file_is_gone_still_holds_its_piece(midi: Path, tmp_path: Path) -> None:
    run(midi, tmp_path / "data", "--split", "0,0,100")
    for path in midi.rglob("*-1.mid"):
        path.unlink()
    for path in sorted((tmp_path / "data").rglob("*-2.mid.data")):
        path.unlink()
    assert run(midi, tmp_path / "data", "--split", "100,0,0") == 0
    assert set(sides(tmp_path / "data").values()) == {"test"}


def test_files_that_show_two_pieces_to_be_one_bring_them_to_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "midi" / "a.mid", played(tune(1)))
    run(tmp_path / "midi", tmp_path / "data", "--split", "1,0,0")
    write(tmp_path / "midi" / "b.mid", played(tune(2)))
    run(tmp_path / "midi", tmp_path / "data", "--split", "0,1,0")
    assert sides(tmp_path / "data") == {"a.mid.data": "train", "b.mid.data": "validation"}
    joined = (np.append(tune(1)[0], 99 + tune(2)[0]), np.append(tune(1)[1], tune(2)[1]))
    write(tmp_path / "midi" / "both.mid", played(joined))
    capsys.readouterr()
    assert run(tmp_path / "midi", tmp_path / "data") == 0
    assert set(sides(tmp_path / "data").values()) == {"train"}
    assert (
        "found to be one piece, and now all on train: a.mid and 2 more" in capsys.readouterr().out
    )


def test_data_of_other_files_that_would_seem_to_be_on_a_side_is_not_taken_for_it(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(midi / "train" / "x.mid", played(tune(99)))
    run(midi, tmp_path / "data")
    (midi / "train" / "x.mid").unlink()
    assert run(midi, tmp_path / "data", "--split", "80,10,10") == 1
    assert "give another SAVE_DIR" in capsys.readouterr().err
    assert (tmp_path / "data" / "train" / "x.mid.data").exists()


def test_a_mark_that_is_damaged_is_one_sentence(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("", "[]", '{"split": 3}', '{"split": "a"}'):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "split.json").write_text(text)
        assert run(midi, tmp_path / "data") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "split.json: damaged" in line


# -------------------------------------------------------------------------------- real files


def composed(path: Path) -> str:
    """The piece, by the folders a performance is in; repeats do not make another one."""
    folder = path.parent.relative_to(ASAP).as_posix().split("/", 1)[1]
    return re.sub(r"_(no_)?((first|2)_)?repeat$", "", folder)


@pytest.mark.slow
@pytest.mark.real
def test_pieces_of_all_real_performances_are_those_of_their_folders() -> None:
    paths = sorted(ASAP.rglob("*.mid"), key=lambda path: path.name)
    if not paths:
        pytest.skip("no ../shared/data/asap")
    found, _ = find_pieces([Heard.of(preprocess.encode(p.read_bytes(), "")) for p in paths])
    truth = [composed(path) for path in paths]
    same = {pair for piece in found for pair in combinations(piece.members, 2)}
    right = {
        pair for pair in combinations(range(len(paths)), 2) if truth[pair[0]] == truth[pair[1]]
    }
    precision, recall = (len(same & right) / len(part) for part in (same, right))
    print(
        f"{len(found)} pieces, by the folders {len(set(truth))}; {len(right):,} pairs of one piece:"
    )
    print(f"precision {precision:.4f}, recall {recall:.4f}")
    assert same == right
