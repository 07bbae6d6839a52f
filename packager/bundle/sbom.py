# SPDX-License-Identifier: Apache-2.0
"""The SBOM of a bundle in the forms that it can be given in: CycloneDX as it is or newer, and SPDX derived from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, TypeAlias

from packager import canonical
from packager.bundle.bundle import SBOM, Bundle
from packager.errors import MalformedError
from packager.formats import cyclonedx, spdx

Form: TypeAlias = Literal["cyclonedx", "spdx"]


def convert_sbom(bundle: Bundle, form: Form = "cyclonedx", version: str = "1.6") -> bytes:
    """Return the SBOM as canonical JSON: CycloneDX 1.6 or 1.7, or SPDX 2.3. Equal bundles give equal bytes.

    Raises MalformedError for an SBOM of another form than this program writes.
    """
    bom = bundle.load(SBOM)
    with sbom_errors():
        wanted = cyclonedx.as_version(bom, version)
        return spdx.convert(bom) if form == "spdx" else canonical.dump(wanted)


@contextlib.contextmanager
def sbom_errors() -> Iterator[None]:
    """Turn what reading an SBOM of another form runs into to a MalformedError."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise MalformedError(
            f"`{SBOM}` is no SBOM as this program writes them: {type(error).__name__} {error}", subject=SBOM
        ) from None
