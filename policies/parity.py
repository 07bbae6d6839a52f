# SPDX-License-Identifier: Apache-2.0
"""The artefact must compute what the source computes.

For every target, every measured case and every output: `|got - expected| <= atol + rtol * |expected|`, element by
element. Integers must be equal; NaN and infinities must stand where the source has them. A target without a single
measured case is a finding: not measured is not a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packager.canonical import JSON
from packager.types import Finding

DEFAULTS: Mapping[str, JSON] = {}
RULE = "parity"
