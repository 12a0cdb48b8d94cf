"""The profile of the training data that a session keeps: what it can compare its music with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from analysis.memorization import Passage, TrainIndex
from analysis.ranking import EXCERPT, STATISTICS, Reference
from corpus.performance import Performance
from sequence import EventSeq, NoteSeq

MAX_EXCERPTS = 256  # of the training data, for the statistics
# notes that a piece may share with the training data if there was no validation data to compare
DEFAULT_COPY_LIMIT = 20


@dataclass(frozen=True, eq=False)
class TrainProfile:
    """What a session keeps of its training data, at most about 2 MB.

    index: finds passages of the training data; reference: statistics of excerpts of it;
    copy_limit: notes of the longest passage that a validation performance shares with it.
    """

    index: TrainIndex
    reference: Reference
    copy_limit: int

    @staticmethod
    def build(
        train: Iterable[tuple[str, Performance]], validation: Iterable[tuple[str, Performance]]
    ) -> TrainProfile | None:
        """Return the profile of named performances; None if they have no notes."""
        music = [(name, notes) for name, notes in _decode(train) if len(notes)]
        if not music:
            return None
        index = TrainIndex.build(music)
        passages = [index.find_longest(notes) for _, notes in _decode(validation)]
        lengths = [passage.notes for passage in passages if passage is not None]
        excerpts = _cut_excerpts([notes for _, notes in music])
        limit = max(lengths, default=DEFAULT_COPY_LIMIT)
        return TrainProfile(index, Reference.measure(excerpts), limit)

    def to_record(self) -> dict[str, Any]:
        """Return the profile for a session file; `from_record` is the inverse."""
        index = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in self.index.to_arrays().items()
        }
        rows = np.stack([self.reference.median, self.reference.scale])
        statistics = {"statistics": torch.from_numpy(rows.ravel())}
        return index | statistics | {"copy_limit": self.copy_limit}

    @staticmethod
    def from_record(record: dict[str, Any] | None) -> TrainProfile | None:
        """Return the profile in a session file; None if there is none.

        Raises ValueError if it is invalid.
        """
        if record is None:
            return None
        arrays = {
            name: value.numpy() if isinstance(value, torch.Tensor) else value
            for name, value in record.items()
        }
        index, limit = TrainIndex.from_arrays(arrays), arrays.get("copy_limit")
        rows = np.asarray(arrays.get("statistics", ()))
        if (
            type(limit) is not int
            or not 0 < limit < 2**31
            or rows.dtype != np.float64
            or rows.shape != (2 * len(STATISTICS),)
            or not np.isfinite(rows).all()
            or not (rows[len(STATISTICS) :] > 0).all()
        ):
            raise ValueError("invalid profile of the training data")
        return TrainProfile(index, Reference(*np.split(rows, 2)), limit)

    def format_passage(self, passage: Passage | None) -> str:
        """Format the longest passage that music shares with the training data, with a warning."""
        if passage is None or passage.notes <= self.copy_limit:
            length = "nothing" if passage is None else f"at most {passage.notes} notes in a row"
            return f"shares {length} with the training data (other music: up to {self.copy_limit})"
        minutes, seconds = divmod(int(passage.there), 60)
        return (
            f"warning: {passage.notes} notes in a row from second {passage.start:.0f} on are in "
            f"the training data: {passage.name} at {minutes}:{seconds:02d}"
        )


def _decode(performances: Iterable[tuple[str, Performance]]) -> Iterator[tuple[str, NoteSeq]]:
    for name, performance in performances:
        events = EventSeq.from_array(performance.events, performance.encoding)
        yield name, events.to_note_seq()


def _cut_excerpts(music: list[NoteSeq]) -> list[NoteSeq]:
    """Return excerpts of `EXCERPT` seconds from the middle of performances, spread over all."""
    rows = np.linspace(0, len(music) - 1, min(len(music), MAX_EXCERPTS)).astype(int)
    excerpts = []
    for notes in (music[row] for row in rows):
        begin = max(0.0, (notes.seconds - EXCERPT) / 2)
        inside = (notes.starts >= begin) & (notes.starts < begin + EXCERPT)
        starts, ends, pitches, velocities = (column[inside] for column in notes.columns)
        if len(starts):
            ends = np.minimum(ends - begin, EXCERPT)
            excerpts.append(NoteSeq(starts - begin, ends, pitches, velocities).trim_start())
    return excerpts or music[:1]
