# SPDX-License-Identifier: Apache-2.0
"""Edit the content of a trust file: JSON in, JSON out. The result is parsed before it is signed.

Every change raises the serial by one, so an older file is never accepted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from packager.canonical import JSON
from packager.errors import UsageError, did_you_mean
from packager.trust.keys import PublicKey

Content = dict[str, JSON]


def new_content(name: str, roots: Sequence[PublicKey], threshold: int, expires: datetime) -> Content:
    """Return the content of a first trust file, without signers."""
    return {
        "format": 1,
        "name": name,
        "serial": 1,
        "expires": format_time(expires),
        "roots": {"keys": [key.pem.decode() for key in roots], "threshold": threshold},
        "signers": {},
    }


def format_time(at: datetime) -> str:
    """Write a time in the only form that trust files have."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def next_serial(content: Mapping[str, JSON], now: datetime, days: int | None) -> Content:
    """Return the content for the next serial; with `days` it expires that many days from `now`."""
    changed = {**content, "serial": content["serial"] + 1}
    if days is not None:
        changed["expires"] = format_time(now + timedelta(days=days))
    return changed


def with_signer(content: Content, name: str, entry: Mapping[str, JSON]) -> Content:
    """Return the content with one more entry for a signer. Raises UsageError for one that it already has."""
    there = entries_of(content["signers"].get(name, []))
    if dict(entry) in there:
        raise UsageError(f"signer `{name}` is there already, with that time", hint="change --from or --until")
    listed = [*there, dict(entry)]
    return {**content, "signers": {**content["signers"], name: listed if there else listed[0]}}


def entries_of(value: JSON) -> list[JSON]:
    """Return the entries of a signer as a list; a single one is written without a list."""
    return list(value) if isinstance(value, list) else [value]


def without_signer(content: Content, name: str, key: PublicKey | None = None) -> Content:
    """Return the content without a signer, also in requirements; with `key`, only without that key.

    Raises UsageError when there is none.
    """
    if name not in content["signers"]:
        raise UsageError(f"there is no signer `{name}`", hint=did_you_mean(name, content["signers"]))
    if key is not None:
        there = entries_of(content["signers"][name])
        kept = [entry for entry in there if entry.get("key") != key.pem.decode()]
        if len(kept) == len(there):
            raise UsageError(f"signer `{name}` has no such key", hint="`packager trust show` lists what it has")
        if kept:
            value = kept[0] if len(kept) == 1 else kept
            return {**content, "signers": {**content["signers"], name: value}}
    left = {key: value for key, value in content["signers"].items() if key != name}
    required = [_without(entry, name) for entry in content.get("require", [])]
    return {**content, "signers": left, **({"require": required} if required else {})}


def _without(entry: Mapping[str, JSON], name: str) -> Content:
    if "signers" not in entry:
        return dict(entry)
    left = [signer for signer in entry["signers"] if signer != name]
    if not left:  # an empty list would mean "anyone"
        raise UsageError(
            f"`{name}` is the only allowed signer of `{entry['predicateType']}`", hint="remove that requirement first"
        )
    return {**entry, "signers": left}


def with_requirement(content: Content, entry: Mapping[str, JSON]) -> Content:
    """Return the content with a requirement; it replaces the one of the same predicate type."""
    others = [row for row in content.get("require", []) if row["predicateType"] != entry["predicateType"]]
    return {**content, "require": [*others, dict(entry)]}


def with_members(content: Content, field: str, members: Iterable[str]) -> Content:
    """Return the content with more members in a list at its top, without repeating any."""
    present = content.get(field, [])
    return {**content, field: [*present, *(item for item in members if item not in present)]}


def with_entry(content: Content, field: str, name: str, value: JSON) -> Content:
    """Return the content with one more entry in a table at its top."""
    return {**content, field: {**content.get(field, {}), name: value}}


def with_revocation(content: Content, kind: str, value: str) -> Content:
    """Return the content with one more revocation, which is permanent."""
    return {**content, "revoked": with_members(content.get("revoked", {}), kind, [value])}


def with_revoked_versions(content: Content, name: str, text: str) -> Content:
    """Return the content with a range of versions of a bundle revoked. Raises UsageError if another one is."""
    revoked = content.get("revoked", {})
    present = revoked.get("versions", {}).get(name)
    if present not in (None, text):
        raise UsageError(f"`{name}` has the revoked range `{present}` already", hint="there is one range for each name")
    return {**content, "revoked": with_entry(revoked, "versions", name, text)}


def with_roots(
    content: Content, add: Sequence[PublicKey], remove: Sequence[PublicKey], threshold: int | None
) -> Content:
    """Return the content with other root keys; the former ones must still sign it."""
    gone = {key.pem.decode() for key in remove}
    keys = [pem for pem in content["roots"]["keys"] if pem not in gone]
    keys += [key.pem.decode() for key in add if key.pem.decode() not in keys]
    return {**content, "roots": {"keys": keys, "threshold": threshold or content["roots"]["threshold"]}}
