"""The session pretrained.sess, and the samples in docs/ that it generated."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import generate
from analysis.memorization import INDEX_BYTES
from config import GenerateConfig, ModelConfig
from generation.control import parse_control
from generation.engine import Engine
from generation.int8 import find_int8_products
from generation.pipeline import (
    GenerationJob,
    SampleBuffer,
    build_event_constraints,
    build_inputs,
    generate_events,
)
from generation.sampling import Sampler
from midi.harmony import parse_scale_or_chord
from midi.metadata import decode_metadata
from midi.notes import read_midi_texts
from model import PerformanceRNN, Session
from sequence import CURRENT, NoteSeq

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
PATH = ROOT / GenerateConfig().session
SAMPLES = sorted(ROOT.glob("docs/*.mid"))
ALL_SAMPLES = sorted(p for p in ROOT.glob("docs/**/*.mid") if p.parent.name != "inputs")


@pytest.fixture(scope="module")
def model() -> PerformanceRNN:
    return Session.load(PATH).build_model(CPU).eval()


def test_session_holds_the_network_only() -> None:
    session = Session.load(PATH)
    weights = sum(weight.numel() for weight in session.state.values())
    assert PATH.stat().st_size < 2 * weights + INDEX_BYTES + 200_000  # with names and metadata
    assert session.encoding == CURRENT.version
    assert session.optimizer_state is None
    assert {weight.dtype for weight in session.state.values()} == {torch.float16}
    assert session.config.hidden_dim == ModelConfig().hidden_dim


def test_samples_are_in_the_requested_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In C major over 90% of the notes are white keys; with random pitches it would be 58%."""
    monkeypatch.chdir(ROOT)
    argv = ["-c", "C major;3", "-l", "400", "-b", "2", "--seed", "1", "-o", str(tmp_path)]
    assert generate.main(argv) == 0
    for path in sorted(tmp_path.iterdir()):
        pitches = NoteSeq.from_midi_file(path).pitches
        assert np.isin(pitches % 12, [0, 2, 4, 5, 7, 9, 11]).mean() > 0.9
        assert len(pitches) > 50


def make_job(model: PerformanceRNN, control: str, **fields: Any) -> GenerationJob:
    """Return a job with the constraints and the temperature of generate.py."""
    constraints, sampler = build_event_constraints(CURRENT, 12, 4.0), Sampler(0.95)
    return GenerationJob(
        model,
        CURRENT,
        constraints=constraints,
        method=sampler,
        control=parse_control(control),
        **fields,
    )


def measure_density_error(model: PerformanceRNN, steering: bool) -> float:
    """Return the largest error of eight samples at density 9, 28-30 notes per 2 s."""
    job = make_job(model, "C major;9", seed=3, steps=900, batch_size=8, steering=steering)
    buffer = SampleBuffer(8, CURRENT)
    for events in generate_events(job):
        buffer.add(events)
    notes = np.array([buffer.get(number).note_ons for number in range(8)])
    return float(np.abs(2000 * notes / buffer.elapsed - 29).max())


def test_steering_keeps_the_density(model: PerformanceRNN) -> None:
    steered = measure_density_error(model, steering=True)
    assert steered < 1 < measure_density_error(model, steering=False)


def test_chords_come_on_time(model: PerformanceRNN) -> None:
    """If the network gets the chords as written, not averaged, 73% of the notes are in them."""
    weights = np.array([parse_scale_or_chord(chord) > 0 for chord in ("Am", "F", "C", "G")])
    job = make_job(model, "Am F C G; 5/s", seed=2, steps=900, batch_size=8)
    buffer, is_in_chord = SampleBuffer(8, CURRENT), []
    for events in generate_events(job):
        buffer.add(events)
    for number in range(8):
        events = buffer.get(number)
        note_ons = np.flatnonzero(events.to_array() < 88)
        bars = events.times[note_ons] // 2000 % 4
        pitches = events.to_array()[note_ons].astype(int) + 21
        is_in_chord.append(weights[bars, pitches % 12])
    assert np.concatenate(is_in_chord).mean() > 0.88


@pytest.mark.skipif(find_int8_products() is None, reason="torch has no 8-bit products on this CPU")
def test_int8_distribution_is_close_to_float32(model: PerformanceRNN) -> None:
    job = make_job(model, "C major;3", seed=0, steps=150, batch_size=4)
    engines, inputs = (Engine(model, exact=True), Engine(model)), build_inputs(job)
    events = list(engines[0].generate(inputs, job.steps))
    probabilities = []
    with torch.inference_mode():
        for engine in engines:
            state, _, _ = engine.prime(inputs)
            logits = torch.stack([engine.step(state, event) for event in events])
            probabilities.append(logits.softmax(dim=-1))
    variation = (probabilities[0] - probabilities[1]).abs().sum(dim=-1) / 2
    assert 0 < float(variation.mean()) < 0.01
    assert float(variation.max()) < 0.03


def read_argv(sample: Path) -> list[str]:
    """Return the arguments of generate.py that are recorded in a MIDI file."""
    metadata, _ = decode_metadata(read_midi_texts(sample.read_bytes()))
    return shlex.split(metadata["made with"])[2:]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_readme_has_the_command_of_each_sample(sample: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    lines = [line for line in readme.splitlines() if f"docs/{sample.name})" in line]
    commands = [shlex.split(part)[2:] for line in lines for part in line.split("`")[1::2]]
    recorded = []
    for command in commands:
        options, _ = generate.parse_args(command)
        recorded.append(generate.build_reproduction_argv(options, options.seed or 0, 0))
    assert read_argv(sample) in recorded


@pytest.mark.slow
@pytest.mark.parametrize("sample", ALL_SAMPLES, ids=lambda path: path.stem)
def test_samples_are_generated_again_byte_for_byte(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert generate.main([*read_argv(sample), "-o", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.mid")
    assert path.read_bytes() == sample.read_bytes()
