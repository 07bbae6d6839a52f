# SPDX-License-Identifier: Apache-2.0
"""uv: resolves for any platform from any other, in seconds, because it takes hashes and metadata from the index."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import canonicalize_name

from packager.canonical import JSON
from packager.errors import MissingToolError, SourceError, UsageError
from packager.formats import index_addresses, platforms
from packager.formats.index_addresses import share_indexes
from packager.formats.platforms import Platform
from packager.formats.wheel_locks import Wheel
from packager.lock.lockers import NoSolutionError, Resolution, ResolveRequest
from packager.lock.lockers._pip import file_name

EXTRA = "lock"
_LONGEST_REASON = 200  # characters of why something was withdrawn
_FLOORS = (17, 28, *range(31, 41))  # the glibc versions for which uv has a name


def locks(platform: str) -> bool:
    """See `Locker.locks`."""
    return platforms.parse(platform).glibc in _FLOORS


def resolve(request: ResolveRequest, platform: Platform, environment: Mapping[str, str]) -> Resolution:
    """See `Locker.resolve`."""
    with tempfile.TemporaryDirectory(prefix="packager-lock-") as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(f"{line}\n" for line in request.constraints))
        done = subprocess.run(
            _command(request, platform, constraints),
            input="".join(f"{line}\n" for line in request.requirements),
            capture_output=True,
            text=True,
            env=share_indexes(environment),
            cwd=folder,
            check=False,
        )
    if done.returncode:
        if refused := index_addresses.find_refusal(done.stderr):
            raise SourceError(
                f"the package index at {refused} refuses the login", hint=f"look at {index_addresses.REFUSED}"
            )
        if "No solution found" in done.stderr:
            raise NoSolutionError(done.stderr)
        raise SourceError(
            f"cannot resolve {', '.join(f'`{line}`' for line in request.requirements)}: {_reason(done.stderr)}",
            hint="check the package index (UV_DEFAULT_INDEX, proxy)",
        )
    packages = tomllib.loads(done.stdout).get("packages", [])
    rows = sorted(_wheel(package, platform, request, environment) for package in packages)
    return Resolution(
        tuple(wheel for wheel, _ in rows), tuple(address for _, address in rows), find_yanked(done.stderr)
    )


def find_yanked(stderr: str) -> dict[str, str]:
    """Return what uv says was withdrawn by its publisher, by pin, with the reason, empty if there is none."""
    found = re.findall(r"^warning: `([^`\s]+==[^`\s]+)` is yanked(?: \(reason: \"(.*)\"\))?", stderr, re.MULTILINE)
    return {pin: reason[:_LONGEST_REASON] for pin, reason in found}


def _command(request: ResolveRequest, platform: Platform, constraints: Path) -> list[str]:
    """Only wheels; no project's settings; an extra index wins where it has a version that fits."""
    command = [
        _uv(),
        "pip",
        "compile",
        "-",
        "--no-progress",
        "--no-header",
        "--format",
        "pylock.toml",
        "--python",
        sys.executable,
        "--python-version",
        platform.python_version,
        "--python-platform",
        _platform(platform),
        "--only-binary",
        ":all:",
        "--no-sources",
        "--constraints",
        str(constraints),
    ]
    for address in request.indexes:
        command += ["--extra-index-url", address]
    return [*command, "--index-strategy", "unsafe-first-match"] if request.indexes else command


def _platform(platform: Platform) -> str:
    if platform.glibc not in _FLOORS:
        raise UsageError(
            f"uv cannot resolve for glibc 2.{platform.glibc}",
            hint=f"it knows {', '.join(f'2.{minor}' for minor in _FLOORS)}",
        )
    return (
        f"{platform.machine}-manylinux_2_{platform.glibc}"
        if platform.glibc > 17
        else f"{platform.machine}-manylinux2014"
    )


def _wheel(
    package: JSON, platform: Platform, request: ResolveRequest, environment: Mapping[str, str]
) -> tuple[Wheel, str]:
    """Return the one file that an installer takes, and its address: uv lists every wheel that would do."""
    files = {item.get("name") or file_name(item.get("url") or item["path"]): item for item in package["wheels"]}
    name = platform.best(files)
    item = files[name]
    address = item.get("url") or item["path"]
    public = index_addresses.find_public(address, request.indexes, environment)
    digest = item["hashes"]["sha256"]
    return Wheel(canonicalize_name(package["name"]), package["version"], name, digest, public), address


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise MissingToolError("uv", EXTRA)
    return found


def _reason(stderr: str) -> str:
    """Return uv's explanation as one line."""
    rows = [row.strip(" ×╰─▶│|") for row in stderr.splitlines()]
    return index_addresses.redact_addresses(" ".join(row for row in rows if row))[:600] or "no reason given"
