# SPDX-License-Identifier: Apache-2.0
"""Build the bundle of a recipe: fetch, export, compile, measure; judge; assemble.

Steps whose result is known do not run again. The bundle stays in the local store as name:version; with -o it is
also written to a directory, or to a single file if the name ends in `.tar`. A parity miss ends with exit code 1 and
no bundle.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from packager.api import BuildResult, Bundle, Finding, Project

FOR = "release"
HELP = "build the bundle of a recipe"
EXAMPLES = """  packager build
  packager build digits/bundle.yaml -o dist/digits.bundle.tar
  packager build --vendor linux_x86_64-cp311 --vendor linux_x86_64-cp312
  packager build --locked --sign key:release.pem -o dist/digits.bundle.tar"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="also write a directory or a .tar file")
    parser.add_argument("--locked", action="store_true", help="refuse a missing or stale lock instead of renewing it")
    parser.add_argument(
        "--fix", action="store_true", help="write what a refusal proposes into the recipe, and build again; no consent"
    )
    parser.add_argument(
        "--replace", action="store_true", help="another bundle of that name and version in the store gives way"
    )
    parser.add_argument(
        "--vendor",
        metavar="PLATFORM",
        action="append",
        default=[],
        help="carry the wheels of this platform too, e.g. linux_x86_64-cp311",
    )
    parser.add_argument(
        "--facts",
        type=Path,
        metavar="FILE",
        help="write what was measured, for `packager attest --type urn:packager:facts:v1`",
    )
    parser.add_argument("--sign", metavar="SIGNER", help="sign the result, for example key:release.pem")
    parser.add_argument(
        "--builder",
        metavar="URI",
        help="who builds, for the provenance (default: $PACKAGER_BUILDER, else the CI workflow, else "
        "urn:packager:builder:local)",
    )
    options.add_secrets(parser)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.cli import _fixes

    return _fixes.run_with_fixes(_fixes.recipe_of(args), console, lambda: _build(args, console), fix=args.fix)


def _build(args: argparse.Namespace, console: Console) -> tuple[int, Sequence[Finding]]:
    from packager import api, canonical
    from packager.api import recipes
    from packager.events import Warned
    from packager.files import write_atomically

    with console:
        project = options.open_project(args, console).vendoring(args.vendor)
        lock = project.current_lock(locked=args.locked)
        built = api.build_bundle(project, lock, replace=args.replace, builder=args.builder)
        if args.facts:
            write_atomically(args.facts, canonical.dump(recipes.measured_facts(built)))
        bundle = built.bundle
        if bundle is None:
            return _refused(built, project, console), built.verdict.findings
        if notice := recipes.explain_unmoved_source(project, lock, resolve=not args.locked):
            console(Warned(notice))
        bundle = _signed(bundle, args) if args.sign else bundle
        if args.output:
            api.copy_bundle(bundle, args.output, on_event=console)
    _say(built, console)
    _report(bundle, built, project.executed, args.output, console)
    return 0, ()


def _signed(bundle: Bundle, args: argparse.Namespace) -> Bundle:
    from packager import api
    from packager.cli.sign import open_signer

    return api.sign_bundle(bundle, open_signer(args.sign, args))


def _refused(built: BuildResult, project: Project, console: Console) -> int:
    from packager.api import recipes
    from packager.cli._fixes import propose_waivers

    _say(built, console)
    if folder := recipes.save_misses(project, built):
        console.message(f"wrote the rows that differ most to `{folder.name}/`, as bodies of inference requests")
    errors = [finding for finding in built.verdict.findings if finding.level == "error"]
    console.message(f"no bundle was made: {len(errors)} findings")
    for row in propose_waivers(project.policy, errors, project.today):
        console.message(row)
    if console.json:
        console.result(built.verdict.to_json(), "")
    return 1


def _say(built: BuildResult, console: Console) -> None:
    for finding in built.verdict.findings:
        console.message(f"{finding.level}: {finding.message}")
        if finding.hint:
            console.message(f"  hint: {finding.hint}")


def _report(bundle: Bundle, built: BuildResult, executed: int, output: Path | None, console: Console) -> None:
    taken = bundle.contract.describe()
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "set_digest": bundle.set_digest,
        "size": bundle.size,
        "files": len(bundle.tree.files),
        "takes": taken,
        "targets": sorted(bundle.targets),
        "executed": executed,
        "verdict": built.verdict.to_json(),
        "output": str(output) if output else None,
    }
    text = f"{bundle.name}:{bundle.version} {bundle.digest}\n{len(bundle.tree.files)} files, {format_size(bundle.size)}"
    text += f", {executed} steps run, policy: {', '.join(built.verdict.held)} hold"
    warnings = sum(finding.level == "warning" for finding in built.verdict.findings)
    text += f", with {warnings} warnings above" if warnings else ""
    text += "".join(f"\n{row}" for row in taken)
    console.result(value, text + (f"\nwrote {output}" if output else ""))
