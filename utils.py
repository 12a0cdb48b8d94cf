"""Files and the terminal: find, write and lock files, parse arguments, run a command."""

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
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

PathLike = str | os.PathLike[str]
Array = npt.NDArray[Any]
# errors of a file system without locks
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def find_files(
    root: PathLike, suffixes: tuple[str, ...], errors: list[OSError] | None = None
) -> Iterator[Path]:
    """Yield the files below `root` whose names end with one of `suffixes`, in upper or lower case.

    suffixes: in lower case. The order is fixed: the files of a folder by name, then its folders
    by name. Links to folders are followed, but no folder is entered twice. If a folder cannot be
    read, the OSError is appended to `errors`, or raised if that is None.
    """

    def handle(error: OSError) -> None:
        if errors is None:
            raise error
        errors.append(error)

    visited = set()
    for folder, folders, names in os.walk(root, onerror=handle, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(suffixes):
                yield Path(folder, name)


def check_writable(folder: PathLike) -> None:
    """Create a folder if necessary; raise OSError, naming it, if it cannot be written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(folder)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def atomic_write(path: PathLike, content: bytes, durable: bool = True) -> None:
    """Write a file so that it has its whole old or its whole new content at every moment.

    durable: even after a power failure. An existing file keeps its permissions; a link stays a
    link, and its target is written. Raises OSError, naming `path`.
    """
    target = os.path.realpath(path)
    try:
        folder, prefix = _hidden_prefix(target)
        handle, temporary = tempfile.mkstemp(prefix=f"{prefix}-", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.chmod(temporary, _permissions(target))
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _permissions(path: str) -> int:
    """Return the permissions of a file, or those of a new file if it does not exist."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _hidden_prefix(target: str) -> tuple[str, str]:
    """Return the folder of a file, and the name prefix of its lock file and temporary files."""
    folder, name = os.path.split(target)
    return folder, "." + hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()


@contextlib.contextmanager
def lock_file(path: PathLike) -> Iterator[bool]:
    """Lock a file for this process; yield False if its file system has no locks.

    Removes the temporary files that a killed `atomic_write` of this file left. The lock ends
    with the process, even if it is killed. Raises BlockingIOError if another process has it.
    """
    import filelock  # only train.py needs it, and it takes 50 ms

    folder, prefix = _hidden_prefix(os.path.realpath(path))
    name = os.path.join(folder, f"{prefix}.lock")
    lock = filelock.FileLock(name, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        message = "Another process is writing it"
        raise BlockingIOError(errno.EAGAIN, message, os.fspath(path)) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        if lock.is_locked:
            temporary = re.compile(re.escape(prefix) + r"-[a-z0-9_]{8}\.tmp")
            for name in filter(temporary.fullmatch, os.listdir(folder)):
                os.unlink(os.path.join(folder, name))
        yield lock.is_locked
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            os.unlink(lock.lock_file)
        lock.release()


def import_optional(module: str, feature: str) -> Any:
    """Import a library that only one feature needs; raise ImportError with the install command.

    Such libraries take a second to load, so they are imported when they are needed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f"{feature} needs {package} ({error}): pip install {package}") from error


def derive_seed(*parts: int) -> int:
    """Return a seed below 2**63 that depends on all `parts`."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def format_count(count: int, singular: str, plural: str) -> str:
    """Format a number with its noun: "1 piece", "2,000 pieces"."""
    return f"{count:,} {singular if count == 1 else plural}"


# ------------------------------------------------------------------------------ command lines


@dataclass(frozen=True)
class Number:
    """An argparse type: a finite number from `low` to `high`, and greater than `above`."""

    kind: type[int] | type[float]
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf

    def __call__(self, text: str) -> float:
        """Return the number in `text`; raise ArgumentTypeError if it is none or out of range."""
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
    """A formatter that keeps the lines of the description and shows the defaults."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Return the flags of an option, with its value once at the end."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = action.metavar or "{" + ",".join(action.choices or ()) + "}"
        return f"{', '.join(action.option_strings)} {value}"  # as Python 3.13 does

    def _get_help_string(self, action: argparse.Action) -> str:
        """Return the help of an option, with its default if it has one."""
        text = (action.help or "").removesuffix(" (default: %(default)s)")  # as Python 3.11 adds
        if action.default in (None, "", argparse.SUPPRESS) or action.default is False:
            return text
        return f"{text} (default: {'on' if action.default is True else '%(default)s'})"


class Parser(argparse.ArgumentParser):
    """An argument parser with one-line errors.

    If an abbreviation fits several options, but only one of them has a one-letter form, it means
    that one: the options of the original have such a form, and their abbreviations still work.
    """

    def __init__(self, prog: str, description: str, defaults: Any, **options: Any) -> None:
        options.setdefault("usage", "python3 %(prog)s [options]")
        super().__init__(prog, description=description, formatter_class=HelpFormatter, **options)
        self.set_defaults(**vars(defaults))

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """Return the options that an abbreviation may mean; see the class."""
        matches = super()._get_option_tuples(option_string)  # type: ignore[misc]
        with_letter = [m for m in matches if any(len(flag) == 2 for flag in m[0].option_strings)]
        return with_letter if len(with_letter) == 1 else matches

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Return the value of an option; raise ArgumentError if it is missing."""
        values = super()._get_values(action, arg_strings)  # type: ignore[misc]
        if values == [] and action.nargs != 0:  # Python before 3.13, for `--flag=--`
            raise argparse.ArgumentError(action, "expected one argument")
        return values

    def error(self, message: str) -> NoReturn:
        """Print the message as one line, and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {_escape(message)}\n")

    def to_argv(self, options: Any) -> list[str]:
        """Return the arguments that set `options`, without defaults, in the order of its fields.

        The parser must not have positional arguments.
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


def run_command(name: str, command: Callable[[], int], interrupted: str) -> int:
    """Run a command and return its exit status; print errors that the user can fix as one line.

    These are OSError, ValueError, ImportError and lack of memory. name: of the program;
    interrupted: the message after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may be invalid Unicode
    try:
        return command()
    except BrokenPipeError:  # the program that reads the output has ended
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: {interrupted}\n")
        return 130
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except (ImportError, ValueError) as error:
        message = str(error)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        message = "not enough memory: try a smaller batch, window, beam or network"
    sys.stderr.write(f"{name}: error: {_escape(message)}\n")
    return 1


def _escape(text: str) -> str:
    """Return `text` as one line, with everything unprintable as a backslash sequence."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that memory is exhausted; torch raises RuntimeError for it."""
    phrases = ("can't allocate memory", "not enough memory", "out of memory")
    return (
        isinstance(error, MemoryError)
        or isinstance(error.__context__, MemoryError)
        or any(phrase in str(error) for phrase in phrases)
    )
