# SPDX-License-Identifier: Apache-2.0
"""The artefact must compute what the source computes.

For every target, every measured case and every output: `|got - expected| <= atol + rtol * |expected|`, element by
element. Integers and texts must be equal; NaN and infinities must stand exactly where the source has them; shapes and
types must agree. A target without a measured case is a finding: not measured is not a pass. Only where the host could
not run a target at all, which the facts then give the reason of, is it a warning; the rule `measured` refuses that too.

The measurement keeps the Pareto frontier of differences, so this verdict is exact for any tolerance, and changing a
tolerance measures nothing again. One finding is given per target, case and output: its worst element.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

FACTS = ("targets",)
_HINT = "find where the artefact departs from the source, or state a wider `tolerance` in the recipe"


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield a finding for each output of each case that is out of tolerance."""
    targets = facts["targets"]
    if not targets:
        yield Finding("parity", "error", "targets", "no target was measured")
    for name, target in targets.items():
        if target["unmeasured"] is not None:
            message = f"target `{name}` was not measured here: {target['unmeasured']}"
            yield Finding(
                "parity", "warning", name, message, "prove it where it runs; its reference inputs travel along"
            )
        elif not target["cases"]:
            yield Finding("parity", "error", name, f"target `{name}` was not measured on any case")
        for case in target["cases"]:
            for output, measured in case["outputs"].items():
                problem = _problem(measured, target["tolerance"][output])
                if problem:
                    message = f"target `{name}`, case `{case['name']}`, output `{output}`: {problem}"
                    yield Finding("parity", "error", f"{name}/{output}", message, _HINT)


def _problem(measured: Mapping[str, JSON], tolerance: Mapping[str, float]) -> str | None:
    """Say what is wrong with one compared output, or None."""
    if "got" in measured:
        other = measured["got"]
        return f"expected {measured['dtype']}{measured['shape']}, got {other['dtype']}{other['shape']}"
    if "unequal" in measured:
        return (
            f"{measured['unequal']} elements differ; {_at(measured['first_unequal'])}" if measured["unequal"] else None
        )
    if measured["not_finite"]:
        return f"NaN or infinity in {measured['not_finite']} places; {_at(measured['first_not_finite'])}"
    return _worst(measured["frontier"], tolerance["atol"], tolerance["rtol"])


def _worst(frontier: list[Mapping[str, JSON]], atol: float, rtol: float) -> str | None:
    """Describe the element furthest out of tolerance; the frontier is known to hold it."""

    def excess(point: Mapping[str, JSON]) -> float:
        return float(point["difference"] - (atol + rtol * point["magnitude"]))

    worst = max(frontier, key=excess, default=None)
    if worst is None or excess(worst) <= 0:
        return None
    allowed = atol + rtol * worst["magnitude"]
    return f"off by {worst['difference']:.3g} where {allowed:.3g} is allowed; {_at(worst)}"


def _at(element: Mapping[str, JSON]) -> str:
    return f"worst element {element['index']}: expected {element['expected']}, got {element['got']}"
