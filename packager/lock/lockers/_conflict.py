# SPDX-License-Identifier: Apache-2.0
"""Explain in one sentence why requirements cannot be installed: which two of them contradict each other.

Resolvers explain themselves at length and each in its own words. What they name (a distribution depends on a range) is
read from their text; the requested ones are known. The first two claims on one distribution that no version can satisfy
both are the conflict.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True, slots=True)
class Claim:
    """One requirement: a range of versions of a distribution. `origin` is fit for a message."""

    requirement: Requirement
    origin: str
    ours: bool = False

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def text(self) -> str:
        return f"`{self.requirement.name}{self.requirement.specifier}` from {self.origin}"


def own_requirements(lines: Iterable[str], origin: str) -> list[Claim]:
    """Return the requirements of this program."""
    return [Claim(Requirement(line), origin, ours=True) for line in lines]


def find(claims: Sequence[Claim]) -> tuple[Claim, Claim] | None:
    """Return two claims that contradict each other, preferring one of ours against another's."""
    by_name: dict[str, list[Claim]] = {}
    for claim in claims:
        by_name.setdefault(claim.name, []).append(claim)
    pairs = (
        (one, other)
        for rivals in by_name.values()
        for one, other in itertools.combinations(rivals, 2)
        if are_disjoint(one.requirement.specifier, other.requirement.specifier)
    )
    return min(pairs, key=lambda pair: -sum(claim.ours for claim in pair), default=None)


def are_disjoint(one: SpecifierSet, other: SpecifierSet) -> bool:
    """Say whether no version can satisfy both: none at, just below or just above the versions that they name."""
    named = [text.removesuffix(".*") for specifier in (*one, *other) for text in [specifier.version]]
    both = SpecifierSet(f"{one},{other}".strip(","))
    return bool(named) and not any(
        both.contains(version, prereleases=True) for text in named for version in _around(text)
    )


def _around(text: str) -> Iterator[Version]:
    try:
        version = Version(text)
    except InvalidVersion:
        return
    yield version
    yield Version(f"{version.public}.post9999") if not (version.is_postrelease or version.is_devrelease) else version
    release = [*version.release, 0, 0][: max(3, len(version.release))]
    yield Version(".".join(map(str, [*release, 1])))
    for position in range(len(release)):
        up = [*release[:position], release[position] + 1, *([0] * (len(release) - position - 1))]
        yield Version(".".join(map(str, up)))
        if release[position]:
            down = [*release[:position], release[position] - 1, *([9999] * (len(release) - position - 1))]
            yield Version(".".join(map(str, down)))


def claims_in(text: str, known: Sequence[Claim]) -> list[Claim]:
    """Return what an engine's explanation says that others want; what repeats a claim of ours is left out."""
    own = {(claim.name, claim.requirement.specifier) for claim in known}
    found = [claim for claim in (*_uv(text), *_pip(text)) if (claim.name, claim.requirement.specifier) not in own]
    return list({(claim.name, str(claim.requirement.specifier), claim.origin): claim for claim in found}.values())


def _uv(text: str) -> Iterator[Claim]:
    """Read "Because onnxruntime==1.17.3 depends on numpy>=1.21.6,<2 and …"."""
    plain = re.sub(r"\{[^}]*\}", "", re.sub(r"\s+", " ", text))
    for origin, wanted in re.findall(r"(\S+) depends on (\S+)", plain):
        try:
            yield Claim(Requirement(wanted.rstrip(",.")), origin.replace("==", " "))
        except InvalidRequirement:
            continue


def _pip(text: str) -> Iterator[Claim]:
    """Read "RequirementInformation(requirement=SpecifierRequirement('numpy<2'), parent=LinkCandidate('…whl…'))"."""
    pattern = r"SpecifierRequirement\('([^']+)'\), parent=LinkCandidate\('[^']*/([^/'#]+\.whl)"
    for wanted, file in re.findall(pattern, text):
        try:
            name, version, *_ = parse_wheel_filename(file)
            yield Claim(Requirement(wanted), f"{name} {version}")
        except (InvalidRequirement, InvalidWheelFilename):
            continue
