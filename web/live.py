"""Write one HTML page in which a session plays, and plays along.

The network runs in the page. Its weights are in 8 bits, as generation/engine.py uses them; the
modules of the page are in web/js.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generation.density import GAIN, MAX_CORRECTION, TIME_CONSTANT
from generation.engine import INPUT_SCALE, INPUT_ZERO, quantize_rows, split_weight
from generation.pipeline import MAX_NOTE_SECONDS, build_density_target
from midi.control_schedule import (
    CONTROL_DIM,
    DEFAULT_DENSITY,
    DENSITY_LEVELS,
    PITCH_NAMES,
    TIME_STEP,
    ControlSchedule,
    format_density,
)
from midi.harmony import CHORDS, SCALES, parse_scale_or_chord
from model import PerformanceRNN
from sequence import ControlSeq, Encoding, EventSeq
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
    """Return the page."""
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
            "model": describe_music(encoding, live),
            "start": describe_start(live),
            "faders": describe_faders(live),
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


def describe_music(encoding: Encoding, live: LiveSettings) -> dict[str, Any]:
    """Return what web/js/performer.js needs besides the network: events, limits, controls."""
    rates = [float(rate) for rate in build_density_target(encoding).rates]
    return {
        "durations": EventSeq.event_durations(encoding).tolist(),  # milliseconds
        "velocities": np.asarray(encoding.velocity_values).tolist(),
        "velocity_edges": np.asarray(encoding.velocity_edges).tolist(),
        "limits": {"repeats": live.repeats, "silence": 1000 * live.silence},
        "max_note_ms": 1000 * MAX_NOTE_SECONDS,
        "layout": describe_layout(live),
        "feedback": {
            "gain": GAIN,
            "timeConstant": TIME_CONSTANT,
            "maxCorrection": MAX_CORRECTION,
            "rates": [rate if np.isfinite(rate) and live.steering else None for rate in rates],
        },
        "plan": _describe_plan(live.control),
    }


def describe_layout(live: LiveSettings) -> dict[str, Any]:
    """Return the columns of a control vector; a flag of None: the control has no flag "open"."""
    names = {"note_density": "density", "pitch_histogram": "histogram"}
    controls = [
        {"name": names[name], "start": columns.start, "count": len(columns), "flag": None}
        for name, columns in ControlSeq.feat_ranges().items()
    ]
    return {
        "width": CONTROL_DIM,
        "levels": DENSITY_LEVELS,
        "controls": controls,
        "canBeNone": live.can_omit_control,
    }


def describe_faders(live: LiveSettings) -> list[dict[str, Any]]:
    """Return the faders of the page besides the pitch classes."""
    texts = [f"{format_density(level)} notes in 2 s" for level in range(DENSITY_LEVELS)]
    low, high = TEMPERATURES
    return [
        {
            "name": "density",
            "label": "Density",
            "min": 0,
            "max": DENSITY_LEVELS - 1,
            "step": 1,
            "value": DEFAULT_DENSITY,
            "texts": texts,
        },
        {
            "name": "temperature",
            "label": "Temperature",
            "min": low,
            "max": high,
            "step": 0.05,
            "value": min(max(live.temperature, low), high),
            "unit": "",
        },
    ]


def describe_start(live: LiveSettings) -> dict[str, Any]:
    """Return the controls at the start: density level, and a scale or weights from C."""
    if live.control is None:
        return {"density": DEFAULT_DENSITY, "root": 0, "scale": "major"}
    _, density, histogram = live.control.columns
    return {"density": int(density[0]), "histogram": histogram[0].tolist()}


def _list_weights(names: Iterable[str]) -> dict[str, list[float]]:
    """Return the weights from C on of the scales or chords with these names."""
    return {name: parse_scale_or_chord(f"C {name}").tolist() for name in names}


def _describe_plan(control: ControlSchedule | None) -> dict[str, Any] | None:
    """Return a control over time: `times` in milliseconds, and a request for each of them."""
    if control is None or len(control) == 1:
        return None
    if control.steps * TIME_STEP > MAX_PLAN_SECONDS:
        raise ValueError(f"--live: the control is longer than {MAX_PLAN_SECONDS / 60:.0f} minutes")
    times, density, histogram = control.average(0, control.steps).drop_repeats().columns
    rows = [
        {"density": int(level), "histogram": [float(str(weight)) for weight in weights]}
        for level, weights in zip(density, histogram, strict=True)
    ]
    return {"times": np.rint(1000 * np.asarray(times)).astype(int).tolist(), "rows": rows}


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
    matrices = {"output": split_weight(model.output_fc.weight)}
    for layer in range(model.config.gru_layers):
        for kind, name in (("input", "ih"), ("hidden", "hh")):
            if kind == "hidden" or layer:
                matrices[f"{kind}_{layer}"] = getattr(gru, f"weight_{name}_l{layer}")
                arrays[f"{kind}_bias_{layer}"] = getattr(gru, f"bias_{name}_l{layer}")
    result = {name: _shrink(tensor) for name, tensor in arrays.items()}
    for name, matrix in matrices.items():
        quantized = quantize_rows(matrix.detach())
        result[name] = quantized.int_repr().numpy()
        scales = quantized.q_per_channel_scales().numpy().astype(np.float32)
        kind, *number = name.split("_")
        result["_".join([kind, "scale", *number])] = scales
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
        "quantization": {"scale": INPUT_SCALE, "zero": INPUT_ZERO},
    }
