# SPDX-License-Identifier: Apache-2.0
"""Every target must reach the bounds of the recipe's `evaluation` on data with labels.

`bound` is judged over all rows, `slice-bound` on every slice with at least `rows` rows; fewer say little. There is one
finding per target over all rows and one for its worst slice. With `required`, a measured target of a recipe without
`evaluation` is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("targets",)
DEFAULTS: Mapping[str, JSON] = {"required": False, "rows": 30}
_ERRORS = ("rmse", "mae", "wer", "cer")  # of which less is better


def check(facts: Mapping[str, JSON], required: bool, rows: int) -> Iterator[Finding]:
    """Yield a finding for each target below its bound, and for its worst slice below theirs."""
    for name, target in facts["targets"].items():
        found = target.get("evaluation")
        if found is not None:
            yield from _check_all(name, found)
            yield from _check_slices(name, found, rows)
        elif required and target["unmeasured"] is None:
            message = f"target `{name}` was not measured on data with labels"
            yield Finding("evaluation", "error", name, message, "add `evaluation` to the recipe")


def _check_all(name: str, found: Mapping[str, JSON]) -> Iterator[Finding]:
    if _misses(found, found, found["bound"]):
        message = f"target `{name}`: {_said(found, found, found['bound'])} over {found['rows']} rows"
        yield Finding("evaluation", "error", name, message, _hint(found, found, found["bound"]))


def _check_slices(name: str, found: Mapping[str, JSON], rows: int) -> Iterator[Finding]:
    bound = found.get("slice-bound")
    if bound is None:
        return
    wrong = [item for item in found["slices"] if item["rows"] >= rows and _misses(found, item, bound)]
    if wrong:
        worst = max(wrong, key=lambda item: _distance(found, item, bound))
        others = f", and {len(wrong) - 1} more slices are beyond it" if len(wrong) > 1 else ""
        place = f"slice `{worst['column']}` = `{worst['value']}`"
        message = f"target `{name}`, {place}: {_said(found, worst, bound)} over {worst['rows']} rows{others}"
        yield Finding(
            "evaluation", "error", f"{name}/{worst['column']}={worst['value']}", message, _hint(found, worst, bound)
        )


def _misses(found: Mapping[str, JSON], item: Mapping[str, JSON], bound: float) -> bool:
    return item["target"] is not None and _distance(found, item, bound) > 0


def _distance(found: Mapping[str, JSON], item: Mapping[str, JSON], bound: float) -> float:
    """Return how far a target is beyond a bound; not above 0 where it keeps it."""
    gap = float(item["target"]) - float(bound)
    return gap if found["metric"] in _ERRORS else -gap


def _said(found: Mapping[str, JSON], item: Mapping[str, JSON], bound: float) -> str:
    limit = "at most" if found["metric"] in _ERRORS else "at least"
    source = "undefined" if item["source"] is None else f"{item['source']:.4g}"
    return f"{found['metric']} is {item['target']:.4g} where {limit} {bound:g} is required, and {source} in the source"


def _hint(found: Mapping[str, JSON], item: Mapping[str, JSON], bound: float) -> str:
    source = {**item, "target": item["source"]}
    if _misses(found, source, bound):
        return "the source does not reach it either: train it further, or state what it reaches as the bound"
    return "the target loses it: calibrate on data like these, or leave its precision out of `runs-on`"
