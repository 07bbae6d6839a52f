# SPDX-License-Identifier: Apache-2.0
"""Build a bundle again from its own signed provenance, and compare byte for byte.

The bundle is verified first: the recipe and the lock come from a statement of a trusted signer. The source is
fetched by its pin, or from --source; it must be the locked one. Everything else starts from nothing: an empty store, a
directory that is removed afterwards. Exit code 0: identical, to the digest. 1: it differs, and every file is named
with how.
"""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.bundle.bundle import Bundle
    from packager.formats.slsa import Provenance
    from packager.release.rebuild import Comparison

FOR = "release"
HELP = "build a bundle again from its provenance and compare"
EXAMPLES = """  packager rebuild digits.bundle.tar --key release.pub
  packager rebuild oci://registry.example.org/models/digits:1.4.0 --trust acme.trust
  packager rebuild encoder.bundle.tar --trust acme.trust --source /models/encoder
  packager rebuild digits.bundle.tar --key release.pub -o again.bundle.tar --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    options.trust(parser)
    parser.add_argument("--source", metavar="SOURCE", help="where the source is now, in any form that a recipe takes")
    parser.add_argument(
        "--files",
        type=Path,
        metavar="DIR",
        help="directory of the recipe: calibration data, timing caches (default: here)",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="keep what was rebuilt, to look at")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.cli._trust import verifier_of
    from packager.release.rebuild import provenance

    judge = verifier_of(args)
    with console:
        bundle = options.open_bundle(args, console)
        verdict = judge.verify(bundle, console)
        if verdict.failure is not None:
            raise verdict.failure
        made = provenance(verdict.evidence, judge.trust)
        with options.workspace(args).open_store().scratch() as scratch:
            found = _rebuild(bundle, made, scratch, args, console)
            if args.output:
                _save(found.rebuilt, args.output, console)
    return _report(found, made.builder, args, console)


def _rebuild(bundle: Bundle, made: Provenance, scratch: Path, args: argparse.Namespace, console: Console) -> Comparison:
    from packager import sources
    from packager.lock import locking
    from packager.release import rebuild
    from packager.store.store import Store

    here = locking.BuildContext(
        (args.files or Path()).absolute(),
        os.environ.get("MLFLOW_TRACKING_URI"),
        dict(os.environ),
        lambda: options.registry_settings(args),
        datetime.datetime.now(datetime.UTC).date(),
    )
    local = sources.local_path(args.source, Path()) if args.source else None
    source = str(local.absolute()) if local else args.source
    place = rebuild.Workplace(Store(scratch / "store"), scratch, console, args.jobs)
    return rebuild.rebuild(bundle, made, here, place, source)


def _save(rebuilt: Bundle, target: Path, console: Console) -> None:
    from packager.transport import copy

    copy.save(rebuilt, target, console)


def _report(found: Comparison, builder: str, args: argparse.Namespace, console: Console) -> int:
    bundle = found.published
    value = {
        "identical": found.identical,
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "rebuilt": found.rebuilt.digest,
        "builder": builder,
        "differences": [item.to_json() for item in found.differences],
        "output": str(args.output) if args.output else None,
    }
    rows = [row for item in found.differences for row in (item.path, *(f"    {word}" for word in item.words))]
    if found.identical:
        rows = [f"identical: {bundle.name}:{bundle.version} {bundle.digest}, {len(bundle.tree.files)} files"]
    else:
        rows.append(f"differs: {len(found.differences)} files; expected {bundle.digest}, got {found.rebuilt.digest}")
    console.result(value, rows + ([f"wrote {args.output}"] if args.output else []))
    return 0 if found.identical else 1
