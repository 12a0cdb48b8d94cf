"""Every default of the suite, once: frozen dataclasses that check themselves.

The table of what can be set; flags.py makes checks and command-line options of it.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, fields, replace
from typing import Any

from flags import Checked, option

MIDI_SUFFIXES = (".mid", ".midi", ".kar")
DATA_SUFFIX = ".data"
DATASET_MIDI = "dataset/midi"
DATASET_PROCESSED = "dataset/processed"
PRETRAINED = "pretrained.sess"
FETCH_COMMAND = "(cd dataset; bash scripts/maestro_scraper.sh midi/maestro)"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# what the original trains like, as flags of train.py; today's defaults learn faster
LEGACY_RECIPE = (
    "-l 0.001 -b 64 -w 200 --carry 1 --weight-decay 0 --averaging 0 --warm-up 0 "
    "-p gru_layers=3,gru_dropout=0.3"
)
# defaults of train.py with --init-from: gentle, for a few files are soon learned by heart
FINE_TUNING = {
    "learning_rate": 5e-4,
    "use_transposition": True,
    "patience": 5,
    "validation_interval": 30.0,
}
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class ModelConfig(Checked):
    """Sizes of the network; the two widths come from the codec.

    Field names and their order are those of `model_config` in a session file.
    """

    init_dim: int = option(32, help="width of the random start vector", type=int, low=1, high=16384)
    event_dim: int = option(240, help="number of events", type=int, low=1, high=65536)
    control_dim: int = option(24, help="width of a control", type=int, low=1, high=65536)
    hidden_dim: int = option(512, help="width of a GRU layer", type=int, low=1, high=16384)
    gru_layers: int = option(2, help="number of GRU layers", type=int, low=1, high=64)
    gru_dropout: float = option(
        0.0, help="dropout between GRU layers", type=float, low=0.0, high=1.0
    )


def parse_model_params(text: str, base: ModelConfig | None = None) -> ModelConfig:
    """Read `hidden_dim=256,gru_layers=2` into a ModelConfig, starting from `base`.

    Raises ValueError for an unknown name, a value that is not a number, or one out of range.
    """
    base = base or ModelConfig()
    known = {entry.name: entry.metadata["type"] for entry in fields(ModelConfig)}
    changes: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise ValueError(f"argument -p/--model-params: {name!r} is not one of {list(known)}")
        changes[name] = _number(part, value, known[name])
    return replace(base, **changes)


def _number(part: str, text: str, kind: type) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if type(value) is int and kind is float:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(
            f"argument -p/--model-params: {part!r} needs {'a whole' if kind is int else 'a'} number"
        )
    return value


SUBSETS = ("train", "validation", "test")
SPLIT_FILE = "split.json"  # in a folder of .data files that is split into these


def parse_split(text: str) -> tuple[float, ...]:
    """Read `80,10,10` into the shares of train, validation and test, which sum to 1.

    Raises ValueError for other than three numbers from 0 on, or none above it.
    """
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    total = sum(parts)
    if len(parts) != len(SUBSETS) or min(parts) < 0 or not 0 < total < math.inf:
        raise ValueError(
            f"argument --split: {text!r} is not allowed, it must be three shares, of "
            f"{', '.join(SUBSETS)}, as in 80,10,10"
        )
    return tuple(part / total for part in parts)


@dataclass(frozen=True)
class PreprocessConfig(Checked):
    """Options of preprocess.py."""

    midi_dir: str = option(DATASET_MIDI, help="folder with MIDI files, searched to the bottom")
    save_dir: str = option(DATASET_PROCESSED, help="folder for the .data files")
    workers: int | None = option(
        None, help="worker processes (all cores)", type=int, low=1, high=1024
    )
    time_limit: float = option(
        60.0, "--time-limit", help="seconds one file may take", type=float, above=0.0
    )
    original: bool = option(
        False,
        "--original",
        help="write data in the original's encoding, to train its sessions on",
        type=bool,
    )
    split: str = option(
        "",
        "--split",
        help="shares of train,validation,test, as 80,10,10: folders below SAVE_DIR, by piece",
    )
    report: bool = option(
        False, "--report", help="also write SAVE_DIR/report.html, a page on the files", type=bool
    )
    min_seconds: float | None = option(
        None, "--min-seconds", help="refuse shorter performances (off)", type=float, low=0.0
    )
    max_seconds: float | None = option(
        None, "--max-seconds", help="refuse longer performances (off)", type=float, above=0.0
    )
    min_density: float | None = option(
        None, "--min-density", help="refuse fewer notes a second (off)", type=float, low=0.0
    )
    max_density: float | None = option(
        None, "--max-density", help="refuse more notes a second (off)", type=float, above=0.0
    )
    max_outside: float | None = option(
        None,
        "--max-outside",
        help="refuse a larger share of notes that no piano has (off)",
        type=float,
        low=0.0,
        high=1.0,
    )
    expressive: bool = option(
        False,
        "--expressive",
        help="refuse what is on a grid in time, or of one velocity, as scores are (off)",
        type=bool,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split:
            parse_split(self.split)


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Options of train.py."""

    session: str = option("model.sess", "-s", "--session", help="session file, made if missing")
    dataset: str = option(DATASET_PROCESSED, "-d", "--dataset", help="folder of .data files")
    validation: str | None = option(
        None, "-v", "--validation", help="folder of .data files to judge by; without it a share"
    )
    validation_share: float = option(
        0.1,
        "--validation-share",
        help="share of the files held out when there is no -v",
        type=float,
        low=0.0,
        high=0.9,
    )
    saving_interval: float = option(
        60.0, "-i", "--saving-interval", help="seconds between two saves", type=float, low=0.0
    )
    validation_interval: float = option(
        300.0,
        "--validation-interval",
        help="seconds of training between two validations",
        type=float,
        above=0.0,
    )
    batch_size: int = option(
        32, "-b", "--batch-size", help="windows in a batch", type=int, low=1, high=65536
    )
    learning_rate: float = option(
        4e-3,
        "-l",
        "--learning-rate",
        help="Adam's peak learning rate",
        type=float,
        above=0.0,
        high=1.0,
    )
    warm_up: int = option(
        100,
        "--warm-up",
        help="steps in which the learning rate rises; a tenth of a run at most",
        type=int,
        low=0,
    )
    window_size: int = option(
        64, "-w", "--window-size", help="events in a window", type=int, low=1, high=1000000
    )
    stride_size: int = option(
        10, "-S", "--stride-size", help="events between the starts of windows", type=int, low=1
    )
    carry: int = option(
        4,
        "--carry",
        help="windows in a row that carry the hidden state on; 1: each begins anew",
        type=int,
        low=1,
        high=1000000,
    )
    control_ratio: float = option(
        1.0,
        "-c",
        "--control-ratio",
        help="share of windows that see their control",
        type=float,
        low=0.0,
        high=1.0,
    )
    teacher_forcing_ratio: float = option(
        1.0,
        "-T",
        "--teacher-forcing-ratio",
        help="share of inputs taken from the data, not from the network",
        type=float,
        low=0.0,
        high=1.0,
    )
    use_transposition: bool = option(
        False,
        "-t",
        "--use-transposition",
        help="transpose windows by -5..6 semitones",
        type=bool,
        negatable=True,
    )
    stretch: float = option(
        0.0,
        "--stretch",
        help="play windows up to so much faster or slower, by chance: 0.05 for 5 %",
        type=float,
        low=0.0,
        high=0.5,
    )
    weight_decay: float = option(
        0.1, "--weight-decay", help="AdamW's weight decay", type=float, low=0.0, high=1.0
    )
    averaging: float = option(
        0.999,
        "--averaging",
        help="how slowly the averaged weights follow, which are judged and played; 0: at once",
        type=float,
        low=0.0,
        high=0.999999,
    )
    precision: str = option(
        "auto",
        "--precision",
        help="of the products in training: auto, fp32, bf16, fp16; auto measures",
        choices=PRECISIONS,
    )
    model_params: str = option(
        "", "-p", "--model-params", help="sizes of a new network: hidden_dim=256,gru_layers=2"
    )
    reset_optimizer: bool = option(
        False, "-r", "--reset-optimizer", help="forget Adam's state on resume", type=bool
    )
    enable_logging: bool = option(
        True, "-L", "--enable-logging", help="write TensorBoard logs under runs/", type=bool
    )
    max_steps: int | None = option(
        None, "--max-steps", help="stop at this step of the session", type=int, low=1
    )
    max_minutes: float | None = option(
        None,
        "--max-minutes",
        help="stop when the session has trained this long; the rate falls to zero by then",
        type=float,
        above=0.0,
    )
    patience: int | None = option(
        None,
        "--patience",
        help="stop after so many validations in a row that were not the best",
        type=int,
        low=1,
    )
    init_from: str = option(
        "",
        "--init-from",
        help="make a missing session from the network of this one; to tune it to a few files",
    )
    evaluate: bool = option(
        False,
        "--evaluate",
        help="only print how good the session is by the data of the folder",
        type=bool,
    )
    export: str = option(
        "", "--export", help="only write the session's network, in half precision, to this file"
    )
    seed: int = option(0, "--seed", help="seed of everything random", type=int, low=0, high=2**63)
    device: str = option(
        "auto", "--device", help="where the network runs: auto, cpu, cuda, mps", choices=DEVICES
    )


@dataclass(frozen=True)
class GenerateConfig(Checked):
    """Options of generate.py."""

    control: str | None = option(
        None,
        "-c",
        "--control",
        help="what to play: a scale or chord, or 12 pitch-class weights from C; ';' and a density "
        "0-11 or notes a second; changes over time; or a file to play like (see below)",
    )
    guidance: float = option(
        1.0,
        "--guidance",
        help="how strictly to follow the control; above 1 more than the network would",
        type=float,
        low=0.0,
        high=100.0,
    )
    steering: bool = option(
        True,
        "--steering",
        help="keep the density to the one asked for, by asking for more or less of it",
        type=bool,
    )
    batch_size: int = option(
        8, "-b", "--batch-size", help="number of pieces", type=int, low=1, high=65536
    )
    session: str = option(PRETRAINED, "-s", "--session", help="session file")
    output_dir: str = option("generated", "-o", "--output-dir", help="folder for the music")
    max_length: int | None = option(
        None,
        "-l",
        "--max-length",
        help="events in a piece (1500, about a minute; 0: as long as the control file)",
        type=int,
        low=0,
        high=10_000_000,
    )
    seconds: float | None = option(
        None,
        "--seconds",
        help="end each piece at a musical boundary within 2 s of this length, instead of -l",
        type=float,
        low=1.0,
        high=86400.0,
    )
    primer: str | None = option(
        None, "-i", "--primer", help="MIDI file that each piece begins with and goes on from"
    )
    primer_seconds: float = option(
        15.0, "--primer-seconds", help="how much of the primer is heard", type=float, above=0.0
    )
    primer_start: float = option(
        0.0, "--primer-start", help="second of the primer to begin at", type=float, low=0.0
    )
    continuation_only: bool = option(
        False, "--continuation-only", help="write what follows the primer without it", type=bool
    )
    greedy_ratio: float = option(
        0.0,
        "-g",
        "--greedy-ratio",
        help="share of events that are the likeliest one instead of a sample",
        type=float,
        low=0.0,
        high=1.0,
    )
    beam_size: int = option(
        0, "-B", "--beam-size", help="beam search over this many", type=int, low=0, high=4096
    )
    stochastic_beam_search: bool = option(
        False, "-S", "--stochastic-beam-search", help="sample the beam", type=bool
    )
    temperature: float = option(
        0.95,
        "-T",
        "--temperature",
        help="below 1 safer, above wilder; 1: as the network learned",
        type=float,
        above=0.0,
    )
    time_temperature: float | None = option(
        None, "--time-temperature", help="of time shifts, among themselves", type=float, above=0.0
    )
    pitch_temperature: float | None = option(
        None, "--pitch-temperature", help="of the keys to strike", type=float, above=0.0
    )
    velocity_temperature: float | None = option(
        None, "--velocity-temperature", help="of velocities", type=float, above=0.0
    )
    top_k: int = option(
        0, "--top-k", help="only the likeliest so many events; 0: all", type=int, low=0
    )
    top_p: float = option(
        1.0,
        "--top-p",
        help="only the likeliest events that have this probability together",
        type=float,
        above=0.0,
        high=1.0,
    )
    min_p: float = option(
        0.0,
        "--min-p",
        help="only events that are at least so many times as likely as the likeliest",
        type=float,
        low=0.0,
        high=1.0,
    )
    repeats: int = option(
        12,
        "--repeats",
        help="strikes of one key in a row, with no other between, before it has to wait; 0: any",
        type=int,
        low=0,
        high=1_000_000,
    )
    silence: float = option(
        4.0,
        "--silence",
        help="seconds that the next note is never waited for; 0: it may be for ever",
        type=float,
        low=0.0,
        high=86400.0,
    )
    init_zero: bool = option(
        False, "-z", "--init-zero", help="start from zeros, not from a random vector", type=bool
    )
    free: bool = option(
        False, "--free", help="do not mask events that can not be played", type=bool
    )
    exact: bool = option(
        False,
        "--exact",
        help="play in float32 alone; slower, and hardly another distribution",
        type=bool,
    )
    seed: int | None = option(
        None, "--seed", help="seed of everything random (random)", type=int, low=0, high=2**63
    )
    stream: bool = option(
        False, "--stream", help="write the pieces while they are played, as they grow", type=bool
    )
    png: bool = option(False, "--png", help="also draw each piece as a piano roll", type=bool)
    wav: bool = option(False, "--wav", help="also render each piece to audio", type=bool)
    soundfont: str | None = option(
        None, "--soundfont", help="soundfont (.sf2) to render with (pretty_midi's)"
    )
    html: bool = option(
        False,
        "--html",
        help="also write index.html, a page to see and hear all pieces of the folder",
        type=bool,
    )
    force: bool = option(
        False,
        "--force",
        help="write from output-000 on over what is there, instead of numbering on",
        type=bool,
    )
    device: str = option(
        "auto", "--device", help="where the network runs: auto, cpu, cuda, mps", choices=DEVICES
    )
