# SPDX-License-Identifier: Apache-2.0
"""Virtual environments for external programs: built from pinned requirements, cached, never half-built.

An environment is named by what is in it (requirements, interpreter), so one request always means one directory and a
second request costs a look at the disk. Two builders of the same one wait for each other; a builder that dies leaves
only a staging directory, which the next one removes.
"""

from __future__ import annotations

import contextlib
import importlib
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from packager import canonical
from packager.errors import MissingToolError, SourceError
from packager.events import OnEvent, ignore, report_duration
from packager.files import exchange_directories, make_staging
from packager.formats.index_addresses import redact_addresses, share_indexes

_FORM = 1  # of the directory: bump it when the same requirements have to be installed in another way
_RECORD = "packager-environment.json"
_PATIENCE = 1800  # seconds for one installation


def ensure_environment(
    requirements: Sequence[str],
    python: str,
    cache: Path,
    on_event: OnEvent = ignore,
    *,
    environment: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    label: str = "",
) -> Path:
    """Return the interpreter of an environment that holds `requirements` (pinned PEP 508 lines); build it if needed.

    `python` is a version (`3.11`) or the path of an interpreter; none is ever downloaded. `environment` is what uv
    gets to see (the address of the index), by default all of this process's; `options` are further ones of `uv pip
    install` that change no content (`--require-hashes`); `label` is what events call the work. Network, unless
    cached. Raises SourceError when the packages or the interpreter cannot be had.
    """
    directory = environment_directory(requirements, python, cache)
    executable = directory / "bin" / "python"
    if executable.exists():
        return executable
    with make_staging(directory) as fresh:
        if not executable.exists():  # another process may have built it while this one waited
            _build(requirements, python, fresh, on_event, environment, options, label)
            exchange_directories(fresh, directory)
    return executable


def pythons_for(
    requirements: Sequence[str], candidates: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return which versions of Python the index has wheels for. Network, and nothing is installed."""
    found = []
    for python in candidates:
        command = [
            find_uv(),
            "pip",
            "compile",
            "-",
            "--quiet",
            "--no-header",
            "--only-binary",
            ":all:",
            "--python-version",
            python,
            "--python-platform",
            f"{platform.machine()}-unknown-linux-gnu",
            "--no-python-downloads",
        ]
        done = subprocess.run(
            command,
            input="\n".join(requirements),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            env=None if environment is None else share_indexes(environment),
        )
        if done.returncode == 0:
            found.append(python)
    return tuple(found)


def environment_directory(requirements: Sequence[str], python: str, cache: Path) -> Path:
    """Return the directory of an environment below `cache`, whether it exists or not."""
    return cache / canonical.sha256(_identity(requirements, python)).removeprefix("sha256:")[:32]


def _identity(requirements: Sequence[str], python: str) -> bytes:
    """Return what decides the content. One cache may serve machines of several architectures, each with its wheels."""
    machine = {} if platform.machine() == "x86_64" else {"machine": platform.machine()}  # the first ones named none
    return canonical.dump({"form": _FORM, "python": python, "requirements": sorted({*requirements}), **machine})


def _build(
    requirements: Sequence[str],
    python: str,
    fresh: Path,
    on_event: OnEvent,
    environment: Mapping[str, str] | None,
    options: Sequence[str],
    label: str,
) -> None:
    label = label or f"install {' '.join(requirements)} for Python {python}"[:120]
    with report_duration(label, on_event):
        # relocatable: the scripts inside find their interpreter after the directory got its final name
        _uv(
            ["venv", "--relocatable", "--no-python-downloads", "--allow-existing", "--python", python, str(fresh)],
            "",
            label,
            environment,
        )
        if requirements:
            text = "".join(f"{line}\n" for line in sorted({*requirements}))
            _uv(
                ["pip", "install", "--python", str(fresh / "bin" / "python"), *options, "--requirement", "-"],
                text,
                label,
                environment,
            )
        (fresh / _RECORD).write_bytes(_identity(requirements, python))


def _uv(arguments: Sequence[str], text: str, label: str, environment: Mapping[str, str] | None) -> None:
    command = [find_uv(), *arguments, "--quiet", "--no-progress"]
    env = None if environment is None else share_indexes(environment)
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, env=env, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise SourceError(f"cannot {label}: no end after {_PATIENCE} s", hint="is the package index alive?") from None
    if done.returncode:
        raise SourceError(
            f"cannot {label}: {explain_uv_error(done.stderr) or f'uv ended with status {done.returncode}'}",
            hint="check the package index (UV_INDEX_URL, proxy) and which Python versions this host has",
        )


def explain_uv_error(stderr: str) -> str:
    """Return uv's explanation as one line, without the warnings before it about interpreters it did not like."""
    rows = stderr.splitlines()
    start = next((number for number, row in enumerate(rows) if row.lstrip().startswith(("error", "×"))), 0)
    cleaned = (row.strip(" ×╰─▶│|") for row in rows[start:])
    return redact_addresses(" ".join(row for row in cleaned if row))[:600]


def find_uv() -> str:
    """Return the path of uv: the one that is installed beside us, else the one on the search path."""
    with contextlib.suppress(ModuleNotFoundError, FileNotFoundError):
        return str(importlib.import_module("uv").find_uv_bin())
    found = shutil.which("uv")
    if found is None:
        raise MissingToolError("uv", "lock")
    return found
