"""Session files in training: locking, creating, resuming, fine-tuning."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

import config
import utils
from config import ModelConfig
from corpus.performance import Corpus
from model import PerformanceRNN, Session
from sequence import (
    CONTROLS,
    CURRENT,
    ENCODINGS,
    PLAIN_CONTROLS,
    PLAIN_LAYOUT,
    ControlLayout,
    Encoding,
    parse_controls,
)
from training.distributed import Distributed
from training.trainer import DTYPES, TrainState, pick_precision

# with the same values of these options, the windows of a resumed run continue the last ones
WINDOW_OPTIONS = (
    *("window_size", "small_batches", "stride_size", "carry", "use_transposition", "stretch"),
    "seed",
)
SOURCE_DIGITS = 12  # hexadecimal digits of a performance in the record of the training data


def get_best_path(path: Path) -> Path:
    """Return the path of the best session of a training: `model.best.sess` for `model.sess`."""
    return path.with_name(f"{path.stem}.best{path.suffix}")


@contextlib.contextmanager
def lock_sessions(*paths: Path) -> Iterator[None]:
    """Lock session files, so that no other process of this project writes them meanwhile.

    Raises ValueError if another process has locked one of them.
    """
    with contextlib.ExitStack() as locks:
        for path in paths:
            utils.check_writable(path.parent)
            try:
                is_locked = locks.enter_context(utils.lock_file(path))
            except BlockingIOError as error:
                raise ValueError(
                    f"{path}: another process is writing it: wait until it ends, or use another -s"
                ) from error
            if not is_locked:
                utils.print_line(
                    f"{path}: files cannot be locked in this folder: "
                    "do not train this session in two processes at the same time"
                )
        yield


def check_export_path(path: Path, session: Path) -> None:
    """Raise ValueError if exporting `session` to `path` would destroy a file.

    path: an existing file must have been exported, too; links are followed.
    """
    for own in (session, get_best_path(session)):
        if os.path.realpath(own) == os.path.realpath(path):
            raise ValueError(f"{path}: --export would replace {own}: give another file name")
    if path.exists():
        try:
            old = Session.load(path)
        except ValueError:
            is_exported = False
        else:
            is_exported = is_export(old)
        if not is_exported:
            raise ValueError(
                f"{path}: not written by --export, so it is not replaced: give another file name"
            )


def is_export(session: Session) -> bool:
    """Return whether a session is as `--export` writes it: only weights, in half precision."""
    is_half = all(weight.dtype == torch.float16 for weight in session.state.values())
    return is_half and not (session.optimizer_state or session.ema_state)


def get_source(session: Session) -> dict[str, str]:
    """Return the entry of `training` that names the session file this one started from.

    {} if a session is older than the entry; {"init_from": ""} for new weights.
    """
    source = session.training.get("init_from")
    return {"init_from": source} if isinstance(source, str) else {}


def load_last_run(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the session that a session file started from, and its last options.

    "" and {} if they are unknown.
    """
    try:
        session = Session.load(path)
    except (OSError, ValueError):  # reported when the session is opened
        return "", {}
    return get_source(session).get("init_from", ""), get_options(session)


def get_options(session: Session) -> dict[str, Any]:
    """Return the options of a session's last run; {} if there was none.

    Sessions that were trained before --small-batches existed have batches of one size.
    """
    options = session.training.get("options", {})
    is_trained = bool(options or session.optimizer_state)
    return {"small_batches": 0, **options} if is_trained else {}


def open_session(
    path: Path,
    encoding: Encoding,
    distributed: Distributed,
    model_params: str = "",
    init_from: str = "",
    seed: int = 0,
    controls: str = "",
) -> Session:
    """Load the session for data in `encoding`; create the file if it is missing.

    model_params, init_from, seed, controls: as in TrainConfig.
    Raises ValueError if the session does not fit `model_params` or the data.
    """
    if not distributed.is_main:
        distributed.broadcast([0])  # wait until the main process has created the file
    utils.check_writable(path.parent)
    if path.exists():
        session = _load_checked(path, encoding, model_params, controls)
        if is_export(session):
            raise ValueError(
                f"{path}: it has only the exported network, and training would overwrite it: "
                f"use --init-from {shlex.quote(str(path))} -s mine.sess for a new session"
            )
        _check_source(path, session, init_from)
        step = session.training.get("step", 0)
        utils.print_line(f"resuming {path} at step {step} ({format_sizes(session.config)})")
        if source := get_source(session).get("init_from"):
            utils.print_line(f"{path} started from {source}: the defaults are for fine-tuning")
    else:
        if get_best_path(path).exists():
            raise ValueError(
                f"{path} is missing, and a new session would overwrite {get_best_path(path)}: "
                "move that file, or use another -s"
            )
        session = _create_session(encoding, model_params, init_from, seed, controls)
        session.save(path)
        source = f" from {init_from}" if init_from else ""
        utils.print_line(f"new session {path}{source} ({format_sizes(session.config)})")
    if distributed.is_main:
        distributed.broadcast([0])
    return session


def _check_source(path: Path, session: Session, init_from: str) -> None:
    """Raise ValueError if --init-from does not name what an existing session started from."""
    if not init_from:
        return
    Session.load(init_from)  # reports a missing or damaged file
    source = get_source(session).get("init_from")
    if source is None:
        utils.print_line(f"{path} exists: it is trained further, and {init_from} is not used")
    elif source != Path(init_from).name:
        raise ValueError(
            f"{path} exists and did not start from {init_from}: give -s the name of a new session, "
            "or leave --init-from out to train this one further"
        )


def _create_session(
    encoding: Encoding, model_params: str, init_from: str, seed: int, controls: str
) -> Session:
    """Return a session with initial weights, or with those of the session file `init_from`."""
    if init_from:
        source = _load_checked(Path(init_from), encoding, model_params, controls, can_add=True)
        sizes = config.parse_model_params(model_params, source.config)
        state = source.build_model(torch.device("cpu")).state_dict()
        if sizes.recall_dim != source.config.recall_dim:
            torch.manual_seed(seed)
            state = PerformanceRNN(sizes).init_weights().state_dict() | state
        history, names = load_history(source), source.controls
        training = {
            "init_from": Path(init_from).name,
            "seen": "".join(sorted(history.seen)),
            "seen_is_complete": history.is_complete,
        }
        return Session(
            sizes,
            state,
            encoding.version,
            training=training,
            controls=names,
            train_profile=source.train_profile,
        )
    layout = _choose_layout(encoding, controls)
    recall_dim = 0 if layout.is_plain else config.RECALL_DIM  # the original knows no recall
    defaults = ModelConfig(control_dim=layout.dim, recall_dim=recall_dim)
    sizes = config.parse_model_params(model_params, defaults)
    if sizes.control_dim != layout.dim:
        raise ValueError(
            f"argument -p/--model-params: control_dim {sizes.control_dim} does not fit the "
            f"controls {','.join(layout.names)}, which need {layout.dim}: leave it out"
        )
    torch.manual_seed(seed)
    state = PerformanceRNN(sizes).init_weights().state_dict()
    training = {"init_from": "", "seen": "", "seen_is_complete": True}
    return Session(sizes, state, encoding.version, training=training, controls=layout.names)


def _choose_layout(encoding: Encoding, controls: str) -> ControlLayout:
    """Return the control of a new session; controls: as in TrainConfig, empty for the default.

    Raises ValueError for a control that data in `encoding` does not have.
    """
    if controls:
        layout = ControlLayout(parse_controls(controls))
        if encoding.is_legacy and not layout.is_plain:
            raise ValueError(
                "argument --controls: data in the original's encoding needs "
                f"{','.join(PLAIN_CONTROLS)}"
            )
        return layout
    return PLAIN_LAYOUT if encoding.is_legacy else ControlLayout(kind.name for kind in CONTROLS)


def _load_checked(
    path: Path, encoding: Encoding, model_params: str, controls: str, can_add: bool = False
) -> Session:
    """Load a session for data in `encoding`.

    can_add: whether `model_params` may add recall to a session without it.
    Raises ValueError if its encoding, its sizes or its controls differ. Only the dropout may
    differ from `model_params`, and the recall with `can_add`; the session is returned with its own,
    so that a change can be reported.
    """
    session = Session.load(path)
    check_encoding(path, session, encoding)
    if controls and parse_controls(controls) != session.controls:
        raise ValueError(
            f"argument --controls: the controls of a session cannot change, and {path} has "
            f"{','.join(session.controls)}: leave --controls out, or start a new session"
        )
    sizes = config.parse_model_params(model_params, session.config)
    sizes = replace(sizes, gru_dropout=session.config.gru_dropout)
    if can_add and not session.config.recall_dim:
        sizes = replace(sizes, recall_dim=0)
    if sizes != session.config == replace(sizes, recall_dim=session.config.recall_dim):
        raise ValueError(
            f"argument -p/--model-params: recall_dim of a session cannot change, and {path} has "
            f"{session.config.recall_dim}: leave it out; only --init-from with a session without "
            "recall can add it"
        )
    if sizes != session.config:
        raise ValueError(
            f"argument -p/--model-params: the sizes of a session cannot change, and {path} has "
            f"{format_sizes(session.config)}: leave -p out, or start a new session"
        )
    return session


def check_encoding(path: Path, session: Session, encoding: Encoding) -> None:
    """Raise ValueError unless the session is for data in `encoding`."""
    if session.encoding != encoding.version:
        is_legacy = ENCODINGS.get(session.encoding, CURRENT).is_legacy
        command = "preprocess.py --legacy" if is_legacy else "preprocess.py"
        raise ValueError(
            f"{path} needs data in encoding {session.encoding}, but this data is in encoding "
            f"{encoding.version}: convert the MIDI files with {command}"
        )


def format_sizes(sizes: ModelConfig) -> str:
    """Format the sizes of a network like the argument of -p."""
    return ",".join(f"{name}={value}" for name, value in asdict(sizes).items())


def load_state(session: Session, val_data: str) -> TrainState:
    """Return the TrainState of a session; other validation data resets the best loss.

    val_data: names the events that the losses are measured on.
    """
    names = {entry.name for entry in fields(TrainState)} & session.training.keys()
    state = TrainState(**{name: session.training[name] for name in names})
    if state.val_data == val_data:
        return state
    if state.val_data:
        utils.print_line(
            "the validation data has changed: the best loss so far does not count any more"
        )
    return replace(
        state,
        best=math.inf,
        stale_validations=0,
        lr_scale=1.0,
        before=math.inf,
        val_data=val_data,
    )


def print_changes(session: Session, values: dict[str, Any], drop_optimizer: bool) -> None:
    """Print which options differ from those of the session's last run.

    values: the options of this run by name; drop_optimizer: whether -r is given.
    """
    before = {
        **get_options(session),
        "precision": session.training.get("precision"),
        "gru_dropout": session.config.gru_dropout,
    }
    changes = [
        f"{name.replace('_', ' ')} {before[name]} -> {value}"
        for name, value in values.items()
        if before.get(name) not in (None, value)
    ]
    if drop_optimizer and session.optimizer_state:
        changes.append("the state of the optimizer is dropped")
    if changes:
        utils.print_line(f"changed since the last run: {', '.join(changes)}")


def has_new_train_data(session: Session, train_data: Corpus) -> bool:
    """Return whether the session was last trained on other data."""
    return session.training.get("train_data", train_data.fingerprint) != train_data.fingerprint


def has_same_windows(session: Session, recipe: dict[str, Any]) -> bool:
    """Return whether the options that order the windows are those of the session."""
    options = get_options(session)
    return all(options.get(name) == recipe[name] for name in WINDOW_OPTIONS)


def choose_precision(
    precision: str, session: Session, device: torch.device, distributed: Distributed
) -> str:
    """Return `precision`; for "auto" that of the session, or the best for the device.

    The main process chooses for all processes.
    """
    if precision != "auto":
        return precision
    saved = session.training.get("precision")
    precision = saved if saved in DTYPES else pick_precision(device)
    names = list(DTYPES)
    (number,) = distributed.broadcast([names.index(precision)])
    return names[int(number)]


# -------------------------------------------------------------------------- training history


@dataclass(frozen=True)
class History:
    """The performances that a session was trained on.

    seen: the first SOURCE_DIGITS digits of their hashes; is_complete: False if there may be more.
    """

    seen: frozenset[str]
    is_complete: bool

    def has(self, source: str) -> bool:
        """Return whether the session was trained on a performance; source: see Corpus.sources."""
        return source[:SOURCE_DIGITS] in self.seen


def load_history(session: Session, corpus: Corpus | None = None) -> History:
    """Return what a session records about its training data.

    Sessions before this record have only a fingerprint of all data. So they know at least whether
    it was all of `corpus`.
    """
    digits = str(session.training.get("seen", ""))
    starts = range(0, len(digits), SOURCE_DIGITS)
    seen = frozenset(digits[start : start + SOURCE_DIGITS] for start in starts)
    is_complete = bool(session.training.get("seen_is_complete", False))
    fingerprint = session.training.get("train_data", "")
    if not seen and corpus is not None and fingerprint == corpus.fingerprint:
        seen = frozenset(source[:SOURCE_DIGITS] for source in corpus.sources)
    return History(seen, is_complete)


def extend_history(session: Session, train_data: Corpus) -> dict[str, Any]:
    """Return the entries of `training` for a session that is trained on `train_data`, too."""
    history = load_history(session)
    seen = history.seen | {source[:SOURCE_DIGITS] for source in train_data.sources}
    return {"seen": "".join(sorted(seen)), "seen_is_complete": history.is_complete}


def print_seen(session: Session, val_data: Corpus) -> None:
    """Print how much of the validation data was training data of the session before."""
    history = load_history(session)
    count = sum(history.has(source) for source in val_data.sources)
    if count:
        utils.print_line(
            f"{count:,} of {utils.format_count(len(val_data), 'file', 'files')} for validation "
            "were training data of this session before: the validation loss is too low"
        )
