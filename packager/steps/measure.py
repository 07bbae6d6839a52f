# SPDX-License-Identifier: Apache-2.0
"""Measure: run the source and an artefact on the same inputs and record how they differ. No thresholds in here.

First on drawn inputs: those and what the source makes of them are kept as reference vectors. Then on given ones: rows
of the recipe's `samples`, the example logged with the model, and what is critical to it. The row of the worst
difference of every output is kept, with what kind of difference it is. An artefact that this host cannot run is left
out: then only the source runs, so that its vectors can be compared with on a host that can.

In a build the source runs in a separate worker (`serve`), which this step calls over a socket (`run_apart`): what
compares and records has never opened it.
"""

from __future__ import annotations

import importlib
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packager import canonical, error_causes, exporters
from packager.canonical import JSON
from packager.errors import PackagerError, StepError
from packager.exporters import Arrays
from packager.runtime import Session, load_runtime
from packager.steps import _answers, _cases, _compare, _diagnose, _distributions, _samples, _source
from packager.steps import _given_rows as _given
from packager.steps._cases import Case
from packager.steps._source import RemoteSource, Source
from packager.steps._vectors import Vectors

VERSION = 11  # 11: no pictures that leave a choice open; 10: distributions of given rows; 9: tensors of examples
ANSWER = _answers.MEASURE
MISSES = "misses"  # the folder of the rows that show the worst differences; no part of a bundle

_SAMPLES = "samples"  # the title of the recipe's rows; a source has no rows of that name
_EQUAL = 1e-6  # of the largest value of an output: what differs by less is float32 itself
_ROUNDING = 1e-3  # of the largest value of an output: what differs by less and is no rounding is not diagnosed
_TIMES = 8  # as far as two orders of one sum may lie apart, in what rounding at random moved it by


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Compare the tree `source` with the file `path` of the tree `artefact`; write the vectors, return the cases.

    Without an `artefact` there are no cases. `shortened` names dimensions whose promised maximum was too large to run
    here, with the longest length that ran. `kinds` says of outputs with large differences what kind they are,
    `coverage` how much of the model the cases exercised.
    """
    return _measured(inputs, out, params, _source.open_source(inputs, params))


def run_apart(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON], channel: socket.socket) -> JSON:
    """Measure against a source that another worker serves at the other end of `channel`."""
    return _measured(inputs, out, params, RemoteSource(channel, params["interface"]))


def serve(inputs: Mapping[str, Path], params: Mapping[str, JSON], channel: socket.socket) -> None:
    """Open the tree `source` and answer requests about it."""
    _source.serve(lambda: _source.open_source(inputs, params), channel)


def _measured(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON], source: Source) -> JSON:
    interface, seed = params["interface"], params.get("seed", 0)
    session = _session(inputs["artefact"], params) if "artefact" in inputs else None
    samples = source.samples()
    drawn = _cases.build_cases(interface, samples, source.work())
    vectors = Vectors(out, interface, drawn)
    measurement = Measurement(interface, source, session)
    for case in drawn:
        drawn_feeds = _cases.draw_feeds(
            interface, params.get("ranges") or {}, case, seed, samples, params.get("values")
        )
        feeds = source.plausible(drawn_feeds)
        vectors.add(case, feeds, measurement.add(case, feeds))
    vectors.write(drawn, seed)
    rows = _samples.read(inputs["samples"], interface) if session and "samples" in inputs else None
    answers = _distributions.Answers(interface)
    for case, feeds in _given_rows(rows, interface, source) if session else ():
        expected = measurement.add(case, feeds)
        if case.name.startswith(f"{_SAMPLES}, "):
            answers.add(expected, len(next(iter(feeds.values()))))
    described = _described(inputs, interface, rows, answers) if rows is not None else {}
    kinds = measurement.write_misses(out / MISSES, samples)
    return {
        **described,
        **_evaluated(inputs, params, source, session),
        "cases": measurement.cases,
        "shortened": _cases.shortened_dimensions(drawn, interface),
        "kinds": kinds,
        "coverage": source.coverage(),
    }


def _evaluated(
    inputs: Mapping[str, Path], params: Mapping[str, JSON], source: Source, session: Session | None
) -> dict[str, JSON]:
    """Return what both sides reach on the recipe's rows with labels, and their distributions; nothing without any."""
    if session is None or "evaluation" not in inputs:
        return {}
    from packager.steps import _evaluate

    about = {"interface": params["interface"], "classes": params.get("classes")}
    spec, raw = params["evaluation"], inputs.get("pipeline")
    found, described = _evaluate.evaluate(inputs["evaluation"], raw, spec, about, source.run, session.run)
    return {"evaluation": found, "distributions": described}


def _described(
    inputs: Mapping[str, Path], interface: JSON, rows: Mapping[str, Any], answers: _distributions.Answers
) -> dict[str, JSON]:
    digest = _distributions.digest_file(inputs["samples"])
    return {"distributions": _distributions.describe_arrays(digest, interface, rows, answers)}


def _given_rows(
    samples: Mapping[str, Any] | None, interface: JSON, source: Source
) -> Iterator[tuple[Case, dict[str, Any]]]:
    own = {title: rows for title, rows in source.rows().items() if samples is None or title != _SAMPLES}
    return _given.batch_rows(interface, ({_SAMPLES: samples} if samples is not None else {}) | own)


def _session(tree: Path, params: Mapping[str, JSON]) -> Session:
    return open_session(params["runtime"], tree / params["path"], params.get("device", "cpu"))


def open_session(runtime: str, path: Path, device: str = "cpu") -> Session:
    """Open an artefact on one thread, so that the order of its sums does not depend on the host."""
    opener = load_runtime(runtime).opener()
    try:
        return opener(path, threads=1, device=device)
    except PackagerError:
        raise
    except Exception as error:  # each runtime has its own tree of exceptions
        raise StepError(f"`{path.name}` does not load in {runtime}: {error_causes.find_cause(error)}") from error


@dataclass(frozen=True, slots=True)
class _Miss:
    """The row of the worst difference of an output so far; `size` is relative to the largest value beside it."""

    size: float
    case: Case
    row: Mapping[str, Any]
    element: JSON
    difference: float  # infinite of labels and of what is not finite


@dataclass(slots=True)
class Measurement:
    """Runs both sides case by case, and remembers the worst of every output."""

    interface: JSON
    source: Source
    session: Session | None
    cases: list[JSON] = field(default_factory=list)
    _worst: dict[int, _Miss] = field(default_factory=dict)

    def add(self, case: Case, feeds: Mapping[str, Any]) -> Arrays:
        """Run a case on both sides and record how they differ; return what the source computes."""
        expected = _cases.run_or_explain("source", case, self.source.run, feeds, self.interface)
        if self.session is not None:
            self._compare(case, feeds, expected, self.session)
        self.source.count(feeds, expected)
        return expected

    def _compare(self, case: Case, feeds: Mapping[str, Any], expected: Arrays, session: Session) -> None:
        got = _cases.run_or_explain("artefact", case, session.run, feeds, self.interface)
        names = [port["name"] for port in self.interface["outputs"]]
        if not len(expected) == len(got) == len(names):
            counts = f"{len(expected)} from the source and {len(got)} compiled"
            raise StepError(f"expected {len(names)} outputs, got {counts}")
        leaves, other = self.source.leaves(feeds), self._unoptimised(feeds, expected)
        plain = exporters.mask_for_comparison(leaves, feeds, expected, other)[1] if other else [None] * len(names)
        expected, got = exporters.mask_for_comparison(leaves, feeds, expected, got)
        records: dict[str, JSON] = {}
        for position, (name, left, right) in enumerate(zip(names, expected, got, strict=True)):
            gaps = self.source.gaps(feeds, position, left, right)
            records[name] = _compare.compare(left, right, gaps, plain[position])
            self._note(position, case, feeds, records[name], left)
        about = {"name": case.name, "fill": case.fill, "lengths": dict(case.lengths)}
        self.cases.append({**about, "outputs": records})

    def _unoptimised(self, feeds: Mapping[str, Any], expected: Arrays) -> Arrays | None:
        """Return what the source computes without optimisation; None where that is no other question.

        What fails there only, or has other shapes, is no evidence about an artefact.
        """
        try:
            found = self.source.unoptimised(feeds)
        except PackagerError:
            raise
        except Exception:  # a runtime may fuse what it cannot run piece by piece
            return None
        if found is None or [(a.dtype, a.shape) for a in found] != [(a.dtype, a.shape) for a in expected]:
            return None
        return found

    def _note(self, position: int, case: Case, feeds: Mapping[str, Any], record: JSON, expected: Any) -> None:
        element = _worst_element(record)
        if element is None:
            return
        size = _size(record, expected)
        if position not in self._worst or size > self._worst[position].size:
            first = element["index"][0] if element["index"] else 0
            row = _given.row_of(self.interface, feeds, first) if first < _rows(feeds) else dict(feeds)
            difference = float("inf") if "unequal" in record or record["not_finite"] else record["max_abs"]
            self._worst[position] = _Miss(size, case, row, element, difference)

    def write_misses(self, folder: Path, samples: Mapping[str, Any]) -> JSON:
        """Write the row of every output's worst difference as a request; return what kind the large ones are."""
        kinds: dict[str, JSON] = {}
        for position, miss in sorted(self._worst.items()):
            name = self.interface["outputs"][position]["name"]
            if miss.size > _EQUAL and self.session is not None:
                kinds |= self._kind(position, name, miss, samples)
            _write_miss(folder, name, miss, kinds.get(name))
        return kinds

    def _kind(self, position: int, name: str, miss: _Miss, samples: Mapping[str, Any]) -> dict[str, JSON]:
        """Return what kind of difference the worst one of an output is; nothing of a small one that has no cause."""
        rounding = self.source.rounding(miss.row, position)
        if rounding is not None and miss.difference <= _TIMES * rounding:
            return {name: {"words": None, "case": miss.case.name, "rounding": rounding}}
        if miss.size <= _ROUNDING or self.session is None:
            return {}
        words = _diagnose.explain(self.source.run, self.session.run, miss.row, position, samples)
        return {name: {"words": words, "case": miss.case.name}}


def _rows(feeds: Mapping[str, Any]) -> int:
    return min((len(values) if values.ndim else 1 for values in feeds.values()), default=0)


def _worst_element(record: JSON) -> JSON | None:
    if record.get("frontier"):
        return record.get("first_not_finite") or record["frontier"][0]
    return record.get("first_not_finite") or record.get("first_unequal")


def _size(record: JSON, expected: Any) -> float:
    """Return the largest difference relative to the largest value of the output; other labels and NaN are infinite."""
    numpy = importlib.import_module("numpy")
    if "unequal" in record:
        return float(record.get("largest_gap", numpy.inf))
    if record["not_finite"]:
        return float("inf")
    finite = abs(expected[numpy.isfinite(expected)].astype("float64"))
    return float(record["max_abs"] / max(float(finite.max(initial=0.0)), 1e-30))


def _write_miss(folder: Path, name: str, miss: _Miss, kind: JSON) -> None:
    """Write a row as the body of an inference request, with what was expected of it and what came."""
    folder.mkdir(exist_ok=True)
    listed = [_tensor(input_name, values) for input_name, values in miss.row.items()]
    about = {"output": name, "case": miss.case.name, **miss.element, **({"kind": kind["words"]} if kind else {})}
    slug = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "output"
    (folder / f"{slug[:60]}.json").write_bytes(canonical.dump({"parameters": about, "inputs": listed}))


def _tensor(name: str, values: Any) -> JSON:
    kinds = {"O": "BYTES", "b": "BOOL", "i": "INT", "u": "UINT", "f": "FP"}
    kind = kinds.get(values.dtype.kind, "FP")
    width = "" if kind in ("BYTES", "BOOL") else str(8 * values.dtype.itemsize)
    data = [_compare.write_number(value) for value in values.reshape(-1).tolist()]
    return {"name": name, "shape": list(values.shape), "datatype": f"{kind}{width}", "data": data}
