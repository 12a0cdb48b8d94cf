"""generate.py --surprise: the files that it writes, and what it says of them."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import generate
from corpus.performance import hash_source
from model import PerformanceRNN, Session
from tools.synthetic_data import TINY_SIZES


@pytest.fixture
def session(tmp_path: Path, data_dir: Path) -> Path:
    """A tiny session that records performance-2.mid as its training data."""
    torch.manual_seed(0)
    source = hash_source((data_dir / "performance-2.mid").read_bytes())
    training = {"seen": source[:12], "seen_is_complete": True}
    path = tmp_path / "tiny.sess"
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2, training=training).save(path)
    return path


def run(session: Path, *files: Path) -> tuple[int, Path]:
    folder = session.parent / "out"
    argv = ["-s", str(session), "-o", str(folder), "--surprise", *map(str, files)]
    return generate.main(argv), folder


def test_tables_and_page(session: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, folder = run(session, data_dir / "performance-1.mid", data_dir / "performance-2.mid")
    assert status == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "performance-1.surprise.csv",
        "performance-1.surprise.json",
        "performance-2.surprise.csv",
        "performance-2.surprise.json",
        "surprise.html",
    ]
    with (folder / names[0]).open() as file:
        rows = list(csv.DictReader(file))
    record = json.loads((folder / names[1]).read_text())
    assert len(rows) == len(record["notes"]) > 100
    assert record["training data"] == "no"
    assert json.loads((folder / names[3]).read_text())["training data"] == "yes"
    assert "performance-2.mid, without control; session trained on this file: yes" in (
        capsys.readouterr().out
    )
    page = (folder / "surprise.html").read_text()
    assert page.count('"shades":[') == page.count('"curve":[') == 2


def test_the_same_numbers_again(session: Path, data_dir: Path) -> None:
    _, folder = run(session, data_dir / "performance-1.mid")
    first = (folder / "performance-1.surprise.csv").read_bytes()
    run(session, data_dir / "performance-1.mid")
    assert (folder / "performance-1.surprise.csv").read_bytes() == first


def test_a_file_that_cannot_be_read_is_named(
    session: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mid").write_bytes(b"no MIDI")
    good = data_dir / "performance-1.mid"
    status, folder = run(session, tmp_path / "bad.mid", tmp_path / "missing.mid", good)
    output = capsys.readouterr().out
    assert status == 0
    assert f"not measured: {tmp_path / 'bad.mid'}: " in output
    assert f"not measured: {tmp_path / 'missing.mid'}: No such file" in output
    assert (folder / "performance-1.surprise.csv").exists()


def test_only_bad_files_are_an_error(
    session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = run(session, tmp_path / "missing.mid")
    assert status == 1
    assert "error: no file could be measured" in capsys.readouterr().err


def test_files_of_one_name_do_not_replace_each_other(
    session: Path, data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    copy = shutil.copy(data_dir / "performance-2.mid", tmp_path / "other" / "performance-1.mid")
    _, folder = run(session, data_dir / "performance-1.mid", Path(copy))
    assert (folder / "performance-1.surprise.csv").exists()
    assert (folder / "performance-1-2.surprise.csv").exists()
