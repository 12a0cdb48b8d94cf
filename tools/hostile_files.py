"""Files that mean no good: MIDI and tensor files, made and mutated without the code under test."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

GumbelNoise = np.random.Generator

END = b"\x00\xff\x2f\x00"  # of a track


# ------------------------------------------------------------------------------------- MIDI


def length(value: int) -> bytes:
    """A number as MIDI writes lengths and times: seven bits a byte."""
    parts = [value & 127]
    while value := value >> 7:
        parts.append(value & 127 | 128)
    return bytes(reversed(parts))


def track(content: bytes, claimed: int | None = None) -> bytes:
    return b"MTrk" + struct.pack(">I", len(content) if claimed is None else claimed) + content


def midi(*tracks: bytes, kind: int = 1, claimed: int | None = None, division: int = 480) -> bytes:
    """A file of tracks, which may claim another number of them."""
    count = len(tracks) if claimed is None else claimed
    return b"MThd" + struct.pack(">IHHH", 6, kind, count, division & 0xFFFF) + b"".join(tracks)


def melody(dice: GumbelNoise, notes: int, delta: int = 100) -> bytes:
    """Notes one after another, each with its status."""
    pitches = dice.integers(21, 109, notes)
    return b"".join(
        bytes([0, 0x90, pitch, 64]) + length(delta) + bytes([0x80, pitch, 0])
        for pitch in pitches.tolist()
    )


def running(notes: int) -> bytes:
    """Tiny notes under one status: six bytes each."""
    row = np.tile(np.array([0, 60, 64, 1, 60, 0], np.uint8), (notes, 1))
    row[:, 1] = row[:, 4] = 21 + np.arange(notes) % 88
    return b"\x00\x90\x3c\x40\x01\x3c\x00" + row.tobytes()


def _riff(content: bytes) -> bytes:
    size = struct.pack("<I", len(content))
    return b"RIFF" + struct.pack("<I", len(content) + 12) + b"RMIDdata" + size + content


def _sysex(dice: GumbelNoise, count: int) -> bytes:
    bodies = (dice.integers(0, 128, size, np.uint8) for size in dice.integers(0, 200, count))
    return b"".join(
        b"\x00\xf0" + length(len(body) + 1) + body.tobytes() + b"\xf7" for body in bodies
    )


def _programs(tracks: int) -> bytes:
    every = b"".join(
        bytes([0, 0xC0 | channel, program, 0, 0x90 | channel, 60, 1, 1, 0x80 | channel, 60, 0])
        for channel in range(16)
        for program in range(128)
    )
    return midi(*[track(every + END)] * tracks)


def built_midi(dice: GumbelNoise) -> Iterator[tuple[str, bytes]]:
    """Files of every kind that the standard, or nobody, allows; small ones."""
    tune = track(melody(dice, 30) + END)
    yield "plain", midi(tune)
    for kind in (0, 2, 3, 65535):
        yield f"format {kind}", midi(tune, tune, kind=kind)
    for division in (0, 1, 32767, 0xE728, 0xE250, 0x8000, 0xFFFF):
        yield f"division {division:#x}", midi(tune, division=division)
    for claimed in (0, 2, 65535):
        yield f"{claimed} tracks claimed", midi(tune, claimed=claimed)
    for claim in (0, 3, 2**31 - 1, 2**31, 2**32 - 1):
        yield f"a track claims {claim} bytes", midi(track(melody(dice, 30) + END, claim))
    yield "no end of track", midi(track(melody(dice, 30)))
    yield "huge delta times", midi(track(melody(dice, 40, 2**28 - 1) + END))
    yield "longest delta written in nine bytes", midi(track(b"\xff" * 9 + melody(dice, 30) + END))
    yield "running status everywhere", midi(track(running(3000) + END))
    yield "running status first", midi(track(bytes([0, 60, 64, 1, 60, 0]) * 30 + END))
    held = b"".join(bytes([1, 0x90, key, 64]) for key in range(128))
    yield "every note on and never off", midi(track(held * 20 + END))
    struck = b"".join(bytes([0, 0x90, 60, 64]) for _ in range(3000))
    yield "one key struck 3,000 times at once", midi(track(struck + b"\x0a\x80\x3c\0" * 3000 + END))
    yield "sysex flood", midi(track(_sysex(dice, 3000) + melody(dice, 30) + END))
    yield "sysex without an end", midi(track(b"\x00\xf0\xff\xff\xff\x7f" + melody(dice, 30)))
    yield "unknown chunks", midi()[:10] + b"\0\3\1\xe0XFIH\0\0\0\5hello" + tune + b"MTrq\0\0\0\0"
    yield "RIFF", _riff(midi(tune))
    yield "karaoke", midi(track(b"\x00\xff\x01\x05@KMID" + b"\x00\xff\x05\x02la" * 900 + END), tune)
    for tempo in (b"\0\0\0", b"\xff\xff\xff", b"\0\0\1"):
        yield f"tempo {tempo.hex()}", midi(track(b"\x00\xff\x51\x03" + tempo + melody(dice, 30)))
    yield "tempo flood", midi(track(b"\x01\xff\x51\x03\x07\xa1\x20" * 5000 + melody(dice, 30)))
    yield "pedal flood", midi(track(b"\0\xb0\x40\x7f" + b"\1\x40\x7f\1\x40\0" * 5000), tune)
    yield "odd meta events", midi(track(b"\x00\xff\x58\x00\x00\xff\x59\x01\x63" + melody(dice, 30)))
    yield "every program", _programs(1)
    yield "2,000 tracks", midi(*[tune] * 2000)
    yield "velocity and pitch over 127", midi(track(b"\0\x90\xff\xff\1\x80\xff\xff" * 30 + END))
    yield "a day and more", midi(track(melody(dice, 30, 2**21) + END), division=1)
    yield "empty", b""
    yield "a header", midi()
    yield "half a header", midi()[:9]


def floods(notes: int = 10_000_000) -> Iterator[tuple[str, bytes]]:
    """Large ones: millions of tiny notes, instruments, meta events."""
    yield "ten million notes", midi(track(running(notes) + END))
    yield "a million notes", midi(track(running(notes // 10) + END))
    yield "a million instruments", _programs(max(1, notes // 20_000))
    yield "pedals", midi(track(b"\0\xb0\x40\x7f" + b"\1\x40\x7f\1\x40\0" * notes))
    yield "tempos", midi(track(b"\1\xff\x51\3\x07\xa1\x20" * (notes * 4 // 5)))
    yield "words", midi(track(b"\1\xff\5\1a" * notes))
    yield "over the limit of bytes", midi(track(b"\1\xff\1\1a" * (notes * 3 // 2)))


def mutated(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    """`content` with some of its bits, bytes, times or tracks changed, or cut."""
    for _ in range(int(dice.choice((1, 1, 1, 2, 4)))):
        content = MUTATIONS[dice.integers(len(MUTATIONS))](content, others, dice)
    return content


def _place(content: bytes, dice: GumbelNoise) -> int:
    return int(dice.integers(len(content) + 1))


def _flipped(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    changed = np.frombuffer(content or b"\0", np.uint8).copy()
    at = dice.integers(len(changed), size=int(dice.choice((1, 2, 8, 64))))
    changed[at] ^= (1 << dice.integers(8, size=len(at))).astype(np.uint8)
    return changed.tobytes()


def _overwritten(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    at, size = _place(content, dice), int(dice.integers(1, 16))
    value = int(dice.choice((0, 0x7F, 0x80, 0x90, 0xF0, 0xFF)))
    return content[:at] + bytes([value]) * size + content[at + size :]


def _cut(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    return content[: _place(content, dice)]


def _without(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    at = _place(content, dice)
    return content[:at] + content[at + int(dice.integers(1, 200)) :]


def _repeated(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    at = _place(content, dice)
    return content[:at] + content[at : at + 200] * int(dice.integers(2, 40)) + content[at:]


def _spliced(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    """The first part of one file before the last part of another."""
    other = others[dice.integers(len(others))]
    return content[: _place(content, dice)] + other[_place(other, dice) :]


def _more_tracks(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    other = others[dice.integers(len(others))]
    at = other.find(b"MTrk")
    return content + other[at:] if at >= 0 else content


def _header(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    kind, count, division = (
        int(dice.choice(values))
        for values in ((0, 1, 2, 9), (0, 1, 2, 65535), (0, 1, 96, 32767, 0xE728, 0xFFFF))
    )
    return content[:8] + struct.pack(">HHH", kind, count, division) + content[14:]


def _huge_delta(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    at = _place(content, dice)
    return content[:at] + b"\xff\xff\xff\x7f" * int(dice.integers(1, 4)) + content[at:]


MUTATIONS: list[Callable[[bytes, list[bytes], GumbelNoise], bytes]] = [
    *(_flipped, _overwritten, _cut, _without, _repeated, _spliced),
    *(_more_tracks, _header, _huge_delta),
]


# ------------------------------------------------------------------------------ tensor files

EVIL = b"cposix\nsystem\n(X\x0c\x00\x00\x00touch it-rantR."  # a pickle that runs a command
CODES = (
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"R",
    b"\x93",
    b"o",
    b"i",
    b"b",
    b"\x81",
    b"(",
    b"t",
)
TENSOR_MUTATIONS = (_flipped, _overwritten, _cut, _without, _repeated, _spliced)


def saved(record: Any, new: bool = True) -> bytes:
    """What torch writes, as a zip or as before 2020."""
    content = io.BytesIO()
    torch.save(record, content, _use_new_zipfile_serialization=new)
    return content.getvalue()


def _coded(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    """Opcodes of a pickle, put somewhere."""
    at = _place(content[:3000], dice)
    return content[:at] + CODES[dice.integers(len(CODES))] + content[at:]


def _commanded(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    """A pickle that would run a command, put somewhere or at the front."""
    at = int(dice.choice((0, _place(content, dice))))
    return content[:at] + EVIL + content[at:]


def _claiming(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    """A number of a pickle made as large as its bytes let it be."""
    places = [at for at in range(min(len(content), 3000)) if content[at : at + 1] in b"KMJ"]
    if not places:
        return content
    at = places[dice.integers(len(places))]
    size = {b"K": 1, b"M": 2, b"J": 4}[content[at : at + 1]]
    return content[: at + 1] + (b"\xff" * (size - 1) + b"\x7f") + content[at + 1 + size :]


def _inside(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    """A zip whose pickle alone is mutated, and whose table fits it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return content
    file, ways = io.BytesIO(), [*TENSOR_MUTATIONS, _coded, _commanded, _claiming]
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of two entries with one name
        for name, inner in entries:
            if name.endswith(".pkl"):
                inner = ways[dice.integers(len(ways))](inner, [inner], dice)
            archive.writestr(name, inner)
    return file.getvalue()


def mutated_tensors(content: bytes, others: list[bytes], dice: GumbelNoise) -> bytes:
    """A tensor file with some of its bytes changed, or with code put into its pickles."""
    ways = [*TENSOR_MUTATIONS, _coded, _commanded, _claiming, *[_inside] * 8]
    for _ in range(int(dice.choice((1, 1, 1, 2, 4)))):
        content = ways[dice.integers(len(ways))](content, others, dice)
    return content
