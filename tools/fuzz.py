"""Fuzzing guided by coverage: python3 -m tools.fuzz midi|tensors SEEDS [options of libFuzzer].

It needs atheris (pip install atheris). `tests.faults fuzz` starts it. Anything but the refusal
that a user would be told is a finding.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["preprocess", "notes", "sequence", "quantise", "encoding", "data", "tensorfile"]
):
    import tensorfile  # noqa: F401 to be instrumented

    import preprocess
    from corpus.performance import Performance
from model import Session

PLACE = Path(tempfile.mkdtemp()) / "hurt"


def midi(content: bytes) -> None:
    """A MIDI file is encoded, or refused with a reason."""
    try:
        preprocess.encode(content, "")
    except preprocess.Refused as refused:
        if not refused.reason:
            raise AssertionError("no reason") from refused


def tensors(content: bytes) -> None:
    """A .data or .sess file is read, or refused in a sentence that names it; nothing is run."""
    PLACE.write_bytes(content)
    for load in (Performance.load, Session.load):
        try:
            load(PLACE)
        except ValueError as error:
            if not str(error).startswith(f"{PLACE}: ") or "\n" in str(error):
                raise
    if [path.name for path in PLACE.parent.iterdir()] != ["hurt"]:
        raise AssertionError("something was run")


if __name__ == "__main__":
    target = {"midi": midi, "tensors": tensors}[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()
