# SPDX-License-Identifier: Apache-2.0
"""What a recipe promises must have been measured to its end.

A dimension under `dynamic` is a promise. Where its largest length makes inputs too large to run while building, the
measurement stops earlier and says where; the rest of the promise is then a belief.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

FACTS = ("targets",)


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield one finding for each target and dimension whose promised maximum was not run."""
    for name, target in facts["targets"].items():
        for dimension, reached in target["shortened"].items():
            yield Finding(
                "coverage",
                "error",
                f"{name}/{dimension}",
                f"target `{name}` was measured up to {dimension}={reached} only, which is less than is promised",
                f"promise what was measured (`dynamic: {{{dimension}: [1, {reached}]}}`), or waive this finding",
            )
