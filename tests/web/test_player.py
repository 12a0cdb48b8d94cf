"""The player page: content, escaping, and playback in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pretty_midi
import pytest

import utils
from midi.control_schedule import ControlSchedule
from midi.metadata import LABELS, encode_metadata, format_command, is_command
from sequence import NoteSeq
from tests.browser import Browser, needs_browser, open_browser
from tests.web.parsed_page import ParsedPage
from tools.docs import PLAYER_HEADING, PLAYER_PAGE, load_samples
from tools.synthetic_data import write_midi
from web.player import check_player_path, render_player, write_player

C_MAJOR = np.array([1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1]) / 7
REQUESTED = ControlSchedule(
    np.array([1, 3, 9]), np.stack([C_MAJOR, np.eye(12)[7], C_MAJOR]), np.array([0, 4.0, 8.0])
)
METADATA = {
    "session": "a.sess",
    "seed": "7",
    "control": "C major;3",
    "made with": "python3 generate.py -c 'C major;3' -b 3 --seed 7",
}


def write_sample(path: Path, notes: int = 60, seed: int = 0) -> None:
    """Write a MIDI file as generate.py does; `seed` is its number too."""
    texts = encode_metadata(METADATA | {"piece": str(seed)}, REQUESTED)
    NoteSeq.from_midi_file(write_midi(path, notes, seed)).to_midi_file(path, texts=texts)


def read_data(page: ParsedPage) -> list[Any]:
    """Return what the page passes to its script for each sample."""
    return list(json.loads(page.texts["script"][0])["samples"])


def write_and_parse(folder: Path) -> ParsedPage:
    list(write_player(folder))
    return ParsedPage((folder / "index.html").read_bytes())


# --------------------------------------------------------------------------------- content


def test_samples_are_listed_with_metadata(tmp_path: Path) -> None:
    for number in (999, 1000):
        write_sample(tmp_path / f"output-{number:03d}.mid", seed=number)
    write_midi(tmp_path / "Mine.MID", 30)  # without text events
    page = write_and_parse(tmp_path)
    assert page.texts["h2"] == ["output-1000", "output-999", "Mine"]
    assert page.texts["pre"] == [METADATA["made with"]] * 2
    assert page.texts["dd"].count(METADATA["control"]) == 2
    assert "a.sess, seed 7, sample 1000" in page.texts["p"]
    assert ["requested" in sample for sample in read_data(page)] == [True, True, False]
    assert max(read_data(page)[0]["generated"]) > 2.5  # notes/s
    requested = read_data(page)[0]["requested"]
    assert requested["times"] == [0, 4, 8]
    assert (requested["low"], requested["high"]) == ([2, 5, 14], [3, 6, 15])
    np.testing.assert_allclose(requested["histogram"], 1000 * REQUESTED.histogram, atol=2)
    assert requested["curves"] == []


def test_other_controls_are_curves(tmp_path: Path) -> None:
    requested = replace(REQUESTED, scalars={"loudness": np.array([40, np.nan, 90])})
    texts = encode_metadata(METADATA, requested)
    notes = NoteSeq([0, 9], [1, 10], [60, 64], [64, 64])
    notes.to_midi_file(tmp_path / "a.mid", texts=texts)
    (sample,) = read_data(write_and_parse(tmp_path))
    assert sample["requested"]["curves"] == [["loudness 40-90", [0, None, 1]]]


def test_page_holds_notes_and_file(tmp_path: Path) -> None:
    write_sample(tmp_path / "a.mid")
    page = write_and_parse(tmp_path)
    (link,) = page.find("a")
    kind, _, content = (link["href"] or "").partition(",")
    assert kind == "data:audio/midi;base64"
    assert base64.b64decode(content) == (tmp_path / "a.mid").read_bytes()
    assert link["download"] == "a.mid"
    (piano,) = pretty_midi.PrettyMIDI(str(tmp_path / "a.mid")).instruments
    expected = sorted((n.start, n.pitch, n.end, n.velocity) for n in piano.notes)
    starts, ends, pitches, velocities = read_data(page)[0]["notes"]
    notes = sorted(zip(starts, pitches, ends, velocities, strict=True))
    milliseconds = np.array(expected) * (1000, 1, 1000, 1)
    np.testing.assert_allclose(notes, milliseconds, atol=0.6)


def test_given_notes_are_marked_and_not_counted(tmp_path: Path) -> None:
    notes = NoteSeq([0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [60, 61, 62, 63, 64], [9, 9, 64, 64, 64])
    is_given = np.array([True, True, False, False, False])
    notes.to_midi_file(tmp_path / "a.mid", texts=encode_metadata(METADATA, None, is_given))
    page = write_and_parse(tmp_path)
    assert read_data(page)[0]["given"] == [1, 1, 0, 0, 0]
    summary = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert (summary["notes"], summary["given notes"]) == ("3", "2")
    assert (summary["length"], summary["velocity"]) == ("3.0 s", "64-64")  # after the primer
    assert "given notes, soft to loud" in page.texts["span"]


def test_messages_name_unreadable_files(tmp_path: Path) -> None:
    write_sample(tmp_path / "output-000.mid")
    (tmp_path / "output-001.mid").touch()  # empty, as while another run generates it
    (tmp_path / "folder.mid").mkdir()
    error, summary = write_player(tmp_path)
    assert "output-001.mid" in error
    assert summary.startswith(f"{tmp_path / 'index.html'}: 1 sample, 0:")


def test_only_own_index_is_overwritten(tmp_path: Path) -> None:
    check_player_path(tmp_path)
    assert list(write_player(tmp_path)) == [f"{tmp_path / 'index.html'}: 0 samples, 0:00 of music"]
    check_player_path(tmp_path)
    (tmp_path / "index.html").write_text("<h1>my holidays</h1>")
    with pytest.raises(ValueError, match=r"index\.html: .*--force"):
        check_player_path(tmp_path)


def test_published_page_is_current() -> None:
    samples = load_samples()
    assert len(samples) == 5
    expected = render_player(samples, PLAYER_HEADING)
    assert PLAYER_PAGE.read_bytes() == expected, "run python3 -m tools.docs samples"


# -------------------------------------------------------------------------------- security


def test_only_own_script_runs_and_nothing_is_fetched(tmp_path: Path) -> None:
    write_sample(tmp_path / "output-000.mid")
    page = write_and_parse(tmp_path)
    assert "http" not in (tmp_path / "index.html").read_text().replace("http-equiv", "")
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "data:").startswith("data:")
    assert not any(name.startswith("on") for name in page.attribute_names)
    (policy,) = (tag["content"] or "" for tag in page.find("meta") if "http-equiv" in tag)
    assert policy.startswith("default-src 'none'")
    digest = base64.b64encode(hashlib.sha256(page.texts["script"][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_names_and_texts_are_escaped(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ data }}"
    metadata = dict.fromkeys(LABELS, hostile) | {"made with": format_command(["-c", hostile])}
    name = "<script>alert(1)<\u2028script>\"' onclick='alert(1)' {{ data }}"
    NoteSeq([0], [1], [60], [64]).to_midi_file(tmp_path / "x.mid", texts=encode_metadata(metadata))
    (tmp_path / "x.mid").rename(tmp_path / f"{name}.mid")
    page = write_and_parse(tmp_path)
    assert [tag.get("type") for tag in page.find("script")] == ["application/json", None]
    assert not page.find("img")
    assert page.texts["h2"] == [utils.escape(name)]
    assert page.texts["pre"] == [metadata["made with"]]
    assert page.texts["dd"][-1] == hostile
    assert [set(tag) for tag in page.find("article")] == [{"aria-label"}]


@pytest.mark.parametrize("character", ["\x1b[201~", "\n", "\r", "\u202e", "\u2066", "\x03"])
def test_unprintable_texts_are_not_offered_to_copy(tmp_path: Path, character: str) -> None:
    assert is_command(format_command(["-c", "C major;3"]))
    command = format_command(["-c", f"C major;3{character} rm -rf x"])
    assert not is_command(command)
    metadata = dict.fromkeys(LABELS, f"a{character}b") | {"made with": command}
    NoteSeq([0], [1], [60], [64]).to_midi_file(tmp_path / "x.mid", texts=encode_metadata(metadata))
    page = write_and_parse(tmp_path)
    assert "pre" not in page.texts
    assert character not in page.texts["dd"][-1]
    assert character not in page.texts["p"][-1]


# ------------------------------------------------------------------------------ in a browser

# records the peak of the audio output in window.peak
MEASURE_PEAK = """(() => {
  const connect = AudioNode.prototype.connect;
  window.peak = 0;
  AudioNode.prototype.connect = function (target, ...more) {
    if (target instanceof AudioDestinationNode) {
      const analyser = this.context.createAnalyser(), data = new Float32Array(analyser.fftSize);
      connect.call(this, analyser);
      setInterval(() => {
        analyser.getFloatTimeDomainData(data);
        for (const sample of data) peak = Math.max(peak, Math.abs(sample));
      }, 20);
    }
    return connect.call(this, target, ...more);
  };
})()"""
# replaces the audio context by one of two seconds that renders as fast as possible
RENDER_OFFLINE = """window.AudioContext = function () {
  const context = new OfflineAudioContext(2, 2 * 44100, 44100);
  context.resume = async () => {};
  window.renderAudio = () => context.startRendering().then(
    (sound) => [...sound.getChannelData(0)].map((sample) => Math.round(sample * 32767)));
  return context;
}"""


def read_position(browser: Browser, index: int = 0) -> float:
    """Return the playback position of a sample in seconds."""
    roll = f"document.querySelectorAll('.roll')[{index}]"
    return float(browser.evaluate(f"{roll}.getAttribute('aria-valuenow')"))


def read_labels(browser: Browser) -> list[str]:
    """Return the texts of the play buttons."""
    texts = "[...document.querySelectorAll('.play')].map((button) => button.textContent)"
    return list(browser.evaluate(texts))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Open the page of two samples in a browser."""
    for number in range(2):
        write_sample(tmp_path / f"output-00{number}.mid", notes=200, seed=number)
    list(write_player(tmp_path))
    with open_browser(tmp_path / "profile") as opened:
        opened.open(tmp_path / "index.html")
        opened.wait_for(lambda: opened.evaluate("document.querySelector('canvas').width > 500"))
        yield opened
        assert opened.find_problems() == []


@needs_browser
@pytest.mark.slow
def test_published_page_plays_in_real_time(tmp_path: Path) -> None:
    with open_browser(tmp_path / "profile") as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=MEASURE_PEAK)
        browser.open(PLAYER_PAGE)
        browser.click(".play")
        browser.wait_for(lambda: read_position(browser) > 0.2)
        position, start = read_position(browser), time.monotonic()
        browser.wait_for(lambda: read_position(browser) > position + 0.5)
        assert 0.3 < time.monotonic() - start < 3
        browser.wait_for(lambda: browser.evaluate("peak") > 0.02)
        assert browser.find_problems() == []


@needs_browser
@pytest.mark.slow
def test_click_and_keys_seek(browser: Browser) -> None:
    width = browser.evaluate("document.querySelector('.roll').clientWidth")
    seconds = float(browser.evaluate("document.querySelector('.roll').ariaValueMax"))
    browser.click(".roll", x=40 + (width - 40) / 2, y=200)
    browser.wait_for(lambda: seconds / 2 < read_position(browser) < seconds / 2 + 3)
    browser.press("ArrowRight")
    browser.wait_for(lambda: read_position(browser) > seconds / 2 + 5)
    browser.press(" ")
    paused = read_position(browser)
    browser.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    assert read_position(browser) == paused
    browser.click(".stop")
    assert read_position(browser) == 0


@needs_browser
@pytest.mark.slow
def test_keys_work_after_a_click_and_do_not_scroll(browser: Browser) -> None:
    browser.click(".play")
    browser.wait_for(lambda: read_position(browser) > 0.1)
    scroll = browser.evaluate("scrollTo(0, 30), scrollY")
    browser.press("ArrowRight")
    browser.wait_for(lambda: read_position(browser) > 5)
    browser.press("ArrowLeft")
    browser.wait_for(lambda: read_position(browser) < 5)
    browser.evaluate("document.activeElement.blur()")
    browser.press(" ")
    browser.wait_for(lambda: read_labels(browser)[0] == "Play")
    browser.press("End")
    end = float(browser.evaluate("document.querySelector('.roll').ariaValueMax"))
    browser.wait_for(lambda: read_position(browser) == end)
    browser.press("Escape")
    browser.wait_for(lambda: read_position(browser) == 0)
    assert browser.evaluate("scrollY") == scroll


@needs_browser
@pytest.mark.slow
def test_play_all_goes_on_with_the_next_sample_and_loop_repeats(browser: Browser) -> None:
    browser.click("#all")
    browser.wait_for(lambda: read_position(browser) > 0.1)
    browser.press("End")
    browser.wait_for(lambda: read_labels(browser) == ["Play", "Pause"])
    browser.click("#loop")
    browser.press("End")
    browser.wait_for(lambda: read_labels(browser) == ["Pause", "Play"])  # from the start again
    browser.click("#all")
    browser.press("End")
    browser.wait_for(lambda: 0.1 < read_position(browser) < 3)
    assert read_labels(browser) == ["Pause", "Play"]


@needs_browser
@pytest.mark.slow
def test_speed_changes_the_time(browser: Browser) -> None:
    browser.evaluate("(speed.value = '2', speed.dispatchEvent(new Event('change')), speed.value)")
    browser.click(".play")
    browser.wait_for(lambda: read_position(browser) > 0.2)
    position, start = read_position(browser), time.monotonic()
    browser.wait_for(lambda: read_position(browser) > position + 4)
    assert 1 < time.monotonic() - start < 3.5


@needs_browser
@pytest.mark.slow
def test_only_one_sample_plays(browser: Browser) -> None:
    browser.click(".play")
    browser.wait_for(lambda: read_position(browser) > 0.1)
    browser.click("article:nth-of-type(2) .play")
    browser.wait_for(lambda: read_position(browser, 1) > 0.1)
    assert read_labels(browser) == ["Play", "Pause"]


@needs_browser
@pytest.mark.slow
def test_piano_has_pitch_and_time_of_note(tmp_path: Path) -> None:
    NoteSeq([0.0, 0.5], [0.1, 1.5], [100, 58], [1, 90]).to_midi_file(tmp_path / "a.mid")
    list(write_player(tmp_path))
    with open_browser(tmp_path / "profile") as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=RENDER_OFFLINE)
        browser.open(tmp_path / "index.html")
        browser.click(".play")
        browser.wait_for(lambda: read_labels(browser) == ["Pause"])
        sound = np.array(browser.evaluate("renderAudio()"), float)
        assert browser.find_problems() == []
    peak = np.abs(sound).max()
    assert 1000 < peak < 32767
    onset = (np.abs(sound) > 0.1 * peak).argmax() / 44100
    assert onset == pytest.approx(0.62, abs=0.03)  # playback starts 0.12 s after the click
    note = sound[int(0.7 * 44100) : int(1.5 * 44100)]
    spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note))))
    frequencies = np.arange(len(spectrum)) * 44100 / len(note)
    for low, high, partial in ((150, 350, 233.1), (350, 580, 466.2)):
        band = np.where((frequencies > low) & (frequencies < high), spectrum, 0)
        assert frequencies[band.argmax()] == pytest.approx(partial, abs=3)
        assert band.max() > 0.3 * spectrum.max()
    assert np.abs(sound[int(1.95 * 44100) :]).max() < 0.1 * peak, "damped after its end"


@needs_browser
@pytest.mark.slow
def test_only_visible_samples_are_drawn(tmp_path: Path) -> None:
    write_sample(tmp_path / "output-000.mid", notes=400)
    content = (tmp_path / "output-000.mid").read_bytes()
    for number in range(1, 200):
        (tmp_path / f"output-{number:03d}.mid").write_bytes(content)
    list(write_player(tmp_path))
    with open_browser(tmp_path / "profile", width=390, height=800) as browser:

        def find_drawn() -> list[int]:
            widths = "[...document.querySelectorAll('canvas')].map((canvas) => canvas.width)"
            return list(np.flatnonzero(browser.evaluate(widths)))

        browser.open(tmp_path / "index.html")
        browser.wait_for(lambda: 0 in find_drawn())
        assert len(find_drawn()) < 8
        browser.evaluate("document.querySelectorAll('article')[199].scrollIntoView()")
        browser.wait_for(lambda: 199 in find_drawn() and 0 not in find_drawn())
        assert len(find_drawn()) < 8
        width, window = browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= window, "nothing overflows at the side"
        assert browser.find_problems() == []
