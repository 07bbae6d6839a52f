# SPDX-License-Identifier: Apache-2.0
"""The SBOM of a bundle in the forms that it can be given in: CycloneDX as it is or newer, and SPDX derived from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from packager import canonical
from packager.bundle.bundle import SBOM, Bundle
from packager.canonical import JSON
from packager.errors import MalformedError, UsageError
from packager.formats import cyclonedx, spdx, spdx3
from packager.formats.spdx3 import UNKNOWN, Publication

Form: TypeAlias = Literal["cyclonedx", "spdx"]
NOTHING: Mapping[str, JSON] = MappingProxyType({})


VERSIONS = {"cyclonedx": cyclonedx.VERSIONS, "spdx": ("2.3", spdx3.VERSION)}
"""The versions of each form, the default first."""


def convert_sbom(
    bundle: Bundle,
    form: Form = "cyclonedx",
    version: str | None = None,
    published: Publication = UNKNOWN,
    measured: Mapping[str, JSON] = NOTHING,
) -> bytes:
    """Return the SBOM as canonical JSON: CycloneDX 1.6 or 1.7, or SPDX 2.3 or 3.0.1. Equal bundles give equal bytes.

    `published` stands in SPDX 3 only, `measured` is what each target reaches on rows with labels. Raises MalformedError
    for an SBOM of another form than this program writes, and UsageError for a version that the form does not have, or a
    time or place of another form.
    """
    chosen = version or VERSIONS[form][0]
    if chosen not in VERSIONS[form]:
        raise UsageError(
            f"`{form}` is not written in version {chosen:.20}", hint=f"choose {' or '.join(VERSIONS[form])}"
        )
    if published != UNKNOWN and chosen != spdx3.VERSION:
        raise UsageError("time and place of a release stand in SPDX 3 only", hint="--format spdx --spec 3.0.1")
    bom = bundle.load(SBOM)
    published.check()
    with sbom_errors():
        bom = cyclonedx.with_measured(bom, measured)
        if form == "cyclonedx":
            return canonical.dump(cyclonedx.as_version(bom, chosen))
        return spdx.convert(bom) if chosen != spdx3.VERSION else spdx3.convert(bom, published)


@contextlib.contextmanager
def sbom_errors() -> Iterator[None]:
    """Turn what reading an SBOM of another form runs into to a MalformedError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise MalformedError(
            f"`{SBOM}` is no SBOM as this program writes them: {type(error).__name__} {error}", subject=SBOM
        ) from None
