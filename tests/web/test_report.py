"""The page about a corpus: complete, harmless, and of a size that a browser can take."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import preprocess
from corpus.summary import Ledger, Refused, Row
from sequence import NoteSeq
from tools.synthetic_data import write_midi
from web.charts import bars, histogram, round_step
from web.report import ROWS, render_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Reads a page: which tags it has, what they say, and whether each is closed."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: dict[str, int] = {}
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(content.decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def row(name: str, seconds: float = 60.0, error: float = 0.003) -> Row:
    return Row(name, seconds, 8.0, 0.5, 100, 99, error, 0.0074)


def ledger(*names: str) -> Ledger:
    made = Ledger(len(names), done=len(names), notes=99 * len(names))
    made.rows = [row(name, 30.0 + 7 * n) for n, name in enumerate(names)]
    made.pitches[40:60], made.velocities[20:90] = 7, 3
    made.same = [[name] for name in names]
    return made


HOSTILE = (
    "<script>alert(1)</script>.mid",
    '"><img src=x onerror=alert(1)>.mid',
    "a & b &lt; 'c'.mid",
    "line\nbreak\t\u202ebidi.mid",
    b"not \xff utf-8.mid".decode(errors="surrogateescape"),
    "</style></title></table>.mid",
)


def test_names_are_shown_and_never_run() -> None:
    made = ledger(*HOSTILE)
    made.refused = [(name, Refused("unreadable", name)) for name in HOSTILE]
    made.twins = [(name, name) for name in HOSTILE]
    made.nearly = [(HOSTILE[0], name, 0.95) for name in HOSTILE]
    made.same = [list(HOSTILE)]
    read = Page(render_report(made, HOSTILE[0]))
    assert not {"script", "img", "link", "iframe"} & set(read.tags)
    assert not {name for name in read.attributes if name.startswith("on")}
    assert read.links == []
    for shown in (HOSTILE[0], HOSTILE[1], HOSTILE[2], "line\\nbreak\\t\\u202ebidi.mid"):
        assert read.text.count(shown) >= 6
    assert "not \\udcff utf-8.mid" in read.text


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    content = render_report(ledger("a.mid"), "midi").decode()
    assert not re.search(r"https?:|url\(|@import|<script|<link", content)
    assert "prefers-color-scheme: dark" in content


@pytest.mark.parametrize("count", [0, 1, 10_000])
def test_no_file_one_file_and_ten_thousand_fit(count: int) -> None:
    made = ledger(*(f"folder/{n}.mid" for n in range(count)))
    content = render_report(made, "midi")
    read = Page(content)
    assert len(content) < 1_000_000
    assert read.tags.get("tr", 0) <= 5 * (ROWS + 1)
    assert f"{count:,}performances in the data" in read.text
    assert ("and 9,500 more" in read.text) == (count == 10_000)
    assert read.tags.get("svg", 0) == (6 if count else 0)


def drawn(picture: str) -> list[tuple[float, float]]:
    """Left edge and height of every bar."""
    root = ElementTree.fromstring(picture)  # noqa: S314 - our own text
    return [(float(r.get("x", 0)), float(r.get("height", 0))) for r in root.iter("rect")]


def test_bars_are_as_high_as_their_counts_and_stand_in_order() -> None:
    found = drawn(bars(np.array([4, 0, 8, 2]), list("abcd"), [], "things"))
    lefts, heights = zip(*found, strict=True)
    assert len(found) == 3
    assert sorted(lefts) == list(lefts)
    assert heights[1] == pytest.approx(2 * heights[0]) == pytest.approx(4 * heights[2])


def test_a_histogram_counts_every_value_once_and_an_outlier_does_not_flatten_it() -> None:
    values = np.append(np.random.default_rng(0).uniform(1, 5, 300), [3000.0])
    picture = histogram(values, "min")
    told = [int(n.replace(",", "")) for n in re.findall(r"<title>[^<]*: ([\d,]+)</title>", picture)]
    assert sum(told) == 301
    assert len(told) > 7
    assert "and more: 1<" in picture
    assert picture.count('class="x"') < 8
    assert drawn(histogram(np.zeros(3), "%", 100))[0][1] > 0
    assert len(drawn(histogram(np.array([100.0, 0.0]), "%", 100))) == 2


@pytest.mark.parametrize(("least", "step"), [(0.9, 1), (1.1, 2), (2.2, 2.5), (3, 5), (70, 100)])
def test_steps_are_round(least: float, step: float) -> None:
    assert round_step(least) == pytest.approx(step)


def test_the_page_of_a_run_tells_what_is_in_it_and_a_second_run_tells_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    midi, command = tmp_path / "midi", [str(tmp_path / "midi"), str(tmp_path / "data"), "1"]
    for seed in range(3):
        write_midi(midi / f"{seed}.mid", 200, seed)
    notes = NoteSeq.from_midi_file(midi / "0.mid")
    NoteSeq(notes.starts * 1.1, notes.ends * 1.1, notes.pitches + 2, notes.velocities).to_midi_file(
        midi / "0 altered.mid"
    )
    (midi / "1 twin.mid").write_bytes((midi / "1.mid").read_bytes())
    (midi / "broken.mid").write_text("no")
    assert preprocess.main([*command, "--report"]) == 0
    assert str(tmp_path / "data" / "report.html") in capsys.readouterr().out
    first = (tmp_path / "data" / "report.html").read_bytes()
    read = Page(first)
    for told in ("4performances", "3pieces, 1 played", "1twins", "1of 6 files refused"):
        assert told in read.text
    for told in ("Refused: 1 unreadable", "not start with MThd", "1 twin.mid", "0 altered.mid"):
        assert told in read.text
    assert preprocess.main([*command, "--report"]) == 0
    assert (tmp_path / "data" / "report.html").read_bytes() == first
