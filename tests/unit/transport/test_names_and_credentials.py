# SPDX-License-Identifier: Apache-2.0
"""References, and credentials where Docker and Podman keep them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from packager.errors import SourceError, UsageError
from packager.transport.registry import credentials, reference
from packager.transport.registry.credentials import Credential

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://h/n", ("h", "n", None, None)),
        ("oci://h:5000/a/b-c/d__e:1.0.0", ("h:5000", "a/b-c/d__e", "1.0.0", None)),
        (f"oci://r.example.com/n@{D}", ("r.example.com", "n", None, D)),
        (f"oci://[::1]:5000/n:t@{D}", ("[::1]:5000", "n", "t", D)),
    ],
)
def test_references_round_trip(text: str, expected: tuple[str, ...]) -> None:
    found = reference.parse(text)
    assert (found.host, found.name, found.tag, found.digest) == expected
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("oci://h", "host"),
        ("oci:///n", "host"),
        ("oci://user@h/n", "host"),
        ("http://h/n", "host"),
        ("oci://h/N", "name"),
        ("oci://h/../n", "name"),
        ("oci://h/n//m", "name"),
        ("oci://h/", "name"),
        ("oci://h/n:", "tag"),
        ("oci://h/n:.x", "tag"),
        ("oci://h/n:a/b", "tag"),
        ("oci://h/n?x", "name"),
        ("oci://h/n@sha256:1", "digest"),
        ("oci://h/n@", "digest"),
        ("oci://h/n\r\nX: y", "name"),
    ],
)
def test_malformed_references_name_the_part(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=f"its {part} is malformed"):
        reference.parse(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1:5000", True),
        ("localhost", True),
        ("[::1]:5000", True),
        ("127.9.9.9", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert reference.parse(f"oci://{host}/n").is_loopback is loopback


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


ADA = {"auth": "YWRhOnMzY3JldA=="}
BOB = {"auth": "Ym9iOmZvbzpiYXI="}


def test_the_most_specific_key_and_the_first_file_win(tmp_path: Path) -> None:
    one = write(tmp_path / "1", {"auths": {"h:5000": ADA, "h:5000/team": BOB}})
    two = write(tmp_path / "2", {"auths": {"h:5000/team/m": ADA, "other": ADA}})
    assert credentials.find("h:5000", "team/m", [one, two], {}) == Credential("bob", "foo:bar")
    assert credentials.find("h:5000", "x", [one, two], {}) == Credential("ada", "s3cret")
    assert credentials.find("other", "x", [tmp_path / "absent", one, two], {}) == Credential("ada", "s3cret")
    assert credentials.find("third", "x", [one, two], {}) is None


def test_secrets_show_nowhere(tmp_path: Path) -> None:
    assert "s3cret" not in repr(Credential("ada", "s3cret"))
    for content in ('{"auths": {"h": {"auth": "s3cret!"}}}', '{"auths": "s3cret'):
        (tmp_path / "c").write_text(content)
        with pytest.raises(UsageError) as caught:
            credentials.find("h", "n", [tmp_path / "c"], {})
        assert "s3cret" not in f"{caught.value.message}{caught.value.hint}"


def helper(folder: Path, name: str, script: str) -> dict[str, str]:
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_credential_helpers_are_called(tmp_path: Path) -> None:
    answer = 'read server; echo "{\\"Username\\": \\"u-$1\\", \\"Secret\\": \\"for $server\\"}"'
    environment = helper(tmp_path, "desk", answer)
    per_host = write(tmp_path / "1", {"credHelpers": {"h": "desk"}, "auths": {"h": ADA}})
    assert credentials.find("h", "n", [per_host], environment) == Credential("u-get", "for h")
    store = write(tmp_path / "2", {"credsStore": "desk", "auths": {"h": {}}})
    assert credentials.find("h", "n", [store], environment) == Credential("u-get", "for h/n")
    environment = helper(tmp_path, "tok", 'echo "{\\"Username\\": \\"<token>\\", \\"Secret\\": \\"t\\"}"')
    tokens = write(tmp_path / "3", {"credHelpers": {"h": "tok"}})
    assert credentials.find("h", "n", [tokens], environment) == Credential("", "t")


def test_helpers_that_fail(tmp_path: Path) -> None:
    silent = helper(tmp_path, "silent", "echo 'credentials not found in native keychain'; exit 1")
    file = write(tmp_path / "1", {"credHelpers": {"h": "silent"}})
    assert credentials.find("h", "n", [file], silent) is None
    broken = helper(tmp_path, "broken", "echo 'secret=s3cret' >&2; exit 3")
    with pytest.raises(SourceError, match="failed with status 3") as caught:
        credentials.find("h", "n", [write(tmp_path / "2", {"credHelpers": {"h": "broken"}})], broken)
    assert "s3cret" not in str(caught.value.message)
    with pytest.raises(SourceError, match="not installed"):
        credentials.find("h", "n", [write(tmp_path / "3", {"credsStore": "absent"})], broken)
    with pytest.raises(UsageError, match="plain program name"):
        credentials.find("h", "n", [write(tmp_path / "4", {"credsStore": "../x; rm"})], broken)
