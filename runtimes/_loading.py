# SPDX-License-Identifier: Apache-2.0
"""Measure a runtime that reads ONNX graphs as they are and refuses what it lacks: by loading graphs of one node.

For the ONNX Runtime family, whose members compute what they load as their tests say. `_answers.py` is for runtimes
whose answers have to be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from packager.runtimes import _kernels, _probes
from packager.runtimes._probes import Probe
from packager.runtimes._trials import Trial

from packager.canonical import JSON
from packager.errors import StepError

Run = Callable[[Sequence[Trial]], list[str]]
"""Load, run and compare graphs in the runtime under test; returns what it said of each."""


def measure_loading(run: Run) -> tuple[JSON, _kernels.Kernels]:
    """Return the limits of a runtime (`opset`, `ir`), and what each probe did. Raises StepError if it loads nothing."""
    limits = find_limits(run)
    found = [
        probe for probe in _probes.list_probes() if probe.opset <= limits["opset"].get(probe.domain or "ai.onnx", 0)
    ]
    reported = _attempts(run, found)
    return limits, {probe.words: outcome(text) for probe, text in zip(found, reported, strict=True)}


def outcome(reported: str) -> str:
    """Classify what the runtime said: the graph loads, it `lacks` the kernel, it `fails` in another way, or the answer

    is `unclear`, as it depends on the host: StringNormalizer wants the locale en_US.UTF-8, which is rare in containers.
    """
    if reported == "ok":
        return "ok"
    if "construct locale" in reported:
        return "unclear"
    return "lacks" if "NOT_IMPLEMENTED" in reported or "Could not find an implementation" in reported else "fails"


def find_limits(run: Run) -> JSON:
    """Return the newest opsets and the newest IR version that load. Raises StepError where none does."""
    gates = _probes.make_gate_graphs()
    reported = dict(zip(gates, run([Trial(data) for data in gates.values()]), strict=True))
    newest = {key: [v for (k, v), text in reported.items() if k == key and text == "ok"] for key, _ in gates}
    if not newest["ai.onnx"] or not newest["ir"]:
        raise StepError(
            f"the runtime loads nothing: {next(iter(reported.values()))}", hint="is it installed completely?"
        )
    return {
        "opset": {key: max(newest[key]) for key in ("ai.onnx", "ai.onnx.ml") if newest[key]},
        "ir": max(newest["ir"]),
    }


def _attempts(run: Run, found: Sequence[Probe]) -> list[str]:
    """Try every probe; one that fails may be fed wrongly, so it is tried again in other ways."""
    reported = [""] * len(found)
    waiting = list(range(len(found)))
    for optional, rank in _probes.VARIANTS:
        graphs = [Trial(_probes.serialise_graph(found[index], optional=optional, rank=rank)) for index in waiting]
        for index, text in zip(waiting, run(graphs), strict=True):
            reported[index] = text if text == "ok" or not reported[index] else reported[index]
        waiting = [index for index in waiting if outcome(reported[index]) == "fails"]
    return reported
