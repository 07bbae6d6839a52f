# SPDX-License-Identifier: Apache-2.0
"""Release many models as one plan: lock, build, policy, conform, sign, push, promote, as a release file says.

The file names recipes and what is done with them (`packager schema release`). Several models are released at a time
(--jobs); where one fails, the others go on. A task whose inputs are those of the last time does not run again, so a
release that was killed goes on where it was. A name and version is signed and pushed as one bundle only, for ever.

Exit code 0: every gate of every model holds. 1: one said no. Else that of the failures, or 4 where they differ.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterable

    from packager.pipeline.release_file import Model

FOR = "release"
HELP = "release many models as one plan"
EXAMPLES = """  packager release release.yaml --dry-run
  packager release release.yaml --jobs 4 --report out
  packager release release.yaml --until policy             # for a change request: nothing is signed
  packager release release.yaml --again push"""
_TASKS = ("lock", "build", "policy", "conform", "sign", "push", "promote")


def arguments(parser: argparse.ArgumentParser) -> None:
    from packager.server.process import host_limits

    parser.set_defaults(jobs=host_limits.read_allowance().whole_cpus)
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        type=Path,
        default=Path("release.yaml"),
        help="the release file (default: release.yaml)",
    )
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
        "--until", choices=_TASKS, default=_TASKS[-1], metavar="TASK", help="leave out what comes after"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="write release.json, junit.xml and index.html")
    parser.add_argument(
        "--builder", metavar="URI", help="who builds, for the provenance (default: as `packager build`)"
    )
    options.secrets(parser)
    options.registry(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.pipeline import driver, release_file, report

    file = release_file.load(args.file)
    chosen = driver.Options(
        store=options.workspace(args).store,
        environments=options.workspace(args).caches,
        jobs=args.jobs,
        registry_ca=args.registry_ca,
        plain_http=args.plain_http,
        secrets={} if args.dry_run else _secrets(args, file.models),
        again=frozenset(args.again),
        builder=args.builder,
        dry=args.dry_run,
        until=args.until,
    )
    with console:
        rows = driver.release(file, chosen, console)
    if args.report:
        report.write(rows, args.report)
    lines = list(report.plan(rows) if args.dry_run else report.table(rows))
    console.result(report.document(rows), [*lines, *([f"wrote {args.report}"] if args.report else [])])
    return rows.totals.exit_code


def _secrets(args: argparse.Namespace, models: Iterable[Model]) -> dict[str, bytes]:
    """Return the passphrase, PIN or identity token of every signer that needs one and for which there is one."""
    from packager.cli._signer import identity_token
    from packager.pipeline.release_file import signers
    from packager.trust.keys import is_encrypted

    found: dict[str, bytes | None] = {}
    for uri in signers(models):
        scheme, _, location = uri.partition(":")
        path, _, query = location.partition("?")
        key = dict(parse_qsl(query)).get("key", "") if scheme == "certificate" else path
        if scheme == "keyless":
            found[uri] = identity_token()
        elif scheme not in ("key", "certificate") or is_encrypted(Path(key)):
            found[uri] = options.secret(args, key)()
    return {uri: value for uri, value in found.items() if value is not None}
