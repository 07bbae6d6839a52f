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
from pathlib import Path

from packager import canary, render
from packager.bundle import Bundle
from packager.canary import Endpoint
from packager.canonical import JSON
from packager.errors import NegativeAnswer, PackagerError, SourceError
from packager.events import Note, OnEvent, ignore
from packager.files import remove_tree
from packager.knobs import Resolved
from packager.render import Model
from packager.renderers import triton

_CANDIDATE = "__candidate"  # no bundle can be called so: names have no two underscores in a row
_PATIENCE = 60  # seconds for a server to say that a model is ready, or gone


def swap(
    model: Model, bundle: Bundle, knobs: Resolved, endpoint: Endpoint, on_event: OnEvent = ignore
) -> int:  # fmt: skip
    """Serve `model` at `endpoint`; return how many reference vectors it answered before it got any traffic.

    Raises NegativeAnswer when the new version does not stand the trial: the version before serves then, as it did all
    the time. Raises SourceError when the server cannot be reached.
    """
    folder = model.repository / model.name
    with _candidate(model, endpoint) as name:
        asked = canary.try_model(endpoint, bundle, name, knobs, model.target)
    on_event(Note(f"the canary answered {asked} reference vectors"))
    render.activate(folder, model.number)
    try:
        _load(endpoint, model.name)
        canary.try_model(endpoint, bundle, model.name, knobs, model.target)
    except PackagerError:
        _go_back(model, endpoint)
        raise
    return asked


@contextmanager
def _candidate(model: Model, endpoint: Endpoint) -> Iterator[str]:
    """Load the version under a name that no client knows, and remove it again."""
    name = f"{model.name}{_CANDIDATE}"
    folder, origin = model.repository / name, (model.repository / model.name).resolve()
    remove_tree(folder)  # what a killed process left
    folder.mkdir()
    try:
        config = (origin / str(model.number) / triton.CONFIG).read_text()
        (folder / triton.CONFIG).write_text(config.replace(f'name: "{model.name}"', f'name: "{name}"', 1))
        for part in (str(model.number), "warmup"):
            if (origin / part).exists():
                (folder / part).symlink_to(Path("..", model.name, part))
        _load(endpoint, name)
        yield name
    finally:
        _unload(endpoint, name)
        remove_tree(folder)


def _go_back(model: Model, endpoint: Endpoint) -> None:
    folder = model.repository / model.name
    if model.before is None:
        (folder / triton.CONFIG).unlink(missing_ok=True)
        _unload(endpoint, model.name)
    else:
        render.activate(folder, model.before)
        _load(endpoint, model.name)


def _load(endpoint: Endpoint, name: str) -> None:
    status, body = _post(endpoint, f"/v2/repository/models/{name}/load")
    if status != 200:
        raise NegativeAnswer(f"the server does not load `{name}`: {_reason(body)}")
    _until(endpoint, name, 200)


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
    raise NegativeAnswer(f"`{name}` is {'not ready' if wanted == 200 else 'still there'} after {_PATIENCE} s")


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
