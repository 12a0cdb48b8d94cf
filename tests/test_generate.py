"""The command that plays: controls, output files, manners and refusals."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pretty_midi
import pytest
import torch

import generate
import page
from config import ModelConfig
from data import Performance
from model import PerformanceRNN, Session
from notes import midi_texts
from player import Player
from sequence import ControlSeq, EventSeq, NoteSeq
from tests.music import TINY_SIZES, write_data

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
    assert "sampling at temperature 1" in told[0]
    assert "seed 5" in told[0]
    for number, line in enumerate(told[1:]):
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
    assert len(told) == 3


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
    said, asked = page.from_texts(midi_texts(path.read_bytes()))
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
    said, _ = page.from_texts(midi_texts(path.read_bytes()))
    assert generate.main(shlex.split(said["made with"])[2:]) == 0
    assert Path("generated/output-000.mid").read_bytes() == path.read_bytes()


def test_the_control_of_a_file_is_known_at_the_times_it_was_asked_for(here: Path) -> None:
    path = write_data(here / "d", count=1, notes=60) / "0.mid.data"
    assert run("-c", str(path), "-b", "1") == 0
    _, asked = page.from_texts(midi_texts(Path("out/output-000.mid").read_bytes()))
    controls, _ = generate.read_control(str(path), 0)
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
    asked = generate.asked_for(rows, events)
    assert asked is not None
    assert asked.times.tolist() == [0, 0, 0, 1.171]
    assert asked.density.tolist() == [1, 2, 3, 4]
    assert asked.histogram.argmax(axis=1).tolist() == [0, 1, 2, 3]


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
    controls, from_file = generate.read_control(text, 0)
    assert controls.shape == (1, 24)
    assert not from_file
    assert controls[0, :12].tolist() == np.eye(12)[density].tolist()
    np.testing.assert_allclose(controls[0, 12:], histogram, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (";12", "12"),
        ("1,2;3", "12 weights"),
        (CARD[:-2], "';'"),
        (CARD + ";1", "density"),
        ("1,0,1,0,1,1,0,1,0,1,0,x;3", "'x'"),
        ("1,-1,1,0,1,1,0,1,0,1,0,1;3", "-1"),
        ("nan,0,1,0,1,1,0,1,0,1,0,1;3", "nan"),
        (";-1", "-1"),
        ("missing.data", "missing.data"),
        ("", "';'"),
        ("x" * 5000, "';'"),
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
    assert generate.EXAMPLE in last
    assert not Path("out").exists()


def played(monkeypatch: pytest.MonkeyPatch, *argv: str) -> dict[str, Any]:
    """What the network was asked to do by a command."""
    heard: dict[str, Any] = {}

    def stand_in(beam: bool) -> Callable[..., Any]:
        def record(
            model: PerformanceRNN,
            init: torch.Tensor,
            steps: int,
            controls: torch.Tensor | None,
            generators: list[torch.Generator],
            **how: object,
        ) -> Any:
            heard.update(how, steps=steps, controls=controls, beam=beam, init=init)
            silence = torch.zeros(steps, len(init), dtype=torch.long)
            return silence if beam else iter(silence)

        return record

    monkeypatch.setattr(Player, "generate", stand_in(False))
    monkeypatch.setattr(Player, "beam_search", stand_in(True))
    assert run(*argv) == 0
    return heard


def test_the_flags_reach_the_network(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = played(monkeypatch, "-l", "7", "-T", "0.5", "-g", "0.25")
    assert (heard["beam"], heard["steps"], heard["temperature"]) == (False, 7, 0.5)
    assert heard["greedy_ratio"] == 0.25
    assert heard["playable"] is not None
    assert heard["controls"] is None
    assert heard["init"].shape == (8, 4)
    assert heard["init"].std() > 0.5
    heard = played(monkeypatch, "-l", "7", "-B", "4", "-S", "-T", "2", "--free", "-z")
    assert (heard["beam"], heard["beam_size"], heard["temperature"]) == (True, 4, 2.0)
    assert heard["stochastic"] is True
    assert heard["playable"] is None
    assert not heard["init"].any()
    assert played(monkeypatch, "-l", "7", "-B", "4")["stochastic"] is False
    assert played(monkeypatch)["steps"] == generate.LENGTH


def test_a_key_that_the_network_forgets_is_let_go_after_ten_seconds(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten = torch.tensor([40, *[239] * 20])[:, None]  # a note on, and 20 times 1.171 s
    monkeypatch.setattr(Player, "generate", lambda *_, **__: iter(forgotten))
    assert run("-b", "1", "-l", "21") == 0
    (note,) = pretty_midi.PrettyMIDI("out/output-000.mid").instruments[0].notes
    assert (note.pitch, note.end - note.start) == (61, pytest.approx(10.0, abs=0.001))


def test_two_runs_into_one_folder_do_not_take_the_same_name(tmp_path: Path) -> None:
    one, other = generate.free_paths(tmp_path), generate.free_paths(tmp_path)
    taken = [next(paths).name for paths in (one, other, one, other)]
    assert taken == [f"output-00{number}.mid" for number in range(4)]


def test_a_data_file_controls_every_step_and_gives_the_length(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_data(here / "d", count=1, notes=30) / "0.mid.data"
    made = Performance.load(path)
    controls, from_file = generate.read_control(str(path), 0)
    assert from_file
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
        given = heard["controls"][:steps, 1].numpy()
        np.testing.assert_array_equal(given[:size], controls[:steps])
        assert (given[size:] == controls[-1]).all(), "the last control is held"


def test_a_folder_gives_one_of_its_files_chosen_by_the_seed(here: Path) -> None:
    folder = write_data(here / "d", count=4, notes=20)
    lengths = {len(Performance.load(path)) for path in folder.iterdir()}
    found = [len(generate.read_control(str(folder), seed)[0]) for seed in range(20)]
    assert set(found) == lengths
    assert found == [len(generate.read_control(str(folder), seed)[0]) for seed in range(20)]


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


def test_a_session_that_is_not_there_or_damaged_is_a_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "none.sess" in refusal(capsys, "-s", "none.sess")
    Path("cut.sess").write_bytes(Path("m.sess").read_bytes()[:-100])
    assert "cut.sess" in refusal(capsys, "-s", "cut.sess")


def test_a_soundfont_that_is_none_is_said_before_playing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "compose", lambda *_: pytest.fail("it played first"))
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
    monkeypatch.setattr(generate, "compose", lambda *_: pytest.fail("it played first"))
    assert "out" in refusal(capsys, "-l", "10")
