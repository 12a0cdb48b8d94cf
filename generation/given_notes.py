"""Music around given notes: accompany them, fill a gap, perform a score, repeat sections.

Each task says which events are given (`smc.GivenEvents`), and which free events may come between
them. Times are seconds of the file; in the arrays of events, microseconds from the first generated
event on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

import utils
from generation.engine import (
    NO_CONTEXT,
    NO_CONTROL,
    ControlTable,
    Engine,
    GenerationInputs,
    draw_init,
)
from generation.pipeline import (
    MAX_NOTE_SECONDS,
    GenerationJob,
    PitchBias,
    build_control_table,
    build_density_target,
)
from generation.sampling import Sampler
from generation.smc import FOREVER, EventTable, GivenEvents, ParticleFilter, Trace
from midi.control_schedule import TIME_STEP, WINDOW
from midi.notation import TempoMap
from midi.notes import find_next_onsets, read_midi
from sequence import PITCHES, ControlSeq, Encoding, EventSeq, NoteSeq, encode_schedule
from utils import Array

CHORD = 7_000  # microseconds; given events closer together are at one time
SHORTEST = 0.015  # seconds; the shortest time shift
ROUNDING = 0.001  # seconds; error of the times in a MIDI file
CONTEXT = 30.0  # seconds of the music before a gap that the network sees
EVIDENCE = 4.0  # seconds of the music after a gap that decide what fits
RUBATO = 0.25  # largest change of the time between two chords of a score, as a share
MAX_SHIFT = 0.3  # seconds; largest change of an onset of a score
CHORD_SPREAD = 0.04  # seconds; most between two notes of a chord of a score
SCORE_CONTROLS = ("density", "histogram", "register", "spread")  # that a score decides
RING = 1.0  # seconds for which a new note may sound after the end of a gap
NO_EVENTS = np.empty(0, np.int64)
RANGES = EventSeq.feat_ranges()
_INDEX = np.arange(EventSeq.dim())
NOTE_ONS, NOTE_OFFS, VELOCITIES, SHIFTS = (np.isin(_INDEX, events) for events in RANGES.values())
KEYS = np.where(NOTE_ONS, _INDEX, np.where(NOTE_OFFS, _INDEX - RANGES["note_off"].start, -1))

Progress = Callable[[float], object]  # called with seconds of generated music


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Given and new notes: is_given is bool [notes]. traces: how the particles did.

    is_for_new: whether the requested control is for the new notes only, not for all notes.
    """

    notes: NoteSeq
    is_given: Array
    traces: tuple[Trace, ...] = ()
    is_for_new: bool = False


class Task(Protocol):
    """What to generate around which notes."""

    @property
    def seconds(self) -> float:
        """The seconds of music that are generated, for a progress bar."""

    def generate(
        self, job: GenerationJob, number: int, particles: int, on_progress: Progress
    ) -> Arrangement:
        """Return sample `number` of a job."""


def check_notes(notes: NoteSeq, source: str) -> None:
    """Raise ValueError for notes that cannot be given; source: the file, for the message."""
    outside = ~np.isin(notes.pitches, PITCHES)
    if outside.any():
        pitch, start = notes.pitches[outside][0], notes.starts[outside][0]
        raise ValueError(
            f"{source}: pitch {pitch} at second {start:.2f} is not one of the piano's 88 keys "
            f"({PITCHES.start}-{PITCHES.stop - 1})"
        )
    order = np.lexsort((notes.starts, notes.pitches))
    pitches, starts = notes.pitches[order], notes.starts[order]
    overlap = (np.diff(pitches) == 0) & (np.diff(starts) < SHORTEST - ROUNDING)
    if overlap.any():
        first = int(overlap.argmax())
        raise ValueError(
            f"{source}: two notes of pitch {pitches[first]} start at second {starts[first]:.2f}, "
            "but a key can be struck only once at a time"
        )


# ---------------------------------------------------------------------------- given events


def build_given_events(
    notes: NoteSeq,
    origin: float,
    encoding: Encoding,
    sounding: NoteSeq | None = None,
    opening: float = 0.0,
    closing: float = np.inf,
    last: float = np.inf,
    end: float = 0.0,
) -> GivenEvents:
    """Return notes as given events: note on and note off at their times, with their velocity.

    notes: from `origin` on, the second at which generation starts; sounding: notes that sound at
    the origin, whose ends are given; opening, closing: new notes may start between these seconds;
    last: note offs after this second are left out; end: where the music ends, if this is later
    than the last given event.
    """
    sounding = NoteSeq() if sounding is None else sounding
    keys = np.concatenate([notes.pitches, notes.pitches, sounding.pitches]) - PITCHES.start
    seconds = np.concatenate([notes.starts, _cut_ends(notes), sounding.ends])
    is_on = np.arange(len(keys)) < len(notes)
    velocities = np.full(len(keys), -1)
    bins = np.searchsorted(encoding.velocity_edges, notes.velocities)
    velocities[: len(notes)] = RANGES["velocity"].start + bins
    times = np.rint(1e6 * np.maximum(seconds - origin, 0)).astype(np.int64)
    rows = np.flatnonzero(seconds <= last)
    groups, centers = _group_times(times[rows])
    order = np.lexsort((keys[rows], is_on[rows], groups))
    groups, rows = groups[order], rows[order]
    keys, is_on, velocities = keys[rows], is_on[rows], velocities[rows]
    # half the shortest time shift to both sides, so that every particle can reach the window
    half = 1e6 * encoding.time_shifts[0] / encoding.ticks_per_second / 2
    early, due = _list_free_events(keys, is_on, sounding.pitches - PITCHES.start)
    group_ends = np.append(np.diff(groups) != 0, True)[: len(groups)]
    group_ends &= np.isin(groups, groups[is_on])
    group_ends[-1:] = True
    return GivenEvents(
        keys + np.where(is_on, 0, RANGES["note_off"].start),
        velocities,
        earliest=np.floor(centers[groups] - half).astype(np.int64),
        latest=np.ceil(centers[groups] + half).astype(np.int64),
        after=np.zeros(len(keys), np.int64),
        within=np.full(len(keys), FOREVER),
        early=early,
        due=due,
        group_ends=group_ends,
        opening=round(1e6 * (opening - origin)),
        closing=round(min(1e6 * (closing - origin), FOREVER)),
        end=round(1e6 * max(0.0, end - origin)),
        always_velocity=encoding.is_legacy,
    )


def _cut_ends(notes: NoteSeq) -> Array:
    """Return the ends of notes, at the latest when their key is struck again [notes]."""
    order = np.lexsort((notes.starts, notes.pitches))
    ends = notes.ends.copy()
    following = find_next_onsets(notes.pitches[order], notes.starts[order])
    ends[order] = np.minimum(ends[order], following)
    return np.maximum(ends, notes.starts + SHORTEST)


def _group_times(times: Array) -> tuple[Array, Array]:
    """Return the group of each time [times], and the center of each group [groups].

    The times of a group are at most CHORD apart.
    """
    groups, start = np.zeros(len(times), np.int64), 0
    centers: list[float] = []
    order = np.argsort(times, kind="stable")
    for position in range(1, len(order) + 1):
        if position == len(order) or times[order[position]] - times[order[start]] > CHORD:
            groups[order[start:position]] = len(centers)
            centers.append((times[order[start]] + times[order[position - 1]]) / 2)
            start = position
    return groups, np.array(centers, np.float64)


def _list_free_events(keys: Array, is_on: Array, held: Array) -> tuple[Array, Array]:
    """Return which free events may come around given notes: `early` and `due` of GivenEvents.

    A key that is held, at first those in `held`, belongs to its given note. Before a due event
    come only note offs and, before a note on, lower ones: this is the order of events at one time.
    """
    early = np.ones((len(keys) + 1, len(KEYS)), bool)
    due = np.ones((len(keys), len(KEYS)), bool)
    current = set(held.tolist())
    for row, (key, on) in enumerate(zip(keys.tolist(), is_on.tolist(), strict=True)):
        early[row] = ~np.isin(KEYS, list(current))
        due[row] = early[row] & (~NOTE_ONS | ((key > KEYS) & on))
        (current.add if on else current.discard)(key)
    early[-1] = ~np.isin(KEYS, list(current))
    return early, due


# ------------------------------------------------------------------------------ generation


@dataclass(frozen=True, eq=False)
class Context:
    """The music before the first generated event.

    events: int64 [steps]; controls: their control vectors [steps, dim]; origin: the second of the
    file at which generation starts; sounding: the notes that sound then; earlier_keys: 0 to 87, of
    the notes before the events, for recall.
    """

    events: Array
    controls: Array
    origin: float
    sounding: NoteSeq
    earlier_keys: tuple[int, ...] = ()


def build_context(job: GenerationJob, notes: NoteSeq, end: float) -> Context:
    """Return the last seconds of the notes that start before `end`."""
    encoding = job.encoding
    notes = notes.select(np.isin(notes.pitches, PITCHES) & (notes.starts < end))
    is_earlier = notes.starts < end - CONTEXT
    earlier_keys = _list_keys(notes.select(is_earlier), encoding)
    notes = notes.select(~is_earlier)
    if not len(notes):
        no_controls = np.empty((0, job.model.layout.dim))
        return Context(NO_EVENTS, no_controls, end, NoteSeq(), earlier_keys)
    start = float(notes.starts[0])
    whole = EventSeq.from_note_seq(notes.adjust_time(-start), encoding)
    seconds = whole.times / encoding.ticks_per_second
    events = whole.to_array().astype(np.int64)
    count = int(np.flatnonzero(~SHIFTS[events] & (seconds < end - start))[-1]) + 1
    controls = ControlSeq.from_event_seq(whole).encode(job.model.layout)[:count]
    is_held = np.zeros(len(notes), bool)
    for key in np.unique(notes.pitches) - PITCHES.start:
        of_key = np.flatnonzero(KEYS[events[:count]] == key)
        if len(of_key) and NOTE_ONS[events[of_key[-1]]]:
            is_held[np.flatnonzero(notes.pitches == key + PITCHES.start)[-1]] = True
    origin = start + float(seconds[count - 1])
    return Context(events[:count], controls, origin, notes.select(is_held), earlier_keys)


def _list_keys(notes: NoteSeq, encoding: Encoding) -> tuple[int, ...]:
    """Return the piano keys of notes, 0 to 87, in the order of their events."""
    start = float(notes.starts[0]) if len(notes) else 0.0
    events = EventSeq.from_note_seq(notes.adjust_time(-start), encoding).to_array()
    return tuple(events[NOTE_ONS[events]].tolist())


def run_particles(
    job: GenerationJob,
    given: GivenEvents,
    seed: int,
    particles: int,
    controls: ControlTable,
    control_start: float = 0.0,
    context: Context | None = None,
    on_progress: Progress | None = None,
) -> Trace:
    """Return one sequence with the given events.

    controls: the control table; generation starts at second `control_start` of it.
    """
    has_context = context is not None and len(context.events) > 0
    init, generators = draw_init(job.model, seed, 1 if has_context else particles)
    if job.init_zero:
        init = torch.zeros_like(init)
    events, context_controls = NO_CONTEXT, NO_CONTROL
    if context is not None and has_context:
        events = torch.from_numpy(context.events)
        if controls.controls is not None:
            rows = torch.from_numpy(context.controls).to(job.model.device)
            context_controls = ControlTable(rows[:, None])
    constraints, sampler = job.constraints, job.method
    earlier_keys = () if context is None else context.earlier_keys
    inputs = GenerationInputs(
        *(init, generators, constraints, controls, events, context_controls, earlier_keys)
    )
    engine = Engine(job.model, job.exact, job.guidance, use_recall=job.use_recall)
    rng = torch.Generator().manual_seed(utils.derive_seed(seed, particles))
    assert isinstance(sampler, Sampler)  # noqa: S101
    table = EventTable.build(job.encoding)
    population = ParticleFilter(engine, inputs, table, given, sampler, rng, control_start)
    return population.run(particles, on_progress)


def decode_new_notes(context: Context, trace: Trace, encoding: Encoding) -> NoteSeq:
    """Return the notes of the free note ons of a trace, in seconds of the file."""
    events = EventSeq(np.concatenate([context.events, trace.events]), encoding)
    is_on = NOTE_ONS[events.to_array()]
    is_given = np.concatenate([np.ones(len(context.events), bool), trace.is_given])[is_on]
    starts = events.times[is_on] - (events.times[len(context.events)] if len(trace.events) else 0)
    lengths = events.note_lengths
    ticks = encoding.ticks_per_second
    columns = (starts / ticks, (starts + lengths) / ticks)
    notes = (events.to_array()[is_on].astype(int) + PITCHES.start, events.note_velocities)
    new = NoteSeq(*(column[~is_given] for column in (*columns, *notes)))
    order = np.lexsort((new.starts, new.pitches))
    repeats = (np.diff(new.pitches[order]) == 0) & (np.diff(new.starts[order]) == 0)
    new = new.select(~np.isin(np.arange(len(new)), order[1:][repeats]))
    return new.adjust_time(context.origin).limit_durations(MAX_NOTE_SECONDS)


def merge_notes(given: NoteSeq, new: NoteSeq, traces: tuple[Trace, ...] = ()) -> Arrangement:
    """Return given notes, unchanged, with new notes.

    A new note ends when a given note strikes its key, and starts when the one before it has ended.
    """
    starts, ends = new.starts.copy(), new.ends.copy()
    for k, pitch in enumerate(new.pitches):
        same = given.pitches == pitch
        ends[k] = min(ends[k], given.starts[same & (given.starts > starts[k])].min(initial=np.inf))
        before = given.ends[same & (given.starts <= starts[k])]
        starts[k] = max(starts[k], before.max(initial=0.0))
    is_kept = ends - starts > 0.001
    columns = [c[is_kept] for c in (starts, ends, new.pitches, new.velocities)]
    joined = [np.concatenate(pair) for pair in zip(given.columns, columns, strict=True)]
    order = np.lexsort((joined[2], joined[0]))  # the order of NoteSeq
    return Arrangement(NoteSeq(*joined), (np.arange(len(order)) < len(given))[order], traces)


# ----------------------------------------------------------------------------- accompaniment


@dataclass(frozen=True, eq=False)
class Accompaniment:
    """Keep notes, and generate others around them, from the first onset to the last end."""

    notes: NoteSeq

    @property
    def extent(self) -> tuple[float, float]:
        """The second of the first onset, and that of the last end."""
        return float(self.notes.starts[0]), self.notes.seconds

    @property
    def seconds(self) -> float:
        start, end = self.extent
        return end - start

    def generate(
        self, job: GenerationJob, number: int, particles: int, on_progress: Progress
    ) -> Arrangement:
        return accompany(job, self.notes, self.extent, number, particles, on_progress)


def accompany(
    job: GenerationJob,
    notes: NoteSeq,
    extent: tuple[float, float],
    number: int,
    particles: int,
    on_progress: Progress,
) -> Arrangement:
    """Return sample `number` of a job: notes, with new ones from one second to another."""
    origin, end = extent
    given = build_given_events(notes, origin, job.encoding, end=end)
    controls = build_control_table(
        job.control, job.encoding, job.model.device, job.steering, job.model.layout
    )
    seed = utils.derive_seed(job.seed, number)
    trace = run_particles(job, given, seed, particles, controls, origin, on_progress=on_progress)
    context = Context(NO_EVENTS, np.empty((0, 0)), origin, NoteSeq())
    new = decode_new_notes(context, trace, job.encoding).truncate(end)
    return merge_notes(notes, new, (trace,))


@dataclass(frozen=True, eq=False)
class Variation(Accompaniment):
    """Keep some chords of each bar of a piece, and generate new notes around them.

    share: how much is new, from 0, nothing, to 1, everything; bars: when they start, in seconds.
    """

    share: float
    bars: Array

    def generate(
        self, job: GenerationJob, number: int, particles: int, on_progress: Progress
    ) -> Arrangement:
        notes = self.notes
        if self.share == 0:
            return Arrangement(notes, np.ones(len(notes), bool))
        rng = np.random.default_rng(utils.derive_seed(job.seed, number, 0))
        kept = notes.select(self.choose_notes(rng))
        return accompany(job, kept, self.extent, number, particles, on_progress)

    def choose_notes(self, rng: np.random.Generator) -> Array:
        """Return which notes are kept, bool [notes]: of each bar a share of its chords."""
        groups, centers = _group_times(np.rint(1e6 * self.notes.starts).astype(np.int64))
        bars = np.searchsorted(self.bars, centers / 1e6, "right")
        is_kept = np.zeros(len(centers), bool)
        for bar in np.unique(bars):
            chords = rng.permutation(np.flatnonzero(bars == bar))
            # rounded at random, so that the shares are right on average in bars of few chords
            count = int(np.floor((1 - self.share) * len(chords) + rng.random()))
            is_kept[chords[:count]] = True
        return is_kept[groups]


# ------------------------------------------------------------------------------------- gap


@dataclass(frozen=True, eq=False)
class Gap:
    """Replace the notes that start between two seconds; all other notes stay as they are."""

    notes: NoteSeq
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end + EVIDENCE - self.start

    def generate(
        self, job: GenerationJob, number: int, particles: int, on_progress: Progress
    ) -> Arrangement:
        before = self.notes.select(self.notes.starts < self.start)
        after = self.notes.select(self.notes.starts >= self.end)
        controls = build_gap_controls(job, before, after, self.start, self.end)
        seed = utils.derive_seed(job.seed, number)
        new, trace = generate_between(
            job, before, after, (self.start, self.end), controls, seed, particles, on_progress
        )
        kept = (self.notes.starts < self.start) | (self.notes.starts >= self.end)
        arrangement = merge_notes(self.notes.select(kept), new, (trace,))
        return replace(arrangement, is_for_new=True)


def generate_between(
    job: GenerationJob,
    before: NoteSeq,
    after: NoteSeq,
    gap: tuple[float, float],
    controls: Array | None,
    seed: int,
    particles: int,
    on_progress: Progress,
) -> tuple[NoteSeq, Trace]:
    """Return new notes that start in a gap (from and to a second), and how the particles did.

    before: the notes before the gap, which the network sees; after: those after it. The first
    seconds of them decide which particles fit.
    controls: control vectors from the start of the gap on, a row for each TIME_STEP, or None.
    """
    start, end = gap
    job = replace(job, constraints=replace(job.constraints, max_silence=0.0))  # notes may rest
    context = build_context(job, before, start)
    evidence = keep_playable(after.select(after.starts < end + EVIDENCE))
    given = build_given_events(
        evidence,
        context.origin,
        job.encoding,
        context.sounding,
        opening=start,
        closing=end,
        last=end + EVIDENCE,
        end=end,
    )
    table = build_table(job, controls)
    if job.control is not None and controls is not None:
        bias = PitchBias(job.control, round(start / TIME_STEP), len(controls))
        table = replace(table, bias=bias)
    trace = run_particles(
        *(job, given, seed, particles, table, context.origin - start, context, on_progress)
    )
    return decode_new_notes(context, trace, job.encoding).truncate(end + RING), trace


def keep_playable(notes: NoteSeq) -> NoteSeq:
    """Return the notes that can be encoded: on the piano, and at most one on a key at a time."""
    notes = notes.select(np.isin(notes.pitches, PITCHES))
    order = np.lexsort((notes.starts, notes.pitches))
    pitches, starts = notes.pitches[order], notes.starts[order]
    repeats = np.append(False, (np.diff(pitches) == 0) & (np.diff(starts) < SHORTEST - ROUNDING))
    return notes.select(~np.isin(np.arange(len(notes)), order[repeats[: len(notes)]]))


def build_table(job: GenerationJob, controls: Array | None) -> ControlTable:
    """Return control vectors [rows, dim], a row for each TIME_STEP, as a table."""
    if controls is None:
        return NO_CONTROL
    device = job.model.device
    durations = torch.from_numpy(EventSeq.event_durations(job.encoding)).to(device)
    target = None
    if job.steering and "density" in job.model.layout.names:
        target = build_density_target(job.encoding)
    rows = torch.from_numpy(controls.astype(np.float32)).to(device)[:, None]
    return ControlTable(rows, durations, round(1000 * TIME_STEP), target)


def count_steps(start: float, end: float) -> int:
    """Return the number of steps of TIME_STEP between two seconds, at least 1."""
    return max(1, math.ceil((end - start) / TIME_STEP))


def build_plan(job: GenerationJob, start: float, end: float) -> Array | None:
    """Return the control vectors of the job between two seconds, a row for each TIME_STEP.

    None if it has no control.
    """
    if job.control is None:
        return None
    first = round(start / TIME_STEP)
    plan = job.control.average(first, first + count_steps(start, end))
    return encode_schedule(plan, job.model.layout)


def measure_values(job: GenerationJob, notes: NoteSeq, times: Array) -> dict[str, Array]:
    """Return the value of each control of notes at some times in seconds, by name [times].

    At each time, a control describes the two seconds after it.
    """
    start = float(notes.starts[0])
    events = EventSeq.from_note_seq(notes.adjust_time(-start), job.encoding)
    seconds = start + events.times / job.encoding.ticks_per_second
    rows = np.searchsorted(seconds, times).clip(0, len(seconds) - 1)
    values = ControlSeq.from_event_seq(events).values
    return {name: column[rows].astype(np.float64) for name, column in values.items()}


def measure_controls(job: GenerationJob, notes: NoteSeq, times: Array) -> Array:
    """Return the control vectors of notes at some times, float32 [times, dim]."""
    return job.model.layout.encode(measure_values(job, notes, times), len(times))


def build_gap_controls(
    job: GenerationJob, before: NoteSeq, after: NoteSeq, start: float, end: float
) -> Array | None:
    """Return the control vectors of a gap and of what follows, a row for each TIME_STEP.

    In the gap this is the control of the job, or else a gradual change from the music just before
    the gap to the music just after it; after the gap it is that of the notes. None if there is
    no control and no music.
    """
    layout = job.model.layout
    times = start + TIME_STEP * np.arange(count_steps(start, end + EVIDENCE))
    if job.control is None:
        vectors = _blend_sides(job, before, after, times, (start, end))
        visible: Sequence[str] = layout.names
    else:
        vectors = build_plan(job, start, end + EVIDENCE)
        visible = job.control.requested_controls
    if vectors is None:
        return None
    near = after.select(after.starts < end + EVIDENCE + WINDOW)
    if len(near):
        is_after = times >= end
        vectors[is_after] = layout.hide(measure_controls(job, near, times[is_after]), visible)
    return vectors


def _blend_sides(
    job: GenerationJob, before: NoteSeq, after: NoteSeq, times: Array, gap: tuple[float, float]
) -> Array | None:
    """Return control vectors that change gradually from the music before a gap to that after it."""
    start, end = gap
    last = before.select(before.starts >= start - WINDOW)
    first = after.select(after.starts < end + WINDOW)
    sides = [measure_values(job, side, side.starts[:1]) for side in (last, first) if len(side)]
    if not sides:
        return None
    share = np.clip((times - start) / (end - start), 0, 1)
    # values, not vectors: halfway between soft and loud is medium, not both
    values = {}
    for name, value in sides[0].items():
        weights = share.reshape(-1, *[1] * (value.ndim - 1))
        values[name] = (1 - weights) * value + weights * sides[-1][name]
    return job.model.layout.encode(values, len(times))


# -------------------------------------------------------------------------------- performance


@dataclass(frozen=True, eq=False)
class ScorePerformance:
    """Play the notes of a score: the network chooses onsets, lengths and velocities.

    strength: how far the performance moves from the score to what the network plays, 0-1.
    """

    score: NoteSeq
    strength: float

    @property
    def seconds(self) -> float:
        return self.score.seconds - float(self.score.starts[0])

    def generate(
        self, job: GenerationJob, number: int, particles: int, on_progress: Progress
    ) -> Arrangement:
        seed = utils.derive_seed(job.seed, number)
        start = float(self.score.starts[0])
        notes, traces = perform(
            job, self.score, NoteSeq(), start, self.strength, seed, particles, on_progress
        )
        return Arrangement(notes, np.zeros(len(notes), bool), traces)


def perform(
    job: GenerationJob,
    score: NoteSeq,
    before: NoteSeq,
    start: float,
    strength: float,
    seed: int,
    particles: int,
    on_progress: Progress,
) -> tuple[NoteSeq, tuple[Trace, ...]]:
    """Return a performance of a score, and how the particles did.

    before: notes before second `start`, which the network sees.
    """
    if strength == 0 or not len(score):
        return score, ()
    job = replace(job, constraints=replace(job.constraints, max_silence=0.0, max_repeats=0))
    context = build_context(job, before, start)
    order, given = build_score_events(score, context, job.encoding)
    controls = build_plan(job, start, score.seconds + RING)
    if controls is None:
        times = start + TIME_STEP * np.arange(count_steps(start, score.seconds + RING))
        controls = job.model.layout.hide(measure_controls(job, score, times), SCORE_CONTROLS)
    table = build_table(replace(job, steering=False), controls)
    trace = run_particles(
        *(job, given, seed, particles, table, context.origin - start, context, on_progress)
    )
    played = _decode_given(trace, job.encoding, context.origin)
    return blend_notes(score, order, played, strength), (trace,)


def build_score_events(
    score: NoteSeq, context: Context, encoding: Encoding
) -> tuple[Array, GivenEvents]:
    """Return the order of the notes of a score, int64 [notes], and their note ons as given events.

    The free events are note offs, velocities and time shifts.
    """
    times = np.rint(1e6 * np.maximum(score.starts - context.origin, 0)).astype(np.int64)
    keys = score.pitches - PITCHES.start
    groups, _ = _group_times(times)
    order = np.lexsort((keys, groups))
    groups, times, keys = groups[order], times[order], keys[order]
    is_first = np.diff(groups, prepend=-1) != 0
    onsets = times[is_first]
    gaps = np.diff(onsets, prepend=onsets[0])[groups]  # since the chord before
    half = 1e6 * encoding.time_shifts[0] / encoding.ticks_per_second / 2
    window = np.where(onsets[groups] > 0, 1e6 * MAX_SHIFT, half)
    spread = 1e6 * CHORD_SPREAD
    earliest = np.where(is_first, onsets[groups] - window, 0)
    after = np.where(is_first, (1 - RUBATO) * gaps - spread, 0).clip(0)
    within = np.where(is_first, (1 + RUBATO) * gaps + half, spread)
    within[groups == 0] = np.where(is_first[groups == 0], FOREVER, spread)
    given = GivenEvents(
        keys,
        np.full(len(order), -1),
        earliest=earliest.astype(np.int64),
        latest=(onsets[groups] + window + spread * ~is_first).astype(np.int64),
        after=after.astype(np.int64),
        within=within.astype(np.int64),
        early=np.tile(NOTE_OFFS | SHIFTS, (len(order) + 1, 1)),
        due=np.tile(NOTE_OFFS | SHIFTS | VELOCITIES, (len(order), 1)),
        group_ends=np.append(is_first[1:], True),
        opening=0,
        closing=0,
        end=round(1e6 * (score.seconds + RING - context.origin)),
    )
    return order, given


def _decode_given(trace: Trace, encoding: Encoding, origin: float) -> tuple[Array, Array, Array]:
    """Return starts, ends and velocities of the given note ons of a trace, in its order."""
    events = EventSeq(trace.events, encoding)
    starts = origin + events.times[NOTE_ONS[trace.events]] / encoding.ticks_per_second
    ends = starts + events.note_lengths / encoding.ticks_per_second
    return starts, ends, events.note_velocities


def blend_notes(
    score: NoteSeq, order: Array, played: tuple[Array, Array, Array], strength: float
) -> NoteSeq:
    """Return the notes of a score, moved by a share `strength` to those that were played.

    order: the note of the score that each played note is. Lengths are blended on a log scale.
    """
    starts, ends, velocities = (column[np.argsort(order)] for column in played)
    lengths = np.clip(ends - starts, SHORTEST, MAX_NOTE_SECONDS)
    written = np.maximum(score.ends - score.starts, SHORTEST)
    starts = score.starts + strength * (starts - score.starts)
    ends = starts + written ** (1 - strength) * lengths**strength
    velocity = np.rint(score.velocities + strength * (velocities - score.velocities))
    starts = np.maximum(starts, 0.0)
    return NoteSeq.merge(NoteSeq(starts, np.maximum(ends, starts), score.pitches, velocity))


# --------------------------------------------------------------------------------------- form


@dataclass(frozen=True)
class Section:
    """A section of a form: its letter, and its start and end in seconds."""

    letter: str
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Form:
    """Generate sections; a letter that returns plays the same notes in a new performance.

    strength: how much the new performance differs, 0-1.
    """

    sections: tuple[Section, ...]
    strength: float

    @property
    def seconds(self) -> float:
        return self.sections[-1].end

    def generate(
        self, job: GenerationJob, number: int, particles: int, on_progress: Progress
    ) -> Arrangement:
        notes = NoteSeq()
        themes: dict[str, NoteSeq] = {}
        traces: list[Trace] = []
        for index, section in enumerate(self.sections):
            seed = utils.derive_seed(job.seed, number, index)
            start, end = section.start, section.end

            def show(seconds: float, start: float = start) -> None:
                on_progress(start + seconds)

            if section.letter in themes:
                score = themes[section.letter].adjust_time(start)
                new, more = perform(job, score, notes, start, self.strength, seed, particles, show)
                traces += more
            else:
                following = self._find_theme(index + 1, themes)
                count = particles if len(following) else 1  # all fit what follows equally
                controls = build_plan(job, start, end + EVIDENCE)
                new, trace = generate_between(
                    job, notes, following, (start, end), controls, seed, count, show
                )
                if len(following):
                    traces.append(trace)
                themes[section.letter] = new.adjust_time(-start)
            notes = NoteSeq.merge(notes, new)
        return Arrangement(notes, np.zeros(len(notes), bool), tuple(traces))

    def _find_theme(self, index: int, themes: dict[str, NoteSeq]) -> NoteSeq:
        """Return the notes of section `index` at its time; none if they do not exist yet."""
        if index >= len(self.sections) or self.sections[index].letter not in themes:
            return NoteSeq()
        return themes[self.sections[index].letter].adjust_time(self.sections[index].start)


def load_accompaniment(path: str, tracks: str, pitches: str | None, sustain: bool) -> Accompaniment:
    """Load the notes of a MIDI file that are kept.

    tracks: see `NoteSeq.from_midi_file`; pitches: LOW-HIGH, or None for all.
    Raises ValueError for notes that cannot be kept, or if there are none.
    """
    notes = NoteSeq.from_midi_file(path, sustain=sustain, tracks=tracks)
    if pitches is not None:
        low, high = parse_range(pitches, "--keep-pitches", "60-108")
        notes = notes.select((notes.pitches >= low) & (notes.pitches <= high))
    if not len(notes):
        where = f" from pitch {low:g} to {high:g}" if pitches is not None else ""
        raise ValueError(f"{path}: no notes{where}, so none can be kept")
    check_notes(notes, path)
    return Accompaniment(notes)


def load_variation(share: str, path: str, sustain: bool) -> Variation:
    """Load a piece to vary; its bars are those of the file, or two seconds long.

    share: how much is new, 0-1. Raises ValueError for another share, or notes that cannot stay.
    """
    amount = _parse_number(share, "--variation", "a share from 0 to 1", 0, 1)
    notes, stats = read_midi(path, sustain=sustain)
    if not len(notes):
        raise ValueError(f"{path}: no notes, so it has no variation")
    check_notes(notes, path)
    tempo_map = TempoMap.from_stats(stats)
    bars = np.arange(notes.starts[0], notes.seconds, WINDOW)
    if tempo_map is not None:
        bars = tempo_map.list_bars(notes.seconds)
    return Variation(notes, amount, bars)


def load_kept_start(seconds: str, path: str) -> tuple[float, float]:
    """Return the second until which a piece is kept, and how many seconds it has after it.

    Raises ValueError if the second is not in the piece.
    """
    until = _parse_number(seconds, "--keep-until", "a number of seconds above 0", 0, 86400)
    notes = NoteSeq.from_midi_file(path).trim_start()
    if not 0 < until < notes.seconds:
        raise ValueError(
            f"argument --keep-until: {path} has {notes.seconds:.2f} s, so second {seconds} is not "
            "in it"
        )
    return until, notes.seconds - until


def _parse_number(text: str, flag: str, kind: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise ValueError(f"argument {flag}: {text!r} is not {kind}")
    return number


def parse_range(text: str, flag: str, example: str) -> tuple[float, float]:
    """Return the two numbers of LOW-HIGH; raise ValueError, naming the flag, for other texts."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*-\s*(\d+(?:\.\d*)?)\s*", text)
    if not match or not float(match[1]) < float(match[2]):
        raise ValueError(
            f"argument {flag}: {text!r} is not a range of two numbers, the smaller one first, "
            f"such as {example}"
        )
    return float(match[1]), float(match[2])


def load_gap(seconds: str, path: str, sustain: bool) -> Gap:
    """Load a MIDI file with a gap from one second to another, FROM-TO.

    Raises ValueError if the gap is not in the file, or nothing would stay.
    """
    start, end = parse_range(seconds, "--fill", "30-40")
    notes = NoteSeq.from_midi_file(path, sustain=sustain)
    if end > notes.seconds:
        raise ValueError(
            f"argument --fill: {path} ends at second {notes.seconds:.2f}, so {seconds} is not in it"
        )
    if ((notes.starts >= start) & (notes.starts < end)).all():
        raise ValueError(f"argument --fill: {path} has no notes outside of {seconds}")
    return Gap(notes, start, end)


def load_score(path: str, strength: float, sustain: bool) -> ScorePerformance:
    """Load a score; raise ValueError if it has no notes, or notes that cannot be played."""
    score = NoteSeq.from_midi_file(path, sustain=sustain)
    if not len(score):
        raise ValueError(f"{path}: no notes, so it cannot be performed")
    check_notes(score, path)
    return ScorePerformance(score, strength)


def parse_form(text: str, seconds: float) -> tuple[tuple[Section, ...], str | None]:
    """Return the sections of a form such as 'A A B A', all equally long, and its control.

    A letter may have a control in parentheses, 'A(C major;3) B(A minor;6) A'; the control of the
    form is then a text in the grammar of -c, else None. Raises ValueError for other texts.
    """
    if not re.fullmatch(r"\s*([A-Za-z]\s*(\([^()]*\)\s*)?)+", text):
        raise ValueError(
            f"argument --form: {text!r} is not a row of letters, such as 'A A B A' or "
            "'A(C major;3) B(A minor;6) A'"
        )
    parts = re.findall(r"([A-Za-z])\s*(?:\(([^()]*)\))?", text)
    length = seconds / len(parts)
    sections = tuple(Section(p[0], k * length, (k + 1) * length) for k, p in enumerate(parts))
    controls: dict[str, str] = {}
    for letter, control in parts:
        controls.setdefault(letter, control.strip())
    if not any(controls.values()):
        return sections, None
    for letter, control in controls.items():
        if not control:
            raise ValueError(f"argument --form: section {letter} has no control, but others have")
    # the plan is shown to the user, so its times are rounded; a control is over two seconds anyway
    digits = 1 if length >= 1 else 5
    plan = [
        f"{controls[s.letter]} @{round(s.start, digits):g}" if s.start else controls[s.letter]
        for s in sections
    ]
    return sections, " | ".join(plan)
