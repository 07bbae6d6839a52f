# SPDX-License-Identifier: Apache-2.0
"""One job builds, another one signs, with nothing but a file between them; the policy finds every fact afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import helper

from packager.formats import platforms, slsa
from tests.e2e.conftest import Project

RECIPE = f"name: net\nversion: 1.0.0\nsource: ./model.onnx\nplatforms: [{platforms.name_host()}]\n"


def test_build_and_sign_are_two_jobs(tmp_path: Path, project: Callable[..., Project]) -> None:
    x, y = (helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    build = project(RECIPE, **{"model.onnx": tmp_path / "m.onnx"})
    build.run("lock")
    build.run("build", "--locked")
    build.run("export", "net:1.0.0", "job.bundle.tar", "--to-sign")
    job = Project(tmp_path / "signing", tmp_path / "another")
    job.remember_nothing()
    job.folder.mkdir()
    (job.folder / "job.bundle.tar").write_bytes((build.folder / "job.bundle.tar").read_bytes())
    job.run("keygen", "release")
    job.run("sign", "job.bundle.tar", "--key", "release.pem", "-o", "net.bundle.tar")
    checked = job.run(
        "policy", "check", "net.bundle.tar", "--profile", "release", "--key", "release.pub", "--json", code=None
    )
    missing = {row["rule"] for row in checked["findings"] if row["level"] == "error"}
    assert not missing & {"parity", "provenance", "signature", "deterministic", "sandbox", "scanned", "yanked"}, checked
    said = job.run("inspect", "net.bundle.tar", "--json")
    assert slsa.PREDICATE in json.dumps(said["statements"])
    build.run("export", "net:1.0.0", "plain.bundle.tar")
    assert (
        "only the bundle is signed" in build.run("sign", "plain.bundle.tar", "--key", job.folder / "release.pem").stderr
    )
