# SPDX-License-Identifier: Apache-2.0
"""Versions are ordered as semver.org 2.0.0 says, by every part of the program that orders them."""

from __future__ import annotations

import itertools

import pytest

from packager import semver
from packager.bundle import changes
from packager.policy.language.moments import semver_compare

# The examples of §11.2, §11.3 and §11.4, and numbers that a comparison as text gets wrong.
ORDERED = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0-rc.9",
    "1.0.0-rc.10",
    "1.0.0",
    "2.0.0",
    "2.1.0",
    "2.1.1",
    "2.1.9",
    "2.1.10",
    "2.10.0",
    "10.0.0-0",
    "10.0.0-9",
    "10.0.0-10",
    "10.0.0--",
    "10.0.0-0a",
    "10.0.0-A",
    "10.0.0-a",
]
PAIRS = list(itertools.combinations(ORDERED, 2))


@pytest.mark.parametrize(("lower", "higher"), PAIRS)
def test_precedence_is_that_of_the_specification(lower: str, higher: str) -> None:
    assert semver.precedence_key(lower) < semver.precedence_key(higher)
    assert semver.in_range(lower, f"<{higher}")
    assert not semver.in_range(higher, f"<={lower}")
    assert (semver_compare(lower, higher), semver_compare(higher, lower)) == (-1, 1)
    assert changes.compare_versions(lower, higher) != "none"
    assert changes.compare_versions(higher, lower) == "none"


@pytest.mark.parametrize("version", ORDERED)
def test_build_metadata_is_ignored(version: str) -> None:
    """§10: versions that differ only in build metadata have the same precedence."""
    first, second = f"{version}+20130313144700", f"{version}+exp.sha.5114f85"
    assert semver.precedence_key(first) == semver.precedence_key(second) == semver.precedence_key(version)
    assert semver_compare(first, second) == 0
    assert changes.compare_versions(first, second) == changes.compare_versions(version, first) == "none"


@pytest.mark.parametrize("version", ORDERED)
@pytest.mark.parametrize("level", ["patch", "minor", "major"])
def test_next_version_is_higher(version: str, level: changes.Level) -> None:
    found = changes.next_version(version, level)
    assert semver.precedence_key(found) > semver.precedence_key(version)
    assert not semver.is_prerelease(found)


def test_next_version_after_a_prerelease_is_its_release() -> None:
    assert changes.next_version("1.0.0-rc.10", "patch") == "1.0.0"
    assert changes.next_version("1.0.0", "patch") == "1.0.1"


@pytest.mark.parametrize(
    "text",
    ["1", "1.2", "01.1.1", "1.01.1", "1.1.1-01", "1.1.1-", "1.1.1-a..b", "1.1.1+", "v1.1.1", "1.1.1 ", "1.1.1-ä", ""],
)
def test_malformed_versions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a semantic version"):
        semver.precedence_key(text)
    with pytest.raises(ValueError, match="is not a semantic version"):
        semver.is_prerelease(text)


def test_numbers() -> None:
    assert semver.read_numbers("10.20.30-rc.1+build") == (10, 20, 30)
    assert semver.is_prerelease("10.20.30-rc.1+build")
    assert not semver.is_prerelease("10.20.30+rc.1")
