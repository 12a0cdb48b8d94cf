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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "dataset" / "scripts"
NAMES = sorted(path.name.removesuffix("_scraper.sh") for path in SCRIPTS.glob("*_scraper.sh"))
pytestmark = pytest.mark.skipif(not Path("/bin/bash").exists(), reason="no bash here")
sys.path.append(str(SCRIPTS))
DOWNLOAD = importlib.import_module("download")
Process = subprocess.CompletedProcess[str]


@dataclass
class Reply:
    """The answer of the server to requests of one path."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    length: bool = True  # whether the length is announced
    failures: int = 0  # number of answers that fail first
    failure: int = 200  # status of a failing answer
    cut: int | None = None  # bytes of the body that a failing answer has; None: all
    hold: threading.Event | None = None  # send `cut` bytes, then wait for this event
    drip: str = ""  # "head" or "body": send this at 120 bytes a second


class Handler(http.server.BaseHTTPRequestHandler):
    """A handler that answers from the table of its site and records the requests."""

    server: Site

    def do_GET(self) -> None:
        """Answer one request as the table says: with the whole body, a part of it, or an error."""
        site, requested = self.server, self.headers.get("Range")
        site.requests.append(self.path)
        if site.table.get(self.path, Reply()).drip:
            return self.send_slowly(site.table[self.path])
        site.ranges.append(requested)
        reply = site.table.get(self.path, Reply(b"<html>not found</html>", 404))
        fails = reply.failures > 0
        reply.failures -= fails
        status, body = (reply.failure if fails else reply.status), reply.body
        start = 0
        if requested and reply.ranges and status == 200:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            status = 206 if start < len(body) else 416
        body = b"" if status == 416 else body[start:]
        self.send_response(status)
        for key, value in reply.headers.items():
            self.send_header(key, value)
        if reply.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: reply.cut] if fails or reply.hold else body
        for position in range(0, len(body), 50_000):
            block = body[position : position + 50_000]
            self.wfile.write(block)
            site.bytes_sent += len(block)
        if reply.hold:
            reply.hold.wait(10)

    def send_slowly(self, reply: Reply) -> None:
        """Send an answer at 120 bytes a second, from its first byte or from its body on."""
        answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(reply.body)}\r\n\r\n".encode()
        if reply.drip == "body":
            self.wfile.write(answer)
            answer = b""
        for byte in answer + reply.body:
            self.wfile.write(bytes([byte]))
            time.sleep(1 / 120)

    do_HEAD = do_CONNECT = do_GET  # also recorded

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class Site(http.server.ThreadingHTTPServer):
    """A local site: a table of replies, and a record of its requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.table: dict[str, Reply] = {}
        self.requests: list[str] = []
        self.ranges: list[str | None] = []
        self.bytes_sent = 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close the connection."""

    def add_page(self, path: str, *links: str) -> None:
        """Add a page with these links."""
        anchors = "".join(f'<li><A HREF="{link}">a piece &amp; more</A>' for link in links)
        text = f"<html><body><img src='logo.gif'>{anchors}</body></html>"
        self.table[path] = Reply(text.encode())

    def add_music(self, *paths: str) -> None:
        """Add a different MIDI file at each path."""
        for path in paths:
            self.table[path] = Reply(midi(path))


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
        assert all(path.startswith("/") for path in server.requests), "a request to another host"


def midi(text: str, size: int = 200) -> bytes:
    """Return a MIDI file of two tracks; `text` makes it different from others."""
    tracks = [b"\0\xff\x01" + bytes([len(text)]) + text.encode(), bytes(size)]
    chunks = [b"MTrk" + len(track).to_bytes(4, "big") + track for track in tracks]
    return b"MThd\0\0\0\6\0\1\0\2\1\0" + b"".join(chunks)


def zipped(files: dict[str, bytes]) -> bytes:
    """Return a zip archive of these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def environment(url: str, settings: dict[str, str]) -> dict[str, str]:
    """Return settings without waits; the site is the proxy for all hosts but this machine."""
    inherited = {key: os.environ[key] for key in ("HOME", "TMPDIR") if key in os.environ}
    inherited["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    proxy = {name: url for name in ("http_proxy", "https_proxy", "ftp_proxy")}
    proxy |= {"no_proxy": "127.0.0.1,localhost"}
    quick = {"DELAY": "0", "BACKOFF": "0.01", "TRIES": "3", "BASE_URL": url}
    return inherited | proxy | quick | settings


def scrape(name: str, site: Site, *argv: Path | str, **settings: str) -> Process:
    """Run a script as the documentation says, with `site` in place of its site."""
    command = ["/bin/bash", str(SCRIPTS / f"{name}_scraper.sh"), *map(str, argv)]
    variables = environment(site.url, settings)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30)


def read_tree(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder by their names."""
    paths = filter(Path.is_file, folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# contents of the imitated archives

MAESTRO = "maestro-v3.0.0-midi.zip"
TABLE = "maestro-v3.0.0/maestro-v3.0.0.csv"
MAESTRO_TABLE = (
    "canonical_title,split,midi_filename,duration\n"
    '"Sonata, Op. 1",train,2018/a b.midi,698.6\n'
    "Sonata,validation,2009/b.midi,600\n"
    "Après une lecture,test,2009/ünï.midi,600\n"
).encode()
MAESTRO_FILES = {
    TABLE: MAESTRO_TABLE,
    "maestro-v3.0.0/LICENSE": b"CC BY-NC-SA 4.0",
    "maestro-v3.0.0/2018/a b.midi": midi("a", 3000),
    "maestro-v3.0.0/2009/b.midi": midi("b", 3000),
    "maestro-v3.0.0/2009/ünï.midi": midi("c", 3000),
}
MAESTRO_TREE = {
    MAESTRO: zipped(MAESTRO_FILES),
    "maestro-v3.0.0.csv": MAESTRO_TABLE,
    "LICENSE": b"CC BY-NC-SA 4.0",
    "train/2018/a b.midi": midi("a", 3000),
    "validation/2009/b.midi": midi("b", 3000),
    "test/2009/ünï.midi": midi("c", 3000),
}
ASAP_DOCUMENTS = {
    "metadata.csv": (
        b"composer,title,midi_score,midi_performance\n"
        b"Bach,Fugue,Bach/Fugue/midi_score.mid,Bach/Fugue/Shi05M.mid\n"
        b"Bach,Fugue,Bach/Fugue/midi_score.mid,Bach/Fugue/Lee01M.mid\n"
    ),
    "README.md": b"ASAP",
}
ASAP_MUSIC = {"Bach/Fugue/Shi05M.mid": midi("shi"), "Bach/Fugue/Lee01M.mid": midi("lee")}
ASAP_FILES = ASAP_DOCUMENTS | ASAP_MUSIC | {"Bach/Fugue/midi_score.mid": midi("score")}
ASAP_ZIP = zipped({f"asap-dataset-master/{name}": data for name, data in ASAP_FILES.items()})


def scrape_maestro(
    site: Site, folder: Path, files: dict[str, bytes] = MAESTRO_FILES, **settings: str
) -> Process:
    """Put an archive of these files on the site, and run the script with its checksum."""
    data = zipped(files)
    site.table.setdefault(f"/{MAESTRO}", Reply(data))
    digest = hashlib.sha256(data).hexdigest()
    return scrape("maestro", site, folder, SHA256=digest, **settings)


# all scripts


def test_maestro_checksum_is_published() -> None:
    published = "70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c"
    assert f'SHA256="${{SHA256:-{published}}}"' in (SCRIPTS / "maestro_scraper.sh").read_text()


def test_docs_list_every_script_with_its_license() -> None:
    page = (SCRIPTS.parents[1] / "docs" / "datasets.md").read_text()
    for name in NAMES:
        row = re.search(rf"^\| `bash scripts/{name}_scraper\.sh midi/\w+.*` \|.*$", page, re.M)
        assert row, name
        script = (SCRIPTS / f"{name}_scraper.sh").read_text()
        for license_name in re.findall(r"CC BY[-\w]* \d\.\d", script):
            assert license_name in row[0]


@pytest.mark.parametrize("name", NAMES)
def test_help_works_from_any_folder(name: str, tmp_path: Path) -> None:
    script = SCRIPTS / f"{name}_scraper.sh"
    for folder, command in ((SCRIPTS, script.name), (tmp_path, str(script))):
        bash = ["/bin/bash", command, "-h"]
        done = subprocess.run(bash, cwd=folder, capture_output=True, text=True, check=True)
        words = ("BASE_URL", "DELAY", "TRIES", "MAX_MB", "MIN_SPEED", "MAX_UNPACKED_MB")
        for word in (f"{name}_scraper.sh DIR", *words):
            assert word in done.stdout


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["--fast"], {}, "unknown option --fast"),
        ([""], {}, "give the folder"),
        (["my", "folder"], {}, "too many arguments after my: folder (quote a name with spaces)"),
        (["d"], {"DELAY": "soon"}, "DELAY is 'soon'"),
        (["d"], {"TRIES": "0"}, "TRIES is '0'"),
        (["d"], {"MAX_MB": "1.5"}, "MAX_MB is '1.5'"),
        (["d"], {"MIN_SPEED": "0"}, "MIN_SPEED is '0'"),
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
    done = scrape("asap", site, *words, **settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert not site.requests
    assert not list(tmp_path.iterdir())


def test_midi_check_needs_all_tracks() -> None:
    whole = midi("a")
    DOWNLOAD.check_midi(whole)
    DOWNLOAD.check_midi(whole + b"after the end")
    DOWNLOAD.check_midi(b"RIFF\0\0\0\0RMIDdata\0\0\0\0" + whole)
    for size in range(4, len(whole)):
        with pytest.raises(DOWNLOAD.TruncatedError):
            DOWNLOAD.check_midi(whole[:size])
    for other in (b"", b"MThx", whole[:10] + b"\0\0" + whole[12:]):
        with pytest.raises(DOWNLOAD.ContentError):
            DOWNLOAD.check_midi(other)


# archives


def test_maestro_is_unpacked_by_split(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    done = scrape_maestro(site, folder)
    assert done.returncode == 0, done.stderr
    for word in ("CC BY-NC-SA 4.0", "56 MB", "3 new, 0 already here", "python3 preprocess.py"):
        assert word in done.stdout
    assert read_tree(folder) == MAESTRO_TREE
    again = scrape_maestro(site, folder)
    assert again.returncode == 0, again.stderr
    assert "0 new, 3 already here" in again.stdout
    assert site.requests == [f"/{MAESTRO}"]


def test_asap_unpacks_performances_only(site: Site, tmp_path: Path) -> None:
    site.table["/master.zip"] = Reply(status=302, headers={"Location": "/codeload?x=1"})
    site.table["/codeload?x=1"] = Reply(ASAP_ZIP, ranges=False, length=False)
    done = scrape("asap", site, tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("CC BY-NC-SA 4.0", "MB", "2 new, 0 already here, 0 not available"):
        assert word in done.stdout
    archive = {"asap-dataset-master.zip": ASAP_ZIP}
    assert read_tree(tmp_path) == ASAP_MUSIC | ASAP_DOCUMENTS | archive


def test_interrupted_archive_is_resumed(site: Site, tmp_path: Path) -> None:
    site.table[f"/{MAESTRO}"] = Reply(MAESTRO_TREE[MAESTRO], cut=4000, failures=1)
    first = scrape_maestro(site, tmp_path, TRIES="1")
    assert first.returncode == 1
    assert "run it again" in first.stderr
    assert list(read_tree(tmp_path)) == [f"{MAESTRO}.part"]
    second = scrape_maestro(site, tmp_path)
    assert second.returncode == 0, second.stderr
    assert read_tree(tmp_path) == MAESTRO_TREE
    assert site.ranges == [None, "bytes=4000-"]


@pytest.mark.parametrize(
    ("part", "requests"),
    [(MAESTRO_TREE[MAESTRO], 0), (b"too long for a range" * 9999, 2), (b"of another file", 2)],
)
def test_part_of_another_file_is_not_used(
    part: bytes, requests: int, site: Site, tmp_path: Path
) -> None:
    (tmp_path / f"{MAESTRO}.part").write_bytes(part)
    done = scrape_maestro(site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path) == MAESTRO_TREE
    assert len(site.requests) == requests


def test_truncated_archive_is_downloaded_again(site: Site, tmp_path: Path) -> None:
    reply = Reply(ASAP_ZIP, ranges=False, length=False, cut=300, failures=1)
    site.table["/master.zip"] = reply
    assert scrape("asap", site, tmp_path).returncode == 0
    archive = {"asap-dataset-master.zip": ASAP_ZIP}  # not the first part and then the whole
    assert read_tree(tmp_path) == ASAP_MUSIC | ASAP_DOCUMENTS | archive


@pytest.mark.parametrize(
    ("name", "reply", "messages"),
    [
        ("maestro", Reply(b"<html>an error page</html>"), ["not a zip", "has the address or"]),
        ("maestro", Reply(zipped({"a.mid": midi("a")})), ["SHA-256", "has the address or"]),
        ("maestro", Reply(status=404), ["could not download", "HTTP 404"]),
        ("asap", Reply(ASAP_ZIP[:-40]), ["the archive is cut short"]),
        ("asap", Reply(ASAP_ZIP.replace(b"shi", b"xxx")), ["the archive is damaged"]),
    ],
)
def test_unexpected_archive_is_rejected(
    name: str, reply: Reply, messages: list[str], site: Site, tmp_path: Path
) -> None:
    site.table |= {f"/{MAESTRO}": reply, "/master.zip": reply}
    done = scrape(name, site, tmp_path)
    assert done.returncode == 1
    for message in messages:
        assert message in done.stderr
    assert not read_tree(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({TABLE: b"split,midi_filename\ntrain,../../../x.midi\n"}, "names 'train/../../../x.midi'"),
        ({TABLE: b"split,midi_filename\n../..,x.midi\n"}, "names '../../x.midi'"),
        ({TABLE: b"part,midi_filename\ntrain,x.midi\n"}, "its table lacks midi_filename or split"),
        ({}, "there is no maestro-v3.0.0.csv in it"),
    ],
)
def test_archive_with_another_table_is_not_unpacked(
    files: dict[str, bytes], message: str, site: Site, tmp_path: Path
) -> None:
    names = ("../../../x.midi", "maestro-v3.0.0/../../../x.midi", "x.midi")
    done = scrape_maestro(
        site, tmp_path / "deep" / "folder", files | dict.fromkeys(names, midi(""))
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(read_tree(tmp_path)) == [f"deep/folder/{MAESTRO}"]


@pytest.mark.parametrize(
    "name", ["../a.mid", "/a.mid", "a/../../b.mid", "a//b.mid", "./a.mid", "C:a.mid", "a\\b.mid"]
)
def test_unsafe_names(name: str) -> None:
    assert not DOWNLOAD.is_safe_name(name)
    assert DOWNLOAD.is_safe_name('2018/it\'s a "name", ünï.midi')


def test_member_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DOWNLOAD, "MAX_MEMBER_BYTES", 9)
    archive = zipfile.ZipFile(io.BytesIO(zipped({"a.mid": bytes(10)})))
    with pytest.raises(DOWNLOAD.DownloadError, match="too large"):
        DOWNLOAD.read_member(archive, "a.mid")


def test_bad_members_are_listed(site: Site, tmp_path: Path) -> None:
    files = MAESTRO_FILES | {"maestro-v3.0.0/2009/b.midi": midi("b")[:-20]}
    del files["maestro-v3.0.0/2018/a b.midi"]
    foreign = tmp_path / "test" / "2009" / "ünï.midi"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"my own")
    done = scrape_maestro(site, tmp_path, files)
    assert done.returncode == 1
    assert "no music found" in done.stderr
    assert "validation/2009/b.midi: cut short" in done.stdout
    assert "train/2018/a b.midi: in the table, but not in the archive" in done.stdout
    assert "exists, but is different" in done.stdout
    assert foreign.read_bytes() == b"my own"


# pages


YEARS = (2002, 2004, 2006, 2008, 2009, 2011, 2013, 2014, 2015, 2017, 2018)


def add_competition(site: Site) -> dict[str, bytes]:
    """Add a page for each year, and return the files that they link to."""
    shared, *others = paths = ["/midifiles/Sun%2001.mid", "/midifiles/2017/Yi.MID", "/2018/Yi.MID"]
    for year in YEARS:
        site.add_page(f"/midi_{year}.asp", "a.asp", "/midifiles/xp.zip", shared[1:])
    site.add_page("/midi_2017.asp", others[0])
    site.add_page("/midi_2018.asp", shared, others[1])
    site.add_music(*paths)
    return {path[1:].replace("%20", " "): midi(path) for path in paths}


def test_competition_downloads_all_years(site: Site, tmp_path: Path) -> None:
    expected = add_competition(site)
    done = scrape("ecomp_piano", site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "License: none is stated" in done.stdout
    assert "3 new, 0 already here" in done.stdout
    assert read_tree(tmp_path) == expected
    assert site.requests[:11] == [f"/midi_{year}.asp" for year in YEARS]


def test_changed_or_missing_page_is_an_error(site: Site, tmp_path: Path) -> None:
    add_competition(site)
    site.add_page("/midi_2018.asp", "index.asp")
    del site.table["/midi_2002.asp"]
    done = scrape("ecomp_piano", site, tmp_path)
    assert done.returncode == 1
    assert "midi_2018.asp has changed" in done.stderr
    assert "midi_2002.asp: HTTP 404" in done.stdout
    assert "2 new, 0 already here, 2 not available" in done.stdout


def add_classics(site: Site) -> None:
    """Add the index, two composers, a page without music, and a broken link."""
    site.add_page("/midi_files.htm", "chopin.htm", "bach.htm", "faq.htm", "gone.htm", "/x/far.htm")
    names = ("op10.mid", "op10_format0.mid", "alone_format0.mid", "op10.ogg")
    site.add_page("/chopin.htm", *(f"midis/chopin/{name}" for name in names))
    site.add_page("/bach.htm", "midis/bach/bach_846.mid")
    site.add_page("/faq.htm", "midi_files.htm")
    site.add_music(*(f"/midis/chopin/{name}" for name in names), "/midis/bach/bach_846.mid")


def test_classical_pages_give_each_piece_once(site: Site, tmp_path: Path) -> None:
    add_classics(site)
    done = scrape("classic_piano", site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CC BY-SA 3.0" in done.stdout
    names = ("chopin/op10.mid", "chopin/alone_format0.mid", "bach/bach_846.mid")
    assert read_tree(tmp_path) == {f"midis/{name}": midi(f"/midis/{name}") for name in names}
    assert "gone.htm: HTTP 404" in done.stdout
    site.requests.clear()
    again = scrape("classic_piano", site, tmp_path)
    assert "0 new, 3 already here" in again.stdout
    pages = ("midi_files", "chopin", "bach", "faq", "gone")
    assert site.requests == [f"/{name}.htm" for name in pages]


def test_broken_links_are_listed_and_skipped(site: Site, tmp_path: Path) -> None:
    reasons = {
        "/gone.mid": "HTTP 404",
        "/html.mid": "not a MIDI file but a web page",
        "/short.mid": "cut short",
        "/empty.mid": "empty",
        "/loop.mid": "HTTP 302",
        "/file.mid": "HTTP 302",
        "/ftp.mid": "redirected to ftp:, which is not followed",
    }
    redirects = {"loop": "/loop.mid", "file": "file:///etc/group", "ftp": "ftp://127.0.0.1/a.mid"}
    site.add_page("/page", *reasons, "/a.mid")
    site.table["/html.mid"] = Reply(b"<html>sorry</html>")
    site.table["/short.mid"] = Reply(midi("x")[:-30])
    site.table["/empty.mid"] = Reply(b"")
    for name, target in redirects.items():
        site.table[f"/{name}.mid"] = Reply(status=302, headers={"Location": target})
    site.add_music("/a.mid")
    done = scrape("midi", site, tmp_path, f"{site.url}/page")
    assert done.returncode == 0, done.stderr
    assert "1 new, 0 already here, 7 not available" in done.stdout
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in done.stdout, done.stdout
    assert list(read_tree(tmp_path).values()) == [midi("/a.mid")]
    assert site.requests.count("/html.mid") == site.requests.count("/gone.mid") == 1


# any page


def test_unusual_names_are_kept(site: Site, tmp_path: Path) -> None:
    links = {
        "a b.mid": ("/x/a%20b.mid", "x/a b.mid"),
        "it&#39;s &quot;so&quot;.mid": ("/x/it's%20%22so%22.mid", 'x/it\'s "so".mid'),
        "%C3%BCn%C3%AF.MIDI": ("/x/%C3%BCn%C3%AF.MIDI", "x/ünï.MIDI"),
        "r.RMI": ("/x/r.RMI", "x/r.RMI"),
        "naïve.kar": ("/x/na%C3%AFve.kar", "x/naïve.kar"),
        "$(touch x);`id`.mid": ("/x/$(touch%20x);%60id%60.mid", "x/$(touch x);`id`.mid"),
        "-rf.mid#part": ("/x/-rf.mid", "x/-rf.mid"),
        "../../../up.mid": ("/up.mid", "up.mid"),
        "..%2F..%2Fup.mid": ("/x/..%2F..%2Fup.mid", "x/_._.._up.mid"),
        "a[1-3]{x,y}.mid": ("/x/a%5B1-3%5D%7Bx,y%7D.mid", "x/a[1-3]{x,y}.mid"),
        ".hidden.mid": ("/x/.hidden.mid", "x/_hidden.mid"),
    }
    others = ("javascript:x.mid", "ftp://127.0.0.1/x.mid", "http://[.mid")
    site.add_page("/x/page%5B1%5D.html", *links, *others)
    site.add_music(*(path for path, _ in links.values()))
    folder = tmp_path / 'Zoë\'s "music"'
    done = scrape("midi", site, folder, f"{site.url}/x/page[1].html")
    assert done.returncode == 0, done.stdout + done.stderr
    host = site.url.removeprefix("http://").replace(":", "_")
    assert read_tree(folder) == {f"{host}/{name}": midi(path) for path, name in links.values()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ('a: "b"?.mid', "a_ _b__.mid"),
        ("nul.mid", "nul_.mid"),
        ("COM1", "COM1_"),
        ("console.mid", "console.mid"),
        ("etc. ", "etc._"),
    ],
)
def test_names_on_windows(name: str, expected: str) -> None:
    assert DOWNLOAD.make_windows_name(name) == expected


def test_very_long_name_is_shortened(site: Site, tmp_path: Path) -> None:
    paths = [f"/{'x' * 300}{number}.mid" for number in range(2)]
    site.table = {path: Reply(midi(path[-5:])) for path in paths}
    done = scrape("midi", site, tmp_path, *(site.url + path for path in paths))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(read_tree(tmp_path).values()) == [midi("0.mid"), midi("1.mid")]


def test_folder_may_start_with_a_dash(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site.add_music("/a.mid")
    done = scrape("midi", site, "--", "-h", f"{site.url}/a.mid")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "-h").rglob("a.mid"))


def test_colliding_names_get_a_hash(site: Site, tmp_path: Path) -> None:
    paths = ("/a.mid", "/A.mid", "/a.mid?v=1", "/a.mid?v=2", "/get?file=a.mid", "/%61.mid")
    site.add_music(*paths)
    other_host = site.url.replace("127.0.0.1", "localhost")
    urls = [*(site.url + path for path in paths), f"{other_host}/a.mid"]
    addresses = tmp_path / "list.txt"
    addresses.write_text("# a comment\n\n" + "\r\n".join(urls))
    done = scrape("midi", site, tmp_path / "m", addresses)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 new, 0 already here, 0 not available" in done.stdout
    files = read_tree(tmp_path / "m")
    assert len({name.casefold() for name in files}) == 7
    assert sorted(files.values()) == sorted(midi(path) for path in (*paths, "/a.mid"))
    site.requests.clear()
    again = scrape("midi", site, tmp_path / "m", addresses)
    assert "0 new, 7 already here" in again.stdout
    assert (site.requests, read_tree(tmp_path / "m")) == ([], files)


def test_other_query_is_another_file(site: Site, tmp_path: Path) -> None:
    site.add_music("/get.mid?v=2", "/get.mid?v=3")
    for path in site.table:
        assert "1 new" in scrape("midi", site, tmp_path, site.url + path).stdout


def test_links_are_found_in_pages_and_lists(site: Site, tmp_path: Path) -> None:
    site.table["/old"] = Reply(status=301, headers={"Location": "/new/page.html"})
    site.add_page("/new/page.html", "a.mid")
    page = b"<base href='/deep/'><a href=\xe9.mid>"  # not UTF-8, and the first answer is cut off
    site.table["/page"] = Reply(page, cut=9, failures=1)
    site.table["/list"] = Reply(f"{site.url}/c.mid\n{site.url}/no.txt\n".encode())
    paths = ("/new/a.mid", "/deep/%C3%A9.mid", "/c.mid")
    site.add_music(*paths)
    done = scrape(
        "midi", site, tmp_path, *(f"{site.url}/{name}" for name in ("old", "page", "list"))
    )
    assert done.returncode == 0, done.stderr
    assert sorted(read_tree(tmp_path).values()) == sorted(map(midi, paths))


@pytest.mark.parametrize(
    ("name", "words", "status", "message"),
    [
        ("midi", ["missing.txt"], 2, "not http://, https:// or a file"),
        ("midi", [""], 2, "give a page"),
        ("midi", ["{url}/midi_files.htm"], 1, "no links to MIDI files"),
        ("midi", ["{url}/a.mid"], 1, "no music found"),
        ("classic_piano", [], 1, "midi_files.htm has changed"),
    ],
)
def test_nothing_to_download_is_an_error(
    name: str, words: list[str], status: int, message: str, site: Site, tmp_path: Path
) -> None:
    site.add_page("/midi_files.htm", "a.txt")
    done = scrape(name, site, tmp_path, *(word.format(url=site.url) for word in words))
    assert (done.returncode, message in done.stderr) == (status, True)


# waits, limits and interruptions


def test_waits_between_requests_and_before_retries(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(DOWNLOAD.time, "sleep", waits.append)
    for name in ("DELAY", "BACKOFF", "TRIES", "MAX_MB", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    delayed = {"Retry-After": "7"}
    site.table["/a.mid"] = Reply(midi("a"), failures=1, failure=503, headers=delayed)
    site.table["/b.mid"] = Reply(midi("b"), failures=2, failure=429)
    patient = {"Retry-After": "9999"}
    site.table["/c.mid"] = Reply(midi("c"), failures=1, failure=503, headers=patient)
    DOWNLOAD.main([str(tmp_path / "m"), *(site.url + path for path in site.table)])
    assert site.requests == ["/a.mid"] * 2 + ["/b.mid"] * 3 + ["/c.mid"] * 2
    assert waits == [7, 1, 1, 2, 1, 4, 1, 1, 120, 1]  # a second before each request but the first
    assert "at most one request in 1 s" in capsys.readouterr().out


def test_silent_site_is_skipped_until_next_run(site: Site, tmp_path: Path) -> None:
    names = [f"/{number}.mid" for number in range(8)]
    site.add_page("/page", *names)
    site.table |= {name: Reply(status=500) for name in names}
    site.add_music(names[0], names[3])
    done = scrape("midi", site, tmp_path, f"{site.url}/page", TRIES="1")
    assert done.returncode == 1
    assert "run it again to continue" in done.stderr
    assert site.requests == ["/page", *names[:7]]  # three failures in a row
    site.add_music(*names)
    done = scrape("midi", site, tmp_path, f"{site.url}/page")
    assert (done.returncode, "6 new, 2 already here" in done.stdout) == (0, True)


def test_too_large_files_are_not_downloaded(site: Site, tmp_path: Path) -> None:
    site.table["/announced.mid"] = Reply(midi("a", 20 << 20))
    site.table["/endless.mid"] = Reply(midi("b", 20 << 20), length=False)
    site.add_music("/small.mid")
    done = scrape("midi", site, tmp_path, *(site.url + path for path in site.table), MAX_MB="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("larger than 1 MB") == 2
    assert site.bytes_sent < 30 << 20, "the download must stop at the limit"
    assert list(read_tree(tmp_path).values()) == [midi("/small.mid")]


def test_interrupted_download_is_resumed(site: Site, tmp_path: Path) -> None:
    content, hold = midi("/b.mid", 99_000), threading.Event()
    site.add_music("/a.mid")
    site.table["/b.mid"] = Reply(content, cut=50_000, hold=hold)
    urls = [f"{site.url}/a.mid", f"{site.url}/b.mid"]
    running = subprocess.Popen(
        ["/bin/bash", str(SCRIPTS / "midi_scraper.sh"), str(tmp_path), *urls],
        env=environment(site.url, {}),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 10
    while not any(path.stat().st_size for path in tmp_path.rglob("b.mid.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(10) == 130
    hold.set()
    assert sorted(path.name for path in tmp_path.rglob("*.*mid*")) == ["a.mid", "b.mid.part"]
    site.table["/b.mid"] = Reply(content)
    done = scrape("midi", site, tmp_path, *urls)
    assert "1 new, 1 already here" in done.stdout
    assert re.fullmatch(r"bytes=[1-9]\d+-", site.ranges[-1] or "")
    assert sorted(read_tree(tmp_path).values()) == [midi("/a.mid"), content]


def test_foreign_files_are_not_changed(site: Site, tmp_path: Path) -> None:
    add_classics(site)
    foreign = {
        "notes.txt": b"mine",
        "my.mid": b"mine",
        "midis/chopin/op10.mid": b"not music",
        "midis/chopin/alone_format0.mid": midi("mine, and music"),
        "midis/bach": b"a file where a folder should be",
    }
    for name, data in foreign.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    done = scrape("classic_piano", site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path) == foreign
    assert "midis/chopin/op10.mid: exists, but not a MIDI file" in done.stdout
    assert "midis/bach/bach_846.mid: " in done.stdout
    assert "0 new, 1 already here, 3 not available" in done.stdout


# hostile sites


def zip_with_overlap(files: int) -> bytes:
    """Return an archive in which the entries of all files point to the same 10 MB of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mid", bytes(10_000_000))
    content = buffer.getvalue()
    size, start = (int.from_bytes(content[at : at + 4], "little") for at in (-10, -6))
    table = content[start : start + size] * files
    counts = files.to_bytes(2, "little") * 2
    end = len(table).to_bytes(4, "little") + start.to_bytes(4, "little") + b"\0\0"
    return content[:start] + table + b"PK\x05\x06\0\0\0\0" + counts + end


def zip_of_many(files: int) -> bytes:
    """Return an archive of empty files."""
    return zipped({f"{number}.mid": b"" for number in range(files)})


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (zip_with_overlap(2), {}, "files in the archive overlap"),
        (zip_with_overlap(60_000), {}, "unpacked it has 572,204 MB, more than"),
        (zip_with_overlap(2), {"MAX_UNPACKED_MB": "10"}, "19 MB, more than MAX_UNPACKED_MB=10"),
        (zip_of_many(100_001), {}, "the archive has over 100,000 files"),
    ],
)
def test_zip_bomb_is_not_unpacked(
    content: bytes, settings: dict[str, str], message: str, site: Site, tmp_path: Path
) -> None:
    site.table["/master.zip"] = Reply(content)
    limits = "ulimit -v 500000 && ulimit -t 10"  # kB, and seconds on a processor
    script = SCRIPTS / "asap_scraper.sh"
    done = subprocess.run(
        ["/bin/bash", "-c", f'{limits} && "$0" "$@"', "/bin/bash", str(script), str(tmp_path)],
        env=environment(site.url, settings),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not read_tree(tmp_path), "nothing is unpacked"


@pytest.mark.parametrize(
    "part",
    [
        *("<!--", "<a <", "<a", "</a <", "<", "<!", "<?", "<![CDATA[", "<script>", "<base "),
        *('<a href="', "<a href='", "<a href=", "href ", "href=", "href= ", "=", '"', "src='\""),
        *("<a href='&#9", "<a href=&", "&amp", "&#x", "http://", "<base href ", "<!-- -->"),
        *("<a href=http://é.é.é.é.é.é/", "<a href=http://[", "<a href=../", "<a href='a.mid'>"),
    ],
)
def test_hostile_page_is_read_fast(part: str) -> None:
    content = (part * 400_000)[:400_000].encode()
    start = time.process_time()
    DOWNLOAD.find_links(content, "http://127.0.0.1/")
    assert time.process_time() - start < 1


def test_comments_and_other_attributes_are_not_links() -> None:
    page = """<base href="/music/"><!-- <a href="old.mid"> --><a data-href='data.mid'
        HREF = "a.mid?x=1&amp;y=2" title="x > y" rel=nofollow>a</a><a title='>' href=b.mid>
        <a href='c "d".mid'></a><!-- <a href="never.mid"> not closed"""
    assert DOWNLOAD.find_links(page.encode(), "http://127.0.0.1/here/index.html") == [
        "http://127.0.0.1/music/a.mid?x=1&y=2",
        "http://127.0.0.1/music/b.mid",
        "http://127.0.0.1/music/c%20%22d%22.mid",
    ]


def test_too_large_page_is_not_read(site: Site, tmp_path: Path) -> None:
    site.table["/page"] = Reply(b"<a href='a.mid'>" * 600_000)
    done = scrape("midi", site, tmp_path, f"{site.url}/page")
    assert done.returncode == 1
    assert "a page of over 8 MB" in done.stderr


def test_links_that_look_like_incomplete_files(site: Site, tmp_path: Path) -> None:
    names = ["/a.mid", "/a.mid.part/b.mid", "/a.mid.PART/b.mid", "/d.mid"]
    site.add_page("/page", *names, "/".join(["é" * 60] * 60) + "/c.mid")
    site.add_music(*names)
    host = tmp_path / site.url.removeprefix("http://").replace(":", "_")
    (host / "d.mid.part").mkdir(parents=True)
    done = scrape("midi", site, tmp_path, f"{site.url}/page")
    assert done.returncode == 0, done.stderr
    assert "3 new, 0 already here, 2 not available" in done.stdout
    assert "/c.mid: File name too long" in done.stdout
    assert "d.mid: Is a directory" in done.stdout
    assert {path.read_bytes() for path in host.rglob("*.mid")} == {midi(n) for n in names[:3]}


@pytest.mark.parametrize("drip", ["head", "body"])
def test_slow_site_is_given_up(
    drip: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DOWNLOAD, "GRACE", 0.5)
    for name, value in environment(site.url, {"TRIES": "2"}).items():
        monkeypatch.setenv(name, value)
    site.table["/a.mid"] = Reply(midi("a", 10_000), drip=drip)
    start = time.monotonic()
    with pytest.raises(DOWNLOAD.SiteError, match="slower than 2000 bytes/s"):
        DOWNLOAD.Client(16).download(f"{site.url}/a.mid", tmp_path / "a.mid", DOWNLOAD.check_midi)
    assert 1 <= time.monotonic() - start < 10
    assert site.requests == ["/a.mid"] * 2
    monkeypatch.setenv("MIN_SPEED", "20")
    site.table["/b.mid"] = Reply(midi("b", 50), drip=drip)
    DOWNLOAD.Client(16).download(f"{site.url}/b.mid", tmp_path / "b.mid", DOWNLOAD.check_midi)


def test_names_in_an_archive_cannot_control_the_terminal(site: Site, tmp_path: Path) -> None:
    name = "2018/\x1b[2J\u202e.midi"
    table = f"split,midi_filename\ntrain,{name}\ntrain,2018/good.midi\n".encode()
    files = {TABLE: table, "maestro-v3.0.0/2018/good.midi": midi("good")}
    done = scrape_maestro(site, tmp_path, files | {f"maestro-v3.0.0/{name}": b"bad"})
    assert done.returncode == 0, done.stderr
    assert "train/2018/\\x1b[2J\\u202e.midi: not a MIDI file" in done.stdout


def test_table_that_is_no_csv_file_is_an_error(site: Site, tmp_path: Path) -> None:
    table = b"split,midi_filename\ntrain," + b"a" * 200_000
    done = scrape_maestro(site, tmp_path, {TABLE: table})
    assert done.returncode == 1
    assert "its table is no CSV file" in done.stderr
    assert "Traceback" not in done.stderr
