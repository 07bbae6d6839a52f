# SPDX-License-Identifier: Apache-2.0
"""Other shapes: the same files inside, deterministic, readable by ordinary tools, and no change to the bundle."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from packager import canonical
from packager.bundle import other_forms
from packager.bundle.bundle import Bundle
from packager.store.store import Store
from tests.support import bundles


@pytest.fixture
def bundle(store: Store) -> Bundle:
    return bundles.make(store)


def manifest_of(layout: Path) -> dict:
    (row,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    data = (layout / "blobs/sha256" / row["digest"][7:]).read_bytes()
    assert canonical.sha256(data) == row["digest"]
    return json.loads(data)


def unpack(layout: Path) -> dict[str, bytes]:
    """Extract all layers in order, as a container engine would."""
    found: dict[str, bytes] = {}
    for layer in manifest_of(layout)["layers"]:
        data = (layout / "blobs/sha256" / layer["digest"][7:]).read_bytes()
        assert (canonical.sha256(data), len(data)) == (layer["digest"], layer["size"])
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                assert (member.uid, member.gid, member.mtime) == (0, 0, 0)
                if member.isfile():
                    found[member.name] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("profile", ["tar", "image"])
def test_the_same_files_come_out(bundle: Bundle, tmp_path: Path, profile: other_forms.Profile) -> None:
    digest = other_forms.export(bundle, profile, tmp_path / "one")
    prefix = "models/" if profile == "image" else ""
    found = unpack(tmp_path / "one")
    for path, blob in bundle.tree:
        assert canonical.sha256(found[prefix + path]) == blob.digest
    assert {prefix + name for name in ("Kitfile", "manifest.json", "component.json")} <= found.keys()
    assert other_forms.export(bundle, profile, tmp_path / "two.tar") == digest, "deterministic"
    with tarfile.open(tmp_path / "two.tar") as tar:
        assert "index.json" in tar.getnames()
    assert digest != bundle.digest


def test_the_tar_profile_names_every_file(bundle: Bundle, tmp_path: Path) -> None:
    other_forms.export(bundle, "tar", tmp_path / "lay")
    manifest = manifest_of(tmp_path / "lay")
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    for layer in manifest["layers"]:
        assert layer["mediaType"].endswith(".tar")
        assert layer["annotations"]["org.cncf.model.filepath"]


def test_the_kitfile_names_every_file_once(bundle: Bundle) -> None:
    value = json.loads(other_forms.write_kitfile(bundle))
    named = [value["model"]["path"], *(part["path"] for part in value["model"]["parts"])]
    named += [row["path"] for row in (*value["code"], *value["docs"])]
    assert sorted(named) == sorted(path for path, _ in bundle.tree)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="`skopeo` is not installed")
def test_skopeo_takes_the_twin_for_an_image(bundle: Bundle, tmp_path: Path) -> None:
    digest = other_forms.export(bundle, "image", tmp_path / "lay")
    told = subprocess.run(["skopeo", "inspect", f"oci:{tmp_path}/lay:1.0.0"], capture_output=True, check=True)
    assert json.loads(told.stdout)["Digest"] == digest
    other_forms.export(bundle, "image", tmp_path / "lay.tar")
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci-archive:{tmp_path}/lay.tar:1.0.0", f"oci:{tmp_path}/x:1"], check=True
    )
