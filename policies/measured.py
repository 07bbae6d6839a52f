# SPDX-License-Identifier: Apache-2.0
"""The build must have measured every target.

A host without a GPU can build artefacts for one, but not run them. `parity` reports that as a warning; this rule makes
it an error, for profiles that release only measured artefacts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("targets",)


def check(facts: Mapping[str, JSON]) -> Iterator[Finding]:
    """Yield one finding for each target that was not measured."""
    for name, target in facts["targets"].items():
        if target["unmeasured"] is not None:
            yield Finding(
                "measured",
                "error",
                name,
                f"target `{name}` was not measured: {target['unmeasured']}",
                "build on a host that can run it, or choose a profile without the rule `measured`",
            )
