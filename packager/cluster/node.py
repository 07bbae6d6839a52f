# SPDX-License-Identifier: Apache-2.0
"""Perform one request on a node: fetch what the node's store lacks, run the action confined, send what it left.

The node's store is a cache of its own (`$PACKAGER_STORE` where Ray was started, else below the home directory). It
remembers results, so that a request that is repeated here runs nothing. Credentials are those of the node.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

from packager import __version__, canonical
from packager.actions.runner import OUTPUT, Runner
from packager.canonical import JSON
from packager.cluster import messages
from packager.cluster.messages import Request
from packager.errors import PackagerError, StepError
from packager.os_errors import translate
from packager.sandbox.sandbox import Limits, default_limits
from packager.sandbox.worker import check_toolchain
from packager.store.store import Store
from packager.transport.shared import open_shared
from packager.workspace import Workspace


def perform(text: str) -> str:
    """Return the answer to a request, whatever happens: both are JSON (`messages`)."""
    try:
        answer = _answer(text)
    except PackagerError as error:
        answer = messages.describe_error(error)
    except (OSError, RuntimeError) as error:
        found = translate(error)
        answer = messages.describe_error(found) if found else _bug(error)
    except Exception as error:
        answer = _bug(error)
    return canonical.dump(answer).decode()


def _bug(error: BaseException) -> JSON:
    lines = "".join(traceback.format_exception(error)[-3:])
    return messages.lost(f"{type(error).__name__}: {error}; {lines}")


def _answer(text: str) -> JSON:
    value = messages.load(text)
    if value["packager"] != __version__:
        return messages.refused(
            f"a node has packager {__version__}, expected {value['packager']}",
            "install the same version on every node of the cluster",
        )
    request = Request.from_json(value)
    if request.toolchain is None:
        try:
            check_toolchain(request.action.toolchain)
        except StepError as error:
            return messages.refused(f"a node cannot take part: {error.message}", error.hint)
    return _perform(request, Workspace.default())


def _perform(request: Request, workspace: Workspace) -> JSON:
    from packager.lock.toolchains import LockedToolchain

    store = workspace.open_store()
    with tempfile.TemporaryDirectory(prefix="packager-node-") as folder:
        workspace = replace(workspace, plain_http=request.place.plain_http)
        if request.place.registry_ca is not None:
            (Path(folder) / "ca.pem").write_text(request.place.registry_ca)
            workspace = replace(workspace, registry_ca=Path(folder) / "ca.pem")
        shared = open_shared(request.place.address, workspace.registry_settings)
        for record in request.inputs.values():
            shared.receive_tree(store, record, replace(OUTPUT, total=_free(store)))
        limits = Limits(request.memory or default_limits().memory, request.seconds)
        runner = Runner(store, limits, confined=request.confined)
        virtualenv = None
        if request.toolchain is not None:
            virtualenv = LockedToolchain.from_json(request.toolchain, store, workspace.variables, runner.on_event)
        started = time.monotonic()
        result = runner(request.action, request.label, virtualenv=virtualenv)
        seconds = time.monotonic() - started
        record = shared.send_tree(store, result.tree)
    store.release()
    return {
        "result": {
            "tree": record.digest,
            "size": record.size,
            "facts": result.facts,
            "confinement": result.confinement,
            "seconds": seconds,
            "executed": bool(runner.executed),
        }
    }


def _free(store: Store) -> int:
    return shutil.disk_usage(store.root).free
