# SPDX-License-Identifier: Apache-2.0
"""Locks and the memo of source digests."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from packager.canonical import sha256
from packager.errors import IntegrityError, LockError
from packager.formats.wheel_locks import Dependencies, DistributionMetadata, Wheel
from packager.lock import lock as locks
from packager.lock.lock import Level, Lock
from packager.store.file_digests import Memo
from packager.types import Blob, Tree

WHEEL = Wheel(
    "numpy", "2.4.6", "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl", "ab" * 32, "https://files.pythonhosted.org/x"
)


def a_lock() -> Lock:
    about = DistributionMetadata("BSD-3-Clause", None, "Ada", "arrays", "https://numpy.org", ("click>=8",))
    locked = Dependencies(
        {"onnxruntime": ("numpy",)},
        {"onnxruntime": {"linux_x86_64-cp311": (WHEEL,)}},
        {WHEEL.pin: about},
        ("https://wheels.example.org/simple",),
    )
    tree = Tree.of({"model.onnx": Blob(sha256(b"x"), 1)})
    return Lock(
        "sha256:r",
        {"kind": "file", "uri": "file:x", "details": {}},
        tree,
        "onnx",
        "model.onnx",
        Level(18, 8),
        {"torch": "2.13.0"},
        locked,
    )


def test_a_lock_round_trips(tmp_path: Path) -> None:
    a_lock().save(tmp_path / "bundle.lock")
    assert locks.load(tmp_path / "bundle.lock") == a_lock()
    assert locks.load(tmp_path / "absent.lock") is None


@pytest.mark.parametrize("change", ["format", "tree", "files", "not json", "field", "list"])
def test_damaged_locks_are_refused(tmp_path: Path, change: str) -> None:
    value = a_lock().to_json()
    if change == "format":
        value["format"] = 1
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
