# SPDX-License-Identifier: Apache-2.0
"""Container images by hand, layer by layer, in the registry of the tests: what a builder makes of a Containerfile."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.stub_registry import Stub

MANIFEST, CONFIG = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PLACES = {"site": "srv/app", "server": "srv", "model": "srv/model"}


def tar(files: Mapping[str, bytes | str | None]) -> bytes:
    """Return a tar: a text is a symbolic link to it, None a directory."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return made.getvalue()


@dataclass
class Image:
    """The layers of an image, lowest first, and its config."""

    layers: list[bytes] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    kind: str = LAYER
    manifest_kind: str = MANIFEST
    config_kind: str = CONFIG

    def push(self, stub: Stub, name: str, tag: str) -> str:
        """Put it into the registry; return the digest."""
        blobs = [gzip.compress(layer, mtime=0) if self.kind.endswith("gzip") else layer for layer in self.layers]
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": self.config}).encode()
        value = {
            "schemaVersion": 2,
            "mediaType": self.manifest_kind,
            "config": put(stub, name, config, self.config_kind),
            "layers": [put(stub, name, blob, self.kind) for blob in blobs],
        }
        return put_manifest(stub, name, tag, value)


def put(stub: Stub, name: str, data: bytes, kind: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    stub.blobs[name, digest] = data
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def put_manifest(stub: Stub, name: str, tag: str, value: Mapping[str, Any]) -> str:
    data = json.dumps(value).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    for what in (tag, digest):
        stub.manifests[name, what] = (value["mediaType"], data)
    return digest


def built(rendering: Path, *, base: Sequence[bytes] = (), part: str = "server") -> Image:
    """Return what a builder makes of a rendering: on the layers of a base, one layer for each COPY."""
    text = (rendering / "Containerfile").read_text()
    words = {name: re.findall(rf"^{name} (.*)$", text, re.M)[-1] for name in ("ENTRYPOINT", "CMD", "USER")}
    labels = dict(re.findall(r'([a-z.]+)="([^"]*)"', re.findall(r"^LABEL (.*)$", text, re.M)[-1]))
    config: dict[str, Any] = {"Labels": labels}
    if part == "model":
        return Image([tar(files(rendering / "model", ""))], config)
    config |= {
        "Entrypoint": json.loads(words["ENTRYPOINT"]),
        "Cmd": json.loads(words["CMD"]),
        "User": words["USER"],
    }
    layers = [tar(files(rendering / name, f"{there}/")) for name, there in PLACES.items()]
    return Image([*base, *layers], config)


def files(root: Path, prefix: str) -> dict[str, bytes | str | None]:
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        found[prefix + path.relative_to(root).as_posix()] = path.read_bytes() if path.is_file() else None
    return found
