"""Train a session on a folder of .data files, or continue its training.

examples:
  python3 train.py -s model.sess --max-minutes 60
  python3 train.py -s mine.sess --tune my_midi_folder
  python3 train.py -s model.best.sess -d dataset/processed/test --evaluate
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

# Ctrl-C while torch is imported ends the program without a traceback
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import config
import utils
from config import (
    DATA_SUFFIX,
    DEVICES,
    FETCH_COMMAND,
    PRECISIONS,
    PRETRAINED,
    SPLIT_FILE,
    SUBSETS,
    TrainConfig,
)
from sequence import CONTROLS, CURRENT, Control, EventSeq, parse_controls
from utils import Number, Parser, print_line

# options that change the result; they are stored in the session, so that a resumed run
# has the same values, unless the command line gives others, which is reported
RECIPE = (
    *("learning_rate", "warm_up", "batch_size", "small_batches", "window_size", "stride_size"),
    *("carry", "control_ratio", "teacher_forcing_ratio", "use_transposition", "weight_decay"),
    *("ema_decay", "stretch", "seed"),
)

# ------------------------------------------------------------------------------ command line


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser("train.py", __doc__ or "", TrainConfig())
    _add_file_options(parser)
    add = parser.add_argument_group("model").add_argument
    sizes = "sizes of a new network: hidden_dim=256,gru_layers=2; recall_dim=0: no recall"
    add("-p", "--model-params", metavar="K=V,..", help=sizes)
    _add_data_options(parser)
    _add_optimization_options(parser)
    _add_evaluation_options(parser)

    add = parser.add_argument_group("other").add_argument
    add("--json", action="store_true", help="with --evaluate: print the metrics as JSON")
    add("--quiet", action="store_true", help="print nothing but errors")
    add("--seed", type=Number(int, 0, 2**63), metavar="N", help="random seed")
    add("--device", choices=DEVICES, help="device to run on")
    return parser


def _add_file_options(parser: Parser) -> None:
    """Add the options of input and output."""
    file: dict[str, Any] = {"metavar": "FILE"}
    folder: dict[str, Any] = {"metavar": "DIR"}
    add = parser.add_argument_group("input and output").add_argument
    add("-s", "--session", **file, help="session file, made if it does not exist")
    add("-d", "--dataset", **folder, help="folder of .data files to train on")
    add("-v", "--validation", **folder, help="folder of .data files to validate on")
    add(
        "--validation-share",
        type=Number(float, 0, 0.9),
        metavar="SHARE",
        help="without -v: share of the performances to validate on",
    )
    add(
        "--init-from",
        **file,
        help="start a new session from the network of this one, with defaults for fine-tuning: "
        "-l 0.0005 -t --patience 5 --validation-interval 30",
    )
    add(
        "--tune",
        **folder,
        help="convert the MIDI files of this folder, fine-tune the session on them, and write "
        "three samples; defaults: --init-from pretrained.sess --max-minutes 4 -c 0.9",
    )
    seconds = Number(float, 0)
    add("-i", "--saving-interval", type=seconds, metavar="SECONDS", help="time between saves")
    switch = argparse.BooleanOptionalAction
    add("-L", "--enable-logging", action=switch, help="write TensorBoard logs to runs/")


def _add_data_options(parser: Parser) -> None:
    """Add the options of the windows and their controls."""
    count: dict[str, Any] = {"type": Number(int, 1, 2**53), "metavar": "N"}
    size: dict[str, Any] = {"type": Number(int, 1, 1_000_000), "metavar": "N"}
    share: dict[str, Any] = {"type": Number(float, 0, 1), "metavar": "SHARE"}
    switch = argparse.BooleanOptionalAction
    add = parser.add_argument_group("data").add_argument
    add("-b", "--batch-size", type=Number(int, 1, 65536), metavar="N", help="windows per batch")
    add("-w", "--window-size", **size, help="events per window")
    add(
        "--small-batches",
        type=Number(int, 0, 2**53),
        metavar="STEPS",
        help="steps at the start with half as many windows of half the size; 1000 with "
        "--max-minutes up to 2, to learn more in a short time",
    )
    add("-S", "--stride-size", **count, help="events between window starts")
    add("--carry", **size, help="consecutive windows that the hidden state is carried over")
    add("-t", "--use-transposition", action=switch, help="transpose by -5 to 6 semitones")
    add(
        "--stretch",
        type=Number(float, 0, 0.5),
        metavar="SHARE",
        help="change the tempo of windows by up to this share; 0.05 is 5%%",
    )
    add(
        "--controls",
        metavar="NAMES",
        help=f"controls of a new session, from {','.join(kind.name for kind in CONTROLS)}; "
        "by default all of them",
    )
    add("-c", "--control-ratio", **share, help="share of the windows that use their controls")
    add(
        "-T",
        "--teacher-forcing-ratio",
        **share,
        help="share of the input events that come from the data, not from the network",
    )


def _add_optimization_options(parser: Parser) -> None:
    """Add the options of the optimizer, and the limits of the training."""
    add = parser.add_argument_group("optimization").add_argument
    rate = Number(float, high=1, above=0)
    add("-l", "--learning-rate", type=rate, metavar="RATE", help="highest learning rate")
    add(
        "--warm-up",
        type=Number(int, 0, 2**53),
        metavar="STEPS",
        help="steps in which the learning rate rises, at most a tenth of the training",
    )
    add("--weight-decay", type=Number(float, 0, 1), metavar="DECAY", help="weight decay of AdamW")
    add(
        "--ema-decay",
        "--averaging",
        type=Number(float, 0, 0.999999),
        metavar="DECAY",
        help="decay per step of the moving average of the weights, which is used for evaluation "
        "and generation; 0: off",
    )
    add("-r", "--reset-optimizer", action="store_true", help="drop the saved state of AdamW")
    precision = "precision of the matrix products; auto: the fastest"
    add("--precision", choices=PRECISIONS, help=precision)
    limit = "stop at this step of the session"
    add("--max-steps", type=Number(int, 1, 2**53), metavar="N", help=limit)
    add(
        "--max-minutes",
        type=Number(float, above=0),
        metavar="MINUTES",
        help="stop after this training time of the session; the learning rate falls to 0",
    )


def _add_evaluation_options(parser: Parser) -> None:
    """Add the options of validation, --evaluate and --export."""
    positive = Number(float, above=0)
    add = parser.add_argument_group("evaluation").add_argument
    add("--validation-interval", type=positive, metavar="SECONDS", help="time between validations")
    patience = "stop after N validations without a new best"
    add("--patience", type=Number(int, 1, 2**53), metavar="N", help=patience)
    add("--evaluate", action="store_true", help="only print the metrics of the session on -d")
    add(
        "--include-training",
        action="store_true",
        help="with --evaluate: also on performances that were training data of the session",
    )
    export = "only write the network, in half precision, to FILE"
    add("--export", metavar="FILE", help=export)


def find_session_defaults(parser: Parser, path: Path) -> dict[str, Any]:
    """Return the options that a session goes on with if the command line does not give them.

    These are the ones of its last run and, if it started from another session, those for
    fine-tuning. A stored value that the command line would not accept is left out.
    """
    if not path.exists():
        return {}
    from training.sessions import load_last_run  # imports torch

    source, stored = load_last_run(path)
    usable = {n: stored[n] for n in RECIPE if n in stored and parser.accepts(n, stored[n])}
    return {**(config.FINE_TUNING if source else {}), **usable}


def parse_args(argv: Sequence[str] | None = None) -> TrainConfig:
    """Parse the command line; an error ends the program with one line and exit status 2."""
    parser = build_parser()
    options = TrainConfig(**vars(parser.parse_args(argv)))
    is_training = not (options.evaluate or options.export)
    if options.tune:
        source = str(Path(__file__).parent / PRETRAINED)
        parser.set_defaults(init_from=source, **config.FINE_TUNING, **config.TUNING)
    elif options.init_from:
        parser.set_defaults(**config.FINE_TUNING)
    elif options.max_minutes is not None and options.max_minutes <= config.SHORT_MINUTES:
        parser.set_defaults(**config.SHORT_TRAINING)
    if is_training:
        parser.set_defaults(**find_session_defaults(parser, Path(options.session)))
    options = TrainConfig(**vars(parser.parse_args(argv)))
    try:
        if not Path(options.session).name:
            raise ValueError(f"argument -s/--session: {options.session!r} is not a file name")
        if options.evaluate and options.export:
            raise ValueError("argument --export: not together with --evaluate")
        check_tuning(options)
        if options.init_from and not is_training:
            raise ValueError("argument --init-from: only for training")
        if options.json and not options.evaluate:
            raise ValueError("argument --json: only with --evaluate")
        config.parse_model_params(options.model_params)
        if options.controls:
            parse_controls(options.controls)
        if options.device != "auto":
            from model import pick_device  # imports torch

            pick_device(options.device)
    except ValueError as error:
        parser.error(str(error))
    return options


def check_tuning(options: TrainConfig) -> None:
    """Raise ValueError for options that do not go with --tune."""
    if not options.tune:
        return
    for flag, value, default in (
        ("-d/--dataset", options.dataset, TrainConfig.dataset),
        ("-v/--validation", options.validation, None),
        ("--evaluate", options.evaluate, False),
        ("--export", options.export, ""),
    ):
        if value != default:
            raise ValueError(f"argument {flag}: not together with --tune")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("argument --tune: not with several processes")


if __name__ == "__main__":
    parse_args()  # before the slow imports: --help and errors in the command line come at once

import numpy as np
import progress.bar

from analysis.profile import TrainProfile
from corpus.batches import Batch, WindowSampler
from corpus.dedup import Fingerprint, find_copies, find_pieces
from corpus.manifest import check_complete
from corpus.performance import Corpus, hold_out
from generation.control import parse_control
from generation.control_metrics import evaluate_controls, generate_samples
from generation.int8 import round_weights
from midi.harmony import parse_scale_or_chord
from midi.pianoroll import draw_piano_roll
from model import PerformanceRNN, Session, pick_device
from training.distributed import Distributed, exit_process, is_connection_error
from training.evaluate import (
    EvalResult,
    evaluate_choices,
    format_results_table,
    list_visible_controls,
)
from training.logger import (
    LoggedSample,
    Logger,
    format_reference,
    format_time,
    get_log_dir,
    render_sample,
)
from training.sessions import (
    check_encoding,
    check_export_path,
    choose_precision,
    extend_history,
    format_sizes,
    get_best_path,
    get_source,
    has_new_train_data,
    has_same_windows,
    load_history,
    load_state,
    lock_sessions,
    open_session,
    print_changes,
    print_seen,
)
from training.trainer import (
    EVAL_EVENTS,
    ONE_PROCESS,
    NotFiniteError,
    Schedule,
    StepOptions,
    StepResult,
    Trainer,
    pick_precision,
)
from training.tuning import convert_songs, generate_pieces, get_data_dir, get_music_dir

# the sample that each validation adds to the logs
SAMPLE_CONTROL = Control(parse_scale_or_chord("C major"), 3)
SAMPLE_EVENTS = 400
TUNE_EVAL_EVENTS = 8000  # of all performances, in a validation of --tune with few of them


# ------------------------------------------------------------------------------- preparation


def prepare(
    options: TrainConfig, distributed: Distributed = ONE_PROCESS
) -> tuple[Trainer, WindowSampler, Corpus]:
    """Load the data and open or create the session.

    Returns the trainer, the sampler of the training data, and the validation data.
    Raises ValueError if data is missing, or does not fit the session or the options.
    """
    train_data, val_data = load_data(options)
    window = (options.window_size, options.stride_size, options.carry)
    process = (distributed.rank, distributed.world_size)
    check_data(options, WindowSampler(train_data, *window), val_data)
    trainer = build_trainer(options, train_data, val_data, distributed)
    layout = trainer.model.layout
    has_recall = trainer.model.config.recall_dim > 0
    train_data, val_data = (
        train_data.add_controls(layout, has_recall),
        val_data.add_controls(layout),
    )
    sampler = WindowSampler(train_data, *window, process, options.stretch, options.small_batches)
    return trainer, sampler, val_data


def find_data_files(folder: str, instead: str = "") -> list[Path]:
    """Return the .data files of a folder and its subfolders.

    Raises ValueError if there are none, if preprocess.py has not completed the folder, or if it is
    the parent folder of a split. `instead` says what to use in place of such a folder.
    """
    root = Path(folder)
    is_subset = root.name in SUBSETS and (root.parent / SPLIT_FILE).exists()
    if not root.is_dir() and not is_subset:
        raise ValueError(
            f"no folder {folder!r}: preprocess.py makes .data files from MIDI files; "
            f"to download MIDI files: {FETCH_COMMAND}"
        )
    if (root / SPLIT_FILE).exists():
        raise ValueError(
            f"{folder!r} is split into subsets, and one of them is the test data: use {instead}"
        )
    paths = list(utils.find_files(folder, (DATA_SUFFIX,))) if root.is_dir() else []
    check_complete([root / "x", *paths])
    if not paths and is_subset:
        raise ValueError(f"{folder!r} is empty: the split has too few pieces, or no share for it")
    if not paths:
        raise ValueError(
            f"no {DATA_SUFFIX} files in {folder!r}: preprocess.py makes them from MIDI files; "
            f"to download MIDI files: {FETCH_COMMAND}"
        )
    return paths


def load_data(options: TrainConfig) -> tuple[Corpus, Corpus]:
    """Return the training data and the validation data, which have no performance in common.

    Raises ValueError if there are no files, or if a folder is the parent folder of a split.
    """
    dataset = Path(options.dataset)
    train, val = (str(dataset / subset) for subset in SUBSETS[:2])
    train_paths = find_data_files(options.dataset, f"-d {train} -v {val}")
    if options.validation is not None:
        instead = f"-v {Path(options.validation) / SUBSETS[1]}"
        val_paths = find_data_files(options.validation, instead)
    else:
        pieces = find_tuning_pieces(train_paths) if options.tune else None
        train_paths, val_paths = hold_out(train_paths, dataset, options.validation_share, pieces)
    # loaded together, because Corpus.load rejects files in different encodings
    performances = Corpus.load([*train_paths, *val_paths]).performances
    count = len(train_paths)
    train_data, val_data = Corpus(performances[:count]), Corpus(performances[count:])
    return leave_out_validation(train_data, train_paths, val_data, val_paths), val_data


def find_tuning_pieces(paths: Sequence[Path]) -> list[tuple[int, ...]] | None:
    """Return the numbers of the files of each piece; None if there are not two pieces.

    For a few files only: it reads all events.
    """
    fingerprints = [Fingerprint.compute(p) for p in Corpus.load(paths).performances]
    pieces = [piece.members for piece in find_pieces(fingerprints)[0]]
    if len(pieces) > 1:
        return pieces
    if len(paths) > 1:
        print_line(
            f"all {len(paths)} files are of one piece, so the validation loss is too low: "
            "add other pieces"
        )
    return None


def leave_out_validation(
    train_data: Corpus, train_paths: Sequence[Path], val_data: Corpus, val_paths: Sequence[Path]
) -> Corpus:
    """Return the training data without the performances that are in the validation data, too.

    The same performance is the same file, or made from the same MIDI file, or has the same events.
    Raises ValueError if no other performance is left.
    """
    val_files = {os.path.realpath(path) for path in val_paths}
    val_sources = set(val_data.sources)
    is_copy = find_copies(train_data.performances, val_data.performances)
    is_both = [
        copy or source in val_sources or os.path.realpath(path) in val_files
        for path, source, copy in zip(train_paths, train_data.sources, is_copy, strict=True)
    ]
    if not any(is_both):
        return train_data
    first = train_paths[is_both.index(True)]
    if all(is_both):
        raise ValueError(
            f"all training performances are validation data, too, such as {first}: use other "
            "folders with -d and -v"
        )
    count = utils.format_count(sum(is_both), "performance is", "performances are")
    print_line(
        f"{count} both in the training and the validation data: not trained on, such as {first}"
    )
    return Corpus([p for p, both in zip(train_data.performances, is_both, strict=True) if not both])


def check_data(options: TrainConfig, sampler: WindowSampler, val_data: Corpus) -> None:
    """Raise ValueError if the data is too little for the options, or does not fit them."""
    if options.stretch and sampler.corpus.encoding is not CURRENT:
        raise ValueError(
            f"--stretch needs data in the current encoding, but {options.dataset!r} is in the "
            "original's: convert the MIDI files again without --legacy"
        )
    if len(sampler) < options.batch_size:
        raise ValueError(
            f"{options.dataset!r} has {len(sampler)} windows of {options.window_size} events in "
            f"{len(sampler.corpus)} training files, but a batch needs {options.batch_size}: "
            "add data, or use a smaller -b or -w"
        )
    has_limit = options.max_steps or options.max_minutes
    if options.patience and not (len(val_data) or has_limit):
        raise ValueError(
            "without validation data --patience cannot end the training: "
            "use -v, add a second file, or set --max-minutes"
        )


def build_trainer(
    options: TrainConfig, train_data: Corpus, val_data: Corpus, distributed: Distributed
) -> Trainer:
    """Open or create the session; return a trainer that continues it with these options.

    Raises ValueError if the session is invalid or does not fit the data or the options.
    """
    path, device = Path(options.session), distributed.select_device(pick_device(options.device))
    params, encoding = options.model_params, train_data.encoding
    session = open_session(
        path, encoding, distributed, params, options.init_from, options.seed, options.controls
    )
    sizes = config.parse_model_params(params, session.config)  # only the dropout may differ
    recipe = {name: getattr(options, name) for name in RECIPE}
    changeable = recipe | {"gru_dropout": sizes.gru_dropout}
    if options.precision != "auto":
        changeable["precision"] = options.precision
    print_changes(session, changeable, options.reset_optimizer)

    eval_events = choose_eval_events(options, val_data)
    more_events = f" {eval_events}" if eval_events != EVAL_EVENTS else ""
    state = load_state(session, val_data.fingerprint + more_events)
    is_new_data = has_new_train_data(session, train_data)
    if is_new_data:
        state = replace(state, stale_validations=0, lr_scale=1.0)
    facts = [state.step, state.best, state.stale_validations, train_data.events, val_data.events]
    if not distributed.is_equal_in_all(facts):
        raise ValueError(
            f"the processes do not read the same files: {path}, {options.dataset} and the "
            "validation data must be in folders that all machines share"
        )
    trainer = Trainer(
        replace(session, config=sizes).build_model(device, ema=False),
        StepOptions(
            choose_precision(options.precision, session, device, distributed),
            options.weight_decay,
            options.ema_decay,
            options.teacher_forcing_ratio,
            options.seed,
        ),
        state,
        distributed,
        encoding,
        {
            "train_data": train_data.fingerprint,
            "options": recipe,
            **get_source(session),
            **extend_history(session, train_data),
        },
    )
    print_seen(session, val_data)
    if is_new_data:
        print_line("the training data has changed: training goes on with new windows")
    # the hidden state is only for windows that continue the last ones of the session
    with_hidden = has_same_windows(session, recipe) and not is_new_data
    trainer.restore(path, session, with_hidden, with_optimizer=not options.reset_optimizer)
    return trainer


def make_schedule(options: TrainConfig) -> Schedule:
    """Return the schedule of the learning rate, with the limits of the training."""
    limits = (options.max_steps, options.max_minutes, options.patience)
    return Schedule(options.learning_rate, options.warm_up, *limits)


@contextlib.contextmanager
def open_batches(
    trainer: Trainer, sampler: WindowSampler, options: TrainConfig
) -> Iterator[Iterator[Batch]]:
    """Iterate over batches, from the trainer's step on; a thread prepares the next batch."""

    def load(step: int) -> Batch:
        packed = sampler.sample_batch(
            options.batch_size, options.seed, step, options.control_ratio, options.use_transposition
        )
        return packed.to_device(trainer.model.device, trainer.encoding, trainer.model.layout)

    def iterate(pool: ThreadPoolExecutor, first: int) -> Iterator[Batch]:
        upcoming = pool.submit(load, first)
        for step in itertools.count(first + 1):
            current, upcoming = upcoming, pool.submit(load, step)
            yield current.result()

    with ThreadPoolExecutor(1) as pool:
        yield iterate(pool, trainer.state.step)


# ---------------------------------------------------------------------------------- training


@contextlib.contextmanager
def catch_signals() -> Iterator[threading.Event]:
    """Set an event at Ctrl-C, SIGTERM or SIGHUP instead of ending, so that training can save.

    The next such signal has its usual effect again. `nohup` ignores SIGHUP, and that stays so.
    """
    stop, numbers = threading.Event(), [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with contextlib.ExitStack() as restore_handlers:

        def catch(number: int, frame: FrameType | None) -> None:
            restore_handlers.close()
            stop.set()

        for number in numbers:
            restore_handlers.callback(signal.signal, number, signal.getsignal(number))
        for number in numbers:
            signal.signal(number, catch)
        yield stop


def train(
    trainer: Trainer,
    batches: Iterator[Batch],
    val_data: Corpus,
    logger: Logger,
    stop: threading.Event,
    options: TrainConfig,
) -> None:
    """Train until a limit or a signal; save at intervals, at the end and after an error."""
    path, schedule, distributed = Path(options.session), make_schedule(options), trainer.distributed
    started_at = validated_at = saved_at = time.monotonic()
    seconds_before = trainer.state.seconds
    interval = options.validation_interval
    if options.max_minutes is not None:
        interval = min(interval, 6 * options.max_minutes)  # a tenth of the training
    unread: list[StepResult] = []  # read one step later, so that a GPU need not wait
    is_first = True  # validation of this run
    eval_events = choose_eval_events(options, val_data)
    try:
        validate_before(trainer, val_data, logger, path, eval_events)
        while True:
            now = time.monotonic()
            is_stopped, seconds, needs_validation, needs_saving = synchronize(
                distributed,
                stop.is_set(),
                seconds_before + now - started_at,
                now - validated_at > (interval if is_first else options.validation_interval),
                now - saved_at > options.saving_interval,
            )
            trainer.set_seconds(seconds)
            if is_stopped:
                break
            if needs_validation:
                is_better = validate(trainer, val_data, logger, path, eval_events)
                if options.tune and not is_better:
                    go_back(trainer, logger, path)
                validated_at, is_first = time.monotonic(), False
            if needs_validation or needs_saving:
                trainer.save(path)
                saved_at = time.monotonic()
            if schedule.is_finished(trainer.state):
                break

            lr = schedule.compute_learning_rate(trainer.state)
            unread.append(trainer.step(next(batches), lr))
            if len(unread) > 1:
                log_step(unread.pop(0), logger, path)
        for result in unread:
            log_step(result, logger, path)
        trainer.save(path)
        if not is_stopped:
            validate(trainer, val_data, logger, path, eval_events)
            trainer.save(path)
    except NotFiniteError:
        raise
    except Exception:
        trainer.save(path, collective=False)
        raise


def synchronize(distributed: Distributed, is_stopped: bool, *clock: float) -> list[float]:
    """Return whether any process was stopped, then the clock of the main process.

    So all processes take the same decisions.
    """
    values = [is_stopped, *(distributed.is_main * value for value in clock)]
    return [float(value) for value in distributed.sum(np.array(values))]


def log_step(result: StepResult, logger: Logger, path: Path) -> None:
    """Wait for the result of a step and log it.

    path: the session file, for the message of NotFiniteError, which is raised if the loss or the
    gradients are not finite.
    """
    loss, grad_norm = float(result.loss), float(result.grad_norm)
    if not math.isfinite(loss + grad_norm):
        raise NotFiniteError(path, result.state.step)
    logger.log_step(result.state, loss, grad_norm, result.lr)


def choose_eval_events(options: TrainConfig, val_data: Corpus) -> int:
    """Return how many events of each performance a validation measures."""
    if not options.tune:
        return EVAL_EVENTS
    return max(EVAL_EVENTS, TUNE_EVAL_EVENTS // max(1, len(val_data)))


def validate_before(
    trainer: Trainer, val_data: Corpus, logger: Logger, path: Path, max_events: int
) -> None:
    """Evaluate a session that starts from another one before its first step.

    So the result of fine-tuning is never worse than its start. path: the session file;
    max_events: of each performance.
    """
    if trainer.state.step or not (trainer.metadata.get("init_from") and len(val_data)):
        return
    result = trainer.evaluate(val_data, max_events)
    trainer.set_start(result)
    trainer.save_best(get_best_path(path))
    logger.log_start(trainer.state, result)


def validate(
    trainer: Trainer, val_data: Corpus, logger: Logger, path: Path, max_events: int
) -> bool:
    """Evaluate the averaged weights, log the result, and save the weights if they are the best.

    path: the session file; max_events: of each performance. Returns whether they are the best.
    Without validation data, or without a new step, nothing happens, and it returns True.
    """
    if not len(val_data) or trainer.validated_step == trainer.state.step:
        return True
    result = trainer.evaluate(val_data, max_events)
    is_best = trainer.update_best(result)
    if is_best:
        trainer.save_best(get_best_path(path))

    def make_sample() -> LoggedSample:
        values: dict[str, list[Any]] = {
            "density": [SAMPLE_CONTROL.note_density],
            "histogram": [SAMPLE_CONTROL.pitch_histogram],
        }
        (events,) = generate_samples(trainer.ema, trainer.encoding, values, SAMPLE_EVENTS, seed=0)
        notes = events.to_note_seq()
        requested = parse_control("C major;3")
        title = f"step {trainer.state.step}, C major, density 3"
        picture = draw_piano_roll(notes, title, requested)
        audio, rate = render_sample(notes)
        profile = TrainProfile.from_record(trainer.train_profile)
        if profile is None:
            return LoggedSample(picture, audio=audio, frame_rate=rate)
        passage = profile.index.find_longest(notes)
        copied = passage.notes if passage is not None else 0
        warning = profile.format_passage(passage) if copied > profile.copy_limit else ""
        return LoggedSample(picture, copied, warning, audio, rate)

    logger.log_validation(trainer.state, result, is_best, make_sample)
    logger.log_open_controls(trainer.state, trainer.evaluate_open(val_data))
    return is_best


def go_back(trainer: Trainer, logger: Logger, path: Path) -> None:
    """Continue from the best weights with a lower learning rate; path: the session file.

    The best rate depends on the music: it is low for music like the training data of the network.
    """
    best = get_best_path(path)
    if best.exists():
        trainer.go_back(Session.load(best).state)
        logger.log_go_back(trainer.state)


def format_corpus(corpus: Corpus) -> str:
    """Format the size of a corpus, such as `113,708 events in 9 files`."""
    return f"{corpus.events:,} events in {utils.format_count(len(corpus), 'file', 'files')}"


def train_session(options: TrainConfig, distributed: Distributed) -> None:
    """Open the session, train it, and print how to listen to it.

    Raises KeyboardInterrupt at the end of a --tune that was stopped by a signal.
    """
    trainer, sampler, val_data = prepare(options, distributed)
    print_line(
        f"train {format_corpus(sampler.corpus)} | val {format_corpus(val_data)} | "
        f"{trainer.model.device}, {trainer.options.precision}"
    )
    path, schedule = Path(options.session), make_schedule(options)
    if schedule.is_finished(trainer.state):
        print_line(
            f"{path}: training is finished: to continue, use a larger --max-steps, --max-minutes "
            "or --patience"
        )
        return
    if distributed.is_main:
        update_profile(trainer, sampler.corpus, val_data)
    logs = get_log_dir(path) if options.enable_logging else None
    with (
        open_batches(trainer, sampler, options) as batches,
        Logger(
            schedule,
            logs,
            is_silent=not distributed.is_main,
            pass_events=sampler.corpus.events,
            reference=format_reference(EventSeq.dim(), Path(__file__).parent / PRETRAINED),
        ) as logger,
        catch_signals() as stop,
    ):
        train(trainer, batches, val_data, logger, stop, options)
    print_result(trainer, path, options.control_ratio)
    if options.tune and stop.is_set():
        raise KeyboardInterrupt


def print_result(trainer: Trainer, path: Path, control_ratio: float) -> None:
    """Print the state of a training at its end; path: the session file."""
    state = trainer.state
    if math.isfinite(state.before) and math.isfinite(state.best):
        print_line(f"before {state.before:.3f}, now {state.best:.3f} nats/event")
        if state.step == 0:
            print_line("no time was left for a step: try a larger --max-minutes")
        elif state.best == state.before:
            print_line("no validation was better than before the training: try more music")
    print_line(f"{path}: step {state.step}, {format_time(state.seconds)}, {state.events:,} events")
    best = path
    if math.isfinite(state.best) and get_best_path(path).exists():
        best = get_best_path(path)
        print_line(f"best: {best}, {state.best:.3f} nats/event")
    needs_control = trainer.model.layout.is_plain and control_ratio == 1
    print_line(f"to hear it: {format_generate_command(best, needs_control)}")


def update_profile(trainer: Trainer, train_data: Corpus, val_data: Corpus) -> None:
    """Give the session a profile of the training data, if it has none of this data yet.

    The profile of a session that was trained on other data before knows that data, too.
    """
    earlier = TrainProfile.from_record(trainer.train_profile)
    if earlier is not None and earlier.fingerprint == train_data.fingerprint:
        return
    profile = TrainProfile.build(train_data, val_data)
    if profile is not None:
        profile = profile if earlier is None else profile.add(earlier)
        trainer.train_profile = profile.to_record()


def format_generate_command(session: Path, needs_control: bool) -> str:
    """Format a command that generates music; with a control if nothing else was trained."""
    control = ["-c", "C major;3"] if needs_control else []
    return shlex.join(["python3", "generate.py", "-s", str(session), *control])


# ---------------------------------------------------------------------------------- commands


def run_training(options: TrainConfig) -> int:
    """Train, also as one of several processes; only the main process writes files and prints."""
    path = Path(options.session)
    with Distributed.join() as distributed, contextlib.ExitStack() as stack:
        if distributed.is_main:
            stack.enter_context(lock_sessions(path, get_best_path(path)))
        else:
            nothing = stack.enter_context(utils.open_null())
            stack.enter_context(contextlib.redirect_stdout(nothing))
        try:
            train_session(options, distributed)
        except RuntimeError as error:
            if distributed.world_size > 1 and is_connection_error(error):
                raise ValueError(f"lost another process of the training ({error})") from error
            raise
    return 0


def tune_session(options: TrainConfig) -> int:
    """Convert a folder of MIDI files, fine-tune the session on them, and write pieces to hear."""
    path = Path(options.session)
    convert_songs(Path(options.tune), path, options.quiet)
    run_training(replace(options, dataset=str(get_data_dir(path))))
    best = get_best_path(path)
    generate_pieces(path, best if best.exists() else path, options.quiet)
    print_line(f"listen to the music in {get_music_dir(path)}")
    return 0


def evaluate_session(options: TrainConfig) -> dict[str, Any]:
    """Print the metrics of a session on the .data files of a folder that it was not trained on.

    Returns them as a record for JSON.
    """
    path, dataset = Path(options.session), options.dataset
    instead = f"-d {Path(dataset) / SUBSETS[2]}, or another subset"
    session, corpus = Session.load(path), Corpus.load(find_data_files(dataset, instead))
    check_encoding(path, session, corpus.encoding)
    model = session.build_model(pick_device(options.device))
    corpus = corpus.add_controls(model.layout)
    print_line(f"{path}: step {session.training.get('step', 0)} ({format_sizes(session.config)})")
    print_line(f"{dataset}: {format_corpus(corpus)}")
    corpus, mark, note = choose_held_out(session, corpus, options.include_training)
    print_line(note)
    results = {
        f"{label}{mark}": result
        for label, result in evaluate_visible(model, corpus, options.precision).items()
    }
    for line in format_results_table(results).splitlines():
        print_line(line)
    if mark:
        print_line(f"{mark} {note}")
    print_line("generated to a control, with the defaults of generate.py:")
    lines = []
    for line in evaluate_controls(model, corpus.encoding):
        print_line(f"  {line}")
        lines.append(line)
    return {
        "session": str(path),
        "step": session.training.get("step", 0),
        "data": dataset,
        "performances": len(corpus),
        "is_training_data": {"": False, "*": True}.get(mark),  # null: unknown
        "note": note,
        "results": {label.removesuffix(mark): r.to_record() for label, r in results.items()},
        "generated": lines,
    }


def evaluate_visible(
    model: PerformanceRNN, corpus: Corpus, precision: str = "auto"
) -> dict[str, EvalResult]:
    """Evaluate a network with fewer and fewer controls, by label; show the progress."""
    if precision == "auto":
        precision = pick_precision(model.device)
    choices = list_visible_controls(model.layout)
    with progress.bar.Bar(
        "evaluating", max=1, suffix="%(percent)d%%  %(eta_td)s", file=sys.stderr
    ) as bar:
        results = evaluate_choices(
            model, corpus, list(choices.values()), precision=precision, show_progress=bar.goto
        )
    return dict(zip(choices, results, strict=True))


def choose_held_out(
    session: Session, corpus: Corpus, include_training: bool
) -> tuple[Corpus, str, str]:
    """Return the performances to evaluate, a mark for their figures, and a sentence about them.

    These are the ones that the session was not trained on. If there are none, or with
    `include_training`, it is the whole corpus. The mark is "" if none was training data.
    """
    history = load_history(session, corpus)
    is_seen = [history.has(source) for source in corpus.sources]
    seen, count = sum(is_seen), utils.format_count(len(corpus), "performance", "performances")
    doubt = "" if history.is_complete else "; others may be: the session does not record all of it"
    if not seen and history.is_complete:
        return corpus, "", f"none of {count} was training data of this session"
    if not seen:
        return corpus, "?", f"{count} may be training data: the session does not record all of it"
    if seen == len(corpus) or include_training:
        return corpus, "*", f"{seen:,} of {count} were training data of this session{doubt}"
    held_out = [p for p, seen in zip(corpus.performances, is_seen, strict=True) if not seen]
    note = (
        f"{seen:,} of {count} were training data of this session and are left out; "
        f"--include-training keeps them{doubt}"
    )
    return Corpus(held_out), "" if history.is_complete else "?", note


def export_session(options: TrainConfig) -> int:
    """Write a session with only the averaged weights, in half precision.

    They are first rounded as generate.py rounds them.
    """
    session = Session.load(options.session)
    weights = round_weights(session.ema_state or session.state)
    state = {name: weight.half() for name, weight in weights.items()}
    with lock_sessions(Path(options.export)):
        check_export_path(Path(options.export), Path(options.session))
        exported = Session(
            session.config,
            state,
            session.encoding,
            training=session.training,
            controls=session.controls,
            train_profile=session.train_profile,
        )
        exported.save(options.export)
    print_line(f"{options.export}: the network of {options.session} in half precision")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = parse_args(argv)

    def run() -> int:
        with utils.redirect_messages(options.quiet, options.json) as stdout:
            if options.evaluate:
                record = evaluate_session(options)
                if options.json:
                    stdout.write(json.dumps(record) + "\n")
                return 0
            if options.export:
                return export_session(options)
            return tune_session(options) if options.tune else run_training(options)

    message = "interrupted; the session file is as it was last saved"
    return utils.run_command("train.py", run, message)


if __name__ == "__main__":
    exit_process(main())
