"""Compare sessions by ear: a blind listening test, and what its votes say.

The first command writes a page with excerpts from folders of MIDI files, one
from each folder in a trial, shuffled and without names, and a key file that
says which is which. Send the page to listeners; each saves a ratings file.
The second command counts them.

examples:
  python3 -m tools.listen old/ new/ --trials 12 -o test.html
  python3 -m tools.listen --count test.key.json ratings-1.json ratings-2.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from config import MIDI_SUFFIXES
from sequence import NoteSeq
from utils import Array, Number, atomic_write, find_files, run_command
from web.page import bundle_script, render_page

MARK = "performance-rnn-listening-test"
ENERGY = 0.35  # mean energy of an excerpt after normalization
GAINS = (0.2, 5.0)  # least and greatest gain
Z = 1.96  # of a 95% interval


# ------------------------------------------------------------------------------- the test


def choose_excerpts(
    folder: Path, count: int, seconds: float, rng: np.random.Generator
) -> list[NoteSeq]:
    """Return excerpts of `seconds`, from different files as far as possible.

    Raises ValueError if no file of the folder is long enough.
    """
    music = [
        NoteSeq.from_midi_file(path).trim_start() for path in find_files(folder, MIDI_SUFFIXES)
    ]
    music = [notes for notes in music if notes.seconds >= seconds]
    if not music:
        raise ValueError(f"{folder}: no MIDI file of {seconds:g} s or more")
    order = [rng.permutation(len(music)) for _ in range(-(-count // len(music)))]
    excerpts = []
    for number in np.concatenate(order)[:count]:
        notes = music[number]
        latest = notes.seconds - seconds
        begin = float(rng.choice(notes.starts[notes.starts <= latest]))
        excerpts.append(notes.crop(begin, seconds))
    return excerpts


def compute_gain(notes: NoteSeq, seconds: float) -> float:
    """Return the gain at which an excerpt is about as loud as the others.

    A note's energy is the square of its level on the page (velocity ** 1.5), for a second at most.
    """
    levels = (notes.velocities / 127) ** 1.5
    energy = float((levels**2 * np.minimum(notes.ends - notes.starts, 1)).sum()) / seconds
    return float(np.clip(math.sqrt(ENERGY / max(energy, 1e-6)), *GAINS))


def encode_excerpt(notes: NoteSeq, seconds: float) -> dict[str, Any]:
    """Return the gain, and for each note start and end in milliseconds, pitch and velocity."""
    starts, ends, pitches, velocities = notes.columns
    rows = np.column_stack([np.rint(1000 * starts), np.rint(1000 * ends), pitches, velocities])
    return {"notes": rows.astype(int).tolist(), "gain": round(compute_gain(notes, seconds), 3)}


def build_test(
    folders: Sequence[Path], trials: int, seconds: float, seed: int
) -> tuple[bytes, dict[str, Any]]:
    """Return the page, and the key: which folder each excerpt of each trial is from."""
    rng = np.random.default_rng(seed)
    excerpts = [choose_excerpts(folder, trials, seconds, rng) for folder in folders]
    orders = [rng.permutation(len(folders)).tolist() for _ in range(trials)]
    data = [
        [encode_excerpt(excerpts[folder][trial], seconds) for folder in order]
        for trial, order in enumerate(orders)
    ]
    test = f"{rng.integers(2**32):08x}"
    page = render_page(
        "listen.html",
        bundle_script("listen"),
        mark=MARK,
        trials=data,
        data={"test": test, "seconds": seconds, "trials": data},
    )
    return page, {"test": test, "folders": [str(folder) for folder in folders], "orders": orders}


# ------------------------------------------------------------------------------ the votes


def wilson_interval(wins: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927, Probable inference)."""
    share, z2 = wins / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def collect_ratings(key: Mapping[str, Any], votes: Sequence[Mapping[str, Any]]) -> Array:
    """Return the rating of each folder in each trial of each listener [rows, folders].

    Trials that are not rated completely are left out. Raises ValueError for votes of another test.
    """
    rows = []
    for vote in votes:
        if vote.get("test") != key["test"]:
            raise ValueError("these ratings are of another test than the key")
        for trial, order in enumerate(key["orders"]):
            values = [vote["ratings"].get(f"{trial}-{place}") for place in range(len(order))]
            if all(isinstance(value, int) and 1 <= value <= 5 for value in values):
                row = np.empty(len(order))
                row[order] = values
                rows.append(row)
    return np.array(rows).reshape(-1, len(key["folders"]))


def count_votes(key: Mapping[str, Any], votes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the mean rating of each folder, and for each pair how often the first is preferred."""
    ratings, names = collect_ratings(key, votes), key["folders"]
    if not len(ratings):
        raise ValueError("no trial is rated completely")
    yield f"{len(votes)} listeners, {len(ratings)} rated trials"
    for name, column in zip(names, ratings.T, strict=True):
        yield f"{name}: mean rating {column.mean():.2f}"
    for first, second in itertools.combinations(range(len(names)), 2):
        difference = ratings[:, first] - ratings[:, second]
        ties = int((difference == 0).sum())
        wins = float((difference > 0).sum()) + ties / 2
        low, high = wilson_interval(wins, len(ratings))
        yield (
            f"{names[first]} preferred to {names[second]}: {wins / len(ratings):.0%} "
            f"(95% interval {low:.0%} to {high:.0%}; {ties} ties count half)"
        )


# ----------------------------------------------------------------------------- command line


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.listen",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, help="folders to compare; with --count: ratings files")
    add("-o", "--output", type=Path, default=Path("listen.html"))
    add("--trials", type=Number(int, 1, 200), default=10)
    add("--seconds", type=Number(float, 2, 120), default=20.0, help="of an excerpt")
    add("--seed", type=int, default=0)
    add("--count", type=Path, metavar="KEY", help="count the votes with this key file")
    options = parser.parse_args(argv)
    if options.count is None and len(options.files) < 2:
        parser.error("give two folders or more")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Write the test, or count its votes."""
    options = parse_args(argv)

    def run() -> int:
        if options.count is not None:
            key, *votes = (json.loads(path.read_text()) for path in (options.count, *options.files))
            print(*count_votes(key, votes), sep="\n")
            return 0
        page, key = build_test(options.files, options.trials, options.seconds, options.seed)
        key_path = options.output.with_suffix(".key.json")
        atomic_write(options.output, page)
        atomic_write(key_path, json.dumps(key, indent=1).encode())
        print(f"{options.output}: {options.trials} trials; {key_path}: which excerpt is which")
        return 0

    return run_command("tools.listen", run, "stopped")


if __name__ == "__main__":
    sys.exit(main())
