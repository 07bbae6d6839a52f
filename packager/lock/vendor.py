# SPDX-License-Identifier: Apache-2.0
"""Fetch the wheels that a bundle carries: exactly the locked files, once per store, checked against their hashes.

A cached action per runtime and platform. What the store has already, because another bundle or platform carries the
same file, is not fetched again. pip is the downloader; it neither builds nor runs anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from packager.actions.runner import Runner
from packager.canonical import JSON
from packager.errors import IntegrityError
from packager.files import clone_or_copy, storage_errors
from packager.formats import platforms
from packager.formats.wheel_locks import Dependencies, Wheel
from packager.types import Action, Blob

VERSION = 1  # 1: first form


def fetch(
    locked: Dependencies, names: Sequence[str], runner: Runner, environment: Mapping[str, str]
) -> dict[str, dict[str, Blob]]:
    """Return for every runtime the wheels (file name to blob) of the platforms in `names`.

    All of them are locked (`resolve.check_fresh`). Network, unless the store has them.
    Raises SourceError, IntegrityError.
    """
    tasks = [(runtime, name) for runtime in locked.wheels for name in names]
    found = runner.each(lambda task: _platform(locked, *task, runner, environment), tasks)
    carried: dict[str, dict[str, Blob]] = {runtime: {} for runtime, _ in tasks}
    for (runtime, _), files in zip(tasks, found, strict=True):
        carried[runtime] |= files
    return carried


def _platform(
    locked: Dependencies, runtime: str, name: str, runner: Runner, environment: Mapping[str, str]
) -> dict[str, Blob]:
    wheels = locked.wheels[runtime][name]
    params = {"platform": name, "wheels": [[wheel.file, wheel.sha256] for wheel in wheels]}

    def perform(out: Path) -> JSON:
        from packager.lock.lockers import _pip  # a warm build does without

        missing = [wheel for wheel in wheels if not _from_store(wheel, runner, out)]
        if missing:
            _pip.download(missing, platforms.parse(name), locked.addresses, environment, out)
        return {"files": len(wheels)}

    action = Action("vendor", VERSION, params=params)
    tree = runner.store.tree(runner(action, f"fetch wheels of {runtime} for {name}", perform=perform).tree)
    found = dict(tree.files)
    for wheel in wheels:
        blob = found.get(wheel.file)
        if blob is None or blob.digest != f"sha256:{wheel.sha256}":
            raise IntegrityError(
                f"`{wheel.file}` is not what was locked: expected sha256:{wheel.sha256}, got {blob and blob.digest}",
                subject=wheel.file,
            )
    return found


def _from_store(wheel: Wheel, runner: Runner, out: Path) -> bool:
    digest = f"sha256:{wheel.sha256}"
    if not runner.store.has(digest):
        return False
    with storage_errors(out):
        clone_or_copy(runner.store.path(digest), out / wheel.file)
    return True
