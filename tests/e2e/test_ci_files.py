# SPDX-License-Identifier: Apache-2.0
"""The files of `ci init`: held against the schemas that check-jsonschema carries, pinned, and without a secret inside."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from packager.release_plan import ci
from tests.conftest import Run
from tests.support import github_lint

IMAGE = "docker.io/library/python:3.11-slim@sha256:" + "a" * 64
FILES = {
    "keyless": "  sign: 'keyless:'\n  push: oci://ghcr.io/acme/{name}:{version}\n",
    "key": "  sign: key:release.pem\n  push: oci://registry.example.org:5000/models/{name}\n",
    "bucket": "  sign: key:release.pem\n  push: s3://models/{name}\n",
    "bare": "",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundle.yaml").write_text("name: m\nversion: 1.0.0\nsource: ./m.onnx\n")
    return tmp_path


def written(packager: Run, folder: Path, system: str, kind: str) -> tuple[Path, list[str]]:
    (folder / "release.yaml").write_text(f"recipes: [bundle.yaml]\ndefaults:\n  lock: check\n{FILES[kind]}")
    image = () if system == "github" else ("--image", IMAGE)
    said = json.loads(packager("ci", "init", system, "--with", "sklearn,scan", *image, "--json").stdout)
    assert said["file"] == ci.SYSTEMS[system][1] and said["models"] == 1
    return folder / said["file"], said["reads"]


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, member in value.items() for text in [str(key), *strings(member)]]
    return [text for member in value for text in strings(member)] if isinstance(value, list) else [str(value)]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("system", ci.SYSTEMS)
def test_everything_is_pinned_and_a_change_request_signs_nothing(
    packager: Run, folder: Path, system: str, kind: str
) -> None:
    path, reads = written(packager, folder, system, kind)
    text = path.read_text()
    used = re.findall(r"uses: (\S+)", text)
    if system == "github":
        used += re.findall(r"uses: (\S+)", (folder / ci.COPY).read_text())
        assert used.count(f"./{ci.COPY.rpartition('/')[0]}") == 2
    pinned = re.compile(r"[a-z/-]+@[0-9a-f]{40}|\./.*")
    assert all(pinned.fullmatch(name) for name in used) and bool(used) == (system == "github")
    assert re.findall(r"image:? '?([^\s']+)", text) == ([] if system == "github" else [IMAGE])
    assert "'model-packager[sklearn,scan]==0.1.0'" in text and "@@" not in text
    assert text.count("packager release release.yaml") == {"tekton": 1, "github": 0}.get(system, 2)
    if system != "tekton":
        assert text.count("until: policy" if system == "github" else "--until policy") == 1
    secret = {"keyless": False, "key": True, "bucket": True, "bare": False}[kind]
    assert bool(reads) == (secret or (kind == "keyless" and system != "github"))
    if system == "github":
        jobs = yaml.safe_load(text)["jobs"]
        assert "secrets." not in json.dumps(jobs["check"]) and "permissions" not in jobs["check"]
        asked = jobs["release"]["permissions"]
        assert [job["steps"][1]["with"]["file"] for job in jobs.values()] == ["release.yaml"] * 2
        assert asked == {"contents": "read"} | ({"id-token": "write", "packages": "write"} if kind == "keyless" else {})


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_the_system_s_own_schema_accepts_it(packager: Run, folder: Path, system: str, kind: str) -> None:
    path, _ = written(packager, folder, system, kind)
    schema = {"github": "github-workflows", "gitlab": "gitlab-ci"}[system]
    options = ("--data-transform", "gitlab-ci") if system == "gitlab" else ()
    text = path.read_text()
    if system == "gitlab":  # the schema leaves hidden jobs alone
        text = text.replace("\n.packager:\n", "\npackager:\n  script: [':']\n").replace(
            "extends: .pack", "extends: pack"
        )
    faulty = text.replace("reports:\n      junit:", "reports: 7 #").replace("runs-on:", "runs_on:")
    shown, wrong = folder / "shown.yml", folder / "wrong.yml"
    shown.write_text(text), wrong.write_text(faulty)
    assert set(github_lint.refused(schema, path, shown, wrong, options=options)) == {wrong}
    if system == "github":
        action = folder / ci.COPY
        wrong.write_text(action.read_text().replace("using: composite", "using: composed"))
        assert set(github_lint.refused("github-actions", action, wrong)) == {wrong}


def test_the_credentials_are_what_docker_login_writes(packager: Run, folder: Path) -> None:
    """The step is run by a shell as it stands."""
    path, _ = written(packager, folder, "github", "key")
    (release,) = [step for step in yaml.safe_load(path.read_text())["jobs"]["release"]["steps"] if "name" in step]
    steps = yaml.safe_load((folder / ci.COPY).read_text())["runs"]["steps"]
    (step,) = [step for step in steps if step.get("name") == "credentials of the registry"]
    environment = {
        "PATH": os.environ["PATH"],
        "DOCKER_CONFIG": str(folder / "login"),
        "REGISTRY": f"{release['with']['registry']} other.example.org",
        "REGISTRY_USER": "ci",
        "REGISTRY_PASSWORD": "pa'ss\"$x",
    }
    subprocess.run(["bash", "-euo", "pipefail", "-c", step["run"]], env=environment, check=True)
    auths = json.loads((folder / "login" / "config.json").read_text())["auths"]
    import base64

    hosts = ("registry.example.org:5000", "other.example.org")
    assert {host: base64.b64decode(row["auth"]) for host, row in auths.items()} == dict.fromkeys(hosts, b"ci:pa'ss\"$x")
    assert (folder / "login" / "config.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "words",
    [
        ("gitlab",),
        ("gitlab", "--image", "python:3.11-slim"),
        ("github", "--branch", "main'; curl evil"),
        ("github", "--with", "sklearn]; rm"),
        ("github", "--file", "nowhere.yaml"),
        ("github", "--action", "acme/packager@main"),
        ("github", "--action", f"acme/pack ager@{'3f' * 20}"),
        ("gitlab", "--image", IMAGE, "--action", f"acme/packager@{'3f' * 20}"),
    ],
)
def test_what_cannot_be_pinned_or_stand_there_is_refused(packager: Run, folder: Path, words: tuple[str, ...]) -> None:
    (folder / "release.yaml").write_text("recipes: [bundle.yaml]\n")
    assert packager("ci", "init", *words, code=2).stderr.startswith("error:")


def test_a_file_that_exists_is_kept(packager: Run, folder: Path) -> None:
    path, _ = written(packager, folder, "github", "bare")
    action, before = folder / ci.COPY, path.read_bytes()
    assert "exists already" in packager("ci", "init", "github", code=2).stderr
    assert path.read_bytes() == before
    action.write_text("theirs")
    assert "release-models/action.yml` exists already" in packager("ci", "init", "github", "-o", "x.yml", code=2).stderr
    assert action.read_text() == "theirs" and not (folder / "x.yml").exists()
    packager("ci", "init", "github", "--force", "--branch", "trunk")
    assert path.read_bytes() != before and action.read_text() == ci.render_action()
    packager("ci", "init", "github", "-o", "x.yml")


def test_the_action_of_a_repository_is_used_at_its_commit(packager: Run, folder: Path) -> None:
    (folder / "release.yaml").write_text("recipes: [bundle.yaml]\n")
    commit = "3f" * 20
    said = json.loads(
        packager("ci", "init", "github", "--with", "sklearn", "--action", f"acme/packager@{commit}", "--json").stdout
    )
    assert said["beside"] == [] and not (folder / ".github/actions").exists()
    jobs = yaml.safe_load((folder / said["file"]).read_text())["jobs"]
    for job in jobs.values():
        assert job["steps"][1]["uses"] == f"acme/packager/.github/actions/release@{commit}"
        assert job["steps"][1]["with"]["extras"] == "sklearn" and "packager" not in job["steps"][1]["with"]


@pytest.mark.slow  # programs of others, fetched from package indexes
@pytest.mark.parametrize("kind", FILES)
def test_zizmor_finds_nothing_in_a_workflow_and_its_action(packager: Run, folder: Path, kind: str) -> None:
    path, _ = written(packager, folder, "github", kind)
    assert github_lint.zizmor(folder / ".github") == set()
    for file in (path, folder / ci.COPY):
        text = file.read_text()
        file.write_text(re.sub(r"uses: ([a-z]\S+)@[0-9a-f]{40}", r"uses: \1@main", text))
        assert "unpinned-uses" in github_lint.zizmor(file)


@pytest.mark.slow  # as above
def test_actionlint_and_github_s_service_find_nothing_in_a_workflow(packager: Run, folder: Path) -> None:
    paths = []
    for kind in FILES:
        path, _ = written(packager, folder, "github", kind)
        paths.append(path.rename(folder / f"{kind}.yml"))
        (folder / ci.COPY).rename(folder / "action.yml")
    (folder / ci.COPY).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "action.yml", folder / ci.COPY)
    bad = folder / "bad.yml"
    bad.write_text(paths[0].read_text().replace("github.ref", "github.reff").replace("until:", "untill:"))
    found = github_lint.lint(folder, folder / "lint", *paths, folder / "action.yml", bad)
    faults = found.pop(str(bad))
    assert found == {str(path): {"service": [], "actionlint": []} for path in (*paths, folder / "action.yml")}
    assert any("untill" in message for _, message in faults["service"])
    assert any("reff" in message for _, message in faults["actionlint"])
