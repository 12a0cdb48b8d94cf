"""Fine-tuning on a folder of MIDI files with one command: the other scripts that it runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import utils

ROOT = Path(__file__).parents[1]
PIECES, SECONDS = 3, 60  # to hear the result


def get_data_dir(session: Path) -> Path:
    """Return the folder of the .data files: `mine-data` for `mine.sess`."""
    return session.with_name(f"{session.stem}-data")


def get_music_dir(session: Path) -> Path:
    """Return the folder of the pieces to hear: `mine-music` for `mine.sess`."""
    return session.with_name(f"{session.stem}-music")


def convert_songs(midi_dir: Path, session: Path, quiet: bool) -> None:
    """Convert a folder of MIDI files to .data files beside the session."""
    # without the data of files that are gone, so that a second run fits the folder
    run_script("preprocess.py", [str(midi_dir), str(get_data_dir(session)), "--prune"], quiet)


def generate_pieces(session: Path, best: Path, quiet: bool) -> None:
    """Write pieces to hear, and a page that plays them; best: the session to generate with."""
    folder = str(get_music_dir(session))
    options = ["-s", str(best), "-o", folder, "-b", str(PIECES), "--seconds", str(SECONDS)]
    run_script("generate.py", [*options, "--html"], quiet)


def run_script(name: str, arguments: list[str], quiet: bool) -> None:
    """Print and run a command of this project; raise ValueError if it fails."""
    arguments = [*arguments, "--quiet"] if quiet else arguments
    command = shlex.join(["python3", name, *arguments])
    utils.print_line(f"$ {command}")
    status = subprocess.run([sys.executable, ROOT / name, *arguments]).returncode  # noqa: S603
    if status:
        raise ValueError(f"{command} has failed, see above")
