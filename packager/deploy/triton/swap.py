# SPDX-License-Identifier: Apache-2.0
"""Change the version that a running Triton serves: try it under another name first, switch, look again, or go back.

The server runs with `--model-control-mode explicit` on the repository. It loads the new version while the old one
answers, and changes over between two requests. Whatever goes wrong, the version before is loaded again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from packager.bundle.bundle import Bundle
from packager.canonical import JSON
from packager.deploy import canary
from packager.deploy.canary import Endpoint
from packager.deploy.triton import render
from packager.deploy.triton.render import CANDIDATE, Change, Model
from packager.deploy.triton.repository import CONFIG
from packager.errors import NegativeAnswerError, PackagerError, SourceError
from packager.events import Note, OnEvent, ignore
from packager.knobs.knobs import Resolved

_PATIENCE = 60  # seconds for a server to say that a model is ready, or gone


def swap(model: Model, bundle: Bundle, knobs: Resolved, endpoint: Endpoint, on_event: OnEvent = ignore) -> int:
    """Serve `model` at `endpoint`; return how many reference vectors it answered before it got any traffic.

    Ensembles that the server has loaded change along. Raises NegativeAnswerError when the new version does not stand
    the
    trial: the version before serves then, as it did all the time. Raises SourceError when the server cannot be reached.
    """
    with _candidate(model, endpoint) as name:
        tried = canary.try_model(endpoint, bundle, name, knobs, model.target)
    on_event(Note(f"the canary answered {tried} reference vectors"))
    done: list[Change] = []
    try:
        for change in model.changes:
            loaded = change.model == model.name or _is_ready(endpoint, change.model)
            render.apply(model.repository, change)
            done.append(change)
            if loaded:
                _load(endpoint, change.model, change.number)
        canary.try_model(endpoint, bundle, model.name, knobs, model.target)
    except PackagerError:
        _go_back(model, done, endpoint)
        raise
    return tried


@contextmanager
def _candidate(model: Model, endpoint: Endpoint) -> Iterator[str]:
    """Load the version under a name that no client knows, and remove it again."""
    name, repository = f"{model.name}{CANDIDATE}", model.repository
    repository.remove(name)  # what a killed process left
    try:
        config = repository.read(f"{model.name}/{model.number}/{CONFIG}") or b""
        own = f'name: "{model.name}"'.encode()
        repository.lend(model.name, model.number, name, config.replace(own, f'name: "{name}"'.encode(), 1))
        _load(endpoint, name, model.number)
        yield name
    finally:
        _unload(endpoint, name)
        repository.remove(name)


def _go_back(model: Model, done: list[Change], endpoint: Endpoint) -> None:
    """Put back what was switched; where another writer switched since, that stays, in the server as well."""
    for change in reversed(done):
        loaded = change.model == model.name or _is_ready(endpoint, change.model)
        if not render.revert(model.repository, change):
            continue
        if change.previous is None:
            _unload(endpoint, change.model)
        elif loaded:
            _load(endpoint, change.model, render.served_number(change.previous))


def _is_ready(endpoint: Endpoint, name: str) -> bool:
    try:
        return endpoint.call("GET", f"/v2/models/{name}/ready")[0] == 200
    except OSError:
        return False


def _load(endpoint: Endpoint, name: str, number: int | None = None) -> None:
    """Load what the repository says now; with `number` it must be that version that is served then."""
    status, body = _post(endpoint, f"/v2/repository/models/{name}/load")
    if status != 200:
        raise NegativeAnswerError(f"the server does not load `{name}`: {_reason(body)}")
    _until(endpoint, name if number is None else f"{name}/versions/{number}", 200)


def _unload(endpoint: Endpoint, name: str) -> None:
    status, _ = _post(endpoint, f"/v2/repository/models/{name}/unload")
    if status == 200:
        _until(endpoint, name, 400)


def _until(endpoint: Endpoint, name: str, wanted: int) -> None:
    """Wait until the model is ready (200), or is not (whatever is from 400)."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        status = endpoint.call("GET", f"/v2/models/{name}/ready")[0]
        if status == 200 if wanted == 200 else status >= wanted:
            return
        time.sleep(0.05)
    raise NegativeAnswerError(f"`{name}` is {'not ready' if wanted == 200 else 'still there'} after {_PATIENCE} s")


def _post(endpoint: Endpoint, path: str) -> tuple[int, bytes]:
    try:
        status, body, _ = endpoint.call("POST", path, b"{}", {"Content-Type": "application/json"})
    except OSError as error:
        raise SourceError(
            f"cannot reach Triton at `{endpoint.host}:{endpoint.port}`: {error}",
            hint="is it running with `--model-control-mode explicit`?",
        ) from None
    return status, body


def _reason(body: bytes) -> str:
    try:
        value: JSON = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        value = body.decode("utf-8", "replace")
    return " ".join(str(value).split())[:500]
