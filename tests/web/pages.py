"""Live pages of small networks, and node, for tests."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model import PerformanceRNN
from sequence import CONTROLS, CURRENT, ControlLayout
from tests.generation.networks import SIZES, make_model
from web.live import LiveSettings, write_live

FOLDER = Path(__file__).parent
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


def run_node(script: str | Path, *arguments: object, data: object = None) -> str:
    """Run a script of tests/web, or another one, with data as JSON on its standard input."""
    command = [str(NODE), str(FOLDER / script), *map(str, arguments)]
    text = None if data is None else json.dumps(data)
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_node_json(script: str, *arguments: object, data: object = None) -> Any:
    """Return what `run_node` prints, as JSON."""
    return json.loads(run_node(script, *arguments, data=data))


def write_small_page(path: Path, **settings: Any) -> Path:
    """Write the live page of a small network with random weights."""
    settings = {"can_omit_control": True, "seed": 5, **settings}
    model = make_model(replace(SIZES, recall_dim=6))
    write_live(path, model, CURRENT, LiveSettings("small.sess", **settings))
    return path


def write_page_with_all_controls(path: Path, **settings: Any) -> Path:
    """Write the live page of a small network that has all controls."""
    layout = ControlLayout(kind.name for kind in CONTROLS)
    sizes = replace(SIZES, control_dim=layout.dim)
    model = PerformanceRNN(sizes, controls=layout.names).eval()
    write_live(path, model, CURRENT, LiveSettings("all.sess", **{"seed": 5, **settings}))
    return path
