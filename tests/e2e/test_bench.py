# SPDX-License-Identifier: Apache-2.0
"""`packager bench` and `packager tune` on a real installation: curves, a comparison, knobs with evidence."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as h
import pytest

from packager import strictyaml
from packager.formats import platforms
from packager.knobs import knobs
from packager.trust import keys
from tests.e2e.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("bench")]
WIDTH = 512
LIGHT = ("--clients", "1,4", "--seconds", "0.5", "--rounds", "3")


def write_products(path: Path, count: int) -> None:
    """Write a graph of so many matrix products with one matrix."""
    x, y = (h.make_tensor_value_info(name, 1, ["batch", WIDTH]) for name in ("t0", f"t{count}"))
    square = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
    nodes = [h.make_node("MatMul", [f"t{number}", "w"], [f"t{number + 1}"]) for number in range(count)]
    graph = h.make_graph(nodes, "g", [x], [y], [onnx.numpy_helper.from_array(square, "w")])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Path, Path]:
    """One product, installed with far too many threads, and forty of them, which take forty times as long."""
    folder = tmp_path_factory.mktemp("bench") / "project"
    folder.mkdir()
    keys.save(keys.generate_key("p256"), folder / "release.pem", folder / "release.pub", None)
    project = Project(folder, folder.parent / "store")
    places = []
    for version, count in (("1.0.0", 1), ("2.0.0", 40)):
        write_products(folder / f"m{count}.onnx", count)
        (folder / "bundle.yaml").write_text(
            f"name: products\nversion: {version}\nsource: ./m{count}.onnx\npolicy: dev\n"
            f"platforms: [{platforms.name_host()}]\n"
        )
        project.run("build")
        project.run("sign", f"products:{version}", "--key", "release.pem", "-o", f"p{count}.bundle.tar")
        places.append(folder.parent / f"site{count}")
        project.run(
            "install",
            f"p{count}.bundle.tar",
            places[-1],
            "--key",
            "release.pub",
            *(("--set", "runtime.threads=32") if count == 1 else ()),
        )
    return project, places[0], places[1]


def test_curves_and_a_comparison_of_two_versions(sites: tuple[Project, Path, Path]) -> None:
    project, place, heavy = sites
    found = project.run("bench", place, heavy, "--set", "runtime.threads=1", "--plot", "curves.svg", *LIGHT, "--json")
    rows = {row["measure"]: row for row in found["comparison"]}
    assert rows["latency"]["ratio"]["mean"] > 1 > rows["throughput"]["ratio"]["mean"]
    for name, at_worst in (("latency", "low"), ("throughput", "high")):  # a busy machine may hide what there is
        shown = (rows[name]["ratio"][at_worst] > 1) == (at_worst == "low")
        assert rows[name]["verdict"] == ("slower" if shown else "no difference shown")
    for subject in found["subjects"]:
        assert [point["clients"] for point in subject["points"]] == [1, 4]
        for point in subject["points"]:
            assert point["requests"] > 5 and point["p50"]["mean"] <= point["p95"]["mean"] <= point["p99"]["mean"]
            rate = point["requests_per_second"]["mean"]
            assert rate == pytest.approx(1000 * point["clients"] / point["p50"]["mean"], rel=0.7), "Little's law"
        assert subject["cold_start"]["low"] > 0.05 and subject["memory"]["mean"] > 4 * WIDTH * WIDTH
    assert found["subjects"][0]["knobs"] == {"runtime.threads": 1} or found["subjects"][0]["knobs"] == {}
    svg = ET.fromstring((project.folder / "curves.svg").read_text())
    assert len(svg.findall("{http://www.w3.org/2000/svg}polyline")) > 4


def test_a_bundle_is_verified_installed_and_measured(sites: tuple[Project, Path, Path]) -> None:
    project, *_ = sites
    few = ("--clients", "1", "--seconds", "0.3", "--rounds", "1")
    text = project.run("bench", "p1.bundle.tar", "--key", "release.pub", *few).stdout
    assert "cold start" in text and "requests/s" in text
    assert project.run("bench", "p1.bundle.tar", *few, code=None).returncode != 0, "no one is trusted"


def test_knobs_are_found_that_beat_what_is_set(sites: tuple[Project, Path, Path]) -> None:
    project, place, _ = sites
    words = ("tune", place, "--objective", "least p50", "--clients", "1", "--seconds", "0.5", "--rounds", "3")
    found = project.run(*words, "--minutes", "1.5", "-o", "fast.yaml", "--json")
    assert found["trials"] > 1
    if not found["better"]:  # a busy machine may hide what there is: then nothing is claimed
        assert found["values"] == {} and not (project.folder / "fast.yaml").exists()
        return
    assert found["values"]["runtime.threads"] < 32 and found["gain"]["low"] > 1
    text = (project.folder / "fast.yaml").read_text()
    assert "# gain" in text and found["bundle"] in text
    schema = knobs.parse((place / "current" / "bundle" / "knobs.schema.json").read_bytes())
    read = {one.name for one in knobs.from_values(strictyaml.load(project.folder / "fast.yaml"), "f", schema)}
    assert read == set(found["values"])
    again = project.run(*words, "--minutes", "0.001", "-o", "fast.yaml", "--json")
    assert again["trials"] == found["trials"], "what was tried is not tried again"


def test_what_cannot_be_measured_is_an_error(sites: tuple[Project, Path, Path], tmp_path: Path) -> None:
    project, place, _ = sites
    assert "no reference input has 99 rows" in project.run("bench", place, "--rows", "99", code=2).stderr
    assert "not understood" in project.run("tune", place, "--objective", "fast", "-o", "x.yaml", code=2).stderr
    assert "expected numbers" in project.run("bench", place, "--clients", "0", code=2).stderr
    project.run("bench", tmp_path / "nothing", code=2)
    assert not (project.folder / "x.yaml").exists()
