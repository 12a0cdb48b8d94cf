"""Tempo maps, meters, beats and grids of written MIDI files."""

import io

import mido
import numpy as np
import pretty_midi
import pytest

from midi.notation import (
    TempoMap,
    find_beats,
    parse_grid,
    parse_meter,
    quantize_onsets,
    write_tempo_map,
)
from midi.notes import read_midi
from sequence import NoteSeq
from tests.midi.messages import midi_bytes, note, tempo

SCALE = NoteSeq(np.arange(40) / 4, np.arange(40) / 4 + 0.2, 60 + np.arange(40) % 12, [64] * 40)


def read_pretty(content: bytes) -> pretty_midi.PrettyMIDI:
    return pretty_midi.PrettyMIDI(io.BytesIO(content))


def read_onsets(content: bytes) -> np.ndarray:
    return np.sort([note.start for note in read_pretty(content).instruments[0].notes])


def test_a_tempo_moves_bars_and_no_notes() -> None:
    content = write_tempo_map(SCALE.to_midi_bytes(), TempoMap.constant(96, (3, 4)))
    midi = read_pretty(content)
    times, tempos = midi.get_tempo_changes()
    assert (times.tolist(), tempos.tolist()) == ([0], [pytest.approx(96)])
    (signature,) = midi.time_signature_changes
    assert (signature.numerator, signature.denominator, signature.time) == (3, 4, 0)
    np.testing.assert_allclose(midi.get_downbeats()[:4], [0, 1.875, 3.75, 5.625], atol=1e-4)
    np.testing.assert_allclose(read_onsets(content), SCALE.starts, atol=6e-4)
    assert read_midi(content)[0].pitches.tolist() == SCALE.pitches.tolist()


def test_the_map_of_a_file_is_written_with_its_bar_lines() -> None:
    """120 bpm in 3/4, from second 3 on 60 bpm in 4/4: bar lines at 0, 1.5, 3, 7, 11."""
    signatures = [
        (0, mido.MetaMessage("time_signature", numerator=3, denominator=4)),
        (3000, mido.MetaMessage("time_signature", numerator=4, denominator=4)),
    ]
    file = midi_bytes([tempo(0, 500_000), tempo(3000, 1_000_000), *signatures, *note(60, 0, 5000)])
    tempo_map = TempoMap.from_stats(read_midi(file)[1])
    assert tempo_map is not None
    np.testing.assert_allclose(tempo_map.list_bars(12), [0, 1.5, 3, 7, 11])
    for start, downbeats in ((0.0, [0, 1.5, 3, 7]), (1.5, [0, 1.5, 5.5]), (5.0, [0, 2, 6])):
        content = write_tempo_map(SCALE.to_midi_bytes(), tempo_map.crop(start, start + 20))
        midi = read_pretty(content)
        np.testing.assert_allclose(midi.get_downbeats()[: len(downbeats)], downbeats, atol=2e-3)
        np.testing.assert_allclose(read_onsets(content), SCALE.starts, atol=6e-4)


def test_a_change_after_the_end_is_left_out() -> None:
    tempo_map = TempoMap(np.array([0.0, 4, 8]), np.array([100.0, 50, 200]), ((0.0, 4, 4),))
    assert tempo_map.crop(0, 5).bpm.tolist() == [100, 50]
    assert tempo_map.crop(20).bpm[-1] == 200


def test_the_default_tempo_is_no_tempo_map() -> None:
    assert TempoMap.from_stats(read_midi(SCALE.to_midi_bytes())[1]) is None
    assert TempoMap.from_stats(read_midi(midi_bytes([tempo(0, 10), *note(60, 0, 9)]))[1]) is None


def test_beats_become_the_beats_of_the_file() -> None:
    beats = np.cumsum([0.3, 0.5, 0.55, 0.6, 0.5, 0.52, 0.5, 0.61, 0.7])
    content = write_tempo_map(SCALE.to_midi_bytes(), TempoMap.from_beats(beats, (4, 4)))
    midi = read_pretty(content)
    np.testing.assert_allclose(midi.get_downbeats()[1:3], beats[[0, 4]], atol=2e-3)
    ticks = [midi.time_to_tick(beat) for beat in beats]
    assert np.abs(np.diff(ticks) / midi.resolution - 1).max() < 0.01
    np.testing.assert_allclose(read_onsets(content), SCALE.starts, atol=6e-4)


def play_waltz(rng: np.random.Generator) -> tuple[NoteSeq, np.ndarray]:
    """Return a bass note and two chords per bar, with eighths above, and its beats.

    The tempo goes from 100 to 150 beats per minute and back, and onsets are 10 ms off.
    """
    periods = 0.6 - 0.2 * np.sin(np.linspace(0, np.pi, 90))
    beats = 0.7 + np.append(0, np.cumsum(periods))
    rows = []
    for k, (beat, period) in enumerate(zip(beats[:-1], periods, strict=True)):
        pitches = [36] if k % 3 == 0 else [52, 55]
        rows += [(beat, pitch, 80) for pitch in pitches]
        rows += [(beat, 72 + k % 5, 64), (beat + period / 2, 74 + k % 7, 50)]
    starts, pitches, velocities = np.array(rows).T
    starts = np.maximum(starts + rng.normal(0, 0.01, len(rows)), 0)
    return NoteSeq(starts, starts + 0.2, pitches, velocities), beats[:-1]


def test_beats_follow_a_changing_tempo() -> None:
    notes, beats = play_waltz(np.random.default_rng(0))
    found = find_beats(notes)
    error = np.abs(found[:, None] - beats).min(axis=0)
    assert (error < 0.07).mean() > 0.95
    assert abs(len(found) - len(beats)) <= 3


@pytest.mark.parametrize("count", [0, 1, 2])
def test_beats_of_almost_no_notes(count: int) -> None:
    notes = SCALE.truncate(0.25 * count)
    assert find_beats(notes).tolist() == [0, 0.5]


def test_grid_moves_new_onsets_only() -> None:
    starts = np.array([0.0, 0.07, 0.26, 0.31, 0.31])
    notes = NoteSeq(starts, starts + 0.2, [60, 62, 64, 65, 67], [64] * 5)
    is_given = np.array([True, True, False, False, False])
    tempo_map = TempoMap.constant(120)
    result, given = quantize_onsets(notes, tempo_map, parse_grid("1/16"), is_given)
    np.testing.assert_allclose(result.starts, [0, 0.07, 0.25, 0.25, 0.25])
    np.testing.assert_allclose(result.ends - result.starts, 0.2)
    assert given.tolist() == is_given.tolist()


def test_grid_keeps_one_note_of_a_key_at_a_time() -> None:
    notes = NoteSeq([0, 0.24, 0.26, 0.49], [0.1, 0.25, 0.6, 0.8], [60] * 4, [64] * 4)
    result, given = quantize_onsets(notes, TempoMap.constant(120), 0.5, np.zeros(4, bool))
    np.testing.assert_allclose(result.starts, [0, 0.25, 0.5])
    assert (result.ends[:-1] <= result.starts[1:]).all()
    assert len(given) == 3


def test_grid_is_exact_in_ticks() -> None:
    tempo_map = TempoMap.constant(97)
    starts = np.sort(np.random.default_rng(1).uniform(0, 20, 60))
    notes = NoteSeq(starts, starts + 0.3, 40 + np.arange(60), [64] * 60)
    for name, parts in (("1/16", 4), ("1/24", 6)):
        grid = parse_grid(name)
        quantized, _ = quantize_onsets(notes, tempo_map, grid, np.zeros(60, bool))
        content = write_tempo_map(quantized.to_midi_bytes(), tempo_map, grid)
        file, now, onsets = mido.MidiFile(file=io.BytesIO(content)), 0, []
        for message in file.tracks[1]:
            now += message.time
            if message.type == "note_on" and message.velocity:
                onsets.append(now * parts / file.ticks_per_beat)
        assert onsets == np.rint(onsets).tolist()
        assert len(onsets) == 60


@pytest.mark.parametrize("text", ["3", "0/4", "3/5", "x/4", "100/4", ""])
def test_invalid_meters(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time signature"):
        parse_meter(text)


@pytest.mark.parametrize("text", ["16", "1/0", "1/5", "2/16", ""])
def test_invalid_grids(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be one of 1/4, 1/6"):
        parse_grid(text)
