"""The profile of the training data that a session keeps: what it can compare its music with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from analysis.memorization import Passage, TrainIndex
from analysis.ranking import EXCERPT, STATISTICS, Reference
from corpus.performance import Corpus
from sequence import EventSeq, NoteSeq

MAX_EXCERPTS = 256  # of the training data, for the statistics
# notes that a piece may share with the training data if there was no validation data to compare
DEFAULT_COPY_LIMIT = 20


@dataclass(frozen=True, eq=False)
class TrainProfile:
    """What a session keeps of its training data, at most about 1.2 MB.

    index: finds passages of the training data; reference: statistics of excerpts of it;
    copy_limit: notes of the longest passage that a validation performance shares with it;
    fingerprint: of the training data.
    """

    index: TrainIndex
    reference: Reference
    copy_limit: int
    fingerprint: str

    @staticmethod
    def build(train: Corpus, validation: Corpus) -> TrainProfile | None:
        """Return the profile of training data; None if it has no notes."""
        music = [(name, notes) for name, notes in _decode(train) if len(notes)]
        if not music:
            return None
        index = TrainIndex.build(music)
        passages = [index.find_longest(notes) for _, notes in _decode(validation)]
        lengths = [passage.notes for passage in passages if passage is not None]
        excerpts = _cut_excerpts([notes for _, notes in music])
        limit = max(lengths, default=DEFAULT_COPY_LIMIT)
        return TrainProfile(index, Reference.measure(excerpts), limit, train.fingerprint)

    def add(self, earlier: TrainProfile) -> TrainProfile:
        """Return the profile with the passages of earlier training data, too."""
        return replace(self, index=self.index.add(earlier.index))

    def to_record(self) -> dict[str, Any]:
        """Return the profile for a session file; `from_record` is the inverse."""
        index = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in self.index.to_arrays().items()
        }
        rows = np.stack([self.reference.median, self.reference.scale])
        statistics = {"statistics": torch.from_numpy(rows.ravel())}
        facts = {"copy_limit": self.copy_limit, "fingerprint": self.fingerprint}
        return index | statistics | facts

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
        rows, fingerprint = np.asarray(arrays.get("statistics", ())), arrays.get("fingerprint")
        if (
            type(limit) is not int
            or not 0 < limit < 2**31
            or not isinstance(fingerprint, str)
            or rows.dtype != np.float64
            or rows.shape != (2 * len(STATISTICS),)
            or np.isinf(rows).any()
            or (rows[len(STATISTICS) :] <= 0).any()
        ):
            raise ValueError("invalid profile of the training data")
        return TrainProfile(index, Reference(*np.split(rows, 2)), limit, fingerprint)

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


def _decode(corpus: Corpus) -> Iterator[tuple[str, NoteSeq]]:
    """Yield the name and the notes of each performance."""
    for performance in corpus.performances:
        events = EventSeq.from_array(
            performance.read_events(0, len(performance)), performance.encoding
        )
        yield performance.name, events.to_note_seq()


def _cut_excerpts(music: list[NoteSeq]) -> list[NoteSeq]:
    """Return excerpts of `EXCERPT` seconds from the middle of performances, spread over all."""
    rows = np.linspace(0, len(music) - 1, min(len(music), MAX_EXCERPTS)).astype(int)
    excerpts = []
    for notes in (music[row] for row in rows):
        begin = max(0.0, (notes.seconds - EXCERPT) / 2)
        excerpt = notes.crop(begin, EXCERPT)
        if len(excerpt):
            excerpts.append(excerpt.trim_start())
    return excerpts or music[:1]
