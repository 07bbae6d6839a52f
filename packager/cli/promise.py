# SPDX-License-Identifier: Apache-2.0
"""Promise one more runtime of a bundle that is built and signed, without its source: a signed addition.

Only a runtime that runs an artefact which the bundle has can be added: Triton runs what ONNX Runtime runs. `compat` has
to say ok of every version that is promised; else nothing is signed (exit code 1, or 6 where that is unknown). It counts
for verifiers that trust the signer, if that is one who signed the bundle itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from packager.cli import _signer, options
from packager.cli.console import Console

FOR = "release"
HELP = "add a signed promise for one more runtime to a bundle"
EXAMPLES = """  packager promise digits:1.4.0 --runtime 'triton>=24.04' --key release.pem
  packager promise digits.bundle.tar --runtime 'triton>=24.04' --key release.pem -o digits-triton.bundle.tar
  packager render triton digits:1.4.0 models/ --key release.pub"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument("--runtime", metavar="NAME>=V", required=True, help="the runtime and the range of its versions")
    _signer.arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="write the bundle there, a directory or .tar file; a BUNDLE that is a file stays as it is",
    )


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import signing
    from packager.errors import exit_code_of

    runtime, versions = _asked(args.runtime)
    with console:
        bundle = _signer.open_own(args, console)
        draft = signing.draft_promise(bundle, runtime, versions, options.open_workspace(args))
        cells, outcome = draft.cells, draft.outcome
        if outcome == "ok":
            signer = _signer.open_signer(_signer.choose_uri(args), args)
            bundle = signing.attest_bundle(bundle, draft.predicate_type, draft.predicate, signer, args.output, console)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "ok": outcome == "ok",
        "outcome": outcome,
        "runtime": runtime,
        "versions": versions,
        "cells": [cell.to_json() for cell in cells],
        "output": str(args.output) if args.output and outcome == "ok" else None,
    }
    rows = [f"{runtime} {cell.version}: {reason.message}" for cell in cells for reason in cell.answer.reasons[:1]]
    promised = f"promised {runtime} {versions} of {bundle.name}:{bundle.version} {bundle.digest}"
    refused = f"nothing was signed: `compat` says {outcome} of {runtime} {versions}"
    console.result(value, [promised] if outcome == "ok" else [*rows[:10], refused])
    return exit_code_of(outcome)


def _asked(text: str) -> tuple[str, str]:
    import re

    from packager.errors import UsageError

    found = re.fullmatch(r"([a-z0-9]+(?:-[a-z0-9]+)*)\s*([<>=!~].{0,200})", text)
    if not found:
        raise UsageError(f"`--runtime`: expected a runtime and a range, got `{text:.80}`", hint="as in 'triton>=24.04'")
    return found[1], found[2]
