# SPDX-License-Identifier: Apache-2.0
"""Transfers that are killed, cut, starved of space, lied to and restarted, at random points.

Whatever happens, three things hold: no wrong byte is ever accepted, the store stays usable, and repeating the command
finishes the job without sending again what had arrived. `FAULT_SEED` repeats a run, `FAULT_RUNS` sets their number.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from packager.bundle.bundle import Bundle, open_bundle
from packager.release.sign import sign
from packager.store import collector
from packager.store.store import Store
from packager.transport import copy
from packager.trust import keys
from packager.trust.verify import verify
from tests.e2e.conftest import tool
from tests.support import bundles, registry_server
from tests.support.object_store import ObjectStore, object_store
from tests.support.registry_server import Proxy, Registry

SEED = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(1 << 32)))
GREETING = 4_000  # bytes of the first requests, both ways
TALK = 400_000  # bytes of headers, listings and the documents that a transfer reads to open a bundle, both ways
FEW = 2  # of the faults, others in each run
MANY = int(os.environ.get("FAULT_RUNS", "238"))
KEY = keys.generate_key("p256")
ENDINGS = {0, 3, 4, 5}  # done, network, disk, integrity; anything else would be a bug


@dataclass
class World:
    """A registry and an object store, a proxy in front of each, one signed bundle, and the command line."""

    root: Path
    registry: Registry
    proxy: Proxy
    store: ObjectStore
    store_proxy: Proxy
    bundle: Bundle
    original: bytes
    chance: random.Random
    number: int = 0

    def begin(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.number += 1
        self.folder = self.root / f"run-{self.number}"
        self.folder.mkdir()
        self.store_root = self.folder / "store"

    def end(self) -> None:
        for proxy in (self.proxy, self.store_proxy):
            proxy.arm(-1, lambda: None)
            proxy.flip(-1)
            proxy.cut()
        files = self.store.files()
        if files.exists(f"models/{self.name}"):
            files.rm(f"models/{self.name}", recursive=True)  # it is all in the server's memory
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def name(self) -> str:
        """A repository that no other run has used."""
        return f"faults/run{self.number}/tiny"

    def spawn(self, *arguments: str | Path, **extra: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PACKAGER_STORE": str(self.store_root),
            **self.store.environment(self.store_proxy.port),
            **extra,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "packager", *map(str, arguments), "--quiet"],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path, **extra: str) -> int:
        process = self.spawn(*arguments, **extra)
        _, stderr = process.communicate(timeout=600)
        assert "Traceback" not in stderr, stderr
        assert process.returncode in ENDINGS | {-signal.SIGKILL}, stderr
        return process.returncode

    def sound(self) -> Store:
        """Assert that the store holds no wrong byte and no bundle that lacks one."""
        store = Store(self.store_root)
        store.sweep()
        condition = collector.check(store)
        assert not condition.damaged
        assert not condition.incomplete
        assert not list((store.root / "tmp").iterdir())
        return store

    def seed_registry(self) -> None:
        assert self.run("push", self.root / "b.bundle.tar", f"oci://{self.registry.host}/{self.name}") == 0

    def reference(self, host: str) -> str:
        return f"oci://{host}/{self.name}:1.0.0"

    @property
    def address(self) -> str:
        """Where the bundle lies in the object store."""
        return f"s3://models/{self.name}/tiny:1.0.0"

    def objects(self) -> set[str]:
        """Return the blobs that the object store has of this run."""
        return {path.rpartition("/")[2] for path in self.store.files().find(f"models/{self.name}/tiny/1.0.0/blobs")}

    def anywhere(self) -> int:
        """A number of bytes at which something happens: anywhere in the transfer, its ends more often."""
        whole = self.bundle.size
        return self.chance.choice([self.chance.randrange(whole), self.chance.randrange(20_000), whole - 1])

    def pulls_and_compares(self) -> None:
        """Finish the pull without faults and compare the result byte for byte."""
        assert self.run("pull", self.reference(self.registry.host), "-o", self.folder / "got.bundle.tar") == 0
        assert (self.folder / "got.bundle.tar").read_bytes() == self.original
        self.sound()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("faults")
    chance = random.Random(5)
    files = {f"model/weights-{n:04}.bin": chance.randbytes(2 << 20) for n in range(1, 5)}
    files["model/weights-0009.bin"] = chance.randbytes((40 << 20) + 17)  # larger than one piece of an upload
    bundle = sign(bundles.make(Store(root / "store"), files), KEY)
    copy.save(bundle, root / "b.bundle.tar")
    keys.save(KEY, root / "k.pem", root / "k.pub", None)
    running = registry_server.registry(tool("docker-registry"), root / "registry")
    with running as registry, object_store(root / "objects") as store:
        proxy, store_proxy = Proxy(registry.port), Proxy(store.port)
        original = (root / "b.bundle.tar").read_bytes()
        yield World(root, registry, proxy, store, store_proxy, bundle, original, chance)
        proxy.close()
        store_proxy.close()


def partial_sizes(world: World) -> dict[str, int]:
    folder = world.store_root / "v1" / "partial"
    return {f"sha256:{path.name}": path.stat().st_size for path in folder.iterdir()} if folder.is_dir() else {}


def finishes_a_pull_sending_only_the_rest(world: World) -> None:
    """Repeat a broken pull; the registry's log must show that nothing that had arrived was sent again."""
    store = world.sound()
    have = partial_sizes(world)
    there = {blob.digest for _, blob in world.bundle.tree if store.path(blob.digest).is_file()}
    start = world.registry.position()
    world.pulls_and_compares()
    for _, blob in world.bundle.tree:
        rows = [row for row in world.registry.rows(start) if row.method == "GET" and blob.digest in row.path]
        resumed = [row.sent for row in rows if row.status == 206]
        if blob.digest in there and blob.size > 100_000:  # bundle.json is read to open the bundle
            assert not resumed, "what is complete is not fetched again"
        elif have.get(blob.digest, 0):  # a row with 200 is the killed process's own, logged late
            missing = blob.size - have[blob.digest]
            assert resumed == ([missing] if missing else []), "only the missing part"


def finishes_a_push_sending_only_the_rest(world: World) -> None:
    there = world.registry.blobs(world.name)
    assert world.run("push", world.root / "b.bundle.tar", f"oci://{world.registry.host}/{world.name}") == 0
    puts = [row for row in world.registry.rows() if row.method == "PUT" and f"/{world.name}/blobs/uploads/" in row.path]
    for digest in there:  # over the whole run: a killed client's last row is logged late, a killed registry's never
        stored = [row for row in puts if row.status == 201 and digest.replace(":", "%3A") in row.path]
        assert len(stored) <= 1, "what is complete is not sent again"
    world.pulls_and_compares()


def killed_pull(world: World) -> None:
    world.seed_registry()
    process = world.spawn("pull", world.reference(world.proxy.host))
    world.proxy.arm(world.anywhere(), process.kill)
    process.communicate()
    finishes_a_pull_sending_only_the_rest(world)


def cut_pull(world: World) -> None:
    """The connection breaks, perhaps several times: the program goes on by itself.

    After the first time, the greeting gets through: three breaks in it are a registry that is not there.
    """
    world.seed_registry()
    cuts = world.chance.randrange(1, 4)

    def cut() -> None:
        nonlocal cuts
        cuts -= 1
        threading.Thread(target=world.proxy.cut).start()
        if cuts:
            world.proxy.arm(GREETING + world.anywhere() // 3, cut)

    world.proxy.arm(world.anywhere(), cut)
    start = world.registry.position()
    assert world.run("pull", world.reference(world.proxy.host), "-o", world.folder / "g.bundle.tar") == 0
    assert (world.folder / "g.bundle.tar").read_bytes() == world.original
    again = [row for row in world.registry.rows(start) if row.status == 206]
    assert all(row.sent < world.bundle.size for row in again)
    world.sound()


def killed_push(world: World) -> None:
    process = world.spawn("push", world.root / "b.bundle.tar", f"oci://{world.proxy.host}/{world.name}")
    world.proxy.arm(world.anywhere(), process.kill)
    process.communicate()
    finishes_a_push_sending_only_the_rest(world)


def cut_push(world: World) -> None:
    world.proxy.arm(world.anywhere(), lambda: threading.Thread(target=world.proxy.cut).start())
    assert world.run("push", world.root / "b.bundle.tar", f"oci://{world.proxy.host}/{world.name}") == 0
    world.pulls_and_compares()


def restarted_registry(world: World) -> None:
    """The registry is killed and comes back while a transfer runs."""
    push = world.chance.random() < 0.5
    if not push:
        world.seed_registry()
    back = threading.Event()

    def restart() -> None:
        world.registry.restart()
        back.set()

    world.proxy.arm(world.anywhere(), lambda: threading.Thread(target=restart).start())
    there = world.reference(world.proxy.host)
    code = world.run("push", world.root / "b.bundle.tar", there) if push else world.run("pull", there)
    if not world.proxy.fired.is_set():
        restart()
    assert back.wait(30)
    assert code == 0, "a restart is waited for"
    finishes_a_push_sending_only_the_rest(world)


def flipped_bit(world: World) -> None:
    """A bit changes on its way: refused, or without effect; never accepted."""
    world.seed_registry()
    world.proxy.flip(world.anywhere())
    code = world.run("pull", world.reference(world.proxy.host))
    store = world.sound()
    if code == 0:  # it was not verified
        assert store.quarantined() == [world.bundle.digest]
    world.proxy.flip(-1)
    world.pulls_and_compares()


def full_disk(world: World) -> None:
    """The store, or the place of an export, is a small file system that fills up."""
    disk = world.folder / "disk"
    disk.mkdir()
    size = world.chance.randrange(1 << 20, world.bundle.size + (8 << 20))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        if world.chance.random() < 0.5:
            world.store_root = disk / "store"
            code = world.run("import", world.root / "b.bundle.tar")
        else:
            code = world.run("export", world.root / "b.bundle.tar", disk / "out.bundle.tar")
            assert (disk / "out.bundle.tar").exists() is (code == 0), "complete or absent"
        assert code in (0, 4)
        if code == 4:
            used = sum(path.lstat().st_size for path in disk.rglob("*") if path.is_file() and "out" in path.name)
            assert used == 0, "a full disk is not left full"
        if world.store_root.is_relative_to(disk):
            world.sound().release()
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            assert world.run("import", world.root / "b.bundle.tar") == 0
            world.sound().release()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def truncated_file(world: World) -> None:
    path = world.folder / "cut.bundle.tar"
    path.write_bytes(world.original[: world.chance.randrange(len(world.original))])
    assert world.run("import", path) == 5
    assert not world.sound().bundles()


def killed_export(world: World) -> None:
    target = world.folder / ("out.bundle.tar" if world.chance.random() < 0.5 else "out")
    process = world.spawn("export", world.root / "b.bundle.tar", target)
    timer = threading.Timer(world.chance.uniform(0.1, 0.6), process.kill)
    timer.start()
    process.communicate()
    timer.cancel()
    if target.exists():
        opened = open_bundle(str(target), lambda: Store(world.store_root))
        assert verify(opened, [KEY.public]).ok, "what is there is complete"
    assert world.run("export", world.root / "b.bundle.tar", target) == 0
    leftovers = [path.name for path in world.folder.iterdir() if "staging" in path.name]
    assert not leftovers, "the next one cleans up after a killed one"


def two_pulls_at_once(world: World) -> None:
    world.seed_registry()
    world.proxy.arm(world.anywhere(), lambda: threading.Thread(target=world.proxy.cut).start())
    pulls = [world.spawn("pull", world.reference(world.proxy.host)) for _ in range(2)]
    for pull in pulls:
        _, stderr = pull.communicate(timeout=600)
        assert pull.returncode == 0, stderr
    world.pulls_and_compares()


def jumping_clock(world: World) -> None:
    """The clock jumps by years while a pull runs, and times of files say nothing either."""
    library, clock = faketime_library(), world.folder / "clock"
    clock.write_text("+0\n")
    faked = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    jump = world.chance.choice(["-20y", "+20y", "-3600", "+3600"])
    killed = world.chance.random() < 0.5
    world.seed_registry()

    def act() -> None:
        clock.write_text(f"{jump}\n")
        if killed:
            process.kill()

    process = world.spawn("pull", world.reference(world.proxy.host), **faked)
    world.proxy.arm(world.anywhere(), act)
    _, stderr = process.communicate()
    assert process.returncode == (-signal.SIGKILL if killed and world.proxy.fired.is_set() else 0), stderr
    for path in world.store_root.rglob("*"):
        when = world.chance.choice([0, 4_000_000_000])
        os.utime(path, (when, when))
    collector.measure_store(world.sound())
    finishes_a_pull_sending_only_the_rest(world)
    clock.write_text(f"{jump}\n")
    assert world.run("import", world.bundle.digest, "--key", world.root / "k.pub", **faked) == 0
    for action in ("gc", "verify"):
        assert world.run("cache", action, **faked) == 0
    assert world.run("export", "tiny:1.0.0", world.folder / "after.bundle.tar", **faked) == 0
    assert (world.folder / "after.bundle.tar").read_bytes() == world.original


def faketime_library() -> str:
    """Return the library that fakes the clock of a process, or skip; where tools are required, that is a failure."""
    tool("faketime")
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("libfaketime is not where Debian has it")
    return str(found[0])


# the same for buckets


def seeded_store(world: World) -> None:
    assert world.run("push", world.root / "b.bundle.tar", world.address) == 0


def pulls_from_the_store(world: World) -> None:
    """Finish without faults and compare byte for byte."""
    assert world.run("pull", world.address, "-o", world.folder / "got.bundle.tar") == 0
    assert (world.folder / "got.bundle.tar").read_bytes() == world.original
    world.sound()


def finishes_the_push_to_the_store(world: World, there: set[str]) -> None:
    """Repeat a broken push; what passes must show that no complete blob was sent again.

    Bytes are counted, not rows of the server's log: it logs a killed client's last requests when it likes.
    """
    missing = {blob.digest: blob.size for _, blob in world.bundle.tree if blob.digest[7:] not in there}
    world.store_proxy.start_count()
    assert world.run("push", world.root / "b.bundle.tar", world.address) == 0
    assert world.store_proxy.passed <= sum(missing.values()) + TALK, "what is complete is not sent again"
    pulls_from_the_store(world)


def killed_push_to_store(world: World) -> None:
    process = world.spawn("push", world.root / "b.bundle.tar", world.address)
    world.store_proxy.arm(world.anywhere(), process.kill)
    process.communicate()
    there = world.objects()
    if world.store.files().exists(f"models/{world.name}/tiny/1.0.0/index.json"):
        pulls_from_the_store(world)  # what is visible is complete
        world.store_root = world.folder / "second"
    finishes_the_push_to_the_store(world, there)


def killed_pull_from_store(world: World) -> None:
    seeded_store(world)
    process = world.spawn("pull", world.address)
    world.store_proxy.arm(world.anywhere(), process.kill)
    process.communicate()
    store, have = world.sound(), partial_sizes(world)
    missing = {
        blob.digest: blob.size - have.get(blob.digest, 0)
        for _, blob in world.bundle.tree
        if not store.path(blob.digest).is_file()
    }
    world.store_proxy.start_count()
    pulls_from_the_store(world)
    assert world.store_proxy.passed <= sum(missing.values()) + TALK, "only the missing part"


def cut_transfer_with_store(world: World) -> None:
    """The connection breaks: the program goes on by itself, or says so; then repeating it finishes the job."""
    push = world.chance.random() < 0.5
    if not push:
        seeded_store(world)
    world.store_proxy.arm(world.anywhere(), lambda: threading.Thread(target=world.store_proxy.cut).start())
    if push:
        code = world.run("push", world.root / "b.bundle.tar", world.address)
    else:
        code = world.run("pull", world.address)
    assert code in (0, 3)
    world.sound()
    if push:
        finishes_the_push_to_the_store(world, world.objects())
    pulls_from_the_store(world)


def flipped_bit_from_store(world: World) -> None:
    seeded_store(world)
    world.store_proxy.flip(world.anywhere())
    code = world.run("pull", world.address)
    store = world.sound()
    if code == 0:  # it was not verified
        assert store.quarantined() == [world.bundle.digest]
    world.store_proxy.flip(-1)
    pulls_from_the_store(world)


def two_writers_to_store(world: World) -> None:
    """Two bundles of the same version at once: one of them gets the name, complete."""
    other = bundles.make(Store(world.folder / "other"), {"model/weights-0001.bin": world.chance.randbytes(3 << 20)})
    copy.save(other, world.folder / "other.bundle.tar")
    files = [world.root / "b.bundle.tar", world.folder / "other.bundle.tar"]
    pushes = [world.spawn("push", file, world.address) for file in files]
    codes = []
    for push in pushes:
        _, stderr = push.communicate(timeout=600)
        assert "Traceback" not in stderr
        codes.append(push.returncode)
    assert sorted(codes) == [0, 2]
    assert world.run("pull", world.address, "-o", world.folder / "got.bundle.tar") == 0
    assert (world.folder / "got.bundle.tar").read_bytes() == files[codes.index(0)].read_bytes()
    world.sound()


def read_only_medium(world: World) -> None:
    disk = world.folder / "stick"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True)
    try:
        shutil.copy(world.root / "b.bundle.tar", disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert world.run("import", disk / "b.bundle.tar") == 0
        assert world.run("export", disk / "b.bundle.tar", disk / "copy.bundle.tar") == 4
        world.sound()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


FAULTS: tuple[Callable[[World], None], ...] = (
    killed_pull,
    cut_pull,
    killed_push,
    cut_push,
    restarted_registry,
    flipped_bit,
    full_disk,
    truncated_file,
    killed_export,
    two_pulls_at_once,
    jumping_clock,
    read_only_medium,
    killed_push_to_store,
    killed_pull_from_store,
    cut_transfer_with_store,
    flipped_bit_from_store,
    two_writers_to_store,
)
PRIVILEGED = {full_disk, read_only_medium}


def play(world: World, seed: int, fault: Callable[[World], None]) -> None:
    if fault in PRIVILEGED and os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    print(f"FAULT_SEED={SEED} run seed={seed} fault={fault.__name__}")
    world.begin(seed)
    try:
        fault(world)
    finally:
        world.end()


@pytest.mark.parametrize("number", range(FEW))
def test_a_few_faults(world: World, number: int) -> None:
    play(world, SEED + number, FAULTS[(SEED + number) % len(FAULTS)])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(FEW, MANY))
def test_many_faults(world: World, number: int) -> None:
    play(world, SEED + number, FAULTS[(SEED + number) % len(FAULTS)])
