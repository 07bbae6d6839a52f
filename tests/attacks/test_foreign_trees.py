# SPDX-License-Identifier: Apache-2.0
"""Random trees as a worker's output: taken whole or refused in one sentence, whatever lies there; nothing else changes.

`PACKAGER_CASES=10000` runs more of them than every run does.
"""

from __future__ import annotations

import os
import random
import socket
import stat
from pathlib import Path

import pytest

from packager import untrusted_files
from packager.actions.runner import OUTPUT
from packager.errors import IntegrityError, TooLargeError, WrongContentError
from packager.store.store import Store

CASES = int(os.environ.get("PACKAGER_CASES", "200"))
BATCH = 20
NAMES = [
    b"model.onnx",
    b"a",
    b"A",
    b"weights.bin",
    b"..",
    b".git",
    b"con",
    b"x ",
    b"\xff\xfe",
    b"\x1b[31mred",
    b"a\nb",
    b"-rf",
    b"~",
    "é".encode(),
    "e\u0301".encode(),
    "\u202egnp.exe".encode(),
    b"n" * 255,
    b"*",
    b"a\\b",
    b"tmp",
    b"$(id)",
]


class Maker:
    """Makes one random tree below `root`, with links to `canaries`."""

    def __init__(self, seed: int, root: Path, canaries: Path) -> None:
        self.random, self.root, self.canaries = random.Random(seed), os.fsencode(root), os.fsencode(canaries)
        self.plain = True  # so far only what an honest output holds

    def make(self) -> None:
        """Half of the trees are mostly honest, so that the taking is tested too."""
        kinds = [self.file] * 6 + [self.folder] * 2
        if self.random.random() < 0.7:
            kinds += self.random.sample(
                [
                    self.link,
                    self.link,
                    self.hard_link,
                    self.fifo,
                    self.device,
                    self.socket,
                    self.sparse,
                    self.deep,
                    self.closed,
                    self.long_chain,
                ],
                self.random.randint(1, 3),
            )
        folders = [self.root]
        for _ in range(self.random.randint(0, 12)):
            folder = self.random.choice(folders)
            name = self.random.choice(NAMES) if self.random.random() < 0.2 else b"f%d" % self.random.randint(0, 40)
            path = folder + b"/" + name
            try:
                made = self.random.choice(kinds)(path)
            except OSError:  # the name is taken
                continue
            folders += [made] if made else []

    def file(self, path: bytes) -> None:
        with open(path, "xb") as file:
            file.write(self.random.randbytes(self.random.choice([0, 1, 100, 5000])))

    def folder(self, path: bytes) -> bytes:
        os.mkdir(path)
        return path

    def link(self, path: bytes) -> None:
        targets = [self.canaries, self.canaries + b"/secret", b"..", b"/", b"/proc/self/fd/0", b"nowhere", path]
        os.symlink(self.random.choice(targets), path)

    def hard_link(self, path: bytes) -> None:
        os.link(self.canaries + b"/secret", path)

    def fifo(self, path: bytes) -> None:
        os.mkfifo(path)

    def device(self, path: bytes) -> None:
        if os.geteuid() == 0:
            os.mknod(path, self.random.choice([stat.S_IFCHR, stat.S_IFBLK]) | 0o666, os.makedev(1, 3))

    def socket(self, path: bytes) -> None:
        here = os.getcwd()
        os.chdir(os.path.dirname(path))
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(os.path.basename(path)[:90])
        finally:
            os.chdir(here)

    def sparse(self, path: bytes) -> None:
        with open(path, "xb") as file:
            file.truncate(self.random.choice([1 << 27, 1 << 36, 1 << 43]))

    def closed(self, path: bytes) -> None:
        os.mkdir(path)
        with open(path + b"/inside", "xb"):
            pass
        os.chmod(path, self.random.choice([0o000, 0o111, 0o500]))

    def deep(self, path: bytes) -> None:
        self._chain(path, self.random.choice([20, 40, 300]))

    def long_chain(self, path: bytes) -> None:
        if self.random.random() < 0.2:
            self._chain(path, 4000)

    def _chain(self, path: bytes, depth: int) -> None:
        os.mkdir(path)
        handle = os.open(path, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(b"d" * 20, dir_fd=handle)
            inner = os.open(b"d" * 20, os.O_RDONLY, dir_fd=handle)
            os.close(handle)
            handle = inner
        os.close(handle)


def look(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what is to stay as it is of every canary."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else None
        found[str(path)] = (status.st_ino, status.st_mode, status.st_uid, status.st_mtime_ns, data)
    return found


def honest(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("first", range(0, CASES, BATCH))
def test_random_trees_are_taken_or_refused_and_always_removed(tmp_path: Path, first: int) -> None:
    store, canaries = Store(tmp_path / "store"), tmp_path / "canaries"
    (canaries / "folder").mkdir(parents=True)
    (canaries / "secret").write_bytes(b"the secret of the host")
    (canaries / "folder" / "other").write_bytes(b"x")
    before = look(canaries)
    for seed in range(first, first + BATCH):
        with store.scratch() as scratch:
            (scratch / "out").mkdir()
            Maker(seed, scratch / "out", canaries).make()
            handle = untrusted_files.open_directory(scratch / "out")
            try:
                tree = store.take(handle, OUTPUT)
            except IntegrityError as error:
                assert "\n" not in error.message and error.message.isprintable(), error.message
            else:
                assert {path: store.get(blob.digest) for path, blob in tree} == honest(scratch / "out"), seed
            finally:
                os.close(handle)
        assert not scratch.exists(), seed
        assert look(canaries) == before, seed
    again = Store(tmp_path / "store")
    assert again.sweep() == 0 and not list((again.root / "tmp").iterdir())


def test_killed_step_leaves_nothing_that_breaks_the_next(tmp_path: Path) -> None:
    store, canaries = Store(tmp_path / "store"), tmp_path / "canaries"
    canaries.mkdir()
    (canaries / "secret").write_bytes(b"x")
    for seed in range(40):
        left = store.root / "tmp" / f"left{seed}"
        left.mkdir()
        Maker(seed, left, canaries).make()
        if seed % 3 == 0:
            left.with_suffix(".lock").touch()
    assert store.sweep() == 40
    assert not list((store.root / "tmp").iterdir())
    assert (canaries / "secret").read_bytes() == b"x"


def test_later_writes_to_a_file_change_no_blob(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.scratch() as scratch:
        file = scratch / "model.bin"
        with file.open("w+b", buffering=0) as writer:
            writer.write(b"good")
            handle = untrusted_files.open_directory(scratch)
            tree = store.take(handle, OUTPUT)
            os.close(handle)
            writer.seek(0)
            writer.write(b"EVIL")
    ((_, blob),) = tree
    assert store.get(blob.digest) == b"good"


def test_directory_is_read_by_descriptor_not_by_name(tmp_path: Path) -> None:
    store, canaries = Store(tmp_path / "store"), tmp_path / "canaries"
    canaries.mkdir()
    (canaries / "secret").write_bytes(b"x")
    with store.scratch() as scratch:
        out = scratch / "out"
        out.mkdir()
        handle = untrusted_files.open_directory(out)
        out.rename(scratch / "kept")
        out.symlink_to(canaries)
        assert store.take(handle, OUTPUT).files == ()
        os.close(handle)
        with pytest.raises(WrongContentError, match="not a directory"):
            untrusted_files.open_directory(out)
    assert (canaries / "secret").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "link/secret", "", "."])
def test_nothing_outside_is_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    handle = untrusted_files.open_directory(tmp_path / "out")
    with pytest.raises(WrongContentError):
        untrusted_files.open_below(handle, name)
    os.close(handle)


def test_bounds_are_kept(tmp_path: Path) -> None:
    def walked(bounds: untrusted_files.Bounds) -> list[str]:
        handle = untrusted_files.open_directory(tmp_path)
        try:
            return [name for name, _ in untrusted_files.walk(handle, bounds)]
        finally:
            os.close(handle)

    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/x", "a/b/y", "z"):
        (tmp_path / name).write_bytes(b"12345")
    assert walked(untrusted_files.Bounds(entries=5, depth=3, total=15)) == ["a/b/y", "a/x", "z"]
    for bounds in (
        untrusted_files.Bounds(entries=4),
        untrusted_files.Bounds(depth=2),
        untrusted_files.Bounds(total=14),
    ):
        with pytest.raises((TooLargeError, WrongContentError)):
            walked(bounds)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TooLargeError):
        walked(untrusted_files.Bounds(total=1))
    assert len(os.listdir("/proc/self/fd")) == before, "no descriptor is left open"
