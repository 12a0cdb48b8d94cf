"""Performances of one piece are found by their notes."""

from __future__ import annotations

import numpy as np
import pytest

from corpus.dedup import Fingerprint, find_pieces, sketch_notes
from sequence import NoteSeq
from tests.corpus.random_pieces import compose, join, perform


def fingerprint(*performances: NoteSeq) -> list[Fingerprint]:
    return [Fingerprint(b"%d" % n, sketch_notes(notes)) for n, notes in enumerate(performances)]


def group(*performances: NoteSeq) -> list[tuple[int, ...]]:
    return [piece.members for piece in find_pieces(fingerprint(*performances))[0]]


ONSETS, PITCHES = compose(1)
VERSIONS = {
    "faster": perform(compose(1), tempo=1.6),
    "slower": perform(compose(1), tempo=0.6),
    "transposed": perform(compose(1), key=-7),
    "uneven, with wrong notes": perform(compose(1), seed=1, tempo=1.1, wrong=0.05),
    "slower, transposed, with wrong notes": perform(
        compose(1), seed=2, tempo=0.8, key=3, wrong=0.05
    ),
    "excerpt": perform((ONSETS[150:270], PITCHES[150:270])),
    "cut": perform((np.delete(ONSETS, np.s_[100:250]), np.delete(PITCHES, np.s_[100:250]))),
    "repeated": perform(join(compose(1), compose(1))),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_are_one_piece(version: str) -> None:
    others = [perform(compose(seed)) for seed in range(2, 6)]
    pieces = group(perform(compose(1)), *others, VERSIONS[version])
    assert pieces == [(0, 5), (1,), (2,), (3,), (4,)]


def test_sketch_ignores_key_and_order_within_chords() -> None:
    rolled = ONSETS + 0.002 * np.arange(len(ONSETS))[::-1] / len(ONSETS)
    sketch = sketch_notes(perform(compose(1)))
    assert np.array_equal(sketch, sketch_notes(perform(compose(1), key=11)))
    assert np.array_equal(sketch, sketch_notes(perform((rolled, PITCHES))))


@pytest.mark.parametrize("steps", [np.arange(300) % 40, np.arange(300) % 2, np.zeros(300, int)])
def test_scales_and_trills_have_no_words(steps: np.ndarray) -> None:
    figure = (0.11 * np.arange(300), 40 + steps)
    words = len(sketch_notes(perform(compose(1))))
    assert len(sketch_notes(perform(figure))) == 0
    assert len(sketch_notes(perform(join(compose(1), figure)))) <= words + 4


def test_common_phrase_does_not_merge_pieces() -> None:
    phrase = compose(99, 16)[1]
    onsets = 0.15 * np.arange(60)
    pieces = [perform((onsets, np.append(compose(n, 44)[1], phrase))) for n in range(40)]
    assert len(group(*pieces)) == 40


def test_medley_merges_only_its_parts() -> None:
    medley = perform(join(compose(1), compose(2)))
    parts = [perform(compose(seed)) for seed in (1, 2, 3)]
    assert group(*parts, medley) == [(0, 1, 3), (2,)]


def test_many_pieces_stay_separate() -> None:
    seeds = np.random.default_rng(0).permutation(np.repeat(np.arange(100), 2)).tolist()
    performances = [perform(compose(s, 150), seed=n + 1, wrong=0.03) for n, s in enumerate(seeds)]
    pieces = group(*performances)
    assert all(len({seeds[n] for n in members}) == 1 for members in pieces)
    assert len(pieces) < 110  # most pairs are found


def test_short_performances_need_the_same_events() -> None:
    no_words = np.empty(0, np.uint64)
    short, other = Fingerprint(b"a", no_words), Fingerprint(b"b", no_words)
    assert [p.members for p in find_pieces([short, other, short])[0]] == [(0, 2), (1,)]
    assert find_pieces([]) == ([], [])


def test_identity_rarely_depends_on_one_performance() -> None:
    prints = fingerprint(*(perform(compose(7), seed=n, wrong=0.03) for n in range(1, 9)))
    (piece,), _ = find_pieces(prints)
    (reversed_piece,), _ = find_pieces(prints[::-1])
    shortened = [find_pieces(prints[:n] + prints[n + 1 :])[0][0].identity for n in range(8)]
    assert reversed_piece.identity == piece.identity
    assert shortened.count(piece.identity) >= 6


def test_near_duplicates_share_most_words() -> None:
    louder = perform(compose(1))
    other = perform(compose(1), seed=3, wrong=0.1)
    _, links = find_pieces(fingerprint(perform(compose(1)), louder, other))
    assert links[0].part == 1
    assert 0.05 < links[1].part < 0.9
