# SPDX-License-Identifier: Apache-2.0
"""Summarise what Python code in a source imports and calls, for the person who may consent to it.

It is no scanner in the sense of the others: code can do anything, so none is clean. It says where to look first.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

_MODULES = frozenset(
    {
        "builtins",
        "code",
        "ctypes",
        "cffi",
        "gc",
        "importlib",
        "inspect",
        "marshal",
        "multiprocessing",
        "packager",
        "pickle",
        "pty",
        "runpy",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "sys",
        "threading",
        "urllib",
        "requests",
    }
)
_CALLS = frozenset({"exec", "eval", "compile", "__import__", "setattr", "globals", "vars", "open", "breakpoint"})
_MOST = 20


def list_remarks(path: str, data: bytes) -> list[str]:
    """Return what a file of code is, if it is no text of Python, or which remarkable names it uses."""
    if not path.endswith(".py"):
        return ["a compiled module"] if path.endswith((".so", ".pyd", ".pyc")) else []
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return [f"cannot be read as Python: {type(error).__name__}"]
    return sorted(set(_remarkable(tree)))[:_MOST]


def _remarkable(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {alias.name:.80}" for alias in node.names if _top(alias.name) in _MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module and _top(node.module) in _MODULES:
            yield f"imports {node.module:.80}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
            yield f"calls {node.func.id}"


def _top(name: str) -> str:
    return name.partition(".")[0]
