# SPDX-License-Identifier: Apache-2.0
"""List bundles: those of the local store, the versions of one name there, or the tags of a repository.

`signed` says that statements are attached, not that a trusted signer made them: `packager verify` says that. What lies
in quarantine came from elsewhere, unvouched for, and is called by its digest.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console, size

if TYPE_CHECKING:
    from packager.transport.listing import Item

FOR = "everybody"
HELP = "list the bundles of the local store, or the tags of a repository"
EXAMPLES = """  packager list
  packager list digits
  packager list oci://registry.example.com/models/digits --json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "place", metavar="WHERE", nargs="?", help="NAME in the store, or oci://host[:port]/name (default: the store)"
    )
    options.registry(parser)
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import names
    from packager.errors import UsageError, did_you_mean
    from packager.transport import listing

    place = args.place
    if place and place.startswith("oci://"):
        found = listing.list_tags(options.repository(place, args), args.jobs)
        console.result(
            {"place": place, "bundles": [item.to_json() for item in found]}, _text(found) or [f"`{place}` has no tag"]
        )
        return 0
    if place and not names.is_name(place):
        raise UsageError(
            f"`{place:.200}` is no place that can be listed",
            hint="give the NAME of a bundle in the local store, or oci://host/name",
        )
    store = options.workspace(args).open_store()
    found = listing.list_store(store, place)
    if place and not found:
        known = sorted({name for name, _ in store.bundles()})
        raise UsageError(
            f"the local store has no bundle `{place}`",
            hint=did_you_mean(place, known) if known else "build one with `packager build`",
        )
    console.result(
        {"place": str(store.root), "bundles": [item.to_json() for item in found]},
        _text(found) or ["the local store has no bundle"],
    )
    return 0


def _text(found: list[Item]) -> list[str]:
    names = [f"{item.name}:{item.version}" if item.name else item.digest for item in found]
    width = max(map(len, names), default=0)
    return [f"{name:{width}}  {_about(item)}" for name, item in zip(names, found, strict=True)]


def _about(item: Item) -> str:
    held = "?" if item.size is None else size(item.size)
    said = item.problem or ("signed" if item.signed else "unsigned")
    origin = f", {item.origin}" if item.origin else ""
    return f"{held:>9}  {said}{origin}" + (f"  {item.digest}" if item.name else "")
