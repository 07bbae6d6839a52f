# SPDX-License-Identifier: Apache-2.0
"""What a Jenkinsfile says, as Groovy reads it, and what CodeNarc finds in it. Jenkins' own validator is part of Jenkins."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support import environments
from tests.support.tools import tool

PROGRAM = Path(__file__).with_suffix(".groovy")
PACKAGE = "npm-groovy-lint@18.0.0"  # it ships Groovy and CodeNarc as jars
RULES = ("basic", "design", "exceptions", "groovyism", "imports", "jenkins", "security", "unused")


def _java(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    jars = environments.node_with(PACKAGE) / "npm-groovy-lint/lib/java"
    classes = ":".join(map(str, [*sorted(jars.glob("*.jar")), *sorted((jars / "groovy/lib").glob("*.jar"))]))
    command = [tool("java"), "-XX:TieredStopAtLevel=1", "-cp", classes, *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)


def read(path: Path) -> dict[str, Any]:
    """Return the pipeline: each section is the list of its occurrences. Raises ValueError for what is none of a pipeline."""
    done = _java("groovy.ui.GroovyMain", PROGRAM, path, cwd=path.parent)
    if done.returncode:
        raise ValueError(done.stderr)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def lint(path: Path) -> list[str]:
    """Return the names of the rules of CodeNarc that a Jenkinsfile breaks, those for Jenkins among them."""
    rules = ",".join(f"rulesets/{name}.xml" for name in RULES)
    words = (f"-includes={path.name}", f"-rulesetfiles={rules}", "-report=json:report.json", "-failOnError=true")
    done = _java("org.codenarc.CodeNarc", *words, cwd=path.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((path.parent / "report.json").read_text())
    assert report["summary"]["totalFiles"] == 1
    files = [file for package in report["packages"] for file in package.get("files", ())]
    return sorted({broken["ruleName"] for file in files for broken in file["violations"]})
