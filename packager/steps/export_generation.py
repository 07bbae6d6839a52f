# SPDX-License-Identifier: Apache-2.0
"""Export a source that generates text: one graph with a key-value cache, and the files that make text of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packager import exporters
from packager.canonical import JSON
from packager.graph import canonicalise, needs
from packager.steps import _answers
from packager.types import check_path

VERSION = 1  # 1: first form
ANSWER = _answers.EXPORT_GENERATION
_ROWS = 2  # rows of a batch that the build runs


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write `model/model.onnx`, its weights and `generation/…`; return the interface and what the graph needs.

    The lengths are those of a context; how much of it a build ran is said by the measurement.
    """
    source = exporters.generative(params["kind"], inputs["source"], params["payload"])
    for path, data in source.files().items():
        file = out / check_path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    taken, given = source.ports
    about = source.about()
    model = canonicalise.canonicalise(source.to_onnx(params["opset"]), opset=params["opset"], ir=params["ir"])
    del source
    canonicalise.write(model, out / "model", shard_bytes=params.get("shard_bytes", canonicalise.SHARD_BYTES))
    lengths = {"batch": (1, _ROWS), **dict.fromkeys(("sequence", "past", "total"), (1, about["context"]))}
    return {
        "interface": {
            "inputs": [port.to_json() for port in taken],
            "outputs": [port.to_json() for port in given],
            "dimensions": {name: _dimension(name, span) for name, span in lengths.items()},
        },
        "ranges": {port.name: list(port.range) for port in taken if port.range},
        "graph": {**canonicalise.facts(model), **needs.needs(model, lengths)},
        "nondeterministic": canonicalise.nondeterministic(model),
        "generation": about,
    }


def _dimension(name: str, span: tuple[int, int]) -> JSON:
    low, high = span
    return {"min": low, "max": high, **({"limit": {"min": 1}} if name == "batch" else {})}
