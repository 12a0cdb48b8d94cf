"""Hostile MIDI and tensor files, built and mutated without the code under test."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

Rng = np.random.Generator

END = b"\x00\xff\x2f\x00"  # of a track


# ------------------------------------------------------------------------------------- MIDI


def encode_length(value: int) -> bytes:
    """Return a number as MIDI writes lengths and times: seven bits per byte."""
    parts = [value & 127]
    while value := value >> 7:
        parts.append(value & 127 | 128)
    return bytes(reversed(parts))


def make_track(content: bytes, claimed: int | None = None) -> bytes:
    """Return a track, which may claim another length."""
    return b"MTrk" + struct.pack(">I", len(content) if claimed is None else claimed) + content


def make_midi(
    *tracks: bytes, kind: int = 1, claimed: int | None = None, division: int = 480
) -> bytes:
    """Return a file of tracks, which may claim another number of them."""
    count = len(tracks) if claimed is None else claimed
    return b"MThd" + struct.pack(">IHHH", 6, kind, count, division & 0xFFFF) + b"".join(tracks)


def make_melody(rng: Rng, notes: int, delta: int = 100) -> bytes:
    """Return notes one after another, each with its own status byte."""
    pitches = rng.integers(21, 109, notes)
    return b"".join(
        bytes([0, 0x90, pitch, 64]) + encode_length(delta) + bytes([0x80, pitch, 0])
        for pitch in pitches.tolist()
    )


def make_running_notes(notes: int) -> bytes:
    """Return short notes under one running status: six bytes each."""
    row = np.tile(np.array([0, 60, 64, 1, 60, 0], np.uint8), (notes, 1))
    row[:, 1] = row[:, 4] = 21 + np.arange(notes) % 88
    return b"\x00\x90\x3c\x40\x01\x3c\x00" + row.tobytes()


def _make_riff(content: bytes) -> bytes:
    size = struct.pack("<I", len(content))
    return b"RIFF" + struct.pack("<I", len(content) + 12) + b"RMIDdata" + size + content


def _make_sysex(rng: Rng, count: int) -> bytes:
    bodies = (rng.integers(0, 128, size, np.uint8) for size in rng.integers(0, 200, count))
    return b"".join(
        b"\x00\xf0" + encode_length(len(body) + 1) + body.tobytes() + b"\xf7" for body in bodies
    )


def _make_programs(tracks: int) -> bytes:
    every = b"".join(
        bytes([0, 0xC0 | channel, program, 0, 0x90 | channel, 60, 1, 1, 0x80 | channel, 60, 0])
        for channel in range(16)
        for program in range(128)
    )
    return make_midi(*[make_track(every + END)] * tracks)


def build_midi_files(rng: Rng) -> list[bytes]:
    """Return small files of kinds that the standard, or nobody, allows."""
    tune, notes = make_track(make_melody(rng, 30) + END), make_melody(rng, 30)
    all_keys_on = b"".join(bytes([1, 0x90, key, 64]) for key in range(128))
    tracks = [
        notes,  # no end of track
        make_melody(rng, 40, 2**28 - 1) + END,  # huge delta times
        b"\xff" * 9 + notes + END,  # the longest delta time, in nine bytes
        make_running_notes(3000) + END,
        bytes([0, 60, 64, 1, 60, 0]) * 30 + END,  # running status before any status
        all_keys_on * 20 + END,
        b"\0\x90\x3c\x40" * 3000
        + b"\x0a\x80\x3c\0" * 3000
        + END,  # one key struck 3,000 times at once
        _make_sysex(rng, 3000) + notes + END,
        b"\x00\xf0\xff\xff\xff\x7f" + notes,  # sysex without an end
        b"\x00\xff\x01\x05@KMID" + b"\x00\xff\x05\x02la" * 900 + END,  # karaoke
        *(b"\x00\xff\x51\x03" + tempo + notes for tempo in (b"\0\0\0", b"\xff\xff\xff", b"\0\0\1")),
        b"\x01\xff\x51\x03\x07\xa1\x20" * 5000 + notes,  # tempo changes
        b"\0\xb0\x40\x7f" + b"\1\x40\x7f\1\x40\0" * 5000,  # pedal
        b"\x00\xff\x58\x00\x00\xff\x59\x01\x63" + notes,  # wrong meta events
        b"\0\x90\xff\xff\1\x80\xff\xff" * 30 + END,  # pitch and velocity over 127
    ]
    return [
        *(make_midi(tune, tune, kind=kind) for kind in (0, 1, 2, 3, 65535)),
        *(make_midi(tune, division=d) for d in (0, 1, 32767, 0xE728, 0xE250, 0x8000, 0xFFFF)),
        *(make_midi(tune, claimed=count) for count in (0, 2, 65535)),
        *(make_midi(make_track(notes, size)) for size in (0, 3, 2**31 - 1, 2**31, 2**32 - 1)),
        *(make_midi(make_track(track), tune) for track in tracks),
        make_midi(make_track(make_melody(rng, 30, 2**21) + END), division=1),  # longer than a day
        make_midi()[:10] + b"\0\3\1\xe0XFIH\0\0\0\5hello" + tune + b"MTrq\0\0\0\0",
        _make_riff(make_midi(tune)),
        _make_programs(1),
        make_midi(*[tune] * 2000),
        b"",
        make_midi(),
        make_midi()[:9],
    ]


def build_large_files(notes: int = 10_000_000) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of large files: millions of notes, instruments, meta events."""
    yield "notes", make_midi(make_track(make_running_notes(notes) + END))
    yield "a tenth of the notes", make_midi(make_track(make_running_notes(notes // 10) + END))
    yield "instruments", _make_programs(max(1, notes // 20_000))
    yield "pedal", make_midi(make_track(b"\0\xb0\x40\x7f" + b"\1\x40\x7f\1\x40\0" * notes))
    yield "tempos", make_midi(make_track(b"\1\xff\x51\3\x07\xa1\x20" * (notes * 4 // 5)))
    yield "lyrics", make_midi(make_track(b"\1\xff\5\1a" * notes))
    yield "over the size limit", make_midi(make_track(b"\1\xff\1\1a" * (notes * 3 // 2)))


def mutate(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    """Return `content` with some bits, bytes, times or tracks changed, or truncated."""
    for _ in range(int(rng.choice((1, 1, 1, 2, 4)))):
        content = MUTATIONS[rng.integers(len(MUTATIONS))](content, others, rng)
    return content


def _choose_position(content: bytes, rng: Rng) -> int:
    return int(rng.integers(len(content) + 1))


def _flip_bits(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    changed = np.frombuffer(content or b"\0", np.uint8).copy()
    at = rng.integers(len(changed), size=int(rng.choice((1, 2, 8, 64))))
    changed[at] ^= (1 << rng.integers(8, size=len(at))).astype(np.uint8)
    return changed.tobytes()


def _overwrite(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    at, size = _choose_position(content, rng), int(rng.integers(1, 16))
    value = int(rng.choice((0, 0x7F, 0x80, 0x90, 0xF0, 0xFF)))
    return content[:at] + bytes([value]) * size + content[at + size :]


def _truncate(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    return content[: _choose_position(content, rng)]


def _remove(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    at = _choose_position(content, rng)
    return content[:at] + content[at + int(rng.integers(1, 200)) :]


def _repeat(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    at = _choose_position(content, rng)
    return content[:at] + content[at : at + 200] * int(rng.integers(2, 40)) + content[at:]


def _splice(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    """Join the first part of one file and the last part of another."""
    other = others[rng.integers(len(others))]
    return content[: _choose_position(content, rng)] + other[_choose_position(other, rng) :]


def _append_tracks(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    other = others[rng.integers(len(others))]
    at = other.find(b"MTrk")
    return content + other[at:] if at >= 0 else content


def _change_header(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    kind, count, division = (
        int(rng.choice(values))
        for values in ((0, 1, 2, 9), (0, 1, 2, 65535), (0, 1, 96, 32767, 0xE728, 0xFFFF))
    )
    return content[:8] + struct.pack(">HHH", kind, count, division) + content[14:]


def _insert_huge_delta(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    at = _choose_position(content, rng)
    return content[:at] + b"\xff\xff\xff\x7f" * int(rng.integers(1, 4)) + content[at:]


MUTATIONS: list[Callable[[bytes, list[bytes], Rng], bytes]] = [
    *(_flip_bits, _overwrite, _truncate, _remove, _repeat, _splice),
    *(_append_tracks, _change_header, _insert_huge_delta),
]


# ------------------------------------------------------------------------------ tensor files

COMMAND = b"cposix\nsystem\n(X\x0c\x00\x00\x00touch it-rantR."  # a pickle that runs a command
OPCODES = (b"cos\nsystem\n", b"cbuiltins\neval\n", *b"R \x93 o i b \x81 ( t".split())
TENSOR_MUTATIONS = (_flip_bits, _overwrite, _truncate, _remove, _repeat, _splice)


def serialize(record: Any, new: bool = True) -> bytes:
    """Return what torch writes: a zip file, or the format before 2020."""
    content = io.BytesIO()
    torch.save(record, content, _use_new_zipfile_serialization=new)
    return content.getvalue()


def _insert_opcodes(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    """Insert an opcode of a pickle."""
    at = _choose_position(content[:3000], rng)
    return content[:at] + OPCODES[rng.integers(len(OPCODES))] + content[at:]


def _insert_command(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    """Insert a pickle that would run a command."""
    at = int(rng.choice((0, _choose_position(content, rng))))
    return content[:at] + COMMAND + content[at:]


def _enlarge_number(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    """Make a number in a pickle as large as its bytes allow."""
    places = [at for at in range(min(len(content), 3000)) if content[at : at + 1] in b"KMJ"]
    if not places:
        return content
    at = places[rng.integers(len(places))]
    size = {b"K": 1, b"M": 2, b"J": 4}[content[at : at + 1]]
    return content[: at + 1] + (b"\xff" * (size - 1) + b"\x7f") + content[at + 1 + size :]


def _mutate_pickle(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    """Mutate only the pickle in a zip file, and write a correct zip file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return content
    file, ways = (
        io.BytesIO(),
        [*TENSOR_MUTATIONS, _insert_opcodes, _insert_command, _enlarge_number],
    )
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of two entries with one name
        for name, inner in entries:
            if name.endswith(".pkl"):
                inner = ways[rng.integers(len(ways))](inner, [inner], rng)
            archive.writestr(name, inner)
    return file.getvalue()


def mutate_tensors(content: bytes, others: list[bytes], rng: Rng) -> bytes:
    """Return a tensor file with some bytes changed, or with code inserted into its pickles."""
    ways = [
        *TENSOR_MUTATIONS,
        _insert_opcodes,
        _insert_command,
        _enlarge_number,
        *[_mutate_pickle] * 8,
    ]
    for _ in range(int(rng.choice((1, 1, 1, 2, 4)))):
        content = ways[rng.integers(len(ways))](content, others, rng)
    return content
