"""Generate MIDI files with a session, and optionally pictures, audio, a web page.

examples:
  python3 generate.py -c 'C major;3'
  python3 generate.py -c 'A minor;2 | A minor;8 @30' --seconds 60 --png --wav
  python3 generate.py -i song.mid --primer-seconds 10 -c 'Eb major;6' --html
"""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# Ctrl-C while torch is imported ends the program without a traceback
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import utils
from config import AUDIO_FORMATS, DEVICES, GenerateConfig
from generation.control import EXAMPLE, EXAMPLES, parse_control
from midi.control_schedule import ControlSchedule
from midi.metadata import format_command
from midi.playback import TRACKS_HELP, check_tracks
from utils import Number, Numbers, Parser

FORM_STRENGTH = 0.3  # of a section that returns
SURPRISE_PAGE = "surprise.html"
MAX_SAMPLES = 65536
COPY_TRIES = 5
DEFAULT_LENGTH = 1500  # events, a minute of 6 notes per second
STREAM_INTERVAL = 5.0  # seconds between two writes of a growing sample
PROGRESS_STEPS = 50  # steps between two updates of the progress bar
PRIMER_OPTIONS = ("primer_seconds", "primer_start", "continuation_only", "follow")
LIVE_OPTIONS = (  # which --live has
    *("live", "force", "session", "device", "seed", "control", "steering", "quiet"),
    *("temperature", "repeats", "silence"),
)
GIVEN_OPTIONS = ("keep", "fill", "variation", "perform", "form")
KEEP_OPTIONS = ("keep_tracks", "keep_pitches")
CONTINUATION_OPTIONS = ("primer", "beam_size")  # that do not go with --keep-until
PARTICLE_OPTIONS = ("particles", "two_tracks")
OTHER_METHODS = (  # that do not go with given notes
    *("primer", "max_length", "beam_size", "stochastic_beam_search", "greedy_ratio", "stream"),
    *("best_of", "avoid_copies", "keep_until"),
)
OUTPUT_OPTIONS = (  # that do not change the music of a sample
    *("two_tracks", "output_dir", "png", "wav", "audio", "soundfont", "html", "force", "stream"),
    *("json", "quiet", "best_of", "avoid_copies", "piece", "batch_size"),
)
SAMPLING_OPTIONS = (  # which beam search does not have
    *("seconds", "stream", "top_k", "top_p", "min_p"),
    *("time_temperature", "pitch_temperature", "velocity_temperature"),
)


# ------------------------------------------------------------------------------ command line


def build_parser() -> Parser:
    """Return the parser of the command line."""
    epilog = f"examples of -c:\n{EXAMPLES}"
    parser = Parser("generate.py", __doc__ or "", GenerateConfig(), epilog=epilog)

    add = parser.add_argument_group("input").add_argument
    add("-s", "--session", metavar="FILE", help="session file")
    add("--device", choices=DEVICES, help="device to run on")
    add(
        "--seed",
        type=Number(int, 0, 2**63),
        metavar="N",
        help="random seed; the same seed generates the same music (default: random)",
    )

    add = parser.add_argument_group("control").add_argument
    add(
        "-c",
        "--control",
        metavar="CONTROL",
        help="requested pitch classes and density, which may change over time, or a file that "
        "has them; see the examples below",
    )
    like = "request the controls of a MIDI file over time; -c then replaces some of them"
    add("--like", metavar="FILE", help=like)
    add(
        "--guidance",
        type=Number(float, 0, 100),
        metavar="SCALE",
        help="scale of classifier-free guidance: above 1 follows the control more closely",
    )
    add(
        "--steering",
        action=argparse.BooleanOptionalAction,
        help="correct the density during generation, so that it stays at the requested one",
    )

    _add_length_options(parser)
    _add_given_notes_options(parser)
    _add_sampling_options(parser)
    _add_output_options(parser)
    return parser


def _add_length_options(parser: Parser) -> None:
    """Add the options of the number and length of the samples, and of the primer."""
    positive = Number(float, above=0)
    add = parser.add_argument_group("length and primer").add_argument
    add(
        "-b",
        "--batch-size",
        type=Number(int, 1, MAX_SAMPLES),
        metavar="N",
        help="number of samples",
    )
    add(
        "--piece",
        type=Numbers(0, 2**31),
        metavar="K,...",
        help="generate only the samples with these numbers, from 0, instead of -b samples",
    )
    add(
        "--best-of",
        type=Number(int, 2, MAX_SAMPLES),
        metavar="N",
        help="generate N samples and keep the best -b of them",
    )
    add(
        "--avoid-copies",
        action="store_true",
        help="generate a sample again if it has a longer passage of the training data than other "
        "music has",
    )
    add(
        "-l",
        "--max-length",
        type=Number(int, 0, 10_000_000),
        metavar="N",
        help="events per sample; 0: as many as the control file (default: 1500, up to a minute)",
    )
    add(
        "--seconds",
        type=Number(float, 1, 86400),
        metavar="SECONDS",
        help="instead of -l: end each sample at a musical boundary about this long, within 2 s",
    )
    add("-i", "--primer", metavar="FILE", help="MIDI file that each sample continues")
    add("--primer-seconds", type=positive, metavar="SECONDS", help="length of the primer")
    add(
        "--primer-start",
        type=Number(float, 0),
        metavar="SECONDS",
        help="start of the primer in the file",
    )
    add("--tracks", metavar="auto|all|piano|NAME,..", help=f"of MIDI files: {TRACKS_HELP}")
    follow = "without -c, request the controls of the last 20 s of the primer"
    add("--follow", action=argparse.BooleanOptionalAction, help=follow)
    add("--continuation-only", action="store_true", help="write the samples without the primer")


def _add_sampling_options(parser: Parser) -> None:
    """Add the options of sampling."""
    share, positive = Number(float, 0, 1), Number(float, above=0)
    add = parser.add_argument_group("sampling").add_argument
    add("-T", "--temperature", type=positive, metavar="T", help="below 1 is safer, above wilder")
    for flag, events in (
        ("--time-temperature", "time shifts"),
        ("--pitch-temperature", "pitches"),
        ("--velocity-temperature", "velocities"),
    ):
        text = f"temperature among {events} (default: as -T)"
        add(flag, type=positive, metavar="T", help=text)
    add("--top-k", type=Number(int, 0), metavar="K", help="only the K most likely events; 0: all")
    add(
        "--top-p",
        type=Number(float, high=1, above=0),
        metavar="P",
        help="only the most likely events, up to a total probability of P",
    )
    add(
        "--min-p",
        type=share,
        metavar="P",
        help="only events with at least P times the probability of the most likely one",
    )
    add(
        "-g",
        "--greedy-ratio",
        type=share,
        metavar="SHARE",
        help="share of the events that are the most likely one instead of sampled",
    )
    add("-B", "--beam-size", type=Number(int, 0, 4096), metavar="N", help="beam search; 0: off")
    add("-S", "--stochastic-beam-search", action="store_true", help="with -B: sample the beams")
    add(
        "--repeats",
        type=Number(int, 0, 1_000_000),
        metavar="N",
        help="how often one key may be struck in a row; 0: no limit",
    )
    add(
        "--silence",
        type=Number(float, 0, 86400),
        metavar="SECONDS",
        help="longest time without a new note; 0: no limit",
    )
    recall = "look for earlier passages in the music so far, so that passages return"
    add("--recall", action=argparse.BooleanOptionalAction, help=recall)
    add("--free", action="store_true", help="do not mask events that cannot be played")
    add("-z", "--init-zero", action="store_true", help="start from zeros, not a random vector")
    add("--exact", action="store_true", help="compute in float32 only, which is slower")


def _add_output_options(parser: Parser) -> None:
    """Add the options of output and analysis."""
    add = parser.add_argument_group("output").add_argument
    add("-o", "--output-dir", metavar="DIR", help="folder for the samples")
    force = "overwrite files from output-000 on, instead of adding new ones"
    add("--force", action="store_true", help=force)
    add("--stream", action="store_true", help="write the samples while they are generated")
    add("--png", action="store_true", help="also draw each sample as a piano roll")
    add("--wav", action="store_true", help="also render each sample to audio")
    add("--audio", choices=AUDIO_FORMATS, help="also render each sample to audio in this format")
    text = ".sf2 file for --wav and --audio (default: pretty_midi's)"
    add("--soundfont", metavar="FILE", help=text)
    add("--html", action="store_true", help="also write index.html, a page that plays the samples")
    add("--bpm", type=Number(float, 10, 1000), metavar="BPM", help="write this tempo")
    add("--meter", metavar="N/D", help="with --bpm or --beats: the time signature (default: 4/4)")
    text = "write a tempo map whose beats follow the music, as estimated from it"
    add("--beats", action="store_true", help=text)
    text = "with a tempo: put the onsets of new notes on a grid, such as 1/16"
    add("--grid", metavar="1/N", help=text)
    text = "write the sustain pedal and shorter notes, which sound the same"
    add("--pedal", action="store_true", help=text)
    live = "write no samples, but one HTML file in which the session plays, and plays along"
    add("--live", metavar="FILE", help=live)

    as_json = "print the results as JSON, and the messages to stderr"
    add("--json", action="store_true", help=as_json)
    add("--quiet", action="store_true", help="print nothing but errors")

    add = parser.add_argument_group("analysis").add_argument
    add(
        "--surprise",
        nargs="+",
        metavar="FILE",
        help="instead of generating: write how surprising each note of these MIDI files is",
    )


def _add_given_notes_options(parser: Parser) -> None:
    """Add the options for music around notes of a file."""
    share = Number(float, 0, 1)
    add = parser.add_argument_group("given notes").add_argument
    add("--keep", metavar="FILE", help="MIDI file whose notes stay, with new notes around them")
    add("--keep-tracks", metavar="NAMES", help="tracks to keep: names, all or piano")
    add("--keep-pitches", metavar="LOW-HIGH", help="MIDI pitches to keep, such as 60-108")
    add(
        "--fill",
        nargs=2,
        metavar=("FROM-TO", "FILE"),
        help="replace the notes of a MIDI file between two seconds, such as 30-40",
    )
    text = "generate a share of the notes of a MIDI file anew, from 0 to 1, such as 0.5"
    add("--variation", nargs=2, metavar=("SHARE", "FILE"), help=text)
    text = "keep a MIDI file up to a second, and generate the rest, up to the same length"
    add("--keep-until", nargs=2, metavar=("SECONDS", "FILE"), help=text)
    add("--perform", metavar="FILE", help="MIDI file of a score that is played expressively")
    add(
        "--strength",
        type=share,
        metavar="SHARE",
        help="how far --perform, and a section that returns in --form, moves from its notes; "
        "0: not at all (default: 1; with --form 0.3)",
    )
    add(
        "--form",
        metavar="LETTERS",
        help="sections, such as 'A A B A': a letter that returns plays the same notes again; "
        "needs --seconds; a control in parentheses is for one letter, 'A(C major;3) B(G7)'",
    )
    add(
        "--particles",
        type=Number(int, 1, 65536),
        metavar="N",
        help="candidates at a time; more fit the given notes better, but take longer",
    )
    add("--two-tracks", action="store_true", help="write the given notes as a second track")


def parse_args(
    argv: Sequence[str] | None = None,
) -> tuple[GenerateConfig, ControlSchedule | None]:
    """Parse the command line; return the options and the control.

    The control is None without -c, and also for a file, which `prepare_job` loads.
    An error ends the program with one line and exit status 2.
    """
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        hint = "" if unknown[0].startswith("-") else f" (a control needs quotes: -c '{EXAMPLE}')"
        parser.error(parser.format_unknown(unknown) + hint)
    options = GenerateConfig(**vars(arguments))
    try:
        if options.device != "auto":
            from model import pick_device  # imports torch

            pick_device(options.device)
        check_combinations(options)
    except ValueError as error:
        parser.error(str(error))
    if options.form is not None:
        return options, parse_form_control(parser, options)
    if options.control is None or os.path.exists(options.control):
        return options, None
    try:
        return options, parse_control(options.control)
    except ValueError as error:
        parser.error(f"argument -c/--control: {error}")


def parse_form_control(parser: Parser, options: GenerateConfig) -> ControlSchedule | None:
    """Return the control of --form: that of its sections, or that of -c."""
    from generation.given_notes import parse_form  # imports torch

    text, flag = options.control, "-c/--control"
    try:
        _, sections_text = parse_form(options.form or "", options.seconds or 0.0)
        if sections_text is not None:
            text, flag = sections_text, "--form"
    except ValueError as error:
        parser.error(str(error))
    try:
        return None if text is None else parse_control(text)
    except ValueError as error:
        parser.error(f"argument {flag}: {error}")


def has_control(options: GenerateConfig) -> bool:
    """Return whether the options request a control."""
    follows = options.primer is not None and options.follow
    follows |= options.variation is not None or options.keep_until is not None
    return options.control is not None or options.like is not None or follows


def list_audio(options: GenerateConfig) -> tuple[str, ...]:
    """Return the formats of audio to write, each once."""
    return tuple(dict.fromkeys([*["wav"] * options.wav, *filter(None, [options.audio])]))


def check_combinations(options: GenerateConfig) -> None:
    """Raise ValueError for options that do not go together."""
    if options.live is not None:
        check_live_options(options)
    is_file = options.control is not None and os.path.exists(options.control)
    check_tracks("--tracks", options.tracks)
    check_tracks("--keep-tracks", options.keep_tracks)
    if options.json and (options.surprise or options.live):
        raise ValueError("argument --json: only for samples")
    if options.soundfont is not None and not list_audio(options):
        raise ValueError("argument --soundfont: only with --wav or --audio")
    if options.bpm is not None and options.beats:
        raise ValueError("argument --beats: not together with --bpm")
    if options.meter is not None and options.bpm is None and not options.beats:
        raise ValueError("argument --meter: only with --bpm or --beats")
    if options.max_length == 0 and not is_file:
        raise ValueError("argument -l/--max-length: 0 is only for a control file, give one with -c")
    if options.seconds is not None and options.max_length is not None:
        raise ValueError("argument --seconds: not together with -l/--max-length")
    if options.like is not None and is_file:
        raise ValueError("argument --like: -c/--control must then be a text, not a file")
    if options.guidance != 1 and not has_control(options):
        raise ValueError("argument --guidance: only with a control, give one with -c")
    if options.best_of is not None and options.best_of <= options.batch_size:
        raise ValueError("argument --best-of: it must be more than -b, the samples to keep")
    if options.form is not None and options.seconds is None:
        raise ValueError("argument --form: it needs a length, give one with --seconds")
    tasks = [f"--{name}" for name in GIVEN_OPTIONS if getattr(options, name) is not None]
    if len(tasks) > 1:
        raise ValueError(f"argument {tasks[1]}: not together with {tasks[0]}")
    if tasks and is_file:
        raise ValueError(f"argument -c/--control: with {tasks[0]}, not a file, but a text")
    for names, is_wrong, reason in (
        (KEEP_OPTIONS, options.keep is None, "only with --keep"),
        (("strength",), not {"--perform", "--form"} & {*tasks}, "only with --perform or --form"),
        (PARTICLE_OPTIONS, not tasks, f"only with one of --{', --'.join(GIVEN_OPTIONS)}"),
        (OTHER_METHODS, bool(tasks), f"not together with {''.join(tasks)}"),
        (CONTINUATION_OPTIONS, options.keep_until is not None, "not together with --keep-until"),
        (("best_of",), options.piece is not None, "not together with --piece"),
        (("stream",), options.best_of is not None, "not together with --best-of"),
        (PRIMER_OPTIONS, options.primer is None, "only with a primer, give one with -i"),
        (SAMPLING_OPTIONS, options.beam_size > 0, "not together with -B/--beam-size"),
    ):
        for name in names:
            if is_wrong and getattr(options, name) != getattr(GenerateConfig(), name):
                raise ValueError(f"argument {name_option(name)}: {reason}")


def name_option(name: str) -> str:
    """Return an option whose value is not the default one as on the command line: `--no-follow`."""
    is_on = getattr(GenerateConfig(), name) is True
    return f"--{'no-' if is_on else ''}{name.replace('_', '-')}"


def check_live_options(options: GenerateConfig) -> None:
    """Raise ValueError for options that --live does not have."""
    for name, value in vars(options).items():
        if name not in LIVE_OPTIONS and value != getattr(GenerateConfig(), name):
            raise ValueError(f"argument {name_option(name)}: not together with --live")
    if options.control is not None and os.path.exists(options.control):
        raise ValueError("argument -c/--control: --live needs a control in text form, not a file")


def build_reproduction_argv(options: GenerateConfig, seed: int, number: int) -> list[str]:
    """Return the shortest arguments that generate only sample `number` again.

    Options that do not change the music are left out.
    """
    defaults = {name: getattr(GenerateConfig(), name) for name in OUTPUT_OPTIONS}
    selection: dict[str, Any] = {"piece": (number,)} if number else {"batch_size": 1}
    options = replace(options, **defaults | selection | {"seed": seed})
    return build_parser().to_argv(options)


def format_control(options: GenerateConfig) -> str:
    """Return the requested control as a text for people; "none" for none."""
    files = [options.like, options.primer if options.follow and not options.control else None]
    if not options.control and not options.like:
        files += [pair[1] for pair in (options.variation, options.keep_until) if pair is not None]
    like = next((f"like {path}" for path in files if path is not None), None)
    return "; ".join(filter(None, [options.control, like])) or "none"


def build_metadata(options: GenerateConfig, seed: int, number: int) -> dict[str, str]:
    """Return the texts for the MIDI file of sample `number`."""
    argv = build_reproduction_argv(options, seed, number)
    return {  # the keys are part of the file format
        "session": Path(options.session).name,
        "seed": str(seed),
        "piece": str(number),
        "control": format_control(options),
        "made with": format_command(argv),
    }


if __name__ == "__main__":
    parse_args()  # before the slow imports: --help and errors in the command line come at once

import numpy as np
import progress.bar
import torch

from analysis.profile import TrainProfile
from analysis.ranking import (
    Candidate,
    choose_best,
    find_adherence,
    measure_losses,
    score_candidates,
)
from analysis.surprise import analyze_file, summarize, write_surprise
from corpus.performance import hash_source
from generation.control import load_control, load_measured
from generation.given_notes import (
    Form,
    Task,
    load_accompaniment,
    load_gap,
    load_kept_start,
    load_score,
    load_variation,
    parse_form,
)
from generation.pipeline import (
    MARGIN,
    MAX_EVENT_RATE,
    PLAN_MARGIN,
    BeamSearch,
    Extent,
    GenerationJob,
    Primer,
    SampleBuffer,
    build_event_constraints,
    decode_sample,
    generate_events,
    load_primer,
    ring_out,
)
from generation.sampling import Sampler
from generation.writer import (
    Formats,
    OutputFiles,
    WrittenSample,
    trim_events,
    write_arrangement,
    write_sample,
)
from midi import synth
from midi.notation import TempoMap, load_tempo_map, parse_grid, parse_meter
from model import PerformanceRNN, Session, pick_device
from sequence import (
    ENCODINGS,
    ControlLayout,
    Encoding,
    EventSeq,
    NoteSeq,
    complete_schedule,
)
from training.sessions import History, load_history
from web.live import LiveSettings, check_live_path, write_live
from web.page import check_page_path
from web.player import (
    MARK,
    Sample,
    check_player_path,
    describe_surprise,
    render_player,
    write_player,
)

NO_EVENTS = np.empty(0, np.uint8)


# --------------------------------------------------------------------------------- generation


def load_model(options: GenerateConfig) -> tuple[PerformanceRNN, Encoding]:
    """Return the model of the session, in evaluation mode, and its event encoding.

    Raises ValueError if the session is invalid, has another number of events or controls, or
    does not support guidance.
    """
    session = Session.load(options.session)
    widths = (session.config.event_dim, session.config.control_dim)
    layout = ControlLayout(session.controls)
    known_widths = (EventSeq.dim(), layout.dim)
    if session.encoding not in ENCODINGS or widths != known_widths:
        raise ValueError(
            f"{options.session}: encoding {session.encoding} with widths {widths} of events and "
            f"controls is unknown, only {list(ENCODINGS)} with {known_widths} can be used"
        )
    if options.guidance != 1 and layout.is_plain and not (session.control_ratio or 1.0) < 1:
        raise ValueError(
            f"{options.session}: --guidance needs a session trained with -c below 1, but this one "
            "was not, or does not record it"
        )
    has_learned_none = not layout.is_plain or session.control_ratio != 1
    without_control = not (has_control(options) or options.surprise or options.live)
    if without_control and not has_learned_none:
        utils.print_line(
            f"warning: {options.session} has learned only music with a control: give one with -c"
        )
    model = session.build_model(pick_device(options.device)).eval()
    return model, ENCODINGS[session.encoding]


def load_requested_control(
    options: GenerateConfig,
    control: ControlSchedule | None,
    primer: Primer | None,
    seed: int,
    encoding: Encoding,
    layout: ControlLayout,
) -> ControlSchedule | None:
    """Return the control of -c, of --like, of both or of the primer; None for no control.

    control: that of -c in text form, or None; layout: the controls of the session. In a file that
    the primer comes from, the control starts where the primer ends.
    """

    def find_start(path: str) -> float:
        is_primer = options.primer is not None and os.path.samefile(path, options.primer)
        return primer.end if primer is not None and is_primer else 0.0

    if control is None and options.control is not None:
        start = find_start(options.control)
        control = load_control(options.control, seed, encoding, layout, options.tracks, start)
    if options.like is not None:
        measured = load_measured(
            options.like, encoding, layout, options.tracks, find_start(options.like)
        )
        control = measured if control is None else measured.override(control)
    if control is None and primer is not None and options.follow and primer.style is not None:
        text = f"like {options.primer}"
        control = replace(primer.style, text=text, parts=((0.0, text),))
    if control is None:
        return None
    try:
        return complete_schedule(control, layout)
    except ValueError as error:
        raise ValueError(f"{options.session}: {error}") from error


def prepare_job(options: GenerateConfig, control: ControlSchedule | None) -> GenerationJob:
    """Load the session, the primer, and the control if it is a file."""
    options = expand_options(options)
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    model, encoding = load_model(options)
    primer = None
    if options.primer is not None:
        part = (options.primer_start, options.primer_seconds)
        primer = load_primer(options.primer, *part, encoding, model.layout, options.tracks)
    control = load_requested_control(options, control, primer, seed, encoding, model.layout)
    steps, seconds = options.max_length or DEFAULT_LENGTH, options.seconds
    if control is not None and not options.max_length and not options.beam_size:
        seconds = seconds or control.length
    if seconds is not None:
        steps = math.ceil((seconds + MARGIN) * MAX_EVENT_RATE)
    elif control is not None and control.events is not None and not options.max_length:
        steps = control.events
    extent = Extent(seconds, options.continuation_only, PLAN_MARGIN)
    if options.seconds is not None:
        extent = Extent.from_seconds(options.seconds, options.continuation_only)
    limits = (options.repeats, options.silence)
    return GenerationJob(
        model,
        encoding,
        seed,
        steps,
        count_samples(options),
        constraints=build_event_constraints(encoding, *limits, free=options.free),
        method=build_method(options),
        control=control,
        primer=primer,
        extent=extent,
        steering=options.steering,
        guidance=options.guidance,
        init_zero=options.init_zero,
        exact=options.exact,
        numbers=options.piece,
        max_threads=utils.count_processors(),
        use_recall=options.recall,
    )


def expand_options(options: GenerateConfig) -> GenerateConfig:
    """Return options with --keep-until and --variation in terms of other options.

    Both request the control of their file over time, if no other one is requested.
    """
    pair = options.variation or options.keep_until
    if pair is not None and options.control is None and options.like is None:
        options = replace(options, like=pair[1])
    if options.keep_until is None:
        return options
    seconds, path = options.keep_until
    until, rest = load_kept_start(seconds, path)
    if options.seconds is None and options.max_length is None:
        options = replace(options, seconds=max(1.0, rest))
    return replace(options, primer=path, primer_seconds=until, follow=False)


def build_formats(options: GenerateConfig) -> Formats:
    """Return how to write the samples; ValueError for texts that cannot be understood."""
    try:
        meter = (4, 4) if options.meter is None else parse_meter(options.meter)
    except ValueError as error:
        raise ValueError(f"argument --meter: {error}") from error
    file = options.keep or options.perform
    for pair in (options.fill, options.variation):
        file = file if pair is None else pair[1]
    tempo_map = None if options.bpm is None else TempoMap.constant(options.bpm, meter)
    if file is not None and tempo_map is None:
        tempo_map = load_tempo_map(file)
    grid = None
    if options.grid is not None:
        has_tempo = tempo_map is not None or options.beats
        grid = find_grid(options.grid, has_tempo, expand_options(options).primer)
    return Formats(
        options.png,
        list_audio(options),
        options.soundfont,
        options.two_tracks,
        options.pedal,
        tempo_map,
        meter if options.beats else None,
        grid,
    )


def find_grid(text: str, has_tempo: bool, primer: str | None) -> float:
    """Return the step of --grid in quarter notes; ValueError without a tempo for it."""
    try:
        grid = parse_grid(text)
    except ValueError as error:
        raise ValueError(f"argument --grid: {error}") from error
    if not has_tempo and (primer is None or load_tempo_map(primer) is None):
        of = "" if primer is None else f"{primer} has none, "
        raise ValueError(f"argument --grid: it needs a tempo, {of}give --bpm or --beats")
    return grid


def build_method(options: GenerateConfig) -> Sampler | BeamSearch:
    """Return the settings of beam search or of sampling."""
    if options.beam_size:
        stochastic, temperature = options.stochastic_beam_search, options.temperature
        return BeamSearch(options.beam_size, stochastic, temperature)
    return build_sampler(options)


def build_sampler(options: GenerateConfig) -> Sampler:
    """Return a sampler with the temperatures and filters of the options."""
    ranges = EventSeq.feat_ranges()
    temperatures = {
        ranges["note_on"]: options.pitch_temperature,
        ranges["velocity"]: options.velocity_temperature,
        ranges["time_shift"]: options.time_temperature,
    }
    return Sampler(
        options.temperature,
        options.greedy_ratio,
        options.top_k,
        options.top_p,
        options.min_p,
        {events: value for events, value in temperatures.items() if value is not None},
    )


def check_output(options: GenerateConfig) -> None:
    """Raise an error before generation if the output could not be written after it.

    OSError or ValueError: a folder or file; ImportError: a library that an option needs.
    """
    folder = Path(options.output_dir)
    utils.check_writable(folder)
    if options.png:
        utils.import_optional("matplotlib", "--png")
    for audio_format in list_audio(options):
        synth.check_audio(audio_format, options.soundfont)
    if options.html and not options.force:
        check_player_path(folder)


def generate(
    options: GenerateConfig, control: ControlSchedule | None
) -> Iterator[str | WrittenSample]:
    """Generate and write all samples; yield messages.

    control: as `parse_args` returns it.
    """
    job = prepare_job(options, control)
    check_output(options)
    formats = build_formats(options)
    yield format_settings(options, job)
    if job.primer is not None:
        yield format_primer(expand_options(options), job.primer)
    samples = SampleBuffer(job.batch_size, job.encoding, job.primer is not None)
    outputs = OutputFiles(Path(options.output_dir), options.force)
    if options.stream:
        yield f"{options.output_dir}: the samples are written every {STREAM_INTERVAL:g} s"

    def write_stream(is_last: bool = False) -> None:
        count = job.batch_size if options.stream else 0
        all_notes = [decode_sample(job, samples.get(number)) for number in range(count)]
        all_notes = [ring_out(job, notes) for notes in all_notes]
        is_ready = is_last or all(map(len, all_notes))  # so that names are in order
        for number, notes in enumerate(all_notes):
            if is_ready and len(notes):
                outputs.write(number, notes.to_midi_bytes())

    try:
        fill_samples(job, samples, write_stream)
    except KeyboardInterrupt:
        write_stream(is_last=True)  # keep what is generated so far
        raise
    profile = TrainProfile.from_record(Session.load(options.session).train_profile)
    chosen = list(range(job.batch_size))
    if options.best_of is not None:
        chosen, reasons = choose_samples(options, job, samples, profile)
        yield from reasons
    for place, column in enumerate(chosen):
        number = column if job.numbers is None else job.numbers[column]
        events = samples.get(column)
        if options.avoid_copies and profile is not None:
            number, events = avoid_copies(job, number, events, profile)
        metadata = build_metadata(options, job.seed, number)
        write = partial(outputs.write, place)
        yield from write_sample(write, job, events, metadata, formats)
        if profile is not None:
            passage = profile.index.find_longest(get_new_notes(job, events))
            yield f"  {profile.format_passage(passage)}"
    if options.html:
        yield from write_player(Path(options.output_dir))


def count_samples(options: GenerateConfig) -> int:
    """Return how many samples to generate."""
    return len(options.piece) if options.piece else options.best_of or options.batch_size


def get_new_notes(job: GenerationJob, events: EventSeq) -> NoteSeq:
    """Return the notes of a sample after the primer."""
    notes = decode_sample(job, events)
    if job.primer is None or job.extent.continuation_only:
        return notes
    is_new = notes.starts >= job.primer.seconds - 1e-6  # rounding errors
    return notes.select(is_new)


def choose_samples(
    options: GenerateConfig,
    job: GenerationJob,
    samples: SampleBuffer,
    profile: TrainProfile | None,
) -> tuple[list[int], list[str]]:
    """Return the numbers of the best samples, the best first, and a line for each."""
    torch.set_num_threads(job.max_threads)  # here the products are large
    all_events = [samples.get(number) for number in range(job.batch_size)]
    context = NO_EVENTS if job.primer is None else job.primer.events.to_array()
    whole = np.stack([events.to_array() for events in all_events], axis=1)
    losses = measure_losses(job.model, context, whole, job.use_recall)
    torch.set_num_threads(1)
    candidates = []
    for events, loss in zip(all_events, losses, strict=True):
        notes = get_new_notes(job, events)
        passage = profile.index.find_longest(notes) if profile is not None else None
        copied = (passage.notes if passage else 0) if profile is not None else None
        events = trim_events(job, events, decode_sample(job, events))
        adherence = find_adherence(events, job.control)
        candidates.append(Candidate(notes, adherence, float(loss), copied))
    reference = profile.reference if profile is not None else None
    limit = profile.copy_limit if profile is not None else None
    scores = score_candidates(candidates, reference, limit)
    chosen = choose_best(scores, options.batch_size)
    totals = sorted(score.total for score in scores)
    lines = [
        f"best {len(chosen)} of {len(scores)} samples, by penalty "
        f"(all: {totals[0]:.2f} to {totals[-1]:.2f}, median {totals[len(totals) // 2]:.2f})"
    ]
    return chosen, lines + [f"  sample {number}: {scores[number]}" for number in chosen]


def avoid_copies(
    job: GenerationJob, number: int, events: EventSeq, profile: TrainProfile
) -> tuple[int, EventSeq]:
    """Return the number and the events of a sample, generated again while it copies too much.

    The next try has the number of the one before plus MAX_SAMPLES, so --piece generates it again.
    After COPY_TRIES it stays as it is.
    """
    for _ in range(COPY_TRIES):
        passage = profile.index.find_longest(get_new_notes(job, events))
        if passage is None or passage.notes <= profile.copy_limit:
            break
        number += MAX_SAMPLES
        again = replace(job, batch_size=1, numbers=(number,))
        samples = SampleBuffer(1, job.encoding, job.primer is not None)
        fill_samples(again, samples, lambda: None)
        events = samples.get(0)
    return number, events


def generate_live(options: GenerateConfig, control: ControlSchedule | None) -> Iterator[str]:
    """Write the page of --live; yield messages."""
    path = Path(options.live or "")
    if not options.force:
        check_live_path(path)
    model, encoding = load_model(options)
    control_ratio = Session.load(options.session).control_ratio
    settings = LiveSettings(
        Path(options.session).name,
        control,
        options.seed,
        options.temperature,
        options.repeats,
        options.silence,
        options.steering,
        can_omit_control=(control_ratio or 1.0) < 1,
    )
    size = write_live(path, model, encoding, settings)
    yield f"{path}: {size / 1e6:.1f} MB, open it in a browser"


def measure_files(options: GenerateConfig) -> Iterator[str]:
    """Write the surprise of each note of MIDI files; yield messages.

    A file that cannot be read is named, and the others are still measured.
    Raises ValueError if none could be read.
    """
    model, encoding = load_model(options)
    folder, stems = Path(options.output_dir), Counter[str]()
    utils.check_writable(folder)
    page = folder / SURPRISE_PAGE
    if not options.force:
        check_page_path(page, MARK)
    samples: list[Sample] = []
    session = Session.load(options.session)
    history = load_history(session)
    use_control = model.layout.is_plain and session.control_ratio == 1
    how = "with its own controls" if use_control else "without control"
    for path in map(Path, options.surprise or ()):
        try:
            surprise = analyze_file(path, model, encoding, use_control)
        except (OSError, ValueError) as error:
            reason = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            yield f"not measured: {reason}"
            continue
        stems[path.stem] += 1
        name = path.stem if stems[path.stem] == 1 else f"{path.stem}-{stems[path.stem]}"
        seen = format_seen(history, path)
        facts = {"file": path.name, "session": Path(options.session).name}
        facts |= {"control": how, "training data": seen}
        yield f"{path}, {how}; session trained on this file: {seen}"
        yield from (f"  {line}" for line in summarize(surprise))
        yield from map(str, write_surprise(surprise, name, folder, facts))
        samples.append(describe_surprise(name, surprise, how))
    if not samples:
        raise ValueError("no file could be measured")
    utils.atomic_write(page, render_player(samples, "Surprise of each note"), durable=False)
    yield str(page)


def format_seen(history: History, path: Path) -> str:
    """Return whether a session was trained on a MIDI file: "yes", "no" or "unknown"."""
    if history.has(hash_source(path.read_bytes())):
        return "yes"
    return "no" if history.is_complete else "unknown"


def arrange(
    options: GenerateConfig, control: ControlSchedule | None
) -> Iterator[str | WrittenSample]:
    """Generate samples around given notes and write them; yield messages."""
    job = prepare_job(options, control)
    task = load_task(options, job.encoding)
    check_output(options)
    formats = build_formats(options)
    yield format_settings(options, job)
    outputs = OutputFiles(Path(options.output_dir), options.force)
    total, suffix = math.ceil(task.seconds), "%(index)d/%(max)d s  %(eta_td)s"
    for place, number in enumerate(options.piece or range(options.batch_size)):
        bar = progress.bar.Bar("generating", max=total, suffix=suffix, file=sys.stderr)
        show = partial(show_progress, bar)
        arrangement = task.generate(job, number, options.particles, show)
        bar.goto(total)
        bar.finish()
        metadata = build_metadata(options, job.seed, number)
        write = partial(outputs.write, place)
        yield from write_arrangement(write, job, arrangement, metadata, formats)
    if options.html:
        yield from write_player(Path(options.output_dir))


def show_progress(bar: progress.bar.Bar, seconds: float) -> None:
    """Move a progress bar to a number of seconds."""
    bar.goto(min(bar.max, int(seconds)))


def load_task(options: GenerateConfig, encoding: Encoding) -> Task:
    """Return what to generate around the given notes; ValueError if it is impossible."""
    sustain = not encoding.is_legacy
    if options.keep is not None:
        return load_accompaniment(options.keep, options.keep_tracks, options.keep_pitches, sustain)
    if options.fill is not None:
        seconds, path = options.fill
        return load_gap(seconds, path, sustain)
    if options.variation is not None:
        share, path = options.variation
        return load_variation(share, path, sustain)
    if options.perform is not None:
        strength = 1.0 if options.strength is None else options.strength
        return load_score(options.perform, strength, sustain)
    strength = FORM_STRENGTH if options.strength is None else options.strength
    sections, _ = parse_form(options.form or "", options.seconds or 0.0)
    return Form(sections, strength)


def fill_samples(
    job: GenerationJob, samples: SampleBuffer, write_stream: Callable[[], None]
) -> None:
    """Generate events until all samples are long enough; show a progress bar.

    write_stream: called every STREAM_INTERVAL seconds.
    """
    total, unit, milliseconds = job.steps, "events", math.inf
    if job.extent.seconds is not None:
        milliseconds = 1000 * (job.extent.seconds + MARGIN)
        total, unit = round(milliseconds / 1000), "s"
    suffix = f"%(index)d/%(max)d {unit}  %(eta_td)s"
    bar = progress.bar.Bar("generating", max=total, suffix=suffix, file=sys.stderr)
    last_write = time.monotonic()
    for step, events in enumerate(generate_events(job)):
        samples.add(events)
        if step % PROGRESS_STEPS:
            continue
        elapsed = samples.elapsed.min()
        bar.goto(int(elapsed / 1000) if unit == "s" else step)
        if elapsed >= milliseconds:
            break
        if time.monotonic() - last_write > STREAM_INTERVAL:
            write_stream()
            last_write = time.monotonic()
    bar.goto(total)
    bar.finish()


def format_settings(options: GenerateConfig, job: GenerationJob) -> str:
    """Format the first message: session, device, method and seed."""
    if options.beam_size:
        kind = "stochastic beam search" if options.stochastic_beam_search else "beam search"
        method = f"{kind} with {options.beam_size} beams"
    elif options.greedy_ratio == 1:
        method = "greedy"
    else:
        method = f"sampling at temperature {options.temperature:g}"
        if options.greedy_ratio:
            method += f", {options.greedy_ratio:.0%} greedy"
    return f"{options.session} on {job.model.device}, {method}, seed {job.seed}"


def format_primer(options: GenerateConfig, primer: Primer) -> str:
    """Format the message about the primer: file, notes and seconds."""
    line = f"primer: {options.primer}, {primer.events.note_ons} notes, {primer.seconds:.1f} s"
    if primer.dropped_notes:
        line += f" ({primer.dropped_notes} notes outside the piano's 88 keys dropped)"
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options, control = parse_args(argv)
    torch.set_num_threads(1)  # a step is so short that more threads often slow it down

    def run() -> int:
        with utils.redirect_messages(options.quiet, options.json) as stdout:
            messages: Iterator[str | WrittenSample]
            if options.surprise:
                messages = measure_files(options)
            elif options.live is not None:
                messages = generate_live(options, control)
            elif any(getattr(options, name) is not None for name in GIVEN_OPTIONS):
                messages = arrange(options, control)
            else:
                messages = generate(options, control)
            results = []
            for message in messages:
                utils.print_line(str(message))
                if isinstance(message, WrittenSample):
                    results.append(message.to_record())
                elif results and message.startswith("  "):  # about the sample
                    results[-1]["details"].append(message.strip())
            if options.json:
                stdout.write(json.dumps(results) + "\n")
        return 0

    stopped = "stopped; the samples written so far are kept"
    return utils.run_command("generate.py", run, stopped)


if __name__ == "__main__":
    sys.exit(main())
