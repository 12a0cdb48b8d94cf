"""The network against a plain loop over single events, and session files."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from config import ModelConfig
from model import PerformanceRNN, Session, pick_device
from tests.reference_network import SIZES, make_model, reference_logits, reference_logits_from

TINY_SIZES = ModelConfig(init_dim=2, event_dim=4, control_dim=2, hidden_dim=6, gru_layers=1)


def random_inputs(steps: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return events [steps, batch], start vectors [batch, 4] and controls [steps, batch, 5]."""
    events = torch.randint(0, SIZES.event_dim, (steps, batch))
    return events, torch.randn(batch, SIZES.init_dim), torch.rand(steps, batch, SIZES.control_dim)


# --------------------------------------------------------------------------------- network


@pytest.mark.parametrize("with_control", [True, False])
@torch.no_grad()
def test_forward_matches_step_by_step_loop(with_control: bool) -> None:
    model = make_model()
    events, init, controls = random_inputs(17, 3)
    control = controls if with_control else None
    logits, _ = model(model.shift_right(events), model.init_hidden_each(init), control)
    expected = reference_logits(model, events, init, control)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_init_hidden_of_a_batch_is_reshaped_as_in_the_original() -> None:
    model = make_model()
    events, init, _ = random_inputs(17, 3)
    width, layers = model.config.hidden_dim, model.config.gru_layers
    numbers = [float(x) for vector in init for x in torch.tanh(model.inithid_fc(vector))]
    expected = [torch.zeros(layers, 1, width) for _ in init]
    for index, number in enumerate(numbers):
        layer, column, unit = index // (3 * width), index // width % 3, index % width
        expected[column][layer, 0, unit] = number
    torch.testing.assert_close(model.init_hidden(init), torch.cat(expected, dim=1))
    logits, _ = model(model.shift_right(events), model.init_hidden(init))
    reference = reference_logits_from(model, events, expected, None)
    torch.testing.assert_close(logits, reference, atol=1e-5, rtol=0)


def test_init_hidden_of_one_vector_does_not_depend_on_the_batch() -> None:
    model, init = make_model(), torch.randn(3, 4)
    assert torch.equal(model.init_hidden_each(init)[:, :1], model.init_hidden(init[:1]))


@torch.no_grad()
def test_hidden_state_continues_a_sequence() -> None:
    model = make_model()
    events, init, controls = random_inputs(20, 2)
    inputs = model.shift_right(events)
    whole, _ = model(inputs, model.init_hidden(init), controls)
    first, hidden = model(inputs[:7], model.init_hidden(init), controls[:7])
    second, _ = model(inputs[7:], hidden, controls[7:])
    torch.testing.assert_close(torch.cat([first, second]), whole)


@torch.no_grad()
def test_batch_mixes_sequences_with_and_without_control() -> None:
    model = make_model()
    events, init, controls = random_inputs(9, 2)
    inputs, hidden = model.shift_right(events), model.init_hidden(init)
    mixed, _ = model(inputs, hidden, controls, torch.tensor([True, False]))
    torch.testing.assert_close(mixed[:, 0], model(inputs, hidden, controls)[0][:, 0])
    torch.testing.assert_close(mixed[:, 1], model(inputs, hidden)[0][:, 1])


def test_dropout_is_between_layers_and_in_training_only() -> None:
    events, init, _ = random_inputs(9, 2)

    def is_deterministic(model: PerformanceRNN) -> bool:
        inputs, hidden = model.shift_right(events), model.init_hidden(init)
        return torch.equal(model(inputs, hidden)[0], model(inputs, hidden)[0])

    assert is_deterministic(make_model())
    assert not is_deterministic(make_model().train())
    one_layer = ModelConfig(4, 11, 5, 8, gru_layers=1, gru_dropout=0.9)
    assert is_deterministic(make_model(one_layer).train())


def test_parameters_have_the_names_and_order_of_the_original() -> None:
    gru = [
        f"gru.{kind}_l{layer}"
        for layer in range(3)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    assert [name for name, _ in make_model().named_parameters()] == [
        "inithid_fc.weight",
        "inithid_fc.bias",
        "event_embedding.weight",
        "concat_input_fc.weight",
        "concat_input_fc.bias",
        *gru,
        "output_fc.weight",
        "output_fc.bias",
    ]


@torch.no_grad()
def test_scheduled_sampling_with_true_inputs_only_equals_forward() -> None:
    model = make_model()
    events, init, controls = random_inputs(9, 2)
    inputs, hidden = model.shift_right(events), model.init_hidden(init)
    use_control = torch.ones(2, dtype=torch.bool)
    whole, _ = model(inputs, hidden, controls)
    forced, _ = model.forward_scheduled(inputs, hidden, controls, use_control, 1.0)
    free, _ = model.forward_scheduled(inputs, hidden, controls, use_control, 0.0)
    torch.testing.assert_close(forced, whole)
    torch.testing.assert_close(free[0], whole[0])
    assert not torch.allclose(free[5:], whole[5:])


def test_missing_device_is_an_error() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda"):
            pick_device("cuda")


# ---------------------------------------------------------------------------- session files


def make_session(model: PerformanceRNN) -> Session:
    training = {"step": 3, "options": {"control_ratio": 0.75}}
    return Session(model.config, model.state_dict(), 2, None, training)


def test_session_round_trip(tmp_path: Path) -> None:
    model = make_model()
    saved = make_session(model)
    saved.save(tmp_path / "a.sess")
    loaded = Session.load(tmp_path / "a.sess")
    assert (loaded.config, loaded.encoding, loaded.training) == (SIZES, 2, saved.training)
    assert loaded.control_ratio == 0.75
    weights = loaded.build_model(torch.device("cpu")).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_options_of_older_sessions_are_found(tmp_path: Path) -> None:
    model = make_model()
    old = {
        "step": 3,
        "judges": "abc",
        "option control_ratio": 0.5,
        "option averaging": 0.99,
        "scaler scale": 2.0,
        "scaler _growth_tracker": 7,
    }
    Session(SIZES, model.state_dict(), 2, training=old).save(tmp_path / "old.sess")
    loaded = Session.load(tmp_path / "old.sess")
    assert loaded.control_ratio == 0.5
    assert loaded.training == {
        "step": 3,
        "val_data": "abc",
        "options": {"control_ratio": 0.5, "ema_decay": 0.99},
        "scaler": {"scale": 2.0, "_growth_tracker": 7},
    }


def test_control_ratio_of_a_session_without_options_is_unknown() -> None:
    model = make_model()
    assert Session(SIZES, model.state_dict(), 2).control_ratio is None


def test_session_file_has_the_entries_of_the_original(tmp_path: Path) -> None:
    make_session(make_model()).save(tmp_path / "a.sess")
    record = torch.load(tmp_path / "a.sess", weights_only=True)
    assert {"model_config", "model_state", "model_optimizer_state"} <= set(record)
    assert list(record["model_config"]) == [
        *("init_dim", "event_dim", "control_dim", "hidden_dim", "gru_layers", "gru_dropout")
    ]


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    half = {name: value.half() for name, value in make_model().state_dict().items()}
    Session(SIZES, half, 2).save(tmp_path / "half.sess")
    model = Session.load(tmp_path / "half.sess").build_model(torch.device("cpu"))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_state": {}}, "weights"),
        ({"model_state": 3}, "weights"),
        ({"model_config": {"hidden_dim": 8}}, "model_config"),
        ({"model_config": {**vars(SIZES), "hidden_dim": "8"}}, "number"),
        ({"model_config": {**vars(SIZES), "hidden_dim": 16000}}, "shape"),
        ({"model_config": {**vars(SIZES), "gru_layers": -1}}, "-1"),
        ({"session": 99}, "99"),
        ({"encoding": "2"}, "encoding"),
        ({"training": [1]}, "training"),
        ({"training": {"step": [1]}}, "step"),
        ({"training": {"step": {"x": 1}}}, "step"),
        ({"training": {"options": 3}}, "options"),
        ({"training": {"options": {"carry": [1]}}}, "options"),
        ({"training": {"options": {"carry": {"x": 1}}}}, "options"),
        ({"carried_state": torch.zeros(8)}, "carried_state"),
    ],
)
def test_invalid_session_is_an_error_with_the_path(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    record = {
        "session": 1,
        "encoding": 2,
        "model_config": dict(vars(SIZES)),
        "model_state": make_model().state_dict(),
        "model_optimizer_state": None,
        "training": {},
    }
    torch.save(record | changes, tmp_path / "odd.sess")
    with pytest.raises(ValueError, match=message) as error:
        Session.load(tmp_path / "odd.sess")
    assert "odd.sess" in str(error.value)


def test_weights_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    model = make_model()
    model.output_fc.bias.data[2] = torch.nan
    make_session(model).save(tmp_path / "a.sess")
    with pytest.raises(ValueError, match=r"output_fc\.bias"):
        Session.load(tmp_path / "a.sess")


class Command:
    """An object whose pickle runs a command when it is loaded without protection."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_session_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model_config": Command()}, "evil.sess")
    with pytest.raises(ValueError, match=r"evil\.sess"):
        Session.load("evil.sess")
    assert not Path("executed").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_session_is_an_error(tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.sess"
    make_session(make_model()).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.sess"):
        Session.load(path)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit on file sizes here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_while_saving_leaves_the_old_file(tmp_path: Path) -> None:
    import resource

    path, session = tmp_path / "a.sess", make_session(make_model())
    session.save(path)
    before = path.read_bytes()
    child = os.fork()
    if not child:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            # the kernel kills the process at this byte of the new file
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))
            session.save(path)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGXFSZ
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2  # with the unfinished file


def test_optimizer_is_not_created_on_the_meta_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In torch 2.6 that fails."""
    devices, adam = [], torch.optim.Adam

    def create(*parameters: Any) -> torch.optim.Adam:
        devices.append(torch.empty(0).device.type)
        return adam(*parameters)

    monkeypatch.setattr(torch.optim, "Adam", create)
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2).save(tmp_path / "m.sess")
    assert devices == ["cpu"]
