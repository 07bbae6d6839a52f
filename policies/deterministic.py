# SPDX-License-Identifier: Apache-2.0
"""The graph must give the same answer twice.

Operators that draw random numbers at run time (`RandomNormalLike`, `Multinomial`, …) make every reference vector and
every conformance result meaningless. Dropout that was left in training mode is the usual cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

FACTS = ("nondeterministic",)


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield one finding for each random operator in the graph."""
    for operator in facts["nondeterministic"]:
        yield Finding(
            "deterministic",
            "error",
            operator,
            f"the graph draws random numbers at run time through `{operator}`",
            "export the model in evaluation mode, or pass the noise in as an input",
        )
