# SPDX-License-Identifier: Apache-2.0
"""Choose other values for knobs, with which a cell is started to show that settings hold and change no number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packager.bundle.bundle import Bundle
from packager.bundle.knobs import knob_schema
from packager.canonical import JSON
from packager.knobs import knobs
from packager.knobs.knobs import Override
from packager.server.declaration import Knob


def trial_values(bundle: Bundle, names: Sequence[str]) -> dict[str, JSON]:
    """Return a value other than its default for each of `names` that the bundle declares and that has another one."""
    schema = knob_schema(bundle)
    found = {name: _other(schema[name]) for name in names if name in schema}
    return {name: value for name, value in found.items() if value is not None}


def _other(knob: Knob) -> JSON:
    """Return the allowed value next to the default, a smaller one first, which needs no more of the host."""
    if knob.kind == "choice":
        return next((choice for choice in knob.choices if choice != knob.default), None)
    if knob.kind != "integer" or not isinstance(knob.default, int):
        return None
    return next((value for value in (knob.default - 1, knob.default + 1) if knob.allows(value)), None)


def knob_document(bundle: Bundle, chosen: Mapping[str, JSON]) -> JSON:
    """Return all knobs of the bundle with these values over its defaults, as its server gets them."""
    overrides = [Override(name, value, "conform", typed=True) for name, value in chosen.items()]
    found = knobs.resolve(knob_schema(bundle), bundle.digest, overrides)
    return {"digest": found.digest, "values": found.values}
