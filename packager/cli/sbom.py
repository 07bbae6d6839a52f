# SPDX-License-Identifier: Apache-2.0
"""Print what a bundle consists of: the model, its files, data, wheels with licences, and how it was made.

The SBOM in the bundle is CycloneDX 1.6; other forms are derived from it and equal for equal bundles. SPDX 3.0.1 claims
its AI profile only with --released and --place, which that profile demands and no bundle holds. With --report say
instead how complete it is, by cluster of the G7 elements for AI, by NTIA's and CISA's minimum and by OWASP's score for
AI SBOMs, and which licences it names.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api.bundles import Element, SbomReport

FOR = "release"
HELP = "print the software bill of materials of a bundle"
EXAMPLES = """  packager sbom digits.bundle.tar
  packager sbom digits:1.4.0 --spec 1.7 -o digits.cdx.json
  packager sbom digits:1.4.0 --format spdx
  packager sbom digits:1.4.0 --format spdx --spec 3.0.1 --released 2027-01-31T00:00:00Z \\
      --place oci://registry.example.com/models/digits:1.4.0
  packager sbom digits.bundle.tar --report"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument(
        "--format", choices=("cyclonedx", "spdx"), default="cyclonedx", help="cyclonedx (default), or spdx"
    )
    parser.add_argument(
        "--spec",
        choices=("1.6", "1.7", "2.3", "3.0.1"),
        help="version: CycloneDX 1.6 (default) or 1.7, SPDX 2.3 (default) or 3.0.1, where the model is an AI package",
    )
    parser.add_argument("--released", metavar="TIME", help="in SPDX 3.0.1: when it was released, 2027-01-31T00:00:00Z")
    parser.add_argument("--place", metavar="URI", help="in SPDX 3.0.1: where it was released")
    parser.add_argument("--report", action="store_true", help="say how complete it is instead")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it there instead of to stdout")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import canonical, escape
    from packager.api import bundles
    from packager.files import write_atomically

    bundle = options.open_bundle(args)
    if args.report:
        made = bundles.report_sbom(bundle)
        console.result(made.to_json(), _text(made))
        return 0
    data = bundles.convert_sbom(bundle, args.format, args.spec, released=args.released, place=args.place)
    if args.output:
        write_atomically(args.output, data)
        console.result({"output": str(args.output), "digest": canonical.sha256(data)}, f"wrote {args.output}")
    else:
        console.result(canonical.load(data, limit=1 << 30), escape.json_document(data.decode()))
    return 0


def _text(made: SbomReport) -> list[str]:
    rows = ["G7 SBOM for AI, by cluster"]
    for name, elements in made.clusters.items():
        rows += [f"  {name}: {sum(item.filled for item in elements)} of {len(elements)}", *_missing(elements)]
    rows += [
        f"NTIA minimum elements: {sum(item.filled for item in made.ntia)} of {len(made.ntia)}",
        *_missing(made.ntia),
        f"CISA minimum elements (2026): {sum(item.filled for item in made.cisa)} of {len(made.cisa)}",
        *_missing(made.cisa),
        f"OWASP AIBOM completeness: {made.aibom.total} of 100",
    ]
    for name, category in made.aibom.categories.items():
        rows += [f"  {name}: {category.reached} of {category.points}", *_missing(category.fields)]
    total = sum(made.licences.values()) + len(made.unlicensed)
    rows.append(f"licences: {sum(made.licences.values())} of {total} components ({made.licensed_share:.1%})")
    rows += [f"  {count:4} {name}" for name, count in sorted(made.licences.items(), key=lambda row: (-row[1], row[0]))]
    return rows + [f"     ? {name}" for name in made.unlicensed]


def _missing(elements: tuple[Element, ...]) -> list[str]:
    return [f"    missing: {item.name} ({item.remedy})" for item in elements if not item.filled]
