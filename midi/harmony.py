"""Names of scales and chords: the pitch classes that they have, and their weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midi.control_schedule import PITCH_CLASSES
from utils import Array, quote

NATURALS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}
# semitones above the root; a name follows the note name, with or without a space
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "natural minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 9, 11),
    "hungarian minor": (0, 2, 3, 6, 7, 8, 11),
    "harmonic major": (0, 2, 4, 5, 7, 8, 11),
    "double harmonic": (0, 1, 4, 5, 7, 8, 11),
    "ionian": (0, 2, 4, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "phrygian dominant": (0, 1, 4, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "lydian dominant": (0, 2, 4, 6, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "aeolian": (0, 2, 3, 5, 7, 8, 10),
    "locrian": (0, 1, 3, 5, 6, 8, 10),
    "altered": (0, 1, 3, 4, 6, 8, 10),
    "pentatonic": (0, 2, 4, 7, 9),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
    "minor blues": (0, 3, 5, 6, 7, 10),
    "major blues": (0, 2, 3, 4, 7, 9),
    "whole tone": (0, 2, 4, 6, 8, 10),
    "octatonic": (0, 2, 3, 5, 6, 8, 9, 11),
    "chromatic": tuple(range(12)),
}
CHORDS = {
    "maj": (0, 4, 7),
    "m": (0, 3, 7),
    "5": (0, 7),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "6/9": (0, 2, 4, 7, 9),
    "m6/9": (0, 2, 3, 7, 9),
    "add9": (0, 2, 4, 7),
    "madd9": (0, 2, 3, 7),
    "7": (0, 4, 7, 10),
    "maj7": (0, 4, 7, 11),
    "m7": (0, 3, 7, 10),
    "mmaj7": (0, 3, 7, 11),
    "7b5": (0, 4, 6, 10),
    "7#5": (0, 4, 8, 10),
    "7b9": (0, 1, 4, 7, 10),
    "7#9": (0, 3, 4, 7, 10),
    "7sus4": (0, 5, 7, 10),
    "9": (0, 2, 4, 7, 10),
    "maj9": (0, 2, 4, 7, 11),
    "m9": (0, 2, 3, 7, 10),
    "9sus4": (0, 2, 5, 7, 10),
    "11": (0, 2, 4, 5, 7, 10),
    "m11": (0, 2, 3, 5, 7, 10),
    "13": (0, 2, 4, 7, 9, 10),
    "maj13": (0, 2, 4, 7, 9, 11),
    "m13": (0, 2, 3, 7, 9, 10),
    "dim": (0, 3, 6),
    "dim7": (0, 3, 6, 9),
    "m7b5": (0, 3, 6, 10),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
}
ALIASES = {"": "maj", "sus": "sus4", "7sus": "7sus4", "+": "aug", "aug7": "7#5", "69": "6/9"}
# signs of lead sheets, at the beginning of a kind of chord
SIGNS = {"-": "m", "Δ": "maj", "°": "dim", "ø": "m7b5", "(": ""}
ALL_NAMES = SCALES | CHORDS
MAX_NAME_WORDS = max(name.count(" ") for name in SCALES) + 1
ROOT_WEIGHT, FIFTH_WEIGHT = 2.0, 1.5  # the other notes have weight 1


def _find_kind(text: str) -> str | None:
    """Return the name in the tables of a scale or chord, such as "Whole Tone" or "min7"."""
    text = SIGNS.get(text[:1], text[:1]) + re.sub(r"[()]", "", text[1:])
    if re.match("M(?![A-Za-z])", text):  # M is major, m is minor
        text = "maj" + text[1:]
    text = re.sub("^min(?!or)", "m", text.lower())
    text = ALIASES.get(text, text)
    return text if text in ALL_NAMES else None


def _split_root(word: str) -> tuple[int, str] | None:
    """Return the pitch class of the note name that begins a word, and the rest of the word."""
    natural = NATURALS.get(word[:1].upper())
    if natural is None:
        return None
    accidental = word[1:2] if word[1:2] in ACCIDENTALS else ""
    return (natural + ACCIDENTALS[accidental]) % PITCH_CLASSES, word[1 + len(accidental) :]


@dataclass(frozen=True, eq=False)
class Harmony:
    """A scale or chord: its name, the 12 weights from C on, and whether it is a scale."""

    name: str
    weights: Array
    is_scale: bool


def _find_harmony(words: Sequence[str]) -> tuple[Harmony, int] | None:
    """Return the scale or chord at the beginning of a list of words, and the number of its words.

    The longest name counts: "C" is a chord, but with "major" after it, it is a scale.
    """
    root = _split_root(words[0])
    if root is None:
        return None
    for count in range(min(len(words), MAX_NAME_WORDS + 1), 0, -1):
        text = " ".join([root[1], *words[1:count]]).strip()
        kind, bass = _find_kind(text), None
        if kind is None and "/" in text:  # a slash chord, such as C/G
            chord, _, note = text.rpartition("/")
            kind, bass = _find_kind(chord.strip()), _split_root(note.strip())
            if kind in SCALES or bass is None or bass[1]:
                continue
        if kind is None:
            continue
        weights = np.zeros(PITCH_CLASSES)
        weights[list(ALL_NAMES[kind])] = 1
        weights[0] = ROOT_WEIGHT  # so C major differs from A minor, which has the same notes
        weights[7] *= FIFTH_WEIGHT
        weights = np.roll(weights, root[0])
        if bass is not None:
            weights[bass[0]] = ROOT_WEIGHT
        return Harmony(" ".join(words[:count]), weights, kind in SCALES), count
    return None


def parse_harmonies(words: Sequence[str]) -> list[Harmony]:
    """Return the scales and chords in a list of words.

    The root has weight 2, the fifth 1.5, the other notes of the scale or chord 1; the bass of a
    slash chord has weight 2. Raises ValueError that names the wrong word.
    """
    harmonies: list[Harmony] = []
    start = 0
    while start < len(words):
        found = _find_harmony(words[start:])
        if found is None:
            raise ValueError(_explain(words[start:], harmonies[-1].name if harmonies else ""))
        harmonies.append(found[0])
        start += found[1]
    return harmonies


def _explain(words: Sequence[str], previous: str) -> str:
    """Return an error message about words that do not begin with a scale or chord.

    previous: the name before them, or "".
    """
    word, root = words[0], _split_root(words[0])
    if root is None and not previous:
        return f"{quote(' '.join(words))} does not begin with a note name, such as C, F# or Bb"
    if root is None or (previous and word.islower()):  # the word belongs to the name before it
        kind, where = word, f"{previous} {word}"
    else:
        kind, where = root[1], word
    is_scale = kind.isalpha() and len(kind) > 3
    names = f"scales: {', '.join(SCALES)}" if is_scale else f"chords: {', '.join(CHORDS)}"
    return f"unknown scale or chord {quote(kind)} in {quote(where)}, use one of these {names}"


def parse_scale_or_chord(text: str) -> Array:
    """Return the weights of one scale or chord, such as 'C major', 'F# dim', 'Bb7' or 'C/G'.

    Raises ValueError for an unknown name, or for several names.
    """
    harmonies = parse_harmonies(text.split())
    if len(harmonies) != 1:
        raise ValueError(f"{quote(text)} is not one scale or chord")
    return harmonies[0].weights
