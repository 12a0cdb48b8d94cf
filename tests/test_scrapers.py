"""The download scripts, run for real against a small server that imitates their sites."""

from __future__ import annotations

import hashlib
import http.server
import importlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "dataset" / "scripts"
NAMES = ("maestro", "asap", "ecomp_piano", "classic_piano", "midi")
TOOLS = [
    pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"no {name} here"))
    for name in ("curl", "wget")
]
TOOL = next((name for name in ("curl", "wget") if shutil.which(name)), "")
with_each_tool = pytest.mark.parametrize("tool", TOOLS)
pytestmark = [
    pytest.mark.skipif(not TOOL, reason="neither curl nor wget is here"),
    pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash here"),
]


sys.path.append(str(SCRIPTS))
FILES = importlib.import_module("files")


@dataclass
class Reply:
    """What the server answers to one path."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    length: bool = True  # whether the length is announced
    cut: int | None = None  # hang up after so many bytes, while `troubles` last
    troubles: int = 0  # the first answers are `trouble`, or cut
    trouble: int = 200
    hold: threading.Event | None = None  # wait for it after `cut` bytes


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from the table of its site and writes down what it was asked."""

    server: Site

    def do_GET(self) -> None:
        """Answer one request, wholly or as badly as the table says."""
        site = self.server
        wanted = self.headers.get("Range")
        site.asked.append(self.path)
        site.ranges.append(wanted)
        reply = site.table.get(self.path, Reply(b"<html>not found</html>", 404))
        troubled = reply.troubles > 0
        reply.troubles -= troubled
        status, body = (reply.trouble if troubled else reply.status), reply.body
        if status >= 400 and troubled:
            body = b"<html>try again</html>"
        start = 0
        if wanted and reply.ranges and status == 200:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(body) else 416
        self.send_response(status)
        self.send_header("Connection", "close")  # said, for wget takes silence for keep-alive
        for key, value in reply.headers.items():
            self.send_header(key, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        body = b"" if status == 416 else body[start:]
        if reply.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cuts = reply.cut is not None and (troubled or reply.hold)
        body = body[: reply.cut] if cuts else body
        for at in range(0, len(body), 50_000):
            self.wfile.write(body[at : at + 50_000])
            site.sent += len(body[at : at + 50_000])
        if reply.hold:
            self.wfile.flush()
            reply.hold.wait(10)

    def do_HEAD(self) -> None:
        """Not known here, as on some sites."""
        self.server.asked.append(f"HEAD {self.path}")
        self.send_error(405)

    def do_CONNECT(self) -> None:
        """Nobody is led anywhere: the server is also the proxy for all other hosts."""
        self.server.asked.append(f"CONNECT {self.path}")
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Site(http.server.ThreadingHTTPServer):
    """A site on the loopback: a table of replies, and what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.table: dict[str, Reply] = {}
        self.asked: list[str] = []
        self.sent = 0  # bytes of bodies
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to speak of."""

    def page(self, path: str, *links: str) -> None:
        """Put a page with these links."""
        anchors = "".join(f'<li><A HREF="{link}">a piece &amp; more</A>' for link in links)
        text = f"<html><body><img src='logo.gif'>{anchors}</body></html>"
        self.table[path] = Reply(text.encode(), headers={"Content-Type": "text/html"})

    def music(self, *paths: str) -> None:
        """Put a MIDI file at each path, each another one."""
        for path in paths:
            self.table[path] = Reply(midi(path))


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        yield serving
        serving.shutdown()
        strangers = [path for path in serving.asked if not path.startswith("/")]
        assert not strangers, "only this machine is asked, and nothing but GET"


def midi(text: str, size: int = 200) -> bytes:
    """A MIDI file of two tracks that holds `text`."""
    tracks = [b"\0\xff\x01" + bytes([len(text)]) + text.encode(), bytes(size)]
    chunks = [b"MTrk" + len(track).to_bytes(4, "big") + track for track in tracks]
    return b"MThd\0\0\0\6\0\1\0\2\1\0" + b"".join(chunks)


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def environment(url: str, tool: str, settings: dict[str, str]) -> dict[str, str]:
    """Settings without any waiting, and a proxy for all hosts but this machine."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    proxy = {"http_proxy": url, "https_proxy": url, "no_proxy": "127.0.0.1,localhost"}
    quick = {"DELAY": "0", "BACKOFF": "0.01", "TRIES": "3", "FETCHER": tool, "BASE_URL": url}
    return {**kept, **proxy, **quick, **settings}


def scrape(
    name: str, site: Site, folder: Path | str, *more: str, tool: str = TOOL, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a script as the README says, with `site` for its site."""
    command = ["/bin/bash", str(SCRIPTS / f"{name}_scraper.sh"), str(folder), *more]
    said = environment(site.url, tool, settings)
    return subprocess.run(command, env=said, capture_output=True, text=True, timeout=30)


def sleep_in(folder: Path) -> tuple[str, Path]:
    """A PATH with a `sleep` that only writes down how long it should have been, and where."""
    folder.mkdir()
    (folder / "sleep").write_text(f'#!/bin/sh\necho "$1" >> "{folder}/slept"\n')
    (folder / "sleep").chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}", folder / "slept"


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder by their names."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# what the imitated archives hold

MAESTRO = "maestro-v3.0.0-midi.zip"
MAESTRO_TABLE = (
    "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration\n"
    'Alban Berg,"Sonata, Op. 1",train,2018,2018/a b.midi,2018/a.wav,698.6\n'
    "Alban Berg,Sonata,validation,2009,2009/b.midi,2009/b.wav,600\n"
    "Franz Liszt,Après une lecture,test,2009,2009/ünï.midi,2009/c.wav,600\n"
)
MAESTRO_FILES = {
    "maestro-v3.0.0/maestro-v3.0.0.csv": MAESTRO_TABLE.encode(),
    "maestro-v3.0.0/maestro-v3.0.0.json": b"{}",
    "maestro-v3.0.0/LICENSE": b"CC BY-NC-SA 4.0",
    "maestro-v3.0.0/2018/a b.midi": midi("a", 3000),
    "maestro-v3.0.0/2009/b.midi": midi("b", 3000),
    "maestro-v3.0.0/2009/ünï.midi": midi("c", 3000),
}
MAESTRO_TREE = {
    "maestro-v3.0.0.csv": MAESTRO_TABLE.encode(),
    "LICENSE": b"CC BY-NC-SA 4.0",
    "train/2018/a b.midi": midi("a", 3000),
    "validation/2009/b.midi": midi("b", 3000),
    "test/2009/ünï.midi": midi("c", 3000),
}
ASAP_FILES = {
    "asap-dataset-master/metadata.csv": (
        b"composer,title,midi_score,midi_performance\n"
        b"Bach,Fugue,Bach/Fugue/midi_score.mid,Bach/Fugue/Shi05M.mid\n"
        b"Bach,Fugue,Bach/Fugue/midi_score.mid,Bach/Fugue/Lee01M.mid\n"
    ),
    "asap-dataset-master/README.md": b"ASAP",
    "asap-dataset-master/Bach/Fugue/midi_score.mid": midi("score"),
    "asap-dataset-master/Bach/Fugue/Shi05M.mid": midi("shi"),
    "asap-dataset-master/Bach/Fugue/Lee01M.mid": midi("lee"),
}
ASAP_MUSIC = {"Bach/Fugue/Shi05M.mid": midi("shi"), "Bach/Fugue/Lee01M.mid": midi("lee")}


def maestro(
    site: Site, folder: Path, files: dict[str, bytes] | None = None, **how: object
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Put an archive on the site; what runs the script with its checksum."""
    data = zipped(files or MAESTRO_FILES)
    site.table[f"/{MAESTRO}"] = Reply(data, **how)  # type: ignore[arg-type]
    digest = hashlib.sha256(data).hexdigest()

    def run(tool: str = TOOL, **settings: str) -> subprocess.CompletedProcess[str]:
        return scrape("maestro", site, folder, tool=tool, SHA256=digest, **settings)

    return run


def music_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder but the archive."""
    return {name: data for name, data in tree(folder).items() if not name.endswith(".zip")}


# every script


@pytest.mark.parametrize("name", NAMES)
def test_every_script_is_strict_and_can_be_parsed(name: str) -> None:
    for path in (SCRIPTS / f"{name}_scraper.sh", SCRIPTS / "common.sh"):
        assert subprocess.run(["/bin/bash", "-n", str(path)]).returncode == 0
    assert "\nset -euo pipefail\n" in (SCRIPTS / f"{name}_scraper.sh").read_text()


def test_the_checksum_of_maestro_is_the_published_one() -> None:
    published = "70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c"
    assert f'SHA256="${{SHA256:-{published}}}"' in (SCRIPTS / "maestro_scraper.sh").read_text()


def test_a_midi_file_is_whole_if_it_has_all_its_tracks_to_the_end() -> None:
    whole = midi("a")
    assert FILES.check_midi(whole)[0] == 0
    assert FILES.check_midi(whole + b"after the end")[0] == 0
    assert FILES.check_midi(b"RIFF\0\0\0\0RMIDdata\0\0\0\0" + whole)[0] == 0
    assert {FILES.check_midi(whole[:size])[0] for size in range(1, len(whole))} == {2}
    for other in (b"", b"MThx", whole[:10] + b"\0\0" + whole[12:]):
        assert FILES.check_midi(other)[0] == 1


def test_no_script_is_left_out_here() -> None:
    assert {path.name for path in SCRIPTS.glob("*_scraper.sh")} == {
        f"{name}_scraper.sh" for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_the_settings_from_any_folder(name: str, tmp_path: Path) -> None:
    script = SCRIPTS / f"{name}_scraper.sh"
    for folder, command in ((SCRIPTS, script.name), (tmp_path, str(script))):
        bash = ["/bin/bash", command, "-h"]
        done = subprocess.run(bash, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for word in (f"{name}_scraper.sh DIR", "BASE_URL", "DELAY", "TRIES", "MAX_MB", "FETCHER"):
            assert word in done.stdout


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [
        (["--fast"], {}, "there is no option --fast"),
        ([""], {}, "say the folder"),
        (["my", "folder"], {}, "a name with spaces wants quotes"),
        (["d"], {"DELAY": "soon"}, "DELAY is 'soon'"),
        (["d"], {"TRIES": "0"}, "TRIES is '0'"),
        (["d"], {"MAX_MB": "1.5"}, "MAX_MB is '1.5'"),
        (["d"], {"BASE_URL": "file:///etc"}, "BASE_URL is 'file:///etc'"),
        (["d"], {"FETCHER": "ftp"}, "FETCHER is 'ftp'"),
    ],
)
def test_what_can_not_be_meant_is_told_with_its_value(
    words: list[str],
    settings: dict[str, str],
    said: str,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = scrape("asap", site, words[0], *words[1:], **settings)
    assert done.returncode == 2
    assert said in done.stderr
    assert not site.asked
    assert not list(tmp_path.iterdir())


def test_without_curl_and_wget_it_says_what_is_needed(site: Site, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("basename", "dirname"):
        (tools / name).symlink_to(shutil.which(name) or "")
    done = scrape("asap", site, tmp_path / "d", tool="", PATH=str(tools))
    assert (done.returncode, "curl or wget is needed" in done.stderr) == (1, True)


# archives


def test_maestro_is_laid_out_by_its_official_split_and_not_fetched_twice(
    site: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "a folder"
    run = maestro(site, folder)
    done = run()
    assert done.returncode == 0, done.stderr
    for word in ("CC BY-NC-SA 4.0", "56 MB", "3 new, 0 already here", "python3 preprocess.py"):
        assert word in done.stdout
    assert music_of(folder) == MAESTRO_TREE
    again = run()
    assert again.returncode == 0, again.stderr
    assert "0 new, 3 already here" in again.stdout
    assert site.asked == [f"/{MAESTRO}"]


@with_each_tool
def test_an_archive_cut_off_in_the_middle_is_gone_on_with(
    tool: str, site: Site, tmp_path: Path
) -> None:
    run = maestro(site, tmp_path, cut=4000, troubles=1, ranges=False)
    first = run(tool, TRIES="1")
    assert first.returncode == 1
    assert "run it again" in first.stderr
    assert list(tree(tmp_path)) == [f"{MAESTRO}.part"]
    second = run(tool)
    assert second.returncode == 0, second.stderr
    assert music_of(tmp_path) == MAESTRO_TREE
    assert site.ranges[1] == "bytes=4000-"


@with_each_tool
def test_a_whole_part_is_taken_and_a_wrong_one_begun_again(
    tool: str, site: Site, tmp_path: Path
) -> None:
    run = maestro(site, tmp_path)
    part = tmp_path / f"{MAESTRO}.part"
    part.write_bytes(zipped(MAESTRO_FILES))
    assert run(tool).returncode == 0
    assert not site.asked
    for wrong in (b"?" * 99_000, b"?" * 99):  # too long for a range, and of another file
        (tmp_path / MAESTRO).unlink()
        part.write_bytes(wrong)
        done = run(tool)
        assert done.returncode == 0, done.stderr
        assert not part.exists()
    assert (tmp_path / MAESTRO).read_bytes() == zipped(MAESTRO_FILES)


@pytest.mark.parametrize("body", [b"<html>an error page</html>", zipped({"a.mid": midi("a")})])
def test_an_archive_that_is_not_the_expected_one_is_refused(
    body: bytes, site: Site, tmp_path: Path
) -> None:
    site.table[f"/{MAESTRO}"] = Reply(body)
    done = scrape("maestro", site, tmp_path)
    assert done.returncode == 1
    assert ("not a zip" if b"html" in body else "SHA-256") in done.stderr
    assert "has the address or the file changed?" in done.stderr
    assert not tree(tmp_path)


def test_an_archive_that_is_not_there_is_said(site: Site, tmp_path: Path) -> None:
    done = scrape("maestro", site, tmp_path)
    assert (done.returncode, "could not fetch" in done.stderr) == (1, True)
    assert "HTTP 404" in done.stderr
    assert (site.asked, tree(tmp_path)) == ([f"/{MAESTRO}"], {})


TABLE = "maestro-v3.0.0/maestro-v3.0.0.csv"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("split,midi_filename\ntrain,../../../escaped.midi\n", "'../../../escaped.midi'"),
        ("split,midi_filename\n../..,escaped.midi\n", "the split '../..'"),
        ("part,midi_filename\ntrain,a.midi\n", "lacks midi_filename or split"),
    ],
)
def test_an_archive_writes_nowhere_but_below_the_folder(
    table: str, said: str, site: Site, tmp_path: Path
) -> None:
    names = ("../../../escaped.midi", "maestro-v3.0.0/../../../escaped.midi", "escaped.midi")
    files = {name: midi("x") for name in names} | {TABLE: table.encode()}
    done = maestro(site, tmp_path / "deep" / "folder", files)()
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tree(tmp_path)) == [f"deep/folder/{MAESTRO}"]


@pytest.mark.parametrize(
    "name", ["../a.mid", "/a.mid", "a/../../b.mid", "a//b.mid", "./a.mid", "C:a.mid", "a\\b.mid"]
)
def test_a_name_that_could_lead_elsewhere_is_not_safe(name: str) -> None:
    assert not FILES.is_safe(name)
    assert FILES.is_safe('2018/it\'s a "name", ünï.midi')


def test_a_member_that_is_damaged_or_missing_is_named_and_a_file_of_ones_own_is_kept(
    site: Site, tmp_path: Path
) -> None:
    files = dict(MAESTRO_FILES)
    files["maestro-v3.0.0/2009/b.midi"] = midi("b")[:-20]
    del files["maestro-v3.0.0/2018/a b.midi"]
    mine = tmp_path / "test" / "2009" / "ünï.midi"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"my own")
    done = maestro(site, tmp_path, files)()
    assert done.returncode == 1
    assert "no music could be had" in done.stderr
    assert "validation/2009/b.midi: cut short" in done.stdout
    assert "train/2018/a b.midi: in the table, but not in the archive" in done.stdout
    assert "is there already, but another" in done.stdout
    assert mine.read_bytes() == b"my own"


def test_asap_gives_the_performances_without_the_scores(site: Site, tmp_path: Path) -> None:
    there = {"Location": "/codeload?x=1"}
    site.table["/master.zip"] = Reply(status=302, headers=there)
    site.table["/codeload?x=1"] = Reply(zipped(ASAP_FILES), ranges=False, length=False)
    done = scrape("asap", site, tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("CC BY-NC-SA 4.0", "MB", "2 new, 0 already here, 0 not to be had"):
        assert word in done.stdout
    music = music_of(tmp_path)
    assert ASAP_MUSIC.items() <= music.items()
    assert set(music) - set(ASAP_MUSIC) == {"metadata.csv", "README.md"}


def test_an_archive_without_a_length_that_comes_short_is_noticed(
    site: Site, tmp_path: Path
) -> None:
    body = zipped(ASAP_FILES)
    site.table["/master.zip"] = Reply(body, ranges=False, length=False, cut=300, troubles=1)
    assert scrape("asap", site, tmp_path).returncode == 0
    assert ASAP_MUSIC.items() <= music_of(tmp_path).items()
    short = tmp_path / "short"
    site.table["/master.zip"] = Reply(body[:-40])
    done = scrape("asap", site, short)
    assert (done.returncode, "cut short" in done.stderr) == (1, True)
    assert not tree(short)


def test_another_repository_is_not_taken_for_asap(site: Site, tmp_path: Path) -> None:
    site.table["/master.zip"] = Reply(zipped({"x-master/a.mid": midi("a")}))
    done = scrape("asap", site, tmp_path)
    assert done.returncode == 1
    assert "there is no metadata.csv in it" in done.stderr


# pages

YEARS = (2002, 2004, 2006, 2008, 2009, 2011, 2013, 2014, 2015, 2017, 2018)


def competition(site: Site) -> dict[str, bytes]:
    """The competition's pages, all with the same piece, two with one of their own of one name."""
    shared, *own = names = ["/midifiles/Sun%2001.mid", "/midifiles/2017/Yi.MID", "/2018/Yi.MID"]
    for year in YEARS:
        site.page(f"/midi_{year}.asp", "a.asp", "/midifiles/xp.zip", shared[1:])
    site.page("/midi_2017.asp", own[0])
    site.page("/midi_2018.asp", shared, own[1])
    site.music(*names)
    return {name[1:].replace("%20", " "): midi(name) for name in names}


def test_the_competition_gives_each_year_s_files(site: Site, tmp_path: Path) -> None:
    wanted = competition(site)
    done = scrape("ecomp_piano", site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Licence: none is stated" in done.stdout
    assert "3 new, 0 already here" in done.stdout
    assert tree(tmp_path) == wanted
    assert site.asked[:11] == [f"/midi_{year}.asp" for year in YEARS]


@with_each_tool
def test_broken_links_are_counted_and_named_and_cost_nothing_but_themselves(
    tool: str, site: Site, tmp_path: Path
) -> None:
    site.page("/page", "/gone.mid", "/html.mid", "/short.mid", "/empty.mid", "/loop.mid", "/a.mid")
    site.table["/html.mid"] = Reply(b"<html>sorry</html>")
    site.table["/short.mid"] = Reply(midi("x")[:-30])
    site.table["/empty.mid"] = Reply(b"")
    site.table["/loop.mid"] = Reply(status=302, headers={"Location": "/loop.mid"})
    site.music("/a.mid")
    done = scrape("midi", site, tmp_path, f"{site.url}/page", tool=tool)
    assert done.returncode == 0, done.stderr
    assert "1 new, 0 already here, 5 not to be had" in done.stdout
    for name, reason in [
        ("gone", "HTTP 404"),
        ("html", "not a MIDI file but a page"),
        ("short", "cut short in its last track"),
        ("empty", "not a MIDI file"),
        ("loop", "HTTP 302"),
    ]:
        assert f"/{name}.mid: {reason}" in done.stdout, done.stdout
    assert list(tree(tmp_path).values()) == [midi("/a.mid")]
    assert site.asked.count("/html.mid") == site.asked.count("/gone.mid") == 1


def test_a_page_that_has_changed_or_gone_ends_with_a_sentence(site: Site, tmp_path: Path) -> None:
    competition(site)
    site.page("/midi_2018.asp", "index.asp")
    del site.table["/midi_2002.asp"]
    done = scrape("ecomp_piano", site, tmp_path)
    assert done.returncode == 1
    assert "midi_2018.asp has changed" in done.stderr
    assert "midi_2002.asp: HTTP 404" in done.stdout
    assert "2 new, 0 already here, 2 not to be had" in done.stdout


def classics(site: Site) -> None:
    """The index, two composers, a page of no composer, and one that is gone."""
    site.page("/midi_files.htm", "chopin.htm", "bach.htm", "faq.htm", "gone.htm", "/x/far.htm")
    site.page(
        "/chopin.htm",
        "midis/chopin/chpn_op10.mid",
        "midis/chopin/chpn_op10_format0.mid",
        "midis/chopin/alone_format0.mid",
        "ogg/chopin/chpn.ogg",
    )
    site.page("/bach.htm", "midis/bach/bach_846.mid")
    site.page("/faq.htm", "midi_files.htm")
    site.music("/midis/chopin/chpn_op10.mid", "/midis/chopin/chpn_op10_format0.mid")
    site.music("/midis/chopin/alone_format0.mid", "/midis/bach/bach_846.mid")


def test_the_classical_pages_give_each_composer_s_pieces_once_and_are_asked_for_them_once(
    site: Site, tmp_path: Path
) -> None:
    classics(site)
    done = scrape("classic_piano", site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CC BY-SA 3.0" in done.stdout
    names = ("chopin/chpn_op10.mid", "chopin/alone_format0.mid", "bach/bach_846.mid")
    assert tree(tmp_path) == {f"midis/{name}": midi(f"/midis/{name}") for name in names}
    assert "gone.htm: HTTP 404" in done.stdout
    assert "/x/far.htm" not in site.asked
    site.asked.clear()
    again = scrape("classic_piano", site, tmp_path)
    assert "0 new, 3 already here" in again.stdout
    assert site.asked == [
        f"/{name}.htm" for name in ("midi_files", "chopin", "bach", "faq", "gone")
    ]


def test_an_index_that_is_an_error_page_is_told(site: Site, tmp_path: Path) -> None:
    site.table["/midi_files.htm"] = Reply(b"<html>Willkommen</html>")
    done = scrape("classic_piano", site, tmp_path)
    assert (done.returncode, "midi_files.htm has changed" in done.stderr) == (1, True)


# any page


@with_each_tool
def test_names_of_any_kind_arrive_as_they_are(tool: str, site: Site, tmp_path: Path) -> None:
    links = {
        "a b.mid": ("/x/a%20b.mid", "x/a b.mid"),
        "it&#39;s &quot;so&quot;.mid": ("/x/it's%20%22so%22.mid", 'x/it\'s "so".mid'),
        "%C3%BCn%C3%AF.MIDI": ("/x/%C3%BCn%C3%AF.MIDI", "x/ünï.MIDI"),
        "naïve.kar": ("/x/na%C3%AFve.kar", "x/naïve.kar"),
        "$(touch hacked);`id`.mid": (
            "/x/$(touch%20hacked);%60id%60.mid",
            "x/$(touch hacked);`id`.mid",
        ),
        "-rf.mid#part": ("/x/-rf.mid", "x/-rf.mid"),
        "../../../up.mid": ("/up.mid", "up.mid"),
        "..%2F..%2Fup.mid": ("/x/..%2F..%2Fup.mid", "x/_._.._up.mid"),
        "a[1-3]{x,y}.mid": ("/x/a%5B1-3%5D%7Bx,y%7D.mid", "x/a[1-3]{x,y}.mid"),
        ".hidden.mid": ("/x/.hidden.mid", "x/_hidden.mid"),
    }
    site.page(
        "/x/page[1].html", *links, "javascript:x.mid", "ftp://127.0.0.1/x.mid", "http://[.mid"
    )
    site.music(*(asked for asked, _ in links.values()))
    folder = tmp_path / 'Zoë\'s "music"'
    done = scrape("midi", site, folder, f"{site.url}/x/page[1].html", tool=tool)
    assert done.returncode == 0, done.stdout + done.stderr
    host = site.url.removeprefix("http://").replace(":", "_")
    names = {f"{host}/{name}": midi(asked) for asked, name in links.values()}
    assert tree(folder) == names


def test_a_folder_may_begin_with_a_dash(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site.music("/a.mid")
    done = scrape("midi", site, "--", "-h", f"{site.url}/a.mid")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "-h").rglob("a.mid"))


def test_addresses_that_give_one_name_do_not_overwrite_each_other(
    site: Site, tmp_path: Path
) -> None:
    asked = ("/a.mid", "/A.mid", "/a.mid?v=1", "/a.mid?v=2", "/get?file=a.mid", "/%61.mid")
    site.music(*asked)
    other = site.url.replace("127.0.0.1", "localhost")
    (tmp_path / "list.txt").write_text(
        "# a comment\n\n" + "".join(f"{site.url}{path}\r\n" for path in asked) + f"{other}/a.mid\n"
    )
    done = scrape("midi", site, tmp_path / "m", str(tmp_path / "list.txt"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 new, 0 already here, 0 not to be had" in done.stdout
    got = tree(tmp_path / "m")
    assert len({name.casefold() for name in got}) == 7
    assert sorted(got.values()) == sorted(midi(path) for path in (*asked, "/a.mid"))
    site.asked.clear()
    again = scrape("midi", site, tmp_path / "m", str(tmp_path / "list.txt"))
    assert "0 new, 7 already here" in again.stdout
    assert (site.asked, tree(tmp_path / "m")) == ([], got)


def test_an_address_with_another_query_is_not_taken_for_what_is_here(
    site: Site, tmp_path: Path
) -> None:
    site.music("/get.mid?v=2", "/get.mid?v=3")
    for path in site.table:
        done = scrape("midi", site, tmp_path, f"{site.url}{path}")
        assert "1 new, 0 already here" in done.stdout
    assert sorted(tree(tmp_path).values()) == sorted(map(midi, site.table))


@with_each_tool
def test_a_page_moved_elsewhere_is_read_from_there(tool: str, site: Site, tmp_path: Path) -> None:
    site.table["/old"] = Reply(status=301, headers={"Location": "/new/page.html"})
    site.page("/new/page.html", "a.mid")
    site.music("/new/a.mid")
    done = scrape("midi", site, tmp_path, BASE_URL=f"{site.url}/old", tool=tool)
    assert done.returncode == 0, done.stderr
    assert list(tree(tmp_path).values()) == [midi("/new/a.mid")]


def test_a_page_may_name_a_base_or_be_a_plain_list(site: Site, tmp_path: Path) -> None:
    site.table["/page"] = Reply(b"<base href='/deep/'><a href=a.mid>a</a>")
    site.table["/list"] = Reply(f"{site.url}/b.mid\n{site.url}/no.txt\n".encode())
    site.music("/deep/a.mid", "/b.mid")
    done = scrape("midi", site, tmp_path, f"{site.url}/page", f"{site.url}/list")
    assert done.returncode == 0, done.stderr
    assert len(tree(tmp_path)) == 2


def test_nothing_to_fetch_from_is_an_error_of_the_line(site: Site, tmp_path: Path) -> None:
    assert scrape("midi", site, tmp_path / "m", f"{tmp_path}/missing.txt").returncode == 2
    done = scrape("midi", site, tmp_path / "m", BASE_URL="")
    assert (done.returncode, "say a page" in done.stderr) == (2, True)
    site.page("/nothing", "a.txt")
    done = scrape("midi", site, tmp_path / "m", f"{site.url}/nothing")
    assert (done.returncode, "no links to MIDI files" in done.stderr) == (1, True)
    done = scrape("midi", site, tmp_path / "m", f"{site.url}/a.mid")
    assert (done.returncode, "no music could be had" in done.stderr) == (1, True)


# manners, and what goes wrong in between


@with_each_tool
def test_a_site_in_trouble_is_asked_again_later_and_as_late_as_it_wishes(
    tool: str, site: Site, tmp_path: Path
) -> None:
    site.music("/a.mid", "/b.mid")
    site.table["/a.mid"].troubles, site.table["/a.mid"].trouble = 1, 503
    site.table["/b.mid"].troubles, site.table["/b.mid"].trouble = 2, 429
    site.table["/a.mid"].headers = {"Retry-After": "7"}
    urls = [f"{site.url}/a.mid", f"{site.url}/b.mid"]
    path, slept = sleep_in(tmp_path / "bin")
    waits = {"BACKOFF": "2", "DELAY": "0.5", "PATH": path}
    done = scrape("midi", site, tmp_path / "m", *urls, tool=tool, **waits)
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.asked == ["/a.mid"] * 2 + ["/b.mid"] * 3
    assert slept.read_text().split() == ["7", "0.5", "0.5", "2", "0.5", "4", "0.5"]


def test_by_itself_it_asks_once_a_second_at_most(site: Site, tmp_path: Path) -> None:
    site.page("/page", "a.mid", "b.mid")
    site.music("/a.mid", "/b.mid")
    path, slept = sleep_in(tmp_path / "bin")
    done = scrape("midi", site, tmp_path / "m", f"{site.url}/page", DELAY="", PATH=path)
    assert done.returncode == 0, done.stderr
    assert slept.read_text().split() == ["1", "1"]
    assert "at most one request in 1 s" in done.stdout


def test_a_site_that_stops_answering_is_left_alone_and_the_next_run_goes_on(
    site: Site, tmp_path: Path
) -> None:
    names = [f"/{number}.mid" for number in range(6)]
    site.page("/page", *names)
    site.music(*names)
    for name in names[1:]:
        site.table[name].troubles, site.table[name].trouble = 99, 500
    done = scrape("midi", site, tmp_path, f"{site.url}/page", TRIES="1")
    assert done.returncode == 1
    assert "run it again to go on" in done.stderr
    assert site.asked == ["/page", *names[:4]]
    site.music(*names)
    done = scrape("midi", site, tmp_path, f"{site.url}/page")
    assert (done.returncode, "5 new, 1 already here" in done.stdout) == (0, True)


@with_each_tool
def test_a_file_larger_than_allowed_is_not_taken(tool: str, site: Site, tmp_path: Path) -> None:
    site.music("/small.mid")
    for name, length in (("/told.mid", True), ("/untold.mid", False)):
        site.table[name] = Reply(midi(name, 20 << 20), length=length)
    urls = [f"{site.url}{name}" for name in ("/told.mid", "/untold.mid", "/small.mid")]
    done = scrape("midi", site, tmp_path, *urls, tool=tool, MAX_MB="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("larger than 1 MB") == 2
    assert site.sent < 30 << 20, "it stops when there is too much"
    assert list(tree(tmp_path).values()) == [midi("/small.mid")]


@with_each_tool
def test_control_c_leaves_only_parts_and_the_next_run_goes_on(
    tool: str, site: Site, tmp_path: Path
) -> None:
    site.music("/a.mid", "/b.mid")
    site.table["/b.mid"] = Reply(midi("/b.mid", 99_000), cut=50_000, hold=threading.Event())
    command = ["/bin/bash", str(SCRIPTS / "midi_scraper.sh"), str(tmp_path / "m")]
    notes = tmp_path / "notes"
    notes.mkdir()
    said = environment(site.url, tool, {"TMPDIR": str(notes)})
    running = subprocess.Popen(
        [*command, f"{site.url}/a.mid", f"{site.url}/b.mid"],
        env=said,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _ in range(500):
        parts = list((tmp_path / "m").rglob("b.mid.part"))
        if parts and parts[0].stat().st_size:
            break
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(10) == 130
    assert sorted(path.name for path in (tmp_path / "m").rglob("*.*") if path.is_file()) == [
        "a.mid",
        "b.mid.part",
    ]
    assert not list(notes.iterdir())
    hold = site.table["/b.mid"].hold
    assert hold
    hold.set()
    site.table["/b.mid"] = Reply(midi("/b.mid", 99_000))
    done = scrape("midi", site, tmp_path / "m", f"{site.url}/a.mid", f"{site.url}/b.mid", tool=tool)
    assert "1 new, 1 already here" in done.stdout
    assert site.asked[-1] == "/b.mid"
    assert re.fullmatch(r"bytes=[1-9]\d+-", site.ranges[-1] or "")
    assert sorted(tree(tmp_path / "m").values()) == [midi("/a.mid"), midi("/b.mid", 99_000)]


def test_what_it_did_not_write_is_neither_changed_nor_deleted(site: Site, tmp_path: Path) -> None:
    classics(site)
    own = {
        "notes.txt": b"mine",
        "my.mid": b"mine",
        "midis/chopin/chpn_op10.mid": b"not music",
        "midis/chopin/alone_format0.mid": midi("mine, and music"),
        "midis/bach": b"a file where a folder should be",
    }
    for name, data in own.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    done = scrape("classic_piano", site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path) == own
    assert "midis/chopin/chpn_op10.mid: is there already, but not a MIDI file" in done.stdout
    assert "midis/bach/bach_846.mid: " in done.stdout
    assert "0 new, 1 already here, 3 not to be had" in done.stdout


def test_the_readme_names_every_script_with_its_licence() -> None:
    readme = (SCRIPTS.parents[1] / "README.md").read_text()
    for name in NAMES:
        row = re.search(rf"^\| `bash scripts/{name}_scraper\.sh midi/\w+.*` \|.*$", readme, re.M)
        assert row, name
        for licence in re.findall(
            r"CC BY[-\w]* \d\.\d", (SCRIPTS / f"{name}_scraper.sh").read_text()
        ):
            assert licence in row[0]
