"""Data folders with their manifest: what preprocess.py knows about `.data` and MIDI files.

`manifest.json` lets a run see what has changed without opening the files, and tells train.py
whether the folder is complete. Everything in it but the subsets of removed performances can be
computed again: a folder without a manifest, or with a damaged one, gets a new one.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import utils
from config import DATA_SUFFIX, MANIFEST_FILE, SUBSETS
from corpus.dedup import Fingerprint, hash_events
from corpus.filters import PerformanceStats
from corpus.performance import Performance, check_encoded
from corpus.split import WAITING, DataFolder
from utils import Array

VERSION = 1  # of the format
# types of the plain fields of an entry in manifest.json
_FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("path", "stamp", "midi", "source", "made_with", "digest"), str),
    **dict.fromkeys(("piece", "subset"), str),
    **dict.fromkeys(("notes", "events", "milliseconds"), int),
    **dict.fromkeys(("onset_error_mean", "onset_error_max"), (int, float)),
}


@dataclass(frozen=True, eq=False)
class DataEntry:
    """What the manifest has about one `.data` file.

    path: below the data folder; stamp: see `read_stamp`; midi: path of the MIDI file from the data
    folder, "" if unknown; source: hash of the MIDI file; made_with: versions of the encoding and
    the reader; digest: hash of the events; piece: identity of its piece; subset: of a split;
    stats: of the MIDI file, if measured; words: the sketch, if computed (see corpus.dedup).
    """

    path: str
    stamp: str
    source: str
    made_with: str
    digest: str
    notes: int
    events: int
    milliseconds: int
    onset_error_mean: float
    onset_error_max: float
    midi: str = ""
    piece: str = ""
    subset: str = ""
    stats: PerformanceStats | None = None
    words: Array | None = None

    @staticmethod
    def describe(path: str, performance: Performance, **more: Any) -> DataEntry:
        """Return the entry of a performance; `more`: fields that it does not have."""
        return DataEntry(
            path=path,
            stamp="",
            source=performance.source,
            made_with=performance.made_with,
            digest=hash_events(performance).hex(),
            notes=performance.notes,
            events=len(performance),
            milliseconds=performance.milliseconds,
            onset_error_mean=performance.onset_error_mean,
            onset_error_max=performance.onset_error_max,
            **more,
        )

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The fingerprint, or None if the sketch is not known."""
        return None if self.words is None else Fingerprint(bytes.fromhex(self.digest), self.words)

    def to_json(self) -> dict[str, Any]:
        """Return the entry as plain values."""
        record = {name: getattr(self, name) for name in _FIELDS}
        if self.stats is not None:
            record["stats"] = self.stats.to_json()
        if self.words is not None:
            record["sketch"] = base64.b64encode(self.words.astype("<u8").tobytes()).decode()
        return record

    @staticmethod
    def from_json(record: Any) -> DataEntry:
        """Return the entry from plain values; raise ValueError, TypeError or KeyError if wrong."""
        for name, kind in _FIELDS.items():
            if not isinstance(record[name], kind):
                raise ValueError(f"{name} has the wrong type")
        bytes.fromhex(record["digest"])
        stats = PerformanceStats.from_json(record["stats"]) if "stats" in record else None
        words = None
        if "sketch" in record:
            content = base64.b64decode(record["sketch"], validate=True)
            words = np.frombuffer(content, "<u8").astype(np.uint64)
        return DataEntry(**{name: record[name] for name in _FIELDS}, stats=stats, words=words)


class MidiFile(NamedTuple):
    """A MIDI file of an earlier run: its stamp, its hash, and the hash of its events.

    made_with: as in DataEntry; with other versions, the events may be different.
    """

    stamp: str
    source: str
    digest: str
    made_with: str


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    entries: by path; files: the usable MIDI files of the last run, by name; subsets: by digest, of
    all performances that ever were in one; filters: of the last run; is_complete: False while a
    run changes the folder.
    """

    entries: Mapping[str, DataEntry] = field(default_factory=dict)
    files: Mapping[str, MidiFile] = field(default_factory=dict)
    subsets: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, float] = field(default_factory=dict)
    is_complete: bool = True

    @staticmethod
    def load(root: Path) -> Manifest | None:
        """Return the manifest of a data folder; None if it is missing or damaged."""
        try:
            record = json.loads((root / MANIFEST_FILE).read_text(encoding="utf-8"))
            if record["version"] != VERSION:
                return None
            entries = map(DataEntry.from_json, record["performances"])
            files = {str(name): MidiFile(*map(str, row)) for name, row in record["files"].items()}
            subsets = {str(d): str(s) for d, s in record["subsets"].items() if s in SUBSETS}
            filters = {str(name): float(value) for name, value in record["filters"].items()}
            return Manifest(
                {entry.path: entry for entry in entries},
                files,
                subsets,
                filters,
                bool(record["complete"]),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def save(self, root: Path) -> None:
        """Write manifest.json atomically, a line for each file; nothing if it is the same."""
        head = {"version": VERSION, "complete": self.is_complete, "filters": dict(self.filters)}
        lines = [json.dumps(self.entries[path].to_json()) for path in sorted(self.entries)]
        performances, files, subsets = (
            ",\n".join(part)
            for part in (lines, _format_pairs(self.files), _format_pairs(self.subsets))
        )
        text = (
            f'{json.dumps(head)[:-1]},\n"performances": [\n{performances}\n],\n'
            f'"files": {{\n{files}\n}},\n"subsets": {{\n{subsets}\n}}}}\n'
        )
        path = root / MANIFEST_FILE
        if not (path.is_file() and path.read_bytes() == text.encode()):
            utils.atomic_write(path, text.encode())


def _format_pairs(values: Mapping[str, Any]) -> list[str]:
    """Return the pairs of a JSON object, in the order of their names."""
    return [f"{json.dumps(name)}: {json.dumps(values[name])}" for name in sorted(values)]


def read_stamp(path: utils.PathLike) -> str:
    """Return a text that changes when a file is written, replaced or renamed; "" if missing.

    It has the size and the times of the last change of the content and of the file's entry.
    """
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def check_complete(paths: Iterable[Path]) -> None:
    """Raise ValueError if a run of preprocess.py has not completed the data folder of a file.

    That is the next folder above the file that has a manifest.
    """
    for folder in {path.parent for path in paths}:
        for above in (folder, *Path(os.path.realpath(folder)).parents):
            try:
                with open(above / MANIFEST_FILE, encoding="utf-8") as file:
                    head = json.loads(file.readline(10_000).rstrip(",\n") + "}")
                is_complete = bool(head["complete"])
            except FileNotFoundError:
                continue
            except (OSError, ValueError, TypeError, KeyError):  # not ours
                continue
            if not is_complete:
                raise ValueError(
                    f"{str(above)!r} is not complete: preprocess.py still runs, or was "
                    "interrupted; run it again with the same folders"
                )
            break


def load_checked(path: Path) -> Performance:
    """Load a `.data` file and check all its content; raise ValueError if it is damaged."""
    performance = Performance.load(path)
    try:
        check_encoded(performance.events, performance.controls)
        if zipfile.is_zipfile(path):  # files of torch before 1.6 have no checksum
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise ValueError("a checksum is wrong")
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return performance


# ----------------------------------------------------- .data files and their MIDI files


class Plan(NamedTuple):
    """Which `.data` file belongs to which MIDI file.

    owners: entry by name of the MIDI file; duplicates: the MIDI file that has the same notes, by
    name; copies: entries of a performance that another entry has, too, with that one's path;
    replaced: entries whose MIDI file has other notes now; filtered: entries whose MIDI file is
    rejected; gone: entries whose MIDI file is gone; remaining: names of MIDI files that cannot be
    read now; others: entries whose MIDI file is not below MIDI_DIR, or is unknown.
    """

    owners: dict[str, DataEntry]
    duplicates: dict[str, str]
    copies: list[tuple[DataEntry, str]]
    replaced: list[DataEntry]
    filtered: list[DataEntry]
    gone: list[DataEntry]
    remaining: set[str]
    others: list[DataEntry]


def _rank(entry: DataEntry, has_name: bool) -> tuple[int, bool, bool, str]:
    """Return the sort key of the copies of one performance; the first one is kept.

    What was used for training must not be used for evaluation: the subset counts first.
    """
    subset = SUBSETS.index(entry.subset) if entry.subset in SUBSETS else len(SUBSETS)
    return subset, not has_name, entry.path.startswith("."), entry.path


class DataSet:
    """A data folder that a run of preprocess.py changes; the one owner of its files.

    entries: of its `.data` files, by path; damaged: why a `.data` file cannot be used, by path;
    unknown: paths that `take_over` must still describe; subsets: by digest, also of performances
    that are not in the folder any more; written: digests that this run has written; manifest: of
    the run before; previous_filters: of that run, None without one; split_count: number of files
    that were there when a flat folder was split.
    """

    def __init__(self, folder: DataFolder, needs_words: bool) -> None:
        """Compare the folder with its manifest; needs_words: all entries need their sketch.

        Removes the temporary files of killed runs.
        """
        self.folder, self.root = folder, folder.root
        manifest = Manifest.load(self.root)
        self.manifest = manifest or Manifest()
        self.previous_filters = None if manifest is None else manifest.filters
        self.subsets = dict(self.manifest.subsets)
        self.entries: dict[str, DataEntry] = {}
        self.damaged: dict[str, str] = {}
        self.unknown: list[str] = []
        self.written: set[str] = set()
        self.split_count = 0
        self._is_split = bool(folder.previous_split)
        self._is_changing = False
        self._paths: dict[str, str] = {}  # an entry for each digest
        self._old_entries = {(e.digest, e.source): e for e in self.manifest.entries.values()}
        for name, _, _ in os.walk(self.root):
            utils.remove_leftovers(name)
        for path in folder.find_data():
            entry = self.manifest.entries.get(path)
            is_known = entry is not None and entry.stamp == read_stamp(self.root / path)
            if entry is None or not is_known or (needs_words and entry.words is None):
                self.unknown.append(path)
            else:
                self._add(entry)

    def take_over(self, path: str, found: DataEntry | str) -> None:
        """Add a `.data` file that the manifest does not know; found: the reason if it is damaged.

        What only the manifest knows is kept if the file has the content of an entry there.
        """
        if isinstance(found, str):
            self.damaged[path] = found
            return
        entry = replace(found, stamp=read_stamp(self.root / path))
        old = self._old_entries.get((entry.digest, entry.source))
        if old is not None:
            entry = replace(entry, stats=old.stats, midi=old.midi)
        self._add(entry)

    def _add(self, entry: DataEntry) -> None:
        """Add an entry; its subset is the folder that it is in, or the one that it had last."""
        subset, _ = self.parse(entry.path)
        if self.folder.split:
            subset = subset or self.subsets.get(entry.digest, "")
        self.entries[entry.path] = replace(entry, subset=subset)
        self._paths[entry.digest] = entry.path
        if subset:
            self.subsets[entry.digest] = subset

    # ----------------------------------------------------------------------------- queries

    def parse(self, path: str) -> tuple[str, str]:
        """Return the subset ("" for none) and the name of the MIDI file of a `.data` file."""
        return self.folder.parse(path, self._is_split)

    def get_name(self, path: str) -> str:
        """Return the name of the MIDI file that the path of a `.data` file stands for."""
        return self.parse(path)[1]

    def get(self, digest: str) -> DataEntry:
        """Return an entry of the performance with this digest; KeyError if there is none."""
        return self.entries[self._paths[digest]]

    def has(self, digest: str, made_with: str) -> bool:
        """Return whether the folder has a performance, made with these versions."""
        return digest in self._paths and self.get(digest).made_with == made_with

    def find_name(self, name: str) -> list[DataEntry]:
        """Return the entries whose path stands for a MIDI file."""
        paths = [name + DATA_SUFFIX, self.folder.locate(name)]
        paths += [self.folder.locate(name, subset) for subset in SUBSETS]
        return [self.entries[path] for path in dict.fromkeys(paths) if path in self.entries]

    def find_sources(self, made_with: str) -> dict[str, str]:
        """Return the digests that MIDI files have, by their hash, if the folder has the data."""
        digests = {
            file.source: file.digest
            for file in self.manifest.files.values()
            if file.made_with == made_with and self.has(file.digest, made_with)
        }
        for entry in self.entries.values():
            if entry.source and entry.made_with == made_with:
                digests[entry.source] = entry.digest
        return digests

    def make_plan(
        self,
        usable: Mapping[str, str],
        rejected: Mapping[str, str],
        is_elsewhere: Callable[[DataEntry], bool],
    ) -> Plan:
        """Find out which `.data` file belongs to which MIDI file.

        usable: the digest of each usable MIDI file of this run, by name; rejected: the hash of the
        others, "" if unknown; is_elsewhere: whether an entry's MIDI file exists outside MIDI_DIR.
        """
        plan = Plan({}, {}, [], [], [], [], set(), [])
        files: dict[str, list[str]] = {}
        for name, digest in usable.items():
            files.setdefault(digest, []).append(name)
        groups: dict[str, list[DataEntry]] = {}
        for entry in self.entries.values():
            groups.setdefault(entry.digest, []).append(entry)
        rejected_sources = set(rejected.values()) - {""}
        for digest, group in groups.items():
            same = files.get(digest, [])
            kept, *copies = sorted(group, key=lambda e: _rank(e, self.get_name(e.path) in same))
            plan.copies.extend((copy, kept.path) for copy in copies)
            owner = name = self.get_name(kept.path)
            if name not in same:
                if is_elsewhere(kept):
                    owner = os.path.normpath(self.root / kept.midi)
                    plan.others.append(kept)
                elif same:
                    owner = same[0]
                elif kept.source in rejected_sources:
                    plan.filtered.append(kept)
                elif name in usable:
                    plan.replaced.append(kept)
                elif name in rejected:
                    plan.remaining.add(name)
                elif kept.source:
                    plan.gone.append(kept)
                else:
                    plan.others.append(kept)
            for name in same:
                if name == owner:
                    plan.owners[name] = kept
                else:
                    plan.duplicates[name] = owner
        return plan

    # ----------------------------------------------------------------------------- changes

    def begin(self) -> None:
        """Mark the folder as incomplete, before the first change."""
        if not self._is_changing:
            self._is_changing = True
            self.save(is_complete=False)

    def end(self) -> None:
        """Mark the folder as complete, if this run has changed it."""
        if self._is_changing:
            self.save(is_complete=True)

    def start_split(self) -> None:
        """Mark a flat folder as split; files in folders that are named like subsets move away."""
        if self.folder.is_new_split:
            self.begin()
            self.split_count = len(self.entries)
            paths = [*self.entries, *self.damaged]
            inside = [path for path in paths if self.folder.parse(path, is_split=True)[0]]
            self.move({path: f"{WAITING}/{path}" for path in inside})
            self.folder.write_split([])
        self._is_split = bool(self.folder.split)

    def store(self, name: str, performance: Performance, entry: DataEntry) -> None:
        """Write a performance that the folder does not have, for the MIDI file `name`.

        If the folder has an older version with the same events, that file is replaced. Raises
        OSError.
        """
        path = self._paths.get(entry.digest) or self.folder.locate(name)
        if os.path.isdir(self.root / path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.root / path))
        if entry.digest not in self._paths and os.path.lexists(self.root / path):
            path = f"{WAITING}/{name}{DATA_SUFFIX}"  # until the end of the run
        self.begin()
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        utils.atomic_write(target, performance.to_bytes(), durable=False)
        self.damaged.pop(path, None)
        self._add(replace(entry, path=path, stamp=read_stamp(target)))
        self.written.add(entry.digest)

    def inherit_subsets(self, plan: Plan) -> None:
        """Give each changed MIDI file, or one with damaged data, the subset of its older data."""
        old_paths = [*(entry.path for entry in plan.replaced), *self.damaged]
        for subset, name in map(self.parse, old_paths):
            entry = plan.owners.get(name)
            if subset and entry is not None and not self.entries[entry.path].subset:
                self.update(entry.path, subset=subset)
        if self._is_changing:
            self.save(is_complete=False)  # after a kill, each performance keeps its subset

    def update(self, path: str, **fields: Any) -> None:
        """Change fields of an entry."""
        entry = self.entries[path] = replace(self.entries[path], **fields)
        if entry.subset:
            self.subsets[entry.digest] = entry.subset

    def remove(self, paths: Iterable[str]) -> None:
        """Remove `.data` files."""
        for path in list(paths):
            self.begin()
            self.folder.remove(path)
            self.entries.pop(path, None)
            self.damaged.pop(path, None)
        self._paths = {entry.digest: entry.path for entry in self.entries.values()}

    def place(self, names: Mapping[str, str]) -> None:
        """Move each `.data` file to its place; names: of its MIDI file, by its path."""
        targets: dict[str, str] = {}
        for path, name in names.items():
            entry = self.entries[path]
            target = self.folder.locate(name, entry.subset)
            if target in targets.values() or os.path.isdir(self.root / target):
                target = self.folder.locate(f"{name} {entry.digest[:8]}", entry.subset)
            targets[path] = target
        self.move(targets)

    def move(self, targets: Mapping[str, str]) -> None:
        """Move `.data` files; targets: by path."""
        targets = {path: target for path, target in targets.items() if path != target}
        if not targets:
            return
        self.save(is_complete=False)  # after a kill, each performance keeps its subset
        self._is_changing = True
        self.folder.move(targets)
        self.damaged = {targets.get(path, path): why for path, why in self.damaged.items()}
        entries = {targets.get(path, path): entry for path, entry in self.entries.items()}
        for target in set(targets.values()) & set(entries):
            stamp = read_stamp(self.root / target)
            entries[target] = replace(entries[target], path=target, stamp=stamp)
        self.entries = entries
        self._paths = {entry.digest: entry.path for entry in self.entries.values()}

    def save(self, is_complete: bool, **more: Any) -> None:
        """Write the manifest; more: fields of Manifest that have changed."""
        self.manifest = replace(
            self.manifest,
            entries=dict(self.entries),
            subsets=dict(self.subsets),
            is_complete=is_complete,
            **more,
        )
        self.manifest.save(self.root)
