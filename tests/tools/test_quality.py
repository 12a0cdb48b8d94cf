"""The metrics of tools.quality, against values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import memorization, music_metrics
from config import GenerateConfig
from generation import control_metrics
from model import PerformanceRNN, Session
from sequence import CURRENT, EventSeq, NoteSeq
from tools import quality, samples
from tools.synthetic_data import TINY_SIZES, write_data, write_midi


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


def test_fault_table_counts_samples() -> None:
    loop = make_melody([60] * music_metrics.LOOP)  # 6.5 s
    music = {"loops": [loop, THREE], "sound": [make_melody([60, 62] * 8)]}
    lines = list(quality.count_faults(music, 7.0))
    assert [line.split()[-5:] for line in lines[1:]] == [
        ["1", "1", "1", "0.00%", "2"],
        ["0", "0", "0", "0.00%", "1"],
    ]


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


# ------------------------------------------------------------------------------- controls


def test_share_in_scale() -> None:
    weights = samples.SCALE_WEIGHTS["C pentatonic"]
    notes = make_melody([60, 62, 64, 65, 55, 71])
    assert music_metrics.share_in_scale(notes, weights) == pytest.approx(4 / 6)
    assert music_metrics.share_in_scale(EMPTY, weights) == 0.0


def test_density_at_each_onset() -> None:
    notes = make_melody([60, 62] * 8, 0.45)
    # from each onset up to 5.2 s: five onsets within 2 s, which is level 1
    assert music_metrics.densities_by_count(notes, 7.2).tolist() == [1] * 12
    # in the project's own windows four or five, also in the last one, from 5.2 s on
    assert music_metrics.densities_by_control(notes, CURRENT).tolist() == [1] * 16
    fast = make_melody([60 + k for k in range(40)], 0.05)
    assert music_metrics.densities_by_count(fast, 2.0).tolist() == [11]  # 40 onsets
    assert music_metrics.densities_by_control(fast, CURRENT).tolist() == [11] * 40


def test_spearman_correlates_ranks() -> None:
    assert control_metrics.rank([10, 30, 20, 30]).tolist() == [0, 2.5, 1, 2.5]
    assert control_metrics.spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1.0)
    assert control_metrics.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # without ties 1 - 6 * (1 + 1) / (4 * 15)
    assert control_metrics.spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)


def test_density_table() -> None:
    rising = [
        make_melody([60 + j % 7 for j in range(8 * (2 + 3 * k) // 2)], 2 / (2 + 3 * k))
        for k in range(12)
    ]
    rows = [line.split() for line in quality.measure_densities(rising, CURRENT, 8.0)]
    assert [float(row[-3]) for row in rows[1:13]] == [(2 + 3 * k) / 2 for k in range(12)]
    assert rows[13][-3:] == ["9.2", "100.0%", "100.0%"]
    assert rows[14] == ["Spearman", "1.000"]


def test_scale_table_weights_samples_by_notes() -> None:
    music = {name: [make_melody([]), make_melody([61])] for name in samples.SCALE_WEIGHTS}
    music["C major"] = [make_melody([60, 62, 64]), make_melody([61])]
    lines = list(quality.measure_scales(music))
    assert lines[1].split() == ["C", "major", "75.0%"]
    assert lines[5].split() == ["F#", "pentatonic", "100.0%"]


# ---------------------------------------------------------------------------- memorization


def split_steps(notes: NoteSeq) -> tuple[list[int], list[int]]:
    """Return the intervals and the rhythms of intervals_and_rhythm."""
    steps = memorization.intervals_and_rhythm(notes)
    intervals, rhythms = np.divmod(steps, memorization.RHYTHMS)
    return intervals.tolist(), (rhythms - memorization.MAX_OCTAVES).tolist()


def test_intervals_sort_chords_by_pitch() -> None:
    # the second chord is played from the top, within 30 ms
    notes = make_notes((0, 1, 60), (0, 1, 64), (1.0, 2, 72), (1.02, 2, 65), (2.0, 3, 60))
    assert memorization.number_chords(notes).tolist() == [0, 0, 1, 1, 2]
    assert split_steps(notes)[0] == [4, 1, 7, -12]


def test_rhythm_is_a_power_of_two() -> None:
    # gaps 0.5, 1.0, 0.9, 0.2, 10: ratios 2, 0.9, 0.22, 50 are 1, 0, -2 and (at most) 3
    notes = make_notes(*((t, t + 0.1, 60) for t in (0.0, 0.5, 1.5, 2.4, 2.6, 2.62, 12.6)))
    assert split_steps(notes)[1] == [0, 1, 0, -2, memorization.IN_CHORD, 3]


def test_steps_ignore_key_and_tempo() -> None:
    rng = np.random.default_rng(0)
    starts, pitches = np.cumsum(rng.uniform(0.1, 0.5, 50)), rng.integers(40, 80, 50)
    notes = NoteSeq(starts, starts + 0.1, pitches, np.full(50, 64))
    other = NoteSeq(1.4 * starts, 1.4 * starts + 0.1, pitches + 5, np.full(50, 90))
    assert split_steps(notes) == split_steps(other)
    short = (EMPTY, make_melody([60]), make_melody([60, 61]))
    assert [len(split_steps(notes)[0]) for notes in short] == [0, 0, 1]


def test_longest_passages_and_their_rows() -> None:
    corpus = [np.array([1, 2, 3, 4, 5]), np.array([9, 9, 9]), np.array([3, 4, 7, 8])]
    queries = [
        np.array([0, 2, 3, 4, 7, 8, 0]),  # 2 3 4 of row 0, but 3 4 7 8 of row 2
        np.array([4, 5, 9, 9]),  # 4 5 and 9 9; no passage spans two rows
        np.array([6]),
        np.array([], np.int64),
        np.array([-3, 1]),
    ]
    passages = memorization.find_longest_passages(queries, corpus)
    assert passages == [(4, 2), (2, 0), (0, -1), (0, -1), (1, 0)]
    assert memorization.find_longest_passages(queries[:1], []) == [(0, -1)]


def test_longest_passages_equal_brute_force() -> None:
    rng = np.random.default_rng(1)
    corpus = [rng.integers(-2, 3, size) for size in (300, 1, 0, 200)]
    queries = [rng.integers(-2, 3, size) for size in (0, 1, 5, 40, 80)]
    queries += [corpus[3][50:111], rng.integers(-2, 3, 600)]
    texts = ["".join(map(str, row + 2)) for row in corpus]

    def search(query: np.ndarray) -> int:
        text = "".join(map(str, query + 2))
        longest = 0
        for begin in range(len(text)):
            while any(text[begin : begin + longest + 1] in other for other in texts):
                if begin + longest >= len(text):
                    break
                longest += 1
        return longest

    lengths = [length for length, _ in memorization.find_longest_passages(queries, corpus)]
    assert lengths == [search(query) for query in queries]
    assert lengths[5] == 61


# ------------------------------------------------------------------------------- sampling


def test_excerpt_is_cut_at_both_ends() -> None:
    notes = make_notes((0.0, 9.0, 60), (1.0, 2.0, 61), (2.5, 9.0, 62), (4.0, 5.0, 63))
    expected = make_notes((0.0, 1.0, 61), (1.5, 3.0, 62))
    assert samples.cut_excerpt(notes, 1.0, 3.0) == expected


def test_excerpts_are_spread_over_long_performances() -> None:
    # 9.5, 14.5 and 1 s to the last onset
    performances = [make_melody([60] * size) for size in (20, 30, 3)]
    excerpts = samples.choose_excerpts(performances, 4, 9.0, 0)
    assert [sum(n is notes for n, _ in excerpts) for notes in performances] == [2, 2, 0]
    assert all(begin <= notes.starts[-1] - 9.0 for notes, begin in excerpts)
    with pytest.raises(ValueError, match="no performance has 60 s"):
        samples.choose_excerpts(performances, 4, 60.0, 0)


def test_last_control_of_a_shorter_column_repeats() -> None:
    stacked = samples.stack_controls([np.eye(24)[:3], np.eye(24)[5:6]])
    assert stacked.argmax(axis=2).tolist() == [[0, 5], [1, 5], [2, 5]]


def test_decoded_sample_is_trimmed() -> None:
    ranges = EventSeq.feat_ranges()
    second, note = ranges["time_shift"].stop - 1, ranges["note_on"].start
    events = EventSeq([second, note, *([second] * 20), note + 1, second, note + 2])
    notes = samples.decode(events, 24.0)
    assert notes.starts.tolist() == pytest.approx([0.0, 20 * 1.171])
    assert notes.ends.tolist() == pytest.approx([5.0, 24.0])


def test_samples_do_not_depend_on_their_number() -> None:
    torch.manual_seed(0)
    model = PerformanceRNN(TINY_SIZES)
    three = samples.draw_samples(model, CURRENT, None, 3, 3.0, 7, GenerateConfig())
    two = samples.draw_samples(model, CURRENT, None, 2, 3.0, 7, GenerateConfig())
    assert three[:2] == two
    assert all(notes.starts[0] == 0 and 2 < notes.ends.max() <= 3 for notes in three)


# ----------------------------------------------------------------------------- command line


def test_tables_of_a_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    weights = PerformanceRNN(TINY_SIZES).state_dict()
    Session(TINY_SIZES, weights, CURRENT.version).save(tmp_path / "tiny.sess")
    train = write_data(tmp_path / "data", 3, 80)  # about 13 s each
    validation = tmp_path / "midi"
    for seed in range(2):
        write_midi(validation / f"piece{seed}" / "a.mid", 80, seed)
    argv = ["-s", str(tmp_path / "tiny.sess"), "--samples", "2", "--seconds", "2"]
    argv += ["--train", str(train), "--validation", str(validation)]
    quality.main([*argv, "--", "--temperature", "0.5"])
    lines = capsys.readouterr().out.splitlines()
    excerpts = [line.split() for line in lines if line.startswith("  validation excerpts")]
    assert excerpts[0][-1] == "2"
    # the training data has the same notes, so each passage is the whole excerpt
    assert int(excerpts[1][-2]) > 4
    areas = next(line.split()[1:5] for line in lines if line.startswith("  velocity   "))
    notes, reference = (
        [notes for _, notes in samples.load_performances(folder)] for folder in (train, validation)
    )
    cut = [samples.cut_excerpt(*e, 2.0) for e in samples.choose_excerpts(notes, 2, 2.0, 0)]
    both = (music_metrics.histogram(music, "velocity") for music in (cut, reference))
    assert areas[3] == f"{music_metrics.overlap(*both):.3f}"


def test_memorization_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_data(tmp_path / "data", 2, 80)
    copied = write_midi(tmp_path / "copied.mid", 80, 1)
    other = write_midi(tmp_path / "other.mid", 80, 99)
    quality.main(["--memorization", str(copied), str(other), "--train", str(train)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == [str(copied), str(other)]
    assert int(rows[0][2]) > 60 > 20 > int(rows[1][2])
    assert rows[0][3] == "1.mid.data"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train", "nowhere", "--validation", "."], "nowhere: no such file or folder"),
        (["--memorization", "no.mid", "--train", "."], "no.mid: no such file or folder"),
        (["--train", "."], "--validation is missing"),
    ],
)
def test_wrong_command_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        quality.parse_args(argv)
    assert message in capsys.readouterr().err
