"""A folder of `.data` files, flat or split by piece into folders for train, validation and test.

`split.json` marks a split folder; it holds the shares and, for the user, the pieces. The subset of
a file is the folder that it is in. A new file is in `.waiting` until its place is known.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import utils
from config import DATA_SUFFIX, SPLIT_FILE, SUBSETS, parse_split
from corpus.dedup import Piece

WAITING = ".waiting"


@dataclass(frozen=True)
class DataFolder:
    """A folder of `.data` files, split or flat.

    split: the shares, such as "80,10,10"; empty for a flat folder. previous_split: the shares of
    the run before. Paths of `.data` files are text, below the folder.
    """

    root: Path
    split: str = ""
    previous_split: str = ""

    @staticmethod
    def open(root: Path, split: str = "") -> DataFolder:
        """Return the folder, to be split with the shares `split`; "" leaves it as it is.

        Raises ValueError for a damaged split.json.
        """
        previous_split = _read_split(root / SPLIT_FILE)
        return DataFolder(root, split or previous_split, previous_split)

    @property
    def split_file(self) -> Path:
        """The path of split.json."""
        return self.root / SPLIT_FILE

    @property
    def is_new_split(self) -> bool:
        """Whether the folder was flat before this run, and will be split."""
        return bool(self.split and not self.previous_split)

    def locate(self, name: str, subset: str = "") -> str:
        """Return the path of the `.data` file of a MIDI file; subset: "" if it is not known yet."""
        if not self.split:
            return name + DATA_SUFFIX
        return f"{subset or WAITING}/{name}{DATA_SUFFIX}"

    def parse(self, path: str, is_split: bool) -> tuple[str, str]:
        """Return the subset ("" for none) and the name of the MIDI file of a `.data` file.

        is_split: the folder has subsets; in a flat one, "train" is a folder like any other.
        """
        first, _, rest = path.partition("/")
        name = path[: -len(DATA_SUFFIX)]
        if first == WAITING and rest:
            return "", rest[: -len(DATA_SUFFIX)]
        if is_split and first in SUBSETS and rest:
            return first, rest[: -len(DATA_SUFFIX)]
        return "", name

    def find_data(self) -> list[str]:
        """Return the paths of all `.data` files, without those of split folders below this one."""
        found = utils.find_files(self.root, (DATA_SUFFIX,))
        paths = [path.relative_to(self.root) for path in found]
        parents = {parent for path in paths for parent in path.parents if parent.name}
        foreign = {parent for parent in parents if (self.root / parent / SPLIT_FILE).exists()}
        return [path.as_posix() for path in paths if foreign.isdisjoint(path.parents)]

    def write_split(self, pieces: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Write split.json; pieces: the subset of each, and the names of its performances."""
        text = ",\n".join(
            # "side" is the subset: the word is part of the file format
            "  " + json.dumps({"side": subset, "performances": list(names)})
            for subset, names in pieces
        )
        text = f'{{"version": 1, "split": {json.dumps(self.split)}, "pieces": [\n{text}\n]}}\n'
        utils.atomic_write(self.split_file, text.encode())

    def move(self, targets: Mapping[str, str]) -> None:
        """Move files, which may exchange their places; no two may have the same target.

        A kill leaves each file in its old place, in its new one, or in `.waiting`.
        """
        moves = {path: target for path, target in targets.items() if path != target}
        blocking = set(moves) & set(moves.values())
        for path in blocking:  # another file gets this place
            target = moves.pop(path)
            middle = f"{WAITING}/{self.parse(target, bool(self.split))[1]}{DATA_SUFFIX}"
            while os.path.lexists(self.root / middle):
                middle = f"{middle.removesuffix(DATA_SUFFIX)}+{DATA_SUFFIX}"
            self._move(path, middle)
            moves[middle] = target
        for path, target in moves.items():
            self._move(path, target)

    def remove(self, path: str) -> None:
        """Remove a file, and the folders that this leaves empty."""
        (self.root / path).unlink(missing_ok=True)
        self._remove_empty(path)

    def _move(self, path: str, target: str) -> None:
        """Move a file, and remove the folders that this leaves empty."""
        (self.root / target).parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.root / path, self.root / target)
        self._remove_empty(path)

    def _remove_empty(self, path: str) -> None:
        """Remove the folders of a file, as far as they are empty."""
        for folder in Path(path).parents[:-1]:
            with contextlib.suppress(OSError):  # it is not empty
                (self.root / folder).rmdir()


def _read_split(path: Path) -> str:
    """Return the shares in a split.json, such as "80,10,10"; empty if the file is missing."""
    try:
        split = json.loads(path.read_text(encoding="utf-8"))["split"]
        parse_split(split)
    except FileNotFoundError:
        return ""
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: damaged (no valid 'split'); restore it or use another SAVE_DIR"
        ) from error
    return str(split)


# -------------------------------------------------------------------------------- assignment


@dataclass(frozen=True)
class Assignment:
    """The subset of each piece.

    pinned: pieces, by number, that stay in their subset although their hash and the current shares
    would select another one. merged: pieces whose performances were in several subsets.
    """

    subsets: tuple[str, ...]
    pinned: tuple[int, ...]
    merged: tuple[int, ...]


def assign_subsets(pieces: Sequence[Piece], current: Mapping[int, str], split: str) -> Assignment:
    """Choose a subset for each piece.

    current: the subset of each performance, by number, that is in one. A piece stays in its
    subset. If its performances are in several subsets, because they did not seem to be one piece,
    it goes to the first of these: what was used for training must not be used for evaluation.
    The subset of a new piece depends on its hash. But if a subset with a share would be empty, it
    gets the new piece whose hash is nearest.
    """
    current_subsets = [{current[n] for n in piece.members if n in current} for piece in pieces]
    hashes = [hashlib.blake2b(piece.identity, digest_size=6).digest() for piece in pieces]
    positions = [int.from_bytes(digest, "big") / 2**48 for digest in hashes]  # from 0 to 1
    edges = np.cumsum(parse_split(split)).tolist()
    # rounding may leave the last edge a little below 1
    last = int(np.searchsorted(edges, edges[-1]))
    # subsets as indices of SUBSETS: by the hash; of the files, if there are any; the result
    by_hash = [min(int(np.searchsorted(edges, p, "right")), last) for p in positions]
    by_files = [min(map(SUBSETS.index, names)) if names else None for names in current_subsets]
    result = [new if old is None else old for new, old in zip(by_hash, by_files, strict=True)]
    _fill_empty(result, [n for n, old in enumerate(by_files) if old is None], positions, edges)
    return Assignment(
        tuple(SUBSETS[index] for index in result),
        tuple(n for n, old in enumerate(by_files) if old is not None and old != by_hash[n]),
        tuple(n for n, names in enumerate(current_subsets) if len(names) > 1),
    )


def _fill_empty(
    result: list[int], movable: list[int], positions: Sequence[float], edges: Sequence[float]
) -> None:
    """Give each empty subset with a share one of the `movable` pieces, if there are enough.

    result: the subset of each piece, which is changed; positions: the hashes, 0..1.
    """
    starts = [0.0, *edges[:-1]]
    for subset, (low, high) in enumerate(zip(starts, edges, strict=True)):
        if high > low and subset not in result:
            spare = [n for n in movable if result.count(result[n]) > 1 or subset < result[n]]
            if spare:
                nearest = min(spare, key=lambda n: max(low - positions[n], positions[n] - high))
                result[nearest] = subset
