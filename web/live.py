"""Write one HTML page in which a session plays, and plays along.

The network runs in the page. Its weights are in 8 bits, as generation/engine.py uses them; the
modules of the page are in web/js.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corpus.recall import describe_recall
from generation.density import GAIN, MAX_CORRECTION, TIME_CONSTANT
from generation.int8 import ALL_LEVELS, quantize_rows, split_rows
from generation.pipeline import (
    HOLD_BACK,
    MAX_NOTE_SECONDS,
    RELEASE_AFTER,
    RELEASE_RATE,
    build_density_target,
)
from midi.control_schedule import (
    DEFAULT_DENSITY,
    DENSITY_LEVELS,
    PITCH_NAMES,
    TIME_STEP,
    ControlSchedule,
    format_density,
)
from midi.harmony import CHORDS, SCALES, parse_scale_or_chord
from model import PerformanceRNN
from sequence import ControlKind, ControlLayout, Encoding, EventSeq, check_controls
from utils import Array, atomic_write
from web.page import FOLDER, PALETTE, bundle_script, check_page_path, hash_script, render_page

MARK = "performance-rnn-live"  # in each page written here: other files are not overwritten
ALIGNMENT = 16  # bytes
MAX_PLAN_SECONDS = 3600  # of a control over time in a page
TEMPERATURES = (0.5, 1.5)  # lowest and highest of the fader


@dataclass(frozen=True)
class LiveSettings:
    """What a page starts with.

    control: None for the default; seed: None for a new one each time; repeats, silence: see
    `build_event_constraints`; can_omit_control: whether the session was also trained without
    control; steering: whether to correct the density by feedback.
    """

    session: str
    control: ControlSchedule | None = None
    seed: int | None = None
    temperature: float = 1.0
    repeats: int = 0
    silence: float = 0.0
    steering: bool = True
    can_omit_control: bool = False


def write_live(path: Path, model: PerformanceRNN, encoding: Encoding, live: LiveSettings) -> int:
    """Write the page and return its size in bytes."""
    page = render_live(model, encoding, live)
    atomic_write(path, page, durable=False)
    return len(page)


def check_live_path(path: Path) -> None:
    """Raise ValueError if a file exists that is no such page."""
    check_page_path(path, MARK)


def render_live(model: PerformanceRNN, encoding: Encoding, live: LiveSettings) -> bytes:
    """Return the page; raise ValueError if the control is longer than an hour.

    Raises ValueError, too, if it requests a control that the session lacks.
    """
    if live.control is not None:
        check_controls(live.control, model.layout)
    entries, content = pack_arrays(export_weights(model.cpu()))
    worker = bundle_script("worker")
    return render_page(
        "live.html",
        bundle_script("live"),
        mark=MARK,
        heading="Live piano",
        session=live.session,
        has_plan=live.control is not None and len(live.control) > 1,
        data={
            "session": live.session,
            "seed": live.seed,
            "entries": entries,
            "network": describe_network(model),
            "model": describe_music(model.layout, encoding, live),
            "start": describe_start(model.layout, live),
            "faders": describe_faders(model.layout, live),
            "scales": _list_weights(SCALES),
            "chords": _list_weights(CHORDS),
            "pitch_names": PITCH_NAMES,
            "palette": PALETTE,
        },
        weights=zlib.compress(content, 9),
        kernel=(FOLDER / "js" / "kernel.wasm").read_bytes(),
        worker=worker,
        worker_hash=hash_script(worker),
    )


# ------------------------------------------------------------------------------ description


def describe_music(layout: ControlLayout, encoding: Encoding, live: LiveSettings) -> dict[str, Any]:
    """Return what web/js/performer.js needs besides the network: events, limits, controls."""
    rates = [float(rate) for rate in build_density_target(encoding).rates]
    return {
        "durations": EventSeq.event_durations(encoding).tolist(),  # milliseconds
        "velocities": np.asarray(encoding.velocity_values).tolist(),
        "velocity_edges": np.asarray(encoding.velocity_edges).tolist(),
        "limits": {
            "repeats": live.repeats,
            "silence": 1000 * live.silence,
            "releaseAfter": 1000 * RELEASE_AFTER,
            "releaseRate": RELEASE_RATE / 1000,
        },
        "max_note_ms": 1000 * MAX_NOTE_SECONDS,
        "layout": describe_layout(layout, live),
        "feedback": {
            "gain": GAIN,
            "timeConstant": TIME_CONSTANT,
            "maxCorrection": MAX_CORRECTION,
            "rates": [rate if np.isfinite(rate) and live.steering else None for rate in rates],
        },
        "plan": _describe_plan(live.control),
        "hold_back": HOLD_BACK,
    }


def describe_layout(layout: ControlLayout, live: LiveSettings) -> dict[str, Any]:
    """Return the columns of a control vector; a flag of None: the control has no flag "open"."""
    flags = layout.flags or [None] * len(layout.kinds)
    controls = [
        {
            "name": kind.name,
            "start": layout.ranges[kind.name].start,
            "count": kind.width,
            "low": kind.low,
            "high": kind.high,
            "isLog": kind.is_log,
            "flag": flag,
        }
        for kind, flag in zip(layout.kinds, flags, strict=True)
    ]
    return {
        "width": layout.dim,
        "levels": DENSITY_LEVELS,
        "controls": controls,
        "canBeNone": layout.is_plain and live.can_omit_control,
    }


def describe_faders(layout: ControlLayout, live: LiveSettings) -> list[dict[str, Any]]:
    """Return the faders of the page besides the pitch classes."""
    faders = [_describe_fader(kind) for kind in layout.kinds if not kind.value_shape]
    low, high = TEMPERATURES
    temperature = {
        "name": "temperature",
        "label": "Temperature",
        "meaning": "below 1 is safer, above wilder",
        "low": low,
        "high": high,
        "step": 0.05,
        "value": min(max(live.temperature, low), high),
        "unit": "",
    }
    return [*faders, temperature]


def _describe_fader(kind: ControlKind) -> dict[str, Any]:
    fader: dict[str, Any] = {
        "name": kind.name,
        "label": kind.name.capitalize(),
        "meaning": kind.meaning,
        "low": kind.low,
        "high": kind.high,
        "isLog": kind.is_log,
        "unit": f" {kind.unit}",
        "step": (math.log(kind.high / kind.low) if kind.is_log else kind.high - kind.low) / 100,
        "value": float(kind.find_values(kind.find_positions(kind.high) / 2)),
        "words": {word: value for word, value in kind.words.items() if "b" not in word},
    }
    if kind.name == "density":
        texts = [f"{format_density(level)} notes/s" for level in range(DENSITY_LEVELS)]
        fader |= {"step": 1, "value": DEFAULT_DENSITY, "texts": texts}
    return fader


def describe_start(layout: ControlLayout, live: LiveSettings) -> dict[str, Any]:
    """Return the controls at the start by name, None where open, or a scale for the histogram."""
    start: dict[str, Any] = dict.fromkeys(layout.names)
    if live.control is None:
        return start | {"density": DEFAULT_DENSITY, "root": 0, "scale": "major"}
    return start | _list_rows(live.control.select(np.arange(1)))[0]


def _describe_plan(control: ControlSchedule | None) -> dict[str, Any] | None:
    """Return a control over time: `times` in milliseconds, and a request for each of them.

    A request also has the pitch classes that are `early`; see ControlSchedule.find_early_pitches.

    loop: the time at which the last rows start again and again, and their length; or None.
    """
    if control is None or len(control) == 1:
        return None
    begin, period = control.loop or (0.0, 0.0)
    steps = math.ceil((begin + period) / TIME_STEP) + 1 if control.loop else control.steps
    if steps * TIME_STEP > MAX_PLAN_SECONDS:
        raise ValueError(f"--live: the control is longer than {MAX_PLAN_SECONDS / 60:.0f} minutes")
    rows = _list_rows(control.average(0, steps))
    for row, is_early in zip(rows, control.find_early_pitches(0, steps), strict=True):
        row["early"] = np.flatnonzero(is_early).tolist()
    changes = [step for step in range(steps) if step == 0 or rows[step] != rows[step - 1]]
    return {
        "times": [round(1000 * TIME_STEP * step) for step in changes],
        "rows": [rows[step] for step in changes],
        "loop": [1000 * begin, 1000 * period] if control.loop else None,
    }


def _list_rows(schedule: ControlSchedule) -> list[dict[str, Any]]:
    """Return the requests of the rows of a schedule; None where a control is open."""
    rows: list[dict[str, Any]] = [{} for _ in range(len(schedule))]
    for name, column in schedule.values.items():
        for row, value in zip(rows, column, strict=True):
            numbers = [float(str(number)) for number in np.ravel(value)]  # as short as float32 is
            is_open = bool(np.isnan(numbers).any())
            row[name] = None if is_open else numbers if np.ndim(value) else numbers[0]
    return rows


def _list_weights(names: Iterable[str]) -> dict[str, list[float]]:
    """Return the weights from C on of the scales or chords with these names."""
    return {name: parse_scale_or_chord(f"C {name}").tolist() for name in names}


# ---------------------------------------------------------------------------------- weights


def export_weights(model: PerformanceRNN) -> dict[str, Array]:
    """Return the arrays that web/js/network.js needs.

    Matrices of 8-bit products are int8, with a float32 scale for each row. Other weights are
    float16 if that is exact, as in exported sessions, else float32.
    """
    gru, event_dim = model.gru, model.config.event_dim
    arrays = {
        "event_table": model.compute_event_table(),
        "control_weight": model.concat_input_fc.weight[:, event_dim:],  # the flag, the controls
        "init_weight": model.inithid_fc.weight,
        "init_bias": model.inithid_fc.bias,
        "input_0": gru.weight_ih_l0,
        "input_bias_0": gru.bias_ih_l0,
        "output_bias": model.output_fc.bias,
    }
    matrices = {"output": split_rows(model.output_fc.weight.detach())}
    for layer in range(model.config.gru_layers):
        for kind, name in (("input", "ih"), ("hidden", "hh")):
            if kind == "hidden" or layer:
                weight = getattr(gru, f"weight_{name}_l{layer}")
                matrices[f"{kind}_{layer}"] = quantize_rows(weight.detach())
                arrays[f"{kind}_bias_{layer}"] = getattr(gru, f"bias_{name}_l{layer}")
    if model.config.recall_dim:
        arrays |= {
            "recall_table": model.recall_table,
            "recall_weight": torch.cat([model.recall_gates, model.recall_output]),
        }
    result = {name: _shrink(tensor) for name, tensor in arrays.items()}
    for name, matrix in matrices.items():
        kind, *number = name.split("_")
        result[name] = matrix.values.numpy()
        result["_".join([kind, "scale", *number])] = matrix.scales.numpy()
    return result


def _shrink(tensor: Any) -> Array:
    values = tensor.detach().cpu().float()
    half = values.half()
    return (half if torch.equal(half.float(), values) else values).numpy()


def pack_arrays(arrays: Mapping[str, Array]) -> tuple[dict[str, Any], bytes]:
    """Return an entry {type, shape, offset} for each array, and their bytes one after another."""
    entries: dict[str, Any] = {}
    content = bytearray()
    for name, array in arrays.items():
        content += bytes(-len(content) % ALIGNMENT)
        entries[name] = {
            "type": str(array.dtype),
            "shape": array.shape,
            "offset": len(content),
        }
        content += np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
    return entries, bytes(content)


def describe_network(model: PerformanceRNN) -> dict[str, Any]:
    """Return the sizes and the quantization for web/js/network.js."""
    config = model.config
    return {
        "sizes": {
            "events": config.event_dim,
            "control": config.control_dim,
            "hidden": config.hidden_dim,
            "layers": config.gru_layers,
            "init": config.init_dim,
        },
        "recall": describe_recall() if config.recall_dim else None,
        "quantization": {"scale": ALL_LEVELS.scale, "zero": ALL_LEVELS.zero},
    }
