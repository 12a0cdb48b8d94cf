"""Train a session on the `.data` files of a folder; start again with the same line to go on."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import config
import utils
from adherence import adherence
from board import Board, Reached
from config import ModelConfig, TrainConfig
from data import SUFFIX, Batch, Corpus, Windows, held_out
from judge import Judgement, judge
from learner import ALONE, TYPES, Learner, pick_precision
from model import PerformanceRNN, Session, pick_device
from sequence import CURRENT, ENCODINGS, Encoding
from team import Team

SCALER = "scaler "  # before the names of what fp16's loss scaling has to remember
EXCERPT = 1000  # events of each performance that are judged during training


class Failure(ValueError):
    """What the user has to put right, as one sentence."""


class NotFinite(Failure):
    """The network is spoiled: what the session file holds is better."""


# --------------------------------------------------------------------------------- training


def learning_rate(options: TrainConfig, reached: Reached) -> float:
    """Rises over the warm-up; with an end in sight, falls from then on in a line to zero."""
    over = 0.0
    if options.max_steps:
        over = reached.step / options.max_steps
    if options.max_minutes:
        over = max(over, reached.seconds / 60 / options.max_minutes)
    rising = min(1.0, max((reached.step + 1) / (options.warm_up + 1), 10 * over))
    return options.learning_rate * rising * max(0.0, 1 - over)


def finished(options: TrainConfig, reached: Reached) -> bool:
    """Whether --max-steps or --max-minutes is reached."""
    return (options.max_steps is not None and reached.step >= options.max_steps) or (
        options.max_minutes is not None and reached.seconds >= 60 * options.max_minutes
    )


@dataclass
class Run:
    """What a training run works with."""

    options: TrainConfig
    learner: Learner
    windows: Windows
    judges: Corpus
    reached: Reached
    team: Team = ALONE

    def __post_init__(self) -> None:
        self._ahead = ThreadPoolExecutor(1)  # cuts a batch while the one before is learned
        self._next = (self.reached.step, self._ahead.submit(self._batch, self.reached.step))

    def learn(self) -> tuple[Tensor, Tensor]:
        """One step; the loss and the norm of the gradient, still on the device."""
        options, (number, batch) = self.options, self._next
        self._next = (number + 1, self._ahead.submit(self._batch, number + 1))
        rate = learning_rate(options, self.reached)
        taught = options.teacher_forcing_ratio
        return self.learner.step(batch.result(), rate, taught, number, options.seed)

    def _batch(self, number: int) -> Batch:
        options = self.options
        packed = self.windows.batch(
            options.batch_size,
            options.seed,
            number,
            options.control_ratio,
            options.use_transposition,
        )
        return packed.on(self.learner.model.device, self.windows.corpus.encoding)

    def save(self, together: bool = True) -> None:
        """Write the session file; NotFinite if the network is spoiled.

        Without `together` nothing is asked of the rest of the team, which may be lost.
        """
        learner = self.learner
        if not learner.finite():
            raise NotFinite(_spoiled(self))
        carried = None
        if learner.hidden is not None and (together or self.team.size == 1):
            carried = self.team.gathered(learner.hidden)
        if not self.team.leads:
            return
        session = self._session(learner.model.state_dict())
        replace(
            session,
            optimizer_state=learner.optimizer.state_dict(),
            averaged=learner.averaged.state_dict(),
            carried=carried,
        ).save(self.options.session)

    def save_best(self) -> Path:
        """Write the averaged network alone beside the session file."""
        path = best_path(self.options.session)
        if self.team.leads:
            self._session(self.learner.averaged.state_dict()).save(path)
        return path

    def judge(self) -> Judgement:
        """How good the averaged network is; each process judges by its share of the pieces."""
        team = self.team
        share = Corpus(self.judges.performances[team.rank :: team.size])
        found = judge(self.learner.averaged, share, EXCERPT)
        counts, correct, costs = team.summed(np.stack([found.counts, found.correct, found.costs]))
        return Judgement(counts, correct, costs, self.judges.encoding)

    def _session(self, state: dict[str, Tensor]) -> Session:
        about: dict[str, Any] = {"seed": self.options.seed, "precision": self.learner.precision}
        about |= {SCALER + k: value for k, value in self.learner.scaler.state_dict().items()}
        return Session(
            self.learner.model.config,
            state,
            self.windows.corpus.encoding.version,
            training=asdict(self.reached) | about,
        )


def _spoiled(run: Run) -> str:
    return (
        f"the loss or the weights are no longer finite at step {run.reached.step}; "
        f"{run.options.session} holds the last good state: try a lower -l, or -r"
    )


def best_path(session: str) -> Path:
    """Where the best state of `model.sess` is kept: `model.best.sess`."""
    path = Path(session)
    return path.with_name(f"{path.stem}.best{path.suffix}")


def open_run(options: TrainConfig, team: Team = ALONE) -> Run:
    """Find the data and open or make the session; Failure says what is missing."""
    device = team.device(pick_device(options.device))
    learners, judges = _corpora(options)
    windows = Windows(
        learners, options.window_size, options.stride_size, options.carry, team.rank, team.size
    )
    if len(windows) < options.batch_size:
        raise Failure(
            f"{options.dataset!r} has {len(windows)} windows of {options.window_size} events "
            f"in {len(learners)} files to learn from, a batch needs {options.batch_size}; "
            "more data, or smaller -b or -w"
        )
    session = _together_opened(options, learners.encoding, team)
    reached = _judged_by(judges, _reached(options.session, session.training))
    learner = _learner(options, session, device, team)
    return Run(options, learner, windows, judges, reached, team)


def _learner(options: TrainConfig, session: Session, device: torch.device, team: Team) -> Learner:
    """The session's network with what it remembers of its training."""
    precision = options.precision
    if precision == "auto":  # once chosen it stays, for the result depends on it
        known = session.training.get("precision")
        precision = known if known in TYPES else pick_precision(device)
        (number,) = team.told([list(TYPES).index(precision)])
        precision = list(TYPES)[int(number)]
    learner = Learner(
        session.model(device, averaged=False),
        precision,
        options.averaging,
        options.weight_decay,
        team,
    )
    if session.averaged:
        learner.averaged.load_state_dict(session.averaged)
    if session.carried is not None:
        learner.hidden = team.part(session.carried).to(device)
    if learner.scaler.is_enabled() and SCALER + "scale" in session.training:
        known = {key: session.training[SCALER + key] for key in learner.scaler.state_dict()}
        learner.scaler.load_state_dict(known)
    if session.optimizer_state and not options.reset_optimizer:
        try:
            learner.restore(session.optimizer_state)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            why = str(error).split("\n")[0][:200]
            raise Failure(f"{options.session}: Adam's state does not fit ({why}); -r") from error
    return learner


def _reached(name: str, training: dict[str, Any]) -> Reached:
    """How far a session says it has come."""
    known = {key: training[key] for key in asdict(Reached()) if key in training}
    for key, value in known.items():
        if type(value) is not type(getattr(Reached(), key)):
            raise Failure(f"{name}: {key} is {value!r}")
    return Reached(**known)


def _judged_by(judges: Corpus, reached: Reached) -> Reached:
    """`reached`, without its best if that was judged by other performances."""
    if reached.judges == judges.fingerprint:
        return reached
    if reached.judges:
        print("other performances to judge by than before: the search for the best starts anew")
    return replace(reached, best=math.inf, judges=judges.fingerprint)


def _corpora(options: TrainConfig) -> tuple[Corpus, Corpus]:
    """What to learn from, and what to judge by."""
    root = Path(options.dataset)
    paths = list(_data_files(root))
    if options.validation is not None:
        others = list(_data_files(Path(options.validation)))
    else:
        paths, others = held_out(paths, root, options.validation_share)
    both = Corpus.load([*paths, *others]).performances
    return Corpus(both[: len(paths)]), Corpus(both[len(paths) :])


def _data_files(root: Path) -> Iterator[Path]:
    found = list(utils.find_files(root, (SUFFIX,))) if root.is_dir() else []
    if not found:
        raise Failure(
            f"no {SUFFIX} files in {str(root)!r}; preprocess.py makes them from MIDI files, "
            f"and this fetches some: {config.FETCH_COMMAND}"
        )
    yield from found


def _together_opened(options: TrainConfig, encoding: Encoding, team: Team) -> Session:
    """The session, opened by the leader first, who makes it if it is missing."""
    if team.leads:
        session = _opened(options, encoding)
    team.told([0])
    return session if team.leads else _opened(options, encoding)


def _opened(options: TrainConfig, encoding: Encoding) -> Session:
    """The session of the file, or a new one for data of `encoding`, written at once."""
    path = Path(options.session)
    utils.check_writable(path.parent)
    try:
        session = Session.load(path)
    except FileNotFoundError:
        if best_path(options.session).exists():
            raise Failure(
                f"there is no {path}, but {best_path(options.session)}, which a new session "
                "would overwrite: move it, or give another -s"
            ) from None
        torch.manual_seed(options.seed)
        sizes = config.model_config(options.model_params)
        session = Session(sizes, PerformanceRNN(sizes).initialised().state_dict(), encoding.version)
        session.save(path)
        print(f"new session {path}: {_told(sizes)}")
        return session
    if session.encoding != encoding.version:
        raise Failure(_for_other_data(path, session.encoding, encoding))
    wanted = config.model_config(options.model_params, session.config)
    if replace(wanted, gru_dropout=session.config.gru_dropout) != session.config:
        raise Failure(f"argument -p/--model-params: {path} was made with {_told(session.config)}")
    print(f"session {path}: {_told(wanted)}, step {session.training.get('step', 0)}")
    return replace(session, config=wanted)


def _for_other_data(path: Path, version: int, encoding: Encoding) -> str:
    flag = " --original" if ENCODINGS.get(version, CURRENT).floored else ""
    return (
        f"{path} is for data of encoding {version}, the data has {encoding.version}; "
        f"preprocess.py{flag} makes such data"
    )


def _told(sizes: ModelConfig) -> str:
    return ", ".join(f"{name}={value}" for name, value in asdict(sizes).items())


# ---------------------------------------------------------------------------------- the loop


class Ending:
    """Turns Ctrl-C and SIGTERM into a wish that the loop sees; a second one is not waited for."""

    def __init__(self) -> None:
        self.wished = False
        self._before = {s: signal.signal(s, self._wish) for s in (signal.SIGINT, signal.SIGTERM)}

    def _wish(self, number: int, frame: FrameType | None) -> None:
        self.wished = True
        self.restore()

    def restore(self) -> None:
        """Give the signals back to who had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


Step = tuple[Reached, Tensor, Tensor, float]  # how far it came, loss, gradient norm, rate


def train(run: Run, board: Board, ending: Ending) -> None:
    """Train until the end is reached or wished for, and save, also after a failure."""
    try:
        wished = _steps(run, board, ending)
    except NotFinite:
        raise
    except Exception as error:
        run.save(together=False)
        if run.team.size > 1 and isinstance(error, RuntimeError):
            raise Failure(f"another process of the training is lost ({error})") from error
        raise
    run.save()
    if not wished:
        _judge_and_keep(run, board)
        run.save()  # with the judgement


@dataclass(frozen=True)
class _Order:
    """What is next, and how long the training has lasted: as the leader says."""

    seconds: float
    end: float  # 1 for yes
    wished: float  # the end is, from outside
    judge: float
    save: float


def _steps(run: Run, board: Board, ending: Ending) -> bool:
    """Train; whether the end was wished for from outside."""
    options = run.options
    begun, before = time.monotonic(), run.reached.seconds
    saved = judged = begun
    unread: list[Step] = []  # a step is read after the next is begun, so that no GPU has to wait
    while True:
        now = time.monotonic()
        order = _Order(
            before + now - begun,
            ending.wished or finished(options, run.reached),
            ending.wished,
            now - judged > options.validation_interval,
            now - saved > options.saving_interval,
        )
        order = _Order(*run.team.told(list(vars(order).values())))
        run.reached = replace(run.reached, seconds=order.seconds)
        if order.judge:
            _judge_and_keep(run, board)
            judged = time.monotonic()
        if order.save:
            run.save()
            saved = time.monotonic()
        if order.end:
            break
        unread.append(_step(run))
        if len(unread) > 1:
            _read(run, board, unread.pop(0))
    for step in unread:
        _read(run, board, step)
    return bool(order.wished)


def _step(run: Run) -> Step:
    """Begin a step, which the device may still be at."""
    options, reached = run.options, run.reached
    rate = learning_rate(options, reached)
    loss, norm = run.learn()
    events = run.team.size * options.window_size * options.batch_size
    run.reached = replace(reached, step=reached.step + 1, events=reached.events + events)
    return run.reached, loss, norm, rate


def _read(run: Run, board: Board, step: Step) -> None:
    """Wait for a step, and show it; NotFinite if it spoiled the network."""
    reached, loss, norm, rate = step
    if not math.isfinite(float(loss + norm)):
        raise NotFinite(_spoiled(run))
    board.step(reached, float(loss), float(norm), rate)


def _judge_and_keep(run: Run, board: Board) -> None:
    """Validate, and keep the network if it is the best so far."""
    if not len(run.judges):
        return
    judgement = run.judge()
    best = judgement.nats_per_event < run.reached.best
    if best:
        run.reached = replace(run.reached, best=judgement.nats_per_event)
        run.save_best()
    board.judged(run.reached, judgement, best)


def _last_words(run: Run) -> Iterator[str]:
    path = best_path(run.options.session)
    reached = run.reached
    yield (
        f"{run.options.session}: step {reached.step}, {reached.seconds / 60:.1f} min, "
        f"{reached.events:,} events"
    )
    listen = path if math.isfinite(reached.best) and path.exists() else run.options.session
    if listen is path:
        yield f"best: {path}, {reached.best:.4f} nats an event"
    yield f"to hear it: python3 generate.py -s {listen}"


def _evaluate(options: TrainConfig) -> int:
    """Print how good a session is by all data of a folder; nothing is changed."""
    session, corpus = Session.load(options.session), Corpus.load(_data_files(Path(options.dataset)))
    if session.encoding != corpus.encoding.version:
        raise Failure(_for_other_data(Path(options.session), session.encoding, corpus.encoding))
    model = session.model(pick_device(options.device))
    print(f"{options.session}: {_told(session.config)}, step {session.training.get('step', 0)}")
    for controlled in (True, False):
        print("with control:" if controlled else "without control:")
        print(*judge(model, corpus, None, controlled).lines(), sep="\n")
    print("playing to a control:")
    print(*adherence(model, corpus.encoding), sep="\n")
    return 0


def _export(options: TrainConfig) -> int:
    """Write the network of a session alone, in half precision."""
    session = Session.load(options.session)
    state = session.averaged or session.state
    half = {name: weight.half() for name, weight in state.items()}
    alone = Session(session.config, half, session.encoding, training=session.training)
    alone.save(options.export)
    print(f"{options.export}: the network of {options.session}, in half precision")
    return 0


def parse_args(argv: Sequence[str] | None = None) -> TrainConfig:
    """Read the command line; a wrong one ends the program with a sentence and exit 2."""
    parser = config.Parser(prog="train.py", description=__doc__)
    options = config.parse(parser, TrainConfig, argv)
    try:
        config.model_config(options.model_params)
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
            return _taught(options, team)
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            return _taught(options, team)
    finally:
        team.close()


def _taught(options: TrainConfig, team: Team) -> int:
    print(
        f"learning rate {options.learning_rate:g}, batches of {options.batch_size} windows of "
        f"{options.window_size} events (the original: {config.ORIGINAL_RECIPE})"
    )
    run = open_run(options, team)
    learner, judges, corpus = run.learner, run.judges, run.windows.corpus
    print(
        f"{corpus.events:,} events of {len(corpus)} performances to learn, {judges.events:,} "
        f"of {len(judges)} to judge by, on {learner.model.device} in {learner.precision}"
    )
    if finished(options, run.reached):
        print(f"{options.session} is at its end already: a larger --max-steps or --max-minutes")
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
    sys.exit(main())
