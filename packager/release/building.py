# SPDX-License-Identifier: Apache-2.0
"""Build a bundle and leave its provenance to be signed."""

from __future__ import annotations

import dataclasses

from packager.build.build import Built, build
from packager.build.project import Project
from packager.lock.lock import Lock
from packager.release import provenance
from packager.release.builder import Clock


def build_bundle(
    project: Project, lock: Lock | None = None, *, replace: bool = False, builder: str | None = None
) -> Built:
    """Build by `lock` (default: the one on disk), and leave provenance where the verdict is yes."""
    clock = Clock.start(builder, project.here.environment, project.clock)
    locked = project.read_lock() if lock is None else lock
    built = build(project.recipe, locked, project.runner, project.here, project.memo, replacing=replace)
    if built.bundle is None:
        return built
    here, run = project.here.base, clock.stop()
    kept = provenance.keep(project.recipe, locked, built, built.bundle, project.runner, here, run)
    return dataclasses.replace(built, bundle=kept)
