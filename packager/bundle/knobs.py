# SPDX-License-Identifier: Apache-2.0
"""The knobs of one bundle."""

from __future__ import annotations

from packager.bundle.bundle import Bundle
from packager.knobs import catalogue, knobs


def knob_schema(bundle: Bundle) -> knobs.Schema:
    """Return the knobs of a bundle; one from before knobs has those of its contract. Raises IntegrityError."""
    if bundle.tree.get(knobs.FILE) is not None:
        return knobs.parse(bundle.read(knobs.FILE, limit=knobs.MAX_SCHEMA))
    return knobs.parse(catalogue.schema_bytes(bundle.contract.document))
