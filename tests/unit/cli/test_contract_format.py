# SPDX-License-Identifier: Apache-2.0
"""A contract of a newer format is refused by every verb that opens a bundle, never misread."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from packager import canonical
from packager.bundle.bundle import CONTRACT
from packager.cli import _verbs
from packager.deploy.install import CONFIG, CURRENT
from packager.errors import MalformedError
from packager.store.store import Store
from packager.transport.copy import save
from packager.types import Blob
from tests.support import bundles, forks

BUNDLE = "newer.bundle.tar"
KEY = ["--key", "release.pub"]
SIGNER = ["--key", "release.pem", "--passphrase-file", "passphrase"]
OPENING = [
    ["attest", BUNDLE, "--type", "urn:x", "--predicate", "predicate.json", *SIGNER],
    ["bench", BUNDLE, *KEY],
    ["chat", BUNDLE, "--prompt", "Hi", *KEY],
    ["compat", BUNDLE],
    ["config", BUNDLE],
    ["conform", BUNDLE, *KEY],
    ["delta", BUNDLE, BUNDLE, "-o", "out.delta"],
    ["diff", BUNDLE, BUNDLE],
    ["doctor", BUNDLE],
    ["dossier", BUNDLE, *KEY],
    ["drift", BUNDLE, "rows.csv", *KEY],
    ["export", BUNDLE, "out.bundle.tar"],
    ["import", BUNDLE, "--store", "store"],
    ["inspect", BUNDLE],
    ["install", BUNDLE, "site", *KEY],
    ["policy", "check", BUNDLE, *KEY],
    ["promise", BUNDLE, "--runtime", "triton>=24.04", *SIGNER],
    ["promote", BUNDLE, "--to", "production", *SIGNER, "--trust", "trust.json"],
    ["push", BUNDLE, "oci://127.0.0.1:9/team/newer:1.0.0"],
    ["rebuild", BUNDLE, *KEY],
    ["render", "systemd", BUNDLE, "units", *KEY],
    ["report", BUNDLE],
    ["runtimes", "probe", "onnxruntime==1.20.0", "--bundle", BUNDLE],
    ["sbom", BUNDLE],
    ["sign", BUNDLE, *SIGNER],
    ["unpack", BUNDLE, "out"],
    ["upgrade", "installed", BUNDLE, *KEY],
    ["verify", BUNDLE, *KEY],
]
OPENS_NONE = {
    "apply": "patches bytes into a bundle that is verified as a whole",
    "build": "makes bundles",
    "cache": "knows blobs",
    "ci": "writes files for CI systems",
    "completion": "prints a script",
    "help": "prints help",
    "init": "reads sources",
    "keygen": "makes keys",
    "list": "reads names",
    "lock": "reads sources",
    "pull": "opens what `import` opens, from a registry: tests/unit/transport",
    "release": "makes bundles, each step as its own verb",
    "rm": "removes names",
    "rollback": "starts what was installed",
    "run": "starts what was installed",
    "schema": "prints schemas",
    "serve": "starts what was installed",
    "sign-image": "reads a rendering, and opens the bundle that --made-of names as every verb does",
    "status": "reads an installation's records",
    "trust": "edits trust files",
    "tune": "starts what was installed",
    "uninstall": "removes an installation",
    "vulndb": "reads advisories",
    "watch": "releases, as `release` does",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("newer")
    contract = canonical.dump({**bundles.CONTRACT_OF_TINY, "format": 99})
    store = Store(place / "built")
    (place / "passphrase").write_text("correct horse\n")
    (place / "predicate.json").write_text("{}")
    made = bundles.assemble(store, {CONTRACT: contract})
    save(made, place / BUNDLE)
    run(place, ["keygen", "release", "--passphrase-file", "passphrase"])
    run(
        place,
        [
            "trust",
            "init",
            "trust.json",
            "--name",
            "acme",
            "--root-key",
            "release.pem",
            "--passphrase-file",
            "passphrase",
        ],
    )
    (place / "installed" / CURRENT).mkdir(parents=True)
    (place / "installed" / CURRENT / CONFIG).write_text("{}")
    assert dict(made.tree)[CONTRACT] == Blob(canonical.sha256(contract), len(contract))
    return place


def run(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    return forks.RUNNER.run(words, folder, forks.variables(folder))


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"store", ".cache", ".local"}


@pytest.mark.parametrize("words", OPENING, ids=lambda words: words[0])
def test_a_newer_contract_is_refused(folder: Path, words: list[str]) -> None:
    before = written(folder)
    done = run(folder, words)
    assert done.returncode == MalformedError.code, done.stderr
    assert "`contract.json` is of an unknown format version" in done.stderr
    assert "a newer packager may read this bundle" in done.stderr
    assert written(folder) == before


def test_every_verb_is_in_one_of_the_lists() -> None:
    opening = {words[0] for words in OPENING}
    assert opening | set(OPENS_NONE) == set(_verbs.list_verbs())
    assert not opening & set(OPENS_NONE)
