"""A page about a corpus, to see in one look whether the data is what one thinks.

One HTML file that needs nothing else: pictures are drawn here as SVG, colours follow the
reader's light or dark setting, and whatever a file is called is shown, never run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from corpus.summary import Ledger, Row, flag
from midi.control_schedule import PITCH_NAMES
from sequence import PITCHES
from utils import Array
from web.charts import STYLE, bars, histogram

ROWS = 500  # lines of a table at most


def render_report(ledger: Ledger, source: str) -> bytes:
    """The HTML page about a run over the folder `source`; the same run gives the same bytes."""
    parts = [
        f"<h1>What is in {_name(source)}</h1>",
        _tiles(ledger),
        _findings(ledger),
        _charts(ledger) if ledger.rows else "",
        _split(ledger) if ledger.sides else "",
        *_tables(ledger),
    ]
    head = f"<title>{_name(source)}: the data</title><style>{STYLE}</style>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{head}</head>\n<body><main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main></body></html>\n"
    ).encode()


def _name(text: str) -> str:
    """A name as text of the page: what can not be printed stands with a backslash."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return f"<bdi>{escape(shown)}</bdi>"


def _length(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


# ------------------------------------------------------------------------------ at a glance


def _tiles(ledger: Ledger) -> str:
    several = sum(len(names) > 1 for names in ledger.same)
    tiles = [
        (f"{ledger.done + ledger.skipped:,}", "performances in the data"),
        (_length(ledger.milliseconds / 1000), "of music"),
        (f"{ledger.notes:,}", "notes"),
        (f"{len(ledger.same):,}", "pieces" + f", {several:,} played several times" * (several > 0)),
        (f"{len(ledger.twins):,}", "twins, kept once"),
        (f"{len(ledger.refused):,}", f"of {ledger.found:,} files refused"),
    ]
    cells = "".join(f"<div><b>{figure}</b><span>{what}</span></div>" for figure, what in tiles)
    return f'<div class="tiles">{cells}</div>'


def _findings(ledger: Ledger) -> str:
    """Sentences about what may be wrong with the data; one that all is well, if it is."""
    found = []
    if ledger.refused:
        reasons = Counter(refusal.reason for _, refusal in ledger.refused).most_common()
        found.append(
            "Refused: " + ", ".join(f"{n} {escape(reason)}" for reason, n in reasons) + "."
        )
    if ledger.would:
        found.append(f"Filters that are off would refuse {escape(ledger.would_told())}.")
    lost = sum(row.played - row.notes for row in ledger.rows)
    if lost > 0.001 * sum(row.played for row in ledger.rows):
        found.append(
            f"{lost:,} notes are not in the data: outside the piano, or struck twice at once."
        )
    if ledger.rows and not any(row.pedalled for row in ledger.rows):
        found.append("No performance uses the sustain pedal.")
    if ledger.nearly:
        found.append(f"{len(ledger.nearly):,} pairs have nearly the same notes.")
    if not found:
        return '<p class="well">Nothing strikes the eye: no file refused, none like a score.</p>'
    return '<ul class="found">' + "".join(f"<li>{line}</li>" for line in found) + "</ul>"


# --------------------------------------------------------------------------------- pictures


def _charts(ledger: Ledger) -> str:
    rows = ledger.rows
    minutes = np.array([row.seconds for row in rows]) / 60
    density = np.array([row.density for row in rows])
    pedal = 100 * np.array([row.pedalled for row in rows])
    errors = 1000 * np.array([row.error_mean for row in rows])
    worst = 1000 * max(row.error_max for row in rows)
    charts = [
        _figure("Length", "performances by minutes", histogram(minutes, "min"), _middle(minutes)),
        _figure("Density", "performances by notes a second", histogram(density), _middle(density)),
        _figure("Pitch", "notes by key", _keys(ledger.pitches), _pitches_told(ledger.pitches)),
        _figure(
            "Velocity",
            "notes by velocity",
            _velocities(ledger.velocities),
            _velocities_told(ledger.velocities),
        ),
        _figure(
            "Sustain pedal",
            "performances by % of time down",
            histogram(pedal, "%", 100),
            _middle(pedal, " %"),
        ),
        _figure(
            "Onsets as encoded",
            "performances by ms off",
            histogram(errors, "ms"),
            f"{errors.mean():.2f} ms on average, {worst:.2f} ms for the worst onset",
        ),
    ]
    return f'<div class="charts">{"".join(charts)}</div>'


def _figure(title: str, what: str, picture: str, told: str) -> str:
    return (
        f"<figure><h2>{title} <small>{what}</small></h2>{picture}"
        f"<figcaption>{told}</figcaption></figure>"
    )


def _middle(values: Array, unit: str = "") -> str:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return f"median {middle:.3g}{unit}, nine of ten from {low:.3g} to {high:.3g}{unit}"


def _keys(pitches: Array) -> str:
    used = np.append(np.flatnonzero(pitches), [PITCHES.start, PITCHES.stop - 1])
    low, high = int(used.min()), int(used.max())
    labels = [f"{PITCH_NAMES[p % 12]}{p // 12 - 1}" for p in range(low, high + 1)]
    ticks = [(p - low, f"C{p // 12 - 1}") for p in range(low, high + 1) if p % 12 == 0]
    return bars(
        pitches[low : high + 1],
        labels,
        ticks,
        "notes of each key",
        lambda n: n + low not in PITCHES,
    )


def _pitches_told(pitches: Array) -> str:
    outside = 1 - pitches[PITCHES.start : PITCHES.stop].sum() / max(1, pitches.sum())
    low, high = (int(p) for p in np.flatnonzero(pitches)[[0, -1]])
    names = [f"{PITCH_NAMES[p % 12]}{p // 12 - 1}" for p in (low, high)]
    told = "none outside the piano" if not outside else f"{outside:.2%} outside the piano, left out"
    return f"from {names[0]} to {names[1]}; {told}"


def _velocities(velocities: Array) -> str:
    ticks = [(v, str(v)) for v in range(0, 128, 16)]
    return bars(velocities, [f"velocity {v}" for v in range(128)], ticks, "notes of each velocity")


def _velocities_told(velocities: Array) -> str:
    below = np.cumsum(velocities) / max(1, velocities.sum())
    low, middle, high = (int(np.searchsorted(below, share)) for share in (0.05, 0.5, 0.95))
    return f"median {middle}, nine notes of ten from {low} to {high}"


def _split(ledger: Ledger) -> str:
    total = max(1, sum(side.performances for side in ledger.sides))
    parts, keys = [], []
    for side in ledger.sides:
        share = side.performances / total
        parts.append(f'<span class="{side.name}" style="flex:{share:.4f}"></span>')
        keys.append(
            f'<li><i class="{side.name}"></i><b>{side.name}</b> {side.pieces:,} pieces, '
            f"{side.performances:,} performances, {side.hours:,.1f} hours</li>"
        )
    return (
        f'<section><h2>Split</h2><div class="split">{"".join(parts)}</div>'
        f'<ul class="keys">{"".join(keys)}</ul></section>'
    )


# ----------------------------------------------------------------------------------- tables


def _tables(ledger: Ledger) -> Iterator[str]:
    yield _table(
        "Refused files",
        ("reason", "file", "detail"),
        [
            (escape(refusal.reason), _name(name), _name(refusal.detail))
            for name, refusal in sorted(ledger.refused, key=lambda one: one[1].reason)
        ],
        opened=True,
    )
    yield _table(
        "Files that filters would refuse, if they were on",
        ("reason", "file", "detail", "flag"),
        [
            (escape(one.reason), _name(one.name), escape(one.detail), flag(one.option))
            for one in sorted(ledger.would, key=lambda one: (one.option, one.reason))
        ],
    )
    yield _table(
        "The same performance under two names, kept once",
        ("file", "is the same as"),
        [(_name(name), _name(first)) for name, first in ledger.twins],
    )
    yield _table(
        "Nearly the same notes",
        ("file", "and", "of the shorter one"),
        [(_name(name), _name(other), f"{share:.0%}") for name, other, share in ledger.nearly],
    )
    groups = sorted((names for names in ledger.same if len(names) > 1), key=len, reverse=True)
    yield _table(
        "Pieces played several times",
        ("times", "performances"),
        [(str(len(names)), ", ".join(map(_name, names))) for names in groups],
    )
    heads = ("file", "length", "notes/s", "pedal", "notes", "lost", "off, mean", "off, worst")
    rows = sorted(ledger.rows, key=lambda row: (-row.error_mean, row.name))
    yield _table(
        "Every performance, the least faithfully encoded first",
        heads,
        [_cells(row) for row in rows],
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        _name(row.name),
        _length(row.seconds),
        f"{row.density:.1f}",
        f"{row.pedalled:.0%}",
        f"{row.notes:,}",
        f"{row.played - row.notes:,}",
        f"{1000 * row.error_mean:.2f} ms",
        f"{1000 * row.error_max:.2f} ms",
    )


def _table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], opened: bool = False
) -> str:
    """A table that opens at a click; nothing without rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in heads)
    lines = "\n".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[:ROWS]
    )
    more = f'<p class="more">and {len(rows) - ROWS:,} more</p>' if len(rows) > ROWS else ""
    return (
        f"<details{' open' if opened else ''}><summary>{title} <b>{len(rows):,}</b></summary>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table>'
        f"</div>{more}</details>"
    )
