"""The disk and the page: finding and writing files, drawing and sounding notes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Name = str | os.PathLike[str]


def find_files(root: Name, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files below `root` with one of the lower-case `suffixes`, in any case, in order of path.

    Links to folders are not followed. Raises OSError for a folder that can not be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=fail):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(suffixes):
                yield Path(folder, name)


def atomic_write(path: Name, content: bytes, durable: bool = True) -> None:
    """Write a file that is at every moment the old one or the new one, whole.

    `durable` waits until the disk has it, so that this holds for a power cut too.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_tensors(path: Name, memory_map: bool = False) -> Any:
    """What `torch.save` wrote, on the CPU; nothing in the file is run.

    With `memory_map` tensors stay on disk until they are read. Raises OSError for a file
    that can not be opened, ValueError (naming the path) for one that is not such a file.
    """
    import torch  # here, so that notes and events can be used without waiting for it

    Path(path).open("rb").close()
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=memory_map)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: not a file of this suite, or damaged ({first_line})") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
