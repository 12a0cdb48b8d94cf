"""How fast the suite is, as ratios within one run: python3 -m tools.benchmark

Absolute figures depend on the machine and on what else it does; the ratios travel.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
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
from config import LEGACY_RECIPE, GenerateConfig, ModelConfig
from corpus.batches import WindowSampler
from corpus.performance import Corpus
from generation.control import read
from generation.pipeline import GenerationJob, generate_events
from model import PerformanceRNN
from sequence import CURRENT
from tools.synthetic_data import performance, write_midi
from training.evaluate import evaluate
from training.learner import TYPES, pick_precision
from training.trainer import EXCERPT

ASAP = Path(__file__).parents[2] / "shared" / "data" / "asap" / "validation"
STEPS, BATCH = 200, 64  # the original's window and batch
SIZES = ModelConfig(gru_layers=3, gru_dropout=0.0)  # the original's, but for its dropout
PRODUCT = ((STEPS * BATCH, 512), (512, 1536))  # shapes of the product of a layer's inputs


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The median time of `work`, after one run that does not count."""
    work()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def preprocessing(midi: Path | None) -> Iterator[str]:
    """The whole command, against the time pretty_midi needs only to parse the same files."""
    with tempfile.TemporaryDirectory() as folder:
        if midi is None:
            midi = Path(folder, "midi")
            for seed in range(40):
                write_midi(midi / f"{seed}.mid", 2000, seed)
        paths = list(utils.find_files(midi, preprocess.MIDI_SUFFIXES))
        some = paths[:: max(1, len(paths) // 40)]
        parsing = seconds(lambda: [pretty_midi.PrettyMIDI(str(path)) for path in some], 1)
        encoding = seconds(lambda: [preprocess.encode(path.read_bytes(), "") for path in some], 3)
        begun = time.perf_counter()
        with redirect_stdout(io.StringIO()):
            preprocess.main([str(midi), str(Path(folder, "data"))])
        whole = (time.perf_counter() - begun) / len(paths)
    parsing, encoding = parsing / len(some), encoding / len(some)
    yield f"pretty_midi, parsing alone: {1 / parsing:.1f} files/s ({1000 * parsing:.1f} ms each)"
    for name, time_each in (("encoding, one process", encoding), ("preprocess.py", whole)):
        yield f"{name}: {1 / time_each:.1f} files/s, {parsing / time_each:.1f} x"


class Plain(nn.Module):
    """The network as one would write it first: a multi-layer nn.GRU, one event at a time."""

    def __init__(self, model: PerformanceRNN) -> None:
        super().__init__()
        sizes = model.config
        self.model = model
        self.gru = nn.GRU(sizes.hidden_dim, sizes.hidden_dim, sizes.gru_layers)
        self.gru.load_state_dict(model.gru.state_dict())

    def forward(self, heard: Tensor, hidden: Tensor, control: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, events] of one step, and the hidden state."""
        model = self.model
        flag = torch.zeros(len(heard), 1)
        joined = torch.cat([model.event_embedding(heard), flag, control], dim=1)
        merged = functional.leaky_relu(model.concat_input_fc(joined), 0.1)
        _, hidden = self.gru(merged[None], hidden)
        states = hidden.transpose(0, 1).flatten(1)
        return model.output_fc(states), hidden


def paces() -> tuple[float, float, str, PerformanceRNN]:
    """Seconds for a batch step by step in float32, and as whole sequences; in which precision.

    The last is the network, of the original's size.
    """
    model = PerformanceRNN(SIZES)
    plain = Plain(model)
    events, controls = torch.randint(0, 240, (STEPS, BATCH)), torch.rand(STEPS, BATCH, 24)
    init = torch.randn(BATCH, model.config.init_dim)
    precision = pick_precision(torch.device("cpu"))
    autocast = torch.autocast("cpu", TYPES[precision], enabled=precision != "fp32")

    def whole() -> None:
        with autocast:
            logits, _ = model(model.shift_right(events), model.init_hidden(init), controls)
        functional.cross_entropy(logits.float().flatten(0, 1), events.flatten()).backward()

    def stepped() -> None:
        hidden, logits = model.init_hidden(init), []
        for heard, control in zip(model.shift_right(events), controls, strict=True):
            output, hidden = plain(heard, hidden, control)
            logits.append(output)
        functional.cross_entropy(torch.cat(logits), events.flatten()).backward()

    return seconds(stepped, 2), seconds(whole, 3), precision, model


def training() -> Iterator[str]:
    """One step of training at the original's size: whole sequences against the plain loop."""
    slow, fast, precision, model = paces()
    left, right = (torch.ones(size, dtype=TYPES[precision]) for size in PRODUCT)
    product, count = seconds(lambda: left @ right, 5), STEPS * BATCH
    yield f"step by step, fp32: {count / slow:,.0f} events/s"
    yield f"whole sequences, {precision}: {count / fast:,.0f} events/s, {slow / fast:.2f} x"
    rate, reached = 2 * PRODUCT[0][0] * 512 * 1536 / product, count / fast * operations(model)
    yield (
        f"input product: {rate / 1e9:.0f} GFLOP/s; training, by its products alone: "
        f"{reached / 1e9:.0f} GFLOP/s, {reached / rate:.0%} of it"
    )
    corpus = Corpus([performance(np.arange(5000) % 240)] * 100)
    windows, numbers = WindowSampler(corpus, STEPS, 10, 8), itertools.count()
    cpu = torch.device("cpu")
    cut = seconds(
        lambda: windows.sample_batch(BATCH, 0, next(numbers), 0.9, True).to_device(cpu, corpus.encoding), 20
    )
    yield f"cutting a batch: {1000 * cut:.1f} ms, {cut / fast:.2%} of a step"


def operations(model: PerformanceRNN) -> int:
    """Multiplications and additions that one event costs in training, in products alone."""
    weights = [*model.gru.parameters(), model.output_fc.weight]
    return 3 * 2 * sum(weight.numel() for weight in weights if weight.dim() == 2)


LEGACY = "the original's recipe"
RECIPES = {LEGACY: LEGACY_RECIPE, "ours": ""}


def _begun_as_the_original(model: PerformanceRNN) -> None:
    """Give a network the original's first weights: torch's for the GRU, small ones elsewhere."""
    model.gru.reset_parameters()
    for module in (model.inithid_fc, model.event_embedding, model.concat_input_fc, model.output_fc):
        nn.init.xavier_normal_(module.weight)


def _learned(
    name: str, recipe: str, data: Path, validation: Path, minutes: float
) -> Iterator[tuple[float, str]]:
    """Validation against minutes of training (judging not counted), for one recipe."""
    with tempfile.TemporaryDirectory() as folder:
        common = ["-s", f"{folder}/m.sess", "-d", str(data), "-v", str(validation)]
        options = train.parse_args([*common, *recipe.split()])
        if name != LEGACY:
            options = replace(options, max_minutes=minutes)
        run, judged = train.open_run(options), 0.0
        if name == LEGACY:
            _begun_as_the_original(run.learner.model)
        while run.reached.seconds < 60 * minutes:
            begun = time.monotonic()
            run.learn()
            spent = run.reached.seconds + time.monotonic() - begun
            run.reached = replace(run.reached, step=run.reached.step + 1, seconds=spent)
            if spent >= 60 * min(minutes, judged + max(1.0, minutes / 8)):
                judged = spent / 60
                judgement = evaluate(run.learner.averaged, run.judges, EXCERPT)
                yield judged, f"step {run.reached.step}: {judgement}"
        yield judged, f"whole pieces: {evaluate(run.learner.averaged, run.judges)}"


def time_to_quality(
    data: Path, validation: Path, minutes: float, others: list[str]
) -> Iterator[str]:
    """All recipes, taking turns: what else the machine does slows all alike.

    The original's is learned by this suite's fast steps; beside its minutes stand those that a
    loop over single steps in float32, such as the original's own, would have taken at most (the
    optimizer is no slower there).
    """
    slow, fast, precision, _ = paces()
    yield f"a loop over single steps in fp32 takes {slow / fast:.2f} times as long as {precision}"
    recipes = RECIPES | {other: other for other in others}
    turns = (_learned(name, recipes[name], data, validation, minutes) for name in recipes)
    for lines in itertools.zip_longest(*turns):
        for name, line in zip(recipes, lines, strict=True):
            if line is not None:
                spent, judgement = line
                told = f"{spent:.1f} min"
                if name == LEGACY:
                    told += f" ({spent * slow / fast:.0f} in a loop of its own)"
                yield f"{name}, {told}, {judgement}"


def generation() -> Iterator[str]:
    """generate.py's loop, to one control, against the plain step with Categorical sampling."""
    torch.set_num_threads(1)  # as generate.py does
    model = PerformanceRNN(SIZES).eval()
    plain = Plain(model).eval()
    steps = 1000

    @torch.inference_mode()
    def sampled(batch: int) -> None:
        hidden = model.init_hidden_each(torch.randn(batch, model.config.init_dim))
        heard, control = torch.full((batch,), 239), torch.rand(batch, 24)
        for _ in range(steps):
            logits, hidden = plain(heard, hidden, control)
            heard = torch.distributions.Categorical(logits=logits).sample()

    def composed(batch: int, count: int) -> None:
        order = GenerationJob(model, CURRENT, 0, read(";3", 0), None, count)
        list(generate_events(order, GenerateConfig(batch_size=batch)))

    for batch in (1, 8, 64):
        slow = seconds(lambda batch=batch: sampled(batch), 3)  # type: ignore[misc]
        fast = seconds(lambda batch=batch: composed(batch, steps), 3)  # type: ignore[misc]
        begun = seconds(lambda batch=batch: composed(batch, 1), 3)  # type: ignore[misc]
        yield (
            f"batch {batch}: plain {batch * steps / slow:,.0f} events/s, "
            f"generate.py {batch * steps / fast:,.0f} events/s, {slow / fast:.2f} x "
            f"({slow / (fast - begun):.2f} x but for {1000 * begun:.0f} ms of setting up)"
        )


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--midi", type=Path, default=ASAP if ASAP.is_dir() else None)
    parser.add_argument(
        "--time-to-quality",
        nargs=2,
        type=Path,
        metavar=("DATA", "VALIDATION"),
        help="only train by the original's recipe and by ours on folders of .data files (long)",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="FLAGS",
        help="with --time-to-quality: another recipe, as flags of train.py (may come again)",
    )
    parser.add_argument("--minutes", type=float, default=4.0, help="for each recipe (4)")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{os.cpu_count()} processors, torch {torch.__version__}, {threads} threads")
    if arguments.time_to_quality:
        for line in time_to_quality(*arguments.time_to_quality, arguments.minutes, arguments.also):
            print(line, flush=True)
        return
    print("preprocessing", *preprocessing(arguments.midi), sep="\n  ")
    print("training", *training(), sep="\n  ")
    print("generation", *generation(), sep="\n  ")


if __name__ == "__main__":
    main()
