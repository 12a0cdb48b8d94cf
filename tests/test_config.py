"""Defaults, ranges and flags, which come from one table."""

import dataclasses

import pytest

import config
import flags
from config import GenerateConfig, ModelConfig, PreprocessConfig, TrainConfig

# the flags of the original, with the fields they fill here
ORIGINAL_TRAIN = {
    "-s": "session",
    "-d": "dataset",
    "-i": "saving_interval",
    "-b": "batch_size",
    "-l": "learning_rate",
    "-w": "window_size",
    "-S": "stride_size",
    "-c": "control_ratio",
    "-T": "teacher_forcing_ratio",
    "-t": "use_transposition",
    "-p": "model_params",
    "-r": "reset_optimizer",
    "-L": "enable_logging",
}
ORIGINAL_GENERATE = {
    "-c": "control",
    "-b": "batch_size",
    "-s": "session",
    "-o": "output_dir",
    "-l": "max_length",
    "-g": "greedy_ratio",
    "-B": "beam_size",
    "-S": "stochastic_beam_search",
    "-T": "temperature",
    "-z": "init_zero",
}


@pytest.mark.parametrize(
    ("kind", "known"), [(TrainConfig, ORIGINAL_TRAIN), (GenerateConfig, ORIGINAL_GENERATE)]
)
def test_the_flags_of_the_original_are_there(kind: type, known: dict[str, str]) -> None:
    fields = {entry.name: entry.metadata["flags"] for entry in dataclasses.fields(kind)}
    assert all(flag in fields[name] for flag, name in known.items())


def parse(kind: type, *argv: str) -> object:
    return flags.parse(flags.Parser(prog="x"), kind, argv)


def test_no_argument_gives_the_defaults() -> None:
    assert parse(TrainConfig) == TrainConfig()
    assert parse(GenerateConfig) == GenerateConfig()
    assert parse(PreprocessConfig) == PreprocessConfig("dataset/midi", "dataset/processed")


@pytest.mark.parametrize(
    ("kind", "argv"),
    [
        (GenerateConfig, "-c 1,0,1;3 -b 3 -s a b.sess --seed 7 --png --force -T 0.25"),
        (GenerateConfig, "-s=-x.sess -S -B 4 --max-length 0 --soundfont 'a.sf2"),
        (TrainConfig, "--no-enable-logging -t --use-transposition -l 0.1 --init-from=--x"),
        (GenerateConfig, ""),
    ],
)
def test_options_become_the_arguments_that_make_them(kind: type, argv: str) -> None:
    options = parse(kind, *argv.replace("a b", "a\0b").split())
    assert parse(kind, *flags.to_argv(options)) == options
    if not argv:
        assert flags.to_argv(options) == []


def test_what_fine_tuning_turns_on_can_be_turned_off() -> None:
    entries = {entry.name: entry.metadata for entry in dataclasses.fields(TrainConfig)}
    assert all(entries[name]["negatable"] for name, on in config.FINE_TUNING.items() if on is True)


def test_long_options_may_be_abbreviated() -> None:
    assert parse(TrainConfig, "--batch", "3", "--no-enable").batch_size == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "argv", "words"),
    [
        (TrainConfig, ["-b", "0"], ["-b/--batch-size", "0", "from 1 to"]),
        (TrainConfig, ["-b", "two"], ["-b/--batch-size", "two"]),
        (TrainConfig, ["-l", "nan"], ["-l/--learning-rate", "nan"]),
        (TrainConfig, ["-l", "inf"], ["-l/--learning-rate", "inf"]),
        (TrainConfig, ["-l", "0"], ["-l/--learning-rate", "above 0"]),
        (TrainConfig, ["-c", "1.5"], ["-c/--control-ratio", "from 0.0 to 1.0"]),
        (TrainConfig, ["--device", "abacus"], ["--device", "abacus", "cuda"]),
        (GenerateConfig, ["-T", "0"], ["-T/--temperature", "above 0"]),
        (GenerateConfig, ["-g", "-0.1"], ["-g/--greedy-ratio", "-0.1"]),
        (PreprocessConfig, ["a", "b", "0"], ["workers", "0", "from 1 to"]),
        (PreprocessConfig, ["--time-limit=--"], ["--time-limit", "not a value"]),
        (TrainConfig, ["-t", "two\nlines\x1b[31m"], ["two\\nlines\\x1b[31m"]),
    ],
)
def test_a_wrong_value_is_one_sentence_and_exit_2(
    kind: type, argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(kind, *argv)
    (last,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert all(word in last for word in words), last


def test_model_params_are_read_and_checked() -> None:
    sizes = config.parse_model_params("hidden_dim=64, gru_layers=2,gru_dropout=0")
    assert sizes == ModelConfig(hidden_dim=64, gru_layers=2, gru_dropout=0.0)
    assert config.parse_model_params("", sizes) == sizes


@pytest.mark.parametrize(
    "text",
    ["depth=3", "hidden_dim=1.5", "hidden_dim=0", "hidden_dim", "gru_layers=__import__('os')"],
)
def test_wrong_model_params_name_themselves(text: str) -> None:
    with pytest.raises(ValueError, match=r"hidden_dim|gru_layers|depth"):
        config.parse_model_params(text)


def test_configs_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().batch_size = 1  # type: ignore[misc]


def test_a_whole_number_of_400_digits_is_one() -> None:
    assert TrainConfig(max_steps=10**400).max_steps == 10**400
    with pytest.raises(ValueError, match="hidden_dim"):
        ModelConfig(hidden_dim=10**400)
