# SPDX-License-Identifier: Apache-2.0
"""Registries as people have them: what each is reported to do, acted out by the stub, with pieces of their real size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packager.bundle.bundle import Bundle
from packager.errors import SourceError
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport.registry import credentials
from packager.transport.registry.credentials import Credential
from packager.transport.registry.wire import Patience
from tests.support import bundles, stub_registry
from tests.support.stub_registry import HABITS, MiB, Stub, serving
from tests.unit.transport.test_transfer import KEY, QUICK, check, other, pull, push
from tests.unit.transport.test_transfer import credentials as logged_in

LARGE = 37 * MiB + 4321  # more than one piece of ours


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    words = (str(number).encode().rjust(16) for number in range(LARGE // 16))
    store = Store(tmp_path_factory.mktemp("large") / "store")
    return sign(bundles.make(store, {"model/weights-0002.bin": b"".join(words)}), KEY)


def settings(tmp_path: Path, stub: Stub) -> Any:
    user = stub.token_user or stub.basic_user
    return logged_in(tmp_path, stub, {"username": user[0], "password": user[1]}) if user else QUICK


@pytest.mark.parametrize("habit", sorted(HABITS))
def test_a_large_bundle_arrives(habit: str, bundle: Bundle, tmp_path: Path) -> None:
    """And the registry is not asked more than twice what is too large for it."""
    with serving(**HABITS[habit]) as stub:
        push(stub, bundle, settings(tmp_path, stub))
        refused = [row for row in stub.log if row.status == stub.too_large]
        assert len(refused) <= 4, [row.path for row in refused]
        pieces = [int(row.headers["Content-Length"]) for row in stub.rows("PATCH", "uploads") if row.status < 300]
        assert pieces
        assert max(pieces) <= (stub.largest or stub.most or 32 * MiB)
        assert min(pieces) >= (stub.least or 0)
        pull(stub, other(tmp_path), settings(tmp_path, stub))
    assert other(tmp_path).entry("tiny", "1.0.0").manifest == bundle.digest


@pytest.mark.parametrize("habit", ["ecr", "acr", "quay"])
def test_it_arrives_over_a_connection_that_breaks(habit: str, bundle: Bundle, tmp_path: Path) -> None:
    """ECR then states a position that it has passed long ago; it is believed once and no more."""
    with serving(**HABITS[habit], cut_upload=[MiB, MiB]) as stub:
        push(stub, bundle, replace(settings(tmp_path, stub), patience=Patience(attempts=6, first=0.01, longest=0.05)))
        assert not stub.cut_upload
        pull(stub, other(tmp_path), settings(tmp_path, stub))


def test_registry_that_accepts_no_piece_is_a_clear_error(bundle: Bundle) -> None:
    with (
        serving(largest=1000) as stub,
        pytest.raises(SourceError, match=r"413 SIZE_INVALID .* limit of 1000") as caught,
    ):
        push(stub, bundle)
    assert "size limit" in str(caught.value.hint)


@pytest.mark.parametrize("mute", [False, True])
def test_anonymous_reads_and_login_only_when_challenged(mute: bool, bundle: Bundle, tmp_path: Path) -> None:
    with serving(**HABITS["zot"], mute_login=mute) as stub:
        with pytest.raises(SourceError, match="requires credentials") as caught:
            push(stub, bundle)
        assert "docker login" in str(caught.value.hint)
        with pytest.raises(SourceError, match=r"refuses the credentials .*authentication required"):
            push(stub, bundle, logged_in(tmp_path, stub, {"username": "ada", "password": "wr0ng"}))
        push(stub, bundle, settings(tmp_path, stub))
        sent = len([row for row in stub.log if "Authorization" in row.headers])
        check(stub, bundle, tmp_path)
        assert len([row for row in stub.log if "Authorization" in row.headers]) == sent, "reading needed none"


@pytest.mark.parametrize(
    "answer",
    [
        (403, "DENIED", "adding 12.0 MiB of storage resource will exceed the configured upper limit of 10.0 MiB"),
        (400, "MANIFEST_INVALID", "manifest schema unsupported"),
        (405, "UNSUPPORTED", "The operation is unsupported."),
    ],
)
def test_registry_error_message_is_shown(answer: tuple[int, str, str], bundle: Bundle, tmp_path: Path) -> None:
    """Harbor's quota, Quay's refusal of a kind of artifact, a registry that is read-only."""
    with serving(denies={"PUT": answer}) as stub, pytest.raises(SourceError) as caught:
        push(stub, bundle)
    status, code, message = answer
    assert f"answered {status} {code}" in caught.value.message
    assert message in caught.value.message


def test_registry_messages_are_escaped(bundle: Bundle) -> None:
    with serving(denies={"PUT": (400, "\x1b[2J", "one\ntwo")}) as stub, pytest.raises(SourceError) as caught:
        push(stub, bundle)
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message


ADA = {"auth": "YWRhOnMzY3JldA=="}


@pytest.mark.parametrize(
    "key",
    [
        "h.example:5000",
        "https://h.example:5000",
        "https://h.example:5000/",
        "http://h.example:5000/",
        "h.example:5000/",
        "h.example:5000/v1/",
        "https://h.example:5000/v1/",
        "https://h.example:5000/v2/",
        "https://h.example:5000/v2",
        "H.Example:5000",
        "h.example:5000/team",
        "h.example:5000/team/m",
    ],
)
@pytest.mark.parametrize("entry", [ADA, {"username": "ada", "password": "s3cret"}])
def test_every_spelling_of_a_registry(key: str, entry: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {"h.example": {"auth": "Ym9iOmJvYg=="}, key: entry}}))
    assert credentials.find("h.example:5000", "team/m", [file], {}) == Credential("ada", "s3cret")
    assert credentials.find("other.example:5000", "team/m", [file], {}) is None


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"])
@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_several_names(key: str, host: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {key: ADA}}))
    assert credentials.find(host, "team/m", [file], {}) == Credential("ada", "s3cret")


def test_the_more_specific_key_wins_however_it_is_spelled(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {"https://h/v1/": {"auth": "Ym9iOmJvYg=="}, "h/team": ADA}}))
    assert credentials.find("h", "team/m", [file], {}) == Credential("ada", "s3cret")
    assert credentials.find("h", "m", [file], {}) == Credential("bob", "bob")


def test_habits_are_named() -> None:
    assert set(stub_registry.HABITS) >= {"ghcr", "ecr", "acr", "harbor", "zot", "quay"}
