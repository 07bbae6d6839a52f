# SPDX-License-Identifier: Apache-2.0
"""Choose wheels for a platform: an operating system, a processor and a Python, written `linux_x86_64-cp311`.

`linux_<machine>` promises glibc 2.28, the minimum of today's wheels (RHEL 8, Debian 10 and later);
`manylinux_2_17_<machine>` means an older one. musl is refused: the runtimes have no wheels for it. Tags are those of
PEP 425 and PEP 600, most specific first.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from packaging.tags import Tag, compatible_tags, cpython_tags, sys_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from packager.errors import UsageError

PLATFORM = r"(linux|manylinux_2_[0-9]{2})_(x86_64|aarch64)-cp3[0-9]{2}"
_PARSED = re.compile(
    r"(?P<base>linux|manylinux_2_(?P<minor>[0-9]{2}))_(?P<machine>x86_64|aarch64)-cp3(?P<python>[0-9]{2})"
)
_GLIBC = 28  # minor version of glibc 2 that `linux` means
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}  # PEP 513 and 599 define none below
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # names before PEP 600
DEFAULT = ("linux_x86_64-cp311", "linux_x86_64-cp312", "linux_x86_64-cp313", "linux_x86_64-cp314")


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform with one CPython. `glibc` is the minor version of the oldest glibc 2 that it promises."""

    name: str
    machine: str
    glibc: int
    python: tuple[int, int]

    @property
    def python_version(self) -> str:
        return f"{self.python[0]}.{self.python[1]}"

    @property
    def marker(self) -> str:
        """The PEP 508 marker of this platform."""
        return (
            f'python_version == "{self.python_version}" and sys_platform == "linux" '
            f'and platform_machine == "{self.machine}"'
        )

    @property
    def systems(self) -> tuple[str, ...]:
        """The platform tags, newest glibc first."""
        return tuple(self._systems())

    def _systems(self) -> Iterator[str]:
        for minor in range(self.glibc, _OLDEST_GLIBC[self.machine] - 1, -1):
            yield f"manylinux_2_{minor}_{self.machine}"
            if minor in _LEGACY:
                yield f"{_LEGACY[minor]}_{self.machine}"
        yield f"linux_{self.machine}"

    def tags(self) -> tuple[Tag, ...]:
        """Return every wheel tag of this platform, the best first."""
        python = f"cp{self.python[0]}{self.python[1]}"
        return (
            *cpython_tags(self.python, abis=[python], platforms=self.systems),
            *compatible_tags(self.python, interpreter=python, platforms=self.systems),
        )

    def best(self, files: Collection[str]) -> str:
        """Return the wheel that an installer chooses here. Raises UsageError when none installs."""
        rank = {tag: index for index, tag in enumerate(self.tags())}
        found = [(min(rank[tag] for tag in tags), file) for file in files if (tags := wheel_tags(file) & rank.keys())]
        if not found:
            raise UsageError(f"none of {', '.join(f'`{file}`' for file in sorted(files))} installs on `{self.name}`")
        return min(found)[1]

    def environment(self) -> dict[str, str]:
        """Return the values of PEP 508 environment markers."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python_version}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python_version}.0",
            "python_version": self.python_version,
            "sys_platform": "linux",
            "extra": "",
        }


def parse(name: str) -> Platform:
    """Read `linux_x86_64-cp311`. Raises UsageError."""
    found = _PARSED.fullmatch(name)
    if found is None:
        musl = "musl" in name
        raise UsageError(
            f"`{name:.60}` is not a platform that can be locked"
            + (": the runtimes have no wheels for musl" if musl else ""),
            hint="write it as in `linux_x86_64-cp311`; `manylinux_2_17_x86_64-cp311` means an older glibc",
        )
    glibc = int(found["minor"] or _GLIBC)
    if glibc < _OLDEST_GLIBC["aarch64"]:
        raise UsageError(
            f"`{name}` names a glibc that no current wheel supports", hint="the oldest is `manylinux_2_17`"
        )
    return Platform(name, found["machine"], glibc, (3, int(found["python"])))


def name_host() -> str:
    """Return the name of this platform and Python, in the form `linux_x86_64-cp311`."""
    return f"{sys.platform}_{platform.machine()}-cp{sys.version_info.major}{sys.version_info.minor}"


def installs(files: Collection[str]) -> bool:
    """Return whether the running interpreter can install all of these wheels."""
    tags = set(sys_tags())
    return all(wheel_tags(file) & tags for file in files)


def wheel_tags(file: str) -> frozenset[Tag]:
    """Return the tags in a wheel's file name; none for another file."""
    try:
        return parse_wheel_filename(file)[3]
    except InvalidWheelFilename:
        return frozenset()
