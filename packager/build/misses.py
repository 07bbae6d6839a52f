# SPDX-License-Identifier: Apache-2.0
"""The rows that show why parity says no, written beside the recipe: bodies of requests, one for each output."""

from __future__ import annotations

from pathlib import Path

from packager.build.build import Built
from packager.build.project import Project
from packager.files import write_atomically


def save_misses(project: Project, built: Built) -> Path | None:
    """Write the rows that differ most to `NAME-misses` beside the recipe; None where parity holds or none were kept."""
    if not built.misses.files or all(finding.rule != "parity" for finding in built.verdict.findings):
        return None
    folder = project.here.base / f"{project.recipe.name}-misses"
    for path, blob in built.misses:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with project.runner.store.open(blob.digest) as row:
            write_atomically(target, row.read())
    return folder
