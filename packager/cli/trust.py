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
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packager.cli import options
from packager.cli.console import Console
from packager.errors import UsageError

if TYPE_CHECKING:
    from packager.trust.edit import Content
    from packager.trust.file import TrustFile
    from packager.trust.keys import PrivateKey, PublicKey

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
    options.secrets(parser)
    what = parser.add_argument_group("what is added or revoked")
    what.add_argument("--name", help="init: name of the trust, kept for ever")
    what.add_argument("--signer", metavar="NAME", help="name of a signer in the file")
    what.add_argument("--key", type=Path, metavar="PUB", help="a public key")
    what.add_argument("--ca", type=Path, metavar="PEM", help="an authority that issues signing certificates")
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
    now = datetime.now(UTC)
    if args.action == "update":
        return _update(args, now, console)
    if args.action == "show":
        return _report(_read(args), console, "")
    if args.action == "init":
        return _report(_write(args, _first(args, now)), console, "made")
    before = _read(args)
    if args.action == "sign":
        from packager.trust import file as trustfile

        return _report(_save(args, trustfile.add_signatures(before, _signers(args))), console, "signed")
    from packager.trust import edit

    _check_before(before, _signers(args))
    content = edit.next_serial(before.content, now, args.days)
    changed = {"add": _add, "remove": _remove, "revoke": _revoke}[args.action](args, content)
    if changed == content and args.days is None and args.threshold is None:
        raise UsageError(f"nothing to {args.action}", hint="see `packager trust --help`")
    return _report(_write(args, changed), console, "wrote")


def _check_before(before: TrustFile, signers: list[PrivateKey]) -> None:
    """Raise unless the file to be changed is sound and these keys may sign what follows: no change may launder it."""
    from packager.errors import TrustFileError

    roots, trust = before.trust.roots, before.trust
    if before.signed_by(roots.keys) < roots.threshold:
        raise TrustFileError(
            f"trust file `{trust.name}` (serial {trust.serial}) is not signed by enough of its own root keys",
            hint="it was changed, or further signatures are still to be added with `packager trust sign`",
        )
    if not {key.public.fingerprint for key in signers} & {key.fingerprint for key in roots.keys}:
        raise TrustFileError(
            f"none of the given keys is a root key of trust file `{trust.name}`",
            hint="`packager trust show` lists its root keys; is it the file that you mean?",
        )


def _first(args: argparse.Namespace, now: datetime) -> Content:
    from packager.trust import edit

    if args.file.exists():
        raise UsageError(f"`{args.file}` exists already", hint="change it with `packager trust add`")
    if not args.name:
        raise UsageError("a trust file needs a --name", hint="for example that of the organisation: --name acme")
    roots = [key.public for key in _signers(args)] + _publics(args)
    return edit.new_content(args.name, roots, args.threshold or 1, now + timedelta(days=args.days or 365))


def _add(args: argparse.Namespace, content: Content) -> Content:
    from packager.trust import certificates, edit

    content = edit.with_roots(content, _publics(args), [], args.threshold)
    if args.signer:
        content, entry = _signer_entry(args, content)
        content = edit.with_signer(content, args.signer, entry)
    if args.tsa_ca:
        pems = [certificates.pem(certificate) for certificate in certificates.load(args.tsa_ca)]
        content = edit.with_members(content, "timestamping", pems)
    for entry in _requirements(args):
        who = {"signers": args.by} if args.by else {}
        age = {"maximumAgeDays": args.max_age} if args.max_age else {}
        content = edit.with_requirement(content, entry | who | age)
    if args.minimum:
        content = edit.with_entry(content, "minimum", *_pair(args.minimum, "--minimum"))
    return content


def _requirements(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from packager.formats import vsa

    if args.require:
        yield {"predicateType": args.require}
    if args.require_stage:
        if not args.by:
            raise UsageError("a stage is let in by somebody in particular", hint="name the gate: --by SIGNER")
        yield {"predicateType": vsa.PREDICATE, "predicate": vsa.passed(args.require_stage)}


def _signer_entry(args: argparse.Namespace, content: Content) -> tuple[Content, dict[str, Any]]:
    from packager import canonical
    from packager.cli._trust import trusted_root
    from packager.trust import certificates, edit
    from packager.trust.keys import load_public

    times = {name: at for name, at in (("from", args.start), ("until", args.until)) if at}
    if args.key and not (args.ca or args.identity or args.issuer):
        return content, {"key": load_public(args.key).pem.decode(), **times}
    if args.ca and args.identity and not (args.key or args.issuer):
        pems = [certificates.pem(certificate) for certificate in certificates.load(args.ca)]
        return content, {"ca": pems, "identity": args.identity, **times}
    if not (args.identity and args.issuer) or args.key or args.ca:
        raise UsageError(
            "a signer is a key, a certificate or an identity",
            hint="give --key PUB, --ca CA --identity NAME, or --identity NAME --issuer URL",
        )
    entry = {"identity": args.identity, "issuer": args.issuer, **times}
    if args.trust_config:
        data = trusted_root(args.trust_config)
        entry["instance"] = canonical.sha256(data)[7:23]
        content = edit.with_entry(content, "instances", entry["instance"], canonical.load(data, limit=len(data)))
    return content, entry


def _remove(args: argparse.Namespace, content: Content) -> Content:
    from packager.trust import edit
    from packager.trust.keys import load_public

    content = edit.with_roots(content, [], _publics(args), args.threshold)
    if not args.signer:
        return content
    return edit.without_signer(content, args.signer, load_public(args.key) if args.key else None)


def _revoke(args: argparse.Namespace, content: Content) -> Content:
    from packager.trust import certificates, edit
    from packager.trust.keys import load_public

    if args.key:
        content = edit.with_revocation(content, "keys", load_public(args.key).fingerprint)
    if args.identity:
        content = edit.with_revocation(content, "identities", args.identity)
    if args.certificate:
        path = Path(args.certificate)
        serial = (
            certificates.serial(certificates.load(path)[0]) if path.is_file() else args.certificate.lower().lstrip("0")
        )
        content = edit.with_revocation(content, "certificates", serial)
    if args.bundle:
        content = edit.with_revocation(content, "bundles", args.bundle)
    if args.versions:
        content = edit.with_revoked_versions(content, *_pair(args.versions, "--versions"))
    return content


def _pair(text: str, option: str) -> tuple[str, str]:
    name, colon, rest = text.partition(":")
    if not (name and colon and rest):
        raise UsageError(
            f"{option} `{text}` lacks a name or a version", hint=f"write for example {option} digits:1.4.0"
        )
    return name, rest


def _signers(args: argparse.Namespace) -> list[PrivateKey]:
    from packager.trust.keys import load_private

    if not args.root_key:
        raise UsageError("a trust file is signed", hint="give --root-key; `packager keygen root` makes one")
    return [load_private(path, options.secret(args, str(path))) for path in args.root_key]


def _publics(args: argparse.Namespace) -> list[PublicKey]:
    from packager.trust.keys import load_public

    return [load_public(path) for path in args.root]


def _read(args: argparse.Namespace) -> TrustFile:
    from packager.trust import file as trustfile
    from packager.trust.verifier import read_file

    return trustfile.parse(read_file(args.file), str(args.file))


def _write(args: argparse.Namespace, content: Content) -> TrustFile:
    from packager.trust import file as trustfile

    try:
        return _save(args, trustfile.write(content, _signers(args)))
    except ValueError as error:
        raise UsageError(f"the trust file would not be acceptable: {error}") from None


def _save(args: argparse.Namespace, file: TrustFile) -> TrustFile:
    from packager.files import write_atomically

    write_atomically(args.file, file.to_bytes())
    return file


def _report(file: TrustFile, console: Console, done: str) -> int:
    from packager.trust import edit

    trust = file.trust
    count = file.signed_by(trust.roots.keys)
    value = {"digest": file.digest, "signatures": count, "content": file.content}
    rows = [
        f"{done} {trust.name} serial {trust.serial}, expires {file.content['expires']}".strip(),
        f"  root keys  {count} of {len(trust.roots.keys)} signed, {trust.roots.threshold} must",
    ]
    rows += [f"  root       {key.fingerprint}" for key in trust.roots.keys]
    rows += [
        f"  signer     {name}: {_describe(entry)}"
        for name, value in file.content["signers"].items()
        for entry in edit.entries_of(value)
    ]
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


def _describe(entry: dict[str, Any]) -> str:
    from packager.trust.keys import parse_public

    times = "".join(f", {edge} {entry[edge]}" for edge in ("from", "until") if edge in entry)
    if "key" in entry:
        return f"key {parse_public(entry['key'].encode()).fingerprint}{times}"
    whose = "pinned authority" if "ca" in entry else entry["issuer"]
    return f"{entry['identity']} of {whose}{times}"


def _fetch(args: argparse.Namespace, state: Path | None) -> bytes:
    from packager.trust import channel
    from packager.trust.verifier import read_file

    if not args.new.startswith(channel.SCHEME):
        return read_file(Path(args.new))
    if args.tuf_root is None or state is None:
        raise UsageError(
            "a TUF channel needs its first root and a memory", hint="give --tuf-root FILE, and no `--state none`"
        )
    return channel.fetch(args.new, read_file(args.tuf_root), state.parent / "tuf")


def _update(args: argparse.Namespace, now: datetime, console: Console) -> int:
    from packager.cli._trust import state_file
    from packager.trust import file as trustfile
    from packager.trust import seen
    from packager.trust.seen import Seen

    if args.new is None:
        raise UsageError("update needs the file that is to follow", hint="packager trust update FILE NEW")
    state = state_file(args)
    before = trustfile.remember(_read(args)) if args.file.exists() else None
    file = trustfile.parse(_fetch(args, state), args.new)
    known = seen.load(state, file.trust.name or "").file if state else None
    for former in (before, known):
        trustfile.accept(file, former, now)
    _save(args, file)
    if state:
        seen.remember(state, file.trust.name or "", Seen(trustfile.remember(file)))
    return _report(file, console, "accepted")
