"""Measure the speed of the programs, as ratios to a plain implementation.

Both are measured in one run: absolute figures depend on the machine and on what
else it does, the ratios hardly do.

examples:
  python3 -m tools.benchmark
  python3 -m tools.benchmark --midi dataset/midi
  python3 -m tools.benchmark --time-to-quality TRAIN VALIDATION --minutes 12
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import os
import shlex
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pretty_midi
import torch
from torch import Tensor, nn
from torch.nn import functional

import preprocess
import train
import utils
from config import LEGACY_RECIPE, MIDI_SUFFIXES, ModelConfig
from corpus.batches import WindowSampler
from corpus.performance import Corpus
from generation.control import parse_control
from generation.pipeline import GenerationJob, build_event_constraints, generate_events
from generation.sampling import Sampler
from model import PerformanceRNN
from sequence import CURRENT
from tools.synthetic_data import make_performance
from training.evaluate import evaluate
from training.trainer import DTYPES, EVAL_EVENTS, pick_precision

WINDOW, BATCH = 200, 64  # the original's
SIZES = ModelConfig(gru_layers=3, gru_dropout=0.0)  # the original's, but for its dropout
CPU = torch.device("cpu")


def measure_seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median time of a function, after one run that does not count."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


# ---------------------------------------------------------------------------- preprocessing


def measure_preprocessing(midi: Path) -> Iterator[str]:
    """Yield the speed of preprocess.py, and of pretty_midi when it only parses the files."""
    paths = list(utils.find_files(midi, MIDI_SUFFIXES))
    some = paths[:: max(1, len(paths) // 40)]
    parse = measure_seconds(lambda: [pretty_midi.PrettyMIDI(str(path)) for path in some], 1)
    parse /= len(some)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        preprocess.main([str(midi), folder])
        whole = (time.perf_counter() - started) / len(paths)
    yield f"pretty_midi, parsing only: {1 / parse:.1f} files/s"
    yield f"preprocess.py: {1 / whole:.1f} files/s, {parse / whole:.1f}x"


# --------------------------------------------------------------------------------- training


class PlainStep(nn.Module):
    """A plain implementation of the network: a multi-layer nn.GRU, one event at a time."""

    def __init__(self, model: PerformanceRNN) -> None:
        super().__init__()
        sizes = model.config
        self.model = model
        self.gru = nn.GRU(sizes.hidden_dim, sizes.hidden_dim, sizes.gru_layers)
        self.gru.load_state_dict(model.gru.state_dict())

    def forward(self, event: Tensor, hidden: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [batch, events] of one step, and the hidden state."""
        model = self.model
        flag = torch.zeros(len(event), 1)
        joined = torch.cat([model.event_embedding(event), flag, control], dim=1)
        inputs = functional.leaky_relu(model.concat_input_fc(joined), 0.1)
        _, hidden = self.gru(inputs[None], hidden)
        return model.output_fc(hidden.transpose(0, 1).flatten(1)), hidden


def measure_passes() -> tuple[float, float, str, PerformanceRNN]:
    """Return the seconds of forward and backward for a batch: step by step in fp32, and whole.

    Also the precision of the latter, and the network, which has the original's size.
    """
    model = PerformanceRNN(SIZES)
    plain = PlainStep(model)
    events, controls = torch.randint(0, 240, (WINDOW, BATCH)), torch.rand(WINDOW, BATCH, 24)
    init = torch.randn(BATCH, model.config.init_dim)
    precision = pick_precision(CPU)

    def run_whole() -> None:
        with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
            logits, _ = model(model.shift_right(events), model.init_hidden(init), controls)
        functional.cross_entropy(logits.float().flatten(0, 1), events.flatten()).backward()

    def run_steps() -> None:
        hidden, logits = model.init_hidden(init), []
        for event, control in zip(model.shift_right(events), controls, strict=True):
            output, hidden = plain(event, hidden, control)
            logits.append(output)
        functional.cross_entropy(torch.cat(logits), events.flatten()).backward()

    return measure_seconds(run_steps, 2), measure_seconds(run_whole, 3), precision, model


def measure_training() -> Iterator[str]:
    """Yield the speed of a training step: whole sequences against the plain implementation."""
    plain, whole, precision, model = measure_passes()
    events = WINDOW * BATCH
    yield f"step by step, fp32: {events / plain:,.0f} events/s"
    yield f"whole sequences, {precision}: {events / whole:,.0f} events/s, {plain / whole:.2f}x"
    # the product of a layer's inputs, as a yardstick of what the machine can do
    left, right = (torch.ones(s, dtype=DTYPES[precision]) for s in ((events, 512), (512, 1536)))
    rate = 2 * events * 512 * 1536 / measure_seconds(lambda: left @ right, 5)
    weights = [*model.gru.parameters(), model.output_fc.weight]
    sizes = [weight.numel() for weight in weights if weight.dim() == 2]
    # a multiplication and an addition per weight, forward and for both gradients
    achieved = events / whole * 3 * 2 * sum(sizes)
    yield (
        f"matrix product: {rate / 1e9:.0f} GFLOP/s; products of the training: "
        f"{achieved / 1e9:.0f} GFLOP/s, {achieved / rate:.0%}"
    )
    corpus = Corpus([make_performance(np.arange(5000) % 240)] * 100)
    sampler, steps = WindowSampler(corpus, WINDOW, 10, 8), itertools.count()

    def sample() -> None:
        sampler.sample_batch(BATCH, 0, next(steps), 0.9, True).to_device(CPU, corpus.encoding)

    seconds = measure_seconds(sample, 20)
    yield f"sampling a batch: {1000 * seconds:.1f} ms, {seconds / whole:.2%} of a step"


# -------------------------------------------------------------------------- time to quality

LEGACY = "the original's recipe"


def measure_time_to_quality(
    train_data: Path, val_data: Path, minutes: float, others: list[str]
) -> Iterator[str]:
    """Yield the validation losses of all recipes, which take turns on the machine.

    The original's recipe is trained by this project's fast steps; its line also has the minutes
    that a step-by-step loop in fp32, such as the original's, would have taken at most.
    """
    plain, whole, precision, _ = measure_passes()
    yield f"a step-by-step loop in fp32 takes {plain / whole:.2f}x the time of {precision}"
    recipes = {LEGACY: LEGACY_RECIPE, "default": "", **{other: other for other in others}}
    runs = [train_recipe(flags, train_data, val_data, minutes) for flags in recipes.values()]
    for results in itertools.zip_longest(*runs):
        for name, result in zip(recipes, results, strict=True):
            if result is not None:
                elapsed, text = result
                more = f" ({elapsed * plain / whole:.0f} in its own loop)" * (name == LEGACY)
                yield f"{name} | {elapsed:.1f} min{more} | {text}"


def train_recipe(
    recipe: str, train_data: Path, val_data: Path, minutes: float
) -> Iterator[tuple[float, str]]:
    """Train with some flags of train.py; yield minutes, without validation, and its result."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        argv = ["-s", f"{folder}/m.sess", "-d", str(train_data), "-v", str(val_data)]
        options = train.parse_args([*argv, *shlex.split(recipe)])
        if recipe != LEGACY_RECIPE:
            options = replace(options, max_minutes=minutes)
        trainer, sampler, corpus = train.prepare(options)
        if recipe == LEGACY_RECIPE:
            init_legacy_weights(trainer.model)
        batches = stack.enter_context(train.open_batches(trainer, sampler, options))
        schedule = train.make_schedule(options)
        elapsed, validated = 0.0, 0.0  # minutes
        while elapsed < minutes:
            started = time.monotonic()
            trainer.set_seconds(60 * elapsed)
            trainer.step(next(batches), schedule.compute_learning_rate(trainer.state))
            elapsed += (time.monotonic() - started) / 60
            if elapsed >= min(minutes, validated + max(1.0, minutes / 8)):
                validated = elapsed
                result = evaluate(trainer.ema, corpus, EVAL_EVENTS)
                yield elapsed, f"step {trainer.state.step} | {result}"
        yield elapsed, f"whole pieces | {evaluate(trainer.ema, corpus)}"


def init_legacy_weights(model: PerformanceRNN) -> None:
    """Initialize weights as the original does: torch's defaults in the GRU, Xavier elsewhere."""
    model.gru.reset_parameters()
    for module in (model.inithid_fc, model.event_embedding, model.concat_input_fc, model.output_fc):
        nn.init.xavier_normal_(module.weight)


# ------------------------------------------------------------------------------- generation


def measure_generation() -> Iterator[str]:
    """Yield the speed of generate.py's loop against the plain step with Categorical sampling."""
    torch.set_num_threads(1)  # as generate.py does
    model = PerformanceRNN(SIZES).eval()
    plain = PlainStep(model).eval()
    steps, control = 1000, parse_control(";3")

    @torch.inference_mode()
    def run_plain(batch: int) -> None:
        hidden = model.init_hidden_each(torch.randn(batch, model.config.init_dim))
        event, controls = torch.full((batch,), 239), torch.rand(batch, 24)
        for _ in range(steps):
            logits, hidden = plain(event, hidden, controls)
            event = torch.distributions.Categorical(logits=logits).sample()

    def run_pipeline(batch: int, count: int) -> None:
        constraints = build_event_constraints(CURRENT, 12, 4.0)
        settings = (batch, constraints, Sampler(), control)
        list(generate_events(GenerationJob(model, CURRENT, 0, count, *settings)))

    for batch in (1, 8, 64):
        slow = measure_seconds(functools.partial(run_plain, batch), 3)
        fast = measure_seconds(functools.partial(run_pipeline, batch, steps), 3)
        setup = measure_seconds(functools.partial(run_pipeline, batch, 1), 3)
        yield (
            f"batch {batch}: plain {batch * steps / slow:,.0f} events/s, "
            f"generate.py {batch * steps / fast:,.0f} events/s, {slow / fast:.2f}x, "
            f"with {1000 * setup:.0f} ms of setup"
        )


def main() -> None:
    """Print all figures, or those of --time-to-quality."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--midi", type=Path, help="also measure preprocess.py on this folder of MIDI files")
    add(
        "--time-to-quality",
        nargs=2,
        type=Path,
        metavar=("TRAIN", "VALIDATION"),
        help="only train with the original's recipe and the default one on .data files",
    )
    add(
        "--also",
        action="append",
        default=[],
        metavar="FLAGS",
        help="with --time-to-quality: another recipe, as flags of train.py; can be repeated",
    )
    add("--minutes", type=float, default=4.0, help="per recipe (default: 4)")
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{os.cpu_count()} processors, torch {torch.__version__}, {threads} threads")
    if options.time_to_quality:
        train_data, val_data = options.time_to_quality
        for line in measure_time_to_quality(train_data, val_data, options.minutes, options.also):
            print(line, flush=True)
        return
    if options.midi:
        print("preprocessing", *measure_preprocessing(options.midi), sep="\n  ")
    print("training", *measure_training(), sep="\n  ")
    print("generation", *measure_generation(), sep="\n  ")


if __name__ == "__main__":
    main()
