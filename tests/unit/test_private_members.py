# SPDX-License-Identifier: Apache-2.0
"""Private members of other libraries: each is touched in one module, and is still there in the installed version."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import granian.server.embed
import prometheus_client
import pytest

from packager.trust.signers import _sigstore

ROOT = Path(__file__).resolve().parents[2]
USERS = {
    "packager/server/process/granian_server.py": ("_init_shared_socket", "_ssp", "_shd", "_sfd"),
    "packager/server/telemetry/prometheus_sums.py": ("_upper_bounds", "_buckets", "_sum"),
    "packager/trust/signers/_sigstore.py": ("sigstore._internal",),
    "runtimes/kserve/model.py": ("grpc.aio._server",),
}
MEMBERS = [(user, member) for user, members in USERS.items() for member in members]


@pytest.mark.parametrize(("user", "member"), MEMBERS, ids=[member for _, member in MEMBERS])
def test_member_is_used_in_one_module(user: str, member: str) -> None:
    """Attributes are looked for in the room of their user, modules everywhere."""
    module = "." in member
    pattern = re.compile(re.escape(member if module else f".{member}") + r"\b")
    folders = ("packager", "runtimes", "templates") if module else ("/".join(Path(user).parts[:2]),)
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in files if pattern.search(path.read_text())] == [user]


def test_prometheus_client_has_its_members() -> None:
    histogram = prometheus_client.Histogram("h", "Text.", buckets=[1.0], registry=None)
    assert list(histogram._upper_bounds) == [1.0, float("inf")]
    assert len(histogram._buckets) == 2
    for value in (*histogram._buckets, histogram._sum):
        value.inc(2)
        assert value.get() == 2


def test_granian_has_its_members() -> None:
    server = granian.server.embed.Server("app:app")
    assert (server._ssp, server._shd, server._sfd) == (None, None, None)
    assert not inspect.signature(server._init_shared_socket).parameters
    served = inspect.getsource(granian.server.embed.Server)
    assert "self._init_shared_socket()" in served
    assert "(self._ssp, self._shd)" in served


def test_sigstore_has_its_members() -> None:
    pytest.importorskip("sigstore")
    errors = _sigstore.client_errors()
    assert [error.__name__ for error in errors] == ["FulcioClientError", "ExpiredCertificate", "RekorClientError"]
    assert all(issubclass(error, Exception) for error in errors)


def test_grpc_has_its_members() -> None:
    servers = pytest.importorskip("grpc.aio._server")
    parameters = inspect.signature(servers.Server.add_insecure_port).parameters
    assert list(parameters) == ["self", "address"]
