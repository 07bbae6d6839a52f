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


def map_schema(members: Schema) -> Schema:
    """Return the schema of an object whose members all have one form."""
    return {"type": "object", "additionalProperties": members}


def list_schema(items: Schema) -> Schema:
    """Return the schema of an array whose items all have one form."""
    return {"type": "array", "items": items}


def tuple_of(*members: Schema) -> Schema:
    """Return the schema of an array with exactly these members."""
    return {"type": "array", "prefixItems": list(members), "minItems": len(members), "maxItems": len(members)}


def record_schema(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """Return the schema of an object with these members and no others."""
    known = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": known, "additionalProperties": False}


_LENGTH: Schema = {"type": "integer", "minimum": 1}
_TAKEN = {"max": _LENGTH, "step": _LENGTH, **dict.fromkeys(("values", "remainders", "also"), list_schema(_LENGTH))}
_AXIS: Schema = {"type": ["integer", "string"], "minimum": 0}
PORT = record_schema({"name": TEXT, "dtype": TEXT, "shape": list_schema(_AXIS)})
INTERFACE = record_schema(
    {
        "inputs": list_schema(PORT),
        "outputs": list_schema(PORT),
        "dimensions": map_schema(
            record_schema(
                {"min": _LENGTH, "max": _LENGTH},
                {**_TAKEN, "limit": record_schema({"min": _LENGTH}, _TAKEN), "is": tuple_of(_LENGTH, TEXT)},
            )
        ),
    }
)
_TYPES: Schema = {"type": "string", "pattern": r"^(\?|[^=;]+=[^;]*(;[^=;]+=[^;]*)*)?$"}  # `T=float32;Tind=int64`
GRAPH: Schema = {
    "type": "object",
    "required": ["opset", "ir", "operators", "parameters", "bytes", "activations"],
    "properties": {
        "opset": map_schema(WHOLE),
        "ir": WHOLE,
        "parameters": WHOLE,
        "bytes": WHOLE,
        "operators": map_schema(
            map_schema({**map_schema(list_schema(_TYPES)), "propertyNames": {"pattern": r"^[1-9][0-9]{0,4}$"}})
        ),
        "activations": record_schema({"bytes": WHOLE, "unknown": WHOLE}, {"working": WHOLE}),
        "saturates": map_schema(WHOLE),
    },
}

EXPORT = record_schema(
    {"interface": INTERFACE, "ranges": map_schema(tuple_of(NUMBER, NUMBER)), "graph": GRAPH, "nondeterministic": TEXTS},
    {
        "values": map_schema(list_schema({"type": ["number", "string"]})),
        "firm": TEXTS,
        "missing": TEXTS,
        "classes": map_schema(list_schema({"type": ["integer", "string"]})),
    },
)
_TOKEN: Schema = {"type": ["integer", "null"], "minimum": 0}
EXPORT_GENERATION = record_schema(
    {
        "interface": INTERFACE,
        "ranges": map_schema(tuple_of(NUMBER, NUMBER)),
        "graph": GRAPH,
        "nondeterministic": TEXTS,
        "generation": record_schema(
            {
                "task": TEXT,
                "architecture": TEXT,
                "vocabulary": _LENGTH,
                "context": _LENGTH,
                "special": record_schema({"bos": _TOKEN, "eos": list_schema(WHOLE), "pad": _TOKEN}),
                "cache": record_schema({"layers": _LENGTH, "bytes": _LENGTH}),
                "sampling": map_schema(NUMBER),
            },
            {
                "decoding": ANYTHING,
                "audio": ANYTHING,
                "adapters": TEXTS,
            },  # read as `Generation` reads a hostile contract
        ),
    }
)
EXPORT_ADAPTER = record_schema({"rank": _LENGTH, "layers": _LENGTH, "parameters": _LENGTH})
REFERENCE = record_schema({"prompts": WHOLE, "longest": WHOLE})
REFERENCE_SEQ2SEQ = record_schema({"prompts": WHOLE, "longest": WHOLE, "source": WHOLE})
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
        "index": list_schema(WHOLE),
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
        "shape": list_schema(WHOLE),
        "max_abs": NUMBER,
        "not_finite": WHOLE,
        "unequal": WHOLE,
        "largest_gap": NUMBER,
        "moved": NUMBER,
        "flipped": WHOLE,
        "frontier": list_schema(_POINT),
        "first_unequal": _ELEMENT,
        "first_not_finite": _ELEMENT,
        "got": record_schema({"dtype": TEXT, "shape": list_schema(WHOLE)}),
    }
    return {"type": "object", "required": ["dtype", "shape", *required], "properties": members}


_COMPARED: Schema = {"anyOf": [_compared("not_finite", "frontier"), _compared("unequal"), _compared("got")]}
_CASE = record_schema({"name": TEXT, "fill": TEXT, "lengths": map_schema(WHOLE), "outputs": map_schema(_COMPARED)})
_KIND: Schema = {
    "type": "object",
    "required": ["words", "case"],
    "properties": {"words": {"type": ["string", "null"]}, "case": TEXT, "rounding": NUMBER},
}
_REACHED = {"source": {"type": ["number", "null"]}, "target": {"type": ["number", "null"]}, "rows": WHOLE}
_EVALUATION = record_schema(
    {
        **_REACHED,
        "data": TEXT,
        "slices": list_schema(record_schema({**_REACHED, "column": TEXT, "value": TEXT})),
    }
)
MEASURE = record_schema(
    {
        "cases": list_schema(_CASE),
        "shortened": map_schema(WHOLE),
        "kinds": map_schema(_KIND),
        "coverage": map_schema(record_schema({"reached": WHOLE, "of": WHOLE})),
    },
    {
        "evaluation": _EVALUATION,
        "distributions": ANYTHING,  # read as `Distributions` reads a hostile document
    },
)
ANSWER_ROWS = record_schema({"rows": WHOLE})
EVALUATE_ROWS = record_schema({"evaluation": _EVALUATION})
MEASURE_GENERATION = record_schema({"cases": list_schema(_CASE)})
SCAN = map_schema(record_schema({"outcome": {"enum": ["clean", "infected", "failed"]}, "words": TEXTS}))
READ_CODE = map_schema(TEXTS)
TRIAL = record_schema({"imported": TEXTS, "max_abs": {"type": ["number", "null"]}})  # null: a kind that has no toy
_SEEN: Schema = {
    "type": "object",
    "required": ["name", "dtype", "shape"],
    "properties": {
        "name": TEXT,
        "dtype": TEXT,
        "shape": list_schema(_AXIS),
        "values": list_schema({"type": "integer"}),
        "state": TEXT,
    },
}
LOOK: Schema = {
    "type": "object",
    "required": ["inputs", "dimensions", "outputs"],
    "properties": {
        "inputs": list_schema(_SEEN),
        "outputs": list_schema(_SEEN),
        "dimensions": map_schema(ANYTHING),
        "fixed": map_schema(WHOLE),
        "runs": WHOLE,
        "failed": TEXT,
        "domains": TEXTS,
        "opset": map_schema(WHOLE),
        "promise": record_schema(
            {"inputs": map_schema(ANYTHING), "dynamic": map_schema({"type": ["array", "object", "string"]})}
        ),
    },
}
