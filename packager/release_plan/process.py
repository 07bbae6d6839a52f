# SPDX-License-Identifier: Apache-2.0
"""A release process (`python -m packager.release_plan.process`), started by the driver: one model after the other.

It reads lines of JSON: first what holds for all models, then one model each; it answers with lines of JSON: which task
begins, and at last the row of the model. With a cluster it also has the driver pass steps on, and reads what became of
them. It ends with its driver, whatever way that one ends. It is no worker of the sandbox: models are opened in workers
that it starts, as every build does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from packager import canonical
from packager.actions.runner import Executor
from packager.canonical import JSON
from packager.events import Event
from packager.files import hold_lock, write_atomically
from packager.release_plan import problems, tasks
from packager.release_plan.channel import Channel
from packager.release_plan.context import Share, WorkerContext
from packager.release_plan.journal import Journal
from packager.release_plan.plan import stopped_row
from packager.release_plan.release_file import Model
from packager.workspace import Workspace

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Release models until the driver closes the input."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what anything prints is no answer
    signal.signal(signal.SIGTERM, _end)
    jobs = os.fdopen(os.dup(0), "rb")
    order = json.loads(jobs.readline())
    _end_with(order["driver"])
    channel = Channel(jobs, answers)
    context = _open_context(order, channel)
    for value in channel.models():
        model = Model.from_json(value)
        try:
            row = tasks.release_model(model, context)
        except Exception as error:  # whatever it is, the other models go on
            row = stopped_row(model, problems.describe_bug(error))
        context.store.release()
        channel.tell({"row": row.to_json()})


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _end_with(driver: int) -> None:
    """Have the kernel kill this process when its driver ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != driver:  # it ended before the call
        sys.exit(1)


def _open_context(order: Mapping[str, JSON], channel: Channel) -> WorkerContext:
    workspace = replace(
        Workspace.default(Path(order["store"]), jobs=order["steps"]),
        registry_ca=order["registry_ca"] and Path(order["registry_ca"]),
        plain_http=order["plain_http"],
    )
    store = workspace.open_store()

    def tell(task: str, event: Event | None) -> None:
        if event is None:
            channel.tell({"task": task})

    return WorkerContext(
        workspace,
        store,
        Journal(Path(order["journal"])),
        Path(order["base"]),
        Path(order["environments"]),
        {uri: value.encode("latin-1") for uri, value in order["secrets"].items()},
        frozenset(order["again"]),
        order["dry"],
        order["until"],
        share_below(Path(order["shared"])),
        order["builder"],
        tell,
        _executors(order["cluster"], channel, workspace) if order["cluster"] else None,
    )


def _executors(place: JSON, channel: Channel, workspace: Workspace) -> Callable[[Model], Executor]:
    """Return what gives a model the executor that has the cluster perform its steps."""
    from packager.cluster.executor import ClusterExecutor
    from packager.cluster.messages import Place
    from packager.transport.shared import open_shared

    there = Place.from_json(place)
    shared = open_shared(there.address, workspace.registry_settings)
    return lambda model: ClusterExecutor(channel.ask, channel.cancel, shared, there, model.settings.resources)


def share_below(folder: Path) -> Share:
    """Return what keeps answers in files of a folder that the processes of one release share; each is found once."""

    def share(key: JSON, find: Callable[[], JSON]) -> JSON:
        file = folder / canonical.sha256(canonical.dump(key)).removeprefix("sha256:")
        with hold_lock(file.with_suffix(".lock")):
            if file.is_file():
                return json.loads(file.read_bytes())
            value = find()
            write_atomically(file, canonical.dump(value))
        return value

    return share


if __name__ == "__main__":
    main()
