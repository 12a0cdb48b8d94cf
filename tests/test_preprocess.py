"""The command that turns MIDI files into data, in good and in bad weather."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pretty_midi
import pytest

import preprocess
from corpus.filters import QUANTISED, Traits, grid_share
from corpus.performance import Performance
from midi.notes import read_midi
from sequence import EventSeq, NoteSeq
from tools.synthetic_data import write_midi


def run(midi: Path, save: Path, *more: str) -> int:
    return preprocess.main([str(midi), str(save), *more])


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture
def midi(tmp_path: Path) -> Path:
    folder = tmp_path / "midi"
    for seed, name in enumerate(("a/one.mid", "b/one.mid", "a/one.midi", "b/Two Three.KAR")):
        write_midi(folder / name, seed=seed)
    return folder


def test_every_file_gets_data_named_after_its_place(midi: Path, tmp_path: Path) -> None:
    assert run(midi, tmp_path / "data", "2") == 0
    assert set(contents(tmp_path / "data")) == {
        "a/one.mid.data",
        "a/one.midi.data",
        "b/one.mid.data",
        "b/Two Three.KAR.data",
    }


def test_the_data_holds_the_music_from_its_first_note_on(midi: Path, tmp_path: Path) -> None:
    run(midi, tmp_path / "data", "1")
    made = Performance.load(tmp_path / "data" / "a" / "one.mid.data")
    played = NoteSeq.from_midi_file(midi / "a" / "one.mid")
    decoded = EventSeq.from_array(made.events).to_note_seq()
    assert made.notes == len(decoded) == len(played)
    assert np.abs(decoded.starts - (played.starts - played.starts[0])).max() < 0.008
    assert made.onset_error_max < 0.008


def test_names_and_bytes_do_not_depend_on_workers_or_on_how_the_path_is_typed(
    midi: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(midi, tmp_path / "one", "1")
    run(midi, tmp_path / "three", "3")
    monkeypatch.chdir(midi / "a")
    assert preprocess.main(["../../midi/./", str(tmp_path / "dots"), "2"]) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "three") == contents(tmp_path / "dots")


def test_what_is_done_is_skipped_and_what_changed_is_done_again(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(midi, tmp_path / "data", "1")
    first = contents(tmp_path / "data")
    write_midi(midi / "a" / "one.mid", seed=99)
    (tmp_path / "data" / "b" / "one.mid.data").write_bytes(b"damaged")
    (midi / "b" / "Two Three.KAR").unlink()
    capsys.readouterr()
    assert run(midi, tmp_path / "data", "1") == 0
    assert "2 done, 1 skipped" in capsys.readouterr().out
    second = contents(tmp_path / "data")
    changed = {name for name in first if first[name] != second.get(name)}
    assert changed == {"a/one.mid.data"}, "and nothing is pruned"


def test_files_that_can_not_be_used_are_named_with_the_reason_and_the_rest_is_done(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (midi / "text.mid").write_text("dear diary")
    (midi / "empty.mid").touch()
    whole = (midi / "a" / "one.mid").read_bytes()
    (midi / "cut.mid").write_bytes(whole[:20])
    (midi / "folder.mid").mkdir()
    write_midi(midi / "drums.mid", drums=True)
    write_midi(midi / "short.mid", notes=3)
    write_midi(midi / "none.mid", notes=0)
    (midi / "gone.mid").symlink_to("nowhere")
    assert run(midi, tmp_path / "data", "2") == 0
    told = capsys.readouterr().out
    for name, reason in {
        "text.mid": "unreadable",
        "empty.mid": "unreadable",
        "cut.mid": "unreadable",
        "drums.mid": "only drums",
        "short.mid": "too short",
        "none.mid": "no notes",
        "gone.mid": "not a file",
    }.items():
        assert f"refused, {reason}: {name}" in told
    assert "4 done" in told
    assert len(contents(tmp_path / "data")) == 4


def test_the_same_performance_under_two_names_is_kept_once(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (midi / "c").mkdir()
    shutil.copy(midi / "a" / "one.mid", midi / "c" / "z.mid")
    assert run(midi, tmp_path / "data", "2") == 0
    told = capsys.readouterr().out
    assert "c/z.mid is a/one.mid" in told
    assert "1 twins" in told
    assert "z.mid.data" not in contents(tmp_path / "data")


def test_a_twin_that_has_data_already_is_said(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(midi, tmp_path / "data", "1")
    shutil.copy(midi / "a" / "one.mid", midi / "0.mid")
    capsys.readouterr()
    assert run(midi, tmp_path / "data", "1") == 0
    assert "a/one.mid is 0.mid, but has data" in capsys.readouterr().out


def test_a_folder_that_is_closed_costs_that_folder_alone(
    midi: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scandir = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", closed)
    assert run(midi, tmp_path / "save", "1") == 0
    told = capsys.readouterr().out
    assert "refused, closed folder" in told
    assert "2 done" in told


def test_a_name_that_can_not_be_written_costs_that_file_alone(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "a" / "one.mid.data").mkdir(parents=True)
    write_midi(midi / ("x" * 250 + ".mid"), seed=9)
    assert run(midi, tmp_path / "data", "1") == 0
    told = capsys.readouterr().out
    assert told.count("refused, can not be written") == 2
    assert "3 done" in told


def test_linked_folders_are_read_and_a_loop_of_links_ends(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (midi / "a" / "up").symlink_to(midi)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "linked").symlink_to(midi)
    assert run(tmp_path / "outer", tmp_path / "data", "1") == 0
    assert len(contents(tmp_path / "data")) == 4
    assert "4 done, 0 skipped (unchanged), 0 twins" in capsys.readouterr().out


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and ") Z " not in status.read_text()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks into /proc")
def test_no_worker_outlives_a_killed_parent() -> None:
    code = "import time; from corpus import pool; c = pool.Crew(abs, 2, 9.0); "
    code += "print(*(w.process.pid for w in c._workers), flush=True); time.sleep(60)"
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        crew = [int(word) for word in parent.stdout.readline().split()]
        assert all(map(alive, crew))
        parent.kill()
    deadline = time.monotonic() + 10
    while any(map(alive, crew)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(crew) == 2
    assert not any(map(alive, crew))


def stumble(job: preprocess.Job) -> preprocess.Outcome:
    """Dies of one file and sleeps over another."""
    if job.path.name == "crash.mid":
        os._exit(7)
    if job.path.name == "hang.mid":
        time.sleep(60)
    return CONVERT(job)


CONVERT = preprocess.convert


def test_a_file_that_crashes_or_hangs_its_worker_costs_that_file_alone(
    midi: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed, name in enumerate(("crash.mid", "b/hang.mid", "z/last.mid")):
        write_midi(midi / name, seed=50 + seed)
    monkeypatch.setattr(preprocess, "convert", stumble)
    assert run(midi, tmp_path / "data", "2", "--time-limit", "1") == 0
    told = capsys.readouterr().out
    assert "refused, crashed: crash.mid" in told
    assert "refused, timed out: b/hang.mid" in told
    assert len(contents(tmp_path / "data")) == 5


def gorge(job: preprocess.Job) -> preprocess.Outcome:
    """SampleBuffer two gigabytes for one file."""
    if job.path.name == "flood.mid":
        np.ones(2 << 30, np.uint8)
    return CONVERT(job)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a worker's memory")
def test_a_file_that_takes_too_much_memory_costs_that_file_alone(
    midi: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_midi(midi / "flood.mid", seed=50)
    monkeypatch.setattr(preprocess, "convert", gorge)
    assert run(midi, tmp_path / "data", "1") == 0
    assert "refused, too large: flood.mid (it takes over 1 GB" in capsys.readouterr().out
    assert len(contents(tmp_path / "data")) == 4


@pytest.mark.parametrize("there", [True, False])
def test_without_midi_files_it_says_what_fetches_some(
    tmp_path: Path, there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if there:
        (tmp_path / "midi").mkdir()
    assert run(tmp_path / "midi", tmp_path / "data") == 1
    assert "scripts/maestro_scraper.sh" in capsys.readouterr().err


def test_a_folder_that_can_not_be_written_is_one_sentence(
    midi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(midi, tmp_path / "file" / "data") == 1
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "file" in told


# ---------------------------------------------------------------------------------- filters


def write_notes(path: Path, starts: np.ndarray, **columns: object) -> None:
    """A file of notes at these times; pitches and velocities vary unless given."""
    random = np.random.default_rng(len(starts))
    pitches = columns.get("pitches", random.integers(40, 90, len(starts)))
    velocities = columns.get("velocities", random.integers(30, 100, len(starts)))
    path.parent.mkdir(parents=True, exist_ok=True)
    NoteSeq(starts, starts + 0.1, pitches, velocities).to_midi_file(path)  # type: ignore[arg-type]


def by_hand(seed: int, notes: int, seconds: float) -> np.ndarray:
    """Onsets of someone who plays freely."""
    gaps = np.random.default_rng(seed).gamma(3.0, 1.0, notes)
    return np.cumsum(gaps) * seconds / gaps.sum()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for each filter to refuse, and one for none."""
    folder = tmp_path_factory.mktemp("written")
    write_notes(folder / "fine.mid", by_hand(1, 200, 30))
    write_notes(folder / "brief.mid", by_hand(2, 30, 5))
    write_notes(folder / "endless.mid", by_hand(3, 4200, 4000))
    write_notes(folder / "sparse.mid", by_hand(4, 50, 100))
    write_notes(folder / "dense.mid", by_hand(5, 1000, 20))
    write_notes(folder / "grid.mid", np.arange(200) * 0.17)
    write_notes(folder / "flat.mid", by_hand(6, 210, 30), velocities=np.full(210, 64))
    high = np.where(np.arange(220) % 10, 60, 112)
    write_notes(folder / "high.mid", by_hand(7, 220, 30), pitches=high)
    return folder


@pytest.fixture
def mixed(written: Path, tmp_path: Path) -> Path:
    """The same, to take files from."""
    return Path(shutil.copytree(written, tmp_path / "mixed"))


REFUSED = {
    "brief.mid": ("--min-seconds", "10", "too short"),
    "endless.mid": ("--max-seconds", "3600", "too long"),
    "sparse.mid": ("--min-density", "1", "too sparse"),
    "dense.mid": ("--max-density", "40", "too dense"),
    "high.mid": ("--max-outside", "0.05", "outside the piano"),
    "grid.mid": ("--expressive", "", "quantised"),
    "flat.mid": ("--expressive", "", "one velocity"),
}


def test_filters_are_off_but_it_is_said_what_they_would_refuse(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(mixed, tmp_path / "data", "1") == 0
    told = capsys.readouterr().out
    assert "8 done, 0 skipped (unchanged), 0 twins, 0 refused" in told
    (line,) = [line for line in told.splitlines() if line.startswith("filters that are off")]
    assert "1 one velocity, 1 quantised (--expressive)" in line
    for flag, value, reason in list(REFUSED.values())[:5]:
        assert f"1 {reason} ({flag} {value})" in line


@pytest.mark.parametrize("name", REFUSED)
def test_each_filter_refuses_what_it_names_also_when_there_is_data_already(
    name: str, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag, value, reason = REFUSED[name]
    for other in REFUSED:
        if other not in (name, "grid.mid"):
            (mixed / other).unlink()
    command = [flag, value] if value else [flag]
    for again in (False, True):
        save = tmp_path / ("again" if again else "data")
        if again:
            run(mixed, save, "1")
        capsys.readouterr()
        assert run(mixed, save, "1", *command) == 0
        told = capsys.readouterr().out
        assert f"refused, {reason}: {name} (" in told
        assert "fine.mid" not in told
        assert (save / "fine.mid.data").exists()
        assert (save / f"{name}.data").exists() == again
        assert ("its data of an earlier run stays" in told) == again


def on_a_grid(seed: int) -> np.ndarray:
    """Onsets of a score played by a machine at any tempo, to the millisecond of a MIDI file."""
    random = np.random.default_rng(seed)
    beats = np.cumsum(random.choice([1, 1, 2, 3, 4], 80 + 10 * seed)) / random.choice(
        [1, 2, 3, 4, 6]
    )
    return np.asarray(np.rint(1000 * (beats - beats[0]) * 60 / random.uniform(40, 200)) / 1000)


def test_machines_are_told_from_hands_at_any_tempo() -> None:
    machines = [grid_share(on_a_grid(seed)) for seed in range(60)]
    hands = [grid_share(by_hand(seed, 60 + 10 * seed, 30 + 5 * seed)) for seed in range(60)]
    steady = [
        grid_share(np.sort(np.arange(300) * 0.15 + np.random.default_rng(s).normal(0, 0.03, 300)))
        for s in range(20)
    ]
    assert min(machines) > QUANTISED > max(hands + steady)


def test_a_score_with_a_changing_tempo_is_known_by_its_own_beats(tmp_path: Path) -> None:
    tempos = [60, 75, 90, 80, 66, 50, 72, 88] * 4
    midi = pretty_midi.PrettyMIDI(resolution=480, initial_tempo=60)
    midi._tick_scales = [(480 * n, 60.0 / (tempo * 480)) for n, tempo in enumerate(tempos)]
    midi._update_tick_to_time(480 * 40)
    piano = pretty_midi.Instrument(0)
    for n in range(120):
        times = [midi.tick_to_time(120 * (n + k)) for k in (0, 1)]
        piano.notes.append(pretty_midi.Note(30 + n % 70, 40 + 7 * n % 40, *times))
    midi.instruments.append(piano)
    midi.write(str(tmp_path / "score.mid"))
    notes, beside = read_midi((tmp_path / "score.mid").read_bytes())
    assert len(notes) == 120
    assert beside.on_beat_share == 1.0
    assert grid_share(notes.starts) < QUANTISED


def test_the_pedal_is_measured(tmp_path: Path) -> None:
    midi = pretty_midi.PrettyMIDI(resolution=500)
    piano = pretty_midi.Instrument(0)
    piano.notes = [pretty_midi.Note(64, 60 + n, n, n + 1) for n in range(10)]
    for at, value in ((1, 127), (2, 64), (3, 0), (5, 63), (6, 70), (8, 10)):
        piano.control_changes.append(pretty_midi.ControlChange(64, value, at))
    midi.instruments.append(piano)
    midi.write(str(tmp_path / "pedal.mid"))
    _, beside = read_midi((tmp_path / "pedal.mid").read_bytes())
    assert beside.pedal_presses == 2
    assert beside.pedal_seconds == pytest.approx(4.0, abs=0.01)


@pytest.mark.real
def test_no_pianist_is_taken_for_a_machine(validation_paths: list[Path]) -> None:
    for path in validation_paths:
        notes, beside = read_midi(path.read_bytes())
        traits = Traits.of(notes.trim_start(), beside)
        assert not traits.quantised, path
        assert not traits.flat, path
