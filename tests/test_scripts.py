"""The download scripts, run for real against a small server on this machine."""

import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "dataset" / "scripts" / "maestro_scraper.sh"
FETCHER = shutil.which("curl") or shutil.which("wget")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    site = tmp_path / "site"
    site.mkdir()
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}", site
        serving.shutdown()


def run(url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "BASE_URL": url, "no_proxy": "127.0.0.1"}
    command = ["/bin/bash", str(SCRIPT), str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(FETCHER is None, reason="neither curl nor wget is here")
def test_an_archive_that_is_not_the_expected_one_is_refused(
    tmp_path: Path, server: tuple[str, Path]
) -> None:
    url, site = server
    (site / "maestro-v3.0.0-midi.zip").write_bytes(b"<html>an error page</html>")
    folder = tmp_path / "a folder"
    done = run(url, folder)
    assert done.returncode == 1
    assert "SHA-256" in done.stderr
    assert "CC BY-NC-SA" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["maestro-v3.0.0-midi.zip.wrong"]


@pytest.mark.skipif(FETCHER is None, reason="neither curl nor wget is here")
def test_a_page_that_is_not_there_is_said(tmp_path: Path, server: tuple[str, Path]) -> None:
    done = run(server[0], tmp_path / "m")
    assert done.returncode == 1
    assert "could not fetch" in done.stderr
