# SPDX-License-Identifier: Apache-2.0
"""Every source on every target, built twice from two directories; the table is kept in `docs/sources-and-targets.md`.

A cell that is empty says why, in the words of the error. The rows are in `sources.py`; one source alone is run with
`-k`, and replaces its own rows of the table.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from packager import build, plugins, resolve
from packager import recipe as recipes
from packager.errors import PackagerError
from packager.events import Event
from packager.files import locked
from packager.memo import Memo
from packager.run import Runner
from packager.sandbox import default_limits
from packager.store import Store
from tests.e2e.conftest import tool
from tests.matrix.sources import ABSENT, SOURCES, Source, Target, targets

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("matrix")]

DOCS = Path(__file__).parents[2] / "docs"
RECORD = DOCS / "measurements" / "sources-and-targets.json"
PAGE = DOCS / "sources-and-targets.md"
EXPECTED = {  # rows that must be there, not merely explained
    f"{source.title} / onnxruntime cpu fp32" for source in SOURCES
}


def built(source: Source, target: Target, model: Path, root: Path) -> tuple[build.Built, dict[str, Any]]:
    """Lock and build in a directory and a store of its own."""
    folder = root / "project"
    if not folder.exists():
        shutil.copytree(model, folder / "model")
    text = f"name: m\nversion: 1.0.0\nsource: ./model\n{source.recipe}{target.recipe()}"
    parsed = recipes.parse(text, "bundle.yaml", plugins.names("runtimes"))
    store = Store(root / "store")
    events: list[Event] = []
    limits = default_limits()
    runner = Runner(store, limits, events.append)
    here = resolve.Surroundings(folder, None, dict(os.environ))
    memo = Memo(store.root / "memo")
    started = time.monotonic()
    lock = resolve.resolve(parsed, runner, here, memo)
    made = build.build(parsed, lock, runner, here, memo)
    return made, {"kind": lock.kind, "seconds": time.monotonic() - started}


def row(source: Source, target: Target, model: Path, roots: tuple[Path, Path]) -> dict[str, Any]:
    """Return one line of the table: what was measured, or why there is nothing."""
    found: dict[str, Any] = {"source": source.title, "model": source.model, "target": target.title}
    try:
        first, about = built(source, target, model, roots[0])
        found |= about
        found |= parity(first)
        if first.bundle is None:
            return found | {"reason": first.verdict.findings[0].message}
        second, _ = built(source, target, model, roots[1])
    except PackagerError as error:
        return found | {"reason": re.sub(r"/\S*/", "…/", error.message)}  # without places of this machine
    assert second.bundle is not None
    place = first.bundle.targets[next(iter(first.bundle.targets))]["path"]
    folder = place.rpartition("/")[0]
    size = sum(blob.size for path, blob in first.bundle.tree.files if path.startswith(f"{folder}/"))
    return found | {"size": size, "same": first.bundle.digest == second.bundle.digest}


def parity(made: build.Built) -> dict[str, float | int]:
    outputs = [output for target in made.facts["targets"].values() for case in target["cases"]
               for output in case["outputs"].values()]  # fmt: skip
    relative = [float(item["max_rel"]) for item in outputs if "max_rel" in item and item["max_rel"] != "inf"]
    return {
        "cases": max(len(target["cases"]) for target in made.facts["targets"].values()),
        "max_abs": max((item["max_abs"] for item in outputs if "max_abs" in item), default=0.0),
        "max_rel": max(relative, default=0.0),
        "unequal": sum(item.get("unequal", 0) for item in outputs),
    }


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.title)
def test_a_source_on_every_target(source: Source, tmp_path: Path) -> None:
    tool("bwrap")
    model = tmp_path / "made"
    source.make(model)
    shared = environments()
    roots = (tmp_path / "first", tmp_path / "another" / "place")
    for root in roots:  # the locked environments are the same; building them again would prove nothing
        (root / "store" / "v1").mkdir(parents=True)
        (root / "store" / "v1" / "environments").symlink_to(shared)
    rows = [row(source, target, model, roots) for target in targets()]
    keep(source, rows)
    for item in rows:
        print(item)
        assert item.get("same", True), item
        if f"{item['source']} / {item['target']}" in EXPECTED:
            assert "reason" not in item, item["reason"]


def environments() -> Path:
    from tests.environments import CACHE

    (CACHE / "environments").mkdir(parents=True, exist_ok=True)
    return CACHE / "environments"


def keep(source: Source, rows: list[dict[str, Any]]) -> None:
    """Replace the rows of a source in the record, and write the page anew."""
    with locked(environments() / "table.lock"):
        _keep(source, rows)


def _keep(source: Source, rows: list[dict[str, Any]]) -> None:
    known = json.loads(RECORD.read_text()) if RECORD.exists() else []
    order = [item.title for item in SOURCES]
    merged = [item for item in known if item["source"] != source.title and item["source"] in order] + rows
    merged.sort(key=lambda item: (order.index(item["source"]), item["target"]))
    RECORD.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(merged))


def page(rows: list[dict[str, Any]]) -> str:
    head = (
        "# Sources and targets\n\n"
        "Written by `pytest tests/matrix`; every row was built twice, from two directories and into two stores.\n"
        "*Same* says that both gave one manifest digest. *abs* and *rel* are the largest differences between the source,\n"
        "run by its own library, and the artefact, over all cases and outputs; *labels* counts unequal elements of outputs\n"
        "that are compared exactly. Sizes are those of the artefact. Seconds are wall time of lock and first build on\n"
        "two shared cores, what another target of the same source had already exported not counted: an upper bound.\n\n"
        "| source | exporter | model | target | size | cases | abs | rel | labels | same | s |\n"
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |\n"
    )
    lines = [line(item) for item in rows]
    known = {item["source"] for item in rows}
    lines += [
        f"| {item.title} | – | {item.model} | – | | | | | | | *not run yet* |"
        for item in SOURCES
        if item.title not in known
    ]
    present = plugins.names("sources")
    for name, title in ABSENT.items():
        reason = (
            "has no row in `tests/matrix/sources.py` yet" if name in present else f"there is no source `{name}` yet"
        )
        lines.append(f"| {title} | – | – | – | | | | | | | *{reason}* |")
    return head + "\n".join(lines) + "\n"


def line(item: dict[str, Any]) -> str:
    start = f"| {item['source']} | {item.get('kind', '–')} | {item['model']} | {item['target']} "
    if "reason" in item:
        return f"{start}| | | | | | | *{item['reason'].replace('|', '/')}* |"
    size = f"{item['size'] / 1e6:.2f} MB"
    same = "yes" if item["same"] else "**no**"
    numbers = f"{item['cases']} | {item['max_abs']:.1e} | {item['max_rel']:.1e} | {item['unequal']}"
    return f"{start}| {size} | {numbers} | {same} | {item['seconds']:.0f} |"
