# SPDX-License-Identifier: Apache-2.0
"""Trees between two stores through a real registry and through S3: each blob is sent once, and arrives whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager.actions.runner import OUTPUT
from packager.store.store import Store
from packager.transport.shared import open_shared
from packager.types import Tree
from packager.workspace import Workspace
from tests.e2e.conftest import tool
from tests.support import registry_server
from tests.support.object_store import object_store

FILES = {"model/w.bin": b"weights" * 99_999, "model/again.bin": b"weights" * 99_999, "empty": b""}


def trees(store: Store) -> tuple[Tree, Tree]:
    """Return two trees that share a blob."""
    blobs = {name: store.put(data) for name, data in FILES.items()}
    more = {**blobs, "other": store.put(b"other")}
    return store.put_tree(Tree.of(blobs)), store.put_tree(Tree.of(more))


def travel(address: str, folder: Path) -> None:
    """Send two trees from one store and receive them in another."""
    here, there = Store(folder / "here"), Store(folder / "there")
    for tree in trees(here):
        record = open_shared(address, Workspace().registry_settings).send_tree(here, tree.digest)
        found = open_shared(address, Workspace().registry_settings).receive_tree(there, record, OUTPUT)
        assert found == tree and there.has_tree(tree.digest)
    assert there.get(record.digest) == here.get(record.digest)


def test_through_a_registry_each_blob_is_sent_once(tmp_path: Path) -> None:
    with registry_server.registry(tool("docker-registry"), tmp_path / "registry") as registry:
        travel(f"oci://{registry.host}/build/cache", tmp_path)
        rows = registry.rows()
        sent = [row.path for row in rows if row.method == "PUT" and "/blobs/uploads/" in row.path]
        got = [row.path for row in rows if row.method == "GET" and "/blobs/sha256:" in row.path and row.status == 200]
        tags = [row.path for row in rows if row.method == "PUT" and "/manifests/tree-" in row.path]
    distinct = 3 + 2  # contents and records
    assert len(sent) == distinct and len(got) == len({*got}) and len(tags) == 2
    assert len(registry.blobs("build/cache")) == distinct


def test_through_s3_each_blob_is_sent_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed (the extra `s3`)")
    with object_store(tmp_path / "s3") as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        travel("s3://models/build/cache", tmp_path)
        sent = [row for row in running.requests() if row.startswith("PUT /models/build/cache/")]
    assert len(sent) == len({*sent}) == 5
