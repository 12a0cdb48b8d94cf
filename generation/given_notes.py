"""Music around given notes: accompany them, fill a gap, perform a score, repeat sections.

Each mode says which events are given (`smc.GivenEvents`), and which free events may come between
them. Times in this module are seconds of the file, and microseconds in the arrays of events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

import utils
from generation.engine import NO_CONTROL, ControlTable, Engine, GenerationInputs, draw_init
from generation.pipeline import MAX_NOTE_SECONDS, GenerationJob, build_control_table
from generation.sampling import Sampler
from generation.smc import FOREVER, EventTable, GivenEvents, ParticleFilter, Trace
from midi.notes import find_next_onsets
from sequence import PITCHES, Encoding, EventSeq, NoteSeq
from utils import Array

CHORD = 7_000  # microseconds; given events closer together are at one time
SHORTEST = 0.015  # seconds; notes of one key that start closer together cannot be encoded
NO_EVENTS = np.empty(0, np.int64)
Progress = Callable[[float], object]


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Given and new notes: is_given is bool [notes]. traces: how the particles did."""

    notes: NoteSeq
    is_given: Array
    traces: tuple[Trace, ...] = ()

    @property
    def given(self) -> NoteSeq:
        """The given notes."""
        return select_notes(self.notes, self.is_given)

    @property
    def new(self) -> NoteSeq:
        """The new notes."""
        return select_notes(self.notes, ~self.is_given)


def select_notes(notes: NoteSeq, is_selected: Array) -> NoteSeq:
    """Return the notes where `is_selected`, bool [notes]."""
    return NoteSeq(*(column[is_selected] for column in notes.columns))


def check_notes(notes: NoteSeq, source: str) -> None:
    """Raise ValueError for notes that cannot be given; source: the file, for the message."""
    if not len(notes):
        raise ValueError(f"{source}: no notes")
    outside = ~np.isin(notes.pitches, PITCHES)
    if outside.any():
        pitch, start = notes.pitches[outside][0], notes.starts[outside][0]
        raise ValueError(
            f"{source}: pitch {pitch} at second {start:.2f} is not one of the piano's 88 keys "
            f"({PITCHES.start}-{PITCHES.stop - 1})"
        )
    order = np.lexsort((notes.starts, notes.pitches))
    pitches, starts = notes.pitches[order], notes.starts[order]
    overlap = (np.diff(pitches) == 0) & (np.diff(starts) < SHORTEST)
    if overlap.any():
        first = int(overlap.argmax())
        raise ValueError(
            f"{source}: two notes of pitch {pitches[first]} start at second {starts[first]:.2f}, "
            "but a key can be struck only once at a time"
        )


# ---------------------------------------------------------------------------- given events


@dataclass(frozen=True, eq=False)
class _Kinds:
    """Which of the 240 events are of a kind, bool [events]."""

    note_ons: Array
    note_offs: Array
    velocities: Array
    shifts: Array


def _list_kinds() -> _Kinds:
    index = np.arange(EventSeq.dim())
    return _Kinds(*(np.isin(index, events) for events in EventSeq.feat_ranges().values()))


def _cut_ends(notes: NoteSeq) -> Array:
    """Return the ends of notes, at the latest when their key is struck again [notes]."""
    order = np.lexsort((notes.starts, notes.pitches))
    ends = notes.ends.copy()
    ends[order] = np.minimum(
        ends[order], find_next_onsets(notes.pitches[order], notes.starts[order])
    )
    return np.maximum(ends, notes.starts + SHORTEST)


def _to_microseconds(seconds: Array, origin: float) -> Array:
    return np.rint(1e6 * (seconds - origin)).astype(np.int64)


def build_given_events(
    notes: NoteSeq,
    origin: float,
    encoding: Encoding,
    sounding: NoteSeq | None = None,
    extent: tuple[float, float] = (0.0, np.inf),
    end: float = 0.0,
) -> GivenEvents:
    """Return notes as given events: note on and note off at their times, with their velocity.

    notes: from `origin` on, the second at which generation starts. sounding: notes that started
    before it and end after it. extent: where new notes may start, in seconds.
    end: where the music ends, if this is after the last given event.
    """
    sounding = NoteSeq() if sounding is None else sounding
    kinds = _list_kinds()
    keys = np.concatenate([notes.pitches, notes.pitches, sounding.pitches]) - PITCHES.start
    times = np.concatenate([notes.starts, _cut_ends(notes), sounding.ends])
    times = _to_microseconds(times, origin)
    is_on = np.arange(len(keys)) < len(notes)
    bins = np.searchsorted(encoding.velocity_edges, notes.velocities)
    velocities = np.full(len(keys), -1)
    velocities[: len(notes)] = bins + EventSeq.feat_ranges()["velocity"].start
    groups, centers = _group_times(times)
    order = np.lexsort((keys, is_on, groups))
    keys, is_on, groups, velocities = (c[order] for c in (keys, is_on, groups, velocities))
    half = encoding.time_shifts[0] / encoding.ticks_per_second * 1e6 / 2
    events = keys + np.where(is_on, 0, EventSeq.feat_ranges()["note_off"].start)
    early, due = _allow_free_events(keys, is_on, sounding.pitches - PITCHES.start, kinds)
    is_last = np.append(np.diff(groups) != 0, True)[: len(groups)]
    has_on = np.isin(groups, groups[is_on])
    is_last &= has_on
    is_last[-1:] = True
    opening, closing = (min(1e6 * (second - origin), FOREVER) for second in extent)
    return GivenEvents(
        events,
        velocities,
        earliest=np.floor(centers[groups] - half).astype(np.int64),
        latest=np.ceil(centers[groups] + half).astype(np.int64),
        after=np.zeros(len(events), np.int64),
        within=np.full(len(events), FOREVER),
        early=early,
        due=due,
        group_ends=is_last,
        opening=round(opening),
        closing=round(closing),
        end=round(1e6 * max(0.0, end - origin)),
        always_velocity=encoding.is_legacy,
    )


def _group_times(times: Array) -> tuple[Array, Array]:
    """Return the group of each time [times], and the center of each group [groups].

    A group has times that are at most CHORD apart.
    """
    groups, centers = np.zeros(len(times), np.int64), []
    order = np.argsort(times, kind="stable")
    start = 0
    for position in range(1, len(order) + 1):
        if position == len(order) or times[order[position]] - times[order[start]] > CHORD:
            groups[order[start:position]] = len(centers)
            centers.append((times[order[start]] + times[order[position - 1]]) / 2)
            start = position
    return groups, np.array(centers)


def _allow_free_events(
    keys: Array, is_on: Array, held: Array, kinds: _Kinds
) -> tuple[Array, Array]:
    """Return which free events may come around given notes: `early` and `due` of GivenEvents.

    A key that is held belongs to its given note. Before a due event come only note offs, and
    lower note ons, because this is the order of events at one time.
    """
    index = np.arange(len(kinds.note_ons))
    key_of_event = np.where(kinds.note_ons, index, -1)
    key_of_event[kinds.note_offs] = np.arange(kinds.note_offs.sum())
    early = np.ones((len(keys) + 1, len(index)), bool)
    due = np.ones((len(keys), len(index)), bool)
    current = set(held.tolist())
    for row, (key, on) in enumerate(zip(keys.tolist(), is_on.tolist(), strict=True)):
        early[row] = ~np.isin(key_of_event, list(current))
        due[row] = early[row] & ~(kinds.note_ons & (index >= key if on else True))
        (current.add if on else current.discard)(key)
    early[-1] = ~np.isin(key_of_event, list(current))
    return early, due


# ------------------------------------------------------------------------------ generation


@dataclass(frozen=True, eq=False)
class Start:
    """Where generation starts: after a context, at second `origin` of the file.

    context: events before it, int64 [steps]; context_start: the second of its first event;
    controls: those of the context, and of what follows, from second `control_start` on.
    """

    origin: float
    context: Array = None  # type: ignore
    context_start: float = 0.0


def run_particles(
    job: GenerationJob,
    given: GivenEvents,
    number: int,
    particles: int,
    controls: ControlTable,
    control_offset: float = 0.0,
    context: Array = NO_EVENTS,
    context_controls: ControlTable = NO_CONTROL,
    on_progress: Progress | None = None,
) -> Trace:
    """Return sample `number` of a job, with the given events.

    controls: from `control_offset` seconds before the first generated event on.
    """
    seed = utils.derive_seed(job.seed, number)
    init, generators = draw_init(job.model, seed, 1 if len(context) else particles)
    if job.init_zero:
        init = torch.zeros_like(init)
    inputs = GenerationInputs(
        init,
        generators,
        job.constraints,
        controls,
        torch.from_numpy(context),
        context_controls,
    )
    engine = Engine(job.model, job.exact, job.guidance)
    rng = torch.Generator().manual_seed(utils.derive_seed(seed, particles))
    assert isinstance(job.method, Sampler)
    table = EventTable.build(job.encoding)
    filter_ = ParticleFilter(engine, inputs, table, given, job.method, rng, control_offset)
    return filter_.run(particles, on_progress)


def accompany(
    job: GenerationJob,
    notes: NoteSeq,
    number: int,
    particles: int,
    on_progress: Progress | None = None,
) -> Arrangement:
    """Return given notes with new notes around them, from the first to the end of the last."""
    origin = float(notes.starts[0])
    end = max(notes.seconds, job.extent.seconds or 0.0)
    given = build_given_events(notes, origin, job.encoding, end=end)
    controls = build_control_table(job.control, job.encoding, job.model.device, job.steering)
    trace = run_particles(job, given, number, particles, controls, origin, on_progress=on_progress)
    new = decode_new_notes(NO_EVENTS, trace, job.encoding, origin)
    return merge_notes(notes, new.truncate(end), (trace,))


def decode_new_notes(context: Array, trace: Trace, encoding: Encoding, origin: float) -> NoteSeq:
    """Return the notes of the free note ons of a trace, in seconds of the file.

    context: the events before it; origin: the second at which the trace starts.
    """
    events = EventSeq(np.concatenate([context, trace.events]), encoding)
    is_new = ~trace.is_given & (trace.events < EventSeq.feat_ranges()["note_on"].stop)
    positions = len(context) + np.flatnonzero(is_new)
    starts = events.times[positions] / encoding.ticks_per_second
    wanted = set(zip(starts.tolist(), trace.events[is_new].tolist(), strict=True))
    notes = events.to_note_seq().limit_durations(MAX_NOTE_SECONDS)
    keys = notes.pitches - PITCHES.start
    pairs = zip(notes.starts.tolist(), keys.tolist(), strict=True)
    notes = select_notes(notes, np.array([pair in wanted for pair in pairs], bool))
    start = events.times[len(context)] / encoding.ticks_per_second if len(trace.events) else 0.0
    return notes.adjust_time(origin - float(start))


def merge_notes(given: NoteSeq, new: NoteSeq, traces: tuple[Trace, ...] = ()) -> Arrangement:
    """Return given notes, unchanged, with new notes.

    A new note ends when a given note strikes its key, and begins when the one before it has ended.
    """
    starts, ends = new.starts.copy(), new.ends.copy()
    for k, pitch in enumerate(new.pitches):
        same = given.pitches == pitch
        later = given.starts[same & (given.starts > starts[k])]
        ends[k] = min(ends[k], later.min(initial=np.inf))
        before = given.ends[same & (given.starts <= starts[k])]
        starts[k] = max(starts[k], before.max(initial=0.0))
    keep = ends - starts >= SHORTEST / 2
    columns = [c[keep] for c in (starts, ends, new.pitches, new.velocities)]
    joined = [np.concatenate(pair) for pair in zip(given.columns, columns, strict=True)]
    order = np.lexsort((joined[2], joined[0]))  # the order of NoteSeq
    return Arrangement(NoteSeq(*joined), (np.arange(len(order)) < len(given))[order], traces)
