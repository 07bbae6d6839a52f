# SPDX-License-Identifier: Apache-2.0
"""Scan everything in a source that could run code, before it is opened.

One action per scanner, each in a separate worker with a minute and 4 GiB at most. A scanner that is missing, fails,
hangs or dies is recorded as such: what counts as clean enough is the business of the rule `scanned`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packager import plugins, scanners
from packager.actions.runner import Runner
from packager.canonical import JSON
from packager.errors import MissingToolError, StepError, StorageError
from packager.sandbox.sandbox import Limits, choose_confinement
from packager.sandbox.worker import host_version
from packager.types import Action, Tree

LIMITS = Limits(memory=4 << 30, seconds=60)
CODE = "code/"  # where MLflow keeps modules of the model's own


def scan(source: Tree, runner: Runner, kind: str, consented: str | None, *, exports: bool = False) -> JSON:
    """Return what the scanners say about each file of `source` that may hold a pickle, and what code it brings along.

    `kind` is its exporter; of one that opens data no code is imported. `consented` is the digest of the code that the
    recipe allows; `exports` says that this Python opens the source next. Raises StepError where no worker can be
    confined.
    """
    files = [path for path, blob in source if scanners.is_candidate(path, _head(runner, blob.digest))]
    scanned = runner.store.put_tree(Tree(tuple((path, blob) for path, blob in source if path in files)))
    names = plugins.list_names("scanners") if files else ()
    if files:
        choose_confinement(wanted=runner.confined)  # where nothing can be confined it is not the scanners that failed
    own = _own_modules(source)
    next_kind = kind if exports else None
    answers = dict(runner.each(lambda name: _asked(name, scanned, own, runner, next_kind), names))
    return {
        "source": source.digest,
        "files": {path: {name: answer[path] for name, answer in answers.items()} for path in files},
        "code": _brought(source, runner, consented) if plugins.load("exporters", kind).EXECUTES else None,
    }


def _brought(source: Tree, runner: Runner, consented: str | None) -> JSON:
    """Return the digest of the code that opening the source may import, and what it reaches for; None without any."""
    code = Tree(tuple((path, blob) for path, blob in source if path.startswith(CODE)))
    if not code.files:
        return None
    choose_confinement(wanted=runner.confined)
    runner.store.put_tree(code)
    files = [path for path, _ in code]
    step, tools = plugins.load("steps", "read_code"), {"python": host_version("python")}
    action = Action("read_code", step.VERSION, {"source": code.digest}, {"files": files}, tools)
    words = runner(action, "read the code of the source", limits=LIMITS).facts
    return {"digest": code.digest, "consented": consented, "files": {path: list(words[path]) for path in files}}


def _own_modules(source: Tree) -> list[str]:
    """Return the top-level modules in the `code` directory, from where a pickle may import besides the libraries."""
    inside = (path.removeprefix(CODE) for path, _ in source if path.startswith(CODE))
    return sorted({path.partition("/")[0].removesuffix(".py") for path in inside})


def _head(runner: Runner, digest: str) -> bytes:
    with runner.store.open(digest) as file:
        return file.read(scanners.HEAD)


def _asked(
    name: str, scanned: Tree, own: Sequence[str], runner: Runner, next_kind: str | None
) -> tuple[str, Mapping[str, JSON]]:
    """Return the scanner with its version, and its outcome for every file."""
    scanner, files = plugins.load("scanners", name), [path for path, _ in scanned]
    try:
        tools = {tool: host_version(tool, scanner.EXTRA) for tool in ("python", *scanner.TOOLCHAIN)}
    except MissingToolError as error:
        return name, _failed(files, f"{error.message}; {error.hint}")
    version = tools[scanner.TOOLCHAIN[0]] if scanner.TOOLCHAIN else str(scanner.VERSION)
    scanner_version, params = f"{name} {version}", {"scanner": name, "files": files}
    if hasattr(scanner, "judge"):
        params |= {"own": list(own), "version": version}
    action = Action("scan", plugins.load("steps", "scan").VERSION, {"source": scanned.digest}, params, tools)
    try:
        answer: Mapping[str, JSON] = runner(action, f"scan with {name}", limits=LIMITS, next_kind=next_kind).facts
    except StorageError:
        raise  # a full disk is no verdict on a file
    except StepError as error:
        return scanner_version, _failed(files, error.message)
    return scanner_version, answer


def _failed(files: Sequence[str], words: str) -> Mapping[str, JSON]:
    return {path: {"outcome": "failed", "words": [words]} for path in files}
