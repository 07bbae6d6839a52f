# SPDX-License-Identifier: Apache-2.0
"""Sign a bundle: state what it is, state its files in the form that strangers' tools verify, or state anything else."""

from __future__ import annotations

import re
from pathlib import Path

from packager import canonical
from packager.bundle import single_file
from packager.bundle.bundle import DRAFT, Bundle
from packager.bundle.readers import LayoutDirectory, StoredBundle, UnpackedTree
from packager.canonical import JSON
from packager.errors import MalformedError, UsageError
from packager.events import Note, OnEvent, ignore
from packager.formats import dsse, reference_outputs
from packager.formats.intoto import (
    BUNDLE_PREDICATE,
    MODEL_SIGNING_PREDICATE,
    Statement,
    bundle_statement,
    model_signing_statement,
)
from packager.transport import copy
from packager.trust import verify
from packager.trust.attach import with_signed
from packager.trust.signers import Repeating, Signer

_SHORTEST = 8  # characters of a fingerprint that may stand for it
_URI = re.compile(r"[a-z][a-z0-9+.-]*:[\x21-\x7e]{1,1000}")
MAX_PREDICATE = dsse.MAX_BUNDLE // 2  # bytes of a draft or a file
MAX_STATED = 700_000  # bytes of a payload, which base64 and a certificate make a third larger


def sign(bundle: Bundle, signer: Signer) -> Bundle:
    """Return `bundle` with signed statements attached: two, and what its build left to be signed.

    One binds name, version, files and manifest digest and is what `verify` asks for; the other is an OpenSSF Model
    Signing statement over the same files, so that `model_signing verify` accepts the unpacked bundle. In the store
    where it was built, a bundle also has provenance, its SBOM and reference outputs (`read_drafts`). Signing again what
    the same signer signed adds nothing.
    """
    bundle = _attach(bundle, bundle_statement(bundle.name, bundle.version, bundle.digest, bundle.tree), signer)
    files = model_signing_statement(bundle.name, bundle.version, bundle.tree)
    if len(files.to_bytes()) <= MAX_STATED:  # some 5000 files; `verify` does not need it
        bundle = _attach(bundle, files, signer)
    for kind, predicate in read_drafts(bundle).items():
        if kind == reference_outputs.PREDICATE:
            predicate, contents = reference_outputs.detach_outputs(predicate)
            for content in contents.values():
                bundle = bundle.with_evidence(content)
        bundle = attest(bundle, kind, predicate, signer)
    return bundle.only(lambda referrer: referrer.artifact_type != DRAFT)


def sign_into(
    bundle: Bundle, signer: Signer, output: Path | None = None, *, alone: bool = False, on_event: OnEvent = ignore
) -> Bundle:
    """Sign `bundle` and write that where it is, or to `output`; return it, opened again.

    With `alone` the output carries only what is signed now; a store or registry gets that beside what it has. Without
    it a note says whose statements the output carries besides.
    """
    signed = sign(bundle, signer)
    if output is None:
        return copy.attach(signed, on_event=on_event)
    if not alone:
        if others := _list_others(signed):
            listed = ", ".join(f"`{claim:.64}`" for claim in others[:5])
            on_event(Note(f"`{output}` also carries what {listed} signed; --alone leaves that out"))
        return copy.attach(signed, output, on_event)
    carried = signed.only(lambda referrer: referrer.content.digest in signed.pending)
    if copy.is_in_files(signed):
        return copy.attach(carried, output, on_event)
    kept = copy.attach(signed, on_event=on_event)
    copy.save(carried, output, on_event)
    return kept


def _list_others(signed: Bundle) -> list[str]:
    """Return who claims to have signed what is attached, but for the signer of what is in memory."""
    claims = [*verify.list_statements(signed)]
    ours = {claim for digest, claim, _ in claims if digest in signed.pending}
    return sorted({claim for _, claim, _ in claims} - ours)


def remove_signatures(bundle: Bundle, who: str, on_event: OnEvent = ignore) -> Bundle:
    """Take what `who` signed off `bundle`, as `without`, where it is. Raises UsageError, also for a registry."""
    left = remove_signer(bundle, who)
    copy.drop_referrers(left, on_event)
    return left


def check_vouched(bundle: Bundle, reference: str) -> None:
    """Raise UsageError where `reference` is a name of the local store that it neither built nor verified.

    Who signs a name signs the bytes that it means at this moment; a digest means itself.
    """
    medium = bundle.medium
    if isinstance(medium, StoredBundle) and medium.entry.origin is None and reference != bundle.digest:
        raise UsageError(
            f"`{reference}` was neither built nor verified by this store, so its name vouches for nothing",
            hint=f"look at it with `packager inspect`, then name what you mean: {bundle.digest}",
        )


def read_drafts(bundle: Bundle) -> dict[str, JSON]:
    """Return the predicates that the build of `bundle` left to be signed, by type; none if it was built elsewhere.

    A file or directory may carry them (`with_drafts`). What is attached in a registry, or came into the store from
    elsewhere, may be of any author, so it is not signed.
    """
    medium = bundle.medium
    if isinstance(medium, StoredBundle):
        left = {kind: medium.store.get(digest) for kind, digest in medium.entry.drafts.items()}
    elif isinstance(medium, single_file.Archive | LayoutDirectory | UnpackedTree):
        left = bundle.drafts()
    else:
        return {}
    try:
        return {kind: canonical.load(left[kind], limit=MAX_PREDICATE) for kind in sorted(left)}
    except ValueError as error:
        raise MalformedError(
            f"what is to be signed of `{medium.label}` is not acceptable JSON: {error}", subject=medium.label
        ) from None


def with_drafts(bundle: Bundle) -> Bundle:
    """Return `bundle` with what its build left attached, for a file that is signed elsewhere.

    Raises UsageError if there is nothing.
    """
    left = read_drafts(bundle)
    if not left:
        raise UsageError(
            f"nothing of `{bundle.name}:{bundle.version}` is left to be signed",
            hint="only the store that built it has that; name it there, as NAME:VERSION",
        )
    for kind, predicate in left.items():
        bundle = bundle.with_draft(canonical.dump(predicate), kind)
    return bundle


def remove_signer(bundle: Bundle, who: str) -> Bundle:
    """Return `bundle` without what `who` signed: a name in a certificate, or the beginning of a key's fingerprint.

    Raises UsageError unless that is exactly one.
    """
    said = {digest: claim for digest, claim, _ in verify.list_statements(bundle)}
    claims = sorted({*said.values()})
    found = [claim for claim in claims if claim == who or _is_key(claim, who)]
    if len(found) != 1:
        raise UsageError(
            f"expected one signer `{who:.200}`, got {len(found)}",
            hint=f"signed by {', '.join(f'`{claim:.200}`' for claim in claims)}" if claims else "it has no signature",
        )
    return bundle.only(lambda referrer: said.get(referrer.content.digest) != found[0])


def attest(bundle: Bundle, predicate_type: str, predicate: JSON, signer: Signer) -> Bundle:
    """Return `bundle` with one more signed statement about its manifest. Raises UsageError for a type of our own."""
    if not _URI.fullmatch(predicate_type):
        raise UsageError(f"`{predicate_type:.80}` is no predicate type", hint="expected a URI, as in-toto defines them")
    if predicate_type in (BUNDLE_PREDICATE, MODEL_SIGNING_PREDICATE):
        raise UsageError(f"`{predicate_type}` is what `packager sign` states", hint="use `packager sign`")
    subject = bundle.digest.removeprefix("sha256:")
    return _attach(bundle, Statement(predicate_type, f"{bundle.name}:{bundle.version}", subject, predicate), signer)


def _attach(bundle: Bundle, statement: Statement, signer: Signer) -> Bundle:
    signed = signer.sign(statement.to_bytes())
    if isinstance(signer, Repeating):
        for digest, old in verify.split_readable(bundle)[0].items():
            if old.payload == signed.payload and signer.repeats(old, signed):
                return with_signed(bundle, signed, statement.predicate_type, bundle.record_bytes(digest))
    return with_signed(bundle, signed, statement.predicate_type)


def _is_key(claim: str, who: str) -> bool:
    """Tell whether a claim is that of a key, which shows the beginning of its fingerprint, and `who` begins it too."""
    kind, _, shown = claim.partition(" ")
    return kind == "key" and len(who) >= _SHORTEST and (shown.startswith(who) or who.startswith(shown))


def read_predicate(path: Path) -> JSON:
    """Read the JSON object of a predicate strictly. Raises UsageError."""
    try:
        with path.open("rb") as file:
            value = canonical.load(file.read(MAX_PREDICATE + 1), limit=MAX_PREDICATE)
    except OSError as error:
        raise UsageError(f"cannot read `{path}`: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"`{path}` is not acceptable JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"`{path}` holds no JSON object", hint="a predicate is an object; its type is given by --type")
    return value
