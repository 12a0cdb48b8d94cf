"""train.py --tune: from a folder of MIDI files to music with one command."""

import dataclasses
import json
from pathlib import Path

import pretty_midi
import pytest
import torch

import preprocess
import train
from config import TrainConfig
from model import PerformanceRNN, Session
from tools.synthetic_data import TINY_SIZES, write_midi
from training import tuning
from training.trainer import Schedule, StepOptions, Trainer

ARGV = ["-s", "mine.sess", "--tune", "songs"]
SMALL = ["--init-from", "tiny.sess", "-b", "4", "-w", "20", "--precision", "fp32"]


@pytest.fixture
def songs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of MIDI files in a new working folder, which also has tiny.sess."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuning, "SECONDS", 3)
    network = PerformanceRNN(TINY_SIZES).init_weights()
    Session(TINY_SIZES, network.state_dict(), 2).save("tiny.sess")
    for seed in range(4):
        write_midi(tmp_path / "songs" / f"{seed}.mid", seed=seed)
    return tmp_path / "songs"


def test_tuning_converts_trains_and_generates(
    songs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*ARGV, *SMALL, "--max-steps", "3"]) == 0
    output = capsys.readouterr().out
    assert "before training | val " in output
    assert "nats/event\n" in output.partition("\nbefore ")[2]
    assert len(list(Path("mine-data").glob("*.data"))) == 4
    assert len(list(Path("mine-music").glob("*.mid"))) == 3
    training = Session.load("mine.best.sess").training
    assert training["init_from"] == "tiny.sess"
    assert str(training["val_data"]).endswith(" 8000")  # events; others are no comparison
    record = Path("runs/mine/metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(record)["step"] == 0


def run_in_process(name: str, arguments: list[str], quiet: bool) -> None:
    """Run preprocess.py in this process, which is faster, and generate nothing."""
    if name == "preprocess.py":
        assert preprocess.main([*arguments[:2], "1", *arguments[2:]]) == 0


def test_tuning_again_keeps_the_session_and_takes_new_songs(
    songs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "run_script", run_in_process)
    argv = [*ARGV, *SMALL, "--max-steps", "2"]
    assert train.main(argv) == 0
    before = Path("mine.sess").read_bytes()
    assert train.main(argv) == 0
    assert Path("mine.sess").read_bytes() == before
    assert "training is finished" in capsys.readouterr().out
    write_midi(songs / "new.mid", seed=9)
    (songs / "0.mid").unlink()
    assert train.main([*argv, "--max-steps", "3"]) == 0
    assert Session.load("mine.sess").training["step"] == 3
    names = sorted(path.stem for path in Path("mine-data").glob("*.data"))
    assert [name.partition(".")[0] for name in names] == ["1", "2", "3", "new"]


def test_other_performances_of_a_piece_are_held_out_together(
    songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "run_script", run_in_process)
    for path in sorted(songs.iterdir()):
        path.unlink()
    for seed in range(3):
        midi = pretty_midi.PrettyMIDI(str(write_midi(songs / f"{seed}.mid", 200, seed)))
        for number in range(3):  # in other keys, with other velocities
            for note in midi.instruments[0].notes:
                note.pitch, note.velocity = note.pitch + 1, note.velocity + 2
            midi.write(str(songs / f"{seed}-{number}.mid"))
    options = train.parse_args([*ARGV, *SMALL])
    tuning.convert_songs(songs, Path("mine.sess"), quiet=True)
    data = tuning.get_data_dir(Path("mine.sess"))
    paths = train.find_data_files(str(data))
    pieces = train.find_tuning_pieces(paths)
    assert pieces is not None
    found = [{paths[n].name[0] for n in piece} for piece in pieces]
    assert sorted(map(sorted, found)) == [["0"], ["1"], ["2"]]
    train_data, val_data = train.load_data(dataclasses.replace(options, dataset=str(data)))
    assert (len(train_data), len(val_data)) == (8, 4)
    assert train.find_tuning_pieces([p for p in paths if p.name[0] == "0"]) is None


def test_tuning_goes_back_if_it_gets_worse(
    songs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "run_script", run_in_process)
    argv = [*ARGV, *SMALL, "--max-steps", "4", "-l", "1", "--validation-interval", "0.000001"]
    assert train.main(argv) == 0
    output = capsys.readouterr().out
    assert "back to the best weights, learning rate at most 3.3e-01" in output
    session, best = Session.load("mine.sess"), Session.load("mine.best.sess")
    assert session.training["lr_scale"] < 0.4
    assert best.training["best"] <= best.training["before"]


def test_going_back_restores_weights_and_lowers_the_learning_rate() -> None:
    trainer = Trainer(PerformanceRNN(TINY_SIZES).init_weights(), StepOptions())
    earlier = {name: weight + 1 for name, weight in trainer.model.state_dict().items()}
    schedule = Schedule(0.3)
    trainer.go_back(earlier)
    assert schedule.compute_learning_rate(trainer.state) == pytest.approx(0.1)
    for model in (trainer.model, trainer.ema):
        assert all(torch.equal(w, earlier[name]) for name, w in model.state_dict().items())
    for _ in range(9):
        trainer.go_back(earlier)
    assert schedule.compute_learning_rate(trainer.state) == pytest.approx(0.003)  # not zero


def test_folder_without_songs_leaves_no_session(
    songs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["-s", "mine.sess", "--tune", "nothing", *SMALL]) == 1
    assert "preprocess.py nothing mine-data" in capsys.readouterr().err
    assert not list(Path().glob("mine*.sess"))


def test_defaults_are_for_fine_tuning_the_shipped_session() -> None:
    options = train.parse_args(ARGV)
    assert Path(options.init_from).samefile(Path(train.__file__).parent / "pretrained.sess")
    assert (options.max_minutes, options.learning_rate, options.patience) == (4, 5e-4, 5)
    assert options.use_transposition
    assert TrainConfig().max_minutes is None
    assert train.parse_args([*ARGV, "--max-minutes", "9"]).max_minutes == 9


@pytest.mark.parametrize("other", [["-d", "x"], ["-v", "x"], ["--evaluate"], ["--export", "x"]])
def test_options_that_do_not_go_together(
    other: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        train.parse_args([*ARGV, *other])
    assert "not together with --tune" in capsys.readouterr().err
