"""Train the default recipe on MAESTRO's official split, and measure the session.

The folder is MAESTRO as published, with folders of years and a table such as
maestro-v3.0.0.csv, or it has the folders train and validation. The test split
is neither trained on nor measured. An interrupted training continues.

The measures are those of train.py --evaluate and of tools.quality, whose --help
explains them.

examples:
  python3 -m tools.baseline maestro-v3.0.0 --minutes 20
  python3 -m tools.baseline maestro-v3.0.0 --events 10000000 --recipe "-p gru_layers=3"
  python3 -m tools.baseline maestro-v3.0.0 --session pretrained.sess
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import preprocess
import train
import utils
from config import MIDI_SUFFIXES, SUBSETS, TrainConfig
from corpus.performance import Corpus
from model import Session, pick_device
from tools import quality
from tools.benchmark import get_processor_name
from tools.tables import format_figure, format_table, replace_nan
from training.evaluate import EvalResult
from training.sessions import check_encoding, format_sizes
from utils import Number, format_count, format_time, print_line

MINUTES = 20.0  # of training, by default
TRAIN, VALIDATION = SUBSETS[:2]
Record = dict[str, Any]

# ----------------------------------------------------------------------------------- data


def find_split(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the MIDI files of the official split: of train and validation, by name in the folder.

    Raises ValueError if there is no split, or if a file of it is missing.
    """
    tables = sorted(folder.glob("maestro-v*.csv"))
    if tables:
        split = _read_table(tables[-1])
    else:
        split = {
            subset: {
                path.relative_to(folder / subset).as_posix(): path
                for path in utils.find_files(folder / subset, MIDI_SUFFIXES, [])
            }
            for subset in (TRAIN, VALIDATION)
        }
    for subset, paths in split.items():
        if not paths:
            raise ValueError(
                f"{folder}: no split: neither maestro-v*.csv, nor MIDI files in {TRAIN} and "
                f"{VALIDATION}"
                if not tables
                else f"{tables[-1]}: no performance of the split {subset!r}"
            )
        missing = [path for path in paths.values() if not path.is_file()]
        if missing:
            files = format_count(len(missing), "file", "files")
            raise ValueError(f"{folder}: {files} of {subset} missing, such as {missing[0]}")
    return split


def _read_table(path: Path) -> dict[str, dict[str, Path]]:
    """Return the files in a table of MAESTRO, which has the columns split and midi_filename."""
    split: dict[str, dict[str, Path]] = {TRAIN: {}, VALIDATION: {}}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for column in ("split", "midi_filename"):
            if column not in (reader.fieldnames or ()):
                raise ValueError(f"{path}: no column {column!r}")
        for row in reader:
            if row["split"] in split:
                name = row["midi_filename"]
                split[row["split"]][name] = path.parent / name
    return split


def choose_files(paths: Mapping[str, Path], limit: int | None) -> dict[str, Path]:
    """Return at most `limit` files, evenly spaced; None: all."""
    names = sorted(paths)
    count = min(limit or len(names), len(names))
    return {name: paths[name] for name in (names[k * len(names) // count] for k in range(count))}


def link_files(paths: Mapping[str, Path], folder: Path) -> None:
    """Make a folder have links to these files and no others; copies where links cannot be made."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [path for path in folder.rglob("*") if path.name.lower().endswith(MIDI_SUFFIXES)]:
        path = paths.get(old.relative_to(folder).as_posix())
        if path is None or (old.is_symlink() and old.readlink() != path.resolve()):
            old.unlink()
    for name, path in paths.items():
        target = folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.symlink_to(path.resolve())
            except OSError:
                shutil.copyfile(path, target)


def convert_split(folder: Path, data: Path, limit: int | None) -> None:
    """Convert the official split to .data files in data/train and data/validation.

    Raises ValueError if preprocess.py fails.
    """
    for subset, paths in find_split(folder).items():
        midi = data / "midi" / subset
        link_files(choose_files(paths, limit), midi)
        if preprocess.main([str(midi), str(data / subset), "--prune"]):
            raise ValueError(f"{midi}: not converted, see above")


# ------------------------------------------------------------------------------- measuring


def count_steps(options: TrainConfig, events: int) -> int:
    """Return the number of steps that train on so many events, the first ones on fewer each."""
    small = max(1, options.batch_size // 2) * max(1, options.window_size // 2)
    first = min(options.small_batches, math.ceil(events / small))
    rest = max(0, events - first * small)
    return first + math.ceil(rest / (options.batch_size * options.window_size))


def train_session(options: argparse.Namespace, data: Path) -> None:
    """Train the session, or go on with it, until the limit; raise ValueError if that fails."""
    argv = ["-s", str(options.save), "-d", str(data / TRAIN), "-v", str(data / VALIDATION)]
    argv += ["--no-enable-logging", *shlex.split(options.recipe)]
    if options.events is not None:
        argv += ["--max-steps", str(count_steps(train.parse_args(argv), options.events))]
    else:
        argv += ["--max-minutes", str(options.minutes or MINUTES)]
    if train.main(argv):
        raise ValueError(f"{options.save}: training has failed, see above")


def evaluate_session(path: Path, data: Path) -> tuple[dict[str, EvalResult], str]:
    """Evaluate a session on whole performances, as train.py --evaluate does.

    Returns the results with fewer and fewer controls, by label, and what is known of whether they
    were training data.
    """
    session, corpus = Session.load(path), Corpus.load(train.find_data_files(str(data)))
    check_encoding(path, session, corpus.encoding)
    model = session.build_model(pick_device(TrainConfig.device))
    corpus, _, note = train.choose_held_out(
        session, corpus.add_controls(model.layout), include_training=False
    )
    return train.evaluate_visible(model, corpus), note


def measure_baseline(path: Path, data: Path, *sampling: str) -> Record:
    """Return all figures of a session, for JSON and `format_baseline`.

    sampling: options of tools.quality.
    """
    session = Session.load(path)
    threads = torch.get_num_threads()
    started = time.monotonic()
    results, note = evaluate_session(path, data / VALIDATION)
    elapsed = time.monotonic() - started
    torch.set_num_threads(1)  # as generate.py does
    folders = ["--train", str(data / TRAIN), "--validation", str(data / VALIDATION)]
    argv = ["-s", str(path), *folders, *sampling]
    music = quality.measure_session(quality.parse_args(argv))
    torch.set_num_threads(threads)
    return {
        "session": str(path),
        "sizes": format_sizes(session.config),
        "parameters": sum(weight.numel() for weight in session.state.values()),
        "train_performances": music["training_performances"],
        "events": session.training.get("events"),
        "step": session.training.get("step"),
        "seconds": session.training.get("seconds"),
        "processor": describe_processor(),
        "threads": threads,
        "torch": str(torch.__version__),
        "seconds_to_evaluate": elapsed,
        "note": note,
        "results": {label: result.to_record() for label, result in results.items()},
        "quality": music,
    }


def describe_processor() -> str:
    """Return the name of the GPU that is used, or else of the processor."""
    device = pick_device(TrainConfig.device)
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{get_processor_name()} ({os.cpu_count()} cores)"


# ---------------------------------------------------------------------------------- table

# rows of the results: title, key in EvalResult.to_record(), and how to print the figure
RESULT_ROWS = (
    ("nats/event", "nats_per_event", ".4f"),
    ("nats/note", "nats_per_note", ".3f"),
    ("bits/s", "bits_per_second", ".1f"),
    ("perplexity", "perplexity", ".3f"),
    ("accuracy", "accuracy", ".1%"),
)
# rows of the generated music: title, key in the record of tools.quality, and the same
MUSIC_ROWS = (
    ("held notes", "cut_notes", ".2%"),
    ("loops", "loops", "d"),
    ("silences", "silences", "d"),
    ("copied notes, longest", "copied_longest", "d"),
    ("patterns that return", "returns", ".1%"),
    ("patterns by chance", "returns_by_chance", ".1%"),
    ("self-similarity", "self_similarity", ".3f"),
)
PERFORMANCES = "performances"  # the column of real music


def format_baseline(record: Record) -> Iterator[str]:
    """Yield the lines of the table: what was measured, then the figures."""
    music = record["quality"]
    seconds, events = record["seconds"], record["events"]
    time_text = "unknown" if seconds is None else format_time(seconds)
    yield f"{record['session']}: {record['parameters']:,} parameters ({record['sizes']})"
    yield f"trained: {time_text}, {format_figure(events, ',d')} events, step {record['step']}"
    yield f"train split: {record['train_performances']:,} performances"
    threads = format_count(record["threads"], "thread", "threads")
    yield f"processor: {record['processor']}, {threads}, torch {record['torch']}"
    yield (
        f"validation split: {music['validation_performances']} whole performances, "
        f"evaluated in {format_time(record['seconds_to_evaluate'])}; {record['note']}"
    )
    yield ""
    yield from format_results(record).splitlines()
    yield ""
    yield from quality.format_controls(music["controls"], music["scales"]).splitlines()


def format_results(record: Record) -> str:
    """Format all figures that depend on which controls are given, a column for each choice."""
    results, music = record["results"].values(), record["quality"]["music"]
    settings = [name for name in quality.COMPARED[:-1] if name in music]
    rows = {
        title: [*(format_figure(result[key], spec) for result in results), ""]
        for title, key, spec in RESULT_ROWS
    }
    for kind in next(iter(results))["accuracy_by_kind"]:
        shares = (result["accuracy_by_kind"][kind] for result in results)
        rows[f"accuracy, {kind.replace('_', ' ')}"] = [
            *(format_figure(part, ".1%") for part in shares),
            "",
        ]
    features = record["quality"]["features"]
    for name in features[settings[0]]:
        rows[f"overlap, {name}"] = [f"{features[s][name]['overlap']:.3f}" for s in settings]
    for title, key, spec in MUSIC_ROWS:
        rows[title] = [format_figure(music[setting][key], spec) for setting in settings]
    return format_table("measure", [*record["results"], PERFORMANCES], rows)


# ----------------------------------------------------------------------------- command line


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.baseline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("maestro", type=Path, metavar="MAESTRO_DIR")
    add("-s", "--save", type=Path, default=Path("baseline.sess"), help="default: baseline.sess")
    add("--session", type=Path, help="measure this session instead of training one")
    add("--data", type=Path, help="folder for .data files (default: baseline-data for -s)")
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument(
        "--minutes", type=Number(float, above=0), help=f"of training (default: {MINUTES:g})"
    )
    limits.add_argument("--events", type=Number(int, 1), help="of training, instead of minutes")
    add("--limit", type=Number(int, 1), help="performances of each split, for a quick try")
    add("--samples", type=Number(int, 1), default=64, help="for each setting (default: 64)")
    seconds = Number(float, 2, 3600)
    add("--seconds", type=seconds, default=60.0, help="length of a sample (default: 60)")
    add("--json", action="store_true", help="print the figures as JSON")
    add("--recipe", default="", metavar="FLAGS", help="more options of train.py, in quotes")
    options = parser.parse_args(argv)
    if options.session and (options.recipe or options.minutes or options.events):
        parser.error("argument --session: not together with options of a training")
    for path in filter(None, (options.maestro, options.session)):
        if not path.exists():
            parser.error(f"{path}: no such file or folder")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Convert, train and measure; return the exit status."""
    options = parse_args(argv)

    def run() -> int:
        path = options.session or options.save
        data = options.data or options.save.with_name(f"{options.save.stem}-data")
        with utils.redirect_messages(quiet=False, as_json=options.json) as stdout:
            convert_split(options.maestro, data, options.limit)
            if not options.session:
                train_session(options, data)
            lengths = ("--samples", str(options.samples), "--seconds", str(options.seconds))
            record = measure_baseline(path, data, *lengths)
            if options.json:
                stdout.write(json.dumps(replace_nan(record)) + "\n")
            else:
                for line in ("", *format_baseline(record)):
                    print_line(line)
        return 0

    return utils.run_command("tools.baseline", run, "interrupted; run it again to continue")


if __name__ == "__main__":
    raise SystemExit(main())
