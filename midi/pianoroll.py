"""Draw notes as a piano roll: a PNG picture, with the requested control above it."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from midi.control_schedule import PITCH_NAMES, WINDOW, ControlSchedule
from midi.notes import NoteSeq
from utils import Array, import_optional

BLACK_KEYS = (1, 3, 6, 8, 10)  # pitch classes
SOFT, LOUD = 16, 112  # velocities at the ends of the colors
COLORS = ("#9fd0e6", "#4f93d8", "#4b4fc4", "#8a2fa8", "#d81e63", "#f5701c")
GIVEN_COLORS = ("#a9d8a0", "#5fb85a", "#2f8f3e", "#14602a")  # of given notes, soft to loud
CONTROL_COLORS = ("#f6f7f9", "#7fb8a8", "#0b5c4d")  # from weight 0 to the largest weight
GRAY, LINE, INK, KEY_EDGE = "#5d5d68", "#dcdce3", "#33333b", "#a4a4b0"
LEGEND_REQUESTED = "\n▬ requested"
CURVE_HEIGHT = 0.2  # inches, of the row of a control
GRID = 0.25  # seconds between two points of the density curve
DENSITY_STEPS = (2, 5, 10, 20, 40, 100, 1000)  # between two labels of the density axis
# margin at the left, keyboard, margin at the right, gap between rows, in inches
LEFT, KEYS, RIGHT, GAP = 0.42, 0.34, 0.95, 0.09


def measure_density(starts: Array, begin: float = 0.0) -> tuple[Array, Array]:
    """Return the density curve: times [points], and the notes per second after each [points].

    Each point counts the onsets of the next 2 s. starts: onsets in seconds [notes]; begin: the
    second at which the curve begins; no window ends after the last onset.
    """
    last = max(float(starts.max(initial=0.0)) - WINDOW, begin)
    times = begin + np.arange(0.0, last - begin + GRID, GRID)
    ordered = np.sort(starts)
    notes = np.searchsorted(ordered, times + WINDOW) - np.searchsorted(ordered, times)
    return times, notes / WINDOW


def scale_density_axis(most: Array, density: Array) -> tuple[int, int]:
    """Return the top of the density axis, and the step between two of its labels.

    most: the most requested notes per second of each row; density: those of the density curve.
    """
    top = math.ceil(max(most.max(), density.max(initial=0))) + 1
    return top, next((step for step in DENSITY_STEPS if top <= 3 * step), DENSITY_STEPS[-1])


def scale_curves(requested: ControlSchedule) -> list[tuple[str, Array]]:
    """Return label and curve of each requested control besides pitch classes and density.

    A label has the name and the range, such as "loudness 40-90". A curve has a share from 0 at
    the lowest value to 1 at the highest [rows]; 0.5 if they are equal, nan where it is open.
    """
    curves = []
    for name, column in requested.scalars.items():
        if not np.isnan(column).all():
            low, high = float(np.nanmin(column)), float(np.nanmax(column))
            # whole numbers from 10 on, so that the label fits
            texts = (f"{value:.0f}" if value >= 9.95 else f"{value:.2g}" for value in (low, high))
            ends = dict.fromkeys(texts)
            shares = (column - low) / (high - low) if high > low else 0.5 + 0 * column
            curves.append((f"{name} {'-'.join(ends)}", shares))
    return curves


def draw_piano_roll(
    notes: NoteSeq,
    title: str,
    requested: ControlSchedule | None = None,
    summary: Mapping[str, str] | None = None,
    command: str = "",
    is_given: Array | None = None,
    primer: float = 0.0,
) -> bytes:
    """Return a PNG picture of notes: keyboard at the left, seconds below, velocity as color.

    requested: the control over time; it is drawn above the notes, with the generated density.
    summary: figures by name, written under the title.
    command: the shell command that generates the sample again, written at the bottom.
    is_given: the notes that were given, bool [notes]; they have other colors.
    primer: the second at which the primer ends, marked by a line; 0: no primer.
    """
    seconds = max(5.0, notes.seconds)
    low, high = int(notes.pitches.min(initial=50)) - 3, int(notes.pitches.max(initial=70)) + 4
    curves = [] if requested is None else scale_curves(requested)
    control_heights = [] if requested is None else [0.98, 0.62] + [CURVE_HEIGHT] * len(curves)
    figure, rows = _create_figure(seconds, [*control_heights, (high - low) * 0.072], bool(command))
    _write_texts(figure, title, summary or {}, command)
    keys, plot = rows[-1]
    _draw_keyboard(keys, low, high)
    _draw_grid(plot, low, high)
    is_given = np.zeros(len(notes), bool) if is_given is None else is_given
    patches = _draw_notes(plot, notes, ~is_given, COLORS)
    _draw_notes(plot, notes, is_given, GIVEN_COLORS)
    plot.set(xlim=(0, seconds), ylim=(low - 0.5, high - 0.5))
    plot.set_xlabel("seconds", labelpad=1)
    _draw_color_bar(figure, plot, patches)
    if requested is not None:
        _draw_classes(rows[0], requested, seconds)
        _draw_density(rows[1], requested, notes.starts, seconds, primer)
        for row, (label, shares) in zip(rows[2:], curves, strict=False):
            _draw_curve(row, label, requested.columns[0], shares, seconds)
    if primer:
        for _, axes in rows:
            axes.axvline(primer, color=INK, lw=1, ls=(0, (4, 3)), zorder=4)
        plot.text(primer, high - 0.5, "primer ", ha="right", va="top", fontsize=7, color=INK)
    picture = io.BytesIO()
    with warnings.catch_warnings():  # characters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def _create_figure(seconds: float, heights: list[float], has_command: bool) -> tuple[Any, Any]:
    """Return a figure with rows of these heights in inches, and their axes [rows, 2].

    Each row has narrow axes at the left, and a plot over time.
    """
    width, bottom = min(60.0, max(9.0, 0.22 * seconds)), 0.72 if has_command else 0.5
    top = bottom + sum(heights) + GAP * (len(heights) - 1)
    height = top + GAP + 0.62
    figures = import_optional("matplotlib.figure", "a piano roll")
    figure = figures.Figure(figsize=(width, height), facecolor="white")
    edges = {"left": LEFT / width, "right": 1 - RIGHT / width}
    edges |= {"bottom": bottom / height, "top": top / height}
    rows = figure.subplots(
        *(len(heights), 2),
        squeeze=False,
        width_ratios=[KEYS, width - LEFT - KEYS - RIGHT],
        height_ratios=heights,
        gridspec_kw=edges | {"wspace": 0, "hspace": GAP * len(heights) / sum(heights)},
    )
    for axes in rows.flat:
        axes.spines[:].set_visible(False)
        axes.tick_params(left=False, labelsize=8, color=LINE, labelcolor=GRAY)
        axes.xaxis.label.set(color=GRAY, fontsize=8)
    for keys, plot in rows:
        keys.set(xticks=[])
        plot.tick_params(labelleft=False)
    for plot in rows[:-1, 1]:
        plot.set(xticks=[])
    return figure, rows


def _write_texts(figure: Any, title: str, summary: Mapping[str, str], command: str) -> None:
    """Write title and summary at the top, and the command at the bottom."""
    width, height = figure.get_size_inches()
    left, plain = LEFT / width, {"parse_math": False, "ha": "left"}
    figure.text(left, 1 - 0.3 / height, title, fontsize=11.5, weight="bold", **plain)
    line = "    ".join(f"{label}: {text}" for label, text in summary.items())
    figure.text(left, 1 - 0.53 / height, line, fontsize=8.5, color=GRAY, **plain)
    line = textwrap.shorten(command, int((width - LEFT) / 0.062), placeholder=" ...")
    style = {"fontsize": 7, "family": "monospace", "color": GRAY}
    figure.text(left, 0.09 / height, line, **style, **plain)


def _draw_color_bar(figure: Any, plot: Any, patches: Any) -> None:
    """Draw the colors of the velocities at the right of a plot."""
    width, place = figure.get_size_inches()[0], plot.get_position()
    axes = figure.add_axes((place.x1 + 0.14 / width, place.y0, 0.12 / width, place.height))
    axes.tick_params(labelsize=7, labelcolor=GRAY, color=LINE)
    axes.yaxis.label.set(color=GRAY, fontsize=8)
    bar = figure.colorbar(patches, cax=axes, label="velocity", extend="both")
    bar.outline.set_visible(False)


def _draw_keyboard(axes: Any, low: int, high: int) -> None:
    """Draw the keys of the pitches from `low` to `high` - 1, the lowest at the bottom."""
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
    """Shade the rows of the black keys; draw lines below each C and F, and at some seconds."""
    for pitch in range(low, high):
        if pitch % 12 in BLACK_KEYS:
            axes.axhspan(pitch - 0.5, pitch + 0.5, color="#f3f3f6", zorder=0, lw=0)
        elif pitch % 12 in (0, 5):
            is_c = pitch % 12 == 0
            axes.axhline(pitch - 0.5, color="#c6c6d0" if is_c else "#e6e6ec", lw=0.6, zorder=1)
    axes.grid(axis="x", color="#e3e3ea", lw=0.5, zorder=0)
    axes.set_axisbelow(True)


def _draw_notes(axes: Any, notes: NoteSeq, is_drawn: Array, colors: tuple[str, ...]) -> Any:
    """Draw a rectangle for each note where `is_drawn`; return them for the color bar."""
    collections = import_optional("matplotlib.collections", "a piano roll")
    starts, ends, pitches, velocities = (column[is_drawn] for column in notes.columns)
    boxes = [
        [(start, y - 0.43), (end, y - 0.43), (end, y + 0.43), (start, y + 0.43)]
        for start, end, y in zip(starts, ends, pitches, strict=True)
    ]
    color_map = _make_color_map(colors)
    style = {"edgecolors": "white", "lw": 0.3, "zorder": 2}
    patches = collections.PolyCollection(boxes, cmap=color_map, **style)
    patches.set_array(np.asarray(velocities, float))
    patches.set_clim(SOFT, LOUD)
    axes.add_collection(patches)
    return patches


def _draw_classes(row: Any, requested: ControlSchedule, seconds: float) -> None:
    """Draw the requested pitch classes over time, C at the bottom as in the roll."""
    keys, plot = row
    changes = requested.drop_repeats()
    starts = np.clip(changes.columns[0][1:], 0, seconds)
    edges = np.concatenate([[0.0], starts, [seconds]])
    colors = {"cmap": _make_color_map(CONTROL_COLORS), "vmin": 0}
    colors["vmax"] = max(0.25, float(np.nan_to_num(changes.histogram).max()))
    plot.pcolormesh(edges, np.arange(13) - 0.5, changes.histogram.T, **colors)
    plot.hlines(np.arange(11) + 0.5, 0, seconds, color="white", lw=0.6)
    plot.set(xlim=(0, seconds), ylim=(-0.5, 11.5))
    keys.set(xlim=(0, 1), ylim=(-0.5, 11.5), yticks=[])
    for y, name in enumerate(PITCH_NAMES):
        x, color = (0.5, "#8b8b96") if y in BLACK_KEYS else (0.8, INK)
        keys.text(x, y, name, ha="center", va="center_baseline", fontsize=5.6, color=color)
    is_open = bool(np.isnan(requested.histogram).all())
    _label_right(plot, "pitch classes\nopen" if is_open else "requested\npitch classes")


def _draw_density(
    row: Any, requested: ControlSchedule, starts: Array, seconds: float, primer: float
) -> None:
    """Draw the requested note density over time as a band, and the generated one as a line."""
    keys, plot = row
    low, high = requested.density_ranges()
    changes = requested.columns[0]
    edges = np.concatenate([[0.0], changes[1:], [max(seconds, changes[-1])]])
    times, density = measure_density(starts, primer)
    top, step = scale_density_axis(np.nan_to_num(high), density)
    low, high = (np.append(column, column[-1]) for column in (low, high))
    low, high = low - 0.25, high + 0.25
    plot.fill_between(edges, low, high, step="post", color=CONTROL_COLORS[1], lw=0)
    plot.plot(times, density, color=INK, lw=0.9)
    plot.set(xlim=(0, seconds), ylim=(0, top))
    plot.axhline(0, color="#c6c6d0", lw=0.8)
    keys.set(xlim=(0, 1), ylim=(0, top), xticks=[])
    keys.set_yticks(np.arange(0, top, step))
    keys.tick_params(labelsize=7, direction="in", pad=-22)
    is_open = bool(np.isnan(requested.density).all())
    _label_right(plot, f"notes/s{'' if is_open else LEGEND_REQUESTED}\n— generated")


def _draw_curve(row: Any, label: str, times: Array, shares: Array, seconds: float) -> None:
    """Draw a requested control over time as a line; see `scale_curves`."""
    keys, plot = row
    edges = np.concatenate([[0.0], times[1:], [max(seconds, times[-1])]])
    line = np.append(shares, shares[-1])
    plot.plot(edges, line, color=CONTROL_COLORS[2], lw=1.6, drawstyle="steps-post")
    plot.set(xlim=(0, seconds), ylim=(-0.3, 1.3), facecolor=CONTROL_COLORS[0])
    keys.set(xlim=(0, 1), yticks=[])
    _label_right(plot, label, 6.3)  # longer than the others


def _make_color_map(colors: tuple[str, ...]) -> Any:
    """Return a color map that blends the colors, evenly spaced."""
    module = import_optional("matplotlib.colors", "a piano roll")
    return module.LinearSegmentedColormap.from_list("", colors)


def _label_right(axes: Any, text: str, size: float = 7) -> None:
    """Write a label of a font size at the right of a plot."""
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    style = {"fontsize": size, "color": GRAY, "va": "center", "linespacing": 1.3}
    axes.annotate(text, (1, 0.5), (7, 0), **place, **style)
