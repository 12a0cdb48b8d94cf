"""Seen and heard: the picture of a piece, and its audio."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from midi.control_schedule import PITCH_NAMES, WINDOW, ControlSchedule
from midi.notes import NoteSeq
from utils import Array, import_optional

BLACK_KEYS = (1, 3, 6, 8, 10)
SOFT, LOUD = 16, 112  # velocities at the ends of the colours
COLORS = ("#9fd0e6", "#4f93d8", "#4b4fc4", "#8a2fa8", "#d81e63", "#f5701c")
GRID = 0.25  # seconds between two points of a curve


def measure_density(starts: Array, seconds: float) -> tuple[Array, Array]:
    """Times, and the note ons within two seconds from each; the last two seconds are whole."""
    times = np.arange(0.0, max(seconds - WINDOW, 0.0) + GRID, GRID)
    ordered = np.sort(starts)
    return times, np.searchsorted(ordered, times + WINDOW) - np.searchsorted(ordered, times)


# --------------------------------------------------------------------------------- pictures


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
    keyboard, roll = sheet.axes("roll")
    _draw_keys(keyboard, low, high)
    mapped = _draw_notes(roll, notes, low, high)
    roll.set(xlim=(0, seconds), ylim=(low - 0.5, high - 0.5))
    roll.set_xlabel("seconds", labelpad=1)
    bar = sheet.figure.colorbar(mapped, cax=sheet.side(), label="velocity", extend="both")
    bar.outline.set_visible(False)
    if requested is not None:
        _draw_classes(*sheet.axes("classes"), requested, seconds)
        _draw_density(*sheet.axes("density"), requested, notes.starts, seconds)
    return sheet.png()


class _Sheet:
    """A figure on which rows are laid out in inches, each with a column of keys at its left."""

    GREY, RULE = "#5d5d68", "#dcdce3"
    LEFT, KEYS, RIGHT, GAP = 0.42, 0.34, 0.95, 0.09

    def __init__(self, seconds: float, roll: float, has_control: bool, has_command: bool) -> None:
        self.rows = {"roll": roll} | ({"density": 0.62, "classes": 0.98} if has_control else {})
        self.foot = 0.5 + (0.22 if has_command else 0)
        self.width = min(60.0, max(9.0, 0.22 * seconds))
        self.height = self.foot + sum(self.rows.values()) + self.GAP * len(self.rows) + 0.62
        figures = import_optional("matplotlib.figure", "a piano roll")
        self.figure = figures.Figure(figsize=(self.width, self.height), facecolor="white")

    def write(self, title: str, summary: Mapping[str, str], command: str) -> None:
        """Write title and summary at the top, and the command at the bottom."""
        plain = {"parse_math": False, "ha": "left"}
        left, inch = self.LEFT / self.width, 1 / self.height
        self.figure.text(left, 1 - 0.3 * inch, title, fontsize=11.5, weight="bold", **plain)
        line = "    ".join(f"{label} {text}" for label, text in summary.items())
        self.figure.text(left, 1 - 0.53 * inch, line, fontsize=8.5, color=self.GREY, **plain)
        width = int((self.width - self.LEFT) / 0.062)  # characters
        line = textwrap.shorten(command, width, placeholder=" ...")
        style = {"fontsize": 7, "family": "monospace", "color": self.GREY}
        self.figure.text(left, 0.09 * inch, line, **style, **plain)

    def axes(self, row: str) -> tuple[Any, Any]:
        """The keys and the plot of a row."""
        names = list(self.rows)
        below = sum(self.rows[name] + self.GAP for name in names[: names.index(row)])
        bottom, height = (self.foot + below) / self.height, self.rows[row] / self.height
        left, keys = self.LEFT / self.width, self.KEYS / self.width
        plot = 1 - left - keys - self.RIGHT / self.width
        pair = (
            self.figure.add_axes((left, bottom, keys, height)),
            self.figure.add_axes((left + keys, bottom, plot, height)),
        )
        for axes in pair:
            axes.spines[:].set_visible(False)
            axes.tick_params(left=False, labelsize=8, color=self.RULE, labelcolor=self.GREY)
            axes.xaxis.label.set(color=self.GREY, fontsize=8)
            if axes is pair[0] or row != "roll":
                axes.set(xticks=[])
        pair[1].tick_params(labelleft=False)
        return pair

    def side(self) -> Any:
        """A place beside the roll."""
        left = 1 - (self.RIGHT - 0.14) / self.width
        axes = self.figure.add_axes(
            (left, self.foot / self.height, 0.12 / self.width, self.rows["roll"] / self.height)
        )
        axes.tick_params(labelsize=7, labelcolor=self.GREY, color=self.RULE)
        axes.yaxis.label.set(color=self.GREY, fontsize=8)
        return axes

    def png(self) -> bytes:
        """The picture; a letter that the font lacks is drawn as a box."""
        picture = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            self.figure.savefig(picture, format="png", dpi=110)
        return picture.getvalue()


def _draw_keys(axes: Any, low: int, high: int) -> None:
    """A keyboard from `low` to before `high`, lying on its side."""
    for pitch in range(low - 1, high + 1):
        if pitch % 12 not in BLACK_KEYS:  # a white key reaches to the middle of its neighbours
            bottom, top = (
                pitch + side * (1.0 if (pitch + side) % 12 in BLACK_KEYS else 0.5)
                for side in (-1, 1)
            )
            axes.barh(bottom, 1, top - bottom, align="edge", color="#fdfdfd", ec="#a4a4b0", lw=0.6)
    for pitch in range(low, high):
        if pitch % 12 in BLACK_KEYS:
            axes.barh(pitch, 0.62, 0.84, color="#26262e", zorder=3)
    octaves = [pitch for pitch in range(low, high) if pitch % 12 == 0]
    names = [f"C{pitch // 12 - 1}" for pitch in octaves]
    axes.axvline(1, color="#a4a4b0", lw=1)
    axes.set(xlim=(0, 1), ylim=(low - 0.5, high - 0.5))
    axes.set_yticks(octaves, names, fontsize=7.5)


def _draw_notes(axes: Any, notes: NoteSeq, low: int, high: int) -> Any:
    colors = import_optional("matplotlib.colors", "a piano roll")
    collections = import_optional("matplotlib.collections", "a piano roll")
    for pitch in range(low, high):
        if pitch % 12 in BLACK_KEYS:
            axes.axhspan(pitch - 0.5, pitch + 0.5, color="#f3f3f6", zorder=0, lw=0)
        elif pitch % 12 in (0, 5):
            strong = pitch % 12 == 0
            axes.axhline(pitch - 0.5, color="#c6c6d0" if strong else "#e6e6ec", lw=0.6, zorder=1)
    axes.grid(axis="x", color="#e3e3ea", lw=0.5, zorder=0)
    axes.set_axisbelow(True)
    starts, ends, pitches, velocities = notes.columns
    boxes = [
        [(a, p - 0.43), (b, p - 0.43), (b, p + 0.43), (a, p + 0.43)]
        for a, b, p in zip(starts, ends, pitches, strict=True)
    ]
    ramp = colors.LinearSegmentedColormap.from_list("velocity", COLORS)
    patches = collections.PolyCollection(boxes, cmap=ramp, edgecolors="white", lw=0.3, zorder=2)
    patches.set_array(np.asarray(velocities, float))
    patches.set_clim(SOFT, LOUD)
    axes.add_collection(patches)
    return patches


def _draw_classes(names: Any, axes: Any, requested: ControlSchedule, seconds: float) -> None:
    """The asked-for pitch classes over time, C below as in the roll."""
    colors = import_optional("matplotlib.colors", "a piano roll")
    changes = requested.drop_repeats()
    starts = changes.columns[0]
    edges = np.append(np.append(0.0, np.clip(starts[1:], 0, seconds)), seconds)
    ramp = colors.LinearSegmentedColormap.from_list("asked", ("#f6f7f9", "#7fb8a8", "#0b5c4d"))
    strongest = max(0.25, float(changes.histogram.max()))
    axes.pcolormesh(
        edges, np.arange(13) - 0.5, changes.histogram.T, cmap=ramp, vmin=0, vmax=strongest
    )
    axes.hlines(np.arange(11) + 0.5, 0, seconds, color="white", lw=0.6)
    axes.set(xlim=(0, seconds), ylim=(-0.5, 11.5))
    names.set(xlim=(0, 1), ylim=(-0.5, 11.5), yticks=[])
    for place, name in enumerate(PITCH_NAMES):
        black = place in BLACK_KEYS
        names.text(
            0.5 if black else 0.8,
            place,
            name,
            ha="center",
            va="center_baseline",
            fontsize=5.6,
            color="#8b8b96" if black else "#33333b",
        )
    _beside(axes, "asked for:\npitch classes")


def _draw_density(
    numbers: Any, axes: Any, requested: ControlSchedule, starts: Array, seconds: float
) -> None:
    """The asked-for density over time as a band, and that of the notes as a line."""
    fewest, most = requested.density_ranges()
    begins = requested.columns[0]
    times = np.append(np.append(0.0, begins[1:]), max(seconds, begins[-1]))
    times_came, came = measure_density(np.asarray(starts), float(np.max(starts, initial=0.0)))
    top = max(float(most.max()), float(came.max(initial=0))) + 2
    axes.fill_between(
        times,
        np.append(fewest, fewest[-1]) - 0.5,
        np.append(most, most[-1]) + 0.5,
        step="post",
        color="#7fb8a8",
        lw=0,
    )
    axes.plot(times_came, came, color="#33333b", lw=0.9)
    axes.set(xlim=(0, seconds), ylim=(0, top))
    axes.axhline(0, color="#c6c6d0", lw=0.8)
    numbers.set(xlim=(0, 1), ylim=(0, top), xticks=[])
    unit = next(unit for unit in (5, 10, 20, 40, 100, 1000) if top <= 3 * unit or unit == 1000)
    numbers.set_yticks(np.arange(0, top, unit))
    numbers.tick_params(labelsize=7, direction="in", pad=-22)
    _beside(axes, "notes in 2 s:\n▬ asked for\n— played")


def _beside(axes: Any, text: str) -> None:
    style = {"fontsize": 7, "color": _Sheet.GREY, "va": "center", "linespacing": 1.3}
    axes.annotate(
        text, (1, 0.5), (7, 0), xycoords="axes fraction", textcoords="offset points", **style
    )
