# SPDX-License-Identifier: Apache-2.0
"""Decide, offline, whether a bundle is whole and signed by a trusted key or identity.

BUNDLE may also be an unpacked tree, or an installation: then it is the release that serves. It may also be the address
of an image that `packager sign-image` signed: then it is said who signed that, the bundle that it was made of is
verified, and the source of the bundle named. With --policy a profile judges last, over the bundle and what trusted
signers state. Exit code 0: every check holds. 1: not signed, not by a trusted signer, revoked, too old, a required
statement is missing, or the policy says no; such a bundle is not remembered as seen. 5: bytes, names, modes or a
signature are not what was signed; the message names the place.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packager.cli import options
from packager.cli.console import Console

if TYPE_CHECKING:
    from packager.api import Bundle, Verdict, Verification
    from packager.api.signing import ImageVerification

FOR = "site"
HELP = "check integrity and signature, offline"
EXAMPLES = """  packager verify digits.bundle.tar --key release.pub
  packager verify digits.bundle.tar --trust acme.trust --json
  packager verify digits.bundle.tar --trust acme.trust --policy airgap
  packager verify /srv/digits --key release.pub
  packager verify published-model/ --oms model.sig --key publisher.pub
  packager verify digits/ --statements oci://registry.example.com/models/digits:1.4.0 --key cosign.pub
  packager verify oci://registry.example.com/serving/digits@sha256:… --trust acme.trust
  packager verify digits.bundle.tar --ca corp-root.pem --identity release@corp.example --tsa-ca tsa.pem
  packager verify digits.bundle.tar --issuer https://token.actions.githubusercontent.com \\
      --identity https://github.com/acme/models/.github/workflows/release.yml@refs/tags/v1"""


def arguments(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser)
    options.add_trust(parser)
    parser.add_argument(
        "--statements",
        metavar="BUNDLE",
        help="where manifest and statements are, if BUNDLE is a directory that another tool wrote (`oras pull`, an "
        "image volume): an address, a layout, a .bundle.tar, or a tar of the `.packager` of an unpacked one",
    )
    parser.add_argument(
        "--oms",
        nargs="?",
        const="",
        metavar="SIG",
        help="BUNDLE is any directory, and SIG a signature of its files in OpenSSF Model Signing's format "
        "(default: `model.sig` in it)",
    )
    parser.add_argument(
        "--made-of",
        metavar="BUNDLE",
        help="of an image: the bundle that it was made of (default: where the signed statement says)",
    )
    parser.add_argument("--policy", metavar="P", help="judge it too: the name of one of our profiles, or a .yaml file")


def main(args: argparse.Namespace, console: Console) -> int:
    from packager import api
    from packager.api import policies, signing
    from packager.cli._trust import verifier_of

    if args.oms is not None:
        return _oms(args, console)
    judge = verifier_of(args)
    profile = policies.read_profile(args.policy) if args.policy else None
    judged: list[Verdict] = []

    def passes(seen: Verification, bundle: Bundle) -> bool:
        if profile is not None:
            known = options.open_workspace(args).advisories_to_read
            judged.append(api.judge_bundle(bundle, profile, seen, advisories=known))
        return all(verdict.ok for verdict in judged)

    with console:
        opened = _opened_or_image(args, console)
        if opened is None:
            here = options.open_workspace(args, console)
            image = signing.verify_image(args.bundle, judge, here, made_of=args.made_of, passes=passes)
        else:
            verification = judge.verify(opened, console, passes=lambda seen: passes(seen, opened))
    verdict = judged[0] if judged else None
    return _say_image(image, verdict, console) if opened is None else _say(verification, verdict, console)


def _say_image(image: ImageVerification, judged: Verdict | None, console: Console) -> int:
    """Say of an image what was found, on top of what is said of its bundle."""
    name = f"{image.bundle.name}:{image.bundle.version}"
    rows = [f"ok    image      signed by {', '.join(who[:80] for who in image.signers)}"]
    rows.append(f"ok    made of    {name} {image.bundle.digest}, {image.part}, knobs {image.knobs}")
    rows += [
        f"ok    source     {row['source']}, {'signed by ' + row['signer'] if row['signer'] else 'no signer demanded'}"
        for row in image.sources
    ]
    return _say(image.bundle, judged, console, image, rows)


def _oms(args: argparse.Namespace, console: Console) -> int:
    """Verify a directory that carries a signature of its files. Raises why it does not hold."""
    from packager.api import trust
    from packager.cli._trust import verifier_of
    from packager.errors import UsageError

    if args.policy or args.statements:
        raise UsageError("--oms is about plain files", hint="--policy and --statements are about bundles")
    root = Path(args.bundle)
    with console:
        found = trust.verify_model_files(root, verifier_of(args), Path(args.oms) if args.oms else None)
    signed = found.attested
    value = {
        "ok": True,
        "directory": str(root),
        "signer": signed.signer,
        "identity": signed.identity,
        "time": f"{signed.time:%Y-%m-%dT%H:%M:%SZ}" if signed.time else None,
        "statement": found.digest,
    }
    console.result(value, [f"verified {root}: its files are those that {signed.identity} signed"])
    return 0


def _opened_or_image(args: argparse.Namespace, console: Console) -> Bundle | None:
    """Return the bundle, None where the address is that of an image."""
    from packager.errors import ContainerImageError

    if args.made_of:
        return None
    try:
        return _opened(args, console)
    except ContainerImageError:
        return None


def _opened(args: argparse.Namespace, console: Console) -> Bundle:
    if args.statements is None:
        return options.open_bundle(args, console)
    from packager.api import bundles

    return bundles.open_extracted(Path(args.bundle), args.statements, options.open_workspace(args, console))


def _say(
    verification: Verification,
    judged: Verdict | None,
    console: Console,
    image: ImageVerification | None = None,
    before: Sequence[str] = (),
) -> int:
    allowed = judged is None or judged.ok
    rows = [*before]
    rows += [f"{'ok  ' if check.ok else 'FAIL'}  {check.name:10} {check.detail}" for check in verification.checks]
    name = f"{verification.name}:{verification.version}"
    rows += [f"note  {note}" for note in verification.notes]
    value = image.to_json() if image else verification.to_json()
    if judged is not None:
        from packager.api import policies

        value |= {"ok": allowed, "policy": judged.to_json()}
        rows += policies.format_verdict(judged, name).split("\n")
    if verification.failure is None:
        word = "verified" if allowed else "refused by the policy:"
        what = f"{image.reference}, made of {name}" if image else f"{name} {verification.digest}"
        console.result(value, [*rows, f"{word} {what}"])
        return 0 if allowed else 1
    if console.json:
        console.result(value, "")
    else:
        console.rows(rows)
        console.fail(verification.failure)
    return verification.failure.code
