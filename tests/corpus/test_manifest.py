"""A data folder agrees with its MIDI files after every run, also after kills."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import preprocess
import train
from corpus.manifest import Manifest
from corpus.performance import Performance
from tools.synthetic_data import write_midi

Convert = Callable[..., str]


@pytest.fixture
def midi(tmp_path: Path) -> Path:
    """Return a folder with four MIDI files."""
    for seed in range(4):
        write_midi(tmp_path / "midi" / "ab"[seed % 2] / f"{seed}.mid", 60, seed)
    return tmp_path / "midi"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the folder for the .data files."""
    return tmp_path / "data"


@pytest.fixture
def convert(midi: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> Convert:
    """Return a function that runs preprocess.py and returns what it prints."""

    def run(*options: str, midi: Path = midi, save: Path = data, code: int = 0) -> str:
        assert preprocess.main([str(midi), str(save), "1", *options]) == code
        return "".join(capsys.readouterr())

    return run


def list_files(folder: Path) -> list[str]:
    """Return the paths of all files but the manifest."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != "manifest.json")


def read_sources(folder: Path) -> dict[str, str]:
    """Return the hash of the MIDI file of each .data file; each must be there once."""
    sources = {path.as_posix(): Performance.load(folder / path).source for path in find(folder)}
    assert len(set(sources.values())) == len(sources)
    return sources


def find(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*.data"))


# ------------------------------------------------------------------------- unchanged files


def test_unchanged_run_opens_no_file(
    midi: Path, data: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert("--split", "50,25,25")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}

    def fail(*_: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(preprocess, "convert_file", fail)
    monkeypatch.setattr(preprocess, "describe_data", fail)
    assert "0 converted, 4 skipped (unchanged), 0 duplicates" in convert()
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_manifest_is_plain_json(midi: Path, data: Path, convert: Convert) -> None:
    convert("--split", "100,0,0", "--min-seconds", "1")
    record = json.loads((data / "manifest.json").read_text())
    assert (record["version"], record["complete"]) == (1, True)
    assert record["filters"] == {"min_seconds": 1.0}
    entry = record["performances"][0]
    performance = Performance.load(data / entry["path"])
    assert entry["path"] == "train/a/0.mid.data"
    assert entry["midi"] == "../midi/a/0.mid"
    assert entry["source"] == performance.source
    assert (entry["notes"], entry["events"]) == (performance.notes, len(performance))
    assert entry["subset"] == "train"
    assert sum(entry["stats"]["pitch_counts"]) == performance.notes
    loaded = Manifest.load(data)
    assert loaded
    assert [loaded.entries[path].to_json() for path in loaded.entries] == record["performances"]


@pytest.mark.parametrize("text", [None, "", "{}", '{"version": 1, "complete": true}', "[" * 100000])
def test_data_without_manifest_is_taken_over(
    midi: Path, data: Path, convert: Convert, text: str | None
) -> None:
    convert("--split", "50,25,25")
    before = {path: (data / path).read_bytes() for path in list_files(data)}
    (data / "manifest.json").unlink()
    if text is not None:
        (data / "manifest.json").write_text(text)
    assert "0 converted, 4 skipped" in convert()
    assert {path: (data / path).read_bytes() for path in list_files(data)} == before
    assert json.loads((data / "manifest.json").read_text())["complete"]


def test_copied_folder_is_not_converted_again(
    midi: Path, data: Path, tmp_path: Path, convert: Convert
) -> None:
    convert()
    shutil.copytree(data, tmp_path / "copy")
    assert "0 converted, 4 skipped" in convert(save=tmp_path / "copy")


# ---------------------------------------------------------------- one performance, one file


def test_renamed_midi_files_take_their_data_along(midi: Path, data: Path, convert: Convert) -> None:
    convert()
    before = read_sources(data)
    (midi / "a" / "0.mid").rename(midi / "b" / "new.mid")
    (midi / "a" / "2.mid").rename(midi / "x")
    (midi / "b" / "1.mid").rename(midi / "a" / "2.mid")  # two files exchange their names
    (midi / "x").rename(midi / "b" / "1.mid")
    output = convert()
    assert "0 converted, 4 skipped" in output
    assert "renamed: a/0.mid is now b/new.mid" in output
    names = {"a/0": "b/new", "a/2": "b/1", "b/1": "a/2", "b/3": "b/3"}
    assert read_sources(data) == {
        f"{names[path[:3]]}.mid.data": source for path, source in before.items()
    }


def test_copies_of_earlier_versions_are_removed(midi: Path, data: Path, convert: Convert) -> None:
    convert()
    for path in find(data):
        shutil.copy(data / path, data / f"old {path.name}")
    (data / "manifest.json").unlink()
    output = convert()
    assert "removed: old 0.mid.data, the same performance as a/0.mid.data" in output
    assert len(read_sources(data)) == 4


def test_copy_in_the_training_data_is_kept(midi: Path, data: Path, convert: Convert) -> None:
    convert("--split", "0,0,100")
    (data / "train").mkdir()
    shutil.copy(data / "test" / "a" / "0.mid.data", data / "train" / "other.mid.data")
    convert()
    assert (data / "train" / "a" / "0.mid.data").exists()
    assert len(read_sources(data)) == 4


def test_changed_file_is_converted_in_place(midi: Path, data: Path, convert: Convert) -> None:
    convert("--split", "0,0,100")
    write_midi(midi / "a" / "0.mid", 80, 50)
    assert "1 converted, 3 skipped" in convert("--split", "100,0,0")
    assert len(read_sources(data)) == 4
    assert {path.parts[0] for path in find(data)} == {"test"}


def test_two_midi_folders_share_a_data_folder(
    midi: Path, tmp_path: Path, data: Path, convert: Convert
) -> None:
    convert()
    other = tmp_path / "other"
    write_midi(other / "a" / "0.mid", 60, 70)
    write_midi(other / "mine.mid", 60, 71)
    shutil.copy(midi / "b" / "1.mid", other / "copy.mid")
    output = convert(midi=other)
    assert "rejected: a/0.mid: name in use (a/0.mid.data is that of ../midi/a/0.mid;" in output
    assert f"duplicate: copy.mid has the same notes as {midi / 'b' / '1.mid'}" in output
    assert "data: 4 performances more, whose MIDI files are not in this folder" in output
    assert len(read_sources(data)) == 5
    convert("--prune", midi=other)
    assert len(read_sources(data)) == 5


# ------------------------------------------------------------------------------- gone files


def test_data_of_gone_files_is_reported_and_pruned(
    midi: Path, data: Path, convert: Convert
) -> None:
    convert()
    (midi / "b" / "1.mid").unlink()
    for _ in range(2):
        output = convert()
        assert "MIDI file is gone: b/1.mid" in output
        assert "data: 1 performance without MIDI file; --prune removes them" in output
    assert len(find(data)) == 4
    assert "removed: b/1.mid.data, its MIDI file is gone" in convert("--prune")
    assert len(find(data)) == 3
    assert "gone" not in convert()


def test_prune_keeps_data_of_unreadable_files(midi: Path, data: Path, convert: Convert) -> None:
    convert()
    (midi / "b" / "1.mid").write_text("damaged")
    assert "its .data file of an earlier run remains" in convert("--prune")
    shutil.rmtree(midi)
    convert("--prune", code=1)
    assert len(find(data)) == 4


def test_data_of_the_original_is_kept(
    midi: Path, data: Path, data_dir: Path, convert: Convert
) -> None:
    data.mkdir()
    shutil.copy(data_dir / "performance-2.data", data / "old.data")
    convert("--prune", "--legacy")
    assert len(find(data)) == 5


# --------------------------------------------------------------------------- unusual entries


def test_pipes_are_skipped(midi: Path, data: Path, tmp_path: Path, convert: Convert) -> None:
    data.mkdir()
    os.mkfifo(data / "x.data")
    os.mkfifo(midi / "x.mid")
    output = convert()
    assert f"rejected: {midi / 'x.mid'}: not a file (Not a regular file)" in output
    assert "4 converted" in output
    assert len(train.find_data_files(str(data))) == 4
