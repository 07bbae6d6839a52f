# SPDX-License-Identifier: Apache-2.0
"""Measure the metric of a bundle again, on the runtime of a cell and on a site's own rows with labels.

    the site's file ── as in a build ──> tensors ── suite.answers, in the cell's environment ──> outputs ──> the metric

The bounds are those that the recipe stated and the build's facts carry. A cell that stays below one fails at L3 with
the metric, the slice, what is reached here and what the build measured.
"""

from __future__ import annotations

import base64
import importlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.errors import MissingToolError, PackagerError, UsageError
from packager.recipe.evaluation import ERRORS

if TYPE_CHECKING:
    from packager.steps._evaluate import LabelledRows

Program = Callable[[Sequence[str], Path], tuple[int | None, str]]
NAME = "accuracy on rows with labels"
FEWEST = 30  # rows of a slice that is judged, as the rule `evaluation` has it
_LEVEL = 3
_INPUTS = "inputs.jsonl"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The file of a site, and what the build measured by target: metric, bounds, label, slices."""

    data: Path
    facts: Mapping[str, JSON]


class Accuracy:
    """The rows of a site as tensors, written once; `of` measures one cell."""

    def __init__(self, wanted: Evaluation, bundle: Bundle, files: Path, folder: Path, program: Program) -> None:
        """Read the rows. Raises UsageError for a bundle without an evaluation, StepError for rows that do not fit."""
        if not wanted.facts:
            raise UsageError(
                f"nothing says how `{bundle.name}:{bundle.version}` is evaluated",
                hint="its recipe needs `evaluation`, and its provenance has to travel with it (and be trusted)",
            )
        if not wanted.data.is_file():
            raise UsageError(f"`{wanted.data}` does not exist")
        self._facts, self._program, self._folder = wanted.facts, program, folder
        first = next(iter(wanted.facts.values()))
        spec = {"label": first["label"], "metric": first["metric"], "slices": first["columns"]}
        spec |= {"output": first["output"]} if first["output"] else {}
        self._outputs = [port["name"] for port in bundle.contract.document["interface"]["outputs"]]
        data = folder / "data"
        data.mkdir(parents=True)
        shutil.copyfile(wanted.data, data / wanted.data.name)
        self._rows = self._open(data, bundle, files, spec)
        self._counts = []
        with (folder / _INPUTS).open("w") as sink:
            for count, feeds in self._rows.feeds():
                self._counts.append(count)
                sink.write(json.dumps({name: _pack(values) for name, values in feeds.items()}) + "\n")

    @staticmethod
    def _open(data: Path, bundle: Bundle, files: Path, spec: JSON) -> LabelledRows:
        contract, named = bundle.contract.document, bundle.contract.pipeline
        raw = (files / named.path).parent if named else None
        try:
            from packager.steps._evaluate import LabelledRows  # numpy

            return LabelledRows(data, raw, spec, {key: contract.get(key) for key in ("interface", "classes")})
        except ImportError as error:
            raise MissingToolError(error.name or "tokenizers", "transformers") from None

    def add_to(self, row: Mapping[str, JSON], cell: Path, scratch: Path) -> dict[str, JSON]:
        """Return the result of a cell with the check of its accuracy, and what was measured."""
        started = time.monotonic()
        stated = self._facts.get(row["target"]) or next(iter(self._facts.values()))
        try:
            reached, reasons = self._measure(cell, scratch, stated)
        except PackagerError as error:
            reached, reasons = {}, [error.message]
        check = {
            "level": _LEVEL,
            "name": NAME,
            "outcome": "fail" if reasons else "pass",
            "reason": "; ".join(reasons)[:600],
            "seconds": round(time.monotonic() - started, 4),
        }
        made = {**row, "checks": [*row["checks"], check], "measures": {**row["measures"], "accuracy": reached}}
        if not reasons:
            return made
        levels = {**row["levels"], f"L{_LEVEL}": "fail"}
        first = row["reason"] if row["outcome"] == "fail" else f"L{_LEVEL} {NAME}: {check['reason']}"
        return {**made, "outcome": "fail", "levels": levels, "reason": first}

    def _measure(self, cell: Path, scratch: Path, stated: JSON) -> tuple[JSON, list[str]]:
        out = scratch / "answers.jsonl"
        code, log = self._program(["suite.answers", str(cell), str(self._folder / _INPUTS), str(out)], scratch)
        if code != 0:
            ended = "did not end in time" if code is None else f"ended with status {code}: {log.strip()[-300:]}"
            return {}, [f"the run {ended}"]
        side, start = self._rows.collect(), 0
        for results, count in zip(self._read(out), self._counts, strict=True):
            side.add(results, start)
            start += count
        found = self._rows.judge(side, side)
        about = {key: stated[key] for key in ("metric", "bound", "slice_bound")}
        slices = [_renamed(item) for item in found["slices"]]
        reached = {**about, "data": found["data"], **_renamed(found), "slices": slices}
        return reached, list(list_misses(reached, stated))

    def _read(self, out: Path) -> Iterator[list[Any]]:
        with out.open("rb") as file:
            for line in file:
                answers = json.loads(line)
                yield [_unpack(answers[name]) for name in self._outputs]


def _renamed(item: JSON) -> dict[str, JSON]:
    return {
        **{key: item[key] for key in ("column", "value") if key in item},
        "rows": item["rows"],
        "here": item["target"],
    }


def list_misses(reached: Mapping[str, JSON], stated: Mapping[str, JSON]) -> Iterator[str]:
    """Yield a sentence for the metric over all rows, and one for the worst slice, where it misses its bound."""
    metric, less = reached["metric"], reached["metric"] in ERRORS
    limit = "at most" if less else "at least"

    def distance(item: Mapping[str, JSON], bound: float) -> float:
        return 0.0 if item["here"] is None else (item["here"] - bound) * (1 if less else -1)

    def said(item: Mapping[str, JSON], before: JSON, bound: float) -> str:
        built = "not measured" if before is None else f"{before:.4g}"
        return f"{metric} is {item['here']:.4g} here and {built} at build, where {limit} {bound:g} is required"

    if distance(reached, reached["bound"]) > 0:
        yield f"{said(reached, stated['target'], reached['bound'])}, over {reached['rows']} rows"
    bound = reached["slice_bound"]
    wrong = [item for item in reached["slices"] if item["rows"] >= FEWEST] if bound is not None else []
    if wrong and distance(worst := max(wrong, key=lambda item: distance(item, bound)), bound) > 0:
        place = (worst["column"], worst["value"])
        before = next((s["target"] for s in stated["slices"] if (s["column"], s["value"]) == place), None)
        yield f"slice `{place[0]}` = `{place[1]}`: {said(worst, before, bound)}, over {worst['rows']} rows"


def _pack(array: Any) -> dict[str, JSON]:
    """Return a tensor as adapters take it (conformance/README.md)."""
    numpy = importlib.import_module("numpy")
    shape = list(array.shape)
    if array.dtype.kind in "OUS":
        return {"dtype": "string", "shape": shape, "text": [str(item) for item in array.reshape(-1).tolist()]}
    little = numpy.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": array.dtype.name, "shape": shape, "base64": base64.b64encode(little.tobytes()).decode()}


def _unpack(value: JSON) -> Any:
    numpy = importlib.import_module("numpy")
    if value["dtype"] == "string":
        return numpy.array(value["text"], object).reshape(value["shape"])
    kind = numpy.dtype(value["dtype"])
    return numpy.frombuffer(base64.b64decode(value["base64"]), kind.newbyteorder("<")).reshape(value["shape"])
