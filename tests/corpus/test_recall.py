"""Recall of earlier passages, compared with a plain search, and step by step."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus import recall
from corpus.recall import (
    RECALL_ROWS,
    NoteMemory,
    PerformanceRecall,
    find_recall,
    index_recall,
    index_row,
    recall_events,
    transpose_recall,
)
from tests.web.pages import needs_node, run_node_json
from utils import Array
from web.page import FOLDER as WEB

SAME, MOVED = (20, 12, 8, 6, 5, 4, 3), (12, 8, 6, 4)


def search_same(keys: Sequence[int], note: int) -> tuple[int, int]:
    """Return the latest place with the same last notes, the newest also the same; and its kind."""
    for kind, length in enumerate(SAME, 1):
        first = note - length + 1
        for place in range(note - 1, length - 2, -1):
            earlier = keys[place - length + 1 : place + 1]
            is_same = keys[place] == keys[note] and sorted(earlier) == sorted(
                keys[first : note + 1]
            )
            if first >= 0 and is_same:
                return place, kind
    return -1, 0


def search_moved(keys: Sequence[int], note: int) -> tuple[int, int]:
    """Return the latest place whose last notes have the same distances to its newest one."""
    for kind, length in enumerate(MOVED, 1):
        first = note - length + 1
        for place in range(note - 1, length - 2, -1):
            earlier = keys[place - length + 1 : place + 1]
            distances = sorted(key - keys[place] for key in earlier)
            if first >= 0 and distances == sorted(k - keys[note] for k in keys[first : note + 1]):
                return place, kind
    return -1, 0


def search(keys: Sequence[int], note: int) -> list[int]:
    """Return the row after a note, by a plain search."""
    place, kind = search_same(keys, note)
    if not 1 <= kind <= 4:  # a long passage some notes ago goes on
        for later in range(1, min(4, note) + 1):
            old, old_kind = search_same(keys, note - later)
            if 1 <= old_kind <= 4 and old + later < note:
                place, kind = old + later, 7 + later
                break
    row = []
    moved_place, moved_kind = search_moved(keys, note)
    for where, how, distance in (
        (place, kind, 0),
        (moved_place, moved_kind, keys[note] - keys[moved_place]),
    ):
        row.append(how)
        for ahead in range(1, 5):
            is_known = how > 0 and where + ahead <= note
            key = keys[where + ahead] + distance if is_known else -1
            row.append(key + 1 if 0 <= key < 88 else 0)
    return row


def draw_keys(seed: int, notes: int) -> list[int]:
    """Return keys in which passages return: the same, in another order, and in another key."""
    rng = np.random.default_rng(seed)
    keys: list[int] = rng.integers(0, 88, 30).tolist()
    while len(keys) < notes:
        start, length = rng.integers(0, len(keys) - 10), rng.integers(3, 40)
        part = keys[start : start + length]
        if rng.random() < 0.3:
            distance = int(rng.integers(-80, 80))
            part = [key + distance for key in part if 0 <= key + distance < 88]
        for number in range(len(part) - 1):
            if rng.random() < 0.1:
                part[number : number + 2] = part[number : number + 2][::-1]
        keys += [*part, *rng.integers(0, 88, rng.integers(0, 3)).tolist()]
    return keys[:notes]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_are_those_of_a_plain_search(seed: int) -> None:
    keys = draw_keys(seed, 250)
    rows = find_recall(np.array(keys))
    np.testing.assert_array_equal(rows[0], np.zeros(10))
    np.testing.assert_array_equal(rows[1:], [search(keys, note) for note in range(len(keys))])
    assert set(rows[:, 0].tolist()) == set(range(12))  # every kind occurs
    assert set(rows[:, 5].tolist()) == set(range(5))


@pytest.mark.parametrize("notes", [0, 1, 2, 3, 5, 12, 30, 400])
def test_note_by_note_gives_the_same_rows(notes: int) -> None:
    for keys in (draw_keys(3, 430)[30 : 30 + notes], [7] * notes):
        memory = NoteMemory()
        rows = [memory.row, *(memory.add(key) for key in keys)]
        np.testing.assert_array_equal(rows, find_recall(np.array(keys, np.int64)))


def test_melody_that_returns_is_continued() -> None:
    melody = [40, 42, 44, 45, 47, 50, 51, 55]
    memory = NoteMemory([*melody, 3, 2, 1, *melody[:4]])
    # the same 4 notes (kind 6), then the next four; as 4 notes in another key (kind 4), too
    assert memory.row == [6, 48, 51, 52, 56, 4, 48, 51, 52, 56]
    moved = NoteMemory([*melody, 3, 2, 1, *(key + 5 for key in melody[:4])])
    assert moved.row == [0, 0, 0, 0, 0, 4, 53, 56, 57, 61]


def test_notes_of_a_chord_are_recalled_in_any_order() -> None:
    chords = [[40, 44, 47], [35, 38, 43], [42, 45, 50]]
    memory = NoteMemory([*sum(chords, []), 80, 44, 40, 47, 38, 35, 43])  # noqa: RUF017
    assert memory.row[:3] == [4, 43, 46]  # six notes


def test_copy_of_a_memory_changes_independently() -> None:
    keys = draw_keys(4, 200)
    memory = NoteMemory(keys[:150])
    copy = memory.copy()
    for key in range(40):
        memory.add(key)
    assert [copy.add(key) for key in keys[150:]] == find_recall(np.array(keys))[151:].tolist()


def test_oldest_notes_of_very_long_music_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "MAX_NOTES", 100)
    keys = draw_keys(5, 100)
    memory = NoteMemory(keys)
    assert memory.add(9) == NoteMemory([*keys[50:], 9]).row
    assert len(memory) == 51


def test_rows_move_with_the_music() -> None:
    keys = np.clip(np.array(draw_keys(6, 200)), 10, 80)
    rows = find_recall(keys)[:, None]
    moved = transpose_recall(np.repeat(rows, 2, axis=1), np.array([5, -3]))
    np.testing.assert_array_equal(moved[:, 0, :5], find_recall(keys + 5)[:, :5])
    np.testing.assert_array_equal(moved[:, 1, :5], find_recall(keys - 3)[:, :5])
    # off the piano
    row = np.array([1, 88, 1, 0, 44, 0, 0, 0, 0, 0], np.uint8)[None, None]
    assert transpose_recall(row, np.array([1]))[0, 0].tolist() == [1, 0, 2, 0, 45, 0, 0, 0, 0, 0]
    assert transpose_recall(row, np.array([-1]))[0, 0].tolist() == [1, 87, 0, 0, 43, 0, 0, 0, 0, 0]


def test_each_part_of_a_row_has_its_own_rows_of_the_table() -> None:
    lowest, highest = [0] * 10, [11, 88, 88, 88, 88, 4, 88, 88, 88, 88]
    bounds = list(zip(index_row(lowest), index_row(highest), strict=True))
    starts = [start for start, _ in bounds]
    assert starts == [0, *(end + 1 for _, end in bounds[:-1])]
    assert bounds[-1][1] == RECALL_ROWS - 1
    rows = find_recall(np.array(draw_keys(7, 300)))
    indices = index_recall(torch.from_numpy(rows)).tolist()
    assert indices == [index_row(row) for row in rows.tolist()]


def test_events_see_only_the_notes_before_them() -> None:
    events = np.random.default_rng(8).integers(0, 240, 400)
    rows = recall_events(events)
    expected, memory = [], NoteMemory()
    for event in events.tolist():
        expected.append(memory.row)
        if event < 88:
            memory.add(event)
    np.testing.assert_array_equal(rows, expected)
    part = PerformanceRecall.from_events(events).read(130, events[130:200])
    np.testing.assert_array_equal(part, rows[130:200])


NODE_MEMORY = """
import {readFileSync} from "node:fs";
const {NoteMemory} = await import(process.argv[2]);
const {recall, keys, detours} = JSON.parse(readFileSync(0));
const memory = new NoteMemory(recall), rows = [];
keys.forEach((key, number) => {
  const before = memory.count;
  for (const other of detours[number]) memory.add(other);
  memory.truncate(before);
  rows.push(memory.add(key));
});
console.log(JSON.stringify(rows));
"""


@needs_node
def test_live_page_recalls_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "memory.mjs"
    script.write_text(NODE_MEMORY)
    keys, rng = draw_keys(9, 600), np.random.default_rng(9)
    detours = [rng.choice(keys, rng.integers(0, 4)).tolist() for _ in keys]  # played and undone
    data = {"recall": recall.describe_recall(), "keys": keys, "detours": detours}
    module = (WEB / "js" / "recall.js").as_uri()
    rows: Array = np.array(run_node_json(str(script), module, data=data))
    np.testing.assert_array_equal(rows, find_recall(np.array(keys))[1:])
    # after 100 notes the page forgets as `NoteMemory` does, also if notes are taken back then
    data["recall"] |= {"max_notes": 100}
    monkeypatch.setattr(recall, "MAX_NOTES", 100)
    memory = NoteMemory()
    rows = np.array(run_node_json(str(script), module, data=data | {"detours": [[]] * 600}))
    np.testing.assert_array_equal(rows, [memory.add(key) for key in keys])
    rows = np.array(run_node_json(str(script), module, data=data))
    assert len(rows) == 600
