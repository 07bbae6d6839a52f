# SPDX-License-Identifier: Apache-2.0
"""Registries are untrusted: tags, indexes and attached manifests there do not pass a gate.

A real docker-registry holds a bundle that the gate let into production and one that it did not. An attacker who may write
everything there moves tags, indexes and summaries; `verify` and `pull` with the site's trust file see through each.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from packager.canonical import dump, sha256
from packager.formats import oci
from packager.release.sign import sign
from packager.store.store import Store
from packager.transport import copy
from packager.trust import edit, file, keys
from tests.conftest import Run
from tests.e2e.conftest import tool
from tests.support import bundles, registry_server
from tests.support.registry_server import Registry

INDEX = "application/vnd.oci.image.index.v1+json"
GATE = ("--profile", "gate.yaml", "--trust", "gate.trust", "--state", "none", "--key", "gate.pem")
SITE = ("--trust", "site.trust", "--state", "none")


@dataclass(frozen=True)
class Attacker:
    """Who may read and write everything in one repository."""

    host: str
    repository: str

    def _ask(self, method: str, path: str, data: bytes | None = None, **headers: str) -> bytes:
        address = f"http://{self.host}/v2/{self.repository}/{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with urllib.request.urlopen(urllib.request.Request(address, data, named, method=method), timeout=10) as answer:
            return bytes(answer.read())

    def read(self, reference: str) -> bytes:
        return self._ask("GET", f"manifests/{reference}", Accept=f"{oci.MANIFEST}, {INDEX}")

    def write(self, reference: str, manifest: bytes, kind: str = oci.MANIFEST) -> None:
        self._ask("PUT", f"manifests/{reference}", manifest, Content_Type=kind)

    def attached(self, digest: str) -> Any:
        """Return the index of what is attached to a manifest."""
        return json.loads(self.read(digest.replace(":", "-")))

    def attach(self, digest: str, index: Any) -> None:
        self.write(digest.replace(":", "-"), dump(index), INDEX)


@dataclass(frozen=True)
class Stage:
    """A registry with a promoted and an unpromoted version of `tiny`, and the site that asks for promotion."""

    host: str
    packager: Run
    attacker: Attacker
    good: str
    bad: str
    store: Store

    def at(self, tag: str) -> str:
        return f"oci://{self.host}/{self.attacker.repository}:{tag}"

    def refuses(self, reference: str, words: str, *, code: int = 1) -> None:
        """Neither verified nor let in; nothing of it is left in the store."""
        assert words in self.packager("verify", reference, *SITE, code=code).stderr
        assert words in self.packager("pull", reference, *SITE, code=code).stderr
        assert not self.store.bundles()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_server.registry(tool("docker-registry"), tmp_path_factory.mktemp("registry") / "r") as running:
        yield running


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Keys, trust files, and the two versions as signed files; the gate lets the first into production, by its verb."""
    folder = tmp_path_factory.mktemp("published")
    made, pair = Store(folder / "made"), {name: keys.generate_key("p256") for name in ("root", "release", "gate")}
    for name, key in pair.items():
        keys.save(key, folder / f"{name}.pem", folder / f"{name}.pub", None)
    content = edit.new_content("acme", [pair["root"].public], 1, dt.datetime.now(dt.UTC) + dt.timedelta(days=9))
    for name in ("release", "gate"):
        content = edit.with_signer(content, name, {"key": pair[name].public.pem.decode()})
    for name in ("gate", "site"):
        (folder / f"{name}.trust").write_bytes(file.write(content, [pair["root"]]).to_bytes())
    (folder / "gate.yaml").write_text("rules: [signature]")
    for version in ("1.0.0", "1.0.1"):
        bundle = bundles.make(made, {"model/model.onnx": version.encode()}, version=version)
        copy.save(sign(bundle, pair["release"]), folder / f"{version}.tar")
    ours = ("trust", "add", "site.trust", "--require-stage", "production", "--by", "gate", "--root-key", "root.pem")
    for words in (ours, ("promote", "1.0.0.tar", "--to", "production", *GATE)):
        subprocess.run(
            [sys.executable, "-m", "packager", *words],
            cwd=folder,
            check=True,
            capture_output=True,
            env={**os.environ, "PACKAGER_STORE": str(folder / "store")},
        )
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def stage(registry: Registry, packager: Run, tmp_path: Path, published: dict[str, bytes]) -> Stage:
    digests, repository = {}, f"t-{sha256(str(tmp_path).encode())[7:19]}/tiny"
    for name, data in published.items():
        (tmp_path / name).write_bytes(data)
    for version in ("1.0.0", "1.0.1"):
        pushed = packager("push", f"{version}.tar", f"oci://{registry.host}/{repository}", "--json").stdout
        digests[version] = json.loads(pushed)["digest"]
    return Stage(
        registry.host,
        packager,
        Attacker(registry.host, repository),
        digests["1.0.0"],
        digests["1.0.1"],
        Store(tmp_path / "store"),
    )


def moved_tag(stage: Stage) -> tuple[str, str, int]:
    """The tag of the promoted version now names the other one."""
    stage.attacker.write("1.0.0", stage.attacker.read("1.0.1"))
    return stage.at("1.0.0"), "calls itself", 5


def promising_tag(stage: Stage) -> tuple[str, str, int]:
    """A tag called like the stage."""
    stage.attacker.write("production", stage.attacker.read("1.0.1"))
    return stage.at("production"), "is missing", 1


def borrowed_index(stage: Stage) -> tuple[str, str, int]:
    """Everything attached to the promoted version is listed for the other one, too."""
    rows = stage.attacker.attached(stage.bad)
    rows["manifests"] += stage.attacker.attached(stage.good)["manifests"]
    stage.attacker.attach(stage.bad, rows)
    return stage.at("1.0.1"), "is missing", 1


def adopted_summary(stage: Stage) -> tuple[str, str, int]:
    """The manifests around what speaks for the promoted version are written anew: their subject is the other one."""
    theirs, rows = stage.attacker.read("1.0.1"), stage.attacker.attached(stage.bad)
    for row in stage.attacker.attached(stage.good)["manifests"]:
        manifest = json.loads(stage.attacker.read(row["digest"]))
        manifest["subject"] |= {"digest": sha256(theirs), "size": len(theirs)}
        data = dump(manifest)
        stage.attacker.write(sha256(data), data)
        rows["manifests"].append({**row, "digest": sha256(data), "size": len(data)})
    stage.attacker.attach(stage.bad, rows)
    return stage.at("1.0.1"), "another", 5


def renamed_index(stage: Stage) -> tuple[str, str, int]:
    """The whole index of the promoted version takes the place of the other one's."""
    stage.attacker.attach(stage.bad, stage.attacker.attached(stage.good))
    return stage.at("1.0.1"), "not signed", 1


def stripped_index(stage: Stage) -> tuple[str, str, int]:
    """What speaks for the promoted version is taken away: nothing is left to believe."""
    stage.attacker.attach(stage.good, {"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
    return stage.at("1.0.0"), "not signed", 1


MOVES: list[Callable[[Stage], tuple[str, str, int]]] = [
    moved_tag,
    promising_tag,
    borrowed_index,
    adopted_summary,
    renamed_index,
    stripped_index,
]


DEFAULT = (moved_tag, adopted_summary)


@pytest.mark.parametrize(
    "move",
    [move if move in DEFAULT else pytest.param(move, marks=pytest.mark.slow) for move in MOVES],
    ids=[move.__name__ for move in MOVES],
)
def test_no_gate_is_passed_by_retagging(stage: Stage, move: Callable[[Stage], tuple[str, str, int]]) -> None:
    reference, words, code = move(stage)
    stage.refuses(reference, words, code=code)


def test_pull_with_a_trust_file_lets_in_what_was_promoted_under_whatever_name(stage: Stage, tmp_path: Path) -> None:
    stage.refuses(stage.at("1.0.1"), "missing")
    stage.refuses(f"oci://{stage.host}/{stage.attacker.repository}@{stage.bad}", "missing")
    stage.attacker.write("anything", stage.attacker.read("1.0.0"))
    for tag in ("1.0.0", "anything"):
        pulled = json.loads(stage.packager("pull", stage.at(tag), *SITE, "--json").stdout)
        assert (pulled["digest"], pulled["name"], pulled["version"]) == (stage.good, "tiny", "1.0.0")
    stage.packager("verify", "tiny:1.0.0", *SITE)


def test_pull_with_a_trust_file_remembers_and_refuses_the_way_back(stage: Stage) -> None:
    old, new = (stage.at(version) for version in ("1.0.0", "1.0.1"))
    stage.packager("promote", new, "--to", "production", *GATE)
    remembering = ("--trust", "site.trust", "--state", "seen.json")
    stage.packager("pull", new, *remembering)
    assert "older" in stage.packager("pull", old, *remembering, code=1).stderr
    stage.attacker.write("1.0.1", stage.attacker.read("1.0.0"))
    assert "calls itself `tiny:1.0.0`" in stage.packager("pull", new, *remembering, code=5).stderr
    stage.attacker.write("stable", stage.attacker.read("1.0.0"))
    assert "older" in stage.packager("pull", stage.at("stable"), *remembering, code=1).stderr, (
        "a tag that is moved back is the way back"
    )
