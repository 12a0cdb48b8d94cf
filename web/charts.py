"""Bar charts as SVG, and how the page looks that they stand on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from utils import Array

BINS = 24  # bars of a histogram at most
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 380, 170, 40, 24, 8  # of a picture and its margins


def histogram(values: Array, unit: str = "", top: float | None = None) -> str:
    """A picture of how many performances have which value, from 0 to `top`, or to the highest.

    What is far above most others is in the last bar.
    """
    high = top
    if high is None:
        high = min(float(values.max()), 1.6 * float(np.quantile(values, 0.95))) or 1.0
    step = round_step(high / (BINS - 2))
    last = math.ceil(high / step * (1 - 1e-9)) - 1
    places = np.minimum((values / step).astype(np.int64), last)
    counts = np.bincount(places, minlength=last + 1)
    labels = [f"{n * step:.4g}\N{EN DASH}{(n + 1) * step:.4g} {unit}" for n in range(len(counts))]
    if values.max() > (last + 1) * step:
        labels[-1] = f"{last * step:.4g} {unit} and more"
    every = 4 if len(counts) > 8 else 1
    ticks = [(n, f"{n * step:.4g}") for n in range(0, len(counts) + 1, every)]
    return bars(counts, labels, ticks, unit)


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= least * (1 - 1e-9))


def bars(
    counts: Array,
    labels: Sequence[str],
    ticks: Sequence[tuple[float, str]],
    unit: str,
    strange: Callable[[int], bool] = lambda place: False,
) -> str:
    """An SVG picture of counts, one bar each; ticks are at the left of the bar they number."""
    most = max(1, int(counts.max()))
    step = max(1.0, round_step(most / 4))
    top = float(step * np.ceil(most / step))
    wide, high = (WIDTH - LEFT) / len(counts), HEIGHT - BOTTOM - TOP
    parts = []
    for level in np.arange(0, top + step / 2, step).tolist():
        y = TOP + high * (1 - level / top)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" class="y">{_brief(level)}</text>')
    for place in np.flatnonzero(counts).tolist():
        tall = max(0.8, high * int(counts[place]) / top)
        parts.append(
            f'<rect x="{LEFT + wide * place:.2f}" y="{TOP + high - tall:.2f}" '
            f'width="{max(0.8 * wide, wide - 1):.2f}" height="{tall:.2f}"'
            f"{' class=strange' if strange(place) else ''}>"
            f"<title>{labels[place]}: {counts[place]:,}</title></rect>"
        )
    for at, label in ticks:
        x = LEFT + wide * at
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 10}" class="x">{label}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH + 12} {HEIGHT}" role="img" aria-label="{unit}">'
        f"{''.join(parts)}</svg>"
    )


def _brief(level: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if level >= size:
            return f"{level / size:.3g}{letter}"
    return f"{level:.3g}"


STYLE = """
:root { color-scheme: light dark; --page: #f7f6f3; --card: #fff; --ink: #22242a; --soft: #6b6f78;
  --line: #e4e2dc; --bar: #3f6fb0; --strange: #c8571b; --second: #d99a2b; --third: #5d9c76; }
@media (prefers-color-scheme: dark) { :root { --page: #15171b; --card: #1e2127; --ink: #e6e7ea;
  --soft: #9aa0ab; --line: #333842; --bar: #7ba7e0; --strange: #f08a4b; --second: #e3b341;
  --third: #7cc49a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; margin: 0 0 18px; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 6px; }
small { color: var(--soft); font-size: 13px; font-weight: 400; margin-left: 5px; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); }
.tiles div, figure, section, details { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 14px 16px; }
.tiles b { display: block; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span, figcaption, .more { color: var(--soft); font-size: 13px; }
.found, .well { background: var(--card); border: 1px solid var(--line);
  border-left: 4px solid var(--strange); border-radius: 10px; margin: 16px 0;
  padding: 12px 16px 12px 34px; }
.well { border-left-color: var(--third); padding-left: 16px; }
.charts { display: grid; gap: 12px; margin: 16px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 350px), 1fr)); }
figure { margin: 0; }
svg { width: 100%; height: auto; display: block; }
svg line { stroke: var(--line); }
svg text { fill: var(--soft); font-size: 10.5px; }
svg .y { text-anchor: end; }
svg .x { text-anchor: middle; }
svg rect, .train { fill: var(--bar); background: var(--bar); }
svg .strange { fill: var(--strange); }
.validation { background: var(--second); }
.test { background: var(--third); }
section, details { margin: 12px 0; }
.split { display: flex; gap: 3px; height: 18px; border-radius: 5px; overflow: hidden; }
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 26px;
  margin: 10px 0 0; padding: 0; }
.keys i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; }
summary { cursor: pointer; font-weight: 600; }
summary b { color: var(--soft); font-weight: 400; margin-left: 6px; }
.wide { overflow-x: auto; margin-top: 10px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; color: var(--soft); font-weight: 500; }
th, td { padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
"""
