# SPDX-License-Identifier: Apache-2.0
"""Engines that resolve dependencies: one file each, all with the same interface.

An engine gets a request about one platform and returns one wheel for every distribution that is needed there. It
never builds anything: a distribution without a wheel is an answer "no". `EXTRA` is the extra that installs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

from packager import plugins
from packager.errors import SourceError
from packager.formats.index_addresses import redact_addresses
from packager.formats.platforms import Platform
from packager.formats.wheel_locks import Wheel

DEFAULT = "uv"


@dataclass(frozen=True, slots=True)
class ResolveRequest:
    """What to resolve: PEP 508 lines, exact versions to prefer (also lines), and the addresses of indexes beyond the
    default that may be recorded.
    """

    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolution:
    """The wheels of one platform, sorted, and the addresses that the index gave for them, which may open it.

    `yanked` maps pins that their publisher withdrew to the reason, empty if there is none.
    """

    wheels: tuple[Wheel, ...]
    files: tuple[str, ...] = field(repr=False)
    yanked: Mapping[str, str] = field(default_factory=dict)


class NoSolutionError(SourceError):
    """No set of wheels answers the request on this platform; `text` is the engine's own explanation."""

    def __init__(self, text: str) -> None:
        super().__init__("the requirements have no solution")
        self.text = redact_addresses(text)


class Locker(Protocol):
    """What a file in this folder provides."""

    @property
    def EXTRA(self) -> str:  # noqa: N802 - a module constant
        """The extra that installs what it needs."""

    def locks(self, platform: str) -> bool:
        """Say whether this engine, running here, can resolve for a platform."""

    def resolve(self, request: ResolveRequest, platform: Platform, environment: Mapping[str, str]) -> Resolution:
        """Return the wheels for `platform`. Network. Raises NoSolutionError, SourceError, UsageError.

        `environment` is the caller's, because it holds the addresses of indexes and what opens them.
        """


def load(name: str) -> Locker:
    """Return the engine of that name."""
    return cast(Locker, plugins.load("lockers", name))
