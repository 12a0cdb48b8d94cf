"""Let a session play: MIDI files, and if you like pictures and audio of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import progress.bar
import torch

import config
import page
import render
import utils
from config import GenerateConfig
from data import SUFFIX, Performance
from model import PerformanceRNN, Session, pick_device
from player import Player, sources
from sequence import CURRENT, ENCODINGS, Control, ControlSeq, Encoding, EventSeq, NoteSeq

Controls = npt.NDArray[np.float32]

LENGTH = 1500  # events; about a minute
RELEASE = 10.0  # seconds after which a key is let go that the network forgot to let go
BESIDES = ("png", "wav", "soundfont", "html", "force")  # options that change no note
EXAMPLE = "1,0,1,0,1,1,0,1,0,1,0,1;3"


def read_control(text: str, seed: int, encoding: Encoding = CURRENT) -> tuple[Controls, bool]:
    """Controls [1 or events, 24] of what -c says, and whether they are of a file.

    text: 'p0,...,p11;density', ';density', the path of a .data file, or of a folder, from
    which `seed` chooses one. Raises ValueError, with an example, for anything else.
    """
    path = Path(text)
    if os.path.isdir(text):
        found = list(utils.find_files(path, (SUFFIX,)))
        if not found:
            raise ValueError(f"no {SUFFIX} files in the folder {text!r}")
        path = found[int(np.random.default_rng(seed).integers(len(found)))]
    if os.path.isfile(path):
        return _control_of_file(path, encoding), True
    try:
        return _written_control(text).to_array()[None], False
    except ValueError as error:
        raise ValueError(
            f"{error}; it is 12 weights from C and a density 0-11, such as '{EXAMPLE}', or only "
            "';3', or the path of a .data file or a folder"
        ) from error


def _control_of_file(path: Path, encoding: Encoding) -> Controls:
    performance = Performance.load(path)
    try:
        controls = performance.controls_in(encoding)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not len(controls):
        raise ValueError(f"{path}: it has no notes, and so no control")
    return controls


def _written_control(text: str) -> Control:
    histogram, semicolon, density = text.partition(";")
    if not semicolon:
        raise ValueError(f"{text!r} is no file, and has no ';' before a density")
    if not re.fullmatch(r"\s*\d+\s*", density):
        raise ValueError(f"the density {density!r} in {text!r} is not a whole number")
    weights = [_weight(part, text) for part in histogram.split(",")] if histogram.strip() else None
    return Control([0.0] * 12 if weights is None else weights, int(density))


def _weight(part: str, text: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise ValueError(f"{part!r} in {text!r} is not a number") from None


def compose(
    model: PerformanceRNN, options: GenerateConfig, seed: int, controls: Controls | None, steps: int
) -> torch.Tensor:
    """Event indices int64 [steps, batch]."""
    dice = sources(seed, options.batch_size)
    width = model.config.init_dim
    init = torch.stack([torch.randn(width, generator=source) for source in dice])
    init = (torch.zeros_like(init) if options.init_zero else init).to(model.device)
    control = None if controls is None else torch.from_numpy(controls).to(model.device)[:, None]
    if control is not None:
        control = control.expand(-1, options.batch_size, -1)
    playable = None if options.free else EventSeq.playable()
    player = Player(model, options.exact)
    if options.beam_size:
        return player.beam_search(
            init,
            steps,
            control,
            dice,
            beam_size=options.beam_size,
            stochastic=options.stochastic_beam_search,
            temperature=options.temperature,
            playable=playable,
        )
    said = player.generate(
        init,
        steps,
        control,
        dice,
        temperature=options.temperature,
        greedy_ratio=options.greedy_ratio,
        playable=playable,
    )
    return torch.stack(list(_counted(said, steps)))


def _counted(said: Iterator[torch.Tensor], steps: int) -> Iterator[torch.Tensor]:
    bar = progress.bar.Bar("playing", max=steps, suffix="%(index)d/%(max)d events  %(eta_td)s")
    for number, events in enumerate(said):
        if number % 50 == 0:
            bar.goto(number)
        yield events
    bar.goto(steps)
    bar.finish()


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


def said_of(options: GenerateConfig, seed: int, piece: int) -> dict[str, str]:
    """What a piece's file says of it; with that it can be made again."""
    plain = GenerateConfig()
    kept = {name: getattr(plain, name) for name in ("output_dir", *BESIDES)}
    line = config.to_argv(replace(options, seed=seed, batch_size=piece + 1, **kept))
    return {
        "session": Path(options.session).name,
        "seed": str(seed),
        "piece": str(piece),
        "control": options.control or "none",
        "made with": page.to_command(line, many=piece > 0),
    }


def asked_for(controls: Controls | None, events: EventSeq) -> render.Asked | None:
    """What a piece was asked for, from the time of its first note on, as it is written."""
    if controls is None:
        return None
    first = np.argmax(events.to_array() < EventSeq.feat_ranges()["note_off"].start)
    seconds = (events.times - events.times[first]) / events.encoding.per_second
    # in encoding 1 sums of seconds may step back by their rounding
    rising = np.maximum.accumulate(np.maximum(seconds, 0))
    times = rising if len(controls) > 1 else np.zeros(1)
    density, histogram = (
        controls[: len(times), part] for part in ControlSeq.feat_ranges().values()
    )
    return render.Asked(times, density.argmax(axis=1), histogram)


def write(
    path: Path,
    notes: NoteSeq,
    options: GenerateConfig,
    said: dict[str, str],
    asked: render.Asked | None = None,
) -> str:
    """Write one piece, and what else was asked for; the line that tells of it."""
    notes.to_midi_file(path, texts=page.to_texts(said, asked))
    if options.png:
        title = f"{path.stem}   {page.title_of(said)}"
        told = page.figures(notes, asked)
        picture = render.piano_roll(*notes.columns, title, asked, told, [said["made with"]])
        utils.atomic_write(path.with_suffix(".png"), picture, durable=False)
    if options.wav:
        render.render_audio(path, path.with_suffix(".wav"), options.soundfont)
    return f"{path}: {len(notes)} notes, {notes.seconds:.1f} s"


def open_session(options: GenerateConfig) -> tuple[PerformanceRNN, Encoding]:
    """The network of the session, ready to play, and its encoding; ValueError if not known."""
    session = Session.load(options.session)
    widths = (session.config.event_dim, session.config.control_dim)
    if session.encoding not in ENCODINGS or widths != (EventSeq.dim(), ControlSeq.dim()):
        raise ValueError(
            f"{options.session}: made for encoding {session.encoding} with widths {widths}, "
            f"not one of {list(ENCODINGS)} with {(EventSeq.dim(), ControlSeq.dim())}"
        )
    model = session.model(pick_device(options.device)).eval()
    return model, ENCODINGS[session.encoding]


def generate(options: GenerateConfig) -> Iterator[str]:
    """Play and write all pieces, telling a line at a time."""
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    model, encoding = open_session(options)
    controls, from_file = _controls(options, seed, encoding)
    steps = LENGTH if options.max_length is None else options.max_length
    if controls is not None and from_file and not options.max_length:
        steps = len(controls)
    folder = Path(options.output_dir)
    utils.check_writable(folder)
    if options.png:
        utils.optional("matplotlib", "--png")  # better missed now than after playing
    if options.wav:
        utils.optional("midirenderer", "--wav")
        render.soundfont_path(options.soundfont)
    if options.html and not options.force:
        page.check_page(folder)
    yield f"{_manner(options)}, seed {seed}, {options.session} on {model.device}"
    if controls is not None and 1 < len(controls) < steps:
        held = controls[-1:].repeat(steps - len(controls), axis=0)  # the last control is held
        controls = np.concatenate([controls, held])
    events = compose(model, options, seed, controls, steps).cpu().numpy()
    paths = over_paths(folder) if options.force else free_paths(folder)
    for piece, path in zip(range(options.batch_size), paths, strict=False):
        played = EventSeq.from_array(events[:, piece], encoding)
        notes = played.to_note_seq().trimmed().released(RELEASE)
        asked = asked_for(controls, played)
        yield write(path, notes, options, said_of(options, seed, piece), asked)
    if options.html:
        yield from page.write_page(folder)


def _controls(
    options: GenerateConfig, seed: int, encoding: Encoding
) -> tuple[Controls | None, bool]:
    if options.control is None:
        return None, False
    return read_control(options.control, seed, encoding)


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
    parser = config.Parser(prog="generate.py", description=__doc__)
    options = config.parse(parser, GenerateConfig, argv)
    from_file = options.control is not None and os.path.exists(options.control)
    try:
        pick_device(options.device)
        if options.soundfont is not None and not options.wav:
            raise ValueError("argument --soundfont: it is for --wav")
        if options.max_length == 0 and not from_file:
            raise ValueError("argument -l/--max-length: 0 needs a control file, for its length")
    except ValueError as error:
        parser.error(str(error))
    try:
        if not from_file:
            _controls(options, 0, CURRENT)
    except ValueError as error:
        parser.error(f"argument -c/--control: {error}")
    return options


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
