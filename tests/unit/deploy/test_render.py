# SPDX-License-Identifier: Apache-2.0
"""A rendered repository says everything, in Triton's own words; no knob gets out of its place in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from packager import canonical
from packager.bundle.knobs import knob_schema
from packager.deploy.renderers._modelconfig import config_text
from packager.deploy.triton import render
from packager.deploy.triton.repository import Directory
from packager.errors import UsageError, WrongContentError
from packager.formats import safetensors
from packager.knobs import catalogue, knobs
from packager.knobs.knobs import Override, Resolved
from packager.store.store import Store
from tests.support import bundles
from tests.support.breadth import examples

CONTRACT = copy.deepcopy(bundles.CONTRACT_OF_TINY)
CONTRACT["runs-on"]["triton"] = {"versions": ">=23.07", "loads": ">=23.04"}
CONTRACT["targets"]["triton-cpu-fp32"] = {**CONTRACT["targets"]["onnxruntime-cpu-fp32"], "runtime": "triton"}
INDEX = {
    "format": 1,
    "seed": 0,
    "max_bytes": 1,
    "omitted": [],
    "cases": [{"name": "one", "file": "01-one", "lengths": {}, "fill": "random"}],
}
VECTOR = safetensors.dump({"x": ("float32", (2, 4), bytes(range(32)))})


def files(contract: dict = CONTRACT, **more: bytes) -> dict:
    return {
        "contract.json": canonical.dump(contract),
        "vectors/index.json": canonical.dump(INDEX),
        "vectors/inputs/01-one.safetensors": VECTOR,
        knobs.FILE: catalogue.schema_bytes(contract),
        **more,
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    return bundles.make(Store(tmp_path_factory.mktemp("store")), files())


def resolved(bundle, *wishes: Override) -> Resolved:
    return knobs.resolve(knob_schema(bundle), bundle.digest, wishes)


def config(path: Path):
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def everything(root: Path) -> Iterator[str]:
    yield from (str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())


def test_a_repository_of_the_python_backend(bundle, tmp_path: Path) -> None:
    values = resolved(bundle, Override("triton.instances", "2", "--set"), Override("batch.max", "4", "--set"))
    model = render.render_triton(bundle, values, Directory(tmp_path), "python", {})
    assert (model.number, model.before, model.created) == (1, None, True)
    assert list(everything(tmp_path)) == [
        "tiny/1/config.pbtxt",
        "tiny/1/deployment.json",
        "tiny/1/model.onnx",
        "tiny/1/model.py",
        "tiny/1/weights-0001.bin",
        "tiny/config.pbtxt",
        "tiny/warmup/1-01-one.0",
    ]
    found = config(tmp_path / "tiny" / "config.pbtxt")
    assert (found.name, found.backend, found.max_batch_size, found.instance_group[0].count) == ("tiny", "python", 4, 2)
    assert list(found.input[0].dims) == [4]
    assert list(found.version_policy.specific.versions) == [1]
    assert dict(found.metric_tags) == {"bundle": bundle.digest, "bundle_version": "1.0.0", "knobs": values.digest}
    warm = found.model_warmup[0]
    assert (warm.batch_size, list(warm.inputs["x"].dims), warm.inputs["x"].input_data_file) == (2, [4], "1-01-one.0")
    assert (tmp_path / "tiny" / "warmup" / "1-01-one.0").read_bytes() == bytes(range(32))


def test_no_warm_up_is_larger_than_the_largest_batch(bundle, tmp_path: Path) -> None:
    """The server would crash."""
    render.render_triton(
        bundle, resolved(bundle, Override("batch.max", "1", "--set")), Directory(tmp_path), "python", {}
    )
    found = config(tmp_path / "tiny" / "config.pbtxt")
    assert (found.max_batch_size, len(found.model_warmup)) == (1, 0)


def test_the_native_backend_and_a_site(bundle, tmp_path: Path) -> None:
    """The version is the same for all sites; only configs/<site>.pbtxt differs."""
    values = resolved(bundle, Override("triton.max_queue", "7", "--set"))
    for site in ("berlin", "oslo"):
        model = render.render_triton(bundle, resolved(bundle), Directory(tmp_path), "native", {site: values})
        assert model.number == 1
    site, default = (config(tmp_path / "tiny" / name) for name in ("configs/oslo.pbtxt", "config.pbtxt"))
    assert site.backend == "onnxruntime"
    assert site.default_model_filename == "model.onnx"
    assert site.dynamic_batching.default_queue_policy.max_queue_size == 7
    assert default.dynamic_batching.default_queue_policy.max_queue_size == 128
    with pytest.raises(UsageError, match="no name of a site"):
        render.render_triton(bundle, resolved(bundle), Directory(tmp_path), "native", {"../x": values})


def test_the_same_again_is_the_same_version_and_another_is_the_next(bundle, tmp_path: Path) -> None:
    other = resolved(bundle, Override("triton.threads", "2", "--set"))
    made = [
        render.render_triton(bundle, values, Directory(tmp_path), "python", {})
        for values in (resolved(bundle), resolved(bundle), other)
    ]
    assert [(model.number, model.before, model.created) for model in made] == [
        (1, None, True),
        (1, 1, False),
        (2, 1, True),
    ]
    render.render_triton(bundle, resolved(bundle), Directory(tmp_path), "python", {})
    assert render.find_active(Directory(tmp_path), "tiny") == 1


def test_engines_are_chosen_by_compute_capability(tmp_path: Path) -> None:
    contract = copy.deepcopy(CONTRACT)
    for device in ("sm_80", "sm_120"):
        contract["targets"][f"tensorrt-{device}-fp16"] = {
            **contract["targets"]["triton-cpu-fp32"],
            "runtime": "tensorrt",
            "device": device,
            "precision": "fp16",
            "path": f"targets/tensorrt-{device}-fp16/model.engine",
        }
    engines = {f"targets/tensorrt-{device}-fp16/model.engine": device.encode() for device in ("sm_80", "sm_120")}
    bundle = bundles.make(Store(tmp_path / "store"), files(contract, **engines))
    values = resolved(bundle, Override("triton.devices", "0,1", "--set"))
    render.render_triton(bundle, values, Directory(tmp_path / "models"), "native", {})
    found = config(tmp_path / "models" / "tiny" / "config.pbtxt")
    assert dict(found.cc_model_filenames) == {"8.0": "sm_80.plan", "12.0": "sm_120.plan"}
    assert list(found.instance_group[0].gpus) == [0, 1]
    assert (tmp_path / "models" / "tiny" / "1" / "sm_80.plan").read_bytes() == b"sm_80"


def test_a_bundle_without_the_promise_is_refused(tmp_path: Path) -> None:
    bundle = bundles.make(Store(tmp_path / "store"))
    with pytest.raises(UsageError, match="no promise for Triton"):
        render.render_triton(bundle, resolved(bundle), Directory(tmp_path / "models"), "native", {})
    assert not (tmp_path / "models").exists()


def test_bytes_that_are_not_signed_are_not_deployed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    bundle = bundles.make(store, files())
    blob = bundle.tree.get("model/weights-0001.bin")
    victim = next(path for path in store.root.rglob(blob.digest.removeprefix("sha256:")))
    victim.chmod(0o644)
    victim.write_bytes(bytes(victim.stat().st_size))
    with pytest.raises(WrongContentError, match=r"weights-0001.bin. is not what was signed"):
        render.render_triton(bundle, resolved(bundle), Directory(tmp_path / "models"), "python", {})
    assert list(everything(tmp_path / "models")) == ["tiny/warmup/1-01-one.0"], "no version, no configuration"


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
VALUE = st.one_of(st.booleans(), st.integers(-5, 70), TEXT, st.sampled_from(['"}', "a\n}", "../x", "berlin", "x\\"]))
NAME = st.sampled_from(
    [
        "batch.max",
        "triton.instances",
        "triton.threads",
        "triton.max_queue",
        "triton.warmup",
        "metrics.labels",
        "triton.queue_delay",
        "triton.backend",
        "server.host",
        "tls.key",
    ]
)


@given(st.lists(st.tuples(NAME, VALUE | st.dictionaries(TEXT | st.just("place"), VALUE, max_size=2)), max_size=4))
@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_accepted_overlay_touches_a_signed_file_or_leaves_its_place(bundle, tmp_path_factory, overlay: list) -> None:
    try:
        values = resolved(bundle, *(Override(name, value, "x", typed=True) for name, value in overlay))
    except UsageError:
        return
    root = tmp_path_factory.mktemp("models")
    render.render_triton(bundle, values, Directory(root / "repository"), "python", {"site": values})
    found = config(root / "repository" / "tiny" / "config.pbtxt")
    assert {path.split("/")[0] for path in everything(root)} == {"repository"}
    assert set(everything(root / "repository")) == {
        "tiny/config.pbtxt",
        "tiny/configs/site.pbtxt",
        "tiny/warmup/1-01-one.0",
        *(
            f"tiny/1/{name}"
            for name in ("config.pbtxt", "deployment.json", "model.onnx", "model.py", "weights-0001.bin")
        ),
    }
    version = root / "repository" / "tiny" / "1"
    assert (version / "model.onnx").read_bytes() == bundle.read("model/model.onnx")
    assert (version / "weights-0001.bin").read_bytes() == bundle.read("model/weights-0001.bin")
    assert set(found.parameters) == {"threads", "graph"}, "what the backend is told is fixed"
    assert found.parameters["graph"].string_value == "model.onnx"
    assert json.loads((version / "deployment.json").read_text())["knobs"] == values.digest


def test_text_of_protobuf_survives() -> None:
    name = 'a"\\\n\u00e9\x00}'
    text = config_text({"name": name, "max_batch_size": 3})
    assert text_format.Parse(text.decode(), model_config_pb2.ModelConfig()).name == name
