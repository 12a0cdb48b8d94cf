"""A folder of `.data` files, split by piece into folders for train, validation and test.

`split.json` marks a split folder; it holds the shares and, for the user, the pieces. The subset of
a file is the folder that it is in. A new file is in `.waiting` until its piece has a subset.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
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
    the run before.
    """

    root: Path
    split: str = ""
    previous_split: str = ""

    @staticmethod
    def open(root: Path, split: str, names: Iterable[str]) -> DataFolder:
        """Return the folder, prepared for `split`; without one it stays as it is.

        names: the MIDI files; if the folder was flat, their `.data` files move to `.waiting`.
        Raises ValueError for a damaged split.json, and for other `.data` files in folders that are
        named like subsets.
        """
        previous_split = _read_split(root / SPLIT_FILE)
        folder = DataFolder(root, split or previous_split, previous_split)
        if split and not previous_split:
            flat = {name: DataFolder(root).find_data(name) for name in names}
            known = set(flat.values())
            for path, subset in folder.find_subsets().items():
                if path not in known:
                    raise ValueError(
                        f"{path}: written without --split, but it is in a folder named like a "
                        f"subset; use another SAVE_DIR, or move {str(root / subset)!r}"
                    )
            for name, path in flat.items():
                if os.path.isfile(path):
                    folder._move(path, folder.find_data(name))
            folder.apply_split([], [], [])
        return folder

    @property
    def split_file(self) -> Path:
        """The path of split.json."""
        return self.root / SPLIT_FILE

    def find_data(self, name: str) -> Path:
        """Return the path of the `.data` file of a MIDI file, whether it exists or not."""
        if not self.split:
            return self.root / (name + DATA_SUFFIX)
        paths = [self.root / subset / (name + DATA_SUFFIX) for subset in SUBSETS]
        existing = [path for path in paths if os.path.exists(path)]  # False if it cannot be checked
        return existing[0] if existing else self.root / WAITING / (name + DATA_SUFFIX)

    def find_subsets(self) -> dict[Path, str]:
        """Return the subset of each `.data` file that is in one."""
        return {
            path: subset
            for subset in SUBSETS
            if self.split and (self.root / subset).is_dir()
            for path in utils.find_files(self.root / subset, (DATA_SUFFIX,))
        }

    def find_midi_name(self, path: Path) -> str:
        """Return the name of the MIDI file of a `.data` file in a subset or in `.waiting`."""
        return Path(*path.relative_to(self.root).parts[1:]).as_posix()[: -len(DATA_SUFFIX)]

    def apply_split(
        self, paths: Sequence[Path], pieces: Sequence[Piece], subsets: Sequence[str]
    ) -> None:
        """Write split.json and move each file to the subset of its piece."""
        lines: list[str] = []
        targets: list[tuple[Path, Path]] = []
        for piece, subset in zip(pieces, subsets, strict=True):
            names = [self.find_midi_name(paths[number]) for number in piece.members]
            # "side" is the subset: the word is part of the file format
            lines.append("  " + json.dumps({"side": subset, "performances": names}))
            for number, name in zip(piece.members, names, strict=True):
                targets.append((paths[number], self.root / subset / (name + DATA_SUFFIX)))
        text = ",\n".join(lines)
        text = f'{{"version": 1, "split": {json.dumps(self.split)}, "pieces": [\n{text}\n]}}\n'
        utils.atomic_write(self.split_file, text.encode())
        for path, target in targets:
            if path != target:
                self._move(path, target)

    def _move(self, source: Path, target: Path) -> None:
        """Move a file, and remove the folders that this leaves empty."""
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        for folder in source.relative_to(self.root).parents[:-1]:
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
