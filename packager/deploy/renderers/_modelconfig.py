# SPDX-License-Identifier: Apache-2.0
"""Triton's model configuration as text, and what a rendering for its repository is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from packager.canonical import JSON
from packager.types import Blob

_TYPES = {
    "bool": "TYPE_BOOL",
    "string": "TYPE_STRING",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}


@dataclass(frozen=True, slots=True)
class Word:
    """A word that stands without quotes: the name of an enumeration's value."""

    text: str


Field: TypeAlias = "str | int | bool | Word | Mapping[str, Field] | Sequence[Field]"


@dataclass(frozen=True, slots=True)
class Rendered:
    """Files of one version, by path below the model's directory: bytes of ours, or blobs of the bundle by its path."""

    name: str
    made: Mapping[str, bytes]
    copied: Mapping[str, tuple[str, Blob]]
    record: Mapping[str, JSON]


def build_map(values: Mapping[str, str], wrap: Callable[[str], Field] = lambda text: text) -> list[Field]:
    """Return the entries of a map of the message, sorted."""
    return [{"key": key, "value": wrap(values[key])} for key in sorted(values)]


def build_tensor(name: str, dtype: str, shape: Sequence[int | str], batched: bool) -> dict[str, Field]:
    """Return an input or output of a contract: without its first dimension where Triton adds that, -1 for free ones."""
    sizes = [size if isinstance(size, int) else -1 for size in shape][1 if batched else 0 :]
    return {"name": name, "data_type": Word(triton_name(dtype)), "dims": sizes or [1]}


def triton_name(dtype: str) -> str:
    """Return Triton's name of a dtype."""
    return _TYPES.get(dtype, f"TYPE_{dtype.upper()}")


def config_text(fields: Mapping[str, Field]) -> bytes:
    """Write a message in the text format of protobuf. An empty list of numbers or messages is left out."""
    return ("\n".join(_lines(fields, "")) + "\n").encode("ascii")


def _lines(fields: Mapping[str, Field], indent: str) -> list[str]:
    written = []
    for name, value in fields.items():
        many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for item in many:
            if isinstance(item, Mapping):
                written += [f"{indent}{name} {{", *_lines(item, indent + "  "), f"{indent}}}"]
            else:
                written.append(f"{indent}{name}: {_scalar(item)}")
    return written


def _scalar(value: Field) -> str:
    if isinstance(value, Word):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(_escaped(byte) for byte in str(value).encode()) + '"'


def _escaped(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
