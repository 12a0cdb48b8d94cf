"""Coverage-guided fuzzing: python3 -m tools.fuzz midi|tensors SEEDS [options of libFuzzer]

It needs atheris (pip install atheris). `tools.faults fuzz` and `fuzz_tensors` start it. Anything
but a rejection with a message is a finding.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["preprocess", "sequence", "midi", "corpus"]):
    import preprocess
    from corpus.performance import Performance
from model import Session

INPUT = Path(tempfile.mkdtemp()) / "input"


def read_midi_content(content: bytes) -> None:
    """Encode a MIDI file; it may be rejected with a reason."""
    try:
        preprocess.encode(content, "")
    except preprocess.Rejected as rejected:
        if not rejected.reason:
            raise AssertionError("no reason") from rejected


def read_tensors(content: bytes) -> None:
    """Load .data and .sess files; they may be rejected in one line. No code may run."""
    INPUT.write_bytes(content)
    for load in (Performance.load, Session.load):
        try:
            load(INPUT)
        except ValueError as error:
            if not str(error).startswith(f"{INPUT}: ") or "\n" in str(error):
                raise
    if [path.name for path in INPUT.parent.iterdir()] != ["input"]:
        raise AssertionError("code has run")


if __name__ == "__main__":
    target = {"midi": read_midi_content, "tensors": read_tensors}[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()
