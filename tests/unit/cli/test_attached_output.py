# SPDX-License-Identifier: Apache-2.0
"""Verbs that attach a statement with `-o` leave their input as it is, and what they write holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager import canonical
from packager.bundle.bundle import CONTRACT, open_bundle
from packager.store.store import Store
from packager.transport.copy import save
from packager.trust.verify import list_statements
from tests.support import bundles, contracts, forks

RECIPE = contracts.RECIPE.replace('  triton: ">=24.04"\n', "")
ADDED = {"sign": 2, "attest": 1, "promise": 1, "promote": 1}
SIGNER = ["--key", "release.pem", "--passphrase-file", "passphrase"]
VERBS = {
    "sign": ["sign", "{bundle}", *SIGNER],
    "attest": ["attest", "{bundle}", "--type", "urn:x", "--predicate", "predicate.json", *SIGNER],
    "promise": ["promise", "{bundle}", "--runtime", "triton>=24.04", *SIGNER],
    "promote": [
        "promote",
        "{bundle}",
        "--to",
        "staging",
        "--profile",
        "formats.yaml",
        "--trust",
        "acme.trust",
        *SIGNER,
    ],
}


def run(folder: Path, *words: str) -> None:
    done = forks.RUNNER.run(words, folder, forks.variables(folder))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a signed bundle as a file and as a directory, its key and a trust file."""
    (tmp_path / "passphrase").write_text("correct horse\n")
    (tmp_path / "predicate.json").write_text("{}")
    (tmp_path / "formats.yaml").write_text("rules:\n  - formats\n")
    made = bundles.make(Store(tmp_path / "store"), {CONTRACT: canonical.dump(contracts.derived(RECIPE))})
    save(made, tmp_path / "unsigned.bundle.tar")
    run(tmp_path, "keygen", "release", "--passphrase-file", "passphrase")
    run(tmp_path, "sign", "unsigned.bundle.tar", *SIGNER, "-o", "in.bundle.tar")
    run(tmp_path, "sign", "unsigned.bundle.tar", *SIGNER, "-o", "in")
    root = ["--root-key", "release.pem", "--passphrase-file", "passphrase"]
    run(tmp_path, "trust", "init", "acme.trust", "--name", "acme", *root)
    run(tmp_path, "trust", "add", "acme.trust", "--signer", "release", "--key", "release.pub", *root)
    return tmp_path


def content(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(place.parent)): path.read_bytes() for path in files}


@pytest.mark.parametrize("source", ["in.bundle.tar", "in"])
@pytest.mark.parametrize("verb", VERBS)
def test_the_input_stays_and_the_output_holds(folder: Path, verb: str, source: str) -> None:
    before = content(folder / source)
    if verb == "sign":
        run(folder, "keygen", "other", "--passphrase-file", "passphrase")
    words = [word.replace("{bundle}", source) for word in VERBS[verb]]
    words = [word.replace("release.pem", "other.pem") if verb == "sign" else word for word in words]
    run(folder, *words, "-o", "out.bundle.tar")
    assert content(folder / source) == before
    run(folder, "verify", "out.bundle.tar", "--key", "release.pub")
    old, new = (open_bundle(str(folder / name), lambda: Store(folder / "none")) for name in (source, "out.bundle.tar"))
    assert new.digest == old.digest
    assert len(list(list_statements(new))) == len(list(list_statements(old))) + ADDED[verb]


@pytest.mark.parametrize("verb", ["sign", "attest"])
def test_a_file_is_its_own_output_without_one(folder: Path, verb: str) -> None:
    words = [word.replace("{bundle}", "unsigned.bundle.tar") for word in VERBS[verb]]
    run(folder, *words)
    found = open_bundle(str(folder / "unsigned.bundle.tar"), lambda: Store(folder / "none"))
    assert len(list(list_statements(found))) == ADDED[verb]
