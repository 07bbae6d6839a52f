# SPDX-License-Identifier: Apache-2.0
"""Housekeeping removes what nothing needs, and never what a living process, a bundle or a remembered step needs."""

from __future__ import annotations

import fcntl
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from packager.actions.runner import Runner
from packager.errors import IntegrityError
from packager.release.sign import sign
from packager.sandbox.sandbox import default_limits
from packager.store import collector, environments
from packager.store.store import Store
from packager.transport import copy, writers
from packager.trust import keys
from packager.trust.verify import verify
from packager.types import Action, Blob, Result, Tree
from tests.support import bundles


def digests(store: Store) -> set[str]:
    return {f"sha256:{path.name}" for path in (store.root / "blobs" / "sha256").iterdir()}


def again(store: Store) -> Store:
    """The same store, as a process that just started sees it."""
    store.release()
    return Store(store.root.parent)


def remembered(store: Store, number: int) -> str:
    def perform(out: Path) -> None:
        (out / "artefact").write_bytes(b"step %d" % number)

    return Runner(store, default_limits())(Action("export", number), "x", perform=perform).tree


def test_only_unused_blobs_are_deleted(store: Store) -> None:
    key = keys.generate_key("p256")
    copy.update_referrers(sign(bundles.make(store), key))
    tree = remembered(store, 1)
    needed = collector.bundle_digests(store) | collector.step_digests(store)
    orphan = store.put(b"not in use at all").digest
    store = again(store)
    assert collector.measure_store(store).unneeded >= 17
    freed = collector.collect_store(store)
    assert orphan not in digests(store)
    assert freed.size >= 17
    assert needed <= digests(store)
    assert store.has_tree(tree)
    bundle = bundles.read(bundles.StoredBundle(store, store.entry("tiny", "1.0.0"), "tiny"))
    assert verify(bundle, [key.public]).ok
    assert collector.collect_store(again(store)) == collector.Freed(0, 0, 0)


def test_steps_are_forgotten_on_request_only(store: Store) -> None:
    tree = remembered(store, 1)
    assert collector.collect_store(again(store)).steps == 0
    assert collector.collect_store(again(store), steps=True).steps == 1
    assert tree not in digests(store)
    assert remembered(again(store), 1) == tree


def test_leased_blobs_are_kept(store: Store) -> None:
    orphan = store.put(b"used").digest
    other = Store(store.root.parent)
    assert collector.measure_store(other).in_use >= 4
    collector.collect_store(other)
    assert orphan in digests(store)
    collector.collect_store(again(store))
    assert orphan not in digests(store)


def test_blob_in_a_lease_is_kept(store: Store) -> None:
    """A build that finds its input in the store does not write it again: seeing must be enough."""
    orphan = store.put(b"from an earlier process").digest
    seeing = again(store)
    assert seeing.has(orphan)
    collector.collect_store(Store(store.root.parent))
    assert seeing.get(orphan)


def environment(store: Store, name: str, step: int | None = None) -> Path:
    """Put a directory where an environment would be; with `step`, remember that this step ran in it."""
    place = store.root / environments.TOOLCHAINS / name
    (place / "lib").mkdir(parents=True)
    (place / "lib" / "module.py").write_bytes(b"x" * 100)
    if step is not None:
        store.remember(Action("export", step).key, {}, Result(store.put_tree(Tree.of({})).digest, {}), name)
    return place


def test_environments_in_use_are_kept(store: Store) -> None:
    used, held, lost, begun = (
        environment(store, name, step)
        for name, step in (("a1", 1), ("b2", None), ("c3", None), (".d4.staging-x", None))
    )
    (begun.parent / ".d4.lock").touch()
    building = again(store)
    building.hold_environment("b2")
    assert collector.measure_store(building).environments == 400
    freed = collector.collect_store(Store(store.root.parent))
    assert (freed.environments, freed.size >= 200) == (2, True)
    assert {path.name for path in lost.parent.iterdir()} == {"a1", "b2"}
    assert collector.collect_store(again(building)).environments == 1
    assert used.is_dir() and not held.exists()
    assert collector.collect_store(Store(store.root.parent), steps=True).environments == 1
    assert not list(lost.parent.iterdir()) and not list((store.root / "tmp").iterdir())


def test_linked_environments_are_not_collected(store: Store, tmp_path: Path) -> None:
    (tmp_path / "shared" / "e1").mkdir(parents=True)
    (store.root / environments.TOOLCHAINS).symlink_to(tmp_path / "shared")
    assert collector.collect_store(store).environments == 0
    assert (tmp_path / "shared" / "e1").is_dir()


BUILD = """
import sys, os, time; from pathlib import Path
from packager.store.entries import StoreEntry; from packager.store.store import Store; from packager.types import Tree
from packager.formats import modelpack
from packager import canonical
sys.path.insert(0, sys.argv[2])
from tests.support import bundles
store, seed = Store(Path(sys.argv[1])), int(sys.argv[3])
import random; chance = random.Random(seed)
for number in range(25):
    files = {f"model/weights-{n:04}.bin": b"%d" % chance.randrange(6) * 2000 for n in range(1, 6)}
    bundle = bundles.make(store, files, name=f"b{seed % 2}", version=f"1.0.{number % 3}")
    time.sleep(chance.uniform(0, 0.01))
    for path, blob in bundle.tree: assert store.path(blob.digest).is_file(), (number, path)
    bundle.read("bundle.json"); assert all(len(bundle.read(path)) == blob.size for path, blob in bundle.tree)
"""


def test_collecting_during_builds_breaks_none(tmp_path: Path) -> None:
    """Builds share contents and overwrite each other's names while a collector runs all the time."""
    seed = int(os.environ.get("FAULT_SEED", "20261121"))
    print(f"FAULT_SEED={seed}")
    root = Path(__file__).resolve().parents[3]
    store = Store(tmp_path / "store")
    command = [sys.executable, "-c", BUILD, str(tmp_path / "store"), str(root)]
    builds = [subprocess.Popen([*command, str(seed + n)], stderr=subprocess.PIPE, text=True) for n in range(3)]
    rounds = 0
    while any(build.poll() is None for build in builds):
        collector.collect_store(store, steps=True)
        rounds += 1
    for build in builds:
        assert build.stderr
        assert build.wait() == 0, build.stderr.read()
        build.stderr.close()
    assert rounds > 3
    collector.collect_store(store)
    condition = collector.check(store)
    assert not condition.damaged
    assert not condition.incomplete
    assert not list((store.root / "leases").iterdir())


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from pathlib import Path; from packager.store.store import Store\n"
        "Store(Path(sys.argv[1])).put(b'orphan'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=False)
    store = Store(tmp_path / "s")
    assert len(digests(store)) == 1
    collector.collect_store(store)
    assert not digests(store)


def test_partial_blobs_are_deleted_unless_being_received(store: Store) -> None:
    (store.root / "partial" / ("a" * 64)).write_bytes(b"half")
    collector.collect_store(store)
    assert not list((store.root / "partial").iterdir())
    with (store.root / "partial" / ("b" * 64)).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        collector.collect_store(Store(store.root.parent))
        assert list((store.root / "partial").iterdir())


@pytest.mark.parametrize("remove", [False, True])
def test_verifying_finds_every_damaged_blob(store: Store, tmp_path: Path, remove: bool) -> None:
    bundle = bundles.make(store)
    chance = random.Random(1)
    victim = chance.choice([blob for _, blob in bundle.tree])
    path = store.path(victim.digest)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    found = collector.check(store, remove=remove)
    assert found.damaged == (victim.digest,)
    assert found.incomplete == (("tiny:1.0.0",) if remove else ())
    if remove:
        again_made = bundles.make(store)
        assert again_made.digest == bundle.digest
        assert not collector.check(store).damaged


def test_a_wrong_stream_leaves_nothing(store: Store) -> None:
    with pytest.raises(IntegrityError):
        store.receive(Blob("sha256:" + "0" * 64, 3), lambda: io.BytesIO(b"abc"))
    assert not digests(store)
    assert not list((store.root / "partial").iterdir())
    bundle = bundles.make(store)
    other = Store(store.root.parent.parent / "other")
    assert copy.copy(bundle, writers.write_local(other, verified=True)) == bundle.size
    assert copy.copy(bundle, writers.write_local(other, verified=True)) == 0
