# SPDX-License-Identifier: Apache-2.0
"""No locked package may be one that its publisher had withdrawn (yanked) when it was locked.

An exact version still installs then, and the index says why nobody should choose it. `except` lists pins
(`numpy==2.4.0`) that somebody looked at. What is withdrawn after the lock shows at the next `packager lock`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

FACTS = ("components",)
DEFAULTS: Mapping[str, JSON] = {"except": []}
_HINT = "lock another version (`dependencies` in the recipe, or the range in `runs-on`)"


def check(facts: Mapping[str, JSON], **params: JSON) -> Iterator[Finding]:
    """Yield a finding for each withdrawn package, with its publisher's reason."""
    for item in facts["components"]:
        subject = f"{item['name']}=={item['version']}"
        if (reason := item.get("yanked")) is not None and subject not in params["except"]:
            yield Finding("yanked", "error", subject, f"`{subject}` was withdrawn by its publisher: {reason}", _HINT)
