"""The table of controls: measured, packed, encoded, transposed, hidden in training."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import generate
import sequence
import train
from corpus.augment import stretch_events, stretch_excerpt
from corpus.batches import WindowSampler
from corpus.performance import Corpus, Performance, expand_controls
from generation.control import load_control
from generation.control_metrics import compare_sections, evaluate_controls, measure_adherence
from generation.density import ZERO_ERROR, DensityController
from generation.pipeline import build_density_target
from midi.control_schedule import ControlSchedule
from midi.metadata import decode_metadata, encode_metadata, summarize_sample
from midi.notes import read_midi_texts
from midi.pianoroll import draw_piano_roll
from model import PerformanceRNN, Session
from sequence import (
    CONTROLS,
    CURRENT,
    PLAIN_CONTROLS,
    PLAIN_LAYOUT,
    UNKNOWN,
    ControlKind,
    ControlLayout,
    ControlSeq,
    EventSeq,
    NoteSeq,
    encode_schedule,
    transpose,
)
from tests.test_sequence import random_events
from tools.synthetic_data import TINY_MODEL, TINY_SIZES, write_data, write_midi
from training.evaluate import evaluate, list_visible_controls

ALL = ("density", "histogram", "loudness", "register", "spread", "touch")
LAYOUT = ControlLayout(ALL)
SCALARS = ALL[2:]
SHIFTS = [round(1000 * 1.15**k / 65) for k in range(32)]  # milliseconds
OFF, VELOCITY, SHIFT = 88, 176, 208  # first index of each kind of event
CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------ measuring


def list_notes_plainly(events: list[int]) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the time of each event, and index, pitch, velocity and length of each note on."""
    now, velocity, times = 0, 64, []
    notes: list[dict[str, Any]] = []
    sounding: dict[int, dict[str, Any]] = {}
    for index, event in enumerate(events):
        times.append(now)
        if event < VELOCITY and event % OFF in sounding:
            note = sounding.pop(event % OFF)
            note["length"] = max(now - note["start"], 15)
        if event < OFF:
            note = {"index": index, "start": now, "pitch": 21 + event, "velocity": velocity}
            sounding[event] = note
            notes.append(note)
        elif VELOCITY <= event < SHIFT:
            velocity = 4 * (event - VELOCITY) + 3
        elif event >= SHIFT:
            now += SHIFTS[event - SHIFT]
    for note in sounding.values():
        note["length"] = max(now - note["start"], 15)
    return times, notes


def measure_plainly(events: list[int]) -> dict[str, list[float]]:
    """Return the four controls of each event, by a loop over the notes of the next two seconds."""
    times, notes = list_notes_plainly(events)
    end = times[-1] + (SHIFTS[events[-1] - SHIFT] if events[-1] >= SHIFT else 0)
    rows: dict[str, list[float]] = {name: [] for name in SCALARS}
    for index, time in enumerate(times):
        first = index
        if time > end - 2000:
            first = next(j for j, other in enumerate(times) if other >= end - 2000)
        inside = [n for n in notes if n["index"] >= first and n["start"] <= times[first] + 2000]
        count = len(inside)
        if not count:
            for column in rows.values():
                column.append(math.nan)
            continue
        mean = sum(n["pitch"] for n in inside) / count
        variance = sum((n["pitch"] - mean) ** 2 for n in inside) / count
        rows["loudness"].append(sum(n["velocity"] for n in inside) / count)
        rows["register"].append(mean)
        rows["spread"].append(math.sqrt(variance))
        rows["touch"].append(sum(n["length"] for n in inside) / count / 1000)
    return rows


@given(st.lists(st.integers(0, 239), min_size=1, max_size=60))
@example(random_events(0, notes=0.05).tolist())
@example(random_events(1, notes=0.3).tolist())
@example(random_events(2, notes=0.58).tolist())
def test_scalar_controls_match_a_plain_loop(events: list[int]) -> None:
    found = ControlSeq.from_event_seq(EventSeq(events)).scalars
    expected = measure_plainly(events)
    assert tuple(found) == SCALARS
    for name in SCALARS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6, rtol=1e-9)


def test_legacy_performance_has_density_and_histogram_only() -> None:
    controls = ControlSeq.from_event_seq(EventSeq([40, 208, 128], sequence.LEGACY))
    assert tuple(controls.values) == PLAIN_CONTROLS
    assert controls.pack().shape == (3, 13)


# -------------------------------------------------------------------------- packing and encoding


@pytest.mark.parametrize(
    ("name", "value", "packed"),
    [
        ("loudness", 24, 0),
        ("loudness", 101, 254),
        ("loudness", 127, 254),
        ("register", 34, 4),
        ("register", 60, 108),
        ("spread", 11, 127),
        ("touch", 0.5, 127),  # the geometric middle of 0.05 s and 5 s
        ("touch", math.nan, UNKNOWN),
    ],
)
def test_packed_values(name: str, value: float, packed: int) -> None:
    kind = sequence.get_control_kind(name)
    assert kind.pack([value]).tolist() == [[packed]]


@pytest.mark.parametrize("kind", CONTROLS[2:], ids=lambda kind: kind.name)
def test_packed_values_are_recovered(kind: ControlKind) -> None:
    values = kind.find_values(np.linspace(0, 11, 300))
    found = kind.unpack(kind.pack(values))
    step = 11 / 254
    errors = kind.find_positions(found) - kind.find_positions(values)
    assert np.abs(errors).max() <= step / 2 + 1e-9
    packed = np.arange(256)[:, None].astype(np.uint8)
    np.testing.assert_array_equal(kind.pack(kind.unpack(packed)), packed)


def test_value_between_two_centers_gives_weights_to_both() -> None:
    kind = sequence.get_control_kind("spread")  # centers at 0, 2, 4, ... semitones
    weights = kind.encode([4, 4.5, 99, math.nan])
    assert weights[0].tolist() == [0, 0, 1, *[0] * 9]
    assert weights[1].tolist() == [0, 0, 0.75, 0.25, *[0] * 8]
    assert weights[2].tolist() == [*[0] * 11, 1]
    assert weights[3].tolist() == [0] * 12


def test_layout_of_all_controls() -> None:
    assert (LAYOUT.names, LAYOUT.dim, LAYOUT.packed_dim) == (ALL, 78, 17)
    assert [columns.start for columns in LAYOUT.ranges.values()] == [0, 12, 24, 36, 48, 60]
    assert list(LAYOUT.flags) == [72, 73, 74, 75, 76, 77]
    assert (PLAIN_LAYOUT.dim, list(PLAIN_LAYOUT.flags), PLAIN_LAYOUT.packed_dim) == (24, [], 13)
    assert ControlLayout(["touch", "density"]).dim == 26
    with pytest.raises(ValueError, match="unknown control 'mood'"):
        ControlLayout(["mood"])


def test_vectors_from_bytes_and_from_values_agree() -> None:
    controls = ControlSeq.from_event_seq(EventSeq([*random_events(3), *[239] * 3]))
    found = expand_controls(torch.from_numpy(controls.pack()), CURRENT, LAYOUT).numpy()
    expected = controls.encode(LAYOUT)
    assert found.shape == expected.shape == (403, 78)
    assert np.isnan(controls.scalars["touch"]).any()  # silence at the end
    np.testing.assert_array_equal(found[:, LAYOUT.flags], expected[:, LAYOUT.flags])
    np.testing.assert_allclose(found, expected, atol=11 / 254 / 2 + 1e-6)
    sums = found[:, 24:36].sum(axis=1) + found[:, 74]
    np.testing.assert_allclose(sums, 1, atol=1e-6)  # weights, or the flag


def make_schedule(**columns: Any) -> ControlSchedule:
    rows = len(next(iter(columns.values())))
    density = columns.pop("density", np.full(rows, np.nan))
    histogram = columns.pop("histogram", np.full((rows, 12), np.nan))
    return ControlSchedule(density, histogram, np.arange(rows), scalars=columns)


def test_schedule_leaves_controls_open() -> None:
    schedule = make_schedule(density=[2.25, np.nan], register=[np.nan, 33.0])
    assert schedule.requested_controls == ["density", "register"]
    first, second = encode_schedule(schedule, LAYOUT)
    assert first[:12].tolist() == [0, 0, 0.75, 0.25, *[0] * 8]
    assert first[72:].tolist() == [0, 1, 1, 1, 1, 1]
    assert not first[12:72].any()
    assert second[36:48].tolist() == [1, *[0] * 11]
    assert second[72:].tolist() == [1, 1, 1, 0, 1, 1]
    assert second.sum() == 6


def test_open_control_of_a_plain_session_has_its_default() -> None:
    vectors = encode_schedule(make_schedule(density=[5, np.nan]), PLAIN_LAYOUT)
    assert vectors[:, :12].argmax(axis=1).tolist() == [5, 3]
    np.testing.assert_allclose(vectors[:, 12:], 1 / 12)


def test_request_for_a_lacking_control_is_an_error() -> None:
    with pytest.raises(ValueError, match="no control touch, only density, histogram"):
        encode_schedule(make_schedule(touch=[0.2]), PLAIN_LAYOUT)


@pytest.mark.parametrize("columns", [{"loudness": [1.0, 2.0, 3.0]}, {"loudness": [-1.0, 2.0]}])
def test_invalid_schedule_is_rejected(columns: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match=r"loudness|negative"):
        make_schedule(density=[1, 2], **columns)


# ------------------------------------------------------------------------------- transposition


def test_transposition_moves_the_register() -> None:
    events = np.stack([random_events(seed, 300) for seed in range(4)], axis=1)
    packed = [ControlSeq.from_event_seq(EventSeq(column)).pack() for column in events.T]
    lowest, highest = sequence.transposition_range(events)
    offsets = np.clip([-5, 6, 0, 2], lowest, highest)
    moved, controls = transpose(events, np.stack(packed, axis=1), offsets)
    expected = [ControlSeq.from_event_seq(EventSeq(column)).pack() for column in moved.T]
    difference = controls.astype(int) - np.stack(expected, axis=1)
    register = difference[..., 14]
    inside = (controls[..., 14] > 0) & (controls[..., 14] < 254)  # not cut off
    assert np.abs(register[inside]).max() <= 1
    assert (register[inside] == 0).mean() > 0.95  # rounding
    assert not np.delete(difference, 14, axis=2).any()
    assert inside.mean() > 0.5


def test_unknown_controls_stay_unknown_when_transposed() -> None:
    silence = np.full((3, 1), 239, np.uint8)  # long time shifts
    packed = ControlSeq.from_event_seq(EventSeq(silence[:, 0])).pack()[:, None]
    assert (packed[..., 13:] == UNKNOWN).all()
    moved, controls = transpose(silence, packed, np.array([5]))
    assert np.array_equal(moved, silence)
    assert np.array_equal(controls, packed)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_excerpt_has_the_controls_of_the_stretched_performance(
    tmp_path: Path, factor: float
) -> None:
    path = write_data(tmp_path / "data", 1, notes=400) / "0.mid.data"
    events = Performance.load(path).events
    stretched = stretch_events(events, factor)
    whole = ControlSeq.from_event_seq(EventSeq(stretched)).pack()[stretched < SHIFT]
    excerpt, controls = stretch_excerpt(events, 500, 300, factor)
    first = int((events[:500] < SHIFT).sum())
    found = controls[1:][excerpt[1:] < SHIFT].astype(int)
    expected = whole[first : first + len(found)]
    # times are rounded anew in the excerpt, which may move a note out of a window
    assert ((np.abs(found - expected) <= 1).mean(axis=0) > 0.9).all()


def test_excerpt_knows_the_notes_outside() -> None:
    """The velocity was set long before the excerpt, and its last notes end long after it."""
    starts = np.arange(0, 60, 0.5)
    pitches = 40 + np.arange(120) % 40
    notes = NoteSeq(starts, starts + 4.0, pitches, np.full(120, 27))
    events = EventSeq.from_note_seq(notes).to_array()
    _, controls = stretch_excerpt(events, 300, 60, 1.1)
    loudness, touch = (sequence.get_control_kind(name) for name in ("loudness", "touch"))
    assert (controls[:, 13:14] == loudness.pack(27)).all()
    expected = touch.pack(1.1 * 4.0).astype(int)
    assert np.abs(controls[:, 16:17] - expected).max() <= 1


# --------------------------------------------------------------------------------- .data files


def write_old_data(folder: Path, count: int = 4) -> Path:
    """Write .data files of the previous version, with 13 columns."""
    for path in write_data(folder, count).iterdir():
        performance = Performance.load(path)
        old = dataclasses.replace(performance, controls=performance.controls[:, :13])
        path.write_bytes(old.to_bytes())
    return folder


def test_older_data_gets_its_controls_when_loaded(tmp_path: Path) -> None:
    new = Corpus.load(sorted(write_data(tmp_path / "new", 2).iterdir()))
    old = Corpus.load(sorted(write_old_data(tmp_path / "old", 2).iterdir()))
    assert {p.controls.shape[1] for p in new.performances} == {17}
    assert {p.controls.shape[1] for p in old.performances} == {13}
    found = Corpus.load(sorted((tmp_path / "old").iterdir())).add_controls(LAYOUT)
    for one, other in zip(found.performances, new.performances, strict=True):
        assert np.array_equal(one.read(10, 50)[1], other.controls[10:50])
        assert one.add_controls(PLAIN_LAYOUT) is one
        assert one.controls.shape[1] == 13  # still in the memory map


# ------------------------------------------------------------------------------------ training


def make_sampler(folder: Path, carry: int = 4, layout: ControlLayout = LAYOUT) -> WindowSampler:
    if not folder.exists():
        write_data(folder, 4, notes=200)
    corpus = Corpus.load(sorted(folder.iterdir()))
    return WindowSampler(corpus.add_controls(layout), 10, 3, carry)


def test_each_control_is_hidden_at_a_rate_of_its_segment(tmp_path: Path) -> None:
    sampler = make_sampler(tmp_path / "data", carry=1)
    batches = [sampler.sample_batch(200, 7, number, 1.0, False) for number in range(20)]
    is_open = np.concatenate([batch.is_open for batch in batches])
    assert is_open.shape == (4000, 6)
    # 25% of the segments show density and histogram alone, 25% these and some others, 15% nothing
    main, others = 0.15 + 0.35 / 2, 0.25 + 0.15 + 0.6 / 2
    shares = [main, main, others, others, others, others]
    np.testing.assert_allclose(is_open.mean(axis=0), shares, atol=0.03)
    # with a uniform rate, each number of open controls is equally likely: from 0 to 6 in 35% of the
    # segments, from 0 to 4 in those that show density, histogram and some others
    counts = np.bincount(is_open.sum(axis=1), minlength=7) / 4000
    expected = np.full(7, 0.35 / 7)
    expected[:5] += 0.25 / 5
    expected[4] += 0.25
    expected[6] += 0.15
    np.testing.assert_allclose(counts, expected, atol=0.02)
    only_main = (is_open == [False, False, True, True, True, True]).all(axis=1)
    assert only_main.mean() == pytest.approx(0.30, abs=0.03)


def test_hiding_holds_for_a_segment_and_follows_the_seed(tmp_path: Path) -> None:
    sampler = make_sampler(tmp_path / "data")
    before = sampler.sample_batch(32, 5, 0, 1.0, True)
    for number in range(1, 12):
        batch = sampler.sample_batch(32, 5, number, 1.0, True)
        again = make_sampler(tmp_path / "data").sample_batch(32, 5, number, 1.0, True)
        assert np.array_equal(batch.is_open, again.is_open)
        on = batch.continues
        assert np.array_equal(batch.is_open[on], before.is_open[on])
        assert not np.array_equal(batch.is_open[~on], before.is_open[~on])
        before = batch


def test_hidden_controls_have_only_their_flag(tmp_path: Path) -> None:
    batch = make_sampler(tmp_path / "data").sample_batch(16, 1, 0, 1.0, False)
    controls = batch.to_device(CPU, CURRENT, LAYOUT).controls
    for column, is_open in enumerate(batch.is_open):
        for name, flag, is_hidden in zip(ALL, LAYOUT.flags, is_open, strict=True):
            block = controls[:, column, LAYOUT.ranges[name]]
            expected = torch.full((10,), 0.0 if is_hidden else 1.0)
            known = controls[:, column, flag] == float(is_hidden)
            torch.testing.assert_close(block.sum(dim=-1)[known], expected[known], atol=1e-5, rtol=0)
            assert known.all() or not is_hidden  # a control may also be unknown


def test_windows_do_not_depend_on_the_controls(tmp_path: Path) -> None:
    samplers = [make_sampler(tmp_path / "data", layout=layout) for layout in (LAYOUT, PLAIN_LAYOUT)]
    one, other = (sampler.sample_batch(16, 1, 3, 0.5, True) for sampler in samplers)
    assert np.array_equal(one.events, other.events)
    assert np.array_equal(one.use_control, other.use_control)
    assert np.array_equal(one.controls[..., :13], other.controls)
    assert other.is_open.shape == (16, 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_training(data: Path, *more: str) -> int:
    argv = ["-s", "m.sess", "-d", str(data), "-b", "4", "-w", "20", "-p", TINY_MODEL]
    argv += ["--no-enable-logging", "--device", "cpu", "--precision", "fp32"]
    return train.main([*argv, "--max-steps", "3", *more])


@pytest.mark.parametrize(
    ("controls", "names", "dim"),
    [("", ALL, 78), ("density,histogram", PLAIN_CONTROLS, 24), ("touch", ("touch",), 13)],
)
def test_training_with_controls(
    folder: Path, controls: str, names: tuple[str, ...], dim: int
) -> None:
    data = write_old_data(folder / "data")
    assert run_training(data, *(["--controls", controls] if controls else [])) == 0
    for path in ("m.sess", "m.best.sess"):
        session = Session.load(path)
        assert (session.controls, session.config.control_dim) == (names, dim)
    assert ("controls" in torch.load("m.sess", weights_only=True)) == (names != PLAIN_CONTROLS)
    assert run_training(data, "--max-steps", "5") == 0
    assert Session.load("m.sess").controls == names
    assert run_training(data, "-s", "tuned.sess", "--init-from", "m.sess") == 0
    assert Session.load("tuned.sess").controls == names
    assert train.main(["-s", "m.sess", "--export", "small.sess"]) == 0
    assert Session.load("small.sess").controls == names


@pytest.mark.parametrize("more", [[], ["-s", "tuned.sess", "--init-from", "m.sess"]])
def test_controls_of_a_session_cannot_change(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    data = write_data(folder / "data", 4, notes=200)
    assert run_training(data) == 0
    assert run_training(data, "--controls", "density,histogram", *more) == 1
    error = capsys.readouterr().err
    assert "the controls of a session cannot change" in error
    assert "m.sess has density,histogram,loudness" in error
    assert len(error.splitlines()) == 1


def test_unknown_control_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.parse_args(["--controls", "density,mood"])
    assert "unknown control 'mood'" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- network


def test_no_control_is_the_same_as_all_controls_open() -> None:
    torch.manual_seed(0)
    sizes = dataclasses.replace(TINY_SIZES, control_dim=78)
    model = PerformanceRNN(sizes, ALL)
    events, hidden = torch.randint(0, 240, (5, 2)), model.init_hidden(torch.randn(2, 4))
    schedule = make_schedule(density=[np.nan])
    open_vector = torch.from_numpy(encode_schedule(schedule, LAYOUT))[None]
    expected = model(events, hidden, open_vector)[0]
    for arguments in ((None, None), (torch.rand(5, 2, 78), torch.zeros(2, dtype=torch.bool))):
        torch.testing.assert_close(model(events, hidden, *arguments)[0], expected)


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        (["density", "mood"], "unknown control 'mood'"),
        (["density", "touch"], "control_dim 78 does not fit"),
        ("density", "not a list of names"),
        ([1, 2], "not a list of names"),
        ([], "at least one control"),
    ],
)
def test_session_with_invalid_controls_is_rejected(
    tmp_path: Path, controls: object, message: str
) -> None:
    sizes = dataclasses.replace(TINY_SIZES, control_dim=78)
    path = tmp_path / "m.sess"
    Session(sizes, PerformanceRNN(sizes, ALL).state_dict(), 2, controls=ALL).save(path)
    record = torch.load(path, weights_only=True)
    assert record["controls"] == list(ALL)
    torch.save(record | {"controls": controls}, path)
    with pytest.raises(ValueError, match=message):
        Session.load(path)


# ------------------------------------------------------------------------------ evaluation


def make_all_model(**sizes: Any) -> PerformanceRNN:
    torch.manual_seed(3)
    config = dataclasses.replace(TINY_SIZES, control_dim=78, **sizes)
    return PerformanceRNN(config, ALL).eval()


def test_evaluation_hides_controls(tmp_path: Path) -> None:
    corpus = Corpus.load(sorted(write_data(tmp_path / "data", 2, notes=100).iterdir()))
    model = make_all_model()
    choices = list_visible_controls(model.layout)
    assert list(choices.values()) == [ALL, PLAIN_CONTROLS, ()]
    losses = {}
    for label, visible in choices.items():
        losses[label] = evaluate(model, corpus, 64, visible).nats
        nats = 0.0
        for performance in corpus.performances:
            events = torch.from_numpy(performance.events[:64].astype(np.int64))[:, None]
            vectors = ControlSeq.from_event_seq(EventSeq(performance.events)).encode(LAYOUT)[:64]
            controls = torch.from_numpy(LAYOUT.hide(vectors, visible))[:, None]
            init = model.init_hidden(torch.zeros(1, 4))
            with torch.no_grad():
                logits, _ = model(model.shift_right(events), init, controls)
            nats += float(torch.nn.functional.cross_entropy(logits[:, 0], events[:, 0]) * 64)
        assert losses[label] == pytest.approx(nats, rel=2e-3)  # bytes are rounded
    assert len(set(losses.values())) == 3


def test_validation_reports_the_loss_with_fewer_controls(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(folder / "data", 4, notes=200)
    assert run_training(data) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "start of pieces" in x]
    pattern = r"step 3 \| val at the start of pieces: all controls 5\.\d+, "
    pattern += r"density and histogram 5\.\d+, without control 5\.\d+"
    assert re.fullmatch(pattern, line)
    assert run_training(data, "-s", "plain.sess", "--controls", "density,histogram") == 0
    assert "start of pieces" not in capsys.readouterr().out


def play(velocity: int, pitch: int, length: float, begin: float = 0.0) -> NoteSeq:
    """Return ten seconds of a repeated note, two per second."""
    starts = begin + np.arange(0, 10, 0.5)
    same = np.ones(len(starts))
    return NoteSeq(starts, starts + length, pitch * same, velocity * same)


def test_adherence_counts_values_within_one_step() -> None:
    parts = play(64, 60, 0.2).columns, play(96, 72, 0.4, 10.0).columns
    both = NoteSeq(*map(np.concatenate, zip(*parts, strict=True)))
    events = EventSeq.from_note_seq(both)
    control = ControlSchedule(
        *(np.full(2, np.nan), np.full((2, 12), np.nan), np.array([0, 10.0])),
        scalars={
            "loudness": np.array([65.0, 80.0]),  # a step is 7
            "register": np.array([60.0, 72.0]),
            "touch": np.array([np.nan, 0.4]),
        },
    )
    found = measure_adherence(events, control)
    assert list(found) == ["loudness", "register", "touch"]
    assert found["loudness"].close_share == pytest.approx(0.5, abs=0.1)
    # the request is read in the middle of each window, so at most one note is over a step away
    assert found["register"].close_share == 39 / 40
    assert found["register"].correlation > 0.9
    assert len(found["touch"].requested) == pytest.approx(20, abs=2)
    assert math.isnan(found["touch"].correlation)
    assert str(found["touch"]).startswith("touch: 0.4")
    assert "(requested 0.40), 100% within one step" in str(found["touch"])


def test_report_has_a_line_for_each_requested_control() -> None:
    events = EventSeq.from_note_seq(play(64, 60, 0.2))
    first, second = compare_sections(
        events, dataclasses.replace(make_schedule(loudness=[64.0]), parts=((0.0, "loudness 64"),))
    )
    assert first == "loudness 64: 2.0 notes/s"  # density and pitch classes are open
    assert second == "loudness: 63.0 MIDI velocity (requested 64.0), 100% within one step"


def test_each_control_is_evaluated_alone() -> None:
    lines = list(evaluate_controls(make_all_model(), CURRENT))
    names = [line.split(":")[0] for line in lines[4:]]
    assert names == [name for name in ("density", *SCALARS) for _ in range(5)]
    assert all("within one step, Spearman" in line for line in lines[8::5])
    density = [
        re.fullmatch(r"density: [\d.]+ notes/s \(requested (.+)\), .*", d) for d in lines[4:8]
    ]
    # levels 2, 4, 6, 8 are 4-5, 10-11, ... notes in two seconds
    assert [d and d[1] for d in density] == ["3.5-4.5", "6.5-7.5", "9.5-10.5", "12.5-13.5"]


# ------------------------------------------------------------------------------ generation


def save_session(path: str, model: PerformanceRNN) -> None:
    Session(model.config, model.state_dict(), 2, controls=model.layout.names).save(path)


def test_control_file_gives_all_controls_of_the_session(tmp_path: Path) -> None:
    path = write_data(tmp_path / "data", 1, notes=100) / "0.mid.data"
    events = EventSeq(Performance.load(path).events)
    expected = ControlSeq.from_event_seq(events).encode(LAYOUT)
    schedule = load_control(str(path), 0, CURRENT, LAYOUT)
    np.testing.assert_allclose(encode_schedule(schedule, LAYOUT), expected, atol=0.03)
    midi = write_midi(tmp_path / "a.mid", 100, 0)
    schedule = load_control(str(midi), 0, CURRENT, LAYOUT)
    np.testing.assert_array_equal(encode_schedule(schedule, LAYOUT), expected)
    assert load_control(str(midi), 0).requested_controls == list(PLAIN_CONTROLS)
    touch = ControlLayout(["touch"])
    assert load_control(str(midi), 0, CURRENT, touch).requested_controls == ["touch"]


@pytest.mark.parametrize(
    "more", [[], ["--guidance", "2"], ["-i", "a.mid"], ["-B", "2", "-l", "30"]]
)
def test_generation_with_all_controls(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    save_session("m.sess", make_all_model())
    write_midi(folder / "a.mid", 100, 0)
    argv = ["-s", "m.sess", "-c", "a.mid", "-b", "1", "--seed", "1", "-l", "200", "-o", "out"]
    assert generate.main([*argv, *more]) == 0
    output = capsys.readouterr().out
    for name in SCALARS:
        assert f"  {name}: " in output
    (path,) = Path("out").glob("*.mid")
    _, requested = decode_metadata(read_midi_texts(path.read_bytes()))
    assert requested is not None
    assert requested.requested_controls == list(ALL)


def test_session_without_a_requested_control(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_session("m.sess", PerformanceRNN(TINY_SIZES))
    options, _ = generate.parse_args(["-s", "m.sess", "-c", ";3"])
    with pytest.raises(ValueError, match=r"m.sess: this session has no control loudness, only"):
        generate.prepare_job(options, make_schedule(loudness=[90.0]))


def test_open_controls_are_recorded_in_midi_files() -> None:
    schedule = make_schedule(density=[3, np.nan], loudness=[np.nan, 90.1234])
    (text,) = encode_metadata({}, schedule)
    assert '"density":[3,null],"histogram":[null,null],"loudness":[null,90.123]}' in text
    _, decoded = decode_metadata([text])
    assert decoded is not None
    assert decoded.requested_controls == ["density", "loudness"]
    np.testing.assert_array_equal(decoded.density, [3, np.nan])
    np.testing.assert_array_equal(decoded.scalars["loudness"], [np.nan, 90.123])


@pytest.mark.parametrize(
    "columns", [{"loudness": [1]}, {"loudness": ["a", "b"]}, {"loudness": [-1, 1]}, {"x": 3}]
)
def test_invalid_scalars_of_a_midi_file_are_ignored(columns: dict[str, object]) -> None:
    plain = {"times": [0, 1], "density": [3, 4], "histogram": [[1] * 12, [1] * 12]}
    assert decode_metadata([f"asked: {json.dumps(plain)}"])[1] is not None
    assert decode_metadata([f"asked: {json.dumps(plain | columns)}"]) == ({}, None)


def test_open_controls_can_be_drawn() -> None:
    schedule = make_schedule(density=[3, np.nan], loudness=[50.0, 90.0])
    notes = play(64, 60, 0.2)
    summary = summarize_sample(notes, schedule)
    assert summary["density"] == "2.0 notes/s (requested 5-6)"
    assert draw_piano_roll(notes, "a", schedule, summary).startswith(b"\x89PNG")
    only_loudness = make_schedule(loudness=[50.0])
    assert "requested" not in summarize_sample(notes, only_loudness)["density"]
    assert draw_piano_roll(notes, "a", only_loudness).startswith(b"\x89PNG")


def test_open_density_is_not_steered() -> None:
    target = build_density_target(CURRENT)
    vectors = encode_schedule(make_schedule(density=[3, np.nan, 4.25, 11]), LAYOUT)
    controller = DensityController(target, torch.from_numpy(vectors))
    error = torch.full((4,), ZERO_ERROR)
    index = torch.arange(4)
    assert torch.equal(
        controller.controls[controller.select(error, index)].cpu(), torch.from_numpy(vectors)
    )
    for _ in range(30):  # silence: notes are missing
        error = controller.update(error, index, torch.full((4,), 239))
    corrected = controller.controls[controller.select(error, index)]
    levels = corrected[:, :12] @ torch.arange(12.0)
    assert levels.tolist() == [8, 0, 9.25, 11]  # five levels more
    assert corrected[1].tolist() == vectors[1].tolist()


def test_plan_with_open_parts() -> None:
    plan = dataclasses.replace(
        make_schedule(loudness=[40.0, 80.0, np.nan], touch=[np.nan, 0.2, 0.2]),
        times=np.array([0, 4.0, 8.0]),
        is_gradual=np.array([False, True, False]),
    )
    values = plan.evaluate(np.array([0, 1.0, 4.0, 6.0, 8.0]), np.zeros(5, int)).scalars
    assert values["loudness"].tolist() == pytest.approx([40, 50, 80, 80, np.nan], nan_ok=True)
    assert values["touch"].tolist() == pytest.approx([np.nan, np.nan, *[0.2] * 3], nan_ok=True)
    rows = plan.average(0, 100)
    assert rows.scalars["loudness"][10] == pytest.approx(10 * (1 + 0.9) + 40, abs=0.01)
    assert rows.scalars["loudness"][75] == pytest.approx(80)  # what is open does not count
    assert np.isnan(rows.scalars["loudness"][80:]).all()
    assert np.isnan(rows.density).all()
    steps = dataclasses.replace(plan, times=np.array([0, 4.0, 5.0]), is_gradual=None)
    # of the 1.8 s after 3.9 s, 0.1 s request 40, 1 s requests 80, and the rest nothing
    expected = (0.1 * 40 + 1.0 * 80) / 1.1
    assert steps.average(39, 40).scalars["loudness"][0] == pytest.approx(expected)


# --------------------------------------------------------------------------- a new control

ROW = """    ControlKind(
        "tempo",
        lambda windows: windows.sum(np.diff(windows.times, prepend=-1.0) > 0.03) / WINDOW,
        low=0,
        high=11,
        unit="onsets/s",
        allowed=(0, 30),
        meaning="onsets per second; a chord is one onset",
    ),
)
PLAIN_CONTROLS"""
USE = """
import generate, preprocess, train
from model import Session
from corpus.performance import Performance
sizes = ["-p", "hidden_dim=8,gru_layers=1,init_dim=4"]
small = ["--device", "cpu", "--precision", "fp32", "-b", "4", "-w", "20"]
small += ["--no-enable-logging", "--max-steps", "2"]
assert preprocess.main(["midi", "new", "1"]) == 0
assert Performance.load("new/a.mid.data").controls.shape[1] == 18
for data in ("old", "new"):
    assert train.main(["-s", data + ".sess", "-d", data, *small, *sizes]) == 0
    session = Session.load(data + ".sess")
    assert session.controls[-1] == "tempo" and session.config.control_dim == 91
    argv = ["-s", data + ".sess", "-c", "midi/a.mid", "-l", "60", "-b", "1", "-o", "out"]
    assert generate.main(argv) == 0
assert train.main(["-s", "before.sess", "-d", "old", *small]) == 0
assert len(Session.load("before.sess").controls) == 6
assert generate.main(["-s", "before.sess", "-c", "midi/a.mid", "-l", "60", "-b", "1"]) == 0
"""


def test_new_control_is_one_row_of_the_table(folder: Path) -> None:
    """A copy of the program with one more row trains and generates with the new control."""
    program = folder / "program"
    skipped = shutil.ignore_patterns("tests", "docs", ".git", "*.sess", "runs", "generated", ".*")
    shutil.copytree(Path(sequence.__file__).parent, program, ignore=skipped)
    table = (program / "sequence.py").read_text()
    assert table.count("\n)\nPLAIN_CONTROLS") == 1
    (program / "sequence.py").write_text(table.replace(")\nPLAIN_CONTROLS", ROW))
    write_data(folder / "old", 3, notes=200)
    (folder / "midi").mkdir()
    for number, name in enumerate("abc"):
        write_midi(folder / "midi" / f"{name}.mid", 200, number)
    save_session("before.sess", make_all_model())
    run = subprocess.run(
        [sys.executable, "-c", USE],
        env={**os.environ, "PYTHONPATH": str(program)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "tempo: " in run.stdout
