# SPDX-License-Identifier: Apache-2.0
"""Print figures of the package's structure and words: `python -m tests.house_figures [REVISION]`.

Rooms are the folders of `packager/` and the plug-in folders beside it; an arrow is one room whose modules import
another's. Modules at the top, one-word public functions, and words of the old register are counted as well. With a
revision the same is counted of that commit, read from git.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
_TOPS = ("packager", "runtimes", "policies", "templates", "conformance")
_WORDS = r"nobody|somebody|anybody|whoever|told|asked|wish|wishes|company|knocks?"

# Names of one word that say what a function does; `main` and `arguments` are what every verb of the command line has.
VERBS = frozenset(
    [
        "accept",
        "accepts",
        "agree",
        "apply",
        "arguments",
        "ask",
        "assemble",
        "attach",
        "attest",
        "authenticate",
        "binarise",
        "bind",
        "build",
        "call",
        "canonicalise",
        "ceil",
        "check",
        "choose",
        "clip",
        "close",
        "collapse",
        "collect",
        "compare",
        "complete",
        "compute",
        "concat",
        "conform",
        "connect",
        "contains",
        "convert",
        "copy",
        "count",
        "covers",
        "cut",
        "decide",
        "decode",
        "deflate",
        "derive",
        "describe",
        "detach",
        "detect",
        "diff",
        "discretise",
        "div",
        "download",
        "draft",
        "draw",
        "dump",
        "elect",
        "embed",
        "emit",
        "encode",
        "endswith",
        "ensure",
        "enter",
        "erf",
        "evaluate",
        "execute",
        "expit",
        "explain",
        "explore",
        "expm1",
        "export",
        "fetch",
        "find",
        "finish",
        "fits",
        "floor",
        "foresee",
        "generate",
        "get",
        "glob",
        "identify",
        "ignore",
        "indexof",
        "infer",
        "inflate",
        "inspect",
        "install",
        "interleave",
        "interpolate",
        "isolate",
        "judge",
        "keep",
        "listen",
        "load",
        "locate",
        "lock",
        "log1p",
        "lookup",
        "main",
        "make",
        "match",
        "matches",
        "measure",
        "merge",
        "minus",
        "mul",
        "normalise",
        "observe",
        "pack",
        "parse",
        "penalise",
        "perform",
        "pick",
        "plus",
        "prefill",
        "prepare",
        "probe",
        "publish",
        "quote",
        "read",
        "rebuild",
        "receive",
        "redact",
        "refuse",
        "register",
        "rem",
        "remember",
        "remove",
        "render",
        "replace",
        "requirements",
        "resample",
        "resolve",
        "restrict",
        "revert",
        "rotate",
        "run",
        "save",
        "scan",
        "search",
        "select",
        "send",
        "serve",
        "settle",
        "shorten",
        "sign",
        "sniff",
        "softmax",
        "sort",
        "split",
        "sprintf",
        "square",
        "standardise",
        "startswith",
        "substring",
        "summarise",
        "swap",
        "switch",
        "tokenize",
        "translate",
        "trim",
        "tune",
        "undo",
        "uninstall",
        "unmix",
        "unpack",
        "update",
        "upgrade",
        "upload",
        "verify",
        "vote",
        "walk",
        "write",
    ]
)


def read_tree(revision: str | None) -> dict[str, str]:
    """Return the source of every Python file of the product by path."""
    if revision is None:
        paths = [path for top in _TOPS for path in sorted((ROOT / top).rglob("*.py"))]
        return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    listed = _git("ls-tree", "-r", "--name-only", revision, *_TOPS).split("\n")
    return {path: _git("show", f"{revision}:{path}") for path in listed if path.endswith(".py")}


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def count(files: Mapping[str, str]) -> dict[str, int]:
    """Return the figures by name."""
    modules = {module_of(path): path for path in files}
    trees = {path: ast.parse(text) for path, text in files.items()}
    folders = {PurePosixPath(path).parent.as_posix() for path in files}
    arrows = {
        (room_of(path), room_of(modules[target]))
        for path, tree in trees.items()
        for target in _imported(tree, modules)
        if room_of(path) != room_of(modules[target])
    }
    public = [
        node.name
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    return {
        "rooms": len({room_of(path) for path in files if "/" in path.removeprefix("packager/")}),
        "folders": len(folders),
        "modules at the top of packager/": sum(path.count("/") == 1 and path.startswith("packager/") for path in files),
        "arrows between rooms": len(arrows),
        "rooms in knots": sum(len(knot) for knot in knots(arrows)),
        "public functions": len(public),
        "of these of one word": sum("_" not in name for name in public),
        "of these no verb": sum("_" not in name and name not in VERBS for name in public),
        "words of the old register": sum(
            len(re.findall(rf"\b(?:{_WORDS})\b", text, re.IGNORECASE)) for text in files.values()
        ),
        "lines": sum(text.count("\n") for text in files.values()),
    }


def module_of(path: str) -> str:
    """Return the dotted name that a file is imported by."""
    parts = list(PurePosixPath(path).with_suffix("").parts)
    parts = parts if parts[0] == "packager" else ["packager", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(path: str) -> str:
    """Return the room of a file: its folder below `packager/`, a plug-in folder, or the flat module itself."""
    parts = PurePosixPath(path).parts
    return parts[1].removesuffix(".py") if parts[0] == "packager" else parts[0]


def _imported(tree: ast.Module, modules: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in modules or node.module in modules:
                    yield full if full in modules else node.module


def knots(arrows: set[tuple[str, str]]) -> list[set[str]]:
    """Return the sets of rooms that reach each other."""
    direct: dict[str, set[str]] = {room: set() for arrow in arrows for room in arrow}
    for start, target in arrows:
        direct[start].add(target)
    reach = {room: _reached(room, direct) for room in direct}
    found: list[set[str]] = []
    for room, others in reach.items():
        knot = {other for other in others if room in reach[other]}
        if room in knot and knot not in found:
            found.append(knot)
    return [knot for knot in found if len(knot) > 1]


def _reached(start: str, direct: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    pending = [start]
    while pending:
        fresh = direct[pending.pop()] - seen
        seen |= fresh
        pending += fresh
    return seen


def main(revisions: list[str]) -> None:
    columns = [count(read_tree(revision)) for revision in (*revisions, None)]
    print("".join(f"{name:>14.12}" for name in (*revisions, "now")), "", sep="  ")
    for name in columns[0]:
        print("".join(f"{column[name]:>14}" for column in columns), name, sep="  ")


if __name__ == "__main__":
    main(sys.argv[1:])
