"""Files and the terminal: finding, writing and locking files, command lines, running a command."""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib
import io
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

PathLike = str | os.PathLike[str]
Array = npt.NDArray[Any]


def find_files(
    root: PathLike, suffixes: tuple[str, ...], unreadable: list[OSError] | None = None
) -> Iterator[Path]:
    """Files below `root` with one of the lower-case `suffixes`, in any case, in a fixed order.

    A folder's own files come first, then its folders', each by name. Links to folders are
    followed, but no folder is entered twice. A folder that can not be read is put into
    `unreadable`, or without that raises OSError.
    """

    def fail(error: OSError) -> None:
        if unreadable is None:
            raise error
        unreadable.append(error)

    entered = set()
    for folder, folders, names in os.walk(root, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(suffixes):
                yield Path(folder, name)


def atomic_write(path: PathLike, content: bytes, durable: bool = True) -> None:
    """Write a file that is at every moment the old one or the new one, whole.

    `durable` waits until the disk has it, so that this holds for a power cut too. A link
    is written through. OSError names `path`.
    """
    target = os.path.realpath(path)
    try:
        folder, prefix = _beside(target)
        handle, temporary = tempfile.mkstemp(prefix=f"{prefix}-", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _beside(target: str) -> tuple[str, str]:
    """The folder of a file, and how the names of what serves that file alone begin."""
    folder, name = os.path.split(target)
    return folder, "." + hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()


@contextlib.contextmanager
def lock_file(path: PathLike) -> Iterator[bool]:
    """Have a file for this process alone, among those that ask; BlockingIOError if it is taken.

    It gives whether the file system knows locks. If so, what a killed `atomic_write` of this
    very file has left is removed. The lock ends with the process, however that ends: an old
    lock file is no obstacle.
    """
    folder, prefix = _beside(os.path.realpath(path))
    place = os.path.join(folder, f"{prefix}.lock")
    handle, locked = _open_lock(place, os.fspath(path))
    try:
        if locked:
            _sweep(folder, prefix)
        yield locked
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            os.unlink(place)  # first, so that who waits for the lock sees that it is no longer it
        os.close(handle)


def _open_lock(place: str, name: str) -> tuple[int, bool]:
    """The open lock file at `place`, and whether its file system knows locks."""
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            locked = _locked(handle, name)
        except BaseException:
            os.close(handle)
            raise
        if _is_at(handle, place):
            return handle, locked
        os.close(handle)  # the one who had it has removed it since


def _locked(handle: int, name: str) -> bool:
    """Whether the file system knows locks: then this process has that of an open file."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise BlockingIOError(errno.EAGAIN, "Another process is writing it", name) from error
    return True


def _is_at(handle: int, place: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(place))
    except FileNotFoundError:
        return False


def _sweep(folder: str, prefix: str) -> None:
    left = re.compile(re.escape(prefix) + r"-[a-z0-9_]{8}\.tmp")
    for name in filter(left.fullmatch, os.listdir(folder)):
        os.unlink(os.path.join(folder, name))


def import_optional(module: str, feature: str) -> Any:
    """Import a library that only one feature needs; ImportError says what installs it.

    It is not imported before it is needed, for such libraries take a second to load.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f"{feature} needs {package} ({error}): pip install {package}") from error


def derive_seed(*parts: int) -> int:
    """A seed, below 2**63, that is another one for other parts; for torch's generators."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


# ------------------------------------------------------------------------------ command lines


@dataclass(frozen=True)
class Number:
    """An argparse type: a finite number from `low` to `high`, and greater than `above`."""

    kind: type[int] | type[float]
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf

    def __call__(self, text: str) -> float:
        """Return the number in `text`; ArgumentTypeError if there is none, or out of range."""
        try:
            value = self.kind(text)
        except ValueError:
            whole = "whole " if self.kind is int else ""
            raise argparse.ArgumentTypeError(f"{text!r} is not a {whole}number") from None
        if self.above < value and self.low <= value <= self.high and abs(value) != math.inf:
            return value
        if self.above > -math.inf:
            allowed = f"greater than {self.above}"
        else:
            allowed = f"at least {self.low}"
        if self.high < math.inf:
            allowed += f" and at most {self.high}"
        raise argparse.ArgumentTypeError(f"{text} is not allowed, it must be {allowed}")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and shows a default where there is one."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = action.metavar or "{" + ",".join(action.choices or ()) + "}"
        return f"{', '.join(action.option_strings)} {value}"  # as Python 3.13 does

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").removesuffix(" (default: %(default)s)")  # as Python 3.11 adds
        if action.default in (None, "", argparse.SUPPRESS) or action.default is False:
            return text
        return f"{text} (default: {'on' if action.default is True else '%(default)s'})"


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors.

    If an abbreviation fits several options, the one that also has a short form is meant:
    these are the original's, whose users may know them.
    """

    def __init__(self, prog: str, description: str, defaults: Any, **options: Any) -> None:
        options.setdefault("usage", "python3 %(prog)s [options]")
        super().__init__(prog, description=description, formatter_class=HelpFormatter, **options)
        self.set_defaults(**vars(defaults))

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        matches = super()._get_option_tuples(option_string)  # type: ignore[misc]
        lettered = [m for m in matches if any(len(flag) == 2 for flag in m[0].option_strings)]
        return lettered if len(lettered) == 1 else matches

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        values = super()._get_values(action, arg_strings)  # type: ignore[misc]
        if values == [] and action.nargs != 0:  # Python before 3.13, for `--flag=--`
            raise argparse.ArgumentError(action, "expected one argument")
        return values

    def error(self, message: str) -> NoReturn:
        """End the program with one line, whatever was typed, and exit status 2."""
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        self.exit(2, f"{self.prog}: error: {line}\n")

    def to_argv(self, options: Any) -> list[str]:
        """Return the shortest arguments that are parsed to `options`, in the order of its fields.

        For options without positional arguments.
        """
        actions = {action.dest: action for action in self._actions}
        argv = []
        for name, value in vars(options).items():
            if value == actions[name].default:
                continue
            flags = [f for f in actions[name].option_strings if not f.startswith("--no-")]
            if isinstance(value, bool):
                argv.append(flags[-1] if value else f"--no-{flags[-1][2:]}")
            elif str(value).startswith("-"):
                argv.append(f"{flags[-1]}={value}")
            else:
                argv += [flags[0], str(value)]
        return argv


def run_command(name: str, verb: Callable[[], int], stopped: str) -> int:
    """The exit status of `verb`; what the user has to put right is told in one sentence.

    That is OSError, ValueError, ImportError or want of memory; `stopped` is what Ctrl-C says.
    Names that the terminal can not show are shown with backslashes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    status = 1
    try:
        return verb()
    except BrokenPipeError:  # whoever read the output has gone
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())
        return status
    except OSError as error:
        sentence = f"{error.strerror or error}: {error.filename!r}"
    except (ImportError, ValueError) as error:
        sentence = str(error)
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        sentence = "not enough memory: try a smaller batch, window, beam or network"
    except KeyboardInterrupt:
        status, sentence = 130, stopped
    sentence = sentence.replace("\n", "\\n")  # of a name
    sys.stderr.write(f"{name}: {sentence}\n")
    return status


def _of_memory(error: Exception) -> bool:
    """Whether memory is wanting; torch says so in words, or, saving, of something that follows."""
    told = str(error)
    return (
        isinstance(error, MemoryError)
        or isinstance(error.__context__, MemoryError)
        or any(
            words in told
            for words in ("can't allocate memory", "not enough memory", "out of memory")
        )
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(folder: PathLike) -> None:
    """Make a folder if need be; OSError, naming it, if no file can be written in it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(folder)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
