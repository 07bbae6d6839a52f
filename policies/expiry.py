# SPDX-License-Identifier: Apache-2.0
"""Signatures must not be too old.

The newest signature of the bundle with a trusted timestamp must be at most `days` old. A signature without one (by a
plain key) proves no age and does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date

from packager.canonical import JSON
from packager.types import Finding

VERSION = 1
FACTS = ("statements", "today")
DEFAULTS: Mapping[str, JSON] = {"days": 365}


_BUNDLE = "urn:packager:bundle:v1"


def check(facts: Mapping[str, JSON], days: int) -> Iterator[Finding]:
    """Yield a finding when no signature is provably recent enough."""
    times = [item["time"] for item in facts["statements"] if item["type"] == _BUNDLE and item["time"]]
    if not times:
        message = "no signature of the bundle has a trusted timestamp"
        yield Finding("expiry", "error", "signature", message, "sign with a certificate and --tsa, or keyless")
        return
    age = (date.fromisoformat(facts["today"]) - date.fromisoformat(max(times)[:10])).days
    if age > days:
        message = f"the bundle was signed {age} days ago, allowed are at most {days}"
        yield Finding(
            "expiry", "error", "signature", message, "build and sign it again", evidence={"signed": max(times)}
        )
