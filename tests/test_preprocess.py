"""preprocess.py converts MIDI files, skips unchanged ones, and rejects files without stopping."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import torch

import preprocess
from corpus.performance import Performance
from corpus.summary import FileRecord
from midi.notes import READER_VERSION
from sequence import EventSeq, NoteSeq
from tools import hostile_tensors
from tools.synthetic_data import write_midi

Convert = Callable[..., str]


@pytest.fixture
def midi(tmp_path: Path) -> Path:
    """Return a folder with four MIDI files."""
    for seed, name in enumerate(("a/one.mid", "b/one.mid", "a/one.midi", "b/Two Three.KAR")):
        write_midi(tmp_path / "midi" / name, seed=seed)
    return tmp_path / "midi"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the folder for the .data files."""
    return tmp_path / "data"


@pytest.fixture
def convert(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> Convert:
    """Return a function that runs preprocess.py and returns what it prints."""

    def run(*options: str, midi: Path = tmp_path / "midi", save: Path = data, code: int = 0) -> str:
        assert preprocess.main([str(midi), str(save), *options]) == code
        return "".join(capsys.readouterr())

    return run


def hash_files(folder: Path) -> dict[str, str]:
    """Return the hashes of all files but the manifest, which has times of files."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / "manifest.json"
    }


# ------------------------------------------------------------------------------ conversion


def test_data_starts_at_the_first_note(midi: Path, data: Path, convert: Convert) -> None:
    convert("1")
    performance = Performance.load(data / "a" / "one.mid.data")
    notes = NoteSeq.from_midi_file(midi / "a" / "one.mid")
    decoded = EventSeq.from_array(performance.events).to_note_seq()
    assert performance.notes == len(decoded) == len(notes)
    assert np.abs(decoded.starts - (notes.starts - notes.starts[0])).max() < 0.008
    assert performance.onset_error_max < 0.008


def test_workers_and_relative_paths_do_not_change_data(
    midi: Path, tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert("1", save=tmp_path / "one")
    convert("3", save=tmp_path / "three")
    monkeypatch.chdir(midi / "a")
    convert("2", midi=Path("../../midi/./"), save=tmp_path / "relative")
    files = hash_files(tmp_path / "one")
    names = {"a/one.mid", "a/one.midi", "b/one.mid", "b/Two Three.KAR"}
    assert set(files) == {f"{name}.data" for name in names}
    assert files == hash_files(tmp_path / "three") == hash_files(tmp_path / "relative")


def test_changed_and_damaged_files_are_converted(midi: Path, data: Path, convert: Convert) -> None:
    convert("1")
    before = hash_files(data)
    write_midi(midi / "a" / "one.mid", seed=99)
    (data / "b" / "one.mid.data").write_bytes(b"damaged")
    (midi / "b" / "Two Three.KAR").unlink()
    assert "2 converted, 1 skipped" in convert("1")
    after = hash_files(data)
    assert {name for name in before if before[name] != after.get(name)} == {"a/one.mid.data"}


def test_linked_folders_are_read_once(
    midi: Path, tmp_path: Path, data: Path, convert: Convert
) -> None:
    (midi / "a" / "loop").symlink_to(midi)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "link").symlink_to(midi)
    output = convert("1", midi=tmp_path / "outer")
    assert "4 converted, 0 skipped (unchanged), 0 duplicates" in output
    assert len(hash_files(data)) == 4


def test_duplicates_are_converted_once(midi: Path, data: Path, convert: Convert) -> None:
    shutil.copy(midi / "a" / "one.mid", midi / "a" / "two.mid")
    output = convert("2")
    assert "duplicate: a/two.mid has the same notes as a/one.mid\n" in output
    assert "1 duplicate," in output
    assert "a/two.mid.data" not in hash_files(data)


def test_duplicate_that_comes_later_gets_no_data(midi: Path, data: Path, convert: Convert) -> None:
    convert("1")
    before = hash_files(data)
    shutil.copy(midi / "a" / "one.mid", midi / "0.mid")
    output = convert("1")
    assert "duplicate: 0.mid has the same notes as a/one.mid\n" in output
    assert "0 converted, 4 skipped (unchanged), 1 duplicate" in output
    assert hash_files(data) == before


# --------------------------------------------------------------------------- rejected files


def test_riff_files_are_found(midi: Path, data: Path, convert: Convert) -> None:
    content = write_midi(midi / "four.mid", seed=4).read_bytes()
    (midi / "four.mid").unlink()
    size = len(content).to_bytes(4, "little")
    (midi / "four.rmi").write_bytes(b"RIFF" + size + b"RMIDdata" + size + content)
    assert "5 converted" in convert("1")
    assert Performance.load(data / "four.rmi.data").notes > 0


def test_unusable_files_are_rejected(midi: Path, data: Path, convert: Convert) -> None:
    (midi / "text.mid").write_text("dear diary")
    (midi / "empty.mid").touch()
    (midi / "cut.mid").write_bytes((midi / "a" / "one.mid").read_bytes()[:20])
    (midi / "folder.mid").mkdir()
    write_midi(midi / "drums.mid", drums=True)
    write_midi(midi / "short.mid", notes=3)
    write_midi(midi / "none.mid", notes=0)
    (midi / "gone.mid").symlink_to("nowhere")
    output = convert("2")
    assert "rejected: text.mid: unreadable (" in output
    assert "rejected: empty.mid: unreadable (" in output
    assert "rejected: cut.mid: unreadable (" in output
    assert "rejected: drums.mid: only drums\n" in output
    assert "rejected: short.mid: too short (3 notes, at least 10 are needed)\n" in output
    assert "rejected: none.mid: no notes\n" in output
    assert "rejected: gone.mid: not a file\n" in output
    assert "4 converted" in output
    assert len(hash_files(data)) == 4


def test_unreadable_folder_is_rejected(
    midi: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def deny(path: str) -> object:
        if str(path) == str(midi / "a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", deny)
    output = convert("1")
    assert f"rejected: {midi / 'a'}: unreadable folder (Permission denied)" in output
    assert "2 converted" in output


def test_unwritable_file_is_rejected(midi: Path, data: Path, convert: Convert) -> None:
    (data / "a" / "one.mid.data").mkdir(parents=True)
    write_midi(midi / f"{'x' * 250}.mid", seed=9)
    (midi / f"{'y' * 250}.mid").write_text("dear diary")
    output = convert("1")
    assert "yyy.mid: unreadable (not a MIDI file" in output
    assert "rejected: a/one.mid: cannot be written (Is a directory)" in output
    assert "xxx.mid: cannot be written (File name too long)" in output
    assert "3 converted" in output


CONVERT_FILE = preprocess.convert_file


def crash_or_convert(record: FileRecord, **options: Any) -> tuple[FileRecord, Performance | None]:
    if record.name == "crash.mid":
        os._exit(7)
    return CONVERT_FILE(record, **options)


def test_crash_rejects_one_file(
    midi: Path, data: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_midi(midi / "crash.mid", seed=50)
    monkeypatch.setattr(preprocess, "convert_file", crash_or_convert)
    assert "rejected: crash.mid: crashed (exit code 7)" in convert("2")
    assert len(hash_files(data)) == 4


def hang(*_: FileRecord, **__: Any) -> None:
    time.sleep(60)


def test_time_limit(tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    write_midi(tmp_path / "midi" / "hang.mid")
    monkeypatch.setattr(preprocess, "convert_file", hang)
    assert "rejected: hang.mid: timed out\n" in convert("--time-limit", "0.1", code=1)


# ------------------------------------------------------------------------------ the folders


@pytest.mark.parametrize("exists", [True, False])
def test_missing_midi_files_are_an_error(tmp_path: Path, exists: bool, convert: Convert) -> None:
    if exists:
        (tmp_path / "midi").mkdir()
    assert "scripts/maestro_scraper.sh" in convert(code=1)


def test_unwritable_save_dir_is_an_error(midi: Path, tmp_path: Path, convert: Convert) -> None:
    (tmp_path / "file").touch()
    (line,) = convert(save=tmp_path / "file" / "data", code=1).splitlines()
    assert str(tmp_path / "file") in line


# ---------------------------------------------------------------------------------- filters


def test_changed_filter_applies_to_unchanged_files(
    tmp_path: Path, data: Path, convert: Convert
) -> None:
    write_midi(tmp_path / "midi" / "long.mid", 200, seed=1)
    write_midi(tmp_path / "midi" / "short.mid", 20, seed=2)
    filtered = convert("1", "--min-seconds", "10", save=tmp_path / "filtered")
    assert "rejected: short.mid: too short (" in filtered
    assert "1 converted" in filtered
    assert list(hash_files(tmp_path / "filtered")) == ["long.mid.data"]

    output = convert("1")
    assert "2 converted, 0 skipped (unchanged), 0 duplicates, 0 rejected" in output
    assert "filters (off) would reject 1 of 2 files: 1 too short (--min-seconds 10)" in output

    output = convert("1", "--min-seconds", "10")
    assert "rejected: short.mid: too short (" in output
    assert "; its .data file is removed)" in output
    assert "0 converted, 1 skipped" in output
    assert "filters: --min-seconds 10; in the run before: none" in output
    assert list(hash_files(data)) == ["long.mid.data"]

    output = convert("1", "--min-seconds", "5")
    assert "0 converted, 1 skipped" in output
    assert "1 converted, 1 skipped" in convert("1")


def test_filters_that_reject_every_file_change_nothing(
    midi: Path, data: Path, convert: Convert
) -> None:
    convert("1")
    before = hash_files(data)
    output = convert("1", "--min-seconds", "1000", code=1)
    assert f"error: {midi}: no file can be used: 4 too short of 4 files; " in output
    assert hash_files(data) == before
    assert "4 skipped" in convert("1")


@pytest.mark.parametrize("split", [(), ("--split", "50,25,25")])
def test_hostile_data_files_are_made_again(
    midi: Path, data: Path, convert: Convert, split: tuple[str, ...]
) -> None:
    convert(*split)
    expected = hash_files(data)
    hostile = [*hostile_tensors.dishonest_storages(), *hostile_tensors.endless_files()][::8]
    paths = sorted(data.rglob("*.data"))
    for path, (_, content) in zip(paths, hostile, strict=False):
        path.write_bytes(content)
    for number, (_, content) in enumerate(hostile):
        (data / f"other-{number}.data").write_bytes(content)
    (data / "manifest.json").unlink()
    output = convert(*split)
    assert "4 converted" in output
    assert {name: hash_files(data)[name] for name in expected} == expected


# ------------------------------------------------------------------- instruments and repairs


def write_band(
    path: Path, piano: int = 20, violin: int = 30, lost: bool = False, stuck: bool = False
) -> None:
    """Write notes of a piano and a violin.

    lost: the first note off of the piano is missing; stuck: its pedal goes down and stays there.
    """
    file = mido.MidiFile(ticks_per_beat=480)
    for channel, (name, program, count) in enumerate(
        (("Piano", 0, piano), ("Violin I", 40, violin))
    ):
        track = mido.MidiTrack([mido.MetaMessage("track_name", name=name)])
        track.append(mido.Message("program_change", channel=channel, program=program))
        if stuck and not channel:
            track.append(mido.Message("control_change", control=64, value=127))
        for number in range(count):
            note = {"channel": channel, "note": 60 + 12 * channel + number % 2}
            track.append(mido.Message("note_on", velocity=50 + number, **note))
            if not (lost and number == 0 and channel == 0):
                track.append(mido.Message("note_off", time=1000, **note))
        file.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save(path)


@pytest.mark.parametrize(
    ("tracks", "notes"),
    [("auto", 20), ("piano", 20), ("all", 50), ("violin", 30), ("Violin I,Piano", 50)],
)
def test_tracks_select_instruments(
    tmp_path: Path, data: Path, convert: Convert, tracks: str, notes: int
) -> None:
    write_band(tmp_path / "midi" / "band.mid")
    convert("--tracks", tracks)
    performance = Performance.load(data / "band.mid.data")
    assert (performance.notes, performance.tracks) == (notes, tracks)


def test_other_tracks_convert_again(tmp_path: Path, data: Path, convert: Convert) -> None:
    write_band(tmp_path / "midi" / "band.mid")
    write_midi(tmp_path / "midi" / "one.mid")
    convert()
    output = convert("--tracks", "all")
    assert "2 converted, 0 skipped (unchanged)" in output
    assert "reading: 2 files: all tracks, as requested" in output
    assert len(hash_files(data)) == 2
    assert "0 converted, 2 skipped" in convert("--tracks", "all")


def test_summary_has_instruments_pedals_and_repairs(tmp_path: Path, convert: Convert) -> None:
    write_band(tmp_path / "midi" / "band.mid", lost=True)
    write_band(tmp_path / "midi" / "other.mid", piano=0)
    write_band(tmp_path / "midi" / "stuck.mid", piano=70, violin=0, stuck=True)
    write_band(tmp_path / "midi" / "few.mid", piano=9)
    for number in (1, 2):  # the second run reads no file
        output = convert()
        assert ("3 converted" in output) == (number == 1)
        assert "1 file: piano taken out of several instruments" in output
        assert "1 file: all pitched tracks" in output
        assert "repaired: 1 note without a note off in 1 file" in output
        assert "pedal stuck, or never released: stuck.mid" in output
        assert (
            "rejected: few.mid: too few piano notes (9, and 30 of other instruments; see --tracks)"
        ) in output


def test_no_name_of_a_track_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        preprocess.parse_args(["--tracks", ","])
    assert stop.value.code == 2
    assert "argument --tracks: ',' names no track" in capsys.readouterr().err


def test_missing_track_rejects_a_file(tmp_path: Path, convert: Convert) -> None:
    write_band(tmp_path / "midi" / "band.mid")
    output = convert("--tracks", "harp", code=1)
    assert "rejected: band.mid: no such track (no track is named 'harp' (tracks: Piano," in output


def test_data_of_an_older_reader_is_made_again(
    midi: Path, data: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "READER_VERSION", 1)
    convert("1")
    monkeypatch.undo()
    assert "4 converted, 0 skipped" in convert("1")
    assert Performance.load(data / "a" / "one.mid.data").reader == READER_VERSION
    assert "0 converted, 4 skipped" in convert("1")


def test_data_of_version_1_0_0_is_made_again(midi: Path, data: Path, convert: Convert) -> None:
    convert("1")
    for path in data.rglob("*.data"):
        record = torch.load(path, weights_only=True)
        del record["reader"], record["tracks"]
        torch.save(record, path)
    (data / "manifest.json").unlink()
    assert "4 converted, 0 skipped" in convert("1")
