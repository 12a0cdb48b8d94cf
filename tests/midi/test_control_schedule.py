import numpy as np
import pytest

from midi.control_schedule import DENSITIES, ControlSchedule, format_density

ONE_CLASS = np.eye(12)  # row c: only pitch class c


def test_drop_repeats() -> None:
    schedule = ControlSchedule(
        np.array([1, 1, 2, 2, 2, 1]), ONE_CLASS[[0, 0, 0, 5, 5, 5]], np.arange(6)
    )
    times, density, histogram = schedule.drop_repeats().columns
    assert times.tolist() == [0, 2, 3, 5]
    assert density.tolist() == [1, 2, 2, 1]
    assert histogram.argmax(axis=1).tolist() == [0, 0, 5, 5]


@pytest.mark.parametrize(
    ("times", "density", "histogram"),
    [
        ([], [], np.empty((0, 12))),
        ([0, 1], [3], ONE_CLASS[:2]),
        ([0], [3], np.eye(11)[:1]),
        ([1, 0], [3, 3], ONE_CLASS[:2]),
        ([0], [12], ONE_CLASS[:1]),
        ([np.nan], [3], ONE_CLASS[:1]),
        ([0], [3], -ONE_CLASS[:1]),
    ],
)
def test_invalid_schedule_raises(times: list, density: list, histogram: np.ndarray) -> None:
    with pytest.raises(ValueError, match="schedule"):
        ControlSchedule(np.array(density), histogram, np.array(times))


def test_density_is_formatted_in_notes_per_second() -> None:
    texts = [format_density(level) for level in (0, 1, 10, 11, 2.5)]
    assert texts == ["0-1.5", "2-3", "15.5-16.5", "17 or more", "4.8"]


def test_density_ranges_cover_all_counts() -> None:
    low, high = ControlSchedule(np.arange(12), ONE_CLASS, np.arange(12)).density_ranges()
    assert (2 * low).tolist() == DENSITIES.tolist() == list(range(1, 37, 3))
    assert high[:-1].tolist() == (low[1:] - 0.5).tolist()
