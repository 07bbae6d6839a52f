# SPDX-License-Identifier: Apache-2.0
"""Check versions and targets in recipes, for every runtime: a valid range, and a target of the runtime."""

from __future__ import annotations

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from packager.errors import UsageError


def parse(runtime: str, specifier: str) -> SpecifierSet:
    """Return a range of versions. Raises UsageError for what is none."""
    try:
        return SpecifierSet(specifier)
    except InvalidSpecifier as error:
        raise UsageError(
            f"`{specifier:.80}` is not a version range", hint=f'write it as in `{runtime}: ">=1.17,<2"`'
        ) from error
