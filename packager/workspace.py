# SPDX-License-Identifier: Apache-2.0
"""Where work is done: the local store, how registries are reached, and what the environment and the clock say.

`Workspace.default` is the only reader of the environment outside `cli/`, but for proxies and the home directory, which
are those of the process. Everything else is given a workspace, or parts of one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from packager.errors import UsageError
from packager.events import OnEvent, ignore

if TYPE_CHECKING:
    from packager.bundle.readers import Medium
    from packager.contract.runtime_tables import SiteTables
    from packager.store.store import Store
    from packager.transport.registry.wire import Settings


def utc_now() -> datetime:
    """Return the time now, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Workspace:
    """A local store and the settings that work on it needs.

    `directory` is that of the local store (None: `store` finds it), `jobs` how many steps or transfers run at the same
    time, `on_event` the callback that progress is reported to (`packager.events`), `variables` the environment that
    configures credentials, pip and MLflow. `knowledge` and `advisories` are the directories of imported tables.
    """

    directory: Path | None = None
    jobs: int = 1
    on_event: OnEvent = ignore
    variables: Mapping[str, str] = field(default_factory=dict)
    registry_ca: Path | None = None
    plain_http: bool = False
    clock: Callable[[], datetime] = utc_now

    @classmethod
    def default(cls, store: Path | None = None, *, jobs: int = 1, on_event: OnEvent = ignore) -> Workspace:
        """Return the workspace of this user, with the environment of this process. Nothing is opened or made."""
        return cls(store, jobs, on_event, dict(os.environ))

    @property
    def store(self) -> Path:
        """The directory of the local store: the given one, `$PACKAGER_STORE`, or one below the user's data directory.

        Raises UsageError where there is no home directory: only what needs a store needs one.
        """
        named = self.directory or self.variables.get("PACKAGER_STORE")
        return Path(named) if named else self._home("XDG_DATA_HOME", ".local/share") / "packager"

    @property
    def knowledge(self) -> Path:
        """The directory of newer tables of runtime knowledge (`packager runtimes update`)."""
        return self._data("PACKAGER_KNOWLEDGE", "knowledge")

    @property
    def advisories(self) -> Path:
        """The directory of imported advisories (`packager vulndb import`)."""
        return self._data("PACKAGER_ADVISORIES", "advisories")

    @property
    def knowledge_to_read(self) -> Path | None:
        """The directory of newer tables, None where there is no home directory to keep it in."""
        with contextlib.suppress(UsageError):
            return self.knowledge
        return None

    @property
    def tables(self) -> SiteTables:
        """What is known of runtimes here: what ships, and the newer tables of `knowledge`."""
        from packager.contract.runtime_tables import SiteTables

        return SiteTables(self.knowledge_to_read)

    @property
    def advisories_to_read(self) -> Path | None:
        """The directory of imported advisories, None where there is no home directory to keep it in."""
        with contextlib.suppress(UsageError):
            return self.advisories
        return None

    @property
    def served_environments(self) -> Path:
        """The directory of environments that installations share by hard links."""
        from packager.store import environments

        return self.store.absolute() / "v1" / environments.SERVED

    @property
    def seen(self) -> Path:
        """The file that remembers the newest versions verified with each trust file (rollback protection)."""
        named = self.variables.get("PACKAGER_STATE")
        return Path(named) if named else self._home("XDG_STATE_HOME", ".local/state") / "packager" / "seen.json"

    @property
    def caches(self) -> Path:
        """The directory of environments of runtimes under test, which can be made again."""
        return self._home("XDG_CACHE_HOME", ".cache") / "packager"

    def format_now(self) -> str:
        """Return the time now, as journals write it: RFC 3339 in whole seconds, UTC."""
        return f"{self.clock():%Y-%m-%dT%H:%M:%SZ}"

    def open_store(self) -> Store:
        """Open the local store and remove what interrupted work left in it."""
        from packager.store.store import Store

        store = Store(self.store)
        store.sweep()
        return store

    def open_remote(self, reference: str) -> Medium:
        """Return what `oci://…`, `s3://…` or another address names, for `open_bundle` to read. Raises SourceError."""
        if not reference.startswith("oci://"):
            from packager.transport.bucket import medium
            from packager.transport.bucket import reference as bucket_references

            return medium.open_reference(bucket_references.parse(reference))
        from packager.transport.registry import reference as references
        from packager.transport.registry.medium import RegistryBundle

        return RegistryBundle(references.parse(reference), self.registry_settings(), self.on_event)

    def registry_settings(self) -> Settings:
        """Return how registries are reached: credential files of Docker and Podman, proxies, authorities."""
        from packager.transport.registry.wire import Settings

        return Settings(
            credential_files=tuple(self._credential_files()),
            environment=self.variables,
            ca_file=self.registry_ca,
            plain_http=self.plain_http,
            proxy=_find_proxies(),
            sessions=self.store / "v1" / "uploads",
            jobs=self.jobs,
        )

    def _credential_files(self) -> Iterator[Path]:
        """Yield the files in which Podman and Docker keep credentials, the most explicit first."""
        if explicit := self.variables.get("REGISTRY_AUTH_FILE"):
            yield Path(explicit)
        if folder := self.variables.get("DOCKER_CONFIG"):
            yield Path(folder) / "config.json"
        if runtime := self.variables.get("XDG_RUNTIME_DIR"):
            yield Path(runtime) / "containers" / "auth.json"
        with contextlib.suppress(UsageError):  # without a home directory there are none
            yield self._home("XDG_CONFIG_HOME", ".config") / "containers" / "auth.json"
            yield self._home("", ".docker") / "config.json"

    def _data(self, variable: str, name: str) -> Path:
        named = self.variables.get(variable)
        return Path(named) if named else self._home("XDG_DATA_HOME", ".local/share") / "packager" / name

    def _home(self, variable: str, folder: str) -> Path:
        return under_home(self.variables, variable, folder)


def _find_proxies() -> Callable[[str, str], str | None]:
    """Return the proxy for a scheme and host, by the variables of this process (`http_proxy` and the like)."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return lambda scheme, host: None
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    return lambda scheme, host: None if proxy_bypass(host) else proxies.get(scheme)


def tables_of(workspace: Workspace | None) -> SiteTables:
    """Return what is known of runtimes in a workspace; without one, what ships."""
    from packager.contract.runtime_tables import SiteTables

    return workspace.tables if workspace else SiteTables(None)


def under_home(variables: Mapping[str, str], variable: str, folder: str) -> Path:
    """Return the directory that an environment variable names, else `folder` in the user's home directory."""
    if named := variables.get(variable):
        return Path(named)
    try:
        return Path.home() / folder
    except RuntimeError:
        raise UsageError(f"this user has no home directory for `{folder}`", hint="set HOME to one") from None
