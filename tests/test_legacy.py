"""The original's files, both ways: its sessions, its data, its encoding, its command lines.

The files are its own where ../shared/golden is, and else written here as it writes them, with
plain torch.save; what is expected is worked out by slow loops over single events.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import json
import math
import time
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
from config import GenerateConfig, ModelConfig, PreprocessConfig, TrainConfig
from corpus.performance import Corpus, Performance
from generation import control
from generation.engine import Engine
from model import PerformanceRNN, Session
from sequence import CURRENT, LEGACY, ControlSeq, EventSeq, NoteSeq
from tools.synthetic_data import write_data, write_midi
from training.evaluate import evaluate

SHARED = Path(__file__).parents[2] / "shared"
GOLDEN = SHARED / "golden"
REAL = [
    pytest.mark.real,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason="the original's files are not here"),
]
INDEX = json.loads((GOLDEN / "index.json").read_text()) if GOLDEN.is_dir() else []
PIECES = [pytest.param(entry, id=entry["data"], marks=REAL) for entry in INDEX]
PIECES = PIECES or [pytest.param({}, id="missing", marks=REAL)]
SIZES = {"init_dim": 4, "event_dim": 240, "control_dim": 24}
SIZES |= {"hidden_dim": 16, "gru_layers": 2, "gru_dropout": 0.3}  # type: ignore[dict-item]
SHIFTS = [1.15**k / 65 for k in range(32)]
EDGES = [21 + k * 88 / 31 for k in range(31)]


# ---------------------------------------------- the original, as LEGACY.md tells of it


class Theirs(nn.Module):
    """The network, step by step, with the names of its session files."""

    def __init__(
        self,
        init_dim: int,
        event_dim: int,
        control_dim: int,
        hidden_dim: int,
        gru_layers: int,
        gru_dropout: float,
    ) -> None:
        super().__init__()
        self.shape = gru_layers, hidden_dim
        self.inithid_fc = nn.Linear(init_dim, gru_layers * hidden_dim)
        self.event_embedding = nn.Embedding(event_dim, event_dim)
        self.concat_input_fc = nn.Linear(event_dim + 1 + control_dim, hidden_dim)
        self.gru = nn.GRU(hidden_dim, hidden_dim, gru_layers, dropout=gru_dropout)
        self.output_fc = nn.Linear(gru_layers * hidden_dim, event_dim)

    def forward(
        self, init: torch.Tensor, events: torch.Tensor, controls: torch.Tensor | None
    ) -> torch.Tensor:
        layers, width = self.shape
        hidden = torch.tanh(self.inithid_fc(init)).view(layers, len(init), width)
        logits, heard = [], torch.full_like(events[0], 239)
        for step, event in enumerate(events):
            flag = torch.full((len(init), 1), float(controls is None))
            control = torch.zeros(len(init), 24) if controls is None else controls[step]
            joined = torch.cat([self.event_embedding(heard), flag, control], dim=1)
            merged = functional.leaky_relu(self.concat_input_fc(joined), 0.1)
            _, hidden = self.gru(merged[None], hidden)
            logits.append(self.output_fc(hidden.permute(1, 0, 2).reshape(len(init), -1)))
            heard = event
        return torch.stack(logits)


Written = tuple[Theirs, torch.optim.Adam]


def write_session(path: Path, new: bool = True, by_id: bool = False) -> Written:
    """A session of two steps; `new` is today's format, `by_id` says how 2018's Adam counted."""
    content, written = session_of(new, by_id)
    path.write_bytes(content)
    return copy.deepcopy(written)


@functools.cache
@torch.enable_grad()
def session_of(new: bool, by_id: bool) -> tuple[bytes, Written]:
    torch.manual_seed(3)
    network = Theirs(**SIZES)  # type: ignore[arg-type]
    adam = torch.optim.Adam(network.parameters(), lr=0.002)
    for _ in range(2):
        events, controls = torch.randint(0, 240, (6, 3)), torch.rand(6, 3, 24)
        logits = network(torch.randn(3, 4), events, controls)
        adam.zero_grad()
        functional.cross_entropy(logits.flatten(0, 1), events.flatten()).backward()
        adam.step()
    state: Any = adam.state_dict()
    if by_id:
        group = {"lr": 0.002, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
        keys = [140_000_000_000_000 + 8 * number for number in range(len(state["state"]))]
        for known in state["state"].values():
            known["step"] = int(known["step"])
        group |= {"amsgrad": False, "params": keys}
        known = [state["state"][number] for number in range(len(keys))]
        state = {"state": dict(zip(keys, known, strict=True)), "param_groups": [group]}
    record = {
        "model_config": SIZES,
        "model_state": network.state_dict(),
        "model_optimizer_state" if new else "optimizer_state": state,
    }
    content = io.BytesIO()
    torch.save(record, content, _use_new_zipfile_serialization=new)
    return content.getvalue(), (network.eval(), adam)


def music(seed: int = 0, notes: int = 60) -> list[int]:
    """Events such as the original writes: velocity, on, shifts, off."""
    dice, events = np.random.default_rng(seed), []
    for _ in range(notes):
        key = int(dice.integers(88))
        events += [176 + int(dice.integers(32)), key, 208 + int(dice.integers(28)), 88 + key]
        events += [208 + int(shift) for shift in dice.integers(0, 32, dice.integers(3))]
    return events


def times_of(events: list[int]) -> list[float]:
    now, times = 0.0, []
    for event in events:
        times.append(now)
        now += SHIFTS[event - 208] if event >= 208 else 0.0
    return times


def controls_of(events: list[int]) -> np.ndarray:
    """uint8 [events, 13] by a double loop over the events."""
    rows, times = [], times_of(events)
    for first, start in enumerate(times):
        counts = [0] * 12
        for event, at in zip(events[first:], times[first:], strict=True):
            if at > start + 2.0:
                break
            if event < 88:
                counts[(21 + event) % 12] += 1
        total = sum(counts)
        density = max(sum(total >= 1 + 3 * k for k in range(12)) - 1, 0)
        shares = [count / total if total else 1 / 12 for count in counts]
        rows.append([density, *(int(255 * share) for share in shares)])
    return np.array(rows, np.uint8)


def floats_of(rows: np.ndarray) -> np.ndarray:
    """Compressed controls as its network hears them: histograms are not scaled again."""
    return np.array([[*np.eye(12)[row[0]], *(row[1:] / 255)] for row in rows], np.float32)


def write_theirs(path: Path, seed: int = 0, notes: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    events = music(seed, notes)
    torch.save((np.array(events, np.uint8), controls_of(events)), path)
    return path


def encoded_by_hand(notes: NoteSeq) -> list[int]:
    """Sorted single events, and each gap between them rounded down by itself."""
    said = []
    columns = zip(*(column.tolist() for column in notes.columns), strict=True)
    for start, end, pitch, velocity in sorted(columns, key=lambda note: note[:2]):
        if 21 <= pitch <= 108:
            clipped = min(max(velocity, 21), 108)
            said.append((start, 176 + sum(edge < clipped for edge in EDGES)))
            said.append((start, pitch - 21))
            said.append((end, 88 + pitch - 21))
    said.sort(key=lambda event: event[0])
    events, before = [], said[0][0]
    for at, event in said:
        gap = at - before
        while gap >= SHIFTS[0]:
            longest = max(k for k in range(32) if SHIFTS[k] <= gap)
            events.append(208 + longest)
            gap -= SHIFTS[longest]
        events.append(event)
        before = at
    return events


def decoded_by_hand(events: list[int]) -> list[tuple[float, float, int, int]]:
    """(start, end, pitch, velocity), by (start, pitch)."""
    velocity, notes = 64, []
    sounding: dict[int, tuple[float, int]] = {}

    def release(key: int, now: float) -> None:
        if key in sounding:
            start, struck = sounding.pop(key)
            notes.append((start, max(now, start + SHIFTS[0]), 21 + key, struck))

    times = times_of(events)
    for event, now in zip(events, times, strict=True):
        if event < 176:
            release(event % 88, now)
        if event < 88:
            sounding[event] = (now, velocity)
        elif 176 <= event < 208:
            velocity = 108 if event == 207 else round(EDGES[event - 176])
    end = times[-1] + (SHIFTS[events[-1] - 208] if events[-1] >= 208 else 0)
    for key in list(sounding):
        release(key, end)
    return sorted(notes, key=lambda note: (note[0], note[2]))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1, error
    assert len(error) < 600
    return error


# ---------------------------------------------------------------------------------- sessions


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=REAL) for n in ("original.sess", "original-torch04.sess")]
)
@torch.no_grad()
def test_a_session_of_the_original_gives_its_logits(name: str) -> None:
    session = Session.load(GOLDEN / name)
    assert session.encoding == LEGACY.version
    model = session.build_model(torch.device("cpu")).eval()
    golden = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / "original-logits.npz").items()}
    events = golden["events"].long()
    heard = torch.cat([torch.full_like(events[:1], 239), events])
    for key, controls in (("controlled", golden["controls"]), ("uncontrolled", None)):
        logits, _ = model(heard, model.init_hidden(golden["init"]), controls)
        torch.testing.assert_close(logits, golden[f"logits_{key}"], atol=1e-4, rtol=0)
    record = torch.load(GOLDEN / name, weights_only=True)
    theirs = record.get("model_optimizer_state") or record["optimizer_state"]
    ours = session.optimizer_state
    assert ours is not None
    assert len(ours["state"]) == len(list(model.parameters()))
    for number, known in theirs["state"].items():
        assert torch.equal(ours["state"][number]["exp_avg"], known["exp_avg"])


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("controlled", [True, False])
@torch.no_grad()
def test_a_session_in_its_format_gives_the_logits_of_a_step_by_step_loop(
    tmp_path: Path, new: bool, controlled: bool
) -> None:
    network, _ = write_session(tmp_path / "old.sess", new)
    session = Session.load(tmp_path / "old.sess")
    model = session.build_model(torch.device("cpu")).eval()
    events, init = torch.randint(0, 240, (30, 3)), torch.randn(3, 4)
    controls = torch.rand(30, 3, 24) if controlled else None
    logits, _ = model(model.shift_right(events), model.init_hidden(init), controls)
    torch.testing.assert_close(logits, network(init, events, controls), atol=1e-5, rtol=0)
    assert session.encoding == LEGACY.version
    assert dataclasses.asdict(session.config) == SIZES


def test_a_session_saved_on_a_gpu_in_2018_loads_on_the_cpu(tmp_path: Path) -> None:
    network, _ = write_session(tmp_path / "old.sess", new=False)
    content = (tmp_path / "old.sess").read_bytes()
    content = content.replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")
    content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    (tmp_path / "gpu.sess").write_bytes(content)
    state = Session.load(tmp_path / "gpu.sess").state
    assert {weight.device for weight in state.values()} == {torch.device("cpu")}
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("new", "by_id"), [(True, False), (False, True)])
def test_training_goes_on_with_its_moments_and_saves_a_session_that_it_reads(
    here: Path, new: bool, by_id: bool
) -> None:
    network, adam = write_session(here / "old.sess", new, by_id)
    for number in range(3):
        write_theirs(here / "data" / f"{number}.data", number)
    arguments = ["-s", "old.sess", "-d", "data", "-b", "3", "-w", "20", "--no-enable-logging"]
    arguments += ["--device", "cpu", "--max-steps", "2"]
    run = train.open_run(train.parse_args(arguments))
    theirs, ours = adam.state_dict()["state"], run.learner.optimizer.state_dict()["state"]
    assert set(ours) == set(theirs)
    for number, known in theirs.items():
        assert int(ours[number]["step"]) == 2
        for name in ("exp_avg", "exp_avg_sq"):
            assert known[name].any()
            assert torch.equal(ours[number][name], known[name])
    assert train.main(arguments) == 0
    record = torch.load("old.sess", weights_only=True)
    read = Theirs(**record["model_config"])
    read.load_state_dict(record["model_state"])
    moved = (read.output_fc.bias - network.output_fc.bias).detach()
    assert 0 < float(moved.abs().max()) < 0.01
    again = torch.optim.Adam(read.parameters(), lr=0.002)
    again.load_state_dict(record["model_optimizer_state"])
    assert {int(known["step"]) for known in again.state_dict()["state"].values()} == {4}
    assert Session.load("old.sess").encoding == LEGACY.version


def test_its_settings_of_adam_do_not_replace_those_of_the_run(here: Path) -> None:
    write_session(here / "old.sess", new=False, by_id=True)
    write_theirs(here / "data" / "a.data")
    run = train.open_run(train.parse_args(["-s", "old.sess", "-d", "data", "-b", "2", "-w", "20"]))
    (group,) = run.learner.optimizer.param_groups
    assert group["betas"] == (0.9, 0.999)
    assert group["fused"] is True


@pytest.mark.parametrize("steps", ["1", "3"])
def test_a_session_written_here_is_read_by_the_original(here: Path, steps: str) -> None:
    data = write_data(here / "data", count=3)
    arguments = ["-s", "m.sess", "-d", str(data), "-b", "3", "-w", "20", "--device", "cpu"]
    arguments += ["-p", "hidden_dim=16,gru_layers=2,init_dim=4", "--no-enable-logging"]
    assert train.main([*arguments, "--max-steps", steps]) == 0
    for name, made in (("m.sess", int(steps)), ("m.best.sess", 0)):
        record = torch.load(name, weights_only=True)
        assert list(record["model_config"]) == list(SIZES)
        network = Theirs(**record["model_config"]).eval()
        network.load_state_dict(record["model_state"], strict=True)
        assert list(record["model_state"]) == [key for key, _ in network.named_parameters()]
        adam = torch.optim.Adam(network.parameters())
        adam.load_state_dict(record["model_optimizer_state"])
        assert len(adam.state) == (len(list(network.parameters())) if made else 0)
        for weight, known in adam.state.items():
            assert known["exp_avg"].shape == weight.shape
            assert int(known["step"]) == made
        model = Session.load(name).build_model(torch.device("cpu"), ema=False).eval()
        events, init = torch.randint(0, 240, (9, 2)), torch.randn(2, 4)
        with torch.no_grad():
            ours, _ = model(model.shift_right(events), model.init_hidden(init))
            torch.testing.assert_close(ours, network(init, events, None), atol=1e-5, rtol=0)


@pytest.mark.parametrize("new", [True, False])
def test_music_from_its_session_has_its_velocities_and_true_lengths(
    here: Path, new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_session(here / "old.sess", new)
    events = [176, 40, 208, 128, 191, 43, 220, 131, 207, 45, 239, 239, 133, 190, 47]
    events += [239, *music(7)]
    played = torch.tensor(events)[:, None]
    monkeypatch.setattr(Engine, "generate", lambda *_, **__: iter(played))
    assert generate.main(["-s", "old.sess", "-o", "out", "-b", "1", "-l", str(len(events))]) == 0
    (piano,) = pretty_midi.PrettyMIDI("out/output-000.mid").instruments
    found = sorted((note.start, note.pitch, note.end, note.velocity) for note in piano.notes)
    expected = decoded_by_hand(events)
    assert len(found) == len(expected)
    assert [round(end - start, 2) for start, end, _, _ in expected[:3]] == [0.02, 0.08, 2.34]
    for (start, pitch, end, velocity), wanted in zip(found, expected, strict=True):
        assert (pitch, velocity) == wanted[2:]
        assert start == pytest.approx(wanted[0], abs=0.002)
        assert end - start == pytest.approx(min(wanted[1] - wanted[0], 5.0), abs=0.003)


@pytest.mark.parametrize("manner", [[], ["-c", ";3"], ["-c", "d.data", "-l", "0"], ["-B", "2"]])
def test_its_session_plays(here: Path, manner: list[str]) -> None:
    write_session(here / "old.sess", new=False)
    write_theirs(here / "d.data", notes=20)
    length = [] if "-l" in manner else ["-l", "40"]
    arguments = ["-s", "old.sess", "-o", "out", "-b", "2", "--seed", "1", *length, *manner]
    assert generate.main(arguments) == 0
    assert len(list(Path("out").iterdir())) == 2


@torch.no_grad()
def test_its_session_is_judged_by_its_data_with_the_controls_that_it_knows(here: Path) -> None:
    network, _ = write_session(here / "old.sess")
    network.concat_input_fc.weight.data[:, 241:] *= 20  # so that a wrong control is heard
    torch.save({**torch.load("old.sess"), "model_state": network.state_dict()}, "old.sess")
    paths = [write_theirs(here / f"{number}.data", number, 40) for number in range(2)]
    nats = 0.0
    for number in range(2):
        events = music(number, 40)
        controls = torch.from_numpy(floats_of(controls_of(events)))[:, None]
        targets = torch.tensor(events)[:, None]
        logits = network(torch.zeros(1, 4), targets, controls)
        nats += float(functional.cross_entropy(logits[:, 0], targets[:, 0], reduction="sum"))
    model = Session.load("old.sess").build_model(torch.device("cpu"))
    assert evaluate(model, Corpus.load(paths)).nats == pytest.approx(nats, rel=1e-6)


def bomb() -> Any:
    """What would be 3**60 words long if it were told."""
    made: Any = "a word"
    for _ in range(60):
        made = [made, (made,), {"again": made}]
    return made


ODD: list[Any] = [None, "text", -1, 10**400, math.nan, torch.ones(3), [1], bomb()]


@pytest.mark.parametrize("odd", ODD, ids=[f"odd{number}" for number in range(len(ODD))])
def test_a_wrong_type_under_a_right_key_is_one_sentence(here: Path, odd: Any) -> None:
    write_session(here / "old.sess")
    right = torch.load("old.sess", weights_only=True)
    right |= {"session": 1, "encoding": 1, "training": {"step": 1}}
    wrong = [{key: odd} for key in right]
    wrong += [{"model_config": right["model_config"] | {key: odd}} for key in SIZES]
    wrong += [{"model_state": right["model_state"] | {"output_fc.bias": odd}}]
    wrong += [{"training": {"step": odd}}]
    fine = [("encoding", int), ("model_optimizer_state", type(None))]
    begun = time.process_time()
    for changes in wrong:
        torch.save(right | changes, "odd.sess")
        ((key, value),) = changes.items()
        if key == "training" and isinstance(value, dict) and isinstance(odd, int | float | str):
            continue  # train.py refuses it
        if (key, type(odd)) in fine:
            continue
        with pytest.raises(ValueError, match=r"odd\.sess") as refused:
            Session.load("odd.sess")
        assert len(str(refused.value).splitlines()) == 1
        assert len(str(refused.value)) < 600
    assert time.process_time() - begun < 5


def spoil(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """States of an optimizer that are none of this network's."""
    right = record["model_optimizer_state"]
    group, state = right["param_groups"][0], right["state"]
    yield {}
    yield {"state": state, "param_groups": []}
    yield {"state": state, "param_groups": [{"params": group["params"][:-1]}]}
    yield {"state": list(state.values()), "param_groups": [group]}
    for odd in (None, 3, [], {}, {"step": 1}, bomb()):
        yield {"state": {**state, 4: odd}, "param_groups": [group]}
    for name in ("step", "exp_avg", "exp_avg_sq"):
        for odd in ("x", None, math.nan, 10**400, torch.ones(5), [3], bomb()):
            yield {"state": {**state, 4: {**state[4], name: odd}}, "param_groups": [group]}


def test_an_optimizer_state_that_does_not_fit_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_session(here / "old.sess")
    write_theirs(here / "data" / "a.data")
    record = torch.load("old.sess", weights_only=True)
    arguments = ["-s", "odd.sess", "-d", "data", "-b", "2", "-w", "20", "--max-steps", "1"]
    for state in list(spoil(record))[1:]:
        torch.save(record | {"model_optimizer_state": state}, "odd.sess")
        before = Path("odd.sess").read_bytes()
        assert train.main([*arguments, "--device", "cpu", "--no-enable-logging"]) == 1
        told = said(capsys)
        assert "odd.sess: Adam's state does not fit" in told
        assert "-r" in told
        assert Path("odd.sess").read_bytes() == before


# -------------------------------------------------------------------------------------- data


def test_a_tuple_of_arrays_is_read_as_a_performance(tmp_path: Path) -> None:
    made = Performance.load(write_theirs(tmp_path / "a.data"))
    events = music()
    assert made.encoding is LEGACY
    assert made.events.tolist() == events
    np.testing.assert_array_equal(made.controls, controls_of(events))
    assert made.notes == 60
    assert made.milliseconds == round(1000 * sum(SHIFTS[e - 208] for e in events if e >= 208))
    np.testing.assert_allclose(made.convert_controls(LEGACY), floats_of(controls_of(events)), atol=1e-7)


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ((np.zeros(3, np.uint8),), "not a .data file"),
        ((np.zeros(3, np.uint8),) * 3, "not a .data file"),
        ((np.zeros(3, np.uint8), 3), "not a .data file"),
        ((torch.zeros(3).byte(), torch.zeros(3, 13).byte()), "not a .data file"),
        ((np.zeros(3, np.uint8), np.zeros((4, 13), np.uint8)), "shapes"),
        ((np.zeros(3, np.uint8), np.zeros((3, 12), np.uint8)), "shapes"),
        ((np.zeros((3, 1), np.uint8), np.zeros((3, 13), np.uint8)), "shapes"),
        ((np.full(3, 240, np.uint8), np.zeros((3, 13), np.uint8)), "240"),
        ((np.zeros(3, np.uint8), np.full((3, 13), 12, np.uint8)), "density 12"),
        ((np.zeros(3, np.int64), np.zeros((3, 13), np.uint8)), "damaged"),
        ((np.zeros(3, np.uint8), np.array([{}] * 39).reshape(3, 13)), "damaged"),
        ([np.zeros(3, np.uint8), np.zeros((3, 13), np.uint8)], "not a .data file"),
        ({"encoding": 2, "events": torch.tensor(5).byte()}, "events"),
        ({"encoding": torch.ones(2)}, "encoding"),
        ({"encoding": bomb()}, "encoding"),
    ],
    ids=range(15),
)
def test_data_that_does_not_hold_together_is_one_sentence(
    tmp_path: Path, record: object, word: str
) -> None:
    torch.save(record, tmp_path / "odd.data")
    with pytest.raises(ValueError, match=word) as refused:
        Performance.load(tmp_path / "odd.data")
    assert str(refused.value).startswith(f"{tmp_path}/odd.data: ")
    assert len(str(refused.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("among", ["a share", "others"])
def test_data_of_two_encodings_is_refused_with_a_file_of_each(
    here: Path, capsys: pytest.CaptureFixture[str], among: str
) -> None:
    data = write_data(here / "new", count=1)
    theirs = write_theirs(here / ("new" if among == "a share" else "old") / "b.data")
    more = [] if among == "a share" else ["-v", "old"]
    arguments = ["-s", "m.sess", "-d", "new", "-b", "2", "-w", "20", "--max-steps", "1", *more]
    assert train.main(arguments) == 1
    told = said(capsys)
    assert str((data / "0.mid.data").relative_to(here)) in told
    assert str(theirs.relative_to(here)) in told
    assert not Path("m.sess").exists()


@pytest.mark.parametrize("theirs", [True, False])
def test_a_session_and_data_of_different_encodings_are_refused_with_what_to_do(
    here: Path, capsys: pytest.CaptureFixture[str], theirs: bool
) -> None:
    if theirs:
        write_session(here / "m.sess")
        write_data(here / "data", count=3)
    else:
        torch.manual_seed(0)
        Session(ModelConfig(hidden_dim=8), _weights(8), CURRENT.version).save("m.sess")
        write_theirs(here / "data" / "a.data")
    before = Path("m.sess").read_bytes()
    assert (
        train.main(["-s", "m.sess", "-d", "data", "-b", "2", "-w", "20", "--max-steps", "1"]) == 1
    )
    told = said(capsys)
    assert "m.sess" in told
    assert ("preprocess.py --original" if theirs else "preprocess.py makes") in told
    assert Path("m.sess").read_bytes() == before


def _weights(width: int) -> dict[str, torch.Tensor]:
    return PerformanceRNN(ModelConfig(hidden_dim=width)).state_dict()


def test_its_data_controls_a_session_of_today(here: Path) -> None:
    """It is decoded, with its clock, and encoded anew."""
    asked = control.read(str(write_theirs(here / "a.data")), 0, CURRENT)
    controls = asked.to_array()
    notes = NoteSeq(*zip(*decoded_by_hand(music()), strict=True))
    anew = ControlSeq.from_event_seq(EventSeq.from_note_seq(notes, CURRENT))
    assert asked.times is None
    np.testing.assert_allclose(controls[:, 12:].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(controls, anew.to_array(), atol=1 / 100)


def test_data_of_today_controls_a_session_of_the_original(here: Path) -> None:
    path = write_data(here / "d", count=1, notes=50) / "0.mid.data"
    asked = control.read(str(path), 0, LEGACY)
    controls = asked.to_array()
    notes = EventSeq.from_array(Performance.load(path).events).to_note_seq()
    assert asked.times is None
    np.testing.assert_allclose(controls, floats_of(controls_of(encoded_by_hand(notes))), atol=1e-7)


@pytest.mark.parametrize("length", ["0", "30"])
@pytest.mark.parametrize("wrong", ["no notes", "density", "event"])
def test_a_control_file_that_can_not_be_used_is_one_sentence_with_its_path(
    here: Path, capsys: pytest.CaptureFixture[str], wrong: str, length: str
) -> None:
    torch.manual_seed(0)
    Session(ModelConfig(hidden_dim=8), _weights(8), CURRENT.version).save("m.sess")
    write_session(here / "old.sess")
    silence, controls = np.full(30, 220, np.uint8), np.zeros((30, 13), np.uint8)
    if wrong == "no notes":
        torch.save((silence, controls), "odd.data")
        session = "m.sess"
    else:
        session = "m.sess" if wrong == "density" else "old.sess"
        record = torch.load(write_data(here / "d", count=1) / "0.mid.data", weights_only=True)
        record["controls" if wrong == "density" else "events"][:] = 250
        torch.save(record, "odd.data")
    assert generate.main(["-s", session, "-c", "odd.data", "-l", length, "-o", "out"]) == 1
    assert "odd.data: " in said(capsys)


# ---------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize("entry", PIECES)
def test_real_performances_are_encoded_as_the_original_did(entry: dict[str, Any]) -> None:
    midi = SHARED / entry["midi"]
    if not midi.exists():
        pytest.skip("no ../shared/data/asap")
    notes = NoteSeq.from_midi_file(midi, sustain=False)
    events = EventSeq.from_note_seq(notes, LEGACY)
    made = Performance.load(GOLDEN / entry["data"])
    assert len(events) == entry["events"]
    assert made.notes == entry["notes"]
    np.testing.assert_array_equal(events.to_array(), made.events)
    controls = ControlSeq.from_event_seq(events).to_compressed_array()
    np.testing.assert_array_equal(controls, made.controls)


def random_notes(seed: int) -> NoteSeq:
    """Notes on and off the piano, chords, rests and gaps too short for a shift."""
    dice = np.random.default_rng(seed)
    starts = np.cumsum(dice.choice([0.0, 0.004, 0.0153846, 0.1, 0.33, 1.2, 3.9], 200))
    ends = starts + dice.choice([0.001, 0.02, 0.25, 2.0], 200)
    order = dice.permutation(200)
    pitches, velocities = dice.integers(15, 115, 200), dice.integers(1, 128, 200)
    return NoteSeq(starts[order], ends[order], pitches, velocities)


@pytest.mark.parametrize("seed", range(5))
def test_the_legacy_encoding_is_the_plain_loop(seed: int) -> None:
    notes = random_notes(seed)
    events = EventSeq.from_note_seq(notes, LEGACY)
    assert events.to_array().tolist() == encoded_by_hand(notes)
    controls = ControlSeq.from_event_seq(events).to_compressed_array()
    np.testing.assert_array_equal(controls, controls_of(events.to_array().tolist()))


@pytest.mark.parametrize("seed", range(5))
def test_legacy_decoding_is_the_plain_loop_for_any_events(seed: int) -> None:
    dice = np.random.default_rng(seed)
    for events in (music(seed), dice.permutation(music(seed)).tolist()):
        found = EventSeq.from_array(events, LEGACY).to_note_seq()
        expected: dict[tuple[float, int], tuple[float, int]] = {}
        for start, end, pitch, velocity in decoded_by_hand(events):
            expected[round(start, 6), pitch] = (end, velocity)  # of two at a time, the last
        rows = zip(*(column.tolist() for column in found.columns), strict=True)
        told = {(round(start, 6), pitch): (end, velocity) for start, end, pitch, velocity in rows}
        assert told.keys() == expected.keys()
        for place, (end, velocity) in told.items():
            assert end == pytest.approx(expected[place][0], abs=1e-6)
            assert velocity == expected[place][1]


@pytest.mark.parametrize("version", [1, 2])
def test_music_of_no_time_shift_and_no_music_have_controls(version: int) -> None:
    for events in ([], [40], [128], [208]):
        encoding = {1: LEGACY, 2: CURRENT}[version]
        controls = ControlSeq.from_event_seq(EventSeq.from_array(events, encoding))
        assert len(controls) == len(events)


def test_preprocessing_the_original_way_makes_data_for_its_sessions(here: Path) -> None:
    path = write_midi(here / "midi" / "a.mid")
    midi = pretty_midi.PrettyMIDI(str(path))
    midi.instruments[0].control_changes.append(pretty_midi.ControlChange(64, 127, 0.0))
    midi.write(str(path))
    assert preprocess.main(["midi", "data", "1", "--original"]) == 0
    made = Performance.load(here / "data" / "a.mid.data")
    events = encoded_by_hand(NoteSeq.from_midi_file(path, sustain=False))
    assert made.encoding is LEGACY
    assert made.events.tolist() == events
    np.testing.assert_array_equal(made.controls, controls_of(events))
    assert preprocess.main(["midi", "data", "1"]) == 0
    assert Performance.load(here / "data" / "a.mid.data").encoding is CURRENT


# ----------------------------------------------------------------------------- command lines


def test_the_flags_of_train_mean_what_they_meant() -> None:
    line = "-s a.sess -d folder -i 5 -b 7 -l 0.01 -w 30 -S 3 -c 0.5 -T 0.25 -t -r -L"
    options = train.parse_args([*line.split(), "-p", "hidden_dim=256,gru_layers=2"])
    wanted = TrainConfig(
        session="a.sess",
        dataset="folder",
        saving_interval=5.0,
        batch_size=7,
        learning_rate=0.01,
        window_size=30,
        stride_size=3,
        control_ratio=0.5,
        teacher_forcing_ratio=0.25,
        use_transposition=True,
        model_params="hidden_dim=256,gru_layers=2",
        reset_optimizer=True,
        enable_logging=True,
    )
    assert options == wanted
    plain = train.parse_args([])
    assert not plain.use_transposition
    assert not plain.reset_optimizer


def test_the_flags_of_generate_mean_what_they_meant(here: Path) -> None:
    write_theirs(here / "d" / "a.data", notes=5)
    line = "-b 3 -s a.sess -o out -l 0 -g 0.5 -B 4 -S -T 0.7 -z"
    for text in ("d/a.data", "d"):
        options = generate.parse_args([*line.split(), "-c", text])
        wanted = GenerateConfig(
            control=text,
            batch_size=3,
            session="a.sess",
            output_dir="out",
            max_length=0,
            greedy_ratio=0.5,
            beam_size=4,
            stochastic_beam_search=True,
            temperature=0.7,
            init_zero=True,
        )
        assert options == wanted
    for text in (";3", "1,0,1,0,1,1,0,1,0,1,0,1;3", "0,0,0,0,0,0,0,0,0,0,0,0;11"):
        assert generate.parse_args(["-c", text]).control == text


def test_the_arguments_of_preprocess_mean_what_they_meant() -> None:
    plain = PreprocessConfig(midi_dir="midi", save_dir="save")
    assert preprocess.parse_args(["midi", "save"]) == plain
    assert preprocess.parse_args(["midi", "save", "4"]) == dataclasses.replace(plain, workers=4)
    assert not plain.legacy


TRAIN = "session dataset saving-interval batch-size learning-rate window-size stride-size"
TRAIN += " control-ratio teacher-forcing-ratio use-transposition model-params reset-optimizer"
TRAIN += " enable-logging"
GENERATE = "control batch-size session output-dir max-length greedy-ratio beam-size"
GENERATE += " stochastic-beam-search temperature init-zero"
VALUES = {"session": "x", "dataset": "x", "output-dir": "x", "model-params": "", "control": ";3"}
SWITCHES = {"use-transposition", "reset-optimizer", "enable-logging"}
SWITCHES |= {"stochastic-beam-search", "init-zero"}


@pytest.mark.parametrize(("script", "names"), [(train, TRAIN), (generate, GENERATE)])
def test_a_long_option_may_be_abbreviated_as_far_as_before(script: Any, names: str) -> None:
    for name in names.split():
        for size in range(1, len(name) + 1):
            if sum(other.startswith(name[:size]) for other in names.split()) > 1:
                continue
            value = [] if name in SWITCHES else [VALUES.get(name, "1")]
            options = script.parse_args([f"--{name[:size]}", *value])
            found = getattr(options, name.replace("-", "_"))
            assert found == (True if name in SWITCHES else type(found)(value[0]))
