# SPDX-License-Identifier: Apache-2.0
"""Tags listed and removed, and what a registry holds that is no bundle, against registries that can more or less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from packager import canonical
from packager.bundle.bundle import Bundle
from packager.errors import NegativeAnswerError, PackagerError, SourceError, UsageError
from packager.formats import oci
from packager.release.sign import sign
from packager.store.entries import StoreEntry
from packager.store.store import Store
from packager.transport import listing
from packager.transport.registry import reference
from packager.transport.registry.repository import Repository
from packager.trust import keys
from tests.conftest import Run
from tests.support import bundles
from tests.support.stub_registry import Stub, serving
from tests.unit.transport.test_transfer import QUICK, name_of, opened, push

KEY = keys.generate_key("p256")
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@pytest.fixture
def bundle(store: Store) -> Bundle:
    return sign(bundles.make(store), KEY)


def repository(stub: Stub, tag: str = ":1.0.0") -> Repository:
    return Repository(reference.parse(name_of(stub, tag)), QUICK)


def put(stub: Stub, tag: str, value: object, kind: str) -> str:
    data = json.dumps(value).encode()
    for key in (tag, canonical.sha256(data)):
        stub.manifests["models/tiny", key] = kind, data
    return canonical.sha256(data)


def descriptor(kind: str) -> dict[str, object]:
    return {"mediaType": kind, "digest": "sha256:" + "a" * 64, "size": 3}


IMAGE = {
    "schemaVersion": 2,
    "mediaType": DOCKER,
    "config": descriptor("application/vnd.docker.container.image.v1+json"),
    "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip")],
}
OCI_IMAGE = {
    "schemaVersion": 2,
    "mediaType": oci.MANIFEST,
    "config": descriptor("application/vnd.oci.image.config.v1+json"),
    "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
}
INDEX = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [descriptor(oci.MANIFEST)]}
LIST = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [descriptor(DOCKER)]}


@pytest.mark.parametrize("page", [1, 2, 100])
def test_tags_are_listed_on_every_page(bundle: Bundle, page: int) -> None:
    """Tags of the referrers tag schema are not listed; what is no bundle has a problem."""
    with serving(page=page) as stub:
        for tag in (":1.0.0", ":stable", ":latest"):
            push(stub, bundle, tag=tag)
        put(stub, "image", IMAGE, DOCKER)
        found = listing.list_tags(repository(stub, ""), 2)
    assert [item.version for item in found] == ["1.0.0", "image", "latest", "stable"]
    assert [item.problem for item in found] == [None, "no bundle", None, None]
    assert {item.digest for item in found if item.problem is None} == {bundle.digest}
    assert found[0].size == bundle.size
    assert found[0].signed


def test_a_repository_that_is_not_there() -> None:
    with serving() as stub, pytest.raises(SourceError, match="has no repository"):
        listing.list_tags(repository(stub, ""), 1)


@pytest.mark.parametrize(
    ("value", "kind", "words", "remedy"),
    [
        (IMAGE, DOCKER, "is a container image", "packager push"),
        (OCI_IMAGE, oci.MANIFEST, "is a container image", "packager push"),
        (INDEX, oci.INDEX, "an index of 1 manifests", "@sha256:aaaa"),
        (LIST, DOCKER_LIST, "an index of 1 manifests", "@sha256:aaaa"),
    ],
)
def test_other_artifacts_are_refused_with_a_remedy(value: object, kind: str, words: str, remedy: str) -> None:
    with serving() as stub:
        put(stub, "1.0.0", value, kind)
        with pytest.raises(SourceError, match=words) as caught:
            opened(stub)
    assert remedy in str(caught.value.hint)


def test_the_last_tag_takes_its_signatures_along(bundle: Bundle) -> None:
    with serving() as stub:
        push(stub, bundle)
        push(stub, bundle, tag=":stable")
        assert listing.remove_tag(repository(stub)).digest == bundle.digest
        assert repository(stub, "").tags() == ["stable"]
        assert opened(stub, tag=":stable").referrers, "the other tag is as it was"
        assert listing.remove_tag(repository(stub, ":stable")).left == ()
        assert not stub.manifests
        with pytest.raises(SourceError, match="has no"):
            listing.remove_tag(repository(stub, ":stable"))


def test_delete_by_digest_removes_all_tags_or_none(bundle: Bundle) -> None:
    """Docker's registry 2.8 is one."""
    with serving(untags=False) as stub:
        push(stub, bundle)
        push(stub, bundle, tag=":stable")
        with pytest.raises(NegativeAnswerError, match="`stable` would go too"):
            listing.remove_tag(repository(stub))
        assert len(repository(stub, "").tags()) == 2
        listing.remove_tag(repository(stub), force=True)
        assert not stub.manifests


def test_registry_without_deletion_is_a_clear_error(bundle: Bundle) -> None:
    with serving(denies={"DELETE": (405, "UNSUPPORTED", "The operation is unsupported.")}) as stub:
        push(stub, bundle)
        with pytest.raises(SourceError, match="deletes nothing") as caught:
            listing.remove_tag(repository(stub))
        assert "REGISTRY_STORAGE_DELETE_ENABLED" in str(caught.value.hint)
        assert repository(stub, "").tags() == ["1.0.0"]


def test_the_local_store_is_listed_and_forgets(bundle: Bundle, store: Store) -> None:
    store.add_referrers("tiny", "1.0.0", bundle.digest, [])
    stranger = bundles.make(Store(store.root.parent / "other"), {"model/more.bin": b"1"})
    store.put(stranger.manifest)
    store.quarantine(StoreEntry(stranger.digest))
    named, aside = listing.list_store(store)
    assert (named.name, named.version, named.digest, named.size) == ("tiny", "1.0.0", bundle.digest, bundle.size)
    assert (aside.name, aside.digest, aside.origin) == (None, stranger.digest, "quarantine")
    assert [item.name for item in listing.list_store(store, "tiny")] == ["tiny"]
    assert listing.list_store(store, "other") == []
    with pytest.raises(UsageError, match="has a name"):
        listing.remove_from_store(store, bundle.digest)
    assert listing.remove_from_store(store, ("tiny", "1.0.0")).digest == bundle.digest
    assert listing.remove_from_store(store, stranger.digest).digest == stranger.digest
    assert listing.list_store(store) == []
    for gone in (("tiny", "1.0.0"), stranger.digest):
        with pytest.raises(UsageError):
            listing.remove_from_store(store, gone)


def test_damaged_bundle_is_listed(bundle: Bundle, store: Store) -> None:
    path = store.path(bundle.digest)
    path.chmod(0o644)
    path.write_bytes(b"{}")
    (item,) = listing.list_store(store)
    assert item.size is None
    assert item.problem


def test_the_verbs(packager: Run, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bundles.make(store)
    text = packager("list").stdout
    assert text.startswith("tiny:1.0.0 ")
    assert "unsigned" in text
    (row,) = json.loads(packager("list", "tiny", "--json").stdout)["bundles"]
    assert (row["name"], row["version"], row["signed"]) == ("tiny", "1.0.0", False)
    assert "did you mean `tiny`" in packager("list", "tini", code=2).stderr
    assert "oci://" in packager("list", "s3://bucket/x", code=2).stderr
    (gone,) = json.loads(packager("rm", "tiny:1.0.0", "--json").stdout)["removed"]
    assert gone["digest"] == row["digest"]
    assert "no bundle `tiny:1.0.0`" in packager("rm", "tiny:1.0.0", code=2).stderr
    assert "no bundle" in packager("list").stdout


def test_wrong_name_is_reported(store: Store) -> None:
    with pytest.raises(PackagerError):
        listing.remove_from_store(store, ("nobody", "1.0.0"))
