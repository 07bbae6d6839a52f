# SPDX-License-Identifier: Apache-2.0
"""No locked package may have been yanked when it was locked.

A yanked version can still be installed by its exact number; the index states why it was yanked. `except` lists reviewed
pins (`numpy==2.4.0`) that are accepted. A version that is yanked later is found by the next `packager lock`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("components",)
DEFAULTS: Mapping[str, JSON] = {"except": []}
_HINT = "lock another version (`dependencies` in the recipe, or the range in `runs-on`)"


def check(facts: Mapping[str, JSON], **params: JSON) -> Iterator[Finding]:
    """Yield a finding for each yanked package, with its publisher's reason."""
    for item in facts["components"]:
        subject = f"{item['name']}=={item['version']}"
        if (reason := item.get("yanked")) is not None and subject not in params["except"]:
            yield Finding("yanked", "error", subject, f"`{subject}` was yanked by its publisher: {reason}", _HINT)
