"""How a network makes pieces: what it hears first, what it is asked for, and where they end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from config import GenerateConfig
from generation.beam_search import beam_search
from generation.control import ROW
from generation.density import DensityTarget
from generation.engine import Context, Engine, Schedule, make_generators
from generation.sampling import EventRules, Sampler
from midi.control_schedule import DENSITY_LEVELS, ControlSchedule, middle_notes
from model import PerformanceRNN
from sequence import PITCHES, ControlSeq, Encoding, EventSeq, NoteSeq
from utils import Array

RELEASE = 5.0  # seconds after which a key is let go that the network forgot to let go
MARGIN = 2.0  # seconds by which a piece may miss the length that was asked for
BUSIEST = 400  # events in a second of music that is not stopped by --seconds
GROUPS = {kind: number for number, kind in enumerate(EventSeq.feat_dims())}


@dataclass(frozen=True, eq=False)
class Primer:
    """A primer: its events, their controls [events, 24], and how many notes were left out."""

    events: EventSeq
    controls: Array
    left_out: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.events.total_ms / 1000


def read_primer(path: str, start: float, seconds: float, encoding: Encoding) -> Primer:
    """The part of a MIDI file from second `start` on, about `seconds` long.

    It begins with a note and ends just before one, so that no note is torn: what sounds there
    goes on sounding. Raises ValueError if there is nothing to hear.
    """
    notes = NoteSeq.from_midi_file(path, sustain=not encoding.is_legacy)
    later, piano = notes.starts >= start, np.isin(notes.pitches, PITCHES)
    heard = NoteSeq(*(column[later & piano] for column in notes.columns))
    whole = EventSeq.from_note_seq(heard.trim_start(), encoding)
    array = whole.to_array()
    struck = np.flatnonzero(array < EventSeq.feat_ranges()["note_on"].stop)
    if not len(struck):
        where = f" from second {start:g} on" if start else ""
        raise ValueError(f"{path}: there is no note to begin with{where}")
    late = struck[whole.times[struck] > seconds * encoding.ticks_per_second]
    end = int(late[0]) if len(late) else len(array)
    while end and array[end - 1] in EventSeq.feat_ranges()["velocity"] and len(late):
        end -= 1  # it belongs to the note that is cut off
    outside = later & ~piano & (notes.starts <= heard.starts[0] + seconds)
    controls = ControlSeq.from_event_seq(whole).to_array()[:end]
    return Primer(EventSeq(array[:end], encoding), controls, int(outside.sum()))


class SampleBuffer:
    """The events of some pieces while they grow, a byte for each.

    elapsed: how long each is so far, in milliseconds from its first note on; `begun`: it has
    had that before.
    """

    def __init__(self, batch: int, encoding: Encoding, begun: bool = False) -> None:
        self._events, self._count = np.empty((1024, batch), np.uint8), 0
        self._lengths, self.elapsed = EventSeq.lengths(encoding), np.zeros(batch, np.int64)
        self._begun = np.full(batch, begun)

    def add(self, events: Array) -> None:
        """The next event of each piece."""
        if self._count == len(self._events):
            self._events = np.concatenate([self._events, np.empty_like(self._events)])
        self._events[self._count] = events
        self._count += 1
        self._begun |= events < EventSeq.feat_ranges()["note_on"].stop
        self.elapsed += self._lengths[events] * self._begun

    def of(self, piece: int) -> Array:
        """The events of one piece so far."""
        return self._events[: self._count, piece]


def rules(options: GenerateConfig, encoding: Encoding) -> EventRules:
    """What may be played."""
    lengths, silence = EventSeq.lengths(encoding), 1000 * options.silence
    bound = EventRules(*EventSeq.playable_events(), lengths, options.repeats, silence)
    return bound.free() if options.free else bound


def sampling(options: GenerateConfig) -> Sampler:
    """How events are chosen."""
    given = {
        GROUPS["time_shift"]: options.time_temperature,
        GROUPS["note_on"]: options.pitch_temperature,
        GROUPS["velocity"]: options.velocity_temperature,
    }
    return Sampler(
        options.temperature,
        options.greedy_ratio,
        options.top_k,
        options.top_p,
        options.min_p,
        {group: value for group, value in given.items() if value is not None},
        EventSeq.groups(),
    )


def steering(encoding: Encoding) -> DensityTarget:
    """Note density: the middle of each level but the last, which has no end."""
    notes = middle_notes(np.arange(DENSITY_LEVELS))
    notes[-1] = np.inf
    struck, milliseconds = EventSeq.playable_events()[-1], EventSeq.lengths(encoding)
    return DensityTarget(
        ControlSeq.feat_ranges()["note_density"].start,
        *(
            torch.as_tensor(row, dtype=torch.float32)
            for row in (notes / ControlSeq.WINDOW, struck, milliseconds / 1000)
        ),
    )


def schedule(
    asked: ControlSchedule | None, encoding: Encoding, device: torch.device, steered: bool = True
) -> Schedule:
    """The controls for the player: by the milliseconds of what it plays, or by its events."""
    if asked is None:
        return Schedule()
    controls = torch.from_numpy(asked.to_array()).to(device)[:, None]
    kept = steering(encoding) if steered else None
    if asked.times is None:
        return Schedule(controls, steering=kept)
    clock = torch.from_numpy(EventSeq.lengths(encoding)).to(device)
    return Schedule(controls, clock, round(1000 * ROW), kept)


@dataclass(frozen=True, eq=False)
class GenerationJob:
    """What is to be played."""

    model: PerformanceRNN
    encoding: Encoding
    seed: int
    asked: ControlSchedule | None
    heard: Primer | None
    steps: int


def generate_events(order: GenerationJob, options: GenerateConfig) -> Iterator[Array]:
    """Event indices [batch] after the primer, one step after another."""
    model, steps = order.model, order.steps
    dice = make_generators(order.seed, options.batch_size)
    init = torch.stack([torch.randn(model.config.init_dim, generator=source) for source in dice])
    init = (torch.zeros_like(init) if options.init_zero else init).to(model.device)
    primer = _primer(order)
    player = Engine(model, options.exact, options.guidance)
    plan = schedule(order.asked, order.encoding, model.device, options.steering)
    bound = rules(options, order.encoding)
    if options.beam_size:
        found = beam_search(
            player,
            init,
            steps,
            plan,
            dice,
            beam_size=options.beam_size,
            stochastic=options.stochastic_beam_search,
            temperature=options.temperature,
            rules=bound,
            primer=primer,
        )
        yield from found.cpu().numpy()
        return
    said = player.generate(
        init, steps, plan, dice, sampling=sampling(options), rules=bound, primer=primer
    )
    for events in said:
        yield events.cpu().numpy()


def _primer(order: GenerationJob) -> Context | None:
    """The primer for the player; without -c it is heard as asked for nothing, as all after it."""
    heard = order.heard
    if heard is None:
        return None
    events = torch.from_numpy(heard.events.to_array().astype(np.int64))
    if order.asked is None:
        return Context(events, Schedule())
    controls = torch.from_numpy(heard.controls).to(order.model.device)
    return Context(events, Schedule(controls[:, None]))


def decode_sample(
    events: Array, options: GenerateConfig, encoding: Encoding, heard: Primer | None
) -> NoteSeq:
    """The notes of a piece [events], with its primer or without, from its first note on."""
    begin = 0.0
    if heard is not None:
        begin = heard.seconds
        events = np.concatenate([heard.events.to_array(), events])
    notes = (
        EventSeq.from_array(events, encoding)
        .to_note_seq()
        .limit_durations(RELEASE, begin)
        .trim_start()
    )
    if options.seconds is not None:
        notes = end_at_boundary(notes, begin + options.seconds, begin)
    if heard is not None and options.continuation_only:
        new = notes.starts >= begin
        notes = NoteSeq(*(column[new] for column in notes.columns))
    return notes.trim_start()


def end_at_boundary(notes: NoteSeq, seconds: float, begin: float = 0.0) -> NoteSeq:
    """Notes that end at a musical boundary within MARGIN of `seconds`.

    That is before the onset for which one waits longest, but not before the first one from
    second `begin` on; all notes end there at the latest.
    """
    onsets = np.unique(notes.starts)
    near = onsets[onsets >= begin][1:]
    near = near[np.abs(near - seconds) <= MARGIN]
    waits = np.diff(onsets, prepend=0.0)[np.searchsorted(onsets, near)]
    for end in near[np.argsort(-waits, kind="stable")]:
        found = notes.truncate(float(end))
        if found.seconds >= seconds - MARGIN:
            return found
    return notes.truncate(seconds)
