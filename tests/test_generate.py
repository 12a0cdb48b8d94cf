"""The command that plays: controls, output files, manners and refusals."""

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pretty_midi
import pytest
import torch

import generate
from config import GenerateConfig, ModelConfig
from corpus.performance import Performance
from generation import pipeline as composer
from generation import writer as output
from generation.control import EXAMPLE, read
from generation.engine import Engine, Schedule, _has_small_products
from midi.control_schedule import ControlSchedule
from midi.metadata import decode_metadata
from midi.notes import read_midi_texts
from model import PerformanceRNN, Session
from sequence import CURRENT, ControlSeq, EventSeq, NoteSeq
from tools.synthetic_data import TINY_SIZES, write_data, write_midi

CARD = "1,0,1,0,1,1,0,1,0,1,0,1;3"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2).save("m.sess")
    return tmp_path


def run(*more: str) -> int:
    return generate.main(["-s", "m.sess", "-o", "out", "--seed", "5", "--device", "cpu", *more])


def music(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_the_command_of_the_card_writes_music(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-c", CARD, "-l", "300", "-b", "2") == 0
    told = capsys.readouterr().out.splitlines()
    assert "sampling at temperature 0.95" in told[0]
    assert "seed 5" in told[0]
    for number, line in enumerate(told[1::2]):
        found = re.fullmatch(rf"out/output-00{number}\.mid: (\d+) notes, ([\d.]+) s", line)
        assert found is not None, line
        (piano,) = pretty_midi.PrettyMIDI(f"out/output-00{number}.mid").instruments
        assert (piano.program, piano.is_drum) == (0, False)
        assert len(piano.notes) == int(found[1]) > 10
        assert min(note.start for note in piano.notes) == 0
        assert all(note.end > note.start for note in piano.notes)
        assert mido.MidiFile(f"out/output-00{number}.mid").length == pytest.approx(
            float(found[2]), abs=0.1
        )
    assert len(told) == 5
    assert all(f"asked for {CARD}: histogram" in line for line in told[2::2])


def test_the_same_seed_makes_the_same_files_and_a_piece_keeps_its_music_in_a_larger_batch(
    here: Path,
) -> None:
    run("-l", "200", "-b", "2")
    run("-l", "200", "-b", "2", "-o", "again")
    run("-l", "200", "-b", "5", "-o", "more")
    run("-l", "200", "-b", "2", "-o", "other", "--seed", "6")
    assert len(set(music().values())) == 2
    assert music() == music("again")
    assert {**music("more"), **music()} == music("more")
    assert not set(music().values()) & set(music("other").values())


def test_what_is_there_is_never_overwritten(here: Path) -> None:
    run("-l", "50", "-b", "2")
    first = music()
    run("-l", "50", "-b", "1", "--seed", "6")
    assert set(music()) == {"output-000.mid", "output-001.mid", "output-002.mid"}
    assert {**music(), **first} == music()


def test_pictures_and_audio_lie_beside_the_music(here: Path) -> None:
    assert run("-l", "60", "-b", "1", "--png", "--wav") == 0
    assert [Path(name).suffix for name in music()] == [".mid", ".png", ".wav"]


@pytest.mark.parametrize("manner", [[], ["-B", "2", "-S"], ["-c", "d/0.mid.data", "-g", "0.5"]])
def test_a_piece_is_made_again_by_what_its_file_says(here: Path, manner: list[str]) -> None:
    write_data(here / "d", count=1, notes=30)
    assert run("-l", "120", "-b", "3", *manner, "--force") == 0
    path = Path("out/output-002.mid")
    said, asked = decode_metadata(read_midi_texts(path.read_bytes()))
    assert (said["session"], said["seed"], said["piece"]) == ("m.sess", "5", "2")
    assert said["control"] == (manner[1] if "-c" in manner else "none")
    assert (asked is not None) == ("-c" in manner)
    python, script, *argv = shlex.split(said["made with"], comments=True)
    assert (python, script) == ("python3", "generate.py")
    assert not set(argv) & {"--force", "-o"}
    assert generate.main(argv) == 0
    assert list(music("generated")) == [f"output-00{number}.mid" for number in range(3)]
    assert Path("generated/output-002.mid").read_bytes() == path.read_bytes()


def test_a_piece_of_a_seed_by_chance_is_made_again_too(here: Path) -> None:
    assert generate.main("-s m.sess -o out -l 60 -b 1 --device cpu".split()) == 0
    path = Path("out/output-000.mid")
    said, _ = decode_metadata(read_midi_texts(path.read_bytes()))
    assert generate.main(shlex.split(said["made with"])[2:]) == 0
    assert Path("generated/output-000.mid").read_bytes() == path.read_bytes()


def test_the_control_of_a_file_is_known_at_the_times_it_was_asked_for(here: Path) -> None:
    path = write_data(here / "d", count=1, notes=60) / "0.mid.data"
    assert run("-c", str(path), "-b", "1") == 0
    _, asked = decode_metadata(read_midi_texts(Path("out/output-000.mid").read_bytes()))
    controls = read(str(path), 0).to_array()
    assert asked is not None
    assert asked.density[0] == controls[0, :12].argmax()
    assert asked.density[-1] == controls[-1, :12].argmax()
    np.testing.assert_allclose(asked.histogram[-1], controls[-1, 12:], atol=2e-3)
    assert (
        0
        == asked.times[0]
        < asked.times[-1]
        <= NoteSeq.from_midi_file("out/output-000.mid").seconds + 2
    )


def test_times_of_a_control_count_from_the_first_note() -> None:
    events = EventSeq([239, 40, 239, 41])  # the first note on comes after 1.171 s
    rows = ControlSeq([1, 2, 3, 4], np.eye(12)[:4]).to_array()
    model = PerformanceRNN(TINY_SIZES)
    order = composer.GenerationJob(
        model,
        CURRENT,
        0,
        ControlSchedule(rows[:, :12].argmax(axis=1), rows[:, 12:], text="a file"),
        None,
        4,
    )
    asked = output.asked_for(order, events, GenerateConfig())
    assert asked is not None
    assert asked.times.tolist() == [0, 0, 0, 1.171]
    assert asked.density.tolist() == [1, 2, 3, 4]
    assert asked.histogram.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_times_of_a_plan_count_from_the_end_of_the_primer() -> None:
    heard = composer.Primer(EventSeq([40, 239, 239]), np.zeros((3, 24)), 0)
    order = composer.GenerationJob(
        PerformanceRNN(TINY_SIZES), CURRENT, 0, read("C;1 | G;9 @2", 0), heard, 4
    )
    asked = output.asked_for(order, EventSeq([239, 41, 239, 42]), GenerateConfig())
    assert asked is not None
    assert asked.times.tolist() == [2.342, 3.513, 3.513, 4.684]
    assert asked.density.tolist() == [1, 1, 1, 9]


def test_force_writes_over_what_is_there_from_the_first_number_on(here: Path) -> None:
    run("-l", "50", "-b", "3", "--wav")
    before = music()
    run("-l", "50", "-b", "2", "--seed", "6", "--force")
    assert set(music()) == {"output-000.mid", "output-001.mid", "output-002.mid", "output-002.wav"}
    assert music()["output-000.mid"] != before["output-000.mid"]
    assert music()["output-002.mid"] == before["output-002.mid"]


def test_the_page_has_the_pieces_of_earlier_runs_too(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("-l", "50", "-b", "1")
    assert run("-l", "50", "-b", "2", "--seed", "6", "-c", CARD, "--html") == 0
    content = Path("out/index.html").read_text()
    assert [content.count(word) for word in ("<article", "seed 5, piece", "seed 6, piece")] == [
        3,
        1,
        2,
    ]
    assert re.search(r"out/index\.html: 3 pieces, \d:\d\d of music", capsys.readouterr().out)
    Path("out/index.html").write_text("something else")
    assert "--force" in refusal(capsys, "-l", "50", "--html")
    assert len(music()) == 4
    assert run("-l", "50", "-b", "1", "--html", "--force") == 0
    assert "<article" in Path("out/index.html").read_text()


@pytest.mark.parametrize(
    "manner", [["-g", "1"], ["-g", "0.5"], ["-B", "3"], ["-B", "3", "-S"], ["-z"], ["--free"]]
)
def test_every_manner_of_playing_gives_music(
    here: Path, manner: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-l", "60", "-b", "2", *manner) == 0
    assert len(music()) == 2


def test_greedy_from_zeros_does_not_depend_on_the_seed(here: Path) -> None:
    run("-l", "80", "-b", "1", "-g", "1", "-z")
    run("-l", "80", "-b", "1", "-g", "1", "-z", "--seed", "77", "-o", "other")
    one, other = (NoteSeq.from_midi_file(f"{name}/output-000.mid") for name in ("out", "other"))
    assert one == other


# ---------------------------------------------------------------------------------- controls


@pytest.mark.parametrize(
    ("text", "density", "histogram"),
    [
        (CARD, 3, np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1]) / 7),
        (";11", 11, np.full(12, 1 / 12)),
        (" 0,0,0,0,0,0,0,0,0,0,0,0 ; 0", 0, np.full(12, 1 / 12)),
        ("0,0,0,0,0,0,0,0,0,0,0,2.5;5", 5, np.eye(12)[11]),
    ],
)
def test_a_written_control_is_density_then_histogram(
    text: str, density: int, histogram: np.ndarray
) -> None:
    (row,) = read(text, 0).to_array()
    assert row[:12].tolist() == np.eye(12)[density].tolist()
    np.testing.assert_allclose(row[12:], histogram, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (";12", "12"),
        ("1,2;3", "12 weights"),
        (CARD[:-4], "12 weights"),
        (CARD + ";1", "density"),
        ("1,0,1,0,1,1,0,1,0,1,0,x;3", "'x'"),
        ("1,-1,1,0,1,1,0,1,0,1,0,1;3", "-1"),
        ("nan,0,1,0,1,1,0,1,0,1,0,1;3", "nan"),
        (";-1", "-1"),
        ("missing.data", "missing.data"),
        ("", "empty"),
        ("x" * 5000, "note name"),
    ],
)
def test_a_wrong_control_is_a_sentence_with_an_example(
    here: Path, text: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run("-c", text)
    (last,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert word in last
    assert (EXAMPLE in last) == (".data" not in text)
    assert not Path("out").exists()


def played(monkeypatch: pytest.MonkeyPatch, *argv: str) -> dict[str, Any]:
    """What the network was asked to do by a command."""
    heard: dict[str, Any] = {}

    def stand_in(beam: bool) -> Callable[..., Any]:
        def record(
            player: Engine,
            init: torch.Tensor,
            steps: int,
            schedule: Schedule,
            generators: list[torch.Generator],
            **how: object,
        ) -> Any:
            heard.update(how, steps=steps, controls=schedule.controls, beam=beam, init=init)
            heard.update(schedule=schedule, player=player)
            silence = torch.zeros(steps, len(init), dtype=torch.long)
            return silence if beam else iter(silence)

        return record

    monkeypatch.setattr(Engine, "generate", stand_in(False))
    monkeypatch.setattr(composer, "beam_search", stand_in(True))
    assert run(*argv) == 0
    return heard


def test_the_flags_reach_the_network(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = played(monkeypatch, "-l", "7", "-T", "0.5", "-g", "0.25", "--repeats", "4")
    assert (heard["beam"], heard["steps"]) == (False, 7)
    assert (heard["sampling"].temperature, heard["sampling"].greedy_ratio) == (0.5, 0.25)
    assert heard["rules"].start.sum() == 240 - 88, "no off for a silent key"
    assert heard["rules"].repeats == 4
    assert heard["rules"].silence == 4000, "milliseconds"
    assert heard["controls"] is None
    assert heard["primer"] is None
    assert heard["player"].guidance == 1
    assert heard["init"].shape == (8, 4)
    assert heard["init"].std() > 0.5
    filters = ["--top-k", "9", "--top-p", "0.9", "--min-p", "0.1", "--velocity-temperature", "2"]
    chosen = played(monkeypatch, *filters, "--pitch-temperature", "3", "-l", "1")["sampling"]
    assert (chosen.top_k, chosen.top_p, chosen.min_p) == (9, 0.9, 0.1)
    assert chosen.temperatures == {0: 3.0, 2: 2.0}
    heard = played(monkeypatch, "-l", "7", "-B", "4", "-S", "-T", "2", "--free", "-z")
    assert (heard["beam"], heard["beam_size"], heard["temperature"]) == (True, 4, 2.0)
    assert heard["stochastic"] is True
    assert heard["rules"].start.all()
    assert not heard["init"].any()
    assert played(monkeypatch, "-l", "7", "-B", "4")["stochastic"] is False
    assert played(monkeypatch, "-l", "7", "--exact")["player"].exact
    assert played(monkeypatch, "-l", "7")["player"].exact is not _has_small_products(
        torch.device("cpu")
    )
    assert played(monkeypatch, "-c", ";3", "-l", "7")["schedule"].steering is not None
    assert played(monkeypatch, "-c", ";3", "-l", "7", "--no-steering")["schedule"].steering is None
    assert played(monkeypatch)["steps"] == generate.LENGTH


def test_a_key_that_the_network_forgets_is_let_go_after_five_seconds(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten = torch.tensor([40, *[239] * 20])[:, None]  # a note on, and 20 times 1.171 s
    monkeypatch.setattr(Engine, "generate", lambda *_, **__: iter(forgotten))
    assert run("-b", "1", "-l", "21") == 0
    (note,) = pretty_midi.PrettyMIDI("out/output-000.mid").instruments[0].notes
    assert (note.pitch, note.end - note.start) == (61, pytest.approx(5.0, abs=0.001))


def test_two_runs_into_one_folder_do_not_take_the_same_name(tmp_path: Path) -> None:
    one, other = output.free_paths(tmp_path), output.free_paths(tmp_path)
    taken = [next(paths).name for paths in (one, other, one, other)]
    assert taken == [f"output-00{number}.mid" for number in range(4)]


def test_a_data_file_controls_every_step_and_gives_the_length(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_data(here / "d", count=1, notes=30) / "0.mid.data"
    made = Performance.load(path)
    controls = read(str(path), 0).to_array()
    np.testing.assert_array_equal(controls, ControlSeq.recover_compressed_array(made.controls))
    size = len(made)
    for more, steps in (
        ([], size),
        (["-l", "0"], size),
        (["-l", str(size + 9)], size + 9),
        (["-l", "5"], 5),
    ):
        heard = played(monkeypatch, "-c", str(path), "-b", "2", *more)
        assert heard["steps"] == steps
        np.testing.assert_array_equal(heard["controls"][:, 0].numpy(), controls)
        assert heard["schedule"].clock is None, "a row is for an event"


def test_a_folder_gives_one_of_its_files_chosen_by_the_seed(here: Path) -> None:
    folder = write_data(here / "d", count=4, notes=20)
    lengths = {len(Performance.load(path)) for path in folder.iterdir()}
    found = [read(str(folder), seed).events for seed in range(20)]
    assert set(found) == lengths
    assert found == [read(str(folder), seed).events for seed in range(20)]


def test_a_plan_is_followed_by_the_clock_of_the_music(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = played(monkeypatch, "-c", "C major;3 | G7;9 @2", "-l", "9")
    rows, clock = heard["controls"], heard["schedule"].clock
    assert clock[[0, 90, 200, 208, 239]].tolist() == [0, 0, 0, 15, 1171]  # milliseconds
    at = 1990 // heard["schedule"].row, 2000 // heard["schedule"].row
    assert rows[list(at), 0, :12].argmax(dim=1).tolist() == [3, 9]


# ------------------------------------------------------------------------ lengths and primers


def notes_of(path: str) -> list[pretty_midi.Note]:
    (piano,) = pretty_midi.PrettyMIDI(path).instruments
    return sorted(piano.notes, key=lambda note: (note.start, note.pitch))


@pytest.mark.parametrize("seconds", [4, 11])
def test_a_piece_ends_on_time_with_all_its_notes(here: Path, seconds: int) -> None:
    assert run("--seconds", str(seconds), "-b", "6") == 0
    for number in range(6):
        length = max(note.end for note in notes_of(f"out/output-00{number}.mid"))
        assert abs(length - seconds) <= 2


def test_a_short_piece_does_not_end_before_its_first_note_nor_in_its_primer() -> None:
    starts = np.array([0, 8.0, 8.4, 8.5, 8.7])
    notes = NoteSeq(starts, starts + 0.1, [60] * 5, [64] * 5)
    assert len(composer.end_at_boundary(notes, 1.0)) == 1
    assert composer.end_at_boundary(notes, 9.0, 8.3).starts.tolist() == [0, 8.0, 8.4, 8.5]


def test_a_piece_ends_before_the_onset_that_is_waited_for_longest() -> None:
    starts = np.array([0, 4, 8.1, 8.2, 9.0, 9.3, 10, 12.1, 15])
    notes = NoteSeq(starts, starts + 0.5, np.arange(60, 69), [64] * 9)
    found = composer.end_at_boundary(notes, 10.0)
    assert (len(found), found.seconds) == (4, pytest.approx(8.7))


def test_seconds_count_from_the_end_of_the_primer_and_no_piece_ends_in_it() -> None:
    primer = NoteSeq([0, 3, 5.5], [1, 4, 5.9], [60, 62, 64], [64] * 3)
    events = EventSeq(np.append(EventSeq.from_note_seq(primer).to_array(), [208]))
    heard = composer.Primer(events, np.zeros((len(events), 24)), 0)
    new = NoteSeq(np.arange(40) / 4, np.arange(40) / 4 + 0.2, np.arange(40, 80), [64] * 40)
    array = EventSeq.from_note_seq(new).to_array()
    for seconds in (1.0, 5.0):  # the longest wait near second 1 of the rest is in the primer
        options = GenerateConfig(seconds=seconds)
        notes = composer.decode_sample(array, options, CURRENT, heard)
        assert len(notes) > 3
        assert notes.seconds == pytest.approx(heard.seconds + seconds, abs=2.0)


def test_a_piece_goes_on_from_its_primer_note_by_note(here: Path) -> None:
    path = write_midi(here / "song.mid", 100, 3)
    primer = NoteSeq.from_midi_file(path).trim_start()
    assert run("-i", "song.mid", "--primer-seconds", "4", "-l", "200", "-b", "2") == 0
    pieces = [notes_of(f"out/output-00{number}.mid") for number in range(2)]
    end = primer.starts[primer.starts > 4][0]
    count = int((primer.starts < end).sum())
    for piece in pieces:
        for k in range(count):
            assert piece[k].pitch == primer.pitches[k]
            assert piece[k].start == pytest.approx(primer.starts[k], abs=0.009)
        assert len(piece) > count
        assert piece[count].start >= end - 0.009
    assert pieces[0][count:] != pieces[1][count:]
    assert run("-i", "song.mid", "--primer-seconds", "4", "-l", "200", "-b", "2", "-o", "new",
               "--continuation-only") == 0  # fmt: skip
    for number, whole in enumerate(pieces):
        alone = notes_of(f"new/output-00{number}.mid")
        shift = whole[-1].start - alone[-1].start
        later = [note for note in whole if note.start >= end - 0.009]
        assert [n.pitch for n in alone] == [n.pitch for n in later]
        assert [n.start + shift for n in alone] == pytest.approx(
            [n.start for n in later], abs=0.003
        )


def test_a_primer_begins_where_it_is_told_and_says_what_is_not_on_the_piano(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pitches = [60, 62, 110, 64, 65, 110, 110, 67, 110]
    notes = NoteSeq(np.arange(9.0), np.arange(9.0) + 0.5, pitches, [64] * 9)
    notes.to_midi_file(here / "song.mid")
    heard = composer.read_primer("song.mid", 1.0, 5.5, CURRENT)
    assert [e for e in heard.events.to_array() if e < 88] == [62 - 21, 64 - 21, 65 - 21]
    assert heard.seconds == pytest.approx(6.0, abs=0.008), "it ends before the next note"
    assert heard.left_out == 3
    assert len(heard.controls) == len(heard.events)
    assert run("-i", "song.mid", "--primer-start", "1", "-l", "9", "-b", "1") == 0
    told = capsys.readouterr().out.splitlines()[1]
    assert "4 notes; 4 outside the piano" in told
    assert "song.mid: there is no note to begin with from second 9 on" in refusal(
        capsys, "-i", "song.mid", "--primer-start", "9"
    )


def test_the_velocity_of_the_note_before_which_a_primer_ends_is_not_heard(tmp_path: Path) -> None:
    """Else what goes on from it would always strike as hard as the note that is cut off."""
    notes = NoteSeq(np.arange(4.0), np.arange(4.0) + 0.5, [60, 62, 64, 65], [64, 64, 100, 64])
    notes.to_midi_file(tmp_path / "song.mid")
    heard = composer.read_primer(str(tmp_path / "song.mid"), 0.0, 1.5, CURRENT)
    velocities = EventSeq.feat_ranges()["velocity"]
    assert sum(event in velocities for event in heard.events.to_array()) == 1
    assert heard.seconds == pytest.approx(2.0, abs=0.008)


def test_a_primer_was_asked_for_what_follows_it_in_its_file_too(tmp_path: Path) -> None:
    """At its last event, too: it knows nothing of a piece that ends there."""
    starts = np.append(np.arange(0, 4, 0.5), np.arange(4.5, 9, 0.1))
    notes = NoteSeq(starts, starts + 0.05, [60] * len(starts), [64] * len(starts))
    notes.to_midi_file(tmp_path / "song.mid")
    heard = composer.read_primer(str(tmp_path / "song.mid"), 0.0, 4.1, CURRENT)
    assert heard.seconds == pytest.approx(4.5, abs=0.008)
    density = heard.controls[:, ControlSeq.feat_ranges()["note_density"]].argmax(axis=1)
    assert density[0] == 1  # 5 notes in 2 s
    assert density[-1] >= 5


def test_a_primer_begins_with_a_note_of_the_piano(tmp_path: Path) -> None:
    notes = NoteSeq([0, 5, 6, 7], [1, 6, 7, 8], [110, 60, 62, 64], [64] * 4)
    notes.to_midi_file(tmp_path / "song.mid")
    heard = composer.read_primer(str(tmp_path / "song.mid"), 0.0, 15.0, CURRENT)
    assert (heard.seconds, heard.left_out) == (pytest.approx(3.0, abs=0.01), 1)
    new = np.array([239, 40, 239], np.uint8)
    alone = GenerateConfig(continuation_only=True)
    assert len(composer.decode_sample(new, GenerateConfig(), CURRENT, heard)) == 4
    assert composer.decode_sample(new, alone, CURRENT, heard).pitches.tolist() == [61]


def test_what_a_primer_holds_long_is_not_let_go_but_what_it_left_sounding_is() -> None:
    events = [40, *[239] * 8, 128, 41]  # one key held for 9.4 s and let go, then another
    heard = composer.Primer(EventSeq(events), np.zeros((len(events), 24)), 0)
    silent = np.full(20, 239, np.uint8)
    notes = composer.decode_sample(silent, GenerateConfig(), CURRENT, heard)
    assert notes.ends - notes.starts == pytest.approx([8 * 1.171, 5.0])


def test_what_is_played_after_the_end_of_a_piece_is_neither_compared_nor_kept(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever follows the end depends on the other pieces, which may be slower."""
    write_midi(here / "song.mid", 30, 3)

    def steady(count: int) -> Callable[..., Any]:
        events = [40, 239, 128] * count  # a note each 1.171 s
        return lambda *_: iter(np.array(events)[:, None])

    plan = "C# major;3 | E;3 @35 | F;3 @52.9"
    for manner in ([], ["-i", "song.mid"], ["-i", "song.mid", "--continuation-only"]):
        told = []
        for count, name in ((44, "short"), (90, "long")):
            monkeypatch.setattr(generate, "generate_events", steady(count))
            argv = ["-c", plan, "--seconds", "47", "-b", "1", "-o", name, "--force"]
            assert run(*argv, *manner) == 0
            told.append(capsys.readouterr().out.replace(name, "out"))
        assert told[0] == told[1]
        assert "asked for E" in told[0]
        assert "asked for F" not in told[0]
        assert music("short") == music("long")


def test_a_growing_piece_is_there_while_it_is_played(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    generate_events = generate.generate_events

    def watched(*given: Any) -> Any:
        for events in generate_events(*given):
            sizes.append(sum(path.stat().st_size for path in Path("out").glob("*.mid")))
            yield events

    monkeypatch.setattr(generate, "generate_events", watched)
    monkeypatch.setattr(generate, "GROWN", 0.0)
    assert run("-l", "400", "-b", "2", "--stream") == 0
    assert sizes[0] == 0
    assert 0 < sizes[110] < sizes[210] < sizes[310]
    streamed = music()
    assert run("-l", "400", "-b", "2", "-o", "new") == 0
    assert music("new") == streamed


def test_a_growing_piece_that_is_stopped_holds_what_was_played(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> Any:
        yield from map(np.array, ([40], [41], [239]))
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "generate_events", stopped)
    assert run("-b", "1", "--stream") == 130
    assert [note.pitch for note in notes_of("out/output-000.mid")] == [61, 62]
    assert run("-b", "1", "-o", "other") == 130
    assert music("other") == {}


def test_a_piece_takes_a_byte_of_memory_for_each_event() -> None:
    takes = composer.SampleBuffer(3, CURRENT)
    for _ in range(5000):
        takes.add(np.array([1, 2, 239]))
    assert takes.of(2).tolist() == [239] * 5000
    assert takes._events.nbytes <= 2 * 3 * 5000


def test_a_primer_is_heard_with_its_own_control_where_there_is_one_for_the_rest(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_midi(here / "song.mid", 60, 3)
    known = composer.read_primer("song.mid", 0.0, 15.0, CURRENT)
    heard = played(monkeypatch, "-i", "song.mid", "-c", ";3", "-l", "2")["primer"]
    assert heard.events.tolist() == known.events.to_array().tolist()
    np.testing.assert_array_equal(heard.schedule.controls[:, 0].numpy(), known.controls)
    heard = played(monkeypatch, "-i", "song.mid", "-l", "2")["primer"]
    assert heard.schedule.controls is None


def test_a_rest_counts_after_a_primer_and_not_before_the_first_note() -> None:
    for begun, elapsed in ((True, 2342), (False, 1171)):
        takes = composer.SampleBuffer(1, CURRENT, begun)
        for event in (239, 40, 239):
            takes.add(np.array([event]))
        assert takes.elapsed.tolist() == [elapsed]


def test_each_piece_is_compared_with_what_was_asked_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-c", "C major;3 | G7;8/s @4", "-b", "1", "-l", "300") == 0
    told = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(":")[0] for line in told] == [
        "  asked for C major;3",
        "  asked for G7;8/s @4",
    ]
    assert "16-18 asked for" in told[1]


# ---------------------------------------------------------------------------------- refusals


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run(*argv) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_no_length_without_a_file_is_a_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("-l", "0")
    assert "--max-length" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "word"),
    [
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
    ],
)
def test_flags_that_do_not_go_together_are_a_sentence(
    here: Path, argv: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*argv)
    (last,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert word in last


def test_guidance_needs_a_session_that_knows_music_without_control(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "-c below 1" in refusal(capsys, "-c", ";3", "--guidance", "2")
    session = Session.load("m.sess")
    for ratio, status in ((1.0, 1), (0.9, 0)):
        replace(session, training={"option control_ratio": ratio}).save("m.sess")
        assert run("-c", ";3", "--guidance", "2", "-l", "9", "-b", "1") == status
    assert played(monkeypatch, "-c", ";3", "--guidance", "2", "-l", "9")["player"].guidance == 2


def test_a_primer_that_is_no_midi_is_a_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.mid").write_text("no music")
    assert "text.mid" in refusal(capsys, "-i", "text.mid")
    assert "none.mid" in refusal(capsys, "-i", "none.mid")


def test_a_session_that_is_not_there_or_damaged_is_a_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "none.sess" in refusal(capsys, "-s", "none.sess")
    Path("cut.sess").write_bytes(Path("m.sess").read_bytes()[:-100])
    assert "cut.sess" in refusal(capsys, "-s", "cut.sess")


def test_a_soundfont_that_is_none_is_said_before_playing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "generate_events", lambda *_: pytest.fail("it played first"))
    assert "m.sess: not a soundfont" in refusal(capsys, "--wav", "--soundfont", "m.sess")
    assert "none.sf2" in refusal(capsys, "--wav", "--soundfont", "none.sf2")
    with pytest.raises(SystemExit):
        run("--soundfont", "m.sess")
    assert "it is for --wav" in capsys.readouterr().err


def test_a_network_of_another_code_is_a_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ModelConfig(event_dim=7, hidden_dim=4, gru_layers=1)
    Session(sizes, PerformanceRNN(sizes).state_dict(), 2).save("other.sess")
    assert "other.sess" in refusal(capsys, "-s", "other.sess")
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 3).save("newer.sess")
    assert "encoding 3" in refusal(capsys, "-s", "newer.sess")


def test_an_output_folder_that_can_not_be_written_is_said_before_playing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("out").touch()
    monkeypatch.setattr(generate, "generate_events", lambda *_: pytest.fail("it played first"))
    assert "out" in refusal(capsys, "-l", "10")
