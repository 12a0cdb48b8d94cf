"""The disk and the terminal: finding and writing files, running a command."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Name = str | os.PathLike[str]


def find_files(
    root: Name, suffixes: tuple[str, ...], unreadable: list[OSError] | None = None
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


def atomic_write(path: Name, content: bytes, durable: bool = True) -> None:
    """Write a file that is at every moment the old one or the new one, whole.

    `durable` waits until the disk has it, so that this holds for a power cut too. A link
    is written through. OSError names `path`.
    """
    target = os.path.realpath(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=os.path.dirname(target))
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


def optional(module: str, feature: str) -> Any:
    """Import a library that only one feature needs; ImportError says what installs it.

    It is not imported before it is needed, for such libraries take a second to load.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(f"{feature} needs {package} ({error}): pip install {package}") from error


def mixed_seed(*parts: int) -> int:
    """A seed, below 2**63, that is another one for other parts; for torch's generators."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def run_command(name: str, verb: Callable[[], int], stopped: str) -> int:
    """The exit status of `verb`; what the user has to put right is told in one sentence.

    That is OSError, ValueError or ImportError; `stopped` is what Ctrl-C says. Names that the
    terminal can not show are shown with backslashes.
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
    except KeyboardInterrupt:
        status, sentence = 130, stopped
    sys.stderr.write(f"{name}: {sentence}\n")
    return status


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(folder: Name) -> None:
    """Make a folder if need be; OSError, naming it, if no file can be written in it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "Not a folder", str(folder)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
