# SPDX-License-Identifier: Apache-2.0
"""Read and write the distributions of a bundle's reference data, as a predicate about the bundle.

They are an observation and no part of the bundle: a rebuild needs no data for them, and what the source answers
depends on the processor that computed it.
"""

from __future__ import annotations

from packager.canonical import JSON
from packager.errors import MalformedError
from packager.server.telemetry.distribution_file import Distributions

PREDICATE = "urn:packager:distributions:v1"


def read(stated: JSON, subject: str) -> Distributions:
    """Return what a predicate states. Raises MalformedError."""
    try:
        return Distributions.from_json(stated)
    except ValueError as error:
        raise MalformedError(f"`{subject}` states no distributions: {error}", subject=subject) from None
