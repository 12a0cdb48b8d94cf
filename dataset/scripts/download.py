"""Download collections of MIDI files; the *_scraper.sh scripts call it. Standard library only.

    download.py archive [options] DIR URL
    download.py pages [options] DIR [URL...]

`archive` downloads a zip archive and unpacks the MIDI files that a table in it names. `pages`
downloads the MIDI files that pages link to; a URL may be a page, a MIDI file, or the name of a text
file with one URL a line. Whole files in DIR are kept, FILE.part is continued, and no file that the
script did not write is changed or deleted.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.client
import io
import os
import re
import signal
import stat
import sys
import time
import unicodedata
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit, urlunsplit

MIDI_SUFFIXES = (".mid", ".midi", ".kar")
SUBSETS = ("train", "validation", "test")
MAX_MIDI_BYTES = 64 << 20  # of a file in an archive
MAX_NAME_BYTES = 120
MAX_WAIT = 120.0  # seconds before another try
MAX_FAILURES = 3  # of a host in a row; then it is not asked again
TIMEOUT = 30.0  # seconds without an answer
FORMAT_0 = re.compile(r"_format0(?=\.mid$)", re.IGNORECASE)
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
USER_AGENT = "Mozilla/5.0 (compatible; MIDI downloader)"


class LinkError(Exception):
    """A file that cannot be had from its address."""


class SiteError(Exception):
    """A site that does not answer as it should; trying again later may help."""


class Truncated(Exception):
    """A file that is cut short."""


# ------------------------------------------------------------------------------ checks


def check_midi(content: bytes) -> None:
    """Raise LinkError or Truncated unless the bytes have all tracks that the header announces."""
    if content[:4] == b"RIFF" and content[8:12] == b"RMID":
        content = content[20:]
    if not content or not content.startswith(b"MThd"[: len(content)]):
        is_page = content.lstrip()[:1] == b"<"
        raise LinkError("not a MIDI file" + (" but a page" if is_page else ""))
    if len(content) < 14:
        raise Truncated("cut short")
    position = 8 + int.from_bytes(content[4:8], "big")
    tracks = int.from_bytes(content[10:12], "big")
    if position < 14 or tracks < 1:
        raise LinkError("not a MIDI file: no tracks")
    while tracks:
        if position + 8 > len(content):
            raise Truncated(f"cut short: {tracks} tracks are missing")
        tracks -= content[position : position + 4] == b"MTrk"
        position += 8 + int.from_bytes(content[position + 4 : position + 8], "big")
    if position > len(content):
        raise Truncated("cut short in its last track")


def check_midi_file(path: Path) -> None:
    """Raise LinkError or Truncated unless the file is a whole MIDI file."""
    check_midi(path.read_bytes())


def check_page(path: Path) -> None:
    """Raise LinkError if the file is empty."""
    if not path.stat().st_size:
        raise LinkError("an empty page")


def check_zip(path: Path) -> None:
    """Raise LinkError or Truncated unless the file is a zip archive that can be read to its end."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise LinkError("not a zip archive")
    if not zipfile.is_zipfile(path):
        raise Truncated("the archive is cut short")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except ZIP_ERRORS as error:
        damaged = str(error)
    if damaged:
        raise LinkError(f"the archive is damaged ({damaged})")


def make_sha256_check(digest: str) -> Callable[[Path], None]:
    """Return a check that the file is the zip archive with this SHA-256."""

    def check(path: Path) -> None:
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
        if actual != digest.lower():
            check_zip(path)
            raise LinkError(f"not the expected archive (its SHA-256 is {actual})")

    return check


# ---------------------------------------------------------------------------- requests


def read_setting(name: str, default: int, whole: bool = False) -> float:
    """Return a number from the environment; SystemExit if it is not one."""
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[1-9]\d*" if whole else r"\d+\.?\d*|\.\d+", text):
        kind = "a whole number, 1 or more" if whole else "a number of seconds"
        stop(f"{name} is {text!r}, it must be {kind}", 2)
    return float(text)


def stop(message: str, status: int = 1) -> NoReturn:
    """Print an error and exit."""
    sys.stderr.write(f"{os.environ.get('SCRIPT', 'download.py')}: error: {message}\n")
    sys.exit(status)


class Client:
    """HTTP requests, at most one in `delay` seconds, with retries and resumed downloads."""

    def __init__(self, max_mb: int) -> None:
        self.delay = read_setting("DELAY", 1)
        self.tries = int(read_setting("TRIES", 5, whole=True))
        self.backoff = read_setting("BACKOFF", 2)
        self.max_mb = int(read_setting("MAX_MB", max_mb, whole=True))
        self._requests = 0
        self._opener = urllib.request.OpenerDirector()  # HTTP only: no file:, no ftp:
        for handler in (
            urllib.request.ProxyHandler,
            urllib.request.HTTPHandler,
            urllib.request.HTTPSHandler,
            urllib.request.HTTPRedirectHandler,
            urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPErrorProcessor,
            urllib.request.UnknownHandler,
        ):
            self._opener.add_handler(handler())

    def download(self, url: str, target: Path, check: Callable[[Path], None]) -> str:
        """Download a file by way of TARGET.part, which is continued; return the final address.

        Raises LinkError if the address has no such file, SiteError if the site is in trouble.
        """
        part = target.with_name(target.name + ".part")
        if part.exists() and is_whole(part, check):
            return rename(part, target, url)
        truncated_size = None
        wait, reason = 0.0, ""
        for attempt in range(self.tries):
            if attempt and wait:
                time.sleep(min(MAX_WAIT, max(wait, self.backoff * 2 ** (attempt - 1))))
            resumed = part.exists() and part.stat().st_size > 0
            try:
                url = self._request(url, part)
                check(part)
                return rename(part, target, url)
            except Truncated as error:
                reason, wait = str(error), 0.0
                size = part.stat().st_size
                if not resumed and size == truncated_size:
                    part.unlink()
                    raise LinkError(reason) from error
                truncated_size = truncated_size if resumed else size
            except LinkError as error:
                keep = isinstance(error, _NotFound)
                if not keep or not part.stat().st_size:
                    part.unlink(missing_ok=True)
                if keep or not resumed:
                    raise
                reason, wait = str(error), 0.0  # the part was of another file
            except _Retry as error:
                reason, wait = str(error), error.seconds
        if part.exists() and not part.stat().st_size:
            part.unlink()
        raise SiteError(reason)

    def _request(self, url: str, part: Path) -> str:
        """Append what the site sends to the part, once; return the final address."""
        if self._requests:
            time.sleep(self.delay)
        self._requests += 1
        start = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})  # noqa: S310
        if start:
            request.add_header("Range", f"bytes={start}-")
        part.touch()
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                self._save(response, part, start if response.status == 206 else 0)
                return str(response.geturl())
        except urllib.error.HTTPError as error:
            raise _from_status(error, start) from error
        except (TimeoutError, urllib.error.URLError, http.client.HTTPException) as error:
            raise _Retry(f"no answer ({getattr(error, 'reason', error)})") from error
        except ConnectionError as error:
            raise _Retry(f"the connection broke ({error})") from error

    def _save(self, response: http.client.HTTPResponse, part: Path, start: int) -> None:
        size, limit = start, self.max_mb << 20
        length = response.getheader("Content-Length")
        if start + int(length or 0) > limit:
            raise LinkError(f"larger than {self.max_mb} MB")
        with part.open("r+b") as file:
            file.truncate(start)
            file.seek(start)
            while block := response.read1(1 << 16):
                size += len(block)
                if size > limit:
                    raise LinkError(f"larger than {self.max_mb} MB")
                file.write(block)
        if length is not None and size - start < int(length):
            raise _Retry("the connection broke")


class _Retry(Exception):
    """A request that may succeed later; `seconds` is how long the site asks to wait."""

    def __init__(self, reason: str, seconds: float = 0.001) -> None:
        super().__init__(reason)
        self.seconds = seconds


class _NotFound(LinkError):
    """An address without a file; a part of an earlier download is kept."""


def _from_status(error: urllib.error.HTTPError, start: int) -> Exception:
    reason = f"HTTP {error.code}"
    if error.code == 416 and start:
        return LinkError(reason)  # no such range: the part is of another file
    if error.code in (408, 425, 429) or error.code >= 500:
        seconds = error.headers.get("Retry-After", "")
        return _Retry(reason, float(seconds) if seconds.isdecimal() else 0.001)
    return _NotFound(reason)


def is_whole(path: Path, check: Callable[[Path], None]) -> bool:
    """Return whether a file passes a check."""
    try:
        check(path)
    except (LinkError, Truncated):
        return False
    return True


def rename(part: Path, target: Path, url: str) -> str:
    """Give a whole part its name, and return `url`; LinkError if something has that name."""
    if os.path.lexists(target):
        raise _NotFound(f"{target} is in the way")
    part.rename(target)
    return url


# ------------------------------------------------------------------------------- links


class _LinkParser(HTMLParser):
    """Collects the base and all href and src values of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the addresses of a tag."""
        for key, value in attrs:
            if key in ("href", "src") and value:
                if tag == "base":
                    self.base = self.base or value
                else:
                    self.links.append(value)


def decode_text(content: bytes) -> str:
    """Return the text of a page or a table, which may be older than UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def find_links(content: bytes, url: str) -> list[str]:
    """Return the absolute addresses that a page at `url` links to; for a plain list, its lines."""
    text = decode_text(content)
    parser = _LinkParser()
    parser.feed(text)
    parser.close()
    links = parser.links
    if not links:
        links = [line for line in text.splitlines() if re.match(r"\s*https?://\S", line)]
    base = urljoin(url, parser.base)
    return list(dict.fromkeys(filter(None, (make_absolute(base, link) for link in links))))


def make_absolute(base: str, link: str) -> str | None:
    """Return the address as a browser would request it, or None if it is not HTTP."""
    try:
        parts = urlsplit(urldefrag(urljoin(base, "".join(link.strip().splitlines())))[0])
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return None
        host = parts.hostname.encode("idna").decode()
        place = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return None
    path = quote(parts.path.replace("\\", "/"), safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return urlunsplit((parts.scheme, place, path or "/", query, ""))


def is_midi_url(url: str) -> bool:
    """Return whether an address ends like a MIDI file, in its path or in its query."""
    parts = urlsplit(url)
    path, query = unquote(parts.path).lower(), parts.query.lower()
    return path.endswith(MIDI_SUFFIXES) or query.endswith(MIDI_SUFFIXES)


def is_sibling_page(url: str, page: str) -> bool:
    """Return whether an address is an HTML page in the same folder as another page."""
    here, there = urlsplit(page), urlsplit(url)
    same_folder = there.path.rpartition("/")[0] == here.path.rpartition("/")[0]
    is_page = there.path.lower().endswith((".htm", ".html")) and not there.query
    return same_folder and is_page and there.netloc == here.netloc


# ------------------------------------------------------------------------------- names


def make_file_name(part: str) -> str:
    """Return a part of an address as a file name: no separators, not hidden, not too long."""
    name = unicodedata.normalize("NFC", unquote(part, errors="replace"))
    name = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029/\\]", "_", name)
    name = re.sub(r"^\.", "_", name)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    suffix = PurePosixPath(name).suffix if len(PurePosixPath(name).suffix) < 8 else ""
    stem = name.removesuffix(suffix).encode()[: MAX_NAME_BYTES - 16].decode(errors="ignore")
    return add_hash(stem + suffix, part)


def add_hash(name: str, key: str) -> str:
    """Return a file name with a hash of `key` before its suffix."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{zlib.crc32(key.encode()):08x}{path.suffix}"))


def make_host_name(url: str) -> str:
    """Return the host and port of an address as a folder name."""
    return urlsplit(url).netloc.removeprefix("www.").replace(":", "_")


def make_path(url: str, home: str) -> str:
    """Return HOST/PATH for an address, without the host if it is `home`; a query adds a hash."""
    parts = urlsplit(url)
    path = [make_file_name(part) for part in parts.path.split("/") if part not in ("", ".", "..")]
    if parts.query:
        if not unquote(parts.path).lower().endswith(MIDI_SUFFIXES):
            path.append(make_file_name(re.split(r"[=&/]", parts.query)[-1]))
        path[-1] = add_hash(path[-1], parts.query)
    return "/".join(path if make_host_name(url) == home else [make_host_name(url), *path])


def make_paths(urls: Sequence[str], home: str) -> dict[str, str]:
    """Return a path for each address; paths that a disk could confuse all get a hash."""
    paths = {url: make_path(url, home) for url in urls}
    counts = Counter(path.casefold() for path in paths.values())
    return {
        url: add_hash(path, url) if counts[path.casefold()] > 1 else path
        for url, path in paths.items()
    }


# ------------------------------------------------------------------------------- pages


@dataclass
class Report:
    """What was downloaded, and what was not."""

    new: int = 0
    existing: int = 0
    failures: list[str] = field(default_factory=list)
    incomplete: str = ""  # why the collection is not whole, if more than single links failed

    def fail(self, name: str, reason: object) -> None:
        """Add a file or a page that is not available."""
        self.failures.append(f"{name}: {reason}")

    def finish(self, folder: Path) -> None:
        """Print the report; exit with 1 if there is no music or the collection is not whole."""
        if self.failures:
            print("not available:", *self.failures, sep="\n  ")
        failed = len(self.failures)
        print(f"done: {self.new} new, {self.existing} already here, {failed} not available")
        if not self.new + self.existing:
            stop("no music found" + (f": {self.incomplete}" if self.incomplete else ""))
        if self.incomplete:
            stop(self.incomplete)
        print(f"music is in {folder}; now run: python3 preprocess.py")


class PageReader:
    """Collects the links to MIDI files from pages."""

    def __init__(self, client: Client, folder: Path, report: Report) -> None:
        self.client, self.report = client, report
        self.folder = folder
        self.midi_urls: dict[str, None] = {}

    def read(self, url: str, optional: bool = False) -> list[str]:
        """Read a page and return all its links; an optional page may have none to MIDI files."""
        print(f"reading {url}", flush=True)
        page = self.folder / f".page-{os.getpid()}.html"
        try:
            final_url = self.client.download(url, page, check_page)
            links = find_links(page.read_bytes(), final_url)
            midi_urls = [link for link in links if is_midi_url(link)]
            if not midi_urls and not optional:
                raise LinkError("no links to MIDI files")
            self.midi_urls |= dict.fromkeys(midi_urls)
            return [
                link for link in links if is_sibling_page(link, final_url) and link != final_url
            ]
        except LinkError as error:
            self.report.fail(url, error)
            if not optional:
                self._set_incomplete(f"{url} has changed, or the address is wrong ({error})")
        except SiteError as error:
            self.report.fail(url, error)
            self._set_incomplete(f"could not read {url} ({error}); run it again to go on")
        finally:
            for leftover in (page, page.with_name(page.name + ".part")):
                leftover.unlink(missing_ok=True)
        return []

    def read_index(self, url: str) -> None:
        """Read an index page and the pages beside it that it links to."""
        siblings = self.read(url, optional=True)
        if not siblings:
            self._set_incomplete(f"{url} has changed: no links to pages beside it")
        for page in siblings:
            self.read(page, optional=True)

    def _set_incomplete(self, reason: str) -> None:
        self.report.incomplete = reason


def drop_second_formats(urls: Sequence[str]) -> list[str]:
    """Return the addresses without those of a piece's second format."""
    known = set(urls)
    return [u for u in urls if FORMAT_0.sub("", u) == u or FORMAT_0.sub("", u) not in known]


def download_links(
    client: Client, urls: Sequence[str], folder: Path, home: str, report: Report
) -> None:
    """Download MIDI files to their paths below a folder."""
    failures: Counter[str] = Counter()  # of each host, in a row
    paths = make_paths(urls, home)
    print(f"{len(paths)} files to have in {folder}, at most one request in {client.delay:g} s")
    for number, (url, name) in enumerate(paths.items(), 1):
        host, target = urlsplit(url).netloc, folder / name
        try:
            if os.path.lexists(target):
                check_existing(target)
                report.existing += 1
                continue
            if failures[host] >= MAX_FAILURES:
                raise LinkError(f"{host} did not answer before")
            make_parent(target)
            client.download(url, target, check_midi_file)
            failures[host] = 0
            report.new += 1
            print(f"{number}/{len(paths)} {name}", flush=True)
        except SiteError as error:
            failures[host] += 1
            report.fail(name, f"{error} ({url})")
        except LinkError as error:
            report.fail(name, f"{error} ({url})")
    silent = [host for host, count in failures.items() if count >= MAX_FAILURES]
    if silent:
        report.incomplete = f"no answer from {', '.join(silent)}; run it again to go on"


def check_existing(path: Path) -> None:
    """Raise LinkError unless the file is a whole MIDI file."""
    try:
        if not path.is_file():
            raise LinkError("not a file")
        check_midi_file(path)
    except (LinkError, Truncated) as error:
        raise LinkError(f"is there already, but {error}; move it away to download it") from error


def make_parent(path: Path) -> None:
    """Make the folder of a file; LinkError if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise LinkError("its folder cannot be made") from error


def read_addresses(source: str) -> list[str]:
    """Return an address, or the addresses in a text file; lines that start with # are comments."""
    if re.match(r"https?://.", source):
        return [source]
    if not Path(source).is_file():
        stop(f"{source} is not http://, https:// or a file on this disk", 2)
    lines = (line.strip() for line in decode_text(Path(source).read_bytes()).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def download_pages(options: argparse.Namespace, client: Client) -> None:
    """Download what pages link to."""
    report, folder = Report(), options.folder
    addresses = [address for source in options.urls for address in read_addresses(source)]
    if not addresses and not options.index:
        stop("give a page to download from; -h says more", 2)
    folder.mkdir(parents=True, exist_ok=True)
    reader = PageReader(client, folder, report)
    if options.index:
        reader.read_index(options.index)
    for address in addresses:
        url = quote(urldefrag(address)[0], safe="%/:=&?~+!$,;'@()*[]{}|")
        if make_absolute("", url) is None:
            report.fail(address, "not http:// or https://")
        elif is_midi_url(url):
            reader.midi_urls[url] = None
        else:
            reader.read(url)
    urls = drop_second_formats(list(reader.midi_urls))
    if urls:
        download_links(client, urls, folder, make_host_name(options.home or ""), report)
    elif not report.incomplete:
        report.incomplete = "there are no links to MIDI files"
    report.finish(folder)


# ----------------------------------------------------------------------------- archives


class Archive:
    """A zip archive with a table of the MIDI files in it."""

    def __init__(self, path: Path, table: str) -> None:
        self.file = zipfile.ZipFile(path)
        self.members = {info.filename: info for info in self.file.infolist()}
        tables = [name for name in self.members if PurePosixPath(name).name == table]
        if not tables:
            stop(f"the archive has changed: there is no {table} in it")
        self.table = min(tables, key=lambda name: name.count("/"))
        self.root = self.table[: -len(table)]

    def read(self, name: str) -> bytes:
        """Return the bytes of a member; raises one of ZIP_ERRORS if it is damaged or too large."""
        info = self.members[name]
        if info.file_size > MAX_MIDI_BYTES or stat.S_ISLNK(info.external_attr >> 16):
            raise RuntimeError("too large, or not a plain file")
        return self.file.read(info)

    def find_documents(self) -> Iterator[str]:
        """Yield the table, and the license and README beside it."""
        for name in self.members:
            relative = name.removeprefix(self.root)
            if name == self.table or re.fullmatch(r"(LICENSE|README)(\.\w+)?", relative):
                yield name

    def find_midi_files(self, column: str, split: str) -> dict[str, str]:
        """Return the target of each MIDI file that the table names; exit if it is malformed."""
        rows = list(csv.DictReader(io.StringIO(decode_text(self.read(self.table)), newline="")))
        if not rows or not {column, split or column} <= set(rows[0]):
            stop(f"the archive has changed: {self.table} lacks {column}{split and ' or '}{split}")
        targets = {}
        for row in rows:
            name = row[column] or ""
            if not name:
                continue
            if not is_safe_name(name) or not name.lower().endswith(MIDI_SUFFIXES):
                stop(f"nothing was unpacked: {self.table} names {name!r}")
            if split and row[split] not in SUBSETS:
                stop(f"the archive has changed: {name} has the split {row[split]!r}")
            targets[self.root + name] = f"{row[split]}/{name}" if split else name
        if not targets:
            stop(f"the archive has changed: {self.table} names no MIDI files")
        return targets


def is_safe_name(name: str) -> bool:
    """Return whether a member's name stays below the target folder on any system."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not re.search(r"[\\:\x00]", name)


def write_new(content: bytes, target: Path) -> bool:
    """Write a file by way of TARGET.part; False if it is there already, LinkError if another is."""
    if os.path.lexists(target):
        if target.is_file() and target.read_bytes() == content:
            return False
        raise LinkError(f"{target} is there already, but different; move it away to unpack it")
    make_parent(target)
    part = target.with_name(target.name + ".part")
    part.write_bytes(content)
    part.replace(target)
    return True


def unpack(archive: Archive, folder: Path, column: str, split: str) -> Report:
    """Write the MIDI files that the table names below a folder."""
    report = Report()
    targets = archive.find_midi_files(column, split)
    documents = {name: name.removeprefix(archive.root) for name in archive.find_documents()}
    for name, target in (documents | targets).items():
        is_midi = name.lower().endswith(MIDI_SUFFIXES)
        try:
            content = archive.read(name)
            if is_midi:
                check_midi(content)
            is_new = write_new(content, folder / target)
            report.new += is_midi and is_new
            report.existing += is_midi and not is_new
        except KeyError:
            report.fail(target, "in the table, but not in the archive")
        except (LinkError, Truncated, *ZIP_ERRORS) as error:
            report.fail(target, error)
    return report


def download_archive(options: argparse.Namespace, client: Client) -> None:
    """Download an archive and unpack it."""
    folder = options.folder
    check = check_zip if options.check == "zip" else make_sha256_check(options.check)
    target = folder / (options.name or PurePosixPath(urlsplit(options.url).path).name)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if os.path.lexists(target):
            check(target)
            print(f"{target} is here already")
        else:
            print(f"downloading {options.url} to {target}.part", flush=True)
            client.download(options.url, target, check)
    except (LinkError, Truncated) as error:
        if target.exists():
            stop(f"{target} is there already, but {error}; move it away to download it")
        stop(f"could not download {options.url}: {error}; has the address or the file changed?")
    except SiteError as error:
        stop(f"could not download {options.url}: {error}; run it again to go on")
    unpack(Archive(target, options.table), folder, options.column, options.split).finish(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    archive = commands.add_parser("archive")
    archive.add_argument("folder", type=Path)
    archive.add_argument("url")
    for flag in ("--check", "--table", "--column"):
        archive.add_argument(flag, required=True)
    archive.add_argument("--split", default="")
    archive.add_argument("--name", default="")
    pages = commands.add_parser("pages")
    pages.add_argument("folder", type=Path)
    pages.add_argument("urls", nargs="*")
    pages.add_argument("--home")
    pages.add_argument("--index")
    for command in (archive, pages):
        command.add_argument("--max-mb", type=int, required=True)
    options = parser.parse_args(argv)
    run = download_archive if options.command == "archive" else download_pages
    run(options, Client(options.max_mb))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        stop(f"{error.strerror}: {error.filename}")
