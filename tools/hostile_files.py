"""Hostile MIDI and tensor files, built and mutated without the code under test."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

Rng = np.random.Generator

END = b"\x00\xff\x2f\x00"  # of a track
HUGE_DELTA = b"\xff\xff\xff\x7f"
COMMAND = b"cposix\nsystem\n(X\x0c\x00\x00\x00touch it-rantR."  # a pickle that runs a command
OPCODES = (b"cos\nsystem\n", b"cbuiltins\neval\n", *b"R \x93 o i b \x81 ( t".split())


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
        b"\0\x90\x3c\x40" * 3000 + b"\x0a\x80\x3c\0" * 3000 + END,  # one key 3,000 times at once
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


def serialize(record: Any, new: bool = True) -> bytes:
    """Return what torch writes: a zip file, or the format before 2020."""
    content = io.BytesIO()
    torch.save(record, content, _use_new_zipfile_serialization=new)
    return content.getvalue()


# -------------------------------------------------------------------------------- mutations


def mutate_midi(content: bytes, others: Sequence[bytes], rng: Rng) -> bytes:
    """Return a MIDI file with some bits, bytes, times or tracks changed, or truncated."""
    for _ in range(int(rng.choice((1, 1, 1, 2, 4)))):
        match int(rng.integers(8)):
            case 0:  # another type, number of tracks and division
                choices = ((0, 1, 2, 9), (0, 1, 2, 65535), (0, 1, 96, 32767, 0xE728, 0xFFFF))
                header = struct.pack(">HHH", *(int(rng.choice(values)) for values in choices))
                content = content[:8] + header + content[14:]
            case 1:  # the tracks of another file
                _, mark, tracks = others[int(rng.integers(len(others)))].partition(b"MTrk")
                content = content + mark + tracks
            case _:
                content = _edit(content, others, [HUGE_DELTA, HUGE_DELTA * 3], rng)
    return content


def mutate_tensors(content: bytes, others: Sequence[bytes], rng: Rng) -> bytes:
    """Return a tensor file with some bytes changed, or with code inserted into its pickles."""
    for _ in range(int(rng.choice((1, 1, 1, 2, 4)))):
        entries = _read_zip(content)
        if not entries or rng.random() < 0.5:
            content = _edit_pickle(content, others, rng)
            continue
        file = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
            warnings.simplefilter("ignore")  # of two entries with one name
            for name, inner in entries:
                is_pickle = name.endswith(".pkl")
                archive.writestr(name, _edit_pickle(inner, [inner], rng) if is_pickle else inner)
        content = file.getvalue()
    return content


def _read_zip(content: bytes) -> list[tuple[str, bytes]]:
    """Return the names and contents of the files in a zip file; none of a damaged one."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return []


def _edit_pickle(content: bytes, others: Sequence[bytes], rng: Rng) -> bytes:
    """Make a number in a pickle as large as its bytes allow, or edit anything in it."""
    places = [at for at in range(min(len(content), 3000)) if content[at : at + 1] in b"KMJ"]
    if not places or rng.random() < 0.9:
        return _edit(content, others, [*OPCODES, *[COMMAND] * len(OPCODES)], rng)
    at = places[rng.integers(len(places))]
    size = {b"K": 1, b"M": 2, b"J": 4}[content[at : at + 1]]
    return content[: at + 1] + (b"\xff" * (size - 1) + b"\x7f") + content[at + 1 + size :]


def _edit(content: bytes, others: Sequence[bytes], insertions: Sequence[bytes], rng: Rng) -> bytes:
    """Flip bits, remove, overwrite, repeat or insert bytes, or join parts of two files."""
    start = int(rng.integers(len(content) + 1))
    before, after = content[:start], content[start:]
    match int(rng.integers(7)):
        case 0:
            changed = np.frombuffer(content or b"\0", np.uint8).copy()
            at = rng.integers(len(changed), size=int(rng.choice((1, 2, 8, 64))))
            changed[at] ^= (1 << rng.integers(8, size=len(at))).astype(np.uint8)
            return changed.tobytes()
        case 1:
            return before
        case 2:
            return before + after[rng.integers(1, 200) :]
        case 3:
            value, size = int(rng.choice((0, 0x7F, 0x80, 0x90, 0xF0, 0xFF))), rng.integers(1, 16)
            return before + bytes([value]) * int(size) + after[size:]
        case 4:
            return before + after[:200] * int(rng.integers(2, 40)) + after
        case 5:
            other = others[int(rng.integers(len(others)))]
            return before + other[rng.integers(len(other) + 1) :]
        case _:
            start = int(rng.choice((0, start % 3000)))  # where pickles begin
            inserted = insertions[int(rng.integers(len(insertions)))]
            return content[:start] + inserted + content[start:]
