"""The pipeline: inputs, primer, generation, and decoding into notes."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from generation.control import load_control
from generation.engine import Engine, beam_search
from generation.pipeline import (
    BeamSearch,
    Extent,
    PitchBias,
    Primer,
    SampleBuffer,
    build_event_constraints,
    build_inputs,
    decode_sample,
    end_at_boundary,
    generate_events,
    load_primer,
)
from generation.sampling import EventMask, Sampler
from sequence import CURRENT, ControlSeq, EventSeq, NoteSeq
from tests.generation.networks import INIT_DIM, make_job
from tools.synthetic_data import write_data

C4 = 39  # note on; its note off is 127
LONGEST_SHIFT = 239  # 1.171 s


def make_notes(starts: np.ndarray | list[float], length: float = 0.1) -> NoteSeq:
    """Return notes of rising pitch at some seconds."""
    starts = np.asarray(starts, float)
    return NoteSeq(starts, starts + length, 40 + np.arange(len(starts)), [64] * len(starts))


# ----------------------------------------------------------------------------------- inputs


def test_free_constraints_have_only_limits() -> None:
    constraints = build_event_constraints(CURRENT, 4, 3.0)
    assert np.flatnonzero(~constraints.allowed_at_start).tolist() == list(
        range(88, 176)
    )  # note offs
    assert (constraints.max_repeats, constraints.max_silence) == (4, 3000)  # milliseconds
    free = build_event_constraints(CURRENT, 4, free=True)
    assert free.allowed_at_start.all()
    assert not (free.enables | free.disables).any()
    assert free.max_repeats == 4


def test_control_text_is_timed_in_milliseconds() -> None:
    table = build_inputs(make_job("C major;3 | G7;9 @2")).controls
    assert table.controls is not None
    assert table.durations is not None
    assert table.durations[[0, 90, 200, 208, LONGEST_SHIFT]].tolist() == [0, 0, 0, 15, 1171]
    assert (len(table), table.row_duration) == (21, 100)
    assert table.controls[0:21][[0, 10, 20], 0, :12].argmax(dim=1).tolist() == [3, 6, 9]


def test_plan_for_hours_takes_no_memory() -> None:
    job = make_job("C;1 | ~F#;9 @86400")
    table = build_inputs(job).controls
    assert len(table) == 864_001
    tracemalloc.start()
    assert len(list(generate_events(job))) == job.steps
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_notes_of_a_later_chord_are_held_back() -> None:
    table = build_inputs(make_job("C F; 5/s @ 120bpm")).controls  # two seconds each, in turn
    assert table.bias is not None
    pitches = np.arange(21, 109)
    for first, later in ((0, {5, 9}), (20, {4, 7}), (40, {5, 9})):
        bias = table.bias[first : first + 20].numpy()
        expected = np.zeros((20, 240))
        # the network hears of the next chord 1.8 s before it
        expected[3:, :88][:, np.isin(pitches % 12, list(later))] = -3
        np.testing.assert_array_equal(bias, expected)


def test_nothing_is_held_back_in_measured_rows() -> None:
    """A row that begins within a step is no later chord."""
    plan = make_job("C | F @2.05").control
    assert plan is not None
    bias = PitchBias(replace(plan, is_measured=True))
    assert not bias[0:40].any()
    assert PitchBias(plan)[0:40].any()


def test_note_off_gets_three_nats_per_second_from_three_seconds_on() -> None:
    for free, expected in ((False, 3 * (5 * 1.171 - 3)), (True, 0.0)):
        mask = EventMask(build_event_constraints(CURRENT, free=free), 1, torch.device("cpu"))
        for event in (C4, *[LONGEST_SHIFT] * 5):
            mask.update(torch.tensor([event]))
        logits = mask.apply(torch.zeros(1, 240))[0]
        assert float(logits[C4 + 88]) == pytest.approx(expected, abs=1e-4)
        assert not logits[[C4, LONGEST_SHIFT, 180]].any()


def test_music_avoids_the_next_chord_until_it_begins() -> None:
    job = replace(make_job("C F#; 5/s @ 120bpm"), steps=400)
    shares = []
    assert job.control is not None
    for rows in (job, replace(job, control=replace(job.control, is_measured=True))):
        events = np.stack(list(generate_events(rows)))
        note_ons = events[events < 88] + 21
        elapsed = np.cumsum(EventSeq.event_durations(CURRENT)[events], axis=0)[events < 88]
        next_chord = np.where(elapsed // 2000 % 2 == 0, 1, 0)
        chords = np.array([np.isin(range(12), [0, 4, 7]), np.isin(range(12), [6, 10, 1])])
        shares.append(chords[next_chord, note_ons % 12].mean())
    assert shares[0] < 0.5 * shares[1]


def test_control_file_is_timed_in_events(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", count=1, notes=30) / "0.mid.data"
    control = load_control(str(path), 0)
    table = build_inputs(make_job(control)).controls
    assert table.controls is not None
    assert table.durations is None
    np.testing.assert_array_equal(table.controls[0 : len(table)][:, 0], control.to_array())


def test_steering_option_sets_the_density_target() -> None:
    assert build_inputs(make_job(";3")).controls.target is not None
    assert build_inputs(make_job(";3", steering=False)).controls.target is None


def test_primer_has_controls_if_the_job_has() -> None:
    primer = [C4, LONGEST_SHIFT, LONGEST_SHIFT]
    inputs = build_inputs(make_job(";3", primer))
    assert inputs.context.tolist() == primer
    assert inputs.context_controls.controls is not None
    expected = ControlSeq.from_event_seq(EventSeq(primer)).to_array()
    context_controls = inputs.context_controls.controls[0 : len(primer)]
    np.testing.assert_array_equal(context_controls[:, 0], expected)
    assert build_inputs(make_job(None, primer)).context_controls.controls is None


def test_start_vectors_depend_on_seed_and_number() -> None:
    init = build_inputs(make_job(batch_size=3)).init
    assert init.shape == (3, INIT_DIM)
    assert len(init.unique(dim=0)) == 3
    assert torch.equal(build_inputs(make_job(batch_size=2)).init, init[:2])
    assert not build_inputs(make_job(init_zero=True)).init.any()


# ------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("method", [Sampler(0.7, greedy_ratio=0.25), BeamSearch(3, True, 0.7)])
def test_generation_settings_are_used(method: Sampler | BeamSearch) -> None:
    speed = {"exact": True, "guidance": 2.0}
    job = make_job("C major;3", [C4, LONGEST_SHIFT], method=method, **speed)
    events = np.stack(list(generate_events(job)))
    engine, inputs = Engine(job.model, **speed), build_inputs(job)
    if isinstance(method, BeamSearch):
        expected = beam_search(engine, inputs, 20, 3, stochastic=True, temperature=0.7)
    else:
        expected = torch.stack(list(engine.generate(inputs, 20, method)))
    assert events.tolist() == expected.tolist()


def test_buffer_keeps_all_events() -> None:
    buffer = SampleBuffer(3, CURRENT)
    for _ in range(5000):
        buffer.add(np.array([1, 2, LONGEST_SHIFT]))
    assert buffer.get(2).to_array().tolist() == [LONGEST_SHIFT] * 5000


@pytest.mark.parametrize(("has_primer", "elapsed"), [(True, 2342), (False, 1171)])
def test_rest_before_first_note_does_not_count(has_primer: bool, elapsed: int) -> None:
    buffer = SampleBuffer(1, CURRENT, has_primer)
    for event in (LONGEST_SHIFT, C4, LONGEST_SHIFT):
        buffer.add(np.array([event]))
    assert buffer.elapsed.tolist() == [elapsed]


# ---------------------------------------------------------------------------------- primer


def save_and_load(folder: Path, notes: NoteSeq, start: float, seconds: float) -> Primer:
    notes.to_midi_file(folder / "song.mid")
    return load_primer(str(folder / "song.mid"), start, seconds, CURRENT)


def test_primer_is_cut_before_a_note(tmp_path: Path) -> None:
    pitches = [60, 62, 110, 64, 65, 110, 110, 67, 110]  # one per second; 110 is not on a piano
    velocities = [64, 64, 64, 64, 64, 64, 64, 100, 64]
    notes = NoteSeq(np.arange(9.0), np.arange(9.0) + 0.5, pitches, velocities)
    primer = save_and_load(tmp_path, notes, 1.0, 5.5)
    events = primer.events.to_array()
    assert events[events < 88].tolist() == [62 - 21, 64 - 21, 65 - 21]
    assert np.isin(events, EventSeq.feat_ranges()["velocity"]).sum() == 1  # not of the next note
    assert primer.seconds == pytest.approx(6.0, abs=0.008)
    assert primer.dropped_notes == 3
    assert len(primer.controls) == len(events)


def test_primer_starts_with_a_piano_note(tmp_path: Path) -> None:
    notes = NoteSeq([0, 5, 6, 7], [1, 6, 7, 8], [110, 60, 62, 64], [64] * 4)
    primer = save_and_load(tmp_path, notes, 0.0, 15.0)
    assert primer.seconds == pytest.approx(3.0, abs=0.01)
    assert primer.dropped_notes == 1


def test_primer_controls_include_the_notes_after_it(tmp_path: Path) -> None:
    starts = np.append(np.arange(0, 4, 0.5), np.arange(4.5, 9, 0.1))
    notes = NoteSeq(starts, starts + 0.05, [60] * len(starts), [64] * len(starts))
    primer = save_and_load(tmp_path, notes, 0.0, 4.1)
    density = primer.controls[:, ControlSeq.feat_ranges()["note_density"]].argmax(axis=1)
    assert density[0] == 1  # 5 notes in 2 s
    assert density[-1] >= 5


def test_primer_without_notes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"song\.mid: no notes after second 9"):
        save_and_load(tmp_path, make_notes([0.0, 1.0]), 9.0, 15.0)


# --------------------------------------------------------------------------------- decoding


def test_continuation_only_drops_the_primer() -> None:
    primer = EventSeq.from_note_seq(make_notes([0, 1, 2], 0.5)).to_array().tolist()
    events = EventSeq([LONGEST_SHIFT, C4, LONGEST_SHIFT])
    assert decode_sample(make_job(None, primer), events).pitches.tolist() == [40, 41, 42, 60]
    notes = decode_sample(make_job(None, primer, extent=Extent(continuation_only=True)), events)
    assert notes.pitches.tolist() == [60]
    assert notes.starts.tolist() == [0]


def test_hanging_notes_end_after_five_seconds() -> None:
    notes = decode_sample(make_job(), EventSeq([C4, *[LONGEST_SHIFT] * 20]))
    assert (notes.ends - notes.starts).tolist() == [pytest.approx(5.0)]


def test_long_notes_of_the_primer_are_kept() -> None:
    primer = [C4, *[LONGEST_SHIFT] * 8, C4 + 88, C4 + 1]
    notes = decode_sample(make_job(None, primer), EventSeq([LONGEST_SHIFT] * 20))
    assert notes.ends - notes.starts == pytest.approx([8 * 1.171, 5.0])


def test_sample_ends_at_the_longest_wait() -> None:
    notes = end_at_boundary(make_notes([0, 4, 8.1, 8.2, 9.0, 9.3, 10, 12.1, 15], 0.5), 10.0)
    assert (len(notes), notes.seconds) == (4, pytest.approx(8.7))


def test_sample_has_at_least_one_note() -> None:
    assert len(end_at_boundary(make_notes([0, 8.0, 8.4]), 1.0)) == 1


def test_sample_has_a_note_after_the_primer() -> None:
    notes = end_at_boundary(make_notes([0, 8.0, 8.4, 8.5, 8.7]), 9.0, start=8.3)
    assert notes.starts.tolist() == [0, 8.0, 8.4, 8.5]


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_length_counts_after_the_primer(seconds: float) -> None:
    notes = NoteSeq([0, 3, 5.5], [1, 4, 5.9], [60, 62, 64], [64] * 3)
    primer = EventSeq([*EventSeq.from_note_seq(notes).to_array(), 208])
    job = make_job(None, primer.to_array().tolist(), extent=Extent(seconds))
    sample = decode_sample(job, EventSeq.from_note_seq(make_notes(np.arange(40) / 4)))
    assert len(sample) > 3
    assert sample.seconds == pytest.approx(primer.total_ms / 1000 + seconds, abs=2.0)
