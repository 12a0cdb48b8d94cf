"""The data of a training run: finding the files, holding some out, loading batches ahead."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import utils
from config import DATA_SUFFIX, FETCH_COMMAND, SPLIT_FILE, SUBSETS
from corpus.performance import Corpus, hold_out

T = TypeVar("T")


def find_data_files(folder: Path) -> list[Path]:
    """Return the .data files of a folder and its subfolders; ValueError if there are none."""
    paths = list(utils.find_files(folder, (DATA_SUFFIX,))) if folder.is_dir() else []
    if not paths:
        raise ValueError(
            f"no {DATA_SUFFIX} files in {str(folder)!r}: preprocess.py makes them from MIDI files, "
            f"and this downloads some: {FETCH_COMMAND}"
        )
    return paths


def load_data(dataset: Path, validation: Path | None, share: float) -> tuple[Corpus, Corpus]:
    """Return the training and the validation data.

    Without a `validation` folder, `share` of the files of `dataset` is held out.
    """
    if (dataset / SPLIT_FILE).exists():
        train, val = (str(dataset / subset) for subset in SUBSETS[:2])
        raise ValueError(
            f"{str(dataset)!r} is split into subsets, and training on all of it would include the "
            f"test data: use -d {train} -v {val}"
        )
    train_paths = find_data_files(dataset)
    if validation is not None:
        val_paths = find_data_files(validation)
    else:
        train_paths, val_paths = hold_out(train_paths, dataset, share)
    # loaded together, so that two encodings are noticed
    performances = Corpus.load([*train_paths, *val_paths]).performances
    count = len(train_paths)
    return Corpus(performances[:count]), Corpus(performances[count:])


@contextlib.contextmanager
def prefetch(load: Callable[[int], T], first: int) -> Iterator[Iterator[T]]:
    """Open an iterator over load(first), load(first + 1), ...; a thread works one item ahead."""

    def iterate(pool: ThreadPoolExecutor) -> Iterator[T]:
        upcoming = pool.submit(load, first)
        for number in itertools.count(first + 1):
            current, upcoming = upcoming, pool.submit(load, number)
            yield current.result()

    with ThreadPoolExecutor(1) as pool:
        yield iterate(pool)
