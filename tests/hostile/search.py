# SPDX-License-Identifier: Apache-2.0
"""Search sources for gadgets: functions, and methods that a pickle reaches, that hand an argument on to what runs it.

    python -m tests.hostile.search [PACKAGE …] > tests/hostile/found.txt

Nothing is imported: sources are parsed. Without packages the standard library is searched. The list was made with numpy,
scipy, sklearn, joblib, pandas, torch, torchvision, mlflow, lightgbm, xgboost, catboost, skops, cloudpickle, yaml, onnx,
onnxscript, transformers, huggingface_hub, fickling, picklescan, pyarrow, sympy, fsspec, setuptools and pip.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

RUNS = {"exec", "eval", "compile", "__import__"}
HARMS = {
    "os": {
        "system",
        "popen",
        "execv",
        "execve",
        "execvp",
        "spawnv",
        "spawnvp",
        "posix_spawn",
        "remove",
        "unlink",
        "rename",
    },
    "subprocess": {"run", "call", "Popen", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "importlib": {"import_module"},
    "runpy": {"run_path", "run_module"},
    "pickle": {"load", "loads"},
    "marshal": {"load", "loads"},
    "ctypes": {"CDLL"},
    "shutil": {"rmtree"},
    "torch": {"load"},
    "joblib": {"load"},
    "cloudpickle": {"load", "loads"},
    "dill": {"load", "loads"},
    "yaml": {"unsafe_load"},
    "webbrowser": {"open"},
    "types": {"FunctionType", "CodeType"},
    "socket": {"create_connection"},
}
REACHED = {
    "__init__",
    "__new__",
    "__setstate__",
    "__call__",
    "__setitem__",
    "__setattr__",
    "__getattr__",
    "__reduce__",
    "append",
    "extend",
    "add",
}
"""Methods that reading a pickle may call."""
Function = ast.FunctionDef


def harms(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls in a piece of source that run, import, load or delete something."""
    for call in ast.walk(node):
        if not isinstance(call, ast.Call):
            continue
        called = call.func
        if (isinstance(called, ast.Name) and called.id in RUNS) or (
            isinstance(called, ast.Attribute) and called.attr in HARMS.get(getattr(called.value, "id", ""), ())
        ):
            yield call


def is_gadget(function: Function) -> bool:
    """Tell whether what is called so gets an argument."""
    given = function.args
    known = {
        item.arg for item in (*given.args, *given.posonlyargs, *given.kwonlyargs, given.vararg, given.kwarg) if item
    }
    return any(
        isinstance(part, ast.Name) and part.id in known
        for call in harms(function)
        for part in ast.walk(ast.Tuple([*call.args, *(word.value for word in call.keywords)]))
    )


def definitions(source: str) -> Iterator[tuple[str, list[Function]]]:
    """Yield what a module defines: names, with the functions that a pickle may have called by them."""
    for node in ast.parse(source).body:
        if isinstance(node, Function):
            yield node.name, [node]
        elif isinstance(node, ast.ClassDef):
            yield node.name, [part for part in node.body if isinstance(part, Function) and part.name in REACHED]


def gadgets(root: Path, package: str = "") -> Iterator[tuple[str, str]]:
    """Yield modules and names below a folder."""
    skipped = {"tests", "test", "site-packages", "idlelib", "lib2to3"}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if skipped.intersection(parts):
            continue
        module = ".".join((*([package] if package else []), *(part for part in parts if part != "__init__")))
        try:
            found = list(definitions(path.read_text(errors="replace")))
        except (SyntaxError, ValueError):
            continue
        yield from ((module, name) for name, functions in found if any(map(is_gadget, functions)))


def main() -> None:
    print("# Names of the standard library and of packages in the lock that hand an argument on to what runs, imports,")
    print("# loads or deletes, found by `python -m tests.hostile.search`.")
    places = sysconfig.get_paths()
    roots = [(Path(places["stdlib"]), ""), *((Path(places["purelib"], name), name) for name in sys.argv[1:])]
    by_module: dict[str, list[str]] = {}
    for root, package in roots:
        for module, name in gadgets(root, package):
            by_module.setdefault(module, []).append(name)
    for module, names in sorted(by_module.items()):
        print(textwrap.fill(f"{module}: {' '.join(names)}", 118, subsequent_indent="    ", break_long_words=False))


if __name__ == "__main__":
    main()
