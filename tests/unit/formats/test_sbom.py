# SPDX-License-Identifier: Apache-2.0
"""The SBOM: valid whatever it describes, equal for equal bundles, complete, and the same in its other forms."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from spdx_python_model.bindings import v3_0_1

from packager.canonical import sha256
from packager.errors import UsageError
from packager.formats import cyclonedx, cyclonedx_libraries, spdx, spdx3
from packager.formats.model_cards import read_card
from packager.formats.wheel_locks import Dependencies, DistributionMetadata, Wheel
from packager.policy import completeness
from packager.types import Blob
from tests.unit.formats.test_model_cards import CARD

PLATFORM, OTHER = "linux_x86_64-cp311", "linux_x86_64-cp312"
ARRAYS = Wheel(
    "numpy", "2.4.6", "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl", "a1" * 32, "https://files.pythonhosted.org/n"
)
NEWER = Wheel("numpy", "2.5.5", "numpy-2.5.5-cp312-cp312-manylinux_2_28_x86_64.whl", "a2" * 32)
ENGINE = Wheel("onnxruntime", "1.31.1", "onnxruntime-1.31.1-py3-none-any.whl", "b1" * 32)
LOCAL = Wheel("torch", "2.9.0+cu128", "torch-2.9.0+cu128-py3-none-any.whl", "c1" * 32)
LOCKED = Dependencies(
    {"onnxruntime": ("onnxruntime>=1.17", "torch")},
    {"onnxruntime": {PLATFORM: (ARRAYS, ENGINE, LOCAL), OTHER: (NEWER, ENGINE, LOCAL)}},
    {
        ARRAYS.pin: DistributionMetadata("BSD-3-Clause", None, "Ada", "arrays", "https://numpy.org"),
        NEWER.pin: DistributionMetadata("BSD-3-Clause", None, "Ada", "arrays", "https://numpy.org"),
        ENGINE.pin: DistributionMetadata(
            "MIT", None, "Microsoft", requires=("numpy>=1.21", 'sympy; extra == "symbolic"', "!broken!")
        ),
        LOCAL.pin: DistributionMetadata(None, "BSD License", requires=('numpy ; python_version < "3.12"',)),
    },
    ("https://download.pytorch.org/whl/cu128",),
)
FILES = [
    ("deps/onnxruntime/wheels/" + ENGINE.file, Blob("sha256:" + ENGINE.sha256, 3)),
    ("model/model.onnx", Blob(sha256(b"x"), 1)),
    ("model/weights-0000.bin", Blob(sha256(b"w"), 1)),
]
TARGETS = {"onnxruntime-cpu-fp32": "model/model.onnx"}


def model(**changes: Any) -> cyclonedx.Model:
    known: dict[str, Any] = {
        "name": "m",
        "version": "1.0.0+build",
        "licence": "Apache-2.0",
        "description": "d",
        "authors": ("Ada",),
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch"]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch"]}],
        "origin": "models:/m/3",
        "origin_digest": sha256(b"t"),
        "kind": "onnx",
        "datasets": [
            {"name": "digits", "uri": "https://example.org/d", "license": "CC-BY-4.0", "digest": sha256(b"d")}
        ],
    }
    return cyclonedx.Model(**{**known, **changes})


def made(**changes: Any) -> dict[str, Any]:
    return dict(json.loads(cyclonedx.describe(model(**changes), FILES, TARGETS, LOCKED, {"torch": "2.13.0"})))


words = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=15, deadline=None)  # the validator takes 0.1 s
@given(
    st.none() | st.sampled_from(["MIT", "Apache-2.0 OR MIT", "LicenseRef-Own"]),
    st.none() | words,
    st.lists(words, max_size=2),
    st.lists(
        st.fixed_dictionaries({"name": words}, optional={"license": st.just("MIT"), "classification": words}),
        max_size=2,
        unique_by=lambda item: item["name"],
    ),
    st.none() | words,
)
def test_any_sbom_is_valid_in_both_versions(
    licence: str | None, description: str | None, authors: list[str], datasets: list[dict[str, str]], card: str | None
) -> None:
    """The judge is CycloneDX's own strict validator."""
    described = model(licence=licence, description=description, authors=tuple(authors), datasets=datasets)
    data = cyclonedx.describe(described, FILES, TARGETS, LOCKED, {})
    assert data == cyclonedx.describe(described, FILES, TARGETS, LOCKED, {})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    newer = json.dumps(cyclonedx.as_version(json.loads(data), "1.7"))
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(newer) is None


def test_what_a_card_declares_is_in_the_sbom_and_valid() -> None:
    card = read_card(CARD, "README.md")
    data = cyclonedx.describe(model(declared=card, card="MODEL_CARD.md"), FILES, TARGETS, LOCKED, {})
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    bom = json.loads(data)
    newer = json.dumps(cyclonedx.as_version(bom, "1.7"))
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(newer) is None
    spdx.convert(bom)
    component = bom["metadata"]["component"]
    said = component["modelCard"]
    assert said["modelParameters"]["task"] == "text-classification"
    assert said["quantitativeAnalysis"]["performanceMetrics"][0] == {
        "type": "accuracy",
        "value": "0.9105504587155964",
        "slice": "glue validation",
    }
    assert said["considerations"]["technicalLimitations"] == ["Worse on irony.", "Medical advice."]
    assert [item["name"] for item in component["pedigree"]["ancestors"]] == [
        "models:/m/3",
        "distilbert/distilbert-base-uncased",
    ]
    assert [item["name"] for item in bom["components"] if item["type"] == "data"] == ["digits", "sst2", "glue"]
    assert completeness.assess_sbom(bom, signed=True).clusters["KPI"][0].filled


def test_every_wheel_and_file_is_there_with_its_hash() -> None:
    hashes = {row["content"] for item in completeness.list_components(made()) for row in item.get("hashes", [])}
    assert {wheel.sha256 for wheel in (ARRAYS, NEWER, ENGINE, LOCAL)} <= hashes
    assert {blob.digest.removeprefix("sha256:") for _, blob in FILES} <= hashes


def test_edges_follow_the_markers_of_each_platform() -> None:
    edges = {row["ref"]: set(row.get("dependsOn", [])) for row in made()["dependencies"]}
    one, two = cyclonedx_libraries.write_purl("numpy", "2.4.6"), cyclonedx_libraries.write_purl("numpy", "2.5.5")
    assert edges[cyclonedx_libraries.write_purl("onnxruntime", "1.31.1")] == {one, two}
    assert edges["pkg:pypi/torch@2.9.0%2Bcu128"] == {one}, "its marker excludes the other platform"
    assert {"pkg:pypi/torch@2.9.0%2Bcu128", "file:model/model.onnx"} <= edges["pkg:generic/m@1.0.0%2Bbuild"]
    assert one not in edges["pkg:generic/m@1.0.0%2Bbuild"], "only what is asked for directly"


def test_the_parts_have_their_roles() -> None:
    bom = made()
    roles = {
        part["name"]: {row["value"] for row in part["properties"]}
        for part in bom["components"]
        if part["type"] == "file"
    }
    assert {"graph", "onnxruntime-cpu-fp32"} <= roles["model/model.onnx"]
    assert "weights" in roles["model/weights-0000.bin"]
    assert bom["metadata"]["component"]["pedigree"]["ancestors"][0]["name"] == "models:/m/3"
    assert bom["formulation"][0]["components"][0] == {
        "type": "application",
        "bom-ref": "tool:torch",
        "name": "torch",
        "version": "2.13.0",
    }
    (wheel,) = [part for item in bom["components"] if item["name"] == "onnxruntime" for part in item["components"]]
    assert {"name": "packager:path", "value": FILES[0][0]} in wheel["properties"]
    text = json.dumps(bom)
    assert "timestamp" not in text
    assert "https://download.pytorch.org/whl/cu128" in text


def test_the_serial_number_follows_the_content() -> None:
    assert made()["serialNumber"] == made()["serialNumber"]
    assert made()["serialNumber"] != made(description="other")["serialNumber"]


def test_missing_elements_are_reported_with_their_remedy() -> None:
    full = completeness.assess_sbom(made(), signed=True)
    bare = completeness.assess_sbom(made(licence=None, description=None, authors=(), datasets=[]), signed=False)
    names = (
        "Metadata",
        "System level properties",
        "Models",
        "Dataset properties",
        "KPI",
        "Infrastructure",
        "Security properties",
    )
    assert tuple(full.clusters) == names
    for name in ("Metadata", "System level properties", "Models", "Dataset properties", "Security properties"):
        assert sum(item.filled for item in full.clusters[name]) > sum(item.filled for item in bare.clusters[name]), name
    assert not [item for items in bare.clusters.values() for item in items if not item.filled and not item.remedy]
    assert [item.name for item in full.ntia if not item.filled] == ["supplier name", "timestamp"]
    assert "torch" in next(item.remedy for item in full.ntia if item.name == "supplier name")
    assert set(full.unlicensed) == {"torch", LOCAL.file}
    assert full.licensed_share == pytest.approx(1 - 2 / (sum(full.licences.values()) + 2))


def test_spdx_has_the_same_components_and_edges() -> None:
    bom = made()
    value = json.loads(spdx.convert(bom))
    assert spdx.convert(bom) == spdx.convert(made())
    assert len(value["packages"]) == 1 + len(list(completeness.list_components(bom)))
    assert len({package["SPDXID"] for package in value["packages"]}) == len(value["packages"])
    known = {package["SPDXID"] for package in value["packages"]} | {"SPDXRef-DOCUMENT"}
    assert all({row["spdxElementId"], row["relatedSpdxElement"]} <= known for row in value["relationships"])
    licences = {package["name"]: package["licenseDeclared"] for package in value["packages"]}
    assert licences["torch"] == "LicenseRef-BSD-License"
    assert value["hasExtractedLicensingInfos"][0]["licenseId"] == "LicenseRef-BSD-License"
    assert ENGINE.sha256 in json.dumps(value)


# SPDX 3


def elements(data: bytes) -> dict[str, list[dict[str, Any]]]:
    """Return the elements of a document by type, once the SPDX project's own classes have read all of it."""
    read = v3_0_1.SHACLObjectSet()
    v3_0_1.JSONLDDeserializer().read(io.BytesIO(data), read)
    assert read.link() == set(), "every reference leads to an element"
    v3_0_1.JSONLDSerializer().write(read, io.BytesIO())  # which checks how many values each member has
    found: dict[str, list[dict[str, Any]]] = {}
    for item in json.loads(data)["@graph"]:
        found.setdefault(item["type"], []).append(item)
    return found


def test_spdx_3_has_the_model_as_an_ai_package_and_the_same_components() -> None:
    card = read_card(CARD, "README.md")
    described = model(declared=card, card="MODEL_CARD.md", publisher="publisher@example.com")
    bom = json.loads(cyclonedx.describe(described, FILES, TARGETS, LOCKED, {}))
    data = spdx3.convert(bom)
    assert data == spdx3.convert(bom)
    found = elements(data)
    main = next(item for item in found["ai_AIPackage"] if item["name"] == "m")
    assert main["ai_typeOfModel"] == ["text-classification"]
    assert (
        "Worse on irony." in main["ai_limitation"]
        and "input x: float32[batch]" in main["ai_informationAboutApplication"]
    )
    assert main["ai_metric"][0]["value"] == "0.9105504587155964"
    source = next(item for item in found["ai_AIPackage"] if item["name"] == "models:/m/3")
    assert "publisher@example.com" in source["comment"]
    kinds = ("ai_AIPackage", "dataset_DatasetPackage", "software_File", "software_Package")
    ancestors = len(bom["metadata"]["component"]["pedigree"]["ancestors"])
    assert sum(len(found[kind]) for kind in kinds) == 1 + ancestors + len(list(completeness.list_components(bom)))
    edges = {item["relationshipType"] for item in found["Relationship"]}
    assert edges == {"contains", "dependsOn", "trainedOn", "descendantOf", "hasDeclaredLicense"}
    assert ENGINE.sha256 in data.decode()
    (own,) = found["simplelicensing_SimpleLicensingText"]
    assert own["simplelicensing_licenseText"] == "BSD License"


def test_spdx_3_claims_the_ai_profile_only_with_what_it_demands() -> None:
    whole = spdx3.Publication("2027-01-31T00:00:00Z", "oci://registry.example/models/m")
    for published, authors, claimed in (
        (whole, ("Ada",), True),
        (whole, (), False),
        (spdx3.Publication("2027-01-31T00:00:00Z"), ("Ada",), False),
        (spdx3.UNKNOWN, ("Ada",), False),
    ):
        found = elements(spdx3.convert(made(authors=authors), published))
        assert ("ai" in found["SpdxDocument"][0]["profileConformance"]) == claimed
        main = next(item for item in found["ai_AIPackage"] if item["name"] == "m")
        demanded = {"suppliedBy", "releaseTime", "software_downloadLocation", "software_packageVersion"}
        assert (demanded <= main.keys()) == claimed
    for wrong in (spdx3.Publication("yesterday"), spdx3.Publication(None, "my place")):
        with pytest.raises(UsageError):
            spdx3.convert(made(), wrong)


@settings(max_examples=15, deadline=None)
@given(st.none() | words, st.lists(words, max_size=2), st.lists(words, max_size=2, unique=True), st.none() | words)
def test_any_sbom_is_valid_spdx_3(
    description: str | None, authors: list[str], datasets: list[str], own: str | None
) -> None:
    rows = [{"name": name} for name in datasets]
    licence = None if own is None else "LicenseRef-Own"
    described = model(description=description, authors=tuple(authors), datasets=rows, licence=licence)
    elements(spdx3.convert(json.loads(cyclonedx.describe(described, FILES, TARGETS, LOCKED, {}))))
