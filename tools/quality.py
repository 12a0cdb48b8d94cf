"""Measure the music that a session generates against real performances.

For each setting of the controls, samples of one length are generated as generate.py makes them.
The tables compare them with excerpts of validation performances of the same length.

examples:
  python3 -m tools.quality -s model.sess --train TRAIN --validation VALIDATION
  python3 -m tools.quality --memorization generated/*.mid --train TRAIN
"""

from __future__ import annotations

import argparse
import ast
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config import PRETRAINED, GenerateConfig
from generation.pipeline import MAX_NOTE_SECONDS
from midi.control_schedule import DENSITY_LEVELS, format_density
from model import Session
from sequence import ENCODINGS, Encoding, NoteSeq
from tools.memorization import find_longest_passages, intervals_and_rhythm
from tools.music_metrics import (
    DISTRIBUTIONS,
    LOOP,
    MAX_SILENCE,
    cut_note_share,
    densities_by_control,
    densities_by_count,
    histogram,
    longest_onset_gap,
    longest_repetition,
    longest_silence,
    overlap,
    share,
    share_in_scale,
    spearman,
    stops_early,
)
from tools.samples import (
    DENSITY_SETTING,
    NO_CONTROLS,
    SCALES,
    VALIDATION,
    build_settings,
    choose_excerpts,
    cut_excerpt,
    generate_samples,
    load_notes,
    load_performances,
)

EXCERPTS = "validation excerpts"
TRAINING_EXCERPTS = "training excerpts"  # what music without control should resemble

Music = dict[str, list[NoteSeq]]  # the samples of each setting

# ------------------------------------------------------------------------------- the tables


def format_row(name: str, *cells: object) -> str:
    """Format a row of a table."""
    return f"  {name:<34}" + "".join(f"{cell!s:>20}" for cell in cells)


def format_check(is_met: bool) -> str:
    """Format whether a figure meets its target."""
    return "ok" if is_met else "missed"


FAULTS: dict[str, Callable[[NoteSeq, float], float]] = {
    f"one pitch {LOOP} times": lambda n, s: longest_repetition(n) >= LOOP,
    f"silence over {MAX_SILENCE:g} s": lambda n, s: longest_silence(n, s) > MAX_SILENCE,
    "stops early": stops_early,
    f"no onset for {MAX_SILENCE:g} s": lambda n, s: longest_onset_gap(n, s) > MAX_SILENCE,
}


def count_faults(music: Music, seconds: float) -> Iterator[str]:
    """Yield how many samples of each setting have each fault; the first three must be 0."""
    totals = np.zeros(len(FAULTS), np.int64)
    yield format_row(
        "samples with faults", *FAULTS, f"notes cut at {MAX_NOTE_SECONDS:g} s", "samples"
    )
    for name, samples in music.items():
        counts = [sum(bool(fault(n, seconds)) for n in samples) for fault in FAULTS.values()]
        cut = np.mean([cut_note_share(n, seconds) for n in samples])
        yield format_row(name, *counts, f"{cut:.2%}", len(samples))
        totals = totals + counts if name != EXCERPTS else totals
    yield format_row("none (target)", *(format_check(count == 0) for count in totals[:3]))


def compare_distributions(
    music: Music, performances: Sequence[tuple[str, NoteSeq]]
) -> Iterator[str]:
    """Yield the overlap of each distribution with that of the validation performances."""
    yield format_row("overlap with validation", *music)
    smallest = np.ones(len(music))
    for name in DISTRIBUTIONS:
        reference = histogram([notes for _, notes in performances], name)
        areas = [overlap(histogram(samples, name), reference) for samples in music.values()]
        yield format_row(name, *(f"{area:.3f}" for area in areas))
        smallest = np.minimum(smallest, areas)
    yield format_row("each at least 0.85 (target)", *map(format_check, smallest >= 0.85))


def check_scales(music: Music) -> Iterator[str]:
    """Yield the share of notes in each requested scale, in all samples and in the worst one."""
    yield format_row("notes in the requested scale", "all samples", "worst sample", "95% (target)")
    for name, weights in SCALES.items():
        shares = np.array([share_in_scale(notes, weights) for notes in music[name]])
        total = float(np.average(shares, weights=[len(n) + 1e-9 for n in music[name]]))
        yield format_row(name, f"{total:.1%}", f"{shares.min():.1%}", format_check(total >= 0.95))


def check_densities(
    samples: Sequence[NoteSeq], encoding: Encoding, seconds: float
) -> Iterator[str]:
    """Yield the generated density for each requested level; sample k has level k modulo 12."""
    requested = np.arange(len(samples)) % DENSITY_LEVELS
    rates = np.array([2 * len(notes) / seconds for notes in samples])
    pairs = list(zip(samples, requested, strict=True))
    by_control = [np.abs(densities_by_control(n, encoding) - k) <= 1 for n, k in pairs]
    by_count = [np.abs(densities_by_count(n, seconds) - k) <= 1 for n, k in pairs]
    yield format_row("requested density", "notes per 2 s", "range", "within 1 level", "by count")
    means = []
    for level in range(DENSITY_LEVELS):
        rows = np.flatnonzero(requested == level)
        means.append(rates[rows].mean())
        close = [share(np.concatenate([kind[i] for i in rows])) for kind in (by_control, by_count)]
        spread = f"{rates[rows].min():.1f}-{rates[rows].max():.1f}"
        name = f"{level} ({format_density(level)} notes)"
        yield format_row(name, f"{means[-1]:.1f}", spread, *(f"{s:.1%}" for s in close))
    close = [share(np.concatenate(kind)) for kind in (by_control, by_count)]
    cells = [f"{s:.1%}" for s in close]
    yield format_row("all, 90% (target)", "", "", *cells, format_check(min(close) >= 0.9))
    yield format_row(
        "rises with each level (target)", format_check(bool((np.diff(means) > 0).all()))
    )
    rho = spearman(requested, rates)
    yield format_row("Spearman, 0.98 (target)", f"{rho:.3f}", format_check(rho >= 0.98))


def measure_memorization(music: Music, corpus: Sequence[tuple[str, NoteSeq]]) -> Iterator[str]:
    """Yield the longest passage of each sample that the corpus has, see tools/memorization.py."""
    corpus_rows = [intervals_and_rhythm(notes) for _, notes in corpus]
    header = ("median", "90th percentile", "longest", "found in", "each sample")
    yield format_row("passages of the training data", *header)
    for setting, samples in music.items():
        passages = find_longest_passages([intervals_and_rhythm(n) for n in samples], corpus_rows)
        lengths = [passage.length for passage in passages]
        cells = (f"{value:.0f}" for value in np.percentile(lengths, [50, 90, 100]))
        longest = max(passages, key=lambda passage: passage.length)
        where = corpus[longest.row][0] if longest.length else "-"
        yield format_row(setting, *cells) + f"  {where}  " + " ".join(map(str, lengths))


def measure_session(options: argparse.Namespace, sampling: Mapping[str, Any]) -> Iterator[str]:
    """Yield all tables for one way of sampling."""
    session = Session.load(options.session)
    encoding, seconds = ENCODINGS[session.encoding], options.seconds
    model = session.build_model(torch.device("cpu")).eval()
    validation, train = load_performances(options.validation), load_performances(options.train)
    excerpts, train_excerpts = (
        choose_excerpts([notes for _, notes in corpus], options.samples, seconds, options.seed)
        for corpus in (validation, train)
    )
    music: Music = {EXCERPTS: [cut_excerpt(notes, begin, seconds) for notes, begin in excerpts]}
    started = time.monotonic()
    settings = build_settings(excerpts, encoding, options.samples, seconds)
    for name, controls in settings.items():
        count = options.samples if controls is None else controls.shape[1]
        music[name] = generate_samples(
            model, encoding, controls, count, seconds, options.seed, sampling
        )
    elapsed = time.monotonic() - started
    text = ", ".join(f"{name} {value}" for name, value in sampling.items()) or "default"
    yield (
        f"{options.session}: sampling {text}, {len(settings)} settings of {options.samples} "
        f"samples of {seconds:g} s, seed {options.seed}, {elapsed:.0f} s to generate; "
        f"{len(validation)} validation performances"
    )
    compared = {name: music[name] for name in (EXCERPTS, VALIDATION, NO_CONTROLS)}
    compared_too = [cut_excerpt(notes, begin, seconds) for notes, begin in train_excerpts]
    yield from count_faults(music, seconds)
    yield from compare_distributions({**compared, TRAINING_EXCERPTS: compared_too}, validation)
    yield from check_scales(music)
    yield from check_densities(music[DENSITY_SETTING], encoding, seconds)
    yield from measure_memorization(music, train)


# ----------------------------------------------------------------------------- command line


def parse_sampling(text: str) -> dict[str, Any]:
    """Return options of generate.py from 'name=value,...'."""
    try:
        pairs = dict(pair.split("=") for pair in text.split(",") if pair)
        options = {name: ast.literal_eval(value) for name, value in pairs.items()}
    except (ValueError, SyntaxError):
        raise argparse.ArgumentTypeError(f"{text!r} is not like temperature=0.95") from None
    for name in options.keys() - {field.name for field in fields(GenerateConfig)}:
        raise argparse.ArgumentTypeError(f"generate.py has no option {name!r}")
    return options


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
    add("--samples", "--pieces", type=int, default=64, help="per setting (default: 64)")
    add("--seconds", type=float, default=60.0, help="length of a sample (default: 60)")
    add("--seed", type=int, default=0)
    add(
        "--sampling",
        "--setting",
        type=parse_sampling,
        nargs="+",
        default=[{}],
        metavar="NAME=VALUE,...",
        help="options of generate.py, such as temperature=0.95,top_k=40; tables for each",
    )
    add(
        "--memorization",
        "--by-heart",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="only measure what these MIDI or .data files share with the training data",
    )
    options = parser.parse_args(argv)
    if options.validation is None and not options.memorization:
        parser.error("--validation is missing")
    for path in options.memorization:
        if not path.is_file():
            parser.error(f"{path}: no such file")
    for folder in filter(None, (options.train, options.validation)):
        if not folder.is_dir():
            parser.error(f"{folder}: no such folder")
    if options.samples < 1 or not 2 <= options.seconds <= 3600:
        parser.error("--samples must be at least 1, and --seconds from 2 to 3600")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = parse_args(argv)
    if options.memorization:
        music = {str(path): [load_notes(path)] for path in options.memorization}
        print(*measure_memorization(music, load_performances(options.train)), sep="\n")
        return
    torch.set_num_threads(1)  # as generate.py does
    for sampling in options.sampling:
        for line in measure_session(options, sampling):
            print(line, flush=True)


if __name__ == "__main__":
    main()
