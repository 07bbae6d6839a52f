# SPDX-License-Identifier: Apache-2.0
"""Say in one line how the weights of a target are quantised, from what its contract says of the artefact."""

from __future__ import annotations

from collections.abc import Mapping

from packager.canonical import JSON

_REASONS = {
    "table": "looked up",
    "last": "of a last layer",
    "small": "small",
    "blocks": "not a multiple of a block",
    "loss": "too far off in blocks",
}


def describe_blocks(target: Mapping[str, JSON]) -> str | None:
    """Return the line for a target of a contract; None where its weights are in no blocks.

    What is not of the form that `compile` writes is left out: a contract may be another's.
    """
    artefact = target.get("artefact")
    stated = artefact.get("quantised") if isinstance(artefact, dict) else None
    if not isinstance(stated, dict):
        return None
    numbers = {name: stated.get(name) for name in ("bits", "block", "layers")}
    if not all(type(value) is int for value in numbers.values()):
        return None
    words = "{layers} layers in blocks of {block} weights with {bits} bits".format(**numbers)
    if type(loss := stated.get("loss")) in (int, float):
        words += f", off by up to {loss:.2g} of their size"
    left = stated.get("float32")
    counts = [
        f"{len(left[reason])} {meaning}"
        for reason, meaning in _REASONS.items()
        if isinstance(left, dict) and isinstance(left.get(reason), list)
    ]
    return words + (f"; in float32: {', '.join(counts)}" if counts else "")
