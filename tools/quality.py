"""Measure the music that a session generates against real performances.

For each setting of the controls, samples of one length are generated as
generate.py makes them. The tables compare them with excerpts of real
performances of the same length.

loops         samples that strike one pitch 13 times in a row
silences      samples with a silence of more than 4 s
early ends    samples without an onset in their last 4 s
held notes    share of the notes of 5 s or more: generate.py ends them
copied        notes in the longest passage that a sample shares with the
              training data, in any key and tempo: median, and longest
no figures    the longest without repeated figures, such as trills: of a figure
              of up to four notes only the first two times count
returns       share of the four-note interval patterns of the first 30 s (of the
              highest notes) that occur again later; by chance: in the later
              parts of the other samples
repeated      share of the notes that end a repeated passage of 8 notes or
              more, in the same key or another; trills count, too
self-similarity  of the pitch classes of each second to those 8 to 30 s later
overlap       overlapping area of two histograms, 0 to 1; 1: equal
KL divergence D(validation || samples) of the same histograms, in nats
requested     Spearman: rank correlation of requested and generated values;
              within one step: share of the notes (see docs/controls.md)

examples:
  python3 -m tools.quality -s model.sess --train TRAIN --validation VALIDATION
  python3 -m tools.quality --train TRAIN --validation VALIDATION -- -T 1.0
  python3 -m tools.quality --memorization generated/*.mid --train TRAIN
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import generate
import utils
from analysis.memorization import (
    drop_repeated_figures,
    find_longest_passages,
    intervals_and_rhythm,
)
from analysis.music_metrics import (
    DISTRIBUTIONS,
    LOOP,
    MAX_SILENCE,
    chroma_similarity,
    cut_note_share,
    histogram,
    kl_divergence,
    longest_repetition,
    longest_silence,
    measure_returns,
    overlap,
    repeated_share,
    share_in_scale,
    stops_early,
)
from config import PRETRAINED, GenerateConfig
from generation.control_metrics import make_schedule, measure_adherence, summarize_adherence
from model import Session
from sequence import ENCODINGS, ControlKind, Encoding, EventSeq, NoteSeq, get_control_kind
from tools.samples import (
    NO_CONTROLS,
    PLAIN,
    SCALE_WEIGHTS,
    VALIDATION,
    Setting,
    build_settings,
    choose_excerpts,
    draw_samples,
    load_notes,
    load_performances,
)
from tools.tables import format_figure, format_table, replace_nan
from utils import Array, Number, print_line

EXCERPTS = "validation excerpts"
TRAINING_EXCERPTS = "training excerpts"  # what music without control should resemble
COMPARED = (VALIDATION, PLAIN, NO_CONTROLS, EXCERPTS, TRAINING_EXCERPTS)
# the columns of the table of music: key in the record, title, and how to print the figure
MUSIC_COLUMNS = (
    ("samples", "samples", "d"),
    ("loops", "loops", "d"),
    ("silences", "silences", "d"),
    ("early_ends", "early ends", "d"),
    ("cut_notes", "held notes", ".2%"),
    ("copied_median", "copied", ".0f"),
    ("copied_longest", "longest", "d"),
    ("copied_figures_once", "no figures", "d"),
    ("returns", "returns", ".1%"),
    ("returns_by_chance", "by chance", ".1%"),
    ("repeated", "repeated", ".1%"),
    ("self_similarity", "self-similarity", ".3f"),
)

Music = Mapping[str, Sequence[NoteSeq]]  # the samples of each setting
Record = dict[str, Any]

# -------------------------------------------------------------------------------- measuring


def measure_music(music: Music, seconds: float) -> dict[str, Record]:
    """Return faults and form of the samples of each setting; see MUSIC_COLUMNS."""
    return {name: _measure_samples(samples, seconds) for name, samples in music.items()}


def _measure_samples(samples: Sequence[NoteSeq], seconds: float) -> Record:
    returns, by_chance = measure_returns(samples)
    similarities = [chroma_similarity(notes) for notes in samples]
    known = [value for value in similarities if not math.isnan(value)]
    return {
        "samples": len(samples),
        "loops": sum(longest_repetition(notes) >= LOOP for notes in samples),
        "silences": sum(longest_silence(notes, seconds) > MAX_SILENCE for notes in samples),
        "early_ends": sum(stops_early(notes, seconds) for notes in samples),
        "cut_notes": float(np.mean([cut_note_share(notes, seconds) for notes in samples])),
        "returns": returns,
        "returns_by_chance": by_chance,
        "repeated": float(np.mean([repeated_share(notes) for notes in samples])),
        "self_similarity": float(np.mean(known)) if known else math.nan,
    }


def measure_copies(music: Music, corpus: Sequence[tuple[str, NoteSeq]]) -> dict[str, Record]:
    """Return the longest passages that the samples share with a corpus, for each setting.

    A passage is a row of intervals and rhythms, whatever the key and the tempo; see
    analysis/memorization.py. copied_figures_once: the longest one of the music without repeated
    figures; copied_from: the performance that has it.
    """
    samples = [notes for part in music.values() for notes in part]
    lengths, without_figures = (
        iter(find_longest_passages(list(map(measure, samples)), [measure(n) for _, n in corpus]))
        for measure in (intervals_and_rhythm, _measure_without_figures)
    )
    records = {}
    for name, part in music.items():
        found = [next(lengths)[0] for _ in part]
        longest, row = max((next(without_figures) for _ in part), default=(0, -1))
        records[name] = {
            "copied_median": float(np.median(found)),
            "copied_longest": max(found, default=0),
            "copied_figures_once": longest,
            "copied_from": corpus[row][0] if longest else "-",
        }
    return records


def _measure_without_figures(notes: NoteSeq) -> Array:
    return intervals_and_rhythm(drop_repeated_figures(notes))


def measure_features(music: Music, performances: Sequence[NoteSeq]) -> dict[str, Record]:
    """Compare the distribution of each feature with that of real performances.

    Returns the overlapping area and the KL divergence, for each setting and feature.
    """
    references = {name: histogram(performances, name) for name in DISTRIBUTIONS}
    records = {}
    for setting, samples in music.items():
        counts = {name: histogram(samples, name) for name in DISTRIBUTIONS}
        records[setting] = {
            name: {
                "overlap": overlap(counts[name], reference),
                "kl": kl_divergence(reference, counts[name]),
            }
            for name, reference in references.items()
        }
    return records


def measure_control(
    kind: ControlKind, samples: Sequence[NoteSeq], requested: Sequence[float], encoding: Encoding
) -> Record:
    """Return how closely samples follow a control; requested: the value of each sample.

    worst: the requested value with the smallest share of notes within one step, and that share.
    """
    found = []
    for notes, value in zip(samples, requested, strict=True):
        schedule = make_schedule({kind.name: value})
        entry = measure_adherence(EventSeq.from_note_seq(notes, encoding), schedule)
        found.append((value, entry.get(kind.name)))
    close_share, correlation = summarize_adherence([entry for _, entry in found if entry])
    by_value = {
        value: summarize_adherence([entry for other, entry in found if entry and other == value])[0]
        for value in sorted(set(requested))
    }
    known = {value: part for value, part in by_value.items() if not math.isnan(part)}
    worst = min(known.items(), key=lambda item: item[1], default=(math.nan, math.nan))
    return {
        "low": float(min(requested)),
        "high": float(max(requested)),
        "spearman": correlation,
        "within_one_step": close_share,
        "worst": worst,
    }


def measure_controls(
    music: Music, settings: Mapping[str, Setting], encoding: Encoding
) -> dict[str, Record]:
    """Return how closely the samples of each setting of one control follow it, by its name."""
    return {
        name: measure_control(
            get_control_kind(name), music[name], setting.requested.tolist(), encoding
        )
        for name, setting in settings.items()
        if setting.requested is not None
    }


def measure_scales(music: Music) -> dict[str, float]:
    """Return the share of all notes that are in the requested scale, for each scale."""
    shares = {}
    for name, weights in SCALE_WEIGHTS.items():
        if name in music:
            counts = [len(notes) + 1e-9 for notes in music[name]]
            parts = [share_in_scale(notes, weights) for notes in music[name]]
            shares[name] = float(np.average(parts, weights=counts))
    return shares


def generate_music(
    session: Session,
    settings: Mapping[str, Setting],
    samples: int,
    seconds: float,
    seed: int,
    sampling: GenerateConfig,
) -> dict[str, list[NoteSeq]]:
    """Return the samples of each setting, on the CPU."""
    encoding, model = ENCODINGS[session.encoding], session.build_model(torch.device("cpu")).eval()
    music = {}
    for name, setting in settings.items():
        count = samples if setting.controls is None else setting.controls.shape[1]
        music[name] = draw_samples(
            model, encoding, setting.controls, count, seconds, seed, sampling
        )
    return music


def measure_session(options: argparse.Namespace) -> Record:
    """Generate samples in all settings, and return all figures, for JSON and `format_quality`.

    options: those of `parse_args`.
    """
    session = Session.load(options.session)
    encoding, seconds = ENCODINGS[session.encoding], options.seconds
    train = load_performances(options.train)
    validation = [notes for _, notes in load_performances(options.validation)]
    excerpts, train_excerpts = (
        choose_excerpts(corpus, options.samples, seconds, options.seed)
        for corpus in (validation, [notes for _, notes in train])
    )
    layout = session.build_model(torch.device("meta")).layout
    settings = build_settings(excerpts, encoding, layout, options.samples, seconds)
    sampling, _ = generate.parse_args(options.sampling)
    started = time.monotonic()
    music = generate_music(session, settings, options.samples, seconds, options.seed, sampling)
    elapsed = time.monotonic() - started
    music[EXCERPTS] = [notes.crop(begin, seconds) for notes, begin in excerpts]
    copies = measure_copies(music, train)
    music[TRAINING_EXCERPTS] = [notes.crop(begin, seconds) for notes, begin in train_excerpts]
    figures = measure_music(music, seconds)
    return {
        "session": str(options.session),
        "seconds": seconds,
        "seed": options.seed,
        "seconds_to_generate": elapsed,
        "validation_performances": len(validation),
        "training_performances": len(train),
        "music": {name: {**row, **copies.get(name, {})} for name, row in figures.items()},
        "features": measure_features({n: music[n] for n in COMPARED if n in music}, validation),
        "controls": measure_controls(music, settings, encoding),
        "scales": measure_scales(music),
    }


# ------------------------------------------------------------------------------- the tables


def format_music(records: Mapping[str, Record]) -> str:
    """Format the figures of `measure_music` and `measure_copies`, a row for each setting."""
    columns = [c for c in MUSIC_COLUMNS if any(c[0] in record for record in records.values())]
    rows = {
        name: [format_figure(record.get(key), spec) for key, _, spec in columns]
        for name, record in records.items()
    }
    return format_table("music", [title for _, title, _ in columns], rows)


def format_features(records: Mapping[str, Record]) -> str:
    """Format the figures of `measure_features`: overlapping area and KL divergence."""
    rows = {
        name: [
            f"{record[name]['overlap']:.3f}, {record[name]['kl']:.3f}"
            for record in records.values()
        ]
        for name in DISTRIBUTIONS
    }
    return format_table("overlap, KL divergence", list(records), rows)


def format_controls(controls: Mapping[str, Record], scales: Mapping[str, float]) -> str:
    """Format the figures of `measure_controls` and `measure_scales`."""
    rows = {}
    for name, record in controls.items():
        value, part = record["worst"]
        rows[f"{name} {record['low']:.3g} to {record['high']:.3g}"] = [
            format_figure(record["spearman"], ".3f"),
            format_figure(record["within_one_step"], ".1%"),
            "-" if math.isnan(part) else f"{part:.1%} at {value:.3g}",
        ]
    for name, part in scales.items():
        rows[f"notes in {name}"] = ["-", f"{part:.1%}", "-"]
    titles = ["Spearman", "within one step", "lowest"]
    return format_table("requested", titles, rows)


def format_quality(record: Record) -> Iterator[str]:
    """Yield the lines of all tables of `measure_session`."""
    yield (
        f"{record['session']}: samples of {record['seconds']:g} s, seed {record['seed']}, "
        f"{record['seconds_to_generate']:.0f} s to generate; "
        f"{record['validation_performances']} validation performances, "
        f"{record['training_performances']:,} training performances"
    )
    yield from ("", *format_music(record["music"]).splitlines())
    copies = {
        n: row for n, row in record["music"].items() if n not in (EXCERPTS, TRAINING_EXCERPTS)
    }
    name = max(copies, key=lambda name: int(copies[name]["copied_figures_once"]))
    notes, performance = copies[name]["copied_figures_once"], copies[name]["copied_from"]
    yield (
        f"the longest copied passage without repeated figures, {notes} notes ({name}), is from "
        f"{performance}"
    )
    yield from ("", *format_features(record["features"]).splitlines())
    yield from ("", *format_controls(record["controls"], record["scales"]).splitlines())


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
    add("--json", action="store_true", help="print the figures as JSON")
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


def print_tables(options: argparse.Namespace) -> int:
    """Print what the options ask for."""
    if options.memorization:
        music = {str(path): [load_notes(path)] for path in options.memorization}
        record = measure_copies(music, load_performances(options.train))
        keys = ("copied_longest", "copied_figures_once", "copied_from")
        rows = {name: [str(row[key]) for key in keys] for name, row in record.items()}
        titles = ["copied notes", "no figures", "of"]
        lines = iter(format_table("file", titles, rows).splitlines())
    else:
        record = measure_session(options)
        lines = format_quality(record)
    if options.json:
        lines = iter([json.dumps(replace_nan(record))])
    for line in lines:
        print_line(line)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    options = parse_args(argv)
    torch.set_num_threads(1)  # as generate.py does
    return utils.run_command("tools.quality", lambda: print_tables(options), "interrupted")


if __name__ == "__main__":
    raise SystemExit(main())
