"""A headless Chromium, spoken to over its pipe; for the tests of the page."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run".split()
FLAGS += "--disable-background-networking --mute-audio --remote-debugging-pipe".split()


def chromium() -> str | None:
    """Where a Chromium is, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a browser: calls go out, answers and events come in."""

    def __init__(self, out: int, back: int) -> None:
        self.out, self.back, self.number, self.rest = out, back, 0, b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", session="", url="about:blank")["targetId"]
        self.session = ""
        told = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = told["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            more = os.read(self.back, 1 << 20)
            assert more, "the browser has gone"
            self.rest += more
        text, _, self.rest = self.rest.partition(b"\0")
        return dict(json.loads(text))

    def call(self, method: str, session: str | None = None, **params: object) -> Any:
        """Call a method and wait for its answer; events that come before it are kept."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        session = getattr(self, "session", "") if session is None else session
        os.write(
            self.out,
            json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0",
        )
        while True:
            answer = self._message()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path) -> None:
        """Load a file and wait until it has."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.truncate(lambda: self.script("document.readyState === 'complete'"))

    def script(self, code: str) -> Any:
        """What an expression gives in the page."""
        told = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def truncate(self, true: Callable[[], object], seconds: float = 20.0) -> None:
        """Wait until something is true."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it did not become true in time"
            time.sleep(0.05)

    def click(self, selector: str, x: float | None = None, y: float | None = None) -> None:
        """A real click into the middle of an element, or at x, y from its corner."""
        place = f"document.querySelector({selector!r})"
        self.script(f"{place}.scrollIntoView({{block: 'center'}})")
        left, top, width, height = self.script(
            f"(({{left, top, width, height}}) => [left, top, width, height])"
            f"({place}.getBoundingClientRect())"
        )
        at = {
            "x": left + (width / 2 if x is None else x),
            "y": top + (height / 2 if y is None else y),
        }
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def press(self, key: str) -> None:
        """A key, pressed and released."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def screenshot(self, path: Path) -> None:
        """What is to be seen."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def complaints(self) -> list[str]:
        """Exceptions, errors in the console, and all that was fetched but files and data."""
        self.script("1")  # so that what came before has been read
        found = []
        for event in self.events:
            method, params = event.get("method", ""), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                found.append(json.dumps(params))
            if method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("file:", "data:")):
                    found.append(url)
        return found


@contextlib.contextmanager
def opened(folder: Path, *flags: str) -> Iterator[Browser]:
    """A browser with an empty profile in `folder`, closed at the end."""
    program, shell = chromium(), shutil.which("bash")
    assert program
    assert shell
    (there, out), (back, here) = os.pipe(), os.pipe()
    line = [program, *FLAGS, *flags, f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        [shell, "-c", f'exec "$@" 3<&{there} 4>&{here}', "bash", *line],
        pass_fds=(there, here),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(there)
    os.close(here)
    try:
        yield Browser(out, back)
    finally:
        os.close(out)
        os.close(back)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
