"""Measure the beats that `generate.py --beats` estimates, on performances with known beats.

An estimated beat is right if it is within 70 ms of an annotated one that no other beat is matched
with; the F-measure is that of all beats of a performance.

example:
  python3 -m tools.beats --scores asap/scores/validation --performances asap/validation
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import utils
from midi.notation import find_beats
from sequence import NoteSeq
from utils import Array

TOLERANCE = 0.07  # seconds
SUFFIX = "_annotations.txt"


def measure_f(known: Array, found: Array) -> float:
    """Return the F-measure of found beats; both are sorted."""
    i = j = hits = 0
    while i < len(known) and j < len(found):
        if abs(known[i] - found[j]) <= TOLERANCE:
            hits, i, j = hits + 1, i + 1, j + 1
        elif known[i] < found[j]:
            i += 1
        else:
            j += 1
    return 2 * hits / max(1, len(known) + len(found))


def read_beats(path: Path) -> Array:
    """Return the beats of an annotation of ASAP: time, time, label, such as "db,4/4"."""
    rows = (line.split("\t") for line in path.read_text().splitlines())
    return np.array([float(row[0]) for row in rows if row[2][:1] == "b" or row[2][:2] == "db"])


def run(options: argparse.Namespace) -> int:
    """Print the F-measure of each performance, and the mean."""
    rows = []
    for path in sorted(options.scores.rglob(f"*{SUFFIX}")):
        name = str(path.relative_to(options.scores)).replace(SUFFIX, ".mid")
        midi, known = options.performances / name, read_beats(path)
        if not midi.exists() or len(known) < 4:
            continue
        found = find_beats(NoteSeq.from_midi_file(midi))
        steady = np.arange(known[0], known[-1], np.median(np.diff(known)))
        doubled = np.sort(np.append(found, (found[1:] + found[:-1]) / 2))
        levels = [found, found[::2], found[1::2], doubled]
        best = max(measure_f(known, level) for level in levels)
        rows.append((measure_f(known, found), best, measure_f(known, steady)))
        print(f"{name}: F {rows[-1][0]:.2f}, {best:.2f} with half or twice as many beats")
    if not rows:
        raise ValueError(f"{options.scores}: no *{SUFFIX} for the files in {options.performances}")
    mean = np.mean(rows, axis=0)
    print(f"{len(rows)} performances: F {mean[0]:.3f}, {mean[1]:.3f}, steady beats {mean[2]:.3f}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the F-measure of each performance, and the mean; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scores", type=Path, required=True, help="folder with the annotations")
    parser.add_argument("--performances", type=Path, required=True, help="folder of MIDI files")
    options = parser.parse_args(argv)
    return utils.run_command("tools.beats", lambda: run(options), "interrupted")


if __name__ == "__main__":
    raise SystemExit(main())
