"""The bytes of a MIDI file as arrays of events, in the order in which a synthesizer plays them.

An event has no fixed size, so where it starts is known only when all events before it are. To avoid
a Python loop over bytes, `_Segment` computes for every byte position where an event that started
there would end, jumps 16 events at a time, and fills in the events between. Damaged files are read
as far as they make sense; each repair is counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from utils import Array

NOTE_OFF, NOTE_ON, CONTROL, PROGRAM = 0x8, 0x9, 0xB, 0xC  # upper four bits of a status byte
DRUMS = 9  # channel 10, counted from 0
DEFAULT_TEMPO = 500_000  # microseconds per quarter note, until a file sets another one
FRAME_RATES = {24: 24.0, 25: 25.0, 29: 30000 / 1001, 30: 30.0}  # SMPTE frames per second
MAX_TICK = 1 << 53  # the largest exact time in ticks; later events are not read
HEADER = 14  # bytes

SEQUENCES = 2  # the file format whose tracks are played one after the other
META, SYSEX, ESCAPE = 0xFF, 0xF0, 0xF7  # status bytes of events with a length
TRACK_NAME, INSTRUMENT_NAME, PORT, END_OF_TRACK, TEMPO, TIME_SIGNATURE = (
    3,
    4,
    0x21,
    0x2F,
    0x51,
    0x58,
)

MAX_QUANTITY = 8  # bytes of a variable-length quantity; the format allows 4, some files have 5
MAX_NAME = 200  # bytes of a track's name
MAX_TRACKS = 65_535  # that a header can declare
SYSTEM = [status for status in range(0xF1, 0xFF) if status != ESCAPE]  # no part of the format
SEGMENT = 12_000  # positions of a `_Segment`: its arrays are under 128 KB, which malloc keeps
PADDING = 32  # zero bytes after the content: more than are read past an event's start

# kinds of repair: what was found in the file
NO_HEADER_FIRST = "headers after other bytes"
WRONG_RIFF_SIZE = "wrong sizes in a RIFF file"
WRONG_TRACK_COUNT = "headers with a wrong number of tracks"
WRONG_LENGTH = "tracks with a wrong length"
CUT_SHORT = "tracks cut short"
NO_END = "tracks without an end"
NOT_READABLE = "tracks with an unreadable rest"
BETWEEN_CHUNKS = "gaps between tracks"
SECOND_FILE = "MIDI files after the first one"
NO_STATUS = "events without a status byte"
SYSTEM_MESSAGES = "system messages between events"
LARGE_BYTES = "data bytes over 127"
LATE_EVENTS = "events later than 2^53 ticks"


@dataclass(frozen=True)
class MidiEvents:
    """Channel events of a MIDI file, and what else it says about time and tracks.

    Columns, each [events], sorted by tick, then track, then order in the track:
    ticks: int64; tracks: int64, from 0; channels: int64, 0-15 plus 16 for each further port
    (format 2: and for each track); is_drum: bool; kinds: upper four bits of the status byte, 8-14;
    data1, data2: uint8, 0-127 (data2 is undefined for kinds with one data byte).
    channel_ends: tick at which a channel ends, [channels]: the end of the longest track; in format
    2, of its own track.
    names: of each track, "" if it has none.
    quarter: ticks per quarter note; 0 in files with SMPTE time.
    tempo_ticks, tick_seconds: from each tick on, how many seconds a tick lasts, [tempos].
    time_signatures: tick, numerator and denominator, [n, 3].
    repairs: how often each kind of repair was needed.
    """

    ticks: Array
    tracks: Array
    channels: Array
    is_drum: Array
    kinds: Array
    data1: Array
    data2: Array
    channel_ends: Array
    names: list[str]
    is_sequences: bool
    quarter: int
    tempo_ticks: Array
    tick_seconds: Array
    time_signatures: Array
    repairs: Counter[str]

    def to_seconds(self, ticks: Array) -> Array:
        """Return times in seconds for times in ticks."""
        if len(self.tempo_ticks) == 1:
            return np.asarray(ticks * self.tick_seconds[0])
        starts = np.cumsum(np.diff(self.tempo_ticks, prepend=0) * np.roll(self.tick_seconds, 1))
        row = np.searchsorted(self.tempo_ticks, ticks, "right") - 1
        return np.asarray(starts[row] + (ticks - self.tempo_ticks[row]) * self.tick_seconds[row])


def read_events(content: bytes) -> MidiEvents:
    """Return the events of the content of a MIDI file.

    Raises ValueError, with the reason and the byte position, if no event can be read.
    """
    repairs: Counter[str] = Counter()
    content = _unwrap(content, repairs)
    header = _read_header(content)
    for modes in (1, 2):  # mode 2 is slower, and needed for few files: see `_Segment`
        found = Counter(repairs)
        tracks = _read_tracks(content, header.end, modes, found)
        if header.tracks != len(tracks):
            found[WRONG_TRACK_COUNT] += 1
        table = _Table.decode(content, tracks, found)
        if modes == 2 or not table.has_short_running_events():
            break
    return table.to_events(header, tracks, found)


# ------------------------------------------------------------------------------------------ chunks


class _Header(NamedTuple):
    end: int  # position after it
    is_sequences: bool
    tracks: int  # as declared
    quarter: int  # ticks per quarter note; 0 with SMPTE time
    tick_seconds: float  # with SMPTE time


def _unwrap(content: bytes, repairs: Counter[str]) -> bytes:
    """Return the content from its header on, taken out of a RIFF file if it is in one."""
    if content[:4] == b"RIFF" and content[8:12] == b"RMID":
        position = 12
        while content[position : position + 4] not in (b"data", b""):
            size = int.from_bytes(content[position + 4 : position + 8], "little")
            position += 8 + size + size % 2
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        if position + 8 + size > len(content) or not size:
            repairs[WRONG_RIFF_SIZE] += 1
            size = len(content)
        content = content[position + 8 : position + 8 + size]
    start = content.find(b"MThd", 0, 4096)
    if start < 0:
        raise ValueError("not a MIDI file: it does not start with MThd (byte 0)")
    if start > 0:
        repairs[NO_HEADER_FIRST] += 1
    return content[start:]


def _read_header(content: bytes) -> _Header:
    """Return the header chunk; ValueError if it gives no unit of time."""
    if len(content) < HEADER:
        raise ValueError(f"the MIDI file is cut short in its header (byte {len(content)})")
    size = int.from_bytes(content[4:8], "big")
    end = 8 + size if HEADER - 8 <= size <= len(content) - 8 else HEADER
    kind, tracks = int.from_bytes(content[8:10], "big"), int.from_bytes(content[10:12], "big")
    division = int.from_bytes(content[12:14], "big")
    if division & 0x8000:
        rate, frame = 256 - (division >> 8), division & 255
        if rate not in FRAME_RATES or not frame:
            message = f"{rate} frames per second of {frame} ticks are not supported (byte 12)"
            raise ValueError(f"not readable as MIDI: {message}")
        return _Header(end, kind == SEQUENCES, tracks, 0, 1 / (FRAME_RATES[rate] * frame))
    if not division:
        raise ValueError("not readable as MIDI: 0 ticks per quarter note (byte 12)")
    return _Header(end, kind == SEQUENCES, tracks, division, 0.0)


class _TrackBytes(NamedTuple):
    start: int
    positions: Array  # of its events
    has_end: bool


def _read_tracks(
    content: bytes, position: int, modes: int, repairs: Counter[str]
) -> list[_TrackBytes]:
    """Return the tracks of all chunks from `position` on."""
    walker, size = _Walker(content, modes), len(content)
    tracks: list[_TrackBytes] = []
    while position < size:
        if len(tracks) > MAX_TRACKS:
            message = f"over {MAX_TRACKS:,} tracks (byte {position})"
            raise ValueError(f"not readable as MIDI: {message}")
        kind, start = content[position : position + 4], position + 8
        end = start + int.from_bytes(content[position + 4 : start], "big")
        if kind == b"MTrk" and start <= size:
            track, position = _read_track(walker, start, end, repairs)
            tracks.append(track)
        elif kind == b"MThd":
            repairs[SECOND_FILE] += 1
            break
        elif _is_chunk_name(kind) and end <= size:
            position = end
        else:
            position = content.find(b"MTrk", position + 1)
            if position < 0:
                break
            repairs[BETWEEN_CHUNKS] += 1
    if not tracks:
        raise ValueError(f"the MIDI file is cut short: it has no track (byte {size})")
    if not any(len(track.positions) for track in tracks):
        message = f"no event can be read in its {len(tracks)} tracks"
        raise ValueError(f"not readable as MIDI: {message} (byte {tracks[0].start})")
    return tracks


def _is_chunk_name(name: bytes) -> bool:
    return len(name) == 4 and name.isascii() and name.decode("ascii").isprintable()


def _read_track(
    walker: _Walker, start: int, declared_end: int, repairs: Counter[str]
) -> tuple[_TrackBytes, int]:
    """Return a track and the position of the next chunk.

    The length of a chunk is believed if a chunk or the end of the file follows it. Otherwise the
    track ends at its end event or where the next track starts.
    """
    content, size = walker.content, len(walker.content)
    is_trusted = declared_end == size or (
        declared_end < size and _is_chunk_name(content[declared_end : declared_end + 4])
    )
    limit = declared_end
    if not is_trusted:
        following = content.find(b"MTrk", start)
        limit = following if following >= 0 else size
    positions, end, status = walker.walk(start, limit)
    track = _TrackBytes(start, positions, status == "ended")
    if status == "ended":
        following_track = content[end : end + 4] == b"MTrk"
        if end != declared_end and (following_track or not is_trusted):
            repairs[WRONG_LENGTH] += 1
        return track, end if following_track or not is_trusted else declared_end
    if status == "not readable":
        repairs[NOT_READABLE] += 1
    elif status == "cut short" or declared_end > limit:
        repairs[CUT_SHORT] += 1
    else:
        repairs[NO_END] += 1
    return track, limit


# ------------------------------------------------------------------------------ following events

# bytes of an event from its status byte on, by that byte; below 0x80: the last status applies
# ("running status") and there are two data bytes
EVENT_SIZES = np.full(256, 3, np.uint8)
EVENT_SIZES[:0x80] = 2
EVENT_SIZES[0xC0:0xE0] = 2
EVENT_SIZES[0xF0:] = 1
EVENT_SIZES[[0xF1, 0xF3]] = 2
EVENT_SIZES[0xF2] = 3


class _Segment:
    """Links from every position of a stretch of bytes to where an event starting there would end.

    With one mode, events in running status have two data bytes. With two modes, each position has
    two nodes, 2 * position + mode: mode 0 for that, mode 1 after a program change or channel
    pressure, where events in running status have one data byte. The node after the last
    position stands for "beyond", and for the end of the track.
    """

    def __init__(self, data: Array, first: int, modes: int) -> None:
        """Compute the links from `first` on; data: the bytes with `PADDING`."""
        self.first, self.modes = first, modes
        self.size = min(SEGMENT, len(data) - PADDING - first)
        window = data[first : first + self.size + PADDING]
        status, is_valid = _skip_quantities(window, self.size)
        kinds = window.take(status)
        ends = status + EVENT_SIZES.take(kinds)
        special = np.flatnonzero(kinds >= SYSEX)
        if special.size:
            ends[special] = self._find_special_ends(window, status[special], ends[special])
        if not is_valid.all():
            ends[~is_valid] = self.size
        beyond = self.size * modes
        links = np.full(beyond + modes, beyond)
        if modes == 1:
            np.minimum(ends, beyond, out=links[:-1])
        else:
            is_short = (kinds & 0xE0) == 0xC0
            for mode in (0, 1):
                sizes = ends - ((kinds < 0x80) & bool(mode))
                next_mode = np.where((kinds < 0x80) | (kinds >= 0xF0), mode, is_short)
                links[mode:beyond:2] = np.minimum(2 * sizes + next_mode, beyond)
        self.links = [(links, 1)]  # over 8, 4, 2 and 1 events
        for size in (2, 4, 8):
            links = links.take(links)
            self.links.insert(0, (links, size))
        self.links16 = links.take(links).data

    def _find_special_ends(self, window: Array, status: Array, ends: Array) -> Array:
        """Return the ends of events of kinds 0xF0-0xFF, relative to the segment."""
        kinds = window[status]
        has_length = (kinds == META) | (kinds == SYSEX) | (kinds == ESCAPE)
        lengths, after = _read_quantities(window, status + 1 + (kinds == META))
        is_end = (kinds == META) & (window[status + 1] == END_OF_TRACK)
        return np.where(is_end, self.size, np.where(has_length, after + lengths, ends))

    def walk(self, position: int, end: int, mode: int) -> tuple[Array, int]:
        """Return the positions of the events that start before `end` here, and the last mode."""
        limit = (min(end - self.first, self.size)) * self.modes
        node, nodes = (position - self.first) * self.modes + mode, []
        links16 = self.links16
        while node < limit:
            nodes.append(node)
            node = links16[node]
        table = np.empty((len(nodes), 16), np.int64)  # 16 events from each node on
        table[:, 0] = nodes
        for links, size in self.links:
            table[:, size :: 2 * size] = links.take(table[:, :: 2 * size])
        steps = table.ravel()
        steps = steps[: np.searchsorted(steps, limit)]
        if self.modes == 1:
            return steps + self.first, 0
        return steps // 2 + self.first, int(steps[-1] % 2)


def _skip_quantities(window: Array, size: int) -> tuple[Array, Array]:
    """Return the position after the variable-length quantity at each position; is it valid?"""
    is_high = window >= 0x80
    after, is_longer = np.arange(1, size + 1), is_high[:size]
    for offset in range(1, MAX_QUANTITY):
        if not is_longer.any():
            break
        after += is_longer
        is_longer = is_longer & is_high[offset : offset + size]
    return after, ~is_longer


def _read_quantities(data: Array, positions: Array) -> tuple[Array, Array]:
    """Return the variable-length quantities at some positions, and the positions after them."""
    last = data[positions].astype(np.int64)
    values, after = last & 127, positions + 1
    rows = np.flatnonzero(last >= 0x80)
    for _ in range(1, MAX_QUANTITY):
        if not rows.size:
            break
        last = data[after[rows]]
        values[rows] = values[rows] << 7 | last & 127
        after[rows] += 1
        rows = rows[last >= 0x80]
    return values, after


class _Walker:
    """Finds the events of tracks; segments are computed as needed and used for several tracks."""

    def __init__(self, content: bytes, modes: int) -> None:
        self.content, self.modes = content, modes
        self.data = np.frombuffer(content + bytes(PADDING), np.uint8)
        self.segment: _Segment | None = None

    def walk(self, start: int, end: int) -> tuple[Array, int, str]:
        """Return the positions of a track's events, the position after them and how they end.

        "ended": by an end-of-track event; "no end": without one, at `end`; "cut short": within an
        event at `end`; "not readable": before something that is no event.
        """
        parts, position, mode, status = [np.empty(0, np.int64)], start, 0, "no end"
        while position < end and status == "no end":
            segment = self._find_segment(position)
            steps, mode = segment.walk(position, end, mode)
            last = int(steps[-1])
            position, mode, status = self._finish(last, end, mode)
            parts.append(steps if status in ("ended", "no end") else steps[:-1])
        return np.concatenate(parts), position, status

    def _find_segment(self, position: int) -> _Segment:
        segment = self.segment
        if segment is None or not segment.first <= position < segment.first + segment.size:
            self.segment = segment = _Segment(self.data, position, self.modes)
        return segment

    def _finish(self, position: int, end: int, mode: int) -> tuple[int, int, str]:
        """Return where the event at `position` ends, the mode after it and how the track ends."""
        _, after = _read_quantity(self.content, position)
        if after >= end:
            return end, mode, "cut short"
        if after - position >= MAX_QUANTITY and self.content[after - 1] >= 0x80:
            return position, mode, "not readable"
        kind = self.content[after]
        if kind in (META, SYSEX, ESCAPE):
            length, following = _read_quantity(self.content, after + 1 + (kind == META))
            following += length
        else:
            following = after + int(EVENT_SIZES[kind]) - (kind < 0x80 and mode)
        if 0x80 <= kind < 0xF0:
            mode = int(self.modes == 2 and kind & 0xE0 == 0xC0)
        if kind == META and self.content[after + 1 : after + 2] == bytes([END_OF_TRACK]):
            return following, mode, "ended"
        return (end, mode, "cut short") if following > end else (following, mode, "no end")


def _read_quantity(content: bytes, position: int) -> tuple[int, int]:
    """Return the variable-length quantity at a position, and the position after it."""
    value = 0
    for byte in content[position : position + MAX_QUANTITY]:
        value, position = value << 7 | byte & 127, position + 1
        if byte < 0x80:
            break
    return value, position


# ------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class _Table:
    """All events of a file in its own order, as columns [events].

    status: the status byte, that of an earlier event in running status; places: position of the
    first byte after the status byte, or after the time in running status.
    special: rows of the events that are no channel events.
    """

    data: Array
    ticks: Array
    tracks: Array
    status: Array
    places: Array
    is_running: Array
    special: Array = field(init=False)

    @staticmethod
    def decode(content: bytes, tracks: list[_TrackBytes], repairs: Counter[str]) -> _Table:
        """Read the events at the positions of the tracks."""
        data = np.frombuffer(content + bytes(PADDING), np.uint8)
        sizes = [len(track.positions) for track in tracks]
        track = np.repeat(np.arange(len(tracks)), sizes)
        firsts = np.cumsum([0, *sizes[:-1]])
        deltas, places = _read_quantities(data, np.concatenate([t.positions for t in tracks]))
        ticks = np.cumsum(deltas)
        if len(tracks) > 1:
            ticks -= np.append(0, ticks)[firsts].take(track)
        status = data.take(places)
        is_running = status < 0x80
        is_kept = np.ones(len(ticks), bool)
        if is_running.any():
            is_channel = ~is_running & (status < SYSEX)
            rows = np.maximum.accumulate(np.where(is_channel, np.arange(len(status)), -1))
            has_no_status = is_running & (rows < firsts.take(track))
            repairs[NO_STATUS] += int(has_no_status.sum())
            is_kept = ~has_no_status
            status = np.where(is_running, status.take(rows), status)
        if deltas.sum(dtype=float) > MAX_TICK / len(tracks):
            is_late = _find_late_events(deltas, sizes)
            repairs[LATE_EVENTS] += int(is_late.sum())
            is_kept &= ~is_late
        table = _Table(data, ticks, track, status, places + ~is_running, is_running)
        return table if is_kept.all() else table.select(is_kept)

    def select(self, rows: Array) -> _Table:
        """Return some of the events."""
        columns = (self.ticks, self.tracks, self.status, self.places, self.is_running)
        return _Table(self.data, *(column[rows] for column in columns))

    def __post_init__(self) -> None:
        object.__setattr__(self, "special", np.flatnonzero(self.status >= SYSEX))

    def has_short_running_events(self) -> bool:
        """Return whether an event in running status has one data byte."""
        return bool(((self.status & 0xE0 == 0xC0) & self.is_running).any())

    def to_events(
        self, header: _Header, tracks: list[_TrackBytes], repairs: Counter[str]
    ) -> MidiEvents:
        """Return the channel events in the order of time, and the meta events."""
        last = np.searchsorted(self.tracks, np.arange(len(tracks)), "right") - 1
        is_empty = np.append(self.tracks, -1)[last] != np.arange(len(tracks))
        ends = np.where(is_empty, 0, np.append(self.ticks, 0)[last])
        table, channels = self, self.status & np.int64(15)
        if header.is_sequences:
            starts = np.cumsum(np.append(0, ends[:-1]))
            table = replace(self, ticks=self.ticks + starts[self.tracks])
            channel_ends = np.repeat(ends + starts, 16)
            channels = channels + 16 * self.tracks
        else:
            ports = self._find_ports()
            channels = channels + 16 * ports
            channel_ends = np.full(16 * (int(ports.max(initial=0)) + 1), ends.max())
        tempo_ticks, tick_seconds = table._read_tempos(header)
        repairs[SYSTEM_MESSAGES] += int(np.isin(self.status[self.special], SYSTEM).sum())
        rows = np.flatnonzero(self.status < SYSEX)
        if len(tracks) > 1:
            rows = rows[np.argsort(table.ticks[rows], kind="stable")]
        status, places = self.status.take(rows), self.places.take(rows)
        data1, data2 = self.data.take(places), self.data.take(places + 1)
        if max(data1.max(initial=0), data2.max(initial=0)) > 127:
            is_large = (data2 > 127) & (EVENT_SIZES.take(status) == 3)
            repairs[LARGE_BYTES] += int((data1 > 127).sum() + is_large.sum())
            data1, data2 = np.minimum(data1, 127), np.minimum(data2, 127)
        return MidiEvents(
            ticks=table.ticks.take(rows),
            tracks=self.tracks.take(rows),
            channels=channels.take(rows),
            is_drum=status & 15 == DRUMS,
            kinds=status >> 4,
            data1=data1,
            data2=data2,
            channel_ends=channel_ends,
            names=self._read_names(len(tracks)),
            is_sequences=header.is_sequences,
            quarter=header.quarter,
            tempo_ticks=tempo_ticks,
            tick_seconds=tick_seconds,
            time_signatures=table._read_time_signatures(),
            repairs=+repairs,
        )

    def _find_meta(self, kind: int, size: int = 0) -> tuple[Array, Array]:
        """Return the rows of meta events of a kind with `size` or more bytes, and their data.

        The data are the first `size` bytes of each event: int64 [rows, size].
        """
        rows = self.special[self.status[self.special] == META]
        rows = rows[self.data[self.places[rows]] == kind]
        if size:  # with a length below 128, which takes one byte
            lengths = self.data[self.places[rows] + 1]
            rows = rows[(lengths >= size) & (lengths < 0x80)]
        first = self.places[rows][:, None] + 2
        return rows, self.data[first + np.arange(size)].astype(np.int64)

    def _find_ports(self) -> Array:
        """Return the number of the port of each event, counted from 0; [0] if all have the same."""
        rows, values = self._find_meta(PORT, 1)
        if not values.any():
            return np.zeros(1, np.int64)
        last = np.searchsorted(rows, np.arange(len(self.ticks)), "right") - 1
        is_set = (last >= 0) & (self.tracks[rows[last]] == self.tracks)
        return np.unique(np.where(is_set, values[last, 0], 0), return_inverse=True)[1]

    def _read_tempos(self, header: _Header) -> tuple[Array, Array]:
        """Return the ticks from which on a tick has a new length, and the lengths in seconds."""
        if not header.quarter:
            return np.zeros(1, np.int64), np.array([header.tick_seconds])
        rows, values = self._find_meta(TEMPO, 3)
        tempos = values @ np.array([1 << 16, 1 << 8, 1])
        rows, tempos = rows[tempos > 0], tempos[tempos > 0]
        ticks = np.append(0, self.ticks[rows])
        order = np.argsort(ticks, kind="stable")
        ticks, tempos = ticks[order], np.append(DEFAULT_TEMPO, tempos)[order]
        is_last = np.append(np.diff(ticks) > 0, True)  # of several tempos at one tick
        return ticks[is_last], tempos[is_last] / 1e6 / header.quarter

    def _read_time_signatures(self) -> Array:
        """Return tick, numerator and denominator of each time signature, sorted by tick."""
        rows, values = self._find_meta(TIME_SIGNATURE, 2)
        rows, values = rows[values[:, 1] < 8], values[values[:, 1] < 8]
        signatures = np.stack((self.ticks[rows], values[:, 0], 1 << values[:, 1]), axis=1)
        return signatures[np.argsort(signatures[:, 0], kind="stable")]

    def _read_names(self, tracks: int) -> list[str]:
        """Return the name of each track: the first track name, else the first instrument name."""
        names = [""] * tracks
        for kind in (INSTRUMENT_NAME, TRACK_NAME):
            for row in self._find_meta(kind)[0][::-1].tolist():
                length, place = _read_quantities(self.data, self.places[[row]] + 1)
                text = self.data[place[0] : place[0] + min(length[0], MAX_NAME)].tobytes()
                names[self.tracks[row]] = decode_text(text) or names[self.tracks[row]]
        return names


def _find_late_events(deltas: Array, sizes: list[int]) -> Array:
    """Return which events come so late that times are not exact, if tracks follow one another."""
    tracks = np.split(deltas.astype(float), np.cumsum(sizes)[:-1])
    return np.concatenate([np.cumsum(track) > MAX_TICK / len(sizes) for track in tracks])


def decode_text(text: bytes) -> str:
    """Return a text of a MIDI file, which is in UTF-8 or else in Latin-1."""
    try:
        return text.decode("utf-8").strip()
    except UnicodeDecodeError:
        return text.decode("latin-1").strip()
