"""Measure --keep, --fill, --perform and --form on real performances and scores.

examples:
  python3 -m tools.given_notes fill --validation DATA
  python3 -m tools.given_notes perform --validation DATA --scores DATA/scores
  python3 -m tools.given_notes speed

DATA has MIDI files. ASAP's scores are folders with midi_score.mid, and beats as
midi_score_annotations.txt and NAME_annotations.txt; folders of scores and performances have the
same names.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import generate
import utils
from config import MIDI_SUFFIXES, GenerateConfig
from corpus.recall import recall_columns
from generation.control import parse_control
from generation.given_notes import (
    CONTEXT,
    EVIDENCE,
    Accompaniment,
    Form,
    Gap,
    ScorePerformance,
    build_gap_controls,
    keep_playable,
    measure_controls,
    parse_form,
)
from generation.pipeline import GenerationJob
from generation.smc import Trace
from midi.control_schedule import TIME_STEP, ControlSchedule
from sequence import ControlSeq, EventSeq, NoteSeq
from utils import Array

GAP = 6.0  # seconds
LEAST_NOTES = 12  # of an excerpt
NGRAM = 6  # notes; a passage that returns
LEAST_LAG = 10.0  # seconds after which it counts as a return
FORM = "A A B A"
FORM_SECONDS = 90.0


def ignore(seconds: float) -> None:
    """Show no progress."""


def compute_losses(
    job: GenerationJob,
    notes: NoteSeq,
    start: float,
    end: float,
    find_controls: Callable[[Array], Array] | None = None,
) -> tuple[float, int]:
    """Return the loss of the events between two seconds, and the number of notes there.

    Nats; the network sees up to 30 s before. find_controls: returns the control vectors
    [times, dim] at some times in seconds; None for no control.
    """
    near = notes.select((notes.starts >= start - 30) & (notes.starts < end))
    near = keep_playable(near)
    events = EventSeq.from_note_seq(near.adjust_time(-float(near.starts[0])), job.encoding)
    origin = float(near.starts[0])
    seconds = origin + events.times / job.encoding.ticks_per_second
    inside = (seconds >= start) & (seconds < end)
    column = torch.from_numpy(events.to_array().astype(np.int64))[:, None]
    controls = None
    if find_controls is not None:
        controls = torch.from_numpy(find_controls(seconds).astype(np.float32))[:, None]
    with torch.inference_mode():
        hidden = job.model.init_hidden_each(torch.zeros(1, job.model.config.init_dim))
        recall = recall_columns(events.to_array()[:, None])
        inputs = job.model.shift_right(column)
        logits, _ = job.model(inputs, hidden, controls, recall=recall)
        losses = -logits.log_softmax(dim=-1).gather(2, column[..., None])[:, 0, 0]
    count = int(((near.starts >= start) & (near.starts < end)).sum())
    return float(losses[torch.from_numpy(inside)].sum()), count


def format_quantiles(name: str, values: Sequence[float] | Array) -> str:
    """Format median and quartiles of values."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{name}: median {middle:.2f}, quartiles {low:.2f} and {high:.2f}, {len(values)} values"


def choose_files(folder: Path, count: int, seed: int) -> list[Path]:
    """Return some MIDI files of different folders, in random order."""
    paths = list(utils.find_files(folder, MIDI_SUFFIXES))
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    rng = np.random.default_rng(seed)
    rounds = [files[int(rng.integers(len(files)))] for files in by_folder.values()]
    while len(rounds) < count:
        rounds.append(paths[int(rng.integers(len(paths)))])
    return [rounds[k] for k in rng.permutation(len(rounds))[:count]]


# --------------------------------------------------------------------------------------- fill


def make_gap_controls(job: GenerationJob, gap: Gap) -> Callable[[Array], Array]:
    """Return a function from times in seconds to the control vectors with which a gap is filled."""
    before = gap.notes.select(gap.notes.starts < gap.start)
    after = gap.notes.select(gap.notes.starts >= gap.end)
    rows = build_gap_controls(job, before, after, gap.start, gap.end)
    assert rows is not None
    near = keep_playable(before.select(before.starts >= gap.start - CONTEXT))

    def find_controls(times: Array) -> Array:
        steps = ((times - gap.start) / TIME_STEP).astype(int).clip(0, len(rows) - 1)
        is_before = (times < gap.start)[:, None]
        return np.where(is_before, measure_controls(job, near, times), rows[steps])

    return find_controls


def measure_fill(job: GenerationJob, arguments: argparse.Namespace) -> Iterator[str]:
    """Fill gaps in performances; compare with the pianist's notes and with continuing blindly."""
    rng = np.random.default_rng(arguments.seed)
    names = ("pianist", "filled", "blind")
    rows: list[list[list[float]]] = []  # [files, names, (gap, gap without control, after it)]
    sizes, lengths = [], []
    for number, path in enumerate(choose_files(arguments.validation, arguments.count, 0)):
        notes = NoteSeq.from_midi_file(path)
        start = float(rng.uniform(20, max(21, min(90, notes.seconds - 15))))
        gap = Gap(notes, start, start + GAP)
        inside = (notes.starts >= gap.start) & (notes.starts < gap.end)
        if inside.sum() < LEAST_NOTES or notes.seconds < start + GAP + EVIDENCE:
            continue
        arrangements = [
            gap.generate(job, number, particles, ignore) for particles in (arguments.particles, 1)
        ]
        sizes.append(arrangements[0].traces[0].lowest_size)
        lengths.append(float((~arrangements[0].is_given).sum() / inside.sum()))
        find_controls = make_gap_controls(job, gap)
        after = (gap.end, gap.end + EVIDENCE)
        rows.append([])
        for result in (notes, *(arrangement.notes for arrangement in arrangements)):
            totals = [
                compute_losses(job, result, gap.start, gap.end, find_controls),
                compute_losses(job, result, gap.start, gap.end),
                compute_losses(job, result, *after, find_controls),
            ]
            rows[-1].append([total / max(1, count) for total, count in totals])
        print(path.name, np.round(rows[-1], 2).tolist(), file=sys.stderr, flush=True)
    values = np.array(rows)
    for k, name in enumerate(names):
        yield format_quantiles(f"{name}, nats/note in the gap", values[:, k, 0])
        yield format_quantiles(f"{name}, nats/note in the gap, no control", values[:, k, 1])
        yield format_quantiles(f"{name}, nats/note in the {EVIDENCE:g} s after it", values[:, k, 2])
    pianist, filled, blind = values.transpose(1, 0, 2)
    likely = [(filled <= other).mean(axis=0) for other in (pianist, blind)]
    yield f"filled gaps at least as likely as the pianist's: {likely[0][0]:.0%}"
    yield f"what follows at least as likely as after the blind one: {likely[1][2]:.0%}"
    yield format_quantiles("notes in the gap, filled / pianist", lengths)
    yield format_quantiles("lowest effective number of particles", sizes)


# --------------------------------------------------------------------------------------- keep


def find_melody(notes: NoteSeq) -> NoteSeq:
    """Return the notes above C4 that are the highest ones within 60 ms of their onset."""
    is_melody = [
        pitch >= 60 and not ((np.abs(notes.starts - start) < 0.06) & (notes.pitches > pitch)).any()
        for start, pitch in zip(notes.starts, notes.pitches, strict=True)
    ]
    return notes.select(np.array(is_melody, bool))


def measure_keep(job: GenerationJob, arguments: argparse.Namespace) -> Iterator[str]:
    """Accompany melodies of performances, with the control of the whole performance."""
    rng = np.random.default_rng(arguments.seed)
    losses: dict[str, list[float]] = {"pianist": [], "accompanied": [], "one particle": []}
    similarity, density = [], []
    for number, path in enumerate(choose_files(arguments.validation, arguments.count, 1)):
        notes = NoteSeq.from_midi_file(path)
        if notes.seconds < 40:
            continue
        start = float(rng.uniform(10, min(90, notes.seconds - 15)))
        inside = (notes.starts >= start) & (notes.starts < start + 10)
        excerpt = keep_playable(notes.select(inside)).trim_start()
        melody = find_melody(excerpt)
        if len(melody) < LEAST_NOTES or len(excerpt) < 1.3 * len(melody):
            continue
        measured = ControlSeq.from_event_seq(EventSeq.from_note_seq(excerpt, job.encoding)).values
        level, histogram = measured["density"].mean(), measured["histogram"].mean(axis=0)
        control = ControlSchedule(np.rint([level]), histogram[None], np.zeros(1))
        results = {"pianist": excerpt}
        for name, particles in (("accompanied", arguments.particles), ("one particle", 1)):
            task = Accompaniment(melody)
            results[name] = task.generate(
                replace(job, control=control), number, particles, ignore
            ).notes
        for name, result in results.items():
            total, count = compute_losses(job, result, 0.0, 11.0)
            losses[name].append(total / count)
        counts = np.bincount(results["accompanied"].pitches % 12, minlength=12)
        similarity.append(
            float(counts @ histogram / np.linalg.norm(counts) / np.linalg.norm(histogram))
        )
        density.append(len(results["accompanied"]) / len(excerpt))
    for name, values in losses.items():
        yield format_quantiles(f"{name}, nats/note", values)
    yield format_quantiles("histogram similarity", similarity)
    yield format_quantiles("notes, accompanied / pianist", density)


# ------------------------------------------------------------------------------------ perform


def read_beats(path: Path) -> Array:
    """Return the seconds of the beats of an annotation file of ASAP."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return np.array([float(line.split("\t")[0]) for line in lines if line.strip()])


def match_notes(score: NoteSeq, played: NoteSeq, mapped: Array) -> Array:
    """Return the index of the played note of each score note, -1 for none: int64 [notes].

    mapped: the second of the score at which each played note starts, by the beats.
    """
    result, used = np.full(len(score), -1), np.zeros(len(played), bool)
    for k in range(len(score)):
        distance = np.abs(mapped - score.starts[k])
        distance[(played.pitches != score.pitches[k]) | used] = np.inf
        best = int(distance.argmin()) if len(distance) else 0
        if len(distance) and distance[best] < 0.25:
            result[k], used[best] = best, True
    return result


def find_excerpts(
    arguments: argparse.Namespace,
) -> Iterator[tuple[NoteSeq, list[tuple[NoteSeq, Array]]]]:
    """Yield excerpts of scores at the tempo of a pianist, with one or two performances.

    A performance comes with the index of the played note of each score note.
    """
    rng = np.random.default_rng(arguments.seed)
    for path in sorted(arguments.scores.rglob("midi_score.mid")):
        folder = arguments.validation / path.parent.relative_to(arguments.scores)
        beats = read_beats(path.with_name("midi_score_annotations.txt"))
        names = sorted(p.stem for p in folder.glob("*.mid"))
        names = [n for n in names if path.with_name(f"{n}_annotations.txt").exists()]
        if not names or len(beats) < 40:
            continue
        score = NoteSeq.from_midi_file(path)
        first = int(rng.integers(4, len(beats) - 30))
        begin = float(beats[first])
        stop = float(beats[min(len(beats) - 1, int(np.searchsorted(beats, begin + 15)))])
        inside = keep_playable(
            score.select((score.starts >= begin - 0.01) & (score.starts < stop - 0.01))
        )
        performances: list[tuple[NoteSeq, Array]] = []
        scale = 1.0
        for name in rng.permutation(names)[:2]:
            played_beats = read_beats(path.with_name(f"{name}_annotations.txt"))
            if len(played_beats) != len(beats):
                continue
            played = NoteSeq.from_midi_file(folder / f"{name}.mid")
            low, high = np.interp([begin, stop], beats, played_beats)
            near = played.select((played.starts > low - 1) & (played.starts < high + 1))
            matched = match_notes(inside, near, np.interp(near.starts, played_beats, beats))
            if (matched >= 0).mean() > 0.8:
                if not performances:
                    scale = (high - low) / (stop - begin)
                performances.append((near, matched))
        if performances and len(inside) >= LEAST_NOTES:
            starts = (inside.starts - begin) * scale
            ends = (inside.ends - begin) * scale
            starts = starts.clip(0)
            velocities = np.full(len(inside), 64)
            yield NoteSeq(starts, ends.clip(starts), inside.pitches, velocities), performances


def compare_performances(
    score: NoteSeq, first: tuple[Array, Array], second: tuple[Array, Array]
) -> tuple[float, float]:
    """Return the correlation of the velocities, and of the logarithms of inter-onset ratios.

    first, second: onsets and velocities of the score's notes [notes], nan for a missing note.
    """
    present = np.isfinite(first[0]) & np.isfinite(second[0])
    velocity = correlate(first[1][present], second[1][present])
    _, groups = np.unique(np.round(score.starts[present], 3), return_inverse=True)
    ratios = []
    written = average_groups(score.starts[present], groups)
    for onsets, _ in (first, second):
        intervals = np.diff(average_groups(onsets[present], groups)).clip(0.01)
        ratios.append(np.log(intervals / np.diff(written)))
    return velocity, correlate(*ratios)


def average_groups(values: Array, groups: Array) -> Array:
    """Return the mean of the values of each group."""
    return np.bincount(groups, values) / np.bincount(groups)


def correlate(first: Array, second: Array) -> float:
    """Return the correlation of two arrays; 0 if one is constant."""
    if len(first) < 3 or np.std(first) == 0 or np.std(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def measure_perform(job: GenerationJob, arguments: argparse.Namespace) -> Iterator[str]:
    """Perform excerpts of scores; compare with pianists."""
    rng = np.random.default_rng(arguments.seed)
    rows: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("network", "one particle", "random", "flat", "another pianist")
    }
    sizes = []
    for number, (score, performances) in enumerate(find_excerpts(arguments)):
        if number >= arguments.count:
            break
        played = []
        for notes, matched in performances:
            columns = []
            for column in (notes.starts, notes.velocities.astype(float)):
                columns.append(np.where(matched >= 0, column[matched], np.nan))
            played.append((columns[0], columns[1]))
        pianist = played[0]
        for name, particles in (("network", arguments.particles), ("one particle", 1)):
            result = ScorePerformance(score, 1.0).generate(job, number, particles, ignore)
            notes = result.notes
            if name == "network":
                sizes.append(result.traces[0].lowest_size)
            order = np.argsort(np.lexsort((score.starts, score.pitches)))
            index = np.lexsort((notes.starts, notes.pitches))[order]
            generated = (notes.starts[index], notes.velocities[index].astype(float))
            rows[name].append(compare_performances(score, generated, pianist))
        shift = np.cumsum(rng.permutation(np.diff(generated[0], prepend=0.0)))
        random = (shift, rng.permutation(generated[1]))
        rows["random"].append(compare_performances(score, random, pianist))
        flat = (score.starts, score.velocities.astype(float))
        rows["flat"].append(compare_performances(score, flat, pianist))
        print(number, rows["network"][-1], rows["random"][-1], file=sys.stderr, flush=True)
        if len(played) > 1:
            rows["another pianist"].append(compare_performances(score, played[1], pianist))
    for name, values in rows.items():
        velocity, ratio = np.array(values).T
        yield format_quantiles(f"{name}, correlation of velocities", velocity)
        yield format_quantiles(f"{name}, correlation of inter-onset ratios", ratio)
    yield format_quantiles("lowest effective number of particles", sizes)


# --------------------------------------------------------------------------------------- form


def measure_return(notes: NoteSeq) -> float:
    """Return the share of passages of NGRAM notes that were there LEAST_LAG seconds before.

    A passage is the pitches of NGRAM notes in a row.
    """
    seen: dict[bytes, float] = {}
    returned, total = 0, 0
    for k in range(len(notes) - NGRAM + 1):
        word = notes.pitches[k : k + NGRAM].tobytes()
        total += 1
        returned += word in seen and notes.starts[k] - seen[word] >= LEAST_LAG
        seen.setdefault(word, float(notes.starts[k]))
    return returned / max(1, total)


def measure_form(job: GenerationJob, arguments: argparse.Namespace) -> Iterator[str]:
    """Generate pieces with and without a form, and measure how much returns."""
    job = replace(job, control=parse_control("C major;4"))
    for name, form in (("with the form", FORM), ("without", "A B C D")):
        sections, _ = parse_form(form, FORM_SECONDS)
        values, ratios = [], []
        for number in range(arguments.count):
            notes = Form(sections, 0.3).generate(job, number, arguments.particles, ignore).notes
            values.append(measure_return(notes))
            total, count = compute_losses(job, notes, 0.0, FORM_SECONDS)
            ratios.append(total / count)
        yield format_quantiles(f"{FORM}, {name}: share of passages that return", values)
        yield format_quantiles(f"{FORM}, {name}: nats/note", ratios)


# -------------------------------------------------------------------------------------- speed


def measure_speed(job: GenerationJob, arguments: argparse.Namespace) -> Iterator[str]:
    """Accompany ten seconds of a melody, with one and two threads."""
    pitches = np.array([72, 72, 79, 79, 81, 81, 79, 77, 77, 76] * 2)
    starts = 0.5 * np.arange(len(pitches))
    melody = NoteSeq(starts, starts + 0.45, pitches, np.full(len(pitches), 80))
    job = replace(job, control=parse_control("C major;6/s"))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        wall, cpu = time.perf_counter(), time.process_time()
        arrangement = Accompaniment(melody).generate(job, 0, arguments.particles, ignore)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        trace: Trace = arrangement.traces[0]
        yield (
            f"{arguments.particles} particles, {melody.seconds:.1f} s of music, "
            f"{len(trace.events)} events, {threads} threads: {wall:.2f} s, {cpu:.2f} s of CPU time"
        )


# --------------------------------------------------------------------------------------- main

MEASURES = {
    "keep": measure_keep,
    "fill": measure_fill,
    "perform": measure_perform,
    "form": measure_form,
    "speed": measure_speed,
}


def run(arguments: argparse.Namespace) -> int:
    """Print the figures of one mode."""
    options = GenerateConfig(
        session=arguments.session, seed=arguments.seed, temperature=arguments.temperature
    )
    torch.set_num_threads(1)
    job = generate.prepare_job(options, None)
    for line in MEASURES[arguments.mode](job, arguments):
        print(line, flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures of one mode; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tools.given_notes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("mode", choices=list(MEASURES))
    parser.add_argument("-s", "--session", default=GenerateConfig().session)
    parser.add_argument("--validation", type=Path, help="folder of performances")
    parser.add_argument("--scores", type=Path, help="folder of scores, for perform")
    parser.add_argument("--count", type=int, default=30, help="examples (default: %(default)s)")
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=GenerateConfig().temperature)
    arguments = parser.parse_args(argv)
    return utils.run_command("tools.given_notes", lambda: run(arguments), "interrupted")


if __name__ == "__main__":
    raise SystemExit(main())
