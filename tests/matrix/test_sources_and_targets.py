# SPDX-License-Identifier: Apache-2.0
"""Every source on every target, built twice from two directories; the table is kept in `docs/reference/sources-and-targets.md`.

Each target is built alone first, so that an empty cell says why, in the words of the error. Those that work are then
built as one bundle, here and in another directory and store. The rows are in `sources.py`; one source alone is run
with `-k`, some targets alone with `MATRIX_TARGETS="onnxruntime cpu fp32,openvino cpu fp32"`; what was run replaces its
own lines of the table (`table.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager import plugins
from packager.actions.runner import Runner
from packager.build import build
from packager.bundle.bundle import Bundle
from packager.errors import PackagerError
from packager.lock import locking
from packager.lock.build_context import BuildContext
from packager.recipe import recipe as recipes
from packager.sandbox.sandbox import default_limits
from packager.store.file_digests import Memo
from packager.store.store import Store
from packager.transport.registry import wire
from packager.types import Tree
from tests.e2e.conftest import tool
from tests.matrix import places, table
from tests.matrix.sources import SOURCES, TARGETS, Source, Target, recipe
from tests.support.environments import CACHE

pytestmark = pytest.mark.slow

CHOSEN = [target for target in TARGETS if target.title in os.environ.get("MATRIX_TARGETS", target.title).split(",")]
EXPECTED = "onnxruntime cpu fp32"  # must be there for every source, not merely explained


@dataclass(frozen=True)
class Bench:
    """One directory with recipes and one store: what a build must not depend on."""

    source: Source
    found: str
    folder: Path
    store: Path

    def built(self, *targets: Target) -> tuple[build.Built, dict[str, Any]]:
        text = recipe(self.source, self.found, targets)
        parsed = recipes.parse(text, "bundle.yaml", plugins.list_names("runtimes"))
        store = Store(self.store)
        runner, memo = Runner(store, default_limits()), Memo(store.root / "memo")
        here = BuildContext(self.folder, None, dict(os.environ), wire.Settings)
        started = time.monotonic()
        lock = locking.resolve(parsed, runner, here, memo)
        collect(store)
        made = build.build(parsed, lock, runner, here, memo)
        return made, {"kind": lock.kind, "seconds": time.monotonic() - started}


def bench(source: Source, found: str, model: Path, root: Path) -> Bench:
    """Prepare a place. The locked environments are the same everywhere; building them again would prove nothing."""
    made = Bench(source, found, root / "project", root / "store")
    made.folder.mkdir(parents=True)
    if source.at is places.beside:
        shutil.copytree(model, made.folder / "model")
    images = np.random.default_rng(0).random((32, 3, 64, 64), dtype="float32")
    np.savez(made.folder / "images.npz", image=images)
    environments = CACHE / "environments"
    environments.mkdir(parents=True, exist_ok=True)
    (made.store / "v1").mkdir(parents=True)
    (made.store / "v1" / "environments").symlink_to(environments)
    lend(Store(made.store))
    return made


def consented(place: Bench) -> Bench:
    """Return the place with consent to the code of the source, in the words of the refusal."""
    made, _ = place.built(TARGETS[0])
    said = next(found.hint for found in made.verdict.findings if found.rule == "source-code")
    line = re.search(r"allow-code: sha256:[0-9a-f]{64}", said or "")
    assert line, said
    return replace(place, found=f"{place.found}{line[0]}\n")


DESCRIBED = CACHE / "described"


def lend(store: Store) -> None:
    """Put what earlier runs read from wheels' metadata into a new store: the same bytes, without the network."""
    store.put_tree(Tree())
    for record in DESCRIBED.iterdir() if DESCRIBED.is_dir() else ():
        shutil.copyfile(record, store.root / "actions" / record.name)


def collect(store: Store) -> None:
    DESCRIBED.mkdir(exist_ok=True)
    for record in (store.root / "actions").iterdir():
        if not (DESCRIBED / record.name).exists() and json.loads(record.read_bytes())["action"]["step"] == "describe":
            shutil.copyfile(record, DESCRIBED / record.name)


def cell(place: Bench, target: Target) -> dict[str, Any]:
    """Build one target; return what was measured, or why there is nothing."""
    found: dict[str, Any] = {"source": place.source.title, "model": place.source.model, "target": target.title}
    try:
        made, about = place.built(target)
    except PackagerError as error:
        return found | {"reason": without_places(error.message)}
    found |= about | (parity(made) if "targets" in made.facts else {})  # a source that a scanner refuses has none
    if made.bundle is None:
        return found | {"reason": made.verdict.findings[0].message}
    return found | {"size": sum(blob.size for _, blob in artefact(made.bundle, target))}


def without_places(message: str) -> str:
    return re.sub(r"/\S*/", "…/", message)


def artefact(bundle: Bundle, target: Target) -> list[Any]:
    """Return the files of one target in a bundle."""
    path = next(
        stated["path"]
        for stated in bundle.targets.values()
        if (stated["runtime"], stated["device"], stated["precision"])
        == (target.runtime, target.device, target.precision)
    )
    folder = path.rpartition("/")[0]
    return [(name, blob) for name, blob in bundle.tree.files if name.startswith(f"{folder}/")]


def parity(made: build.Built) -> dict[str, Any]:
    (facts,) = made.facts["targets"].values()
    if facts["unmeasured"]:
        return {"unmeasured": facts["unmeasured"]}
    outputs = [output for case in facts["cases"] for output in case["outputs"].values()]
    relative = [float(item["max_rel"]) for item in outputs if "max_rel" in item and item["max_rel"] != "inf"]
    return {
        "cases": len(facts["cases"]),
        "max_abs": max((item["max_abs"] for item in outputs if "max_abs" in item), default=0.0),
        "max_rel": max(relative, default=0.0),
        "unequal": sum(item.get("unequal", 0) for item in outputs),
    }


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.title)
def test_a_source_on_every_target(source: Source, tmp_path: Path) -> None:
    tool("bwrap")
    model = tmp_path / "made"
    source.make(model)
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(source.at(model))
        first = bench(source, found, model, tmp_path / "first")
        first = consented(first) if source.own_code else first
        rows = [cell(first, target) for target in CHOSEN]
        working = [target for target in CHOSEN if any("size" in row for row in rows if row["target"] == target.title)]
        if not working:
            table.keep(rows)
            pytest.fail("\n".join(map(str, rows)))
        one, _ = first.built(*working)
        two, _ = bench(source, first.found, model, tmp_path / "another" / "place").built(*working)
    assert one.bundle and two.bundle
    for row, target in ((row, t) for row in rows for t in working if row["target"] == t.title):
        row["same"] = artefact(one.bundle, target) == artefact(two.bundle, target)
    table.keep(rows)
    for row in rows:
        print(row)
    recorded = {target.title for target in TARGETS if target.runtime == "tensorrt-rtx" or target.precision == "int8"}
    assert all(row.get("same", True) for row in rows if row["target"] not in recorded)
    assert one.bundle.digest == two.bundle.digest or not all(row.get("same", True) for row in rows)
    assert not [row["reason"] for row in rows if row["target"] == EXPECTED and "reason" in row]


def test_every_form_of_source_has_a_row() -> None:
    """A plug-in that reads sources is in the table through one of the places."""
    forms = {
        places.beside: {"directory", "file"},
        places.mlflow: {"mlflow"},
        places.bentoml: {"bentoml"},
        places.bentoml_pickled: {"bentoml"},
        places.bucket: {"fsspec"},
        places.artifact: {"oci"},
        places.hub: {"huggingface"},
    }
    assert set().union(*(forms[source.at] for source in SOURCES)) == set(plugins.list_names("sources"))
