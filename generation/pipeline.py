"""From a session and options to samples: primer, controls, generation, decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from config import GenerateConfig
from generation.beam_search import beam_search
from generation.control import TIME_STEP
from generation.density import DensityTarget
from generation.engine import NO_CONTROL, Context, ControlTable, Engine, make_generators
from generation.sampling import EventRules, Sampler
from midi.control_schedule import DENSITY_LEVELS, WINDOW, ControlSchedule, middle_notes
from model import PerformanceRNN
from sequence import PITCHES, ControlSeq, Encoding, EventSeq, NoteSeq
from utils import Array

MAX_NOTE_SECONDS = 5.0  # a note that the network does not end is cut after this time
MARGIN = 2.0  # seconds by which a sample may differ from --seconds
MAX_EVENT_RATE = 400  # events/s; a limit for --seconds
EVENT_KINDS = list(EventSeq.feat_dims())


# ---------------------------------------------------------------------------------- primer


@dataclass(frozen=True, eq=False)
class Primer:
    """The events of a primer with their controls [events, 24].

    dropped_notes: number of its notes outside the piano's 88 keys.
    """

    events: EventSeq
    controls: Array
    dropped_notes: int

    @property
    def seconds(self) -> float:
        """Return the duration."""
        return self.events.total_ms / 1000


def load_primer(path: str, start: float, seconds: float, encoding: Encoding) -> Primer:
    """Return the part of a MIDI file from second `start`, about `seconds` long.

    It begins with a note and ends just before one; a note that sounds there is held into the
    generated music. Raises ValueError if there is no note.
    """
    notes = NoteSeq.from_midi_file(path, sustain=not encoding.is_legacy)
    is_later = notes.starts >= start
    on_piano = np.isin(notes.pitches, PITCHES)
    selected = NoteSeq(*(column[is_later & on_piano] for column in notes.columns))
    whole = EventSeq.from_note_seq(selected.trim_start(), encoding)
    events = whole.to_array()
    note_ons = np.flatnonzero(events < EventSeq.feat_ranges()["note_on"].stop)
    if not len(note_ons):
        where = f" after second {start:g}" if start else ""
        raise ValueError(f"{path}: no notes{where}, so it cannot be a primer")
    late = note_ons[whole.times[note_ons] > seconds * encoding.ticks_per_second]
    end = int(late[0]) if len(late) else len(events)
    while end and events[end - 1] in EventSeq.feat_ranges()["velocity"] and len(late):
        end -= 1  # this velocity is that of the note that was cut off
    is_dropped = is_later & ~on_piano & (notes.starts <= selected.starts[0] + seconds)
    controls = ControlSeq.from_event_seq(whole).to_array()[:end]
    return Primer(EventSeq(events[:end], encoding), controls, int(is_dropped.sum()))


# ----------------------------------------------------------------------------------- inputs


def build_event_rules(options: GenerateConfig, encoding: Encoding) -> EventRules:
    """Return the rules for what can be played."""
    durations = EventSeq.event_durations(encoding)
    max_silence = 1000 * options.silence  # milliseconds
    events = EventSeq.playable_events()
    rules = EventRules(*events, durations, options.repeats, max_silence)
    return rules.without_mask() if options.free else rules


def build_sampler(options: GenerateConfig) -> Sampler:
    """Return the sampler with its temperatures and filters."""
    temperatures = {
        EVENT_KINDS.index("note_on"): options.pitch_temperature,
        EVENT_KINDS.index("velocity"): options.velocity_temperature,
        EVENT_KINDS.index("time_shift"): options.time_temperature,
    }
    return Sampler(
        options.temperature,
        options.greedy_ratio,
        options.top_k,
        options.top_p,
        options.min_p,
        {group: value for group, value in temperatures.items() if value is not None},
        EventSeq.event_kinds(),
    )


def build_density_target(encoding: Encoding) -> DensityTarget:
    """Return the middle of each density level as a target; the last level has no upper end."""
    notes = middle_notes(np.arange(DENSITY_LEVELS))
    notes[-1] = np.inf
    rates = notes / WINDOW
    is_note_on = EventSeq.event_kinds() == EVENT_KINDS.index("note_on")
    seconds = EventSeq.event_durations(encoding) / 1000
    column = ControlSeq.feat_ranges()["note_density"].start
    rows = (torch.as_tensor(row, dtype=torch.float32) for row in (rates, is_note_on, seconds))
    return DensityTarget(column, *rows)


def build_control_table(
    control: ControlSchedule | None,
    encoding: Encoding,
    device: torch.device,
    steering: bool = True,
) -> ControlTable:
    """Return a schedule as tensors, with the durations of events in milliseconds."""
    if control is None:
        return NO_CONTROL
    controls = torch.from_numpy(control.to_array()).to(device)[:, None]  # [rows, 1, control]
    target = build_density_target(encoding) if steering else None
    if control.times is None:  # a row for each event
        return ControlTable(controls, target=target)
    durations = torch.from_numpy(EventSeq.event_durations(encoding)).to(device)
    return ControlTable(controls, durations, round(1000 * TIME_STEP), target)


def build_context(primer: Primer, control: ControlSchedule | None, device: torch.device) -> Context:
    """Return the primer as tensors, without its controls if nothing else has any."""
    events = torch.from_numpy(primer.events.to_array().astype(np.int64))
    if control is None:
        return Context(events, NO_CONTROL)
    controls = torch.from_numpy(primer.controls).to(device)
    return Context(events, ControlTable(controls[:, None]))


# ------------------------------------------------------------------------------- generation


@dataclass(frozen=True, eq=False)
class GenerationJob:
    """A model, and what it is to generate: `options.batch_size` samples of `steps` events.

    control and primer are what `options` name, loaded; seed is that of the options, or random.
    """

    model: PerformanceRNN
    encoding: Encoding
    options: GenerateConfig
    seed: int
    steps: int
    control: ControlSchedule | None = None
    primer: Primer | None = None


def generate_events(job: GenerationJob) -> Iterator[Array]:
    """Yield event indices [batch] after the primer, one step after another."""
    model, options = job.model, job.options
    generators = make_generators(job.seed, options.batch_size)
    init = torch.stack([torch.randn(model.config.init_dim, generator=rng) for rng in generators])
    init = (torch.zeros_like(init) if options.init_zero else init).to(model.device)
    engine = Engine(model, options.exact, options.guidance)
    controls = build_control_table(job.control, job.encoding, model.device, options.steering)
    rules = build_event_rules(options, job.encoding)
    context = None
    if job.primer is not None:
        context = build_context(job.primer, job.control, model.device)
    steps: Iterator[torch.Tensor]
    if options.beam_size:
        steps = iter(
            beam_search(
                engine,
                init,
                job.steps,
                controls,
                generators,
                beam_size=options.beam_size,
                stochastic=options.stochastic_beam_search,
                temperature=options.temperature,
                rules=rules,
                context=context,
            )
        )
    else:
        sampler = build_sampler(options)
        steps = engine.generate(
            init, job.steps, controls, generators, sampler=sampler, rules=rules, context=context
        )
    for events in steps:
        yield events.cpu().numpy()


class SampleBuffer:
    """The events of a batch of growing samples, one byte each.

    elapsed: the duration of each sample in milliseconds, from its first note; with a primer, from
    the primer's end.
    """

    def __init__(self, batch: int, encoding: Encoding, has_primer: bool = False) -> None:
        self._events, self._count = np.empty((1024, batch), np.uint8), 0
        self._durations = EventSeq.event_durations(encoding)
        self.elapsed = np.zeros(batch, np.int64)
        self._has_notes = np.full(batch, has_primer)

    def add(self, events: Array) -> None:
        """Append the next event of each sample [batch]."""
        if self._count == len(self._events):
            self._events = np.concatenate([self._events, np.empty_like(self._events)])
        self._events[self._count] = events
        self._count += 1
        self._has_notes |= events < EventSeq.feat_ranges()["note_on"].stop
        self.elapsed += self._durations[events] * self._has_notes

    def get(self, number: int) -> Array:
        """Return the events of one sample so far."""
        return self._events[: self._count, number]


# --------------------------------------------------------------------------------- decoding


def decode_sample(
    events: Array,
    encoding: Encoding,
    primer: Primer | None = None,
    seconds: float | None = None,
    continuation_only: bool = False,
) -> NoteSeq:
    """Return the notes of a sample [events] from its first note.

    They begin with the primer, unless `continuation_only`, and end about `seconds` after it.
    """
    start = 0.0
    if primer is not None:
        start = primer.seconds
        events = np.concatenate([primer.events.to_array(), events])
    notes = EventSeq.from_array(events, encoding).to_note_seq()
    notes = notes.limit_durations(MAX_NOTE_SECONDS, start).trim_start()
    if seconds is not None:
        notes = end_at_boundary(notes, start + seconds, start)
    if primer is not None and continuation_only:
        is_new = notes.starts >= start
        notes = NoteSeq(*(column[is_new] for column in notes.columns))
    return notes.trim_start()


def end_at_boundary(notes: NoteSeq, seconds: float, start: float = 0.0) -> NoteSeq:
    """Return notes that end at a musical boundary within MARGIN of `seconds`.

    The boundary is the onset with the longest wait before it, except the first onset from second
    `start` on. Notes that sound there end there.
    """
    onsets = np.unique(notes.starts)
    ends = onsets[onsets >= start][1:]
    ends = ends[np.abs(ends - seconds) <= MARGIN]
    waits = np.diff(onsets, prepend=0.0)[np.searchsorted(onsets, ends)]
    for end in ends[np.argsort(-waits, kind="stable")]:
        result = notes.truncate(float(end))
        if result.seconds >= seconds - MARGIN:
            return result
    return notes.truncate(seconds)
