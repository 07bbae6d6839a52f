# SPDX-License-Identifier: Apache-2.0
"""Trust files through TUF: a repository in a folder, moved forward, backward, held still and tampered with."""

from __future__ import annotations

import datetime as dt
import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from packager.errors import (
    OutdatedError,
    PackagerError,
    RolledBackError,
    SourceError,
    TrustFileError,
    UsageError,
    WrongContentError,
)
from packager.trust import channel as trustchannel
from packager.trust import edit, file, keys
from tests.conftest import Run

KEYS = {role: CryptoSigner.generate_ed25519() for role in ("root", "timestamp", "snapshot", "targets")}
NAME = "acme.trust"


def publish(
    folder: Path, version: int, content: bytes, *, days: int = 7, signers: dict[str, CryptoSigner] = KEYS
) -> bytes:
    """Write a whole repository; return its first root metadata."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    soon = now + dt.timedelta(days=days)
    for part in ("metadata", "targets"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "targets" / NAME).write_bytes(content)
    root = Root(expires=now + dt.timedelta(days=365), consistent_snapshot=False)
    for role, signer in KEYS.items():
        root.add_key(signer.public_key, role)
    targets = Targets(version=version, expires=soon)
    targets.targets[NAME] = TargetFile.from_data(NAME, content)
    snapshot = Snapshot(version=version, expires=soon)
    snapshot.meta["targets.json"] = MetaFile(version)
    timestamp = Timestamp(version=version, expires=soon)
    timestamp.snapshot_meta = MetaFile(version)
    for role, signed in (("root", root), ("targets", targets), ("snapshot", snapshot), ("timestamp", timestamp)):
        metadata = Metadata(signed)  # type: ignore[var-annotated]
        metadata.sign((KEYS if role == "root" else signers)[role])
        metadata.to_file(str(folder / "metadata" / ("1.root.json" if role == "root" else f"{role}.json")))
    return (folder / "metadata" / "1.root.json").read_bytes()


def fetched(folder: Path, root: bytes, memory: Path, name: str = NAME) -> bytes:
    return trustchannel.fetch(f"tuf+{folder.as_uri()}#{name}", root, memory)


def test_forward_is_taken_and_backward_refused(tmp_path: Path) -> None:
    channel = tmp_path / "channel"
    root = publish(channel, 1, b"one")
    assert fetched(channel, root, tmp_path / "memory") == b"one"
    shutil.copytree(channel, tmp_path / "old")
    publish(channel, 2, b"two")
    assert fetched(channel, root, tmp_path / "memory") == b"two"
    shutil.rmtree(channel)
    shutil.copytree(tmp_path / "old", channel)
    with pytest.raises(RolledBackError):
        fetched(channel, root, tmp_path / "memory")
    assert fetched(channel, root, tmp_path / "another memory") == b"one", "only who has seen the newer one can tell"


def tampered(channel: Path) -> None:
    (channel / "targets" / NAME).write_bytes(b"TWO")


def longer(channel: Path) -> None:
    (channel / "targets" / NAME).write_bytes(b"two and more")


def stolen(channel: Path) -> None:
    publish(channel, 2, b"two", signers={role: CryptoSigner.generate_ed25519() for role in KEYS})


def frozen(channel: Path) -> None:
    publish(channel, 2, b"two", days=-1)


def gone(channel: Path) -> None:
    shutil.rmtree(channel)


def link_outside(channel: Path) -> None:
    (channel / "metadata" / "timestamp.json").unlink()
    (channel / "metadata" / "timestamp.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (tampered, WrongContentError),
        (longer, WrongContentError),
        (stolen, TrustFileError),
        (frozen, OutdatedError),
        (gone, SourceError),
        (link_outside, SourceError),
    ],
)
def test_what_a_channel_may_not_do(tmp_path: Path, change: object, error: type[PackagerError]) -> None:
    channel = tmp_path / "channel"
    root = publish(channel, 1, b"one")
    publish(channel, 2, b"two")
    change(channel)  # type: ignore[operator]
    with pytest.raises(error) as caught:
        fetched(channel, root, tmp_path / "memory")
    assert type(caught.value) is error


@pytest.mark.parametrize("location", ["acme.trust", "tuf+file:///x", "tuf+ftp://x#y", "tuf+http://host.example/x#y"])
def test_what_names_no_channel(tmp_path: Path, location: str) -> None:
    with pytest.raises(UsageError):
        trustchannel.fetch(location, b"", tmp_path)


def test_over_http_and_on_the_command_line(tmp_path: Path, packager: Run) -> None:
    packager("keygen", "root")
    packager("trust", "init", "t", "--name", "acme", "--root-key", "root.pem")
    root = publish(tmp_path / "channel", 1, (tmp_path / "t").read_bytes())
    (tmp_path / "tuf-root.json").write_bytes(root)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "channel"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"tuf+http://127.0.0.1:{server.server_port}#acme.trust"
        packager("trust", "update", "installed", url, "--tuf-root", "tuf-root.json")
    finally:
        server.shutdown()
        server.server_close()
    assert (tmp_path / "installed").read_bytes() == (tmp_path / "t").read_bytes()
    evil = keys.generate_key("p256")
    content = edit.new_content("acme", [evil.public], 1, dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
    publish(tmp_path / "channel", 2, file.write({**content, "serial": 2}, [evil]).to_bytes())
    folder = f"tuf+{(tmp_path / 'channel').as_uri()}#acme.trust"
    done = packager("trust", "update", "installed", folder, "--tuf-root", "tuf-root.json", "--json", code=1)
    assert "former root keys" in json.loads(done.stdout)["error"]["message"], "a channel does not replace root keys"
