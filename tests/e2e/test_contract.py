# SPDX-License-Identifier: Apache-2.0
"""The contract on the command line: build states it, compat, doctor and diff answer from it, probe measures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from onnx import TensorProto, helper

from packager.contract import contract
from packager.formats import platforms
from tests.e2e.conftest import Project
from tests.support import contracts, graphs

LOOSE = "tolerance: {default: {atol: 1.0e-3, rtol: 1.0e-2}}\n"


@pytest.fixture
def net(tmp_path: Path, project: Callable[..., Project]) -> Project:
    """A small ONNX model, built as version 1.0.0 with a second precision and a second runtime."""
    source = tmp_path / "net.onnx"
    source.write_bytes(graphs.convolution(18).graph)
    recipe = contracts.RECIPE.replace(
        'onnxruntime: ">=1.17"', 'onnxruntime: {versions: ">=1.17", precision: [fp32, fp16]}'
    )
    made = project(recipe + LOOSE, **{"net.onnx": source})
    made.run("build")
    return made


def test_a_bundle_says_where_it_runs(net: Project) -> None:
    value = net.run("inspect", "net:1.0.0", "--json")["contract"]
    jsonschema.validate(value, json.loads(contract.build_schema()))
    assert value["targets"]["onnxruntime-cpu-fp16"]["graph"]["operators"]["ai.onnx"]["Conv"] == {"11": ["T=float16"]}
    assert "graph" not in value["targets"]["triton-cpu-fp32"], "a server runs the same graph"
    known = net.run("compat", "net:1.0.0", "--json")
    assert known["ok"] and len(known["cells"]) > 80
    asked = net.run("compat", "net:1.0.0", "--runtime", "onnxruntime==1.16.3", "--runtime", "triton==2.46", "--json")
    assert [cell["outcome"] for cell in asked["cells"]] == ["ok"] * 3
    unknown = net.run("compat", "net:1.0.0", "--runtime", "onnxruntime==1.99", "--json", code=6)
    assert (unknown["outcome"], unknown["ok"]) == ("unknown", False)
    assert len(net.run("compat", "net:1.0.0").stdout.splitlines()) < 20, "versions that answer alike share a line"
    assert "did you mean `onnxruntime`" in net.run("compat", "net:1.0.0", "--runtime", "onxruntime==1.2", code=2).stderr

    (net.folder / "fleet.yaml").write_text(
        "sites:\n  acme: {runtimes: {onnxruntime: 1.16.3}, python: '3.12'}\n  fine: {runtimes: {triton: 24.10}}\n"
    )
    answer = net.run("compat", "net:1.0.0", "--fleet", "fleet.yaml", "--html", "fleet.html", "--json", code=1)
    assert [(site["site"], site["outcome"]) for site in answer["sites"]] == [("acme", "no"), ("fine", "ok")]
    assert answer["steps"][0]["sites"] == ["acme"]
    assert "acme" in (net.folder / "fleet.html").read_text()

    here = net.run("doctor", "net:1.0.0", "--name", "here", "-o", "here.yaml", "--json")
    assert here["bundle"]["outcome"] == "ok"
    net.run("compat", "net:1.0.0", "--fleet", "here.yaml")

    (net.folder / "net.onnx").write_bytes(graphs.single("Relu", 18).graph)
    net.write(contracts.RECIPE.replace("1.0.0", "1.1.0"))
    refused = net.run("build", code=1).stderr
    assert "`net:1.1.0` breaks the interface of 1.0.0" in refused and "hint: release it as 2.0.0" in refused
    net.write(contracts.RECIPE.replace("1.0.0", "2.0.0"))
    net.run("build")
    compared = net.run("diff", "net:1.0.0", "net:2.0.0", "--json")
    assert (compared["needed"], compared["taken"], compared["ok"]) == ("major", "major", True)
    assert {"interface", "targets", "graph", "weights"} <= {change["area"] for change in compared["changes"]}
    assert "release it as 3.0.0" in net.run("diff", "net:2.0.0", "net:1.0.0", code=1).stdout


def test_tables_travel_signed(net: Project) -> None:
    table = {
        "format": 1,
        "runtime": "onnxruntime",
        "serial": 99,
        "versions": {"1.99.0": {"source": "vendor", "opset": {"ai.onnx": 30}, "ir": 15}},
    }
    (net.folder / "table.json").write_text(json.dumps(table))
    net.run("keygen", "publisher")
    net.run("runtimes", "sign", "table.json", "--key", "publisher.pem", "-o", "signed.json")
    net.run("runtimes", "update", "signed.json", code=2)
    assert net.run("runtimes", "update", "signed.json", "--key", "publisher.pub", "--json")["serial"] == 99
    net.run("runtimes", "update", "signed.json", "--key", "publisher.pub", code=1)
    assert "1.99.0" in net.run("runtimes", "show", "onnxruntime", "--json")
    (cell, _) = net.run("compat", "net:1.0.0", "--runtime", "onnxruntime==1.99.0", "--json", code=6)["cells"]
    assert cell["outcome"] == "unknown", "a table without kernels proves nothing"


@pytest.mark.slow
def test_a_probe_makes_an_unknown_version_known(net: Project) -> None:
    """1.22.2 is in no table; its minor version stands for it until it is measured."""
    before = net.run("compat", "net:1.0.0", "--runtime", "onnxruntime==1.21.1", "--json")["cells"][0]
    assert before["source"] == "measured"
    found = net.run("runtimes", "probe", "onnxruntime==1.21.1", "--json")
    assert found["source"] == "measured" and found["opset"]["ai.onnx"] == 22 and "3.11" in found["python"]
    assert Path(found["kept"]).is_file()
    assert net.run("compat", "net:1.0.0", "--runtime", "onnxruntime==1.21.1", "--json")["ok"]
    report = net.run("runtimes", "probe", "onnxruntime==1.21.1", "--bundle", "net:1.0.0", "--json")
    assert set(report["operators"]) == {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}
    assert all(entry["passed"] and not entry["failed"] for entry in report["operators"].values())


def test_what_its_build_ran_is_known_of_an_operator_in_no_table(project: Callable[..., Project]) -> None:
    """FastGelu is ONNX Runtime's own: the tables say nothing, the build measured it on the version of its toolchain."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    nodes = [helper.make_node("FastGelu", ["x"], ["g"], domain="com.microsoft"), helper.make_node("Neg", ["g"], ["y"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets, ir_version=8)
    here = project(
        "name: gelu\nversion: 1.0.0\nsource: gelu.onnx\ncustom-domains: [com.microsoft]\npolicy: dev\n"
        f"platforms: [{platforms.name_host()}]\n"
    )
    (here.folder / "gelu.onnx").write_bytes(made.SerializeToString())
    here.run("build")
    version = json.loads((here.folder / "bundle.lock").read_bytes())["toolchain"]["onnxruntime"]
    asked = here.run("compat", "gelu:1.0.0", "--runtime", f"onnxruntime=={version}", "--json")
    (cell,) = asked["cells"]
    assert (cell["outcome"], cell["source"]) == ("ok", "measured by its build")
    assert any("signatures are not checked here" in note for note in asked["notes"])
    every = here.run("compat", "gelu:1.0.0", "--json", code=6)
    told = {cell["version"]: cell["outcome"] for cell in every["cells"]}
    assert told.pop(version) == "ok" and set(told.values()) == {"unknown"}

    here.run("keygen", "release")
    here.run("sign", "gelu:1.0.0", "--key", "release.pem", "-o", "gelu.bundle.tar")
    (cell,) = here.run("compat", "gelu.bundle.tar", "--runtime", f"onnxruntime=={version}", "--json")["cells"]
    assert cell["outcome"] == "ok", "it travels with the signed provenance"
