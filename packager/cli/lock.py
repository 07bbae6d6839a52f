# SPDX-License-Identifier: Apache-2.0
"""Resolve everything mutable in a recipe, once, into `bundle.lock`.

The source gets a pin and a digest for every file; the tools that can change bytes get versions; what a runtime needs
to serve gets, for every platform and Python, one wheel each with its hash and licence. Commit the lock beside the
recipe and review its changes.

Indexes of your own come from the environment, as uv and pip know them; both ask the same ones. Their addresses are
never recorded, only the name of one that gave a wheel (UV_INDEX=acme=https://…), so that a token in it stays with you.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

FOR = "release"
HELP = "pin the source, tools and dependencies of a recipe"
EXAMPLES = """  packager lock
  packager lock models/digits/bundle.yaml
  UV_INDEX=acme=https://packages.example.com/simple packager lock
  packager lock --engine pip-tools
  packager lock --check models/*/bundle.yaml               # from a hook, or in CI: nothing is resolved"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser)
    parser.add_argument(
        "--check",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="lock nothing: say of these recipes, or their locks, whether each lock fits (as a hook does)",
    )
    parser.add_argument(
        "--engine",
        metavar="NAME",
        default="uv",
        help="what resolves: uv (for any platform, default) or pip-tools (this one)",
    )


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.cli import _fixes

    if args.check:
        return _check(args, console)
    return _fixes.run_with_fixes(_fixes.recipe_of(args), console, lambda: _lock(args, console))


def _lock(args: argparse.Namespace, console: Console) -> tuple[int, tuple[()]]:
    from packager import api
    from packager.api import recipes

    with console:
        project = options.open_project(args, console)
        lock = api.lock_recipe(project, engine=args.engine)
    because = recipes.explain_level(project, lock)
    text = (
        f"locked {lock.source['uri']} ({format_size(lock.tree.size)}) at opset {lock.level.opset}, IR {lock.level.ir}"
    )
    rows_signed = [f"source signed by {lock.signed['signer']} ({lock.signed['form']})"] if lock.signed else []
    value = {
        "lock": str(project.lock_file),
        "source": dict(lock.source),
        "tree": lock.tree.digest,
        "signed": dict(lock.signed) if lock.signed else None,
        "export": lock.kind,
        "level": {"opset": lock.level.opset, "ir": lock.level.ir, "because": because},
        "platforms": {runtime: list(sets) for runtime, sets in lock.dependencies.wheels.items()},
    }
    rows = (f"{runtime} for {', '.join(sets)}" for runtime, sets in lock.dependencies.wheels.items())
    console.result(value, [text, *rows_signed, because, *rows, f"wrote {project.lock_file}"])
    return 0, ()


def _check(args: argparse.Namespace, console: Console) -> int:
    """Say of every recipe whether its lock fits; ask no network. Return the code of the first that does not."""
    from packager import api
    from packager.errors import PackagerError

    workspace, code, rows = options.open_workspace(args, console), 0, []
    recipes = dict.fromkeys(path.with_suffix(".yaml") if path.suffix == ".lock" else path for path in args.check)
    for recipe in recipes:
        try:
            api.open_project(recipe, workspace).read_lock()
            rows.append({"recipe": str(recipe), "fresh": True, "problem": None})
        except PackagerError as error:
            code = code or error.code
            hint = f"; {error.hint}" if error.hint else ""
            rows.append({"recipe": str(recipe), "fresh": False, "problem": f"{error.message}{hint}"})
    lines = [f"{row['recipe']}: {'its lock fits' if row['fresh'] else row['problem']}" for row in rows]
    console.result({"ok": not code, "checked": rows}, lines)
    return code
