"""A training run: its data, its session, and the steps it takes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import config
import utils
from config import DATA_SUFFIX, ModelConfig, TrainConfig
from corpus.batches import Batch, WindowSampler
from corpus.performance import Corpus, hold_out
from model import OPTION, PerformanceRNN, Session, pick_device
from sequence import CURRENT, ENCODINGS, Encoding
from training.distributed import Team
from training.evaluate import EvalResult, evaluate
from training.learner import ALONE, TYPES, Learner, pick_precision
from training.logger import TrainState

RECIPE = (
    *("learning_rate", "warm_up", "batch_size", "window_size", "stride_size", "carry"),
    *("control_ratio", "teacher_forcing_ratio", "use_transposition", "weight_decay"),
    *("ema_decay", "stretch", "seed"),
)
# those of them that decide which windows follow one another in the columns of the batches
COURSE = ("window_size", "stride_size", "carry", "use_transposition", "stretch", "seed")
SCALER = "scaler "  # before the names of what fp16's loss scaling has to remember
EXCERPT = 1000  # events of each performance that are judged during training


class Failure(ValueError):
    """What the user has to put right, as one sentence."""


class NotFinite(Failure):
    """The network is spoiled: what the session file holds is better."""


def learning_rate(options: TrainConfig, reached: TrainState) -> float:
    """Rises over the warm-up; with an end in sight, falls from then on in a line to zero."""
    over = 0.0
    if options.max_steps:
        over = reached.step / options.max_steps
    if options.max_minutes:
        over = max(over, reached.seconds / 60 / options.max_minutes)
    rising = min(1.0, max((reached.step + 1) / (options.warm_up + 1), 10 * over))
    return options.learning_rate * rising * max(0.0, 1 - over)


def finished(options: TrainConfig, reached: TrainState) -> bool:
    """Whether --max-steps, --max-minutes or --patience says that it is enough."""
    return (
        (options.max_steps is not None and reached.step >= options.max_steps)
        or (options.max_minutes is not None and reached.seconds >= 60 * options.max_minutes)
        or (options.patience is not None and reached.worse >= options.patience)
    )


@dataclass
class Run:
    """What a training run works with."""

    options: TrainConfig
    learner: Learner
    windows: WindowSampler
    judges: Corpus
    reached: TrainState
    team: Team = ALONE
    judged: int = field(init=False)  # at which step it was judged last

    def __post_init__(self) -> None:
        self.judged = self.reached.step  # there is nothing new to judge yet
        self._data = self.windows.corpus.fingerprint
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
        packed = self.windows.sample_batch(
            options.batch_size,
            options.seed,
            number,
            options.control_ratio,
            options.use_transposition,
        )
        return packed.to_device(self.learner.model.device, self.windows.corpus.encoding)

    def save(self, together: bool = True) -> None:
        """Write the session file; NotFinite if the network is spoiled.

        Without `together` nothing is asked of the rest of the team, which may be lost.
        """
        learner = self.learner
        if not learner.finite():
            raise NotFinite(spoiled(self.options, self.reached))
        carried = None
        if learner.hidden is not None and (together or self.team.size == 1):
            carried = self.team.gathered(learner.hidden)
        if not self.team.leads:
            return
        session = self._session(learner.model.state_dict())
        replace(
            session,
            optimizer_state=learner.optimizer.state_dict(),
            ema_state=learner.averaged.state_dict(),
            hidden_state=carried,
        ).save(self.options.session)

    def save_best(self) -> Path:
        """Write the averaged network alone beside the session file."""
        path = best_path(self.options.session)
        if self.team.leads:
            self._session(self.learner.averaged.state_dict()).save(path)
        return path

    def evaluate(self) -> EvalResult:
        """How good the averaged network is; each process judges by its share of the pieces."""
        team = self.team
        share = Corpus(self.judges.performances[team.rank :: team.size])
        found = evaluate(self.learner.averaged, share, EXCERPT)
        counts, correct, costs = team.summed(np.stack([found.counts, found.correct, found.costs]))
        return EvalResult(counts, correct, costs, self.judges.encoding)

    def _session(self, state: dict[str, Tensor]) -> Session:
        about: dict[str, Any] = {"seed": self.options.seed, "precision": self.learner.precision}
        about["data"] = self._data
        about |= {OPTION + k: v for k, v in _recipe(self.options).items()}
        about |= {SCALER + k: value for k, value in self.learner.scaler.state_dict().items()}
        return Session(
            self.learner.model.config,
            state,
            self.windows.corpus.encoding.version,
            training=asdict(self.reached) | about,
        )


def spoiled(options: TrainConfig, reached: TrainState) -> str:
    return (
        f"the loss or the weights are no longer finite at step {reached.step}; "
        f"{options.session} holds the last good state: try a lower -l, or -r"
    )


def best_path(session: str) -> Path:
    """Where the best state of `model.sess` is kept: `model.best.sess`."""
    path = Path(session)
    return path.with_name(f"{path.stem}.best{path.suffix}")


@contextlib.contextmanager
def alone(*paths: str | Path) -> Iterator[None]:
    """Write session files that no other process of ours may write; Failure if one does."""
    with contextlib.ExitStack() as claims:
        for path in paths:
            utils.check_writable(Path(path).parent)
            try:
                locked = claims.enter_context(utils.lock_file(path))
            except BlockingIOError as error:
                raise Failure(
                    f"{path}: another process is writing it: wait for its end, or give another -s"
                ) from error
            if not locked:
                print(f"{path}: no locks in this folder, so see to it that nobody else writes it")
        yield


def open_run(options: TrainConfig, team: Team = ALONE) -> Run:
    """Find the data and open or make the session; Failure says what is missing."""
    device = team.device(pick_device(options.device))
    learners, judges = _corpora(options)
    if options.stretch and learners.encoding is not CURRENT:
        raise Failure("--stretch is for data of today's encoding, and this has the original's")
    windows = WindowSampler(
        learners,
        options.window_size,
        options.stride_size,
        options.carry,
        team.rank,
        team.size,
        options.stretch,
    )
    if len(windows) < options.batch_size:
        raise Failure(
            f"{options.dataset!r} has {len(windows)} windows of {options.window_size} events "
            f"in {len(learners)} files to learn from, a batch needs {options.batch_size}; "
            "more data, or smaller -b or -w"
        )
    ends = options.max_steps or options.max_minutes
    if options.patience and not (len(judges) or ends):
        raise Failure(
            "nothing to judge by, so --patience can not end the training: "
            "give -v, a second file, or --max-minutes"
        )
    session = _together_opened(options, learners.encoding, team)
    session = _going_on(session, options, learners)
    reached = _judged_by(judges, _reached(options.session, session.training))
    seen = [reached.step, reached.best, reached.worse, learners.events, judges.events]
    if not team.agreed(seen):
        raise Failure(
            f"the processes do not see the same files as {options.session}, {options.dataset} and "
            "what to judge by: a training on several machines needs a folder that they share"
        )
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
        session.build_model(device, ema=False),
        precision,
        options.ema_decay,
        options.weight_decay,
        team,
    )
    if session.ema_state:
        learner.averaged.load_state_dict(session.ema_state)
    if session.hidden_state is not None:
        learner.hidden = team.part(session.hidden_state).to(device)
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


def _reached(name: str, training: dict[str, Any]) -> TrainState:
    """How far a session says it has come."""
    known = {key: training[key] for key in asdict(TrainState()) if key in training}
    for key, value in known.items():
        if type(value) is not type(getattr(TrainState(), key)):
            raise Failure(f"{name}: {key} is {value!r}")
    return TrainState(**known)


def _going_on(session: Session, options: TrainConfig, learners: Corpus) -> Session:
    """The session, without its carried state if the windows do not go on where they were."""
    known = session.training
    anew = any(known.get(OPTION + name) != getattr(options, name) for name in COURSE)
    if "data" in known and known["data"] != learners.fingerprint:
        print("other performances to learn from than before")
        anew = True
    return replace(session, hidden_state=None) if anew else session


def _judged_by(judges: Corpus, reached: TrainState) -> TrainState:
    """`reached`, without its best if that was judged by other performances."""
    if reached.judges == judges.fingerprint:
        return reached
    if reached.judges:
        print("other performances to judge by than before: the search for the best starts anew")
    return replace(reached, best=math.inf, worse=0, judges=judges.fingerprint)


def _corpora(options: TrainConfig) -> tuple[Corpus, Corpus]:
    """What to learn from, and what to judge by."""
    root = Path(options.dataset)
    if (root / config.SPLIT_FILE).exists():
        train, judges = (str(root / side) for side in config.SUBSETS[:2])
        raise Failure(
            f"{options.dataset!r} is split, and all of it would be learned from, the test too: "
            f"use -d {train} -v {judges}"
        )
    paths = list(data_files(root))
    if options.validation is not None:
        others = list(data_files(Path(options.validation)))
    else:
        paths, others = hold_out(paths, root, options.validation_share)
    both = Corpus.load([*paths, *others]).performances
    return Corpus(both[: len(paths)]), Corpus(both[len(paths) :])


def data_files(root: Path) -> Iterator[Path]:
    found = list(utils.find_files(root, (DATA_SUFFIX,))) if root.is_dir() else []
    if not found:
        raise Failure(
            f"no {DATA_SUFFIX} files in {str(root)!r}; preprocess.py makes them from MIDI files, "
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
        session = _new(options, encoding)
        session.save(path)
        source = f" from {options.init_from}" if options.init_from else ""
        print(f"new session {path}{source}: {told(session.config)}")
        return session
    fitting = _fitting(session, path, options, encoding)
    print(f"session {path}: {told(fitting.config)}, step {session.training.get('step', 0)}")
    print(*_changes(options, session, fitting.config), sep="", end="")
    return fitting


def _new(options: TrainConfig, encoding: Encoding) -> Session:
    """A session that has learned nothing, or what --init-from has learned."""
    if options.init_from:
        source = Path(options.init_from)
        base = _fitting(Session.load(source), source, options, encoding)
        state = base.build_model(torch.device("cpu")).state_dict()
        return Session(base.config, state, encoding.version)
    torch.manual_seed(options.seed)
    sizes = config.parse_model_params(options.model_params)
    return Session(sizes, PerformanceRNN(sizes).init_weights().state_dict(), encoding.version)


def _fitting(session: Session, path: Path, options: TrainConfig, encoding: Encoding) -> Session:
    """The session with the dropout that is asked for; Failure if -p or the data contradict it."""
    if session.encoding != encoding.version:
        raise Failure(for_other_data(path, session.encoding, encoding))
    wanted = config.parse_model_params(options.model_params, session.config)
    if replace(wanted, gru_dropout=session.config.gru_dropout) != session.config:
        raise Failure(f"argument -p/--model-params: {path} was made with {told(session.config)}")
    return replace(session, config=wanted)


def _recipe(options: TrainConfig) -> dict[str, Any]:
    """The options that decide what is learned from a step."""
    names = {"ema_decay": "averaging"}  # as sessions have it
    return {names.get(name, name): getattr(options, name) for name in RECIPE}


def _changes(options: TrainConfig, session: Session, sizes: ModelConfig) -> Iterator[str]:
    """What this run, with a network of `sizes`, does in another way than the one before."""
    known = session.training
    changes = {name: (value, known.get(OPTION + name)) for name, value in _recipe(options).items()}
    changes["gru_dropout"] = sizes.gru_dropout, session.config.gru_dropout
    if options.precision != "auto":
        changes["precision"] = options.precision, known.get("precision")
    for name, (value, before) in changes.items():
        if before not in (None, value):
            yield f"{name.replace('_', ' ')}: {value} from now on, {before} before\n"
    if options.reset_optimizer and session.optimizer_state:
        yield "Adam's state is forgotten\n"


def for_other_data(path: Path, version: int, encoding: Encoding) -> str:
    flag = " --original" if ENCODINGS.get(version, CURRENT).is_legacy else ""
    return (
        f"{path} is for data of encoding {version}, the data has {encoding.version}; "
        f"preprocess.py{flag} makes such data"
    )


def told(sizes: ModelConfig) -> str:
    return ", ".join(f"{name}={value}" for name, value in asdict(sizes).items())
