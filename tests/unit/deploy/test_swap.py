# SPDX-License-Identifier: Apache-2.0
"""A swap that fails after the switch leaves what served before, ensembles included. The server is a stand-in that speaks
Triton's repository API and reads the repository as Triton does; the real one is in tests/e2e.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from packager.bundle.bundle import Bundle
from packager.bundle.knobs import knob_schema
from packager.deploy.canary import Endpoint
from packager.deploy.triton import render as triton
from packager.deploy.triton.repository import Directory
from packager.deploy.triton.swap import swap
from packager.errors import NegativeAnswerError, SourceError
from packager.knobs import knobs
from packager.store.store import Store
from tests.support.model_repositories import DIGITS, PREPARE, ensemble, make, render, snapshot


class Triton(ThreadingHTTPServer):
    """Serves what `config.pbtxt` names when a model is loaded; refuses the loads that `refused` holds, once each."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.loads, self.refused = root, list[str](), set[str]()
        self.served: dict[str, str] = {}

    def load(self, name: str) -> int:
        text = (self.root / name / "config.pbtxt").read_text()
        number = re.search(r"versions: (\d+)", text)
        assert number
        key = f"{name}:{number[1]}"
        self.loads.append(key)
        if key in self.refused:
            self.refused.remove(key)
            return 400
        assert f'name: "{name}"' in text
        self.served[name] = number[1]
        return 200


class Handler(BaseHTTPRequestHandler):
    server: Triton

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        *_, name, verb = self.path.split("/")
        self._answer(self.server.load(name) if verb == "load" else 200)
        if verb == "unload":
            self.server.served.pop(name, None)

    def do_GET(self) -> None:
        _, _, _, name, *rest = self.path.split("/")
        number = self.server.served.get(name)
        self._answer(200 if number and rest in (["ready"], ["versions", number, "ready"]) else 400)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, store: Store) -> Iterator[Triton]:
    """A server of two models and their ensemble, all loaded."""
    render(make(store, "prepare", *PREPARE), tmp_path / "models")
    render(make(store, "digits", *DIGITS), tmp_path / "models")
    ensemble(tmp_path / "models")
    made = Triton(tmp_path / "models")
    for name in ("prepare", "digits", "support"):
        made.load(name)
    made.loads.clear()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def change(bundle: Bundle, server: Triton) -> int:
    values = knobs.resolve(knob_schema(bundle), bundle.digest)
    model = triton.render_triton(bundle, values, Directory(server.root), "python", {}, switch=False)
    return swap(model, bundle, values, Endpoint("127.0.0.1", server.server_port))


def test_the_ensemble_changes_with_its_step(server: Triton, store: Store) -> None:
    change(make(store, "digits", *DIGITS, "1.1.0"), server)
    assert server.loads == ["digits__candidate:2", "digits:2", "support:2"]
    assert server.served == {"prepare": "1", "digits": "2", "support": "2"}
    change(make(store, "digits", *DIGITS, "1.2.0", n=(1, 2)), server)
    assert server.loads[3:] == ["digits__candidate:3", "support:3", "digits:3"], "never more rows than the step takes"
    server.served.pop("support")
    change(make(store, "digits", *DIGITS, "1.1.0"), server)
    assert server.served == {"prepare": "1", "digits": "2"}, "what the server does not serve is not loaded"


@pytest.mark.parametrize("refused", ["digits__candidate:2", "digits:2", "support:2"])
def test_whatever_is_refused_all_go_back(server: Triton, store: Store, refused: str) -> None:
    before = {path: data for path, data in snapshot(server.root).items() if path.count("/") == 1}
    server.refused = {refused}
    with pytest.raises(NegativeAnswerError, match="does not load"):
        change(make(store, "digits", *DIGITS, "1.1.0"), server)
    assert server.served == {"prepare": "1", "digits": "1", "support": "1"}
    assert {path: data for path, data in snapshot(server.root).items() if path.count("/") == 1} == before
    assert {path.name for path in server.root.iterdir()} == {"prepare", "digits", "support"}


def test_a_switch_that_somebody_else_made_meanwhile_is_not_undone(server: Triton, store: Store) -> None:
    bundle = make(store, "digits", *DIGITS, "1.1.0")
    values = knobs.resolve(knob_schema(bundle), bundle.digest)
    model = triton.render_triton(bundle, values, Directory(server.root), "python", {}, switch=False)
    render(make(store, "digits", *DIGITS, "1.2.0"), server.root)
    theirs = snapshot(server.root)
    with pytest.raises(SourceError, match=r"another writer changed `digits/config.pbtxt`"):
        swap(model, bundle, values, Endpoint("127.0.0.1", server.server_port))
    assert snapshot(server.root) == theirs
