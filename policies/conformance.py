# SPDX-License-Identifier: Apache-2.0
"""Every promised runtime must have passed the conformance suite.

For each promised runtime, trusted signers must have attested passing cells of at least `versions` different versions.
A failed cell is a finding; a skipped cell does not count. `signers` restricts which signers count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("promises", "conformance")
DEFAULTS: Mapping[str, JSON] = {"versions": 1, "signers": []}


def check(facts: Mapping[str, JSON], versions: int, signers: list[str]) -> Iterator[Finding]:
    """Yield a finding for each cell that failed and for each promise with too few passing cells."""
    counted = [item for item in facts["conformance"] if not signers or item["signer"] in signers]
    cells = [cell for item in counted for cell in item["cells"]]
    for cell in cells:
        if cell["outcome"] == "fail":
            name = f"{cell['target']}/{cell['runtime']}=={cell['version']}"
            yield Finding("conformance", "error", name, f"`{name}` failed on {cell['device']}", "see its report")
    for runtime, promised in facts["promises"].items():
        passed = sorted({cell["version"] for cell in cells if cell["runtime"] == runtime and cell["outcome"] == "pass"})
        if len(passed) < max(versions, 1):
            yield Finding(
                "conformance",
                "error",
                runtime,
                f"`{runtime}{promised}` is promised; expected {max(versions, 1)} passing versions, got {len(passed)}",
                "run `packager conform BUNDLE`, then sign and attach its result",
                evidence={"passed": passed},
            )
