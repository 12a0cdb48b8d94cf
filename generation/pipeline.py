"""Generation of samples with a model: primer, controls, events, decoding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, replace

import numpy as np
import torch

from generation.control import average_controls
from generation.density import DensityTarget
from generation.engine import (
    NO_CONTEXT,
    NO_CONTROL,
    ControlTable,
    Engine,
    GenerationInputs,
    beam_search,
    draw_init,
)
from generation.sampling import EventConstraints, Sampler
from midi.control_schedule import (
    DENSITY_LEVELS,
    TIME_STEP,
    WINDOW,
    ControlSchedule,
    middle_notes,
)
from midi.notation import TempoMap
from midi.notes import read_midi
from model import PerformanceRNN
from sequence import (
    PITCHES,
    PLAIN_LAYOUT,
    ControlLayout,
    ControlSeq,
    Encoding,
    EventSeq,
    NoteSeq,
    check_controls,
    encode_schedule,
)
from utils import Array

MAX_NOTE_SECONDS = 5.0  # longer generated notes are cut: the network has missed their note offs
FOLLOW_SECONDS = 20.0  # of a primer, whose mean controls the continuation gets
MARGIN = 2.0  # most seconds by which the length of a sample may differ from --seconds
MARGIN_SHARE = 0.2  # the same as a share of --seconds
RING_SECONDS = 2.0  # for which the last notes go on after the end
LAST_SECONDS = 0.1  # notes that sound in the last seconds before the end are the last notes
PLAN_MARGIN = 0.5  # the same for the length that chords in bars give
RELEASE_AFTER = 3.0  # seconds for which a note sounds before its note off becomes more likely
RELEASE_RATE = 3.0  # nats for each further second
HOLD_BACK = -3.0  # nats, for notes of a later chord
MAX_EVENT_RATE = 400  # events/s; with --seconds no more events are generated


# ---------------------------------------------------------------------------------- primer


@dataclass(frozen=True, eq=False)
class Primer:
    """The events of a primer with their control vectors, float32 [events, control].

    dropped_notes: number of its notes that were outside the piano's 88 keys; end: the second
    after the first note of the file at which the primer ends; style: the mean of its controls at
    its end; tempo_map: of its part of the file, from its first note on; None if the file has none.
    """

    events: EventSeq
    controls: Array
    dropped_notes: int
    end: float = 0.0
    style: ControlSchedule | None = None
    tempo_map: TempoMap | None = None

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.events.total_ms / 1000


def load_primer(
    path: str,
    start: float,
    seconds: float,
    encoding: Encoding,
    layout: ControlLayout = PLAIN_LAYOUT,
    tracks: str = "auto",
) -> Primer:
    """Load the part of a MIDI file from second `start` on that is about `seconds` long.

    layout: the control of the network; tracks: see `NoteSeq.from_midi_file`.
    It begins with a note and ends just before one. Notes that sound at its end go on in the
    generated music. Raises ValueError if there is no note.
    """
    notes, stats = read_midi(path, tracks, not encoding.is_legacy)
    is_later = notes.starts >= start
    on_piano = np.isin(notes.pitches, PITCHES)
    selected = notes.select(is_later & on_piano)
    whole = EventSeq.from_note_seq(selected.trim_start(), encoding)
    events = whole.to_array()
    note_ons = np.flatnonzero(events < EventSeq.feat_ranges()["note_on"].stop)
    if not len(note_ons):
        where = f" after second {start:g}" if start else ""
        raise ValueError(f"{path}: no notes{where}, so it cannot be a primer")
    later = note_ons[whole.times[note_ons] > seconds * encoding.ticks_per_second]
    end = int(later[0]) if len(later) else len(events)
    while end and events[end - 1] in EventSeq.feat_ranges()["velocity"] and len(later):
        end -= 1  # this velocity is for the note after the primer
    is_dropped = is_later & ~on_piano & (notes.starts <= selected.starts[0] + seconds)
    controls, primer = ControlSeq.from_event_seq(whole), EventSeq(events[:end], encoding)
    first = float(selected.starts[0])
    offset = first - float(notes.starts[0])
    tempo_map = TempoMap.from_stats(stats)
    if tempo_map is not None:
        tempo_map = tempo_map.crop(first, first + primer.total_ms / 1000)
    return Primer(
        primer,
        controls.encode(layout)[:end],
        int(is_dropped.sum()),
        offset + primer.total_ms / 1000,
        measure_style(primer, controls, layout),
        tempo_map,
    )


def measure_style(primer: EventSeq, controls: ControlSeq, layout: ControlLayout) -> ControlSchedule:
    """Return the mean controls of the last FOLLOW_SECONDS of a primer.

    controls: of each event of the primer, and of later events. Only those that describe the
    primer itself count, if there are any.
    """
    seconds = primer.total_ms / 1000
    begin, last = max(0.0, seconds - FOLLOW_SECONDS), seconds - WINDOW
    grid = np.arange(begin, max(last, begin + TIME_STEP), TIME_STEP)
    times = primer.times / primer.encoding.ticks_per_second
    rows = (np.searchsorted(times, grid, "right") - 1).clip(0)
    return average_controls({name: col[rows] for name, col in controls.values.items()}, layout)


# ----------------------------------------------------------------------------------- inputs


@dataclass(frozen=True)
class BeamSearch:
    """Settings of `beam_search`."""

    beam_size: int
    stochastic: bool = False
    temperature: float = 1.0


@dataclass(frozen=True)
class Extent:
    """The part of the music that becomes a sample.

    seconds: end at a musical boundary about this long after the primer (None: after the last
    event); continuation_only: leave out the primer; margin: the most seconds by which the
    boundary may differ; longest: seconds after which no note rings on.
    """

    seconds: float | None = None
    continuation_only: bool = False
    margin: float = MARGIN
    longest: float = math.inf

    @staticmethod
    def from_seconds(seconds: float, continuation_only: bool = False) -> Extent:
        """Return the extent of a sample of a requested length: within 2 s of it, and 20%."""
        margin = min(MARGIN, MARGIN_SHARE * seconds)
        return Extent(seconds, continuation_only, margin, seconds + margin)


WHOLE = Extent()


@dataclass(frozen=True, eq=False)
class GenerationJob:
    """A model, and what to generate with it: `batch_size` samples of `steps` events.

    numbers: of the samples, which decide their random numbers; None: 0, 1, 2 and so on;
    method: how events are chosen; steering: whether to correct the density by feedback;
    guidance: scale of classifier-free guidance; init_zero: start from zeros, not from random
    vectors; exact: compute in float32 only; max_threads: threads of the processor to use at most;
    use_recall: whether a network with recall recalls anything.
    """

    model: PerformanceRNN
    encoding: Encoding
    seed: int
    steps: int
    batch_size: int
    constraints: EventConstraints
    method: Sampler | BeamSearch
    control: ControlSchedule | None = None
    primer: Primer | None = None
    extent: Extent = WHOLE
    steering: bool = True
    guidance: float = 1.0
    init_zero: bool = False
    exact: bool = False
    numbers: tuple[int, ...] | None = None
    max_threads: int = 1
    use_recall: bool = True


def build_inputs(job: GenerationJob) -> GenerationInputs:
    """Return the job as tensors.

    If the job has a control, the primer gets its own controls, of those that the job requests.
    """
    device = job.model.device
    init, generators = draw_init(job.model, job.seed, job.batch_size, job.numbers)
    if job.init_zero:
        init = torch.zeros_like(init)
    context, context_controls = NO_CONTEXT, NO_CONTROL
    if job.primer is not None:
        context = torch.from_numpy(job.primer.events.to_array().astype(np.int64))
        if job.control is not None:
            visible = job.control.requested_controls
            controls = torch.from_numpy(job.model.layout.hide(job.primer.controls, visible))
            context_controls = ControlTable(controls.to(device)[:, None])
    return GenerationInputs(
        init,
        generators,
        job.constraints,
        build_control_table(job.control, job.encoding, device, job.steering, job.model.layout),
        context,
        context_controls,
    )


def build_event_constraints(
    encoding: Encoding, max_repeats: int = 0, max_silence: float = 0.0, free: bool = False
) -> EventConstraints:
    """Return the constraints of playable music; with `free` only the two limits.

    max_repeats: note ons of one key in a row; max_silence: seconds without a note on; 0: no limit.
    A network forgets some note offs. So from RELEASE_AFTER on, that of a note becomes ever more
    likely, by RELEASE_RATE.
    """
    allowed_at_start, enables, disables, note_ons = EventSeq.playable_events()
    if free:
        allowed_at_start = np.ones_like(allowed_at_start)
        enables = disables = np.zeros_like(enables)
    return EventConstraints(
        allowed_at_start,
        enables,
        disables,
        note_ons,
        EventSeq.event_durations(encoding),  # milliseconds, like all times here
        max_repeats,
        1000 * max_silence,
        np.isin(np.arange(EventSeq.dim()), EventSeq.feat_ranges()["note_off"]),
        1000 * RELEASE_AFTER,
        0.0 if free else RELEASE_RATE / 1000,
    )


class PlanRows:
    """The control vectors of a written plan, a row for each TIME_STEP, computed when sliced.

    Each row is the average over the seconds that a control describes, as in training data.
    """

    def __init__(self, plan: ControlSchedule, device: torch.device, layout: ControlLayout) -> None:
        self._plan, self._device, self._layout = plan, device, layout

    def __len__(self) -> int:
        return self._plan.steps

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Return rows as float32 [rows, 1, control]."""
        start, stop, _ = rows.indices(len(self))
        vectors = encode_schedule(self._plan.average(start, stop), self._layout)
        return torch.from_numpy(vectors).to(self._device)[:, None]


class PitchBias:
    """Logits for each TIME_STEP of a written plan that hold back the notes of a later chord.

    The network gets the average over the next LOOKAHEAD seconds, so it knows which pitch classes
    come, but not when. A row has HOLD_BACK for the note ons of the pitch classes that have a weight
    in the average, and none yet in the plan, and 0 for all other events.
    """

    def __init__(self, plan: ControlSchedule, first: int = 0, count: int | None = None) -> None:
        """Prepare `count` rows from step `first` of the plan on; None: all."""
        self._plan, self._first = plan, first
        self._count = plan.steps - first if count is None else count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice) -> torch.Tensor:
        """Return rows as float32 [rows, events]."""
        start, stop, _ = rows.indices(len(self))
        is_early = self._plan.find_early_pitches(self._first + start, self._first + stop)
        bias = np.zeros((len(is_early), EventSeq.dim()), np.float32)
        note_ons = EventSeq.feat_ranges()["note_on"]
        bias[:, note_ons] = HOLD_BACK * is_early[:, np.array(PITCHES) % 12]
        return torch.from_numpy(bias)


def build_control_table(
    control: ControlSchedule | None,
    encoding: Encoding,
    device: torch.device,
    steering: bool,
    layout: ControlLayout = PLAIN_LAYOUT,
) -> ControlTable:
    """Return a control schedule as tensors; durations are in milliseconds.

    steering: whether to correct the density by feedback; layout: the control of the network.
    Raises ValueError if the schedule requests a control that the network lacks.
    """
    if control is None:
        return NO_CONTROL
    check_controls(control, layout)
    target = None
    if steering and "density" in control.requested_controls:
        target = build_density_target(encoding)
    if control.times is None:  # a row for each event
        vectors = torch.from_numpy(encode_schedule(control, layout)).to(device)
        return ControlTable(vectors[:, None], target=target)  # [rows, 1, control]
    durations = torch.from_numpy(EventSeq.event_durations(encoding)).to(device)
    rows = PlanRows(control, device, layout)
    return ControlTable(rows, durations, round(1000 * TIME_STEP), target, PitchBias(control))


def build_density_target(encoding: Encoding) -> DensityTarget:
    """Return the middle of each density level as its target; the last level has no maximum."""
    notes = middle_notes(np.arange(DENSITY_LEVELS))
    notes[-1] = np.inf
    is_note_on = np.isin(np.arange(EventSeq.dim()), EventSeq.feat_ranges()["note_on"])
    seconds = EventSeq.event_durations(encoding) / 1000
    column = 0  # density is the first control
    rows = (notes / WINDOW, is_note_on, seconds)
    return DensityTarget(column, *(torch.as_tensor(row, dtype=torch.float32) for row in rows))


# ------------------------------------------------------------------------------- generation


def generate_events(job: GenerationJob) -> Iterator[Array]:
    """Yield the events of each step after the primer, as indices [batch]."""
    inputs, method = build_inputs(job), job.method
    engine = Engine(job.model, job.exact, job.guidance, use_recall=job.use_recall)
    steps: Iterable[torch.Tensor]
    if isinstance(method, BeamSearch):
        beam_size, stochastic, temperature = astuple(method)
        steps = beam_search(engine, inputs, job.steps, beam_size, stochastic, temperature)
    else:
        steps = engine.generate(inputs, job.steps, method, job.max_threads)
    for events in steps:
        yield events.cpu().numpy()


class SampleBuffer:
    """A buffer for the events of a batch of samples while they grow, one byte per event.

    elapsed: duration of each sample in milliseconds [batch], from its first note on; with a
    primer from the end of the primer on.
    """

    def __init__(self, batch: int, encoding: Encoding, has_primer: bool = False) -> None:
        self._encoding = encoding
        self._events, self._count = np.empty((1024, batch), np.uint8), 0
        self._durations = EventSeq.event_durations(encoding)
        self.elapsed = np.zeros(batch, np.int64)
        self._has_notes = np.full(batch, has_primer)

    def add(self, events: Array) -> None:
        """Append the next event of each sample [batch]."""
        if self._count == len(self._events):  # it is full: double it
            self._events = np.concatenate([self._events, np.empty_like(self._events)])
        self._events[self._count] = events
        self._count += 1
        self._has_notes |= events < EventSeq.feat_ranges()["note_on"].stop
        self.elapsed += self._durations[events] * self._has_notes

    def get(self, number: int) -> EventSeq:
        """Return the events of sample `number` so far."""
        return EventSeq(self._events[: self._count, number], self._encoding)


# --------------------------------------------------------------------------------- decoding


def decode_sample(job: GenerationJob, events: EventSeq) -> NoteSeq:
    """Return the notes of a sample as its file has them; the first one starts at second 0.

    events: the generated events. The notes of the primer come first, unless they are left out.
    """
    start, extent = 0.0, job.extent
    if job.primer is not None:
        start = job.primer.seconds
        whole = np.concatenate([job.primer.events.to_array(), events.to_array()])
        events = EventSeq(whole, job.encoding)
    notes = events.to_note_seq().limit_durations(MAX_NOTE_SECONDS, start).trim_start()
    if extent.seconds is not None:
        latest = extent.seconds + extent.margin
        if latest >= extent.longest:  # leave time for the last notes to ring
            latest -= extent.margin / 2
        margins = (extent.margin, latest - extent.seconds)
        notes = end_at_boundary(notes, start + extent.seconds, start, *margins)
    if extent.continuation_only:
        is_new = notes.starts >= start
        notes = notes.select(is_new)
    return notes.trim_start()


def end_at_boundary(
    notes: NoteSeq,
    seconds: float,
    start: float = 0.0,
    margin: float = MARGIN,
    late_margin: float | None = None,
) -> NoteSeq:
    """Cut notes at a musical boundary within `margin` seconds of `seconds`.

    late_margin: the most seconds by which it may be later; None: `margin`.

    The boundary is the onset after the longest time without an onset, but never the first onset
    from second `start` on. Notes that sound at the boundary end there.
    """
    onsets = np.unique(notes.starts)
    ends = onsets[onsets >= start][1:]
    late_margin = margin if late_margin is None else late_margin
    ends = ends[(ends >= seconds - margin) & (ends <= seconds + late_margin)]
    waits = np.diff(onsets, prepend=0.0)[np.searchsorted(onsets, ends)]
    for end in ends[np.argsort(-waits, kind="stable")]:
        result = notes.truncate(float(end))
        if result.seconds >= seconds - margin:
            return result
    return notes.truncate(seconds)


def let_ring(notes: NoteSeq, is_given: Array, longest: float = math.inf) -> NoteSeq:
    """Let the last notes ring on for RING_SECONDS, at most until second `longest`.

    The last notes are those that sound in the last LAST_SECONDS, without given ones, bool [notes].
    """
    is_last = ~is_given & (notes.ends >= notes.seconds - LAST_SECONDS)
    end = max(notes.seconds, min(notes.seconds + RING_SECONDS, longest))
    return replace(notes, ends=np.where(is_last, end, notes.ends))


def ring_out(job: GenerationJob, notes: NoteSeq) -> NoteSeq:
    """Let the last notes of a decoded sample ring on, except those of the primer."""
    start = 0.0
    if job.primer is not None and not job.extent.continuation_only:
        start = job.primer.seconds
    is_given = notes.starts < start - 1e-6  # rounding errors
    return let_ring(notes, is_given, start + job.extent.longest)
