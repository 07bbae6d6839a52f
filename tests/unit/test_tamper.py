# SPDX-License-Identifier: Apache-2.0
"""Nothing about a signed bundle can change unnoticed: every file, on every medium, in every way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packager import archive, keys, transport
from packager.bundle import open_bundle
from packager.errors import IntegrityError, NegativeAnswer, PackagerError
from packager.keys import PrivateKey
from packager.sign import sign
from packager.store import Store
from packager.verify import Verification, verify
from tests import bundles

HINTS = {"index.json", "oci-layout", ".packager/index.json", ".packager/oci-layout"}  # covered by no signature


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return keys.generate("p256")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, key: PrivateKey) -> Path:
    """A signed bundle as a directory, a file and an unpacked tree."""
    root = tmp_path_factory.mktemp("signed")
    bundle = sign(bundles.make(Store(root / "store")), key)
    transport.save(bundle, root / "layout")
    transport.save(bundle, root / "file.bundle.tar")
    transport.unpack(bundle, root / "unpacked")
    return root


def no_store() -> Store:
    raise AssertionError("the store is not needed")


def judge(path: Path, key: PrivateKey) -> Verification | PackagerError:
    try:
        return verify(open_bundle(str(path), no_store), [key.public])
    except PackagerError as error:
        return error


def refused(path: Path, key: PrivateKey) -> PackagerError:
    """Return why the bundle at `path` is refused; it must be."""
    answer = judge(path, key)
    if isinstance(answer, Verification):
        assert answer.failure is not None, f"accepted: {answer}"
        return answer.failure
    return answer


def files_of(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def positions(size: int) -> Iterator[int]:
    """Every byte of a small file; of a large one the first, the last, and a spread between."""
    yield from range(size) if size <= 700 else {0, 1, size // 3, size // 2, size - 2, size - 1}


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x01]))


@pytest.mark.parametrize("form", ["layout", "unpacked"])
def test_every_flipped_byte_of_every_file(signed: Path, key: PrivateKey, form: str) -> None:
    good = judge(signed / form, key)
    assert isinstance(good, Verification)
    assert good.ok
    checked = 0
    for name in files_of(signed / form):
        path = signed / form / name
        original, mode = path.read_bytes(), path.stat().st_mode
        for position in positions(len(original)):
            flip(path, position)
            answer = judge(signed / form, key)
            if name in HINTS and isinstance(answer, Verification) and answer.ok:
                assert answer.to_json() == good.to_json(), "a hint may not change what is reported"
            else:
                failure = answer if isinstance(answer, PackagerError) else answer.failure
                assert isinstance(failure, IntegrityError), (name, position, failure)
                named = f"{failure.message} {failure.subject}"
                assert name in HINTS or Path(name).name in named or "statement" in named, (name, failure.message)
            path.write_bytes(original)
            path.chmod(mode)
            checked += 1
    assert checked > 1000


def test_every_flipped_byte_of_the_single_file(signed: Path, key: PrivateKey, tmp_path: Path) -> None:
    path = shutil.copy(signed / "file.bundle.tar", tmp_path / "file.bundle.tar")
    data = path.read_bytes()
    good = judge(path, key)
    assert isinstance(good, Verification)
    hint = range(512, 512 + int(data[124:135], 8))  # the bytes of index.json, which is the first member
    for position in [*range(4096), *range(4096, len(data), 97), *range(len(data) - 2048, len(data))]:
        flip(path, position)
        answer = judge(path, key)
        if isinstance(answer, Verification) and answer.ok:
            assert position in hint, position
            assert answer.to_json() == good.to_json()
        else:
            failure = answer if isinstance(answer, PackagerError) else answer.failure
            assert isinstance(failure, IntegrityError), (position, failure)
        flip(path, position)


@pytest.mark.parametrize("form", ["layout", "unpacked"])
@pytest.mark.parametrize("change", ["missing", "renamed", "emptied", "link", "hole"])
def test_every_file_missing_renamed_or_replaced(
    signed: Path, key: PrivateKey, tmp_path: Path, form: str, change: str
) -> None:
    for number, name in enumerate(files_of(signed / form)):
        copy = tmp_path / str(number)
        shutil.copytree(signed / form, copy)
        path = copy / name
        if change == "missing":
            path.unlink()
        elif change == "renamed":
            path.rename(path.with_name(path.name + "x"))
        elif change == "emptied":
            path.write_bytes(b"")
        elif change == "link":
            elsewhere = tmp_path / f"elsewhere-{number}"
            path.rename(elsewhere)
            path.symlink_to(elsewhere)
        else:
            path.unlink()
            os.mkfifo(path)
        failure = refused(copy, key)
        assert isinstance(failure, IntegrityError), (name, failure)
        assert Path(name).name in f"{failure.message} {failure.subject}", (name, failure.message)


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
        failure = refused(copy, key)
        assert isinstance(failure, IntegrityError)
        assert name in failure.message


def test_unpacked_modes_and_directories_count(signed: Path, key: PrivateKey, tmp_path: Path) -> None:
    for name in files_of(signed / "unpacked"):
        copy = tmp_path / name.replace("/", "_")
        shutil.copytree(signed / "unpacked", copy)
        (copy / name).chmod(0o755)
        failure = refused(copy, key)
        assert isinstance(failure, IntegrityError)
        assert name in failure.message
    copy = tmp_path / "directory"
    shutil.copytree(signed / "unpacked", copy)
    (copy / "empty").mkdir()
    assert "empty" in refused(copy, key).message


def test_statements_of_others_do_not_count(signed: Path, key: PrivateKey) -> None:
    stranger = keys.generate("p256")
    failure = refused(signed / "layout", stranger)
    assert isinstance(failure, NegativeAnswer)
    assert key.public.fingerprint[:16] in failure.message


def test_unsigned_is_refused(key: PrivateKey, store: Store, tmp_path: Path) -> None:
    transport.save(bundles.make(store), tmp_path / "plain")
    failure = refused(tmp_path / "plain", key)
    assert isinstance(failure, NegativeAnswer)
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
    failure = refused(tmp_path / "forged", key)
    assert isinstance(failure, IntegrityError)
    assert "signed another bundle" in failure.message


def test_two_signers_may_sign_and_either_is_enough(key: PrivateKey, store: Store, tmp_path: Path) -> None:
    second = keys.generate("p384")
    transport.save(sign(sign(bundles.make(store), key), second), tmp_path / "b.bundle.tar")
    for signer in (key, second):
        answer = judge(tmp_path / "b.bundle.tar", signer)
        assert isinstance(answer, Verification)
        assert answer.signers == (signer.public.fingerprint,)


def test_signing_in_place_is_atomic_and_repeatable(key: PrivateKey, store: Store, tmp_path: Path) -> None:
    for form in ("b.bundle.tar", "layout"):
        transport.save(bundles.make(store), tmp_path / form)
        for _ in range(2):
            bundle = sign(open_bundle(str(tmp_path / form), no_store), key)
            transport.update_referrers(bundle)
            answer = judge(tmp_path / form, key)
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
    assert isinstance(refused(path, key), IntegrityError)


def test_sizes_of_eight_gibibytes_have_a_header() -> None:
    """Only pax can say them; the reader must recompute that header too."""
    assert archive.header("blobs/sha256/" + "a" * 64, 9 << 30)[156:157] == b"x"
