# SPDX-License-Identifier: Apache-2.0
"""Read and write reference outputs: the source's outputs for the reference inputs of a bundle, as a predicate.

They depend on the instructions of the CPU that computed them, so they are in a statement about the bundle, not in the
bundle. Their inputs are named by digest; the files are those that the measurement writes (`vectors/`). What is signed
names the outputs by digest as well, and they travel beside it (`detach`), because other tools refuse large statements;
a draft holds them, and so do statements of earlier versions.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

from packager import canonical
from packager.canonical import JSON
from packager.errors import MalformedError, WrongSubjectError
from packager.formats.intoto import describe_resource, embed_resource
from packager.types import Tree

PREDICATE = "urn:packager:reference-outputs:v1"
_KINDS = {".json": "application/json", ".safetensors": "application/vnd.safetensors"}


def state_outputs(tree: Tree, outputs: Mapping[str, bytes]) -> dict[str, JSON]:
    """State `outputs` (file name to content) for the reference inputs in the files of a bundle."""
    inputs = [describe_resource(path, blob.digest) for path, blob in tree if path.startswith("vectors/")]
    files = [embed_resource(name, data, _KINDS[name[name.rindex(".") :]]) for name, data in sorted(outputs.items())]
    return {"inputs": inputs, "outputs": files}


def detach_outputs(stated: JSON) -> tuple[JSON, dict[str, bytes]]:
    """Return the predicate without the contents of its outputs, and these by digest. Raises MalformedError."""
    try:
        bare = [{key: value for key, value in item.items() if key != "content"} for item in stated["outputs"]]
        contents = [_content(item, _absent) for item in stated["outputs"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedError(f"the draft states no reference outputs: {error}", subject=PREDICATE) from None
    return {**stated, "outputs": bare}, {canonical.sha256(data): data for data in contents}


def read(stated: JSON, tree: Tree, subject: str, fetch: Callable[[str], bytes]) -> dict[str, bytes]:
    """Return the files (name to content) of a predicate by a trusted signer about the bundle of `tree`.

    `fetch` returns what is attached to the bundle, by digest. Raises what it raises, MalformedError, and
    WrongSubjectError when they belong to other inputs than the bundle has.
    """
    try:
        inputs = {item["name"]: f"sha256:{item['digest']['sha256']}" for item in stated["inputs"]}
        files = {item["name"]: _content(item, fetch) for item in stated["outputs"]}
        if not set(files) <= {f"outputs{suffix}" for suffix in _KINDS}:
            raise ValueError("it holds other files than outputs")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedError(f"`{subject}` states no reference outputs: {error}", subject=subject) from None
    if inputs != {path: blob.digest for path, blob in tree if path.startswith("vectors/")}:
        raise WrongSubjectError(f"`{subject}` states outputs for other inputs than the bundle carries", subject=subject)
    return files


def _absent(digest: str) -> bytes:
    raise ValueError(f"it lacks the content of `{digest:.80}`")


def _content(item: JSON, fetch: Callable[[str], bytes]) -> bytes:
    digest = f"sha256:{item['digest']['sha256']}"
    data = base64.b64decode(item["content"], validate=True) if "content" in item else fetch(digest)
    if canonical.sha256(data) != digest:
        raise ValueError(f"`{item['name']!s:.40}` does not match its digest")
    return data
