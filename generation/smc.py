"""Generation around given events, by sequential Monte Carlo (Doucet and Johansen 2009).

Given events must happen at their times: a note that is kept, say. A population of sequences, the
particles, is generated as one batch. Each particle has a weight, and after every group of given
events those that fit badly are replaced by copies of those that fit well.

Target. The network, with its mask and temperatures, gives a sequence x the probability
p(x) = prod p(x_t | x_<t). The target is p(x), restricted to the sequences in which

  - the given events happen in their order, each between its `earliest` and its `latest` time;
  - every free event is one that `GivenEvents` allows at its time.

Proposal. With p the distribution of the next event and `free` the allowed free events:

  - a given event e is due (clock >= earliest): a free event x with p(x), and e with all the rest,
    q(e) = 1 - p(free). A time shift that would pass `latest` is not free, so e happens as soon as
    the network wants to go on.
  - otherwise: a free event x with p(x). The mass of the time shifts that would pass `latest` goes
    to those that land between `earliest` and `latest`, in proportion to p; if there are none, to
    the longest one before `earliest`. While no free note ons are allowed, so does all other mass
    that is not free: the network wants to go on. Otherwise q is normalized.

Weight. Each step multiplies the weight by p(x) / q(x), which makes up for whatever the proposal
changes. So a weighted average over the particles estimates the average under the target, and the
average weight estimates the probability of the given events (`log_evidence`). Both are exact in
the limit of many particles; tests/generation/test_smc.py compares them with enumeration.

Resampling. Particles wait for each other after every group of given events, so that weights are
compared for the same evidence. If the effective sample size ESS = (sum w)^2 / sum w^2 is below
half the number of particles, new particles are drawn by systematic resampling. Where one group
would leave only few distinct parents, they are drawn with probabilities in proportion to w^b with
an exponent b < 1, and keep the rest of the weight, w^(1 - b): selection is spread over several
groups, and nothing of the result changes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from generation.engine import Engine, GenerationInputs, State
from generation.sampling import EventMask, Sampler
from sequence import Encoding, EventSeq
from utils import Array

FOREVER = 1 << 60  # microseconds
RESAMPLE_BELOW = 0.5  # share of the particles; resample if the effective sample size is lower
TEMPERED_SIZE = 0.25  # share of the particles; effective sample size of a tempered selection
MAX_RATE = 400  # events/s between two given events; a particle with more of them is dropped
MIN_STEPS = 64  # so many events are always possible between two given events
GUARD = 60_000  # microseconds before a given note in which its key may not be struck


@dataclass(frozen=True, eq=False)
class EventTable:
    """What each event of a vocabulary is.

    keys: int64 [events], the key of a note on or note off, else -1; note_ons, velocities: bool
    [events]; durations: int64 microseconds [events].
    """

    keys: Array
    note_ons: Array
    velocities: Array
    durations: Array

    @staticmethod
    def build(encoding: Encoding) -> EventTable:
        """Return the table of the 240 events."""
        ranges = EventSeq.feat_ranges()
        index = np.arange(EventSeq.dim())
        note_ons, note_offs, velocities, shifts = (np.isin(index, r) for r in ranges.values())
        keys = np.where(note_ons, index, -1)
        keys[note_offs] = np.arange(note_offs.sum())
        durations = np.zeros(len(index), np.int64)
        microseconds = 1e6 / encoding.ticks_per_second * encoding.time_shifts
        durations[shifts] = np.rint(microseconds).astype(np.int64)
        return EventTable(keys, note_ons, velocities, durations)


@dataclass(frozen=True, eq=False)
class GivenEvents:
    """Events that must happen, in this order, and the free events that may happen around them.

    Times are int64 microseconds from the first generated event on.

    events: note ons and note offs [given]; velocities: the velocity event that must be in force
    at a given note on, -1 if it is free [given].
    earliest, latest: the window of each event [given]. after, within: it also comes at least and
    at most so long after the given event before it [given]; 0 and FOREVER for no such limit.
    A window should be as long as the shortest time shift, so that every particle can reach it.
    early: free events that are allowed while event i is the next given one and not yet due, bool
    [given + 1, events]. due: those that may still come before event i once it is due, bool
    [given, events].
    group_ends: whether particles wait for each other after the event, bool [given].
    opening, closing: free note ons are allowed from the one to the other time; end: of the music.
    always_velocity: a given note on has a velocity event even if it changes nothing.
    """

    events: Array
    velocities: Array
    earliest: Array
    latest: Array
    after: Array
    within: Array
    early: Array
    due: Array
    group_ends: Array
    opening: int
    closing: int
    end: int
    always_velocity: bool = False


@dataclass(frozen=True, eq=False)
class Trace:
    """One generated sequence, and how the particles did.

    events: int64 [steps]; is_given: bool [steps]; log_evidence: log of the estimated probability
    of the given events; lowest_size: the lowest effective sample size; fewest_parents: the fewest
    distinct parents in one resampling.
    """

    events: Array
    is_given: Array
    log_evidence: float
    lowest_size: float
    fewest_parents: int


class _Tables:
    """The event table and the given events as tensors, with a last event that is never due."""

    def __init__(self, table: EventTable, given: GivenEvents, device: torch.device) -> None:
        def tensor(values: Array, last: int | None = None) -> Tensor:
            rows = values if last is None else np.append(values, last)
            return torch.as_tensor(rows).to(device)

        self.note_ons, self.velocities = tensor(table.note_ons), tensor(table.velocities)
        self.durations = tensor(table.durations)
        self.shifts = tensor(np.flatnonzero(table.durations))  # events that take time
        self.shift_durations = self.durations[self.shifts]
        self.events, self.required = tensor(given.events, 0), tensor(given.velocities, -1)
        self.earliest = tensor(given.earliest, FOREVER)
        self.latest = tensor(given.latest, FOREVER)
        self.after, self.within = tensor(given.after, 0), tensor(given.within, FOREVER)
        none = np.zeros((1, len(table.keys)), bool)
        self.early, self.due = tensor(given.early), tensor(np.concatenate([given.due, none]))
        self.guarded = tensor(np.concatenate([_find_guarded(table, given), none]))


def _find_guarded(table: EventTable, given: GivenEvents) -> Array:
    """Return the note ons of the keys that are struck in the rest of a group [given, events]."""
    guarded = np.zeros((len(given.events), len(table.keys)), bool)
    for i in range(len(given.events) - 1, -1, -1):
        if not given.group_ends[i] and i + 1 < len(guarded):
            guarded[i] = guarded[i + 1]
        if table.note_ons[given.events[i]]:
            guarded[i, given.events[i]] = True
    return guarded


@dataclass
class _Particles:
    """Some particles between two steps; all tensors are [particles].

    event: the input of the next step; pointer: number of given events so far; clock: microseconds;
    anchor: the time of the last given event; velocity: the velocity event in force, -1 for none;
    is_bound: whether the given note on must follow at once; slots: their places in the history.
    """

    state: State
    mask: EventMask
    event: Tensor
    pointer: Tensor
    clock: Tensor
    anchor: Tensor
    velocity: Tensor
    is_bound: Tensor
    log_weight: Tensor
    slots: Tensor

    def select(self, indices: Tensor) -> _Particles:
        """Return the particles with these indices, which may repeat."""
        mask = copy.copy(self.mask)  # its tensors are replaced, not changed
        mask.select(indices)
        columns = [column[indices] for column in self._columns]
        return _Particles(self.state.select(indices), mask, *columns)

    @property
    def _columns(self) -> tuple[Tensor, ...]:
        return (
            *(self.event, self.pointer, self.clock, self.anchor, self.velocity),
            *(self.is_bound, self.log_weight, self.slots),
        )

    @staticmethod
    def join(parts: list[_Particles]) -> _Particles:
        """Return all particles of several parts."""
        if len(parts) == 1:
            return parts[0]
        state = State.join([part.state for part in parts])
        mask = EventMask.join([part.mask for part in parts])
        columns = zip(*(part._columns for part in parts), strict=True)
        return _Particles(state, mask, *(torch.cat(column) for column in columns))


class _History:
    """The events of all particles, and the parents of each resampling.

    Nothing is copied when particles are replaced: `trace` walks back through the parents.
    """

    def __init__(self, particles: int) -> None:
        self._particles = particles
        self._events: list[Array] = []  # [particles] each, -1 for a particle that waited
        self._given: list[Array] = []
        self._parents: list[tuple[int, Array]] = []  # number of steps before it, parents

    def add(self, slots: Array, events: Array, is_given: Array) -> None:
        """Append a step of the particles in these slots."""
        row, flags = np.full(self._particles, -1, np.int32), np.zeros(self._particles, bool)
        row[slots], flags[slots] = events, is_given
        self._events.append(row)
        self._given.append(flags)

    def replace(self, parents: Array) -> None:
        """Give the particle in slot k the history of slot `parents[k]`."""
        self._parents.append((len(self._events), parents))

    def trace(self, slot: int) -> tuple[Array, Array]:
        """Return the events of one particle [steps], and which of them are given."""
        events: list[Array] = []
        given: list[Array] = []
        end = len(self._events)
        for start, parents in [*reversed(self._parents), (0, None)]:
            if end > start:
                column = np.array([row[slot] for row in self._events[start:end]])
                flags = np.array([row[slot] for row in self._given[start:end]])
                events.append(column[column >= 0])
                given.append(flags[column >= 0])
            if parents is not None:
                slot = int(parents[slot])
            end = start
        return np.concatenate(events[::-1]).astype(np.int64), np.concatenate(given[::-1])


class ParticleFilter:
    """Generates sequences in which the given events happen; see the module.

    inputs: one start vector for all particles, or one for each; control_start: the second of the
    control table at which generation starts.
    """

    def __init__(
        self,
        engine: Engine,
        inputs: GenerationInputs,
        table: EventTable,
        given: GivenEvents,
        sampler: Sampler,
        rng: torch.Generator,
        control_start: float = 0.0,
    ) -> None:
        self._engine, self._inputs, self._given = engine, inputs, given
        self._control_start = control_start
        self._table = _Tables(table, given, engine.device)
        self._shortest = int(self._table.shift_durations.min())
        self._sampler, self._rng = sampler, rng
        # the probability of a given event does not depend on filters
        self._plain_sampler = replace(sampler, top_k=0, top_p=1.0, min_p=0.0)
        self._has_filter = self._plain_sampler != sampler

    @torch.inference_mode()
    def run(self, particles: int, on_progress: Callable[[float], object] | None = None) -> Trace:
        """Return one sequence, drawn by weight from `particles` particles at the end.

        on_progress: called with the seconds generated so far.
        Raises ValueError if the given events are impossible for every particle.
        """
        population, history = self._start(particles), _History(particles)
        lowest_size, fewest_parents = float(particles), particles
        for end in [*np.flatnonzero(self._given.group_ends) + 1, len(self._given.events) + 1]:
            population = self._advance(population, int(end), history)
            log_weight = population.log_weight.cpu().double().numpy()
            if not np.isfinite(log_weight).any():
                raise ValueError(self._describe_impossible(int(end)))
            size = effective_size(log_weight)
            lowest_size = min(lowest_size, size)
            slots = population.slots.cpu().numpy()
            if size < RESAMPLE_BELOW * particles:
                order, log_weight = self._resample(log_weight)
                fewest_parents = min(fewest_parents, len(np.unique(order)))
                slots = slots[order]
                population = population.select(torch.as_tensor(order, device=self._engine.device))
            history.replace(slots)
            population.log_weight = torch.as_tensor(log_weight).to(population.log_weight)
            population.slots = torch.arange(particles, device=self._engine.device)
            if on_progress is not None:
                on_progress(float(population.clock.min()) / 1e6)
        weights = np.exp(log_weight - log_weight.max())
        chosen = int(np.searchsorted(np.cumsum(weights), self._draw() * weights.sum()))
        events, is_given = history.trace(min(chosen, particles - 1))
        log_evidence = float(log_weight.max() + np.log(weights.mean()))
        return Trace(events, is_given, log_evidence, lowest_size, fewest_parents)

    def _start(self, particles: int) -> _Particles:
        state, event, mask = self._engine.prime(self._inputs)
        if state.time is not None:
            state.time = state.time + round(1000 * self._control_start)  # milliseconds
        device = self._engine.device
        if len(event) == 1:
            indices = torch.zeros(particles, dtype=torch.long, device=device)
            state, event = state.select(indices), event[indices]
            mask.select(indices)
        zeros = torch.zeros(particles, dtype=torch.long, device=device)
        velocity = zeros - 1
        for context_event in self._inputs.context.tolist():
            if self._table.velocities[context_event]:
                velocity = zeros + context_event
        return _Particles(
            *(state, mask, event, zeros, zeros, zeros, velocity),
            zeros.bool(),
            torch.zeros(particles, device=device),
            torch.arange(particles, device=device),
        )

    def _draw(self) -> float:
        return float(torch.rand((), generator=self._rng, dtype=torch.float64))

    def _resample(self, log_weight: Array) -> tuple[Array, Array]:
        """Return the parent of each new particle, and the weight that the new ones keep."""
        exponent = find_exponent(log_weight, TEMPERED_SIZE * len(log_weight))
        scaled = exponent * log_weight
        share = np.exp(scaled - scaled.max())
        total = share.sum()
        parents = resample_systematically(share / total, self._draw())
        # w / (particles * probability); the mean of w^b is common to all
        common = scaled.max() + math.log(total / len(share))
        return parents, log_weight[parents] - scaled[parents] + common

    def _describe_impossible(self, pointer: int) -> str:
        time = self._given.latest[min(pointer, len(self._given.latest)) - 1] / 1e6
        return f"no music could be generated that has the given notes at second {time:.2f}"

    def _advance(self, particles: _Particles, end: int, history: _History) -> _Particles:
        """Return all particles after `end` given events, in any order.

        `end` of one more than there are means until the end of the music.
        """
        parts = []
        limit = self._limit_steps(int(particles.pointer.min()), end)
        for step in range(limit):
            done = self._is_done(particles, end)
            if step == limit - 1:
                particles.log_weight = particles.log_weight.masked_fill(~done, -torch.inf)
                done = torch.ones_like(done)
            if done.any():
                parts.append(particles.select(done.nonzero()[:, 0]))
                particles = particles.select((~done).nonzero()[:, 0])
                if not len(particles.event):
                    break
            self._step(particles, history)
        return _Particles.join(parts)

    def _limit_steps(self, start: int, end: int) -> int:
        """Return the most steps from `start` given events to `end`; see `_advance`."""
        times = [0, *self._given.latest.tolist(), self._given.end]
        seconds = max(0, times[end] - times[start]) / 1e6
        return MIN_STEPS + 2 * (end - start) + math.ceil(MAX_RATE * seconds)

    def _is_done(self, particles: _Particles, end: int) -> Tensor:
        if end <= len(self._given.events):
            return particles.pointer >= end
        return particles.clock >= self._given.end

    def _step(self, particles: _Particles, history: _History) -> None:
        """Generate the next event of each particle, and update the particles."""
        logits = self._engine.step(particles.state, particles.event)
        opens, closes = self._find_window(particles)
        is_due = (particles.clock >= opens) | particles.is_bound
        target = self._find_target(particles)
        masked = particles.mask.apply(logits)
        column = target[:, None]
        # a given event is never masked
        unmasked = torch.where(is_due[:, None], logits.gather(1, column), masked.gather(1, column))
        masked = masked.scatter(1, column, unmasked)
        probs = self._plain_sampler.filter_logits(masked).softmax(dim=-1)
        filtered = probs
        if self._has_filter:
            filtered = self._sampler.filter_logits(masked).softmax(dim=-1)
        free = filtered * self._find_free(particles, is_due, opens)
        proposal = self._propose(particles.clock, free, opens, closes, is_due)
        # a due event gets all the mass that is not free
        proposal.scatter_(1, column, proposal.gather(1, column).masked_fill(is_due[:, None], 0.0))
        probability = probs.gather(1, column)[:, 0]
        rest = torch.maximum(1 - proposal.sum(dim=1), probability) * is_due
        proposal.scatter_add_(1, column, rest[:, None])
        total = proposal.sum(dim=1)
        event = self._draw_events(proposal, total)
        is_given = is_due & (event == target)
        chosen = event[:, None]
        wanted = torch.where(is_given, probability, filtered.gather(1, chosen)[:, 0])
        ratio = wanted.log() - proposal.gather(1, chosen)[:, 0].log() + total.log()
        ratio = ratio.nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        particles.log_weight = particles.log_weight + ratio
        history.add(*(t.cpu().numpy() for t in (particles.slots, event, is_given)))
        self._update(particles, event, is_given)

    def _propose(
        self, clock: Tensor, free: Tensor, opens: Tensor, closes: Tensor, is_due: Tensor
    ) -> Tensor:
        """Return the proposal for the free events [particles, events], not normalized.

        free: the probability of each free event, 0 for others; opens, closes: the window of the
        next given event [particles].
        """
        table = self._table
        shifts = free.index_select(1, table.shifts)
        arrivals = clock[:, None] + table.shift_durations
        inside = shifts.masked_fill(arrivals > closes[:, None], 0.0)
        landing = inside * _find_landing(arrivals, opens[:, None], inside > 0)
        passing, landing_sum = (shifts - inside).sum(dim=1), landing.sum(dim=1)
        waiting = torch.where(self._is_open(clock), passing, 1 - free.sum(dim=1) + passing)
        has_window = opens < FOREVER - 1
        share = (waiting / landing_sum.clamp(min=1e-30)) * (~is_due & has_window)
        return free.index_copy(1, table.shifts, inside + landing * share[:, None])

    def _find_window(self, particles: _Particles) -> tuple[Tensor, Tensor]:
        """Return when the window of the next given event opens and closes, microseconds."""
        table, pointer, anchor = self._table, particles.pointer, particles.anchor
        opens = torch.maximum(table.earliest[pointer], anchor + table.after[pointer])
        closes = torch.minimum(table.latest[pointer], anchor + table.within[pointer])
        return opens, torch.maximum(closes, opens + self._shortest)

    def _find_target(self, particles: _Particles) -> Tensor:
        """Return the next given event, or the velocity event that must come before it."""
        required = self._table.required[particles.pointer]
        needs_velocity = (required >= 0) & ~particles.is_bound
        if not self._given.always_velocity:
            needs_velocity &= required != particles.velocity
        return torch.where(needs_velocity, required, self._table.events[particles.pointer])

    def _find_free(self, particles: _Particles, is_due: Tensor, opens: Tensor) -> Tensor:
        """Return which free events are allowed, bool [particles, events]; see GivenEvents."""
        table, pointer, clock = self._table, particles.pointer, particles.clock
        free = torch.where(is_due[:, None], table.due[pointer], table.early[pointer])
        free &= ~((clock >= opens - GUARD)[:, None] & table.guarded[pointer])
        free &= self._is_open(clock)[:, None] | ~table.note_ons
        return free & ~particles.is_bound[:, None]

    def _is_open(self, clock: Tensor) -> Tensor:
        """Return whether free note ons are allowed at a time [particles]."""
        return (clock >= self._given.opening) & (clock < self._given.closing)

    def _draw_events(self, proposal: Tensor, total: Tensor) -> Tensor:
        """Draw an event of each particle [particles] in proportion to a row of the proposal."""
        uniform = torch.rand(len(total), generator=self._rng).to(total.device)
        cumulative = proposal.cumsum(dim=1)
        point = (uniform * cumulative[:, -1])[:, None]
        event = (cumulative <= point).sum(dim=1)
        # rounding may lead to an event of probability 0 at the end of the row
        last = proposal.shape[1] - 1 - (proposal.flip(1) > 0).float().argmax(dim=1)
        return torch.minimum(event, last)

    def _update(self, particles: _Particles, event: Tensor, is_given: Tensor) -> None:
        table = self._table
        particles.event = event
        particles.mask.update(event)
        particles.clock = particles.clock + table.durations[event]
        is_velocity = table.velocities[event]
        particles.velocity = torch.where(is_velocity, event, particles.velocity)
        happens = is_given & ~is_velocity
        particles.anchor = torch.where(happens, particles.clock, particles.anchor)
        particles.pointer = particles.pointer + happens
        particles.is_bound = is_given & is_velocity


def _find_landing(arrivals: Tensor, opens: Tensor, is_possible: Tensor) -> Tensor:
    """Return the time shifts that get the mass of longer ones, bool [particles, shifts].

    These are the ones that land in the window, or else the longest one before it.
    """
    lands = is_possible & (arrivals >= opens)
    is_early = is_possible & (arrivals < opens)
    latest = torch.where(is_early, arrivals, -1).amax(dim=1, keepdim=True)
    return torch.where(lands.any(dim=1, keepdim=True), lands, is_early & (arrivals == latest))


def effective_size(log_weight: Array) -> float:
    """Return the effective sample size (sum w)^2 / sum w^2 of log-weights [particles]."""
    weight = np.exp(log_weight - log_weight.max())
    return float(weight.sum() ** 2 / (weight**2).sum())


def find_exponent(log_weight: Array, size: float) -> float:
    """Return the exponent b <= 1 with which w^b has an effective sample size of `size`.

    1 if w itself has at least this size. The effective size falls as b rises, so b is bisected.
    """
    finite = log_weight[np.isfinite(log_weight)]
    if effective_size(finite) >= size or len(finite) <= size:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if effective_size(middle * finite) >= size else (low, middle)
    return low


def resample_systematically(probabilities: Array, uniform: float) -> Array:
    """Return the parents of as many particles as there are probabilities (Kitagawa 1996).

    One uniform number 0-1 places equally spaced points on the cumulative sum.
    """
    count = len(probabilities)
    points = (np.arange(count) + uniform) / count
    return np.minimum(np.searchsorted(np.cumsum(probabilities), points, "right"), count - 1)
