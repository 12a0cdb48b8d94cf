"""A folder of `.data` files, split by piece into folders for train, validation and test.

`split.json` marks a split folder; it has the shares and, for the user, the pieces. Where a file is
decides in which subset it is. A new file is in `.waiting` until its piece has a subset.
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

        If the folder was flat, the `.data` files of the MIDI files `names` move to `.waiting`.
        Raises ValueError for a damaged split.json, and for other `.data` files that would seem to
        be in a subset.
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
        """Return where the `.data` file of a MIDI file is, or where to write it."""
        if not self.split:
            return self.root / (name + DATA_SUFFIX)
        paths = [self.root / subset / (name + DATA_SUFFIX) for subset in SUBSETS]
        existing = [path for path in paths if os.path.exists(path)]  # False for any error
        return existing[0] if existing else self.root / WAITING / (name + DATA_SUFFIX)

    def find_subsets(self) -> dict[Path, str]:
        """Return the subset of every file that is in one."""
        return {
            path: subset
            for subset in SUBSETS
            if self.split and (self.root / subset).is_dir()
            for path in utils.find_files(self.root / subset, (DATA_SUFFIX,))
        }

    def midi_name(self, path: Path) -> str:
        """Return the name of the MIDI file of a `.data` file in a subset or in `.waiting`."""
        return Path(*path.relative_to(self.root).parts[1:]).as_posix()[: -len(DATA_SUFFIX)]

    def apply_split(
        self, paths: Sequence[Path], pieces: Sequence[Piece], subsets: Sequence[str]
    ) -> None:
        """Write split.json and move each file to the subset of its piece."""
        lines: list[str] = []
        targets: list[tuple[Path, Path]] = []
        for piece, subset in zip(pieces, subsets, strict=True):
            names = [self.midi_name(paths[number]) for number in piece.members]
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
    """Return the shares in a split.json; empty if the file is missing."""
    try:
        split = json.loads(path.read_text(encoding="utf-8"))["split"]
        parse_split(split)
    except FileNotFoundError:
        return ""
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: damaged (no valid 'split'); restore it or use another SAVE_DIR"
        ) from error
    return str(split)


# -------------------------------------------------------------------------------- assignment


@dataclass(frozen=True)
class Assignment:
    """The subset of each piece.

    pinned: pieces, by number, that stay in their subset though their hash would select another by
    the present shares. merged: pieces whose performances were in several subsets.
    """

    subsets: tuple[str, ...]
    pinned: tuple[int, ...]
    merged: tuple[int, ...]


def assign_subsets(pieces: Sequence[Piece], current: Mapping[int, str], split: str) -> Assignment:
    """Choose a subset for each piece; `current` has those of performances that are in one.

    A piece stays in its subset. If its performances are in several subsets, because they were not
    known to be one piece, it goes to the first: what was trained on must not be evaluated on.
    The subset of a new piece depends on its hash; but as long as a subset with a share is
    empty, it gets the new piece whose hash is nearest.
    """
    current_subsets = [{current[n] for n in piece.members if n in current} for piece in pieces]
    hashes = [hashlib.blake2b(piece.identity, digest_size=6).digest() for piece in pieces]
    positions = [int.from_bytes(digest, "big") / 2**48 for digest in hashes]  # from 0 to 1
    edges = np.cumsum(parse_split(split)).tolist()
    # rounding may leave the last edge a little below 1
    last = int(np.searchsorted(edges, edges[-1]))
    hashed = [min(int(np.searchsorted(edges, p, "right")), last) for p in positions]
    fixed = [min(map(SUBSETS.index, names)) if names else None for names in current_subsets]
    chosen = [new if old is None else old for new, old in zip(hashed, fixed, strict=True)]
    _fill_empty(chosen, [n for n, old in enumerate(fixed) if old is None], positions, edges)
    return Assignment(
        tuple(SUBSETS[index] for index in chosen),
        tuple(n for n, old in enumerate(fixed) if old is not None and old != hashed[n]),
        tuple(n for n, names in enumerate(current_subsets) if len(names) > 1),
    )


def _fill_empty(
    chosen: list[int], movable: list[int], positions: Sequence[float], edges: Sequence[float]
) -> None:
    """Give each empty subset that has a share one of the movable pieces, if there are enough."""
    starts = [0.0, *edges[:-1]]
    for subset, (low, high) in enumerate(zip(starts, edges, strict=True)):
        if high > low and subset not in chosen:
            spare = [n for n in movable if chosen.count(chosen[n]) > 1 or subset < chosen[n]]
            if spare:
                nearest = min(spare, key=lambda n: max(low - positions[n], positions[n] - high))
                chosen[nearest] = subset
