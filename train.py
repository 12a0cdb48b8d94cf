"""Train a session on a folder of .data files, or continue its training.

examples:
  python3 train.py -s model.sess --max-minutes 60
  python3 train.py -s mine.sess --init-from pretrained.sess --max-minutes 10
  python3 train.py -s model.best.sess -d dataset/processed/test --evaluate
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor

import config
import utils
from config import DEVICES, PRECISIONS, TrainConfig
from corpus.performance import Corpus
from generation.control import parse_scale_or_chord
from generation.control_metrics import evaluate_controls, generate_samples
from generation.engine import round_weights
from midi import pianoroll as render
from model import Session, pick_device
from sequence import Control
from training.distributed import Team, end
from training.evaluate import evaluate
from training.logger import Board, TrainState
from training.trainer import (
    Failure,
    NotFinite,
    Run,
    alone,
    best_path,
    data_files,
    finished,
    for_other_data,
    learning_rate,
    open_run,
    spoiled,
    told,
)
from utils import Number, Parser

SAMPLE = Control(
    parse_scale_or_chord("C major"), 3
)  # what the log's music is asked for
SAMPLE_EVENTS = 400


class Ending:
    """Turns Ctrl-C and SIGTERM into a wish that the loop sees; a second one is not waited for."""

    def __init__(self) -> None:
        self.wished = False
        self._before = {
            s: signal.signal(s, self._wish) for s in (signal.SIGINT, signal.SIGTERM)
        }

    def _wish(self, number: int, frame: FrameType | None) -> None:
        self.wished = True
        self.restore()

    def restore(self) -> None:
        """Give the signals back to who had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


Step = tuple[
    TrainState, Tensor, Tensor, float
]  # how far it came, loss, gradient norm, rate


def train(run: Run, board: Board, ending: Ending) -> None:
    """Train until the end is reached or wished for, and save, also after a failure."""
    try:
        wished = _steps(run, board, ending)
    except NotFinite:
        raise
    except Exception:
        run.save(together=False)
        raise
    run.save()
    if not wished:
        _judge_and_keep(run, board)
        run.save()  # with the judgement


@dataclass(frozen=True)
class _Order:
    """What is next, and how long the training has lasted: as the leader says, but for the end."""

    seconds: float
    end: float  # of how many processes it is wished for from outside
    judge: float
    save: float


def _steps(run: Run, board: Board, ending: Ending) -> bool:
    """Train; whether the end was wished for from outside."""
    options = run.options
    begun, before = time.monotonic(), run.reached.seconds
    saved = judged = begun
    unread: list[
        Step
    ] = []  # a step is read after the next is begun, so that no GPU has to wait
    while True:
        now = time.monotonic()
        leads = run.team.leads
        order = _Order(
            leads * (before + now - begun),
            ending.wished,
            leads * (now - judged > options.validation_interval),
            leads * (now - saved > options.saving_interval),
        )
        order = _Order(*run.team.summed(np.array(list(vars(order).values()))).tolist())
        run.reached = replace(run.reached, seconds=order.seconds)
        if order.end:
            break
        if order.judge:
            _judge_and_keep(run, board)
            judged = time.monotonic()
        if order.judge or order.save:
            run.save()  # a judgement with the best that it found
            saved = time.monotonic()
        if finished(options, run.reached):
            break
        unread.append(_step(run))
        if len(unread) > 1:
            _read(run, board, unread.pop(0))
    for step in unread:
        _read(run, board, step)
    return bool(order.end)


def _step(run: Run) -> Step:
    """Begin a step, which the device may still be at."""
    options, reached = run.options, run.reached
    rate = learning_rate(options, reached)
    loss, norm = run.learn()
    events = run.team.size * options.window_size * options.batch_size
    run.reached = replace(
        reached, step=reached.step + 1, events=reached.events + events
    )
    return run.reached, loss, norm, rate


def _read(run: Run, board: Board, step: Step) -> None:
    """Wait for a step, and show it; NotFinite if it spoiled the network."""
    reached, loss, norm, rate = step
    if not math.isfinite(float(loss + norm)):
        raise NotFinite(spoiled(run.options, reached))
    board.step(reached, float(loss), float(norm), rate)


def _judge_and_keep(run: Run, board: Board) -> None:
    """Validate, and keep the network if it is the best so far."""
    if not len(run.judges):
        return
    if run.judged == run.reached.step:
        return
    run.judged, judgement = run.reached.step, run.evaluate()
    if judgement.nats_per_event < run.reached.best:
        run.reached = replace(run.reached, best=judgement.nats_per_event, worse=0)
        run.save_best()
    else:
        run.reached = replace(run.reached, worse=run.reached.worse + 1)
    board.judged(run.reached, judgement, _picture(run))


def _picture(run: Run) -> bytes:
    """A piano roll of what the network plays by now, for the log."""
    if not (run.options.enable_logging and run.team.leads):
        return b""
    encoding = run.windows.corpus.encoding
    (notes,) = generate_samples(
        run.learner.averaged, encoding, [SAMPLE], SAMPLE_EVENTS, seed=0
    )
    return render.draw_piano_roll(notes, f"step {run.reached.step}, C major, density 3")


def _last_words(run: Run) -> Iterator[str]:
    path = best_path(run.options.session)
    reached = run.reached
    yield (
        f"{run.options.session}: step {reached.step}, {reached.seconds / 60:.1f} min, "
        f"{reached.events:,} events"
    )
    listen = (
        path if math.isfinite(reached.best) and path.exists() else run.options.session
    )
    if listen is path:
        yield f"best: {path}, {reached.best:.4f} nats an event"
    yield f"to hear it: python3 generate.py -s {listen}"


def _evaluate(options: TrainConfig) -> int:
    """Print how good a session is by all data of a folder; nothing is changed."""
    session, corpus = (
        Session.load(options.session),
        Corpus.load(data_files(Path(options.dataset))),
    )
    if session.encoding != corpus.encoding.version:
        raise Failure(
            for_other_data(Path(options.session), session.encoding, corpus.encoding)
        )
    model = session.build_model(pick_device(options.device))
    print(
        f"{options.session}: {told(session.config)}, step {session.training.get('step', 0)}"
    )
    for controlled in (True, False):
        print("with control:" if controlled else "without control:")
        print(*evaluate(model, corpus, None, controlled).lines(), sep="\n")
    print("playing to a control:")
    print(*evaluate_controls(model, corpus.encoding), sep="\n")
    return 0


def _export(options: TrainConfig) -> int:
    """Write the network of a session alone, in half precision, and rounded to how it is played."""
    session = Session.load(options.session)
    state = round_weights(session.ema_state or session.state)
    half = {name: weight.half() for name, weight in state.items()}
    network = Session(session.config, half, session.encoding, training=session.training)
    with alone(options.export):
        network.save(options.export)
    print(f"{options.export}: the network of {options.session}, in half precision")
    return 0


def build_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser("train.py", __doc__ or "", TrainConfig())
    share, positive, count = Number(float, 0, 1), Number(float, above=0), Number(int, 1)
    size, switch = Number(int, 1, 1_000_000), argparse.BooleanOptionalAction

    add = parser.add_argument_group("input and output").add_argument
    add(
        "-s",
        "--session",
        metavar="FILE",
        help="session file, made if it does not exist",
    )
    add("-d", "--dataset", metavar="DIR", help="folder of .data files to train on")
    add(
        "-v", "--validation", metavar="DIR", help="folder of .data files to validate on"
    )
    add(
        "--validation-share",
        type=Number(float, 0, 0.9),
        metavar="SHARE",
        help="without -v: share of the performances to validate on",
    )
    add(
        "--init-from",
        metavar="FILE",
        help="start a new session from the network of this one, with defaults for fine-tuning: "
        "-l 0.0005 -t --patience 5 --validation-interval 30",
    )
    add(
        "-i",
        "--saving-interval",
        type=Number(float, 0),
        metavar="SECONDS",
        help="time between saves",
    )
    add("-L", "--enable-logging", action=switch, help="write TensorBoard logs to runs/")

    add = parser.add_argument_group("model").add_argument
    add(
        "-p",
        "--model-params",
        metavar="K=V,..",
        help="sizes of a new network: hidden_dim=256,gru_layers=2",
    )

    add = parser.add_argument_group("data").add_argument
    add(
        "-b",
        "--batch-size",
        type=Number(int, 1, 65536),
        metavar="N",
        help="windows per batch",
    )
    add("-w", "--window-size", type=size, metavar="N", help="events per window")
    add(
        "-S",
        "--stride-size",
        type=count,
        metavar="N",
        help="events between window starts",
    )
    add(
        "--carry",
        type=size,
        metavar="N",
        help="windows in a row that carry the hidden state",
    )
    add(
        "-t",
        "--use-transposition",
        action=switch,
        help="transpose by -5 to 6 semitones",
    )
    add(
        "--stretch",
        type=Number(float, 0, 0.5),
        metavar="SHARE",
        help="change the tempo by up to this share; 0.05 is 5%%",
    )
    add(
        "-c",
        "--control-ratio",
        type=share,
        metavar="SHARE",
        help="share of the windows that are trained with control",
    )
    add(
        "-T",
        "--teacher-forcing-ratio",
        type=share,
        metavar="SHARE",
        help="share of the input events that come from the data, not from the network",
    )

    add = parser.add_argument_group("optimization").add_argument
    add(
        "-l",
        "--learning-rate",
        type=Number(float, high=1, above=0),
        metavar="RATE",
        help="highest learning rate",
    )
    add(
        "--warm-up",
        type=Number(int, 0),
        metavar="STEPS",
        help="steps of rising learning rate, at most a tenth of the training",
    )
    add("--weight-decay", type=share, metavar="DECAY", help="weight decay of AdamW")
    add(
        "--ema-decay",
        "--averaging",
        type=Number(float, 0, 0.999999),
        metavar="DECAY",
        help="decay of the moving average of the weights, with which the session is evaluated and "
        "generates music; 0: off",
    )
    add(
        "-r",
        "--reset-optimizer",
        action="store_true",
        help="drop the saved state of AdamW",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="precision of the matrix products; auto: the fastest",
    )
    add("--max-steps", type=count, metavar="N", help="stop at this step of the session")
    add(
        "--max-minutes",
        type=positive,
        metavar="MINUTES",
        help="stop after this training time of the session; the learning rate falls to 0",
    )

    add = parser.add_argument_group("evaluation").add_argument
    add(
        "--validation-interval",
        type=positive,
        metavar="SECONDS",
        help="time between validations",
    )
    add(
        "--patience",
        type=count,
        metavar="N",
        help="stop after N validations without a new best",
    )
    add(
        "--evaluate",
        action="store_true",
        help="only print the metrics of the session on -d",
    )
    add(
        "--export",
        metavar="FILE",
        help="only write the network, in half precision, to FILE",
    )

    add = parser.add_argument_group("other").add_argument
    add("--seed", type=Number(int, 0, 2**63), metavar="N", help="random seed")
    add("--device", choices=DEVICES, help="device to run on")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> TrainConfig:
    """Parse the command line; a wrong one ends the program with one line and exit status 2."""
    parser = build_parser()
    options = TrainConfig(**vars(parser.parse_args(argv)))
    if options.init_from:
        parser.set_defaults(**config.FINE_TUNING)
        options = TrainConfig(**vars(parser.parse_args(argv)))
    try:
        config.parse_model_params(options.model_params)
        pick_device(options.device)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if it could not be done."""
    options = parse_args(argv)
    kind = _evaluate if options.evaluate else _export if options.export else _train
    verb = functools.partial(kind, options)
    stopped = "stopped at once; the session is as it was last saved"
    return utils.run_command("train.py", verb, stopped)


def _train(options: TrainConfig) -> int:
    """Open the session, train it, and say how to hear it."""
    team = Team.joined()
    try:
        if team.leads:
            with alone(options.session, best_path(options.session)):
                return _taught(options, team)
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            return _taught(options, team)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if team.size > 1:
            raise Failure(
                f"another process of the training is lost ({error})"
            ) from error
        raise
    finally:
        team.close()


def _taught(options: TrainConfig, team: Team) -> int:
    print(
        f"learning rate {options.learning_rate:g}, batches of {options.batch_size} windows of "
        f"{options.window_size} events (the original: {config.LEGACY_RECIPE})"
    )
    run = open_run(options, team)
    learner, judges, corpus = run.learner, run.judges, run.windows.corpus
    print(
        f"{corpus.events:,} events of {len(corpus)} performances to learn, {judges.events:,} "
        f"of {len(judges)} to judge by, on {learner.model.device} in {learner.precision}"
    )
    if finished(options, run.reached):
        print(
            f"{options.session} is at its end already: a larger --max-... or --patience"
        )
        return 0
    board, ending = Board(options, shown=team.leads), Ending()
    try:
        train(run, board, ending)
    finally:
        ending.restore()
        board.close()
    print(*_last_words(run), sep="\n")
    return 0


if __name__ == "__main__":
    end(main())
