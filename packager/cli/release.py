# SPDX-License-Identifier: Apache-2.0
"""Release many models as one plan: lock, build, policy, conform, sign, push, promote, as a release file says.

The file names recipes and what is done with them (`packager schema release`). Several models are released at a time
(--jobs); where one fails, the others go on. A task whose inputs are those of the last time does not run again, so a
release that was killed goes on where it was. A name and version is signed and pushed as one bundle only, for ever.

With --ray the nodes of a Ray cluster perform the steps of builds, each in the sandbox of its node; locks, signatures,
pushes and promotions stay here, with their secrets. Files travel through --ray-store. Digests are those without --ray.

Exit code 0: every gate of every model holds. 1: one said no. Else that of the failures, or 4 where they differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import _signer, options
from packager.cli.console import Console
from packager.errors import UsageError

FOR = "release"
HELP = "release many models as one plan"
EXAMPLES = """  packager release release.yaml --dry-run
  packager release release.yaml --jobs 4 --report out
  packager release release.yaml --until policy             # for a change request: nothing is signed
  packager release release.yaml --again push
  packager release release.yaml --set sign=key:mine.pem --set push=none
  packager release release.yaml --jobs 16 --ray auto --ray-store oci://registry.example.org/build/cache"""
_TASKS = ("lock", "build", "policy", "conform", "sign", "push", "promote")


def arguments(parser: argparse.ArgumentParser) -> None:
    from packager.api.conformance import count_processors

    parser.set_defaults(jobs=count_processors())
    options.release_file(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, with the reason for each task; run none"
    )
    parser.add_argument(
        "--again",
        action="append",
        default=[],
        choices=_TASKS,
        metavar="TASK",
        help=f"run this task whatever is remembered; repeat it for another one: {', '.join(_TASKS)}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="a setting of every model, over those of the file: policy=dev, push=none; repeat it for another one",
    )
    parser.add_argument(
        "--until", choices=_TASKS, default=_TASKS[-1], metavar="TASK", help="leave out what comes after"
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write release.json, junit.xml, index.html, release.sarif"
    )
    parser.add_argument(
        "--builder", metavar="URI", help="who builds, for the provenance (default: as `packager build`)"
    )
    options.add_secrets(parser)
    options.add_registry(parser)
    group = parser.add_argument_group("options for a Ray cluster")
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="perform the steps of builds on this cluster: `auto`, HOST:PORT, or ray://HOST:PORT",
    )
    group.add_argument(
        "--ray-store",
        metavar="ADDRESS",
        help="where its nodes get and leave files: oci://host/name or s3://bucket/folder",
    )


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import releases

    if bool(args.ray) != bool(args.ray_store):
        raise UsageError(
            "`--ray` and `--ray-store` belong together", hint="name a repository or bucket that all nodes reach"
        )
    file = releases.read_release_file(args.file, settings=args.settings)
    with console:
        rows = releases.release_models(
            file,
            options.open_workspace(args, console),
            secrets={} if args.dry_run else _signer.secrets_of(args, file),
            again=args.again,
            until=args.until,
            builder=args.builder,
            dry=args.dry_run,
            ray=(args.ray, args.ray_store) if args.ray else None,
        )
    if args.report:
        releases.write_report(rows, args.report)
    lines = releases.format_plan(rows) if args.dry_run else releases.format_release(rows)
    document = releases.describe_release(rows)
    console.result(document, [*lines, *([f"wrote {args.report}"] if args.report else [])])
    return rows.totals.exit_code
