"""Measure the music that a session generates against real performances.

For each setting of the controls, samples of one length are generated as
generate.py makes them. The tables compare them with excerpts of validation
performances of the same length.

examples:
  python3 -m tools.quality -s model.sess --train TRAIN --validation VALIDATION
  python3 -m tools.quality --train TRAIN --validation VALIDATION -- -T 1.0
  python3 -m tools.quality --memorization generated/*.mid --train TRAIN
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import generate
from analysis.memorization import find_longest_passages, intervals_and_rhythm
from analysis.music_metrics import (
    DISTRIBUTIONS,
    LOOP,
    MAX_SILENCE,
    cut_note_share,
    densities_by_control,
    densities_by_count,
    histogram,
    longest_repetition,
    longest_silence,
    overlap,
    share,
    share_in_scale,
    stops_early,
)
from config import PRETRAINED
from generation.control_metrics import spearman
from generation.pipeline import MAX_NOTE_SECONDS
from midi.control_schedule import DENSITY_LEVELS, format_density
from model import Session
from sequence import ENCODINGS, Encoding, NoteSeq
from tools.samples import (
    DENSITY_SETTING,
    NO_CONTROLS,
    SCALE_WEIGHTS,
    VALIDATION,
    build_settings,
    choose_excerpts,
    cut_excerpt,
    draw_samples,
    load_notes,
    load_performances,
)
from utils import Number, print_line

EXCERPTS = "validation excerpts"
TRAINING_EXCERPTS = "training excerpts"  # what music without control should resemble

Music = dict[str, list[NoteSeq]]  # the samples of each setting

# ------------------------------------------------------------------------------- the tables


def format_row(name: str, *cells: object) -> str:
    """Format a row of a table."""
    return f"  {name:<34}" + "".join(f"{cell!s:>20}" for cell in cells)


FAULTS: dict[str, Callable[[NoteSeq, float], bool]] = {
    f"one pitch {LOOP} times": lambda notes, _: longest_repetition(notes) >= LOOP,
    f"silence over {MAX_SILENCE:g} s": lambda notes, s: longest_silence(notes, s) > MAX_SILENCE,
    "stops early": stops_early,
}


def count_faults(music: Music, seconds: float) -> Iterator[str]:
    """Yield how many samples of each setting have each fault."""
    cut_notes = f"notes cut at {MAX_NOTE_SECONDS:g} s"
    yield format_row("samples with faults", *FAULTS, cut_notes, "samples")
    for name, samples in music.items():
        counts = [sum(fault(notes, seconds) for notes in samples) for fault in FAULTS.values()]
        cut = np.mean([cut_note_share(notes, seconds) for notes in samples])
        yield format_row(name, *counts, f"{cut:.2%}", len(samples))


def compare_distributions(music: Music, performances: Sequence[NoteSeq]) -> Iterator[str]:
    """Yield the overlap of each distribution with that of the validation performances."""
    yield format_row("overlap with validation", *music)
    for name in DISTRIBUTIONS:
        reference = histogram(performances, name)
        areas = (overlap(histogram(samples, name), reference) for samples in music.values())
        yield format_row(name, *(f"{area:.3f}" for area in areas))


def measure_scales(music: Music) -> Iterator[str]:
    """Yield the share of notes in each requested scale."""
    yield format_row("notes in the requested scale")
    for name, weights in SCALE_WEIGHTS.items():
        shares = [share_in_scale(notes, weights) for notes in music[name]]
        total = np.average(shares, weights=[len(notes) + 1e-9 for notes in music[name]])
        yield format_row(name, f"{total:.1%}")


def measure_densities(
    samples: Sequence[NoteSeq], encoding: Encoding, seconds: float
) -> Iterator[str]:
    """Yield the generated density for each requested level; sample k has level k modulo 12."""
    requested = np.arange(len(samples)) % DENSITY_LEVELS
    rates = np.array([len(notes) / seconds for notes in samples])
    pairs = list(zip(samples, requested, strict=True))
    by_control = [np.abs(densities_by_control(n, encoding) - k) <= 1 for n, k in pairs]
    by_count = [np.abs(densities_by_count(n, seconds) - k) <= 1 for n, k in pairs]
    yield format_row("requested density", "notes/s", "within 1 level", "by count")
    levels = {f"{k} ({format_density(k)} notes/s)": requested == k for k in range(DENSITY_LEVELS)}
    for name, rows in {**levels, "all": requested >= 0}.items():
        close = (
            share(np.concatenate([kind[row] for row in np.flatnonzero(rows)]))
            for kind in (by_control, by_count)
        )
        yield format_row(name, f"{rates[rows].mean():.1f}", *(f"{part:.1%}" for part in close))
    yield format_row("Spearman", f"{spearman(requested, rates):.3f}")


def measure_memorization(music: Music, corpus: Sequence[tuple[str, NoteSeq]]) -> Iterator[str]:
    """Yield the longest passage of each sample that the corpus has (analysis/memorization.py)."""
    corpus_rows = [intervals_and_rhythm(notes) for _, notes in corpus]
    yield format_row("passages of the training data", "median", "longest", "found in")
    for setting, samples in music.items():
        passages = find_longest_passages([intervals_and_rhythm(n) for n in samples], corpus_rows)
        longest, row = max(passages)
        median = np.median([length for length, _ in passages])
        yield format_row(setting, f"{median:.0f}", longest, corpus[row][0] if longest else "-")


def measure_session(options: argparse.Namespace) -> Iterator[str]:
    """Yield all tables."""
    session = Session.load(options.session)
    encoding, seconds = ENCODINGS[session.encoding], options.seconds
    model = session.build_model(torch.device("cpu")).eval()
    train = load_performances(options.train)
    validation = [notes for _, notes in load_performances(options.validation)]
    excerpts, train_excerpts = (
        choose_excerpts(corpus, options.samples, seconds, options.seed)
        for corpus in (validation, [notes for _, notes in train])
    )
    music: Music = {EXCERPTS: [cut_excerpt(notes, begin, seconds) for notes, begin in excerpts]}
    sampling, _ = generate.parse_args(options.sampling)
    started = time.monotonic()
    settings = build_settings(excerpts, encoding, options.samples, seconds)
    for name, controls in settings.items():
        count = options.samples if controls is None else controls.shape[1]
        music[name] = draw_samples(
            model, encoding, controls, count, seconds, options.seed, sampling
        )
    yield (
        f"{options.session}: {len(settings)} settings of {options.samples} samples of "
        f"{seconds:g} s, seed {options.seed}, {time.monotonic() - started:.0f} s to generate; "
        f"{len(validation)} validation performances"
    )
    yield from count_faults(music, seconds)
    compared = {name: music[name] for name in (VALIDATION, NO_CONTROLS, EXCERPTS)}
    compared[TRAINING_EXCERPTS] = [cut_excerpt(*excerpt, seconds) for excerpt in train_excerpts]
    yield from compare_distributions(compared, validation)
    yield from measure_scales(music)
    yield from measure_densities(music[DENSITY_SETTING], encoding, seconds)
    yield from measure_memorization(music, train)


# ----------------------------------------------------------------------------- command line


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-s", "--session", type=Path, default=Path(PRETRAINED), help=f"default: {PRETRAINED}")
    add("--train", type=Path, required=True, help="folder of .data or MIDI files of the training")
    add("--validation", type=Path, help="the same for validation")
    add("--samples", type=Number(int, 1), default=64, help="per setting (default: 64)")
    add(
        "--seconds",
        type=Number(float, 2, 3600),
        default=60.0,
        help="length of a sample (default: 60)",
    )
    add("--seed", type=int, default=0)
    add("sampling", nargs="*", metavar="OPTION", help="options of generate.py, after --")
    add(
        "--memorization",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="only measure what these MIDI or .data files share with the training data",
    )
    options = parser.parse_args(argv)
    if options.validation is None and not options.memorization:
        parser.error("--validation is missing")
    for path in filter(None, (options.train, options.validation, *options.memorization)):
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = parse_args(argv)
    if options.memorization:
        music = {str(path): [load_notes(path)] for path in options.memorization}
        for line in measure_memorization(music, load_performances(options.train)):
            print_line(line)
        return
    torch.set_num_threads(1)  # as generate.py does
    for line in measure_session(options):
        print_line(line)


if __name__ == "__main__":
    main()
