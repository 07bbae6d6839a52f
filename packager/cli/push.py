# SPDX-License-Identifier: Apache-2.0
"""Copy a bundle, with its signatures, to an OCI registry, a bucket, or another place that fsspec reaches.

Blobs that are there are not sent again. Without a tag the bundle's version becomes the tag; a tag that names another
bundle is only moved with --force. Credentials are those of `docker login` and `podman login`, for buckets those of
the driver's own environment (S3: AWS_PROFILE and its like).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from packager.bundle.bundle import Bundle
    from packager.transport.writers import Destination

FOR = "release"
HELP = "copy a bundle to a registry or bucket"
EXAMPLES = """  packager push digits:1.4.0 oci://registry.example.com/models/digits
  packager push digits.bundle.tar oci://registry.example.com/models/digits:stable --force
  packager push digits:1.4.1 s3://models/team/digits --mount-from s3://models/team/digits:1.4.0"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    parser.add_argument("target", metavar="TO", help="oci://host[:port]/name[:tag], s3://bucket/name[:version], …")
    parser.add_argument(
        "--mount-from", metavar="NAME", help="a repository of that registry, or bundle of that bucket, with its blobs"
    )
    parser.add_argument("--force", action="store_true", help="move a tag that names another bundle")
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.transport import copy

    with console:
        to, pinned = _target(args)
        bundle = options.open_bundle(args, console)
        _warn(args.target, bundle, console)
        sent = copy.copy(bundle, to, console, jobs=args.jobs, label="pushing")
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "reference": pinned(bundle),
        "sent": sent,
        "size": bundle.size,
        "statements": len(bundle.referrers),
    }
    text = f"pushed {bundle.name}:{bundle.version} ({size(sent)} of {size(bundle.size)} were missing there)"
    console.result(value, f"{text}\n{pinned(bundle)}")
    return 0


def _warn(target: str, bundle: Bundle, console: Console) -> None:
    """Warn if the bundle cannot be fetched under the name that it is pushed to."""
    from packager import names
    from packager.errors import WrongSubjectError
    from packager.events import Warned

    try:
        names.check_called(target, bundle.name, bundle.version)
    except WrongSubjectError:
        console(
            Warned(
                f"`{target}` is not what `{bundle.name}:{bundle.version}` calls itself: there it is only "
                f"fetched by its digest, {bundle.digest}"
            )
        )


def _target(args: argparse.Namespace) -> tuple[Destination, Callable[[Bundle], str]]:
    """Return where TO is, and how a bundle is called there for ever."""
    if args.target.startswith("oci://"):
        from packager.transport.registry import reference
        from packager.transport.registry.publish import registry

        there = reference.parse(args.target)
        to = registry(there, options.registry_settings(args), mount=args.mount_from, force=args.force)
        return to, lambda bundle: f"{reference.SCHEME}{there.host}/{there.name}@{bundle.digest}"
    from packager.transport.bucket import medium
    from packager.transport.bucket import reference as names

    place = names.parse(args.target)
    mount = names.parse(args.mount_from) if args.mount_from else None
    return medium.bucket(place, mount=mount, force=args.force), lambda bundle: str(place.pinned(bundle))
