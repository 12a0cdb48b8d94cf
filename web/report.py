"""Write an HTML report about a data set: figures, charts and tables on one page.

The page is self-contained, follows the reader's light or dark setting, and runs no script.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpus.filters import PerformanceStats, format_flag
from corpus.summary import (
    DUPLICATE,
    REJECTED,
    FileRecord,
    Summary,
    count_reasons,
    count_repairs,
    format_filter_matches,
)
from midi.control_schedule import PITCH_NAMES
from midi.playback import format_repair
from sequence import PITCHES
from utils import Array, escape, format_count, format_time, has_mark

MARK = "performance-rnn-report"  # in each page written here: other files are not overwritten
OLD_MARK = "'unsafe-inline'\">\n<title>Data in "  # in pages of version 1.0
MAX_ROWS = 500  # shown of a table
MAX_BINS = 24  # of a histogram
# columns of the tables with long texts, which get more space
LONG_COLUMNS = ("file", "files", "other file", "has the same notes as", "detail", "instruments")
MISSING_SHARE = 0.001  # of the notes; if more are not in the data, the report says so
# matplotlib draws with the color at the left; in the page, the CSS variable replaces it
CSS_COLORS = {
    "#010101": "var(--bar)",
    "#020202": "var(--highlight)",
    "#030303": "var(--soft)",
    "#040404": "var(--line)",
}
BAR, HIGHLIGHT, TEXT, LINE = CSS_COLORS


class Chart(NamedTuple):
    """A picture (SVG) with its texts."""

    title: str
    subtitle: str
    picture: str
    caption: str


class Table(NamedTuple):
    """A table with its column titles, such as "file, detail"; it is folded unless `is_open`."""

    title: str
    columns: str
    rows: Sequence[Sequence[str]]
    is_open: bool = False


def render_report(summary: Summary, source: str) -> bytes:
    """Return the HTML report about the data made from the folder `source`.

    The same summary gives the same bytes.
    """
    import jinja2  # only for the report: it takes a moment to load

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["printable"] = escape
    environment.globals |= {"format_count": format_count, "format_time": format_time}
    page = environment.get_template("report.html").render(
        mark=MARK,
        source=source,
        tiles=_make_tiles(summary),
        findings=list(_find_problems(summary)),
        charts=_draw_charts(summary) if summary.measured else [],
        subsets=list(summary.subsets),
        tables=_make_tables(summary),
        max_rows=MAX_ROWS,
        long_columns=LONG_COLUMNS,
    )
    return page.encode()


def check_report_path(path: Path) -> None:
    """Raise ValueError if a file exists that preprocess.py did not write."""
    if path.exists() and not any(has_mark(path, mark) for mark in (f'content="{MARK}"', OLD_MARK)):
        raise ValueError(f"{path}: not written by preprocess.py: move it, or leave --report out")


def _make_tiles(summary: Summary) -> list[tuple[str, str]]:
    """Return the figures at the top, each with its label."""
    repeated = sum(len(records) > 1 for records in summary.pieces)
    pieces = format_count(len(summary.pieces), "piece", "pieces")
    several = f", {repeated:,} with several performances" if repeated else ""
    duplicates = format_count(len(summary.select(DUPLICATE)), "duplicate", "duplicates")
    files = format_count(summary.midi_files, "file", "files")
    return [
        _split_count(format_count(len(summary.performances), "performance", "performances")),
        (format_time(3600 * summary.hours), "of music"),
        _split_count(format_count(summary.notes, "note", "notes")),
        _split_count(f"{pieces}{several}"),
        _split_count(f"{duplicates}, not used"),
        _split_count(f"{len(summary.select(REJECTED)):,} of {files} rejected"),
    ]


def _split_count(text: str) -> tuple[str, str]:
    """Split a text after its number: "3 pieces" into "3" and "pieces"."""
    number, _, rest = text.partition(" ")
    return number, rest


def _find_problems(summary: Summary) -> Iterator[str]:
    """Yield a sentence for each property of the data that deserves attention."""
    if summary.select(REJECTED):
        yield f"Rejected: {count_reasons(summary)}."
    if summary.filter_matches:
        yield f"Filters that are off would reject {format_filter_matches(summary)}."
    total = sum(stats.notes for _, stats in summary.measured)
    missing = total - sum(record.notes for record, _ in summary.measured)
    if missing > MISSING_SHARE * total:
        notes = format_count(missing, "note", "notes")
        yield f"Not in the data: {notes} outside the 88 keys or repeating a pitch at the same time."
    if summary.measured and not any(stats.pedal_share for _, stats in summary.measured):
        yield "No performance uses the sustain pedal."
    if repairs := count_repairs(summary):
        yield f"Repaired: {', '.join(format_repair(kind, count) for kind, count, _ in repairs)}."
    if stuck := sum(stats.has_stuck_pedal for _, stats in summary.measured):
        files = format_count(stuck, "file", "files")
        yield f"The sustain pedal is stuck, or never released: {files}."
    if summary.near_duplicates:
        pairs = format_count(len(summary.near_duplicates), "pair", "pairs")
        yield f"Performances with nearly the same notes: {pairs}."


# ----------------------------------------------------------------------------------- charts


def _draw_charts(summary: Summary) -> list[Chart]:
    """Draw the charts of the performances that have statistics."""
    minutes = np.array([stats.seconds for _, stats in summary.measured]) / 60
    density = np.array([stats.density for _, stats in summary.measured])
    pedal = 100 * np.array([stats.pedal_share for _, stats in summary.measured])
    errors = 1000 * np.array([record.onset_error_mean for record, _ in summary.measured])
    worst = 1000 * max(record.onset_error_max for record, _ in summary.measured)
    return [
        _draw_histogram("Length", "performances by minutes", minutes, "", _format_minutes),
        _draw_histogram("Density", "performances by notes/s", density, " notes/s"),
        _draw_pitches(np.sum([stats.pitch_counts for _, stats in summary.measured], axis=0)),
        _draw_velocities(np.sum([stats.velocity_counts for _, stats in summary.measured], axis=0)),
        _draw_histogram("Sustain pedal", "performances by % of time", pedal, "%", high=100.0),
        _draw_histogram("Onset error", "performances by mean error in ms", errors, " ms")._replace(
            caption=f"how far the data moves onsets: mean {errors.mean():.2f} ms, "
            f"largest of any note {worst:.2f} ms"
        ),
    ]


def _format_minutes(minutes: float) -> str:
    return format_time(60 * minutes)


def _draw_histogram(
    title: str,
    subtitle: str,
    values: Array,
    unit: str,
    format_value: Callable[[float], str] = "{:.3g}".format,
    high: float | None = None,
) -> Chart:
    """Draw a histogram of values [performances] from 0 to `high`, or to the largest value.

    A few values far above all others do not stretch the axis: they are counted in the last bin.
    """
    from matplotlib.ticker import MaxNLocator

    if high is None:
        high = min(float(values.max()), 1.6 * float(np.quantile(values, 0.95))) or 1.0
    locator = MaxNLocator(MAX_BINS, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1)
    edges = np.array(locator.tick_values(0.0, high))
    counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
    names = list(map(format_value, edges.tolist()))
    labels = [f"{low} to {high}{unit}" for low, high in pairwise(names)]
    if values.max() > edges[-1]:
        labels[-1] = f"{names[-2]}{unit} or more"
    first, median, last = map(format_value, np.quantile(values, [0.05, 0.5, 0.95]).tolist())
    caption = f"median {median}, 90% between {first} and {last}{unit}"
    return Chart(title, subtitle, _draw_bars(counts, edges, labels), caption)


def _draw_pitches(counts: Array) -> Chart:
    """Draw the notes of each pitch [128]; those outside the piano are highlighted."""
    low, high = (int(pitch) for pitch in np.flatnonzero(counts)[[0, -1]])
    outside = 1 - counts[PITCHES.start : PITCHES.stop].sum() / counts.sum()
    caption = f"from {_name_pitch(low)} to {_name_pitch(high)}; " + (
        f"{outside:.2%} outside the 88 keys, not used" if outside else "none outside the 88 keys"
    )
    pitches = range(min(low, PITCHES.start), max(high + 1, PITCHES.stop))
    picture = _draw_bars(
        counts[pitches.start : pitches.stop],
        np.arange(pitches.start, pitches.stop + 1) - 0.5,
        [_name_pitch(pitch) for pitch in pitches],
        {pitch: _name_pitch(pitch) for pitch in pitches if pitch % 12 == 0},
        [pitch not in PITCHES for pitch in pitches],
    )
    return Chart("Pitch", "notes by key", picture, caption)


def _name_pitch(pitch: int) -> str:
    """Return the name of a MIDI pitch: "C4" for 60."""
    return f"{PITCH_NAMES[pitch % 12]}{pitch // 12 - 1}"


def _draw_velocities(counts: Array) -> Chart:
    """Draw the notes of each velocity [128]."""
    shares = np.cumsum(counts) / counts.sum()
    low, median, high = (int(np.searchsorted(shares, share)) for share in (0.05, 0.5, 0.95))
    picture = _draw_bars(
        counts,
        np.arange(129) - 0.5,
        [f"velocity {velocity}" for velocity in range(128)],
        {velocity: str(velocity) for velocity in range(0, 128, 16)},
    )
    caption = f"median {median}, 90% between {low} and {high}"
    return Chart("Velocity", "notes by velocity", picture, caption)


def _draw_bars(
    counts: Array,
    edges: Array,
    labels: Sequence[str],
    ticks: dict[int, str] | None = None,
    highlight: Sequence[bool] | None = None,
) -> str:
    """Return an SVG bar chart of counts [bars] between edges [bars + 1].

    labels: tooltips of the bars; ticks: labels of the axis by position; highlight: bars in another
    color.
    """
    from matplotlib import ticker
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 2.3), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=5, labelsize=10, labelcolor=TEXT)
    axes.grid(axis="y", color=LINE, lw=0.8)
    levels = ticker.MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]).tick_values(0, counts.max())
    axes.set_yticks(levels)
    axes.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, levels[-1]), axisbelow=True)
    if ticks is None:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xticks(list(ticks), list(ticks.values()))
    widths = np.diff(edges) * (0.96 if len(counts) <= MAX_BINS else 0.8)
    colors = [HIGHLIGHT if special else BAR for special in highlight or [False] * len(counts)]
    bars = axes.bar((edges[1:] + edges[:-1]) / 2, counts, widths, color=colors)
    for bar, label, count in zip(bars, labels, counts, strict=True):
        bar.set_gid(f"{label}: {count:,}")
        bar.set_visible(count > 0)
    return _to_svg(figure)


def _to_svg(figure: Any) -> str:
    """Return a figure as an SVG element for an HTML page, the same bytes every time.

    The id of each bar becomes its tooltip; other ids, which repeat on the page, are dropped.
    """
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(content, format="svg", transparent=True, metadata=no_metadata)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<g id="([^"]*: [^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    for color, variable in CSS_COLORS.items():
        svg = svg.replace(color, variable)
    return svg


# ----------------------------------------------------------------------------------- tables


def _make_tables(summary: Summary) -> list[Table]:
    """Return the tables of the report; the page leaves out empty ones."""
    rejected = sorted(summary.select(REJECTED), key=lambda record: record.reason)
    matches = sorted(summary.filter_matches, key=lambda match: match[1][:2])
    pieces = sorted((group for group in summary.pieces if len(group) > 1), key=len, reverse=True)
    performances = sorted(
        summary.measured, key=lambda pair: (-pair[0].onset_error_mean, pair[0].name)
    )
    readings = sorted(
        summary.measured, key=lambda pair: (-sum(pair[1].repairs.values()), pair[0].name)
    )
    return [
        Table(
            "Rejected files",
            "reason, file, detail",
            [(record.reason, record.name, record.detail) for record in rejected],
            is_open=True,
        ),
        Table(
            "Files that filters would reject if they were on",
            "reason, file, detail, flag",
            [(m.reason, record.name, m.detail, format_flag(m.option)) for record, m in matches],
        ),
        Table(
            "Duplicates, not used",
            "file, has the same notes as",
            [(record.name, record.duplicate_of) for record in summary.select(DUPLICATE)],
        ),
        Table(
            "Nearly the same notes",
            "file, other file, share of the shorter one",
            [(name, other, f"{share:.0%}") for name, other, share in summary.near_duplicates],
        ),
        Table(
            "Pieces with several performances",
            "performances, files",
            [(str(len(group)), ", ".join(record.name for record in group)) for group in pieces],
        ),
        Table(
            "Instruments and repairs",
            "file, instruments, tracks used, repairs, pedal",
            [_make_reading_row(record, stats) for record, stats in readings],
        ),
        Table(
            "Performances, the largest onset error first",
            "file, length, notes/s, pedal, notes, missing, mean error, max error",
            [_make_row(record, stats) for record, stats in performances],
        ),
    ]


def _make_reading_row(record: FileRecord, stats: PerformanceStats) -> tuple[str, ...]:
    """Return the row of a performance in the table of instruments and repairs."""
    pedal = ["one for all channels"] * stats.pedal_is_shared
    pedal += ["stuck, or never released"] * stats.has_stuck_pedal
    return (
        record.name,
        "; ".join(stats.instruments),
        stats.selection,
        ", ".join(format_repair(kind, count) for kind, count in stats.repairs.items()),
        ", ".join(pedal),
    )


def _make_row(record: FileRecord, stats: PerformanceStats) -> tuple[str, ...]:
    """Return the row of a performance in the last table."""
    return (
        record.name,
        format_time(stats.seconds),
        f"{stats.density:.1f}",
        f"{stats.pedal_share:.0%}",
        f"{record.notes:,}",
        f"{stats.notes - record.notes:,}",
        f"{1000 * record.onset_error_mean:.2f} ms",
        f"{1000 * record.onset_error_max:.2f} ms",
    )
