"""Download collections of MIDI files; the *_scraper.sh scripts call it. Standard library only.

    download.py --archive NAME [options] DIR URL
    download.py [options] DIR [URL...]

With --archive, the URL is a zip archive; the MIDI files that a table in it names are unpacked.
Otherwise the MIDI files that pages link to are downloaded; a URL may be a page, a MIDI file, or the
name of a text file with one URL per line. Complete files in DIR are not downloaded again, FILE.part
is continued, and no file that the script did not write is changed or deleted.
"""

from __future__ import annotations

import argparse
import csv
import errno
import functools
import hashlib
import html
import io
import itertools
import os
import re
import signal
import sys
import tempfile
import time
import unicodedata
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit, urlunsplit

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")  # as in config.py, which is not imported here
MAX_MEMBER_BYTES = 64 << 20  # of a file in an archive
MAX_MEMBERS = 100_000  # of an archive
MAX_PAGE_BYTES = 8 << 20
MAX_LINK = 4000  # characters of an address in a page
MAX_NAME_BYTES = 120  # of a file name; longer ones are shortened
MAX_WAIT = 120.0  # most seconds before another try
MAX_FAILURES = 3  # of a host, in a row; after them it gets no more requests
TIMEOUT = 30.0  # seconds without an answer
GRACE = 60.0  # seconds of a request after which the site must have sent MIN_SPEED bytes per second
SAFE = "/%:@!$&'()*+,;=~-._"  # characters that are not quoted in an address
Check = Callable[[bytes], None]  # raises ContentError
# name of the second file of a piece that is offered in two formats
FORMAT_0 = re.compile(r"_format0(?=\.mid$)", re.IGNORECASE)
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
# names that Windows does not allow, also before a dot
WINDOWS_DEVICES = r"^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)"
USER_AGENT = "Mozilla/5.0 (compatible; MIDI downloader)"
# errors that only the name of one file causes; any other error while writing ends the run
NAME_ERRORS = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY)


class DownloadError(Exception):
    """A file or a page is not available."""


class SiteError(DownloadError):
    """A temporary error of a site, which may ask to wait for `seconds`."""

    def __init__(self, reason: str, seconds: float = 0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class ContentError(DownloadError):
    """A file has the wrong content."""


class TruncatedError(ContentError):
    """A file ends too early."""


def stop(message: str, status: int = 1) -> NoReturn:
    """Print an error and exit."""
    sys.stderr.write(f"{os.environ.get('SCRIPT', 'download.py')}: error: {escape(message)}\n")
    sys.exit(status)


def escape(text: object) -> str:
    """Return a text for the terminal; what sites send cannot control it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


# ---------------------------------------------------------------------------- checks


def check_midi(content: bytes) -> None:
    """Raise ContentError unless the content is a MIDI file with all the tracks of its header."""
    if content[:4] == b"RIFF" and content[8:12] == b"RMID":
        content = content[20:]
    if not content.startswith(b"MThd"):
        is_page = content.lstrip().startswith(b"<")
        raise ContentError("not a MIDI file" + (" but a web page" if is_page else ""))
    if len(content) < 14:
        raise TruncatedError("cut short")
    position = 8 + int.from_bytes(content[4:8], "big")
    tracks = int.from_bytes(content[10:12], "big")
    if position < 14 or not tracks:
        raise ContentError("not a MIDI file: no tracks")
    while tracks and position < len(content):
        tracks -= content[position : position + 4] == b"MTrk"
        position += 8 + int.from_bytes(content[position + 4 : position + 8], "big")
    if tracks or position > len(content):
        raise TruncatedError("cut short")


def check_zip(content: bytes, max_unpacked: int, sha256: str = "") -> None:
    """Raise ContentError unless the content is a complete zip archive, and safe to unpack.

    max_unpacked: bytes that all files in it may have; sha256: the checksum that it must have, or
    "".
    """
    if not content.startswith(b"PK"):
        raise ContentError("not a zip archive")
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise TruncatedError("the archive is cut short")
    digest = hashlib.sha256(content).hexdigest()
    try:
        if content.count(b"PK\x01\x02") > MAX_MEMBERS:  # each begins an entry of its table
            raise ContentError(f"the archive has over {MAX_MEMBERS:,} files")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check_members(archive.infolist(), max_unpacked)
            damaged = None if digest == sha256.lower() else archive.testzip()
    except ZIP_ERRORS as error:
        damaged = str(error)
    if damaged:
        raise ContentError(f"the archive is damaged ({damaged})")
    if sha256 and digest != sha256.lower():
        raise ContentError(f"not the expected archive (its SHA-256 is {digest})")


def check_members(members: Sequence[zipfile.ZipInfo], max_unpacked: int) -> None:
    """Raise ContentError if the files in an archive overlap, or have over `max_unpacked` bytes."""
    total = sum(member.file_size for member in members)
    if total > max_unpacked:
        raise ContentError(
            f"unpacked it has {total >> 20:,} MB, more than MAX_UNPACKED_MB={max_unpacked >> 20}"
        )
    ordered = sorted(members, key=lambda member: member.header_offset)
    for member, following in itertools.pairwise(ordered):
        if member.header_offset + 30 + member.compress_size > following.header_offset:
            raise ContentError("files in the archive overlap")


def is_present(path: Path, check: Check) -> bool:
    """Return whether a file exists; raise DownloadError if it exists but fails the check."""
    if not os.path.lexists(path):
        return False
    try:
        if not path.is_file():
            raise ContentError("not a file")
        check(path.read_bytes())
    except ContentError as error:
        reason = f"exists, but {error}; move it away to download it"
        raise DownloadError(reason) from error
    return True


def make_part(target: Path) -> Path:
    """Return the path TARGET.part for an incomplete file; create its folder if necessary."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DownloadError("its folder cannot be created") from error
    return target.with_name(target.name + ".part")


# ---------------------------------------------------------------------------- requests


def read_setting(name: str, default: int, whole: bool = False) -> float:
    """Return a number from the environment; exit if the value is not a valid number."""
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[1-9]\d*" if whole else r"\d+\.?\d*|\.\d+", text):
        kind = "a whole number, 1 or more" if whole else "a number of seconds"
        stop(f"{name} is {text!r}, it must be {kind}", 2)
    return float(text)


class Deadline:
    """A limit to the time of a request, as a context: GRACE, and more for what has arrived.

    A signal ends any waiting, also in the middle of a line; where there is no such signal
    (Windows), the time is only checked between blocks.
    """

    def __init__(self, min_speed: float) -> None:
        self._start, self._min_speed = time.monotonic(), min_speed
        self._has_timer = hasattr(signal, "setitimer")

    def __enter__(self) -> Deadline:
        if self._has_timer:
            signal.signal(signal.SIGALRM, self._expire)
        self.extend(0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_timer:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def extend(self, received: int) -> None:
        """Set the limit for a request that has received so many bytes; raise TimeoutError."""
        left = self._start + GRACE + received / self._min_speed - time.monotonic()
        if left <= 0:
            self._expire()
        if self._has_timer:
            signal.setitimer(signal.ITIMER_REAL, left)

    def _expire(self, *_: object) -> NoReturn:
        raise TimeoutError(f"slower than {self._min_speed:g} bytes/s")


class RedirectHandler(urllib.request.HTTPRedirectHandler):
    """A handler that follows redirects to http: and https: only."""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        """Return the request of the new address, the last argument."""
        scheme = urlsplit(arguments[-1]).scheme
        if scheme not in ("http", "https"):
            raise DownloadError(f"redirected to {scheme}:, which is not followed")
        return super().redirect_request(*arguments)


class Client:
    """A client for HTTP downloads, with waits between requests, retries and continued files.

    max_mb: size limit of a file; the environment can override it and sets the other limits.
    """

    def __init__(self, max_mb: int) -> None:
        self.delay = read_setting("DELAY", 1)
        self.tries = int(read_setting("TRIES", 5, whole=True))
        self.backoff = read_setting("BACKOFF", 2)
        self.max_mb = int(read_setting("MAX_MB", max_mb, whole=True))
        self.min_speed = read_setting("MIN_SPEED", 2000, whole=True)
        self._has_requested = False
        self._opener = urllib.request.OpenerDirector()  # HTTP only: no file:, no ftp:
        for handler in (
            urllib.request.ProxyHandler,
            urllib.request.HTTPHandler,
            urllib.request.HTTPSHandler,
            RedirectHandler,
            urllib.request.HTTPDefaultErrorHandler,
            urllib.request.HTTPErrorProcessor,
            urllib.request.UnknownHandler,
        ):
            self._opener.add_handler(handler())

    def download(self, url: str, target: Path, check: Check) -> str:
        """Download a file, first to TARGET.part, which is continued; return the final address.

        Raises SiteError if another run may succeed, or another DownloadError if not.
        """
        part = make_part(target)
        try:
            check(part.read_bytes())
        except (FileNotFoundError, ContentError):
            url = self._complete(url, part, check)
        if os.path.lexists(target):
            raise DownloadError("exists already")
        part.rename(target)
        return url

    def _complete(self, url: str, part: Path, check: Check) -> str:
        """Request a file until the part is complete; return the final address."""
        wait, reason = 0.0, ""
        truncated_size = None
        for attempt in range(self.tries):
            if wait:
                time.sleep(min(MAX_WAIT, wait))
            start = part.stat().st_size if part.exists() else 0
            try:
                url = self._request(url, part, start)
                check(part.read_bytes())
                return url
            except SiteError as error:
                wait, reason = max(error.seconds, self.backoff * 2**attempt), str(error)
            except TruncatedError as error:
                wait, reason = 0.0, str(error)
                size = part.stat().st_size
                if size == truncated_size:  # the site has no more
                    part.unlink()
                    raise
                truncated_size = size
            except ContentError as error:
                wait, reason = 0.0, str(error)
                part.unlink()
                if not start:
                    raise
        raise SiteError(reason)

    def _request(self, url: str, part: Path, start: int) -> str:
        """Request a file from byte `start` on, and append it; return the final address."""
        if self._has_requested:
            time.sleep(self.delay)
        self._has_requested = True
        request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})  # noqa: S310
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            with (
                Deadline(self.min_speed) as deadline,
                self._opener.open(request, timeout=TIMEOUT) as response,
            ):
                self._save(response, part, start if response.status == 206 else 0, deadline)
                return str(response.geturl())
        except HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code == 416 and start:  # no such range: the part belongs to another file
                raise ContentError(reason) from error
            if error.code in (408, 425, 429) or error.code >= 500:
                seconds = error.headers.get("Retry-After", "")
                raise SiteError(reason, float(seconds) if seconds.isdecimal() else 0) from error
            raise DownloadError(reason) from error
        except (TimeoutError, ConnectionError, URLError, HTTPException) as error:
            raise SiteError(f"no answer ({getattr(error, 'reason', error)})") from error

    def _save(self, response: HTTPResponse, part: Path, start: int, deadline: Deadline) -> None:
        """Write the body of a response to the part, from byte `start` on."""
        size, limit = start, self.max_mb << 20
        expected = start + (response.length or 0)  # 0 is added if no length is announced
        with part.open("ab" if start else "wb") as file:
            while max(size, expected) <= limit and (block := response.read1(1 << 16)):
                file.write(block)
                size += len(block)
                deadline.extend(size - start)
        if max(size, expected) > limit:
            raise ContentError(f"larger than {self.max_mb} MB")
        if size < expected:
            raise SiteError("the connection broke")
        if not size:
            raise ContentError("empty")


# ------------------------------------------------------------------------------- links


# Regular expressions, because html.parser takes minutes for a page of unclosed comments or tags
_TEXT = f"{{1,{MAX_LINK}}}"
VALUE = rf"""\s*=\s*(?:"([^"<>]{_TEXT})"|'([^'<>]{_TEXT})'|([^\s"'<>]{_TEXT}))"""
LINK = re.compile(rf"(?<![\w-])(?:href|src){VALUE}", re.IGNORECASE)
BASE = re.compile(rf"<base\s[^<>]*?(?<![\w-])href{VALUE}", re.IGNORECASE)


def decode_text(content: bytes) -> str:
    """Return the text of a page or a table, in UTF-8 or, if that fails, in cp1252."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def find_links(content: bytes, url: str) -> list[str]:
    """Return the absolute addresses that a page at `url` links to, or the lines of a plain list."""
    text = decode_text(content)
    page = remove_comments(text)
    base = urljoin(url, next(map(read_value, BASE.finditer(page)), ""))
    links = list(dict.fromkeys(map(read_value, LINK.finditer(BASE.sub("", page)))))
    links = links or [line for line in text.splitlines() if re.match(r"\s*https?://\S", line)]
    return list(dict.fromkeys(filter(None, (make_absolute(base, link) for link in links))))


def read_value(match: re.Match[str]) -> str:
    """Return the address in a match of LINK or BASE."""
    return html.unescape(match[1] or match[2] or match[3])


def remove_comments(page: str) -> str:
    """Return a page without its comments; one that is not closed goes up to the end."""
    parts = []
    end = 0
    while (start := page.find("<!--", end)) >= 0:
        parts.append(page[end:start])
        closing = page.find("-->", start)
        end = closing + 3 if closing >= 0 else len(page)
    return "".join([*parts, page[end:]])


def make_absolute(base: str, link: str) -> str | None:
    """Return the address as a browser would request it, or None if it is not HTTP."""
    try:
        parts = urlsplit(urldefrag(urljoin(base, link.strip())).url)
        if parts.scheme not in ("http", "https") or not 0 < len(parts.hostname or "") < 254:
            return None
        host = (parts.hostname or "").encode("idna").decode()
        host = f"[{host}]" if ":" in host else host
        host += f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    path = quote(parts.path.replace("\\", "/"), safe=SAFE)
    return urlunsplit((parts.scheme, host, path or "/", quote(parts.query, safe=SAFE + "?"), ""))


def is_midi_url(url: str) -> bool:
    """Return whether the path or the query of an address ends like the name of a MIDI file."""
    parts = urlsplit(url)
    return any(unquote(text).lower().endswith(MIDI_SUFFIXES) for text in (parts.path, parts.query))


# ------------------------------------------------------------------------------- names


def make_file_name(part: str) -> str:
    """Return a part of an address as a file name without separators, not hidden, not too long."""
    name = unicodedata.normalize("NFC", unquote(part, errors="replace"))
    name = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029/\\]", "_", name)
    name = re.sub(r"^\.", "_", name)
    name = make_windows_name(name) if os.name == "nt" else name
    name = re.sub(r"\.part$", "_part", name, flags=re.IGNORECASE)  # those are incomplete files
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    suffix = PurePosixPath(name).suffix if len(PurePosixPath(name).suffix) < 8 else ""
    stem = name.removesuffix(suffix).encode()[: MAX_NAME_BYTES - 16].decode(errors="ignore")
    return add_hash(stem + suffix, part)


def make_windows_name(name: str) -> str:
    """Return a file name that Windows allows."""
    name = re.sub(r'[<>:"|?*]|[. ]$', "_", name)
    return re.sub(WINDOWS_DEVICES, r"\1_", name, flags=re.IGNORECASE)


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
    """Return a path for each address; paths that are equal, except in case, get a hash."""
    paths = {url: make_path(url, home) for url in urls}
    counts = Counter(path.casefold() for path in paths.values())
    return {
        url: add_hash(path, url) if counts[path.casefold()] > 1 else path
        for url, path in paths.items()
    }


# ------------------------------------------------------------------------------- pages


@dataclass
class Report:
    """The results of a download: what is in the folder, and what is not available."""

    folder: Path
    new: int = 0
    existing: int = 0
    failures: list[str] = field(default_factory=list)
    incomplete: str = ""  # why the collection is incomplete, if more than some links failed

    def fail(self, name: str, reason: object) -> None:
        """Add a file or a page that is not available."""
        self.failures.append(escape(f"{name}: {reason}"))

    def finish(self) -> None:
        """Print the report; exit with status 1 without music or with an incomplete collection."""
        if self.failures:
            print("not available:", *self.failures, sep="\n  ")
        failed = len(self.failures)
        print(f"done: {self.new} new, {self.existing} already here, {failed} not available")
        if not self.new + self.existing:
            stop("no music found" + (f": {self.incomplete}" if self.incomplete else ""))
        if self.incomplete:
            stop(self.incomplete)
        print(f"music is in {self.folder}; now run: python3 preprocess.py")


def check_page(content: bytes) -> None:
    """Raise ContentError for a page that is too large."""
    if len(content) > MAX_PAGE_BYTES:
        raise ContentError(f"a page of over {MAX_PAGE_BYTES >> 20} MB")


def read_page(client: Client, url: str, report: Report, has_music: bool) -> tuple[str, list[str]]:
    """Return the final address of a page and all its links; no links if it cannot be read.

    has_music: the page must link to a MIDI file; it is an error if it does not.
    """
    print(escape(f"reading {url}"), flush=True)
    with tempfile.TemporaryDirectory(prefix=".page-", dir=report.folder) as temporary:
        page = Path(temporary, "page.html")
        try:
            final_url = client.download(url, page, check_page)
            links = find_links(page.read_bytes(), final_url)
            if has_music and not any(map(is_midi_url, links)):
                raise DownloadError("no links to MIDI files")
            return final_url, links
        except DownloadError as error:
            report.fail(url, error)
            if isinstance(error, SiteError):
                report.incomplete = f"could not read {url} ({error}); run it again to continue"
            elif has_music:
                report.incomplete = f"{url} has changed, or the address is wrong ({error})"
    return url, []


def read_pages(client: Client, index: str, sources: Sequence[str], report: Report) -> list[str]:
    """Return the addresses of the MIDI files that are sources or that pages link to.

    index: a page that links to other pages in its folder, or ""; sources: pages or MIDI files.
    """
    urls: list[str] = []
    if index:
        index_url, links = read_page(client, index, report, has_music=False)
        sibling = re.compile(re.escape(urljoin(index_url, ".")) + r"[^/?]+\.html?", re.IGNORECASE)
        siblings = [link for link in links if sibling.fullmatch(link) and link != index_url]
        if not siblings and not report.incomplete:
            report.incomplete = f"{index} has changed: no links to pages in its folder"
        for page in siblings:
            links += read_page(client, page, report, has_music=False)[1]
        urls += links
    for source in sources:
        url = make_absolute("", source)
        if url is None:
            report.fail(source, "not http:// or https://")
        elif is_midi_url(url):
            urls.append(url)
        else:
            urls += read_page(client, url, report, has_music=True)[1]
    midi_urls = dict.fromkeys(filter(is_midi_url, urls))  # each once, in order
    # NAME_format0.mid is the same piece as NAME.mid
    redundant = {u for u in midi_urls if FORMAT_0.search(u) and FORMAT_0.sub("", u) in midi_urls}
    return [url for url in midi_urls if url not in redundant]


def download_links(client: Client, urls: Sequence[str], home: str, report: Report) -> None:
    """Download MIDI files to their paths below the folder; see `make_path` for `home`."""
    paths = make_paths(urls, home)
    print(f"{len(paths)} files for {report.folder}, at most one request in {client.delay:g} s")
    failures: Counter[str] = Counter()  # of each host, in a row
    for number, (url, name) in enumerate(paths.items(), 1):
        host, target = urlsplit(url).netloc, report.folder / name
        try:
            if is_present(target, check_midi):
                report.existing += 1
                continue
            if failures[host] >= MAX_FAILURES:
                raise DownloadError(f"not tried, because {host} does not answer")
            client.download(url, target, check_midi)
            failures[host] = 0
            report.new += 1
            print(escape(f"{number}/{len(paths)} {name}"), flush=True)
        except DownloadError as error:
            failures[host] += isinstance(error, SiteError)
            report.fail(name, f"{error} ({url})")
        except OSError as error:
            if error.errno not in NAME_ERRORS:
                raise
            report.fail(name, f"{error.strerror} ({url})")
    silent = [host for host, count in failures.items() if count >= MAX_FAILURES]
    if silent:
        report.incomplete = f"no answer from {', '.join(silent)}; run it again to continue"


def read_addresses(source: str) -> list[str]:
    """Return an address, or the addresses in a text file; lines that start with # are comments."""
    if re.match(r"https?://.", source):
        return [source]
    if not Path(source).is_file():
        stop(f"{source}: not http://, https:// or a file on this disk", 2)
    lines = (line.strip() for line in decode_text(Path(source).read_bytes()).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def download_pages(options: argparse.Namespace, client: Client) -> None:
    """Download the MIDI files that pages link to."""
    sources = [address for source in options.urls for address in read_addresses(source)]
    if not sources and not options.index:
        stop("give a page to download from; see -h", 2)
    report = Report(options.folder)
    report.folder.mkdir(parents=True, exist_ok=True)
    urls = read_pages(client, options.index, sources, report)
    if urls:
        download_links(client, urls, make_host_name(options.home), report)
    elif not report.incomplete:
        report.incomplete = "there are no links to MIDI files"
    report.finish()


# ----------------------------------------------------------------------------- archives


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the bytes of a member; raise DownloadError if it is missing, damaged or too large."""
    try:
        if archive.getinfo(name).file_size > MAX_MEMBER_BYTES:
            raise DownloadError("too large")
        return archive.read(name)
    except KeyError as error:
        raise DownloadError("in the table, but not in the archive") from error
    except ZIP_ERRORS as error:
        raise DownloadError(f"damaged ({error})") from error


def read_table(content: bytes, column: str, split: str) -> dict[str, str]:
    """Return the target of each MIDI file that a table names; exit if it is malformed."""
    targets = {}
    try:
        rows = list(csv.DictReader(io.StringIO(decode_text(content), newline="")))
    except csv.Error as error:
        stop(f"the archive has changed: its table is no CSV file ({error})")
    for row in rows:
        if not {column, split or column} <= row.keys():
            stop(f"the archive has changed: its table lacks {column}{split and ' or '}{split}")
        name = row[column]
        if not name:
            continue
        target = f"{row[split]}/{name}" if split else name
        if not is_safe_name(target) or not target.lower().endswith(MIDI_SUFFIXES):
            stop(f"nothing was unpacked: the table names {target!r}")
        targets[name] = target
    return targets


def is_safe_name(name: str) -> bool:
    """Return whether a name stays below the target folder on any system."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not re.search(r"[\\:\x00]", name)


def write_new(content: bytes, target: Path) -> bool:
    """Write a file through TARGET.part; return False if it exists with the same content.

    Raises DownloadError if it exists with other content.
    """
    if os.path.lexists(target):
        if target.is_file() and target.read_bytes() == content:
            return False
        raise DownloadError("exists, but is different; move it away to unpack it")
    part = make_part(target)
    part.write_bytes(content)
    part.replace(target)
    return True


def unpack(archive: zipfile.ZipFile, options: argparse.Namespace) -> Report:
    """Write the MIDI files that the table names, and the table, license and README."""
    tables = [name for name in archive.namelist() if PurePosixPath(name).name == options.table]
    if not tables:
        stop(f"the archive has changed: there is no {options.table} in it")
    table = min(tables, key=lambda name: name.count("/"))
    root = table.removesuffix(options.table)
    targets = read_table(read_member(archive, table), options.column, options.split)
    names = [name.removeprefix(root) for name in archive.namelist()]
    documents = [name for name in names if re.fullmatch(r"(LICENSE|README)(\.\w+)?", name)]
    report = Report(options.folder)
    for name in (options.table, *documents, *targets):
        target = targets.get(name, name)
        try:
            content = read_member(archive, root + name)
            if name in targets:
                check_midi(content)
            is_new = write_new(content, report.folder / target)
            report.new += is_new and name in targets
            report.existing += not is_new and name in targets
        except DownloadError as error:
            report.fail(target, error)
        except OSError as error:
            if error.errno not in NAME_ERRORS:
                raise
            report.fail(target, error.strerror)
    return report


def download_archive(options: argparse.Namespace, client: Client) -> None:
    """Download an archive and unpack its MIDI files."""
    (url,) = options.urls
    target = options.folder / options.archive
    max_unpacked = int(read_setting("MAX_UNPACKED_MB", 4000, whole=True)) << 20
    check = functools.partial(check_zip, max_unpacked=max_unpacked, sha256=options.sha256)
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        if is_present(target, check):
            print(f"{target} exists already")
        else:
            print(f"downloading {url} to {target}.part", flush=True)
            client.download(url, target, check)
    except DownloadError as error:
        if os.path.lexists(target):
            stop(f"{target} {error}")
        is_temporary = isinstance(error, SiteError)
        hint = (
            "run it again to continue" if is_temporary else "has the address or the file changed?"
        )
        stop(f"could not download {url}: {error}; {hint}")
    with zipfile.ZipFile(target) as archive:
        unpack(archive, options).finish()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("urls", nargs="*")
    parser.add_argument("--max-mb", type=int, default=16)
    for flag in ("archive", "sha256", "table", "column", "split", "home", "index"):
        parser.add_argument(f"--{flag}", default="")
    options = parser.parse_args(argv)
    run = download_archive if options.archive else download_pages
    run(options, Client(options.max_mb))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        stop(f"{error.filename}: {error.strerror}" if error.filename else str(error))
