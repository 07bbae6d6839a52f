# SPDX-License-Identifier: Apache-2.0
"""Nothing about a signed bundle can change unnoticed: every file, on every medium, in every way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from packager.bundle import single_file
from packager.bundle.bundle import open_bundle
from packager.errors import IntegrityError, NegativeAnswerError, PackagerError
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy as transport
from packager.trust import keys
from packager.trust.keys import PrivateKey
from packager.trust.verify import Verification
from tests.support import bundles
from tests.support.breadth import ALL, sample_of
from tests.support.tampering import (
    CHANGES,
    check_change,
    check_flips,
    files_of,
    flip,
    judge,
    no_store,
    positions,
    refused,
)


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return keys.generate_key("p256")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, key: PrivateKey) -> Path:
    """A signed bundle as a directory, a file and an unpacked tree."""
    root = tmp_path_factory.mktemp("signed")
    bundle = sign(bundles.make(Store(root / "store")), key)
    transport.save(bundle, root / "layout")
    transport.save(bundle, root / "file.bundle.tar")
    transport.unpack(bundle, root / "unpacked")
    return root


@pytest.mark.parametrize("form", ["layout", "unpacked"])
def test_every_flipped_byte_of_every_file(signed: Path, key: PrivateKey, form: str) -> None:
    def chosen(size: int) -> Sequence[int]:
        return sample_of([*positions(size)])

    assert check_flips(signed / form, key.public, chosen) > (1000 if ALL else 200)


def test_every_flipped_byte_of_the_single_file(signed: Path, key: PrivateKey, tmp_path: Path) -> None:
    path = shutil.copy(signed / "file.bundle.tar", tmp_path / "file.bundle.tar")
    data = path.read_bytes()
    good = judge(path, key.public)
    assert isinstance(good, Verification)
    hint = range(512, 512 + int(data[124:135], 8))  # the bytes of index.json, which is the first member
    for position in sample_of([*range(4096), *range(4096, len(data), 97), *range(len(data) - 2048, len(data))]):
        flip(path, position)
        answer = judge(path, key.public)
        if isinstance(answer, Verification) and answer.ok:
            assert position in hint, position
            assert answer.to_json() == good.to_json()
        else:
            failure = answer if isinstance(answer, PackagerError) else answer.failure
            assert isinstance(failure, IntegrityError), (position, failure)
        flip(path, position)


@pytest.mark.parametrize("form", ["layout", "unpacked"])
@pytest.mark.parametrize("change", CHANGES)
def test_every_file_missing_renamed_or_replaced(
    signed: Path, key: PrivateKey, tmp_path: Path, form: str, change: str
) -> None:
    check_change(signed / form, key.public, change, tmp_path)
    assert isinstance(judge(signed / form, key.public), Verification), "everything was undone"


EXTRA = [
    "extra",
    ".git/config",
    ".gitattributes",
    "model/x.bin",
    ".packager/note",
    ".packager/blobs/sha256/" + "0" * 64,
]


@pytest.mark.parametrize("name", EXTRA)
def test_no_file_may_be_added(signed: Path, key: PrivateKey, tmp_path: Path, name: str) -> None:
    for form in ("layout", "unpacked"):
        copy = tmp_path / form
        shutil.copytree(signed / form, copy)
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"x")
        failure = refused(copy, key.public)
        assert isinstance(failure, IntegrityError)
        assert name in failure.message


def test_unpacked_modes_and_directories_count(signed: Path, key: PrivateKey, tmp_path: Path) -> None:
    for name in files_of(signed / "unpacked"):
        copy = tmp_path / name.replace("/", "_")
        shutil.copytree(signed / "unpacked", copy)
        (copy / name).chmod(0o755)
        failure = refused(copy, key.public)
        assert isinstance(failure, IntegrityError)
        assert name in failure.message
    copy = tmp_path / "directory"
    shutil.copytree(signed / "unpacked", copy)
    (copy / "empty").mkdir()
    assert "empty" in refused(copy, key.public).message


def test_statements_of_others_do_not_count(signed: Path, key: PrivateKey) -> None:
    stranger = keys.generate_key("p256")
    failure = refused(signed / "layout", stranger.public)
    assert isinstance(failure, NegativeAnswerError)
    assert key.public.fingerprint[:16] in failure.message


def test_unsigned_is_refused(key: PrivateKey, store: Store, tmp_path: Path) -> None:
    transport.save(bundles.make(store), tmp_path / "plain")
    failure = refused(tmp_path / "plain", key.public)
    assert isinstance(failure, NegativeAnswerError)
    assert "not signed" in failure.message


def test_a_signature_of_another_bundle_does_not_count(key: PrivateKey, store: Store, tmp_path: Path) -> None:
    """Statements moved from one bundle to another are caught even when every digest is made to fit."""
    one = bundles.make(store)
    other = bundles.make(store, {"model/model.onnx": b"evil"}, version="1.0.1")
    signed_one = sign(one, key)
    forged = other
    for referrer in signed_one.referrers:
        forged = forged.with_statement(signed_one.pending[referrer.content.digest], "moved")
    transport.save(forged, tmp_path / "forged")
    failure = refused(tmp_path / "forged", key.public)
    assert isinstance(failure, IntegrityError)
    assert "signed another bundle" in failure.message


def test_two_signers_may_sign_and_either_is_enough(key: PrivateKey, store: Store, tmp_path: Path) -> None:
    second = keys.generate_key("p384")
    transport.save(sign(sign(bundles.make(store), key), second), tmp_path / "b.bundle.tar")
    for signer in (key, second):
        answer = judge(tmp_path / "b.bundle.tar", signer.public)
        assert isinstance(answer, Verification)
        assert answer.signers == (signer.public.fingerprint,)


def test_signing_in_place_is_atomic_and_repeatable(key: PrivateKey, store: Store, tmp_path: Path) -> None:
    for form in ("b.bundle.tar", "layout"):
        transport.save(bundles.make(store), tmp_path / form)
        for _ in range(2):
            bundle = sign(open_bundle(str(tmp_path / form), no_store), key)
            transport.update_referrers(bundle)
            answer = judge(tmp_path / form, key.public)
            assert isinstance(answer, Verification)
            assert answer.ok
            assert len(bundle.referrers) == 2, "deterministic signatures do not pile up"
    links = {path.stat().st_nlink for path in (tmp_path / "layout").rglob("*") if path.is_file()}
    assert links == {1}, "no blob of a layout may alias another file"


CORRUPTIONS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-1],
    "one block short": lambda data: data[:-512],
    "a byte more": lambda data: data + b"\0",
    "twice": lambda data: data + data,
    "empty": lambda data: b"",
    "text": lambda data: b"hello " * 1000,
    "members reversed": lambda data: data[512:] + data[:512],
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupt_single_files_are_refused(signed: Path, key: PrivateKey, tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.bundle.tar"
    path.write_bytes(CORRUPTIONS[name]((signed / "file.bundle.tar").read_bytes()))
    assert isinstance(refused(path, key.public), IntegrityError)


def test_sizes_of_eight_gibibytes_have_a_header() -> None:
    """Only pax can say them; the reader must recompute that header too."""
    assert single_file.write_header("blobs/sha256/" + "a" * 64, 9 << 30)[156:157] == b"x"


def test_a_bundle_of_format_one_keeps_its_digest(store: Store) -> None:
    """Golden: a new release of this program may not change what an old one signed."""
    bundle = bundles.make(store)
    assert bundle.digest == "sha256:bb3ab3f8a838122dbc8e13f25b91ff453964a6f1bcf582d32d1436773bee4964"
    assert bundle.set_digest == "sha256:c244f32a3b921203ec8f12947ea8c5775c2e75c8883239ad235c917e96c0e705"
