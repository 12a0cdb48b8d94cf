"""8-bit products: exact on all processors, and not slower ones where fast ones exist."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from generation import int8
from generation.int8 import (
    ALL_LEVELS,
    FEWER_LEVELS,
    InputLevels,
    Int8Products,
    find_int8_products,
    pack_fbgemm,
    pack_onednn,
    quantize_rows,
    round_weights,
    split_rows,
)
from utils import Array

ROOT = Path(__file__).parents[2]
HAS_AVX2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
needs_avx2 = pytest.mark.skipif(not HAS_AVX2, reason="8-bit products need AVX2")
# variables that make the libraries in torch behave as on a processor without VNNI
WITHOUT_VNNI = {
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "AVX-512": {"FBGEMM_ENABLE_INSTRUCTIONS": "AVX512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def compute_product(weight: Array, bias: Array, inputs: Array, levels: InputLevels) -> Array:
    """Return the product with integers in numpy, from the definition of the levels."""
    scales = np.abs(weight).max(axis=1, keepdims=True) / 127
    if levels.pair_limit is not None:
        for sign in (1, -1):
            pairs = np.maximum(sign * weight, 0).reshape(len(weight), -1, 2).sum(axis=2)
            largest = pairs.max(axis=1, keepdims=True) / (levels.pair_limit - 1)
            scales = np.maximum(scales, largest)
    values = np.rint(weight / scales).astype(np.int64)
    rounded = np.clip(np.rint(inputs * levels.top / 2 + levels.zero), 0, levels.top)
    sums = values @ (rounded.astype(np.int64) - levels.zero).T
    return (sums * scales * 2 / levels.top).T + bias


def make_extremes(columns: int = 512) -> tuple[Array, Array]:
    """Return weights and inputs, among them the largest sums, in pairs and in whole rows."""
    rng = np.random.default_rng(0)
    constant = np.ones((1, columns))
    alternating = np.resize([1.0, -1.0], (1, columns))
    uneven = np.resize([1.0, 0.28], (1, columns))
    random = rng.normal(0, 0.2, (9, columns))
    weight = np.concatenate([constant, -constant, alternating, uneven, -uneven, random])
    inputs = np.tanh(rng.normal(0, 2, (9, columns)))
    inputs = np.concatenate([constant, -constant, alternating, uneven, inputs])
    return weight, 0.999 * inputs  # 1 lies in the middle between two levels


def check_products(products: Int8Products) -> None:
    """Compare products with those of integers in numpy; run in the emulations, too."""
    weight, inputs = (array.astype(np.float32) for array in make_extremes())
    bias = np.linspace(-1, 1, len(weight), dtype=np.float32)
    linear = products.make_linear(torch.from_numpy(weight), torch.from_numpy(bias))
    expected = compute_product(weight, bias, inputs, products.levels)
    for batch in (1, len(inputs)):
        rows = slice(0, batch)
        actual = linear(torch.from_numpy(inputs[rows])).numpy()
        np.testing.assert_allclose(actual, expected[rows], rtol=1e-5, atol=1e-5)


@needs_avx2
def test_processors_with_avx2_have_exact_int8_products() -> None:
    """Fails if a new torch lacks the functions: then generation is in float32, and slower."""
    products = find_int8_products()
    assert products is not None
    assert products.pack is pack_fbgemm
    assert str(products).startswith("8 bits (FBGEMM, 2")
    check_products(products)


@needs_avx2
def test_onednn_replaces_fbgemm_without_quantized_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(*_: object) -> None:
        raise AttributeError

    monkeypatch.setattr(torch, "_make_per_channel_quantized_tensor", remove)
    find_int8_products.cache_clear()
    products = find_int8_products()
    find_int8_products.cache_clear()
    assert products is not None
    assert products.pack is pack_onednn
    check_products(products)


@needs_avx2
@pytest.mark.parametrize("pack", [pack_fbgemm, pack_onednn], ids=["FBGEMM", "oneDNN"])
@pytest.mark.parametrize("processor", WITHOUT_VNNI)
def test_int8_products_are_exact_without_vnni(processor: str, pack: object) -> None:
    """Emulated: with all levels the sums overflow there, with fewer they do not."""
    if processor == "AVX-512" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this processor lacks AVX-512")
    code = f"""
from generation.int8 import *
from generation.int8 import {pack.__name__} as pack, is_exact
from tests.generation.test_int8 import check_products
assert not is_exact(Int8Products(pack, ALL_LEVELS)), "emulation without effect"
assert is_exact(Int8Products(pack, FEWER_LEVELS))
check_products(Int8Products(pack, FEWER_LEVELS))
assert find_int8_products() == Int8Products(pack_fbgemm, FEWER_LEVELS)
"""
    environment = os.environ | WITHOUT_VNNI[processor]
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_float32_without_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert find_int8_products.__wrapped__("cpu") is None
    assert find_int8_products.__wrapped__("cuda") is None


def test_pairs_of_weights_do_not_overflow_16_bits() -> None:
    limit = FEWER_LEVELS.pair_limit
    assert limit is not None
    for columns in (64, 63, 1):
        weight = torch.randn(50, columns) ** 3
        for matrix in (quantize_rows(weight, limit), split_rows(weight, limit)):
            values = np.pad(matrix.values.numpy(), ((0, 0), (0, columns % 2))).astype(int)
            for sign in (1, -1):
                sums = np.maximum(sign * values, 0).reshape(len(values), -1, 2).sum(axis=2)
                assert sums.max() * FEWER_LEVELS.top < 2**15


@needs_avx2
@pytest.mark.parametrize("levels", [ALL_LEVELS, FEWER_LEVELS], ids=["all", "fewer"])
def test_split_products_are_more_precise(levels: InputLevels) -> None:
    products = Int8Products(pack_fbgemm, levels)
    weight, bias = torch.randn(40, 64), torch.zeros(40)
    steps = levels.top - levels.zero
    inputs = torch.randint(-steps, steps + 1, (5, 64)) * levels.scale  # exact in 8 bits
    expected = inputs.double() @ weight.double().t()
    if levels is ALL_LEVELS and not int8.is_exact(products):
        pytest.skip("the sums overflow on this processor")
    coarse, fine = (
        float((linear(weight, bias)(inputs) - expected).abs().max())
        for linear in (products.make_linear, products.make_split_linear)
    )
    assert fine < 0.001 < 0.02 < coarse


@needs_avx2
def test_rounded_weights_are_exact_in_int8() -> None:
    weight = torch.randn(96, 64)
    weight[5] = 0
    names = ("gru.weight_hh_l0", "gru.weight_ih_l0")  # the second one is used in float32
    state = round_weights(dict.fromkeys(names, weight))
    rounded, unchanged = (state[name].half().float() for name in names)  # as exported
    inputs = torch.randint(-127, 128, (5, 64)) / 127.5
    matrix = quantize_rows(rounded)
    product = inputs @ (matrix.values * matrix.scales[:, None]).t()
    torch.testing.assert_close(product, inputs @ rounded.t(), atol=1e-2, rtol=0)
    assert not torch.allclose(product, inputs @ weight.t(), atol=2e-2, rtol=0)
    assert torch.equal(unchanged, weight.half().float())
    twice = round_weights({names[0]: rounded})[names[0]].half().float()
    torch.testing.assert_close(twice, rounded, rtol=2e-3, atol=0)  # two units of half precision
    assert not rounded[5].any()
