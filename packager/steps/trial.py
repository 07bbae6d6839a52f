# SPDX-License-Identifier: Apache-2.0
"""Trial: import every tool of an environment, and take one small model of the family through export and measurement.

Versions that fit together by their metadata need not work together; that is found here, while locking, and not when a
model is built.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from packager import error_causes, exporters, plugins
from packager.canonical import JSON
from packager.errors import PackagerError, StepError
from packager.exporters import _toys
from packager.steps import _answers

VERSION = 1  # 1: first form
ANSWER = _answers.TRIAL
_RUNTIME = "onnxruntime"
_FAR = 1e-3  # no rounding of a toy's few sums is as large


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Return which tools were imported, and how far the toy's answers differ. Raises StepError with the cause."""
    try:
        modules = sorted(_modules(params["tools"]))
        for name in modules:
            importlib.import_module(name)
        return {"imported": modules, "max_abs": _difference(out, params)}
    except PackagerError:
        raise
    except Exception as error:  # whatever breaks between releases that were never tried together
        raise StepError(error_causes.find_cause(error)) from error


def _modules(tools: Collection[str]) -> Iterator[str]:
    """Yield the modules of distributions."""
    for module, owners in importlib.metadata.packages_distributions().items():
        ours = {_plain(owner) for owner in owners} & set(tools)
        if ours and not module.startswith("_") and importlib.util.find_spec(module):  # some list what is no module
            yield module


def _plain(distribution: str) -> str:
    return distribution.lower().replace("_", "-").removesuffix("-cpu")


def _difference(out: Path, params: Mapping[str, JSON]) -> float | None:
    toy = _toys.toy_writer(params["kind"])
    if toy is None:
        return None
    write, options = toy
    source, graph, vectors = (out / name for name in ("source", "graph", "vectors"))
    for folder in (source, graph, vectors):
        folder.mkdir()
    write(source)
    paths = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
    payload = exporters.exporter(params["kind"]).detect(paths, lambda path: (source / path).read_bytes())
    wanted = {**params, **options, "payload": payload}
    facts = plugins.load("steps", "export").run({"source": source}, graph, wanted)
    wanted |= {
        "runtime": _RUNTIME,
        "path": "model/model.onnx",
        "interface": facts["interface"],
        "ranges": facts["ranges"],
        "values": facts.get("values"),
    }
    cases = plugins.load("steps", "measure").run({"source": source, "artefact": graph}, vectors, wanted)["cases"]
    return _judged([output for case in cases for output in case["outputs"].values()])


def _judged(outputs: list[JSON]) -> float:
    worst = max((float(item.get("max_abs", 0.0)) for item in outputs), default=0.0)
    if worst > _FAR or any(item.get("unequal") or "got" in item for item in outputs):
        raise StepError(f"a small model of this kind comes out wrong by {worst:.1g}")
    return worst
