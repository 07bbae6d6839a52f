# SPDX-License-Identifier: Apache-2.0
"""A published bundle, rebuilt from its own provenance on a machine that has nothing but the source: the same digest.

The other machine is a folder, a home and a store of its own. What is published is a signed file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto

from packager.bundle.bundle import CONTRACT, RECORD, SBOM, Bundle, open_bundle
from packager.canonical import dump
from packager.formats import intoto, reference_outputs, slsa
from packager.policy import stated_facts
from packager.release import rebuild
from packager.release.sign import attest, read_drafts, sign
from packager.store.store import Store
from packager.transport import copy
from packager.trust import keys
from tests.e2e.conftest import CNN_RECIPE, Project, tool
from tests.support import bundles, environments, registry_server

pytestmark = pytest.mark.cold
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
KEY = ("--key", "release.pub")


def elsewhere(made: Project, folder: Path, file: str = "cnn.bundle.tar") -> Project:
    """Return another machine that was sent the file and the public key."""
    folder.mkdir(parents=True)
    for name in (file, "release.pub"):
        shutil.copy(made.folder / name, folder / name)
    return Project(folder, folder / "store")


def stored(made: Project, name: str = "cnn:1.2.3") -> Bundle:
    return open_bundle(name, lambda: Store(made.store))


def provenance(made: Project) -> dict[str, Any]:
    return read_drafts(stored(made))[slsa.PREDICATE]


def test_the_published_file_is_rebuilt_to_its_digest(built: Project, tmp_path: Path) -> None:
    site = elsewhere(built, tmp_path / "site")
    source = built.folder / "model" / "model.pt2"
    answer = site.run("rebuild", "cnn.bundle.tar", *KEY, "--source", source, "--json", LC_ALL="C", TZ="Asia/Tokyo")
    assert answer["identical"]
    assert answer["differences"] == []
    assert answer["digest"] == answer["rebuilt"] == stored(built).digest
    assert not Store(site.store).bundles(), "nothing was taken from the store"
    assert not list((site.store / "v1" / "tmp").iterdir()), "and nothing is left in it"


def test_what_cannot_be_rebuilt_says_why(built: Project, tmp_path: Path) -> None:
    site = elsewhere(built, tmp_path / "site")
    assert "--source" in site.run("rebuild", "cnn.bundle.tar", *KEY, code=2).stderr
    other = tmp_path / "model.pt2"
    other.write_bytes((built.folder / "model" / "model.pt2").read_bytes() + b"\0")
    refused = site.run("rebuild", "cnn.bundle.tar", *KEY, "--source", other, code=5)
    assert "`model.pt2` differs" in refused.stderr
    assert "no trusted key or identity given" in site.run("rebuild", "cnn.bundle.tar", code=2).stderr
    stranger = keys.generate_key("p256")
    keys.save(stranger, tmp_path / "s.pem", tmp_path / "s.pub", None)
    assert "no trusted key" in site.run("rebuild", "cnn.bundle.tar", "--key", tmp_path / "s.pub", code=1).stderr
    bare = sign(bundles.make(Store(tmp_path / "bare")), stranger)
    copy.save(bare, site.folder / "bare.tar")
    assert "how this bundle was made" in site.run("rebuild", "bare.tar", "--key", tmp_path / "s.pub", code=1).stderr


def tampered(made: Project, folder: Path, signer: keys.PrivateKey) -> Bundle:
    """Return the bundle as an evil build would publish it, with the true provenance.

    Other weights, another promise, another bill of materials, and files that no recipe mentions.
    """
    bundle, store = stored(made), Store(folder / "evil")
    files = {path: bundle.read(path) for path, _ in bundle.tree if path not in (RECORD, SBOM)}
    graph = ModelProto.FromString(files["model/model.onnx"])
    weight = graph.graph.initializer[0]
    weight.raw_data = weight.raw_data[:-1] + bytes([weight.raw_data[-1] ^ 1])
    files["model/model.onnx"] = graph.SerializeToString(deterministic=True)
    contract = json.loads(files[CONTRACT])
    contract["runs-on"]["onnxruntime"]["versions"] = ">=1.10"
    files[CONTRACT] = dump(contract)
    published = sign(bundles.make(store, files, "cnn", "1.2.3"), signer)
    return attest(published, slsa.PREDICATE, provenance(made), signer)


def test_every_file_that_differs_is_explained(built: Project, tmp_path: Path) -> None:
    published = tampered(built, tmp_path, keys.generate_key("p256"))
    found = {item.path: " ".join(item.words) for item in rebuild.list_differences(published, stored(built))}
    assert "`constants." in found["model/model.onnx"]
    assert '`runs-on.onnxruntime.versions` was ">=1.10", is ">=1.17"' in found[CONTRACT]
    assert list(found)[-2:] == ["bundle.json", "sbom.cdx.json"], "what follows from the others comes last"
    added = {"MODEL_CARD.md", "model/weights-0001.bin"}
    assert set(found) == {"model/model.onnx", CONTRACT, "bundle.json", "sbom.cdx.json"} | added
    assert {found[path] for path in added} == {"is missing from what was rebuilt"}


@pytest.mark.slow
def test_a_bundle_that_does_not_follow_from_its_provenance_is_told_apart(built: Project, tmp_path: Path) -> None:
    site = elsewhere(built, tmp_path / "site")
    signer = keys.generate_key("p256")
    keys.save(signer, site.folder / "evil.pem", site.folder / "evil.pub", None)
    copy.save(tampered(built, tmp_path, signer), site.folder / "evil.tar")
    source = built.folder / "model" / "model.pt2"
    answer = site.run(
        "rebuild", "evil.tar", "--key", "evil.pub", "--source", source, "--json", "-o", "true.tar", code=1
    )
    assert not answer["identical"]
    assert {item["path"] for item in answer["differences"]} >= {"model/model.onnx", CONTRACT}
    kept = open_bundle(str(site.folder / "true.tar"), lambda: Store(site.store))
    assert answer["rebuilt"] == kept.digest == stored(built).digest


# what is stated


def test_the_parts_that_vary_are_apart_from_those_that_do_not(built: Project) -> None:
    """The definition is a function of recipe, lock and source; a build that ran nothing adds nothing."""
    before = provenance(built)
    built.run("build", "--locked", PACKAGER_BUILDER="https://other.example/builder", TZ="Asia/Tokyo")
    assert provenance(built) == before
    try:
        built.write(CNN_RECIPE + "license: MIT\n")
        built.run("build", "--locked", "--replace", PACKAGER_BUILDER="https://other.example/builder")
        changed = provenance(built)
    finally:
        built.write(CNN_RECIPE)
        built.run("build", "--locked", "--replace")
    assert changed["buildDefinition"]["externalParameters"]["recipe"]["license"] == "MIT"
    assert changed["runDetails"]["builder"]["id"] == "https://other.example/builder"
    assert provenance(built)["buildDefinition"] == before["buildDefinition"]


def test_it_is_complete(built: Project) -> None:
    made = provenance(built)
    read = slsa.parse(made)
    lock = json.loads((built.folder / "bundle.lock").read_bytes())
    assert read.lock == lock
    assert read.facts is not None
    assert read.facts["targets"]["onnxruntime-cpu-fp32"]["cases"]
    rows = made["buildDefinition"]["resolvedDependencies"]
    digests = {row["digest"]["sha256"] for row in rows if "digest" in row}
    assert lock["source"]["tree"].removeprefix("sha256:") in digests
    wheels = [
        wheel for one in lock["dependencies"]["runtimes"].values() for w in one["platforms"].values() for wheel in w
    ]
    assert {wheel[3] for wheel in wheels} <= digests
    assert {f"pkg:pypi/torch@{lock['toolchain']['torch']}"} <= {row.get("uri") for row in rows}
    steps = {row["name"] for row in made["runDetails"]["byproducts"] if row["name"].startswith("step ")}
    assert steps >= {"step export", "step measure"}
    assert set(read_drafts(stored(built))) == {
        slsa.PREDICATE,
        reference_outputs.PREDICATE,
        "https://cyclonedx.org/bom",
        stated_facts.SCAN,
    }


def test_reference_outputs_are_stated_for_the_inputs_in_the_bundle(built: Project) -> None:
    bundle = stored(built)
    stated = read_drafts(bundle)[reference_outputs.PREDICATE]
    inside = {path: blob.digest.removeprefix("sha256:") for path, blob in bundle.tree if path.startswith("vectors/")}
    assert {row["name"]: row["digest"]["sha256"] for row in stated["inputs"]} == inside
    (file, *_) = stated["outputs"]
    assert file["name"] == "outputs.json" or file["content"]
    assert not any("outputs" in path for path, _ in bundle.tree)


CHECK = """
import json, sys
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
value = json.load(open(sys.argv[1]))
Statement.copy_from_pb(json_format.ParseDict(value, statement_pb2.Statement())).validate()
made = json_format.ParseDict(value["predicate"], provenance_pb2.Provenance())  # refuses what the schema lacks
for item in [*made.build_definition.resolved_dependencies, *made.run_details.byproducts]:
    ResourceDescriptor.copy_from_pb(item).validate()
print(made.build_definition.build_type, len(made.build_definition.resolved_dependencies))
"""


def test_in_totos_own_schema_accepts_it(built: Project, tmp_path: Path) -> None:
    bundle = stored(built)
    statement = intoto.Statement(slsa.PREDICATE, "cnn:1.2.3", bundle.digest.removeprefix("sha256:"), provenance(built))
    (tmp_path / "statement.json").write_bytes(statement.to_bytes())
    python = environments.python_with("in-toto-attestation==0.9.3", "protobuf==6.33.0")
    said = environments.run(python, CHECK, tmp_path / "statement.json")
    assert said.split()[0] == slsa.BUILD_TYPE


# the two models of the examples


def published(made: Project, site: Project, name: str, *options: str | Path, **variables: str) -> str:
    """Push a signed file to a registry, rebuild it from there with nothing on disk; return the digest that came out."""
    with registry_server.registry(tool("docker-registry"), made.folder / "registry") as running:
        address = f"oci://{running.host}/models/{name}:published"
        made.run("push", f"{name}.bundle.tar", address)
        (site.folder / f"{name}.bundle.tar").unlink()
        started = time.monotonic()
        found = site.run("rebuild", address, *KEY, *options, "--json", **variables)
        print(f"{name}: rebuilt from the registry in {time.monotonic() - started:.1f} s")
    assert found["identical"]
    assert found["differences"] == []
    return str(found["rebuilt"])


@pytest.mark.slow
def test_the_digits_demo(tmp_path: Path) -> None:
    """Registered in MLflow, built, signed, pushed; rebuilt with nothing but the two registries and the key."""
    made = Project(tmp_path / "made", tmp_path / "made" / "store", {"MLFLOW_DISABLE_TELEMETRY": "true"})
    made.folder.mkdir()
    subprocess.run([sys.executable, EXAMPLES / "digits" / "train.py", made.folder], check=True, capture_output=True)
    registry = f"sqlite:///{made.folder}/mlflow.db"
    made.run("init", "models:/digits@champion", MLFLOW_TRACKING_URI=registry)
    (made.folder / "CARD.md").write_text("# Digits\n")
    with (made.folder / "bundle.yaml").open("a") as recipe:
        recipe.write("license: Apache-2.0\ncard: CARD.md\n")
    made.run("lock", MLFLOW_TRACKING_URI=registry)
    answer = made.run("build", "--locked", "--json", MLFLOW_TRACKING_URI=registry)
    made.run("keygen", "release")
    made.run("sign", f"digits:{answer['version']}", "--key", "release.pem", "-o", "digits.bundle.tar")
    site = elsewhere(made, tmp_path / "site", "digits.bundle.tar")
    variables = {"MLFLOW_TRACKING_URI": registry, "MLFLOW_DISABLE_TELEMETRY": "true"}
    assert published(made, site, "digits", **variables) == answer["digest"]


@pytest.mark.slow
def test_the_sentence_encoder(encoder: Path, tmp_path: Path) -> None:
    made = Project(tmp_path / "made", tmp_path / "made" / "store")
    made.folder.mkdir()
    shutil.copytree(encoder, made.folder / "model")
    shutil.copy(EXAMPLES / "sentence-encoder" / "bundle.yaml", made.folder)
    made.run("lock")
    answer = made.run("build", "--locked", "--json")
    made.run("keygen", "release")
    made.run(
        "sign", f"sentence-encoder:{answer['version']}", "--key", "release.pem", "-o", "sentence-encoder.bundle.tar"
    )
    site = elsewhere(made, tmp_path / "site", "sentence-encoder.bundle.tar")
    assert published(made, site, "sentence-encoder", "--source", encoder) == answer["digest"]
