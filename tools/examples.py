"""Write the sound examples of docs/given-notes.md: melodies, scores, and what is made of them.

examples:
  python3 -m tools.examples

The melodies and scores are in the public domain and written here as text: notes such as C#5:1.5
(name, octave, quarter notes), "-" for a rest, "+" between the notes of a chord.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

import generate
from midi.metadata import format_command
from sequence import NoteSeq

FOLDER = Path(__file__).parents[1] / "docs" / "given-notes"
NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"#": 1, "b": -1, "": 0}

# Beethoven, Symphony No. 9
ODE_TO_JOY = """
E5:1 E5:1 F5:1 G5:1 G5:1 F5:1 E5:1 D5:1 C5:1 C5:1 D5:1 E5:1 E5:1.5 D5:.5 D5:2
E5:1 E5:1 F5:1 G5:1 G5:1 F5:1 E5:1 D5:1 C5:1 C5:1 D5:1 E5:1 D5:1.5 C5:.5 C5:2
"""
# traditional, 16th century
GREENSLEEVES = """
A4:1 C5:2 D5:1 E5:1.5 F5:.5 E5:1 D5:2 B4:1 G4:1.5 A4:.5 B4:1 C5:2 A4:1 A4:1.5 G#4:.5 A4:1
B4:2 G#4:1 E4:2 A4:1 C5:2 D5:1 E5:1.5 F5:.5 E5:1 D5:2 B4:1 G4:1.5 A4:.5 B4:1
C5:1.5 B4:.5 A4:1 G#4:1.5 F#4:.5 G#4:1 A4:3
"""
# Brahms, op. 49 No. 4
LULLABY = """
G4:.5 G4:.5 Bb4:2 G4:.5 G4:.5 Bb4:2 G4:.5 Bb4:.5 Eb5:1 D5:1 C5:1 C5:1 Bb4:1
F4:.5 G4:.5 Ab4:1 F4:1 F4:.5 G4:.5 Ab4:2 F4:.5 Ab4:.5 D5:.5 C5:.5 Bb4:1 D5:1 Eb5:2
"""
# Bach, The Well-Tempered Clavier I: the five notes of each half bar of the prelude in C major
PRELUDE = """
C4 E4 G4 C5 E5 | C4 D4 A4 D5 F5 | B3 D4 G4 D5 F5 | C4 E4 G4 C5 E5
C4 E4 A4 E5 A5 | C4 D4 F#4 A4 D5 | B3 D4 G4 D5 G5 | B3 C4 E4 G4 C5 | A3 C4 E4 G4 C5
"""
# Satie, Gymnopedie No. 1: the melody, and the two chords of the left hand
GYMNOPEDIE = """
-:12 -:1 F#5:1 A5:1 G5:1 F#5:1 C#5:1 B4:1 C#5:1 D5:1 A4:3 F#4:9
"""
GYMNOPEDIE_BARS = ("G2:1 B3+D4+F#4:2", "D2:1 A3+C#4+F#4:2")
# Beethoven, Symphony No. 9, with plain chords
ODE_CHORDS = """
C3+G3:2 C3+G3:2 G2+G3:2 G2+G3:2 C3+G3:2 C3+G3:2 C3+G3:1.5 G2:.5 G2+F3:2
C3+G3:2 C3+G3:2 G2+G3:2 G2+G3:2 C3+G3:2 C3+G3:2 G2+F3:1.5 C3:.5 C3+E3:2
"""


def parse_pitch(name: str) -> int:
    """Return the MIDI pitch of a name such as C#5; C4 is 60."""
    match = re.fullmatch(r"([A-G])([#b]?)(\d)", name)
    if not match:
        raise ValueError(f"{name!r} is not a note")
    return 12 * (int(match[3]) + 1) + NATURALS[match[1]] + ACCIDENTALS[match[2]]


def parse_tune(text: str, tempo: float, velocity: int = 64) -> NoteSeq:
    """Return the notes of a text; tempo: quarter notes per minute."""
    beat, rows = 60 / tempo, []
    time = 0.0
    for word in text.split():
        names, _, length = word.partition(":")
        end = time + beat * float(length)
        if names != "-":
            rows += [(time, end, parse_pitch(name), velocity) for name in names.split("+")]
        time = end
    return NoteSeq(*np.array(rows).T)


def write_prelude() -> str:
    """Return the prelude as text: each half bar has its five notes and three of them again."""
    words = []
    for bar in re.split(r"[|\n]", PRELUDE.strip()):
        first, second, *upper = bar.split()
        words += 2 * [f"{name}:.25" for name in (first, second, *upper, *upper)]
    return " ".join(words) + " C3+C4+E4+G4+C5:4"


def write_inputs() -> None:
    """Write the melodies and scores."""
    inputs = FOLDER / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    ode = NoteSeq.merge(parse_tune(ODE_TO_JOY, 108), parse_tune(ODE_CHORDS, 108))
    bars = " ".join(GYMNOPEDIE_BARS[k % 2] for k in range(12))
    gymnopedie = NoteSeq.merge(parse_tune(GYMNOPEDIE, 76), parse_tune(bars, 76))
    for name, notes in {
        "ode-to-joy": parse_tune(ODE_TO_JOY, 112, 76),
        "greensleeves": parse_tune(GREENSLEEVES, 120, 70),
        "lullaby": parse_tune(LULLABY, 76, 66),
        "ode-to-joy-score": ode,
        "prelude-score": parse_tune(write_prelude(), 69),
        "gymnopedie-score": gymnopedie,
    }.items():
        notes.to_midi_file(inputs / f"{name}.mid")


INPUTS = "docs/given-notes/inputs"
COMMANDS = {  # the name of each example, and the options that make it
    "keep-1": f"--keep {INPUTS}/ode-to-joy.mid|-c|C major;7/s",
    "keep-2": f"--keep {INPUTS}/greensleeves.mid|-c|A minor;6/s",
    "keep-3": f"--keep {INPUTS}/lullaby.mid|-c|Eb major;5/s",
    "fill-1": "--fill 10-16 docs/sample-1.mid",
    "fill-2": "--fill 40-46 docs/sample-3.mid",
    "fill-3": "--fill 8-14 docs/sample-3.mid",
    "perform-1": f"--perform {INPUTS}/prelude-score.mid",
    "perform-2": f"--perform {INPUTS}/gymnopedie-score.mid",
    "perform-3": f"--perform {INPUTS}/ode-to-joy-score.mid",
    "form-1": "--form|A A B A|--seconds 60|-c|C major;4",
    "form-2": "--form|A(A minor;3) B(F major;5) A|--seconds 45",
    "form-3": "--form|A B A C A|--seconds 75|-c|Eb major;3",
}


def split_options(text: str) -> list[str]:
    """Return the words of options; "|" separates those that have spaces."""
    parts = text.split("|")
    return [word for part in parts for word in (part.split() if part[:2] == "--" else [part])]


def main() -> None:
    """Write inputs, examples and the page that plays them."""
    write_inputs()
    scratch = FOLDER / "scratch"
    for name, text in COMMANDS.items():
        argv = [*split_options(text), "-b", "1", "--seed", "1"]
        print(format_command(argv))
        generate.main([*argv, "-o", str(scratch), "--force"])
        shutil.move(scratch / "output-000.mid", FOLDER / f"{name}.mid")
    shutil.rmtree(scratch)
    print(*generate.write_player(FOLDER), sep="\n")


if __name__ == "__main__":
    main()
