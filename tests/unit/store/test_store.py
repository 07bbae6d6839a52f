# SPDX-License-Identifier: Apache-2.0
"""The store: first writer wins, kills leave it usable, processes share it."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from packager import canonical, sources
from packager.actions.runner import Runner
from packager.errors import IntegrityError, StorageError, UsageError
from packager.files import copy, hold_lock
from packager.lock import locking
from packager.sandbox.sandbox import default_limits
from packager.store.entries import StoreEntry
from packager.store.store import Store
from packager.types import Action, Blob, Result, Tree


def runner(store: Store) -> Runner:
    return Runner(store, default_limits())


def writing(content: bytes) -> Callable[[Path], dict[str, int]]:
    def perform(out: Path) -> dict[str, int]:
        (out / "artefact").write_bytes(content)
        return {"size": len(content)}

    return perform


def test_blobs_are_read_back_checked(store: Store) -> None:
    blob = store.put(b"hello")
    assert store.get(blob.digest) == b"hello"
    path = store.path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"hellO")
    with pytest.raises(IntegrityError, match="damaged"):
        store.get(blob.digest)


def test_a_warm_action_executes_nothing(store: Store) -> None:
    action, run = Action("export", 1, params={"n": 1}), runner(store)
    first = run(action, "x", perform=writing(b"one"))
    second = run(action, "x", perform=writing(b"two"))
    assert (first.tree, first.facts) == (second.tree, second.facts)
    assert run.executed == 1
    assert second.cached


def test_a_failure_is_never_remembered(store: Store) -> None:
    action, run = Action("export", 1), runner(store)

    def fail(out: Path) -> None:
        (out / "half").write_bytes(b"x")
        raise OSError("broken")

    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            run(action, "x", perform=fail)
    assert run(action, "x", perform=writing(b"good")).facts == {"size": 4}
    assert not list((store.root / "tmp").iterdir())


def test_the_first_writer_wins(store: Store) -> None:
    key = Action("export", 1).key
    results = []
    for content in (b"one", b"two"):
        with store.scratch() as scratch:
            (scratch / "out").mkdir()
            (scratch / "out" / "a").write_bytes(content)
            results.append(store.remember(key, {}, Result(store.ingest(scratch / "out").digest, None)))
    assert results[0].tree == results[1].tree


def test_a_result_whose_blobs_are_gone_is_no_result(store: Store) -> None:
    action, run = Action("export", 1), runner(store)
    result = run(action, "x", perform=writing(b"one"))
    blob = store.tree(result.tree).get("artefact")
    assert blob
    store.path(blob.digest).unlink()
    assert run(action, "x", perform=writing(b"one")).facts == {"size": 3}
    assert run.executed == 2


def _race(root: Path, number: int) -> str:
    store = Store(root)
    return runner(store)(Action("compile", 1), "race", perform=writing(os.urandom(64))).tree


def test_processes_that_race_agree(store: Store, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        trees = pool.starmap(_race, [(tmp_path / "store", n) for n in range(8)])
    assert len(set(trees)) == 1


KILLED = """
import sys; from pathlib import Path
from packager.store.store import Store; from packager.actions.runner import Runner; from packager.sandbox.sandbox import default_limits
from packager.types import Action
store = Store(Path(sys.argv[1])); run = Runner(store, default_limits())
def perform(out):
    for n in range(40): (out / str(n)).write_bytes(bytes([n]) * 300_000)
    return {"n": 40}
print("ready", flush=True)
for n in range(1000): run(Action("export", n), "x", perform=perform)
"""


def test_a_kill_at_any_moment_leaves_a_usable_store(tmp_path: Path) -> None:
    seed = int(os.environ.get("FAULT_SEED", "20260101"))
    print(f"FAULT_SEED={seed}")
    chance = random.Random(seed)
    store = Store(tmp_path / "store")
    for _ in range(12):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "store")], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for record in (store.root / "actions").iterdir():
            result = store.recall(f"sha256:{record.name}")
            assert result is not None, "a visible record is complete"
            assert all(store.get(blob.digest) is not None for _, blob in store.tree(result.tree))
    assert store.sweep() >= 0
    assert not list((store.root / "tmp").iterdir()), "what killed processes left is swept"


def test_a_living_process_keeps_its_scratch(store: Store) -> None:
    with store.scratch() as scratch:
        assert Store(store.root.parent).sweep() == 0
        assert scratch.is_dir()


def test_a_blob_of_many_writes_is_whole_and_resumed(store: Store) -> None:
    """More than what waits for the disk at a time, at once and from the middle."""
    data = random.Random(3).randbytes(21 << 20)
    blob = Blob(canonical.sha256(data), len(data))
    store.receive(blob, lambda: io.BytesIO(data))
    assert store.path(blob.digest).read_bytes() == data
    store.path(blob.digest).unlink()
    partial = store.root / "partial" / blob.digest.removeprefix("sha256:")
    partial.write_bytes(data[: 10 << 20])
    counted: list[int] = []
    store.receive(blob, lambda: io.BytesIO(data), counted.append)
    assert store.path(blob.digest).read_bytes() == data and sum(counted) == len(data)


def test_unknown_bundles_get_a_hint(store: Store) -> None:
    store.name_bundle("digits", "1.0.0", StoreEntry("sha256:" + "0" * 64))
    with pytest.raises(UsageError) as caught:
        store.entry("digit", "1.0.0")
    assert "digits:1.0.0" in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_only_regular_files_enter(store: Store, kind: str) -> None:
    def perform(out: Path) -> None:
        (out / "x").symlink_to("/etc/passwd") if kind == "link" else os.mkfifo(out / "x")

    with pytest.raises(IntegrityError, match=r"symbolic link|not a regular"):
        runner(store)(Action("fetch", 1), "x", perform=perform)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    try:
        store = Store(disk)
        small = store.put(b"kept")
        with pytest.raises(StorageError, match="no space left") as caught:
            store.put(bytes(4 << 20))
        assert caught.value.hint
        assert store.get(small.digest) == b"kept"
        assert not list((store.root / "tmp").iterdir())
        assert store.put(b"works again")
        store.release()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_deleted_lock_file_is_no_lock(tmp_path: Path) -> None:
    """Who waited for a lock whose holder deletes the file must wait for the next one like everybody."""
    path, inside, most = tmp_path / "lock", [], []

    def work(number: int, started: threading.Event) -> None:
        started.set()
        with hold_lock(path):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            path.unlink()
            inside.remove(number)

    threads = []
    with hold_lock(path):
        for number in range(4):
            started = threading.Event()
            threads.append(threading.Thread(target=work, args=(number, started)))
            threads[-1].start()
            started.wait()
        time.sleep(0.1)  # all four wait for the file that is deleted now
        path.unlink()
        late = threading.Thread(target=work, args=(9, threading.Event()))
        late.start()
        time.sleep(0.01)
    for thread in (*threads, late):
        thread.join()
    assert most == [1] * 5, "never two at once"


class _Stingy(io.RawIOBase):
    """An unbuffered file on a disk that is nearly full: it takes a part and says so."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        self.data += bytes(data[:1000])
        return min(len(data), 1000)


def test_a_short_write_is_not_the_end() -> None:
    """POSIX lets write() take less than given; ignoring that once left a truncated blob under its full digest."""
    sink, content = _Stingy(), os.urandom(12_345)
    blob = copy(io.BytesIO(content), sink, limit=20_000)
    assert sink.data == content
    assert blob.size == 12_345


def test_ingesting_does_not_read_again_what_was_hashed(store: Store) -> None:
    """A wrong word shows that the bytes were not read; every other file is."""
    with store.scratch() as scratch:
        (scratch / "out").mkdir()
        (scratch / "out" / "told").write_bytes(b"one")
        (scratch / "out" / "found").write_bytes(b"two")
        told = Blob(canonical.sha256(b"another"), 3)
        tree = store.ingest(scratch / "out", {"told": told})
    assert dict(tree.files) == {"told": told, "found": Blob(canonical.sha256(b"two"), 3)}


def test_local_source_is_read_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights.bin").write_bytes(os.urandom(3 << 20))
    (tmp_path / "recipe").mkdir()
    settings = sources.Settings(tmp_path / "recipe", "../source")
    pin = sources.load("directory").resolve("../source", settings)
    read = []
    monkeypatch.setattr("packager.store.store.digest_of", lambda *args, **more: read.append(args))
    tree = locking.fetch(pin, runner(store), settings)
    assert not read
    assert tree.to_json() == pin.details["files"]


def test_a_damaged_blob_is_no_input(store: Store, tmp_path: Path) -> None:
    blob = store.put(b"weights of a well known public model")
    path = store.path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"EVIL".ljust(blob.size))
    with pytest.raises(IntegrityError, match="is damaged"):
        store.checkout(Tree.of({"model.bin": blob}), tmp_path / "in")
    path.write_bytes(b"longer than it was".ljust(blob.size + 9))
    with pytest.raises(IntegrityError, match="is damaged"):
        store.checkout(Tree.of({"model.bin": blob}), tmp_path / "again")
