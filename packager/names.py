# SPDX-License-Identifier: Apache-2.0
"""Check names and versions of bundles, by one grammar wherever they enter, so that neither is ever a path.

A name is a path component of an OCI repository, so that a bundle can be pushed under its own name; a version is
semantic (semver.org), whole, with its pre-release and build labels.
"""

from __future__ import annotations

import re

from packager.errors import MalformedError, UsageError, WrongSubjectError
from packager.semver import MAX_LENGTH, SEMVER

NAME = r"[a-z0-9]+(([._]|-+)[a-z0-9]+)*"
MAX_NAME = 63  # a label of DNS, which is what a Kubernetes object may be called


def is_name(text: object) -> bool:
    """Return whether `text` can be the name of a bundle."""
    return isinstance(text, str) and len(text) <= MAX_NAME and re.fullmatch(NAME, text) is not None


def is_version(text: object) -> bool:
    """Return whether `text` can be the version of a bundle."""
    return isinstance(text, str) and len(text) <= MAX_LENGTH and re.fullmatch(SEMVER, text) is not None


def check(name: object, version: object, *, subject: str) -> tuple[str, str]:
    """Return name and version of an untrusted record, checked. Raises MalformedError about `subject`."""
    if not isinstance(name, str) or not is_name(name):
        raise MalformedError(
            f"`{subject}` has a name that bundles may not have: {name!r:.100}",
            subject=subject,
            hint="expected lower-case letters and digits, joined by single `.`, `_` or `-`",
        )
    if not isinstance(version, str) or not is_version(version):
        raise MalformedError(
            f"`{subject}` has a version that bundles may not have: {version!r:.100}",
            subject=subject,
            hint="expected a semantic version such as `1.4.0`",
        )
    return name, version


def parse(reference: str) -> tuple[str, str]:
    """Read `name:version` from the command line. Raises UsageError."""
    name, _, version = reference.partition(":")
    if not is_name(name) or not is_version(version):
        raise UsageError(
            f"`{reference:.200}` names no bundle of the local store",
            hint="expected NAME:VERSION such as `digits:1.4.0`, or the digest sha256:…",
        )
    return name, version


def tag_of(version: str) -> str:
    """Return the tag for a semantic version; `+` is not allowed in tags and becomes `_`, as Helm does."""
    return version.replace("+", "_")


def check_called(reference: str, name: str, version: str) -> None:
    """Raise WrongSubjectError if the bundle at `…/NAME:TAG` states another name or version.

    A tag that is a version must be the bundle's; any other tag (`stable`) may name any version. A digest is exact: then
    names are not compared.
    """
    if re.search(r"(^|@)sha256:[0-9a-f]{64}$", reference):
        return
    called, _, tag = reference.rpartition("/")[2].partition(":")
    is_of_a_version = is_version(tag.replace("_", "+", 1)) or is_version(tag)
    if called != name or (is_of_a_version and tag not in (version, tag_of(version))):
        raise WrongSubjectError(
            f"`{reference:.200}` holds a bundle that calls itself `{name}:{version}`",
            subject=reference,
            hint="to use that bundle nevertheless, name it by its digest: …@sha256:…",
        )
