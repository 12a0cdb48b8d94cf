"""Compatibility with the original: its sessions, data, event encoding and command lines.

Its own files are in tests/data. Other files are written here with torch.save as the original
does, and expected values are computed by plain loops over single events.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pretty_midi
import pytest
import torch
from torch import nn
from torch.nn import functional

import generate
import preprocess
import train
from config import ModelConfig, PreprocessConfig
from corpus.performance import Corpus, Performance
from generation.control import load_control
from generation.engine import Engine
from model import PerformanceRNN, Session
from sequence import CURRENT, LEGACY, PLAIN_LAYOUT, ControlSeq, EventSeq, NoteSeq
from tools.synthetic_data import write_data, write_midi
from training.evaluate import evaluate

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {"init_dim": 4, "event_dim": 240, "control_dim": 24}
SIZES |= {"hidden_dim": 16, "gru_layers": 2, "gru_dropout": 0.3}
SHIFTS = [1.15**k / 65 for k in range(32)]  # seconds
EDGES = [21 + k * 88 / 31 for k in range(31)]  # of the velocity bins
NOTE_OFF, VELOCITY, TIME_SHIFT = 88, 176, 208  # first index of these events


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed to stderr, which must be one line."""
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert len(error) < 600
    return error


# ----------------------------------------------------------------- the original, in plain loops


class OriginalNetwork(nn.Module):
    """The original network, step by step, with the names of its session files."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        super().__init__()
        init, events, control, hidden, layers, dropout = sizes.values()
        self.shape = layers, hidden
        self.inithid_fc = nn.Linear(init, layers * hidden)
        self.event_embedding = nn.Embedding(events, events)
        self.concat_input_fc = nn.Linear(events + 1 + control, hidden)
        self.gru = nn.GRU(hidden, hidden, layers, dropout=dropout)
        self.output_fc = nn.Linear(layers * hidden, events)

    def forward(
        self, init: torch.Tensor, events: torch.Tensor, controls: torch.Tensor | None
    ) -> torch.Tensor:
        layers, width = self.shape
        hidden = torch.tanh(self.inithid_fc(init)).view(layers, len(init), width)
        logits, previous = [], torch.full_like(events[0], 239)
        for step, event in enumerate(events):
            no_control = torch.full((len(init), 1), float(controls is None))
            control = torch.zeros(len(init), 24) if controls is None else controls[step]
            joined = torch.cat([self.event_embedding(previous), no_control, control], dim=1)
            merged = functional.leaky_relu(self.concat_input_fc(joined), 0.1)
            _, hidden = self.gru(merged[None], hidden)
            logits.append(self.output_fc(hidden.permute(1, 0, 2).reshape(len(init), -1)))
            previous = event
        return torch.stack(logits)


@torch.enable_grad()
def write_session(
    path: Path, new: bool = True, old_keys: bool = False
) -> tuple[OriginalNetwork, torch.optim.Adam]:
    """Write a session of the original after two steps; return its network and optimizer.

    new: use today's file format instead of that of 2018; old_keys: use object ids as keys of
    Adam's state, as torch did in 2018.
    """
    torch.manual_seed(3)
    network = OriginalNetwork(SIZES)
    adam = torch.optim.Adam(network.parameters(), lr=0.002)
    for _ in range(2):
        events, controls = torch.randint(0, 240, (6, 3)), torch.rand(6, 3, 24)
        logits = network(torch.randn(3, 4), events, controls)
        adam.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), events.flatten()).backward()
        adam.step()
    state: Any = adam.state_dict()
    if old_keys:
        keys = [140_000_000_000_000 + 8 * number for number in range(len(state["state"]))]
        moments = [entry | {"step": int(entry["step"])} for entry in state["state"].values()]
        group = {"lr": 0.002, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
        group |= {"amsgrad": False, "params": keys}
        state = {"state": dict(zip(keys, moments, strict=True)), "param_groups": [group]}
    record = {
        "model_config": SIZES,
        "model_state": network.state_dict(),
        "model_optimizer_state" if new else "optimizer_state": state,
    }
    torch.save(record, path, _use_new_zipfile_serialization=new)
    return network.eval(), adam


def random_events(seed: int = 0, notes: int = 60) -> list[int]:
    """Return events in the order of the original: velocity, note on, time shifts, note off."""
    rng, events = np.random.default_rng(seed), []
    for _ in range(notes):
        key = int(rng.integers(88))
        events += [VELOCITY + int(rng.integers(32)), key]
        events += [TIME_SHIFT + int(rng.integers(28)), NOTE_OFF + key]
        events += [TIME_SHIFT + int(shift) for shift in rng.integers(0, 32, rng.integers(3))]
    return events


def event_times(events: list[int]) -> list[float]:
    """Return the time of each event in seconds."""
    now, times = 0.0, []
    for event in events:
        times.append(now)
        now += SHIFTS[event - TIME_SHIFT] if event >= TIME_SHIFT else 0.0
    return times


def compressed_controls(events: list[int]) -> np.ndarray:
    """Return uint8 [events, 13] by a double loop over the events."""
    rows, times = [], event_times(events)
    for first, start in enumerate(times):
        counts = [0] * 12
        for event, time in zip(events[first:], times[first:], strict=True):
            if time > start + 2.0:
                break
            if event < NOTE_OFF:
                counts[(21 + event) % 12] += 1
        total = sum(counts)
        density = max(sum(total >= 1 + 3 * k for k in range(12)) - 1, 0)
        shares = [count / total if total else 1 / 12 for count in counts]
        rows.append([density, *(int(255 * share) for share in shares)])
    return np.array(rows, np.uint8)


def control_vectors(rows: np.ndarray) -> np.ndarray:
    """Expand compressed controls as the original does: histograms are not normalized again."""
    return np.array([[*np.eye(12)[row[0]], *(row[1:] / 255)] for row in rows], np.float32)


def write_original_data(path: Path, seed: int = 0, notes: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    events = random_events(seed, notes)
    torch.save((np.array(events, np.uint8), compressed_controls(events)), path)
    return path


def encode_plainly(notes: NoteSeq) -> list[int]:
    """Encode as the original does: each gap between two events is rounded down separately."""
    timed = []
    columns = zip(*(column.tolist() for column in notes.columns), strict=True)
    for start, end, pitch, velocity in sorted(columns, key=lambda note: note[:2]):
        if 21 <= pitch <= 108:
            clipped = min(max(velocity, 21), 108)
            timed.append((start, VELOCITY + sum(edge < clipped for edge in EDGES)))
            timed.append((start, pitch - 21))
            timed.append((end, NOTE_OFF + pitch - 21))
    timed.sort(key=lambda entry: entry[0])
    events, before = [], timed[0][0]
    for time, event in timed:
        gap = time - before
        while gap >= SHIFTS[0]:
            longest = max(k for k in range(32) if SHIFTS[k] <= gap)
            events.append(TIME_SHIFT + longest)
            gap -= SHIFTS[longest]
        events.append(event)
        before = time
    return events


def decode_plainly(events: list[int]) -> list[tuple[float, float, int, int]]:
    """Return (start, end, pitch, velocity) of each note, sorted by (start, pitch)."""
    current, notes = 64, []
    sounding: dict[int, tuple[float, int]] = {}

    def release(key: int, now: float) -> None:
        if key in sounding:
            start, velocity = sounding.pop(key)
            notes.append((start, max(now, start + SHIFTS[0]), 21 + key, velocity))

    times = event_times(events)
    for event, now in zip(events, times, strict=True):
        if event < VELOCITY:
            release(event % 88, now)
        if event < NOTE_OFF:
            sounding[event] = (now, current)
        elif VELOCITY <= event < TIME_SHIFT:
            current = 108 if event == TIME_SHIFT - 1 else round(EDGES[event - VELOCITY])
    end = times[-1] + (SHIFTS[events[-1] - TIME_SHIFT] if events[-1] >= TIME_SHIFT else 0)
    for key in list(sounding):
        release(key, end)
    return sorted(notes, key=lambda note: (note[0], note[2]))


# ---------------------------------------------------------------------------------- sessions


@pytest.mark.parametrize("name", ["original.sess", "original-torch04.sess"])
@torch.no_grad()
def test_original_session_gives_its_logits(
    name: str, original_dir: Path, original_logits: dict[str, torch.Tensor]
) -> None:
    session = Session.load(original_dir / name)
    assert session.encoding == LEGACY.version
    model = session.build_model(CPU).eval()
    events = original_logits["events"].long()
    inputs = torch.cat([torch.full_like(events[:1], 239), events])
    columns = original_logits["columns"].long()
    for key, controls in (("controlled", original_logits["controls"]), ("uncontrolled", None)):
        logits, _ = model(inputs, model.init_hidden(original_logits["init"]), controls)
        expected = original_logits[f"logits_{key}"]
        torch.testing.assert_close(logits[..., columns], expected, atol=1e-3, rtol=0)
    assert session.optimizer_state is not None
    moments = session.optimizer_state["state"]
    assert len(moments) == len(list(model.parameters()))
    for number, entry in moments.items():  # see tests/data/README.md
        assert bool((entry["exp_avg"] == (number + 1) / 2**12).all())
        assert bool((entry["exp_avg_sq"] == (number + 1) / 2**22).all())


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("controlled", [True, False])
@torch.no_grad()
def test_logits_match_a_step_by_step_loop(tmp_path: Path, new: bool, controlled: bool) -> None:
    network, _ = write_session(tmp_path / "old.sess", new)
    session = Session.load(tmp_path / "old.sess")
    model = session.build_model(CPU).eval()
    events, init = torch.randint(0, 240, (30, 3)), torch.randn(3, 4)
    controls = torch.rand(30, 3, 24) if controlled else None
    logits, _ = model(model.shift_right(events), model.init_hidden(init), controls)
    torch.testing.assert_close(logits, network(init, events, controls), atol=1e-5, rtol=0)
    assert session.encoding == LEGACY.version
    assert session.config == ModelConfig(**SIZES)


def test_gpu_session_of_2018_loads_on_the_cpu(tmp_path: Path) -> None:
    network, _ = write_session(tmp_path / "old.sess", new=False)
    content = (tmp_path / "old.sess").read_bytes()
    content = content.replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")
    content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    (tmp_path / "gpu.sess").write_bytes(content)
    state = Session.load(tmp_path / "gpu.sess").state
    assert {weight.device for weight in state.values()} == {CPU}
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("new", "old_keys"), [(True, False), (False, True)])
def test_training_continues_with_the_moments_of_adam(
    folder: Path, new: bool, old_keys: bool
) -> None:
    network, adam = write_session(folder / "old.sess", new, old_keys)
    for number in range(3):
        write_original_data(folder / "data" / f"{number}.data", number)
    argv = ["-s", "old.sess", "-d", "data", "-b", "3", "-w", "20", "--no-enable-logging"]
    argv += ["--device", "cpu", "--precision", "fp32", "--max-steps", "2"]
    trainer, _, _ = train.prepare(train.parse_args(argv))
    expected, found = adam.state_dict()["state"], trainer.optimizer.state_dict()["state"]
    assert set(found) == set(expected)
    for number, entry in expected.items():
        assert int(found[number]["step"]) == 2
        for name in ("exp_avg", "exp_avg_sq"):
            assert entry[name].any()
            assert torch.equal(found[number][name], entry[name])
    (group,) = trainer.optimizer.param_groups  # with today's settings, not those of the file
    assert group["betas"] == (0.9, 0.999)
    assert group["fused"] is True

    assert train.main(argv) == 0
    record = torch.load("old.sess", weights_only=True)
    trained = OriginalNetwork(record["model_config"])
    trained.load_state_dict(record["model_state"])
    change = (trained.output_fc.bias - network.output_fc.bias).detach().abs().max()
    assert 0 < float(change) < 0.01
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.002)
    optimizer.load_state_dict(record["model_optimizer_state"])
    steps = {int(entry["step"]) for entry in optimizer.state_dict()["state"].values()}
    assert steps == {4}
    assert Session.load("old.sess").encoding == LEGACY.version


def test_original_can_load_new_sessions(folder: Path) -> None:
    data = write_data(folder / "data", count=3)
    argv = ["-s", "m.sess", "-d", str(data), "-b", "3", "-w", "20", "--device", "cpu"]
    argv += ["-p", "hidden_dim=16,gru_layers=2,init_dim=4", "--no-enable-logging"]
    argv += ["--precision", "fp32", "--controls", "density,histogram"]
    assert train.main([*argv, "--max-steps", "3"]) == 0
    for name, steps in (("m.sess", 3), ("m.best.sess", 0)):
        record = torch.load(name, weights_only=True)
        assert list(record["model_config"]) == list(SIZES)
        network = OriginalNetwork(record["model_config"]).eval()
        network.load_state_dict(record["model_state"], strict=True)
        assert list(record["model_state"]) == [key for key, _ in network.named_parameters()]
        adam = torch.optim.Adam(network.parameters())
        adam.load_state_dict(record["model_optimizer_state"])
        assert len(adam.state) == (len(list(network.parameters())) if steps else 0)
        for weight, entry in adam.state.items():
            assert entry["exp_avg"].shape == weight.shape
            assert int(entry["step"]) == steps
        model = Session.load(name).build_model(CPU, ema=False).eval()
        events, init = torch.randint(0, 240, (9, 2)), torch.randn(2, 4)
        with torch.no_grad():
            logits, _ = model(model.shift_right(events), model.init_hidden(init))
            torch.testing.assert_close(logits, network(init, events, None), atol=1e-5, rtol=0)


def test_generated_events_decode_as_the_original(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_session(folder / "old.sess")
    events = [176, 40, 208, 128, 191, 43, 220, 131, 207, 45, 239, 239, 133, 190, 47]
    events += [239, *random_events(7)]
    monkeypatch.setattr(Engine, "generate", lambda *_, **__: iter(torch.tensor(events)[:, None]))
    assert generate.main(["-s", "old.sess", "-o", "out", "-b", "1", "-l", str(len(events))]) == 0
    (piano,) = pretty_midi.PrettyMIDI("out/output-000.mid").instruments
    found = sorted((note.start, note.pitch, note.end, note.velocity) for note in piano.notes)
    expected = decode_plainly(events)
    assert len(found) == len(expected)
    assert [round(end - start, 2) for start, end, _, _ in expected[:3]] == [0.02, 0.08, 2.34]
    last = max(end for _, end, _, _ in expected)
    for (start, pitch, end, velocity), note in zip(found, expected, strict=True):
        assert (pitch, velocity) == note[2:]
        assert start == pytest.approx(note[0], abs=0.002)
        ring = 2.0 if note[1] == last else 0.0  # here a note that sounds at the end rings on
        assert end - start == pytest.approx(min(note[1] - note[0], 5.0) + ring, abs=0.003)


@pytest.mark.parametrize("options", [[], ["-c", ";3"], ["-c", "d.data", "-l", "0"], ["-B", "2"]])
def test_original_session_generates(folder: Path, options: list[str]) -> None:
    write_session(folder / "old.sess", new=False)
    write_original_data(folder / "d.data", notes=20)
    length = [] if "-l" in options else ["-l", "40"]
    argv = ["-s", "old.sess", "-o", "out", "-b", "2", "--seed", "1", *length, *options]
    assert generate.main(argv) == 0
    assert len(list(Path("out").iterdir())) == 2


@torch.no_grad()
def test_original_session_is_evaluated_with_controls(folder: Path) -> None:
    network, _ = write_session(folder / "old.sess")
    network.concat_input_fc.weight.data[:, 241:] *= 20  # makes the controls matter
    torch.save({**torch.load("old.sess"), "model_state": network.state_dict()}, "old.sess")
    paths = [write_original_data(folder / f"{number}.data", number, 40) for number in range(2)]
    nats = 0.0
    for number in range(2):
        events = random_events(number, 40)
        controls = torch.from_numpy(control_vectors(compressed_controls(events)))[:, None]
        targets = torch.tensor(events)[:, None]
        logits = network(torch.zeros(1, 4), targets, controls)
        nats += float(functional.cross_entropy(logits[:, 0], targets[:, 0], reduction="sum"))
    model = Session.load("old.sess").build_model(CPU)
    assert evaluate(model, Corpus.load(paths)).nats == pytest.approx(nats, rel=1e-6)


# -------------------------------------------------------------------------- damaged sessions


def nested_value() -> Any:
    """Return a value that would be 3**60 words long if it were printed."""
    value: Any = "word"
    for _ in range(60):
        value = [value, (value,), {"same": value}]
    return value


EMPTY_CONTROLS = torch.zeros(0, 13).byte()
ODD_VALUES = [None, "text", -1, 10**400, math.nan, torch.ones(3), [1], nested_value()]


@pytest.mark.parametrize("value", ODD_VALUES, ids=[f"value{k}" for k in range(len(ODD_VALUES))])
def test_entry_of_a_wrong_type_is_rejected(folder: Path, value: Any) -> None:
    write_session(folder / "old.sess")
    valid = torch.load("old.sess", weights_only=True)
    valid |= {"session": 1, "encoding": 1, "training": {"step": 1}}
    invalid: list[dict[str, Any]] = [{key: value} for key in valid]
    invalid += [{"model_config": valid["model_config"] | {key: value}} for key in SIZES]
    invalid += [{"model_state": valid["model_state"] | {"output_fc.bias": value}}]
    if not isinstance(value, int | float | str):  # else train.py rejects it
        invalid += [{"training": {"step": value}}]
    allowed = {"encoding": int, "model_optimizer_state": type(None)}
    for changes in invalid:
        ((key, entry),) = changes.items()
        if type(entry) is allowed.get(key):
            continue
        torch.save(valid | changes, "odd.sess")
        with pytest.raises(ValueError, match=r"odd\.sess") as caught:
            Session.load("odd.sess")
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 600


def invalid_optimizer_states(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield states of an optimizer that do not fit the network."""
    valid = record["model_optimizer_state"]
    group, state = valid["param_groups"][0], valid["state"]
    yield {"state": state, "param_groups": []}
    yield {"state": state, "param_groups": [{"params": group["params"][:-1]}]}
    yield {"state": list(state.values()), "param_groups": [group]}
    yield {"state": torch.ones(2), "param_groups": [group]}
    yield {"state": state, "param_groups": torch.ones(2)}
    yield {"state": state, "param_groups": [torch.ones(2)]}
    yield {"state": state, "param_groups": [{"params": torch.ones(2)}]}
    yield {"state": state, "param_groups": [{"params": 3}]}
    for entry in (None, 3, [], {}, {"step": 1}, torch.ones(2)):
        yield {"state": {**state, 4: entry}, "param_groups": [group]}
    for name in ("step", "exp_avg"):
        for value in ("x", None, math.nan, 10**400, torch.ones(5)):
            yield {"state": {**state, 4: {**state[4], name: value}}, "param_groups": [group]}
    moment = state[4]["exp_avg"].double()
    changes = [{"step": value} for value in (-5, 10**30, math.inf)]
    changes += [{"exp_avg": moment + 1e300}, {"exp_avg_sq": moment + 1e300}]
    changes += [{"exp_avg_sq": state[4]["exp_avg_sq"] - 1}]
    for change in changes:
        yield {"state": {**state, 4: {**state[4], **change}}, "param_groups": [group]}


def test_optimizer_state_that_does_not_fit_is_rejected(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_session(folder / "old.sess")
    write_original_data(folder / "data" / "a.data")
    record = torch.load("old.sess", weights_only=True)
    argv = ["-s", "odd.sess", "-d", "data", "-b", "2", "-w", "20", "--max-steps", "1"]
    argv += ["--device", "cpu", "--precision", "fp32", "--no-enable-logging"]
    for state in invalid_optimizer_states(record):
        torch.save(record | {"model_optimizer_state": state}, "odd.sess")
        before = Path("odd.sess").read_bytes()
        assert train.main(argv) == 1
        error = error_line(capsys)
        assert "odd.sess" in error
        assert "optimizer" in error
        assert "-r" in error
        assert Path("odd.sess").read_bytes() == before


def test_optimizer_state_that_never_ends_is_rejected(folder: Path) -> None:
    write_session(folder / "old.sess")
    record = torch.load("old.sess", weights_only=True)
    torch.save(record | {"model_optimizer_state": {"state": nested_value()}}, "odd.sess")
    with pytest.raises(ValueError, match="nested too deeply"):
        Session.load("odd.sess")


# -------------------------------------------------------------------------------------- data


def test_original_data_is_loaded(tmp_path: Path) -> None:
    loaded = Performance.load(write_original_data(tmp_path / "a.data"))
    events = random_events()
    controls = compressed_controls(events)
    assert loaded.encoding is LEGACY
    assert loaded.events.tolist() == events
    np.testing.assert_array_equal(loaded.controls, controls)
    assert loaded.notes == 60
    seconds = sum(SHIFTS[event - TIME_SHIFT] for event in events if event >= TIME_SHIFT)
    assert loaded.milliseconds == round(1000 * seconds)
    found = PLAIN_LAYOUT.encode(loaded.compute_controls(LEGACY), len(loaded))
    np.testing.assert_allclose(found, control_vectors(controls), atol=1e-7)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ((np.zeros(3, np.uint8),), "not a .data file"),
        ((np.zeros(3, np.uint8),) * 3, "not a .data file"),
        ((np.zeros(3, np.uint8), 3), "not a .data file"),
        ((torch.zeros(3).byte(), torch.zeros(3, 13).byte()), "not a .data file"),
        ((np.zeros(3, np.uint8), np.zeros((4, 13), np.uint8)), "shapes"),
        ((np.zeros(3, np.uint8), np.zeros((3, 12), np.uint8)), "shapes"),
        ((np.zeros((3, 1), np.uint8), np.zeros((3, 13), np.uint8)), "shapes"),
        ((np.full(3, 240, np.uint8), np.zeros((3, 13), np.uint8)), "event 240"),
        ((np.zeros(3, np.uint8), np.full((3, 13), 12, np.uint8)), "density 12"),
        ((np.zeros(3, np.int64), np.zeros((3, 13), np.uint8)), "damaged"),
        ((np.zeros(3, np.uint8), np.array([{}] * 39).reshape(3, 13)), "damaged"),
        ([np.zeros(3, np.uint8), np.zeros((3, 13), np.uint8)], "not a .data file"),
        ({"encoding": 2, "events": torch.tensor(5).byte(), "controls": EMPTY_CONTROLS}, "shapes"),
        ({"encoding": torch.ones(2)}, "encoding"),
        ({"encoding": nested_value()}, "nested too deeply"),
    ],
    ids=range(15),
)
def test_invalid_data_is_rejected(tmp_path: Path, record: object, message: str) -> None:
    path = tmp_path / "odd.data"
    torch.save(record, path)
    with pytest.raises(ValueError, match=message) as caught:
        Performance.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def train_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert train.main(["-s", "m.sess", "-b", "2", "-w", "20", "--max-steps", "1", *argv]) == 1
    return error_line(capsys)


@pytest.mark.parametrize("validation", [True, False])
def test_mixed_encodings_are_rejected(
    folder: Path, capsys: pytest.CaptureFixture[str], validation: bool
) -> None:
    write_data(folder / "new", count=1)
    old = "old" if validation else "new"
    write_original_data(folder / old / "b.data")
    error = train_error(capsys, "-d", "new", *(["-v", "old"] if validation else []))
    assert "new/0.mid.data" in error
    assert f"{old}/b.data" in error
    assert not Path("m.sess").exists()


@pytest.mark.parametrize("is_original", [True, False])
def test_session_rejects_data_of_other_encoding(
    folder: Path, capsys: pytest.CaptureFixture[str], is_original: bool
) -> None:
    if is_original:
        write_session(folder / "m.sess")
        write_data(folder / "data", count=3)
    else:
        save_current_session("m.sess")
        write_original_data(folder / "data" / "a.data")
    before = Path("m.sess").read_bytes()
    error = train_error(capsys, "-d", "data")
    assert "m.sess" in error
    assert "preprocess.py" in error
    assert ("--original" in error or "--legacy" in error) is is_original
    assert Path("m.sess").read_bytes() == before


def test_stretch_is_rejected_for_original_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_original_data(folder / "data" / "a.data")
    assert "--stretch" in train_error(capsys, "-d", "data", "--stretch", "0.05")


def save_current_session(path: str) -> None:
    sizes = ModelConfig(hidden_dim=8)
    Session(sizes, PerformanceRNN(sizes).state_dict(), CURRENT.version).save(path)


def test_original_data_controls_a_current_session(tmp_path: Path) -> None:
    """The events are decoded by the original rules and encoded by the current ones."""
    schedule = load_control(str(write_original_data(tmp_path / "a.data")), 0, CURRENT)
    notes = NoteSeq(*zip(*decode_plainly(random_events()), strict=True))
    expected = ControlSeq.from_event_seq(EventSeq.from_note_seq(notes, CURRENT)).to_array()
    assert schedule.times is None
    np.testing.assert_allclose(schedule.to_array()[:, 12:].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(schedule.to_array(), expected, atol=1 / 100)


def test_current_data_controls_an_original_session(tmp_path: Path) -> None:
    path = write_data(tmp_path / "data", count=1, notes=50) / "0.mid.data"
    schedule = load_control(str(path), 0, LEGACY)
    notes = EventSeq.from_array(Performance.load(path).events).to_note_seq()
    expected = control_vectors(compressed_controls(encode_plainly(notes)))
    assert schedule.times is None
    np.testing.assert_allclose(schedule.to_array(), expected, atol=1e-7)


@pytest.mark.parametrize("length", ["0", "30"])
@pytest.mark.parametrize("problem", ["no notes", "density", "event"])
def test_invalid_control_file_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str], problem: str, length: str
) -> None:
    save_current_session("m.sess")
    write_session(folder / "old.sess")
    if problem == "no notes":
        silence = np.full(30, 220, np.uint8)
        torch.save((silence, np.zeros((30, 13), np.uint8)), "odd.data")
    else:
        record = torch.load(write_data(folder / "d", count=1) / "0.mid.data", weights_only=True)
        record["controls" if problem == "density" else "events"][:] = 250
        torch.save(record, "odd.data")
    session = "old.sess" if problem == "event" else "m.sess"
    assert generate.main(["-s", session, "-c", "odd.data", "-l", length, "-o", "out"]) == 1
    assert "odd.data: " in error_line(capsys)


# ---------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize("name", ["performance-2.data", "performance-2-2018.data"])
def test_encoding_matches_data_of_the_original(name: str, data_dir: Path) -> None:
    notes = NoteSeq.from_midi_file(data_dir / "performance-2.mid", sustain=False)
    events = EventSeq.from_note_seq(notes, LEGACY)
    expected = Performance.load(data_dir / name)
    assert (len(events), expected.notes) == (1300, 323)
    np.testing.assert_array_equal(events.to_array(), expected.events)
    controls = ControlSeq.from_event_seq(events).to_compressed_array()
    np.testing.assert_array_equal(controls, expected.controls)


def random_notes(seed: int) -> NoteSeq:
    """Return notes on and off the piano, with chords, rests and gaps too short for a shift."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.choice([0.0, 0.004, 0.0153846, 0.1, 0.33, 1.2, 3.9], 200))
    ends = starts + rng.choice([0.001, 0.02, 0.25, 2.0], 200)
    order = rng.permutation(200)
    pitches, velocities = rng.integers(15, 115, 200), rng.integers(1, 128, 200)
    return NoteSeq(starts[order], ends[order], pitches, velocities)


@pytest.mark.parametrize("seed", range(5))
def test_legacy_encoding_matches_a_plain_loop(seed: int) -> None:
    notes = random_notes(seed)
    events = EventSeq.from_note_seq(notes, LEGACY)
    assert events.to_array().tolist() == encode_plainly(notes)
    controls = ControlSeq.from_event_seq(events).to_compressed_array()
    np.testing.assert_array_equal(controls, compressed_controls(events.to_array().tolist()))


@pytest.mark.parametrize("seed", range(5))
def test_legacy_decoding_matches_a_plain_loop(seed: int) -> None:
    events = random_events(seed)
    for order in (events, np.random.default_rng(seed).permutation(events).tolist()):
        expected: dict[tuple[float, int], tuple[float, int]] = {}
        for start, end, pitch, velocity in decode_plainly(order):
            expected[round(start, 6), pitch] = (end, velocity)  # the last one at this time
        decoded = EventSeq.from_array(order, LEGACY).to_note_seq()
        rows = zip(*(column.tolist() for column in decoded.columns), strict=True)
        found = {(round(start, 6), pitch): (end, velocity) for start, end, pitch, velocity in rows}
        assert found.keys() == expected.keys()
        for place, (end, velocity) in found.items():
            assert end == pytest.approx(expected[place][0], abs=1e-6)
            assert velocity == expected[place][1]


@pytest.mark.parametrize("encoding", [LEGACY, CURRENT], ids=["legacy", "current"])
@pytest.mark.parametrize("events", [[], [40], [128], [208]])
def test_controls_of_shortest_sequences(events: list[int], encoding: Any) -> None:
    assert len(ControlSeq.from_event_seq(EventSeq.from_array(events, encoding))) == len(events)


def test_preprocess_original_ignores_the_pedal(folder: Path) -> None:
    path = write_midi(folder / "midi" / "a.mid")
    midi = pretty_midi.PrettyMIDI(str(path))
    midi.instruments[0].control_changes.append(pretty_midi.ControlChange(64, 127, 0.0))
    midi.write(str(path))
    assert preprocess.main(["midi", "data", "1", "--original"]) == 0
    found = Performance.load(folder / "data" / "a.mid.data")
    expected = encode_plainly(NoteSeq.from_midi_file(path, sustain=False))
    assert found.encoding is LEGACY
    assert found.events.tolist() == expected
    np.testing.assert_array_equal(found.controls, compressed_controls(expected))
    assert preprocess.main(["midi", "data", "1"]) == 0
    assert Performance.load(folder / "data" / "a.mid.data").encoding is CURRENT


# ----------------------------------------------------------------------------- command lines


def test_preprocess_arguments() -> None:
    plain = PreprocessConfig(midi_dir="midi", save_dir="save")
    assert preprocess.parse_args(["midi", "save"]) == plain
    assert preprocess.parse_args(["midi", "save", "4"]) == dataclasses.replace(plain, workers=4)


@pytest.mark.parametrize("control", ["d/a.data", "d", ";3", "1,0,1,0,1,1,0,1,0,1,0,1;3"])
def test_controls_of_the_original_are_accepted(folder: Path, control: str) -> None:
    write_original_data(folder / "d" / "a.data", notes=5)
    options, _ = generate.parse_args(["-c", control])
    assert options.control == control


# names and letters of the options; those with None take no value
TRAIN = {
    **{"session s": "x", "dataset d": "x", "saving-interval i": "5", "batch-size b": "7"},
    **{"learning-rate l": "0.01", "window-size w": "30", "stride-size S": "3"},
    **{"control-ratio c": "0.5", "teacher-forcing-ratio T": "0.25", "use-transposition t": None},
    **{"model-params p": "gru_layers=2", "reset-optimizer r": None, "enable-logging L": None},
}
GENERATE = {
    **{"control c": ";3", "batch-size b": "3", "session s": "x", "output-dir o": "x"},
    **{"max-length l": "40", "greedy-ratio g": "0.5", "beam-size B": "4"},
    **{"stochastic-beam-search S": None, "temperature T": "0.7", "init-zero z": None},
}


@pytest.mark.parametrize(("parser", "names"), [(train, TRAIN), (generate, GENERATE)])
def test_options_of_the_original_work(parser: Any, names: dict[str, str | None]) -> None:
    """Also abbreviations that were unique among the original's options."""
    for name_and_letter, value in names.items():
        name, letter = name_and_letter.split()
        prefixes = [name[:size] for size in range(1, len(name) + 1)]
        unique = [p for p in prefixes if sum(other.startswith(p) for other in names) == 1]
        for flag in [f"-{letter}", *(f"--{prefix}" for prefix in unique)]:
            options = parser.parse_args([flag] if value is None else [flag, value])
            options = options[0] if parser is generate else options
            found = getattr(options, name.replace("-", "_"))
            assert found == (True if value is None else type(found)(value))
