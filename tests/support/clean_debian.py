# SPDX-License-Identifier: Apache-2.0
"""A clean Debian to run programs in as root: its own mounts over a root file system that is made once, and kept.

What a run writes lies in a folder of the test. The network is this machine's, and pip finds what it finds here: its
settings, and the directories that they name, are shown read-only.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.debian import SUITE, find_mirror
from tests.support.tools import tool

_NETWORK = (Path("/etc/resolv.conf"), Path("/etc/hosts"), Path("/etc/ssl/certs/ca-certificates.crt"))
_ENTER = r"""
set -eu
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$HERE"
for name in dev sys; do mount --rbind "/$name" "$HERE/$name"; done
mount -t proc proc "$HERE/proc"
for shown in $SHOWN; do mkdir -p "$HERE$shown"; mount --rbind "$shown" "$HERE$shown"; done
mkdir -p "$HERE/old"
mount --rbind "$HERE" "$HERE"
cd "$HERE"
pivot_root . old
exec env -i $VARIABLES sh -c 'umount -l /old; cd "$1" && shift && exec "$@"' sh "$FOLDER" "$@"
"""


def make_root(*packages: str, suite: str = SUITE) -> Path:
    """Return a root file system with these packages of a release of Debian; the test is skipped where none can be made."""
    if os.geteuid() != 0:
        pytest.skip("making a root file system needs root")
    debootstrap = tool("debootstrap")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packager-tests"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "rootfs.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cache / f"rootfs-{suite}-{'-'.join(packages)}"
        if not done.is_dir():
            partial = done.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            command = [debootstrap, "--variant=minbase", f"--include={','.join(packages)}", suite, partial]
            scripts = Path("/usr/share/debootstrap/scripts")  # a debootstrap knows no release that came after it
            newer = [] if (scripts / suite).exists() else [scripts / "sid"]
            mirror = find_mirror() or ["http://deb.debian.org/debian"]
            subprocess.run([*command, *mirror, *newer], check=True, stdout=subprocess.DEVNULL)
            partial.rename(done)
    return done


def run_inside(
    root: Path,
    place: Path,
    folder: Path,
    command: Sequence[str],
    variables: Mapping[str, str],
    more: Sequence[Path] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a command in the root file system, in `folder` of this machine; what it writes elsewhere is below `place`.

    `more` are directories that it sees under their own names.
    """
    for name in ("upper", "work", "here"):
        (place / name).mkdir(parents=True, exist_ok=True)
    places = _pip_places()
    shown = [folder, *(path for path in places if path.is_dir()), *more]
    for file in (*_NETWORK, *(path for path in places if path.is_file())):
        if file.is_file():
            target = place / "upper" / file.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    settings, variables_here = _pip_settings()
    (place / "upper/etc").mkdir(exist_ok=True)
    (place / "upper/etc/pip.conf").write_text(
        "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    own = {
        "SSL_CERT_FILE": str(_NETWORK[2]),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
    }
    inner = {**own, **variables_here, **variables}
    outer = {
        "PATH": own["PATH"],
        "LOWER": str(root),
        **{name.upper(): str(place / name) for name in ("upper", "work", "here")},
        "SHOWN": " ".join(str(path) for path in shown),
        "FOLDER": str(folder),
    }
    script = _ENTER.replace("$VARIABLES", " ".join(shlex.quote(f"{name}={value}") for name, value in inner.items()))
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", *command],
        env=outer,
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
    )


def find_links(place: Path) -> str:
    """Return pip's setting by which it finds the wheels in a directory as well as those that it finds here."""
    settings, variables = _pip_settings()
    return " ".join(
        [*dict.fromkeys((settings.get("find-links", ""), variables.get("PIP_FIND_LINKS", ""))), str(place)]
    ).strip()


def _pip_settings() -> tuple[dict[str, str], dict[str, str]]:
    """Return what pip is told here: by its files, which the root file system lacks, and by variables."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout.splitlines()
    settings, variables = {}, {}
    for line in listed:
        kind, _, rest = line.partition(".")
        name, _, value = rest.partition("=")
        plain = " ".join(value.strip("'\"").replace("\\n", " ").split())
        if kind in ("global", "install"):
            settings[name] = plain
        elif kind == ":env:":
            variables[f"PIP_{name.lstrip('.').replace('-', '_').upper()}"] = plain
    return settings, variables


def _pip_places() -> list[Path]:
    words = " ".join(value for found in _pip_settings() for value in found.values()).split()
    places = [Path(urlsplit(word).path) for word in words if word.startswith(("/", "file://"))]
    return sorted({place.parent if place.name == "simple" else place for place in places if place.exists()})
