# SPDX-License-Identifier: Apache-2.0
"""Imports point down, plug-ins do not know each other, and what a customer runs stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    {"types", "edits", "errors", "canonical", "causes", "events", "oserrors", "shown"},
    {
        "advisories", "ages", "language", "archive", "bundle", "certificates", "compatibility", "contract", "destination", "factschema",
        "files", "fleet", "indexes", "foreign", "formats", "graph", "graphcheck", "graphneeds", "integers", "keys", "knobs", "knobsets", "knowledge", "elementtypes",
        "lengths", "lock", "maps", "media", "memo", "operations", "patch", "pinning", "pipeline", "platforms", "plugins", "recipe", "reach", "recipefields", "rename", "repository", "saturation", "secretscan",
        "names", "outputs", "seen", "semver", "serving", "store", "tensorcheck", "timestamps", "trust", "trustfile", "vex", "waivers", "wheelfiles", "yamltext",
    },
    {
        "bucket", "dependencies", "exporters", "lockers", "origins", "policies", "registry", "renderers", "runtimes",
        "scanners", "server", "signers", "sources", "steps", "templates", "verifiers",
    },
    {"environments", "landlock", "launch", "namespaces", "cgroup", "process", "run", "sandbox", "seccomp", "watch", "worker"},
    {
        "arrival", "build", "cache", "canary", "compare", "compat", "compatpage", "completeness", "conform", "delta", "diff",
        "evidence", "facts", "host", "init", "install", "lifecycle", "look", "opa", "policy", "policydocs", "policyreport", "policytest", "probing", "profiles", "promote", "provenance", "rebuild", "rego", "render", "resolve", "scan", "served", "shelf", "sign", "swap", "toolchains", "proofs", "journal", "promises",
        "transport", "triton", "trustchannel", "trustedit",
        "vendor", "verify", "wheels",
    },
    {"cli", "__main__"},
)  # fmt: skip
FOLDERS = (
    "compatibility",
    "graphs",
    "isolation",
    "packages",
    "policy",
    "triton",
    "trust",
)  # one subject, several layers
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
PLUGINS = ("exporters", "lockers", "policies", "renderers", "runtimes", "scanners", "signers", "sources", "steps")
TOPS = {"packager": "packager", "runtimes": "packager.runtimes", "policies": "packager.policies"}


def modules() -> Iterator[tuple[str, Path]]:
    for folder, package in TOPS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), path


def imported(path: Path) -> Iterator[str]:
    """Every import of a file, function-local ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name: str) -> str | None:
    """What has a layer: a module or folder of `packager`, a module of those folders that hold one subject."""
    pieces = name.split(".")
    at = 2 if len(pieces) > 1 and pieces[1] in FOLDERS else 1
    return pieces[at] if pieces[0] == "packager" and len(pieces) > at else None


MODULES = list(modules())


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_point_down(name: str, path: Path) -> None:
    here = part(name)
    if here is None:
        return
    assert here in RANK, f"`{here}` has no layer: add it to LAYERS"
    for other in imported(path):
        there = part(other)
        if there in RANK:
            assert RANK[there] <= RANK[here], f"{name} must not import {other}"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_plugins_do_not_import_each_other(name: str, path: Path) -> None:
    pieces = name.split(".")
    if len(pieces) < 3 or pieces[1] not in PLUGINS:
        return
    for other in imported(path):
        parts = other.split(".")
        sibling = parts[0] == "packager" and len(parts) > 2 and parts[1] in PLUGINS
        if sibling and not parts[2].startswith("_") and (ROOT / pieces[1] / f"{parts[2]}.py").exists():
            assert parts[1:3] == pieces[1:3], f"{name} must not import {other}"


def test_the_server_stands_alone() -> None:
    """It is copied into installations, where nothing else of this program exists."""
    for path in (ROOT / "packager" / "server").rglob("*.py"):
        for other in imported(path):
            assert part(other) in (None, "server"), f"{path.name} must not import {other}"


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
    "verify --help",
    "conform --help",
    "inspect --help",
    "install --help",
    "unpack --help",
    "sign --help",
    "attest --help",
    "promote --help",
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
    "compat --help",
    "diff --help",
    "doctor --help",
    "runtimes list",
    "sbom --help",
    "policy --help",
    "vulndb --help",
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
