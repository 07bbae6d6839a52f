# SPDX-License-Identifier: Apache-2.0
"""The inputs of admission that anyone can run are judged here as they say, and their policies are those we render."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from packager.bundle.bundle import open_bundle
from packager.deploy.renderers import _admission
from packager.trust import keys
from packager.trust.model import KeySigner, Trust
from packager.trust.verify import verify
from tests import make_admission_vectors as vectors
from tests.support.tampering import no_store

EXPECTED = json.loads((vectors.TARGET / "expected.json").read_text())


@pytest.mark.parametrize("case", EXPECTED["bundles"])
def test_ours_says_what_is_expected(case: str) -> None:
    key = keys.load_public(vectors.TARGET / "release.pub")
    found = verify(open_bundle(str(vectors.TARGET / f"{case}.tar"), no_store), [key], now=datetime.now(UTC))
    assert ("accepted" if found.ok else "refused") == EXPECTED["tools"]["packager verify"]["expected"][case]


@pytest.mark.parametrize("kind", ["kyverno", "policy-controller"])
def test_the_policies_are_those_that_are_rendered(kind: str) -> None:
    trust = Trust((KeySigner("release", keys.load_public(vectors.TARGET / "release.pub")),))
    options = {"admission-scope": "registry.example/admission", "namespace": ""}
    made = _admission.build_files(kind, "models", trust, (), options)[f"admission/{kind}.yaml"].decode()
    text = (vectors.TARGET / f"{kind}.yaml").read_text()
    assert text.replace("@HOST@", "registry.example") == made
    assert yaml.safe_load(text.replace("@HOST@", "registry.example"))["metadata"]["name"] == "models-signed"


def test_every_bundle_has_a_verdict_of_every_tool(tmp_path: Path) -> None:
    """What is written is what the maker makes, but for the keys."""
    vectors.main(tmp_path)
    assert json.loads((tmp_path / "expected.json").read_text()) == EXPECTED
    assert {path.name for path in tmp_path.iterdir()} | {"run.py"} == {
        path.name for path in vectors.TARGET.iterdir() if path.is_file()
    }
    for about in EXPECTED["tools"].values():
        assert set(about["expected"]) == set(EXPECTED["bundles"])


@pytest.mark.slow
def test_the_tools_that_are_here_say_what_is_expected() -> None:
    if not all(map(shutil.which, ("docker-registry", "cosign", "oras"))):
        pytest.skip("docker-registry, cosign and oras are not on PATH")
    done = subprocess.run(
        [sys.executable, vectors.TARGET / "run.py"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cosign verify-attestation  accepted" in done.stdout
