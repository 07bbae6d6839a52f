# SPDX-License-Identifier: Apache-2.0
"""A signed bundle gains a promise for Triton without its source, by its publisher and by nobody else."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from packager.bundle.bundle import CONTRACT, open_bundle
from packager.errors import IntegrityError, UsageError
from packager.formats import intoto
from packager.formats.intoto import Statement
from packager.release import promises
from packager.trust.evidence import Evidence
from packager.trust.verifiers import Attested
from tests.e2e.conftest import Project


@pytest.fixture
def here(built: Project, tmp_path: Path) -> Project:
    """A site of its own with the signed file, which promises ONNX Runtime alone, and two keys."""
    project = Project(tmp_path / "site", tmp_path / "store")
    project.folder.mkdir()
    for name in ("cnn.bundle.tar", "release.pem", "release.pub"):
        shutil.copy(built.folder / name, project.folder / name)
    project.run("keygen", "other")
    return project


def test_the_publisher_adds_a_promise_and_triton_is_rendered(here: Project) -> None:
    given = ("cnn.bundle.tar", "models", "--key", "release.pub")
    refused = here.run("render", "triton", *given, code=2).stderr
    assert "makes no promise for Triton" in refused and "`packager promise`" in refused
    before = here.run("inspect", "cnn.bundle.tar", "--json")["digest"]

    said = here.run("promise", "cnn.bundle.tar", "--runtime", "triton>=24.04", "--key", "release.pem", "--json")
    assert said["outcome"] == "ok" and {cell["outcome"] for cell in said["cells"]} == {"ok"}
    assert here.run("verify", "cnn.bundle.tar", "--key", "release.pub", "--json")["digest"] == before
    here.run("render", "triton", *given)
    deployed = json.loads((here.folder / "models" / "cnn" / "1" / "deployment.json").read_bytes())
    assert deployed["bundle"] == before
    assert 'backend: "onnxruntime"' in (here.folder / "models" / "cnn" / "config.pbtxt").read_text()


def test_a_stranger_to_the_bundle_promises_nothing(here: Project) -> None:
    here.run("promise", "cnn.bundle.tar", "--runtime", "triton>=24.04", "--key", "other.pem")
    trusted = ("--key", "release.pub", "--key", "other.pub")
    here.run("verify", "cnn.bundle.tar", *trusted)
    assert "makes no promise" in here.run("render", "triton", "cnn.bundle.tar", "models", *trusted, code=2).stderr


def test_what_compat_does_not_grant_is_not_signed(here: Project) -> None:
    before = here.run("inspect", "cnn.bundle.tar", "--json")["statements"]
    asked = ("promise", "cnn.bundle.tar", "--key", "release.pem", "--runtime")
    assert "nothing was signed" in here.run(*asked, "triton>=99.01", code=6).stdout
    assert "nothing compiled for it" in here.run(*asked, "openvino>=2024.6", code=2).stderr
    assert "already" in here.run(*asked, "onnxruntime>=1.15", code=2).stderr
    here.run(*asked, "triton", code=2)
    assert here.run("inspect", "cnn.bundle.tar", "--json")["statements"] == before


@pytest.mark.parametrize("change", ["path", "tolerance", "runtime", "name", "more", "shape"])
def test_an_addition_that_changes_what_is_promised_is_refused(here: Project, change: str) -> None:
    bundle = open_bundle(str(here.folder / "cnn.bundle.tar"), lambda: pytest.fail("no store is needed"))
    told = bundle.load(CONTRACT)
    added: Any = copy.deepcopy(promises.build_predicate(told, "triton", ">=24.04"))
    assert (
        promises.extend_contract(bundle, signed(added)).load(CONTRACT)["targets"]["triton-cpu-fp32"]["runtime"]
        == "triton"
    )
    target = added["targets"]["triton-cpu-fp32"]
    if change == "path":
        target["path"] = "model/other.onnx"
    elif change == "tolerance":
        target["tolerance"] = {name: {"atol": 1.0, "rtol": 1.0} for name in target["tolerance"]}
    elif change == "runtime":
        added["runs-on"] = {"onnxruntime": added["runs-on"]["triton"]}
    elif change == "name":
        added["targets"] = {"onnxruntime-cpu-fp32": target}
    elif change == "more":
        added["ranges"] = {}
    else:
        added["targets"] = []
    with pytest.raises(IntegrityError, match="adds no promise"):
        promises.extend_contract(bundle, signed(added))


def signed(added: Any) -> list[Evidence]:
    """What a verifier found: somebody trusted signed the bundle, and this addition."""
    who = Attested(b"", "publisher", "publisher", None)
    kinds = {intoto.BUNDLE_PREDICATE: {}, promises.PREDICATE: added}
    return [Evidence(f"sha256:{kind}", Statement(kind, "cnn:1.2.3", "", value), who) for kind, value in kinds.items()]


def test_a_runtime_that_nobody_knows_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        promises.build_predicate({"runs-on": {}, "targets": {}}, "nothing", ">=1")
