"""Defaults of the three scripts, as frozen dataclasses, and constants that modules share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
DATA_SUFFIX = ".data"
DATASET_PROCESSED = "dataset/processed"
PRETRAINED = "pretrained.sess"
# downloads MAESTRO; messages about missing data suggest it
FETCH_COMMAND = "(cd dataset; bash scripts/maestro_scraper.sh midi/maestro)"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
AUDIO_FORMATS = ("wav", "flac", "ogg", "mp3")
DEVICES = ("auto", "cpu", "cuda", "mps")
SUBSETS = ("train", "validation", "test")
MANIFEST_FILE = "manifest.json"  # in a folder of .data files: what preprocess.py knows about them
SPLIT_FILE = "split.json"  # marks a folder of .data files that is split into SUBSETS
# options of train.py that train as the original does; the defaults below learn faster
LEGACY_RECIPE = (
    "-l 0.001 -b 64 -w 200 --carry 1 --small-batches 0 --weight-decay 0 --ema-decay 0 "
    "--warm-up 0 -p gru_layers=3,gru_dropout=0.3,recall_dim=0"
)
RECALL_DIM = 64  # of a new network, unless it has only the controls of the original
# defaults of train.py with --init-from: small steps, because a few files are soon overfitted
FINE_TUNING = {
    "learning_rate": 5e-4,
    "use_transposition": True,
    "patience": 5,
    "validation_interval": 30.0,
}
# defaults for trainings of at most so many minutes: more, smaller steps; longer ones lose by them
SHORT_MINUTES = 2.0
SHORT_TRAINING = {"small_batches": 1000}
# more defaults of train.py --tune
TUNING = {"max_minutes": 4.0, "control_ratio": 0.9}
# the type and the allowed range of each size of the network
MODEL_SIZES: dict[str, tuple[type, float, float]] = {
    "init_dim": (int, 1, 16384),
    "event_dim": (int, 1, 65536),
    "control_dim": (int, 1, 65536),
    "hidden_dim": (int, 1, 16384),
    "gru_layers": (int, 1, 64),
    "gru_dropout": (float, 0.0, 1.0),
    "recall_dim": (int, 0, 65536),
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network, checked because they may come from an untrusted session file.

    Field names and their order are those of `model_config` in a session file.
    """

    init_dim: int = 32  # width of the random vector that the first hidden state is computed from
    event_dim: int = 240  # number of events in the vocabulary
    control_dim: int = 24  # width of a control: 24 for density and pitch classes, 78 for all
    hidden_dim: int = 512  # width of a GRU layer
    gru_layers: int = 2
    gru_dropout: float = 0.0  # between GRU layers
    recall_dim: int = 0  # columns of the recall table; 0: no recall

    def __post_init__(self) -> None:
        for name, (kind, low, high) in MODEL_SIZES.items():
            value = getattr(self, name)
            is_number = type(value) in (int, kind)
            if not is_number or not low <= value <= high:
                # other types are not printed: the text of a nested value can be endless
                shown = f"{value!r:.80}" if is_number else type(value).__name__
                number = "a whole number" if kind is int else "a number"
                raise ValueError(f"{name}: {shown} is not {number} from {low} to {high}")


def parse_model_params(text: str, base: ModelConfig | None = None) -> ModelConfig:
    """Return `base` (or the defaults) with the changes in `text`: `hidden_dim=256,gru_layers=2`.

    Raises ValueError for an unknown name, a value that is not a number, or one out of range.
    """
    sizes: dict[str, Any] = {}
    try:
        for part in filter(None, map(str.strip, text.split(","))):
            name, _, value = map(str.strip, part.partition("="))
            if name not in MODEL_SIZES:
                raise ValueError(f"{name!r} is not one of {', '.join(MODEL_SIZES)}")
            kind = MODEL_SIZES[name][0]
            try:
                sizes[name] = int(value, 0) if kind is int else kind(value)
            except ValueError:
                number = "a whole number" if kind is int else "a number"
                raise ValueError(f"{part!r} needs {number}") from None
        return replace(base or ModelConfig(), **sizes)
    except ValueError as error:
        raise ValueError(f"argument -p/--model-params: {error}") from error


def parse_split(text: str) -> tuple[float, ...]:
    """Return the shares of train, validation and test in `80,10,10`, scaled to sum to 1.

    Raises ValueError if these are not three finite numbers, one is negative, or all are 0.
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    total = sum(shares)
    if len(shares) != len(SUBSETS) or min(shares) < 0 or not 0 < total < math.inf:
        raise ValueError(
            f"argument --split: {text!r} is not allowed, it must be three shares "
            f"({', '.join(SUBSETS)}) such as 80,10,10"
        )
    return tuple(share / total for share in shares)


@dataclass(frozen=True)
class PreprocessConfig:
    """Options of preprocess.py. A limit of None is off."""

    midi_dir: str = "dataset/midi"
    save_dir: str = DATASET_PROCESSED
    workers: int | None = None  # processes; None: one per core
    time_limit: float = 60.0  # seconds per file
    legacy: bool = False  # the original's encoding
    split: str = ""  # shares such as 80,10,10; empty: no split
    report: bool = False
    tracks: str = "auto"  # or "all", "piano", names: see midi.playback.select_instruments
    prune: bool = False  # remove data whose MIDI file is gone
    min_seconds: float | None = None
    max_seconds: float | None = None
    min_density: float | None = None  # notes/s
    max_density: float | None = None  # notes/s
    max_outside: float | None = None  # share of the notes outside the piano's range, 0..1
    expressive: bool = False  # reject scores: onsets on a grid, or nearly one velocity
    quiet: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """Options of train.py."""

    session: str = "model.sess"
    dataset: str = DATASET_PROCESSED
    validation: str | None = None  # folder; None: a share of the dataset
    validation_share: float = 0.1  # of the performances, 0..0.9
    saving_interval: float = 60.0  # seconds
    validation_interval: float = 300.0  # seconds
    batch_size: int = 32  # windows
    learning_rate: float = 4e-3  # the peak, after the warm-up
    warm_up: int = 100  # steps
    window_size: int = 64  # events
    small_batches: int = 0  # steps at the start, with half as many windows of half the size
    stride_size: int = 10  # events from the start of one window to the next
    carry: int = 4  # consecutive windows that carry the hidden state
    controls: str = ""  # names; empty: all, or those of the session or of init_from
    control_ratio: float = 1.0  # share of the windows with control, 0..1
    teacher_forcing_ratio: float = 1.0  # share of the input events taken from the data, 0..1
    use_transposition: bool = False
    stretch: float = 0.0  # largest relative change of tempo
    weight_decay: float = 0.1
    ema_decay: float = 0.999  # per step; 0: no averaging
    precision: str = "auto"  # one of PRECISIONS
    model_params: str = ""  # such as hidden_dim=256,gru_layers=2
    reset_optimizer: bool = False
    enable_logging: bool = True
    max_steps: int | None = None
    max_minutes: float | None = None
    patience: int | None = None  # validations without improvement until training ends
    init_from: str = ""  # session file
    tune: str = ""  # folder of MIDI files
    evaluate: bool = False
    include_training: bool = False  # in the evaluation
    export: str = ""  # session file
    json: bool = False  # of the evaluation
    quiet: bool = False
    seed: int = 0
    device: str = "auto"  # one of DEVICES


@dataclass(frozen=True)
class GenerateConfig:
    """Options of generate.py. Their order is that of the "made with" text in a MIDI file."""

    control: str | None = None
    like: str | None = None  # MIDI file whose controls are requested
    guidance: float = 1.0  # scale of classifier-free guidance; 1: none
    steering: bool = True  # density feedback
    batch_size: int = 8  # samples
    piece: tuple[int, ...] | None = None  # numbers of the only samples to generate
    best_of: int | None = None  # samples, of which the best batch_size are kept
    avoid_copies: bool = False
    session: str = PRETRAINED
    output_dir: str = "generated"
    max_length: int | None = None  # events; 0: as many as the control file has
    seconds: float | None = None  # instead of max_length
    primer: str | None = None  # MIDI file
    primer_seconds: float = 15.0
    primer_start: float = 0.0  # seconds
    tracks: str = "auto"  # of MIDI files given with -i and -c
    continuation_only: bool = False
    follow: bool = True  # without a control: request that of the primer
    keep: str | None = None  # MIDI file whose notes are kept
    keep_tracks: str = "auto"  # names of tracks, or "auto", "all", "piano"
    keep_pitches: str | None = None  # LOW-HIGH, MIDI pitches
    fill: Sequence[str] | None = None  # FROM-TO in seconds, and a MIDI file
    perform: str | None = None  # MIDI file of a score
    variation: Sequence[str] | None = None  # share 0..1 of new music, and a MIDI file
    keep_until: Sequence[str] | None = None  # seconds, and a MIDI file that goes on anew
    strength: float | None = None  # of a performance, 0..1; None: 1, with `form` 0.3
    form: str | None = None  # letters of sections
    particles: int = 256
    two_tracks: bool = False
    greedy_ratio: float = 0.0  # share of the events that are the most probable ones, 0..1
    beam_size: int = 0  # 0: sampling
    stochastic_beam_search: bool = False
    temperature: float = 0.95
    time_temperature: float | None = None  # of time shifts; None: the same as temperature
    pitch_temperature: float | None = None
    velocity_temperature: float | None = None
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repeats: int = 12  # most note ons of one key in a row; 0: no limit
    silence: float = 4.0  # longest, in seconds; 0: no limit
    recall: bool = True  # of earlier passages of the sample
    init_zero: bool = False
    free: bool = False  # no event mask
    exact: bool = False  # float32 only
    seed: int | None = None  # None: a random one
    bpm: float | None = None  # quarter notes per minute of the tempo map
    meter: str | None = None  # time signature of the tempo map; None: 4/4
    beats: bool = False  # tempo map of the estimated beats
    grid: str | None = None  # such as 1/16
    pedal: bool = False  # write the sustain pedal
    stream: bool = False
    png: bool = False
    wav: bool = False
    audio: str | None = None  # format, one of AUDIO_FORMATS
    soundfont: str | None = None  # .sf2 file; None: that of pretty_midi
    html: bool = False
    live: str | None = None  # HTML file
    surprise: list[str] | None = None  # MIDI files to measure instead of generating
    json: bool = False
    quiet: bool = False
    force: bool = False
    device: str = "auto"  # one of DEVICES
