# SPDX-License-Identifier: Apache-2.0
"""The seam of runtimes: defaults in one place, members that are missing are named, third parties found where they lie."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_origin, get_type_hints

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from packager import plugins
from packager.contract import host, runtime_tables
from packager.deploy import server_files
from packager.errors import StepError, UsageError
from packager.knobs import catalogue
from packager.runtime import (
    Compile,
    Conformance,
    Open,
    Runtime,
    adapter_file,
    find_testable,
    list_members,
    load_conformance,
    load_prober,
    load_runtime,
)
from packager.sandbox import sandbox
from packager.server.declaration import Knob
from packager.steps import compile as compile_step
from packager.steps import measure
from tests.support import graphs

LEAST = '''"""Acme."""
TITLE, DEVICES, PRECISIONS, TOOLCHAIN = "Acme", ("cpu",), ("fp32",), ()
def level_for(specifier): return 17, 8
def requirements(specifier, devices=("cpu",)): return ()
'''
SESSION = "def open_session(path, *, threads, device): return path, threads, device\n"
TABLE = '{"format": 1, "runtime": "acme", "serial": 3, "versions": {"1.0": {"source": "vendor"}}}'
Write = Callable[..., Path]


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Lay out an installed distribution with the runtime `acme`, whose package lies elsewhere, as editable ones do."""
    info, source = tmp_path / "site" / "acme_runtime-1.0.dist-info", tmp_path / "source"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-runtime\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[packager.runtimes]\nacme = acme_runtime\n")

    def write(text: str = LEAST, **files: str) -> Path:
        package = source / "acme_runtime"
        package.mkdir(parents=True, exist_ok=True)
        for name, content in {"__init__.py": text, **files}.items():
            (package / name).write_text(content)
        monkeypatch.syspath_prepend(str(source))
        monkeypatch.syspath_prepend(str(info.parent))
        for name in [name for name in sys.modules if name.split(".")[0] == "acme_runtime"]:
            monkeypatch.delitem(sys.modules, name)
        return package

    return write


def test_defaults_of_a_runtime_that_states_the_least(acme: Write) -> None:
    acme()
    runtime = load_runtime("acme")
    assert (runtime.name, runtime.engine, runtime.distributions) == ("acme", "acme", ("acme",))
    assert not (runtime.builds_on_gpu or runtime.served or runtime.is_graph("cpu", "fp32"))
    assert runtime.unmeasurable("cpu") is None and runtime.oldest_with(17) is None
    assert runtime.ceiling(">=1") == runtime.level_for(">=1") == (17, 8)
    assert [*runtime.promised(">=1"), *runtime.knobs({})] == []


def test_distribution_of_a_third_party_joins_the_toolchain(acme: Write) -> None:
    acme()
    assert load_runtime("acme").toolchain == ("acme-runtime",)
    assert "model-packager" not in load_runtime("onnxruntime").toolchain


@pytest.mark.parametrize("lacking", [member.name for member in list_members(Runtime) if member.default is None])
def test_missing_member_is_named(acme: Write, lacking: str) -> None:
    acme(LEAST.replace(lacking, f"no_{lacking}"))
    with pytest.raises(UsageError, match=f"`acme_runtime` of `acme-runtime` has no `{lacking}`") as caught:
        load_runtime("acme")
    assert (caught.value.hint or "").startswith("a runtime must have it: ")


def test_missing_parts_are_named(acme: Write) -> None:
    acme()
    runtime = load_runtime("acme")
    for part, kind, words in (
        (runtime.compiler, StepError, "compiles nothing"),
        (runtime.opener, StepError, "opens nothing"),
        (lambda: load_prober("acme"), UsageError, "cannot be probed"),
        (runtime.read_session, UsageError, "cannot be served"),
    ):
        with pytest.raises(kind, match=f"`acme`.* {words}|`acme` {words}"):
            part()


def test_runtime_in_a_single_module_is_refused(acme: Write) -> None:
    package = acme()
    (package / "__init__.py").rename(package.with_suffix(".py"))
    package.rmdir()
    with pytest.raises(UsageError, match="runtime `acme` is no package"):
        load_runtime("acme")


def test_names_of_our_folders_are_taken(acme: Write, tmp_path: Path) -> None:
    """`mlserver` is tested here and has no plug-in; a third party cannot become half of it."""
    points = tmp_path / "site" / "acme_runtime-1.0.dist-info" / "entry_points.txt"
    points.write_text("[packager.runtimes]\nmlserver = acme_runtime\n")
    acme()
    assert "mlserver" not in plugins.list_names("runtimes")
    assert plugins.find_locations("runtimes")["mlserver"].distribution is None


def test_broken_part_is_not_taken_for_a_missing_one(acme: Write) -> None:
    acme(**{"compile.py": "import acme_library_that_is_not_installed\n"})
    with pytest.raises(ModuleNotFoundError, match="acme_library_that_is_not_installed"):
        load_runtime("acme").compiler()


def test_server_gets_the_session_of_a_third_party(acme: Write) -> None:
    acme(**{"session.py": SESSION})
    files = server_files.list_program("acme")
    assert files["packager/runtimes/acme/session.py"] == SESSION.encode()
    assert load_runtime("acme").opener()(Path("x"), threads=1, device="cpu") == (Path("x"), 1, "cpu")


def test_only_functions_with_tables_are_given_them(acme: Write) -> None:
    """A runtime that was written before there were any is called as it was."""
    lines = (
        LEAST
        + "def promised(specifier, tables=None): return tables('acme')\ndef oldest_with(opset): return str(opset)\n"
    )
    acme(lines)
    runtime = load_runtime("acme", lambda name: [name, "2.0"])
    assert runtime.promised(">=1") == ["acme", "2.0"]
    assert (runtime.oldest_with(17), runtime.level_for(">=1"), runtime.requirements(">=1")) == ("17", (17, 8), ())


def test_tables_lie_beside_the_plug_in(acme: Write) -> None:
    acme(**{"versions.json": TABLE})
    assert "acme" in runtime_tables.list_runtimes()
    assert runtime_tables.load_shipped("acme").serial == 3
    assert runtime_tables.load_shipped("not-installed").rows == {}


def test_conformance_of_a_third_party(acme: Write) -> None:
    text = 'ACCEPTS = ("acme",)\ndef versions(): return ("1.0",)\ndef requirements(v, p): return ()\ndef pythons(v): return ()\n'
    package = acme(**{"conform.py": text, "adapter.py": ""})
    assert find_testable()["acme"].path == package
    found = load_conformance("acme")
    assert (found.channels, found.device, found.library, found.engine) == (("adapter",), "cpu", "", "acme")
    assert found.adapter() == "acme" and adapter_file("acme") == package / "adapter.py"


def test_knobs_of_a_third_party_are_checked(acme: Write) -> None:
    acme(LEAST + "def knobs(contract): return [1]\n")
    contract = {"targets": {"t": {"runtime": "acme"}}, "interface": {"inputs": [], "outputs": [], "dimensions": {}}}
    with pytest.raises(UsageError, match="`knobs` of the runtime `acme`: expected Knob, got int"):
        catalogue.knobs_for(contract)
    assert all(isinstance(knob, Knob) for knob in load_runtime("triton").knobs({"targets": {}}))


def test_workers_see_the_package_of_a_third_party_and_not_what_lies_beside_it(acme: Write) -> None:
    package = acme()
    shown = [Path(path) for path in sandbox.host_interpreter().paths]
    assert package in shown and package.parent not in shown


def test_distributions_say_which_runtimes_are_installed(acme: Write) -> None:
    acme(LEAST + 'DISTRIBUTIONS = ("acme-runtime",)\n')
    assert host.find_installed()["acme"] == "1.0"
    assert host.list_distributions("triton") == ("nvidia-pytriton", "tritonserver")
    assert host.list_distributions("mlserver") == ("mlserver",)


@pytest.mark.parametrize("name", plugins.list_names("runtimes"))
def test_own_runtimes_have_the_types_of_the_seam(name: str) -> None:
    """Constants are of the type that `Runtime` states, and functions take the parameters that it names."""
    runtime = load_runtime(name)
    for field, hint in get_type_hints(Runtime).items():
        value = getattr(runtime, field)
        if isinstance(hint, type):
            assert callable(value) if hint.__name__ == "Requirements" else isinstance(value, hint), field
        elif get_origin(hint) is tuple:
            assert isinstance(value, tuple) and all(isinstance(item, str) for item in value), field
        else:
            assert callable(value), field
    for part, function, protocol in (("compile", "compile_graph", Compile), ("session", "open_session", Open)):
        file = runtime.location.path / f"{part}.py"
        if file.exists():
            assert parameters_of(file, function) == [*inspect.signature(protocol.__call__).parameters][1:]


def parameters_of(file: Path, function: str) -> list[str]:
    """Read the parameters of a function without importing its file, which needs the runtime's library."""
    nodes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    (found,) = (node.args for node in nodes if node.name == function)
    return [argument.arg for argument in (*found.args, *found.kwonlyargs)]


def test_page_lists_the_members_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-runtime.md").read_text()
    for record in (Runtime, Conformance):
        rows = [f"| `{row.name}` | {row.about} | {row.default or 'required'} |" for row in list_members(record)]
        assert "\n".join(rows) in page, "run `make reference`"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy runtime as its wheel registers it, without building one."""
    info = tmp_path / "packager_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: packager-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[packager.runtimes]\ntoy = packager_toy\n")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "toy_runtime"))
    monkeypatch.syspath_prepend(str(tmp_path))


def test_toy_runtime_compiles_and_opens_through_the_steps(toy: None, tmp_path: Path) -> None:
    trial = graphs.convolution(18)
    (tmp_path / "model.onnx").write_bytes(trial.graph)
    params = {"runtime": "toy", "path": "model.onnx", "device": "cpu", "precision": "fp32", "opset": 18, "ir": 8}
    facts = compile_step.run({"graph": tmp_path}, tmp_path, params)
    assert facts["artefact"] == {"reproducibility": "bitwise", "header": {"toy": 1}, "needs": {}}
    session = measure.open_session("toy", tmp_path / facts["path"])
    expected = ReferenceEvaluator(trial.graph)
    feeds = {
        port.name: np.ones([size if isinstance(size, int) else 2 for size in port.shape], port.dtype)
        for port in session.inputs
    }
    for got, wanted in zip(session.run(feeds), expected.run(None, feeds), strict=True):
        np.testing.assert_array_equal(got, wanted)
