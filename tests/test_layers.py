# SPDX-License-Identifier: Apache-2.0
"""Imports point down, plug-ins do not know each other, and what a customer runs stays light."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from packager import plugins

ROOT = Path(__file__).resolve().parent.parent
FLAT = (
    "records",
    "canonical",
    "error_causes",
    "escape",
    "semver",
    "edits",
    "errors",
    "events",
    "json_schema",
    "names",
    "os_errors",
    "plugins",
    "runtime",
    "strictyaml",
    "types",
    "untrusted_files",
    "files",
)  # used by every room
ROOMS = (
    "server",  # stands alone; others ask it what it may have of a host
    "formats",
    "sandbox",
    "store",
    "scanners",
    "actions",
    "graph",
    "recipe",
    "contract",
    "knobs",
    "bundle",
    "trust",
    "transport",
    "sources",
    "exporters",
    "pipelines",
    "runtimes",
    "lock",
    "policy",
    "policies",
    "steps",
    "build",
    "deploy",
    "bench",
    "conform",
    "release",
    "passport",
    "workspace",
    "cluster",
    "release_plan",
    "watch",
    "api",
    "cli",
    "__main__",
)  # each imports rooms above it in this list only
RANK = {name: rank for rank, name in enumerate((*FLAT, *ROOMS))}
TOPS = {"packager": "packager", "runtimes": "packager.runtimes", "policies": "packager.policies"}


def modules() -> Iterator[tuple[str, Path]]:
    for folder, package in TOPS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


@functools.cache
def imported(path: Path) -> tuple[str, ...]:
    """Every import of a file, function-local ones included."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    return tuple(found)


def room(name: str) -> str | None:
    """Return the room of a module, or its own name where it is used by every room."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "packager" and len(pieces) > 1 else None


MODULES = list(modules())


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_point_down(name: str, path: Path) -> None:
    here = room(name)
    if here is None:
        return
    assert here in RANK, f"`{here}` is no room: add it to ROOMS"
    for other in imported(path):
        there = room(other)
        if there in RANK:
            assert RANK[there] <= RANK[here], f"{name} must not import {other}"


@pytest.mark.parametrize("group", plugins.GROUPS)
def test_plugins_do_not_import_each_other(group: plugins.Group) -> None:
    home = plugins.package_of(group)
    public = [name for name, _ in MODULES if name.startswith(f"{home}.") and "._" not in name.removeprefix(home)]
    assert public
    for name, path in MODULES:
        if not name.startswith(f"{home}."):
            continue
        own = ".".join(name.split(".")[: home.count(".") + 2])
        for other in imported(path):
            of = ".".join(other.split(".")[: home.count(".") + 2])
            assert of not in public or of == own, f"{name} must not import {other}"


def test_the_server_stands_alone() -> None:
    """It is copied into installations, where nothing else of this program exists."""
    for path in (ROOT / "packager" / "server").rglob("*.py"):
        for other in imported(path):
            assert room(other) in (None, "server"), f"{path.name} must not import {other}"


WORDS = {
    "errors": "what is raised, with its exit code, message and hint: part of the public API",
    "events": "what is reported, to a callback: part of the public API",
    "escape": "foreign text is made safe where it is printed",
    "canonical": "documents are printed and read in the form that is signed",
    "files": "a file that a person named is replaced in one step",
}
"""The flat modules that the command line may use beside the API, each with the reason; none knows what a bundle is."""


@pytest.mark.parametrize("path", sorted((ROOT / "packager" / "cli").rglob("*.py")), ids=lambda path: path.stem)
def test_the_command_line_uses_the_api_alone(path: Path) -> None:
    """So the API suffices: a library user can do everything that the command line does."""
    for other in imported(path):
        if other == "packager.__version__":  # what packager.api says, without its imports
            continue
        there = room(other)
        assert there in (None, "api", "cli", *WORDS), (
            f"{path.name} must not import {other}: packager.api lacks something"
        )
        assert not any(part.startswith("_") for part in other.split(".")[2:]) or there == "cli", other


def test_the_suite_imports_nothing_of_ours() -> None:
    for path in (ROOT / "conformance").rglob("*.py"):
        assert not [name for name in imported(path) if name.split(".")[0] == "packager"], path


HEAVY = (
    "torch",
    "onnx",
    "numpy",
    "mlflow",
    "transformers",
    "onnxruntime",
    "pandas",
    "yaml",
    "urllib3",
    "zstandard",
    "fsspec",
    "botocore",
    "sigstore",
    "pkcs11",
    "tuf",
    "cryptography",
)
LIGHT_VERBS = (
    "--help",
    "bench --help",
    "tune --help",
    "verify --help",
    "conform --help",
    "inspect --help",
    "install --help",
    "unpack --help",
    "sign --help",
    "attest --help",
    "promote --help",
    "release --help",
    "rebuild --help",
    "trust --help",
    "build --help",
    "push --help",
    "pull --help",
    "export --help",
    "import --help",
    "delta --help",
    "apply --help",
    "cache --help",
    "chat --help",
    "compat --help",
    "diff --help",
    "doctor --help",
    "runtimes list",
    "sbom --help",
    "policy --help",
    "vulndb --help",
    "watch --help",
)


@pytest.mark.parametrize("arguments", LIGHT_VERBS)
def test_the_command_line_starts_light(arguments: str) -> None:
    code = (
        "import sys\nfrom packager.cli import main\n"
        f"try: main({arguments.split()!r})\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
