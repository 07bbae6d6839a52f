# SPDX-License-Identifier: Apache-2.0
"""A recipe on disk with its lock beside it: what locking and building have in common."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from packager import plugins, sources
from packager.actions.runner import Runner
from packager.bundle import version_step
from packager.bundle.bundle import SBOM
from packager.contract.runtime_tables import Tables, load_shipped
from packager.errors import LockError, PackagerError, UsageError
from packager.events import Note, OnEvent, ignore
from packager.formats import cyclonedx, platforms
from packager.lock import lock as locks
from packager.lock import lockers, locking
from packager.lock.build_context import BuildContext
from packager.lock.lock import Lock
from packager.recipe import recipe
from packager.recipe.recipe import Recipe
from packager.sandbox import sandbox
from packager.store.file_digests import Memo

if TYPE_CHECKING:
    from packager.store.store import Store
    from packager.transport.registry.wire import Settings

_SOON = 5  # seconds a registry has to resolve a name again


@dataclass(frozen=True)
class Project:
    """Everything that work on one recipe needs."""

    recipe: Recipe
    lock_file: Path
    here: BuildContext
    runner: Runner
    memo: Memo
    clock: Callable[[], datetime.datetime]

    @staticmethod
    def open(
        path: Path,
        open_store: Callable[[], Store],
        *,
        variables: Mapping[str, str],
        registries: Callable[[], Settings],
        clock: Callable[[], datetime.datetime],
        jobs: int = 1,
        on_event: OnEvent = ignore,
        tables: Tables = load_shipped,
    ) -> Project:
        """Parse the recipe at `path`, then open the store. Raises UsageError."""
        parsed = load_recipe(path)
        store = open_store()
        runner = Runner(store, _limits(parsed), on_event, jobs, confined=parsed.sandbox != "none")
        base, tracking = path.absolute().parent, variables.get("MLFLOW_TRACKING_URI")
        context = BuildContext(base, tracking, dict(variables), registries, clock().date(), clock=clock, tables=tables)
        return Project(parsed, path.with_suffix(".lock"), context, runner, Memo(store.root / "memo"), clock)

    @property
    def policy(self) -> str:
        """The profile that the recipe names: one that ships, or a file beside it."""
        return self.recipe.policy

    @property
    def today(self) -> datetime.date | None:
        """The day that waivers and advisories are judged for."""
        return self.here.today

    @property
    def executed(self) -> int:
        """How many steps ran so far, rather than being known."""
        return self.runner.executed

    def vendoring(self, names: Sequence[str]) -> Project:
        """Return the same project with a recipe that carries the wheels of more platforms."""
        for name in names:
            platforms.parse(name)
        return replace(self, recipe=replace(self.recipe, vendor=tuple(sorted({*self.recipe.vendor, *names}))))

    def make_lock(self, engine: str = lockers.DEFAULT) -> Lock:
        """Resolve and write the lock."""
        lock = locking.resolve(self.recipe, self.runner, self.here, self.memo, engine)
        lock.save(self.lock_file)
        return lock

    def read_lock(self) -> Lock:
        """Return the lock on disk. Raises LockError where there is none, or one of another recipe or source."""
        lock = locks.load(self.lock_file)
        if lock is None:
            raise LockError(f"there is no lock `{self.lock_file}`", hint="make it with `packager lock`")
        locking.check_fresh(self.recipe, lock, self.here, self.memo)
        return lock

    def current_lock(self, *, locked: bool) -> Lock:
        """Return a lock that fits the recipe: the one on disk, or, unless `locked`, a new one."""
        try:
            return self.read_lock()
        except LockError as stale:
            if locked:
                raise
            self.runner.on_event(Note(f"locking anew: {stale.message}"))
            return self.make_lock()


def load_recipe(path: Path) -> Recipe:
    """Read and parse a recipe. Raises UsageError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read recipe `{path}`: {error.strerror}", hint="write one with `packager init SOURCE`"
        ) from None
    return recipe.parse(data, str(path), plugins.list_names("runtimes"))


def explain_unmoved_source(project: Project, lock: Lock, *, asking: bool) -> str | None:
    """Return a sentence if a new version holds exactly the model of the previous release, else None.

    With `asking` the recipe's source is resolved again: an alias that moved is the likely reason. A registry that does
    not answer is no error.
    """
    recipe, here = project.recipe, project.here
    before = version_step.release_before(recipe, project.runner.store, here.base)
    if before is None or before.version == recipe.version or before.tree.get(SBOM) is None:
        return None
    origin = cyclonedx.read_origin(before.load(SBOM))
    if origin is None or origin[1] != lock.tree.digest:
        return None
    pinned = str(lock.source["uri"])
    held = f"{recipe.name}:{recipe.version} holds the model of {before.version}, `{pinned}`, which the lock pins"
    if sources.local_path(recipe.source, here.base) is not None or recipe.source == pinned:
        return held
    named = sources.redact_address(recipe.source)
    if asking:
        try:
            settings = replace(here.settings(recipe, project.memo), timeout=_SOON)
            now = sources.load_for(recipe.source).resolve(recipe.source, settings)
        except PackagerError as error:
            return f"{held}; what `{named}` means now is unknown: {error.message}"
        if now.uri != pinned:
            return f"{held}; `{named}` means `{now.uri}` now: run `packager lock` and build again to take it"
        return held
    return f"{held}; `packager lock` would take what `{named}` means now"


def _limits(parsed: Recipe) -> sandbox.Limits:
    memory = parsed.limits.memory or sandbox.default_limits().memory
    return sandbox.Limits(memory, parsed.limits.minutes * 60)
