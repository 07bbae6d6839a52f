# SPDX-License-Identifier: Apache-2.0
"""The names of element types in the Open Inference Protocol, by those of numpy."""

from __future__ import annotations

DATATYPES = {
    "bool": "BOOL",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
    "bytes": "BYTES",  # raw inputs of a pipeline only: no text
}
