# SPDX-License-Identifier: Apache-2.0
"""Every call that we make into TensorRT exists in the library's own bindings, with these arguments.

The data-centre library runs on no machine without its GPU. Its bindings are here, and say what they take
(`tests/support/tensorrt_signatures.py`); our calls are read from our own source.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import tensorrt_signatures

ROOT = Path(__file__).parents[3]
SOURCES = (
    "runtimes/_tensorrt.py",
    "runtimes/_tensorrt_build.py",
    "runtimes/_tensorrt_session.py",
    "runtimes/tensorrt/compile.py",
    "runtimes/tensorrt/adapter.py",
)
RECEIVERS = {
    "builder": "Builder",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "opened": "ICudaEngine",
    "trt.Runtime(log)": "Runtime",
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
}
RTX_ALONE = {"num_compute_capabilities", "set_compute_capability", "ComputeCapability"}
OURS = {"inputs", "outputs", "run", "message", "hint"}  # of our own `Engine` and errors, under names of the table
IN_PYTHON = {"nptype", "__name__", "__version__"}  # of the bindings' `__init__.py`

Api = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    found = importlib.util.find_spec("tensorrt_bindings")
    if found is None or shutil.which("gcc") is None:
        pytest.skip("needs the bindings of TensorRT and a C compiler")
    binary = Path(next(iter(found.submodule_search_locations or ()))) / "tensorrt.so"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.support.tensorrt_signatures",
            str(tmp_path_factory.mktemp("libraries")),
            str(binary),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    api: Api = json.loads(done.stdout)
    return api


def list_problems(source: str, api: Api) -> Iterator[str]:
    """Yield what of a source the bindings do not have."""
    tree = ast.parse(source)
    known = {name for kind in set(RECEIVERS.values()) for name in api[kind] if name != "__init__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield from _check_attribute(node, api)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield from _check_call(node, node.func, api, known)


def _check_attribute(node: ast.Attribute, api: Api) -> Iterator[str]:
    text, place = ast.unparse(node), ast.unparse(node.value)
    if place in ("trt", "self._trt") and node.attr not in IN_PYTHON | RTX_ALONE | set(api):
        yield f"{text} is not in the bindings"
    kind = place.rpartition("trt.")[2]
    kind = RECEIVERS.get(place) or (kind if place.startswith("trt.") else "")
    if kind in api and node.attr not in api[kind] and node.attr not in OURS | RTX_ALONE:
        yield f"{kind} has no {node.attr}"


def _check_call(node: ast.Call, called: ast.Attribute, api: Api, known: set[str]) -> Iterator[str]:
    place, name = ast.unparse(called.value), called.attr
    if place == "trt":
        forms = api.get(name, {}).get("__init__")
    elif place in RECEIVERS:
        forms = api[RECEIVERS[place]].get(name)
    else:
        if name in known and place not in ("self", "trt.ILogger") and not place.startswith(("_", "self._cuda")):
            yield f"{ast.unparse(called)}: the table does not say what `{place}` is"
        return
    starred = any(isinstance(item, ast.Starred) for item in node.args)
    given = {item.arg for item in node.keywords if item.arg}
    if forms and not starred and not any(_takes(form, len(node.args), given) for form in forms):
        yield f"{ast.unparse(node)} fits none of {forms}"
    elif forms is None and name not in RTX_ALONE | IN_PYTHON | OURS:
        yield f"{ast.unparse(called)} is no function"


def _takes(form: list[list[Any]], positional: int, given: set[str]) -> bool:
    names = [name for name, _ in form]
    left = form[positional:]
    return (
        positional <= len(form)
        and given <= set(names[positional:])
        and all(default or name in given for name, default in left)
    )


@pytest.mark.parametrize("path", SOURCES)
def test_every_call_exists_with_these_arguments(api: Api, path: str) -> None:
    assert list(list_problems((ROOT / path).read_text(), api)) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("config.set_timing_cache(cache)", "fits none of"),
        ("config.set_timing_cache(cache, ignore_mismatches=False)", "fits none of"),
        ("config.set_timing_caches(cache, False)", "has no set_timing_caches"),
        ("config.max_workspace_size = 1", "has no max_workspace_size"),
        ("config.clear_flag(trt.BuilderFlag.FP16_)", "has no FP16_"),
        ("trt.OnnxParser(network)", "fits none of"),
        ("trt.Parser(network, log)", "is not in the bindings"),
        ("made.execute_async_v3(stream)", "the table does not say what `made` is"),
        ("self._engine.get_binding_name(0)", "has no get_binding_name"),
    ],
)
def test_a_wrong_call_is_found(api: Api, line: str, problem: str) -> None:
    assert any(problem in found for found in list_problems(line, api)), list(list_problems(line, api))


def test_signatures_are_read_from_their_documentation() -> None:
    def function() -> None:
        """f(*args, **kwargs)
        Overloaded function.

        1. f(self: a.B, x: dict[str, int], y: bool = False) -> int

        2. f(self: a.B) -> None
        """

    function.__doc__ = "\n".join(line.strip() for line in (function.__doc__ or "").splitlines())
    assert tensorrt_signatures.signatures("f", function) == [[("x", False), ("y", True)], []]
