# SPDX-License-Identifier: Apache-2.0
"""Write the file by which a CI system releases the models of a release file.

  init     write it for github, gitlab, tekton or jenkins, where the system looks for it

Change requests lock, build and judge; a push to the branch performs every task of the release file. Actions and images
are pinned by digest, packager by version. No secret is in the file: the result says which ones it reads.

For github the steps are an action that is written beside the workflow; with --action it is that of a repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli.console import Console

FOR = "release"
HELP = "write the files by which a CI system releases models"
EXAMPLES = """  packager ci init github --with sklearn,scan
  packager ci init github --action acme/packager@3f1c…
  packager ci init gitlab --image docker.io/library/python:3.11-slim@sha256:…
  packager ci init tekton --image registry.example.com/ci/python@sha256:… -o ci/task.yaml"""
_SYSTEMS = ("github", "gitlab", "tekton", "jenkins")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="ACTION", choices=("init",), help="init")
    parser.add_argument("system", metavar="SYSTEM", choices=_SYSTEMS, help=", ".join(_SYSTEMS))
    parser.add_argument(
        "--file",
        type=Path,
        default=Path("release.yaml"),
        help="the release file (default: release.yaml)",
        metavar="FILE",
    )
    parser.add_argument("--branch", default="main", metavar="NAME", help="the branch that releases (default: main)")
    parser.add_argument(
        "--with",
        dest="extras",
        default="build",
        metavar="EXTRAS",
        help="extras of packager to install (default: build)",
    )
    parser.add_argument("--image", metavar="NAME@DIGEST", help="where steps run: a Debian with Python; not for github")
    parser.add_argument(
        "--action",
        dest="repository",
        metavar="OWNER/NAME@COMMIT",
        help="github: use the action of this repository, instead of a copy",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help="where to write (default: where it belongs)")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import releases
    from packager.errors import UsageError
    from packager.files import storage_errors, write_atomically

    file = releases.read_release_file(args.file)
    made = releases.render_ci_file(
        args.system, file, branch=args.branch, extras=args.extras, image=args.image, action=args.repository
    )
    path = args.output or Path(made.path)
    texts = {path: made.text, **{Path(name): text for name, text in made.beside}}
    for target, text in texts.items():
        if target.exists() and not args.force and (target == path or target.read_bytes() != text.encode()):
            raise UsageError(f"`{target}` exists already", hint="give another path with -o, or --force")
    for target, text in texts.items():
        with storage_errors(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, text.encode())
    models = file.models
    loose = [model.name for model in models if model.settings.lock == "renew"]
    if loose:
        console.message(
            f"`{loose[0]}` and others have `lock: renew`: write `lock: check`, so that CI resolves nothing anew"
        )
    rows = [*(f"wrote {target}" for target in texts), *(f"it reads {name}" for name in made.reads)]
    beside = [name for name, _ in made.beside]
    document = {"system": args.system, "file": str(path), "beside": beside, "models": len(models)}
    console.result({**document, "reads": list(made.reads)}, rows)
    return 0
