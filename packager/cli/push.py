# SPDX-License-Identifier: Apache-2.0
"""Copy a bundle, with its signatures, to an OCI registry, a bucket, or another place that fsspec reaches.

Blobs that are there are not sent again. Without a tag the bundle's version becomes the tag; a tag that names another
bundle is only moved with --force. Credentials are those of `docker login` and `podman login`, for buckets those of
the driver's own environment (S3: AWS_PROFILE and its like).
"""

from __future__ import annotations

import argparse

from packager.cli import options
from packager.cli._units import format_size
from packager.cli.console import Console

FOR = "release"
HELP = "copy a bundle to a registry or bucket"
EXAMPLES = """  packager push digits:1.4.0 oci://registry.example.com/models/digits
  packager push digits.bundle.tar oci://registry.example.com/models/digits:stable --force
  packager push digits:1.4.1 s3://models/team/digits --mount-from s3://models/team/digits:1.4.0"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    parser.add_argument("target", metavar="TO", help="oci://host[:port]/name[:tag], s3://bucket/name[:version], …")
    parser.add_argument(
        "--mount-from", metavar="NAME", help="a repository of that registry, or bundle of that bucket, with its blobs"
    )
    parser.add_argument("--force", action="store_true", help="move a tag that names another bundle")
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager.api import bundles

    with console:
        bundle = options.open_bundle(args, console)
        here = options.open_workspace(args, console)
        done = bundles.push_bundle(bundle, args.target, here, mount_from=args.mount_from, force=args.force)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "reference": done.reference,
        "sent": done.sent,
        "size": bundle.size,
        "statements": bundle.statements,
    }
    missing = f"{format_size(done.sent)} of {format_size(bundle.size)} were missing there"
    console.result(value, f"pushed {bundle.name}:{bundle.version} ({missing})\n{done.reference}")
    return 0
