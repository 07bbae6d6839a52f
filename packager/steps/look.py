# SPDX-License-Identifier: Apache-2.0
"""Look: open a source and say what it takes and returns, so that a recipe can promise what is true.

A source that says little of itself, an ONNX file, is run at many lengths (`exporters.describe`); of the others the
exporter knows. What is proposed to be promised is what a build measures: no longer than its cases are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from packager import exporters
from packager.canonical import JSON
from packager.exporters import ExportOptions
from packager.recipe.lengths import Axis, Lengths
from packager.steps import _answers, _cases
from packager.steps._inputs import describe_inputs

VERSION = 5  # 5: a time that is over sets no limit; 4: ends to the length, axes tied by pairs
ANSWER = _answers.LOOK

_ROWS, _FEW_ROWS = 1024, 64  # what is proposed for the first axis: of small rows, and of others
_SMALL_ROW = 4096  # elements
_LONGEST = 16384


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Return `inputs`, `dimensions` and `outputs` as `exporters.describe` gives them, and the `promise` they allow.

    `promise` is `{inputs: {name: {dtype, shape, values?}}, dynamic: {dimension: axis}}`, as a recipe has it.
    """
    source, payload, kind = inputs["source"], params["payload"], params["kind"]
    found = exporters.describe(kind, source, payload, seconds=params["seconds"])
    if found is None:
        opened = exporters.exporter(kind).load(source, payload, ExportOptions())
        accepted = describe_inputs(opened.interface)
        return {"inputs": accepted["inputs"], "dimensions": accepted["dimensions"], "outputs": []}
    if "failed" in found:
        return found
    return {**found, "promise": _measurable(kind, source, payload, _proposed(found), found["domains"])}


def _proposed(found: JSON) -> JSON:
    """Return inputs and axes as a recipe states them: what ran is measured, what failed is the limit."""
    inputs = {
        port["name"]: {
            "dtype": port["dtype"],
            "shape": port["shape"],
            **(_values(port["values"]) if "values" in port else {}),
        }
        for port in found["inputs"]
    }
    rows = _row(inputs)
    firsts = {entry["shape"][0] for entry in inputs.values() if entry["shape"]}
    dynamic = {}
    for name, span in found["dimensions"].items():
        most = (_ROWS if rows <= _SMALL_ROW else _FEW_ROWS) if name in firsts else _LONGEST
        dynamic[name] = _axis(span, most).to_json()
    return {"inputs": inputs, "dynamic": dynamic}


def _axis(span: JSON, most: int) -> Axis:
    """Return what a recipe says of an axis: lengths to measure, no longer than `most`, and a limit that was met."""
    if span["kind"] == "untried":
        return Axis(Lengths(), (span["low"], span["low"]))
    if span.get("varies"):
        return Axis(Lengths(), (span["low"], max(min(span["high"], most), span["low"])))
    if span["kind"] == "some":  # of what lies between nothing is known: what ran is all there is to promise
        return Axis(Lengths.of(length for length in span["ran"] if length <= max(most, span["low"])))
    beside = (tuple(span.get(name, ())) for name in ("remainders", "also"))
    taken = Lengths(span["low"], span["high"] if span["limited"] else None, span["step"], (), *beside)
    reached = taken.near(max(min(span["high"], most), span["low"]))
    whole = taken.high is not None and reached == taken.near(taken.high)
    return Axis(taken, None if whole else (taken.near(0), reached))


def _values(ran: list[int]) -> JSON:
    """Return the values that ran as a recipe states them: a span where neighbours are among them, else all of them."""
    if any(value + 1 in ran for value in ran):
        return {"range": [min(ran), max(ran)]}
    return {"values": ran}


def _row(inputs: JSON) -> int:
    """Return how many elements a row has, of inputs whose other axes are fixed; many where one is free."""
    count = 0
    for entry in inputs.values():
        size = 1
        for axis in entry["shape"][1:]:
            size *= axis if isinstance(axis, int) else _SMALL_ROW + 1
        count += size
    return count


def _measurable(kind: str, source: Path, payload: str, promise: JSON, domains: JSON) -> JSON:
    """Return the promise with every dimension as long as a build measures it."""
    options = ExportOptions.from_params({**promise, "domains": domains})
    opened = exporters.exporter(kind).load(source, payload, options)
    interface = describe_inputs(opened.interface)
    cases = _cases.build_cases(interface, exporters.samples_of(opened), exporters.work_of(opened))
    shorter = _cases.shortened_dimensions(cases, interface)
    if not shorter:
        return promise
    return _measurable(kind, source, payload, {**promise, "dynamic": _shortened(promise["dynamic"], shorter)}, domains)


def _shortened(dynamic: JSON, shorter: JSON) -> JSON:
    """Return axes whose measurement ends where it can."""
    found = {name: Axis.from_json(value) for name, value in dynamic.items()}
    for name, length in shorter.items():
        found[name] = replace(found[name], measure=(found[name].limit.near(0), length))
    return {name: axis.to_json() for name, axis in found.items()}
