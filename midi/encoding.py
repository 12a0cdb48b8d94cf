"""What events stand for, in each version of the encoding: parameter sets of the one codec.

Version 1 is the original's, and is kept for its sessions and files: each gap is rounded down
by itself, so music comes out faster than it was played. New data has version 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from midi.quantize import SHIFT_MS

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Encoding:
    """One version of the encoding.

    shifts: length of each time shift [32], in units of a clock that has `per_second` of
    them in a second; edges: the highest MIDI velocity of each velocity event but the last
    [31]; velocities: what each is decoded to [32]; floored: notes are taken as the keys were
    released, without pedal, each gap is rounded down, each note on has its velocity event,
    and the last control windows end with the piece.
    """

    version: int
    shifts: Array
    per_second: int
    edges: Array
    velocities: Array
    floored: bool

    def __reduce__(self) -> tuple[Callable[[int], Encoding], tuple[int]]:
        """Each version is one object, in other processes too."""
        return _of_version, (self.version,)


def _of_version(version: int) -> Encoding:
    return ENCODINGS[version]


def _steps(low: float, step: float) -> Array:
    return low + step * np.arange(31)


CURRENT = Encoding(
    version=2,
    shifts=SHIFT_MS,
    per_second=1000,
    edges=_steps(4, 4),
    velocities=4 * np.arange(32) + 3,  # the middle of 1-4 (rounded up), 5-8, ..., 125-127
    floored=False,
)
ORIGINAL = Encoding(
    version=1,
    shifts=1.15 ** np.arange(32) / 65,
    per_second=1,
    edges=_steps(21, 88 / 31),
    velocities=np.append(np.rint(_steps(21, 88 / 31)), 108).astype(np.int64),
    floored=True,
)
ENCODINGS = {encoding.version: encoding for encoding in (ORIGINAL, CURRENT)}
