"""Write the generated files of docs/.

examples:
  python3 -m tools.docs            both of these
  python3 -m tools.docs cli        cli.md: the options of the three scripts
  python3 -m tools.docs samples    player.html and sample-*.png
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import generate
import preprocess
import train
from midi.pianoroll import draw_piano_roll
from utils import HelpFormatter, atomic_write
from web.player import Sample, read_sample, render_player

DOCS = Path(__file__).parents[1] / "docs"
CLI_PAGE = DOCS / "cli.md"
PLAYER_PAGE = DOCS / "player.html"
PLAYER_HEADING = "Performance RNN: generated piano music"
CLI_INTRODUCTION = """\
# Command lines

The options of the three scripts, as `--help` prints them. This page is written by
`python3 -m tools.docs cli`.

- Long options may be abbreviated: `--batch 16`.
- `--no-NAME` switches off an option that is on.
- The exit status is 0 after success, 1 after an error, 2 for a wrong command line, 130 after
  Ctrl-C, 143 after SIGTERM and 129 after SIGHUP (in training, `train.py` saves the session after
  each of them, and its status is 0). An error is one line:
  `train.py: error: model.sess: not a session file`.
- More: [controls](controls.md), [training](training.md) and
  [data sets](datasets.md).
"""


def format_cli_page() -> str:
    """Return the text of docs/cli.md."""
    sections = [CLI_INTRODUCTION]
    for script in (preprocess, train, generate):
        parser = script.build_parser()
        parser.formatter_class = functools.partial(HelpFormatter, width=78)
        sections.append(f"## {parser.prog}\n\n```\n{parser.format_help()}```\n")
    return "\n".join(sections)


def write_cli_page() -> None:
    """Write docs/cli.md."""
    atomic_write(CLI_PAGE, format_cli_page().encode())
    print(CLI_PAGE)


def load_samples() -> list[Sample]:
    """Read the samples in docs/, in the order of their names."""
    return [read_sample(path) for path in sorted(DOCS.glob("sample-*.mid"))]


def write_samples() -> None:
    """Write docs/player.html and the pictures of its samples."""
    samples = load_samples()
    for sample in samples:
        picture = draw_piano_roll(
            sample.notes,
            f"{sample.name}   {sample.title}",
            sample.requested,
            {label: text for label, text in sample.summary.items() if label != "control"},
            sample.command,
            primer=sample.primer,
        )
        atomic_write(DOCS / f"{sample.name}.png", picture)
    atomic_write(PLAYER_PAGE, render_player(samples, PLAYER_HEADING))
    print(f"{PLAYER_PAGE}: {len(samples)} samples")


WRITERS = {"cli": write_cli_page, "samples": write_samples}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files of one name, or all."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.docs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=list(WRITERS), help="default: both")
    name = parser.parse_args(argv).name
    for write in [WRITERS[name]] if name else WRITERS.values():
        write()


if __name__ == "__main__":
    main()
