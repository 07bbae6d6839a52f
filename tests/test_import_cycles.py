# SPDX-License-Identifier: Apache-2.0
"""No module needs itself to be imported: neither at its top nor, within a room, inside a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.test_layers import ROOT, TOPS, room

PACKAGES = {**TOPS, "conformance": "packager.conformance"}


def test_no_module_imports_itself_in_the_end() -> None:
    found = modules(ROOT)
    assert len(found) > 700
    assert not [" -> ".join(cycle) for cycle in list_cycles(read_imports(found))]


def test_a_cycle_is_found_wherever_it_is_hidden(tmp_path: Path) -> None:
    """At the top, through the package itself, inside a function of the same room; not where only types are needed."""
    write(
        tmp_path, **{"bundle/a.py": "import packager.bundle.b\n", "bundle/b.py": "from packager.bundle.a import name\n"}
    )
    write(
        tmp_path,
        **{"graph/__init__.py": "from packager.graph import c\n", "graph/c.py": "from packager.graph import d\n"},
    )
    write(tmp_path, **{"graph/d.py": ""})
    write(
        tmp_path,
        **{"trust/e.py": "def f():\n    from packager.trust import g\n", "trust/g.py": "import packager.trust.e\n"},
    )
    write(
        tmp_path,
        **{"store/h.py": "if TYPE_CHECKING:\n    import packager.store.i\n", "store/i.py": "import packager.store.h\n"},
    )
    write(
        tmp_path, **{"build/j.py": "def f():\n    import packager.store.k\n", "store/k.py": "import packager.build.j\n"}
    )
    assert sorted(list_cycles(read_imports(modules(tmp_path)))) == [
        ("packager.bundle.a", "packager.bundle.b"),
        ("packager.graph", "packager.graph.c"),
        ("packager.trust.e", "packager.trust.g"),
    ]


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / "packager" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def modules(root: Path) -> dict[str, Path]:
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def read_imports(found: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return of every module those that it imports; what a function imports counts within the room only."""
    graph: dict[str, set[str]] = {name: set() for name in found}
    for name, path in found.items():
        for package, attribute, deferred in list_imports(ast.parse(path.read_text()), deferred=False):
            whole = f"{package}.{attribute}" if attribute else package
            target = next((text for text in parents(whole) if text in found), name)
            if not deferred or room(target) == room(name):
                graph[name].add(target)
            if attribute and not deferred and name.startswith(f"{package}."):
                graph[name].add(package)  # its own package, which may be half imported
        graph[name].discard(name)
    return graph


def parents(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def list_imports(node: ast.AST, *, deferred: bool) -> Iterator[tuple[str, str, bool]]:
    """Yield the modules that are imported, the name of `from`, and whether only by a call; not what types need."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from list_imports(ast.Module(child.orelse, []), deferred=deferred)
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, "", deferred) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from ((child.module, alias.name, deferred) for alias in child.names)
        inside = deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from list_imports(child, deferred=inside)


def list_cycles(graph: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Return the sets of modules that reach each other (Tarjan's strongly connected components of more than one)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            part = [stack.pop()]
            while part[-1] != name:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(tuple(sorted(part)))

    for name in graph:
        if name not in order:
            visit(name)
    return found
