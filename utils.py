"""Files and the terminal: find, write and lock files, parse arguments, print, run a command."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import functools
import hashlib
import importlib
import io
import math
import os
import re
import signal
import stat
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn, TextIO

import numpy as np
import numpy.typing as npt

try:
    import fcntl
except ImportError:  # Windows, where nobody can remove a file that is open
    fcntl = None  # type: ignore[assignment]

VERSION = "1.1.0.dev0"
DEBUG_VARIABLE = "PRNN_DEBUG"  # if it is set, every error prints a traceback
PathLike = str | os.PathLike[str]
Array = npt.NDArray[Any]
# errors of a file system without locks
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)
# errors of a file system without hard links
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EMLINK)
# names of the temporary files of `atomic_write` and the lock files of `lock_file`
HIDDEN_NAME = re.compile(r"\.[0-9a-f]{16}(-[a-z0-9_]{8}\.tmp|\.lock)")
# errors of an output that nobody reads any more: closed pipe, terminal or descriptor
NO_READER = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)


def find_files(
    root: PathLike, suffixes: tuple[str, ...], errors: list[OSError] | None = None
) -> Iterator[Path]:
    """Yield the files below `root` whose names end with one of `suffixes`, in upper or lower case.

    suffixes: in lower case. The order is fixed: the files of a folder by name, then its folders
    by name. Links to folders are followed, but no folder is entered twice. If a folder cannot be
    read, the OSError is appended to `errors`, or raised if that is None. Pipes, sockets and
    devices are left out; with `errors`, an OSError is appended for each.
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
                path = Path(folder, name)
                if not is_special(path):
                    yield path
                elif errors is not None:
                    errors.append(OSError(errno.EINVAL, "Not a regular file", str(path)))


def is_special(path: PathLike) -> bool:
    """Return whether a path is a pipe, a socket or a device: reading one may never end."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # missing, or a broken link
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_writable(folder: PathLike) -> None:
    """Create a folder if necessary; raise OSError, naming it, if it cannot be written to.

    Removes what killed runs left in it; see `remove_leftovers`.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(folder)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    remove_leftovers(folder)


def open_file(path: PathLike) -> BinaryIO:
    """Open a regular file to read its bytes; raise OSError for anything else.

    Opening a pipe would wait for a process that writes to it.
    """

    def open_regular(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            code, text = errno.EINVAL, "Not a regular file"
            if stat.S_ISDIR(mode):
                code, text = errno.EISDIR, "Is a directory"
            raise OSError(code, text, name)
        return descriptor

    return open(path, "rb", opener=open_regular)


def read_file(path: PathLike) -> bytes:
    """Return the bytes of a regular file; see `open_file`."""
    with open_file(path) as file:
        return file.read()


def has_mark(path: PathLike, mark: str) -> bool:
    """Return whether the first 1000 bytes of a file contain `mark`: this project wrote it."""
    with open_file(path) as file:
        return mark.encode() in file.read(1000)


def atomic_write(
    path: PathLike, content: bytes, durable: bool = True, overwrite: bool = True
) -> None:
    """Write a file so that it has its whole old or its whole new content at every moment.

    durable: even after a power failure. An existing file keeps its permissions and, if this
    user may set it, its owner; a link stays a link, and its target is written.
    Raises OSError, naming `path`: FileExistsError for an existing file without `overwrite`, also
    if it appears at the last moment; another one for what is not a regular file, such as a device.
    """
    target = os.path.realpath(path)
    try:
        folder, prefix = _hidden_prefix(target)
        status = _stat_regular(path)
        if status is not None and not overwrite:
            raise FileExistsError(errno.EEXIST, "File exists")
        _remove_leftovers_once(folder)
        handle, temporary = _open_temporary(folder, prefix)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                _set_permissions(temporary, status)
                if fcntl is not None:  # the lock ends when the file is closed
                    _rename(temporary, target, overwrite)
            if fcntl is None:  # Windows cannot rename an open file
                _rename(temporary, target, overwrite)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # it may have been renamed already
                os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _stat_regular(path: PathLike) -> os.stat_result | None:
    """Return the status of a regular file, or None if it does not exist; OSError for others."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise FileExistsError(errno.EEXIST, "Not a regular file, so it is not replaced")
    return status


def _set_permissions(path: str, status: os.stat_result | None) -> None:
    """Give a file the permissions and the owner in `status`, or those of a new file if None."""
    if status is None:
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(path, 0o666 & ~mask)
        return
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(path, status.st_uid, status.st_gid)
    os.chmod(path, stat.S_IMODE(status.st_mode))  # after chown, which may clear bits


def _rename(temporary: str, target: str, overwrite: bool) -> None:
    """Give a temporary file its name; FileExistsError if that exists and must not be replaced."""
    if not overwrite:
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            os.close(os.open(target, os.O_CREAT | os.O_EXCL))  # claims the name, then is replaced
        else:
            os.unlink(temporary)
            return
    os.replace(temporary, target)


def _open_temporary(folder: str, prefix: str) -> tuple[int, str]:
    """Create a temporary file, locked so that no other process takes it for a leftover."""
    while True:
        handle, path = tempfile.mkstemp(prefix=f"{prefix}-", suffix=".tmp", dir=folder)
        if _lock(handle) is not False and os.fstat(handle).st_nlink:
            return handle, path
        os.close(handle)  # another process removes it, because it was not locked yet


def _lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed.

    Returns False if another process has locked it, None if the file system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_leftovers(folder: PathLike) -> None:
    """Remove the temporary files and locks of killed runs in a folder.

    A file of a process that still runs is locked, and stays. On a file system without locks all
    stay.
    """
    with contextlib.suppress(OSError):
        for name in filter(HIDDEN_NAME.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError):
                _remove_unlocked(os.path.join(folder, name))


_remove_leftovers_once = functools.cache(remove_leftovers)  # once per folder and process


def _remove_unlocked(path: str) -> None:
    """Remove a file unless a process has locked it."""
    if fcntl is None:
        os.unlink(path)  # fails if a process has opened it
        return
    with open_file(path) as file:
        if _lock(file.fileno()):
            os.unlink(path)


def _hidden_prefix(target: str) -> tuple[str, str]:
    """Return the folder of a file, and the name prefix of its lock file and temporary files."""
    folder, name = os.path.split(target)
    return folder, "." + hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()


@contextlib.contextmanager
def lock_file(path: PathLike) -> Iterator[bool]:
    """Lock a file for this process; yield False if its file system has no locks.

    The lock ends with the process, even if it is killed. Raises BlockingIOError if another
    process has it.
    """
    import filelock  # only train.py needs it, and it takes 50 ms

    folder, prefix = _hidden_prefix(os.path.realpath(path))
    name = os.path.join(folder, f"{prefix}.lock")
    # `remove_leftovers` of another process may hold a lock for a moment
    lock = filelock.FileLock(name, timeout=0.2, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        message = "Another process is writing it"
        raise BlockingIOError(errno.EAGAIN, message, os.fspath(path)) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
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


def count_processors() -> int:
    """Return how many processors this process may use; OMP_NUM_THREADS limits it, as in torch."""
    affinity = getattr(os, "sched_getaffinity", None)  # not in Windows and macOS
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(count, max(1, int(limit))) if limit.isdecimal() else count


def quote(text: str) -> str:
    """Return a text from a user in quotes for a message, cut if it is long."""
    text = text.strip()
    return repr(text if len(text) < 60 else text[:57] + "...")


def format_time(seconds: float) -> str:
    """Format a duration as `12:40`, or as `1:02:40` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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


@dataclass(frozen=True)
class Numbers:
    """An argparse type: whole numbers from `low` to `high`, separated by commas."""

    low: int
    high: int

    def __call__(self, text: str) -> tuple[int, ...]:
        """Return the numbers in `text`; raise ArgumentTypeError if one is none or out of range."""
        parse = Number(int, self.low, self.high)
        return tuple(int(parse(part)) for part in text.split(","))


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A formatter that keeps the lines of the description and shows the defaults."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Return the flags of an option, with its value once at the end."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = action.metavar or "{" + ",".join(action.choices or ()) + "}"
        if isinstance(value, tuple):  # an option with several values
            value = " ".join(value)
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
        version = f"%(prog)s {VERSION}"
        self.add_argument("--version", action="version", version=version, help="print the version")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the command line; an unknown option is an error that names a similar one."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self.format_unknown(unknown))
        return options

    def format_unknown(self, arguments: list[str]) -> str:
        """Format the error for arguments that are not options, with the most similar option."""
        message = f"unrecognized arguments: {' '.join(arguments)}"
        flag = arguments[0].partition("=")[0]
        similar = difflib.get_close_matches(flag, self._option_string_actions, 1, 0.7)
        return f"{message} (did you mean {similar[0]}?)" if similar else message

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
        self.exit(2, f"{self.prog}: error: {escape(message)}\n")

    def accepts(self, name: str, value: Any) -> bool:
        """Return whether an option could have got this value, a bool or number, from its text."""
        (action,) = (action for action in self._actions if action.dest == name)
        if action.nargs == 0 or isinstance(value, bool):
            return action.nargs == 0 and isinstance(value, bool)
        try:
            return isinstance(value, int | float) and self._get_value(action, str(value)) == value
        except argparse.ArgumentError:
            return False

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
            elif isinstance(value, list | tuple):
                argv += [flags[-1], *map(str, value)]
            elif str(value).startswith("-"):
                argv.append(f"{flags[-1]}={value}")
            else:
                argv += [flags[0], str(value)]
        return argv


# ------------------------------------------------------------------------- terminal, signals


def escape(text: str) -> str:
    """Return `text` as one line, with everything unprintable as a backslash sequence.

    So names and texts from files cannot move the cursor, break lines or reorder text.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def print_line(text: str) -> None:
    """Print one line, escaped, and at once."""
    print(escape(text), flush=True)  # noqa: T201 all other code prints with this function


class _Output(io.RawIOBase):
    """A stream of bytes to write to; an error ends the output, not the program.

    stream: a raw stream, without a buffer; error: the first error, or None. The raw stream of a
    Windows console writes Unicode.
    """

    def __init__(self, stream: io.RawIOBase) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write bytes; return their number, also if they are lost."""
        count = None
        if self.error is None:
            try:
                count = self.stream.write(content)
            except OSError as error:
                self.error = error
        # None: a full pipe that does not wait, so only this text is lost
        return memoryview(content).nbytes if count is None else count

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether this is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.stream.fileno()


def open_null() -> TextIO:
    """Open the null device for text with any characters."""
    return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")


@contextlib.contextmanager
def _keep_running_without_output() -> Iterator[list[_Output]]:
    """Replace stdout and stderr by streams whose errors are kept in the yielded objects.

    A closed pipe or terminal must not end a training. Streams that are already replaced, as in
    tests, stay.
    """
    for descriptor in range(3):  # closed ones: the next file that is opened would get the number
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before, outputs = (sys.stdout, sys.stderr), []
    for name in ("stdout", "stderr"):
        stream, original = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is None:
            setattr(sys, name, open_null())
        elif stream is original and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            buffer: Any = stream.buffer
            outputs.append(_Output(getattr(buffer, "raw", buffer)))  # no buffer with python -u
            safe = io.TextIOWrapper(
                io.BufferedWriter(outputs[-1]),
                stream.encoding,
                "backslashreplace",  # file names may be invalid Unicode
                line_buffering=stream.line_buffering,
            )
            setattr(sys, name, safe)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield outputs
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def _interrupt_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt, with the number of the signal, for SIGTERM and SIGHUP too.

    A signal that is ignored or handled in another way stays so; `nohup` ignores SIGHUP.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    with contextlib.ExitStack() as handlers:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                    handlers.callback(signal.signal, number, signal.SIG_DFL)
                    signal.signal(number, interrupt)
        yield


@contextlib.contextmanager
def redirect_messages(quiet: bool, as_json: bool = False) -> Iterator[TextIO]:
    """Redirect everything that is printed; yield the stdout from before, for a result in JSON.

    quiet: print nothing; as_json: print to stderr instead of stdout.
    """
    stdout = sys.stdout
    with contextlib.ExitStack() as stack:
        if quiet:
            nothing = stack.enter_context(open_null())
            stack.enter_context(contextlib.redirect_stdout(nothing))
            stack.enter_context(contextlib.redirect_stderr(nothing))
        elif as_json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield stdout


def run_command(name: str, command: Callable[[], int], interrupted: str) -> int:
    """Run a command and return its exit status; print an error as one line.

    OSError, ValueError, ImportError and lack of memory are for the user to fix; for any other
    error, a bug, the line says how to get the traceback. name: of the program;
    interrupted: the message after Ctrl-C, SIGTERM or SIGHUP.
    """
    with _keep_running_without_output() as outputs, _interrupt_by_signals():
        status, message = _run(command, interrupted)
        sys.stdout.flush()
        for output in outputs:
            if output.error is not None and output.error.errno not in NO_READER and not message:
                status, message = 1, f"error: the output is not complete: {output.error.strerror}"
        if message:
            sys.stderr.write(f"{name}: {escape(message)}\n")
    return status


def _run(command: Callable[[], int], interrupted: str) -> tuple[int, str]:
    """Run a command; return its exit status and the message for stderr; see `run_command`."""
    try:
        return command(), ""
    except KeyboardInterrupt as error:
        return 128 + (error.args[0] if error.args else signal.SIGINT), interrupted
    except Exception as error:  # noqa: BLE001 the user gets a sentence, and the traceback on demand
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        return 1, f"error: {_format_error(error)}"


def _format_error(error: Exception) -> str:
    """Return a sentence about an error; one that is a bug also says how to get the traceback."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if isinstance(error, ImportError | ValueError):
        return str(error)
    if _is_out_of_memory(error):
        return "not enough memory: try a smaller batch, window, beam or network"
    return (
        f"unexpected {type(error).__name__}: {error}; this is a bug: to see where, run the same "
        f"command with the environment variable {DEBUG_VARIABLE}=1, and report it"
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether an error means that memory is exhausted; torch raises RuntimeError for it."""
    phrases = ("can't allocate memory", "not enough memory", "out of memory")
    return (
        isinstance(error, MemoryError)
        or isinstance(error.__context__, MemoryError)
        or any(phrase in str(error) for phrase in phrases)
    )
