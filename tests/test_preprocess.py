"""preprocess.py converts MIDI files, skips unchanged ones, and rejects files without stopping."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preprocess
from corpus.performance import Performance
from corpus.summary import FileRecord
from sequence import EventSeq, NoteSeq
from tools.synthetic_data import write_midi

CaptureFixture = pytest.CaptureFixture[str]
MonkeyPatch = pytest.MonkeyPatch


def run(midi: Path, save: Path, *options: str) -> int:
    return preprocess.main([str(midi), str(save), *options])


def hash_files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def midi(tmp_path: Path) -> Path:
    """Return a folder with four MIDI files."""
    folder = tmp_path / "midi"
    for seed, name in enumerate(("a/one.mid", "b/one.mid", "a/one.midi", "b/Two Three.KAR")):
        write_midi(folder / name, seed=seed)
    return folder


# ------------------------------------------------------------------------------ conversion


def test_data_files_are_named_after_midi_files(midi: Path, tmp_path: Path) -> None:
    assert run(midi, tmp_path / "data", "2") == 0
    assert set(hash_files(tmp_path / "data")) == {
        "a/one.mid.data",
        "a/one.midi.data",
        "b/one.mid.data",
        "b/Two Three.KAR.data",
    }


def test_data_holds_the_notes_from_the_first_on(midi: Path, tmp_path: Path) -> None:
    run(midi, tmp_path / "data", "1")
    performance = Performance.load(tmp_path / "data" / "a" / "one.mid.data")
    notes = NoteSeq.from_midi_file(midi / "a" / "one.mid")
    decoded = EventSeq.from_array(performance.events).to_note_seq()
    assert performance.notes == len(decoded) == len(notes)
    assert np.abs(decoded.starts - (notes.starts - notes.starts[0])).max() < 0.008
    assert performance.onset_error_max < 0.008


def test_output_is_independent_of_workers_and_spelling_of_the_path(
    midi: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    run(midi, tmp_path / "one", "1")
    run(midi, tmp_path / "three", "3")
    monkeypatch.chdir(midi / "a")
    assert preprocess.main(["../../midi/./", str(tmp_path / "relative"), "2"]) == 0
    files = hash_files(tmp_path / "one")
    assert files == hash_files(tmp_path / "three") == hash_files(tmp_path / "relative")


def test_only_changed_or_damaged_files_are_converted_again(
    midi: Path, tmp_path: Path, capsys: CaptureFixture
) -> None:
    run(midi, tmp_path / "data", "1")
    before = hash_files(tmp_path / "data")
    write_midi(midi / "a" / "one.mid", seed=99)
    (tmp_path / "data" / "b" / "one.mid.data").write_bytes(b"damaged")
    (midi / "b" / "Two Three.KAR").unlink()
    capsys.readouterr()
    assert run(midi, tmp_path / "data", "1") == 0
    assert "2 converted, 1 skipped" in capsys.readouterr().out
    after = hash_files(tmp_path / "data")
    assert {name for name in before if before[name] != after.get(name)} == {"a/one.mid.data"}


def test_linked_folders_are_read_once(midi: Path, tmp_path: Path, capsys: CaptureFixture) -> None:
    (midi / "a" / "loop").symlink_to(midi)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "link").symlink_to(midi)
    assert run(tmp_path / "outer", tmp_path / "data", "1") == 0
    assert len(hash_files(tmp_path / "data")) == 4
    assert "4 converted, 0 skipped (unchanged), 0 duplicates" in capsys.readouterr().out


# ------------------------------------------------------------------------------ duplicates


def test_duplicates_are_converted_once(midi: Path, tmp_path: Path, capsys: CaptureFixture) -> None:
    shutil.copytree(midi / "a", midi / "c")
    (midi / "c" / "one.midi").unlink()
    assert run(midi, tmp_path / "data", "2") == 0
    output = capsys.readouterr().out
    assert "duplicate: c/one.mid has the same notes as a/one.mid\n" in output
    assert "1 duplicate," in output
    assert "c/one.mid.data" not in hash_files(tmp_path / "data")


def test_duplicate_with_data_is_reported(
    midi: Path, tmp_path: Path, capsys: CaptureFixture
) -> None:
    run(midi, tmp_path / "data", "1")
    shutil.copy(midi / "a" / "one.mid", midi / "0.mid")
    capsys.readouterr()
    assert run(midi, tmp_path / "data", "1") == 0
    assert (
        "duplicate: a/one.mid has the same notes as 0.mid "
        "(its .data file of an earlier run remains)" in capsys.readouterr().out
    )


# --------------------------------------------------------------------------- rejected files


def test_unusable_files_are_rejected_and_the_others_converted(
    midi: Path, tmp_path: Path, capsys: CaptureFixture
) -> None:
    (midi / "text.mid").write_text("dear diary")
    (midi / "empty.mid").touch()
    (midi / "cut.mid").write_bytes((midi / "a" / "one.mid").read_bytes()[:20])
    (midi / "folder.mid").mkdir()
    write_midi(midi / "drums.mid", drums=True)
    write_midi(midi / "short.mid", notes=3)
    write_midi(midi / "none.mid", notes=0)
    (midi / "gone.mid").symlink_to("nowhere")
    assert run(midi, tmp_path / "data", "2") == 0
    output = capsys.readouterr().out
    assert "rejected: text.mid: unreadable (" in output
    assert "rejected: empty.mid: unreadable (" in output
    assert "rejected: cut.mid: unreadable (" in output
    assert "rejected: drums.mid: only drums\n" in output
    assert "rejected: short.mid: too short (3 notes, at least 10 are needed)\n" in output
    assert "rejected: none.mid: no notes\n" in output
    assert "rejected: gone.mid: not a file\n" in output
    assert "4 converted" in output
    assert len(hash_files(tmp_path / "data")) == 4


def test_unreadable_folder_is_rejected(
    midi: Path, tmp_path: Path, capsys: CaptureFixture, monkeypatch: MonkeyPatch
) -> None:
    scandir = os.scandir

    def deny(path: str) -> object:
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", deny)
    assert run(midi, tmp_path / "data", "1") == 0
    output = capsys.readouterr().out
    assert f"rejected: {midi / 'a'}: unreadable folder (Permission denied)" in output
    assert "2 converted" in output


def test_file_that_cannot_be_written_is_rejected(
    midi: Path, tmp_path: Path, capsys: CaptureFixture
) -> None:
    (tmp_path / "data" / "a" / "one.mid.data").mkdir(parents=True)
    write_midi(midi / f"{'x' * 250}.mid", seed=9)
    (midi / f"{'y' * 250}.mid").write_text("dear diary")
    assert run(midi, tmp_path / "data", "1") == 0
    output = capsys.readouterr().out
    assert "yyy.mid: unreadable (not a MIDI file" in output
    assert "rejected: a/one.mid: cannot be written (Is a directory)" in output
    assert "xxx.mid: cannot be written (File name too long)" in output
    assert "3 converted" in output


CONVERT_FILE = preprocess.convert_file


def crash_or_convert(record: FileRecord, **options: Any) -> tuple[FileRecord, Performance | None]:
    if record.name == "crash.mid":
        os._exit(7)
    return CONVERT_FILE(record, **options)


def test_crash_loses_one_file(
    midi: Path, tmp_path: Path, capsys: CaptureFixture, monkeypatch: MonkeyPatch
) -> None:
    write_midi(midi / "crash.mid", seed=50)
    monkeypatch.setattr(preprocess, "convert_file", crash_or_convert)
    assert run(midi, tmp_path / "data", "2") == 0
    assert "rejected: crash.mid: crashed (exit code 7)" in capsys.readouterr().out
    assert len(hash_files(tmp_path / "data")) == 4


def hang(*_: FileRecord, **__: Any) -> None:
    time.sleep(60)


def test_time_limit(tmp_path: Path, capsys: CaptureFixture, monkeypatch: MonkeyPatch) -> None:
    write_midi(tmp_path / "midi" / "hang.mid")
    monkeypatch.setattr(preprocess, "convert_file", hang)
    assert run(tmp_path / "midi", tmp_path / "data", "--time-limit", "0.1") == 1
    assert "rejected: hang.mid: timed out\n" in capsys.readouterr().out


# ------------------------------------------------------------------------------ the folders


@pytest.mark.parametrize("exists", [True, False])
def test_missing_midi_files_are_an_error(
    tmp_path: Path, exists: bool, capsys: CaptureFixture
) -> None:
    if exists:
        (tmp_path / "midi").mkdir()
    assert run(tmp_path / "midi", tmp_path / "data") == 1
    assert "scripts/maestro_scraper.sh" in capsys.readouterr().err


def test_save_dir_that_cannot_be_written_is_an_error(
    midi: Path, tmp_path: Path, capsys: CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert run(midi, tmp_path / "file" / "data") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in line


# ---------------------------------------------------------------------------------- filters


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return a folder with a long and a short performance."""
    write_midi(tmp_path / "mixed" / "long.mid", 200, seed=1)
    write_midi(tmp_path / "mixed" / "short.mid", 20, seed=2)
    return tmp_path / "mixed"


def test_filters_are_off_by_default(mixed: Path, tmp_path: Path, capsys: CaptureFixture) -> None:
    assert run(mixed, tmp_path / "data", "1") == 0
    output = capsys.readouterr().out
    assert "2 converted, 0 skipped (unchanged), 0 duplicates, 0 rejected" in output
    assert "filters (off) would reject 1 of 2 files: 1 too short (--min-seconds 10)" in output


def test_filter_rejects(mixed: Path, tmp_path: Path, capsys: CaptureFixture) -> None:
    assert run(mixed, tmp_path / "data", "1", "--min-seconds", "10") == 0
    output = capsys.readouterr().out
    assert "rejected: short.mid: too short (" in output
    assert "1 converted" in output
    assert list(hash_files(tmp_path / "data")) == ["long.mid.data"]


def test_filter_applies_to_unchanged_files(
    mixed: Path, tmp_path: Path, capsys: CaptureFixture
) -> None:
    run(mixed, tmp_path / "data", "1")
    capsys.readouterr()
    assert run(mixed, tmp_path / "data", "1", "--min-seconds", "10") == 0
    output = capsys.readouterr().out
    assert "rejected: short.mid: too short (" in output
    assert "; its .data file of an earlier run remains)" in output
    assert "0 converted, 1 skipped" in output
    assert len(hash_files(tmp_path / "data")) == 2
