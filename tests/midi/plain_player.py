"""A synthesizer in plain Python: one message after the other, with the state of each channel."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from tests.midi.messages import DRUMS, Row, Timed

MAX_HOLD = 20_000  # ticks of 1 ms


@dataclass
class Sound:
    """A note that sounds."""

    start: int
    pitch: int
    velocity: int
    released: int | None = None
    end: int | None = None
    is_captured: bool = False  # by the sostenuto pedal


def play_plainly(tracks: list[list[Timed]], is_one_piano: bool) -> list[Row]:
    """Return start, end, pitch and velocity of each note, in ticks of 1 ms.

    is_one_piano: a pedal applies to all channels.
    """
    messages = [timed for track in tracks for timed in sorted(track, key=lambda timed: timed[0])]
    messages.sort(key=lambda timed: timed[0])
    without_off = find_notes_without_off(messages)
    player = PlainPlayer(is_one_piano)
    for index, (tick, message) in enumerate(messages):
        if message.channel == DRUMS:
            continue
        if message.type == "note_on" and message.velocity:
            player.start_note(tick, message, index in without_off)
        elif message.type in ("note_on", "note_off"):
            player.end_note(tick, message)
        elif message.type == "control_change":
            player.change_control(tick, message)
    last = max((tick for tick, _ in messages), default=0)
    return finish([sound for group in player.sounds.values() for sound in group], last)


class PlainPlayer:
    """The notes and pedals of all channels, changed by one message after another."""

    def __init__(self, is_one_piano: bool) -> None:
        self.is_one_piano = is_one_piano
        self.sounds: dict[int, list[Sound]] = defaultdict(list)  # by channel
        self.sustain: dict[int, bool] = defaultdict(bool)
        self.sostenuto: dict[int, bool] = defaultdict(bool)
        self.ends_at_next: dict[tuple[int, int], Sound] = {}

    def get_group(self, channel: int) -> int:
        """Return the number of the pedals of a channel."""
        return 0 if self.is_one_piano else channel

    def release(self, channel: int, sound: Sound, tick: int) -> None:
        """Release the key of a note."""
        sound.released = tick
        self.end_unless_held(channel, sound, tick)

    def end_unless_held(self, channel: int, sound: Sound, tick: int) -> None:
        """End a released note that no pedal holds."""
        group = self.get_group(channel)
        is_held = self.sustain[group] or (self.sostenuto[group] and sound.is_captured)
        if sound.released is not None and sound.end is None and not is_held:
            sound.end = tick

    def start_note(self, tick: int, message: Any, has_no_off: bool) -> None:
        """Start a note, and end the one of its key that has no note off."""
        channel, key = message.channel, (message.channel, message.note)
        if key in self.ends_at_next:
            self.release(channel, self.ends_at_next.pop(key), tick)
        self.sounds[channel].append(Sound(tick, message.note, message.velocity))
        if has_no_off:
            self.ends_at_next[key] = self.sounds[channel][-1]

    def end_note(self, tick: int, message: Any) -> None:
        """Release the first note of a key."""
        sounds = self.sounds[message.channel]
        pressed = [s for s in sounds if s.released is None and s.pitch == message.note]
        if pressed:
            self.release(message.channel, pressed[0], tick)

    def change_control(self, tick: int, message: Any) -> None:
        """Move a pedal, or end notes."""
        channel, control = message.channel, message.control
        group = self.get_group(channel)
        members = [
            (c, s) for c in list(self.sounds) for s in self.sounds[c] if self.get_group(c) == group
        ]
        if control in (64, 121):
            self.sustain[group] = control == 64 and message.value >= 64
        if control in (66, 121):
            is_down = control == 66 and message.value >= 64
            if is_down and not self.sostenuto[group]:
                for _, sound in members:
                    sound.is_captured = sound.released is None
            self.sostenuto[group] = is_down
        if control == 120 or control >= 123:
            for sound in self.sounds[channel]:
                sound.released = tick if sound.released is None else sound.released
                if control == 120:
                    sound.end = tick if sound.end is None else sound.end
            others = {k: s for k, s in self.ends_at_next.items() if k[0] != channel}
            self.ends_at_next = others
        for member, sound in members:
            self.end_unless_held(member, sound, tick)


def finish(sounds: list[Sound], last: int) -> list[Row]:
    """Return the notes; `last` is the end of the file."""
    rows = []
    for sound in sounds:
        end = last if sound.end is None else sound.end
        strikes = [s.start for s in sounds if s.pitch == sound.pitch and s.start > sound.start]
        end = min([end, *strikes])
        if end == sound.start:
            end += 1  # the shortest length
        elif sound.released is not None:
            end = min(end, sound.released + MAX_HOLD)
        rows.append((sound.start, end, sound.pitch, sound.velocity))
    return sorted(rows, key=lambda row: (row[0], row[2], row[3], row[1]))


def find_notes_without_off(messages: list[Timed]) -> set[int]:
    """Return the indices of note ons after which their key is never released as often as pressed.

    Messages that release all keys of a channel end the search. At one tick, note offs of
    sounding notes come first.
    """
    missing = set()
    for index, (_, message) in enumerate(messages):
        if message.type == "note_on" and message.velocity:
            strokes = list_strokes(messages, message.channel, message.note)
            place = [number for number, _ in strokes].index(index)
            pressed = 0
            for _, change in strokes[place:]:
                pressed = 0 if change == 0 else pressed + change
                if pressed == 0:
                    if change == 0:
                        missing.add(index)
                    break
            else:
                missing.add(index)
    return missing


def list_strokes(messages: list[Timed], channel: int, pitch: int) -> list[tuple[int, int]]:
    """Return index and change (1 on, -1 off, 0 all off) of the messages to a key."""
    strokes: list[tuple[int, int, int]] = []  # tick, index, change
    for index, (tick, message) in enumerate(messages):
        if message.channel != channel:
            continue
        if message.type in ("note_on", "note_off") and message.note == pitch:
            is_on = message.type == "note_on" and message.velocity > 0
            strokes.append((tick, index, 1 if is_on else -1))
        elif message.type == "control_change" and message.control in (120, *range(123, 128)):
            strokes.append((tick, index, 0))
    result: list[tuple[int, int]] = []
    sounding = 0
    while strokes:
        tick, _, change = strokes[0]
        same = []  # at this tick, up to a message that releases all keys
        while strokes and strokes[0][0] == tick and strokes[0][2] != 0:
            same.append(strokes.pop(0))
        if not same:
            same = [strokes.pop(0)]
            sounding = 0
        first = [stroke for stroke in same if stroke[2] == -1][:sounding]
        for _, index, change in first + [stroke for stroke in same if stroke not in first]:
            sounding = max(sounding + change, 0)
            result.append((index, change))
    return result
