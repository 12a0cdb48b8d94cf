"""The tables of tools.quality, and the settings and samples that they measure."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import memorization, music_metrics
from config import GenerateConfig, ModelConfig
from generation import control_metrics
from model import PerformanceRNN, Session
from sequence import (
    CURRENT,
    PLAIN_LAYOUT,
    ControlLayout,
    ControlSeq,
    EventSeq,
    NoteSeq,
    get_control_kind,
)
from tools import quality, samples
from tools.synthetic_data import TINY_SIZES, write_data, write_midi
from tools.tables import format_figure, format_table, replace_nan

ALL_CONTROLS = ("density", "histogram", "loudness", "register", "spread", "touch")


def make_notes(*notes: tuple[float, float, int]) -> NoteSeq:
    """Return notes from (start, end, pitch)."""
    starts, ends, pitches = np.array(notes).reshape(-1, 3).T
    return NoteSeq(starts, ends, pitches, np.full(len(notes), 64))


def make_melody(pitches: list[int], gap: float = 0.5, velocity: int = 64) -> NoteSeq:
    """Return one pitch after another, each as long as the gap."""
    starts = gap * np.arange(len(pitches))
    return NoteSeq(starts, starts + gap, pitches, np.full(len(pitches), velocity))


EMPTY = make_notes()
# C and E together, then G 1 s later, which ends at 1.25
THREE = make_notes((0.0, 0.5, 60), (0.0, 1.0, 64), (1.0, 1.25, 67))


# -------------------------------------------------------------------------------- tables


def test_table_is_aligned_markdown() -> None:
    table = format_table("name", ["a", "long title"], {"first": ["1", "2.5%"], "b": ["-", "10"]})
    assert table.splitlines() == [
        "| name  |   a | long title |",
        "| ----- | --: | ---------: |",
        "| first |   1 |       2.5% |",
        "| b     |   - |         10 |",
    ]


def test_unknown_figures() -> None:
    assert [format_figure(value, ".1%") for value in (0.25, float("nan"), None)] == [
        "25.0%",
        "-",
        "-",
    ]
    record = {"a": [1.5, float("nan")], "b": (2, "text")}
    assert json.loads(json.dumps(replace_nan(record))) == {"a": [1.5, None], "b": [2, "text"]}


def test_faults_of_samples_are_counted() -> None:
    loop = make_melody([60] * music_metrics.LOOP)  # 6.5 s
    held = make_notes((0, 5, 60), (1, 2, 62), (2, 3, 64), (3.5, 4, 65))
    music = {"loops": [loop, THREE], "sound": [make_melody([60, 62] * 8)], "held": [held]}
    records = quality.measure_music(music, 7.0)
    keys = ("samples", "loops", "silences", "early_ends", "cut_notes")
    assert [[record[key] for key in keys] for record in records.values()] == [
        [2, 1, 1, 1, 0.0],
        [1, 0, 0, 0, 0.0],
        [1, 0, 0, 0, 1 / 3],  # of the three notes that begin early enough to be cut
    ]
    row = quality.format_music(records).splitlines()[2]
    assert [cell.strip() for cell in row.split("|")[2:7]] == ["2", "1", "1", "1", "0.00%"]


def test_features_are_compared_with_real_music() -> None:
    records = quality.measure_features({"same": [THREE], "other": [make_melody([61])]}, [THREE])
    assert records["same"]["pitch class"] == {"overlap": 1.0, "kl": 0.0}
    assert records["other"]["pitch class"]["overlap"] == 0.0
    # three of the twelve classes have 1.5 of 9, the others 0.5; one has 1.5 of 7 in the samples
    shares = np.array([1.5] * 3 + [0.5] * 9) / 9
    expected = np.array([0.5] * 3 + [1.5] + [0.5] * 8) / 7
    divergence = (shares * np.log(shares / expected)).sum()
    assert records["other"]["pitch class"]["kl"] == pytest.approx(divergence)
    assert "| pitch class " in quality.format_features(records)


# ------------------------------------------------------------------------------- controls


def test_spearman_correlates_ranks() -> None:
    assert control_metrics.rank([10, 30, 20, 30]).tolist() == [0, 2.5, 1, 2.5]
    assert control_metrics.spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1.0)
    assert control_metrics.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # without ties 1 - 6 * (1 + 1) / (4 * 15)
    assert control_metrics.spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)


def test_loudness_within_one_step() -> None:
    # a step is 7 of velocity; 63 and 83 are velocities that the encoding keeps
    music = [make_melody([60] * 20, velocity=velocity) for velocity in (63, 83, 63, 63)]
    requested = [65.0, 83.0, 65.0, 75.0]
    record = quality.measure_control(get_control_kind("loudness"), music, requested, CURRENT)
    assert (record["low"], record["high"]) == (65.0, 83.0)
    assert record["within_one_step"] == pytest.approx(3 / 4)
    assert record["worst"] == (75.0, 0.0)
    # ranks 0.5, 3, 0.5, 2 and 1, 3, 1, 1
    assert record["spearman"] == pytest.approx(np.corrcoef([0.5, 3, 0.5, 2], [1, 3, 1, 1])[0, 1])


def test_density_levels() -> None:
    """Melodies with the middle of each level: 2 + 3k notes in two seconds."""
    rising = [
        make_melody([60 + j % 7 for j in range(8 * (2 + 3 * k) // 2)], 2 / (2 + 3 * k))
        for k in range(12)
    ]
    kind, levels = get_control_kind("density"), list(range(12))
    record = quality.measure_control(kind, rising, levels, CURRENT)
    assert (record["spearman"], record["within_one_step"]) == (pytest.approx(1.0), 1.0)
    far = quality.measure_control(kind, rising, [0] * 12, CURRENT)
    # the levels 0 and 1; all requested values are equal
    assert far["within_one_step"] == pytest.approx(2 / 12, abs=0.02)
    assert np.isnan(far["spearman"])
    empty = quality.measure_control(kind, [EMPTY], [3], CURRENT)
    table = quality.format_controls({"density": empty}, {})
    assert [cell.strip() for cell in table.splitlines()[2].split("|")[1:5]] == [
        "density 3 to 3",
        "-",
        "-",
        "-",
    ]


def test_scales_weight_samples_by_notes() -> None:
    music = {"C major": [make_melody([60, 62, 64]), make_melody([61])]}
    music["F# pentatonic"] = [make_melody([]), make_melody([61])]
    shares = quality.measure_scales(music)
    assert shares == pytest.approx({"C major": 0.75, "F# pentatonic": 1.0})


# ------------------------------------------------------------------------------- settings


def test_settings_of_a_plain_network() -> None:
    excerpts = [(make_melody([60, 62] * 20), 1.0)] * 2
    settings = samples.build_settings(excerpts, CURRENT, PLAIN_LAYOUT, 5, 4.0)
    assert list(settings) == [
        samples.VALIDATION,
        samples.NO_CONTROLS,
        *samples.SCALE_WEIGHTS,
        "density",
    ]
    assert settings[samples.NO_CONTROLS].controls is None
    density = settings["density"]
    assert density.requested is not None
    assert density.controls is not None
    assert density.requested.tolist() == list(range(12))
    assert density.controls.shape == (1, 12, 24)
    assert density.controls[0, :, :12].tolist() == np.eye(12).tolist()
    assert np.ptp(density.controls[0, :, 12:]) == 0  # all pitch classes alike
    scale = settings["C pentatonic"].controls
    assert scale is not None
    assert scale[0, :, :12].argmax(axis=1).tolist() == [1, 3, 6, 9, 1]
    assert (scale[0, 0, 12:] > 0).tolist() == [k in (0, 2, 4, 7, 9) for k in range(12)]


def test_settings_of_a_network_with_all_controls() -> None:
    layout = ControlLayout(ALL_CONTROLS)
    notes = make_melody([60, 62] * 20)
    settings = samples.build_settings([(notes, 0.0)], CURRENT, layout, 3, 4.0)
    assert list(settings)[:3] == [samples.VALIDATION, samples.PLAIN, samples.NO_CONTROLS]
    assert list(settings)[-5:] == ["density", "loudness", "register", "spread", "touch"]
    followed, plain = settings[samples.VALIDATION].controls, settings[samples.PLAIN].controls
    assert followed is not None
    assert plain is not None
    events = EventSeq.from_note_seq(notes.crop(0.0, 6.0), CURRENT)
    expected = ControlSeq.from_event_seq(events).encode(layout)
    assert followed[:, 0].tolist() == expected.tolist()
    assert plain[:, 0, :24].tolist() == expected[:, :24].tolist()
    flags = list(layout.flags)
    assert (plain[:, 0, flags] == [0, 0, 1, 1, 1, 1]).all()
    register = settings["register"]
    assert register.requested is not None
    assert register.controls is not None
    # eight values, 63.5 / 11 semitones apart, from the third center on
    assert register.requested == pytest.approx(33 + 63.5 / 11 * np.arange(2, 10))
    assert (register.controls[0][:, flags] == [1, 1, 1, 0, 1, 1]).all()


def test_settings_fit_the_controls_of_a_network() -> None:
    layout = ControlLayout(["density", "touch"])
    excerpts = [(make_melody([60, 62] * 20), 0.0)]
    settings = samples.build_settings(excerpts, CURRENT, layout, 2, 4.0)
    assert list(settings) == [samples.VALIDATION, samples.NO_CONTROLS, "density", "touch"]


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


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Return a command line with three training and two validation performances, 13 s each."""
    train = write_data(tmp_path / "data", 3, 80)
    for seed in range(2):
        write_midi(tmp_path / "midi" / f"piece{seed}" / "a.mid", 80, seed)
    options = ["-s", str(tmp_path / "tiny.sess"), "--samples", "2", "--seconds", "2"]
    return [*options, "--train", str(train), "--validation", str(tmp_path / "midi")]


def save_session(path: Path, controls: tuple[str, ...]) -> None:
    """Write a session with random weights."""
    torch.manual_seed(0)
    dim = ControlLayout(controls).dim
    sizes = ModelConfig(init_dim=4, hidden_dim=16, gru_layers=2, control_dim=dim)
    weights = PerformanceRNN(sizes, controls).state_dict()
    Session(sizes, weights, CURRENT.version, controls=controls).save(path)


def test_tables_of_a_session(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    save_session(tmp_path / "tiny.sess", ("density", "histogram"))
    quality.main([*arguments, "--", "--temperature", "0.5"])
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    titles = cells[0]
    rows = {row[0]: row[1:] for row in cells}
    excerpts = dict(zip(titles[1:], rows["validation excerpts"], strict=True))
    assert excerpts["samples"] == "2"
    assert excerpts["returns"] == "-"  # the samples are too short
    # the training data has the same notes, so each passage is the whole excerpt
    assert int(excerpts["longest"]) > 4
    music = [notes for _, notes in samples.load_performances(tmp_path / "midi")]
    cut = [n.crop(begin, 2.0) for n, begin in samples.choose_excerpts(music, 2, 2.0, 0)]
    counts, reference = (music_metrics.histogram(part, "velocity") for part in (cut, music))
    area, divergence = (
        compare(reference, counts)
        for compare in (music_metrics.overlap, music_metrics.kl_divergence)
    )
    assert rows["velocity"][2] == f"{area:.3f}, {divergence:.3f}"
    assert {"density 0 to 11", "notes in C major"} <= set(rows)


def test_json_of_a_session_with_all_controls(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    save_session(tmp_path / "tiny.sess", ALL_CONTROLS)
    quality.main([*arguments, "--json"])
    record = json.loads(capsys.readouterr().out)
    assert list(record["controls"]) == ["density", "loudness", "register", "spread", "touch"]
    assert record["music"]["touch"]["samples"] == 8
    assert record["music"]["density and histogram"]["samples"] == 2
    assert record["music"]["without control"]["returns"] is None
    assert list(record["features"]) == [
        "all controls",
        "density and histogram",
        "without control",
        "validation excerpts",
        "training excerpts",
    ]


def test_memorization_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_data(tmp_path / "data", 2, 80)
    copied = write_midi(tmp_path / "copied.mid", 80, 1)
    other = write_midi(tmp_path / "other.mid", 80, 99)
    quality.main(["--memorization", str(copied), str(other), "--train", str(train)])
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in rows] == [str(copied), str(other)]
    assert int(rows[0][1]) > 60 > 20 > int(rows[1][1])
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
