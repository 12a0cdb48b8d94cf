"""The index of the training data, against passages whose place is known."""

import numpy as np
import pytest

from analysis.memorization import WORD, TrainIndex, drop_repeated_figures
from sequence import NoteSeq


def make_notes(seed: int, count: int) -> NoteSeq:
    """Return notes with random steps, so that no two passages are the same by chance."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.choice([0.1, 0.25, 0.7], count))
    return NoteSeq(starts, starts + 0.1, rng.integers(40, 90, count), rng.integers(1, 128, count))


def copy(notes: NoteSeq, first: int, count: int, seconds: float, semitones: int) -> NoteSeq:
    """Return a passage moved to another time and pitch."""
    starts, ends, pitches, velocities = (c[first : first + count] for c in notes.columns)
    shift = seconds - starts[0]
    return NoteSeq(starts + shift, ends + shift, pitches + semitones, velocities)


def join(*parts: NoteSeq) -> NoteSeq:
    return NoteSeq(
        *(np.concatenate(columns) for columns in zip(*(p.columns for p in parts), strict=True))
    )


@pytest.fixture(scope="module")
def corpus() -> list[tuple[str, NoteSeq]]:
    return [(f"piece {k}", make_notes(k, 400 + 300 * k)) for k in range(5)]


@pytest.fixture(scope="module")
def index(corpus: list[tuple[str, NoteSeq]]) -> TrainIndex:
    return TrainIndex.build(corpus)


def test_a_copied_passage_is_found_where_it_is(
    corpus: list[tuple[str, NoteSeq]], index: TrainIndex
) -> None:
    source = corpus[3][1]
    notes = join(
        make_notes(100, 80),
        copy(source, 700, 50, 60.0, -3),
        copy(make_notes(101, 30), 0, 30, 90.0, 0),
    )
    passage = index.find_longest(notes)
    assert passage is not None
    assert passage.name == "piece 3"
    # the first step of the passage has another ratio of gaps, and the last one may fit by chance
    assert 47 <= passage.notes <= 52
    assert passage.start == pytest.approx(60.0, abs=1.5)
    assert passage.there == pytest.approx(source.starts[700], abs=5)  # interpolated


def test_other_music_shares_less_than_two_words(index: TrainIndex) -> None:
    passage = index.find_longest(make_notes(200, 500))
    assert passage is None or passage.notes <= WORD + 2


def test_a_small_index_still_finds_passages_of_its_resolution(
    corpus: list[tuple[str, NoteSeq]],
) -> None:
    index = TrainIndex.build(corpus, max_bytes=1800)
    assert len(index.hashes) < 500
    assert 10 < index.window < 60
    found = 0
    for first in range(0, 1000, 50):
        passage = index.find_longest(copy(corpus[4][1], first, index.resolution + 2, 0.0, 5))
        found += passage is not None and passage.name == "piece 4"
    assert found == 20


def test_arrays_give_the_same_index(index: TrainIndex) -> None:
    same = TrainIndex.from_arrays(index.to_arrays())
    for name in ("hashes", "positions", "starts", "times"):
        np.testing.assert_array_equal(getattr(same, name), getattr(index, name))
    assert (same.names, same.window) == (index.names, index.window)


def test_size_is_limited(corpus: list[tuple[str, NoteSeq]]) -> None:
    arrays = TrainIndex.build(corpus, max_bytes=5000).to_arrays()
    assert sum(np.asarray(arrays[name]).nbytes for name in ("hashes", "gaps", "times")) < 5000


def test_arrays_of_earlier_versions_give_the_same_index(index: TrainIndex) -> None:
    arrays = index.to_arrays()
    del arrays["gaps"]
    for name in ("hashes", "positions"):
        numbers = getattr(index, name).tolist()
        content = b"".join(number.to_bytes(3, "little") for number in numbers)
        arrays[name] = np.frombuffer(content, np.uint8)
    same = TrainIndex.from_arrays(arrays)
    np.testing.assert_array_equal(same.positions, index.positions)
    np.testing.assert_array_equal(same.hashes, index.hashes)


def test_large_gaps_come_back() -> None:
    places = np.array([0, 1, 255, 510, 511, 1276, 70_000])
    words = np.arange(7) * 3 % 7
    index = TrainIndex(
        words,
        places,
        5,
        ("a",),
        np.array([0, 80_000]),
        np.zeros(626, np.float32),  # one for each 128 notes, and the last
    )
    same = TrainIndex.from_arrays(index.to_arrays())
    np.testing.assert_array_equal(same.hashes, np.arange(7))
    np.testing.assert_array_equal(same.positions, places[np.argsort(words)])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hashes", np.zeros(3, np.uint8)),
        ("hashes", np.zeros(4, np.float32)),
        ("gaps", np.zeros(3, np.uint8)),
        ("gaps", np.full(10**6, 254, np.uint8)),
        ("starts", np.array([0, 10, 5], np.int32)),
        ("times", np.array([np.nan], np.float32)),
        ("window", 0),
        ("names", 5),
    ],
)
def test_invalid_arrays_are_an_error(index: TrainIndex, name: str, value: object) -> None:
    with pytest.raises(ValueError, match="invalid index"):
        TrainIndex.from_arrays(index.to_arrays() | {name: value})


def test_scales_and_repeated_notes_are_no_passages() -> None:
    starts = np.arange(200) * 0.2
    notes = NoteSeq(starts, starts + 0.1, 40 + np.arange(200) % 12, np.full(200, 64))
    assert TrainIndex.build([("scale", notes)]).find_longest(notes) is None


def test_repeated_figures_are_dropped_after_two_times() -> None:
    def make_melody(*pitches: int) -> NoteSeq:
        starts = np.arange(len(pitches)) * 0.2
        return NoteSeq(starts, starts + 0.1, pitches, np.full(len(pitches), 64))

    def drop(*pitches: int) -> list[int]:
        return drop_repeated_figures(make_melody(*pitches)).pitches.tolist()

    # a trill: eight notes stay, because it is two times a figure of four notes
    assert drop(50, *[60, 62] * 20, 51) == [50, *[60, 62] * 4, 51]
    assert drop(*[60, 64, 67] * 9, 51) == [*[60, 64, 67] * 2, 51]
    assert drop(*[60] * 20, 51) == [*[60] * 6, 51]
    # in any order of its notes
    assert drop(*[48, 60, 49, 61, 60, 48, 61, 49] * 5) == [48, 60, 49, 61, 60, 48, 61, 49]
    # a scale, and a figure of five notes, are no such figures
    for melody in (range(40, 80), [60, 62, 64, 65, 67] * 8, [60, 62, 64], []):
        assert drop(*melody) == list(melody)


def test_two_indexes_fit_into_one(corpus: list[tuple[str, NoteSeq]]) -> None:
    first, second = TrainIndex.build(corpus[:3]), TrainIndex.build(corpus[3:])
    both = second.add(first, max_bytes=4200)
    assert len(both.hashes) < 1000 < len(first.hashes) + len(second.hashes)
    for name, notes in corpus:
        passage = both.find_longest(notes)
        assert passage is not None
        assert passage.name == name
        assert passage.notes > 0.9 * len(notes)
