# SPDX-License-Identifier: Apache-2.0
"""From a recipe to answers, through the real command line; and what strangers' tools say of the result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.e2e.conftest import CNN_RECIPE, Project, tool


def test_a_second_build_runs_nothing_and_names_the_same_digest(built: Project) -> None:
    first = built.run("build", "--locked", "--json")
    second = built.run("build", "--json")
    assert first["executed"] == second["executed"] == 0
    assert first["digest"] == second["digest"]
    assert first["verdict"]["ok"]


def test_a_tolerance_runs_no_step_a_target_runs_its_own(built: Project) -> None:
    try:
        built.write(CNN_RECIPE + "tolerance: {default: {atol: 1.0e-3, rtol: 1.0e-3}}\n")
        changed = built.run("build", "--locked", "--replace", "--json")
        assert changed["executed"] == 0
        built.write(CNN_RECIPE + 'runs-on: {onnxruntime: {versions: ">=1.17", precision: [fp32, fp16]}}\n')
        more = built.run("build", "--locked", "--replace", "--json")
        assert more["executed"] == 2, "compile and measure of the new target"
        assert more["targets"] == ["onnxruntime-cpu-fp16", "onnxruntime-cpu-fp32"]
    finally:
        built.write(CNN_RECIPE)
        built.run("build", "--locked", "--replace")


def test_a_parity_miss_is_a_no_that_names_the_element(built: Project) -> None:
    try:
        built.write(CNN_RECIPE + "tolerance: {default: {atol: 1.0e-12, rtol: 1.0e-12}}\n")
        done = built.run("build", "--locked", code=1)
    finally:
        built.write(CNN_RECIPE)
    for word in ("output `output`", "case `", "worst element [", "expected ", "got ", "hint:", "no bundle was made"):
        assert word in done.stderr
    document = Project(built.folder, built.store).run("build", "--locked", "--json")
    assert document["verdict"]["ok"]


def test_every_medium_verifies(built: Project, tmp_path: Path) -> None:
    built.run("unpack", "cnn.bundle.tar", tmp_path / "tree", "--key", "release.pub")
    built.run("sign", "cnn:1.2.3", "--key", "release.pem", "-o", tmp_path / "layout")
    for reference in ("cnn:1.2.3", "cnn.bundle.tar", tmp_path / "tree", tmp_path / "layout"):
        verdict = built.run("verify", reference, "--key", "release.pub", "--json")
        assert verdict["ok"]
        assert [check["check"] for check in verdict["checks"]] == [
            "structure",
            "trust",
            "signature",
            "statement",
            "revocation",
            "rollback",
            "files",
            "formats",
        ]


def test_the_verdict_is_deterministic(built: Project) -> None:
    answers = {
        built.run("verify", "cnn.bundle.tar", "--key", "release.pub", "--json", code=0)["digest"] for _ in range(2)
    }
    texts = {built.run("verify", "cnn.bundle.tar", "--key", "release.pub").stdout for _ in range(2)}
    assert len(answers) == len(texts) == 1


def test_skopeo_keeps_the_digest(built: Project, tmp_path: Path) -> None:
    skopeo = tool("skopeo")
    built.run("sign", "cnn:1.2.3", "--key", "release.pem", "-o", tmp_path / "layout")
    for source in (f"oci:{tmp_path / 'layout'}:1.2.3", f"oci-archive:{built.folder / 'cnn.bundle.tar'}:1.2.3"):
        copied = tmp_path / source.partition(":")[0]
        subprocess.run([skopeo, "copy", "--quiet", source, f"oci:{copied}:1.2.3"], check=True)
        index = json.loads((copied / "index.json").read_bytes())
        digest = built.run("inspect", "cnn:1.2.3", "--json")["digest"]
        assert [entry["digest"] for entry in index["manifests"]] == [digest]


def test_the_sbom_satisfies_the_strict_validator(built: Project, tmp_path: Path) -> None:
    built.run("unpack", "cnn.bundle.tar", tmp_path / "tree")
    text = (tmp_path / "tree" / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    assert bom["metadata"]["component"]["type"] == "machine-learning-model"
    files = {c["name"]: c["hashes"][0]["content"] for c in bom["components"] if c["type"] == "file"}
    inspected = built.run("inspect", "cnn:1.2.3", "--json")["files"]
    assert files == {path: inspected[path]["digest"].removeprefix("sha256:") for path in files}
    assert "model/model.onnx" in files
    assert {"numpy", "onnxruntime"} <= {c["name"] for c in bom["components"] if c["type"] == "library"}


def test_openssf_model_signing_accepts_the_unpacked_bundle(built: Project, tmp_path: Path) -> None:
    """In an environment of its own: version 1.1.1 needs pyOpenSSL, which its metadata forgets."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    uv = Path(sys.executable).parent / "uv"
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "model-signing==1.1.1", "pyOpenSSL"],
        check=True,
        env=environment,
    )
    answer = built.run("unpack", "cnn.bundle.tar", tmp_path / "tree", "--json")
    command = [
        python,
        "-m",
        "model_signing",
        "verify",
        "key",
        "--public_key",
        built.folder / "release.pub",
        "--signature",
        answer["model_signing"][0],
        tmp_path / "tree",
    ]
    accepted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    with (tmp_path / "tree" / "model" / "model.onnx").open("r+b") as file:
        file.write(b"X")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0, "the check can fail"


def test_an_encrypted_key_signs_with_its_passphrase_only(built: Project, tmp_path: Path) -> None:
    project = Project(built.folder, built.store)
    project.run("keygen", tmp_path / "secret", "--curve", "p384", PACKAGER_PASSPHRASE="correct horse")
    text = (tmp_path / "secret.pem").read_text()
    assert "ENCRYPTED" in text
    assert (tmp_path / "secret.pem").stat().st_mode & 0o777 == 0o600
    shutil.copy(built.folder / "cnn.bundle.tar", tmp_path / "b.bundle.tar")
    for wrong in ({}, {"PACKAGER_PASSPHRASE": "wrong"}):
        done = project.run("sign", tmp_path / "b.bundle.tar", "--key", tmp_path / "secret.pem", code=2, **wrong)
        assert "hint:" in done.stderr
    (tmp_path / "phrase").write_text("correct horse\n")
    project.run(
        "sign", tmp_path / "b.bundle.tar", "--key", tmp_path / "secret.pem", "--passphrase-file", tmp_path / "phrase"
    )
    project.run("verify", tmp_path / "b.bundle.tar", "--key", tmp_path / "secret.pub")


def test_a_stale_lock_is_refused_when_locked_and_renewed_otherwise(project: Callable[..., Project], cnn: Path) -> None:
    made = project(CNN_RECIPE, model=cnn)
    done = made.run("build", "--locked", code=2)
    assert "no lock" in done.stderr
    made.run("lock")
    before = (made.folder / "bundle.lock").read_bytes()
    made.run("lock")
    assert (made.folder / "bundle.lock").read_bytes() == before, "locking twice changes nothing"
    with (made.folder / "model" / "model.pt2").open("ab") as file:
        file.write(b"\0")
    done = made.run("build", "--locked", code=2)
    assert "stale" in done.stderr
    assert "packager lock" in done.stderr
    made.write(CNN_RECIPE.replace("source:", 'runs-on: {onnxruntime: ">=1.20"}\nsource:'))
    assert "the recipe changed" in made.run("build", "--locked", code=2).stderr
