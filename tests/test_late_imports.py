# SPDX-License-Identifier: Apache-2.0
"""Modules that a worker imports by name, late, have what is taken from them: no type checker looks there."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("packager", "runtimes")
    for path in (ROOT / folder).rglob("*.py")
    if 'import_module("packager.' in path.read_text()
)


def named_module(value: ast.expr) -> str | None:
    """Return the module of ours that an expression imports by a constant name."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "importlib.import_module":
        (name,) = value.args
        if isinstance(name, ast.Constant) and str(name.value).startswith("packager."):
            return str(name.value)
    return None


def list_missing(source: str) -> Iterator[str]:
    """Yield every attribute that is taken from such a module and is not there."""
    tree = ast.parse(source)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.Module):
            continue
        known = {
            target.id: module
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and (module := named_module(node.value))
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                module = known.get(ast.unparse(node.value)) or named_module(node.value)
                if module and not hasattr(importlib.import_module(module), node.attr):
                    yield f"{module} has no {node.attr}"


@pytest.mark.parametrize("path", FILES)
def test_late_imports_have_what_is_taken(path: str) -> None:
    assert [*list_missing((ROOT / path).read_text())] == []


def test_a_name_that_is_gone_is_found() -> None:
    source = 'def f():\n    m = importlib.import_module("packager.semver")\n    return m.parse, m.gone()\n'
    assert "packager.semver has no gone" in list_missing(source)
