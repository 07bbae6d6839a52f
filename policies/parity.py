# SPDX-License-Identifier: Apache-2.0
"""The artefact must compute what the source computes.

For every target, measured case and output: `|got - expected| <= atol + rtol * |expected|`, element by element. Integers
and texts must be equal; NaN and infinities must be at the same positions as in the source; shapes and types must agree.
A different label is a tie, and passes, where the source's scores of both labels differ by no more than the tolerance. A
target without a measured case is an error: not measured is not a pass. It is a warning only where the host cannot run
the target at all, with the reason in the facts; the rule `measured` refuses that as well.

The measurement keeps the Pareto frontier of differences, so this verdict is exact for any tolerance, and changing a
tolerance needs no new measurement. There is one finding per target and output: the worst element of the worst case. A
wider tolerance is proposed only where the differences look like rounding; otherwise the finding names the kind of
difference.

For a source that is run by the runtime which also serves it (an ONNX file), the reference is that runtime with its
default optimisations. Where optimisation alone changes an output by more than its tolerance, a note says by how much;
where the same runtime serves the artefact in the same precision, a difference up to that amount passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.edits import Edit, write_flow
from packager.types import Finding

VERSION = 1
FACTS = ("targets",)
_ENGINE, _SAME = "onnxruntime", ("fp32", "fp32_optimised")
_ROUNDING = "the differences look like rounding: if they are acceptable, state a wider `tolerance` in the recipe"
_OTHER = "this is not rounding, so a wider tolerance does not help; the verdict keeps the row that shows it"


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield a finding for each output of each case that is out of tolerance."""
    targets = facts["targets"]
    if not targets:
        yield Finding("parity", "error", "targets", "no target was measured")
    for name, target in targets.items():
        if target["unmeasured"] is not None:
            message = f"target `{name}` was not measured here: {target['unmeasured']}"
            yield Finding("parity", "warning", name, message, "run `packager conform` on a host that can run it")
        elif not target["cases"]:
            yield Finding("parity", "error", name, f"target `{name}` was not measured on any case")
        yield from _optimisation_notes(name, target)
        for output in target["tolerance"]:
            yield from _check_output(name, output, target)


def _check_output(name: str, output: str, target: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield one finding for an output that is out of tolerance: its worst case, and the number of other cases."""
    wrong = []
    for case in target["cases"]:
        if measured := case["outputs"].get(output):
            problem = _problem(measured, target["tolerance"][output], _allowance(measured, target))
            wrong += [(_severity(measured), case["name"], measured, problem)] if problem else []
    if not wrong:
        return
    _, case_name, measured, problem = max(wrong, key=lambda found: found[0])
    others = f" (and in {len(wrong) - 1} more of {len(target['cases'])} cases)" if len(wrong) > 1 else ""
    kind = target.get("kinds", {}).get(output) or {}
    words = f"; it {kind['words']}" if kind.get("words") else ""
    hint, wider = _hint(output, measured, kind, target)
    message = f"target `{name}`, case `{case_name}`, output `{output}`: {problem}{words}{others}"
    edits = (Edit(("tolerance", output), wider, consents="rounding" not in kind),) if wider else ()
    yield Finding("parity", "error", f"{name}/{output}", message, hint, edits=edits)


def _severity(measured: Mapping[str, JSON]) -> float:
    """Order problems: other shapes and labels first, then by the largest difference."""
    if "frontier" not in measured or measured.get("not_finite"):
        return float("inf")
    return max((float(point["difference"]) for point in measured["frontier"]), default=0.0)


def _allowance(measured: Mapping[str, JSON], target: Mapping[str, JSON]) -> float:
    """Return by how much optimisation alone changes an output, where the same runtime optimises the artefact."""
    same = target.get("engine") == _ENGINE and target["precision"] in _SAME
    return float(measured.get("moved", 0.0)) if same else 0.0


def _optimisation_notes(name: str, target: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield a note for each output that optimisation changes by more than its tolerance, at the worst case."""
    worst: dict[str, tuple[float, int, str]] = {}
    for case in target["cases"]:
        for output, measured in case["outputs"].items():
            found = (measured.get("moved", 0.0), measured.get("flipped", 0), case["name"])
            worst[output] = max(worst.get(output, (0.0, 0, "")), found)
    for output, (moved, flipped, case_name) in worst.items():
        if moved > target["tolerance"][output]["atol"] or flipped:
            how = f"{flipped} elements" if flipped and not moved else f"by up to {moved:.2g}"
            message = f"optimisation by {_ENGINE} changes output `{output}` {how} (case `{case_name}`)"
            hint = "nothing to do: the reference is the model with the runtime's default optimisations"
            yield Finding("parity", "note", f"{name}/{output}", f"target `{name}`: {message}", hint)


def _hint(
    output: str, measured: Mapping[str, JSON], kind: Mapping[str, JSON], target: Mapping[str, JSON]
) -> tuple[str, JSON]:
    """Return the remedy, and the tolerance to propose, which exists only for rounding."""
    if not _looks_like_rounding(measured, kind, target["precision"]):
        return _OTHER, None
    if "rounding" not in kind:
        return _ROUNDING, _wide(max(_differences(output, target)), output, target)
    wider = _wide(max(kind["rounding"], *_differences(output, target)), output, target)
    by = f"optimisation by {_ENGINE} alone" if "moved" in measured else "float32 arithmetic alone"
    return (
        f"the model amplifies rounding: {by} changes this row by {kind['rounding']:.1g};"
        f" if that is acceptable, state `tolerance: {write_flow({output: wider})}` in the recipe"
    ), wider


def _differences(output: str, target: Mapping[str, JSON]) -> list[float]:
    """Return every recorded difference of an output, so that a proposed tolerance holds in all cases."""
    records = [case["outputs"].get(output) or {} for case in target["cases"]]
    return [float(point["difference"]) for record in records for point in record.get("frontier", ())]


def _wide(difference: float, output: str, target: Mapping[str, JSON]) -> JSON:
    return {"atol": float(f"{2 * difference:.0e}"), "rtol": target["tolerance"][output]["rtol"]}


def _looks_like_rounding(measured: Mapping[str, JSON], kind: Mapping[str, JSON], precision: str) -> bool:
    """Return whether a wider tolerance may be the remedy: small differences, or a precision that rounds more."""
    if not measured.get("frontier") or measured.get("not_finite") or kind.get("words"):
        return False
    return not kind or "rounding" in kind or precision != "fp32"


def _problem(measured: Mapping[str, JSON], tolerance: Mapping[str, float], allowance: float) -> str | None:
    """Describe what is wrong with one compared output, or return None."""
    if "got" in measured:
        other = measured["got"]
        return f"expected {measured['dtype']}{measured['shape']}, got {other['dtype']}{other['shape']}"
    if "unequal" in measured:
        return _other_labels(measured, tolerance)
    if measured["not_finite"]:
        return f"NaN or infinity in {measured['not_finite']} places; {_at(measured.get('first_not_finite'))}"
    return _worst(measured["frontier"], tolerance["atol"] + allowance, tolerance["rtol"])


def _other_labels(measured: Mapping[str, JSON], tolerance: Mapping[str, float]) -> str | None:
    """Describe differing elements, or return None where all of them are ties in the source."""
    tie = measured.get("largest_gap", float("inf")) <= tolerance["atol"] + tolerance["rtol"]
    if not measured["unequal"] or tie:
        return None
    return f"{measured['unequal']} elements differ; {_at(measured.get('first_unequal'))}"


def _worst(frontier: list[Mapping[str, JSON]], atol: float, rtol: float) -> str | None:
    """Describe the element furthest out of tolerance; the frontier always contains it."""

    def excess(point: Mapping[str, JSON]) -> float:
        return float(point["difference"] - (atol + rtol * point["magnitude"]))

    worst = max(frontier, key=excess, default=None)
    if worst is None or excess(worst) <= 0:
        return None
    allowed = atol + rtol * worst["magnitude"]
    return f"off by {worst['difference']:.3g} where {allowed:.3g} is allowed; {_at(worst)}"


def _at(element: Mapping[str, JSON] | None) -> str:
    if element is None:
        return "the measurement names no element"
    return f"worst element {element['index']}: expected {element['expected']}, got {element['got']}"
