# SPDX-License-Identifier: Apache-2.0
"""Schemas of what each step may answer, in the part of JSON Schema that `policy.factschema` checks.

A step runs beside a model that may have taken it over, so its answer is untrusted: the main process reads nothing
of one that has another form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
TEXTS: Schema = {"type": "array", "items": TEXT}
ANYTHING: Schema = {"type": "object"}


def table(members: Schema) -> Schema:
    """Return the schema of an object whose members all have one form."""
    return {"type": "object", "additionalProperties": members}


def listed(items: Schema) -> Schema:
    """Return the schema of an array whose items all have one form."""
    return {"type": "array", "items": items}


def tuple_of(*members: Schema) -> Schema:
    """Return the schema of an array with exactly these members."""
    return {"type": "array", "prefixItems": list(members), "minItems": len(members), "maxItems": len(members)}


def record(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """Return the schema of an object with these members and no others."""
    known = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": known, "additionalProperties": False}


_LENGTH: Schema = {"type": "integer", "minimum": 1}
_TAKEN = {"max": _LENGTH, "step": _LENGTH, **dict.fromkeys(("values", "remainders", "also"), listed(_LENGTH))}
_AXIS: Schema = {"type": ["integer", "string"], "minimum": 0}
PORT = record({"name": TEXT, "dtype": TEXT, "shape": listed(_AXIS)})
INTERFACE = record(
    {
        "inputs": listed(PORT),
        "outputs": listed(PORT),
        "dimensions": table(
            record(
                {"min": _LENGTH, "max": _LENGTH},
                {**_TAKEN, "limit": record({"min": _LENGTH}, _TAKEN), "is": tuple_of(_LENGTH, TEXT)},
            )
        ),
    }
)
_TYPES: Schema = {"type": "string", "pattern": r"^(\?|[^=;]+=[^;]*(;[^=;]+=[^;]*)*)?$"}  # `T=float32;Tind=int64`
GRAPH: Schema = {
    "type": "object",
    "required": ["opset", "ir", "operators", "parameters", "bytes", "activations"],
    "properties": {
        "opset": table(WHOLE),
        "ir": WHOLE,
        "parameters": WHOLE,
        "bytes": WHOLE,
        "operators": table(table({**table(listed(_TYPES)), "propertyNames": {"pattern": r"^[1-9][0-9]{0,4}$"}})),
        "activations": record({"bytes": WHOLE, "unknown": WHOLE}),
        "saturates": table(WHOLE),
    },
}

EXPORT = record(
    {"interface": INTERFACE, "ranges": table(tuple_of(NUMBER, NUMBER)), "graph": GRAPH, "nondeterministic": TEXTS},
    {
        "values": table(listed({"type": ["number", "string"]})),
        "firm": TEXTS,
        "missing": TEXTS,
        "classes": table(listed({"type": ["integer", "string"]})),
    },
)
_TOKEN: Schema = {"type": ["integer", "null"], "minimum": 0}
EXPORT_GENERATION = record(
    {
        "interface": INTERFACE,
        "ranges": table(tuple_of(NUMBER, NUMBER)),
        "graph": GRAPH,
        "nondeterministic": TEXTS,
        "generation": record(
            {
                "task": TEXT,
                "architecture": TEXT,
                "vocabulary": _LENGTH,
                "context": _LENGTH,
                "special": record({"bos": _TOKEN, "eos": listed(WHOLE), "pad": _TOKEN}),
                "cache": record({"layers": _LENGTH, "bytes": _LENGTH}),
                "sampling": table(NUMBER),
            },
            {"decoding": ANYTHING, "audio": ANYTHING},  # read as `Generation` reads a hostile contract
        ),
    }
)
REFERENCE = record({"prompts": WHOLE, "longest": WHOLE})
REFERENCE_SEQ2SEQ = record({"prompts": WHOLE, "longest": WHOLE, "source": WHOLE})
COMPILE: Schema = {
    "type": "object",
    "required": ["path", "artefact"],
    "properties": {"path": TEXT, "artefact": ANYTHING, "graph": {"type": ["object", "null"]}},
}
_SHOWN: Schema = {"type": ["number", "boolean", "string", "null"]}
_ELEMENT: Schema = {
    "type": "object",
    "required": ["index", "expected", "got"],
    "properties": {
        "index": listed(WHOLE),
        "expected": _SHOWN,
        "got": _SHOWN,
        "difference": NUMBER,
        "magnitude": NUMBER,
    },
}
_POINT: Schema = {**_ELEMENT, "required": ["difference", "magnitude", *_ELEMENT["required"]]}


def _compared(*required: str) -> Schema:
    """Return the form of one compared output that has these members besides its type and shape."""
    members = {
        "dtype": TEXT,
        "shape": listed(WHOLE),
        "max_abs": NUMBER,
        "not_finite": WHOLE,
        "unequal": WHOLE,
        "largest_gap": NUMBER,
        "moved": NUMBER,
        "flipped": WHOLE,
        "frontier": listed(_POINT),
        "first_unequal": _ELEMENT,
        "first_not_finite": _ELEMENT,
        "got": record({"dtype": TEXT, "shape": listed(WHOLE)}),
    }
    return {"type": "object", "required": ["dtype", "shape", *required], "properties": members}


_COMPARED: Schema = {"anyOf": [_compared("not_finite", "frontier"), _compared("unequal"), _compared("got")]}
_CASE = record({"name": TEXT, "fill": TEXT, "lengths": table(WHOLE), "outputs": table(_COMPARED)})
_KIND: Schema = {
    "type": "object",
    "required": ["words", "case"],
    "properties": {"words": {"type": ["string", "null"]}, "case": TEXT, "rounding": NUMBER},
}
_REACHED = {"source": {"type": ["number", "null"]}, "target": {"type": ["number", "null"]}, "rows": WHOLE}
MEASURE = record(
    {
        "cases": listed(_CASE),
        "shortened": table(WHOLE),
        "kinds": table(_KIND),
        "coverage": table(record({"reached": WHOLE, "of": WHOLE})),
    },
    {
        "evaluation": record(
            {**_REACHED, "data": TEXT, "slices": listed(record({**_REACHED, "column": TEXT, "value": TEXT}))}
        )
    },
)
MEASURE_GENERATION = record({"cases": listed(_CASE)})
SCAN = table(record({"outcome": {"enum": ["clean", "infected", "failed"]}, "words": TEXTS}))
READ_CODE = table(TEXTS)
TRIAL = record({"imported": TEXTS, "max_abs": {"type": ["number", "null"]}})  # null: a kind that has no toy
_SEEN: Schema = {
    "type": "object",
    "required": ["name", "dtype", "shape"],
    "properties": {
        "name": TEXT,
        "dtype": TEXT,
        "shape": listed(_AXIS),
        "values": listed({"type": "integer"}),
        "state": TEXT,
    },
}
LOOK: Schema = {
    "type": "object",
    "required": ["inputs", "dimensions", "outputs"],
    "properties": {
        "inputs": listed(_SEEN),
        "outputs": listed(_SEEN),
        "dimensions": table(ANYTHING),
        "fixed": table(WHOLE),
        "runs": WHOLE,
        "failed": TEXT,
        "domains": TEXTS,
        "opset": table(WHOLE),
        "promise": record({"inputs": table(ANYTHING), "dynamic": table({"type": ["array", "object", "string"]})}),
    },
}
