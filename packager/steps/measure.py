# SPDX-License-Identifier: Apache-2.0
"""Measure: run the source and an artefact on the same inputs and record how they differ. No thresholds in here.

The inputs and what the source makes of them are kept as reference vectors. An artefact that this host cannot run is
left out: then only the source runs, so that its vectors can be compared with on a host that can.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from packager import exporters, plugins
from packager.canonical import JSON
from packager.errors import PackagerError, StepError
from packager.exporters import Arrays, Feeds, Wishes
from packager.steps import _cases, _compare
from packager.steps._vectors import Vectors

VERSION = 4  # 4: what a source returns at padding does not count, nor the order of a set


class Session(Protocol):
    """An artefact opened on its runtime."""

    def run(self, feeds: Feeds) -> Arrays: ...


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Compare the tree `source` with the file `path` of the tree `artefact`; write the vectors, return the cases.

    Without an `artefact` there are no cases. `shortened` names dimensions whose promised maximum was too large to run
    here, with the longest length that ran.
    """
    interface, ranges, seed = params["interface"], params.get("ranges") or {}, params.get("seed", 0)
    source = exporters.exporter(params["kind"]).load(inputs["source"], params["payload"], Wishes.from_params(params))
    session = _session(inputs["artefact"], params) if "artefact" in inputs else None
    samples = exporters.samples_of(source)
    done = _cases.cases(interface, samples)
    vectors = Vectors(out, interface, done)
    cases = []
    for case in done:
        feeds = exporters.plausible(source, _cases.feeds(interface, ranges, case, seed, samples))
        expected = _cases.attempt("source", case, source.run, feeds)
        vectors.add(case, feeds, expected)
        if session is not None:
            got = _cases.attempt("artefact", case, session.run, feeds)
            cases.append(_measure(case, interface, *exporters.comparable(source, feeds, expected, got)))
    vectors.write(done, seed)
    return {"cases": cases, "shortened": _cases.longest(done, interface)}


def _session(tree: Path, params: Mapping[str, JSON]) -> Session:
    return open_session(params["runtime"], tree / params["path"], params.get("device", "cpu"))


def open_session(runtime: str, path: Path, device: str = "cpu") -> Session:
    """Open an artefact on one thread, so that the order of its sums does not depend on the host."""
    module = importlib.import_module(f"{plugins.load('runtimes', runtime).__name__}.session")
    try:
        return cast(Session, module.open_session(path, threads=1, device=device))
    except PackagerError:
        raise
    except Exception as error:  # each runtime has its own tree of exceptions
        raise StepError(f"`{path.name}` does not load in {runtime}: {_cases.first_line(error)}") from error


def _measure(case: _cases.Case, interface: JSON, expected: Arrays, got: Arrays) -> JSON:
    names = [port["name"] for port in interface["outputs"]]
    if not len(expected) == len(got) == len(names):
        raise StepError(f"expected {len(names)} outputs, got {len(expected)} from the source and {len(got)} compiled")
    compared = {name: _compare.compare(a, b) for name, a, b in zip(names, expected, got, strict=True)}
    return {"name": case.name, "fill": case.fill, "lengths": dict(case.lengths), "outputs": compared}
