# SPDX-License-Identifier: Apache-2.0
"""Sign a bundle where it lies: in the store, a directory, or a single file.

Two statements are attached: one about the bundle's digest, name and files, and an OpenSSF Model Signing statement
that `model_signing verify` accepts; and what its build left to be signed, provenance and facts, which the store that
built it has, and a file of `packager export --to-sign`. The bundle itself, and so its digest, does not change. A name
of the local store is signed only if this store built the bundle or let it in verified; others are named by digest.

With -o the signed bundle is written to OUT, and a file or directory given as BUNDLE stays as it is; the store keeps the
signature as well. OUT carries what others signed before too, unless --alone says otherwise. --remove takes what
a signer signed off a bundle, for instance with a key for tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import _signer, options
from packager.cli._signer import open_signer as open_signer  # `build --sign` opens signers the same way
from packager.cli.console import Console
from packager.errors import UsageError
from packager.events import Note, Warned

if TYPE_CHECKING:
    from packager.api import Bundle

FOR = "release"
HELP = "sign a bundle, or take a signature off it"
EXAMPLES = """  packager sign digits:1.4.0 --key release.pem
  packager sign sha256:… --key release.pem
  packager sign dist/digits.bundle.tar --key release.pem --passphrase-file secret.txt
  packager sign digits:1.4.0 --key 'key+pkcs11:token=release;object=signing?module-path=/usr/lib/softhsm/libsofthsm2.so'
  packager sign digits:1.4.0 --certificate leaf.pem --key leaf.key --chain chain.pem --tsa https://tsa.example.com
  packager sign digits:1.4.0 --keyless --trust-config private-sigstore.json --identity-token token.jwt
  packager sign digits:1.4.0 --signer key:release.pem -o dist/digits.bundle.tar
  packager sign unsigned.bundle.tar --key release.pem -o dist/digits.bundle.tar
  packager sign oci://registry.example.com/models/digits:1.4.0 --key release.pem --also cosign-legacy
  packager sign digits:1.4.0 --remove test.pub"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    _signer.arguments(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write a signed directory or .tar file")
    parser.add_argument("--alone", action="store_true", help="with -o: leave out what others signed")
    parser.add_argument(
        "--also",
        choices=("cosign-legacy",),
        metavar="FORM",
        help="for a bundle in a registry: add cosign's first form as well, `cosign-legacy`, for tools that know no "
        "other (tag `sha256-<hex>.sig`)",
    )
    parser.add_argument("--remove", metavar="WHO", help="take off what a PUB file, a fingerprint or an identity signed")


def main(args: argparse.Namespace, console: Console) -> int:
    if args.remove:
        return _remove(args, console)
    from packager import api
    from packager.api import signing

    if args.alone and not args.output:
        raise UsageError("--alone says what OUT carries", hint="give -o OUT as well")
    signer = open_signer(_signer.choose_uri(args), args)
    legacy = signing.prepare_legacy_signature(args.bundle, signer, options.open_workspace(args)) if args.also else None
    with console:
        before = _signer.open_own(args, console)
        left = signing.list_drafts(before)
        _tell(before, left, console)
        bundle = api.sign_bundle(before, signer, args.output, alone=args.alone, on_event=console)
        tag = legacy(before) if legacy else None
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "statements": bundle.statements,
        "signed": left,
        "output": str(args.output) if args.output else None,
        "legacy": tag,
    }
    text = f"signed {bundle.name}:{bundle.version} {bundle.digest}"
    text += f"\ntagged {tag}" if tag else ""
    console.result(value, text + (f"\nwrote {args.output}" if args.output else ""))
    return 0


def _tell(bundle: Bundle, left: list[str], console: Console) -> None:
    """Say what is signed besides the bundle; that nothing says how it was made, where that is so."""
    from packager.api import signing

    if left:
        console(Note(f"signing what its build left as well: {', '.join(left)}"))
    elif not signing.says_how_it_was_made(bundle):
        console(
            Warned(
                "only the bundle is signed: its provenance and facts are in the store that built it, and policies that "
                "ask for them will say no; sign it there, or export it there with --to-sign"
            )
        )


def _remove(args: argparse.Namespace, console: Console) -> int:
    from packager.api import signing

    if args.output or any((args.key, args.certificate, args.keyless, args.signer)):
        raise UsageError("--remove signs nothing", hint="sign in a call of its own")
    who = signing.load_public_key(Path(args.remove)).fingerprint if Path(args.remove).is_file() else args.remove
    with console:
        before = options.open_bundle(args, console)
        bundle = signing.remove_signatures(before, who, console)
    gone = len(before.referrers) - len(bundle.referrers)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "statements": bundle.statements,
        "removed": gone,
    }
    console.result(value, f"removed {gone} statements of {who} from {bundle.name}:{bundle.version}")
    return 0
