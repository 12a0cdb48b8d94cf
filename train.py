"""Train a session on the `.data` files of a folder; start again with the same line to go on."""

from __future__ import annotations

import functools
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import config
import utils
from board import Board, Reached
from config import ModelConfig, TrainConfig
from data import SUFFIX, Batch, Corpus, Windows, held_out
from judge import judge
from model import PerformanceRNN, Session, pick_device
from sequence import CURRENT, ENCODINGS, Encoding

GRADIENT_NORM = 1.0  # longer gradients are scaled down to this
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
    model: PerformanceRNN
    optimizer: torch.optim.Optimizer
    windows: Windows
    judges: Corpus
    reached: Reached

    def learn(self) -> tuple[Tensor, Tensor]:
        """One step; the loss and the norm of the gradient, still on the device."""
        options, number = self.options, self.reached.step
        torch.manual_seed(utils.mixed_seed(options.seed, number))  # start vectors and dropout
        batch = self.windows.batch(
            options.batch_size,
            options.seed,
            number,
            options.control_ratio,
            options.use_transposition,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(options, self.reached)
        self.model.train()
        loss = self._loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        return loss.detach(), norm

    def _loss(self, batch: Batch) -> Tensor:
        device, options = self.model.device, self.options
        targets, controls = batch.targets.to(device), batch.controls.to(device)
        controlled = batch.controlled.to(device)
        init = torch.randn(targets.shape[1], self.model.config.init_dim, device=device)
        hidden = self.model.start(init)
        if options.teacher_forcing_ratio < 1:
            logits, _ = self.model.scheduled(
                targets, hidden, controls, controlled, options.teacher_forcing_ratio
            )
        else:
            logits, _ = self.model(self.model.shifted(targets), hidden, controls, controlled)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def save(self) -> None:
        """Write the session file; NotFinite if the network is spoiled."""
        if not all(weight.isfinite().all() for weight in self.model.parameters()):
            raise NotFinite(_spoiled(self))
        self._session(self.optimizer.state_dict()).save(self.options.session)

    def save_best(self) -> Path:
        """Write the network alone beside the session file."""
        path = best_path(self.options.session)
        self._session(None).save(path)
        return path

    def _session(self, optimizer_state: dict[str, Any] | None) -> Session:
        return Session(
            self.model.config,
            self.model.state_dict(),
            self.windows.corpus.encoding.version,
            optimizer_state,
            {**asdict(self.reached), "seed": self.options.seed},
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


def open_run(options: TrainConfig) -> Run:
    """Find the data and open or make the session; Failure says what is missing."""
    device = pick_device(options.device)
    learners, judges = _corpora(options)
    windows = Windows(learners, options.window_size, options.stride_size)
    if len(windows) < options.batch_size:
        raise Failure(
            f"{options.dataset!r} has {len(windows)} windows of {options.window_size} events "
            f"in {len(learners)} files to learn from, a batch needs {options.batch_size}; "
            "more data, or smaller -b or -w"
        )
    session = _opened(options, learners.encoding)
    model = session.model(device)
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=fused)
    if session.optimizer_state and not options.reset_optimizer:
        try:
            _restore(optimizer, session.optimizer_state)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            why = str(error).split("\n")[0][:200]
            raise Failure(f"{options.session}: Adam's state does not fit ({why}); -r") from error
    reached = _judged_by(judges, _reached(options.session, session.training))
    return Run(options, model, optimizer, windows, judges, reached)


def _restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give Adam the moments it had; an error of some kind if they are not of its weights.

    Its settings stay those of today: a file of an old torch does not know them all.
    """
    (saved,), ours = state["param_groups"], optimizer.state_dict()
    weights = optimizer.param_groups[0]["params"]
    if not isinstance(state["state"], dict):
        raise TypeError("it is no dict")
    moments: dict[int, dict[str, Any]] = {}
    for number, (weight, key) in enumerate(zip(weights, saved["params"], strict=True)):
        if key not in state["state"]:  # it has made no step
            continue
        known = state["state"][key]
        moments[number] = {"step": torch.tensor(float(known["step"]))}
        for name in ("exp_avg", "exp_avg_sq"):
            moment = known[name]
            if not isinstance(moment, Tensor) or moment.shape != weight.shape:
                raise ValueError(f"{name} of weight {number} has another shape")
            moments[number][name] = moment
        if not all(value.isfinite().all() for value in moments[number].values()):
            raise ValueError(f"what it knows of weight {number} is not finite")
    optimizer.load_state_dict({**ours, "state": moments})


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
        session = Session(sizes, PerformanceRNN(sizes).state_dict(), encoding.version)
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


def train(run: Run, board: Board, ending: Ending) -> None:
    """Train until the end is reached or wished for, and save, also after a failure."""
    try:
        _steps(run, board, ending)
    except NotFinite:
        raise
    except Exception:
        run.save()
        raise
    run.save()
    if not ending.wished:
        _judge_and_keep(run, board)
        run.save()  # with the judgement


def _steps(run: Run, board: Board, ending: Ending) -> None:
    options = run.options
    begun, before = time.monotonic(), run.reached.seconds
    saved = judged = begun
    while not ending.wished and not finished(options, run.reached):
        rate = learning_rate(options, run.reached)
        loss, norm = (float(value) for value in run.learn())
        if not math.isfinite(loss + norm):
            raise NotFinite(_spoiled(run))
        now, events = time.monotonic(), options.window_size * options.batch_size
        run.reached = replace(
            run.reached,
            step=run.reached.step + 1,
            seconds=before + now - begun,
            events=run.reached.events + events,
        )
        board.step(run.reached, loss, norm, rate, events)
        if now - judged > options.validation_interval:
            _judge_and_keep(run, board)
            judged = time.monotonic()
        if now - saved > options.saving_interval:
            run.save()
            saved = time.monotonic()


def _judge_and_keep(run: Run, board: Board) -> None:
    """Validate, and keep the network if it is the best so far."""
    if not len(run.judges):
        return
    judgement = judge(run.model, run.judges, EXCERPT)
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


def _export(options: TrainConfig) -> int:
    """Write the network of a session alone, in half precision."""
    session = Session.load(options.session)
    half = {name: weight.half() for name, weight in session.state.items()}
    replace(session, state=half, optimizer_state=None).save(options.export)
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
    verb = functools.partial(_export if options.export else _train, options)
    stopped = "stopped at once; the session is as it was last saved"
    return utils.run_command("train.py", verb, stopped)


def _train(options: TrainConfig) -> int:
    """Open the session, train it, and say how to hear it."""
    run = open_run(options)
    print(
        f"{run.windows.corpus.events:,} events of {len(run.windows.corpus)} performances to "
        f"learn, {run.judges.events:,} of {len(run.judges)} to judge by, on {run.model.device}"
    )
    if finished(options, run.reached):
        print(f"{options.session} is at its end already: a larger --max-steps or --max-minutes")
        return 0
    board, ending = Board(options), Ending()
    try:
        train(run, board, ending)
    finally:
        ending.restore()
        board.close()
    print(*_last_words(run), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
