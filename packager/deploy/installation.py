# SPDX-License-Identifier: Apache-2.0
"""An installation on disk as one record: which release is current, its bundle, and what the site set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from packager.bundle.bundle import Bundle
from packager.bundle.knobs import KnobSources
from packager.deploy.install import CURRENT, KNOBS, find_current, installed_bundle, installed_wishes
from packager.knobs.knobs import Override, Resolved

_SERVER = Path("app", "packager", "server")
_SUPERVISED = (_SERVER / "process" / "supervisor.py", _SERVER / "supervisor.py")  # the latter before it had rooms


@dataclass(frozen=True, slots=True)
class Installation:
    """A directory of releases, and the release that was current when it was opened."""

    directory: Path
    release: Path

    @classmethod
    def open(cls, directory: Path) -> Installation:
        """Open what is current in `directory`. Raises UsageError where nothing is installed."""
        return cls(directory, find_current(directory))

    @property
    def link(self) -> Path:
        """The link that names the current release; it is switched in one step."""
        return self.directory / CURRENT

    @property
    def bundle(self) -> Bundle:
        """The bundle of the release. Raises IntegrityError."""
        return installed_bundle(self.release)

    @property
    def overrides(self) -> tuple[Override, ...]:
        """What the site set when it installed the release. Raises UsageError for a damaged record."""
        return installed_wishes(self.release)

    @property
    def knows_knobs(self) -> bool:
        """Whether the server of the release takes knobs: one from before there were knobs does not."""
        return (self.release / KNOBS).is_file()

    @property
    def is_supervised(self) -> bool:
        """Whether the server of the release can be one of several under a supervisor."""
        return any((self.release / path).is_file() for path in _SUPERVISED)

    def resolve_knobs(self, sources: KnobSources) -> Resolved:
        """Return every knob with its value: `sources` over what the site set. Raises UsageError."""
        return sources.resolve(self.bundle, before=self.overrides)


def is_installation(directory: Path) -> bool:
    """Return whether `directory` is what `install` makes."""
    return (directory / CURRENT).is_symlink()
