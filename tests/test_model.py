"""The network against a step-by-step loop, sampling, search, and the session files."""

import itertools
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from config import ModelConfig
from generation.beam_search import beam_search
from generation.engine import Engine, Schedule
from generation.sampling import EventRules, Sampler
from model import PerformanceRNN, Session, pick_device

SIZES = ModelConfig(
    init_dim=4, event_dim=11, control_dim=5, hidden_dim=8, gru_layers=3, gru_dropout=0.3
)
TINY = ModelConfig(init_dim=2, event_dim=4, control_dim=2, hidden_dim=6, gru_layers=1)
GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


def network(sizes: ModelConfig = SIZES, scale: float = 1.0) -> PerformanceRNN:
    torch.manual_seed(1)
    model = PerformanceRNN(sizes).eval()
    for weight in model.parameters():
        weight.data *= scale
    return model


@torch.no_grad()
def by_hand(
    model: PerformanceRNN, events: torch.Tensor, init: torch.Tensor, controls: torch.Tensor | None
) -> torch.Tensor:
    """Logits by the plain loop: one multi-layer nn.GRU, one event at a time, rows one by one."""
    starts = [torch.tanh(model.inithid_fc(vector)) for vector in init]
    shape = (model.config.gru_layers, 1, model.config.hidden_dim)
    return by_hand_from(model, events, [start.view(shape) for start in starts], controls)


@torch.no_grad()
def by_hand_from(
    model: PerformanceRNN,
    events: torch.Tensor,
    starts: list[torch.Tensor],
    controls: torch.Tensor | None,
) -> torch.Tensor:
    """The same from given hidden states [layers, 1, hidden], one for each row."""
    sizes = model.config
    gru = nn.GRU(sizes.hidden_dim, sizes.hidden_dim, sizes.gru_layers)
    gru.load_state_dict(model.gru.state_dict())
    columns = []
    for row, hidden in enumerate(starts):
        heard, logits = sizes.event_dim - 1, []
        for step in range(len(events)):
            control = torch.zeros(sizes.control_dim) if controls is None else controls[step, row]
            flag = torch.tensor([1.0 if controls is None else 0.0])
            joined = torch.cat([model.event_embedding.weight[heard], flag, control])
            merged = nn.functional.leaky_relu(model.concat_input_fc(joined), 0.1)
            _, hidden = gru(merged.view(1, 1, -1), hidden)
            logits.append(model.output_fc(hidden.flatten()))
            heard = int(events[step, row])
        columns.append(torch.stack(logits))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("controlled", [True, False])
def test_whole_sequences_give_the_logits_of_a_step_by_step_loop(controlled: bool) -> None:
    model = network()
    events, init = torch.randint(0, 11, (17, 3)), torch.randn(3, 4)
    controls = torch.rand(17, 3, 5) if controlled else None
    with torch.no_grad():
        logits, _ = model(model.shift_right(events), model.init_hidden_each(init), controls)
        torch.testing.assert_close(
            logits, by_hand(model, events, init, controls), atol=1e-5, rtol=0
        )


@torch.no_grad()
def test_states_of_several_start_vectors_are_dealt_out_as_the_original_deals_them() -> None:
    model = network()
    events, init = torch.randint(0, 11, (17, 3)), torch.randn(3, 4)
    states = [torch.tanh(model.inithid_fc(vector)) for vector in init]
    numbers = [float(number) for state in states for number in state]  # row after row
    width = model.config.hidden_dim
    dealt = [torch.zeros(model.config.gru_layers, 1, width) for _ in init]
    for nth, number in enumerate(numbers):
        layer, row, unit = nth // (3 * width), nth // width % 3, nth % width
        dealt[row][layer, 0, unit] = number
    torch.testing.assert_close(model.init_hidden(init), torch.cat(dealt, dim=1))
    logits, _ = model(model.shift_right(events), model.init_hidden(init))
    expected = by_hand_from(model, events, dealt, None)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    one = init[:1]
    assert torch.equal(model.init_hidden(one), model.init_hidden_each(one)), (
        "alone, a vector has its own"
    )


def test_a_carried_hidden_state_goes_on_where_it_was() -> None:
    model = network()
    events, init, controls = torch.randint(0, 11, (20, 2)), torch.randn(2, 4), torch.rand(20, 2, 5)
    heard = model.shift_right(events)
    with torch.no_grad():
        whole, _ = model(heard, model.init_hidden(init), controls)
        first, hidden = model(heard[:7], model.init_hidden(init), controls[:7])
        second, _ = model(heard[7:], hidden, controls[7:])
    torch.testing.assert_close(torch.cat([first, second]), whole)


def test_a_batch_may_mix_sequences_with_and_without_control() -> None:
    model = network()
    events, init, controls = torch.randint(0, 11, (9, 2)), torch.randn(2, 4), torch.rand(9, 2, 5)
    mask = torch.tensor([True, False])
    with torch.no_grad():
        mixed, _ = model(model.shift_right(events), model.init_hidden(init), controls, mask)
        seen, _ = model(model.shift_right(events), model.init_hidden(init), controls)
        unseen, _ = model(model.shift_right(events), model.init_hidden(init))
    torch.testing.assert_close(mixed[:, 0], seen[:, 0])
    torch.testing.assert_close(mixed[:, 1], unseen[:, 1])


def test_dropout_works_between_layers_and_only_in_training() -> None:
    model = network()
    events, init = torch.randint(0, 11, (9, 2)), torch.randn(2, 4)

    def logits() -> torch.Tensor:
        return model(model.shift_right(events), model.init_hidden(init))[0]

    assert torch.equal(logits(), logits())
    model.train()
    assert not torch.equal(logits(), logits())
    model = network(ModelConfig(4, 11, 5, 8, gru_layers=1, gru_dropout=0.9)).train()
    assert torch.equal(logits(), logits())


def test_parameters_have_the_names_order_and_shapes_of_the_original() -> None:
    names = [name for name, _ in network().named_parameters()]
    gru = [
        f"gru.{kind}_l{layer}"
        for layer in range(3)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    assert names == [
        "inithid_fc.weight",
        "inithid_fc.bias",
        "event_embedding.weight",
        "concat_input_fc.weight",
        "concat_input_fc.bias",
        *gru,
        "output_fc.weight",
        "output_fc.bias",
    ]


@pytest.mark.real
@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the original's files are not here")
def test_weights_of_the_original_give_its_logits() -> None:
    record = torch.load(GOLDEN / "original.sess", weights_only=True)
    golden = {k: torch.from_numpy(v) for k, v in np.load(GOLDEN / "original-logits.npz").items()}
    model = PerformanceRNN(ModelConfig(**record["model_config"])).eval()
    model.load_state_dict(record["model_state"])
    events = golden["events"].long()
    heard = torch.cat([torch.full_like(events[:1], 239), events])
    with torch.no_grad():
        start = model.init_hidden(golden["init"])
        for key, controls in (("controlled", golden["controls"]), ("uncontrolled", None)):
            logits, _ = model(heard, start, controls)
            torch.testing.assert_close(logits, golden[f"logits_{key}"], atol=1e-4, rtol=0)


# --------------------------------------------------------------------------------- sampling


def make_generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + row) for row in range(count)]


def sampled(
    model: PerformanceRNN,
    init: torch.Tensor,
    steps: int,
    seed: int = 0,
    controls: torch.Tensor | None = None,
    rules: EventRules | None = None,
    **how: Any,
) -> torch.Tensor:
    said = Engine(model, exact=True).generate(
        init,
        steps,
        Schedule(controls),
        make_generators(len(init), seed),
        sampling=Sampler(**how),
        rules=rules,
    )
    return torch.stack(list(said))


def test_the_length_is_exact_and_every_event_in_range() -> None:
    said = sampled(network(), torch.zeros(3, 4), 301)
    assert said.shape == (301, 3)
    assert said.min() >= 0
    assert said.max() < 11


def test_the_same_seed_gives_the_same_music_and_another_another() -> None:
    model, init = network(), torch.zeros(2, 4)
    assert torch.equal(sampled(model, init, 50), sampled(model, init, 50))
    assert not torch.equal(sampled(model, init, 50), sampled(model, init, 50, seed=1))


def test_a_sequence_does_not_depend_on_its_neighbours() -> None:
    model, init = network(), torch.randn(5, 4)
    assert torch.equal(sampled(model, init, 60)[:, :2], sampled(model, init[:2], 60))


def test_greedy_ignores_the_seed_and_follows_the_likeliest() -> None:
    model, init = network(), torch.randn(2, 4)
    said = sampled(model, init, 30, greedy_ratio=1.0)
    assert torch.equal(said, sampled(model, init, 30, greedy_ratio=1.0, seed=9))
    assert torch.equal(by_hand(model, said, init, None).argmax(dim=-1), said)


def test_a_low_temperature_is_greedy_even_an_absurd_one() -> None:
    model, init = network(), torch.randn(2, 4)
    greedy = sampled(model, init, 30, greedy_ratio=1.0)
    for temperature in (1e-6, 1e-300):
        assert torch.equal(sampled(model, init, 30, temperature=temperature), greedy)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_samples_follow_the_distribution(temperature: float) -> None:
    model, count = network(TINY, 3.0), 4000
    first = sampled(model, torch.zeros(count, 2), 1, temperature=temperature)[0]
    logits = by_hand(model, torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 2), None)[0, 0]
    expected = count * torch.softmax(logits / temperature, dim=0)
    chi_square = float(((first.bincount(minlength=4) - expected) ** 2 / expected).sum())
    assert chi_square < 16.3  # 0.1 % of true samples, with 3 degrees of freedom


def test_the_control_of_each_step_is_the_one_heard_then() -> None:
    model, init, controls = network(scale=3.0), torch.randn(1, 4), torch.randn(12, 1, 5)
    said = sampled(model, init, 12, controls=controls, greedy_ratio=1.0)
    assert torch.equal(by_hand(model, said, init, controls).argmax(dim=-1), said)
    held = sampled(model, init, 12, controls=controls[:1], greedy_ratio=1.0)
    alike = sampled(model, init, 12, controls=controls[:1].expand(12, 1, 5), greedy_ratio=1.0)
    assert torch.equal(held, alike)
    assert not torch.equal(held, said)


def alternating() -> EventRules:
    """0 and 1 must alternate, 0 first; 2 and 3 are free."""
    opens, closes = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    opens[0, 1] = opens[1, 0] = closes[0, 0] = closes[1, 1] = True
    start = np.array([True, False, True, True])
    return replace(EventRules.none(4), start=start, opens=opens, closes=closes)


@pytest.mark.parametrize("beam", [0, 3])
def test_what_can_not_be_played_is_not(beam: int) -> None:
    model, init = network(TINY), torch.randn(3, 2)
    if beam:
        said = beam_search(
            Engine(model, exact=True),
            init,
            40,
            Schedule(),
            make_generators(3),
            beam_size=beam,
            stochastic=True,
            rules=alternating(),
        )
    else:
        said = sampled(model, init, 200, rules=alternating())
    for row in said.T.tolist():
        steps = [event for event in row if event < 2]
        assert steps == [k % 2 for k in range(len(steps))]
        assert beam or len(steps) > 20


# ------------------------------------------------------------------------------ beam search


def log_probability(model: PerformanceRNN, path: tuple[int, ...], init: torch.Tensor) -> float:
    events = torch.tensor(path)[:, None]
    with torch.no_grad():
        logits = by_hand(model, events, init, None).log_softmax(dim=-1)
    return float(logits.gather(2, events[..., None]).sum())


def test_a_beam_of_one_is_greedy() -> None:
    model, init = network(), torch.randn(3, 4)
    beam = beam_search(
        Engine(model, exact=True), init, 25, Schedule(), make_generators(3), beam_size=1
    )
    assert torch.equal(beam, sampled(model, init, 25, greedy_ratio=1.0))


def test_a_beam_as_wide_as_all_paths_finds_the_likeliest() -> None:
    paths = torch.tensor(list(itertools.product(range(4), repeat=5))).T  # [steps, paths]
    for scale in (2.0, 3.0, 4.0, 5.0):
        model, init = network(TINY, scale), 3 * torch.randn(8, 2)
        found = beam_search(
            Engine(model, exact=True),
            init,
            5,
            Schedule(),
            make_generators(8),
            beam_size=paths.shape[1],
        )
        for row, path in enumerate(found.T.tolist()):
            with torch.no_grad():
                start = model.init_hidden(init[row : row + 1].expand(paths.shape[1], -1))
                logits = model(model.shift_right(paths), start)[0].log_softmax(dim=-1)
            best = logits.gather(2, paths[..., None]).sum(dim=0).argmax()
            assert path == paths[:, best].tolist()


def plain_beam_search(
    model: PerformanceRNN, steps: int, beam_size: int, init: torch.Tensor
) -> list[int]:
    """Beam search that hears every path anew from its first event."""
    paths: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(steps):
        longer = []
        for total, path in paths:
            events = torch.tensor([*path, 0])[:, None]
            scores = by_hand(model, events, init, None)[-1, 0].log_softmax(dim=0)
            longer += [(total + float(score), [*path, k]) for k, score in enumerate(scores)]
        paths = sorted(longer, reverse=True)[:beam_size]
    return paths[0][1]


def test_each_beam_goes_on_from_its_own_past() -> None:
    model, init = network(scale=3.0), 2 * torch.randn(8, 4)
    found = beam_search(
        Engine(model, exact=True), init, 10, Schedule(), make_generators(8), beam_size=3
    )
    plain = [plain_beam_search(model, 10, 3, row[None]) for row in init]
    assert found.T.tolist() == plain


def test_a_stochastic_beam_gives_true_samples() -> None:
    """Its first path has the largest perturbed log-probability: a sample of the model."""
    model, steps, count = network(TINY, 3.0), 2, 3000
    init = torch.zeros(count, 2)
    found = beam_search(
        Engine(model, exact=True),
        init,
        steps,
        Schedule(),
        make_generators(count),
        beam_size=3,
        stochastic=True,
    )
    paths = list(itertools.product(range(4), repeat=steps))
    expected = [math.exp(log_probability(model, path, init[:1])) * count for path in paths]
    drawn = [tuple(path) for path in found.T.tolist()]
    chi_square = sum((drawn.count(p) - e) ** 2 / e for p, e in zip(paths, expected, strict=True))
    assert chi_square < 37.7  # 0.1 % of true samples, with 15 degrees of freedom


# ------------------------------------------------------------------------------ scheduled


def test_full_teacher_forcing_is_the_whole_sequence() -> None:
    model = network()
    events, init, controls = torch.randint(0, 11, (9, 2)), torch.randn(2, 4), torch.rand(9, 2, 5)
    mask = torch.ones(2, dtype=torch.bool)
    whole, _ = model(model.shift_right(events), model.init_hidden(init), controls)
    stepped, _ = model.forward_scheduled(
        model.shift_right(events), model.init_hidden(init), controls, mask, 1.0
    )
    torch.testing.assert_close(stepped, whole)
    free, _ = model.forward_scheduled(
        model.shift_right(events), model.init_hidden(init), controls, mask, 0.0
    )
    torch.testing.assert_close(free[0], whole[0])
    assert not torch.allclose(free[5:], whole[5:])


# --------------------------------------------------------------------------------- sessions


def session(model: PerformanceRNN) -> Session:
    return Session(model.config, model.state_dict(), 2, None, {"step": 3})


def test_a_session_comes_back_as_it_was(tmp_path: Path) -> None:
    model = network()
    session(model).save(tmp_path / "a.sess")
    loaded = Session.load(tmp_path / "a.sess")
    assert (loaded.config, loaded.encoding, loaded.training) == (SIZES, 2, {"step": 3})
    weights = loaded.build_model(torch.device("cpu")).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_session_has_the_keys_of_the_original_at_the_top(tmp_path: Path) -> None:
    session(network()).save(tmp_path / "a.sess")
    record = torch.load(tmp_path / "a.sess", weights_only=True)
    assert {"model_config", "model_state", "model_optimizer_state"} <= set(record)
    assert list(record["model_config"]) == [
        "init_dim",
        "event_dim",
        "control_dim",
        "hidden_dim",
        "gru_layers",
        "gru_dropout",
    ]


def test_half_precision_weights_play_as_float32(tmp_path: Path) -> None:
    model = network()
    half = {name: value.half() for name, value in model.state_dict().items()}
    Session(SIZES, half, 2).save(tmp_path / "half.sess")
    loaded = Session.load(tmp_path / "half.sess").build_model(torch.device("cpu"))
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}


def spoiled(model: PerformanceRNN, **changes: object) -> dict[str, object]:
    record = {
        "session": 1,
        "encoding": 2,
        "model_config": dict(vars(SIZES)),
        "model_state": model.state_dict(),
        "model_optimizer_state": None,
        "training": {},
    }
    return record | changes


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_state": {}}, "weights"),
        ({"model_state": 3}, "weights"),
        ({"model_config": {"hidden_dim": 8}}, "model_config"),
        ({"model_config": {**vars(SIZES), "hidden_dim": "8"}}, "number"),
        ({"model_config": {**vars(SIZES), "hidden_dim": 16000}}, "shape"),
        ({"model_config": {**vars(SIZES), "gru_layers": -1}}, "-1"),
        ({"session": 99}, "99"),
        ({"training": [1]}, "training"),
        ({"carried_state": torch.zeros(8)}, "carried_state"),
    ],
)
def test_a_session_that_does_not_hold_together_is_refused(
    tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    path = tmp_path / "odd.sess"
    torch.save(spoiled(network(), **changes), path)
    with pytest.raises(ValueError, match=word) as refusal:
        Session.load(path)
    assert "odd.sess" in str(refusal.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = network()
    model.output_fc.bias.data[2] = torch.nan
    session(model).save(tmp_path / "a.sess")
    with pytest.raises(ValueError, match=r"output_fc\.bias"):
        Session.load(tmp_path / "a.sess")


class Evil:
    """Would run a command where a file is unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil-was-here",)


def test_a_session_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_config": Evil()}, "evil.sess")
    with pytest.raises(ValueError, match=r"evil\.sess"):
        Session.load("evil.sess")
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_session_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.sess"
    session(network()).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.sess"):
        Session.load(path)


SAVE_AND_DIE = """
import resource, signal, sys, torch
sys.path.insert(0, sys.argv[2])
from config import ModelConfig
from model import PerformanceRNN, Session
sizes = ModelConfig(hidden_dim=64, gru_layers=1)
session = Session(sizes, PerformanceRNN(sizes).state_dict(), 2)
session.save(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the kernel kills at this byte
session.save(sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on file sizes here")
def test_killed_in_the_middle_of_a_save_the_file_on_disk_loads(tmp_path: Path) -> None:
    path, root = tmp_path / "a.sess", Path(__file__).parents[1]
    command = [sys.executable, "-c", SAVE_AND_DIE, str(path), str(root)]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == -signal.SIGXFSZ, done.stderr.decode()
    assert path.stat().st_size > 200_000
    assert Session.load(path).config.hidden_dim == 64


def test_a_device_that_is_not_there_is_said() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda"):
            pick_device("cuda")


def test_an_optimizer_is_not_made_where_new_tensors_have_no_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For torch 2.6 can not import what it needs for that there."""
    places, adam = [], torch.optim.Adam

    def noted(*parameters: object) -> torch.optim.Adam:
        places.append(torch.empty(0).device.type)
        return adam(*parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim, "Adam", noted)
    Session(TINY, PerformanceRNN(TINY).state_dict(), 2).save(tmp_path / "m.sess")
    assert places == ["cpu"]
