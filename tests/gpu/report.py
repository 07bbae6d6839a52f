# SPDX-License-Identifier: Apache-2.0
"""Turn the JSON of a run of the GPU kit into a page of tables.

python -m tests.gpu.report gpu-report.json [--out docs/measurements/gpu.md]
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CUDA = "CUDAExecutionProvider"


def main() -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    if options.out and report["provider"] != CUDA:
        parser.error(f"{options.report} is a rehearsal with {report['provider']}: a page needs a run on a GPU")
    page = render(report)
    if options.out:
        options.out.write_text(page)
    else:
        print(page, end="")
    return 0


def render(report: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    return "\n".join(line for part in _parts(report) for line in (*part, "")).rstrip() + "\n"


def _parts(report: dict[str, Any]) -> Iterator[list[str]]:
    rows = report["rows"]
    facts = next(iter(_of(rows, "facts")), {}).get("facts", {})
    day = dt.datetime.fromtimestamp(report["started"], dt.UTC).date()
    real = report["provider"] == CUDA
    yield ["# Bundles on a GPU" if real else "# A rehearsal of the GPU kit on a CPU: it says nothing about GPUs"]
    yield [
        f"From a run of {day} with `{report['provider']}`.",
    ]
    yield ["| what | version |", "| --- | --- |", *(f"| {key} | {_cell(value)} |" for key, value in facts.items())]
    yield ["## Answers", "", *_answers(rows)]
    yield ["## Time", "", *_times(rows)]
    yield ["## Device memory", "", *_memory(rows)]
    yield ["## Conformance", "", *_conformance(rows)]
    yield ["## Served", "", *_served(rows)]
    yield ["## What did not run", "", *_failures(rows)]


def _of(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["measurement"] == kind and "error" not in row]


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _answers(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "Largest difference to the same graph on the CPU, over the signed reference inputs, and nodes off the device."
    yield ""
    yield "| model | target | output | cases | largest difference | of | no node elsewhere | as served | operators elsewhere |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in _of(rows, "parity"):
        for target, found in row["targets"].items():
            elsewhere = _cell(found["nodes"]["operators elsewhere"]) or "none"
            for name, gap in found["outputs"].items():
                yield (
                    f"| {row['model']} | {target} | {name} | {found['cases']} | {gap['largest']:.3g} | {gap['of']:.3g} "
                    f"| {_cell(found['strict'])[:80]} | {_cell(found['server'])[:80]} | {elsewhere} |"
                )


def _times(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "Medians in milliseconds: of ONNX Runtime with tensors of the host and of the device, of torch on the device."
    yield ""
    yield "| model | size | what | host | device | device over eager of the same type |"
    yield "| --- | --- | --- | --- | --- | --- |"
    peers = {row["model"]: row["rows"] for row in _of(rows, "torch")}
    types = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    for row in _of(rows, "latency"):
        eager = {
            (item["dtype"], item["size"]): item["device"]["median"]
            for item in peers.get(row["model"], [])
            if item["way"] == "eager"
        }
        for target, sizes in row["targets"].items():
            dtype = next((long for short, long in types.items() if short in target), "float32")
            for item in sizes:
                own = item.get("device", item["host"])["median"]
                peer = eager.get((dtype, item["size"]))
                ratio = f"{own / peer:.2f}" if peer else "–"
                device = f"{item['device']['median']:.3f}" if "device" in item else "–"
                yield f"| {row['model']} | {item['size']} | {target} | {item['host']['median']:.3f} | {device} | {ratio} |"
        for item in peers.get(row["model"], []):
            what = f"torch {item['way']}, {item['dtype']}"
            yield f"| {row['model']} | {item['size']} | {what} | – | {item['device']['median']:.3f} | – |"


def _memory(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "MiB in use by the driver's count, before and after, beside what the contract states."
    yield ""
    yield "| model | target | device | weights | activations |"
    yield "| --- | --- | --- | --- | --- |"
    for row in _of(rows, "parity"):
        for target, found in row["targets"].items():
            used, stated = found["memory"]["device"], found["memory"]["stated"]
            device = "not measured" if used is None else str(used >> 20)
            yield f"| {row['model']} | {target} | {device} | {stated['weights'] >> 20} | {stated['activations'] >> 20} |"


def _conformance(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| model | target | runtime | device | outcome | reason |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in _of(rows, "conform"):
        for cell in row["cells"]:
            reason = _cell(cell["reason"] or "–")[:160]
            runtime = f"{cell['runtime']} {cell['version']}"
            yield f"| {row['model']} | {cell['target']} | {runtime} | {cell['device']} | {cell['outcome']} | {reason} |"


def _served(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "Eight clients for ten seconds, one row a request as JSON: answers by status, rate, latency in milliseconds."
    yield ""
    yield "| model | target | statuses | rate | median | p99 |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in _of(rows, "served"):
        for target, found in row["targets"].items():
            statuses = ", ".join(f"{key}: {count}" for key, count in found["statuses"].items())
            yield f"| {row['model']} | {target} | {statuses} | {found['rate']} | {found['median']} | {found['p99']} |"


def _failures(rows: list[dict[str, Any]]) -> Iterator[str]:
    failed = [row for row in rows if "error" in row]
    if not failed:
        yield "Everything ran."
    for row in failed:
        yield f"- {row['measurement']} of {row['model']}: {_cell(row['error'].strip().splitlines()[-1])[:300]}"


if __name__ == "__main__":
    sys.exit(main())
