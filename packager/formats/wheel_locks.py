# SPDX-License-Identifier: Apache-2.0
"""Locked wheels, and their two forms for other tools: pip's requirements with hashes, and PEP 751.

A runtime has one set of wheels per platform, each wheel with the digest of the one file that installs there. Both forms
are derived from these sets; they contain no time, no tool and no host, so equal locks have equal bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from packager.canonical import JSON
from packager.formats import platforms
from packager.formats.index_addresses import has_credentials, is_address, redact_addresses


@dataclass(frozen=True, slots=True, order=True)
class Wheel:
    """One file that is installed. `name` is normalised (PEP 503), `sha256` hexadecimal.

    `url` is the file's public address, if the index states one: https, without credentials.
    """

    name: str
    version: str
    file: str
    sha256: str
    url: str | None = None

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version}"

    def to_json(self) -> JSON:
        return [self.name, self.version, self.file, self.sha256, self.url]


@dataclass(frozen=True, slots=True)
class DistributionMetadata:
    """A distribution's metadata: an SPDX licence expression or the text used instead, author, and requirements
    (PEP 508 lines).
    """

    license: str | None = None
    license_text: str | None = None
    author: str | None = None
    summary: str | None = None
    homepage: str | None = None
    requires: tuple[str, ...] = ()

    def to_json(self) -> JSON:
        value = {
            "license": self.license,
            "license-text": self.license_text,
            "author": self.author,
            "summary": self.summary,
            "homepage": self.homepage,
            "requires": list(self.requires) or None,
        }
        return {key: member for key, member in value.items() if member is not None}

    @staticmethod
    def from_json(value: JSON) -> DistributionMetadata:
        known = {key.replace("-", "_"): member for key, member in value.items()}
        return DistributionMetadata(**{**known, "requires": tuple(known.get("requires", ()))})


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The locked dependencies of a bundle.

    `requirements`: runtime to the PEP 508 lines its lock starts from; `wheels`: runtime to platform to wheels, sorted;
    `about`: pin to metadata; `indexes`: those besides the default that a wheel came from, by address where the recipe's
    own lock names them, by name where the environment does; `yanked`: pins that were yanked when they were locked, with
    the reason.
    """

    requirements: Mapping[str, tuple[str, ...]]
    wheels: Mapping[str, Mapping[str, tuple[Wheel, ...]]]
    about: Mapping[str, DistributionMetadata]
    indexes: tuple[str, ...] = ()
    yanked: Mapping[str, str] = field(default_factory=dict)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The indexes with an address; those with a name only are defined by the environment."""
        return tuple(index for index in self.indexes if is_address(index))

    def to_json(self) -> JSON:
        runtimes = {
            name: {
                "requirements": list(self.requirements[name]),
                "platforms": {key: [wheel.to_json() for wheel in wheels] for key, wheels in sets.items()},
            }
            for name, sets in self.wheels.items()
        }
        about = {pin: item.to_json() for pin, item in self.about.items()}
        yanked = {"yanked": dict(self.yanked)} if self.yanked else {}
        return {"runtimes": runtimes, "packages": about, "indexes": list(self.indexes), **yanked}

    @staticmethod
    def from_json(value: JSON) -> Dependencies:
        runtimes = value["runtimes"]
        return Dependencies(
            requirements={name: tuple(item["requirements"]) for name, item in runtimes.items()},
            wheels={
                name: {key: tuple(_checked(Wheel(*row)) for row in rows) for key, rows in item["platforms"].items()}
                for name, item in runtimes.items()
            },
            about={pin: DistributionMetadata.from_json(item) for pin, item in value["packages"].items()},
            indexes=tuple(_closed(index) for index in value["indexes"]),
            yanked={str(pin): str(reason) for pin, reason in value.get("yanked", {}).items()},
        )


def _closed(index: str) -> str:
    """Return an index that a bundle may name. Raises ValueError for credentials, without repeating them."""
    if has_credentials(index):
        raise ValueError(f"it contains credentials for the index {redact_addresses(index)}")
    return index


def _checked(wheel: Wheel) -> Wheel:
    """Return a wheel whose file name is valid, and no path. Raises ValueError."""
    if "/" in wheel.file or not platforms.wheel_tags(wheel.file):
        raise ValueError(f"`{wheel.file}` is not the name of a wheel")
    if not re.fullmatch(r"[0-9a-f]{64}", wheel.sha256):
        raise ValueError(f"`{wheel.file}` has a malformed hash")
    return wheel


INDEX = "requirements.txt"
PYLOCK = "pylock.toml"
_FURTHER = "# also needs the index "


def requirements_name(platform: str) -> str:
    """Return the name of the requirements file of one platform."""
    return f"requirements-{platform}.txt"


def write_lock_files(
    sets: Mapping[str, Sequence[Wheel]], indexes: Sequence[str], vendored: Collection[str]
) -> dict[str, str]:
    """Return the lock files of a runtime: one per platform, one for all of them, and that of PEP 751."""
    own = {requirements_name(platform): write_requirements(wheels, indexes) for platform, wheels in sets.items()}
    return {INDEX: merged_requirements(sets, indexes), PYLOCK: write_pylock(sets, indexes, vendored), **own}


def write_requirements(wheels: Sequence[Wheel], indexes: Sequence[str] = ()) -> str:
    """Return the pip-tools form for one platform: exact pins, one hash each."""
    return _heading(indexes) + "".join(f"{wheel.pin} \\\n    --hash=sha256:{wheel.sha256}\n" for wheel in wheels)


def merged_requirements(sets: Mapping[str, Sequence[Wheel]], indexes: Sequence[str] = ()) -> str:
    """Return one requirements file for all platforms, with markers where they differ."""
    rows = []
    for pin, locked in _by_pin(sets):
        marker = _marker(locked, sets)
        hashes = sorted({wheel.sha256 for _, wheel in locked})
        lines = [f"{pin} ; {marker}" if marker else pin, *(f"    --hash=sha256:{value}" for value in hashes)]
        rows.append(" \\\n".join(lines) + "\n")
    return _heading(indexes) + "".join(rows)


def _heading(indexes: Sequence[str]) -> str:
    return "".join(f"{_FURTHER}{index}\n" for index in indexes)


def further_indexes(text: str) -> list[str]:
    """Return the indexes in the heading of one of our requirements files."""
    return [row.removeprefix(_FURTHER) for row in text.splitlines() if row.startswith(_FURTHER)]


def _by_pin(sets: Mapping[str, Sequence[Wheel]]) -> Iterator[tuple[str, list[tuple[str, Wheel]]]]:
    """Yield every pin with its (platform, wheel) pairs, sorted."""
    rows = sorted(
        ((wheel.pin, key, wheel) for key, wheels in sets.items() for wheel in wheels), key=lambda row: row[:2]
    )
    for pin, group in groupby(rows, key=lambda row: row[0]):
        yield pin, [(key, wheel) for _, key, wheel in group]


def _marker(locked: Sequence[tuple[str, Wheel]], sets: Collection[str]) -> str | None:
    """Return the marker that restricts a pin to its platforms; None for all platforms."""
    if len(locked) == len(sets):
        return None
    markers = [platforms.parse(key).marker for key, _ in locked]
    return " or ".join(f"({marker})" for marker in markers) if len(markers) > 1 else markers[0]


def write_pylock(sets: Mapping[str, Sequence[Wheel]], indexes: Sequence[str], vendored: Collection[str]) -> str:
    """Return `pylock.toml` (PEP 751) for all platforms.

    A wheel has its public address; those in `vendored`, and those without one, are in `wheels/` beside the file.
    `tool.packager.platforms` lists the wheels of each platform.
    """
    oldest = min(platforms.parse(key).python for key in sets)
    environments = sorted(platforms.parse(key).marker for key in sets)
    rows = [
        'lock-version = "1.0"',
        f"environments = {_toml(environments)}",
        f'requires-python = ">={oldest[0]}.{oldest[1]}"',
        'created-by = "packager"',
    ]
    for _, locked in _by_pin(sets):
        rows += ["", "[[packages]]", *_package(locked, sets, indexes, vendored)]
    rows += ["", "[tool.packager.platforms]"]
    rows += [f"{key} = {_toml([wheel.file for wheel in wheels])}" for key, wheels in sorted(sets.items())]
    return "\n".join(rows) + "\n"


def _package(
    locked: Sequence[tuple[str, Wheel]], sets: Collection[str], indexes: Sequence[str], vendored: Collection[str]
) -> Iterator[str]:
    first, marker = locked[0][1], _marker(locked, sets)
    yield f"name = {_toml(first.name)}"
    yield f"version = {_toml(first.version)}"
    if marker:
        yield f"marker = {_toml(marker)}"
    addresses = [index for index in indexes if is_address(index)]
    if "+" in first.version and len(addresses) == 1:
        yield f"index = {_toml(addresses[0])}"
    yield "wheels = ["
    for wheel in sorted({wheel for _, wheel in locked}):
        local = wheel.url is None or wheel.file in vendored
        location = f"path = {_toml('wheels/' + wheel.file)}" if local else f"url = {_toml(wheel.url)}"
        yield f"  {{ name = {_toml(wheel.file)}, {location}, hashes = {{ sha256 = {_toml(wheel.sha256)} }} }},"
    yield "]"


def _toml(value: JSON) -> str:
    """Write a string, or a list of them; JSON's escapes are TOML's."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=True)
