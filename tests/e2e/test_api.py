# SPDX-License-Identifier: Apache-2.0
"""The public API: its names, which only grow within a major version, what they say of themselves, and that they do."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from packager import api, events
from packager.errors import NegativeAnswerError, UsageError
from packager.store.store import Store
from packager.trust.keys import generate, save
from tests.support import deployments, pki

NAMES = [
    "BuildResult",
    "Bundle",
    "Contract",
    "Installed",
    "Judgement",
    "Lock",
    "PackagerError",
    "Project",
    "Signer",
    "Verdict",
    "Verification",
    "Verifier",
    "Workspace",
    "__version__",
    "build_bundle",
    "check_compatibility",
    "copy_bundle",
    "install_bundle",
    "judge_bundle",
    "lock_recipe",
    "open_bundle",
    "open_project",
    "open_signer",
    "sign_bundle",
    "utc_now",
    "verify_bundle",
]
PASSPHRASE = b"correct horse"
RECIPE = """
name: cnn
version: 1.2.3
source: ./model/model.pt2
inputs:
  image: {dtype: float32, shape: [batch, 1, 8, 8], range: [0, 1]}
"""


def test_no_name_is_missing_and_none_is_new_by_accident() -> None:
    assert sorted(api.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isfunction(getattr(api, name, None))])
def test_a_function_has_types_and_says_what_it_raises_or_returns(name: str) -> None:
    function = getattr(api, name)
    hints = get_type_hints(function, {**vars(api), "Store": Store})
    assert set(hints) == {*inspect.signature(function).parameters, "return"}
    assert function.__doc__
    assert name == "utc_now" or "Raises" in function.__doc__ or "raises" in function.__doc__, function.__doc__


@pytest.fixture
def workspace(tmp_path: Path) -> api.Workspace:
    return api.Workspace.default(tmp_path / "store")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    save(generate("p256"), tmp_path / "release.pem", tmp_path / "release.pub", PASSPHRASE)
    return tmp_path


def signed(bundle: api.Bundle, keys: Path, output: Path | None = None) -> api.Bundle:
    return api.sign_bundle(bundle, api.open_signer(f"key:{keys / 'release.pem'}", lambda: PASSPHRASE), output)


@pytest.mark.xdist_group("cnn")
def test_twelve_lines_build_and_verify_a_model(cnn: Path, tmp_path: Path, keys: Path, workspace: api.Workspace) -> None:
    shutil.copytree(cnn, tmp_path / "model")
    (tmp_path / "bundle.yaml").write_text(RECIPE)
    (tmp_path / "gate.yaml").write_text("rules: [formats, provenance]\n")
    project = api.open_project(tmp_path / "bundle.yaml", workspace)
    result = api.build_bundle(project, api.lock_recipe(project))
    assert result.verdict.ok and result.bundle
    bundle = signed(result.bundle, keys)
    verification = api.verify_bundle(bundle, api.Verifier.from_keys([keys / "release.pub"], api.utc_now()))
    verification.raise_for_failure()
    assert api.judge_bundle(bundle, tmp_path / "gate.yaml", verification).ok
    assert api.check_compatibility(bundle, "onnxruntime", "1.20.0").outcome == "ok"
    assert api.copy_bundle(bundle, tmp_path / "cnn.bundle.tar") > 0
    assert api.open_bundle(tmp_path / "cnn.bundle.tar").digest == api.open_bundle("cnn:1.2.3", workspace).digest


def test_a_bundle_is_installed_only_if_it_is_trusted(tmp_path: Path, keys: Path, workspace: api.Workspace) -> None:
    wheel = deployments.installable("kleines", "1.0", {"kleines/__init__.py": b""})
    carrier = deployments.carrier(Store(tmp_path / "built"), kleines=wheel)
    bundle = signed(carrier, keys, tmp_path / "carrier.bundle.tar")
    save(generate("p256"), tmp_path / "stranger.pem", tmp_path / "stranger.pub", PASSPHRASE)
    stranger = api.Verifier.from_keys([tmp_path / "stranger.pub"], api.utc_now())
    with pytest.raises(NegativeAnswerError):
        api.install_bundle(bundle, tmp_path / "site", stranger, workspace)
    assert not (tmp_path / "site").exists()
    verifier = api.Verifier.from_keys([keys / "release.pub"], api.utc_now())
    done = api.install_bundle(bundle, tmp_path / "site", verifier, workspace, knobs={"batch.max": "4"})
    assert (done.name, done.version, done.digest) == (bundle.name, bundle.version, bundle.digest)
    assert api.open_bundle(tmp_path / "site").digest == bundle.digest


def test_a_certificate_that_no_verifier_accepts_does_not_sign(tmp_path: Path) -> None:
    """The check of a certificate belongs to the library, so that no caller can forget it."""
    ended = pki.NOW - pki.DAY
    leaf = pki.root().issue("leaf", purposes=[pki.CODE_SIGNING], start=pki.NOW - 9 * pki.DAY, end=ended)
    key, certificate = leaf.save(tmp_path, "leaf")
    with pytest.raises(UsageError, match="had expired"):
        api.open_signer(f"certificate:{certificate}?key={key}")


def test_progress_is_reported_to_the_callback(tmp_path: Path, keys: Path) -> None:
    bundle = signed(deployments.carrier(Store(tmp_path / "built")), keys, tmp_path / "carrier.bundle.tar")
    seen: list[Any] = []
    verifier = api.Verifier.from_keys([keys / "release.pub"], api.utc_now())
    assert api.verify_bundle(bundle, verifier, seen.append).ok
    assert seen and all(type(record).__module__ == events.__name__ for record in seen)


@pytest.mark.parametrize("reference", ["digits:1.4.0", "oci://registry.example/digits:1.4.0"])
def test_what_needs_a_workspace_says_so(reference: str) -> None:
    with pytest.raises(UsageError):
        api.open_bundle(reference)


def test_the_environment_is_read_in_one_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PACKAGER_STORE", str(tmp_path / "there"))
    assert api.Workspace.default().store == tmp_path / "there"
    assert api.Workspace(tmp_path / "given").store == tmp_path / "given"


def test_missing_recipe_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read recipe"):
        api.open_project(tmp_path / "bundle.yaml", api.Workspace(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
