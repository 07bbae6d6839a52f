# SPDX-License-Identifier: Apache-2.0
"""Read and write safetensors: check the header of a file before a library maps it, and write our own files.

Source: the format's description in huggingface/safetensors: eight bytes of header length, JSON that gives dtype, shape
and two offsets for every tensor, then the data, without gaps and without overlap, to the end of the file.

Law: equal tensors give equal bytes, in any order of the arguments, and data starts at a multiple of 8.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from packager import canonical
from packager.canonical import JSON
from packager.errors import StepError
from packager.files import open_regular

_HEADER = 100_000_000  # bytes; the format's own limit
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


def check(path: Path) -> None:
    """Raise StepError unless the header describes exactly the bytes of the file."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER):
            raise _refused(path, f"its header claims {length} bytes of {size}")
        text = file.read(length)
    try:
        header = canonical.load(text.rstrip(b" "), limit=_HEADER)
        offsets = sorted(_offsets(entry) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(path, f"its header is not understood ({error})") from None
    position = 0
    for start, end in offsets:
        if start != position:
            raise _refused(path, f"two tensors overlap, or leave a gap, at byte {start}")
        position = end
    if 8 + length + position != size:
        raise _refused(path, f"its tensors need {position} bytes, and it has {size - 8 - length}")


def _offsets(entry: JSON) -> tuple[int, int]:
    """Return the offsets of one tensor's data. Raises ValueError where its length does not match its shape."""
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not all(isinstance(number, int) and 0 <= number < 1 << 62 for number in (*shape, start, end)):
        raise ValueError("a length or offset is not a number")
    if -(-math.prod(shape) * _BITS[entry["dtype"]] // 8) != end - start:
        raise ValueError(f"{entry['dtype']}{shape} does not fit into {end - start} bytes")
    return start, end


def _refused(path: Path, problem: str) -> StepError:
    return StepError(f"`{path.name}` is refused: {problem}", hint="save the weights again with `save_pretrained`")


Tensor: TypeAlias = tuple[str, Sequence[int], bytes]  # numpy's name of the type, shape, little-endian data

DTYPES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}


def dump(tensors: Mapping[str, Tensor]) -> bytes:
    """Return a file with `tensors`, sorted by name. Raises ValueError for a type that the format does not have."""
    header, end = {}, 0
    for name in sorted(tensors):
        dtype, shape, data = tensors[name]
        if dtype not in DTYPES:
            raise ValueError(f"safetensors has no type for {dtype}")
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = canonical.dump(header)
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensors[name][2] for name in sorted(tensors))])


def parse(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a small file. Raises ValueError where the header does not describe exactly its bytes."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("the header is longer than the file")
    names = {code: dtype for dtype, code in DTYPES.items()}
    found: dict[str, Tensor] = {}
    position = 8 + length
    try:
        header = canonical.load(data[8:position].rstrip(b" "), limit=_HEADER)
        header.pop("__metadata__", None)  # free texts of the program that saved it
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = _offsets(entry)
            if 8 + length + start != position:
                raise ValueError("tensors overlap, or leave a gap")
            found[name] = (names[entry["dtype"]], tuple(entry["shape"]), data[position : position + end - start])
            position += end - start
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the header is not understood ({error})") from None
    if position != len(data):
        raise ValueError("the tensors do not fill the file")
    return found
