"""From MIDI files to music, as a user goes: three commands in a fresh folder."""

import shutil
from pathlib import Path

import pretty_midi
import pytest

import generate
import preprocess
import train
from sequence import NoteSeq
from tests.conftest import ASAP
from tools.synthetic_data import TINY_MODEL, write_midi

CARD = "1,0,1,0,1,1,0,1,0,1,0,1;3"
SMALL = ["-b", "8", "-w", "50", "-p", TINY_MODEL, "--max-steps", "20", "--no-enable-logging"]


def three_commands() -> list[Path]:
    """Run the suite in the working folder; the MIDI files it wrote."""
    assert preprocess.main([]) == 0
    assert train.main(["-s", "model.sess", *SMALL]) == 0
    assert generate.main(["-s", "model.sess", "-c", CARD, "-l", "200", "-b", "2"]) == 0
    return sorted(Path("generated").glob("*.mid"))


def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    midi = tmp_path / "dataset" / "midi"
    midi.mkdir(parents=True)
    return midi


def test_three_commands_turn_midi_files_into_music(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    midi = in_a_fresh_folder(tmp_path, monkeypatch)
    for seed in range(4):
        write_midi(midi / f"{seed}.mid", 150, seed)
    made = three_commands()
    assert len(made) == 2
    for path in made:
        theirs = pretty_midi.PrettyMIDI(str(path)).instruments[0].notes
        assert len(theirs) == len(NoteSeq.from_midi_file(path)) > 0


@pytest.mark.real
@pytest.mark.skipif(not ASAP.is_dir(), reason="no ../shared/data/asap")
def test_three_commands_on_real_performances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    midi = in_a_fresh_folder(tmp_path, monkeypatch)
    for number, path in enumerate(sorted((ASAP / "validation").rglob("*.mid"))[::40]):
        shutil.copy(path, midi / f"{number}.mid")
    assert len(three_commands()) == 2
    assert "5 done, 0 skipped (unchanged), 0 twins, 0 refused" in capsys.readouterr().out


def test_without_files_the_first_two_say_which_command_fetches_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_a_fresh_folder(tmp_path, monkeypatch)
    for command in (lambda: preprocess.main([]), lambda: train.main(["-s", "model.sess"])):
        assert command() == 1
        assert "bash scripts/maestro_scraper.sh midi/maestro" in capsys.readouterr().err
