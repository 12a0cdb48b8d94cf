"""Measure the speed of the programs, as ratios to a plain implementation.

Both are measured in one run: absolute figures depend on the machine and on what
else it does, the ratios hardly do. The result is one table, after about 5
minutes. To emulate a processor that only has AVX2, set ATEN_CPU_CAPABILITY=avx2
ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
FBGEMM_ENABLE_INSTRUCTIONS=AVX2.

examples:
  python3 -m tools.benchmark
  python3 -m tools.benchmark --midi dataset/midi
  python3 -m tools.benchmark --write
  python3 -m tools.benchmark --time-to-quality TRAIN VALIDATION --minutes 12
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import io
import itertools
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
from corpus.performance import Corpus, expand_controls
from generation.control import parse_control
from generation.engine import MIN_SHARED_BATCH, Engine
from generation.pipeline import GenerationJob, build_event_constraints, generate_events
from generation.sampling import Sampler
from model import PerformanceRNN
from sequence import CURRENT
from tools.synthetic_data import make_performance
from tools.tables import format_table
from training.evaluate import evaluate, evaluate_choices
from training.trainer import DTYPES, EVAL_EVENTS, pick_precision

WINDOW, BATCH = 200, 64  # the original's
SIZES = ModelConfig(gru_layers=3, gru_dropout=0.0)  # the original's, but for its dropout
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
# instruction sets, and the flags of Linux for them
INSTRUCTIONS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "bfloat16": ("avx512_bf16",),
    "AMX": ("amx_tile",),
}
# environment variables that hide instructions of the processor from torch
LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "FBGEMM_ENABLE_INSTRUCTIONS",
)

Row = tuple[str, str, str]  # what was measured, figures, ratio


def measure_seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the median time of a function, after one run that does not count."""
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


# -------------------------------------------------------------------------------- processor


def list_instructions() -> list[str]:
    """Return which instruction sets that matter here the processor has; Linux on x86-64 only."""
    path = Path("/proc/cpuinfo")
    flags = set(re.findall(r"\w+", path.read_text(encoding="utf-8"))) if path.exists() else set()
    return [name for name, choices in INSTRUCTIONS.items() if flags & set(choices)]


def get_processor_name() -> str:
    """Return the name of the processor; it says so if the environment hides instructions."""
    name, path = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if path.exists():
        found = re.search(r"model name\s*: (.+)", path.read_text(encoding="utf-8"))
        name = found[1] if found else name
    capability = torch.backends.cpu.get_cpu_capability()
    return name + f", emulating {capability}" * any(key in os.environ for key in LIMITS)


def format_threads() -> str:
    """Return how many threads torch uses now."""
    return utils.format_count(torch.get_num_threads(), "thread", "threads")


def describe_machine() -> Iterator[Row]:
    """Yield processor, instruction sets and software."""
    limits = ", ".join(f"{key}={os.environ[key]}" for key in LIMITS if key in os.environ)
    yield "processor", f"{get_processor_name()}, {os.cpu_count()} cores", ""
    yield "instruction sets", ", ".join(list_instructions()) or "unknown", ""
    yield "limited by", limits or "nothing", ""
    capability = torch.backends.cpu.get_cpu_capability()
    yield "torch", f"{torch.__version__}, {capability}, {format_threads()}", ""


# ---------------------------------------------------------------------------- preprocessing


def measure_preprocessing(midi: Path) -> Iterator[Row]:
    """Yield the speed of preprocess.py, and of pretty_midi when it only parses the files."""
    paths = list(utils.find_files(midi, MIDI_SUFFIXES))
    some = paths[:: max(1, len(paths) // 40)]
    parse = measure_seconds(lambda: [pretty_midi.PrettyMIDI(str(path)) for path in some], 1)
    parse /= len(some)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        preprocess.main([str(midi), folder])
        whole = (time.perf_counter() - started) / len(paths)
    figure = f"{1 / whole:.1f} files/s; pretty_midi, parsing only: {1 / parse:.1f}"
    yield "preprocessing", figure, f"{parse / whole:.1f}x"


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


def measure_training() -> Iterator[Row]:
    """Yield the speed of a training step: whole sequences against the plain implementation."""
    plain, whole, precision, model = measure_passes()
    events = WINDOW * BATCH
    figure = (
        f"{events / whole:,.0f} events/s in {precision}; the loop in fp32: {events / plain:,.0f}"
    )
    yield "training", figure, f"{plain / whole:.2f}x"
    weights = [*model.gru.parameters(), model.output_fc.weight]
    sizes = [weight.numel() for weight in weights if weight.dim() == 2]
    # a multiplication and an addition per weight, forward and for both gradients
    achieved = events / whole * 3 * 2 * sum(sizes)
    for dtype in dict.fromkeys((precision, "fp32")):
        # the product of a layer's inputs, as a yardstick of what the machine can do
        left, right = (torch.ones(s, dtype=DTYPES[dtype]) for s in ((events, 512), (512, 1536)))
        rate = 2 * events * 512 * 1536 / measure_seconds(functools.partial(left.matmul, right), 5)
        figure = f"{achieved / 1e9:.0f} GFLOP/s; one large product: {rate / 1e9:.0f}"
        yield f"training, share of a product in {dtype}", figure, f"{achieved / rate:.0%}"
    corpus = Corpus([make_performance(np.arange(5000) % 240)] * 100)
    sampler, steps = WindowSampler(corpus, WINDOW, 10, 8), itertools.count()

    def sample() -> None:
        sampler.sample_batch(BATCH, 0, next(steps), 0.9, True).to_device(CPU, corpus.encoding)

    seconds = measure_seconds(sample, 20)
    yield "sampling a batch, share of a step", f"{1000 * seconds:.1f} ms", f"{seconds / whole:.2%}"


# ------------------------------------------------------------------------------- evaluation


@torch.inference_mode()
def evaluate_plainly(model: PerformanceRNN, corpus: Corpus) -> float:
    """Return the loss in nats: all performances in one batch in float32, 128 events at a time."""
    performances = sorted(corpus.performances, key=len, reverse=True)
    hidden, nats = model.init_hidden_each(torch.zeros(len(performances), SIZES.init_dim)), 0.0
    previous = torch.full((1, len(performances)), model.primary_event)
    for start in range(0, len(performances[0]), 128):
        parts = [p.read(start, start + 128) for p in performances if len(p) > start]
        lengths = torch.tensor([len(events) for events, _ in parts])
        events, controls = (
            nn.utils.rnn.pad_sequence([torch.tensor(array) for array in arrays])
            for arrays in zip(*parts, strict=True)
        )
        events = events.long()
        inputs = torch.cat([previous[:, : len(parts)], events[:-1]])
        vectors = expand_controls(controls, corpus.encoding)
        logits, hidden = model(inputs, hidden[:, : len(parts)].contiguous(), vectors)
        losses = functional.cross_entropy(logits.flatten(0, 1), events.flatten(), reduction="none")
        is_event = torch.arange(len(events))[:, None] < lengths
        nats += float(losses.view(events.shape)[is_event].sum())
        previous = events[-1:]
    return nats


def measure_evaluation() -> Iterator[Row]:
    """Yield the speed of an evaluation with and without control, against a plain one."""
    rng, model = np.random.default_rng(0), PerformanceRNN(SIZES).eval()
    # a median of 400 events; a tenth as long as the performances of MAESTRO, about
    lengths = rng.lognormal(np.log(400), 0.8, 64).astype(int) + 1
    corpus = Corpus([make_performance(rng.integers(0, 240, length)) for length in lengths])
    precision = pick_precision(CPU)
    choices = (None, ())
    plain = measure_seconds(lambda: evaluate_plainly(model, corpus), 2) * len(choices)
    fast = measure_seconds(lambda: evaluate_choices(model, corpus, choices, precision=precision), 2)
    events = corpus.events * len(choices)
    figure = (
        f"{events / fast:,.0f} events/s in {precision}; one batch in fp32: {events / plain:,.0f}"
    )
    yield "evaluation", figure, f"{plain / fast:.2f}x"


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


def measure_generation() -> Iterator[Row]:
    """Yield the speed of generate.py's loop against the plain step with Categorical sampling."""
    torch.set_num_threads(1)  # as generate.py does
    model = PerformanceRNN(SIZES).eval()
    plain = PlainStep(model).eval()
    steps, control = 1000, parse_control(";3")
    kernel = Engine(model).describe_products()
    yield "kernel of the generation", f"{kernel}, {format_threads()}", ""

    @torch.inference_mode()
    def run_plain(batch: int) -> None:
        hidden = model.init_hidden_each(torch.randn(batch, model.config.init_dim))
        event, controls = torch.full((batch,), 239), torch.rand(batch, 24)
        for _ in range(steps):
            logits, hidden = plain(event, hidden, controls)
            event = torch.distributions.Categorical(logits=logits).sample()

    def run_pipeline(batch: int, count: int, threads: int = 1) -> None:
        constraints = build_event_constraints(CURRENT, 12, 4.0)
        settings = (batch, constraints, Sampler(), control)
        job = GenerationJob(model, CURRENT, 0, count, *settings, max_threads=threads)
        list(generate_events(job))

    processors = utils.count_processors()
    for batch in (1, 8, 64):
        slow = measure_seconds(functools.partial(run_plain, batch), 3)
        fast = measure_seconds(functools.partial(run_pipeline, batch, steps), 3)
        setup = measure_seconds(functools.partial(run_pipeline, batch, 1), 3)
        figure = (
            f"{batch * steps / fast:,.0f} events/s, with {1000 * setup:.0f} ms of setup; "
            f"the loop: {batch * steps / slow:,.0f}"
        )
        yield f"generation, {batch} at once", figure, f"{slow / fast:.2f}x"
        if batch < MIN_SHARED_BATCH or processors == 1:
            continue
        fast = measure_seconds(functools.partial(run_pipeline, batch, steps, processors), 3)
        one_thread = slow
        torch.set_num_threads(processors)
        slow = measure_seconds(functools.partial(run_plain, batch), 3)
        torch.set_num_threads(1)
        figure = (
            f"{batch * steps / fast:,.0f} events/s, {one_thread / fast:.2f}x the loop above; "
            f"the loop with {processors} threads: {batch * steps / slow:,.0f}"
        )
        yield f"generation, {batch} at once, up to 2 threads", figure, f"{slow / fast:.2f}x"


def measure_start() -> Iterator[Row]:
    """Yield the wall-clock time of --help and of a first piece, from command to end."""

    def run(*argv: str) -> None:
        subprocess.run([sys.executable, *argv], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    for script in ("preprocess.py", "train.py", "generate.py"):
        seconds = measure_seconds(functools.partial(run, script, "--help"), 3)
        yield f"{script} --help", f"{seconds:.2f} s", ""
    with tempfile.TemporaryDirectory() as folder:
        argv = ("generate.py", "-b", "1", "-l", "1000", "--quiet", "-o", folder)
        seconds = measure_seconds(functools.partial(run, *argv), 3)
    yield "a first piece of 1,000 events", f"{seconds:.2f} s", ""


# ------------------------------------------------------------------------------------ table

BEGIN, END = "<!-- tables of tools.benchmark -->", "<!-- end of these tables -->"


def format_rows(rows: Sequence[Row]) -> str:
    """Return the rows as a table with the date."""
    cells = {name: (figure, ratio) for name, figure, ratio in rows}
    return format_table(f"measured {datetime.date.today()}", ["figure", "ratio"], cells)


def write_table(page: Path, name: str, table: str) -> None:
    """Write the table of a processor to a page, in place of an earlier one of this processor."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    old, after = rest.split(END)
    tables = dict(part.strip().split("\n\n", 1) for part in old.split("### ")[1:])
    tables[name] = table
    parts = "".join(f"\n### {title}\n\n{text}\n" for title, text in tables.items())
    utils.atomic_write(page, f"{before}{BEGIN}\n{parts}\n{END}{after}".encode())


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--midi", type=Path, help="also measure preprocess.py on this folder of MIDI files")
    add("--write", action="store_true", help="also write the table to docs/results.md")
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
    return parser


def main() -> None:
    """Print the table, or the figures of --time-to-quality."""
    options = build_parser().parse_args()
    if options.time_to_quality:
        train_data, val_data = options.time_to_quality
        for line in measure_time_to_quality(train_data, val_data, options.minutes, options.also):
            print(line, flush=True)
        return
    measures = [describe_machine(), measure_start(), measure_training(), measure_evaluation()]
    if options.midi:
        measures.append(measure_preprocessing(options.midi))
    rows = []
    for row in itertools.chain(*measures, measure_generation()):  # this one sets the threads
        print(": ".join(filter(None, row)), file=sys.stderr, flush=True)
        rows.append(row)
    table = format_rows(rows)
    print(table)
    if options.write:
        write_table(ROOT / "docs" / "results.md", get_processor_name(), table)


if __name__ == "__main__":
    main()
