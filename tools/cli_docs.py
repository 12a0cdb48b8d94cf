"""Write docs/cli.md, the command lines of the three scripts: python3 -m tools.cli_docs."""

from __future__ import annotations

import functools
from pathlib import Path

import generate
import preprocess
import train
from utils import HelpFormatter

PATH = Path(__file__).parents[1] / "docs" / "cli.md"
INTRODUCTION = """\
# Command lines

The options of the three scripts, as `--help` prints them. This page is written by
`python3 -m tools.cli_docs`.

- Long options may be abbreviated: `--batch 16`.
- `--no-NAME` switches off an option that is on.
- The exit status is 0 after success, 1 after an error, 2 for a wrong command line and 130 after
  Ctrl-C (`train.py` saves the session then, and its status is 0). An error is one line:
  `train.py: error: model.sess: not a session file`.
- More: [controls](controls.md), [training](training.md) and
  [data sets](datasets.md).
"""


def format_page() -> str:
    """Return the text of docs/cli.md."""
    sections = [INTRODUCTION]
    for script in (preprocess, train, generate):
        parser = script.build_parser()
        parser.formatter_class = functools.partial(HelpFormatter, width=78)
        sections.append(f"## {parser.prog}\n\n```\n{parser.format_help()}```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PATH.write_text(format_page())
