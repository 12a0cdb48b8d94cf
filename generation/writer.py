"""What is written of a piece that was played: MIDI, a picture, audio, and what they say of it."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

import flags
import utils
from config import GenerateConfig
from generation.control_metrics import followed
from generation.pipeline import GenerationJob, decode_sample
from midi import metadata, synth
from midi.control_schedule import ControlSchedule
from midi.pianoroll import draw_piano_roll
from sequence import EventSeq, NoteSeq

BESIDES = ("png", "wav", "soundfont", "html", "force", "stream")  # options that change no note


def free_paths(folder: Path) -> Iterator[Path]:
    """output-000.mid and so on, from the first number above those that are there.

    Each is made, empty, as it is given, so that no one else takes it.
    """
    taken = (re.fullmatch(r"output-(\d+)\..*", path.name) for path in folder.iterdir())
    number = max((int(match[1]) + 1 for match in taken if match), default=0)
    while True:
        path = folder / f"output-{number:03d}.mid"
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            yield path
        number += 1


def over_paths(folder: Path) -> Iterator[Path]:
    """output-000.mid and so on, whatever is there; old pictures and audio beside them go."""
    for number in itertools.count():
        path = folder / f"output-{number:03d}.mid"
        for suffix in (".png", ".wav"):
            path.with_suffix(suffix).unlink(missing_ok=True)
        yield path


def remade(options: GenerateConfig, seed: int, piece: int) -> list[str]:
    """The arguments that make a piece again, as the last of as few as can be."""
    plain = GenerateConfig()
    kept = {name: getattr(plain, name) for name in ("output_dir", *BESIDES)}
    return flags.to_argv(replace(options, seed=seed, batch_size=piece + 1, **kept))


def said_of(options: GenerateConfig, seed: int, piece: int) -> dict[str, str]:
    """What a piece's file says of it; with that it can be made again."""
    line = remade(options, seed, piece)
    return {
        "session": Path(options.session).name,
        "seed": str(seed),
        "piece": str(piece),
        "control": options.control or "none",
        "made with": metadata.format_command(line, several=piece > 0),
    }


def began(order: GenerationJob, played: EventSeq, options: GenerateConfig) -> float:
    """When a piece's events begin, in seconds of its file: after the primer, or its first is at 0.

    With a rest before the first note that is before 0.
    """
    if order.heard is not None and not options.continuation_only:
        return order.heard.seconds
    struck = played.to_array() < EventSeq.feat_ranges()["note_on"].stop
    return -float(played.times[struck.argmax()]) / played.encoding.ticks_per_second


def kept(
    order: GenerationJob, played: EventSeq, notes: NoteSeq, options: GenerateConfig
) -> EventSeq:
    """The events of which a piece was made: with --seconds, others were played after its end."""
    if options.seconds is None:
        return played
    end = notes.seconds - began(order, played, options)
    before = played.times / played.encoding.ticks_per_second < end - 1e-6  # but for rounding
    return EventSeq(played.to_array()[: max(1, before.sum())], played.encoding)


def asked_for(
    order: GenerationJob, played: EventSeq, options: GenerateConfig
) -> ControlSchedule | None:
    """What a piece was asked for, by the time in its file; of its primer nothing."""
    if order.asked is None:
        return None
    seconds = played.times / played.encoding.ticks_per_second
    rows = order.asked.find_rows(seconds, np.arange(len(seconds)))
    # in encoding 1 sums of seconds may step back by their rounding
    times = np.maximum.accumulate(np.maximum(seconds + began(order, played, options), 0))
    if len(order.asked) == 1:
        times, rows = times[:1], rows[:1]
    return order.asked.select(rows, times)


def write(
    path: Path,
    notes: NoteSeq,
    options: GenerateConfig,
    said: dict[str, str],
    asked: ControlSchedule | None = None,
) -> str:
    """Write one piece, and what else was asked for; the line that tells of it."""
    notes.to_midi_file(path, texts=metadata.encode_metadata(said, asked))
    if options.png:
        title = f"{path.stem}   {metadata.format_title(said)}"
        told = metadata.summarize_sample(notes, asked)
        picture = draw_piano_roll(notes, title, asked, told, said["made with"])
        utils.atomic_write(path.with_suffix(".png"), picture, durable=False)
    if options.wav:
        synth.render_audio(path, path.with_suffix(".wav"), options.soundfont)
    return f"{path}: {len(notes)} notes, {notes.seconds:.1f} s"


def finish(
    path: Path, order: GenerationJob, events: EventSeq, options: GenerateConfig, piece: int
) -> Iterator[str]:
    """Write all that was asked for of the events of a piece, and tell of it."""
    notes = decode_sample(events.to_array(), options, order.encoding, order.heard)
    played = kept(order, events, notes, options)
    asked = asked_for(order, played, options)
    yield write(path, notes, options, said_of(options, order.seed, piece), asked)
    if order.asked is not None:
        yield from ("  " + line for line in followed(played, order.asked))
