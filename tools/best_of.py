"""Measure what `generate.py --best-of` gains: kept samples against the others.

Each round generates samples with another seed and keeps the best. The tables
compare the kept ones of all rounds, the others, and validation performances.

example:
  python3 -m tools.best_of -s model.sess --validation VALIDATION -- -c 'C major; 4/s'
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import generate
import utils
from analysis.profile import TrainProfile
from config import PRETRAINED
from generation.pipeline import SampleBuffer
from model import Session
from sequence import NoteSeq
from tools.quality import (
    EXCERPTS,
    format_features,
    format_music,
    measure_features,
    measure_music,
)
from tools.samples import choose_excerpts, decode, load_performances
from utils import Number


def measure_rounds(
    options: argparse.Namespace,
) -> tuple[list[NoteSeq], list[NoteSeq], list[str]]:
    """Return the kept samples of all rounds, the others, and a line for each round."""
    kept: list[NoteSeq] = []
    others: list[NoteSeq] = []
    lines = []
    profile = TrainProfile.from_record(Session.load(options.session).train_profile)
    arguments = ["-s", str(options.session), "--seconds", str(options.seconds), *options.sampling]
    parsed, control = generate.parse_args(arguments)
    for seed in range(options.rounds):
        parsed = replace(parsed, seed=seed, best_of=options.samples, batch_size=options.keep)
        job = generate.prepare_job(parsed, control)
        samples = SampleBuffer(job.batch_size, job.encoding)
        generate.fill_samples(job, samples, lambda: None)
        chosen, reasons = generate.choose_samples(parsed, job, samples, profile)
        lines.append(f"seed {seed}: {reasons[0]}")
        for number in range(job.batch_size):
            notes = decode(samples.get(number), options.seconds)
            (kept if number in chosen else others).append(notes)
    return kept, others, lines


def measure(options: argparse.Namespace) -> Iterator[str]:
    """Yield the tables."""
    validation = [notes for _, notes in load_performances(options.validation)]
    excerpts = choose_excerpts(validation, options.rounds * options.keep, options.seconds, seed=0)
    kept, others, lines = measure_rounds(options)
    yield from lines
    music = {"kept": kept, "others": others}
    music[EXCERPTS] = [notes.crop(begin, options.seconds) for notes, begin in excerpts]
    yield format_music(measure_music(music, options.seconds))
    yield format_features(measure_features(music, validation))
    for name, samples in music.items():
        rates = [len(notes) / options.seconds for notes in samples]
        yield f"  {name}: {np.mean(rates):.2f} notes/s, standard deviation {np.std(rates):.2f}"


def run(options: argparse.Namespace) -> int:
    """Print the tables."""
    torch.set_num_threads(1)
    for line in measure(options):
        print(line, flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.best_of",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-s", "--session", type=Path, default=Path(PRETRAINED))
    add("--validation", type=Path, required=True, help="folder of .data or MIDI files")
    add("--rounds", type=Number(int, 1), default=8)
    add("--samples", type=Number(int, 2), default=64, help="of a round")
    add("--keep", type=Number(int, 1), default=8, help="of a round")
    add("--seconds", type=Number(float, 5, 3600), default=60.0)
    add("sampling", nargs="*", metavar="OPTION", help="options of generate.py, after --")
    options = parser.parse_args(argv)
    return utils.run_command("tools.best_of", lambda: run(options), "interrupted")


if __name__ == "__main__":
    raise SystemExit(main())
