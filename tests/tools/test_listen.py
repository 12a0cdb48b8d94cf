"""The listening test: what is on the page, what votes say, and the page in a browser."""

import json
from pathlib import Path

import numpy as np
import pytest

from sequence import NoteSeq
from tests.browser import needs_browser, open_browser
from tools import listen


def write_piece(path: Path, pitch: int, velocity: int = 64) -> None:
    starts = np.arange(60) * 0.5
    path.parent.mkdir(exist_ok=True)
    count = len(starts)
    NoteSeq(starts, starts + 0.4, np.full(count, pitch), np.full(count, velocity)).to_midi_file(
        path
    )


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two folders: the notes of one have pitch 60, those of the other 72 and twice the velocity."""
    write_piece(tmp_path / "old" / "a.mid", 60, 40)
    write_piece(tmp_path / "new" / "b.mid", 72, 80)
    return [tmp_path / "old", tmp_path / "new"]


def read_data(page: bytes) -> dict:
    text = page.decode().split('<script type="application/json" id="data">')[1]
    return json.loads(text.split("</script>")[0])


def test_the_key_tells_which_excerpt_is_which(folders: list[Path]) -> None:
    page, key = listen.build_test(folders, 6, 10.0, seed=1)
    trials = read_data(page)["trials"]
    for trial, order in zip(trials, key["orders"], strict=True):
        pitches = [excerpt["notes"][0][2] for excerpt in trial]
        assert pitches == [(60, 72)[folder] for folder in order]
    assert {tuple(order) for order in key["orders"]} == {(0, 1), (1, 0)}


def test_the_page_has_no_names(folders: list[Path]) -> None:
    page, _ = listen.build_test(folders, 2, 10.0, seed=1)
    for name in ("old", "new", "a.mid", "b.mid"):
        assert f"{name}/" not in page.decode()
        assert f'"{name}"' not in page.decode()


def test_excerpts_are_of_one_length_and_loudness(folders: list[Path]) -> None:
    page, _ = listen.build_test(folders, 3, 10.0, seed=2)
    for trial in read_data(page)["trials"]:
        loudness = []
        for excerpt in trial:
            rows = np.array(excerpt["notes"])
            assert rows[:, 1].max() <= 10_000
            loudness.append(excerpt["gain"] * (rows[0, 3] / 127) ** 1.5)
        assert loudness[0] == pytest.approx(loudness[1], rel=0.05)


def test_too_short_files_are_an_error(folders: list[Path]) -> None:
    with pytest.raises(ValueError, match="no MIDI file of 100 s"):
        listen.build_test(folders, 2, 100.0, seed=1)


def test_wilson_interval() -> None:
    """Newcombe (1998, Two-sided confidence intervals for the single proportion), Table I."""
    assert listen.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert listen.wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)


KEY = {"test": "1", "folders": ["old", "new"], "orders": [[0, 1], [1, 0], [1, 0]]}


def test_votes_are_counted_for_the_folders() -> None:
    """Two trials prefer new, in one of them at the second place; the third has one rating only."""
    ratings = {"0-0": 2, "0-1": 5, "1-0": 4, "1-1": 1, "2-0": 3}
    lines = list(listen.count_votes(KEY, [{"test": "1", "ratings": ratings}]))
    assert lines[0] == "1 listeners, 2 rated trials"
    assert lines[1:3] == ["old: mean rating 1.50", "new: mean rating 4.50"]
    assert lines[3].startswith("old preferred to new: 0% (95% interval 0% to 66%")


def test_votes_of_another_test_are_an_error() -> None:
    with pytest.raises(ValueError, match="another test"):
        list(listen.count_votes(KEY, [{"test": "2", "ratings": {}}]))


@pytest.mark.slow
@needs_browser
def test_the_page_plays_and_keeps_ratings(folders: list[Path], tmp_path: Path) -> None:
    page, _ = listen.build_test(folders, 2, 10.0, seed=1)
    path = tmp_path / "test.html"
    path.write_bytes(page)
    with open_browser(tmp_path / "profile") as browser:
        browser.open(path)
        label = "document.querySelector('button[data-trial]').textContent"
        browser.click("button[data-trial]")
        browser.wait_for(lambda: browser.evaluate(label) == "Stop")
        browser.click("button[data-trial]")
        assert browser.evaluate(label) == "Play 1"
        for name in ("0-0", "0-1"):
            browser.click(f"input[name='{name}'][value='4']")
        progress = "document.getElementById('progress').textContent"
        assert browser.evaluate(progress) == "1 of 2 trials rated"
        browser.open(path)
        assert browser.evaluate(progress) == "1 of 2 trials rated"
        assert browser.find_problems() == []
