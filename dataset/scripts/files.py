"""What the download scripts ask of Python: links, names and archives.

python3 files.py pages PAGE URL            the pages beside this one that it links to
python3 files.py plan DIR SITE < SOURCES   of each file that they name: state, link, name below DIR
python3 files.py unpack ZIP DIR TABLE COLUMN [SPLIT]   the MIDI files that a table names

PAGE.headers has the headers that came with a page. SOURCES has a line for each link (`link URL`)
and each page (`page URL PAGE`; `maybe URL PAGE` if it may have no links), by tabs.
The standard library only; nothing is run or followed that a page or an archive says.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit, urlunsplit

from whole import check_midi

MIDI = (".mid", ".midi", ".kar")
SPLITS = ("train", "validation", "test")
LARGEST_MIDI = 64 << 20  # bytes, of a member of an archive
LONGEST_NAME = 120  # bytes
FORMAT0 = re.compile(r"_format0(?=\.mid$)", re.IGNORECASE)


def text_of(page: bytes) -> str:
    """The text of a page, which may be older than UTF-8."""
    try:
        return page.decode("utf-8-sig")
    except UnicodeDecodeError:
        return page.decode("cp1252", "replace")


def references(text: str) -> tuple[str, list[str]]:
    """The base that a page names, and all it refers to, in order; of a plain list, its lines."""
    from html.parser import HTMLParser

    base: list[str] = []
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for key, value in attrs:
                if key in ("href", "src") and value:
                    (base if tag == "base" else found).append(value)

    reader = Reader()
    reader.feed(text)
    reader.close()
    if not found:
        found = [line for line in text.splitlines() if re.match(r"\s*https?://\S", line)]
    return (base or [""])[0], found


def absolute(base: str, link: str) -> str | None:
    """The link as a browser would ask for it; None if that is not over HTTP."""
    try:
        parts = urlsplit(urldefrag(urljoin(base, "".join(link.strip().splitlines())))[0])
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return None
        host = parts.hostname.encode("idna").decode()
        place = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
    except ValueError:  # what stands there is no address
        return None
    path = quote(parts.path.replace("\\", "/"), safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return urlunsplit((parts.scheme, place, path or "/", query, ""))


def after_redirects(url: str, headers: str) -> str:
    """The address that answered in the end, by the headers of all answers."""
    for place in re.findall(r"(?im)^\s*location:\s*(\S+)", headers):
        url = absolute(url, place) or url
    return url


def is_midi(url: str) -> bool:
    """Whether the address ends like a MIDI file, in its path or in its query."""
    parts = urlsplit(url)
    return unquote(parts.path).lower().endswith(MIDI) or parts.query.lower().endswith(MIDI)


def links_of(page: str, url: str) -> list[str]:
    """All that a page links to, each once, as it is asked for; the address of the page first."""
    url = after_redirects(url, Path(page + ".headers").read_text(errors="replace"))
    base, found = references(text_of(Path(page).read_bytes()))
    base = urljoin(url, base)
    return list(dict.fromkeys([url, *filter(None, (absolute(base, link) for link in found))]))


def pages(page: str, url: str) -> Iterator[str]:
    """The other pages of the same folder that a page links to."""
    url, *found = links_of(page, url)
    here = urlsplit(url)
    for link in found:
        there = urlsplit(link)
        beside = there.path.rpartition("/")[0] == here.path.rpartition("/")[0]
        if beside and there.netloc == here.netloc and not there.query:
            if there.path.lower().endswith((".htm", ".html")):
                yield link


def gather(sources: str) -> tuple[list[str], list[str]]:
    """The links to MIDI files that the sources name, and the pages that lack them."""
    found: dict[str, None] = {}
    bare = []
    for line in sources.splitlines():
        kind, url, *page = line.split("\t")
        here = [absolute("", url) or url] if kind == "link" else links_of(page[0], url)[1:]
        music = list(filter(is_midi, here))
        if not music and kind != "maybe":
            bare.append(url)
        found |= dict.fromkeys(music)
    # of one piece in two formats one is enough
    return [
        url for url in found if url == (twin := FORMAT0.sub("", url)) or twin not in found
    ], bare


def plain(part: str) -> str:
    """A part of an address as a file name: no separators, not hidden, not too long."""
    name = unicodedata.normalize("NFC", unquote(part, errors="replace"))
    name = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029/\\]", "_", name)
    name = re.sub(r"^\.", "_", name)
    if len(name.encode()) <= LONGEST_NAME:
        return name
    stem, dot, ending = name.rpartition(".")
    ending = dot + ending if len(ending) < 8 else ""
    stem = name[: len(name) - len(ending)].encode()[: LONGEST_NAME - 16].decode(errors="ignore")
    return marked(stem + ending, part)


def marked(name: str, key: str) -> str:
    """The name with a mark of the key before its ending."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{zlib.crc32(key.encode()):08x}{path.suffix}"))


def host_of(url: str) -> str:
    """The host of an address, and its port, for a file name."""
    return urlsplit(url).netloc.removeprefix("www.").replace(":", "_")


def name_of(url: str, home: str) -> str:
    """Host, path and name for an address, without the host if it is `home`'s.

    An address with a query carries a mark of it.
    """
    parts = urlsplit(url)
    path = [plain(part) for part in parts.path.split("/") if part not in ("", ".", "..")]
    if parts.query:
        if not unquote(parts.path).lower().endswith(MIDI):
            path.append(plain(re.split(r"[=&/]", parts.query)[-1]))
        path[-1] = marked(path[-1], parts.query)
    return "/".join(path if host_of(url) == home else [host_of(url), *path])


def names_of(urls: list[str], home: str) -> dict[str, str]:
    """A name for each address; names that a disk might take for one another are all marked."""
    names = {url: name_of(url, home) for url in urls}
    count = Counter(name.casefold() for name in names.values())
    return {
        url: marked(name, url) if count[name.casefold()] > 1 else name
        for url, name in names.items()
    }


def state_of(path: Path) -> str:
    """`missing`, `here` (and whole), or what is wrong."""
    if not os.path.lexists(path):
        return "missing"
    if not path.is_file():
        return "no file"
    return check_midi(path.read_bytes())[1] or "here"


def plan(folder: str, site: str, sources: str) -> Iterator[str]:
    """A line for each page without links, then for each link: state, address, name."""
    urls, bare = gather(sources)
    yield from (f"bare\t{url}\t-" for url in bare)
    for url, name in names_of(urls, host_of(site)).items():
        yield f"{state_of(Path(folder, name))}\t{url}\t{name}"


class Archive:
    """A zip archive with a table of the MIDI files in it."""

    def __init__(self, name: str, table: str) -> None:
        import zipfile

        self.errors = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
        self.file = zipfile.ZipFile(name)
        self.members = {info.filename: info for info in self.file.infolist()}
        tables = [path for path in self.members if PurePosixPath(path).name == table]
        if not tables:
            raise SystemExit(f"the archive has changed: there is no {table} in it")
        self.table = min(tables, key=lambda path: path.count("/"))
        self.root = self.table[: -len(table)]

    def read(self, path: str) -> bytes:
        """A member's bytes; raises one of `errors` if it is damaged, or larger than allowed."""
        info = self.members[path]
        if info.file_size > LARGEST_MIDI or stat.S_ISLNK(info.external_attr >> 16):
            raise RuntimeError("too large, or no plain file")
        return self.file.read(info)

    def rows(self) -> list[dict[str, str]]:
        """The rows of the table."""
        import csv
        import io

        return list(csv.DictReader(io.StringIO(text_of(self.read(self.table)), newline="")))

    def papers(self) -> Iterator[str]:
        """The table, and what is said of the whole beside it."""
        for path in self.members:
            name = path.removeprefix(self.root)
            if path == self.table or re.fullmatch(r"(LICENSE|README)(\.\w+)?", name):
                yield path


def is_safe(name: str) -> bool:
    """Whether a member's name stays below the folder that it is unpacked into, on any system."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not re.search(r"[\\:\x00]", name)


def wanted(archive: Archive, column: str, split: str) -> dict[str, str]:
    """Where each MIDI file of the table goes; SystemExit if the table is not as it should be."""
    rows = archive.rows()
    if not rows or column not in rows[0] or (split and split not in rows[0]):
        raise SystemExit(
            f"the archive has changed: {archive.table} lacks {column}{split and ' or '}{split}"
        )
    places = {}
    for row in rows:
        name = row[column] or ""
        if not name:
            continue
        if not is_safe(name) or not name.lower().endswith(MIDI):
            raise SystemExit(f"nothing was unpacked: {archive.table} names {name!r}")
        if split and row[split] not in SPLITS:
            raise SystemExit(f"the archive has changed: {name} is of the split {row[split]!r}")
        places[archive.root + name] = f"{row[split]}/{name}" if split else name
    if not places:
        raise SystemExit(f"the archive has changed: {archive.table} names no MIDI files")
    return places


def put(data: bytes, target: Path) -> bool:
    """Write a file by way of NAME.part; False if it is there already. FileExistsError if other."""
    if os.path.lexists(target):
        if target.is_file() and target.read_bytes() == data:
            return False
        raise FileExistsError(f"{target} is there already, but another; move it away to unpack it")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_bytes(data)
    part.replace(target)
    return True


def unpack(name: str, folder: str, table: str, column: str, split: str = "") -> Iterator[str]:
    """Unpack what a table names: a line for each failure, then how many are new and here."""
    archive = Archive(name, table)
    places = wanted(archive, column, split)
    places = {path: path.removeprefix(archive.root) for path in archive.papers()} | places
    done = Counter[str]()
    for path, place in places.items():
        try:
            data = archive.read(path)
            reason = check_midi(data)[1] if path.lower().endswith(MIDI) else ""
            if not reason:
                new = put(data, Path(folder, place))
                done["new" if new else "here"] += path.lower().endswith(MIDI)
        except KeyError:
            reason = "in the table, but not in the archive"
        except (FileExistsError, NotADirectoryError, *archive.errors) as error:
            reason = str(error)
        if reason:
            yield f"failed {place}: {reason}"
    yield f"{done['new']} {done['here']}"


def main(verb: str, *words: str) -> None:
    """Do what the words say, and print a line for each thing that is found or done."""
    if verb == "pages":
        lines = pages(*words)
    elif verb == "plan":
        lines = plan(words[0], words[1], sys.stdin.read())
    else:
        lines = unpack(*words)
    for line in lines:
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(str(error))
