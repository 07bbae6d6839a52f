# SPDX-License-Identifier: Apache-2.0
"""Export a source that generates text: one graph with a key-value cache, and the files that make text of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from packager import exporters
from packager.canonical import JSON
from packager.graph import canonicalise, needs
from packager.server.generation.settings import MAX_RANK
from packager.steps import _answers
from packager.types import check_path

VERSION = 1  # 1: first form
ANSWER = _answers.EXPORT_GENERATION
_ROWS = 2  # rows of a batch that the build runs


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write `model/model.onnx`, its weights and `generation/…`; return the interface and what the graph needs.

    Of an encoder-decoder the encoder is in `model/encoder`, and what is needed is what both need. The lengths are
    those of a context; how much of it a build ran is said by the measurement.
    """
    source = exporters.generative(
        params["kind"], inputs["source"], params["payload"], params.get("task"), adapters=params.get("adapters", ())
    )
    for path, data in source.files().items():
        file = out / check_path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    taken, given = source.ports
    about = source.about()
    lengths = {"batch": (1, _ROWS), **dict.fromkeys(("sequence", "past", "total"), (1, about["context"]))}
    lengths |= {"source": (1, about["decoding"]["source"])} if "decoding" in about else {}
    needed, random = [], []
    for folder, graph in source.graphs(params["opset"]).items():
        model = canonicalise.canonicalise(graph, opset=params["opset"], ir=params["ir"])
        canonicalise.write(
            model, out / check_path(folder), shard_bytes=params.get("shard_bytes", canonicalise.SHARD_BYTES)
        )
        needed.append({**canonicalise.list_facts(model), **needs.list_needs(model, lengths)})
        random += canonicalise.find_nondeterministic(model)
    del source
    lengths |= {"rank": (1, MAX_RANK)} if about.get("adapters") else {}
    used = {axis for port in (*taken, *given) for axis in port.shape if isinstance(axis, str)}
    return {
        "interface": {
            "inputs": [port.to_json() for port in taken],
            "outputs": [port.to_json() for port in given],
            "dimensions": {name: _dimension(name, span) for name, span in lengths.items() if name in used},
        },
        "ranges": {port.name: list(port.range) for port in taken if port.range},
        "graph": _together(needed),
        "nondeterministic": sorted(set(random)),
        "generation": about,
    }


def _dimension(name: str, span: tuple[int, int]) -> JSON:
    low, high = span
    return {"min": low, "max": high, **({"limit": {"min": 1}} if name == "batch" else {})}


def _together(graphs: Sequence[JSON]) -> JSON:
    """Return what several graphs need: the newest versions, all operators, and the sums of their sizes."""
    first, *others = graphs
    found = dict(first)
    for other in others:
        opsets = {**other["opset"], **found["opset"]}
        found["opset"] = {name: max(g["opset"].get(name, 0) for g in (found, other)) for name in sorted(opsets)}
        found["ir"] = max(found["ir"], other["ir"])
        for name in ("parameters", "bytes"):
            found[name] += other[name]
        found["operators"] = _merged(found["operators"], other["operators"])
        sizes = (found["activations"], other["activations"])
        found["activations"] = {name: max(size[name] for size in sizes) for name in sizes[0]}
    return found


def _merged(left: JSON, right: JSON) -> JSON:
    if isinstance(left, list):
        return sorted({*left, *right})
    return {
        name: _merged(left[name], right[name]) if name in left and name in right else left.get(name, right.get(name))
        for name in sorted({*left, *right})
    }
