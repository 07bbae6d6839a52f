# SPDX-License-Identifier: Apache-2.0
"""Reference outputs: what the source computed for the reference inputs of a bundle, as the predicate of a statement.

They depend on the instructions of the CPU they were computed on, so they are stated about a bundle and never part of
it. The inputs they belong to are named by digest; the files are those that the measurement writes (`vectors/`).
"""

from __future__ import annotations

from collections.abc import Mapping

from packager.canonical import JSON
from packager.formats.intoto import embedded, resource
from packager.types import Tree

PREDICATE = "urn:packager:reference-outputs:v1"
_KINDS = {".json": "application/json", ".safetensors": "application/vnd.safetensors"}


def predicate(tree: Tree, outputs: Mapping[str, bytes]) -> dict[str, JSON]:
    """State `outputs` (file name to content) for the reference inputs in the files of a bundle."""
    inputs = [resource(path, blob.digest) for path, blob in tree if path.startswith("vectors/")]
    files = [embedded(name, data, _KINDS[name[name.rindex(".") :]]) for name, data in sorted(outputs.items())]
    return {"inputs": inputs, "outputs": files}
