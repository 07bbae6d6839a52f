# SPDX-License-Identifier: Apache-2.0
"""Turn what probes did into a table of knowledge: patterns over versions instead of a line per attempt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from packager.canonical import JSON

Kernels = Mapping[str, str]  # `ai.onnx Pad 19 T=float32` -> `ok`, `lacks`, `wrong`, `fails` or `unclear`

_LETTERS = {"ok": "o", "lacks": "x", "wrong": "w", "fails": "x"}
_CERTAIN = ("ok", "lacks", "wrong")
_COMMON = {"float32", "int64", "int32", "int8", "uint8", "bool", "string"}


def tabulate_kernels(measured: Mapping[str, Kernels]) -> JSON:
    """Return the `kernels` of a table. `measured` maps versions, oldest first, to what each probe did there.

    A probe that loads nowhere, of which no version lacks a kernel or is always wrong, may be a bad question: left out.
    """
    patterns = {}
    for name in {name for outcomes in measured.values() for name in outcomes}:
        reported = [outcomes.get(name) for outcomes in measured.values()]
        if not {*reported}.isdisjoint(_CERTAIN):
            patterns[name] = "".join(_letter(each, loads="ok" in reported) for each in reported)
    return _value(list(measured), patterns)


def extend_kernels(known: JSON, version: str, outcomes: Kernels) -> JSON:
    """Return the `kernels` of a table with one more version at the end; what it says of the others stays."""
    before = {
        f"{domain} {operator} {since} {types}".rstrip(): pattern
        for domain, operators in known["operators"].items()
        for operator, definitions in operators.items()
        for since, patterns in definitions.items()
        for pattern, rows in patterns.items()
        for types in rows
    }
    added = {name: "-" * len(known["over"]) for name, reported in outcomes.items() if reported in _CERTAIN}
    patterns = {
        name: pattern + _letter(outcomes.get(name), loads="o" in pattern) for name, pattern in (added | before).items()
    }
    return _value([*known["over"], version], patterns)


def fill_kernels(known: JSON, measured: Mapping[str, Kernels]) -> JSON:
    """Return the `kernels` of a table with more probes of versions that it has; what it says of others stays.

    A version that is not in `measured` was not tried with them.
    """
    added = tabulate_kernels({version: measured.get(version, {}) for version in known["over"]})["operators"]
    return {**known, "operators": dict(sorted({**known["operators"], **added}.items()))}


def _letter(reported: str | None, *, loads: bool) -> str:
    return "-" if reported in (None, "unclear") or (reported == "fails" and not loads) else _LETTERS[reported]


def _value(over: Sequence[str], patterns: Mapping[str, str]) -> JSON:
    found: dict[str, dict[str, dict[str, dict[str, list[str]]]]] = {}
    for name in sorted(patterns):
        domain, operator, since, types = (*name.split(" ", 3), "")[:4]
        definitions = found.setdefault(domain, {}).setdefault(operator, {})
        definitions.setdefault(since, {}).setdefault(patterns[name], []).append(types)
    return {"over": list(over), "operators": found}


def complete(outcomes: Kernels, newest: int) -> int:
    """Return the newest opset up to `newest` at which no operator lost an everyday element type it had before."""
    definitions: dict[tuple[str, str], dict[int, bool]] = {}
    for name, outcome in outcomes.items():
        domain, operator, since, types = (*name.split(" ", 3), "")[:4]
        if domain == "ai.onnx" and {part.partition("=")[2] for part in types.split(";")} <= _COMMON:
            definitions.setdefault((operator, types), {})[int(since)] = outcome == "ok"
    lost = (
        since
        for history in definitions.values()
        for since, ok in history.items()
        if not ok and any(other < since and good for other, good in history.items())
    )
    return min((since - 1 for since in lost if since <= newest), default=newest)


def format_kernels(value: JSON) -> str:
    """Write kernels with one operator on a line, so that a change of the table can be reviewed."""
    domains = []
    for domain, operators in value["operators"].items():
        rows = ",\n".join(f"{json.dumps(name)}:{_compact(rows)}" for name, rows in operators.items())
        domains.append(f"{json.dumps(domain)}:{{\n{rows}\n}}")
    body = ",\n".join(domains)
    return f'{{"over":{_compact(value["over"])},\n"operators":{{\n{body}\n}}}}\n'


def _compact(value: JSON) -> str:
    return json.dumps(value, separators=(",", ":"))
