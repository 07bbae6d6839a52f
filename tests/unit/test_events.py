# SPDX-License-Identifier: Apache-2.0
"""What ends is what began: a display that follows steps knows them by their labels alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for room in ("packager", "runtimes") for path in sorted((ROOT / room).rglob("*.py"))]


def labels(function: ast.AST, event: str) -> set[str]:
    """Return the expressions that a function gives to an event as its label."""
    calls = (node for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    return {ast.unparse(call.args[0]) for call in calls if call.func.id == event and call.args}  # type: ignore[attr-defined]


@pytest.mark.parametrize("event", ["Finished", "Started"])
def test_some_functions_report_steps(event: str) -> None:
    assert any(labels(ast.parse(path.read_text()), event) for path in SOURCES)


def test_a_step_ends_by_the_label_by_which_it_began() -> None:
    wrong = []
    for path in SOURCES:
        text = path.read_text()
        if "Finished(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                began, ended = labels(node, "Started"), labels(node, "Finished")
                if began and ended and began != ended:
                    wrong.append(f"{path.name}: {node.name}: {sorted(ended)} ends what {sorted(began)} began")
    assert not wrong
