# SPDX-License-Identifier: Apache-2.0
"""What the models of one worker process share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from packager.actions.runner import Executor
from packager.canonical import JSON
from packager.events import Event
from packager.policy import engine
from packager.release_plan.journal import Journal
from packager.release_plan.plan import TASKS
from packager.release_plan.release_file import Model
from packager.store.store import Store
from packager.trust.signers import Signer, open_signer
from packager.workspace import Workspace

Share = Callable[[JSON, Callable[[], JSON]], JSON]
"""Answers that hold for a whole release: a key, and how to find what is not known yet."""


@dataclass
class WorkerContext:
    """What the models of one worker process share: workspace, store, journal, signers and profiles, opened once.

    `again` are tasks that run whatever is remembered, `until` is the last task, `dry` means that nothing runs. `tell`
    hears which task begins.
    """

    workspace: Workspace
    store: Store
    journal: Journal
    base: Path  # the directory of the release file
    environments: Path  # where the conformance suite keeps environments
    secrets: Mapping[str, bytes] = field(default_factory=dict)  # by the URI of a signer
    again: frozenset[str] = frozenset()
    dry: bool = False
    until: str = TASKS[-1]
    share: Share | None = None
    builder: str | None = None
    tell: Callable[[str, Event | None], None] = lambda task, event: None
    executor: Callable[[Model], Executor] | None = None  # where steps of a model run; None: on this machine
    _profiles: dict[str, engine.Profile] = field(default_factory=dict)
    _signers: dict[str, Signer] = field(default_factory=dict)

    def profile(self, name: str) -> engine.Profile:
        """Return a policy profile, read once."""
        if name not in self._profiles:
            self._profiles[name] = engine.load_profile(name, Path())
        return self._profiles[name]

    def signer(self, uri: str) -> Signer:
        """Return a signer, opened once; but one whose certificate lasts minutes, each time."""
        if uri not in self._signers or uri.startswith("keyless:"):
            self._signers[uri] = open_signer(uri, lambda: self.secrets.get(uri), self.workspace.clock())
        return self._signers[uri]
