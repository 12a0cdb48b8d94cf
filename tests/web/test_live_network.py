"""The network in the live page: its numbers are those of generate.py."""

from __future__ import annotations

import base64
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generation.pipeline import GenerationJob
from tests.browser import needs_browser, open_browser
from tests.web.golden import (
    TEMPERATURE,
    Golden,
    prepare_shipped_job,
    prepare_small_job,
    write_golden,
)
from tests.web.pages import needs_node, run_node
from utils import Array
from web.page import bundle_script

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "web" / "js"
PART = 250  # events that the browser gets at once
PLAIN_STEPS = 100  # with the kernel in JavaScript, which is slow
CLOSE = 1e-3  # of logits
ONE_LEVEL = 0.05  # the most that one 8-bit level of a hidden state may change a logit


@dataclass(frozen=True)
class Replay:
    """What the page computed; fields as those of Golden, and `sampled` events."""

    logits: Array
    allowed: Array
    greedy: Array
    sampled: Array
    is_simd: bool


def read_replay(result: dict[str, Any], logits: Array) -> Replay:
    columns = (np.array(result[name]) for name in ("allowed", "greedy", "sampled"))
    allowed, greedy, sampled = columns
    shape = (len(greedy), -1)
    return Replay(
        logits.reshape(shape), allowed.reshape(shape) > 0, greedy, sampled, result["isSimd"]
    )


def check_replay(replayed: Replay, golden: Golden) -> None:
    """Compare all logits, masks and chosen events.

    A tie in the rounding of a hidden state may change logits by one level, and then the event.
    """
    error = np.abs(replayed.logits - golden.logits[: len(replayed.greedy)]).max(axis=1)
    golden_rows = slice(0, len(error))
    has_tie = golden.has_tie[golden_rows]
    assert error[~has_tie].max() < CLOSE
    assert error.max() < ONE_LEVEL
    assert (error < CLOSE).mean() > 0.99
    np.testing.assert_array_equal(replayed.allowed, golden.allowed[golden_rows])
    for chosen, expected in (
        (replayed.greedy, golden.greedy[golden_rows]),
        (replayed.sampled, golden.events[golden_rows]),
    ):
        assert not ((chosen != expected) & (error < CLOSE)).any()
        assert (chosen != expected).sum() <= 2


def write_job(folder: Path, job: GenerationJob) -> Golden:
    """Return what generate.py computes; write its page and a job for a replay."""
    result = write_golden(folder / "live.html", folder, job)
    controls = {"request": {}, "temperature": TEMPERATURE, "usesPlan": True}
    data = {"events": result.events.tolist(), "controls": controls}
    (folder / "job.json").write_text(json.dumps(data))
    return result


def run_replay(folder: Path, kernel: str, count: int) -> Replay:
    run_node("replay.mjs", folder / "live.html", folder, kernel, count)
    result = json.loads((folder / "result.json").read_text())
    replayed = read_replay(result, np.fromfile(folder / "logits.f32", np.float32))
    assert replayed.is_simd == (kernel == "simd")
    return replayed


@needs_node
def test_logits_masks_and_events_are_those_of_generate(tmp_path: Path) -> None:
    expected = write_job(tmp_path, prepare_shipped_job())
    assert len(set(expected.events.tolist())) > 100
    assert expected.has_tie.mean() < 0.2
    replayed = run_replay(tmp_path, "simd", len(expected.events))
    check_replay(replayed, expected)
    plain = run_replay(tmp_path, "plain", PLAIN_STEPS)
    np.testing.assert_array_equal(plain.logits, replayed.logits[:PLAIN_STEPS])  # all bits


@needs_node
def test_controls_of_all_kinds_are_encoded(tmp_path: Path) -> None:
    expected = write_job(tmp_path, prepare_small_job())
    check_replay(run_replay(tmp_path, "plain", len(expected.events)), expected)


# evaluated after the modules of the worker: makes `load` and `replayPart`
REPLAY_IN_PAGE = """
const {makeNetwork, readArrays} = module_network, {Performer} = module_performer;
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);
let performer;
async function load(data, weights, kernel, controls) {
  const stream = new Blob([bytesOf(weights)]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate"));
  const arrays = readArrays(await new Response(inflated).arrayBuffer(), data.entries);
  const network = await makeNetwork(arrays, data.network, bytesOf(kernel));
  performer = new Performer(network, data.model);
  performer.setControls(0, controls);
  return network.kernel.isSimd;
}
function replayPart(events, states, uniform) {
  const job = {events, states: floatsOf(states), uniform: floatsOf(uniform)};
  const result = replay(performer, job);
  return {...result, logits: [...result.logits], allowed: [...result.allowed]};
}
"""


@needs_browser
@pytest.mark.slow
def test_chromium_computes_the_logits_of_generate(tmp_path: Path) -> None:
    job = prepare_shipped_job()
    expected = write_job(tmp_path, job)
    page = (tmp_path / "live.html").read_text()
    texts = [
        re.findall(rf'id="{name}">([^<]*)<', page)[0] for name in ("data", "weights", "kernel")
    ]
    data, weights, kernel = texts
    script = Path(__file__).with_name("replay.js").read_text().replace("export ", "")
    states, uniform = (
        np.fromfile(tmp_path / name, np.float32).reshape(job.steps, -1)
        for name in ("states.f32", "uniform.f32")
    )
    controls = {"request": {}, "temperature": TEMPERATURE, "usesPlan": True}
    parts = []
    with open_browser(tmp_path / "profile") as browser:
        browser.evaluate(f"{bundle_script('worker')}{script}{REPLAY_IN_PAGE}; 0")
        arguments = f"{data}, '{weights}', '{kernel}', {json.dumps(controls)}"
        assert browser.evaluate(f"load({arguments})")
        for start in range(0, job.steps, PART):
            rows = slice(start, start + PART)
            floats = (
                base64.b64encode(array[rows].tobytes()).decode() for array in (states, uniform)
            )
            arguments = ", ".join([str(expected.events[rows].tolist()), *map(repr, floats)])
            parts.append(browser.evaluate(f"replayPart({arguments})"))
    result = {
        name: list(itertools.chain.from_iterable(part[name] for part in parts)) for name in parts[0]
    }
    logits = np.array(result["logits"], np.float32)
    check_replay(read_replay(result | {"isSimd": True}, logits), expected)


def test_kernel_is_small() -> None:
    assert (SCRIPTS / "kernel.wasm").stat().st_size < 4000


@needs_node
@pytest.mark.skipif(not (SCRIPTS / "node_modules").exists(), reason="run npm ci in web/js")
def test_kernel_is_built_from_its_source(tmp_path: Path) -> None:
    run_node(SCRIPTS / "build_kernel.mjs", tmp_path / "kernel.wasm")
    built = (tmp_path / "kernel.wasm").read_bytes()
    assert built == (SCRIPTS / "kernel.wasm").read_bytes()
