# SPDX-License-Identifier: Apache-2.0
"""Resolve everything mutable in a recipe, once, into `bundle.lock`.

The source gets a pin and a digest for every file; the tools that can change bytes get versions; what a runtime needs
to serve gets versions with hashes. Commit the lock beside the recipe and review its changes.
"""

from __future__ import annotations

import argparse

from packager.cli import options
from packager.cli.render import Console, size

HELP = "pin the source, tools and dependencies of a recipe"
EXAMPLES = """  packager lock
  packager lock models/digits/bundle.yaml"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.recipe(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.cli._project import Project
    from packager.resolve import explain

    with console:
        project = Project.open(args, console)
        lock = project.make_lock()
    level = {"opset": lock.level.opset, "ir": lock.level.ir, "because": explain(project.recipe, lock.level)}
    text = f"locked {lock.source['uri']} ({size(lock.tree.size)}) at opset {lock.level.opset}, IR {lock.level.ir}"
    console.result(
        {
            "lock": str(project.lock_file),
            "source": dict(lock.source),
            "tree": lock.tree.digest,
            "export": lock.kind,
            "level": level,
        },
        f"{text}\n{level['because']}\nwrote {project.lock_file}",
    )
    return 0
