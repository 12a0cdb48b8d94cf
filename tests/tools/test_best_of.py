"""The comparison of kept samples with the others."""

from pathlib import Path

import pytest
import torch

from model import PerformanceRNN, Session
from tools import best_of
from tools.synthetic_data import TINY_SIZES, write_midi


def test_kept_and_other_samples_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2).save(tmp_path / "a.sess")
    (tmp_path / "v").mkdir()
    write_midi(tmp_path / "v" / "a.mid", notes=300)
    argv = ["-s", str(tmp_path / "a.sess"), "--validation", str(tmp_path / "v"), "--rounds", "2"]
    best_of.main([*argv, "--samples", "4", "--keep", "1", "--seconds", "5"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seed 0: best 1 of 4 samples")
    rows = [line.split() for line in lines if line.startswith(("| kept  ", "| others  "))]
    assert [row[3] for row in rows] == ["2", "6"]  # samples
    assert any(line.startswith("| pitch class ") for line in lines)
