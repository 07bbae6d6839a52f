# SPDX-License-Identifier: Apache-2.0
"""Reference vectors: small, the same everywhere, and readable with other people's tools."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load

from packager.formats import safetensors
from packager.steps import _cases, _vectors, measure
from tests.unit.steps.conftest import Exported

MIXED: dict[str, Any] = {
    "inputs": [
        {"name": "age", "dtype": "float32", "shape": ["batch", 1]},
        {"name": "text", "dtype": "string", "shape": ["batch", 1]},
    ],
    "outputs": [
        {"name": "label", "dtype": "string", "shape": ["batch"]},
        {"name": "p", "dtype": "float32", "shape": [2]},
    ],
    "dimensions": {"batch": {"min": 1, "max": 8}},
}
KINDS = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"])


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        KINDS.flatmap(lambda kind: arrays.arrays(kind, arrays.array_shapes(max_dims=3, max_side=4))),
    )
)
def test_the_library_reads_what_we_write(tensors: dict[str, Any]) -> None:
    data = safetensors.dump({name: (a.dtype.name, a.shape, a.tobytes()) for name, a in tensors.items()})
    read = load(data)
    assert set(read) == set(tensors)
    assert all(read[name].tobytes() == a.tobytes() and read[name].shape == a.shape for name, a in tensors.items())
    assert int.from_bytes(data[:8], "little") % 8 == 0


def test_a_type_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no type for complex64"):
        safetensors.dump({"x": ("complex64", (1,), bytes(8))})


def test_the_vectors_of_a_measurement(exported: Exported, tmp_path: Path) -> None:
    """The inputs are those that were measured on; the outputs are what the source makes of them."""
    import torch

    known = {"interface": exported.facts["interface"], "ranges": exported.facts["ranges"]}
    facts = measure.run({"source": exported.source}, tmp_path, {**exported.params, **known})
    assert facts["cases"] == []
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert index["omitted"] == [] and {row["lengths"]["batch"] for row in index["cases"]} >= {1, 2, 11, 16}
    outputs = load((tmp_path / "outputs.safetensors").read_bytes())
    program = torch.export.load(exported.source / "m.pt2").module()
    for row in index["cases"]:
        feeds = load((tmp_path / "inputs" / f"{row['file']}.safetensors").read_bytes())
        assert feeds["image"].shape == (row["lengths"]["batch"], 1, 8, 8)
        expected = program(torch.from_numpy(feeds["image"])).detach().numpy()
        np.testing.assert_allclose(outputs[f"{row['file']}/scores"], expected, atol=1e-6)
    total = sum(path.stat().st_size for path in (tmp_path / "inputs").iterdir())
    assert total <= _vectors.MAX_BYTES + 1024 * len(index["cases"])


def test_an_artefact_changes_nothing_about_them(exported: Exported, tmp_path: Path) -> None:
    known = {"interface": exported.facts["interface"], "ranges": exported.facts["ranges"]}
    target = {"runtime": "onnxruntime", "path": "model/model.onnx", "device": "cpu"}
    for name, more in (("alone", {}), ("with", {"artefact": exported.tree})):
        (tmp_path / name).mkdir()
        measure.run({"source": exported.source, **more}, tmp_path / name, {**exported.params, **known, **target})
    files = {p.relative_to(tmp_path / "with") for p in (tmp_path / "with").rglob("*") if p.is_file()}
    files = {path for path in files if path.parts[0] != measure.MISSES}  # where they differ; no part of a bundle
    assert files and all((tmp_path / "alone" / f).read_bytes() == (tmp_path / "with" / f).read_bytes() for f in files)


def test_text_travels_as_the_protocol_writes_it(tmp_path: Path) -> None:
    cases = _cases.build_cases(MIXED)
    vectors = _vectors.Vectors(tmp_path, MIXED, cases)
    for case in cases:
        vectors.add(
            case,
            _cases.draw_feeds(MIXED, {}, case, 0),
            [np.array(["yes"] * case.lengths["batch"]), np.zeros(2, "float32")],
        )
    vectors.write(cases, 0)
    row = json.loads((tmp_path / "index.json").read_bytes())["cases"][0]
    (text,) = json.loads((tmp_path / "inputs" / f"{row['file']}.json").read_bytes())["inputs"]
    assert text["name"] == "text" and text["datatype"] == "BYTES" and text["shape"] == [row["lengths"]["batch"], 1]
    assert text["data"] == _cases.draw_feeds(MIXED, {}, cases[0], 0)["text"].reshape(-1).tolist()
    assert set(load((tmp_path / "inputs" / f"{row['file']}.safetensors").read_bytes())) == {"age"}
    assert json.loads((tmp_path / "outputs.json").read_bytes())[f"{row['file']}/label"]["data"][0] == "yes"


def test_what_is_too_large_stays_and_is_named() -> None:
    port = {"name": "image", "dtype": "float32", "shape": ["batch", 3, 224, 224]}
    interface = {"inputs": [port], "outputs": [], "dimensions": {"batch": {"min": 1, "max": 64}}}
    cases = _cases.build_cases(interface)
    with tempfile.TemporaryDirectory() as folder:
        vectors = _vectors.Vectors(Path(folder), interface, cases)
        vectors.write([], 0)
        index = json.loads((Path(folder) / "index.json").read_bytes())
    assert {"name": "batch=2", "bytes": 2 * 3 * 224 * 224 * 4} in index["omitted"]
    assert len(index["omitted"]) == len(cases) - 1, "one image of 602 kB fits into a megabyte"


def test_outputs_too_large_to_sign_are_named(tmp_path: Path) -> None:
    """A row of a kilobyte may become a megabyte; what travels is signed whole, so both are bounded."""
    port = {"name": "x", "dtype": "float32", "shape": ["batch", 2]}
    interface = {
        "inputs": [port],
        "outputs": [{"name": "y", "dtype": "float32"}],
        "dimensions": {"batch": {"min": 1, "max": 8}},
    }
    cases = _cases.build_cases(interface)
    vectors = _vectors.Vectors(tmp_path, interface, cases)
    for case in cases:
        vectors.add(
            case, _cases.draw_feeds(interface, {}, case, 0), [np.zeros((case.lengths["batch"], 100_000), "float32")]
        )
    vectors.write(cases, 0)
    index = json.loads((tmp_path / "index.json").read_bytes())
    assert 0 < (tmp_path / "outputs.safetensors").stat().st_size < _vectors.MAX_OUTPUTS + 4096
    assert {row["name"] for row in index["cases"]} | {row["name"] for row in index["omitted"]} == {
        c.name for c in cases
    }
    assert {row["name"] for row in index["cases"]} >= {"batch=1"} and "batch=8" in {r["name"] for r in index["omitted"]}
    assert len(list((tmp_path / "inputs").iterdir())) == len(index["cases"])
