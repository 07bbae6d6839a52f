# SPDX-License-Identifier: Apache-2.0
"""Folders of packages from npm, for runtimes that live under node: pinned, cached, never half-built.

No script of a package runs (`--ignore-scripts`): what a package brings is what it has, and nothing is fetched beside.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from packager import canonical
from packager.errors import SourceError, StepError
from packager.events import OnEvent, ignore, report_duration
from packager.files import exchange_directories, make_staging

_FORM = 1  # of the directory: bump it when the same package has to be installed in another way
_PATIENCE = 1800  # seconds for one installation
_PINNED = re.compile(r"[a-z0-9][a-z0-9._-]*@[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.-]*")


def ensure_packages(package: str, cache: Path, on_event: OnEvent = ignore) -> Path:
    """Return `bin/node` of a folder that holds `package` (`NAME@VERSION`) in `node_modules`; install it if needed.

    `bin/node` is a link to this host's node, by which a program finds the folder. Network, unless cached. Raises
    StepError where node or npm is missing, SourceError when the package cannot be had.
    """
    if not _PINNED.fullmatch(package):
        raise SourceError(
            f"`{package:.80}` is no pinned package of npm", hint="write `NAME@VERSION`, as in `ort@1.2.3`"
        )
    node, npm = (_find(name) for name in ("node", "npm"))
    named = canonical.dump({"form": _FORM, "npm": package, "node": node})
    directory = cache / canonical.sha256(named).removeprefix("sha256:")[:32]
    executable = directory / "bin" / "node"
    if executable.exists():
        return executable
    with make_staging(directory) as fresh:
        if not executable.exists():  # another process may have installed it while this one waited
            with report_duration(f"install {package}", on_event):
                _install(npm, package, fresh)
            (fresh / "bin").mkdir(exist_ok=True)
            (fresh / "bin" / "node").symlink_to(node)
            exchange_directories(fresh, directory)
    return executable


def _find(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise StepError(
            f"`{name}` is needed here and is not installed", hint="install node.js with npm (Debian: `npm`)"
        )
    return found


def _install(npm: str, package: str, folder: Path) -> None:
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
    try:
        done = subprocess.run(
            [*command, "--prefix", str(folder), package],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SourceError(
            f"cannot install {package}: no end after {_PATIENCE} s", hint="is npm's registry alive?"
        ) from None
    if done.returncode:
        said = " ".join(done.stderr.split())[:300]
        raise SourceError(f"cannot install {package}: {said}", hint="check npm's registry (`npm config get registry`)")
