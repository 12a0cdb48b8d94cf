"""A folder of `.data` files that is split by piece: train, validation and test below it.

`split.json` in the folder marks it, with the shares and the pieces; the folders themselves
say where each file is. Data of which the side is not known yet waits in `.waiting`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import utils
from config import SPLIT_FILE, SUBSETS, parse_split
from corpus.dedup import Piece

WAITING = ".waiting"


@dataclass(frozen=True)
class Folder:
    """Where the `.data` files of a folder are: on the sides of a split, or flat.

    shares: "80,10,10" and the like; empty for a flat folder.
    """

    root: Path
    suffix: str
    shares: str = ""
    before: str = ""  # the shares of the run before

    @staticmethod
    def open(root: Path, suffix: str, shares: str, names: Iterable[str]) -> Folder:
        """The folder, made ready for `shares`, or as it is if these are empty.

        A folder that was not split is split now: its data of `names` waits for a side.
        Raises ValueError for a mark that is damaged, or if the folder has other data that
        would seem to be on a side.
        """
        before = _marked(root / SPLIT_FILE)
        folder = Folder(root, suffix, shares or before, before)
        if shares and not before:
            flat = Folder(root, suffix)
            _check_no_strangers(flat, names)
            for name in names:
                if flat.target(name).is_file():
                    _move(flat.target(name), folder.target(name), root)
            folder.mark([])
        return folder

    def target(self, name: str) -> Path:
        """The file for the data of a MIDI file: where it is, or where it shall be for now."""
        if not self.shares:
            return self.root / (name + self.suffix)
        places = [self.root / side / (name + self.suffix) for side in SUBSETS]
        there = [place for place in places if place.exists()]
        return there[0] if there else self.root / WAITING / (name + self.suffix)

    def sided(self) -> Iterator[tuple[Path, str]]:
        """All files that are on a side, with it."""
        for side in SUBSETS if self.shares else ():
            if (self.root / side).is_dir():
                for path in utils.find_files(self.root / side, (self.suffix,)):
                    yield path, side

    def name(self, path: Path) -> str:
        """The name of the MIDI file that a file on a side, or waiting for one, is for."""
        return Path(*path.relative_to(self.root).parts[1:]).as_posix()[: -len(self.suffix)]

    def settle(self, paths: Sequence[Path], pieces: Sequence[Piece], chosen: Assignment) -> None:
        """Move the data, files waiting or on a side, to the side of its piece, and mark it."""
        sided = list(zip(chosen.sides, pieces, strict=True))
        self.mark([(side, [self.name(paths[n]) for n in piece.members]) for side, piece in sided])
        for side, piece in sided:
            for path in (paths[number] for number in piece.members):
                target = self.root / side / (self.name(path) + self.suffix)
                if path != target:
                    _move(path, target, self.root)

    def mark(self, pieces: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Write which side each piece is on, and the names of its performances."""
        lines = ",\n".join(
            "  " + json.dumps({"side": side, "performances": list(names)}) for side, names in pieces
        )
        text = f'{{"version": 1, "split": {json.dumps(self.shares)}, "pieces": [\n{lines}\n]}}\n'
        utils.atomic_write(self.root / SPLIT_FILE, text.encode())


def _marked(path: Path) -> str:
    """The shares that a mark has; empty if there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        shares = record["split"]
        parse_split(shares)
    except FileNotFoundError:
        return ""
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: damaged, it does not say how its folder is split") from error
    return str(shares)


def _check_no_strangers(flat: Folder, names: Iterable[str]) -> None:
    known = {flat.target(name) for name in names}
    for side in SUBSETS:
        if (flat.root / side).is_dir():
            for path in utils.find_files(flat.root / side, (flat.suffix,)):
                if path not in known:
                    raise ValueError(
                        f"{path} is of an earlier run without --split and would seem to be on "
                        f"a side of it: give another SAVE_DIR, or move {str(flat.root / side)!r}"
                    )


def _move(source: Path, target: Path, root: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    for folder in source.parents:
        if folder == root:
            break
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


# -------------------------------------------------------------------------------- assignment


@dataclass(frozen=True)
class Assignment:
    """The side of each piece, and what is to be said of it.

    kept: the pieces, by number, that are on another side than the shares alone would put
    them, because they were there; gathered: those that were found on several sides.
    """

    sides: tuple[str, ...]
    kept: tuple[int, ...]
    gathered: tuple[int, ...]


def assign(pieces: Sequence[Piece], there: Mapping[int, str], shares: str) -> Assignment:
    """Choose a side for each piece; `there` has the sides of performances that are on one.

    A piece stays where it is. One that is on several sides, because it was not known to be
    one, goes to the first of them: what was trained on is never judged by. A new one goes
    where its identity falls; but while a side that has a share has no piece, the new piece
    that falls nearest to it goes there.
    """
    found = [{there[number] for number in piece.members if number in there} for piece in pieces]
    places = [_place(piece.identity) for piece in pieces]
    edges = np.cumsum(parse_split(shares)).tolist()
    drawn = [min(int(np.searchsorted(edges, place, "right")), _last(edges)) for place in places]
    held = [min(map(SUBSETS.index, sides)) if sides else None for sides in found]
    chosen = [at if old is None else old for at, old in zip(drawn, held, strict=True)]
    _fill(chosen, [n for n, old in enumerate(held) if old is None], places, edges)
    return Assignment(
        tuple(SUBSETS[side] for side in chosen),
        tuple(n for n, old in enumerate(held) if old is not None and old != drawn[n]),
        tuple(n for n, sides in enumerate(found) if len(sides) > 1),
    )


def _place(identity: bytes) -> float:
    """Where an identity falls between 0 and 1, evenly."""
    digest = hashlib.blake2b(identity, digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _last(edges: Sequence[float]) -> int:
    """The last side with a share, for rounding may leave the last edge a little below 1."""
    return int(np.searchsorted(edges, edges[-1]))


def _fill(
    chosen: list[int], free: list[int], places: Sequence[float], edges: Sequence[float]
) -> None:
    """Give each side that has a share a piece of those that are free to move, if there are."""
    starts = [0.0, *edges[:-1]]
    for side, (low, high) in enumerate(zip(starts, edges, strict=True)):
        if high > low and side not in chosen:
            spare = [n for n in free if chosen.count(chosen[n]) > 1 or side < chosen[n]]
            if spare:
                chosen[min(spare, key=lambda n: max(low - places[n], places[n] - high))] = side
