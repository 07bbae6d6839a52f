# SPDX-License-Identifier: Apache-2.0
"""The build must have measured everything that the recipe promises.

A dimension under `dynamic` is a promise. Where its largest length makes inputs too large to run during the build, the
measurement stops at a smaller length and records it; the rest of the promise is unproven. `least` is the share of the
model's `columns`, `categories`, `classes` and `leaves` that the cases must exercise, where a source can count them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.edits import Edit, write_flow
from packager.types import Finding

VERSION = 1
FACTS = ("targets",)
DEFAULTS: Mapping[str, JSON] = {"least": {"columns": 0.5, "categories": 0.5, "leaves": 0.5}}


def check(facts: Mapping[str, JSON], least: Mapping[str, float]) -> Iterator[Finding]:
    """Yield a finding for each dimension not run to its promised maximum, and each part exercised too little."""
    for name, target in facts["targets"].items():
        yield from _check_shares(name, target.get("coverage", {}), least)
        measured = {dimension: [_low(target, dimension), most] for dimension, most in target["shortened"].items()}
        for dimension, (_, reached) in measured.items():
            yield Finding(
                "coverage",
                "error",
                f"{name}/{dimension}",
                f"target `{name}` was measured only up to {dimension}={reached}, less than the recipe promises",
                f"promise what was measured (`dynamic: {write_flow(measured)}`), or waive this finding",
                edits=(Edit(("dynamic", dimension), measured[dimension]),),
            )


def _low(target: Mapping[str, JSON], dimension: str) -> int:
    return int(target.get("dimensions", {}).get(dimension, {}).get("min", 1))


def _check_shares(name: str, coverage: Mapping[str, JSON], least: Mapping[str, float]) -> Iterator[Finding]:
    for what, share in least.items():
        count = coverage.get(what)
        if count and count["reached"] < share * count["of"]:
            message = f"target `{name}`: the cases reach {count['reached']} of {count['of']} {what} of the model"
            hint = "name rows of real data under `samples`, or lower `least` of the rule"
            yield Finding("coverage", "error", f"{name}/{what}", message, hint)
