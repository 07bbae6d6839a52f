# SPDX-License-Identifier: Apache-2.0
"""Preflight and fleets: what is asked is answered, sites hold only what they state, the smallest step comes first."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager import compat
from packager.compatibility import compatpage, fleet, host
from packager.compatibility.fleet import Device, Site
from packager.errors import UsageError
from tests import contracts

FLEET = """
sites:
  acme: {runtimes: {onnxruntime: 1.16.3}, python: "3.11", memory: 16GiB}
  bigco: {runtimes: {triton: 24.10}}
  odd: {runtimes: {onnxruntime: 1.50}}
"""


def test_without_a_question_every_known_version_is_listed() -> None:
    cells = compat.everywhere(contracts.read(contracts.derived()))
    assert {cell.runtime for cell in cells} == {"onnxruntime", "triton"}
    promised = {cell.version: cell.promised for cell in cells if cell.runtime == "onnxruntime"}
    assert promised["1.17.0"] and not promised["1.16.3"]
    assert all(cell.answer.outcome == "ok" for cell in cells)


def test_versions_are_texts_in_a_fleet() -> None:
    sites = {site.name: site for site in fleet.parse(FLEET, "fleet.yaml")}
    assert sites["bigco"].runtimes == {"triton": "24.10"}, "not the number 24.1"
    assert sites["acme"].memory == 16 << 30 and sites["acme"].python == "3.11"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sites: {}", "sites"), ("sites: {a: {}}", "runtimes"), ("sites: {a: {runtimes: {onnxruntime: new}}}", "version"),
        ("sites: {a: {runtimes: {onnxruntime: 1.16.3}, colour: red}}", "colour"), ("places: {}", "places"),
        ("sites: {a: {runtimes: {}, memory: 16}}", "memory"), ("sites: {../a: {runtimes: {}}}", "cannot be a name"),
    ],
)  # fmt: skip
def test_a_wrong_fleet_is_one_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        fleet.parse(text, "fleet.yaml")
    assert caught.value.message.startswith("fleet.yaml:1")


def test_an_entry_is_read_back_as_written() -> None:
    site = Site("acme", {"onnxruntime": "1.16.3"}, "3.11", "x86_64", ("avx2", "fma"), 16 << 30, 1 << 40,
                (Device("NVIDIA L4", "8.9", 24 << 30),), "550.54.15", {"threads": 4}, False)  # fmt: skip
    assert fleet.parse(fleet.write(site), "fleet.yaml") == (site,)


def test_the_host_describes_itself(tmp_path: Path) -> None:
    answer = "NVIDIA L4, 8.9, 23034, 550.54.15\nNVIDIA L4, 8.9, 23034, 550.54.15\n"
    site = host.describe("here", tmp_path, lambda command: answer if command[0] == "nvidia-smi" else "")
    assert site.capabilities == ("8.9",) and site.driver == "550.54.15" and len(site.devices) == 2
    assert site.runtimes["onnxruntime"] and site.memory and site.disk
    assert fleet.parse(fleet.write(site), "f")[0].runtimes == site.runtimes
    bare = host.describe("here", tmp_path, lambda command: "")
    assert not bare.devices and any("no GPU" in message for _, message in host.remarks(bare))


def outcome(site: Site, graph: str = "convolution at 18") -> compat.Reach:
    return compat.reach(contracts.read(contracts.derived(graph=graph)), site)


def test_what_a_site_does_not_say_is_not_held_against_the_bundle() -> None:
    assert outcome(Site("a", {"onnxruntime": "1.16.3"})).outcome == "ok"


@pytest.mark.parametrize(
    ("site", "limit"),
    [
        (Site("a", {"onnxruntime": "1.16.3"}, python="3.12"), "python"),
        (Site("a", {"onnxruntime": "1.16.3"}, memory=1 << 10), "memory"),
        (Site("a", {"openvino": "2026.4"}), "target"),
    ],
)
def test_a_site_can_say_no(site: Site, limit: str) -> None:
    reached = outcome(site)
    assert reached.outcome == "no"
    assert {reason.limit for cell in reached.cells for reason in cell.answer.reasons} == {limit}


def test_a_gpu_target_needs_the_device_and_the_driver() -> None:
    text = contracts.RECIPE.replace('triton: ">=24.04"', 'triton: {versions: ">=24.04", devices: [sm_86]}')
    promise = contracts.read(contracts.derived(text))
    site = Site("a", {"triton": "24.10"}, devices=(Device("A10", "8.6"),), driver="535.1")
    limits = {r.limit for cell in compat.reach(promise, site).cells for r in cell.answer.reasons}
    assert limits == {"driver"}
    site = Site("a", {"triton": "24.10"}, devices=(Device("T4", "7.5"),), driver="570.1")
    limits = {r.limit for cell in compat.reach(promise, site).cells for r in cell.answer.reasons}
    assert limits == {"device"}


def test_a_server_around_an_engine_runs_its_targets() -> None:
    (cell,) = compat.cells(contracts.read(contracts.derived()), "kserve", "0.21.0")
    assert (cell.target, cell.answer.outcome) == ("onnxruntime-cpu-fp32", "ok")


def test_the_smallest_change_comes_first() -> None:
    promise = contracts.read(contracts.derived(graph="convolution at 20"))
    sites = [Site("acme", {"onnxruntime": "1.16.3"}), Site("old", {"onnxruntime": "1.15.1"}),
             Site("fine", {"onnxruntime": "1.20.1"})]  # fmt: skip
    reached = [compat.reach(promise, site) for site in sites]
    assert [entry.outcome for entry in reached] == ["no", "no", "ok"]
    steps = compat.steps(promise, reached)
    assert steps[0].message == 're-export at opset 19: promise `onnxruntime: ">=1.16.3"` and build again'
    assert steps[0].sites == ("acme",)
    assert [step.message for step in steps[1:]] == [
        're-export at opset 18: promise `onnxruntime: ">=1.15.1"` and build again',
        "upgrade onnxruntime 1.16.3 to 1.17.0", "upgrade onnxruntime 1.15.1 to 1.17.0",
    ]  # fmt: skip


def test_another_python_is_a_step_of_the_site() -> None:
    promise = contracts.read(contracts.derived())
    reached = [compat.reach(promise, Site("a", {"onnxruntime": "1.16.3"}, python="3.12"))]
    assert "with onnxruntime 1.16.3" in compat.steps(promise, reached)[0].message


def test_the_page_is_self_contained_and_escapes() -> None:
    promise = contracts.read(contracts.derived())
    reached = [compat.reach(promise, Site("<script>", {"onnxruntime": "1.99"}))]
    cells = compat.everywhere(promise)
    page = compatpage.page("net", "1.0.0", "sha256:0", cells, reached, compat.steps(promise, reached))
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page
    assert page == compatpage.page("net", "1.0.0", "sha256:0", cells, reached, compat.steps(promise, reached))
