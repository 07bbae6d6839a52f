# SPDX-License-Identifier: Apache-2.0
"""The ModelPack config and the Kitfile say what a bundle's own files say, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packager import canonical
from packager.bundle import description, other_forms
from packager.bundle.bundle import SBOM
from packager.formats import modelpack
from packager.store.store import Store
from packager.types import Blob
from tests.support import bundles
from tests.unit.policy.test_sbom_scores import FULL, scored

CONTRACT: dict[str, Any] = {
    **bundles.CONTRACT_OF_TINY,
    "graph": {**bundles.CONTRACT_OF_TINY["graph"], "parameters": 784_519},  # type: ignore[dict-item]
    "targets": {
        "a": {"precision": "fp32"},
        "b": {"precision": "int8_dynamic"},
        "c": {"precision": "mixed"},
    },
}
CARD = FULL.replace("license: apache-2.0", "language: [en, de, cebuano]\nbase_model: acme/small-base")
ALLOWED = {  # members by the page about the config of the specification
    "descriptor": "createdAt authors family name docURL sourceURL datasetsURL version revision vendor licenses title description",
    "config": "architecture format paramSize precision quantization capabilities",
    "capabilities": "inputTypes outputTypes knowledgeCutoff reasoning toolUsage reward languages",
}


def config(contract: Any, sbom: Any) -> dict[str, Any]:
    about = description.describe("m", "1.0.0", contract, sbom)
    layer = modelpack.describe_layer("model/model.onnx", Blob("sha256:" + "0" * 64, 1))
    return dict(json.loads(modelpack.write_config(about, [layer])))


def test_weights_in_blocks_are_named() -> None:
    contract = {**CONTRACT, "targets": {"a": {"precision": "int4"}}}
    made = config(contract, scored(CARD, origin="./m"))["config"]
    assert (made["precision"], made["quantization"]) == ("int4", "onnxruntime-blockwise")


def test_everything_that_is_known_is_there() -> None:
    made = config(CONTRACT, scored(CARD, origin="hf://acme/model@" + "a" * 40))
    assert made["config"] == {
        "format": "onnx",
        "architecture": "A transformer of six layers.",
        "paramSize": "784.5K",
        "precision": "float16,float32,int8",
        "quantization": "onnxruntime-dynamic",
        "capabilities": {"inputTypes": ["text"], "outputTypes": ["other"], "languages": ["en", "de"]},
    }
    assert made["descriptor"] == {
        "name": "m",
        "version": "1.0.0",
        "description": "d",
        "licenses": ["Apache-2.0"],
        "authors": ["Ada"],
        "family": "small-base",
        "docURL": "https://model.example/about%20it",
        "sourceURL": "https://git.example/acme/model",
        "datasetsURL": ["https://example.org/d"],
        "revision": "a" * 40,
    }
    assert set(made["descriptor"]) <= set(ALLOWED["descriptor"].split())
    assert set(made["config"]) <= set(ALLOWED["config"].split())
    assert set(made["config"]["capabilities"]) <= set(ALLOWED["capabilities"].split())


def test_what_is_not_known_is_left_out() -> None:
    assert config({}, {})["descriptor"] == {"name": "m", "version": "1.0.0"}
    assert config({}, {})["config"] == {"format": "onnx"}


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (99, None),
        (100, "0.1K"),
        (650, "0.7K"),
        (999_949, "999.9K"),
        (999_950, "1.0M"),
        (134_515_008, "134.5M"),
        (6_738_415_616, "6.7B"),
        (True, None),
        ("many", None),
    ],
)
def test_parameters_have_one_digit_and_a_scale(count: object, text: str | None) -> None:
    assert description.parameter_size(count) == text
    assert text is None or re.fullmatch(r"[0-9]+(\.[0-9])?[QTBMK]", text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("metadata", "component", "modelCard", "licenses", "authors", "pedigree", "ancestors", "components", "data")


@settings(max_examples=150, deadline=None)
@given(VALUES, st.sampled_from(NAMES), VALUES)
def test_files_of_any_form_are_described(value: Any, name: str, other: Any) -> None:
    """A bundle of anyone is described before it is verified; what is malformed there is left out."""
    model = {"metadata": {"component": {name: value, "externalReferences": other}}, name: other, "components": value}
    made = config({"targets": {"t": value}, "graph": other}, model)
    assert made["descriptor"]["name"] == "m"
    config(other, value) if isinstance(other, dict) and isinstance(value, dict) else None


def test_the_kitfile_and_the_bundle_say_the_same(store: Store) -> None:
    sbom = canonical.dump(scored(CARD))
    bundle = bundles.make(store, {"contract.json": canonical.dump(CONTRACT), SBOM: sbom})
    kit = json.loads(other_forms.write_kitfile(bundle))
    assert kit["package"] == {
        "name": "tiny",
        "version": "1.0.0",
        "description": "d",
        "license": "Apache-2.0",
        "authors": ["Ada"],
    }
    assert kit["model"]["parameters"] == {
        "architecture": "A transformer of six layers.",
        "family": "small-base",
        "parameters": "784.5K",
        "precision": "float16,float32,int8",
        "quantization": "onnxruntime-dynamic",
    }
    assert (kit["model"]["format"], kit["model"]["license"]) == ("onnx", "Apache-2.0")
