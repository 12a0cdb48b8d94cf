"""Draw notes as a piano roll: a PNG picture, with the requested control above it."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from midi.control_schedule import PITCH_NAMES, WINDOW, ControlSchedule
from midi.notes import NoteSeq
from utils import Array, import_optional

BLACK_KEYS = (1, 3, 6, 8, 10)
SOFT, LOUD = 16, 112  # velocities at the ends of the colors
COLORS = ("#9fd0e6", "#4f93d8", "#4b4fc4", "#8a2fa8", "#d81e63", "#f5701c")
CONTROL_COLORS = ("#f6f7f9", "#7fb8a8", "#0b5c4d")  # from weight 0 to the largest weight
GREY, RULE, INK, KEY_EDGE = "#5d5d68", "#dcdce3", "#33333b", "#a4a4b0"
GRID = 0.25  # seconds between two points of the density curve


def measure_density(starts: Array, seconds: float) -> tuple[Array, Array]:
    """Return times and the note ons within two seconds from each, as a curve.

    starts: note ons in seconds [notes]; seconds: end of the music. No window ends after it.
    """
    times = np.arange(0.0, max(seconds - WINDOW, 0.0) + GRID, GRID)
    ordered = np.sort(starts)
    return times, np.searchsorted(ordered, times + WINDOW) - np.searchsorted(ordered, times)


def draw_piano_roll(
    notes: NoteSeq,
    title: str,
    requested: ControlSchedule | None = None,
    summary: Mapping[str, str] | None = None,
    command: str = "",
) -> bytes:
    """Return a PNG picture of notes: keyboard at the left, seconds below, velocity as color.

    requested: the control over time; it is drawn above the notes, with the generated density.
    summary: figures by name, written under the title.
    command: the shell command that generates the sample again, written at the bottom.
    """
    seconds = max(5.0, notes.seconds)
    low, high = int(notes.pitches.min(initial=50)) - 3, int(notes.pitches.max(initial=70)) + 4
    sheet = _Sheet(seconds, (high - low) * 0.072, requested is not None, bool(command))
    sheet.write(title, summary or {}, command)
    roll = sheet.add_row("roll")
    _draw_keyboard(roll.keys, low, high)
    _draw_grid(roll.plot, low, high)
    patches = _draw_notes(roll.plot, notes)
    roll.plot.set(xlim=(0, seconds), ylim=(low - 0.5, high - 0.5))
    roll.plot.set_xlabel("seconds", labelpad=1)
    bar = sheet.figure.colorbar(patches, cax=sheet.add_color_bar(), label="velocity", extend="both")
    bar.outline.set_visible(False)
    if requested is not None:
        _draw_classes(sheet.add_row("classes"), requested, seconds)
        _draw_density(sheet.add_row("density"), requested, notes.starts, seconds)
    return sheet.to_png()


class _Row(NamedTuple):
    """The axes of one row of the picture: a narrow one at the left, and the plot over time."""

    keys: Any
    plot: Any


class _Sheet:
    """A figure with its rows above each other; all sizes are in inches."""

    LEFT, KEYS, RIGHT, GAP = 0.42, 0.34, 0.95, 0.09

    def __init__(self, seconds: float, roll: float, has_control: bool, has_command: bool) -> None:
        self.rows = {"roll": roll} | ({"density": 0.62, "classes": 0.98} if has_control else {})
        self.bottom = 0.5 + (0.22 if has_command else 0)
        self.width = min(60.0, max(9.0, 0.22 * seconds))
        self.height = self.bottom + sum(self.rows.values()) + self.GAP * len(self.rows) + 0.62
        figures = import_optional("matplotlib.figure", "a piano roll")
        self.figure = figures.Figure(figsize=(self.width, self.height), facecolor="white")

    def write(self, title: str, summary: Mapping[str, str], command: str) -> None:
        """Write title and summary at the top, and the command at the bottom."""
        plain = {"parse_math": False, "ha": "left"}
        left, inch = self.LEFT / self.width, 1 / self.height
        self.figure.text(left, 1 - 0.3 * inch, title, fontsize=11.5, weight="bold", **plain)
        line = "    ".join(f"{label}: {text}" for label, text in summary.items())
        self.figure.text(left, 1 - 0.53 * inch, line, fontsize=8.5, color=GREY, **plain)
        width = int((self.width - self.LEFT) / 0.062)  # characters
        line = textwrap.shorten(command, width, placeholder=" ...")
        style = {"fontsize": 7, "family": "monospace", "color": GREY}
        self.figure.text(left, 0.09 * inch, line, **style, **plain)

    def add_row(self, name: str) -> _Row:
        """Add the axes of a row."""
        names = list(self.rows)
        below = sum(self.rows[other] + self.GAP for other in names[: names.index(name)])
        bottom, height = (self.bottom + below) / self.height, self.rows[name] / self.height
        left, keys = self.LEFT / self.width, self.KEYS / self.width
        plot = 1 - left - keys - self.RIGHT / self.width
        row = _Row(
            self.figure.add_axes((left, bottom, keys, height)),
            self.figure.add_axes((left + keys, bottom, plot, height)),
        )
        for axes in row:
            axes.spines[:].set_visible(False)
            axes.tick_params(left=False, labelsize=8, color=RULE, labelcolor=GREY)
            axes.xaxis.label.set(color=GREY, fontsize=8)
            if axes is row.keys or name != "roll":
                axes.set(xticks=[])
        row.plot.tick_params(labelleft=False)
        return row

    def add_color_bar(self) -> Any:
        """Add the axes of a color bar, at the right of the roll."""
        left = 1 - (self.RIGHT - 0.14) / self.width
        axes = self.figure.add_axes(
            (left, self.bottom / self.height, 0.12 / self.width, self.rows["roll"] / self.height)
        )
        axes.tick_params(labelsize=7, labelcolor=GREY, color=RULE)
        axes.yaxis.label.set(color=GREY, fontsize=8)
        return axes

    def to_png(self) -> bytes:
        """Return the picture. Letters that the font lacks are drawn as boxes, without warning."""
        picture = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            self.figure.savefig(picture, format="png", dpi=110)
        return picture.getvalue()


def _draw_keyboard(axes: Any, low: int, high: int) -> None:
    """Draw the keys from pitch `low` up to `high`, without it, the lowest at the bottom."""
    for pitch in range(low - 1, high + 1):
        if pitch % 12 not in BLACK_KEYS:  # a white key extends under half of its black neighbors
            bottom, top = (
                pitch + side * (1.0 if (pitch + side) % 12 in BLACK_KEYS else 0.5)
                for side in (-1, 1)
            )
            axes.barh(bottom, 1, top - bottom, align="edge", color="#fdfdfd", ec=KEY_EDGE, lw=0.6)
    for pitch in range(low, high):
        if pitch % 12 in BLACK_KEYS:
            axes.barh(pitch, 0.62, 0.84, color="#26262e", zorder=3)
    octaves = [pitch for pitch in range(low, high) if pitch % 12 == 0]
    names = [f"C{pitch // 12 - 1}" for pitch in octaves]
    axes.axvline(1, color=KEY_EDGE, lw=1)
    axes.set(xlim=(0, 1), ylim=(low - 0.5, high - 0.5))
    axes.set_yticks(octaves, names, fontsize=7.5)


def _draw_grid(axes: Any, low: int, high: int) -> None:
    """Shade the rows of the black keys, and draw lines below each C and F and at seconds."""
    for pitch in range(low, high):
        if pitch % 12 in BLACK_KEYS:
            axes.axhspan(pitch - 0.5, pitch + 0.5, color="#f3f3f6", zorder=0, lw=0)
        elif pitch % 12 in (0, 5):
            is_c = pitch % 12 == 0
            axes.axhline(pitch - 0.5, color="#c6c6d0" if is_c else "#e6e6ec", lw=0.6, zorder=1)
    axes.grid(axis="x", color="#e3e3ea", lw=0.5, zorder=0)
    axes.set_axisbelow(True)


def _draw_notes(axes: Any, notes: NoteSeq) -> Any:
    """Draw one rectangle per note, and return them for the color bar."""
    collections = import_optional("matplotlib.collections", "a piano roll")
    starts, ends, pitches, velocities = notes.columns
    boxes = [
        [(start, y - 0.43), (end, y - 0.43), (end, y + 0.43), (start, y + 0.43)]
        for start, end, y in zip(starts, ends, pitches, strict=True)
    ]
    colors = _color_map(COLORS)
    patches = collections.PolyCollection(boxes, cmap=colors, edgecolors="white", lw=0.3, zorder=2)
    patches.set_array(np.asarray(velocities, float))
    patches.set_clim(SOFT, LOUD)
    axes.add_collection(patches)
    return patches


def _draw_classes(row: _Row, requested: ControlSchedule, seconds: float) -> None:
    """Draw the requested pitch classes over time, C at the bottom as in the roll."""
    changes = requested.drop_repeats()
    starts = np.clip(changes.columns[0][1:], 0, seconds)
    edges = np.concatenate([[0.0], starts, [seconds]])
    largest = max(0.25, float(changes.histogram.max()))
    row.plot.pcolormesh(
        edges,
        np.arange(13) - 0.5,
        changes.histogram.T,
        cmap=_color_map(CONTROL_COLORS),
        vmin=0,
        vmax=largest,
    )
    row.plot.hlines(np.arange(11) + 0.5, 0, seconds, color="white", lw=0.6)
    row.plot.set(xlim=(0, seconds), ylim=(-0.5, 11.5))
    row.keys.set(xlim=(0, 1), ylim=(-0.5, 11.5), yticks=[])
    for y, name in enumerate(PITCH_NAMES):
        x, color = (0.5, "#8b8b96") if y in BLACK_KEYS else (0.8, INK)
        row.keys.text(x, y, name, ha="center", va="center_baseline", fontsize=5.6, color=color)
    _label_right(row.plot, "requested\npitch classes")


def _draw_density(row: _Row, requested: ControlSchedule, starts: Array, seconds: float) -> None:
    """Draw the requested note density over time as a band, and the generated one as a line."""
    low, high = requested.density_ranges()
    changes = requested.columns[0]
    edges = np.concatenate([[0.0], changes[1:], [max(seconds, changes[-1])]])
    times, density = measure_density(starts, float(starts.max(initial=0.0)))
    top = max(float(high.max()), float(density.max(initial=0))) + 2
    row.plot.fill_between(
        edges,
        np.append(low, low[-1]) - 0.5,
        np.append(high, high[-1]) + 0.5,
        step="post",
        color=CONTROL_COLORS[1],
        lw=0,
    )
    row.plot.plot(times, density, color=INK, lw=0.9)
    row.plot.set(xlim=(0, seconds), ylim=(0, top))
    row.plot.axhline(0, color="#c6c6d0", lw=0.8)
    row.keys.set(xlim=(0, 1), ylim=(0, top), xticks=[])
    step = next(step for step in (5, 10, 20, 40, 100, 1000) if top <= 3 * step or step == 1000)
    row.keys.set_yticks(np.arange(0, top, step))
    row.keys.tick_params(labelsize=7, direction="in", pad=-22)
    _label_right(row.plot, "notes per 2 s\n▬ requested\n— generated")


def _color_map(colors: tuple[str, ...]) -> Any:
    module = import_optional("matplotlib.colors", "a piano roll")
    return module.LinearSegmentedColormap.from_list("", colors)


def _label_right(axes: Any, text: str) -> None:
    """Write a label at the right of a plot."""
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    style = {"fontsize": 7, "color": GREY, "va": "center", "linespacing": 1.3}
    axes.annotate(text, (1, 0.5), (7, 0), **place, **style)
