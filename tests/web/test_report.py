"""The report of preprocess.py: content, escaping, charts, and size."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import preprocess
from corpus.filters import PerformanceStats
from corpus.summary import CONVERTED, DUPLICATE, REJECTED, FileRecord, Summary
from sequence import NoteSeq
from tests.browser import needs_browser, open_browser
from tests.web.parsed_page import ParsedPage
from tools.synthetic_data import write_midi
from utils import format_time
from web.report import MARK, MAX_ROWS, render_report

HOSTILE_NAMES = (
    "<script>alert(1)</script>.mid",
    '"><img src=x onerror=alert(1)>.mid',
    "a & b &lt; 'c'.mid",
    "line\nbreak\t\u202ebidi.mid",
    b"not \xff utf-8.mid".decode(errors="surrogateescape"),
    "</style></title></table>{{ source }}.mid",
)


def make_record(name: str, minutes: float = 1.0, **fields: Any) -> FileRecord:
    """Return the record of a converted file with 100 notes, all of them in the data."""
    pitch_counts, velocity_counts = np.zeros((2, 128), np.int32)
    pitch_counts[40:60], velocity_counts[20:40] = 5, 5
    record = FileRecord(
        *(name, Path(name), CONVERTED),
        notes=100,
        milliseconds=round(60_000 * minutes),
        onset_error_mean=0.003,
        onset_error_max=0.0074,
        stats=PerformanceStats(60 * minutes, pitch_counts, velocity_counts, 0.2, 0.5),
    )
    return replace(record, **fields)


def read_tooltips(page: bytes, chart: str) -> list[str]:
    """Return the tooltips of the bars of a chart."""
    figure = re.search(rf"<h2>{chart} .*?</figure>", page.decode(), re.DOTALL)
    assert figure
    return re.findall(r"<title>(.*?)</title>", figure[0])


# --------------------------------------------------------------------------------- content


def test_report_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    midi, argv = tmp_path / "midi", [str(tmp_path / "midi"), str(tmp_path / "data"), "1"]
    for seed in range(3):
        write_midi(midi / f"{seed}.mid", 200, seed)
    notes = NoteSeq.from_midi_file(midi / "0.mid")
    NoteSeq(notes.starts * 1.1, notes.ends * 1.1, notes.pitches + 2, notes.velocities).to_midi_file(
        midi / "0 altered.mid"
    )
    (midi / "1 copy.mid").write_bytes((midi / "1.mid").read_bytes())
    (midi / "broken.mid").write_text("no")
    assert preprocess.main([*argv, "--report"]) == 0
    path = tmp_path / "data" / "report.html"
    assert str(path) in capsys.readouterr().out
    content = path.read_bytes()
    page = ParsedPage(content)
    for text in ("4performances", "3pieces, 1 with", "1duplicate,", "1of 6 files rejected"):
        assert text in page.text
    for text in ("Rejected: 1 unreadable", "not start with MThd", "1 copy.mid", "0 altered.mid"):
        assert text in page.text
    assert preprocess.main([*argv, "--report"]) == 0
    assert path.read_bytes() == content, "the same data gives the same bytes"
    assert "Split" not in page.text
    assert preprocess.main([*argv, "--report", "--split", "1,0,0"]) == 0
    text = ParsedPage(path.read_bytes()).text.replace("\n", " ")
    assert re.search(r"3 pieces, 4 performances, 2:\d\d\b", text)


def test_only_own_report_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(tmp_path / "midi"), str(tmp_path / "data"), "1", "--report"]
    write_midi(tmp_path / "midi" / "a.mid")
    report = tmp_path / "data" / "report.html"
    report.parent.mkdir()
    report.write_text("<title>Data in the house</title>")
    assert preprocess.main(argv) == 1
    assert f"{report}: not written by preprocess.py: move it" in capsys.readouterr().err
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]
    old = render_report(Summary([]), "midi").replace(
        b'<meta name="generator" content="performance-rnn-report">\n', b""
    )
    assert MARK.encode() not in old
    report.write_bytes(old)  # of version 1.0
    assert preprocess.main(argv) == preprocess.main(argv) == 0
    assert MARK in report.read_text()


def test_instruments_and_repairs_are_listed() -> None:
    stats = replace(
        make_record("a.mid").stats,
        instruments=("Piano (no program): 90 notes", "Solo (Violin): 5 notes, not used"),
        selection="piano taken out of several instruments",
        repairs={"notes without a note off": 3},
        has_stuck_pedal=True,
    )
    page = ParsedPage(render_report(Summary([make_record("a.mid", stats=stats)]), "midi"))
    for text in (
        "Piano (no program): 90 notes; Solo (Violin): 5 notes, not used",
        "piano taken out of several instruments",
        "3 notes without a note off",
        "stuck, or never released",
    ):
        assert text in page.text
    assert "Repaired: 3 notes without a note off." in page.texts["li"]
    assert "The sustain pedal is stuck, or never released: 1 file." in page.texts["li"]


@pytest.mark.parametrize("count", [0, 1, 10_000])
def test_any_number_of_files_fits(count: int) -> None:
    records = [make_record(f"folder/{n}.mid", 1 + n % 7) for n in range(count)]
    content = render_report(Summary(records), "midi")
    page = ParsedPage(content)
    assert len(content) < 1_000_000
    assert len(page.find("tr")) <= 5 * (MAX_ROWS + 1)
    assert len(page.find("svg")) == (6 if count else 0)
    noun = "performance" if count == 1 else "performances"
    assert (page.texts["b"][0], page.texts["span"][0]) == (f"{count:,}", noun)
    assert ("No problems found." in page.text) == (count < 2)  # many are too sparse
    assert ("and 9,500 more" in page.text) == (count == 10_000)


def test_counts_of_one_have_singular_nouns() -> None:
    record = make_record("a.mid")
    assert record.stats
    pitch_counts = record.stats.pitch_counts.copy()
    pitch_counts[5] = 1  # below the piano
    stats = replace(record.stats, pitch_counts=pitch_counts)
    records = [
        replace(record, stats=stats),
        make_record("b.mid", outcome=DUPLICATE, duplicate_of="a.mid", stats=None),
        make_record("c.mid", outcome=REJECTED, reason="unreadable", stats=None),
    ]
    pairs = [("a.mid", "d.mid", 0.95)]
    summary = Summary(records, pieces=[records[:1]], near_duplicates=pairs)
    page = ParsedPage(render_report(summary, "midi"))
    assert page.texts["span"][:2] == ["performance", "of music"]
    assert page.texts["span"][3:5] == ["piece", "duplicate, not used"]
    assert "Performances with nearly the same notes: 1 pair." in page.texts["li"]
    assert any(text.startswith("Not in the data: 1 note outside") for text in page.texts["li"])


# -------------------------------------------------------------------------------- security


def test_names_are_escaped() -> None:
    records = [make_record(name) for name in HOSTILE_NAMES]
    pieces = [list(records)]
    for name in HOSTILE_NAMES:
        records += [
            make_record(name, outcome=REJECTED, reason="unreadable", detail=name, stats=None),
            make_record(name, outcome=DUPLICATE, duplicate_of=name, stats=None),
        ]
    pairs = [(HOSTILE_NAMES[0], name, 0.95) for name in HOSTILE_NAMES]
    summary = Summary(records, pieces=pieces, near_duplicates=pairs)
    page = ParsedPage(render_report(summary, HOSTILE_NAMES[0]))
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not {name for name in page.attribute_names if name.startswith("on")}
    assert not {"src", "href"} & page.attribute_names
    for name in (*HOSTILE_NAMES[:3], "line\\nbreak\\t\\u202ebidi.mid", HOSTILE_NAMES[5]):
        assert page.text.count(name) >= 6
    assert "not \\udcff utf-8.mid" in page.text


def test_page_fetches_and_runs_nothing() -> None:
    content = render_report(Summary([make_record("a.mid")]), "midi").decode()
    assert not re.search(r"https?:|@import|<script|<link", content)
    assert not re.search(r"url\((?!#)", content), "only references within the page"
    assert "default-src 'none'" in content


# ---------------------------------------------------------------------------------- charts


def test_histogram_counts_each_value_and_clips_outliers() -> None:
    minutes = np.append(np.random.default_rng(0).uniform(1, 5, 300), [3000.0])
    summary = Summary([make_record("a.mid", value) for value in minutes])
    page = render_report(summary, "midi")
    tooltips = read_tooltips(page, "Length")
    assert sum(int(text.rpartition(": ")[2]) for text in tooltips) == 301
    assert len(tooltips) > 7
    assert re.fullmatch(r"\d+:\d\d or more: 1", tooltips[-1])
    assert re.search(r"median [23]:\d\d, 90% between 1:\d\d and [45]:\d\d<", page.decode())


def test_bars_are_in_proportion() -> None:
    pitch_counts = np.zeros(128, np.int32)
    pitch_counts[[20, 60, 61]] = 10, 20, 40  # 20 is below the piano
    stats = PerformanceStats(60.0, pitch_counts, pitch_counts, 0.2, 0.5)
    page = render_report(Summary([make_record("a.mid", stats=stats)]), "midi").decode()
    (figure,) = re.findall(r"<h2>Pitch .*?(<svg.*?</svg>)", page, re.DOTALL)
    root = ElementTree.fromstring(figure.replace("xlink:", ""))  # noqa: S314 - our own text
    bars = {}
    for group in root.iter("g"):
        title, path = group.find("title"), group.find("path")
        if title is not None and path is not None:
            points = re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d", ""))
            heights = [float(y) for _, y in points]
            bars[title.text] = max(heights) - min(heights), path.get("style")
    assert list(bars) == ["G♯0: 10", "C4: 20", "C♯4: 40"]
    heights = [height for height, _ in bars.values()]
    assert heights[2] == pytest.approx(2 * heights[1]) == pytest.approx(4 * heights[0])
    assert ["highlight" in str(style) for _, style in bars.values()] == [True, False, False]


@needs_browser
@pytest.mark.slow
def test_report_fits_a_phone(tmp_path: Path) -> None:
    records = [
        make_record("a" * 200),
        make_record("b" * 200, outcome=REJECTED, detail="c" * 200, stats=None),
    ]
    (tmp_path / "report.html").write_bytes(render_report(Summary(records), "midi"))
    with open_browser(tmp_path / "profile", width=390) as browser:
        browser.open(tmp_path / "report.html")
        width, window = browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= window
        assert browser.find_problems() == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "0:03"), (59.6, "1:00"), (204, "3:24"), (3760, "1:02:40")]
)
def test_lengths_are_minutes_and_seconds(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
