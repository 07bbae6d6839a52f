# SPDX-License-Identifier: Apache-2.0
"""What `compat` says of graphs, held against what versions of runtimes do with them.

    python -m tests.matrix.predictions [RUNTIME[==VERSION] …]      runs them, keeps the record, writes the table

Every graph runs on every version, in an environment and a process of its own, and its answers are held against those of
the ONNX Runtime here, where that has any. The record holds for each version the graphs that it did not run rightly.
"""

from __future__ import annotations

import collections
import functools
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from packager.runtimes import _answers
from packager.runtimes._trials import Trial

from packager.conform import probing
from packager.contract import runtime_support, runtime_tables
from packager.runtime import load_prober
from tests.support import asked_graphs, beyond_graphs, graphs

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).parent / "predictions.jsonl"
PAGE = ROOT / "docs" / "measurements" / "predictions.md"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packager" / "environments"
VERSIONS = {
    "onnxruntime": (
        *("1.15.1", "1.16.3", "1.17.3", "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4"),
        *("1.25.1", "1.26.0", "1.27.0", "1.28.0", "1.29.0", "1.30.0", "1.31.1", "1.32.0"),
    ),
    "onnxruntime-node": ("1.16.3", "1.18.0", "1.20.1", "1.23.2", "1.26.0", "1.30.0"),
    "onnxruntime-web": ("1.18.0", "1.20.1", "1.23.2", "1.27.0", "1.30.0"),
    "openvino": ("2024.6.0", "2025.4.1", "2026.4.1"),
    "tract": ("0.23.9",),
    "mnn": ("3.6.1",),
}
HEAD = """# What `compat` says, and what happens

Written by `python -m tests.matrix.predictions`, which runs every graph of `tests/support/graphs.py` and
`asked_graphs.py` on every version in an environment and a process of its own, without a network where
bubblewrap works. *Right* is what loads, runs and answers as ONNX Runtime 1.31.1 does there (1e-4 relative,
2e-2 with float16; whole numbers, types and shapes exactly; what that does not run need only run). Graphs
without such an answer are not put to OpenVINO, tract and MNN; of MNN int32 counts as int64. Batches have more
than one row; among the graphs are ties, lengths, axes as attributes, constants and inputs, modes of pooling and
resizing, tables, texts, missing numbers (NaN) and whole numbers beyond 32 bits (`beyond_graphs.py`; a contract
states which inputs may hold them). The record is `tests/matrix/predictions.jsonl`: every run of the tests judges
it anew, slow ones run it anew.

A false verdict stands in a bold column.

"""
TAIL = """
IREE and ONNX Runtime for Java were not run. tract is opened for given lengths; of MNN 28 operators are known. This
is x86-64 with AVX2; products of eight bits may saturate otherwise elsewhere.
"""
MADE = graphs.GRAPHS | graphs.FOR_OPENVINO | asked_graphs.ASKED | beyond_graphs.BEYOND


@dataclass
class Confusion:
    """What `compat` says of graphs, by whether they ran rightly; `wrong` is what it was sure of and is not so."""

    counts: collections.Counter[tuple[str, bool]] = field(default_factory=collections.Counter)
    wrong: list[tuple[str, str, str, str]] = field(default_factory=list)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts, self.wrong + other.wrong)

    @property
    def unknown(self) -> float:
        """The share of pairs of which `compat` says neither yes nor no."""
        return (self.counts["unknown", True] + self.counts["unknown", False]) / self.counts.total()


@functools.cache
def facts() -> dict[str, Any]:
    """Return what a contract would say of every graph."""
    return {name: graphs.facts(make().graph) for name, make in MADE.items()}


@functools.cache
def trials() -> dict[str, Trial]:
    """Return every graph with its inputs, and what ONNX Runtime here makes of them, if it runs them."""
    made = {name: make() for name, make in MADE.items()}
    answered = _answers.answered([*made.values()])
    return {
        name: replace(trial, expected=found.expected, tolerance=found.tolerance) if found else trial
        for (name, trial), found in zip(made.items(), answered, strict=True)
    }


def prove(runtime: str, version: str) -> dict[str, Any]:
    """Run the graphs on one version; return its line of the record. Raises StepError where it cannot be had."""
    asked = trials() if runtime.startswith("onnxruntime") else {n: t for n, t in trials().items() if t.expected}
    python, said = probing.make_environment(runtime, version, sys.executable, CACHE)
    assert said["version"] == version, said
    reported = load_prober(runtime).trials(python, [*asked.values()])
    failed = {name: text[:60] for name, text in zip(asked, reported, strict=True) if text != "ok"}
    left = [name for name in MADE if name not in asked]
    return {"runtime": runtime, "version": version, "graphs": len(asked), "left": left, "failed": failed}


def judge(row: dict[str, Any]) -> Confusion:
    """Hold what `compat` says of every graph against a line of the record."""
    found = Confusion()
    for name, needed in facts().items():
        if name not in row["left"]:
            outcome = verdict(name, needed, row["runtime"], row["version"])
            ran = name not in row["failed"]
            found.counts[outcome, ran] += 1
            if outcome != "unknown" and (outcome == "ok") != ran:
                found.wrong.append((f"{row['runtime']} {row['version']}", name, outcome, row["failed"].get(name, "ok")))
    return found


def verdict(name: str, needed: dict[str, Any], runtime: str, version: str) -> str:
    """Return what `compat` says of a graph whose inputs may hold what they hold here."""
    outcome = runtime_support.judge_graph(needed, runtime, version).outcome
    known = runtime_support.find_row(runtime_tables.load_shipped(runtime), version)
    missing, large = values()[name]
    doubted = known and any(runtime_support.doubt_values(needed, known, runtime, missing=missing, large=large))
    return "unknown" if doubted and outcome == "ok" else outcome


@functools.cache
def values() -> dict[str, tuple[list[str], list[str]]]:
    """Return of every graph the inputs in which a number is missing, and those with whole numbers beyond 32 bits."""
    found = {}
    for name, make in MADE.items():
        with np.load(io.BytesIO(make().feeds), allow_pickle=False) as arrays:
            feeds = {port: arrays[port] for port in arrays.files}
        missing = [port for port, array in feeds.items() if array.dtype.kind == "f" and np.isnan(array).any()]
        wide = [port for port, array in feeds.items() if array.dtype.kind in "iu" and array.size]
        found[name] = (
            missing,
            [port for port in wide if not -(2**31) <= feeds[port].min() <= feeds[port].max() < 2**31],
        )
    return found


def read() -> list[dict[str, Any]]:
    """Return the lines of the record."""
    return [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.is_file() else []


def keep(rows: list[dict[str, Any]]) -> None:
    """Replace the lines of these versions in the record."""
    known = {(row["runtime"], row["version"]): row for row in [*read(), *rows]}
    order = [(runtime, version) for runtime, versions in VERSIONS.items() for version in versions]
    lines = (json.dumps(known[each], ensure_ascii=False) for each in order if each in known)
    RECORD.write_text("".join(f"{line}\n" for line in lines))


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table, a runtime on each, and one of all."""
    yield "| | | | said ok | | said no | | said unknown | | |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    yield "| runtime | versions | pairs | right | **not** | not | **right** | right | not | share unknown |"
    whole = Confusion()
    for runtime in VERSIONS:
        mine = [judge(row) for row in rows if row["runtime"] == runtime]
        if mine:
            found = sum(mine, Confusion())
            whole += found
            yield line(runtime, len(mine), found)
    yield line("**all**", len(rows), whole)


def line(name: str, versions: int, found: Confusion) -> str:
    asked = [("ok", True), ("ok", False), ("no", False), ("no", True), ("unknown", True), ("unknown", False)]
    cells = [versions, found.counts.total(), *(found.counts[each] for each in asked), f"{found.unknown:.1%}"]
    return f"| {name} | " + " | ".join(map(str, cells)) + " |"


def main(arguments: list[str]) -> int:
    wanted = [tuple(text.partition("==")[::2]) for text in arguments]
    asked = [
        (runtime, version)
        for runtime, versions in VERSIONS.items()
        for version in versions
        if not wanted or any(runtime == name and number in ("", version) for name, number in wanted)
    ]
    for runtime, version in asked:
        keep([prove(runtime, version)])
        print(runtime, version, flush=True)
    PAGE.write_text(HEAD + "".join(f"{text}\n" for text in table(read())) + TAIL)
    for row in read():
        for wrong in judge(row).wrong:
            print(*wrong)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
