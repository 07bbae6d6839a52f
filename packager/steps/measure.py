# SPDX-License-Identifier: Apache-2.0
"""Measure: run the source and an artefact on the same inputs and record how they differ. No thresholds in here."""

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

VERSION = 1


class Session(Protocol):
    """An artefact opened on its runtime."""

    def run(self, feeds: Feeds) -> Arrays: ...


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Compare the tree `source` with the file `path` of the tree `artefact`; write nothing, return the cases.

    `shortened` names dimensions whose promised maximum was too large to run here, with the longest length that ran.
    """
    interface, ranges, seed = params["interface"], params.get("ranges") or {}, params.get("seed", 0)
    source = exporters.exporter(params["kind"]).load(inputs["source"], params["payload"], Wishes.from_params(params))
    session = open_session(params["runtime"], inputs["artefact"] / params["path"])
    samples = exporters.samples_of(source)
    done = _cases.cases(interface, samples)
    given = (_cases.feeds(interface, ranges, case, seed, samples) for case in done)
    return {
        "runtime": params["runtime"],
        "cases": [_measure(case, interface, feeds, source, session) for case, feeds in zip(done, given, strict=True)],
        "shortened": _cases.longest(done, interface),
    }


def open_session(runtime: str, path: Path) -> Session:
    """Open an artefact on one thread, so that the order of its sums does not depend on the host."""
    module = importlib.import_module(f"{plugins.load('runtimes', runtime).__name__}.session")
    try:
        return cast(Session, module.open_session(path, threads=1))
    except PackagerError:
        raise
    except Exception as error:  # each runtime has its own tree of exceptions
        raise StepError(f"`{path.name}` does not load in {runtime}: {_cases.first_line(error)}") from error


def _measure(case: _cases.Case, interface: JSON, feeds: Feeds, source: exporters.SourceModel, session: Session) -> JSON:
    expected = _cases.attempt("source", case, source.run, feeds)
    got = _cases.attempt("artefact", case, session.run, feeds)
    names = [port["name"] for port in interface["outputs"]]
    if not len(expected) == len(got) == len(names):
        raise StepError(f"expected {len(names)} outputs, got {len(expected)} from the source and {len(got)} compiled")
    compared = {name: _compare.compare(a, b) for name, a, b in zip(names, expected, got, strict=True)}
    return {"name": case.name, "fill": case.fill, "lengths": dict(case.lengths), "outputs": compared}
