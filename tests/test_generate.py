"""generate.py: output files, options, messages and errors."""

import contextlib
import json
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pretty_midi
import pytest
import torch

import generate
import model
from analysis.memorization import TrainIndex
from analysis.profile import TrainProfile
from analysis.ranking import Reference, measure_statistics
from config import GenerateConfig, ModelConfig
from corpus.performance import Performance
from generation.control import EXAMPLE, load_control
from generation.pipeline import GenerationJob
from midi.metadata import decode_given, decode_metadata, find_primer_end
from midi.notes import read_midi, read_midi_texts
from model import PerformanceRNN, Session
from sequence import NoteSeq
from tools.synthetic_data import TINY_SIZES, write_data, write_midi
from web.player import read_sample

CONTROL = "1,0,1,0,1,1,0,1,0,1,0,1;3"
LONGEST_SHIFT = 239  # 1.171 s


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with a small session m.sess."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2).save("m.sess")
    return tmp_path


def run(*argv: str) -> int:
    return generate.main(["-s", "m.sess", "-o", "out", "--seed", "5", "--device", "cpu", *argv])


def read_outputs(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def read_notes(path: str) -> list[pretty_midi.Note]:
    (instrument,) = pretty_midi.PrettyMIDI(path).instruments
    return sorted(instrument.notes, key=lambda note: (note.start, note.pitch))


# ----------------------------------------------------------------------------- output files


def test_samples_are_piano_music(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-c", CONTROL, "-l", "300", "-b", "2") == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "m.sess on cpu, sampling at temperature 0.95, seed 5"
    assert len(lines) == 4
    for number, (line, control_line) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        path = f"out/output-00{number}.mid"
        match = re.fullmatch(rf"{path}: (\d+) notes, ([\d.]+) s", line)
        assert match is not None, line
        assert control_line.startswith(f"  {CONTROL}: requested 5-6 notes/s, got ")
        (instrument,) = pretty_midi.PrettyMIDI(path).instruments
        assert (instrument.program, instrument.is_drum) == (0, False)
        assert len(instrument.notes) == int(match[1]) > 10
        assert min(note.start for note in instrument.notes) == 0
        assert all(note.end > note.start for note in instrument.notes)
        assert mido.MidiFile(path).length == pytest.approx(float(match[2]), abs=0.1)


def test_json_has_the_samples_and_messages_go_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("-c", "C major;3", "--seed", "4", "--json") == 0
    captured = capsys.readouterr()
    records = json.loads(captured.out)
    assert [Path(record["path"]).read_bytes()[:4] for record in records] == [b"MThd"] * len(records)
    notes = [len(read_notes(record["path"])) for record in records]
    assert [record["notes"] for record in records] == notes
    assert {record["seed"] for record in records} == {4}
    assert "requested" in records[0]["details"][0]
    assert f"{records[0]['path']}: {notes[0]} notes" in captured.err
    assert "--json" not in records[0]["command"]


def test_quiet_prints_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert run("--quiet", "-s", "missing.sess") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("generate.py: error: missing.sess: ")


def test_seed_and_number_determine_a_sample() -> None:
    run("-l", "200", "-b", "2")
    run("-l", "200", "-b", "2", "-o", "again")
    run("-l", "200", "-b", "5", "-o", "more")
    run("-l", "200", "-b", "2", "-o", "other", "--seed", "6")
    assert len(set(read_outputs().values())) == 2
    assert read_outputs() == read_outputs("again")
    assert read_outputs().items() <= read_outputs("more").items()
    assert not set(read_outputs().values()) & set(read_outputs("other").values())


def test_existing_files_are_not_overwritten() -> None:
    run("-l", "50", "-b", "2")
    Path("out/output-041.png").touch()
    before = read_outputs()
    run("-l", "50", "-b", "1", "--seed", "6")
    assert read_outputs().keys() - before.keys() == {"output-042.mid"}
    assert before.items() <= read_outputs().items()


def test_force_overwrites_from_the_first_number() -> None:
    run("-l", "50", "-b", "3", "--wav")
    Path("out/output-001.png").touch()
    before = read_outputs()
    run("-l", "50", "-b", "2", "--seed", "6", "--force")
    after = read_outputs()
    assert set(after) == {"output-000.mid", "output-001.mid", "output-002.mid", "output-002.wav"}
    assert after["output-000.mid"] != before["output-000.mid"]
    assert after["output-002.mid"] == before["output-002.mid"]


def test_picture_and_audio() -> None:
    assert run("-l", "60", "-b", "1", "--png", "--wav") == 0
    assert list(read_outputs()) == ["output-000.mid", "output-000.png", "output-000.wav"]


def test_page_has_samples_of_all_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run("-l", "50", "-b", "1")
    assert run("-l", "50", "-b", "2", "--seed", "6", "-c", CONTROL, "--html") == 0
    content = Path("out/index.html").read_text()
    assert content.count("<article") == 3
    assert content.count("seed 6, ") == 2
    assert "out/index.html: 3 " in capsys.readouterr().out


def test_page_of_another_program_is_not_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/index.html").write_text("something else")
    assert "--force" in fail_to_run(capsys, "-l", "50", "-b", "1", "--html")
    assert list(read_outputs()) == ["index.html"]
    assert run("-l", "50", "-b", "1", "--html", "--force") == 0
    assert "<article" in Path("out/index.html").read_text()


def decode_file(path: str) -> Any:
    return decode_metadata(read_midi_texts(Path(path).read_bytes()))


@pytest.mark.parametrize("options", [[], ["-B", "2", "-S"], ["-c", "d/0.mid.data", "-g", "0.5"]])
def test_recorded_command_generates_the_sample_again(folder: Path, options: list[str]) -> None:
    write_data(folder / "d", count=1, notes=30)
    assert run("-l", "120", "-b", "3", *options, "--force") == 0
    metadata, requested = decode_file("out/output-002.mid")
    assert (metadata["session"], metadata["seed"], metadata["piece"]) == ("m.sess", "5", "2")
    assert metadata["control"] == (options[1] if "-c" in options else "none")
    assert (requested is not None) == ("-c" in options)
    python, script, *argv = shlex.split(metadata["made with"], comments=True)
    assert (python, script) == ("python3", "generate.py")
    assert not set(argv) & {"--force", "-o"}
    assert generate.main(argv) == 0
    assert read_outputs("generated") == {"output-000.mid": read_outputs()["output-002.mid"]}


@pytest.mark.parametrize("options", [[], ["--exact"], ["-c", "C major;2 | ~G7;9 @9"]])
def test_only_the_pieces_of_some_numbers(options: list[str]) -> None:
    assert run("-l", "150", "-b", "4", *options) == 0
    assert run("-l", "150", "--piece", "3,1", *options, "-o", "some") == 0
    all_pieces, some = read_outputs(), read_outputs("some")
    assert list(some.values()) == [all_pieces["output-003.mid"], all_pieces["output-001.mid"]]


def test_best_of_keeps_pieces_of_a_larger_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-l", "200", "-b", "6", "-c", "C major;3", "-o", "all") == 0
    capsys.readouterr()
    assert run("-l", "200", "-b", "2", "--best-of", "6", "-c", "C major;3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("best 2 of 6 samples, by penalty")
    numbers = [int(line.split()[1].rstrip(":")) for line in lines[2:4]]
    kept, everything = read_outputs(), read_outputs("all")
    assert list(kept.values()) == [everything[f"output-{number:03d}.mid"] for number in numbers]


def make_profile(notes: NoteSeq) -> TrainProfile:
    """Return the profile of training data that has only these notes."""
    music = np.array([measure_statistics(notes)] * 2)
    reference = Reference(music[0], np.ones(len(music[0])))
    return TrainProfile(TrainIndex.build([("known.mid", notes)]), reference, 12, "")


def test_a_copied_sample_is_named_and_avoided(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training data has exactly the second of two samples."""
    assert run("-l", "300", "-b", "2") == 0
    before = read_outputs()
    notes = NoteSeq.from_midi_bytes(before["output-001.mid"])
    session = Session.load("m.sess")
    replace(session, train_profile=make_profile(notes).to_record()).save("m.sess")
    capsys.readouterr()
    assert run("-l", "300", "-b", "2", "-o", "named") == 0
    output = capsys.readouterr().out
    assert "notes in a row from second 0 on are in the training data: known.mid at 0:00" in output
    assert run("-l", "300", "-b", "2", "--avoid-copies", "-o", "new") == 0
    assert "are in the training data" not in capsys.readouterr().out
    new = read_outputs("new")
    assert new["output-000.mid"] == before["output-000.mid"]
    assert new["output-001.mid"] != before["output-001.mid"]
    metadata, _ = decode_file("new/output-001.mid")
    assert metadata["piece"] == str(1 + 65536)
    _, _, *argv = shlex.split(metadata["made with"])
    assert generate.main([*argv, "-o", "again"]) == 0
    assert read_outputs("again") == {"output-000.mid": new["output-001.mid"]}


def test_random_seed_is_recorded() -> None:
    assert generate.main("-s m.sess -o out -l 60 -b 1 --device cpu".split()) == 0
    metadata, _ = decode_file("out/output-000.mid")
    assert generate.main(shlex.split(metadata["made with"])[2:]) == 0
    assert read_outputs("generated") == read_outputs()


def test_control_of_a_file_is_recorded(folder: Path) -> None:
    path = write_data(folder / "d", count=1, notes=60) / "0.mid.data"
    assert run("-c", str(path), "-b", "1") == 0
    _, requested = decode_file("out/output-000.mid")
    control = load_control(str(path), 0)
    assert requested.density[[0, -1]].tolist() == control.density[[0, -1]].tolist()
    np.testing.assert_allclose(requested.histogram[-1], control.histogram[-1], atol=2e-3)
    seconds = NoteSeq.from_midi_file("out/output-000.mid").seconds
    assert 0 == requested.times[0] < requested.times[-1] <= seconds + 2


# ------------------------------------------------------------------------------- generation


@pytest.mark.parametrize(
    ("options", "method"),
    [
        (["-g", "1"], "greedy"),
        (["-g", "0.5", "-z"], "sampling at temperature 0.95, 50% greedy"),
        (["-B", "3"], "beam search with 3 beams"),
        (["-B", "3", "-S"], "stochastic beam search with 3 beams"),
        (["--free", "-T", "2"], "sampling at temperature 2"),
    ],
)
def test_first_message_has_the_method(
    capsys: pytest.CaptureFixture[str], options: list[str], method: str
) -> None:
    assert run("-l", "60", "-b", "2", *options) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"m.sess on cpu, {method}, seed 5"
    assert len(read_outputs()) == 2


def test_sampler_has_all_filters() -> None:
    filters = {"temperature": 0.5, "greedy_ratio": 0.25, "top_k": 9, "top_p": 0.9, "min_p": 0.1}
    options = GenerateConfig(pitch_temperature=3.0, velocity_temperature=2.0, **filters)
    sampler = generate.build_sampler(options)
    assert vars(sampler).items() >= filters.items()
    assert sampler.range_temperatures == {range(88): 3.0, range(176, 208): 2.0}


def test_greedy_from_zeros_ignores_the_seed() -> None:
    for seed in ("5", "77"):
        run("-l", "80", "-b", "1", "-g", "1", "-z", "--seed", seed, "-o", seed)
    assert NoteSeq.from_midi_file("5/output-000.mid") == NoteSeq.from_midi_file("77/output-000.mid")


def watch_events(monkeypatch: pytest.MonkeyPatch, watch: Callable[[], None]) -> None:
    """Call `watch` at each step of the generation."""
    generate_events = generate.generate_events

    def watched(job: GenerationJob) -> Iterator[Any]:
        for events in generate_events(job):
            watch()
            yield events

    monkeypatch.setattr(generate, "generate_events", watched)


@pytest.mark.parametrize("options", [[], ["-l", "0"], ["-l", "99"], ["-l", "5"]])
def test_control_file_gives_the_length(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    path, steps = write_data(folder / "d", count=1, notes=30) / "0.mid.data", []
    watch_events(monkeypatch, lambda: steps.append(1))
    assert run("-c", str(path), "-b", "1", *options) == 0
    length = int(options[1]) if options else 0
    assert len(steps) == (length or len(Performance.load(path)))


@pytest.mark.parametrize("seconds", [1, 5, 11])
def test_samples_end_near_the_requested_length(seconds: int) -> None:
    assert run("--seconds", str(seconds), "-b", "6") == 0
    for number in range(6):
        length = max(note.end for note in read_notes(f"out/output-00{number}.mid"))
        assert abs(length - seconds) <= min(2, 0.2 * seconds) + 0.001  # a tick


def test_the_last_notes_ring() -> None:
    assert run("--seconds", "11", "-b", "6") == 0
    assert run("-l", "150", "-b", "2") == 0
    for number in range(8):
        notes = read_notes(f"out/output-00{number}.mid")
        assert max(note.end for note in notes) - max(note.start for note in notes) >= 1


# ------------------------------------------------------------------- for other programs


def read_downbeats(path: str) -> list[float]:
    return [round(float(time), 2) for time in pretty_midi.PrettyMIDI(path).get_downbeats()]


def test_a_tempo_and_a_meter_are_written(folder: Path) -> None:
    assert run("-l", "200", "-b", "1") == 0
    assert run("-l", "200", "-b", "1", "--bpm", "90", "--meter", "3/4") == 0
    plain, with_tempo = (read_midi(f"out/output-00{number}.mid")[0] for number in range(2))
    np.testing.assert_allclose(plain.starts, with_tempo.starts, atol=6e-4)
    assert plain.pitches.tolist() == with_tempo.pitches.tolist()
    assert read_downbeats("out/output-001.mid")[:3] == [0, 2, 4]
    metadata, _ = decode_file("out/output-001.mid")
    assert "--bpm 90.0 --meter 3/4" in metadata["made with"]


def write_song(path: Path) -> None:
    """Write a song at 75 bpm in 3/4, so with a bar line every 2.4 s."""
    midi = pretty_midi.PrettyMIDI(initial_tempo=75)
    midi.time_signature_changes = [pretty_midi.TimeSignature(3, 4, 0)]
    piano = pretty_midi.Instrument(0)
    piano.notes = [pretty_midi.Note(64, 60 + k % 12, 0.4 * k, 0.4 * k + 0.3) for k in range(30)]
    midi.instruments = [piano]
    midi.write(str(path))


def test_bar_lines_of_a_primer_fit(folder: Path) -> None:
    write_song(folder / "song.mid")
    assert run("-i", "song.mid", "--primer-seconds", "5", "-l", "100", "-b", "1") == 0
    assert read_downbeats("out/output-000.mid")[:3] == [0, 2.4, 4.8]
    start = ["--primer-start", "1.5", "--primer-seconds", "4"]  # the next note is at second 1.6
    assert run("-i", "song.mid", *start, "-l", "100", "-b", "1") == 0
    assert read_downbeats("out/output-001.mid")[:3] == [0, 0.8, 3.2]
    assert run("-i", "song.mid", *start, "-l", "100", "-b", "1", "--continuation-only") == 0
    downbeats = np.diff(read_downbeats("out/output-002.mid")[1:4])
    np.testing.assert_allclose(downbeats, 2.4, atol=0.011)


def test_bar_lines_of_a_kept_file_fit(folder: Path) -> None:
    write_song(folder / "song.mid")
    assert run("--keep", "song.mid", "-b", "1", "--particles", "2") == 0
    assert read_downbeats("out/output-000.mid")[:3] == [0, 2.4, 4.8]


def test_grid_and_beats() -> None:
    assert run("-l", "200", "-b", "1", "--beats", "--grid", "1/8", "-c", CONTROL) == 0
    file, now, onsets = mido.MidiFile("out/output-000.mid"), 0, []
    for message in file.tracks[1]:
        now += message.time
        if message.type == "note_on" and message.velocity:
            onsets.append(2 * now / file.ticks_per_beat)
    assert onsets == np.rint(onsets).tolist()
    assert len(onsets) > 10


def test_pedal_sounds_the_same(folder: Path) -> None:
    write_song(folder / "song.mid")
    for options in ([], ["-i", "song.mid"], ["--keep", "song.mid", "--two-tracks"]):
        options += ["--particles", "2"] if "--keep" in options else ["-l", "400"]
        assert run("-b", "1", "-o", "plain", "--force", *options) == 0
        assert run("-b", "1", "-o", "pedal", "--force", "--pedal", *options) == 0
        plain, pedal = (read_midi(f"{name}/output-000.mid") for name in ("plain", "pedal"))
        for one, other in zip(plain[0].columns, pedal[0].columns, strict=True):
            np.testing.assert_allclose(one, other, atol=6e-4)
        assert plain[1].pedal_presses == 0
        assert pedal[1].pedal_presses > 0
        keys = NoteSeq.from_midi_file("pedal/output-000.mid", sustain=False)
        assert (keys.ends - keys.starts).mean() < (plain[0].ends - plain[0].starts).mean()


def test_audio_in_another_format(folder: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    assert run("-l", "60", "-b", "1", "--wav", "--audio", "mp3") == 0
    assert sorted(read_outputs()) == [f"output-000.{name}" for name in ("mid", "mp3", "wav")]
    seconds = [soundfile.info(f"out/output-000.{name}").duration for name in ("mp3", "wav")]
    assert seconds[0] == pytest.approx(seconds[1], abs=0.1)


def test_missing_audio_library_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert run("-l", "60", "--audio", "mp3") != 0
    assert "audio in mp3 needs soundfile" in capsys.readouterr().err
    assert not list(Path("out").iterdir())


def test_shipped_session_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "__file__", str(folder / "program" / "model.py"))
    (folder / "program").mkdir()
    Path("m.sess").rename("program/pretrained.sess")
    assert generate.main("-o out --seed 5 --device cpu -l 60 -b 1".split()) == 0
    with pytest.raises(FileNotFoundError):
        Session.load("other.sess")


# --------------------------------------------------------------------- like a liked piece


def test_variation_keeps_a_share_of_each_bar(folder: Path) -> None:
    write_song(folder / "song.mid")
    song = read_midi("song.mid")[0]
    for share, lowest, highest in (("0", 30, 30), ("0.5", 9, 21), ("1", 0, 0)):
        options = ["--variation", share, "song.mid", "-b", "1", "--particles", "2", "--force"]
        assert run(*options) == 0
        notes, content = read_midi("out/output-000.mid")[0], read_outputs()["output-000.mid"]
        is_given = decode_given(read_midi_texts(content), len(notes))
        assert lowest <= is_given.sum() <= highest
        kept = {(round(t, 2), p) for t, p in zip(song.starts, song.pitches, strict=True)}
        given = zip(notes.starts[is_given], notes.pitches[is_given], strict=True)
        assert {(round(t, 2), p) for t, p in given} <= kept


def test_keep_until_goes_on_anew(folder: Path) -> None:
    write_song(folder / "song.mid")
    song = read_midi("song.mid")[0]
    assert run("--keep-until", "6.1", "song.mid", "-b", "2") == 0
    samples = [read_midi(f"out/output-00{number}.mid")[0] for number in range(2)]
    for notes in samples:
        assert abs(notes.seconds - song.seconds) <= 2
        np.testing.assert_allclose(notes.starts[:16], song.starts[:16], atol=0.01)
    assert samples[0] != samples[1]
    metadata, requested = decode_file("out/output-001.mid")
    assert metadata["control"] == "like song.mid"
    assert requested is not None
    assert generate.main([*shlex.split(metadata["made with"])[2:], "-o", "again"]) == 0
    assert read_outputs("again")["output-000.mid"] == read_outputs()["output-001.mid"]


def test_flags_after_the_recorded_command() -> None:
    assert run("-l", "100", "-b", "2") == 0
    metadata, _ = decode_file("out/output-001.mid")
    argv = shlex.split(metadata["made with"])[2:]
    assert "#" not in metadata["made with"]
    assert generate.main([*argv, "-o", "more", "--png", "-l", "150"]) == 0
    assert sorted(read_outputs("more")) == ["output-000.mid", "output-000.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--meter 3/4", "argument --meter: only with --bpm or --beats"),
        ("--bpm 90 --beats", "argument --beats: not together with --bpm"),
        ("--bpm 90 --meter 3/5", "argument --meter: '3/5' is not a time signature"),
        ("--grid 1/16", "argument --grid: it needs a tempo, give --bpm or --beats"),
        ("--bpm 90 --grid 1/5", "argument --grid: '1/5' is not a grid"),
        ("--variation 2 song.mid", "argument --variation: '2' is not a share from 0 to 1"),
        ("--keep-until 99 song.mid", "argument --keep-until: song.mid has"),
        ("--keep-until x song.mid", "argument --keep-until: 'x' is not a number of seconds"),
        ("--keep-until 5 song.mid -i song.mid", "argument --primer: not together with"),
    ],
)
def test_invalid_options_for_other_programs(
    folder: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    write_song(folder / "song.mid")
    with contextlib.suppress(SystemExit):
        assert run(*options.split()) != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [[], ["-i", "song.mid"], ["-i", "song.mid", "--continuation-only"]]
)
def test_events_after_the_end_are_ignored(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    """Samples of a batch have the same number of events, and some may be longer than needed."""
    write_midi(folder / "song.mid", 30, 3)
    messages = []
    for notes, name in ((44, "short"), (90, "long")):
        events = np.array([[40], [LONGEST_SHIFT], [128]] * notes)
        monkeypatch.setattr(generate, "generate_events", lambda _, rows=events: iter(rows))
        control = "C# major;3 | E;3 @35 | F;3 @52.9"
        argv = ["-c", control, "--seconds", "47", "-b", "1", "-o", name, "--force"]
        assert run(*argv, *options) == 0
        messages.append(capsys.readouterr().out.replace(name, "out"))
    assert messages[0] == messages[1]
    assert "  E;3 @35: " in messages[0]
    assert "  F;3 @52.9: " not in messages[0]
    assert read_outputs("short") == read_outputs("long")


def test_samples_continue_the_primer(folder: Path) -> None:
    path = write_midi(folder / "song.mid", 100, 3)
    argv = ["-i", "song.mid", "--primer-seconds", "4", "-l", "200", "-b", "2"]
    assert run(*argv) == 0
    assert run(*argv, "-o", "new", "--continuation-only") == 0
    song = NoteSeq.from_midi_file(path).trim_start()
    end = song.starts[song.starts > 4][0]
    count = int((song.starts < end).sum())
    for name in ("output-000.mid", "output-001.mid"):
        notes, new = read_notes(f"out/{name}"), read_notes(f"new/{name}")
        assert [note.pitch for note in notes[:count]] == song.pitches[:count].tolist()
        starts = [note.start for note in notes[:count]]
        assert starts == pytest.approx(song.starts[:count].tolist(), abs=0.009)
        later = [note for note in notes if note.start >= end - 0.009]
        assert len(later) == len(notes) - count > 0
        assert [note.pitch for note in new] == [note.pitch for note in later]
        waits = np.diff([note.start for note in later])
        np.testing.assert_allclose(np.diff([note.start for note in new]), waits, atol=0.004)


def write_two_keys(path: Path) -> Path:
    """Write ten seconds of C, two notes per second, then ten of F#, six per second."""
    starts = np.concatenate([np.arange(0, 10, 0.5), np.arange(10, 20, 1 / 6)])
    pitches = np.where(starts < 10, 60, 66)
    path.write_bytes(NoteSeq(starts, starts + 0.1, pitches, [64] * len(starts)).to_midi_bytes())
    return path


def load_control_of(*argv: str) -> Any:
    """Return the requested control of a command line."""
    options, control = generate.parse_args(["-s", "m.sess", *argv])
    return generate.prepare_job(options, control).control


def test_continuation_follows_the_primer(folder: Path) -> None:
    write_two_keys(folder / "song.mid")
    primer = ("-i", "song.mid", "--primer-seconds")
    for seconds, level, pitch_class in (("8", 1, 0), ("19.9", 2, None)):
        control = load_control_of(*primer, seconds)
        assert len(control) == 1
        assert control.density.tolist() == [level]  # 2 notes/s; then half of the time 6
        if pitch_class is not None:
            assert control.histogram[0].tolist() == np.eye(12)[pitch_class].tolist()
    assert load_control_of(*primer, "8", "--no-follow") is None
    assert load_control_of(*primer, "8", "-c", "C major;9").density.tolist() == [9]


def test_control_of_the_primer_file_starts_where_the_primer_ends(folder: Path) -> None:
    write_two_keys(folder / "song.mid")
    primer = ("-i", "song.mid", "--primer-seconds", "9.9")
    by_event, by_time = (
        load_control_of(*primer, "-c", "song.mid"),
        load_control_of(*primer, "--like", "song.mid"),
    )
    for control in (by_event, by_time):
        assert np.isin(control.density, [3, 4]).all()
        assert (control.histogram[:, 6] == 1).all()
    assert by_time.length == pytest.approx(10, abs=0.3)
    with pytest.raises(ValueError, match=r"song\.mid: no notes after second 19\..*primer ends"):
        load_control_of("-i", "song.mid", "--primer-seconds", "30", "-c", "song.mid")


def test_control_like_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_two_keys(folder / "song.mid")
    control = load_control_of("--like", "song.mid")
    rows = control.evaluate(np.array([1.0, 7.9, 10.1, 15.0]), np.zeros(4, int))
    assert rows.density.tolist() == [1, 1, 3, 3]
    assert rows.histogram[:, [0, 6]].tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    both = load_control_of("--like", "song.mid", "-c", "G7")
    rows = both.evaluate(np.array([1.0, 15.0]), np.zeros(2, int))
    assert rows.density.tolist() == [1, 3]
    assert (rows.histogram > 0).sum(axis=1).tolist() == [4, 4]
    assert "--like" in fail_to_parse(capsys, "--like", "song.mid", "-c", "song.mid")
    assert "x.txt: not a MIDI file" in fail_to_run(capsys, "--like", "x.txt")
    assert run("--like", "song.mid", "-c", "G7", "-b", "1") == 0
    metadata, _ = decode_file("out/output-000.mid")
    assert metadata["control"] == "G7; like song.mid"


@pytest.mark.parametrize("options", [[], ["--no-follow"], ["--continuation-only"]])
def test_primer_does_not_count(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    write_two_keys(folder / "song.mid")
    argv = ["-i", "song.mid", "--primer-seconds", "4", "-l", "200", "-b", "1"]
    assert run(*argv, *options) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "output-000" in line)
    notes = NoteSeq.from_midi_file("out/output-000.mid")
    texts = read_midi_texts(Path("out/output-000.mid").read_bytes())
    is_given = decode_given(texts, len(notes))
    end = find_primer_end(notes, is_given)
    assert f": {(~is_given).sum()} notes, " in line
    assert (" s after the primer of 4." in line) == ("--continuation-only" not in options)
    assert (end > 4) == ("--continuation-only" not in options)


def test_primer_message(capsys: pytest.CaptureFixture[str]) -> None:
    pitches = [60, 62, 110, 64, 65, 110, 110, 67, 110]  # 110 is not on a piano
    notes = NoteSeq(np.arange(9.0), np.arange(9.0) + 0.5, pitches, [64] * 9)
    notes.to_midi_file("song.mid")
    assert run("-i", "song.mid", "--primer-start", "1", "-l", "9", "-b", "1") == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("primer: song.mid, 4 notes, 6.")
    assert line.endswith(" s (4 notes outside the piano's 88 keys dropped)")


def test_control_without_a_generated_note(capsys: pytest.CaptureFixture[str]) -> None:
    write_midi(Path("song.mid"), 50)
    assert run("-i", "song.mid", "-l", "1", "-c", "C;3") == 0
    assert "song.mid" in capsys.readouterr().out


# ------------------------------------------------------------------------------------ stream


def test_streamed_files_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    watch_events(monkeypatch, lambda: sizes.append(sum(map(len, read_outputs().values()))))
    monkeypatch.setattr(generate, "STREAM_INTERVAL", 0.0)
    assert run("-l", "400", "-b", "2", "--stream") == 0
    assert sizes[0] == 0
    assert 0 < sizes[110] < sizes[210] < sizes[310]
    streamed = read_outputs()
    assert run("-l", "400", "-b", "2", "-o", "new") == 0
    assert read_outputs("new") == streamed


def test_interrupted_stream_keeps_its_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> Iterator[Any]:
        yield from map(np.array, ([40], [41], [LONGEST_SHIFT]))
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "generate_events", interrupted)
    assert run("-b", "1", "--stream") == 130
    assert [note.pitch for note in read_notes("out/output-000.mid")] == [61, 62]
    assert run("-b", "1", "-o", "other") == 130
    assert read_outputs("other") == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_leaves_only_music(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    steps: list[int] = []

    def stop() -> None:
        steps.append(1)
        assert read_outputs() == {}  # no name is taken before there is music
        if len(steps) == 120:
            signal.raise_signal(number)

    watch_events(monkeypatch, stop)
    for options, files in ((["--stream"], 2), ([], 0)):
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            assert run("-b", "2", "-o", "out", *options) == 128 + number
        finally:
            signal.signal(signal.SIGTERM, handler)
        assert "generate.py: stopped; the samples written so far" in capsys.readouterr().err
        assert len(read_outputs()) == files
        for name in read_outputs():
            assert read_notes(f"out/{name}")
            Path("out", name).unlink()
        steps.clear()


def test_stopped_stream_has_no_silent_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> Iterator[Any]:
        yield np.array([LONGEST_SHIFT, 40])
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "STREAM_INTERVAL", 0.0)
    monkeypatch.setattr(generate, "generate_events", interrupted)
    assert run("-b", "2", "--stream") == 130
    assert [len(read_notes(f"out/{name}")) for name in read_outputs()] == [1]


# ------------------------------------------------------------------------------ given notes


def write_melody(path: str = "melody.mid") -> NoteSeq:
    """Write a melody of twelve notes in six seconds, and return it."""
    starts = 0.5 * np.arange(12)
    notes = NoteSeq(starts, starts + 0.4, 72 + np.arange(12) % 5, 60 + np.arange(12))
    notes.to_midi_file(path)
    return notes


def read_given(path: str) -> NoteSeq:
    """Return the notes of a sample that were given."""
    sample = read_sample(Path(path))
    return sample.notes.select(sample.is_given)


def test_kept_notes_are_marked_and_in_their_own_track() -> None:
    melody = write_melody()
    assert run("--keep", "melody.mid", "--particles", "8", "-b", "1", "--two-tracks") == 0
    assert read_given("out/output-000.mid") == NoteSeq.from_midi_file("melody.mid")
    new, given = pretty_midi.PrettyMIDI("out/output-000.mid").instruments
    assert (new.name, given.name) == ("Piano", "Given notes")
    assert len(given.notes) == len(melody)
    assert len(new.notes) > 0


@pytest.mark.parametrize(
    "options",
    [
        ["--keep", "melody.mid", "--keep-pitches", "72-73", "-c", "C major;4/s"],
        ["--fill", "2-4", "melody.mid"],
        ["--perform", "melody.mid", "--strength", "0.5"],
        ["--form", "A B A", "--seconds", "6", "-c", "C major;4/s"],
        ["--form", "A(C major;4) B(G7) A", "--seconds", "6"],
    ],
    ids=["keep", "fill", "perform", "form", "form with controls"],
)
def test_recorded_command_repeats_a_task(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_melody()
    assert run(*options, "--particles", "8", "-b", "2", "--html") == 0
    assert "each chord (see --particles)" in capsys.readouterr().out
    metadata, _ = decode_metadata(read_midi_texts(Path("out/output-001.mid").read_bytes()))
    _, _, *argv = shlex.split(metadata["made with"], comments=True)
    assert generate.main([*argv, "-o", "again"]) == 0
    again = read_outputs("again")
    assert again.pop("output-000.mid") == read_outputs()["output-001.mid"]
    assert not [name for name in again if name.endswith(".mid")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--keep", "a.mid", "--fill", "1-2", "b.mid"], "--fill: not together with --keep"),
        (["--keep", "a.mid", "-i", "b.mid"], "--primer: not together with --keep"),
        (["--keep", "a.mid", "-B", "2"], "--beam-size: not together with --keep"),
        (["--particles", "9"], "--particles: only with one of --keep"),
        (["--keep-pitches", "60-70"], "--keep-pitches: only with --keep"),
        (["--keep", "a.mid", "--strength", "1"], "--strength: only with --perform or --form"),
        (["--form", "A B"], "--form: it needs a length"),
        (["--form", "A 3", "--seconds", "9"], "--form: 'A 3' is not a row of letters"),
        (["--form", "A(H major) B(C)", "--seconds", "9"], "--form: part 1"),
    ],
)
def test_wrong_options_of_tasks(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in fail_to_parse(capsys, *argv)


def test_impossible_gap(capsys: pytest.CaptureFixture[str]) -> None:
    write_melody()
    message = fail_to_run(capsys, "--fill", "4-9", "melody.mid")
    assert message.endswith("melody.mid ends at second 5.90, so 4-9 is not in it")


# ----------------------------------------------------------------------------------- errors


def fail_to_run(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must fail; return its error, which must be one line."""
    assert run(*argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def fail_to_parse(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a wrong command line; return its error, which must be one line."""
    with pytest.raises(SystemExit) as stop:
        run(*argv)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("words", ["C major;3", "Am F C G"])
def test_hint_to_quote_a_control(capsys: pytest.CaptureFixture[str], words: str) -> None:
    line = fail_to_parse(capsys, "-c", *words.split())
    assert f"unrecognized arguments: {' '.join(words.split()[1:])} (a control needs quotes" in line
    assert "quotes" not in fail_to_parse(capsys, "-c", "C", "--unknown")


def test_progression_gives_the_length() -> None:
    assert run("-c", "Am F C G @ 90bpm", "-b", "3", "--seed", "4") == 0  # 10.7 s
    assert run("-c", "Am F C G @ 90bpm", "--seconds", "5", "-b", "1") == 0
    assert run("-c", "Am F C G @ 90bpm", "-l", "40", "-b", "1") == 0
    *lengths, seconds, _ = (
        max(note.end for note in read_notes(f"out/output-00{number}.mid")) for number in range(5)
    )
    assert all(10.1 < length < 13.2 for length in lengths)  # the last notes ring for 2 s
    last_onsets = [
        max(note.start for note in read_notes(f"out/output-00{number}.mid")) for number in range(3)
    ]
    assert all(9 < onset < 11.2 for onset in last_onsets)
    assert 4 <= seconds <= 6


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["-l", "0"], "--max-length"),
        (["--seconds", "9", "-l", "9"], "--seconds"),
        (["--guidance", "2"], "--guidance"),
        (["--continuation-only"], "--continuation-only"),
        (["--primer-start", "3"], "--primer-start"),
        (["--primer-seconds", "3"], "--primer-seconds"),
        (["-B", "3", "--pitch-temperature", "2"], "--pitch-temperature"),
        (["-B", "3", "--seconds", "9"], "--seconds"),
        (["-B", "3", "--stream"], "--stream"),
        (["-B", "3", "--top-k", "3"], "--top-k"),
        (["--min-p", "1.1"], "--min-p"),
        (["--time-temperature", "0"], "--time-temperature"),
        (["--soundfont", "m.sess"], "--soundfont"),
        (["--tracks", ","], "--tracks"),
        (["--keep", "song.mid", "--keep-tracks", ""], "--keep-tracks"),
    ],
)
def test_wrong_options(capsys: pytest.CaptureFixture[str], argv: list[str], flag: str) -> None:
    line = fail_to_parse(capsys, *argv)
    assert line.startswith("generate.py: error: argument ")
    assert flag in line


def test_error_of_a_control_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    line = fail_to_parse(capsys, "-c", "C majr;3")
    assert line.startswith("generate.py: error: argument -c/--control: ")
    assert "'majr'" in line
    assert EXAMPLE in line
    assert not Path("out").exists()


def test_missing_control_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file or folder: 'none.data'" in fail_to_parse(capsys, "-c", "none.data")


def test_guidance_needs_a_suitable_session(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["-c", ";3", "--guidance", "2", "-l", "9", "-b", "1"]
    assert "m.sess: --guidance needs a session trained with -c below 1" in fail_to_run(
        capsys, *argv
    )
    session = Session.load("m.sess")
    for ratio, status in ((1.0, 1), (0.9, 0)):
        replace(session, training={"options": {"control_ratio": ratio}}).save("m.sess")
        assert run(*argv) == status


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("-i text.mid", "text.mid"),
        ("-i none.mid", "none.mid"),
        ("-s none.sess", "none.sess"),
        ("-s cut.sess", "cut.sess"),
        ("-s other.sess", "other.sess: encoding 2 with widths (7, 24)"),
        ("-s newer.sess", "newer.sess: encoding 3"),
        ("--wav --soundfont m.sess", "m.sess: not a soundfont"),
        ("--wav --soundfont none.sf2", "none.sf2"),
        ("-o text.mid", "text.mid"),
    ],
)
def test_files_are_checked_before_generation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: str, message: str
) -> None:
    Path("text.mid").write_text("no music")
    Path("cut.sess").write_bytes(Path("m.sess").read_bytes()[:-100])
    sizes = ModelConfig(event_dim=7, hidden_dim=4, gru_layers=1)
    Session(sizes, PerformanceRNN(sizes).state_dict(), 2).save("other.sess")
    replace(Session.load("m.sess"), encoding=3).save("newer.sess")
    monkeypatch.setattr(generate, "generate_events", lambda _: pytest.fail("generation started"))
    assert message in fail_to_run(capsys, *argv.split())


def test_tracks_of_primer_and_control_file() -> None:
    """A primer and a control file give the same notes as NoteSeq for a choice of tracks."""
    first, second = write_midi(Path("a.mid"), seed=1), write_midi(Path("b.mid"), seed=2)
    band = pretty_midi.PrettyMIDI(resolution=960)
    for path, program in ((first, 0), (second, 40)):
        instrument = pretty_midi.Instrument(program)
        instrument.notes = pretty_midi.PrettyMIDI(str(path)).instruments[0].notes
        band.instruments.append(instrument)
    band.write("band.mid")

    def count_primer_notes(*options: str) -> int:
        """Return the notes of the primer in the output."""
        argv = ["-s", "m.sess", "-b", "1", "-l", "60", "-o", "out", "--force", "-i", "band.mid"]
        assert generate.main([*argv, "--primer-seconds", "9999", *options]) == 0
        notes = NoteSeq.from_midi_file("out/output-000.mid")
        return int((notes.starts < end).sum())

    end = NoteSeq.from_midi_file(first).trim_start().starts[-1]
    piano = count_primer_notes()
    assert piano == count_primer_notes("--tracks", "piano") > 0
    assert count_primer_notes("--tracks", "all") > piano

    one, both = (
        generate.prepare_job(
            GenerateConfig(session="m.sess", control="band.mid", tracks=tracks), None
        ).control
        for tracks in ("auto", "all")
    )
    assert one
    assert both
    assert both.events != one.events
