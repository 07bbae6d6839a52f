# SPDX-License-Identifier: Apache-2.0
"""The table of sources and targets: a record that every run of a row replaces its part of, and the page made of it.

`python -m tests.matrix.table` writes the page anew from the record.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from packager.files import hold_lock
from tests.matrix.sources import SOURCES, TARGETS
from tests.support.environments import CACHE

DOCS = Path(__file__).parents[2] / "docs"
RECORD = DOCS / "measurements" / "sources-and-targets.json"
PAGE = DOCS / "reference" / "sources-and-targets.md"
HEAD = """# Sources and targets

Written by `pytest tests/matrix`. Every target was built alone, and all that work as one bundle twice, from two
directories and into two stores; *same* says that both gave the same bytes for it. *abs* and *rel* are the largest
differences between the source, run by its own library, and the artefact, over all cases and outputs (*rel* also where
the source is next to nothing, so it may be large); *labels* counts unequal elements of outputs that are compared
exactly. Sizes are those of the artefact. Seconds are wall time of lock and build on two shared cores, what another
target of the same source had already exported not counted: an upper bound. Where a cell is empty, the reason is the
error that a user gets.

Not listed: Triton and ONNX Runtime's other providers, which take the same files as `onnxruntime cpu`; TensorRT for
data centres, which must be built on its GPU; the other compute capabilities of TensorRT for RTX
([measurements](../measurements/tensorrt-rtx.md)). int8 is held to a tolerance that lets anything pass, so that the table
can show how far it is off.
"""
COLUMNS = (
    "| source | exporter | model | target | size | cases | abs | rel | labels | same | s |\n"
    "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |\n"
)


def keep(rows: list[dict[str, Any]]) -> None:
    """Replace what was run in the record, and write the page anew."""
    run = {(row["source"], row["target"]) for row in rows}
    CACHE.mkdir(parents=True, exist_ok=True)
    with hold_lock(CACHE / "table.lock"):
        known = json.loads(RECORD.read_text()) if RECORD.exists() else []
        write([row for row in known if (row["source"], row["target"]) not in run] + rows)


def write(rows: list[dict[str, Any]]) -> None:
    sources, targets = [item.title for item in SOURCES], [item.title for item in TARGETS]
    kept = [row for row in rows if row["source"] in sources and row["target"] in targets]
    kept.sort(key=lambda row: (sources.index(row["source"]), targets.index(row["target"])))
    RECORD.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(f"{HEAD}\n{COLUMNS}" + "".join(lines(item.title, item.model, kept) for item in SOURCES))


def lines(source: str, model: str, rows: list[dict[str, Any]]) -> str:
    mine = {row["target"]: row for row in rows if row["source"] == source}
    kind = next((f"`{row['kind']}`" for row in mine.values() if "kind" in row), "–")
    return "".join(
        f"| {source} | {kind} | {model} {line(mine.get(target.title, {'target': target.title, 'reason': 'not run yet'}))}\n"
        for target in TARGETS
    )


def line(row: dict[str, Any]) -> str:
    start = f"| {row['target']} "
    if "reason" in row:
        return f"{start}| | | | | | | *{row['reason'].replace('|', '/')}* |"
    size = f"{row['size'] / 1e6:.2f} MB"
    numbers = "not measured: no GPU here | | | "
    if "unmeasured" not in row:
        numbers = f"{row['cases']} | {row['max_abs']:.1e} | {row['max_rel']:.1e} | {row['unequal']}"
    same = "yes" if row["same"] else "**no**"
    return f"{start}| {size} | {numbers} | {same} | {row['seconds']:.0f} |"


if __name__ == "__main__":
    write(json.loads(RECORD.read_text()))
