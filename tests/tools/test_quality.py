"""The measures of tests.quality, against values worked out by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model import PerformanceRNN, Session
from sequence import CURRENT, EventSeq, NoteSeq
from tools import memorization as memory
from tools import music_metrics as measures
from tools import quality
from tools import samples as playing
from tools.synthetic_data import TINY_SIZES, write_data, write_midi


def music(*notes: tuple[float, float, int], velocity: int = 64) -> NoteSeq:
    """Notes from (start, end, pitch)."""
    starts, ends, pitches = np.array(notes).reshape(-1, 3).T
    return NoteSeq(starts, ends, pitches, np.full(len(notes), velocity))


def row(pitches: list[int], gap: float = 0.5) -> NoteSeq:
    """One pitch after the other, each as long as the gap."""
    starts = gap * np.arange(len(pitches))
    return NoteSeq(starts, starts + gap, pitches, np.full(len(pitches), 64))


NOTHING = music()
# C and E together, then G 1 s later, which ends at 1.25
THREE = music((0.0, 0.5, 60), (0.0, 1.0, 64), (1.0, 1.25, 67))


# ---------------------------------------------------------------------------------- faults


def test_the_longest_repetition_is_of_one_pitch_alone() -> None:
    assert measures.longest_repetition(row([60, 62, 62, 62, 60, 60])) == 3
    assert measures.longest_repetition(NOTHING) == 0


def test_a_note_within_30_ms_makes_a_chord_and_one_between_ends_the_repetition() -> None:
    strikes = [(0.5 * k, 0.5 * k + 0.1, 60) for k in range(6)]
    assert measures.longest_repetition(music(*strikes)) == 6
    assert measures.longest_repetition(music(*strikes, (1.02, 1.1, 40))) == 3  # 1.5, 2.0, 2.5
    assert measures.longest_repetition(music(*strikes, (1.25, 1.3, 40))) == 3


def test_a_silence_is_where_no_note_sounds_whichever_began_last() -> None:
    notes = music((0.5, 7.0, 60), (1.0, 2.0, 64), (8.0, 9.0, 67))
    assert measures.longest_silence(notes, 9.5) == pytest.approx(1.0)  # 7 to 8
    assert measures.longest_silence(notes, 12.0) == pytest.approx(3.0)  # 9 to the end
    assert measures.longest_silence(NOTHING, 5.0) == 5.0


def test_a_wait_is_for_the_next_onset_or_the_end() -> None:
    assert measures.longest_wait(THREE, 3.0) == pytest.approx(2.0)
    assert measures.longest_wait(THREE, 1.5) == pytest.approx(1.0)
    assert measures.longest_wait(NOTHING, 5.0) == 5.0


def test_a_piece_stops_if_its_last_onset_is_over_4_s_before_the_end() -> None:
    assert not measures.stops(THREE, 5.0)
    assert measures.stops(THREE, 5.1)
    assert measures.stops(NOTHING, 5.0)


def test_held_is_the_share_of_notes_let_go_among_those_that_could_be_so_long() -> None:
    notes = music((0, 10, 60), (1, 3, 61), (2, 12, 62), (50, 50.5, 63), (51, 60, 64))
    assert measures.held(notes, 60.0) == pytest.approx(3 / 5)
    assert measures.held(NOTHING, 60.0) == 0.0


def test_every_fault_is_counted_in_the_table() -> None:
    loop = row([60] * measures.LOOP)  # 6.5 s
    lines = list(quality.faults({"loops": [loop, THREE], "sound": [row([60, 62] * 8)]}, 7.0))
    assert lines[-1].split()[-3:] == ["missed", "missed", "missed"]
    assert [line.split()[-6:] for line in lines[1:-1]] == [
        ["1", "1", "1", "1", "0.00%", "2"],
        ["0", "0", "0", "0", "0.00%", "1"],
    ]


# --------------------------------------------------------------------------- distributions


def test_polyphony_is_what_sounds_each_tenth_of_a_second() -> None:
    # 0.0-0.4: C and E; 0.5-0.9: E alone, for the C ends at 0.5; from the last onset on not counted
    assert measures.polyphony(THREE).tolist() == [2] * 5 + [1] * 5
    assert not len(measures.polyphony(NOTHING))


def test_notes_a_second_are_counted_from_the_first_onset_in_whole_seconds() -> None:
    notes = music((3.0, 4, 60), (3.5, 4, 61), (3.9, 4, 62), (5.1, 6, 63), (6.0, 7, 64))
    assert measures.notes_a_second(notes).tolist() == [3, 0, 1]
    assert not len(measures.notes_a_second(NOTHING))


def test_histograms_hold_each_distribution() -> None:
    found = {name: measures.histogram([THREE, THREE], name) for name in measures.DISTRIBUTIONS}
    assert np.flatnonzero(found["pitch class"]).tolist() == [0, 4, 7]
    assert found["pitch"][[60, 64, 67]].tolist() == [2, 2, 2]
    assert found["velocity"][16] == 6
    assert found["inter-onset time"][0] == 2  # the chords
    # 1 s is after the 19th of 25 edges from 0.01 to 4: 24 * ln(100) / ln(400) = 18.4
    assert found["inter-onset time"][19] == 2
    # 24 * ln(0.25 / 0.02) / ln(500) = 9.75, and 12.4 for 0.5 s, 15.1 for 1 s
    assert np.flatnonzero(found["note length"]).tolist() == [10, 13, 16]
    assert found["polyphony"][:3].tolist() == [0, 10, 10]
    assert found["notes per second"][:3].tolist() == [0, 0, 2]


@pytest.mark.parametrize("name", measures.DISTRIBUTIONS)
def test_extremes_have_bins_and_nothing_has_none(name: str) -> None:
    fast = music(*((0.001 * k, 100.0, 21 + k) for k in range(60)), (99.0, 99.001, 108))
    bins = measures.DISTRIBUTIONS[name][0]
    assert measures.histogram([fast], name).shape == (bins,)
    assert measures.histogram([NOTHING], name).sum() == 0


def test_overlap_is_the_sum_of_the_smaller_shares() -> None:
    assert measures.overlap(np.array([1, 1, 2]), np.array([2, 2, 4])) == 1.0
    assert measures.overlap(np.array([1, 0]), np.array([0, 5])) == 0.0
    assert measures.overlap(np.array([3, 1]), np.array([1, 1])) == pytest.approx(0.75)
    assert measures.overlap(np.array([0, 0]), np.array([1, 1])) == 0.0


def test_halves_never_part_performances_of_one_piece() -> None:
    same = [("a", row([60])), ("a", row([60])), ("b", row([61])), ("b", row([61]))]
    assert measures.halves(same, "pitch", times=5) == [0.0] * 5


def test_the_pitch_classes_used_are_those_of_an_even_choice() -> None:
    assert measures.classes_used(row([60, 62, 64, 65])) == pytest.approx(4.0)
    assert measures.classes_used(row([60, 72, 60, 48, 61, 61, 61, 61])) == pytest.approx(2.0)


# ------------------------------------------------------------------------ what was asked for


def test_in_scale_is_the_share_of_notes_on_asked_for_classes() -> None:
    weights = playing.SCALES["C pentatonic"]
    assert measures.in_scale(row([60, 62, 64, 65, 55, 71]), weights) == pytest.approx(4 / 6)
    assert measures.in_scale(NOTHING, weights) == 0.0


def test_densities_are_counted_from_each_onset() -> None:
    notes = row([60, 62] * 8, 0.45)
    # from each onset up to 5.2 s: five onsets within 2 s, which is density 1
    assert measures.bins_by_count(notes, 7.2).tolist() == [1] * 12
    # in the project's own windows four or five, also in the last one, from 5.2 s on
    assert measures.bins_by_control(notes, CURRENT).tolist() == [1] * 16
    fast = row([60 + k for k in range(40)], 0.05)
    assert measures.bins_by_count(fast, 2.0).tolist() == [11]  # 40 onsets
    assert measures.bins_by_control(fast, CURRENT).tolist() == [11] * 40


def test_spearman_is_the_correlation_of_ranks() -> None:
    assert measures.ranks([10, 30, 20, 30]).tolist() == [0, 2.5, 1, 2.5]
    assert measures.spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1.0)
    assert measures.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # without ties 1 - 6 * (1 + 1) / (4 * 15)
    assert measures.spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert measures.spearman([1, 2], [5, 5]) == 0.0


def test_the_ladder_tells_each_density_and_whether_they_rise() -> None:
    ladder = [
        row([60 + j % 7 for j in range(8 * (2 + 3 * k) // 2)], 2 / (2 + 3 * k)) for k in range(12)
    ]
    lines = list(quality.densities(ladder, CURRENT, 8.0))
    assert lines[1].split()[3:5] == ["2.0", "2.0-2.0"]
    assert lines[12].split()[4] == "35.0"
    assert lines[13].split()[1:] == ["100.0%", "100.0%", "reached"]
    assert lines[14].split()[-2:] == ["yes", "reached"]
    assert lines[15].split()[-2:] == ["1.000", "reached"]


def test_shares_of_scales_are_of_all_notes_together() -> None:
    played = {name: [row([]), row([61])] for name in playing.SCALES}
    played["C major"] = [row([60, 62, 64]), row([61])]
    played["F# pentatonic"] = [row([61]), row([63])]
    lines = {line.split("  ")[1]: line.split()[-3:] for line in quality.scales(played)}
    assert lines["C major"] == ["0.750", "0.000", "missed"]
    assert lines["F# pentatonic"] == ["1.000", "1.000", "reached"]


# ----------------------------------------------------------------------------- memorisation


def test_intervals_are_of_chords_from_the_lowest_note() -> None:
    # the second chord is played from the top, within 30 ms
    notes = music((0, 1, 60), (0, 1, 64), (1.0, 2, 72), (1.02, 2, 65), (2.0, 3, 60))
    assert memory.chords(notes).tolist() == [0, 0, 1, 1, 2]
    assert memory.intervals(notes).tolist() == [4, 1, 7, -12]


def test_rhythm_is_the_ratio_of_gaps_in_powers_of_two() -> None:
    # gaps 0.5, 1.0, 0.9, 0.2, 10: ratios 2, 0.9, 0.22, 50 are 1, 0, -2 and (at most) 3
    notes = music(*((t, t + 0.1, 60) for t in (0.0, 0.5, 1.5, 2.4, 2.6, 2.62, 12.6)))
    rhythm = memory.intervals_and_onsets(notes) - memory.WIDEST
    assert rhythm.tolist() == [0, 1, 0, -2, memory.IN_A_CHORD, 3]


@pytest.mark.parametrize("read", memory.READINGS.values())
def test_readings_do_not_depend_on_key_and_speed(read) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    starts, pitches = np.cumsum(random.uniform(0.1, 0.5, 50)), random.integers(40, 80, 50)
    notes = NoteSeq(starts, starts + 0.1, pitches, np.full(50, 64))
    other = NoteSeq(1.4 * starts, 1.4 * starts + 0.1, pitches + 5, np.full(50, 90))
    assert np.array_equal(read(notes), read(other))
    assert [len(read(some)) for some in (NOTHING, row([60]), row([60, 61]))] == [0, 0, 1]


def test_the_longest_shared_run_and_where_it_is() -> None:
    corpus = [np.array([1, 2, 3, 4, 5]), np.array([9, 9, 9]), np.array([3, 4, 7, 8])]
    queries = [
        np.array([0, 2, 3, 4, 7, 8, 0]),  # 2 3 4 of row 0, but 3 4 7 8 of row 2
        np.array([4, 5, 9, 9]),  # 4 5 and 9 9; no run goes on from one row to the next
        np.array([6]),
        np.array([], np.int64),
        np.array([-3, 1]),
    ]
    found = memory.longest_shared(queries, corpus)
    assert [shared.length for shared in found] == [4, 2, 0, 0, 1]
    assert [shared.row for shared in found][::2] == [2, -1, 0]
    assert memory.longest_shared(queries[:1], []) == [memory.Shared(0, -1)]


def test_the_longest_shared_run_is_that_of_trying_all() -> None:
    random = np.random.default_rng(1)
    corpus = [random.integers(-2, 3, size) for size in (300, 1, 0, 200)]
    queries = [random.integers(-2, 3, size) for size in (0, 1, 5, 40, 80)]
    queries.append(corpus[3][50:111])
    texts = ["".join(map(str, row + 2)) for row in corpus]

    def longest(query: np.ndarray) -> int:
        text = "".join(map(str, query + 2))
        spans = [(i, j) for i in range(len(text)) for j in range(i + 1, len(text) + 1)]
        return max((j - i for i, j in spans if any(text[i:j] in t for t in texts)), default=0)

    found = [shared.length for shared in memory.longest_shared(queries, corpus)]
    assert found == [longest(query) for query in queries]
    assert found[-1] == 61


# --------------------------------------------------------------------------------- playing


def test_a_part_is_cut_at_both_ends() -> None:
    notes = music((0.0, 9.0, 60), (1.0, 2.0, 61), (2.5, 9.0, 62), (4.0, 5.0, 63))
    assert playing.part(notes, 1.0, 3.0) == music((0.0, 1.0, 61), (1.5, 3.0, 62))


def test_places_are_spread_over_the_performances_and_leave_room() -> None:
    real = [row([60] * 20), row([60] * 30), row([60] * 3)]  # 9.5, 14.5 and 1 s to the last onset
    taken = playing.places(real, 4, 9.0, 0)
    assert [sum(notes is one for notes, _ in taken) for one in real] == [2, 2, 0]
    assert all(begin <= notes.starts[-1] - 9.0 for notes, begin in taken)
    with pytest.raises(ValueError, match="no performance lasts 60 s"):
        playing.places(real, 4, 60.0, 0)


def test_shorter_controls_hold_their_last_one() -> None:
    joined = playing.side_by_side([np.eye(24)[:3], np.eye(24)[5:6]])
    assert joined.argmax(axis=2).tolist() == [[0, 5], [1, 5], [2, 5]]


def test_what_is_finished_begins_at_once_and_lets_go() -> None:
    ranges = EventSeq.feat_ranges()
    second, note = ranges["time_shift"].stop - 1, ranges["note_on"].start
    events = EventSeq([second, note, *([second] * 20), note + 1, second, note + 2])
    notes = playing.finished(events, 24.0)
    assert notes.starts.tolist() == pytest.approx([0.0, 20 * 1.171])
    assert notes.ends.tolist() == pytest.approx([5.0, 24.0])


def test_pieces_do_not_depend_on_their_number_and_are_of_the_length_asked_for() -> None:
    torch.manual_seed(0)
    model = PerformanceRNN(TINY_SIZES)
    played = playing.play(model, CURRENT, None, 3, 3.0, 7, {})
    again = playing.play(model, CURRENT, None, 2, 3.0, 7, {"temperature": 1.0})
    assert played[:2] == again
    assert all(notes.starts[0] == 0 and 2 < notes.ends.max() <= 3 for notes in played)


def test_the_whole_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = PerformanceRNN(TINY_SIZES)
    session = SimpleNamespace(encoding=CURRENT.version, build_model=lambda device: network)
    monkeypatch.setattr(Session, "load", lambda path: session)
    data = write_data(tmp_path / "data", 3, 80)  # about 13 s each
    for seed in range(2):
        write_midi(tmp_path / "midi" / f"piece{seed}" / "a.mid", 80, seed)
    argv = ["-s", "tiny.sess", "--train", str(data), "--validation", str(tmp_path / "midi")]
    quality.main([*argv, "--pieces", "2", "--seconds", "2", "--setting", "temperature=0.5"])
    lines = capsys.readouterr().out.splitlines()
    assert "sampling temperature 0.5: 2 pieces of 2 s" in lines[0]
    assert next(line for line in lines if line.startswith("  excerpts")).endswith(" 2")
    # the same notes are in the training data: each run is all of the excerpt
    runs = [line.split()[-2:] for line in lines if line.startswith("  excerpts")][1:]
    assert len(runs) == 2
    assert all(int(run) > 4 for pair in runs for run in pair)
    assert "training excerpts" in next(line for line in lines if "overlap with" in line)
    areas = next(line.split()[1:5] for line in lines if line.startswith("  velocity   "))
    learned, real = (
        [notes for _, notes in playing.performances(folder)] for folder in (data, tmp_path / "midi")
    )
    parts = [playing.part(n, begin, 2.0) for n, begin in playing.places(learned, 2, 2.0, 0)]
    both = measures.histogram(parts, "velocity"), measures.histogram(real, "velocity")
    assert areas[3] == f"{measures.overlap(*both):.3f}" != areas[0]


def test_files_are_asked_what_they_share_with_those_learned_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "ASAP", tmp_path / "nowhere")
    data = write_data(tmp_path / "data", 2, 80)
    known = write_midi(tmp_path / "known.mid", 80, 1)
    other = write_midi(tmp_path / "other.mid", 80, 99)
    quality.main(["--by-heart", str(known), str(other), "--train", str(data)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    runs = {row[0]: int(row[-1]) for row in rows if row[0].endswith(".mid")}
    assert runs[str(known)] > 60 > 20 > runs[str(other)]


def test_a_wrong_command_line_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (
        ["--train", "nowhere"],
        ["--setting", "hot"],
        ["--pieces", "0"],
        ["--by-heart", "no.mid"],
    ):
        with pytest.raises(SystemExit):
            quality.parse_args(["-s", "x", "--validation", ".", "--train", ".", *wrong])
    told = capsys.readouterr().err
    assert "there is no folder nowhere" in told
    assert "there is no file no.mid" in told
    assert "'hot' is not like temperature=0.95" in told
