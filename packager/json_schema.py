# SPDX-License-Identifier: Apache-2.0
"""Check a JSON value against the small part of JSON Schema that our own schemas are written in.

The tests compare it with the reference implementation, which is too large for the base installation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from packager.canonical import JSON

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def check(value: JSON, schema: Mapping[str, JSON], where: str) -> Iterator[str]:
    """Yield what of a value, called `where`, a schema of this part of JSON Schema refuses."""
    if "anyOf" in schema:
        if all(next(check(value, choice, where), None) for choice in schema["anyOf"]):
            yield f"`{where}` has none of the allowed forms"
        return
    if "type" in schema and not _is(value, schema["type"]):
        yield f"`{where}` is not of type {schema['type']}"
    elif "enum" in schema and not any(_is_same(value, choice) for choice in schema["enum"]):
        yield f"`{where}` is none of {', '.join(map(str, schema['enum']))}"
    elif isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"`{where}` does not look like {schema['pattern']}"
    elif isinstance(value, int | float) and not isinstance(value, bool) and value < schema.get("minimum", value):
        yield f"`{where}` is below {schema['minimum']}"
    elif isinstance(value, list):
        yield from _items(value, schema, where)
    elif isinstance(value, dict):
        yield from _members(value, schema, where)


def _items(value: Sequence[JSON], schema: Mapping[str, JSON], where: str) -> Iterator[str]:
    least, most = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not least <= len(value) <= most:
        yield f"`{where}` has {len(value)} members"
    first = schema.get("prefixItems", ())
    for place, item in enumerate(value):
        form = first[place] if place < len(first) else schema.get("items", {})
        yield from check(item, form, f"{where}[{place}]")


def _members(value: Mapping[str, JSON], schema: Mapping[str, JSON], where: str) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"`{where}` lacks `{name}`"
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    names = schema.get("propertyNames", {}).get("pattern", "")
    for name, member in value.items():
        if not re.search(names, name):
            yield f"`{where}` has the member `{name:.60}`, which does not look like {names}"
        if name in known:
            yield from check(member, known[name], f"{where}.{name}")
        elif others is False:
            yield f"`{where}` has the unknown member `{name:.60}`"
        elif isinstance(others, dict):
            yield from check(member, others, f"{where}.{name}")


def _is_same(value: JSON, choice: JSON) -> bool:
    """Tell whether a value is a choice of an `enum`, all of which are scalars; in JSON `true` is not 1."""
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)


def _is(value: JSON, kinds: JSON) -> bool:
    """Tell whether a value is of one of the types; in JSON `true` is no number."""
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind in ("number", "integer"):
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            if not isinstance(value, bool) and (whole if kind == "integer" else isinstance(value, int | float)):
                return True
        elif isinstance(value, _TYPES[kind]):
            return True
    return False
