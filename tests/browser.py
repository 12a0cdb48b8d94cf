"""A headless Chromium for tests, controlled over a pipe with the DevTools protocol."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run".split()
FLAGS += "--disable-background-networking --mute-audio --remote-debugging-pipe".split()
TIMEOUT = 20.0  # seconds


CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


class Browser:
    """One page in a browser."""

    def __init__(self, requests: int, responses: int) -> None:
        self.requests, self.responses = requests, responses  # file descriptors
        self.number, self.buffer, self.session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> Any:
        """Call a method and return its result; events that arrive before it are stored."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.requests, json.dumps(message).encode() + b"\0")
        while (response := self._read_message()).get("id") != self.number:
            self.events.append(response)
        assert "error" not in response, response
        return response["result"]

    def _read_message(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            content = os.read(self.responses, 1 << 20)
            assert content, "the browser has exited"
            self.buffer += content
        text, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(text))

    def open(self, path: Path) -> None:
        """Load a file."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for(lambda: self.evaluate("document.readyState === 'complete'"))

    def evaluate(self, code: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, "timeout"
            time.sleep(0.02)

    def click(self, selector: str, x: float | None = None, y: float | None = None) -> None:
        """Click in the middle of an element, or at x, y from its top left corner."""
        element = f"document.querySelector({selector!r})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        left, top, width, height = self.evaluate(
            f"(({{left, top, width, height}}) => [left, top, width, height])"
            f"({element}.getBoundingClientRect())"
        )
        mouse = {"button": "left", "clickCount": 1}
        mouse["x"] = left + (width / 2 if x is None else x)
        mouse["y"] = top + (height / 2 if y is None else y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **mouse)

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def find_problems(self) -> list[str]:
        """Return exceptions, console messages, and requests to the network."""
        self.evaluate("1")  # read all events until now
        problems = []
        for event in self.events:
            method, params = event.get("method", ""), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                problems.append(json.dumps(params))
            if method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("file:", "data:")):
                    problems.append(url)
        return problems


@contextlib.contextmanager
def open_browser(profile: Path, width: int = 1000, height: int = 900) -> Iterator[Browser]:
    """Start a browser with an empty profile in a folder, and close it at the end."""
    flags = [*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={profile}"]
    (browser_in, requests), (responses, browser_out) = os.pipe(), os.pipe()
    redirect = f'exec "$@" 3<&{browser_in} 4>&{browser_out}'  # the protocol uses these two
    command = [str(shutil.which("bash")), "-c", redirect, "bash", str(CHROMIUM), *flags]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, pass_fds=(browser_in, browser_out), **output) as process:
        os.close(browser_in)
        os.close(browser_out)
        try:
            yield Browser(requests, responses)
        finally:
            os.close(requests)
            os.close(responses)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            process.kill()
