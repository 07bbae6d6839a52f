# SPDX-License-Identifier: Apache-2.0
"""Products with weights in blocks of few bits: how `MatMulNBits` of ONNX Runtime packs them, and what it computes.

`y[..., n] = sum over k of x[..., k] * W[k, n]`, where W has K rows and N columns. Each column is cut into blocks along
K; a block has one scale and one zero point: `W[k, n] = scale * (code - zero)`. Two codes of four bits share a byte, the
first in its low half; so do two zero points, and a column of them begins a new byte. A node without zero points has 8.
Source: the page of operators of ONNX Runtime, com.microsoft.MatMulNBits. Standard library and numpy alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from packager.errors import StepError

DOMAIN = "com.microsoft"
OPERATOR = "MatMulNBits"
BITS = 4
MIDDLE = 8
"""The zero point of a node that has none."""
SIZES = (16, 32, 64, 128, 256)
"""The sizes of blocks that the operator has."""
ACTIVATIONS: Mapping[str, int] = {"float32": 0, "int8": 4}
"""Its attribute `accuracy_level`, by the type to which a kernel may round what it multiplies with the weights."""


def pack_codes(codes: Any, block: int) -> Any:
    """Return codes 0…15, a `uint8` array [N, K], as the operator stores them: [N, K / block, block / 2].

    Raises StepError where `block` does not divide K.
    """
    columns, rows = codes.shape
    if rows % block:
        raise StepError(f"blocks of {block} do not divide a column of {rows} weights")
    pairs = codes.reshape(columns, rows // block, block // 2, 2)
    return pairs[..., 0] | pairs[..., 1] << BITS


def unpack_codes(packed: Any) -> Any:
    """Return what `pack_codes` took."""
    numpy = importlib.import_module("numpy")
    pairs = numpy.stack([packed & 15, packed >> BITS], axis=-1)
    return pairs.reshape(len(packed), -1)


def pack_zeros(zeros: Any) -> Any:
    """Return zero points 0…15, a `uint8` array of N rows and one column per block, as the operator stores them."""
    numpy = importlib.import_module("numpy")
    even = numpy.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return even[:, ::2] | even[:, 1::2] << BITS


def unpack_zeros(packed: Any, blocks: int) -> Any:
    """Return what `pack_zeros` took: N rows of `blocks` zero points."""
    numpy = importlib.import_module("numpy")
    return numpy.stack([packed & 15, packed >> BITS], axis=-1).reshape(len(packed), -1)[:, :blocks]


def dequantise(packed: Any, scales: Any, zeros: Any | None) -> Any:
    """Return the weights that a node stands for, exactly: a `float64` array of K rows and N columns.

    `packed`, `scales` and `zeros` (None: 8 everywhere) are its inputs; scales and zero points may be flat, and zero
    points are packed where they are `uint8`, else one number per block. A product of two float32 is exact in float64.
    """
    numpy = importlib.import_module("numpy")
    columns, blocks = packed.shape[:2]
    codes = unpack_codes(packed).reshape(columns, blocks, -1).astype(numpy.float64)
    if zeros is None:
        middle = numpy.float64(MIDDLE)
    elif zeros.dtype == numpy.uint8:
        middle = unpack_zeros(zeros.reshape(columns, -1), blocks)[..., None].astype(numpy.float64)
    else:
        middle = zeros.reshape(columns, blocks, 1).astype(numpy.float64)
    found = scales.reshape(columns, blocks, 1).astype(numpy.float64) * (codes - middle)
    return found.reshape(columns, -1).T


def describe(node: Any, types: Mapping[str, str]) -> str:
    """Return which form of the operator a node is, in the words of tables: element types, sizes, and its other inputs.

    `types` are the element types of values by name. The bias and the order of rows have words only where they are used.
    """
    given = {attribute.name: attribute.i for attribute in node.attribute}
    names = [*node.input, *[""] * 6]
    zeros = types.get(names[3]) or "?"
    words = {
        "T1": types.get(names[0]) or "?",
        "bits": given.get("bits", BITS),
        "block": given.get("block_size", "?"),
        "zeros": zeros if names[3] else "none",
        "accuracy": given.get("accuracy_level", 0),
    }
    words |= {key: types.get(name) or "?" for key, name in (("order", names[4]), ("bias", names[5])) if name}
    return ";".join(f"{key}={value}" for key, value in words.items())
