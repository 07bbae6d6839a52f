# SPDX-License-Identifier: Apache-2.0
"""Deltas: small where little changed, exact always, and harmless when they lie."""

from __future__ import annotations

import io
import os
import random
import struct
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager import canonical
from packager.bundle import single_file
from packager.bundle.bundle import Bundle, open_bundle
from packager.errors import IntegrityError, PackagerError, UsageError
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy, delta, patch, writers
from packager.trust import keys
from packager.trust.verify import verify
from tests.support import bundles
from tests.support.breadth import examples

KEY = keys.generate_key("p256")
MB = 1 << 20


def floats(chance: random.Random, count: int) -> bytes:
    return struct.pack(f"<{count}f", *(chance.gauss(0, 0.02) for _ in range(count)))


def patched(new: bytes, old: bytes) -> bytes:
    return b"".join(patch.make_patch(io.BytesIO(new), io.BytesIO(old)))


def restored(made: bytes, old: bytes, size: int) -> bytes:
    return cast(BinaryIO, patch.Patched(io.BytesIO(made), io.BytesIO(old), size, "x")).read()


@given(st.binary(max_size=5000), st.binary(max_size=5000), st.integers(0, 3))
@settings(max_examples=examples(60), deadline=None)
def test_a_patch_gives_the_new_bytes(one: bytes, two: bytes, repeat: int) -> None:
    new, old = one * repeat + two, two + one * repeat
    assert restored(patched(new, old), old, len(new)) == new


@pytest.mark.parametrize("size", [1, 4 * MB - 1, 4 * MB, 4 * MB + 1, 9 * MB + 3])
def test_patches_across_segments(size: int) -> None:
    chance = random.Random(size)
    old = chance.randbytes(size)
    changed = bytearray(old)
    for _ in range(5):
        changed[chance.randrange(size)] ^= 255
    inserted = old[: size // 2] + b"a few bytes more" + old[size // 2 :]
    for new in (bytes(changed), inserted, old[:-1], b"", old + bytes(3 * MB)):
        made = patched(new, old)
        assert restored(made, old, len(new)) == new
        assert len(made) < max(size // 50, 200), "little changed, little is sent"
    assert patched(inserted, old) == patched(inserted, old)


def test_a_further_training_step_compresses() -> None:
    """Every weight moves a little: prefix matching finds nothing, the byte planes do."""
    chance = random.Random(7)
    values = [chance.gauss(0, 0.02) for _ in range(200_000)]
    old = struct.pack(f"<{len(values)}f", *values)
    new = struct.pack(f"<{len(values)}f", *(value * (1 + chance.gauss(0, 1e-4)) for value in values))
    assert len(patched(new, old)) < 0.7 * len(new)


@pytest.fixture
def pair(store: Store, tmp_path: Path) -> tuple[Bundle, Bundle]:
    chance = random.Random(1)
    weights = {f"model/weights-{n:04}.bin": chance.randbytes(2 * MB) for n in range(1, 5)}
    old = sign(bundles.make(store, weights), KEY)
    changed = bytearray(weights["model/weights-0004.bin"])
    changed[1000:21000] = chance.randbytes(20000)
    files = {**weights, "model/weights-0004.bin": bytes(changed), "NEW.md": b"# new"}
    new = sign(bundles.make(store, files, version="1.0.1"), KEY)
    copy.save(old, tmp_path / "old.bundle.tar")
    copy.save(new, tmp_path / "new.bundle.tar")
    return old, new


def no_store() -> Store:
    raise AssertionError


def reopened(path: Path) -> Bundle:
    return open_bundle(str(path), no_store)


def test_the_new_bundle_comes_out_byte_for_byte(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    old, new = pair
    made = delta.write_delta(old, new, tmp_path / "d.bundle-delta.tar")
    assert made.size < 0.01 * made.full
    assert made.size == (tmp_path / "d.bundle-delta.tar").stat().st_size
    copy.save(delta.open_delta(tmp_path / "d.bundle-delta.tar", old), tmp_path / "out.bundle.tar")
    assert (tmp_path / "out.bundle.tar").read_bytes() == (tmp_path / "new.bundle.tar").read_bytes()
    assert verify(reopened(tmp_path / "out.bundle.tar"), [KEY.public]).ok
    store = Store(tmp_path / "other")
    copy.copy(delta.open_delta(tmp_path / "d.bundle-delta.tar", old), writers.write_local(store, verified=True))
    assert store.entry("tiny", "1.0.1").manifest == new.digest


def test_a_delta_is_deterministic_whatever_the_medium(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    old, new = pair
    delta.write_delta(old, new, tmp_path / "1.tar")
    delta.write_delta(reopened(tmp_path / "old.bundle.tar"), reopened(tmp_path / "new.bundle.tar"), tmp_path / "2.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_nothing_changed_and_everything_changed(pair: tuple[Bundle, Bundle], store: Store, tmp_path: Path) -> None:
    old, new = pair
    assert delta.write_delta(old, old, tmp_path / "same.tar").size < 20_000
    other = bundles.make(store, {"model/weights-0009.bin": os.urandom(3 * MB)}, version="2.0.0")
    made = delta.write_delta(new, other, tmp_path / "all.tar")
    assert made.size < made.full + 20_000
    copy.save(delta.open_delta(tmp_path / "all.tar", new), tmp_path / "layout")
    assert reopened(tmp_path / "layout").digest == other.digest


def test_the_wrong_old_bundle_is_refused(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    old, new = pair
    delta.write_delta(old, new, tmp_path / "d.tar")
    with pytest.raises(UsageError, match="applies to another bundle"):
        delta.open_delta(tmp_path / "d.tar", new)


def test_a_damaged_old_bundle_is_noticed(pair: tuple[Bundle, Bundle], store: Store, tmp_path: Path) -> None:
    old, new = pair
    delta.write_delta(old, new, tmp_path / "d.tar")
    blob = old.tree.get("model/weights-0004.bin")
    assert blob
    path = store.path(blob.digest)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(MB)
        file.write(b"damage")
    with pytest.raises(IntegrityError, match="damaged"):
        copy.save(delta.open_delta(tmp_path / "d.tar", old), tmp_path / "out.tar")
    with pytest.raises(IntegrityError, match="damaged"):
        delta.write_delta(old, new, tmp_path / "e.tar")
    assert not (tmp_path / "out.tar").exists()
    assert not (tmp_path / "e.tar").exists()


def test_no_flipped_byte_gives_another_bundle(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    old, new = pair
    path = tmp_path / "d.tar"
    delta.write_delta(old, new, path)
    good, chance = path.read_bytes(), random.Random(3)
    expected = (tmp_path / "new.bundle.tar").read_bytes()
    accepted = 0
    for position in [*range(0, 2048, 37), *(chance.randrange(len(good)) for _ in range(150))]:
        data = bytearray(good)
        data[position] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            copy.save(delta.open_delta(path, old), tmp_path / "out.tar")
        except PackagerError as error:
            assert isinstance(error, IntegrityError | UsageError), error
        else:
            accepted += 1
            assert (tmp_path / "out.tar").read_bytes() == expected, position
            (tmp_path / "out.tar").unlink()
    assert accepted < 60, "only what nothing covers may change: bytes that no digest sees do not exist in the result"


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with path.open("wb") as file:
        for name, data in members.items():
            file.write(single_file.write_header(name, len(data)) + data + bytes(single_file.count_padding(len(data))))
        file.write(single_file.write_trailer(file.tell()))
    return path


def members_of(path: Path) -> dict[str, bytes]:
    tar = single_file.CanonicalTar(path)
    return {name: tar.read(name, limit=1 << 30) for name in tar.members}


HOSTILE_SEGMENTS = {
    "length": struct.pack(">BI", 2, 0xFFFFFFFF),
    "method": struct.pack(">BI", 9, 1) + b"x",
    "empty": b"",
    "garbage": struct.pack(">BI", 1, 5) + b"hello",
    "bomb": struct.pack(">BI", 2, 14) + b"\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\x0f\x00",
}


@pytest.mark.parametrize("kind", [*HOSTILE_SEGMENTS, "extra", "record", "fields", "self", "unknown base"])
def test_hostile_deltas_are_refused(pair: tuple[Bundle, Bundle], tmp_path: Path, kind: str) -> None:
    old, new = pair
    delta.write_delta(old, new, tmp_path / "d.tar")
    members = members_of(tmp_path / "d.tar")
    blob = new.tree.get("model/weights-0004.bin")
    assert blob
    digest, name = blob.digest, delta.patch_path(blob.digest)
    record = canonical.load(members["delta.json"], limit=1 << 20)
    if kind in HOSTILE_SEGMENTS:
        members[name] = HOSTILE_SEGMENTS[kind]
    elif kind == "extra":
        members["blobs/sha256/" + "0" * 64] = b"x"
    elif kind == "record":
        members["delta.json"] = b"[1]"
    elif kind == "fields":
        members["delta.json"] = canonical.dump({**record, "extra": 1})
    else:
        base = digest if kind == "self" else "sha256:" + "1" * 64
        members["delta.json"] = canonical.dump({**record, "patches": {**record["patches"], digest: [base, 1]}})
    with pytest.raises(IntegrityError):
        copy.save(delta.open_delta(write_tar(tmp_path / "x.tar", members), old), tmp_path / "out.tar")
    assert not (tmp_path / "out.tar").exists()
