"""The download scripts, run against a small local server that imitates their sites."""

from __future__ import annotations

import hashlib
import http.server
import importlib
import io
import os
import re
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
pytestmark = pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash here")


sys.path.append(str(SCRIPTS))
DOWNLOAD = importlib.import_module("download")


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
    """Answers from the table of its site, and records the requests."""

    server: Site

    def do_GET(self) -> None:
        """Answer one request, wholly or as badly as the table says."""
        site = self.server
        requested = self.headers.get("Range")
        site.requests.append(self.path)
        site.ranges.append(requested)
        reply = site.table.get(self.path, Reply(b"<html>not found</html>", 404))
        troubled = reply.troubles > 0
        reply.troubles -= troubled
        status, body = (reply.trouble if troubled else reply.status), reply.body
        if status >= 400 and troubled:
            body = b"<html>try again</html>"
        start = 0
        if requested and reply.ranges and status == 200:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(body) else 416
        self.send_response(status)
        self.send_header("Connection", "close")
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
        self.server.requests.append(f"HEAD {self.path}")
        self.send_error(405)

    def do_CONNECT(self) -> None:
        """Nobody is led anywhere: the server is also the proxy for all other hosts."""
        self.server.requests.append(f"CONNECT {self.path}")
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Site(http.server.ThreadingHTTPServer):
    """A local site: a table of replies, and the requests it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.table: dict[str, Reply] = {}
        self.requests: list[str] = []
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
        strangers = [path for path in serving.requests if not path.startswith("/")]
        assert not strangers, "only GET requests to the site itself"


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


def environment(url: str, settings: dict[str, str]) -> dict[str, str]:
    """Settings without any waiting, and a proxy for all hosts but this machine."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR") if key in os.environ}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    proxy = {"http_proxy": url, "https_proxy": url, "no_proxy": "127.0.0.1,localhost"}
    quick = {"DELAY": "0", "BACKOFF": "0.01", "TRIES": "3", "BASE_URL": url}
    return {**kept, **proxy, **quick, **settings}


def scrape(
    name: str, site: Site, folder: Path | str, *more: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a script as the README says, with `site` for its site."""
    command = ["/bin/bash", str(SCRIPTS / f"{name}_scraper.sh"), str(folder), *more]
    variables = environment(site.url, settings)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits of a run in this process instead of waiting."""
    recorded: list[float] = []
    monkeypatch.setattr(DOWNLOAD.time, "sleep", recorded.append)
    for name in ("DELAY", "BACKOFF", "TRIES", "MAX_MB", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return recorded


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

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        return scrape("maestro", site, folder, SHA256=digest, **settings)

    return run


def music_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder but the archive."""
    return {name: data for name, data in tree(folder).items() if not name.endswith(".zip")}


# every script


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_strict_and_parse(name: str) -> None:
    for path in (SCRIPTS / f"{name}_scraper.sh", SCRIPTS / "common.sh"):
        assert subprocess.run(["/bin/bash", "-n", str(path)]).returncode == 0
    assert "\nset -euo pipefail\n" in (SCRIPTS / f"{name}_scraper.sh").read_text()


def test_maestro_checksum_is_the_published_one() -> None:
    published = "70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c"
    assert f'SHA256="${{SHA256:-{published}}}"' in (SCRIPTS / "maestro_scraper.sh").read_text()


def test_midi_check_needs_all_tracks() -> None:
    whole = midi("a")
    DOWNLOAD.check_midi(whole)
    DOWNLOAD.check_midi(whole + b"after the end")
    DOWNLOAD.check_midi(b"RIFF\0\0\0\0RMIDdata\0\0\0\0" + whole)
    for size in range(1, len(whole)):
        with pytest.raises(DOWNLOAD.Truncated):
            DOWNLOAD.check_midi(whole[:size])
    for other in (b"", b"MThx", whole[:10] + b"\0\0" + whole[12:]):
        with pytest.raises(DOWNLOAD.LinkError):
            DOWNLOAD.check_midi(other)


def test_all_scripts_are_tested() -> None:
    assert {path.name for path in SCRIPTS.glob("*_scraper.sh")} == {
        f"{name}_scraper.sh" for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_help_works_from_any_folder(name: str, tmp_path: Path) -> None:
    script = SCRIPTS / f"{name}_scraper.sh"
    for folder, command in ((SCRIPTS, script.name), (tmp_path, str(script))):
        bash = ["/bin/bash", command, "-h"]
        done = subprocess.run(bash, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for word in (f"{name}_scraper.sh DIR", "BASE_URL", "DELAY", "TRIES", "MAX_MB"):
            assert word in done.stdout


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["--fast"], {}, "unknown option --fast"),
        ([""], {}, "give the folder"),
        (["my", "folder"], {}, "quote a name with spaces"),
        (["d"], {"DELAY": "soon"}, "DELAY is 'soon'"),
        (["d"], {"TRIES": "0"}, "TRIES is '0'"),
        (["d"], {"MAX_MB": "1.5"}, "MAX_MB is '1.5'"),
        (["d"], {"BASE_URL": "file:///etc"}, "BASE_URL is 'file:///etc'"),
    ],
)
def test_wrong_arguments_and_settings_are_rejected(
    words: list[str],
    settings: dict[str, str],
    message: str,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = scrape("asap", site, words[0], *words[1:], **settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert not site.requests
    assert not list(tmp_path.iterdir())


# archives


def test_maestro_is_unpacked_by_split_and_downloaded_once(site: Site, tmp_path: Path) -> None:
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
    assert site.requests == [f"/{MAESTRO}"]


def test_interrupted_archive_is_resumed(site: Site, tmp_path: Path) -> None:
    run = maestro(site, tmp_path, cut=4000, troubles=1, ranges=False)
    first = run(TRIES="1")
    assert first.returncode == 1
    assert "run it again" in first.stderr
    assert list(tree(tmp_path)) == [f"{MAESTRO}.part"]
    second = run()
    assert second.returncode == 0, second.stderr
    assert music_of(tmp_path) == MAESTRO_TREE
    assert site.ranges[1] == "bytes=4000-"


def test_whole_part_is_used_and_wrong_part_is_replaced(site: Site, tmp_path: Path) -> None:
    run = maestro(site, tmp_path)
    part = tmp_path / f"{MAESTRO}.part"
    part.write_bytes(zipped(MAESTRO_FILES))
    assert run().returncode == 0
    assert not site.requests
    for wrong in (b"?" * 99_000, b"?" * 99):  # too long for a range, and of another file
        (tmp_path / MAESTRO).unlink()
        part.write_bytes(wrong)
        done = run()
        assert done.returncode == 0, done.stderr
        assert not part.exists()
    assert (tmp_path / MAESTRO).read_bytes() == zipped(MAESTRO_FILES)


@pytest.mark.parametrize("body", [b"<html>an error page</html>", zipped({"a.mid": midi("a")})])
def test_unexpected_archive_is_rejected(body: bytes, site: Site, tmp_path: Path) -> None:
    site.table[f"/{MAESTRO}"] = Reply(body)
    done = scrape("maestro", site, tmp_path)
    assert done.returncode == 1
    assert ("not a zip" if b"html" in body else "SHA-256") in done.stderr
    assert "has the address or the file changed?" in done.stderr
    assert not tree(tmp_path)


def test_missing_archive_is_an_error(site: Site, tmp_path: Path) -> None:
    done = scrape("maestro", site, tmp_path)
    assert (done.returncode, "could not download" in done.stderr) == (1, True)
    assert "HTTP 404" in done.stderr
    assert (site.requests, tree(tmp_path)) == ([f"/{MAESTRO}"], {})


TABLE = "maestro-v3.0.0/maestro-v3.0.0.csv"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("split,midi_filename\ntrain,../../../escaped.midi\n", "'../../../escaped.midi'"),
        ("split,midi_filename\n../..,escaped.midi\n", "the split '../..'"),
        ("part,midi_filename\ntrain,a.midi\n", "lacks midi_filename or split"),
    ],
)
def test_archive_cannot_write_outside_the_folder(
    table: str, message: str, site: Site, tmp_path: Path
) -> None:
    names = ("../../../escaped.midi", "maestro-v3.0.0/../../../escaped.midi", "escaped.midi")
    files = {name: midi("x") for name in names} | {TABLE: table.encode()}
    done = maestro(site, tmp_path / "deep" / "folder", files)()
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tree(tmp_path)) == [f"deep/folder/{MAESTRO}"]


@pytest.mark.parametrize(
    "name", ["../a.mid", "/a.mid", "a/../../b.mid", "a//b.mid", "./a.mid", "C:a.mid", "a\\b.mid"]
)
def test_unsafe_names(name: str) -> None:
    assert not DOWNLOAD.is_safe_name(name)
    assert DOWNLOAD.is_safe_name('2018/it\'s a "name", ünï.midi')


def test_bad_members_are_listed_and_foreign_files_kept(site: Site, tmp_path: Path) -> None:
    files = dict(MAESTRO_FILES)
    files["maestro-v3.0.0/2009/b.midi"] = midi("b")[:-20]
    del files["maestro-v3.0.0/2018/a b.midi"]
    mine = tmp_path / "test" / "2009" / "ünï.midi"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"my own")
    done = maestro(site, tmp_path, files)()
    assert done.returncode == 1
    assert "no music found" in done.stderr
    assert "validation/2009/b.midi: cut short" in done.stdout
    assert "train/2018/a b.midi: in the table, but not in the archive" in done.stdout
    assert "is there already, but different" in done.stdout
    assert mine.read_bytes() == b"my own"


def test_asap_unpacks_performances_only(site: Site, tmp_path: Path) -> None:
    there = {"Location": "/codeload?x=1"}
    site.table["/master.zip"] = Reply(status=302, headers=there)
    site.table["/codeload?x=1"] = Reply(zipped(ASAP_FILES), ranges=False, length=False)
    done = scrape("asap", site, tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("CC BY-NC-SA 4.0", "MB", "2 new, 0 already here, 0 not available"):
        assert word in done.stdout
    music = music_of(tmp_path)
    assert ASAP_MUSIC.items() <= music.items()
    assert set(music) - set(ASAP_MUSIC) == {"metadata.csv", "README.md"}


def test_truncated_archive_without_length_is_noticed(site: Site, tmp_path: Path) -> None:
    body = zipped(ASAP_FILES)
    site.table["/master.zip"] = Reply(body, ranges=False, length=False, cut=300, troubles=1)
    assert scrape("asap", site, tmp_path).returncode == 0
    assert ASAP_MUSIC.items() <= music_of(tmp_path).items()
    short = tmp_path / "short"
    site.table["/master.zip"] = Reply(body[:-40])
    done = scrape("asap", site, short)
    assert (done.returncode, "cut short" in done.stderr) == (1, True)
    assert not tree(short)


def test_other_repository_is_rejected(site: Site, tmp_path: Path) -> None:
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


def test_competition_downloads_all_years(site: Site, tmp_path: Path) -> None:
    expected = competition(site)
    done = scrape("ecomp_piano", site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "License: none is stated" in done.stdout
    assert "3 new, 0 already here" in done.stdout
    assert tree(tmp_path) == expected
    assert site.requests[:11] == [f"/midi_{year}.asp" for year in YEARS]


def test_broken_links_are_listed_and_skipped(site: Site, tmp_path: Path) -> None:
    site.page("/page", "/gone.mid", "/html.mid", "/short.mid", "/empty.mid", "/loop.mid", "/a.mid")
    site.table["/html.mid"] = Reply(b"<html>sorry</html>")
    site.table["/short.mid"] = Reply(midi("x")[:-30])
    site.table["/empty.mid"] = Reply(b"")
    site.table["/loop.mid"] = Reply(status=302, headers={"Location": "/loop.mid"})
    site.music("/a.mid")
    done = scrape("midi", site, tmp_path, f"{site.url}/page")
    assert done.returncode == 0, done.stderr
    assert "1 new, 0 already here, 5 not available" in done.stdout
    for name, reason in [
        ("gone", "HTTP 404"),
        ("html", "not a MIDI file but a page"),
        ("short", "cut short in its last track"),
        ("empty", "not a MIDI file"),
        ("loop", "HTTP 302"),
    ]:
        assert f"/{name}.mid: {reason}" in done.stdout, done.stdout
    assert list(tree(tmp_path).values()) == [midi("/a.mid")]
    assert site.requests.count("/html.mid") == site.requests.count("/gone.mid") == 1


def test_changed_or_missing_page_is_an_error(site: Site, tmp_path: Path) -> None:
    competition(site)
    site.page("/midi_2018.asp", "index.asp")
    del site.table["/midi_2002.asp"]
    done = scrape("ecomp_piano", site, tmp_path)
    assert done.returncode == 1
    assert "midi_2018.asp has changed" in done.stderr
    assert "midi_2002.asp: HTTP 404" in done.stdout
    assert "2 new, 0 already here, 2 not available" in done.stdout


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


def test_classical_pages_give_each_piece_once(site: Site, tmp_path: Path) -> None:
    classics(site)
    done = scrape("classic_piano", site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CC BY-SA 3.0" in done.stdout
    names = ("chopin/chpn_op10.mid", "chopin/alone_format0.mid", "bach/bach_846.mid")
    assert tree(tmp_path) == {f"midis/{name}": midi(f"/midis/{name}") for name in names}
    assert "gone.htm: HTTP 404" in done.stdout
    assert "/x/far.htm" not in site.requests
    site.requests.clear()
    again = scrape("classic_piano", site, tmp_path)
    assert "0 new, 3 already here" in again.stdout
    assert site.requests == [
        f"/{name}.htm" for name in ("midi_files", "chopin", "bach", "faq", "gone")
    ]


def test_index_without_pages_is_an_error(site: Site, tmp_path: Path) -> None:
    site.table["/midi_files.htm"] = Reply(b"<html>Willkommen</html>")
    done = scrape("classic_piano", site, tmp_path)
    assert (done.returncode, "midi_files.htm has changed" in done.stderr) == (1, True)


# any page


def test_unusual_names_are_kept(site: Site, tmp_path: Path) -> None:
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
    site.music(*(path for path, _ in links.values()))
    folder = tmp_path / 'Zoë\'s "music"'
    done = scrape("midi", site, folder, f"{site.url}/x/page[1].html")
    assert done.returncode == 0, done.stdout + done.stderr
    host = site.url.removeprefix("http://").replace(":", "_")
    names = {f"{host}/{name}": midi(path) for path, name in links.values()}
    assert tree(folder) == names


def test_folder_may_start_with_a_dash(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site.music("/a.mid")
    done = scrape("midi", site, "--", "-h", f"{site.url}/a.mid")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "-h").rglob("a.mid"))


def test_colliding_names_get_a_hash(site: Site, tmp_path: Path) -> None:
    paths = ("/a.mid", "/A.mid", "/a.mid?v=1", "/a.mid?v=2", "/get?file=a.mid", "/%61.mid")
    site.music(*paths)
    other = site.url.replace("127.0.0.1", "localhost")
    (tmp_path / "list.txt").write_text(
        "# a comment\n\n" + "".join(f"{site.url}{path}\r\n" for path in paths) + f"{other}/a.mid\n"
    )
    done = scrape("midi", site, tmp_path / "m", str(tmp_path / "list.txt"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 new, 0 already here, 0 not available" in done.stdout
    got = tree(tmp_path / "m")
    assert len({name.casefold() for name in got}) == 7
    assert sorted(got.values()) == sorted(midi(path) for path in (*paths, "/a.mid"))
    site.requests.clear()
    again = scrape("midi", site, tmp_path / "m", str(tmp_path / "list.txt"))
    assert "0 new, 7 already here" in again.stdout
    assert (site.requests, tree(tmp_path / "m")) == ([], got)


def test_other_query_is_another_file(site: Site, tmp_path: Path) -> None:
    site.music("/get.mid?v=2", "/get.mid?v=3")
    for path in site.table:
        done = scrape("midi", site, tmp_path, f"{site.url}{path}")
        assert "1 new, 0 already here" in done.stdout
    assert sorted(tree(tmp_path).values()) == sorted(map(midi, site.table))


def test_redirected_page_is_the_base_of_its_links(site: Site, tmp_path: Path) -> None:
    site.table["/old"] = Reply(status=301, headers={"Location": "/new/page.html"})
    site.page("/new/page.html", "a.mid")
    site.music("/new/a.mid")
    done = scrape("midi", site, tmp_path, BASE_URL=f"{site.url}/old")
    assert done.returncode == 0, done.stderr
    assert list(tree(tmp_path).values()) == [midi("/new/a.mid")]


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a.mid"])
def test_redirects_away_from_http_are_not_followed(target: str, site: Site, tmp_path: Path) -> None:
    site.table["/a.mid"] = Reply(status=302, headers={"Location": target})
    done = scrape("midi", site, tmp_path, f"{site.url}/a.mid")
    assert done.returncode == 1
    assert not tree(tmp_path)


def test_page_with_base_and_plain_list(site: Site, tmp_path: Path) -> None:
    site.table["/page"] = Reply(b"<base href='/deep/'><a href=a.mid>a</a>")
    site.table["/list"] = Reply(f"{site.url}/b.mid\n{site.url}/no.txt\n".encode())
    site.music("/deep/a.mid", "/b.mid")
    done = scrape("midi", site, tmp_path, f"{site.url}/page", f"{site.url}/list")
    assert done.returncode == 0, done.stderr
    assert len(tree(tmp_path)) == 2


def test_nothing_to_download_is_an_error(site: Site, tmp_path: Path) -> None:
    assert scrape("midi", site, tmp_path / "m", f"{tmp_path}/missing.txt").returncode == 2
    done = scrape("midi", site, tmp_path / "m", BASE_URL="")
    assert (done.returncode, "give a page" in done.stderr) == (2, True)
    site.page("/nothing", "a.txt")
    done = scrape("midi", site, tmp_path / "m", f"{site.url}/nothing")
    assert (done.returncode, "no links to MIDI files" in done.stderr) == (1, True)
    done = scrape("midi", site, tmp_path / "m", f"{site.url}/a.mid")
    assert (done.returncode, "no music found" in done.stderr) == (1, True)


# manners, and what goes wrong in between


def test_retries_wait_longer_and_respect_retry_after(
    site: Site, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELAY", "0.5")
    site.music("/a.mid", "/b.mid")
    site.table["/a.mid"].troubles, site.table["/a.mid"].trouble = 1, 503
    site.table["/b.mid"].troubles, site.table["/b.mid"].trouble = 2, 429
    site.table["/a.mid"].headers = {"Retry-After": "7"}
    urls = [f"{site.url}/a.mid", f"{site.url}/b.mid"]
    DOWNLOAD.main(["pages", "--max-mb", "1", str(tmp_path / "m"), *urls])
    assert site.requests == ["/a.mid"] * 2 + ["/b.mid"] * 3
    assert waits == [7, 0.5, 0.5, 2, 0.5, 4, 0.5]


def test_default_is_one_request_a_second(
    site: Site, tmp_path: Path, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    site.page("/page", "a.mid", "b.mid")
    site.music("/a.mid", "/b.mid")
    DOWNLOAD.main(["pages", "--max-mb", "1", str(tmp_path / "m"), f"{site.url}/page"])
    assert waits == [1, 1]
    assert "at most one request in 1 s" in capsys.readouterr().out


def test_silent_site_is_left_alone_until_the_next_run(site: Site, tmp_path: Path) -> None:
    names = [f"/{number}.mid" for number in range(6)]
    site.page("/page", *names)
    site.music(*names)
    for name in names[1:]:
        site.table[name].troubles, site.table[name].trouble = 99, 500
    done = scrape("midi", site, tmp_path, f"{site.url}/page", TRIES="1")
    assert done.returncode == 1
    assert "run it again to go on" in done.stderr
    assert site.requests == ["/page", *names[:4]]
    site.music(*names)
    done = scrape("midi", site, tmp_path, f"{site.url}/page")
    assert (done.returncode, "5 new, 1 already here" in done.stdout) == (0, True)


def test_too_large_files_are_not_downloaded(site: Site, tmp_path: Path) -> None:
    site.music("/small.mid")
    for name, length in (("/told.mid", True), ("/untold.mid", False)):
        site.table[name] = Reply(midi(name, 20 << 20), length=length)
    urls = [f"{site.url}{name}" for name in ("/told.mid", "/untold.mid", "/small.mid")]
    done = scrape("midi", site, tmp_path, *urls, MAX_MB="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("larger than 1 MB") == 2
    assert site.sent < 30 << 20, "it stops when there is too much"
    assert list(tree(tmp_path).values()) == [midi("/small.mid")]


def test_control_c_leaves_a_part_that_is_resumed(site: Site, tmp_path: Path) -> None:
    site.music("/a.mid", "/b.mid")
    site.table["/b.mid"] = Reply(midi("/b.mid", 99_000), cut=50_000, hold=threading.Event())
    command = ["/bin/bash", str(SCRIPTS / "midi_scraper.sh"), str(tmp_path / "m")]
    running = subprocess.Popen(
        [*command, f"{site.url}/a.mid", f"{site.url}/b.mid"],
        env=environment(site.url, {}),
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
    hold = site.table["/b.mid"].hold
    assert hold
    hold.set()
    site.table["/b.mid"] = Reply(midi("/b.mid", 99_000))
    done = scrape("midi", site, tmp_path / "m", f"{site.url}/a.mid", f"{site.url}/b.mid")
    assert "1 new, 1 already here" in done.stdout
    assert site.requests[-1] == "/b.mid"
    assert re.fullmatch(r"bytes=[1-9]\d+-", site.ranges[-1] or "")
    assert sorted(tree(tmp_path / "m").values()) == [midi("/a.mid"), midi("/b.mid", 99_000)]


def test_foreign_files_are_neither_changed_nor_deleted(site: Site, tmp_path: Path) -> None:
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
    assert "0 new, 1 already here, 3 not available" in done.stdout


def test_docs_list_every_script_with_its_license() -> None:
    readme = (SCRIPTS.parents[1] / "docs" / "datasets.md").read_text()
    for name in NAMES:
        row = re.search(rf"^\| `bash scripts/{name}_scraper\.sh midi/\w+.*` \|.*$", readme, re.M)
        assert row, name
        for license_name in re.findall(
            r"CC BY[-\w]* \d\.\d", (SCRIPTS / f"{name}_scraper.sh").read_text()
        ):
            assert license_name in row[0]
