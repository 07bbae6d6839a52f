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
    from packager.bundle.bundle import Bundle

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
  packager sign digits:1.4.0 --remove test.pub"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.bundle(parser)
    _signer.arguments(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write a signed directory or .tar file")
    parser.add_argument("--alone", action="store_true", help="with -o: leave out what others signed")
    parser.add_argument("--remove", metavar="WHO", help="take off what a PUB file, a fingerprint or an identity signed")


def main(args: argparse.Namespace, console: Console) -> int:
    if args.remove:
        return _remove(args, console)
    from packager.release.sign import drafts, sign
    from packager.transport import copy

    if args.alone and not args.output:
        raise UsageError("--alone says what OUT carries", hint="give -o OUT as well")
    signer = open_signer(_signer.uri(args), args)
    with console:
        before = _signer.open_own(args, console)
        left = drafts(before)
        bundle = sign(before, signer)
        _tell(bundle, sorted(left), console)
        carried = _asked_for(bundle, args, console) if args.output else bundle
        if args.alone and not copy.is_in_files(bundle):
            copy.attach(bundle, on_event=console)
            copy.save(carried, args.output, console)
        else:
            bundle = copy.attach(carried, args.output, console)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "statements": len(bundle.referrers),
        "signed": sorted(left),
        "output": str(args.output) if args.output else None,
    }
    text = f"signed {bundle.name}:{bundle.version} {bundle.digest}"
    console.result(value, text + (f"\nwrote {args.output}" if args.output else ""))
    return 0


def _tell(bundle: Bundle, left: list[str], console: Console) -> None:
    """Say what is signed besides the bundle; that nothing says how it was made, where that is so."""
    from packager.formats import slsa
    from packager.trust.verify import list_statements

    if left:
        console(Note(f"signing what its build left as well: {', '.join(left)}"))
    elif not any(kind == slsa.PREDICATE for _, _, kind in list_statements(bundle)):
        console(
            Warned(
                "only the bundle is signed: its provenance and facts are in the store that built it, and policies that "
                "ask for them will say no; sign it there, or export it there with --to-sign"
            )
        )


def _asked_for(bundle: Bundle, args: argparse.Namespace, console: Console) -> Bundle:
    """Return what OUT carries."""
    from packager.trust.verify import list_statements

    made = {referrer.content.digest for referrer in bundle.referrers if referrer.content.digest in bundle.pending}
    if args.alone:
        return bundle.only(lambda referrer: referrer.content.digest in made)
    ours = {claim for digest, claim, _ in list_statements(bundle) if digest in made}
    others = sorted({claim for _, claim, _ in list_statements(bundle)} - ours)
    if others:
        listed = ", ".join(f"`{claim:.64}`" for claim in others[:5])
        console(Note(f"`{args.output}` also carries what {listed} signed; --alone leaves that out"))
    return bundle


def _remove(args: argparse.Namespace, console: Console) -> int:
    from packager.release.sign import without
    from packager.transport import copy
    from packager.trust.keys import load_public

    if args.output or any((args.key, args.certificate, args.keyless, args.signer)):
        raise UsageError("--remove signs nothing", hint="sign in a call of its own")
    who = load_public(Path(args.remove)).fingerprint if Path(args.remove).is_file() else args.remove
    with console:
        before = options.open_bundle(args, console)
        bundle = without(before, who)
        copy.drop_referrers(bundle, console)
    gone = len(before.referrers) - len(bundle.referrers)
    value = {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "statements": len(bundle.referrers),
        "removed": gone,
    }
    console.result(value, f"removed {gone} statements of {who} from {bundle.name}:{bundle.version}")
    return 0
