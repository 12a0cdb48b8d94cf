"""The tools report the user's mistakes in one line, like the three scripts."""

import importlib
from pathlib import Path

import pytest

MISTAKES = {  # a command, and what its message says
    "beats --scores . --performances .": ".: no *_annotations.txt",
    "best_of --validation .": "no performance has 60 s",
    "explain -s missing.sess": "missing.sess: no such session file",
    "given_notes fill -s missing.sess --validation .": "missing.sess: no such session file",
    "wrong_chords -s missing.sess .": "missing.sess: no such session file",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_message(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *argv = command.split()
    assert importlib.import_module(f"tools.{name}").main(argv) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"tools.{name}: error: {MISTAKES[command]}")
    assert error.count("\n") == 1
