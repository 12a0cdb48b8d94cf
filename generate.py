"""Let a session play: MIDI files, and if you like pictures and audio of them."""

from __future__ import annotations

import argparse
import math
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import progress.bar
import torch

import flags
import utils
from config import GenerateConfig
from generation import control
from generation import writer as output
from generation.pipeline import (
    BUSIEST,
    MARGIN,
    GenerationJob,
    Primer,
    SampleBuffer,
    decode_sample,
    generate_events,
    read_primer,
)
from midi import synth
from midi.control_schedule import ControlSchedule
from model import PerformanceRNN, Session, pick_device
from sequence import ENCODINGS, ControlSeq, Encoding, EventSeq
from web.player import check_player_path, write_player

LENGTH = 1500  # events; about a minute
OF_PRIMER = ("primer_seconds", "primer_start", "continuation_only")
OF_SAMPLES = (  # what a beam does not know
    *("seconds", "stream", "top_k", "top_p", "min_p"),
    *("time_temperature", "pitch_temperature", "velocity_temperature"),
)
GROWN = 5.0  # seconds between two times that a growing piece is written


def open_session(options: GenerateConfig) -> tuple[PerformanceRNN, Encoding]:
    """The network of the session, ready to play, and its encoding.

    ValueError if they are not known, or can not be guided and shall be.
    """
    session = Session.load(options.session)
    widths = (session.config.event_dim, session.config.control_dim)
    if session.encoding not in ENCODINGS or widths != (EventSeq.dim(), ControlSeq.dim()):
        raise ValueError(
            f"{options.session}: made for encoding {session.encoding} with widths {widths}, "
            f"not one of {list(ENCODINGS)} with {(EventSeq.dim(), ControlSeq.dim())}"
        )
    if options.guidance != 1 and not (session.control_ratio or 1.0) < 1:
        raise ValueError(
            f"{options.session}: --guidance needs a session that was trained with -c below 1, "
            "and this one was not, or does not say so"
        )
    model = session.build_model(pick_device(options.device)).eval()
    return model, ENCODINGS[session.encoding]


def ordered(options: GenerateConfig) -> GenerationJob:
    """Read all that is needed to play."""
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    model, encoding = open_session(options)
    asked = heard = None
    if options.control is not None:
        asked = control.read(options.control, seed, encoding)
    if options.primer is not None:
        start, seconds = options.primer_start, options.primer_seconds
        heard = read_primer(options.primer, start, seconds, encoding)
    return GenerationJob(model, encoding, seed, asked, heard, _steps(options, asked))


def _steps(options: GenerateConfig, asked: ControlSchedule | None) -> int:
    """How many events are played, at most."""
    if options.seconds is not None:
        return math.ceil((options.seconds + MARGIN) * BUSIEST)
    if asked is not None and asked.events is not None and not options.max_length:
        return asked.events
    return LENGTH if options.max_length is None else options.max_length


def generate(options: GenerateConfig) -> Iterator[str]:
    """Play and write all pieces, telling a line at a time."""
    order = ordered(options)
    folder = Path(options.output_dir)
    utils.check_writable(folder)
    if options.png:
        utils.import_optional("matplotlib", "--png")  # better missed now than after playing
    if options.wav:
        utils.import_optional("midirenderer", "--wav")
        synth.find_soundfont(options.soundfont)
    if options.html and not options.force:
        check_player_path(folder)
    yield f"{_manner(options)}, seed {order.seed}, {options.session} on {order.model.device}"
    if order.heard is not None:
        yield _told_primer(options, order.heard)
    takes = SampleBuffer(options.batch_size, order.encoding, order.heard is not None)
    named = output.over_paths(folder) if options.force else output.free_paths(folder)
    paths = list(islice(named, options.batch_size)) if options.stream else []
    yield from (f"{path}: grows while it is played" for path in paths)

    def grow() -> None:
        for piece, path in enumerate(paths):
            decode_sample(takes.of(piece), options, order.encoding, order.heard).to_midi_file(path)

    try:
        _play(order, options, takes, grow if options.stream else None)
    except KeyboardInterrupt:
        grow()  # what is there so far is not lost
        raise
    for piece, path in enumerate(paths or islice(named, options.batch_size)):
        played = EventSeq.from_array(takes.of(piece), order.encoding)
        yield from output.finish(path, order, played, options, piece)
    if options.html:
        yield from write_player(folder)


def _told_primer(options: GenerateConfig, heard: Primer) -> str:
    left = heard.left_out
    said = f"primer: {options.primer}, {heard.seconds:.1f} s, {heard.events.note_ons} notes"
    return said + (f"; {left} outside the piano's 88 keys left out" if left else "")


def _play(
    order: GenerationJob,
    options: GenerateConfig,
    takes: SampleBuffer,
    grow: Callable[[], None] | None,
) -> None:
    """Let the pieces grow to their end, and show how far they are."""
    goal = None if options.seconds is None else 1000 * (options.seconds + MARGIN)
    bar = progress.bar.Bar("playing", suffix="%(index)d/%(max)d events  %(eta_td)s")
    bar.max = order.steps
    if goal is not None:
        bar.max, bar.suffix = round(goal / 1000), "%(index)d/%(max)d s  %(eta_td)s"
    written = time.monotonic()
    for number, events in enumerate(generate_events(order, options)):
        takes.add(events)
        if number % 50 == 0:
            bar.goto(number if goal is None else int(takes.elapsed.min() / 1000))
            if goal is not None and takes.elapsed.min() >= goal:
                break
            if grow and time.monotonic() - written > GROWN:
                grow()
                written = time.monotonic()
    bar.goto(bar.max)
    bar.finish()


def _manner(options: GenerateConfig) -> str:
    if options.beam_size:
        kind = "stochastic beam search" if options.stochastic_beam_search else "beam search"
        return f"{kind} over {options.beam_size}"
    if options.greedy_ratio == 1:
        return "greedy"
    also = (
        f", {options.greedy_ratio:.0%} greedy"
        if options.greedy_ratio
        else " (the original was greedy: -g 1)"
    )
    return f"sampling at temperature {options.temperature:g}{also}"


def parse_args(argv: Sequence[str] | None = None) -> GenerateConfig:
    """Read the command line; a wrong one ends the program with a sentence and exit 2."""
    width = max(len(text) for text, _ in control.EXAMPLES)
    examples = "\n".join(f"  {text:{width}}  {meaning}" for text, meaning in control.EXAMPLES)
    parser = flags.Parser(
        prog="generate.py",
        description=__doc__,
        epilog=f"what -c understands:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options = flags.parse(parser, GenerateConfig, argv)
    try:
        pick_device(options.device)
        _check(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def _check(options: GenerateConfig) -> None:
    """Raise ValueError for options that do not go together, or a wrong written control."""
    from_file = options.control is not None and os.path.exists(options.control)
    if options.soundfont is not None and not options.wav:
        raise ValueError("argument --soundfont: it is for --wav")
    if options.max_length == 0 and not from_file:
        raise ValueError("argument -l/--max-length: 0 needs a control file, for its length")
    if options.seconds is not None and options.max_length is not None:
        raise ValueError("argument --seconds: not together with -l/--max-length")
    if options.guidance != 1 and options.control is None:
        raise ValueError("argument --guidance: there is no control to follow, give -c")
    for names, useless, why in (
        (OF_PRIMER, options.primer is None, "there is no primer, give -i"),
        (OF_SAMPLES, options.beam_size > 0, "not together with -B/--beam-size"),
    ):
        for name in names:
            if useless and getattr(options, name) != getattr(GenerateConfig(), name):
                raise ValueError(f"argument --{name.replace('_', '-')}: {why}")
    if options.control is not None and not from_file:
        try:
            control.read(options.control, 0)
        except ValueError as error:
            raise ValueError(f"argument -c/--control: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if it could not be done."""
    options = parse_args(argv)
    torch.set_num_threads(1)  # one step is little work: a second thread costs more than it gives

    def verb() -> int:
        for line in generate(options):
            print(line, flush=True)
        return 0

    return utils.run_command("generate.py", verb, "stopped; the pieces told of are there")


if __name__ == "__main__":
    sys.exit(main())
