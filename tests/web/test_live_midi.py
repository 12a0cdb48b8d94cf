"""MIDI files that the live page reads and writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pretty_midi
import pytest

from midi.notes import read_midi_texts
from sequence import ControlSeq, EventSeq, NoteSeq
from tests.web.pages import needs_node, run_node, run_node_json, write_small_page

pytestmark = needs_node


def test_written_file_has_the_notes_and_texts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    starts = np.sort(rng.integers(0, 700_000, 300)) / 1.0
    notes = [
        {"start": start, "end": start + 15 + 3000 * rng.random(), "pitch": 21 + k % 88}
        | {"velocity": 1 + k % 127}
        for k, start in enumerate(starts.tolist())
    ]
    texts = ["session: ä♯ </script>", "seed: 5"]
    run_node("midifile.mjs", "write", tmp_path / "a.mid", data={"notes": notes, "texts": texts})
    (piano,) = pretty_midi.PrettyMIDI(str(tmp_path / "a.mid")).instruments
    written = sorted((n.start, n.pitch, n.end, n.velocity) for n in piano.notes)
    expected = sorted(
        (n["start"] / 1000, n["pitch"], n["end"] / 1000, n["velocity"]) for n in notes
    )
    np.testing.assert_allclose(written, expected, atol=0.00051)
    assert list(read_midi_texts((tmp_path / "a.mid").read_bytes())) == texts


def test_files_are_read_as_by_generate(midi_path: Path) -> None:
    notes = run_node_json("midifile.mjs", "read", midi_path)
    rows = sorted((n["start"] / 1000, n["pitch"], n["end"] / 1000, n["velocity"]) for n in notes)
    expected = NoteSeq.from_midi_file(midi_path)
    columns = (expected.starts, expected.pitches, expected.ends, expected.velocities)
    np.testing.assert_allclose(rows, sorted(zip(*columns, strict=True)), atol=0.001)


def test_events_of_a_file_are_within_8_ms(midi_path: Path, tmp_path: Path) -> None:
    page = write_small_page(tmp_path / "live.html")
    result = run_node_json("midifile.mjs", "encode", midi_path, page)
    notes = NoteSeq.from_midi_file(midi_path)
    last = notes.starts.max()
    is_last = notes.starts >= last - 20
    expected = notes.select(is_last).trim_start()
    decoded = EventSeq(result["events"]).to_note_seq()
    assert len(decoded) >= 0.98 * len(expected)  # repeated notes may become one
    order = np.lexsort((decoded.pitches, decoded.starts))
    for start, pitch in zip(decoded.starts[order], decoded.pitches[order], strict=True):
        assert np.abs(expected.starts[expected.pitches == pitch] - start).min() < 0.0085
    controls = ControlSeq.from_event_seq(EventSeq(result["events"]))
    densities = [control["density"] for control in result["controls"]]
    np.testing.assert_array_equal(densities, controls.note_density)
    histograms = [control["histogram"] for control in result["controls"]]
    np.testing.assert_allclose(histograms, controls.pitch_histogram, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"MThd", b"x" * 100])
def test_other_files_are_not_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mid").write_bytes(content)
    assert run_node_json("midifile.mjs", "read", tmp_path / "a.mid") == "not a MIDI file"


def test_damaged_files_give_the_notes_that_they_have(data_dir: Path, tmp_path: Path) -> None:
    content = sorted(data_dir.glob("*.mid"))[0].read_bytes()
    (tmp_path / "a.mid").write_bytes(content[: len(content) // 2])
    assert len(run_node_json("midifile.mjs", "read", tmp_path / "a.mid")) > 10
