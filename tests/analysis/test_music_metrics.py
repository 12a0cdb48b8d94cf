"""The metrics of music, against values worked out by hand."""

import numpy as np
import pytest

from analysis import music_metrics
from sequence import NoteSeq


def make_notes(*notes: tuple[float, float, int], velocity: int = 64) -> NoteSeq:
    """Return notes from (start, end, pitch)."""
    starts, ends, pitches = np.array(notes).reshape(-1, 3).T
    return NoteSeq(starts, ends, pitches, np.full(len(notes), velocity))


def make_melody(pitches: list[int], gap: float = 0.5) -> NoteSeq:
    """Return one pitch after another, each as long as the gap."""
    starts = gap * np.arange(len(pitches))
    return NoteSeq(starts, starts + gap, pitches, np.full(len(pitches), 64))


EMPTY = make_notes()
# C and E together, then G 1 s later, which ends at 1.25
THREE = make_notes((0.0, 0.5, 60), (0.0, 1.0, 64), (1.0, 1.25, 67))


# -------------------------------------------------------------------------------- faults


def test_repetition_counts_one_pitch_in_a_row() -> None:
    assert music_metrics.longest_repetition(make_melody([60, 62, 62, 62, 60, 60])) == 3
    assert music_metrics.longest_repetition(EMPTY) == 0


@pytest.mark.parametrize("other", [(1.02, 1.1, 40), (1.25, 1.3, 40)], ids=["chord", "between"])
def test_another_note_ends_a_repetition(other: tuple[float, float, int]) -> None:
    strikes = [(0.5 * k, 0.5 * k + 0.1, 60) for k in range(6)]
    assert music_metrics.longest_repetition(make_notes(*strikes)) == 6
    notes = make_notes(*strikes[:3], other, *strikes[3:])
    assert music_metrics.longest_repetition(notes) == 3


def test_silence_is_where_no_note_sounds() -> None:
    notes = make_notes((0.5, 7.0, 60), (1.0, 2.0, 64), (8.0, 9.0, 67))
    assert music_metrics.longest_silence(notes, 9.5) == pytest.approx(1.0)  # 7 to 8
    assert music_metrics.longest_silence(notes, 12.0) == pytest.approx(3.0)  # 9 to the end
    assert music_metrics.longest_silence(EMPTY, 5.0) == 5.0


def test_music_stops_early_without_onset_in_last_4_s() -> None:
    assert not music_metrics.stops_early(THREE, 5.0)
    assert music_metrics.stops_early(THREE, 5.1)
    assert music_metrics.stops_early(EMPTY, 5.0)


def test_cut_notes_are_those_of_5_s() -> None:
    notes = make_notes((0, 10, 60), (1, 3, 61), (2, 12, 62), (50, 50.5, 63), (51, 60, 64))
    assert music_metrics.cut_note_share(notes, 60.0) == pytest.approx(3 / 5)
    assert music_metrics.cut_note_share(EMPTY, 60.0) == 0.0


# --------------------------------------------------------------------------- distributions


def test_polyphony_every_tenth_of_a_second() -> None:
    # 0.0-0.4: C and E; 0.5-0.9: E alone, for the C ends at 0.5; the last onset is not counted
    assert music_metrics.polyphony(THREE).tolist() == [2] * 5 + [1] * 5
    assert not len(music_metrics.polyphony(EMPTY))


def test_notes_per_second_from_first_onset() -> None:
    notes = make_notes((3.0, 4, 60), (3.5, 4, 61), (3.9, 4, 62), (5.1, 6, 63), (6.0, 7, 64))
    assert music_metrics.notes_per_second(notes).tolist() == [3, 0, 1]
    assert not len(music_metrics.notes_per_second(EMPTY))


def test_histograms_of_three_notes() -> None:
    names = music_metrics.DISTRIBUTIONS
    histograms = {name: music_metrics.histogram([THREE, THREE], name) for name in names}
    assert np.flatnonzero(histograms["pitch class"]).tolist() == [0, 4, 7]
    assert histograms["pitch"][[60, 64, 67]].tolist() == [2, 2, 2]
    assert histograms["velocity"][16] == 6
    assert histograms["inter-onset time"][0] == 2  # the chords
    # 1 s is after the 19th of 25 edges from 0.01 to 4: 24 * ln(100) / ln(400) = 18.4
    assert histograms["inter-onset time"][19] == 2
    # 24 * ln(0.25 / 0.02) / ln(500) = 9.75, and 12.4 for 0.5 s, 15.1 for 1 s
    assert np.flatnonzero(histograms["duration"]).tolist() == [10, 13, 16]
    assert histograms["polyphony"][:3].tolist() == [0, 10, 10]
    assert histograms["notes per second"][:3].tolist() == [0, 0, 2]


@pytest.mark.parametrize("name", music_metrics.DISTRIBUTIONS)
def test_extreme_values_have_bins(name: str) -> None:
    fast = make_notes(*((0.001 * k, 100.0, 21 + k) for k in range(60)), (99.0, 99.001, 108))
    bins = music_metrics.DISTRIBUTIONS[name][0]
    assert music_metrics.histogram([fast], name).shape == (bins,)
    assert music_metrics.histogram([EMPTY], name).sum() == 0


def test_overlap_sums_smaller_shares() -> None:
    assert music_metrics.overlap(np.array([1, 1, 2]), np.array([2, 2, 4])) == 1.0
    assert music_metrics.overlap(np.array([1, 0]), np.array([0, 5])) == 0.0
    assert music_metrics.overlap(np.array([3, 1]), np.array([1, 1])) == pytest.approx(0.75)
    assert music_metrics.overlap(np.array([0, 0]), np.array([1, 1])) == 0.0


def test_kl_divergence_in_nats() -> None:
    # with the prior 1.5 and 3.5 of 5 are true, and 0.5 and 1.5 of 2 are expected
    by_hand = 0.3 * np.log(0.3 / 0.25) + 0.7 * np.log(0.7 / 0.75)
    reference, counts = np.array([1, 3]), np.array([0, 1])
    assert music_metrics.kl_divergence(reference, counts) == pytest.approx(by_hand)
    assert music_metrics.kl_divergence(counts, counts) == 0.0


def test_a_missing_value_costs_more_than_an_added_one() -> None:
    real, narrow = np.array([500, 500]), np.array([1000, 0])
    missing, added = (
        music_metrics.kl_divergence(*pair) for pair in ((real, narrow), (narrow, real))
    )
    # 0.5 ln(0.5 / 0.9995) + 0.5 ln(0.5 / 0.0005), and about ln(1 / 0.5)
    assert missing == pytest.approx(
        0.5 * np.log(0.5 / 0.9995) + 0.5 * np.log(0.5 / 0.0005), rel=1e-3
    )
    assert added == pytest.approx(np.log(2), rel=0.01)


# ----------------------------------------------------------------------------------- form


def find_patterns_by_hand(notes: NoteSeq, start: float, end: float) -> set[tuple[int, ...]]:
    """Return the interval patterns of the top line, from a loop over the notes."""
    top: list[int] = []
    previous = -1.0
    for onset, pitch in zip(notes.starts.tolist(), notes.pitches.tolist(), strict=True):
        if start <= onset < end:
            if top and onset - previous <= 0.03:
                top[-1] = max(top[-1], pitch)
            else:
                top.append(pitch)
            previous = onset
    return {
        (top[k + 1] - top[k], top[k + 2] - top[k + 1], top[k + 3] - top[k + 2])
        for k in range(len(top) - 3)
    }


def make_random_music(seed: int) -> NoteSeq:
    """Return a minute of notes and chords of few pitches, so that patterns repeat."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.choice([0.0, 0.02, 0.2, 0.5], 300))
    return NoteSeq(starts, starts + 0.1, rng.choice([60, 62, 64, 67], 300), np.full(300, 64))


@pytest.mark.parametrize(("start", "end"), [(0.0, 30.0), (30.0, 1e9), (5.0, 5.3), (900.0, 1e9)])
def test_patterns_equal_a_loop(start: float, end: float) -> None:
    for seed in range(5):
        notes = make_random_music(seed)
        patterns = music_metrics.find_patterns(notes, start, end)
        assert len(patterns) == len(find_patterns_by_hand(notes, start, end))


def test_patterns_ignore_key_rhythm_and_lower_notes() -> None:
    melody = make_melody([60, 64, 62, 67])
    other = make_notes((0, 1, 55), (0, 1, 65), (3.0, 4, 69), (3.01, 4, 50), (4, 5, 67), (9, 10, 72))
    pattern = music_metrics.find_patterns(melody, 0.0)
    assert len(pattern) == 1
    assert pattern.tolist() == music_metrics.find_patterns(other, 0.0).tolist()
    inverted = make_melody([60, 56, 58, 53])
    assert pattern.tolist() != music_metrics.find_patterns(inverted, 0.0).tolist()
    assert not len(music_metrics.find_patterns(make_melody([60, 64, 62]), 0.0))


def test_returns_of_an_opening() -> None:
    # opening: two patterns, (2, 2, 1) and (2, 1, 4); later the first, a fifth higher
    opening = [(1.0 * k, 1.0 * k + 1, pitch) for k, pitch in enumerate([60, 62, 64, 65, 69])]
    later = [(40.0 + k, 41.0 + k, pitch) for k, pitch in enumerate([67, 69, 71, 72])]
    elsewhere = [(40.0 + k, 41.0 + k, pitch) for k, pitch in enumerate([50, 49, 48, 47])]
    first, second = make_notes(*opening, *later), make_notes(*opening, *elsewhere)
    # of the first 1 of 2, of the second none; by chance the other way round
    assert music_metrics.measure_returns([first, second]) == (0.25, 0.25)
    assert music_metrics.measure_returns([first, first, second]) == pytest.approx((1 / 3, 1 / 3))
    own, by_chance = music_metrics.measure_returns([first])
    assert own == 0.5
    assert np.isnan(by_chance)


@pytest.mark.parametrize("music", [[], [EMPTY], [make_melody([60, 62, 64, 65])]])
def test_no_returns_without_opening_or_ending(music: list[NoteSeq]) -> None:
    assert np.isnan(music_metrics.measure_returns(music)).all()


def test_returns_equal_a_loop() -> None:
    music = [make_random_music(seed) for seed in range(4)]
    openings = [find_patterns_by_hand(notes, 0, 30) for notes in music]
    endings = [find_patterns_by_hand(notes, 30, 1e9) for notes in music]
    shares = np.array([[len(a & b) / len(a) for b in endings] for a in openings])
    own, by_chance = music_metrics.measure_returns(music)
    assert 0 < own < 1
    assert own == pytest.approx(np.diag(shares).mean())
    assert by_chance == pytest.approx(shares[~np.eye(4, dtype=bool)].mean())


def test_music_that_returns_is_similar_to_itself() -> None:
    """A different pitch class each second, in a cycle of 12 s: only the lags 12 and 24 fit."""
    starts = np.arange(120.0)
    cycle = NoteSeq(starts, starts + 1, 60 + np.arange(120) % 12, np.full(120, 64))
    assert music_metrics.chroma_similarity(cycle) == pytest.approx(2 / 23, abs=0.01)
    same = NoteSeq(starts, starts + 1, np.full(120, 60), np.full(120, 64))
    assert music_metrics.chroma_similarity(same) == pytest.approx(1)
    assert np.isnan(music_metrics.chroma_similarity(make_melody([60] * 14)))  # 7 s


def test_repeated_passages_are_counted_in_any_key() -> None:
    melody = [60, 62, 65, 61, 70, 55, 66, 71, 50, 80]  # no two parts are alike
    other = [30, 37, 33, 41, 29]
    moved = [pitch + 3 for pitch in melody]
    notes = make_melody([*melody, *other, *moved])
    # 25 notes; from the eighth note of the moved melody on: the last three
    assert music_metrics.repeated_share(notes) == pytest.approx(3 / 25)
    assert music_metrics.repeated_share(make_melody([*melody, *other])) == 0
    assert music_metrics.repeated_share(make_melody([])) == 0


def test_similarity_counts_sounding_time() -> None:
    # seconds 0 and 8 of nine, with silence between: C 0.6 s and E 0.8 s, then a C of an octave more
    notes = make_notes((0.0, 0.6, 60), (0.1, 0.9, 64), (8.3, 8.8, 72))
    assert music_metrics.chroma_similarity(notes) == pytest.approx(0.6)
    # a note that sounds in both seconds: 0.5 s of the first, and all of the second
    held = make_notes((0.5, 2.0, 60), (8.0, 9.5, 60), (9.0, 9.5, 64))
    # lag 8: the seconds 0 and 8 have only C; 1 and 9 have C, and C and E for the same time
    # lag 9: the seconds 0 and 9
    expected = ((1 + 2**-0.5) / 2 + 2**-0.5) / 2
    assert music_metrics.chroma_similarity(held) == pytest.approx(expected)


# ------------------------------------------------------------------------------- controls


def test_share_in_scale() -> None:
    pentatonic = (1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 0)
    notes = make_melody([60, 62, 64, 65, 55, 71])
    assert music_metrics.share_in_scale(notes, pentatonic) == pytest.approx(4 / 6)
    assert music_metrics.share_in_scale(EMPTY, pentatonic) == 0.0
