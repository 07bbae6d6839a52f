# SPDX-License-Identifier: Apache-2.0
"""A site proves a bundle and sends the attestation back; policy and promotion require it, and no other's."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sys
from pathlib import Path

import onnxruntime
import pytest

from packager.trust import edit, file, keys
from tests.e2e.conftest import Project

pytestmark = pytest.mark.slow
RULES = """
rules:
  - conformance: {signers: [site]}
"""
HERE = ("--runtime", f"onnxruntime=={onnxruntime.__version__}", "--python", sys.executable, "--level", "L3")
RESULT = "https://in-toto.io/attestation/test-result/v0.1"


def place(root: Path, built: Project, *files: str) -> Project:
    made = Project(root, root / "store")
    made.folder.mkdir()
    for name in ("cnn.bundle.tar", "release.pub", *files):
        shutil.copy(built.folder / name, made.folder / name)
    return made


def test_gate_accepts_a_site_s_attestation(built: Project, tmp_path: Path) -> None:
    site, vendor = place(tmp_path / "site", built), place(tmp_path / "vendor", built)
    root = keys.generate_key("p256")
    keys.save(root, vendor.folder / "root.pem", vendor.folder / "root.pub", None)
    for name in ("site", "stranger"):
        site.run("keygen", name)
        shutil.copy(site.folder / f"{name}.pub", vendor.folder)
    vendor.run("keygen", "gate")
    content = edit.new_content("acme", [root.public], 1, dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
    for name in ("release", "site", "gate"):
        content = edit.with_signer(content, name, {"key": (vendor.folder / f"{name}.pub").read_text()})
    (vendor.folder / "acme.trust").write_bytes(file.write(content, [root]).to_bytes())
    (vendor.folder / "proven.yaml").write_text(RULES)
    gate = (
        "policy",
        "check",
        "cnn.bundle.tar",
        "--profile",
        "proven.yaml",
        "--trust",
        "acme.trust",
        "--state",
        "none",
    )
    promote = (
        "promote",
        "cnn.bundle.tar",
        "--to",
        "production",
        "--profile",
        "proven.yaml",
        "--trust",
        "acme.trust",
        "--key",
        "gate.pem",
        "--state",
        "none",
    )
    vendor.run("trust", "add", "acme.trust", "--require", RESULT, "--by", "site", "--root-key", "root.pem")
    verify = ("verify", "cnn.bundle.tar", "--trust", "acme.trust", "--state", "none")

    assert "missing" in vendor.run(*verify, code=1).stderr
    vendor.run(*promote, code=1)

    site.run("conform", "cnn.bundle.tar", "--key", "release.pub", *HERE, "--sign", "stranger.pem", "--report", "s")
    shutil.copy(site.folder / "s" / "attestation.sigstore.json", vendor.folder / "stranger.json")
    attach = ("conform", "merge", "stranger.json", "--attach", "cnn.bundle.tar")
    assert "hint:" in vendor.run(*attach, "--key", "site.pub", code=1).stderr, "no trusted key signed it"
    vendor.run(*attach, "--key", "stranger.pub")
    assert "missing" in vendor.run(*verify, code=1).stderr, "attached, and still not by a trusted key"

    site.run("conform", "cnn.bundle.tar", "--key", "release.pub", *HERE, "--sign", "site.pem", "--report", "out")
    shutil.copy(site.folder / "out" / "attestation.sigstore.json", vendor.folder / "proof.json")
    found = vendor.run(
        "conform", "merge", "proof.json", "--key", "site.pub", "--attach", "cnn.bundle.tar", "--report", "all", "--json"
    )
    assert found["verdict"]["ok"] and (vendor.folder / "all" / "report.html").is_file()
    vendor.run(*verify)
    assert vendor.run(*gate).returncode == 0
    assert vendor.run(*promote, "--json")["promoted"]


def test_failed_attestation_stops_the_gate(built: Project, tmp_path: Path) -> None:
    """The site's own program answers with the first row for all rows; it signs what the suite found."""
    site = place(tmp_path / "site", built)
    site.run("keygen", "site")
    faulty = Path(__file__).parents[1] / "unit" / "conformance" / "faulty.py"
    adapter = f"{sys.executable} {faulty} first row for all rows"
    done = site.run(
        "conform",
        "cnn.bundle.tar",
        "--key",
        "release.pub",
        "--adapter",
        adapter,
        "--level",
        "L3",
        "--sign",
        "site.pem",
        "--report",
        "out",
        code=1,
    )
    assert "L3 test_reference_vectors" in done.stdout and "operators: of ONNX's own tests" in done.stdout
    (cell,) = json.loads((site.folder / "out" / "result.json").read_text())["cells"]
    assert {"Conv", "Gemm"} <= set(cell["operators"]["operators"]), "tested without an option"
    (site.folder / "proven.yaml").write_text("rules:\n  - conformance\n")
    check = (
        "policy",
        "check",
        "cnn.bundle.tar",
        "--profile",
        "proven.yaml",
        "--key",
        "release.pub",
        "--key",
        "site.pub",
    )
    assert "failed on" in site.run(*check, code=1).stdout
