"""Command lines of the three scripts: defaults, ranges, abbreviations, errors."""

import functools
from typing import Any

import pytest

import generate
import preprocess
import train
from config import GenerateConfig, ModelConfig, PreprocessConfig, TrainConfig, parse_model_params
from utils import Number, Parser

# the flags of the original, with the fields that they set
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
    ("script", "original"), [(train, ORIGINAL_TRAIN), (generate, ORIGINAL_GENERATE)]
)
def test_original_flags_exist(script: Any, original: dict[str, str]) -> None:
    fields = {
        flag: action.dest
        for action in script.build_parser()._actions
        for flag in action.option_strings
    }
    assert original.items() <= fields.items()


def test_no_arguments_give_defaults() -> None:
    assert train.parse_args([]) == TrainConfig()
    assert generate.parse_args([]) == (GenerateConfig(), None)
    assert preprocess.parse_args([]) == PreprocessConfig("dataset/midi", "dataset/processed")


@pytest.mark.parametrize("script", [preprocess, train, generate])
def test_help_fits_80_columns(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        script.parse_args(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert exit_.value.code == 0
    assert sum(line.startswith(f"  python3 {script.__name__}.py") for line in lines) == 3
    assert max(map(len, lines)) <= 80, max(lines, key=len)


@pytest.mark.parametrize(
    "argv",
    [
        ["-c", "1,0,1,0,1,0,0,0,0,0,0,0;3", "-b", "3", "-s", "a b.sess", "--seed", "7", "--png"],
        ["--no-steering", "--session=-x.sess", "-B", "4", "--stochastic-beam-search"],
        [],
    ],
)
def test_to_argv_inverts_parsing(argv: list[str]) -> None:
    options, _ = generate.parse_args(argv)
    assert generate.build_parser().to_argv(options) == argv


def test_fine_tuning_defaults_can_be_overridden() -> None:
    listed = "-l 0.0005 -t --patience 5 --validation-interval 30"
    assert listed in " ".join(train.build_parser().format_help().split())
    tuned = train.parse_args(["--init-from", "a.sess"])
    assert train.parse_args([*listed.split(), "--init-from", "a.sess"]) == tuned
    other = train.parse_args(["--init-from", "a.sess", "--no-use-transposition", "-l", "0.1"])
    assert (other.use_transposition, other.patience, other.learning_rate) == (False, 5, 0.1)


def test_older_spellings_and_abbreviations_work() -> None:
    assert train.parse_args(["--averaging", "0.5"]).ema_decay == 0.5
    assert preprocess.parse_args(["--original"]).legacy
    options = train.parse_args(["--batch", "3", "--no-enable", "--va", "dir"])
    assert (options.batch_size, options.enable_logging, options.validation) == (3, False, "dir")


@pytest.mark.parametrize(
    ("script", "argv", "words"),
    [
        (train, ["-b", "0"], ["-b/--batch-size: 0", "at least 1 and at most 65536"]),
        (train, ["-b", "two"], ["-b/--batch-size: 'two' is not a whole number"]),
        (train, ["-l", "nan"], ["-l/--learning-rate: nan"]),
        (train, ["-l", "inf"], ["-l/--learning-rate: inf"]),
        (train, ["-l", "0"], ["-l/--learning-rate: 0", "greater than 0 and at most 1"]),
        (train, ["-c", "1.5"], ["-c/--control-ratio: 1.5", "at least 0 and at most 1"]),
        (train, ["--device", "abacus"], ["--device", "abacus", "cuda"]),
        (train, ["-p", "hidden_dim=0"], ["-p/--model-params: hidden_dim: 0", "1 to 16384"]),
        (train, ["-t", "two\nlines\x1b[31m"], ["two\\nlines\\x1b[31m"]),
        (generate, ["-T", "0"], ["-T/--temperature", "greater than 0"]),
        (generate, ["-g", "-0.1"], ["-g/--greedy-ratio: -0.1"]),
        (generate, ["-c", ";12"], ["-c/--control"]),
        (preprocess, ["a", "b", "0"], ["workers: 0", "at least 1"]),
        (preprocess, ["--split", "80,20"], ["--split: '80,20'", "80,10,10"]),
        (preprocess, ["--time-limit=--"], ["--time-limit"]),
    ],
)
def test_wrong_value_is_one_line_and_exit_2(
    script: Any, argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        script.parse_args(argv)
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2
    assert line.startswith(f"{script.__name__}.py: error: ")
    assert all(word in line for word in words), line


def test_ambiguous_abbreviation() -> None:
    parser = Parser("x.py", "", ModelConfig())
    for flags in (["-a", "--alpha"], ["--alpine"], ["-b", "--bet"], ["-c", "--beta"]):
        parser.add_argument(*flags)
    assert parser.parse_args(["--al", "1"]).alpha == "1"
    with pytest.raises(SystemExit):
        parser.parse_args(["--be", "1"])


def test_whole_numbers_may_be_very_large() -> None:
    assert Number(int, 1)("9" * 400) == int("9" * 400)


def test_model_params_change_sizes() -> None:
    sizes = parse_model_params("hidden_dim=64, gru_layers=2,gru_dropout=0")
    assert sizes == ModelConfig(hidden_dim=64, gru_layers=2, gru_dropout=0.0)
    assert parse_model_params("", sizes) == sizes


@pytest.mark.parametrize(
    "text",
    ["depth=3", "hidden_dim=1.5", "hidden_dim=0", "hidden_dim", "gru_layers=__import__('os')"],
)
def test_wrong_model_params_raise(text: str) -> None:
    with pytest.raises(ValueError, match=r"model-params.*(hidden_dim|gru_layers|depth)"):
        parse_model_params(text)


NESTED = functools.reduce(lambda value, _: {0: value, 1: value}, range(60), {})  # 2**60 long


@pytest.mark.parametrize("size", [0, 16385, 10**400, 1.5, "512", None, NESTED], ids=type)
def test_model_config_checks_sizes(size: Any) -> None:
    with pytest.raises(ValueError, match="hidden_dim"):
        ModelConfig(hidden_dim=size)
