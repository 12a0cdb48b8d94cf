"""The performer of the live page: music without end, and a player who joins in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sequence import CURRENT, EventSeq
from tests.web.pages import needs_node, run_node_json, write_small_page

pytestmark = needs_node

REACTION = 90  # ms
ROUNDING = 8  # ms, of times as time shifts
SHIFTS = EventSeq.feat_ranges()["time_shift"]
NOTE_ONS, NOTE_OFFS = EventSeq.feat_ranges()["note_on"], EventSeq.feat_ranges()["note_off"]
C_MAJOR = [w / 8 for w in (2, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1)]
CONTROLS = {"request": {"density": 6, "histogram": C_MAJOR}, "temperature": 1, "usesPlan": True}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_page(tmp_path_factory.mktemp("live") / "live.html")


def perform(page: Path, *steps: list[Any]) -> list[dict[str, Any]]:
    """Return what each step changed, after the controls are set."""
    return list(run_node_json("perform.mjs", page, data=[["setControls", 0, CONTROLS], *steps])[1:])


def select(result: dict[str, Any], *kinds: str) -> list[dict[str, Any]]:
    return [message for message in result["messages"] if message["type"] in kinds]


def find_events(result: dict[str, Any], source: str) -> list[tuple[int, float]]:
    """Return the events of a source, with their times."""
    return [(event, start) for event, origin, start, _ in result["records"] if origin == source]


def test_changed_control_cuts_a_long_wait(page: Path) -> None:
    changed = CONTROLS | {"request": {"density": 11, "histogram": C_MAJOR}}
    waiting, near, after, far = perform(
        page,
        ["wait", 1000],
        ["setControls", 800, changed],
        ["wait", 3000],
        ["setControls", 1100, CONTROLS],
    )
    assert waiting["clock"] == near["clock"] == pytest.approx(1000, abs=ROUNDING)
    assert not near["messages"]
    assert after["clock"] == pytest.approx(3000, abs=ROUNDING)
    assert far["clock"] == pytest.approx(1100 + REACTION, abs=ROUNDING)


def test_seed_decides_the_music(page: Path) -> None:
    first, again, other = (
        perform(page, ["reset", seed], ["advance", 0, 3000])[1]["messages"] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first) > 20


def test_music_reaches_the_time_and_keys_alternate(page: Path) -> None:
    results = perform(page, *(["advance", t, t + 300] for t in range(0, 20000, 100)))
    assert all(result["clock"] >= 100 * k + 300 for k, result in enumerate(results))
    times = [m["time"] for result in results for m in select(result, "on")]
    assert times == sorted(times)
    states: dict[int, str] = {}
    for message in (m for result in results for m in result["messages"]):
        assert states.get(message["pitch"], "off") != message["type"]
        states[message["pitch"]] = message["type"]


def test_notes_end_after_five_seconds(page: Path) -> None:
    results = perform(page, *(["advance", t, t + 300] for t in range(0, 40000, 100)))
    start: dict[int, float] = {}
    lengths = []
    for message in (m for result in results for m in result["messages"]):
        if message["type"] == "on":
            start[message["pitch"]] = message["time"]
        else:
            lengths.append(message["time"] - start.pop(message["pitch"]))
    assert 4000 < max(lengths) <= 5000
    assert all(onset > results[-1]["clock"] - 5000 for onset in start.values())


def test_key_enters_at_its_time_and_music_goes_on_after_it(page: Path) -> None:
    before, key, after = perform(
        page, ["advance", 2000, 2300], ["playKey", 2050, 60, 90], ["advance", 2060, 2400]
    )
    (event, velocity_time), (note, time) = find_events(key, "player")
    assert event == EventSeq.feat_ranges()["velocity"].start + 22  # 90 is in the bin of 89-92
    assert note == 60 - 21
    assert abs(time - 2050) <= ROUNDING >= abs(velocity_time - 2050)
    assert [m["time"] for m in select(key, "cancel")] == [2050 + REACTION]
    assert not select(key, "on")
    events = find_events(before, "session")
    kept = [(e, time) for e, time in events if e < SHIFTS.start and 2050 <= time < 2050 + REACTION]
    repeated = [e for e in find_events(key, "session") if e[1] >= 2050 - ROUNDING]
    assert [event for event, _ in repeated] == [event for event, _ in kept]
    assert all(m["time"] >= 2050 + REACTION - ROUNDING for m in select(after, "on"))
    assert after["clock"] >= 2400
    # the times of all events fit together
    clock = after["records"][0][2]
    for event, _, start, end in after["records"]:
        assert start == clock
        clock = end
        assert end - start == EventSeq.event_durations(CURRENT)[event]


def test_notes_that_are_taken_back_are_not_recalled(page: Path) -> None:
    # a passage three times, which the session answers after a pause; the answer is taken back
    steps: list[list[Any]] = [["setMode", 0, "echo"]]
    for number in range(15):
        pitch = (60, 64, 67, 65, 62)[number % 5]
        steps += [["playKey", 100 * number, pitch, 80], ["playKey", 100 * number + 50, pitch, 0]]
    steps += [["advance", 2600, 6000], ["stop", 2600], ["advance", 2700, 5000]]
    results = perform(page, *steps)
    for result in results:
        notes = [event for event, *_ in result["records"] if event in NOTE_ONS]
        assert result["keys"] == notes
        np.testing.assert_allclose(*result["recall"], atol=1e-6)
    played, answer, stopped, _ = results[-4:]
    assert len(answer["keys"]) > len(stopped["keys"]) == 15
    assert stopped["recall"] == played["recall"] != results[0]["recall"]  # the passage


def test_keys_of_the_player_are_not_used(page: Path) -> None:
    pressed = [["playKey", 10 + k, pitch, 80] for k, pitch in enumerate(range(21, 61))]
    results = perform(page, *pressed, *(["advance", t, t + 300] for t in range(100, 8000, 100)))
    played = [m for result in results[40:] for m in select(result, "on")]
    assert len(played) > 20
    assert min(m["pitch"] for m in played) > 60


def test_echo_answers_after_a_pause_and_stops_for_the_player(page: Path) -> None:
    steps = [["setMode", 0, "echo"], ["advance", 500, 800], ["playKey", 1000, 60, 80]]
    steps += [["playKey", 1200, 60, 0], ["advance", 2100, 2400], ["advance", 2210, 2510]]
    steps += [["advance", 4000, 4300], ["playKey", 4100, 64, 80], ["advance", 4200, 4500]]
    _, silent, *_, early, answer, more, stopped, quiet = perform(page, *steps)
    assert not select(silent, "on")
    assert not early["isAnswering"]
    assert not select(early, "on")
    assert answer["isAnswering"]
    assert select(answer, "on") or select(more, "on")
    assert all(m["time"] >= 2210 + REACTION - ROUNDING for m in select(answer, "on"))
    assert not stopped["isAnswering"]
    assert select(stopped, "cancel")[0]["time"] == 4100
    assert not select(quiet, "on")
    sounding = {
        m["pitch"]
        for result in (answer, more, stopped, quiet)
        for m in result["messages"]
        if m["type"] == "on" and m["time"] < 4100
    }
    ended = {m["pitch"] for result in (answer, more, stopped) for m in select(result, "off")}
    assert sounding <= ended


def test_together_follows_pitch_classes_of_the_player(page: Path) -> None:
    early = [0, 5]  # what only the next chord of the control has
    chord = CONTROLS | {"request": {"density": 6, "histogram": C_MAJOR, "early": early}}
    steps = [["setControls", 0, chord], ["setMode", 0, "together"], ["advance", 0, 300]]
    steps += [["playKey", 1000, 61, 80], ["playKey", 1100, 66, 80], ["playKey", 1200, 61, 80]]
    *_, before, _, _, after, forgotten = perform(page, *steps, ["advance", 20000, 20300])
    assert before["request"]["histogram"] == C_MAJOR
    histogram = after["request"]["histogram"]
    assert np.flatnonzero(histogram).tolist() == [1, 6]
    assert sum(histogram) == pytest.approx(1)
    assert histogram[1] == pytest.approx(2 / 3, abs=0.02)
    assert forgotten["request"]["histogram"] == C_MAJOR
    assert not after["request"]["early"]  # the chord is the player's, so nothing is held back
    assert before["request"]["early"] == forgotten["request"]["early"] == early


def test_stop_releases_all_keys(page: Path) -> None:
    *_, advanced, stopped, more = perform(
        page,
        *(["advance", t, t + 300] for t in range(0, 5000, 100)),
        ["stop", 5000],
        ["advance", 5000, 5300],
    )
    held = {event for event, source, *_ in stopped["records"] if event in NOTE_ONS}
    for event, *_ in stopped["records"]:
        if event in NOTE_OFFS:
            held.discard(event - NOTE_OFFS.start)
    assert advanced["clock"] > 5000 > stopped["clock"] - ROUNDING
    assert all(m["time"] >= 5000 - ROUNDING for m in more["messages"])


def test_primer_sounds_at_its_end_only(page: Path) -> None:
    notes = [(60 + k % 12, 300 * k) for k in range(20)]
    events, clock = [], 0
    for pitch, _ in notes:
        events += [pitch - 21, SHIFTS.start + 20, NOTE_OFFS.start + pitch - 21]
        clock += int(EventSeq.event_durations(CURRENT)[SHIFTS.start + 20])
    controls = [{"density": 2, "histogram": C_MAJOR}] * len(events)
    primed, more = perform(page, ["prime", 3, events, controls, clock - 1000], ["advance", 0, 1500])
    assert primed["clock"] == pytest.approx(1000)
    sounding = [m["pitch"] for m in select(primed, "on")]
    assert sounding == [pitch for pitch, _ in notes][-len(sounding) :]
    assert 1 <= len(sounding) < 5
    assert all(m["time"] >= 1000 for m in select(more, "on"))
