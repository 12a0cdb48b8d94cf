"""The session in the box, and the samples that it made."""

import shlex
from pathlib import Path

import pytest
import torch

import generate
from config import GenerateConfig, ModelConfig
from midi.metadata import decode_metadata
from midi.notes import read_midi_texts
from model import Session
from sequence import CURRENT, NoteSeq

ROOT = Path(__file__).parents[1]
PATH = ROOT / GenerateConfig().session
SAMPLES = sorted(ROOT.glob("docs/*.mid"))


def test_it_is_small_and_holds_the_network_alone() -> None:
    assert PATH.stat().st_size < 12_000_000
    session = Session.load(PATH)
    assert session.encoding == CURRENT.version
    assert session.optimizer_state is None
    assert {weight.dtype for weight in session.state.values()} == {torch.float16}
    assert session.config.hidden_dim == ModelConfig().hidden_dim


def test_it_plays_in_the_scale_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In C major at least nine notes of ten are white keys; of all keys, 7 of 12 are."""
    monkeypatch.chdir(ROOT)
    asked = ["-c", "C major;3", "-l", "400", "-b", "2", "--seed", "1", "-o", str(tmp_path)]
    assert generate.main(asked) == 0
    for path in sorted(tmp_path.iterdir()):
        pitches = NoteSeq.from_midi_file(path).pitches
        assert sum(pitch % 12 in (0, 2, 4, 5, 7, 9, 11) for pitch in pitches) > 0.9 * len(pitches)
        assert len(pitches) > 50


def command_of(sample: Path) -> list[str]:
    """The arguments that the file says it was made with."""
    said, _ = decode_metadata(read_midi_texts(sample.read_bytes()))
    return shlex.split(said["made with"])[2:]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_the_readme_tells_how_each_sample_is_made(sample: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    lines = [line for line in readme.splitlines() if f"docs/{sample.name})" in line]
    told = [shlex.split(part)[2:] for line in lines for part in line.split("`")[1::2]]
    assert command_of(sample) in [generate_alone(words) for words in told]


def generate_alone(words: list[str]) -> list[str]:
    """Arguments as a file keeps them, without those that change no note."""
    options = generate.parse_args(words)
    return generate.reproduction_argv(options, options.seed or 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_the_samples_come_again_byte_for_byte(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert generate.main([*command_of(sample), "-o", str(tmp_path)]) == 0
    (made,) = tmp_path.glob("*.mid")
    assert made.read_bytes() == sample.read_bytes()
