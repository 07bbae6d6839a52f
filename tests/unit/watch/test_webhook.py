# SPDX-License-Identifier: Apache-2.0
"""Webhooks: what MLflow's own code signs is believed, every change to it and every old one is not."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packager.watch import webhook

SECRET = b"correct horse"
NOW = 1_800_000_000.0
BODY = b'{"entity":"model_version_alias","action":"created","data":{"name":"net","alias":"champion","version":"7"}}'


def signed(body: bytes = BODY, identity: str = "d-1", at: float = NOW, secret: bytes = SECRET) -> dict[str, str]:
    """Return headers as MLflow makes them, by its own function."""
    delivery: Any = pytest.importorskip("mlflow.webhooks.delivery")
    time = str(int(at))
    signature = delivery._generate_hmac_signature(secret.decode(), identity, time, body.decode())
    return {"x-mlflow-delivery-id": identity, "x-mlflow-timestamp": time, "x-mlflow-signature": signature}


def test_what_mlflow_signs_is_believed() -> None:
    found = webhook.check(SECRET, signed(), BODY, NOW + 299)
    assert (found.id, found.event, found.data["version"]) == ("d-1", "model_version_alias.created", "7")
    several = signed() | {"x-mlflow-signature": "v1,AAAA " + signed()["x-mlflow-signature"]}
    assert webhook.check(SECRET, several, BODY, NOW).id == "d-1", "a secret that is being rotated"


@pytest.mark.parametrize("name", ["x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"])
def test_every_header_is_needed(name: str) -> None:
    headers = {key: value for key, value in signed().items() if key != name}
    with pytest.raises(webhook.RefusedError) as caught:
        webhook.check(SECRET, headers, BODY, NOW)
    assert caught.value.status == 401


@pytest.mark.parametrize(("at", "reason"), [(NOW - 301, "time"), (NOW + 302, "time")])
def test_an_old_one_is_refused(at: float, reason: str) -> None:
    with pytest.raises(webhook.RefusedError, match=reason):
        webhook.check(SECRET, signed(at=at), BODY, NOW)


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_no_byte_can_change(position: int, change: int) -> None:
    body = bytearray(BODY)
    body[position] ^= change
    with pytest.raises(webhook.RefusedError, match="signature"):
        webhook.check(SECRET, signed(), bytes(body), NOW)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-mlflow-delivery-id": "d-2"},
        {"x-mlflow-timestamp": str(int(NOW) + 1)},
        {"x-mlflow-signature": "v1,"},
        {"x-mlflow-signature": "v2," + "A" * 44},
        {"x-mlflow-signature": "v1,\udcff"},
    ],
)
def test_no_header_can_change(headers: dict[str, str]) -> None:
    with pytest.raises(webhook.RefusedError, match="signature"):
        webhook.check(SECRET, signed() | headers, BODY, NOW)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"entity":1,"action":2,"data":[]}', b"[" * 60_000])
def test_a_signed_body_of_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(webhook.RefusedError, match="body") as caught:
        webhook.check(SECRET, signed(body), body, NOW)
    assert caught.value.status == 400


def test_clients_that_say_nothing_hold_up_no_other() -> None:
    answers = webhook.Answers(None, lambda: ("text/plain", b"metrics"), lambda: True)
    server = webhook.listen(("127.0.0.1", 0), answers)
    place = server.server_address[:2]
    try:
        silent = [socket.create_connection(place) for _ in range(12)]  # type: ignore[arg-type]
        began = time.monotonic()
        with socket.create_connection(place, timeout=5) as client:  # type: ignore[arg-type]
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while data := client.recv(4096):
                answer += data
        assert answer.startswith(b"HTTP/1.0 200") and answer.endswith(b"metrics")
        assert time.monotonic() - began < 5
        with socket.create_connection(place, timeout=5) as client:  # type: ignore[arg-type]
            client.sendall(b"POST /webhook HTTP/1.1\r\nContent-Length: 2\r\n\r\n" + json.dumps({}).encode())
            assert b"404" in client.recv(4096), "without a secret there are no webhooks"
        for one in silent:
            one.close()
    finally:
        server.shutdown()
        server.server_close()
