# SPDX-License-Identifier: Apache-2.0
"""Pushing and pulling against a registry with every habit the specification allows, and some it does not."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from packager import canonical
from packager.bundle.bundle import Bundle, read
from packager.errors import IntegrityError, SourceError, UsageError
from packager.events import Event, Progress, Warned
from packager.formats import oci
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy, writers
from packager.transport.registry import reference, upload
from packager.transport.registry.medium import RegistryBundle
from packager.transport.registry.publish import open_registry
from packager.transport.registry.wire import Patience, Settings
from packager.trust import keys
from packager.trust.verify import verify
from packager.types import Blob
from tests.support import bundles
from tests.support.stub_registry import Stub, serving

QUICK = Settings(patience=Patience(attempts=4, first=0.01, longest=0.05), jobs=2)
KEY = keys.generate_key("p256")
PIECE = 1 << 20


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PIECE", PIECE)


@pytest.fixture
def bundle(store: Store) -> Bundle:
    """Signed, with one file of several pieces."""
    return sign(bundles.make(store, {"model/weights-0002.bin": os.urandom(3 * PIECE + 12345)}), KEY)


def name_of(stub: Stub, tag: str = ":1.0.0") -> str:
    return f"oci://{stub.host}/models/tiny{tag}"


def push(stub: Stub, bundle: Bundle, settings: Settings = QUICK, tag: str = ":1.0.0", **more: object) -> int:
    to = open_registry(reference.parse(name_of(stub, tag)), settings, **more)  # type: ignore[arg-type]
    return copy.copy(bundle, to, jobs=2)


def opened(stub: Stub, settings: Settings = QUICK, tag: str = ":1.0.0", events: list[Event] | None = None) -> Bundle:
    sink = [] if events is None else events
    return read(RegistryBundle(reference.parse(name_of(stub, tag)), settings, sink.append))


def pull(stub: Stub, store: Store, settings: Settings = QUICK) -> int:
    return copy.copy(opened(stub, settings), writers.write_local(store, verified=True), jobs=2)


def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


def check(stub: Stub, bundle: Bundle, tmp_path: Path) -> None:
    """Pull into a fresh store and verify everything."""
    store = other(tmp_path)
    pull(stub, store)
    assert store.entry("tiny", "1.0.0").manifest == bundle.digest
    assert verify(opened(stub), [KEY.public]).ok
    for _, blob in bundle.tree:
        assert store.get(blob.digest)


@pytest.mark.parametrize("api", [False, True])
@pytest.mark.parametrize("page", [1, 100])
def test_what_is_pushed_is_pulled_with_its_signatures(bundle: Bundle, tmp_path: Path, api: bool, page: int) -> None:
    with serving(referrers_api=api, page=page) as stub:
        assert push(stub, bundle) == bundle.size
        check(stub, bundle, tmp_path)
        assert stub.manifests["models/tiny", "1.0.0"][1] == bundle.manifest, "exactly the bytes that were signed"
        tag = oci.referrers_tag(bundle.digest)
        assert stub.manifests["models/tiny", tag][1] == bundle.referrers_index(), "the list is always written"
        assert {r.manifest.digest for r in opened(stub).referrers} == {r.manifest.digest for r in bundle.referrers}


def test_nothing_is_sent_twice(bundle: Bundle) -> None:
    with serving() as stub:
        push(stub, bundle)
        stub.log.clear()
        assert push(stub, bundle, tag=":again") == 0
        assert not [row for row in stub.log if "/uploads/" in row.path]


def test_the_tag_appears_last(bundle: Bundle) -> None:
    with serving() as stub:
        push(stub, bundle)
        writes = [row for row in stub.log if row.method in ("PUT", "PATCH")]
        assert writes[-1].path.endswith("/manifests/1.0.0")


def test_an_upload_that_is_cut_goes_on_where_it_was(bundle: Bundle, tmp_path: Path) -> None:
    with serving(cut_upload=[PIECE // 2, PIECE // 3, PIECE - 1]) as stub:
        push(stub, bundle)
        assert not stub.cut_upload, "every cut happened"
        uploaded = sum(row.received for row in stub.log if "/uploads/" in row.path)
        assert uploaded == sum(len(data) for data in stub.blobs.values()), "no byte was sent twice"
        check(stub, bundle, tmp_path)


def test_a_killed_upload_is_resumed_by_the_next_process(bundle: Bundle, tmp_path: Path) -> None:
    settings = replace(QUICK, sessions=tmp_path / "uploads", patience=Patience(attempts=1))
    with serving(cut_upload=[PIECE // 2]) as stub:
        with pytest.raises(SourceError, match="failed"):
            push(stub, bundle, settings)
        assert list((tmp_path / "uploads").iterdir()), "the session is remembered"
        push(stub, bundle, settings)
        assert not list((tmp_path / "uploads").iterdir())
        big = max((blob for _, blob in bundle.tree), key=lambda blob: blob.size)
        assert len(stub.blobs["models/tiny", big.digest]) == big.size
        patched = sum(row.received for row in stub.rows("PATCH", "uploads"))
        closed = sum(row.received for row in stub.rows("PUT", f"uploads/.*{big.digest[7:]}"))
        assert patched + closed == big.size, "what had arrived was not sent again"
        check(stub, bundle, tmp_path)


def test_a_forgotten_session_starts_again(bundle: Bundle, tmp_path: Path) -> None:
    settings = replace(QUICK, sessions=tmp_path / "uploads", patience=Patience(attempts=1))
    with serving(cut_upload=[PIECE // 2]) as stub:
        with pytest.raises(SourceError):
            push(stub, bundle, settings)
        stub.sessions.clear()
        push(stub, bundle, settings)
        check(stub, bundle, tmp_path)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_is_cut_goes_on_where_it_was(bundle: Bundle, tmp_path: Path, ranges: bool) -> None:
    with serving() as stub:
        push(stub, bundle)
        stub.log.clear()
        stub.ranges, stub.cut_download = ranges, [PIECE, PIECE + 7, PIECE // 2]
        check(stub, bundle, tmp_path)
        assert not stub.cut_download
        big = max((blob for _, blob in bundle.tree), key=lambda blob: blob.size)
        starts = [row.headers.get("Range") for row in stub.rows("GET", big.digest)]
        assert f"bytes={PIECE}-" in starts


def test_a_pull_that_gave_up_is_resumed_from_disk(bundle: Bundle, tmp_path: Path) -> None:
    store, hasty = other(tmp_path), replace(QUICK, patience=Patience(attempts=1))
    big = max((blob for _, blob in bundle.tree), key=lambda blob: blob.size)
    with serving() as stub:
        push(stub, bundle)
        source = opened(stub, hasty)
        stub.cut_download = [2 * PIECE]
        with pytest.raises(SourceError):
            copy.copy(source, writers.write_local(store, verified=True), jobs=1)
        partial = store.root / "partial" / big.digest[7:]
        have = partial.stat().st_size
        assert 0 < have <= 2 * PIECE
        stub.log.clear()
        pull(stub, store)
        (row,) = stub.rows("GET", big.digest)
        assert (row.status, row.sent) == (206, big.size - have), "only the rest was asked for"
        assert not list((store.root / "partial").iterdir())


def test_small_files_that_arrived_before_a_failure_stay(bundle: Bundle, tmp_path: Path) -> None:
    store, digests = other(tmp_path), [blob.digest for _, blob in bundle.tree]

    def stop_at_the_last(event: Event) -> None:
        if isinstance(event, Progress) and event.done == event.total:
            raise ConnectionError("stopped")

    with serving() as stub:
        push(stub, bundle)
        source = opened(stub)
        with pytest.raises(ConnectionError):
            copy.copy(source, writers.write_local(store, verified=True), stop_at_the_last, jobs=1)
        assert len(store.find_missing(digests)) == 1 and not store.bundles()
        stub.log.clear()
        pull(stub, store)
        assert store.find_missing(digests) == set()
        again = {digest for digest in digests if stub.rows("GET", f"blobs/{digest}")}
        opens = {source.tree.get(path).digest for path in ("bundle.json", "contract.json")}  # type: ignore[union-attr]
        assert len(again - opens) <= 1 and all(len(stub.rows("GET", digest)) == 1 for digest in again)


@pytest.mark.parametrize("damage", ["flipped", "longer", "zeros"])
def test_a_damaged_partial_file_costs_only_time(bundle: Bundle, tmp_path: Path, damage: str) -> None:
    store = other(tmp_path)
    big = max((blob for _, blob in bundle.tree), key=lambda blob: blob.size)
    data = bundle.medium.open_file("", big).read()
    partial = store.root / "partial" / big.digest[7:]
    partial.write_bytes({"flipped": b"X" + data[1:PIECE], "longer": data + b"x", "zeros": bytes(PIECE)}[damage])
    with serving() as stub:
        push(stub, bundle)
        pull(stub, store)
    assert store.get(big.digest) == data


def test_lying_registry_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    store = other(tmp_path)
    with serving() as stub:
        push(stub, bundle)
        source = opened(stub)
        stub.lie = True
        with pytest.raises(IntegrityError, match="damaged"):
            copy.copy(source, writers.write_local(store, verified=True))
        with pytest.raises(IntegrityError):
            copy.save(source, tmp_path / "x.bundle.tar")
        assert not (tmp_path / "x.bundle.tar").exists()
        assert not store.bundles()
        assert all(store.get(f"sha256:{path.name}") is not None for path in (store.root / "blobs/sha256").iterdir())


def test_a_damaged_local_blob_is_not_pushed(bundle: Bundle, store: Store) -> None:
    big = max((blob for _, blob in bundle.tree), key=lambda blob: blob.size)
    path = store.path(big.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"damage")
    with serving() as stub:
        with pytest.raises(IntegrityError, match="weights-0002"):
            push(stub, bundle)
        assert ("models/tiny", big.digest) not in stub.blobs
        assert ("models/tiny", "1.0.0") not in stub.manifests


def test_busy_registry_is_retried(bundle: Bundle, tmp_path: Path) -> None:
    with serving(busy=3, retry_after="0") as stub:
        push(stub, bundle)
        check(stub, bundle, tmp_path)
    with serving(busy=1000) as stub, pytest.raises(SourceError, match="429 TOOMANYREQUESTS"):
        push(stub, bundle)


def test_waits_grow_and_follow_the_server_within_limits() -> None:
    patience = Patience(first=1, longest=20)
    waits = [patience.wait(n, "x", None) for n in range(1, 8)]
    assert waits == sorted(waits)
    assert waits[-1] == 20
    assert patience.wait(1, "x", "7") == 7
    assert patience.wait(1, "x", "99999") == 20
    assert patience.wait(1, "x", "Wed, 21 Oct 2015 07:28:00 GMT") == waits[0]


def test_blobs_are_mounted_from_another_repository(bundle: Bundle) -> None:
    with serving() as stub:
        push(stub, bundle)
        stub.log.clear()
        to = open_registry(reference.parse(f"oci://{stub.host}/models/copy"), QUICK, mount="models/tiny")
        copy.copy(bundle, to)
        assert not stub.rows("PATCH", "/uploads/")
        assert stub.rows("POST", "mount=")
        stub.mounts = False
        copy.copy(bundle, open_registry(reference.parse(f"oci://{stub.host}/third"), QUICK, mount="models/tiny"))
        assert stub.rows("PATCH", "/uploads/")


def test_a_tag_is_moved_only_by_force(bundle: Bundle, store: Store) -> None:
    changed = bundles.make(store, {"MODEL_CARD.md": b"# changed"})
    with serving() as stub:
        push(stub, bundle)
        with pytest.raises(UsageError, match="already names another bundle") as caught:
            push(stub, changed)
        assert caught.value.hint
        push(stub, changed, force=True)
        assert opened(stub).digest == changed.digest


def credentials(tmp_path: Path, stub: Stub, entry: dict[str, str]) -> Settings:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {stub.host: entry}}))
    return replace(QUICK, credential_files=(file,))


def test_tokens(bundle: Bundle, tmp_path: Path) -> None:
    with serving(token_user=("ada", "s3cret"), token_uses=7) as stub:
        with pytest.raises(SourceError, match="gives anonymous clients no token"):
            push(stub, bundle)
        with pytest.raises(SourceError, match=r"refused the credentials \(401\): incorrect username"):
            push(stub, bundle, credentials(tmp_path, stub, {"username": "ada", "password": "wr0ng"}))
        settings = credentials(tmp_path, stub, {"auth": "YWRhOnMzY3JldA=="})
        push(stub, bundle, settings)
        assert len(stub.tokens) > 3, "tokens expired meanwhile and were renewed"
        assert "repository:models/tiny:pull,push" in stub.scopes
        pull(stub, other(tmp_path), settings)
        assert "repository:models/tiny:pull" in stub.scopes


def test_identity_token_is_exchanged(bundle: Bundle, tmp_path: Path) -> None:
    with serving(refresh_token="refresh-me") as stub:
        push(stub, bundle, credentials(tmp_path, stub, {"identitytoken": "refresh-me"}))
        assert ("models/tiny", "1.0.0") in stub.manifests


def test_credentials_do_not_follow_redirects(bundle: Bundle, tmp_path: Path) -> None:
    with serving(token_user=("ada", "s3cret")) as stub, serving() as storage:
        settings = credentials(tmp_path, stub, {"auth": "YWRhOnMzY3JldA=="})
        push(stub, bundle, settings)
        storage.blobs, stub.redirect = stub.blobs, f"http://{storage.host}"
        pull(stub, other(tmp_path), settings)
        assert storage.log
        assert not [row for row in storage.log if "Authorization" in row.headers]


def test_unknown_referrers_are_copied_and_unreadable_ones_reported(bundle: Bundle, tmp_path: Path) -> None:
    with serving(referrers_api=True) as stub:
        push(stub, bundle)
        layers = tuple(oci.Descriptor("text/plain", _put(stub, data)) for data in (b"one", b"two"))
        subject = oci.Descriptor(oci.MANIFEST, Blob(bundle.digest, len(bundle.manifest)))
        config = oci.Descriptor("application/json", _put(stub, b'{"a":1}'))
        _attach(stub, oci.Manifest("application/x.scan", config, layers, {}, subject).to_bytes())
        _attach(stub, b'{"artifactType":"odd","subject":{"digest":"%s"}}' % bundle.digest.encode())
        events: list[Event] = []
        found = opened(stub, events=events)
        assert len(found.referrers) == len(bundle.referrers) + 1
        assert [event for event in events if isinstance(event, Warned) and "left out" in event.message]
        copy.save(found, tmp_path / "x.bundle.tar")
        assert verify(found, [KEY.public]).ok


def _put(stub: Stub, data: bytes) -> Blob:
    blob = Blob(canonical.sha256(data), len(data))
    stub.blobs["models/tiny", blob.digest] = data
    return blob


def _attach(stub: Stub, manifest: bytes) -> None:
    stub.manifests["models/tiny", canonical.sha256(manifest)] = oci.MANIFEST, manifest


def test_signing_in_a_registry_adds_to_what_is_there(bundle: Bundle, store: Store) -> None:
    second = keys.generate_key("p384")
    with serving() as stub:
        push(stub, bundle)
        copy.update_referrers(sign(opened(stub), second))
        again = opened(stub)
        assert len(again.referrers) == 4
        assert verify(again, [second.public]).ok
        assert verify(again, [KEY.public]).ok


def test_a_bundle_by_digest_and_a_missing_one(bundle: Bundle) -> None:
    with serving() as stub:
        push(stub, bundle)
        assert opened(stub, tag=f"@{bundle.digest}").digest == bundle.digest
        assert opened(stub, tag=f":ignored@{bundle.digest}").digest == bundle.digest
        with pytest.raises(SourceError, match="has no"):
            opened(stub, tag=":2.0.0")
        with pytest.raises(UsageError, match="names no bundle"):
            opened(stub, tag="")


def test_a_download_is_a_seekable_stream(bundle: Bundle) -> None:
    big = max((blob for _, blob in bundle.tree), key=lambda blob: blob.size)
    with serving() as stub:
        push(stub, bundle)
        with opened(stub).medium.open_file("x", big) as file:
            file.seek(big.size - 10)
            assert len(file.read()) == 10
            file.seek(0)
            assert canonical.sha256(file.read()) == big.digest
            with pytest.raises(io.UnsupportedOperation):
                file.seek(0, io.SEEK_END)
