# SPDX-License-Identifier: Apache-2.0
"""The files of `ci init` for Tekton and Jenkins: read by what reads them, and their scripts run in a clean Debian."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from packager.cli import main
from tests.conftest import Run
from tests.e2e.test_ci_files import FILES, IMAGE, folder, written
from tests.support import jenkins, tekton
from tests.support.ci_checkout import SECRETS, Checkout, make_checkout

__all__ = ["folder"]
PYTHON = "test -d /opt/python || python3 -m venv /opt/python; export PATH=/opt/python/bin:$PATH"  # what the image has
SCHEMA = jsonschema.Draft202012Validator(tekton.TASK)
KEPT = "mv out checked"


@pytest.mark.parametrize("kind", FILES)
def test_a_task_has_the_fields_of_tekton_s_api(packager: Run, folder: Path, kind: str) -> None:
    path, _ = written(packager, folder, "tekton", kind)
    task = yaml.safe_load(path.read_text())
    SCHEMA.validate(task)
    for old, new in (
        ("workingDir", "workdir"),
        ("tekton.dev/v1", "tekton.dev/v1beta1"),
        ("optional: true", "optional: a"),
    ):
        assert not SCHEMA.is_valid(yaml.safe_load(path.read_text().replace(old, new))), old


@pytest.mark.slow  # programs of others, fetched from package indexes
def test_kubernetes_and_a_linter_find_nothing_in_a_task(packager: Run, folder: Path) -> None:
    for kind in FILES:
        path, _ = written(packager, folder, "tekton", kind)
        task = yaml.safe_load(path.read_text())
        accepted, said = tekton.check_as_pod(task, folder)
        assert accepted, said
        assert tekton.lint(path) == set()
        path.unlink()
    task["spec"]["steps"][0]["env"][0]["valueFrom"] = {"secretKeyReff": {}}
    assert not tekton.check_as_pod(task, folder)[0]
    path, _ = written(packager, folder, "tekton", "key")
    path.write_text(path.read_text().replace("params.until)", "params.untill)"))
    assert "no-undefined-param" in tekton.lint(path)


@pytest.mark.slow  # as above, and Java
def test_groovy_reads_a_jenkinsfile_and_codenarc_finds_nothing(packager: Run, folder: Path) -> None:
    path, _ = written(packager, folder, "jenkins", "key")
    assert jenkins.lint(path) == []
    said = jenkins.read(path)
    assert said["agent"] == [{"docker": [{"image": [IMAGE], "args": ["--user 0"]}]}]
    assert said["environment"] == [{"PACKAGER_STORE": "@WORKSPACE@/.packager-store"}]
    assert [(stage["title"], stage.get("when")) for stage in said["stages"][0]] == [
        ("Set up", None),
        ("Check", [{"changeRequest": [True]}]),
        ("Release", [{"branch": ["main"]}]),
    ]
    assert [name for name, _ in said["post"][0]["always"][0]] == ["junit", "archiveArtifacts"]
    text = path.read_text()
    for old, new, word in (
        ("changeRequest()", "changeReqest()", "changeReqest"),
        ("steps {", "step {", "`stage` has no `step`"),
        ("agent {", "agnt {", "agnt"),
        ("sh 'apt-get", "sh apt-get", "Unexpected character"),
    ):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=re.escape(word)):
            jenkins.read(path)
    path.write_text(text.replace("pipeline {", "if (true) { println 1 }\npipeline {"))
    assert jenkins.lint(path) == ["ConstantIfExpression"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    with make_checkout(tmp_path) as made:
        monkeypatch.chdir(made.folder)
        yield made


def checked_and_released(checkout: Checkout) -> None:
    """The change request signed and pushed nothing, the release did both."""

    def tasks(place: str) -> list[str]:
        (row,) = json.loads((checkout.folder / place / "release.json").read_text())["models"]
        assert {task["state"] for task in row["tasks"]} <= {"done", "unchanged"}
        return [task["task"] for task in row["tasks"]]

    assert tasks("checked") == ["lock", "build", "policy"]
    assert tasks("out") == ["lock", "build", "policy", "sign", "push"]
    assert (checkout.folder / "out/junit.xml").is_file() and checkout.pushed()


def command_of(step: Mapping[str, Any], values: Mapping[str, str]) -> str:
    """Return the command that runs a step of a Task as its container would."""
    secret = {"packager/passphrase": SECRETS["PACKAGER_PASSPHRASE"]}
    words = []
    for row in step["env"]:
        found = row.get("value")
        if found is None:
            reference = row["valueFrom"]["secretKeyRef"]
            found = secret[f"{reference['name']}/{reference['key']}"]
        words.append(f"{row['name']}={shlex.quote(tekton.fill(found, values))}")
    script = tekton.fill(step["script"], values)
    assert script.startswith("#!/bin/sh\n")
    where = shlex.quote(tekton.fill(step["workingDir"], values))
    return f"cd {where} && env {' '.join(words)} sh -c {shlex.quote(script)}"


@pytest.mark.slow  # a clean Debian installs everything from the index
@pytest.mark.cold
def test_a_task_of_tekton_releases_a_model(checkout: Checkout) -> None:
    """An optional workspace that is not bound is an empty path."""
    assert main(["ci", "init", "tekton", "--image", IMAGE, "--with", "onnx,lock,scan"]) == 0
    (step,) = yaml.safe_load(Path("tekton/release-models.yaml").read_text())["spec"]["steps"]
    (checkout.folder / "login").mkdir()
    (checkout.folder / "login/config.json").write_text("{}")
    values = {
        "params.until": "policy",
        "workspaces.source.path": str(checkout.folder),
        "workspaces.store.path": str(checkout.folder / ".store"),
        "workspaces.docker-config.path": "",
    }
    check = command_of(step, values)
    more = {"params.until": "promote", "workspaces.docker-config.path": str(checkout.folder / "login")}
    release = command_of(step, values | more)
    checkout.run(["bash", "-ec", f"{PYTHON}; {check}; {KEPT}; {release}"])
    checked_and_released(checkout)


@pytest.mark.slow  # as above, and Java
@pytest.mark.cold
def test_the_stages_of_jenkins_release_a_model(checkout: Checkout) -> None:
    assert main(["ci", "init", "jenkins", "--image", IMAGE, "--with", "onnx,lock,scan"]) == 0
    said = jenkins.read(checkout.folder / "Jenkinsfile")
    variables = {
        "@credentials(packager-passphrase)@": [("", SECRETS["PACKAGER_PASSPHRASE"])],
        "@credentials(packager-registry)@": [
            ("_USR", SECRETS["REGISTRY_USER"]),
            ("_PSW", SECRETS["REGISTRY_PASSWORD"]),
        ],
    }

    def lines(kind: str) -> list[str]:
        """Return what the stages do whose conditions hold for a change request, or for the branch."""
        found = []
        for stage in said["stages"][0]:
            if stage.get("when") and kind not in stage["when"][0]:
                continue
            given = said["environment"][0] | (stage.get("environment") or [{}])[0]
            words = [
                f"{name}{end}={shlex.quote(text.replace('@WORKSPACE@', str(checkout.folder)))}"
                for name, value in given.items()
                for end, text in variables.get(value, [("", value)])
            ]
            for word, command in stage["steps"][0]:
                assert word == "sh"
                found.append(f"env {' '.join(words)} sh -xe -c {shlex.quote(command)}")
        return found

    assert [len(lines(kind)) for kind in ("changeRequest", "branch")] == [3, 4]
    commands = [PYTHON, *lines("changeRequest"), KEPT, *lines("branch")]
    checkout.run(["bash", "-ec", "\n".join(commands)])
    checked_and_released(checkout)
