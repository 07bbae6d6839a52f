# SPDX-License-Identifier: Apache-2.0
"""The base of an adapter: a bundle in the local store, and the source that it was made of.

The bundle says itself, in its SBOM, which source it was made of: the adapter is compared on that and on no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from packager import exporters, sources
from packager.bundle.bundle import SBOM, Bundle, read
from packager.bundle.readers import StoredBundle
from packager.canonical import JSON
from packager.errors import PackagerError, SourceError, UsageError
from packager.formats import cyclonedx
from packager.lock.lock import Level
from packager.names import parse
from packager.sources import Settings
from packager.store.store import Store
from packager.types import DIGEST, Tree

Fetch = Callable[[sources.Pin], Tree]
_KIND = "transformers"


def open_base(reference: str, store: Store) -> Bundle:
    """Open the base, which takes adapters. Raises UsageError for a bundle that is not there, or takes none."""
    entry = store.find(reference) if DIGEST.fullmatch(reference) else store.entry(*parse(reference))
    bundle = read(StoredBundle(store, entry, reference))
    about = bundle.contract.generation
    if about is None or about.adapters is None or bundle.contract.base is not None:
        raise UsageError(
            f"the base `{bundle.name}:{bundle.version}` takes no adapters",
            hint="write `adapters: [q_proj, v_proj]`, the layers that yours changes, in its recipe and build it again",
        )
    return bundle


def level_of(bundle: Bundle) -> Level:
    """Return the level of the base's graph."""
    graph = bundle.contract.graph
    return Level(int(graph["opset"].get("ai.onnx", 1)), int(graph["ir"]))


def pin_base(bundle: Bundle, store: Store, settings: Settings, fetch: Fetch) -> dict[str, JSON]:
    """Return what a lock says of the base. Raises SourceError where its source cannot be had."""
    origin = cyclonedx.read_origin(bundle.load(SBOM)) if bundle.tree.get(SBOM) else None
    if origin is None:
        raise SourceError(f"`{bundle.name}:{bundle.version}` does not say what it was made of", hint="build it again")
    pinned: dict[str, JSON] = {"bundle": bundle.digest, "uri": origin[0], "tree": origin[1]}
    obtain_source(pinned, store, settings, fetch)
    tree = store.tree(origin[1])
    blobs = dict(tree.files)
    kind, payload = exporters.detect_kind([path for path, _ in tree], lambda path: _head(store, blobs[path].digest))
    if kind != _KIND:
        raise SourceError(
            f"the base was made of a source of kind `{kind}`, and adapters are compared on directories of transformers",
            hint="build the base from the directory that its authors saved",
        )
    return {**pinned, "payload": payload}


def obtain_source(base: Mapping[str, JSON], store: Store, settings: Settings, fetch: Fetch) -> None:
    """Bring the source of the base into the store, if it is not there. Raises SourceError."""
    uri, tree = str(base["uri"]), str(base["tree"])
    if store.has_tree(tree):
        return
    problem = "its files are others now"
    try:
        pin = sources.load_for(uri).resolve(uri, replace(settings, ref=uri))
        if fetch(pin).digest == tree:
            return
    except PackagerError as error:
        problem = error.message
    raise SourceError(
        f"the source of the base, `{sources.redact_address(uri)}`, cannot be had: {problem}",
        hint="an adapter is compared on the model that its base was made of: build the base in this store, or fetch "
        "its source to where it was",
    )


def _head(store: Store, digest: str) -> bytes:
    with store.open(digest) as file:
        return file.read(256 << 20)
