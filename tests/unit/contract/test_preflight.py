# SPDX-License-Identifier: Apache-2.0
"""Preflight and fleets: what is asked is answered, sites hold only what they state, the smallest step comes first."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest

from packager.contract import fleet, host, preflight, runtime_tables
from packager.contract import page as compatpage
from packager.contract.fleet import Device, Site
from packager.errors import UsageError
from packager.graph import saturation
from packager.server.process import host_limits
from tests.support import contracts

FLEET = """
sites:
  acme: {runtimes: {onnxruntime: 1.16.3}, python: "3.11", memory: 16GiB}
  bigco: {runtimes: {triton: 24.10}}
  odd: {runtimes: {onnxruntime: 1.50}}
"""


def test_without_a_question_every_known_version_is_listed() -> None:
    cells = preflight.judge_everywhere(contracts.read(contracts.derived()))
    assert {cell.runtime for cell in cells} == {"onnxruntime", "triton"}
    promised = {cell.version: cell.promised for cell in cells if cell.runtime == "onnxruntime"}
    assert promised["1.17.0"] and not promised["1.16.3"]
    assert all(cell.answer.outcome == "ok" for cell in cells)


def test_what_answers_alike_is_one_line() -> None:
    told = contracts.read(contracts.derived())
    joined = [
        span for span in preflight.join_cells(preflight.judge_everywhere(told)) if span.first.runtime == "onnxruntime"
    ]
    assert [(span.first.promised, span.first.version, span.last.version) for span in joined] == [
        (False, "1.15.0", "1.16.3"),
        (True, "1.17.0", [*runtime_tables.load_shipped("onnxruntime").rows][-1]),
    ]
    refused = preflight.join_cells(
        preflight.judge_everywhere(contracts.read(contracts.derived(graph="Gelu", text=LATE)))
    )
    assert refused[0].first.answer.outcome == "no" and [span.versions for span in refused[:2]] == [
        "1.15.0–1.15.1",
        "1.16.0–1.16.3",
    ]


LATE = contracts.RECIPE.replace('">=1.17"', '">=1.23"').replace('">=24.04"', '">=25.10"')


def test_what_ran_is_never_unknown() -> None:
    """A graph of operators that no table knows: measured by its build on one version, conformed on another."""
    value = copy.deepcopy(contracts.derived())
    value["graph"]["operators"]["com.microsoft"] = {"FastGelu": {"1": ["?"]}}
    told = contracts.read(value)
    assert preflight.judge_promises(told, preflight.judge_everywhere(told)) == "unknown"
    name = "onnxruntime-cpu-fp32"
    seen = {
        (name, "onnxruntime", "1.31.1"): "measured by its build",
        ("triton-cpu-fp32", "triton", "2.46.0"): "conformed",
        (name, "onnxruntime", "1.77.0"): "conformed",
    }
    found = {(cell.runtime, cell.version): cell.answer for cell in preflight.judge_everywhere(told, proofs=seen)}
    assert (
        found["onnxruntime", "1.31.1"].outcome == "ok"
        and found["onnxruntime", "1.31.1"].source == "measured by its build"
    )
    assert found["onnxruntime", "1.77.0"].outcome == "ok", "a version that no table has"
    assert found["onnxruntime", "1.31.0"].outcome == "unknown"
    (other,) = preflight.judge_version(told, "triton", "24.05", proofs=seen)
    assert other.answer.source == "conformed", "24.05 is another name of 2.46.0"
    (site,) = preflight.judge_site(told, Site("a", {"onnxruntime": "1.31.1"}), proofs=seen).cells
    assert site.answer.outcome == "ok"


def test_proof_does_not_undo_a_no() -> None:
    told = contracts.read(contracts.derived(graph="Gelu", text=LATE))
    seen = {("onnxruntime-cpu-fp32", "onnxruntime", "1.15.0"): "conformed"}
    assert preflight.judge_version(told, "onnxruntime", "1.15.0", proofs=seen)[0].answer.outcome == "no"


def test_entries_are_appended_and_the_last_of_a_site_counts() -> None:
    appended = (
        FLEET
        + fleet.write(Site("acme", {"onnxruntime": "1.20.0"}))
        + fleet.write(Site("new", {"openvino": "2026.4.1"}))
    )
    sites = {site.name: site for site in fleet.parse(appended, "fleet.yaml")}
    assert set(sites) == {"acme", "bigco", "odd", "new"} and sites["acme"].runtimes == {"onnxruntime": "1.20.0"}
    assert sites["acme"].memory is None, "the newer entry stands alone"
    with pytest.raises(UsageError, match=r"fleet\.yaml:1[0-9].*colour"):
        fleet.parse(appended + "---\nsites:\n  a: {runtimes: {}, colour: red}\n", "fleet.yaml")
    for text in ("sites: {a: {runtimes: {}}, a: {runtimes: {}}}", "---\n", "# nothing\n"):
        with pytest.raises(UsageError):
            fleet.parse(text, "fleet.yaml")


def test_folded_features_are_counted_and_not_held_against_the_site() -> None:
    """What a terminal shows may be pasted: the site then states no features, rather than few."""
    cpu = ("3dnowprefetch", "amx_int8", "avx2", "avx512_vnni", "avx_vnni", "fma", "fpu", "svm", "vaes")
    site = Site("acme", {"onnxruntime": "1.20.0"}, machine="x86_64", cpu=cpu)
    shown = fleet.write(site, folded=True)
    (line,) = [line for line in shown.splitlines() if "cpu" in line]
    assert "9 features, for inference: amx_int8, avx2, avx512_vnni, avx_vnni, fma;" in line
    assert next(iter(fleet.parse(shown, "fleet.yaml"))) == replace(site, cpu=())
    assert next(iter(fleet.parse(fleet.write(site), "fleet.yaml"))) == site
    arm = fleet.write(replace(site, cpu=("aes", "asimddp", "bf16", "i8mm", "sve2")), folded=True)
    assert "5 features, for inference: asimddp, bf16, i8mm, sve2;" in arm
    assert set(saturation.EXACT) <= set(cpu), "what contracts ask for is shown"


def test_versions_are_texts_in_a_fleet() -> None:
    sites = {site.name: site for site in fleet.parse(FLEET, "fleet.yaml")}
    assert sites["bigco"].runtimes == {"triton": "24.10"}, "not the number 24.1"
    assert sites["acme"].memory == 16 << 30 and sites["acme"].python == "3.11"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sites: {}", "sites"),
        ("sites: {a: {}}", "runtimes"),
        ("sites: {a: {runtimes: {onnxruntime: new}}}", "version"),
        ("sites: {a: {runtimes: {onnxruntime: 1.16.3}, colour: red}}", "colour"),
        ("places: {}", "places"),
        ("sites: {a: {runtimes: {}, memory: 16}}", "memory"),
        ("sites: {../a: {runtimes: {}}}", "cannot be a name"),
    ],
)
def test_a_wrong_fleet_is_one_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        fleet.parse(text, "fleet.yaml")
    assert caught.value.message.startswith("fleet.yaml:1")


def test_an_entry_is_read_back_as_written() -> None:
    site = Site(
        "acme",
        {"onnxruntime": "1.16.3"},
        "3.11",
        "x86_64",
        ("avx2", "fma"),
        16 << 30,
        1 << 40,
        (Device("NVIDIA L4", "8.9", 24 << 30),),
        "550.54.15",
        {"threads": 4},
        False,
    )
    assert fleet.parse(fleet.write(site), "fleet.yaml") == (site,)


def test_the_host_describes_itself(tmp_path: Path) -> None:
    answer = "NVIDIA L4, 8.9, 23034, 550.54.15\nNVIDIA L4, 8.9, 23034, 550.54.15\n"
    site = host.describe("here", tmp_path, lambda command: answer if command[0] == "nvidia-smi" else "")
    assert site.capabilities == ("8.9",) and site.driver == "550.54.15" and len(site.devices) == 2
    assert site.runtimes["onnxruntime"] and site.memory and site.disk
    assert fleet.parse(fleet.write(site), "f")[0].runtimes == site.runtimes
    bare = host.describe("here", tmp_path, lambda command: "")
    assert not bare.devices and any("no GPU" in message for _, message in host.list_remarks(bare))


@pytest.mark.parametrize(("level", "good"), [("bubblewrap", True), ("namespaces", False), ("none", False)])
def test_a_program_that_is_missing_is_not_ok(level: str, good: bool) -> None:
    ok, message = host.describe_confinement(level)
    assert ok == good and ("no bubblewrap" in message) == (not good)


def test_the_host_is_what_this_process_may_have_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "groups").write_text("0::/")
    (tmp_path / "cpu.max").write_text("25000 100000\n")
    (tmp_path / "memory.max").write_text(f"{256 << 20}\n")
    read = host_limits.read_allowance
    monkeypatch.setattr(host_limits, "read_allowance", lambda: read(tmp_path, tmp_path / "groups"))
    site = host.describe("here", tmp_path, lambda command: "")
    told = "\n".join(message for _, message in host.list_remarks(site))
    assert site.memory == 256 << 20
    assert f"0.25 of {os.cpu_count()} processors" in told and "256 of " in told


def outcome(site: Site, graph: str = "convolution at 18") -> preflight.Reach:
    return preflight.judge_site(contracts.read(contracts.derived(graph=graph)), site)


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


@pytest.mark.parametrize(("memory", "expected"), [(1 << 16, "unknown"), (1 << 21, "ok")])
def test_a_host_below_the_peak_is_doubted(memory: int, expected: str) -> None:
    """It has room for weights and activations, and not for what the allocator keeps."""
    reached = outcome(Site("a", {"onnxruntime": "1.16.3"}, memory=memory))
    assert reached.outcome == expected
    reasons = [reason for cell in reached.cells for reason in cell.answer.reasons]
    assert [reason.limit for reason in reasons] == (["memory"] if expected == "unknown" else [])
    assert all("comes to take about" in reason.message for reason in reasons)


def test_a_gpu_target_needs_the_device_and_the_driver() -> None:
    text = contracts.RECIPE.replace('triton: ">=24.04"', 'triton: {versions: ">=24.04", devices: [sm_86]}')
    promise = contracts.read(contracts.derived(text))
    site = Site("a", {"triton": "24.10"}, devices=(Device("A10", "8.6"),), driver="535.1")
    limits = {r.limit for cell in preflight.judge_site(promise, site).cells for r in cell.answer.reasons}
    assert limits == {"driver"}
    site = Site("a", {"triton": "24.10"}, devices=(Device("T4", "7.5"),), driver="570.1")
    limits = {r.limit for cell in preflight.judge_site(promise, site).cells for r in cell.answer.reasons}
    assert limits == {"device"}


@pytest.mark.parametrize(
    ("capability", "fits"), [("7.5", False), ("8.0", True), ("8.7", False), ("8.9", True), ("12.0", True)]
)
def test_an_engine_for_many_gpus_needs_one_of_them(capability: str, fits: bool) -> None:
    text = contracts.RECIPE.replace('triton: ">=24.04"', 'tensorrt: {versions: ">=11.4", devices: [ampere_plus]}')
    site = Site("a", {"tensorrt": "11.4.0"}, devices=(Device("GPU", capability),))
    found = preflight.judge_site(contracts.read(contracts.derived(text)), site).cells
    assert {cell.target for cell in found} == {"tensorrt-ampere_plus-fp32"}
    assert any(reason.limit == "device" for cell in found for reason in cell.answer.reasons) is not fits
    assert all((cell.answer.outcome == "no") is not fits for cell in found)


def test_a_server_around_an_engine_runs_its_targets() -> None:
    (cell,) = preflight.judge_version(contracts.read(contracts.derived()), "kserve", "0.21.0")
    assert (cell.target, cell.answer.outcome) == ("onnxruntime-cpu-fp32", "ok")


def test_the_smallest_change_comes_first() -> None:
    promise = contracts.read(contracts.derived(graph="convolution at 20"))
    sites = [
        Site("acme", {"onnxruntime": "1.16.3"}),
        Site("old", {"onnxruntime": "1.15.1"}),
        Site("fine", {"onnxruntime": "1.20.1"}),
    ]
    reached = [preflight.judge_site(promise, site) for site in sites]
    assert [entry.outcome for entry in reached] == ["no", "no", "ok"]
    steps = preflight.suggest_steps(promise, reached)
    assert steps[0].message == 're-export at opset 19: promise `onnxruntime: ">=1.16.3"` and build again'
    assert steps[0].sites == ("acme",)
    assert [step.message for step in steps[1:]] == [
        're-export at opset 18: promise `onnxruntime: ">=1.15.1"` and build again',
        "upgrade onnxruntime 1.16.3 to 1.17.0",
        "upgrade onnxruntime 1.15.1 to 1.17.0",
    ]


def test_another_python_is_a_step_of_the_site() -> None:
    promise = contracts.read(contracts.derived())
    reached = [preflight.judge_site(promise, Site("a", {"onnxruntime": "1.16.3"}, python="3.12"))]
    assert "with onnxruntime 1.16.3" in preflight.suggest_steps(promise, reached)[0].message


def test_the_page_is_self_contained_and_escapes() -> None:
    promise = contracts.read(contracts.derived())
    reached = [preflight.judge_site(promise, Site("<script>", {"onnxruntime": "1.99"}))]
    cells = preflight.judge_everywhere(promise)
    page = compatpage.render_page("net", "1.0.0", "sha256:0", cells, reached, preflight.suggest_steps(promise, reached))
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page
    assert page == compatpage.render_page(
        "net", "1.0.0", "sha256:0", cells, reached, preflight.suggest_steps(promise, reached)
    )


ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd atomics asimddp i8mm
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd4f
"""
X86 = """processor\t: 0
model name\t: AMD EPYC 9654
flags\t\t: fpu avx2 avx512_vnni
"""


@pytest.mark.parametrize(
    ("machine", "shown", "features", "name"),
    [
        ("x86_64", X86, ("avx2", "avx512_vnni", "fpu"), "AMD EPYC 9654"),
        ("aarch64", ARM, ("asimd", "asimddp", "atomics", "fp", "i8mm"), "implementer 0x41, part 0xd4f"),
        ("aarch64", X86, (), ""),
        ("x86_64", "", (), ""),
    ],
    ids=["x86-64", "Arm", "Arm emulated on x86-64", "silent"],
)
def test_a_processor_is_what_its_own_kernel_says(
    machine: str, shown: str, features: tuple[str, ...], name: str
) -> None:
    assert host.list_features(machine, shown) == features
    assert host.find_name(machine, shown) == name
