# SPDX-License-Identifier: Apache-2.0
"""One test over everything discovered: a plug-in offers what its group asks for, starts light, and is tested."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from packager import plugins
from packager.cli._verbs import list_verbs, load_verb
from packager.errors import UsageError
from packager.runtime import Runtime, list_members, load_runtime
from tests.support import forks

TESTS = Path(__file__).parent
OFFERS = {
    "exporters": {"TOOLCHAIN", "EXTRA", "EXECUTES", "detect", "load"},
    "lockers": {"EXTRA", "locks", "resolve"},
    "policies": {"check"},
    "renderers": {"ABOUT", "render"},
    "runtimes": {member.name for member in list_members(Runtime) if member.default is None},
    "scanners": {"TOOLCHAIN", "EXTRA", "scan"},
    "signers": {"open_signer"},
    "sources": {"EXTRA", "matches", "resolve", "fetch"},
    "steps": {"VERSION", "run"},
}
FOUND = [(group, name) for group in plugins.GROUPS for name in plugins.list_names(group)]
IDS = [f"{group}/{name}" for group, name in FOUND]
HEAVY = (
    "torch",
    "onnx",
    "numpy",
    "mlflow",
    "transformers",
    "onnxruntime",
    "pandas",
    "sklearn",
    "bentoml",
    "tensorrt",
    "tensorrt_rtx",
    "openvino",
)


@pytest.mark.parametrize(("group", "name"), FOUND, ids=IDS)
def test_a_plug_in_offers_what_its_group_asks_for(group: plugins.Group, name: str) -> None:
    module = plugins.load(group, name)
    missing = {offer for offer in OFFERS[group] if not hasattr(module, offer)}
    assert not missing
    assert module.__doc__
    if group == "steps":
        assert list(inspect.signature(module.run).parameters) == ["inputs", "out", "params"]


@pytest.mark.parametrize("name", plugins.list_names("runtimes"))
def test_a_runtime_knows_its_targets(name: str) -> None:
    """Every one of its devices and precisions is a target; nothing else is; none needs anything to be asked."""
    runtime = load_runtime(name)
    for device in runtime.devices:
        for precision in runtime.precisions:
            runtime.check_target(device, precision)
            assert isinstance(runtime.is_graph(device, precision), bool)
        reason = runtime.unmeasurable(device)
        assert reason is None or device != "cpu" or "is not installed" in reason
    for device, precision in (("abacus", runtime.precisions[0]), (runtime.devices[0], "fp7")):
        with pytest.raises(UsageError, match=f"has no target `{device}` with precision `{precision}`"):
            runtime.check_target(device, precision)


@functools.cache
def texts() -> tuple[str, ...]:
    """Return the tests: files of code, and the cases of rules, which `test_policies` runs."""
    return tuple(path.read_text() for path in (*TESTS.rglob("test_*.py"), *TESTS.glob("policies/*.yaml")))


@pytest.mark.parametrize(("group", "name"), FOUND, ids=IDS)
def test_a_plug_in_is_tested(group: str, name: str) -> None:
    words = {name, name.replace("-", "_")}
    assert any(any(word in text for word in words) for text in texts())


def test_no_plug_in_imports_what_is_heavy() -> None:
    """All of them together, in a process where a heavy import is an error."""
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}: raise SystemExit("imported " + name)
sys.meta_path.insert(0, Refuse())
from packager import plugins
for group in plugins.GROUPS:
    for name in plugins.list_names(group): plugins.load(group, name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", list_verbs())
def test_a_verb_explains_itself_with_examples(name: str) -> None:
    module = load_verb(name)
    assert module.HELP[0].islower()
    assert not module.HELP.endswith(".")
    assert f"packager {name}" in module.EXAMPLES
    done = forks.RUNNER.run([name, "--help"], Path.cwd(), forks.variables(Path.home()))
    assert done.returncode == 0 and "examples:" in done.stdout and "--json" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = forks.RUNNER.run(["completion", shell], Path.cwd(), forks.variables(Path.home()))
    assert done.returncode == 0 and "packager" in done.stdout


def test_the_shell_completes_verbs_and_options() -> None:
    """Speak the protocol that the generated scripts speak."""
    for line, wanted in (("packager ver", "verify"), ("packager verify --k", "--key")):
        environment = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
        script = Path(sys.executable).parent / "packager"
        done = subprocess.run(
            ["sh", "-c", f"{script} 8>&1 9>/dev/null"], env=environment, capture_output=True, text=True, check=False
        )
        assert wanted in done.stdout.split()


def test_the_page_of_exit_codes_lists_every_code() -> None:
    from packager import errors

    page = (TESTS.parent / "docs" / "reference" / "exit-codes.md").read_text()
    kinds = (kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.PackagerError))
    for code in {kind.code for kind in kinds} | {0, 130}:
        assert f"| {code} |" in page
