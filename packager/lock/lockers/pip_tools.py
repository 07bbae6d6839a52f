# SPDX-License-Identifier: Apache-2.0
"""pip-tools: resolves with pip's own resolver, for the Python and platform that it runs on and no other.

Markers in metadata are evaluated by the running interpreter, so a lock for another one would be wrong: it is refused.
Hashes are read from the index once the versions stand; `pip-compile --generate-hashes` would download every file of
every platform where the index has no JSON interface.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from packager.errors import MissingToolError, SourceError, UsageError
from packager.formats import platforms
from packager.formats.index_addresses import REFUSED, share_indexes
from packager.formats.platforms import Platform
from packager.lock.lockers import NoSolutionError, Resolution, ResolveRequest, _pip

EXTRA = "pip-tools"
_OPTIONS = (
    "--quiet",
    "--no-header",
    "--no-annotate",
    "--strip-extras",
    "--allow-unsafe",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-emit-options",
    "--resolver",
    "backtracking",
    "--no-config",
)


def locks(platform: str) -> bool:
    """See `Locker.locks`."""
    wanted, here = platforms.parse(platform), platforms.parse(platforms.name_host())
    return (wanted.machine, wanted.python) == (here.machine, here.python)


def resolve(request: ResolveRequest, platform: Platform, environment: Mapping[str, str]) -> Resolution:
    """See `Locker.resolve`."""
    if not locks(platform.name):
        raise UsageError(
            "pip-tools locks only for the Python it runs on: "
            f"expected `{platforms.name_host()}`, got `{platform.name}`",
            hint="take `--engine uv` for other platforms",
        )
    try:
        pins = _compile(request, environment)
    except SourceError:
        if refused := _pip.refused_by(request.requirements, platform, request.indexes, environment):
            raise SourceError(f"the package index at {refused} refuses the login", hint=f"look at {REFUSED}") from None
        raise
    rows = _pip.read_report(pins, platform, request.indexes, environment)
    yanked = {row.wheel.pin: "" for row in rows if row.yanked}
    return Resolution(tuple(row.wheel for row in rows), tuple(row.address for row in rows), yanked)


def _compile(request: ResolveRequest, environment: Mapping[str, str]) -> list[str]:
    if importlib.util.find_spec("piptools") is None:
        raise MissingToolError("pip-tools", EXTRA)
    with tempfile.TemporaryDirectory(prefix="packager-lock-") as folder:
        wanted, constraints = Path(folder, "wanted.in"), Path(folder, "constraints.txt")
        wanted.write_text("".join(f"{line}\n" for line in request.requirements))
        constraints.write_text("".join(f"{line}\n" for line in request.constraints))
        answer = Path(folder, "answer.txt")
        command = [
            sys.executable,
            "-P",
            "-m",
            "piptools",
            "compile",
            str(wanted),
            *_OPTIONS,
            "--constraint",
            str(constraints),
            "--pip-args",
            "--only-binary :all: --no-input",
            "--output-file",
            str(answer),
        ]
        for address in request.indexes:
            command += ["--extra-index-url", address]
        done = subprocess.run(
            command, capture_output=True, text=True, env=share_indexes(environment), cwd=folder, check=False
        )
        if done.returncode == 0:
            return [row for row in answer.read_text().splitlines() if re.match(r"[A-Za-z0-9]", row)]
    if "RequirementsConflicted" in done.stderr or "ResolutionImpossible" in done.stderr:
        raise NoSolutionError(done.stderr)
    raise SourceError(
        f"cannot resolve {', '.join(f'`{line}`' for line in request.requirements)}: {_pip.find_reason(done.stderr)}",
        hint="check the package index (PIP_INDEX_URL, proxy)",
    )
