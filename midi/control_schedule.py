"""Controls: pitch classes and note density of the next two seconds, and schedules of controls.

The window, the density levels, the pitch names and the layout of a control vector are defined
here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from midi.notes import read_only
from utils import Array

PITCH_NAMES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
PITCH_CLASSES = len(PITCH_NAMES)
WINDOW = 2  # seconds that a control looks ahead
TIME_STEP = 0.1  # seconds between the controls that a network gets from a written plan
LOOKAHEAD = 1.8  # seconds of a plan that are averaged; gives fewer wrong notes than WINDOW
DENSITIES = np.arange(1, 37, 3)  # the fewest note ons in a window at each density level
DENSITY_LEVELS = len(DENSITIES)
DEFAULT_DENSITY = 3  # level, where none is requested and the network needs one
DAY = 24 * 3600.0  # seconds, the longest time in a schedule
SECTION_SECONDS = 10.0  # length of a section, for a schedule without fixed parts

COMPRESSED_DIM = 1 + PITCH_CLASSES  # columns of compressed controls: level, then the histogram


def middle_notes(level: npt.ArrayLike) -> Array:
    """Return the middle of the range of each density level, float64 note ons in two seconds."""
    return np.asarray(DENSITIES[0] + 1 + 3 * np.asarray(level, np.float64))


def find_density_level(notes: npt.ArrayLike) -> Array:
    """Return the density level (0-11) of each count of note ons in two seconds."""
    return np.maximum(np.searchsorted(DENSITIES, notes, "right") - 1, 0)


def format_density(level: float) -> str:
    """Format a density level in notes per second: "5-6", or "9.3" between levels.

    Level 0 includes silence. The last level has no maximum.
    """
    if level != round(level):
        return f"{float(middle_notes(level)) / WINDOW:.1f}"
    low = DENSITIES[round(level)] / WINDOW if level else 0
    if level == DENSITY_LEVELS - 1:
        return f"{low:g} or more"
    return f"{low:g}-{(3 * round(level) + 3) / WINDOW:g}"


def measure_rate(onsets: Array) -> float:
    """Return the density of notes with these onsets in seconds [notes], in notes per second.

    It is that from the first to the last onset; 0 for fewer than two onsets.
    """
    span = float(np.ptp(onsets)) if len(onsets) else 0.0
    return (len(onsets) - 1) / span if span else 0.0


def normalize_histogram(weights: Array) -> Array:
    """Divide each row of weights [rows, 12] by its sum; a row of zeros becomes uniform."""
    total = weights.sum(axis=1, keepdims=True, dtype=np.float64)
    shares = weights / np.maximum(total, np.finfo(np.float64).tiny)
    shares[total[:, 0] == 0] = 1 / PITCH_CLASSES
    return shares


class Control:
    """The requested pitch classes and note density of the next two seconds.

    pitch_histogram: 12 weights from C, scaled to sum 1; all zero means uniform.
    note_density: level 0-11, see `format_density`.
    Raises ValueError for another number of weights, a weight that is negative or not finite, or
    another level.
    """

    def __init__(self, pitch_histogram: npt.ArrayLike, note_density: int) -> None:
        weights = np.asarray(pitch_histogram, np.float64)
        if weights.shape != (PITCH_CLASSES,):
            raise ValueError(f"a pitch histogram needs 12 weights, got {weights.size}")
        invalid = ~(np.isfinite(weights) & (weights >= 0))
        if invalid.any():
            raise ValueError(
                f"pitch histogram weights must be 0 or more, got {weights[invalid][0]}"
            )
        weights = weights / max(weights.max(), np.finfo(np.float64).tiny)  # sums cannot overflow
        if not 0 <= note_density < DENSITY_LEVELS:
            raise ValueError(f"note density must be 0-{DENSITY_LEVELS - 1}, got {note_density}")
        self.pitch_histogram = read_only(normalize_histogram(weights[None])[0], np.float64)
        self.note_density = int(note_density)

    def to_array(self) -> Array:
        """Return the control vector, float32 [24]: density one-hot, then histogram."""
        return encode_controls(np.array([self.note_density]), self.pitch_histogram)[0]


def encode_controls(density: Array, histogram: Array) -> Array:
    """Return control vectors, float32 [rows, 24]: density one-hot, then histogram.

    density: level of each row [rows]; histogram: [rows, 12].
    """
    array = np.zeros((len(density), DENSITY_LEVELS + PITCH_CLASSES), np.float32)
    array[np.arange(len(density)), density] = 1
    array[:, DENSITY_LEVELS:] = histogram
    return array


@dataclass(frozen=True, eq=False)
class ControlSchedule:
    """The requested controls over time; each row holds until the next one, the last to the end.

    density: level of each row [rows]; histogram: weights from C that sum to 1, float32 [rows, 12];
    times: the start of each row in seconds [rows], ascending, or None for one row per event.
    The first row holds from the beginning, even if its time is later.
    is_gradual: whether the values change linearly from the row before to each row [rows], instead
    of at its start; None: no row.
    is_measured: whether each row describes the next WINDOW seconds, as in training data.
    loop: the second at which the last rows start again and again, and their length in seconds;
    length: the length in seconds that the music should have; None: no loop, or no length.
    text: the schedule as the user wrote it; parts: the start in seconds and the text of each part.
    scalars: the values of other controls by name, such as "loudness" [rows]; see
    `sequence.CONTROLS`.
    In a row in which a control is open, its value is nan; for the histogram all 12 weights.
    A density may lie between two levels.
    Raises ValueError for other shapes or values.
    """

    density: Array
    histogram: Array
    times: Array | None = None
    text: str = ""
    parts: tuple[tuple[float, str], ...] = ()
    is_gradual: Array | None = None
    scalars: Mapping[str, Array] = field(default_factory=dict)
    loop: tuple[float, float] | None = None
    length: float | None = None
    is_measured: bool = False

    def __post_init__(self) -> None:
        # float32 as in the control vector, so that rows which a network cannot tell apart are equal
        object.__setattr__(self, "histogram", np.asarray(self.histogram, np.float32))
        scalars = {name: np.asarray(column, np.float64) for name, column in self.scalars.items()}
        object.__setattr__(self, "scalars", scalars)
        rows, shapes = len(self), [np.shape(column) for column in self.columns]
        if not rows or shapes != [(rows,), (rows,), (rows, PITCH_CLASSES)]:
            raise ValueError(f"times, density and histogram of a schedule have shapes {shapes}")
        for name, column in scalars.items():
            if column.shape != (rows,):
                raise ValueError(f"{name} of a schedule has shape {column.shape}, not {(rows,)}")
        times = self.columns[0]
        values = np.column_stack([self.density, self.histogram, *scalars.values()])
        if np.isinf(values).any() or not np.isfinite(times).all() or (values < 0).any():
            raise ValueError("a control schedule has values that are negative or not finite")
        is_open = np.isnan(self.histogram)
        if (is_open.any(axis=1) != is_open.all(axis=1)).any():
            raise ValueError("a control schedule has histograms that are open in part")
        if (values[:, 0] > DENSITY_LEVELS - 1).any():
            raise ValueError(f"a control schedule has a density over {DENSITY_LEVELS - 1}")
        if (np.diff(times) < 0).any():
            raise ValueError("the times of a control schedule must be ascending")

    def __len__(self) -> int:
        return len(self.density)

    @property
    def columns(self) -> tuple[Array, Array, Array]:
        """Times, density and histogram; the times are zeros for one row per event."""
        times = np.zeros(len(self)) if self.times is None else self.times
        return times, self.density, self.histogram

    @property
    def values(self) -> dict[str, Array]:
        """The values of all controls by name; nan where a control is open."""
        return {"density": self.density, "histogram": self.histogram, **self.scalars}

    @property
    def requested_controls(self) -> list[str]:
        """The names of the controls that are not open in every row."""
        return [name for name, column in self.values.items() if not np.isnan(column).all()]

    @property
    def events(self) -> int | None:
        """The number of events of a schedule with one row per event, else None."""
        return len(self) if self.times is None else None

    def to_array(self) -> Array:
        """Return the vectors of density and histogram, float32 [rows, 24].

        For the control vectors of any network see `sequence.encode_schedule`.
        """
        return encode_controls(np.asarray(self.density, np.int64), self.histogram)

    @property
    def steps(self) -> int:
        """The number of steps of TIME_STEP until the last row starts, and one more."""
        last = DAY if self.loop else float(self.columns[0][-1])
        return 1 if len(self) == 1 else round(last / TIME_STEP) + 1

    def evaluate(self, times: Array, event_numbers: Array) -> ControlSchedule:
        """Return a schedule with a row for each time, or for each event number.

        times: seconds [n]; event_numbers: [n], for a schedule with one row per event.
        """
        if self.times is None:
            return self.select(np.clip(event_numbers, 0, len(self) - 1))
        if self.loop is not None:
            begin, period = self.loop
            times = np.where(times < begin, times, begin + (times - begin) % period)
        starts = np.asarray(self.times)
        rows = np.clip(np.searchsorted(starts, times, "right") - 1, 0, len(self) - 1)
        current = self.select(rows)
        if self.is_gradual is None:
            return current
        following = np.minimum(rows + 1, len(self) - 1)
        seconds = starts[following] - starts[rows]
        share = (times - starts[rows]) / np.where(seconds > 0, seconds, 1)
        share = np.where(self.is_gradual[following], share.clip(0, 1), 0)
        return current.blend(self.select(following), share)

    def blend(self, other: ControlSchedule, share: Array) -> ControlSchedule:
        """Return the rows, moved by a share [rows] of the way to the rows of another schedule."""
        # where the other is open, a control stays as it is until the other row begins
        density = np.where(share, (1 - share) * self.density + share * other.density, self.density)
        change = np.where(share[:, None], share[:, None] * (other.histogram - self.histogram), 0)
        scalars = {
            name: np.where(share, (1 - share) * column + share * other.scalars[name], column)
            for name, column in self.scalars.items()
        }
        histogram = self.histogram + change
        return replace(self, density=np.rint(density), histogram=histogram, scalars=scalars)

    def average(self, start: int, stop: int) -> ControlSchedule:
        """Return rows `start` to `stop` - 1 of the averages over the LOOKAHEAD after each step.

        Row k is for the time from k * TIME_STEP on. In training data a control describes the
        notes of the next WINDOW seconds, so a network expects a change to come gradually. As in
        training data, a histogram has a weight for each note: a dense part counts more. A control
        that is open at the step itself is open; else only what is requested is averaged.
        Rows that are measured are not averaged again.
        """
        times = np.arange(start, stop) * TIME_STEP
        if self.is_measured:
            rows = self.evaluate(times, np.arange(start, stop))
            return replace(rows, times=times)
        size = round(LOOKAHEAD / TIME_STEP)  # steps in a window
        steps = np.arange(start, stop + size - 1)
        written = self.evaluate((steps + 0.5) * TIME_STEP, steps)

        def average(values: Array, weights: Array) -> Array:
            """Return weighted averages [stop - start, columns] over windows; exact if constant."""
            windows, weights = (sliding_window_view(v, size, axis=0) for v in (values, weights))
            first, weights = windows[..., :1], weights * ~np.isnan(windows)
            change = (weights * np.nan_to_num(windows - first)).sum(axis=-1)
            return np.asarray(first[..., 0] + change / np.maximum(weights.sum(axis=-1), 1e-9))

        density = np.asarray(written.density, np.float64)[:, None]
        notes = middle_notes(np.where(np.isnan(density), DEFAULT_DENSITY, density))
        histogram = average(written.histogram, notes)
        level = np.rint(average(density, np.ones_like(density)))[:, 0]
        scalars = {
            name: average(column[:, None], notes)[:, 0] for name, column in written.scalars.items()
        }
        return ControlSchedule(level, histogram, times, scalars=scalars)

    def find_early_pitches(self, start: int, stop: int) -> Array:
        """Return which pitch classes only a later chord has, for rows `start` to `stop` - 1.

        They have a weight in the row of `average`, but none yet in the plan: bool [rows, 12].
        """
        steps = np.arange(start, stop)
        if self.is_measured:
            return np.zeros((len(steps), 12), bool)
        written = self.evaluate((steps + 0.5) * TIME_STEP, steps).histogram
        return np.asarray((written == 0) & (self.average(start, stop).histogram > 0))

    def override(self, other: ControlSchedule) -> ControlSchedule:
        """Return measured rows with the controls of a written plan where it requests them.

        The rows must be TIME_STEP apart.
        """
        plan = other.average(0, len(self))
        values = {
            name: np.where(np.isnan(column), self.values.get(name, np.nan), column)
            for name, column in plan.values.items()
        }
        return replace(
            self,
            density=values.pop("density"),
            histogram=values.pop("histogram"),
            text=other.text,
            parts=other.parts,
            scalars={**self.scalars, **values},
        )

    def select(self, rows: Array, times: Array | None = None) -> ControlSchedule:
        """Return a schedule of the rows with these indices [n], with these starts (seconds) [n]."""
        density, histogram = np.asarray(self.density)[rows], self.histogram[rows]
        scalars = {name: column[rows] for name, column in self.scalars.items()}
        return ControlSchedule(density, histogram, times, self.text, self.parts, scalars=scalars)

    def drop_repeats(self) -> ControlSchedule:
        """Return the schedule without the rows that repeat the row before them."""
        values = np.column_stack(list(self.values.values()))
        values = np.where(np.isnan(values), -1, values)  # an open control repeats an open one
        changed = np.append(True, (np.diff(values, axis=0) != 0).any(axis=1))
        return self.select(changed, np.asarray(self.columns[0])[changed])

    def density_ranges(self) -> tuple[Array, Array]:
        """Return the fewest and the most requested notes per second, each [rows].

        The last level has a maximum here, like the others, so that it can be drawn. nan where the
        density is open.
        """
        is_open = np.isnan(self.density)
        low = DENSITIES[np.rint(np.where(is_open, 0, self.density)).astype(np.int64)] / WINDOW
        low = np.where(is_open, np.nan, low)
        return low, low + 2 / WINDOW

    def split_sections(self, length: float) -> list[tuple[float, float, str]]:
        """Return start, end and name of each section of a sample that is `length` seconds long.

        Sections are the parts of the text, or last SECTION_SECONDS each if there are no parts or
        one of them is a gradual change ("~"). The last section ends at infinity.
        """
        starts = [start for start, _ in self.parts if start < length]
        names = [text for _, text in self.parts]
        if not self.parts or any(text.startswith("~") for text in names):
            step = SECTION_SECONDS
            starts = [step * k for k in range(max(1, round(length / step)))]
            names = [f"{start:g} to {start + step:g} s of {self.text}" for start in starts]
        return list(zip(starts, [*starts[1:], math.inf], names, strict=False))
