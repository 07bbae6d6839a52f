# SPDX-License-Identifier: Apache-2.0
"""The executor that has nodes of a cluster perform actions. Runs in a release process, beside its store.

What a node answers is checked as what a worker leaves is: the form of the facts, the digest of every byte, the number
and size of files. Whether the facts are true is the node's word; a cluster is trusted like the machine it replaces.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from packager import __version__, json_schema, plugins
from packager.actions.runner import OUTPUT, Job
from packager.canonical import JSON
from packager.cluster import messages
from packager.cluster.messages import Needs, Place, Request
from packager.errors import IntegrityError, SourceError, StepError, UsageError
from packager.lock.toolchains import LockedToolchain
from packager.sandbox.sandbox import Confinement, default_limits
from packager.store.store import Store
from packager.transport.shared import SharedStore
from packager.types import Blob, Result

_NO_MODEL = "no model needs that; look at what that node does"
_AGAIN = "release again: what was done is remembered, and is not done again"


@dataclass(frozen=True, slots=True)
class ClusterExecutor:
    """Has a cluster perform actions of one model: `ask` sends a request and what a node needs, and returns the answer.

    `needs` are those of the release file; GPUs and their type are requested for steps that run on a GPU alone.
    """

    ask: Callable[[JSON], JSON]
    cancel: Callable[[], None]
    shared: SharedStore
    place: Place
    needs: Needs

    def perform(self, job: Job, store: Store) -> tuple[Result, str | None]:
        """Return the result. Raises StepError for a step that fails, SourceError where the cluster lost it."""
        request = self._request(job, store)
        value = self.ask({"request": request.to_json(), "needs": self._needs(job).to_json()})
        try:
            answer = messages.read_answer(value)
        except (ValueError, TypeError) as error:
            raise StepError(
                f"a node answered to step `{job.action.step}` what is no answer: {error}", hint=_NO_MODEL
            ) from None
        said = answer.said
        match answer.form:
            case "result":
                return self._result(job, store, Blob(said["tree"], int(said["size"])), said), None
            case "error":
                raise messages.error_of(said)
            case "refused":
                raise UsageError(f"{said['message']} (step `{job.action.step}`)", hint=said["hint"])
        raise SourceError(
            f"the cluster did not perform step `{job.action.step}`: {said['message']}", hint=said["hint"] or _AGAIN
        )

    def stop(self) -> None:
        self.cancel()

    def _request(self, job: Job, store: Store) -> Request:
        memory = None if job.limits.memory == default_limits().memory else job.limits.memory
        toolchain = job.virtualenv.to_json() if isinstance(job.virtualenv, LockedToolchain) else None
        if job.virtualenv is not None and toolchain is None:
            raise StepError(f"step `{job.action.step}` runs in an environment that no other machine can build")
        inputs = {role: self.shared.send_tree(store, digest) for role, digest in job.action.inputs.items()}
        return Request(
            __version__, job.action, job.label, inputs, self.place, job.limits.seconds, memory, job.confined, toolchain
        )

    def _needs(self, job: Job) -> Needs:
        stated = 0 if job.memory == default_limits().memory else job.memory  # what the recipe says
        needs = replace(self.needs, memory=max(self.needs.memory, stated))
        if job.action.params.get("gpu"):
            return replace(needs, gpus=max(1, needs.gpus))
        return replace(needs, gpus=0, accelerator=None)

    def _result(self, job: Job, store: Store, record: Blob, said: JSON) -> Result:
        step = job.action.step
        if problem := next(json_schema.check(said["facts"], plugins.load("steps", step).ANSWER, "facts"), None):
            raise StepError(f"a node answered to step `{step}` what it cannot find: {problem}", hint=_NO_MODEL)
        by = Confinement.from_json(said["confinement"])
        if job.confined and by.level == "none":
            raise StepError(f"a node performed step `{step}` without a sandbox", hint=_NO_MODEL)
        bounds = replace(OUTPUT, total=min(OUTPUT.total, shutil.disk_usage(store.root).free))
        try:
            tree = self.shared.receive_tree(store, record, bounds)
        except IntegrityError as error:
            raise StepError(f"step `{step}` left what no output holds: {error.message}", hint=_NO_MODEL) from error
        return Result(tree.digest, said["facts"], confinement=by.to_json())
