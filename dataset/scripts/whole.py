"""Whether a downloaded file is whole.

python3 whole.py midi|zip|SHA256 FILE      0: it is; 1: it is something else; 2: it is cut short

The reason is printed. What is not always needed is imported late: a run asks this for each file.
"""

from __future__ import annotations

import sys

WHOLE, OTHER, SHORT = 0, 1, 2
Finding = tuple[int, str]


def check_midi(data: bytes) -> Finding:
    """Whether `data` is a MIDI file with all the tracks that its header announces."""
    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        data = data[20:]
    if not data.startswith(b"MThd"[: len(data)]) or not data:
        page = data.lstrip()[:1] == b"<"
        return OTHER, "not a MIDI file" + (" but a page" if page else "")
    if len(data) < 14:
        return SHORT, "cut short"
    at = 8 + int.from_bytes(data[4:8], "big")
    left = int.from_bytes(data[10:12], "big")
    if at < 14 or left < 1:
        return OTHER, "not a MIDI file: no tracks"
    while left:
        if at + 8 > len(data):
            return SHORT, f"cut short: {left} tracks are missing"
        left -= data[at : at + 4] == b"MTrk"
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "big")
    return (SHORT, "cut short in its last track") if at > len(data) else (WHOLE, "")


def check_zip(path: str) -> Finding:
    """Whether the file is a zip archive to its end, of which all can be read."""
    import zipfile
    import zlib

    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return OTHER, "it is not a zip archive"
    if not zipfile.is_zipfile(path):
        return SHORT, "the archive is cut short"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        damaged = str(error)
    return (OTHER, f"the archive is damaged ({damaged})") if damaged else (WHOLE, "")


def check_sum(path: str, wanted: str) -> Finding:
    """Whether the file is the zip archive with this SHA-256."""
    import hashlib

    with open(path, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found == wanted.lower():
        return WHOLE, ""
    kind, reason = check_zip(path)
    return kind or OTHER, reason or f"it is not the one expected (its SHA-256 is {found})"


def main(kind: str, path: str) -> int:
    """Look at a file as `midi`, `zip`, or the zip archive with this SHA-256."""
    if kind == "midi":
        with open(path, "rb") as file:
            found, reason = check_midi(file.read())
    else:
        found, reason = check_zip(path) if kind == "zip" else check_sum(path, kind)
    sys.stdout.write(reason)
    return found


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)
