"""Words for events, and the prediction of a network."""

from pathlib import Path

import pytest
import torch

from model import PerformanceRNN, Session
from sequence import CURRENT
from tools import explain
from tools.synthetic_data import TINY_SIZES


@pytest.mark.parametrize(
    ("event", "words"),
    [(39, "play C4"), (127, "release C4"), (176, "velocity 3"), (208, "wait 15 ms")],
)
def test_words_of_events(event: int, words: str) -> None:
    assert explain.describe_event(event, CURRENT)[1] == words


def test_notes_end_with_the_velocity_of_the_next() -> None:
    events = explain.encode_notes([60, 64], 0.3, 64, CURRENT)
    words = [explain.describe_event(event, CURRENT)[1] for event in events]
    assert words[:2] == ["velocity 63", "play C4"]
    assert words[-1] == "velocity 55"
    assert words.count("release E4") == 1


def test_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    Session(TINY_SIZES, PerformanceRNN(TINY_SIZES).state_dict(), 2).save(tmp_path / "a.sess")
    explain.main(["-s", str(tmp_path / "a.sess"), "-o", str(tmp_path / "a.png")])
    lines = capsys.readouterr().out.splitlines()
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[1:-1]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
