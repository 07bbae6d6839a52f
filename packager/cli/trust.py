# SPDX-License-Identifier: Apache-2.0
"""Keep a trust file: who may sign, what must be there, what is revoked. Root keys sign it; it only moves forward.

  init    make one without trusted signers
  add     a signer (--signer NAME with --key, --ca or --issuer; beside others of that name), a requirement (--require),
          a time stamping authority (--tsa-ca), a lowest version (--minimum), root keys (--root)
  remove  a signer (--signer NAME), one key of it (and --key PUB), or root keys (--root)
  revoke  a key, identity, certificate, bundle or range of versions, for good
  sign    add signatures of further root keys, where more than one must sign
  show    print what it says, and who signed it
  update  on the verifier's side: replace FILE by NEW, if NEW may follow it

Each of init, add, remove, revoke and sign writes FILE and signs it with --root-key.
"""

from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console
from packager.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from packager.api.signing import PrivateKey, PublicKey
    from packager.api.trust import TrustDraft, TrustFile

FOR = "site"
HELP = "keep the trust file that says whom a verifier believes"
EXAMPLES = """  packager trust init acme.trust --name acme --root-key root.pem
  packager trust add acme.trust --signer release --key release.pub --root-key root.pem
  packager trust add acme.trust --signer corp --ca corp-root.pem --identity release@corp.example --root-key root.pem
  packager trust add acme.trust --require https://slsa.dev/provenance/v1 --by release --max-age 90 --root-key root.pem
  packager trust add acme.trust --require-stage production --by gate --max-age 30 --root-key root.pem
  packager trust revoke acme.trust --key old.pub --root-key root.pem
  packager trust revoke acme.trust --versions 'digits:<1.4.2' --root-key root.pem
  packager trust update /etc/packager/acme.trust /media/usb/acme.trust
  packager trust update acme.trust tuf+file:///media/usb/channel#acme.trust --tuf-root channel-root.json"""
_ACTIONS = ("init", "add", "remove", "revoke", "sign", "show", "update")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="ACTION", choices=_ACTIONS, help=", ".join(_ACTIONS))
    parser.add_argument("file", metavar="FILE", type=Path, help="the trust file")
    parser.add_argument(
        "new",
        metavar="NEW",
        nargs="?",
        help="update: the file that is to follow, or tuf+file:///DIR#NAME, tuf+https://HOST/…#NAME",
    )
    roots = parser.add_argument_group("root keys")
    roots.add_argument("--root-key", type=Path, action="append", default=[], metavar="PEM", help="sign with this key")
    roots.add_argument(
        "--root", type=Path, action="append", default=[], metavar="PUB", help="another root key, public half"
    )
    roots.add_argument("--threshold", type=int, metavar="N", help="how many root keys must sign")
    roots.add_argument("--days", type=int, metavar="N", help="expire so many days from now (init: 365)")
    options.add_secrets(parser)
    what = parser.add_argument_group("what is added or revoked")
    what.add_argument("--name", help="init: name of the trust, kept for ever")
    what.add_argument("--signer", metavar="NAME", help="name of a signer in the file")
    what.add_argument("--key", type=Path, metavar="PUB", help="a public key")
    what.add_argument("--ca", type=Path, metavar="PEM", help="an authority that issues signing certificates")
    what.add_argument("--ca-intermediates", type=Path, metavar="PEM", help="with --ca: certificates between the two")
    what.add_argument("--identity", metavar="NAME", help="exact name in a certificate")
    what.add_argument("--issuer", metavar="URL", help="who vouches for that identity at a Sigstore instance")
    what.add_argument(
        "--trust-config", type=Path, metavar="FILE", help="the root of a private Sigstore instance, pinned"
    )
    what.add_argument("--from", dest="start", metavar="TIME", help="trusted only from then, e.g. 2027-01-31T00:00:00Z")
    what.add_argument("--until", metavar="TIME", help="trusted only until then")
    what.add_argument("--tsa-ca", type=Path, metavar="PEM", help="an authority whose time stamps count")
    what.add_argument("--require", metavar="TYPE", help="predicate type of a statement that must be there")
    what.add_argument("--require-stage", metavar="STAGE", help="add: what `promote --to STAGE` states, by --by")
    what.add_argument("--by", action="append", default=[], metavar="SIGNER", help="who may make it (default: anyone)")
    what.add_argument("--max-age", type=int, metavar="DAYS", help="how old it may be")
    what.add_argument("--minimum", metavar="NAME:VERSION", help="lowest version of a bundle that is accepted")
    what.add_argument("--certificate", metavar="SERIAL", help="revoke: serial number, hexadecimal, or a PEM file")
    what.add_argument("--bundle", metavar="DIGEST", help="revoke: manifest digest of a bundle")
    what.add_argument("--versions", metavar="NAME:RANGE", help="revoke: versions of a bundle, e.g. 'digits:<1.4.2'")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="update: where this machine remembers what it has seen"
    )
    parser.add_argument("--tuf-root", type=Path, metavar="FILE", help="update: first root metadata of a TUF channel")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import api
    from packager.api import trust

    now = api.utc_now()
    if args.action == "update":
        return _update(args, now, console)
    if args.action == "show":
        return _report(trust.read_trust_file(args.file), console, "")
    if args.action == "init":
        return _report(_save(args, _first(args, now).sign(_signers(args))), console, "made")
    before = trust.read_trust_file(args.file)
    if args.action == "sign":
        return _report(_save(args, trust.add_signatures(before, _signers(args))), console, "signed")
    draft = trust.TrustDraft.follow(before, _signers(args), now, args.days)
    changed = {"add": _add, "remove": _remove, "revoke": _revoke}[args.action](args, draft)
    if changed == draft and args.days is None and args.threshold is None:
        raise UsageError(f"nothing to {args.action}", hint="see `packager trust --help`")
    return _report(_save(args, changed.sign(_signers(args))), console, "wrote")


def _first(args: argparse.Namespace, now: datetime) -> TrustDraft:
    from packager.api import trust

    if args.file.exists():
        raise UsageError(f"`{args.file}` exists already", hint="change it with `packager trust add`")
    if not args.name:
        raise UsageError("a trust file needs a --name", hint="for example that of the organisation: --name acme")
    roots = [key.public for key in _signers(args)] + _publics(args)
    expires = now + timedelta(days=args.days or 365)
    return trust.TrustDraft.create(args.name, roots, expires, args.threshold or 1)


def _add(args: argparse.Namespace, draft: TrustDraft) -> TrustDraft:
    draft = draft.with_roots(add=_publics(args), threshold=args.threshold)
    if args.signer:
        draft = _with_signer(args, draft)
    if args.tsa_ca:
        draft = draft.with_timestamping(args.tsa_ca)
    if args.require:
        draft = draft.with_requirement(args.require, args.by, args.max_age)
    if args.require_stage:
        draft = draft.with_stage(args.require_stage, args.by, args.max_age)
    return draft.with_minimum(*_pair(args.minimum, "--minimum")) if args.minimum else draft


def _with_signer(args: argparse.Namespace, draft: TrustDraft) -> TrustDraft:
    from packager.api import signing, trust

    period = trust.Period(args.start, args.until)
    if args.key and not (args.ca or args.identity or args.issuer):
        return draft.with_key(args.signer, signing.load_public_key(args.key), period)
    if args.ca and args.identity and not (args.key or args.issuer):
        return draft.with_certificate(args.signer, args.ca, args.identity, period, intermediates=args.ca_intermediates)
    if not (args.identity and args.issuer) or args.key or args.ca:
        raise UsageError(
            "a signer is a key, a certificate or an identity",
            hint="give --key PUB, --ca CA --identity NAME, or --identity NAME --issuer URL",
        )
    return draft.with_identity(args.signer, args.identity, args.issuer, args.trust_config, period)


def _remove(args: argparse.Namespace, draft: TrustDraft) -> TrustDraft:
    from packager.api import signing

    draft = draft.with_roots(remove=_publics(args), threshold=args.threshold)
    if not args.signer:
        return draft
    return draft.without_signer(args.signer, signing.load_public_key(args.key) if args.key else None)


def _revoke(args: argparse.Namespace, draft: TrustDraft) -> TrustDraft:
    from packager.api import signing

    if args.key:
        draft = draft.with_revoked_key(signing.load_public_key(args.key))
    if args.identity:
        draft = draft.with_revoked_identity(args.identity)
    if args.certificate:
        draft = draft.with_revoked_certificate(args.certificate)
    if args.bundle:
        draft = draft.with_revoked_bundle(args.bundle)
    return draft.with_revoked_versions(*_pair(args.versions, "--versions")) if args.versions else draft


def _pair(text: str, option: str) -> tuple[str, str]:
    name, colon, rest = text.partition(":")
    if not (name and colon and rest):
        raise UsageError(
            f"{option} `{text}` lacks a name or a version", hint=f"write for example {option} digits:1.4.0"
        )
    return name, rest


def _signers(args: argparse.Namespace) -> list[PrivateKey]:
    from packager.api import signing

    if not args.root_key:
        raise UsageError("a trust file is signed", hint="give --root-key; `packager keygen root` makes one")
    return [signing.load_private_key(path, options.secret_reader(args, str(path))) for path in args.root_key]


def _publics(args: argparse.Namespace) -> list[PublicKey]:
    from packager.api import signing

    return [signing.load_public_key(path) for path in args.root]


def _save(args: argparse.Namespace, file: TrustFile) -> TrustFile:
    from packager.api import trust

    trust.write_trust_file(file, args.file)
    return file


def _report(file: TrustFile, console: Console, done: str) -> int:
    from packager.api.trust import describe_signers

    trust = file.trust
    count = file.signed_by(trust.roots.keys)
    value = {"digest": file.digest, "signatures": count, "content": file.content}
    rows = [
        f"{done} {trust.name} serial {trust.serial}, expires {file.content['expires']}".strip(),
        f"  root keys  {count} of {len(trust.roots.keys)} signed, {trust.roots.threshold} must",
    ]
    rows += [f"  root       {key.fingerprint}" for key in trust.roots.keys]
    rows += [f"  signer     {name}: {about}" for name, about in describe_signers(file)]
    rows += [
        f"  required   {item.predicate_type} by {', '.join(sorted(item.signers)) or 'anyone trusted'}"
        for item in trust.required
    ]
    rows += [f"  minimum    {name} {version}" for name, version in trust.minimum.items()]
    for kind, entries in file.content.get("revoked", {}).items():
        listed = entries if isinstance(entries, list) else [f"{name} {text}" for name, text in entries.items()]
        rows += [f"  revoked    {kind}: {entry}" for entry in listed]
    console.result(value, rows)
    return 0


def _update(args: argparse.Namespace, now: datetime, console: Console) -> int:
    from packager.api import trust
    from packager.cli._trust import state_file

    if args.new is None:
        raise UsageError("update needs the file that is to follow", hint="packager trust update FILE NEW")
    file = trust.update_trust_file(args.file, args.new, now, state_file(args), args.tuf_root)
    return _report(file, console, "accepted")
