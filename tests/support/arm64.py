# SPDX-License-Identifier: Apache-2.0
"""An arm64 Debian on a machine of another architecture: its packages unpacked, its programs run by qemu.

Programs of that root start others, so the kernel has to know the interpreter. It is registered in a `binfmt_misc` of
the run's own user namespace, which Linux has since 6.7, so the machine's settings stay as they are. The only network is
the loopback interface of the run. The packages' own scripts are not run: they configure a machine, which takes ten
minutes under emulation and changes nothing about Python. `/sys` is empty: it would describe the processor below, and
ONNX Runtime 1.32 ends with SIGSEGV over one that is not its own.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.debian import SUITE, find_mirror
from tests.support.tools import tool

PYTHON = "linux_aarch64-cp311"  # what that release of Debian ships
_NAMESPACES = ("--user", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--net")
_ELF = (
    r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
)
_SETUP = r"""
set -eu
read -r mapped
root=$1 work=$2 magic=$3 script=$4
mount -t proc proc /proc
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || exit 77
printf '%s' "$magic" > /proc/sys/fs/binfmt_misc/register
ip link set lo up
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$work" "$root/srv"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 chroot "$root" /bin/sh -euc "cd /srv; $script"
"""
_NO_BINFMT = 77


@dataclass(frozen=True, slots=True)
class Machine:
    """A root of arm64 whose directory `/srv` is `work`; nothing else in it can be written but `/tmp`."""

    root: Path
    work: Path
    emulator: str

    def run(self, script: str, seconds: float = 900, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside, in `/srv`, and return it when it ends. Every process of it ends with it."""
        magic = f":packager-arm64:M::{_ELF[0]}:{_ELF[1]}:{self.emulator}:OF"
        words = ["sh", "-c", _SETUP, "sh", str(self.root), str(self.work), magic, script]
        with subprocess.Popen(
            [tool("unshare"), *_NAMESPACES, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                _map_users(process)
                out, error = process.communicate("mapped\n", timeout=seconds)
            finally:
                process.kill()
        assert code is None or process.returncode == code, f"exit {process.returncode}\n{out}\n{error}"
        return subprocess.CompletedProcess(words, process.returncode, out, error)


def _map_users(process: subprocess.Popen[str]) -> None:
    """Give the new user namespace the users of this one, which `unshare` itself cannot do for root."""
    own, theirs = Path("/proc/self/ns/user").readlink(), Path(f"/proc/{process.pid}/ns/user")
    for _ in range(500):
        if process.poll() is not None or theirs.readlink() != own:
            break
        time.sleep(0.02)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{name}").write_text("0 0 65536\n")


def prepare(work: Path) -> Machine:
    """Return the machine, made once in the user's cache; skip the test where it cannot be made or run."""
    if platform.machine() != "x86_64":
        pytest.skip("the bundle of this test is built on x86-64")
    if os.geteuid() != 0:
        pytest.skip("debootstrap needs root to make the file system")
    emulator, _, _ = tool("qemu-aarch64-static"), tool("unshare"), tool("ip")
    machine = Machine(_make_root(tool("debootstrap"), tool("dpkg-deb")), work, emulator)
    tried = machine.run("uname -m", code=None)
    if tried.returncode == _NO_BINFMT:
        pytest.skip(f"no `binfmt_misc` in a user namespace here: {tried.stderr.strip()}")
    assert tried.stdout == "aarch64\n", tried
    return machine


def _make_root(debootstrap: str, dpkg: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packager-tests"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "rootfs-arm64.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, partial = cache / f"rootfs-{SUITE}-arm64", cache / f"rootfs-{SUITE}-arm64.partial"
        if not done.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
            options = ["--arch=arm64", "--foreign", "--variant=minbase", "--include=python3,python3-venv"]
            command = [debootstrap, *options, SUITE, partial, *find_mirror()]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            _make_mount_points(partial)
            for package in sorted((partial / "var/cache/apt/archives").glob("*.deb")):
                _unpack(dpkg, package, partial)
            partial.rename(done)
    return done


def _make_mount_points(root: Path) -> None:
    """Make the directories that the setup mounts on; in a container debootstrap makes `/proc` a link to the host's."""
    for name in ("dev", "proc", "srv", "tmp"):
        if (root / name).is_symlink():
            (root / name).unlink()
        (root / name).mkdir(exist_ok=True)


def _unpack(dpkg: str, package: Path, root: Path) -> None:
    """Unpack a package's files; `/bin` and `/lib` stay the links that they are."""
    with subprocess.Popen([dpkg, "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
        command = ["tar", "-x", "--keep-directory-symlink", "-C", root]
        subprocess.run(command, stdin=files.stdout, check=True)
    assert files.returncode == 0, package
