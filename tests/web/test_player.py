"""The page of a folder: what is in it, what it must not let in, and how it plays in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pretty_midi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi.control_schedule import ControlSchedule
from sequence import NoteSeq
from tests import browser
from tools.synthetic_data import write_midi
from web import player as page

C_MAJOR = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1]) / 7
SAID = {
    "session": "a.sess",
    "seed": "7",
    "piece": "2",
    "control": "1,0,1,0,1,1,0,1,0,1,0,1;3",
    "made with": "python3 generate.py -c '1,0,1,0,1,1,0,1,0,1,0,1;3' -b 3 --seed 7",
}


def schedule(times: np.ndarray, density: np.ndarray, histogram: np.ndarray) -> ControlSchedule:
    return ControlSchedule(density, histogram, times)


RISING = schedule(
    np.array([0, 4.0, 8.0]), np.array([1, 3, 9]), np.stack([C_MAJOR, np.eye(12)[7]] * 2)[:3]
)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{DATA}}"


class Parts(HTMLParser):
    """The tags of a page with their attributes, and the words within each kind of tag."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.within: list[str] = []
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.within.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.within:
            self.words.setdefault(self.within[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all tags of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> Any:
        """What the page's script is given."""
        (found,) = (words for words in self.words["script"] if words.startswith("{"))
        return json.loads(found)


def write_piece(
    path: Path, notes: int = 60, seed: int = 0, asked: ControlSchedule | None = RISING
) -> NoteSeq:
    made = NoteSeq.from_midi_file(write_midi(path, notes, seed))
    made.to_midi_file(path, texts=page.to_texts(SAID | {"piece": str(seed)}, asked))
    return made


def page_of(folder: Path) -> Parts:
    (line,) = page.write_page(folder)
    assert line.startswith(str(folder / "index.html"))
    return Parts((folder / "index.html").read_bytes())


# ------------------------------------------------------------------- what a file says of itself


def test_what_a_file_says_comes_back() -> None:
    said, asked = page.from_texts(page.to_texts(SAID, RISING))
    assert said == SAID
    assert asked is not None
    for found, wanted in zip(asked.columns, RISING.columns, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert page.from_texts(page.to_texts({})) == ({}, None)


def test_a_control_of_many_rows_is_thinned_and_one_that_stands_still_is_one_row() -> None:
    steps = 5000
    still = schedule(np.arange(steps), np.full(steps, 3), np.tile(C_MAJOR, (steps, 1)))
    (text,) = page.to_texts({}, still)
    assert len(text) < 120
    moving = schedule(np.arange(steps), np.arange(steps) % 12, np.tile(C_MAJOR, (steps, 1)))
    _, asked = page.from_texts(page.to_texts({}, moving))
    assert asked is not None
    assert len(asked.times) == page.ROWS
    assert (asked.times[0], asked.times[-1]) == (0, steps - 1)
    assert (asked.density == asked.times % 12).all()


def test_texts_by_other_hands_say_nothing_of_a_control() -> None:
    twelve = [1] * 12
    for rows in (
        *(7, [], {}, None, {"times": [0], "density": [3]}),
        {"times": [0], "density": [[3]], "histogram": [twelve]},
        {"times": [0], "density": [12], "histogram": [twelve]},
        {"times": [0], "density": [1.5], "histogram": [twelve]},
        {"times": [float("nan")], "density": [1], "histogram": [twelve]},
        {"times": [0], "density": [float("inf")], "histogram": [twelve]},
        {"times": [0], "density": [1], "histogram": [[1e308] * 12]},
        {"times": [0], "density": [10**400], "histogram": [twelve]},
        {"times": [0], "density": [1], "histogram": twelve},
    ):
        assert page.from_texts([f"asked: {json.dumps(rows)}"]) == ({}, None), rows
    assert page.from_texts(["asked: " + "[" * 99_999, "Copyright: me", "seed", "seed: 4"]) == (
        {"seed": "4"},
        None,
    )


@pytest.mark.parametrize(
    "line",
    [
        *("", "rm -rf ~", "python3 generate.py; rm -rf ~", "python3 generate.py $(reboot)"),
        *("python3 generate.py -s 'a", "python3 generate.py\nreboot", "python3 generate.py > a"),
        *("python3 generate.py # a\nreboot", "python3 other.py", "python3 generate.py `a`"),
        "python3 generate.py  # the last that it writes\nreboot",
    ],
)
def test_a_line_that_would_do_something_else_is_not_shown(line: str) -> None:
    assert page.from_texts([f"made with: {line}"]) == ({}, None)


@given(st.lists(st.text(max_size=20), max_size=5), st.booleans())
def test_a_command_that_makes_a_piece_is_known(argv: list[str], many: bool) -> None:
    assert page.is_command(page.to_command(argv, many))


@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_texts_are_read(texts: list[str]) -> None:
    said, _ = page.from_texts(texts)
    assert set(said) <= set(page.LABELS)


def test_the_figures_compare_what_came_with_what_was_asked_for() -> None:
    asked = schedule(np.array([0, 5]), np.array([0, 1]), np.eye(12)[[0, 7]])
    notes = NoteSeq(np.arange(10.0), np.arange(10) + 0.5, [60] * 8 + [67] * 2, np.arange(40, 50))
    told = page.figures(notes, asked)
    assert told["notes"] == "10"
    assert told["length"] == "9.5 s"
    assert told["velocity"] == "40-49"
    assert told["on asked-for pitch classes"] == "70.0%"  # 5 of the first half, 2 of the second
    assert told["notes in 2 s"].endswith("(asked for 1-6)")
    assert 1.9 < float(told["notes in 2 s"].split()[0]) < 2.1
    every = schedule(np.zeros(1), np.zeros(1), np.full((1, 12), 1 / 12))
    assert "on asked-for pitch classes" not in page.figures(notes, every)
    assert page.figures(NoteSeq(), asked) == {"notes": "0", "length": "0.0 s"}


# --------------------------------------------------------------------------------- the content


def test_the_page_holds_the_notes_the_control_and_the_file_of_each_piece(tmp_path: Path) -> None:
    for number in (999, 1000):
        write_piece(tmp_path / f"output-{number:03d}.mid", seed=number)
    write_midi(tmp_path / "Mine.MID", 30)  # without any text
    found = page_of(tmp_path)
    assert found.words["h2"] == ["output-1000", "output-999", "Mine"]
    assert found.words["pre"] == [SAID["made with"]] * 2
    assert found.words["dd"].count(SAID["control"]) == 2
    assert any("a.sess, seed 7, piece 1000" in words for words in found.words["p"])
    for name, link, data in zip(
        ("output-1000.mid", "output-999.mid", "Mine.MID"),
        found.all("a"),
        found.data["pieces"],
        strict=True,
    ):
        kind, _, content = (link["href"] or "").partition(",")
        assert kind == "data:audio/midi;base64"
        assert base64.b64decode(content) == (tmp_path / name).read_bytes()
        assert (link["download"] or "").lower() == name.lower()
        (piano,) = pretty_midi.PrettyMIDI(str(tmp_path / name)).instruments
        played = sorted((n.start, n.pitch, n.end, n.velocity) for n in piano.notes)
        starts, ends, pitches, velocities = data["notes"]
        shown = sorted(zip(starts, pitches, ends, velocities, strict=True))
        assert [(p, v) for _, p, _, v in shown] == [(p, v) for _, p, _, v in played]
        for column in (0, 2) if "asked" in data else (0,):  # starts, and ends if none overlap
            milliseconds = [1000 * row[column] for row in played]
            np.testing.assert_allclose([row[column] for row in shown], milliseconds, atol=0.6)
        assert ("asked" in data) == name.startswith("output")
    asked = found.data["pieces"][0]["asked"]
    assert asked["times"] == [0, 4, 8]
    assert asked["density"] == [1, 3, 9]
    np.testing.assert_allclose(asked["histogram"], RISING.histogram, atol=2e-3)


def test_nothing_comes_from_outside_and_only_the_pages_own_script_runs(tmp_path: Path) -> None:
    write_piece(tmp_path / "output-000.mid")
    found = page_of(tmp_path)
    content = (tmp_path / "index.html").read_text()
    assert "http" not in content.replace("http-equiv", "")
    assert "//" not in "".join(found.words["style"])
    for tag, attributes in found.tags:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    (policy,) = (m["content"] or "" for m in found.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")
    (script,) = (words for words in found.words["script"] if "use strict" in words)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_hostile_names_and_texts_are_only_text(tmp_path: Path) -> None:
    notes = NoteSeq([0], [1], [60], [64])
    said = dict.fromkeys(page.LABELS, HOSTILE)
    said["made with"] = page.to_command(["-c", HOSTILE])
    notes.to_midi_file(tmp_path / "x.mid", texts=page.to_texts(said))
    name = "<script>alert(1)<\u2028script>\"' onclick='alert(1)' {{DATA}}"
    (tmp_path / "x.mid").rename(tmp_path / f"{name}.mid")
    found = page_of(tmp_path)
    assert [attributes.get("type") for attributes in found.all("script")] == [
        "application/json",
        None,
    ]
    assert not found.all("img")
    assert found.words["h2"] == [name]
    assert "".join(found.words["pre"]) == said["made with"]
    assert "".join(found.words["dd"]).endswith(HOSTILE)
    (article,) = found.all("article")
    assert set(article) == {"data-piece", "aria-label"}
    assert len(found.data["pieces"]) == 1


def test_a_script_can_not_end_within_the_data() -> None:
    assert json.loads(page._json(HOSTILE)) == HOSTILE
    assert "<" not in page._json(HOSTILE)


def test_what_can_not_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    write_piece(tmp_path / "output-000.mid")
    (tmp_path / "output-001.mid").touch()  # taken by a run that is still playing
    (tmp_path / "folder.mid").mkdir()
    (tmp_path / "empty").mkdir()
    first, last = page.write_page(tmp_path)
    assert "output-001.mid" in first
    assert "1 piece, 0:" in last
    assert list(page.write_page(tmp_path / "empty")) == [
        f"{tmp_path / 'empty' / 'index.html'}: 0 pieces, 0:00 of music"
    ]


def test_a_file_of_ones_own_with_the_pages_name_is_kept(tmp_path: Path) -> None:
    page.check_page(tmp_path)
    list(page.write_page(tmp_path))
    page.check_page(tmp_path)
    (tmp_path / "index.html").write_text("<h1>my holidays</h1>")
    with pytest.raises(ValueError, match=r"index\.html .*--force"):
        page.check_page(tmp_path)


# ------------------------------------------------------------------------------- in a browser

needs_browser = pytest.mark.skipif(browser.chromium() is None, reason="no Chromium here")
LISTEN = """(() => {
  const connect = AudioNode.prototype.connect;
  window.loudest = 0;
  AudioNode.prototype.connect = function (to, ...more) {
    if (to instanceof AudioDestinationNode) {
      const ear = this.context.createAnalyser(), heard = new Float32Array(ear.fftSize);
      connect.call(this, ear);
      setInterval(() => {
        ear.getFloatTimeDomainData(heard);
        for (const sample of heard) loudest = Math.max(loudest, Math.abs(sample));
      }, 20);
    }
    return connect.call(this, to, ...more);
  };
})()"""
# an audio context that lasts two seconds, and is done as fast as it can be
RECORD = """window.AudioContext = function () {
  const context = new OfflineAudioContext(2, 2 * 44100, 44100);
  context.resume = async () => {};
  window.recorded = () => context.startRendering().then(
    (sound) => [...sound.getChannelData(0)].map((sample) => Math.round(sample * 32767)));
  return context;
}"""


def attribute(window: browser.Browser, name: str, place: int = 0) -> str:
    return str(window.script(f"document.querySelectorAll('.roll')[{place}].getAttribute('{name}')"))


def position(window: browser.Browser, place: int = 0) -> float:
    """Where the play head of a piece is, in seconds."""
    return float(attribute(window, "aria-valuenow", place))


@needs_browser
@pytest.mark.slow
def test_a_piece_plays_in_a_browser(tmp_path: Path) -> None:
    for number in range(2):
        write_piece(tmp_path / f"output-00{number}.mid", notes=200, seed=number)
    list(page.write_page(tmp_path))
    with browser.opened(tmp_path / "profile", "--window-size=1000,900") as window:
        window.call("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
        window.open(tmp_path / "index.html")
        window.truncate(lambda: window.script("document.querySelector('canvas').width > 500"))
        assert position(window) == 0
        window.click(".play")
        window.truncate(lambda: position(window) > 0.4)
        first, began = position(window), time.monotonic()
        window.truncate(lambda: position(window) > first + 0.8)
        assert 0.5 < time.monotonic() - began < 4, "it goes at about the speed of time"
        window.truncate(lambda: window.script("loudest") > 0.02)
        width = window.script("document.querySelector('.roll').clientWidth")
        seconds = float(attribute(window, "aria-valuemax"))
        window.click(".roll", x=40 + (width - 40) / 2, y=200)
        window.truncate(lambda: position(window) > seconds / 2)
        assert position(window) < seconds / 2 + 3
        window.press("ArrowRight")
        window.truncate(lambda: position(window) > seconds / 2 + 5)
        window.press(" ")
        paused = position(window)
        time.sleep(0.2)
        assert position(window) == paused > 0
        window.click("article:nth-of-type(2) .play")
        window.truncate(lambda: position(window, 1) > 0.2)
        assert window.script("document.querySelectorAll('.play')[1].textContent") == "Pause"
        window.click(".play")
        window.truncate(lambda: position(window) > paused)
        stood = position(window, 1)
        window.click(".stop")
        assert position(window) == 0
        assert position(window, 1) == stood, "the other one stopped when this one played"
        assert window.complaints() == []


@needs_browser
@pytest.mark.slow
def test_the_browsers_piano_sounds_at_the_pitch_and_time_of_the_note(tmp_path: Path) -> None:
    NoteSeq([0.0, 0.5], [0.1, 1.5], [100, 58], [1, 90]).to_midi_file(tmp_path / "a.mid")
    list(page.write_page(tmp_path))
    with browser.opened(tmp_path / "profile") as window:
        window.call("Page.addScriptToEvaluateOnNewDocument", source=RECORD)
        window.open(tmp_path / "index.html")
        window.click(".play")
        window.truncate(
            lambda: window.script("document.querySelector('.play').textContent") == "Pause"
        )
        sound = np.array(window.script("recorded()"), float)
        assert window.complaints() == []
    assert 1000 < np.abs(sound).max() < 32767
    begins = (np.abs(sound) > 0.1 * np.abs(sound).max()).argmax() / 44100
    assert begins == pytest.approx(0.62, abs=0.03)  # it starts 0.12 s after the click
    note = sound[int(0.7 * 44100) : int(1.5 * 44100)]
    strengths = np.abs(np.fft.rfft(note * np.hanning(len(note))))
    hertz = np.arange(len(strengths)) * 44100 / len(note)
    for low, high, partial in ((150, 350, 233.1), (350, 580, 466.2)):  # equally loud, nearly
        within = np.where((hertz > low) & (hertz < high), strengths, 0)
        assert hertz[within.argmax()] == pytest.approx(partial, abs=3)
        assert within.max() > 0.3 * strengths.max()
    assert np.abs(sound[int(1.95 * 44100) :]).max() < 0.1 * np.abs(sound).max(), "it is let go"


@needs_browser
@pytest.mark.slow
def test_two_hundred_pieces_are_drawn_where_they_are_looked_at(tmp_path: Path) -> None:
    write_piece(tmp_path / "output-000.mid", notes=400)
    content = (tmp_path / "output-000.mid").read_bytes()
    for number in range(1, 200):
        (tmp_path / f"output-{number:03d}.mid").write_bytes(content)
    list(page.write_page(tmp_path))
    drawn = (
        "[...document.querySelectorAll('canvas')]"
        ".map((canvas, number) => canvas.width ? number : -1).filter((number) => number >= 0)"
    )
    with browser.opened(tmp_path / "profile", "--window-size=390,800") as window:
        window.open(tmp_path / "index.html")
        window.truncate(lambda: 0 in window.script(drawn))
        assert len(window.script(drawn)) < 8
        window.script("document.querySelectorAll('article')[199].scrollIntoView()")
        window.truncate(lambda: 199 in window.script(drawn) and 0 not in window.script(drawn))
        assert len(window.script(drawn)) < 8
        sizes = window.script("[document.documentElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1], "nothing sticks out at the side"
        assert window.complaints() == []
