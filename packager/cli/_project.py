# SPDX-License-Identifier: Apache-2.0
"""A recipe on disk with its lock beside it: what `lock` and `build` have in common."""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packager import plugins, sources
from packager.actions.runner import Runner
from packager.bundle import diff
from packager.bundle.bundle import SBOM
from packager.cli import _fixes, options
from packager.contract import knowledge
from packager.errors import LockError, PackagerError, UsageError
from packager.events import Note, OnEvent
from packager.formats import cyclonedx, platforms
from packager.lock import lock as locks
from packager.lock import lockers, locking
from packager.lock.lock import Lock
from packager.lock.locking import BuildContext
from packager.recipe import recipe
from packager.recipe.recipe import Recipe
from packager.sandbox import sandbox
from packager.store.file_digests import Memo


@dataclass(frozen=True)
class Project:
    """Everything a command needs to work on one recipe."""

    recipe: Recipe
    lock_file: Path
    here: BuildContext
    runner: Runner
    memo: Memo

    @staticmethod
    def open(args: argparse.Namespace, on_event: OnEvent) -> Project:
        """Parse the recipe and open the store."""
        path = _fixes.recipe_of(args)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read recipe `{path}`: {error.strerror}", hint="write one with `packager init SOURCE`"
            ) from None
        parsed = recipe.parse(data, str(path), plugins.names("runtimes"))
        knowledge.use_updates(options.knowledge_directory())
        store = options.open_store(args)
        runner = Runner(store, _limits(parsed), on_event, args.jobs, confined=parsed.sandbox != "none")
        here = BuildContext(
            path.absolute().parent,
            os.environ.get("MLFLOW_TRACKING_URI"),
            dict(os.environ),
            lambda: options.registry_settings(args),
            datetime.datetime.now(datetime.UTC).date(),
        )
        return Project(parsed, path.with_suffix(".lock"), here, runner, Memo(store.root / "memo"))

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

    def current_lock(self, *, locked: bool) -> Lock:
        """Return a lock that fits the recipe: the one on disk, or, unless `locked`, a new one."""
        try:
            lock = locks.load(self.lock_file)
            if lock is None:
                raise LockError(f"there is no lock `{self.lock_file}`", hint="make it with `packager lock`")
            locking.check_fresh(self.recipe, lock, self.here, self.memo)
        except LockError as stale:
            if locked:
                raise
            self.runner.on_event(Note(f"locking anew: {stale.message}"))
            return self.make_lock()
        return lock


_SOON = 5  # seconds a registry has to say what a name means now


def unmoved(project: Project, lock: Lock, *, asking: bool) -> str | None:
    """Return a sentence where a new version holds the very model of the release before, else None.

    `asking` looks what the recipe's source means now, if that is not what the lock pins: an alias that moved is the
    likely reason. A registry that does not answer is no error.
    """
    recipe, here = project.recipe, project.here
    before = diff.release_before(recipe, project.runner.store, here.base)
    if before is None or before.version == recipe.version or before.tree.get(SBOM) is None:
        return None
    origin = cyclonedx.origin(before.load(SBOM))
    if origin is None or origin[1] != lock.tree.digest:
        return None
    pinned = str(lock.source["uri"])
    told = f"{recipe.name}:{recipe.version} holds the model of {before.version}, `{pinned}`, which the lock pins"
    if sources.local_path(recipe.source, here.base) is not None or recipe.source == pinned:
        return told
    named = sources.shown(recipe.source)
    if asking:
        try:
            settings = replace(here.settings(recipe, project.memo), timeout=_SOON)
            now = sources.load_for(recipe.source).resolve(recipe.source, settings)
        except PackagerError as error:
            return f"{told}; what `{named}` means now could not be asked: {error.message}"
        if now.uri != pinned:
            return f"{told}; `{named}` means `{now.uri}` now: run `packager lock` and build again to take it"
        return told
    return f"{told}; `packager lock` would take what `{named}` means now"


def _limits(parsed: Recipe) -> sandbox.Limits:
    memory = parsed.limits.memory or sandbox.default_limits().memory
    return sandbox.Limits(memory, parsed.limits.minutes * 60)
