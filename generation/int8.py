"""Matrix products in 8-bit integers on a CPU, for weights with a scale for each row.

The inputs lie between -1 and 1 and are rounded to levels. Both ways to compute the products need
functions of torch that may change with its version, so each is tried before it is used.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

X86_CAPABILITIES = ("AVX2", "AVX512")  # of processors, as torch names them

Linear = Callable[[Tensor], Tensor]  # [batch, inputs] -> [batch, outputs]


@dataclass(frozen=True)
class InputLevels:
    """The levels, 0 to `top`, to which the inputs of 8-bit products are rounded.

    They stand for values between -1 and 1; zero: the level of 0. pair_limit: greatest sum of two
    neighboring weights of one sign in a row, those of inputs 2k and 2k + 1; None if there is no
    limit.
    """

    top: int
    zero: int
    pair_limit: int | None = None

    @property
    def scale(self) -> float:
        """The distance between two levels."""
        return 2 / self.top


ALL_LEVELS = InputLevels(255, 128)
# Without VNNI, processors add the products of two neighbors in 16 bits: 200 * 163 < 2**15
FEWER_LEVELS = InputLevels(200, 100, pair_limit=163)


@dataclass(frozen=True)
class Int8Matrix:
    """A matrix in 8 bits: int8 [rows, columns], times a scale for each row, float32 [rows]."""

    values: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Int8Products:
    """Products in 8-bit integers: how a matrix is prepared for them, and the levels of inputs."""

    pack: Callable[[Int8Matrix, Tensor, InputLevels], Linear]
    levels: InputLevels = ALL_LEVELS

    def __str__(self) -> str:
        """Return a description, such as "8 bits (FBGEMM, 256 levels)"."""
        library = "FBGEMM" if self.pack is pack_fbgemm else "oneDNN"
        return f"8 bits ({library}, {self.levels.top + 1} levels)"

    def make_linear(self, weight: Tensor, bias: Tensor) -> Linear:
        """Return a product for inputs between -1 and 1."""
        return self.pack(quantize_rows(weight, self.levels.pair_limit), bias, self.levels)

    def make_split_linear(self, weight: Tensor, bias: Tensor) -> Linear:
        """Return a more precise product: the sum of the two 8-bit products of `split_rows`."""
        rows = len(weight)
        matrix = split_rows(weight, self.levels.pair_limit)
        product = self.pack(matrix, torch.cat([bias, torch.zeros_like(bias)]), self.levels)

        def linear(inputs: Tensor) -> Tensor:
            main, correction = product(inputs).split_with_sizes((rows, rows), 1)
            return main + correction

        return linear


def round_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round the weights that generation uses in 8 bits to 8-bit levels.

    With these weights, logits in 8 bits and in float32 differ only by the rounding of the hidden
    state, so the evaluation of an exported session is also valid for generation.
    """
    names = [n for n in state if n.startswith("gru.weight") and n != "gru.weight_ih_l0"]
    weights = {name: state[name].float() for name in names}
    return state | {name: _round_rows(w, _row_scales(w)) for name, w in weights.items()}


def quantize_rows(weight: Tensor, pair_limit: int | None = None) -> Int8Matrix:
    """Round a matrix to 8-bit levels; pair_limit: see InputLevels."""
    return _quantize(weight, _row_scales(weight, pair_limit))


def split_rows(weight: Tensor, pair_limit: int | None = None) -> Int8Matrix:
    """Return the rows in 8 bits, and below them their rounding errors, in 8 bits, too."""
    scales = _row_scales(weight, pair_limit)
    rounded = _round_rows(weight, scales)
    main, rest = _quantize(rounded, scales), quantize_rows(weight - rounded, pair_limit)
    values, scales = torch.cat([main.values, rest.values]), torch.cat([scales, rest.scales])
    return Int8Matrix(values, scales)


def _row_scales(weight: Tensor, pair_limit: int | None = None) -> Tensor:
    """Return the distance between 8-bit levels, 127 on each side of 0, for each row [rows]."""
    least, greatest = weight.aminmax(dim=1)
    scales = torch.maximum(-least, greatest) / 127
    if pair_limit is not None:
        pairs = functional.pad(weight, (0, weight.shape[1] % 2))
        sums = (pairs[:, ::2] + pairs[:, 1::2]).abs()  # weights of different sign cannot exceed it
        scales = torch.maximum(scales, sums.amax(dim=1) / (pair_limit - 1))  # 1 for the rounding
    return scales.clamp(min=1e-12)


def _round_rows(weight: Tensor, scales: Tensor) -> Tensor:
    return (weight / scales[:, None]).round() * scales[:, None]


def _quantize(weight: Tensor, scales: Tensor) -> Int8Matrix:
    return Int8Matrix((weight * (1 / scales[:, None])).round().to(torch.int8), scales)


def pack_fbgemm(matrix: Int8Matrix, bias: Tensor, levels: InputLevels) -> Linear:
    """Return a product of FBGEMM. It needs the quantized tensors that torch plans to remove."""
    scales, zeros = matrix.scales.double(), torch.zeros(len(bias), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `pack_onednn` is there when they are removed
        quantized = torch._make_per_channel_quantized_tensor(matrix.values, scales, zeros, 0)
        packed = torch.ops.quantized.linear_prepack(quantized, bias)
    linear = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    scale, zero = levels.scale, levels.zero
    return lambda inputs: linear(inputs, scale, zero, packed)


def pack_onednn(matrix: Int8Matrix, bias: Tensor, levels: InputLevels) -> Linear:
    """Return a product of oneDNN, of plain tensors. It is slower than that of FBGEMM."""
    packed = torch.ops.onednn.qlinear_prepack(matrix.values, None)
    scales, zeros = matrix.scales, torch.zeros(len(bias), dtype=torch.int32)
    linear, inverse = torch.ops.onednn.qlinear_pointwise, 1 / levels.scale
    scale, zero, top = levels.scale, levels.zero, levels.top

    def multiply(inputs: Tensor) -> Tensor:
        quantized = (inputs * inverse).add_(zero).round_().clamp_(0, top).to(torch.uint8)
        weights = (packed, scales, zeros, bias)
        return linear(quantized, scale, zero, *weights, 1.0, 0, torch.float32, "none", [], "")

    return multiply


@functools.cache
def find_int8_products(device_type: str = "cpu") -> Int8Products | None:
    """Return the fastest 8-bit products that are exact here, or None if there are none.

    Only on x86-64 processors with AVX2: on others they may be slower than float32.
    """
    if device_type != "cpu" or torch.backends.cpu.get_cpu_capability() not in X86_CAPABILITIES:
        return None
    for pack in (pack_fbgemm, pack_onednn):
        for levels in (ALL_LEVELS, FEWER_LEVELS):
            products = Int8Products(pack, levels)
            if is_exact(products):
                return products
    return None


def is_exact(products: Int8Products) -> bool:
    """Return whether the sums of 8-bit products do not overflow for the greatest inputs."""
    levels = products.levels
    row = torch.tensor([127, (levels.pair_limit or 254) - 127], dtype=torch.int8).repeat(32)
    matrix = Int8Matrix(torch.stack([row, -row] * 8), torch.ones(16))
    try:
        output = products.pack(matrix, torch.zeros(16), levels)(torch.ones(9, 64))
    except (AttributeError, RuntimeError, TypeError):  # torch does not have them here
        return False
    expected = matrix.values.sum(dim=1) * (levels.top - levels.zero) * levels.scale
    return torch.allclose(output, expected.expand(9, -1), rtol=1e-5)
