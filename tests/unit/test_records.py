# SPDX-License-Identifier: Apache-2.0
"""Locks, requirements, SBOM and the memo of source digests."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st

from packager import lock as locks
from packager.canonical import sha256
from packager.errors import IntegrityError, LockError
from packager.formats import cyclonedx, requirements
from packager.lock import Level, Lock
from packager.memo import Memo
from packager.types import Blob, Tree

TEXT = """numpy==2.4.6 ; python_full_version >= '3.11' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
onnxruntime==1.31.1 \\
    --hash=sha256:cc
"""


def a_lock() -> Lock:
    tree = Tree.of({"model.onnx": Blob(sha256(b"x"), 1)})
    return Lock("sha256:r", {"kind": "file", "uri": "file:x", "details": {}}, tree, "onnx", "model.onnx", Level(18, 8),
                {"torch": "2.13.0"}, {"onnxruntime": TEXT})  # fmt: skip


def test_a_lock_round_trips(tmp_path: Path) -> None:
    a_lock().save(tmp_path / "bundle.lock")
    assert locks.load(tmp_path / "bundle.lock") == a_lock()
    assert locks.load(tmp_path / "absent.lock") is None


@pytest.mark.parametrize("change", ["format", "tree", "files", "not json", "field", "list"])
def test_damaged_locks_are_refused(tmp_path: Path, change: str) -> None:
    value = a_lock().to_json()
    if change == "format":
        value["format"] = 2
    elif change == "tree":
        value["source"]["tree"] = "sha256:" + "0" * 64
    elif change == "files":
        value["source"]["files"]["other"] = [sha256(b"y"), 1]
    elif change == "field":
        del value["toolchain"]
    text = "[]" if change == "list" else "{" if change == "not json" else json.dumps(value)
    (tmp_path / "bundle.lock").write_text(text)
    with pytest.raises(LockError, match="not a lock"):
        locks.load(tmp_path / "bundle.lock")


def test_requirements_are_read_as_pip_reads_them() -> None:
    first, second = requirements.parse(TEXT)
    assert (first.name, first.version, first.marker) == ("numpy", "2.4.6", "python_full_version >= '3.11'")
    assert first.hashes == ("sha256:aa", "sha256:bb")
    assert (second.name, second.marker, second.hashes) == ("onnxruntime", "", ("sha256:cc",))


names = st.text("abcdefghij-", min_size=1, max_size=12)


@given(st.lists(st.tuples(names, st.integers(0, 9)), max_size=5), st.none() | st.just("MIT"), st.none() | names)
def test_any_sbom_is_valid_and_stable(
    pins: list[tuple[str, int]], licence: str | None, description: str | None
) -> None:
    model = cyclonedx.Model(
        "m", "1.0.0", licence, description, ("Ada",), [{"name": "x", "dtype": "float32", "shape": ["batch"]}], []
    )
    listed = [requirements.Pinned(name, f"{number}.0", "", ("sha256:aa",)) for name, number in pins]
    files = [("model/model.onnx", Blob(sha256(b"x"), 1))]
    data = cyclonedx.describe(model, files, {"onnxruntime": listed})
    assert data == cyclonedx.describe(model, files, {"onnxruntime": listed})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None


def test_the_memo_never_returns_an_old_digest(tmp_path: Path) -> None:
    memo, path = Memo(tmp_path / "memo"), tmp_path / "weights"
    for content in (b"one", b"two", b"six"):  # same size, written within the granularity of the clock
        path.write_bytes(content)
        assert memo.blob_of(path).digest == sha256(content)
    status = path.stat()
    path.write_bytes(b"xxx")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # a forged mtime does not help: ctime moved
    assert memo.blob_of(path).digest == sha256(b"xxx")


def test_the_memo_answers_from_its_record(tmp_path: Path) -> None:
    """Seen by changing the record: the answer follows it, so the file was not read."""
    memo, path = Memo(tmp_path / "memo"), tmp_path / "weights"
    path.write_bytes(b"weights")
    time.sleep(2.1)  # only a record that is clearly younger than the file is trusted
    memo.blob_of(path)
    (record,) = (tmp_path / "memo").iterdir()
    record.write_text(json.dumps([sha256(b"other"), 7]))
    assert memo.blob_of(path).digest == sha256(b"other")


def test_the_memo_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(IntegrityError, match="symbolic link"):
        Memo(tmp_path / "memo").blob_of(tmp_path / "link")
