"""What a performance needs in a DAW or a notation program: tempo map, meter, beats, grid, pedal.

All of it keeps the times of the notes: a tempo map only says which ticks a second has.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import mido
import numpy as np

from midi.notes import NoteSeq, read_midi
from midi.playback import MidiStats, find_next_onsets
from utils import Array

DEFAULT_BPM = 120.0  # of MIDI files without a tempo
LOWEST_BPM, HIGHEST_BPM = 4.0, 2000.0  # of a file whose tempos are used
RESOLUTION = 480  # ticks per quarter note are a multiple of this, so that a grid falls on ticks
MAX_RESOLUTION = 32640  # the largest multiple that a file can hold
MAX_TEMPO = (1 << 24) - 1  # microseconds per quarter note that a file can hold
ON_BAR = 0.03  # quarter notes by which a bar line may be missed
GRIDS = (4, 6, 8, 12, 16, 24, 32, 48)  # parts of a whole note

Meter = tuple[int, int]  # numerator and denominator


def parse_meter(text: str) -> Meter:
    """Return the two numbers of a time signature such as 3/4; raise ValueError for other texts."""
    match = re.fullmatch(r"\s*(\d{1,2})\s*/\s*(1|2|4|8|16|32)\s*", text)
    if not match or not 1 <= int(match[1]) <= 32:
        raise ValueError(f"{text!r} is not a time signature, such as 3/4 or 6/8")
    return int(match[1]), int(match[2])


def parse_grid(text: str) -> float:
    """Return the step of a grid such as 1/16 in quarter notes; ValueError for other texts."""
    match = re.fullmatch(r"\s*1/(\d+)\s*", text)
    if not match or int(match[1]) not in GRIDS:
        known = ", ".join(f"1/{parts}" for parts in GRIDS)
        raise ValueError(f"{text!r} is not a grid, it must be one of {known}")
    return 4 / int(match[1])


# ------------------------------------------------------------------------------------ tempo maps


@dataclass(frozen=True, eq=False)
class TempoMap:
    """Tempos and meters over time.

    times: seconds from which a tempo holds, float64 [tempos], the first is 0; bpm: quarter notes
    per minute [tempos]; meters: second, numerator and denominator of each meter, the first at 0.
    """

    times: Array
    bpm: Array
    meters: tuple[tuple[float, int, int], ...]

    @staticmethod
    def constant(bpm: float, meter: Meter = (4, 4)) -> TempoMap:
        """Return a map with one tempo and one meter."""
        return TempoMap(np.zeros(1), np.array([float(bpm)]), ((0.0, *meter),))

    @staticmethod
    def from_beats(beats: Array, meter: Meter = (4, 4)) -> TempoMap:
        """Return a map in which each beat, in seconds, is a beat of the meter.

        The first beat starts a bar; a rest of the music before it is a short first bar.
        """
        quarters = 4 / meter[1]  # of a beat
        lengths = np.diff(beats)
        bpm = 60 * quarters / np.append(lengths, lengths[-1])
        whole = TempoMap(np.asarray(beats, float), bpm, ((float(beats[0]), *meter),))
        if beats[0] < ON_BAR * lengths[0]:
            times = whole.times.copy()
            times[0] = 0.0
            return replace(whole, times=times, meters=((0.0, *meter),))
        return whole._add_pickup(0.0, float(beats[0]), float(beats[0] / lengths[0]) * quarters)

    @staticmethod
    def from_stats(stats: MidiStats) -> TempoMap | None:
        """Return the map of a MIDI file; None if it says nothing about tempo and meter.

        A file at the default tempo in 4/4 counts as such, because performances are recorded so,
        and so does one with a tempo outside of LOWEST_BPM to HIGHEST_BPM.
        """
        tempos = stats.tempos[:, 1]
        if not len(tempos) or tempos.min() < LOWEST_BPM or tempos.max() > HIGHEST_BPM:
            return None
        signatures = [(float(row[0]), int(row[1]), int(row[2])) for row in stats.time_signatures]
        meters = [row for row in signatures if 1 <= row[1] <= 255]
        if not meters or meters[0][0] > 0:
            meters.insert(0, (0.0, 4, 4))
        is_default = np.allclose(stats.tempos[:, 1], DEFAULT_BPM, atol=1e-3)
        if is_default and {row[1:] for row in meters} == {(4, 4)}:
            return None
        return TempoMap(stats.tempos[:, 0], stats.tempos[:, 1], tuple(meters))

    def find_quarters(self, seconds: Array | float) -> Array:
        """Return the position of times in seconds, in quarter notes from the start."""
        knots = self._find_knots()
        row = (np.searchsorted(self.times, seconds, "right") - 1).clip(0)
        return np.asarray(knots[row] + (seconds - self.times[row]) * self.bpm[row] / 60)

    def find_seconds(self, quarters: Array | float) -> Array:
        """Return the inverse of `find_quarters`."""
        knots = self._find_knots()
        row = (np.searchsorted(knots, quarters, "right") - 1).clip(0)
        return np.asarray(self.times[row] + (quarters - knots[row]) * 60 / self.bpm[row])

    def _find_knots(self) -> Array:
        """Return the position of each tempo change, in quarter notes."""
        return np.append(0.0, np.cumsum(np.diff(self.times) * self.bpm[:-1] / 60))

    def crop(self, start: float, end: float = math.inf) -> TempoMap:
        """Return the map from second `start` on, without changes after second `end`.

        If `start` is not on a bar line, the first bar is short and ends at the next one.
        """
        bar_line, quarters = self._find_bar_line(start)
        kept = (self.times > bar_line) & (self.times < end)
        row = int(np.searchsorted(self.times, bar_line + 1e-6, "right")) - 1
        times = np.append(bar_line, self.times[kept]) - start
        bpm = np.append(self.bpm[max(row, 0)], self.bpm[kept])
        current = [meter for meter in self.meters if meter[0] <= bar_line + 1e-6][-1]
        later = [meter for meter in self.meters if bar_line + 1e-6 < meter[0] < end]
        meters = [(bar_line - start, current[1], current[2])]
        meters += [(meter[0] - start, meter[1], meter[2]) for meter in later]
        if not quarters:
            return TempoMap(np.append(0.0, times[1:]), bpm, tuple(meters))
        return TempoMap(times, bpm, tuple(meters))._add_pickup(0.0, bar_line - start, quarters)

    def list_bars(self, end: float) -> Array:
        """Return the bar lines before second `end`, in seconds."""
        edges = [meter[0] for meter in self.meters] + [max(end, self.meters[-1][0])]
        bars = []
        for (start, numerator, denominator), stop in zip(self.meters, edges[1:], strict=True):
            first, last = float(self.find_quarters(start)), float(self.find_quarters(stop))
            steps = np.arange(first, last - ON_BAR, 4 * numerator / denominator)
            bars.append(self.find_seconds(steps))
        return np.concatenate(bars)

    def _find_bar_line(self, start: float) -> tuple[float, float]:
        """Return the next bar line in seconds, and the quarter notes until it, 0 if it is here."""
        second, numerator, denominator = [m for m in self.meters if m[0] <= start + 1e-6][-1]
        bar = 4 * numerator / denominator
        here, origin = float(self.find_quarters(start)), float(self.find_quarters(second))
        rest = bar - (here - origin) % bar
        if min(rest, bar - rest) < ON_BAR:
            return start, 0.0
        bar_line = float(self.find_seconds(here + rest))
        changes = [meter[0] for meter in self.meters if start < meter[0] < bar_line]
        if changes:  # a new meter starts a bar
            bar_line = changes[0]
            rest = float(self.find_quarters(bar_line)) - here
        return bar_line, rest

    def _add_pickup(self, start: float, end: float, quarters: float) -> TempoMap:
        """Return the map with a short bar before it, of about a number of quarter notes.

        The bar has a whole number of sixteenths, and its tempo makes them last from start to end.
        """
        sixteenths = max(1, round(4 * quarters))
        unit = 4 if sixteenths % 4 == 0 else 2 if sixteenths % 2 == 0 else 1
        bpm = 60 * sixteenths / 4 / (end - start)
        meter = (start, sixteenths // unit, 16 // unit)
        return TempoMap(
            np.append(start, self.times), np.append(bpm, self.bpm), (meter, *self.meters)
        )


def load_tempo_map(path: str) -> TempoMap | None:
    """Return the map of a MIDI file; see `TempoMap.from_stats`."""
    return TempoMap.from_stats(read_midi(path)[1])


def write_tempo_map(content: bytes, tempo_map: TempoMap, grid: float | None = None) -> bytes:
    """Return a MIDI file with the tempos and meters of a map, and all events at their seconds.

    content: a MIDI file with ticks of a millisecond. A tick of the result is at most as long.
    grid: step in quarter notes; events within a millisecond of it are put on it.
    """
    old = mido.MidiFile(file=io.BytesIO(content))
    slowest = max(60 / tempo_map.bpm)  # seconds per quarter note
    multiple = math.ceil(1000 * slowest / RESOLUTION)
    resolution = min(MAX_RESOLUTION, RESOLUTION * max(2, multiple))
    tempos = np.clip(np.rint(60e6 / tempo_map.bpm), 1, MAX_TEMPO)  # microseconds
    ticks, seconds = [0], [0.0]  # of the tempo changes, as the file will have them
    for start, tempo in zip(tempo_map.times[1:].tolist(), tempos.tolist(), strict=False):
        step = max(0, round((start - seconds[-1]) * 1e6 * resolution / tempo))
        ticks.append(ticks[-1] + step)
        seconds.append(seconds[-1] + step * tempo / 1e6 / resolution)
    edges = np.array(seconds)

    def to_ticks(time: float) -> int:
        row = int(np.searchsorted(edges, time, "right")) - 1
        exact = ticks[row] + (time - seconds[row]) * 1e6 * resolution / tempos[row]
        if grid is not None:
            nearest = round(exact / (grid * resolution)) * grid * resolution
            if abs(exact - nearest) * tempos[row] / 1e6 / resolution <= 0.001:
                exact = nearest
        return round(exact)

    new = mido.MidiFile(type=1, ticks_per_beat=resolution)
    for index, track in enumerate(old.tracks):
        messages, now = [], 0
        for message in track:
            now += message.time
            if message.type not in ("set_tempo", "time_signature", "end_of_track"):
                messages.append((to_ticks(now / 1000), message))
        if index == 0:
            messages += _list_map_messages(tempo_map, ticks, tempos, to_ticks)
            messages.sort(key=lambda timed: timed[0])
        end, result = 0, mido.MidiTrack()
        for tick, message in messages:
            result.append(message.copy(time=tick - end))
            end = tick
        result.append(mido.MetaMessage("end_of_track", time=1))
        new.tracks.append(result)
    target = io.BytesIO()
    new.save(file=target)
    return target.getvalue()


def _list_map_messages(
    tempo_map: TempoMap, ticks: Sequence[int], tempos: Array, to_ticks: object
) -> Iterator[tuple[int, mido.MetaMessage]]:
    """Yield the tick and the message of each meter and each tempo."""
    assert callable(to_ticks)  # noqa: S101
    for second, numerator, denominator in tempo_map.meters:
        signature = {"numerator": numerator, "denominator": denominator}
        yield to_ticks(second), mido.MetaMessage("time_signature", **signature)
    for tick, tempo in zip(ticks, tempos.tolist(), strict=True):
        yield tick, mido.MetaMessage("set_tempo", tempo=int(tempo))


def quantize_onsets(
    notes: NoteSeq, tempo_map: TempoMap, grid: float, is_given: Array
) -> tuple[NoteSeq, Array]:
    """Return notes with onsets on a grid, and which of them are given, bool [notes].

    grid: step in quarter notes. Lengths stay, and given notes stay as they are. Of several notes
    of a key at one time, the last is left out.
    """
    steps = np.rint(tempo_map.find_quarters(notes.starts) / grid)
    starts = np.where(is_given, notes.starts, tempo_map.find_seconds(steps * grid))
    starts = np.maximum(starts, 0.0)
    ends = starts + (notes.ends - notes.starts)
    order = np.lexsort((~is_given, notes.pitches, starts))
    columns = [column[order] for column in (starts, ends, notes.pitches, notes.velocities)]
    is_repeat = (np.diff(columns[0]) < 1e-6) & (np.diff(columns[2]) == 0)
    is_kept = np.append(True, ~is_repeat)[: len(notes)]
    starts, ends, pitches, velocities = (column[is_kept] for column in columns)
    by_key = np.lexsort((starts, pitches))
    ends[by_key] = np.minimum(ends[by_key], find_next_onsets(pitches[by_key], starts[by_key]))
    return NoteSeq(starts, ends, pitches, velocities), is_given[order][is_kept]


# ---------------------------------------------------------------------------------------- beats

CHORD_SECONDS = 0.05  # onsets that are closer together are one chord
MOST_BEATS = 3  # between two onsets on beats, so at most two beats have no onset
PERIODS = np.geomspace(0.25, 1.5, 46)  # seconds per beat that are tried
# places of onsets in a beat, and what an onset there costs
PLACES = np.array([0.0, 1 / 2, 1 / 4, 3 / 4, 1 / 3, 2 / 3, 1.0])
PLACE_COSTS = np.array([0.0, 0.42, 1.02, 1.02, 1.06, 1.06, 0.0])
OUTSIDE_COST = 4.2  # of an onset at another place
ONSET_DEVIATION = 0.048  # seconds: standard deviation of an onset from its place
# of a chord: for itself, its velocity / 64, its notes up to 5, a bass note, and seconds up to the
# next one
ONSET_WEIGHTS = np.array([0.12, 0.08, 0.29, 0.39, 1.28])
WEIGHT_POWER = 2.3
BEAT_COST = 0.64  # of each beat
MISSING_COST = 0.57  # of a beat without an onset
CHANGE_COST = 65.0  # of a change of the period: times the square of its logarithm
USUAL_PERIOD, PERIOD_COST = 0.44, 0.32  # times the square of the logarithm, per beat


def find_beats(notes: NoteSeq) -> Array:
    """Return the beats of a performance, in seconds, estimated from its onsets.

    Dynamic programming finds the onsets on beats, and the number of beats between each two of
    them, with the lowest cost: onsets at simple places in a beat, the heavy ones on it, and a
    period that changes little. Fewer than two beats are returned as two beats at the default tempo.
    """
    onsets, weights = _group_onsets(notes)
    if len(onsets) < 3:
        return np.array([0.0, 60 / DEFAULT_BPM])
    count = len(onsets)
    changes = CHANGE_COST * np.log(PERIODS[:, None] / PERIODS) ** 2  # [new, old]
    cost = np.full((count, len(PERIODS)), np.inf)
    source = np.zeros((count, len(PERIODS), 3), np.int64)  # onset before, its period, beats
    reach = np.cumsum(np.append(0, weights))
    cost[:, :] = (OUTSIDE_COST * reach[:count])[:, None]  # the first beat may be any onset
    arrivals = np.full((count, len(PERIODS)), np.inf)  # cost of arriving with the best change
    best_old = np.zeros((count, len(PERIODS)), np.int64)
    source[:, :, 2] = 0
    first = 0
    for j in range(count):
        while onsets[j] - onsets[first] > MOST_BEATS * PERIODS[-1]:
            first += 1
        if j > first:
            _arrive(j, first, onsets, weights, arrivals, best_old, cost, source)
        total = changes + cost[j]
        best_old[j] = total.argmin(axis=1)
        arrivals[j] = total.min(axis=1)
    return _trace_beats(onsets, weights, cost, source)


def _group_onsets(notes: NoteSeq) -> tuple[Array, Array]:
    """Return the times of chords and their weights, about 1 on average."""
    starts = notes.starts
    if not len(starts):
        return np.empty(0), np.empty(0)
    is_first = np.append(True, np.diff(starts) > CHORD_SECONDS)
    rows = np.flatnonzero(is_first)
    onsets = np.add.reduceat(starts, rows) / np.diff(np.append(rows, len(starts)))
    loud = np.maximum.reduceat(notes.velocities, rows) / 64
    low = np.minimum.reduceat(notes.pitches, rows)
    sizes = np.minimum(np.diff(np.append(rows, len(starts))), 5)
    gaps = np.minimum(np.diff(np.append(onsets, onsets[-1] + 0.5)), 0.6)
    weights = np.stack((np.ones(len(rows)), loud, sizes, low < 53, gaps), axis=1) @ ONSET_WEIGHTS
    # relative to the music around, so that soft and loud passages count the same
    around = np.convolve(np.pad(weights, 15, mode="edge"), np.full(31, 1 / 31), "valid")
    return onsets, (weights / around) ** WEIGHT_POWER


def _arrive(
    j: int,
    first: int,
    onsets: Array,
    weights: Array,
    arrivals: Array,
    best_old: Array,
    cost: Array,
    source: Array,
) -> None:
    """Find the cheapest way to a beat on onset j from beats on the onsets before it."""
    start = np.repeat(np.arange(first, j), MOST_BEATS)
    beats = np.tile(np.arange(1, MOST_BEATS + 1), j - first)
    periods = (onsets[j] - onsets[start]) / beats
    kept = (periods >= PERIODS[0]) & (periods <= PERIODS[-1])
    start, beats, periods = start[kept], beats[kept], periods[kept]
    if not len(start):
        return
    bins = np.abs(np.log(periods)[:, None] - np.log(PERIODS)).argmin(axis=1)
    between = np.arange(first + 1, j)  # onsets
    phase = (onsets[between] - onsets[start][:, None]) / periods[:, None] % 1  # [ways, onsets]
    deviation = (phase[..., None] - PLACES) * periods[:, None, None] / ONSET_DEVIATION
    places = (PLACE_COSTS + 0.5 * np.square(deviation)).min(axis=2).clip(max=OUTSIDE_COST)
    is_inside = between > start[:, None]
    onset_cost = (places * weights[between] * is_inside).sum(axis=1)
    ways = (
        arrivals[start, bins]
        + onset_cost
        + (beats - 1) * MISSING_COST
        + beats * (BEAT_COST + PERIOD_COST * np.log(periods / USUAL_PERIOD) ** 2)
    )
    order = np.argsort(-ways, kind="stable")  # the cheapest is written last
    start, beats, bins, ways = start[order], beats[order], bins[order], ways[order]
    better = ways < cost[j, bins]
    start, beats, bins, ways = start[better], beats[better], bins[better], ways[better]
    cost[j, bins] = ways
    source[j, bins] = np.column_stack((start, best_old[start, bins], beats))


def _trace_beats(onsets: Array, weights: Array, cost: Array, source: Array) -> Array:
    """Return the beats of the cheapest path, in seconds."""
    rest = OUTSIDE_COST * (weights.sum() - np.cumsum(weights))  # of onsets after the last beat
    j, period = divmod(int((cost + rest[:, None]).argmin()), cost.shape[1])
    beats = [onsets[j]]
    while source[j, period, 2]:
        start, old, count = source[j, period].tolist()
        beats += [onsets[j] + (onsets[start] - onsets[j]) * k / count for k in range(1, count + 1)]
        j, period = start, old
    if len(beats) < 2:
        return np.array([0.0, 60 / DEFAULT_BPM])
    return np.array(beats[::-1])
