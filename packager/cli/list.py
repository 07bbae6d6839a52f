# SPDX-License-Identifier: Apache-2.0
"""List bundles: those of the local store, the versions of one name there, or the tags of a repository.

`signed` says that statements are attached, not that a trusted signer made them: `packager verify` says that. What lies
in quarantine came from elsewhere, unvouched for, and is called by its digest.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api.bundles import ListedBundle

FOR = "everybody"
HELP = "list the bundles of the local store, or the tags of a repository"
EXAMPLES = """  packager list
  packager list digits
  packager list oci://registry.example.com/models/digits --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place", metavar="WHERE", nargs="?", help="NAME in the store, or oci://host[:port]/name (default: the store)"
    )
    options.add_registry(parser)
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles

    place, here = args.place or "", options.open_workspace(args)
    if place.startswith("oci://"):
        found, none = bundles.list_tags(place, here), f"`{place}` has no tag"
    else:
        found, none = bundles.list_bundles(here, args.place or None), "the local store has no bundle"
        place = str(here.store)
    console.result({"place": place, "bundles": [item.to_json() for item in found]}, _text(found) or [none])
    return 0


def _text(found: list[ListedBundle]) -> list[str]:
    names = [f"{item.name}:{item.version}" if item.name else item.digest for item in found]
    width = max(map(len, names), default=0)
    return [f"{name:{width}}  {_about(item)}" for name, item in zip(names, found, strict=True)]


def _about(item: ListedBundle) -> str:
    held = "?" if item.size is None else format_size(item.size)
    said = item.problem or ("signed" if item.signed else "unsigned")
    origin = f", {item.origin}" if item.origin else ""
    return f"{held:>9}  {said}{origin}" + (f"  {item.digest}" if item.name else "")
