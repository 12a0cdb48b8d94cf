"""The baseline on a small data set that looks like MAESTRO."""

import csv
import json
from pathlib import Path

import pytest

from config import TrainConfig
from model import Session
from tools import baseline
from tools.synthetic_data import TINY_MODEL, write_midi

SPLIT = {
    "2004/a.midi": "train",
    "2004/b.midi": "validation",
    "2006/c, d.midi": "train",
    "2006/e.midi": "test",
    "2008/f.midi": "train",
}
TINY = ("--recipe", f"-p {TINY_MODEL} -b 4 -w 20 --small-batches 4 --precision fp32 --warm-up 2")


@pytest.fixture
def maestro(tmp_path: Path) -> Path:
    """Return a folder as published: folders of years, and a table."""
    folder = tmp_path / "maestro-v3.0.0"
    for seed, name in enumerate(SPLIT):
        write_midi(folder / name, 150, seed)
    with (folder / "maestro-v3.0.0.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["canonical_composer", "split", "midi_filename"])
        writer.writerows(["Frédéric Chopin", subset, name] for name, subset in SPLIT.items())
    return folder


def run(tmp_path: Path, maestro: Path, *more: str) -> int:
    sampling = ("--samples", "1", "--seconds", "2")
    return baseline.main([str(maestro), "-s", str(tmp_path / "m.sess"), *sampling, *more])


def read_table(text: str) -> dict[str, list[str]]:
    """Return the cells of each row by their name."""
    lines = (line for line in text.splitlines() if line.startswith("| "))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_split_of_the_published_table(maestro: Path) -> None:
    split = baseline.find_split(maestro)
    assert {subset: sorted(paths) for subset, paths in split.items()} == {
        "train": ["2004/a.midi", "2006/c, d.midi", "2008/f.midi"],
        "validation": ["2004/b.midi"],
    }
    (maestro / "2008" / "f.midi").unlink()
    with pytest.raises(ValueError, match=r"1 file of train missing, such as .*f\.midi"):
        baseline.find_split(maestro)


def test_split_of_two_folders(tmp_path: Path) -> None:
    train = write_midi(tmp_path / "train" / "2004" / "a.midi")
    with pytest.raises(ValueError, match="no split"):
        baseline.find_split(tmp_path)
    validation = write_midi(tmp_path / "validation" / "b.mid")
    split = {"train": {"2004/a.midi": train}, "validation": {"b.mid": validation}}
    assert baseline.find_split(tmp_path) == split


def test_limited_files_are_evenly_spaced() -> None:
    paths = {f"{k}.mid": Path(f"{k}.mid") for k in range(10)}
    assert list(baseline.choose_files(paths, 3)) == ["0.mid", "3.mid", "6.mid"]
    assert baseline.choose_files(paths, None) == baseline.choose_files(paths, 99) == paths


def test_links_follow_the_chosen_files(tmp_path: Path, maestro: Path) -> None:
    paths = baseline.find_split(maestro)["train"]
    baseline.link_files(paths, tmp_path / "links")
    baseline.link_files(baseline.choose_files(paths, 1), tmp_path / "links")
    found = [path for path in (tmp_path / "links").rglob("*") if not path.is_dir()]
    assert [path.resolve() for path in found] == [(maestro / "2004" / "a.midi").resolve()]
    moved = maestro.rename(tmp_path / "moved")
    baseline.link_files(baseline.find_split(moved)["train"], tmp_path / "links")
    found = [path for path in (tmp_path / "links").rglob("*") if not path.is_dir()]
    assert len(found) == 3
    assert all(path.resolve().is_relative_to(moved.resolve()) for path in found)


def test_trained_and_measured(
    tmp_path: Path, maestro: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, maestro, "--events", "790", *TINY) == 0
    output = capsys.readouterr().out
    session = Session.load(tmp_path / "m.sess")
    assert session.training["step"] == 4 + 9  # of 20 and of 80 events
    rows = read_table(output)
    columns = ["all controls", "density and histogram", "without control", "performances"]
    assert rows["measure"] == columns
    losses = [float(cell) for cell in rows["nats/event"][:3]]
    assert all(4 < loss < 6 for loss in losses)  # ln 240 is 5.48
    assert rows["nats/event"][3] == ""
    assert all(0 <= float(cell) <= 1 for cell in rows["overlap, velocity"])
    assert {"density 0 to 11", "notes in C major", "accuracy, note on", "held notes"} <= set(rows)
    assert "trained: 0:0" in output
    assert "800 events, step 13" in output
    assert "none of 1 performance was training data" in output
    assert not list((tmp_path / "m-data").rglob("e.midi*"))  # of the test split


def test_existing_session_is_measured(
    tmp_path: Path, maestro: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, maestro, "--limit", "1", "--events", "80", *TINY) == 0
    before = (tmp_path / "m.sess").read_bytes()
    capsys.readouterr()
    session = ("--session", str(tmp_path / "m.sess"))
    assert run(tmp_path, maestro, "--limit", "1", *session, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["step"], record["events"], record["train_performances"]) == (4, 80, 1)
    results = record["results"]
    assert list(results) == ["all controls", "density and histogram", "without control"]
    assert results["all controls"]["notes"] == 150
    assert (tmp_path / "m.sess").read_bytes() == before


def test_default_recipe_is_that_of_train(
    tmp_path: Path, maestro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    monkeypatch.setattr(baseline.train, "main", lambda argv: commands.append(argv) or 0)
    options = baseline.parse_args([str(maestro), "-s", str(tmp_path / "m.sess")])
    baseline.train_session(options, tmp_path / "data")
    parsed = baseline.train.parse_args(commands[0])
    assert parsed == TrainConfig(
        session=str(tmp_path / "m.sess"),
        dataset=str(tmp_path / "data" / "train"),
        validation=str(tmp_path / "data" / "validation"),
        max_minutes=20.0,
        enable_logging=False,
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--session", "no.sess"], "no.sess: no such file or folder"),
        (["--minutes", "1", "--events", "2"], "not allowed with argument"),
    ],
)
def test_wrong_command_line(
    maestro: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        baseline.parse_args([str(maestro), *more])
    assert message in capsys.readouterr().err


def test_folder_without_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path) == 1
    assert "no split" in capsys.readouterr().err
