# SPDX-License-Identifier: Apache-2.0
"""Look: open a source and say what it takes and returns, so that a recipe can promise what is true.

A source that says little of itself, an ONNX file, is run at many lengths (`exporters.describe`); of the others the
exporter knows. What is proposed to be promised is what a build measures: no longer than its cases are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packager import exporters
from packager.canonical import JSON
from packager.exporters import Wishes
from packager.steps import _answers, _cases
from packager.steps.export import describe_inputs

VERSION = 1  # 1: first form
ANSWER = _answers.LOOK

_ROWS, _FEW_ROWS = 1024, 64  # what is proposed for the first axis: of small rows, and of others
_SMALL_ROW = 4096  # elements
_LONGEST = 16384
_USUAL = 640  # of an axis that takes some lengths only: the longest of them that is no longer


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Return `inputs`, `dimensions` and `outputs` as `exporters.describe` gives them, and the `promise` they allow.

    `promise` is `{inputs: {name: {dtype, shape, range?}}, dynamic: {dimension: [low, high]}}`, as a recipe has it.
    """
    source, payload, kind = inputs["source"], params["payload"], params["kind"]
    found = exporters.describe(kind, source, payload, seconds=params["seconds"])
    if found is None:
        opened = exporters.exporter(kind).load(source, payload, Wishes())
        accepted = describe_inputs(opened.interface)
        return {"inputs": accepted["inputs"], "dimensions": accepted["dimensions"], "outputs": []}
    if "failed" in found:
        return found
    return {**found, "promise": _measurable(kind, source, payload, _proposed(found), found["domains"])}


def _proposed(found: JSON) -> JSON:
    """Return inputs and ranges as a recipe states them, as wide as they ran."""
    fixed = {name: _one(span) for name, span in found["dimensions"].items() if span["kind"] in ("steps", "some")}
    inputs = {
        port["name"]: {
            "dtype": port["dtype"],
            "shape": [fixed.get(axis, axis) for axis in port["shape"]],
            **({"range": _values(port["values"])} if "values" in port else {}),
        }
        for port in found["inputs"]
    }
    rows = _row(inputs)
    firsts = {entry["shape"][0] for entry in inputs.values() if entry["shape"]}
    dynamic = {}
    for name, span in found["dimensions"].items():
        most = (_ROWS if rows <= _SMALL_ROW else _FEW_ROWS) if name in firsts else _LONGEST
        if name not in fixed:
            dynamic[name] = [span["low"], max(min(span["high"], most), span["low"])]
    return {"inputs": inputs, "dynamic": dynamic}


def _one(span: JSON) -> int:
    """Return one length of an axis that takes some only: today a promise has no words for multiples."""
    ran = list(range(span["low"], span["high"] + 1, span["step"])) if span["kind"] == "steps" else span["ran"]
    return int(max((length for length in ran if length <= _USUAL), default=min(ran)))


def _values(values: list[int]) -> list[int]:
    """Return the range of values that ran without a gap, the one with the most of them, the larger of equals."""
    groups: list[list[int]] = []
    for value in values:
        if groups and value == groups[-1][-1] + 1:
            groups[-1].append(value)
        else:
            groups.append([value])
    best = max(groups, key=lambda group: (len(group), group[-1]))
    return [best[0], best[-1]]


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
    wishes = Wishes.from_params({**promise, "domains": domains})
    opened = exporters.exporter(kind).load(source, payload, wishes)
    interface = describe_inputs(opened.interface)
    cases = _cases.cases(interface, exporters.samples_of(opened), exporters.work_of(opened))
    shorter = _cases.longest(cases, interface)
    dynamic = {name: [low, shorter.get(name, high)] for name, (low, high) in promise["dynamic"].items()}
    return {**promise, "dynamic": dynamic}
