"""How good the music is that a session plays: python3 -m tools.quality [-s SESSION]

To every setting of the controls pieces of one length are played, sampled and finished as
generate.py does it, and every figure stands beside that of real performances: excerpts of the
validation performances, of the same length. Both are compared as decoded notes. With
--by-heart FILE... it only tells what these files share with those learned from.
"""

from __future__ import annotations

import argparse
import ast
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import PRETRAINED
from generation.pipeline import RELEASE
from model import Session
from sequence import ENCODINGS, Encoding, NoteSeq
from tools.memorization import READINGS, longest_shared
from tools.music_metrics import (
    DENSITIES,
    DISTRIBUTIONS,
    LOOP,
    SILENCE,
    bins_by_control,
    bins_by_count,
    classes_used,
    halves,
    held,
    histogram,
    in_scale,
    longest_repetition,
    longest_silence,
    longest_wait,
    overlap,
    polyphony,
    share,
    spearman,
    stops,
)
from tools.samples import (
    FREE,
    LADDER,
    LEARNED,
    REAL,
    RIGHT,
    SCALES,
    decoded,
    part,
    performances,
    places,
    play,
    settings,
)

Music = dict[str, list[NoteSeq]]  # the pieces of each setting

ASAP = Path(__file__).parents[2] / "shared" / "data" / "asap"


# -------------------------------------------------------------------------------- the table


def row(name: str, *cells: object) -> str:
    """A line of the table."""
    return f"  {name:<34}" + "".join(f"{cell!s:>20}" for cell in cells)


def told(reached: bool) -> str:
    """Whether a figure is where it should be."""
    return "reached" if reached else "missed"


FAULTS: dict[str, Callable[[NoteSeq, float], float]] = {
    f"one pitch {LOOP} times": lambda n, s: longest_repetition(n) >= LOOP,
    f"silence over {SILENCE:g} s": lambda n, s: longest_silence(n, s) > SILENCE,
    "stops": stops,
    f"no onset for {SILENCE:g} s": lambda n, s: longest_wait(n, s) > SILENCE,
}


def faults(music: Music, seconds: float) -> Iterator[str]:
    """How many pieces of each setting have which fault, and how many there are."""
    sums = np.zeros(len(FAULTS), np.int64)
    yield row("pieces with a fault", *FAULTS, f"keys held {RELEASE:g} s", "pieces")
    for name, pieces in music.items():
        counts = [sum(bool(fault(piece, seconds)) for piece in pieces) for fault in FAULTS.values()]
        forgotten = np.mean([held(piece, seconds) for piece in pieces])
        yield row(name, *counts, f"{forgotten:.2%}", len(pieces))
        sums = sums + counts if name != REAL else sums
    yield row("none but in the excerpts", *(told(count == 0) for count in sums[:3]))


def overlaps(music: Music, real: Sequence[tuple[str, NoteSeq]]) -> Iterator[str]:
    """The overlapping area of each distribution with that of the validation performances."""
    yield row("overlap with validation", *music, "its own halves", "(their range)")
    least = [1.0] * len(music)
    for name in DISTRIBUTIONS:
        whole = histogram([notes for _, notes in real], name)
        areas = [overlap(histogram(pieces, name), whole) for pieces in music.values()]
        own = halves(real, name)
        spread = f"{min(own):.3f}-{max(own):.3f}"
        least = [min(pair) for pair in zip(least, areas, strict=True)]
        yield row(name, *(f"{area:.3f}" for area in [*areas, np.mean(own)]), spread)
    yield row("at least 0.85 each", *(told(area >= 0.85) for area in least))


SUMMARIES: dict[str, Callable[[NoteSeq, float], float]] = {
    "notes a second": lambda n, s: len(n) / s,
    "velocity, mean": lambda n, s: float(n.velocities.mean()),
    "velocity, deviation in a piece": lambda n, s: float(n.velocities.std()),
    "note length, median (s)": lambda n, s: float(np.median(n.ends - n.starts)),
    "notes at once": lambda n, s: float(polyphony(n).mean()),
    "pitch, mean": lambda n, s: float(n.pitches.mean()),
    "pitch classes (2 to their entropy)": lambda n, s: classes_used(n),
    "longest silence (s)": longest_silence,
    "longest wait for an onset (s)": longest_wait,
    "one pitch in a row": lambda n, s: longest_repetition(n),
}


def summaries(music: Music, seconds: float) -> Iterator[str]:
    """Of each piece a figure: the median over the pieces, and in brackets the extremes."""
    yield row("per piece: median (least-most)", *music)
    for name, figure in SUMMARIES.items():
        found = [[figure(n, seconds) for n in pieces if len(n)] for pieces in music.values()]
        told = (f"{np.median(v):.1f} ({min(v):.1f}-{max(v):.1f})" for v in found)
        yield row(name, *told)


def scales(music: Music) -> Iterator[str]:
    """The share of notes in each scale, of all its pieces together and of the piece with least."""
    yield row("share of notes in the scale", "together", "least piece", "of 0.95")
    for name, weights in SCALES.items():
        shares = np.array([in_scale(notes, weights) for notes in music[name]])
        together = float(np.average(shares, weights=[len(n) + 1e-9 for n in music[name]]))
        yield row(name, f"{together:.3f}", f"{shares.min():.3f}", told(together >= 0.95))


def densities(pieces: Sequence[NoteSeq], encoding: Encoding, seconds: float) -> Iterator[str]:
    """Delivered density for each that was asked for; piece k was asked for k modulo 12."""
    asked = np.arange(len(pieces)) % DENSITIES
    rates = np.array([2 * len(notes) / seconds for notes in pieces])
    gaps = [
        [np.abs(bins_by_control(n, encoding) - k) for n, k in zip(pieces, asked, strict=True)],
        [np.abs(bins_by_count(n, seconds) - k) for n, k in zip(pieces, asked, strict=True)],
    ]
    yield row("density asked for", "notes in 2 s", "least-most piece", "within 1 bin", "by count")
    means = []
    for k in range(DENSITIES):
        mine = np.flatnonzero(asked == k)
        means.append(rates[mine].mean())
        near = [share(np.concatenate([kind[i] for i in mine]) <= 1) for kind in gaps]
        spread = f"{rates[mine].min():.1f}-{rates[mine].max():.1f}"
        name = f"{k} ({1 + 3 * k}-{3 + 3 * k} notes)" if k < 11 else "11 (34 or more)"
        yield row(name, f"{means[-1]:.1f}", spread, *(f"{s:.1%}" for s in near))
    near = [share(np.concatenate(kind) <= 1) for kind in gaps]
    yield row("all", "", "", *(f"{s:.1%}" for s in near), told(min(near) >= 0.9))
    rising = bool((np.diff(means) > 0).all())
    rho = spearman(asked, rates)
    yield row("rising with every step", "yes" if rising else "no", told(rising))
    yield row("Spearman, over pieces", f"{rho:.3f}", told(rho >= 0.98))
    yield row("Spearman, over the means", f"{spearman(np.arange(DENSITIES), means):.3f}")


def learned_by_heart(music: Music, corpus: Sequence[tuple[str, NoteSeq]]) -> Iterator[str]:
    """The longest run of each piece that is in the corpus too; see tests/memory.py."""
    flat = [notes for pieces in music.values() for notes in pieces]
    for name, read in READINGS.items():
        found = iter(longest_shared([read(n) for n in flat], [read(n) for _, n in corpus]))
        yield row(f"run of {name}", "median", "nine of ten", "longest", "  it is in", "each piece")
        for setting, pieces in music.items():
            runs = [next(found) for _ in pieces]
            lengths = [run.length for run in runs]
            figures = (f"{v:.0f}" for v in np.percentile(lengths, [50, 90, 100]))
            where = corpus[max(runs, key=lambda run: run.length).row][0] if max(lengths) else "-"
            yield row(setting, *figures) + f"  {where}  " + " ".join(map(str, lengths))


def _sampling(text: str) -> dict[str, Any]:
    """Options of `Engine.generate` from 'name=value,...'."""
    try:
        pairs = dict(pair.split("=") for pair in text.split(",") if pair)
        return {name: ast.literal_eval(value) for name, value in pairs.items()}
    except (ValueError, SyntaxError):
        raise argparse.ArgumentTypeError(f"{text!r} is not like temperature=0.95") from None


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.quality", description=__doc__)
    parser.add_argument("-s", "--session", type=Path, default=Path(PRETRAINED))
    data = "folder of .data or MIDI files"
    parser.add_argument("--train", type=Path, default=ASAP / "train", help=f"{data} learned from")
    parser.add_argument("--validation", type=Path, default=ASAP / "validation", help=data)
    parser.add_argument("--pieces", type=int, default=64, help="of each setting (64)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each piece (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--setting",
        type=_sampling,
        nargs="+",
        default=[{}],
        metavar="NAME=VALUE,...",
        help="how to sample: options of Engine.generate, such as temperature=0.95; several "
        "settings make several tables",
    )
    parser.add_argument(
        "--by-heart",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="MIDI or .data files: only tell what they share with those learned from",
    )
    options = parser.parse_args(argv)
    for path in options.by_heart:
        if not path.is_file():
            parser.error(f"there is no file {path}")
    folders = [options.train] if options.by_heart else [options.train, options.validation]
    for folder in folders:
        if not folder.is_dir():
            parser.error(f"there is no folder {folder}; give --train and --validation")
    if options.pieces < 1 or not 2 <= options.seconds <= 3600:
        parser.error("at least 1 piece, of 2 to 3600 seconds")
    return options


def table(options: argparse.Namespace, sampling: Mapping[str, Any]) -> Iterator[str]:
    """Play everything, and measure it."""
    session = Session.load(options.session)
    encoding, seconds = ENCODINGS[session.encoding], options.seconds
    model = session.build_model(torch.device("cpu")).eval()
    real, learned = performances(options.validation), performances(options.train)
    of_real, of_learned = (
        places([notes for _, notes in corpus], options.pieces, seconds, options.seed)
        for corpus in (real, learned)
    )
    music: Music = {REAL: [part(notes, begin, seconds) for notes, begin in of_real]}
    excerpts = [part(notes, begin, seconds) for notes, begin in of_learned]
    begun, wanted = time.monotonic(), settings(of_real, encoding, options.pieces, seconds)
    for name, controls in wanted.items():
        count = options.pieces if controls is None else controls.shape[1]
        music[name] = play(model, encoding, controls, count, seconds, options.seed, sampling)
    spent = time.monotonic() - begun
    manner = ", ".join(f"{name} {value}" for name, value in sampling.items()) or "as by default"
    yield (
        f"{options.session}, sampling {manner}: {options.pieces} pieces of {seconds:g} s "
        f"to each of {len(wanted)} settings, seed {options.seed}, played in {spent:.0f} s; "
        f"{len(real)} validation performances"
    )
    compared = {name: music[name] for name in (REAL, RIGHT, FREE)}
    yield from faults(music, seconds)
    yield from overlaps({**compared, LEARNED: excerpts}, real)
    yield from summaries(compared, seconds)
    yield from scales(music)
    yield from densities(music[LADDER], encoding, seconds)
    yield from learned_by_heart(music, learned)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of each setting of the sampling."""
    options = parse_args(argv)
    if options.by_heart:
        pieces = {str(path): [decoded(path)] for path in options.by_heart}
        print(*learned_by_heart(pieces, performances(options.train)), sep="\n")
        return
    torch.set_num_threads(1)  # as generate.py does
    for sampling in options.setting:
        for line in table(options, sampling):
            print(line, flush=True)


if __name__ == "__main__":
    main()
