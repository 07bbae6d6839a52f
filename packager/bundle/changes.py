# SPDX-License-Identifier: Apache-2.0
"""What changed from one bundle to another, and the version step that changes ask for.

Below 1.0.0 the minor number takes the place of the major one, as Cargo reads semantic versioning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from packager import semver
from packager.canonical import JSON

Level: TypeAlias = Literal["none", "patch", "minor", "major"]
LEVELS: tuple[Level, ...] = ("none", "patch", "minor", "major")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: where, of what, in words, and the version step it needs at least."""

    area: str
    subject: str
    message: str
    level: Level

    def to_json(self) -> JSON:
        return {"area": self.area, "subject": self.subject, "message": self.message, "level": self.level}


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes from one bundle to another, and whether the step between their versions is large enough."""

    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def needed(self) -> Level:
        """The smallest step of versions that the changes allow."""
        return max((change.level for change in self.changes), key=LEVELS.index, default="none")

    @property
    def taken(self) -> Level:
        """The step between the versions that the bundles have."""
        return compare_versions(self.before, self.after)

    @property
    def ok(self) -> bool:
        """Whether the step taken is at least the one needed."""
        return LEVELS.index(self.taken) >= LEVELS.index(self.needed)

    @property
    def suggestion(self) -> str:
        """The lowest version that is a large enough step."""
        return next_version(self.before, self.needed)

    def to_json(self) -> JSON:
        return {
            "from": self.before,
            "to": self.after,
            "needed": self.needed,
            "taken": self.taken,
            "ok": self.ok,
            "suggestion": self.suggestion,
            "changes": [change.to_json() for change in self.changes],
        }


# versions


def compare_versions(before: str, after: str) -> Level:
    """Return how large the step between two semantic versions is; `none` for a step back or none at all."""
    if semver.precedence_key(after) <= semver.precedence_key(before):
        return "none"
    if semver.is_prerelease(before):
        return "major"  # a pre-release promises no stable interface
    old, new = semver.read_numbers(before), semver.read_numbers(after)
    position = next(index for index in range(3) if old[index] != new[index])
    leading = next((index for index in range(3) if old[index]), 2)  # 0.y.z: y is what breaks; 0.0.z: z is
    return LEVELS[3 - max(0, position - leading)]


def next_version(before: str, level: Level) -> str:
    """Return the lowest version that is a step of `level` from `before`."""
    major, minor, patch = semver.read_numbers(before)
    release = f"{major}.{minor}.{patch}"  # the next one only after a pre-release
    candidates = [before, release, f"{major}.{minor}.{patch + 1}", f"{major}.{minor + 1}.0", f"{major + 1}.0.0"]
    return next(v for v in candidates if LEVELS.index(compare_versions(before, v)) >= LEVELS.index(level))
