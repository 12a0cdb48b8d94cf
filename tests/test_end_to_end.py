"""From MIDI files to music: the three commands in a fresh folder."""

from collections.abc import Callable
from pathlib import Path

import pretty_midi
import pytest

import generate
import preprocess
import train
from sequence import NoteSeq
from tools.synthetic_data import TINY_MODEL, write_midi

TRAINING = "-s model.sess -b 8 -w 50 --max-steps 20 --precision fp32 --no-enable-logging -p".split()
CONTROL = "1,0,1,0,1,1,0,1,0,1,0,1;3"


@pytest.fixture
def midi_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return dataset/midi of a fresh working folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset" / "midi"
    folder.mkdir(parents=True)
    return folder


def test_three_commands_turn_midi_files_into_music(midi_dir: Path) -> None:
    for seed in range(4):
        write_midi(midi_dir / f"{seed}.mid", 150, seed)
    assert preprocess.main([]) == 0
    assert train.main([*TRAINING, TINY_MODEL]) == 0
    assert generate.main(["-s", "model.sess", "-c", CONTROL, "-l", "200", "-b", "2"]) == 0
    paths = sorted(Path("generated").glob("*.mid"))
    assert len(paths) == 2
    for path in paths:
        (instrument,) = pretty_midi.PrettyMIDI(str(path)).instruments
        assert len(instrument.notes) == len(NoteSeq.from_midi_file(path)) > 0


@pytest.mark.parametrize(("main", "argv"), [(preprocess.main, []), (train.main, ["-s", "m.sess"])])
def test_error_without_files_has_the_download_command(
    midi_dir: Path,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], int],
    argv: list[str],
) -> None:
    assert main(argv) == 1
    assert "bash scripts/maestro_scraper.sh midi/maestro" in capsys.readouterr().err
