# SPDX-License-Identifier: Apache-2.0
"""Copy a bundle, with its signatures, to an OCI registry.

Blobs the registry has are not sent again, and an upload that broke goes on where it was. Without a tag the bundle's
version becomes the tag; a tag that names another bundle is only moved with --force. Credentials are those of
`docker login` and `podman login`.
"""

from __future__ import annotations

import argparse

from packager.cli import options
from packager.cli.render import Console, size

HELP = "copy a bundle to a registry"
EXAMPLES = """  packager push digits:1.4.0 oci://registry.example.com/models/digits
  packager push digits.bundle.tar oci://registry.example.com/models/digits:stable --force"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    parser.add_argument("target", metavar="OCI", help="oci://host[:port]/name[:tag]")
    parser.add_argument("--mount-from", metavar="NAME", help="a repository of that registry that may have the blobs")
    parser.add_argument("--force", action="store_true", help="move a tag that names another bundle")
    parser.set_defaults(jobs=4)


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import transport
    from packager.registry import reference
    from packager.registry.publish import registry

    target = reference.parse(args.target)
    with console:
        bundle = options.open_bundle(args, console)
        to = registry(target, options.registry_settings(args), mount=args.mount_from, force=args.force)
        sent = transport.copy(bundle, to, console, jobs=args.jobs, label="pushing")
    pinned = f"{reference.SCHEME}{target.host}/{target.name}@{bundle.digest}"
    value = {"name": bundle.name, "version": bundle.version, "digest": bundle.digest, "reference": pinned,
             "sent": sent, "size": bundle.size, "statements": len(bundle.referrers)}  # fmt: skip
    text = f"pushed {bundle.name}:{bundle.version} ({size(sent)} of {size(bundle.size)} were missing there)"
    console.result(value, f"{text}\n{pinned}")
    return 0
