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

from packager import cache, keys, transport
from packager.bundle import Bundle, open_bundle
from packager.sign import sign
from packager.store import Store
from packager.verify import verify
from tests import bundles, distribution
from tests.distribution import Proxy, Registry
from tests.e2e.conftest import tool

pytestmark = pytest.mark.xdist_group("faults")
SEED = int(os.environ.get("FAULT_SEED", random.SystemRandom().randrange(1 << 32)))
FEW, MANY = 20, int(os.environ.get("FAULT_RUNS", "220"))
KEY = keys.generate("p256")
ENDINGS = {0, 3, 4, 5}  # done, network, disk, integrity; anything else would be a bug


@dataclass
class World:
    """A registry, a proxy in front of it, one signed bundle, and the command line."""

    root: Path
    registry: Registry
    proxy: Proxy
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
        self.proxy.arm(-1, lambda: None)
        self.proxy.flip(-1)
        self.proxy.cut()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def name(self) -> str:
        """A repository that no other run has used."""
        return f"faults/run{self.number}"

    def spawn(self, *arguments: str | Path) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "PACKAGER_STORE": str(self.store_root)}
        return subprocess.Popen([sys.executable, "-m", "packager", *map(str, arguments), "--quiet"], env=environment,
                                cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip

    def run(self, *arguments: str | Path) -> int:
        process = self.spawn(*arguments)
        _, stderr = process.communicate(timeout=120)
        assert "Traceback" not in stderr, stderr
        assert process.returncode in ENDINGS | {-signal.SIGKILL}, stderr
        return process.returncode

    def sound(self) -> Store:
        """Assert that the store holds no wrong byte and no bundle that lacks one."""
        store = Store(self.store_root)
        store.sweep()
        condition = cache.check(store)
        assert not condition.damaged
        assert not condition.incomplete
        assert not list((store.root / "tmp").iterdir())
        return store

    def seed_registry(self) -> None:
        assert self.run("push", self.root / "b.bundle.tar", f"oci://{self.registry.host}/{self.name}") == 0

    def reference(self, host: str) -> str:
        return f"oci://{host}/{self.name}:1.0.0"

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
    transport.save(bundle, root / "b.bundle.tar")
    with distribution.registry(tool("docker-registry"), root / "registry") as registry:
        proxy = Proxy(registry.port)
        yield World(root, registry, proxy, bundle, (root / "b.bundle.tar").read_bytes(), chance)
        proxy.close()


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
    for digest in there:  # counted over the whole run, because the killed process's last row is logged late
        stored = [row for row in puts if row.status == 201 and digest.replace(":", "%3A") in row.path]
        assert len(stored) == 1, "what is complete is not sent again"
    world.pulls_and_compares()


def killed_pull(world: World) -> None:
    world.seed_registry()
    process = world.spawn("pull", world.reference(world.proxy.host))
    world.proxy.arm(world.anywhere(), process.kill)
    process.communicate()
    finishes_a_pull_sending_only_the_rest(world)


def cut_pull(world: World) -> None:
    """The connection breaks, perhaps several times: the program goes on by itself."""
    world.seed_registry()
    cuts = world.chance.randrange(1, 4)

    def cut() -> None:
        nonlocal cuts
        cuts -= 1
        threading.Thread(target=world.proxy.cut).start()
        if cuts:
            world.proxy.arm(world.anywhere() // 3, cut)

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
    if code == 0:
        assert store.entry("tiny", "1.0.0").manifest == world.bundle.digest
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
        _, stderr = pull.communicate(timeout=120)
        assert pull.returncode == 0, stderr
    world.pulls_and_compares()


def jumping_clock(world: World) -> None:
    """Times of files say nothing: everything in the store is suddenly from another century."""
    world.seed_registry()
    process = world.spawn("pull", world.reference(world.proxy.host))
    world.proxy.arm(world.anywhere(), process.kill)
    process.communicate()
    for path in world.store_root.rglob("*"):
        when = world.chance.choice([0, 4_000_000_000])
        os.utime(path, (when, when))
    cache.size(world.sound())
    finishes_a_pull_sending_only_the_rest(world)


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
    killed_pull, cut_pull, killed_push, cut_push, restarted_registry, flipped_bit, full_disk, truncated_file,
    killed_export, two_pulls_at_once, jumping_clock, read_only_medium,
)  # fmt: skip
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
    play(world, SEED + number, FAULTS[number % len(FAULTS)])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(FEW, MANY))
def test_many_faults(world: World, number: int) -> None:
    play(world, SEED + number, FAULTS[number % len(FAULTS)])
