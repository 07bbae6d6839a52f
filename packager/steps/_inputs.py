# SPDX-License-Identifier: Apache-2.0
"""Describe the inputs of a source as the JSON of a contract."""

from __future__ import annotations

from packager.canonical import JSON
from packager.exporters import Interface
from packager.recipe.lengths import Lengths, Measured


def describe_inputs(interface: Interface) -> JSON:
    """Return what callers may send, as JSON."""
    listed = {port.name: list(port.values) for port in interface.inputs if port.values}
    firm = [port.name for port in interface.inputs if port.firm]
    return {
        "inputs": [port.to_json() for port in interface.inputs],
        "dimensions": {name: _dimension(interface, name).to_json() for name in interface.dimensions},
        "ranges": {port.name: list(port.range) for port in interface.inputs if port.range},
        **({"values": listed} if listed else {}),
        **({"firm": firm} if firm else {}),
    }


def _dimension(interface: Interface, name: str) -> Measured:
    (low, high), limit = interface.dimensions[name], interface.limit(name)
    if name in interface.ties:
        factor = interface.ties[name][0]
        return Measured(Lengths(low, high, factor), limit, interface.ties[name])
    listed = tuple(length for length in limit.listed if low <= length <= high)
    return Measured(Lengths(low, high, limit.step, listed), limit)
