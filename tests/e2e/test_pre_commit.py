# SPDX-License-Identifier: Apache-2.0
"""The hooks of `.pre-commit-hooks.yaml`, run by pre-commit itself in a repository of models, as its users run them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from packager.cli import main
from packager.formats import platforms
from tests.support import environments, graphs
from tests.support.ci_checkout import copy_repository

GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main")
RECIPE = f"name: {{name}}\nversion: 1.0.0\nsource: ./m.onnx\npolicy: dev\nplatforms: [{platforms.name_host()}]\n"
CONFIGURATION = """repos:
  - repo: {repository}
    rev: {commit}
    hooks: [{{id: packager-lock}}, {{id: packager-release}}]
"""


def git(folder: Path, *words: str | Path, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GIT, *words], cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **(variables or {})}
    )


def commit_all(folder: Path) -> str:
    for words in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--no-verify", "-m", "all")):
        done = git(folder, *words)
        assert done.returncode == 0, done.stderr
    return git(folder, "rev-parse", "HEAD").stdout.strip()


@pytest.mark.slow  # pre-commit installs packager from a clone, with what it needs from the index
def test_hooks_refuse_a_commit_with_a_stale_lock_or_a_broken_release_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = copy_repository(tmp_path / "ours")
    folder = tmp_path / "models"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / "m.onnx").write_bytes(graphs.convolution(17).graph)
        (folder / name / "bundle.yaml").write_text(RECIPE.format(name=name))
        (folder / name / "release.yaml").write_text("recipes: [bundle.yaml]\ndefaults: {lock: check}\n")
        monkeypatch.chdir(folder / name)
        assert main(["lock", "--store", str(tmp_path / "store")]) == 0
    text = CONFIGURATION.format(repository=ours, commit=commit_all(ours))
    (folder / ".pre-commit-config.yaml").write_text(text)
    commit_all(folder)
    program = environments.python_with("pre-commit==4.7.0", scripts=True).with_name("pre-commit")
    variables = {"PRE_COMMIT_HOME": str(tmp_path / "pre-commit"), "PACKAGER_STORE": str(tmp_path / "store of hooks")}

    def hooks(*words: str) -> tuple[int, str]:
        command = [program, "run", "--all-files", "--verbose", *words]
        environment = {**os.environ, **variables}
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
        return done.returncode, done.stdout + done.stderr

    code, said = hooks()
    assert code == 0, said
    assert said.count("Passed") == 2

    subprocess.run([program, "install"], cwd=folder, check=True, capture_output=True, env={**os.environ, **variables})
    with (folder / "b" / "bundle.yaml").open("a") as recipe:
        recipe.write("runs-on: {onnxruntime: '>=1.20'}\n")
    git(folder, "add", "--all")
    refused = git(folder, "commit", "-m", "stale", variables=variables)
    assert refused.returncode == 1
    assert "b/bundle.yaml" in refused.stderr and "the recipe changed since" in refused.stderr, refused.stderr
    assert git(folder, "log", "--format=%s").stdout.split() == ["all"]

    git(folder, "reset", "--hard", "--quiet")
    (folder / "a" / "release.yaml").write_text("recipes: [nowhere.yaml]\n")
    code, said = hooks("packager-release")
    assert code == 1 and "`nowhere.yaml` names no file" in said, said
    git(folder, "reset", "--hard", "--quiet")
    git(folder, "rm", "--quiet", "a/m.onnx")
    code, said = hooks("packager-lock")
    assert code == 1 and "a/bundle.yaml" in said, said
