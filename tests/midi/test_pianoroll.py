import io

import matplotlib.image
import numpy as np
import pytest

from midi.control_schedule import ControlSchedule
from midi.pianoroll import (
    COLORS,
    LOUD,
    SOFT,
    draw_piano_roll,
    measure_density,
    scale_curves,
    scale_density_axis,
)
from sequence import NoteSeq


def decode_png(picture: bytes) -> np.ndarray:
    """Return the pixels of a PNG, 0-255 [rows, columns, 3]."""
    return np.rint(255 * matplotlib.image.imread(io.BytesIO(picture))[..., :3]).astype(int)


def find_color(image: np.ndarray, color: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and the columns of the pixels of a color."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero((image == rgb).all(axis=2))
    return rows, columns


def test_empty_sample_can_be_drawn() -> None:
    rows, columns, _ = decode_png(draw_piano_roll(NoteSeq(), "a title")).shape
    assert columns > 800
    assert rows > 300


def test_notes_have_position_and_color() -> None:
    notes = NoteSeq([0, 5], [4, 9], [50, 70], [SOFT, LOUD])
    image = decode_png(draw_piano_roll(notes, ""))
    image = image[:, : int(0.88 * image.shape[1])]  # without the color bar
    soft, loud = (find_color(image, color) for color in (COLORS[0], COLORS[-1]))
    assert len(soft[0]) > 1000 < len(loud[0])
    assert soft[0].min() > loud[0].max(), "the lower note is below"
    assert soft[1].max() < loud[1].min(), "the later note is at the right"
    assert np.ptp(soft[1]) / image.shape[1] == pytest.approx(0.4, abs=0.05)


def test_control_is_drawn_above_the_notes() -> None:
    requested = ControlSchedule(np.array([1, 9]), np.eye(12)[[0, 11]], np.array([0.0, 5.0]))
    notes = NoteSeq([0, 9], [1, 10], [60, 64], [64, 64])
    odd_title, odd_summary = r"$\frac{ <b> 中 sample", {"notes": "2", "$x_": "&"}
    picture = draw_piano_roll(notes, odd_title, requested, odd_summary, "generate $ " + "x" * 500)
    image = decode_png(picture)
    roll_top = find_color(image, "#f3f3f6")[0].min()  # the rows of the black keys
    for color in ("#0b5c4d", "#7fb8a8"):  # the pitch class, the density band
        rows, columns = find_color(image, color)
        first, second = rows[columns < 400], rows[(columns > 600) & (columns < 850)]
        assert len(first) > 500 < len(second)
        assert first.mean() > second.mean() + 20, "C and few notes are below B and many notes"
        assert first.max() < roll_top


def test_other_controls_have_a_row_each() -> None:
    nothing, times = np.full(2, np.nan), np.array([0.0, 5.0])
    scalars = {"loudness": np.array([40, 90]), "touch": np.array([np.nan, 0.5]), "spread": nothing}
    requested = ControlSchedule(nothing, np.full((2, 12), np.nan), times, scalars=scalars)
    (loudness, rising), (touch, constant) = scale_curves(requested)
    assert (loudness, rising.tolist()) == ("loudness 40-90", [0, 1])
    assert (touch, constant[1]) == ("touch 0.5", 0.5)
    assert np.isnan(constant[0])
    notes = NoteSeq([0, 9], [1, 10], [60, 64], [64, 64])
    image = decode_png(draw_piano_roll(notes, "", requested))
    rows, columns = find_color(image, "#0b5c4d")
    soft, loud = rows[columns < 400], rows[columns > 600]
    assert soft.min() > loud.min() + 5, "soft is below loud"
    assert loud.max() > soft.max() + 15, "touch has a row of its own"


def test_labels_of_controls_fit_into_the_picture() -> None:
    times = np.array([0.0, 5.0])
    scalars = {"loudness": [36, 125.7], "register": [36, 106.7], "touch": [0.123, 1.234]}
    columns = {name: np.array(column) for name, column in scalars.items()}
    open_rows = np.full(2, np.nan), np.full((2, 12), np.nan)
    requested = ControlSchedule(*open_rows, times, scalars=columns)
    labels = [label for label, _ in scale_curves(requested)]
    assert labels == ["loudness 36-126", "register 36-107", "touch 0.12-1.2"]
    notes = NoteSeq([0, 9], [1, 10], [60, 64], [64, 64])
    image = decode_png(draw_piano_roll(notes, "", requested))
    assert (image[:, -3:] == 255).all()


def test_density_counts_onsets_per_two_seconds() -> None:
    starts = np.random.default_rng(0).uniform(0, 20, 50)
    times, density = measure_density(starts)
    assert times[0] == 0
    assert abs(times[-1] + 2 - starts.max()) < 0.25
    assert density.tolist() == [sum(t <= s < t + 2 for s in starts) / 2 for t in times]
    later, rest = measure_density(starts, 4.0)
    assert later.tolist() == times[16:].tolist()
    assert rest.tolist() == density[16:].tolist()
    assert measure_density(np.empty(0))[1].tolist() == [0]


@pytest.mark.parametrize(
    ("most", "density", "axis"),
    [
        ([3, 4.5], [], (6, 2)),
        ([6], [13.5], (15, 5)),
        ([6], [15], (16, 10)),
        ([6], [9999], (10000, 1000)),
    ],
)
def test_density_axis_has_few_labels(
    most: list[float], density: list[float], axis: tuple[int, int]
) -> None:
    assert scale_density_axis(np.array(most), np.array(density, float)) == axis
