"""Tables in Markdown, readable in a terminal, too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def format_table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Format a table with a named row for each sequence of cells; title: of the first column."""
    lines = [[title, *columns], *([name, *cells] for name, cells in rows.items())]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        "| " + " | ".join([f"{line[0]:<{widths[0]}}", *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in lines
    )


def format_figure(value: Any, spec: str) -> str:
    """Format a figure; "-" for nan or None."""
    is_unknown = value is None or (isinstance(value, float) and math.isnan(value))
    return "-" if is_unknown else format(value, spec)


def replace_nan(value: Any) -> Any:
    """Return a record with None for nan, which JSON does not have."""
    if isinstance(value, dict):
        return {name: replace_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
