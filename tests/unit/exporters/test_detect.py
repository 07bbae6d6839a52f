# SPDX-License-Identifier: Apache-2.0
"""Detection sees names and small files, chooses the same kind every time, and says what it looked for."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import onnxruntime
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from packager import exporters, plugins, scanners
from packager.errors import SourceError
from packager.exporters._files import bentoml, kinds, unknown
from packager.exporters._files import mlflow as _mlflow

KINDS = plugins.list_names("exporters")


def read_nothing(path: str) -> bytes:
    """Hand out a configuration, whose content decides whether it is a model itself; nothing else need be read."""
    assert path == "config.json", f"{path} was read"
    return b"{}"


def mlflow(flavor: str, **table: str) -> bytes:
    return yaml.safe_dump({"flavors": {flavor: table, "python_function": {"data": "somewhere"}}}).encode()


@pytest.mark.parametrize(
    ("paths", "kind", "payload"),
    [
        (["model.onnx"], "onnx", "model.onnx"),
        (["net.onnx", "net.onnx.data"], "onnx", "net.onnx"),
        (["net.pt2"], "pt2", "net.pt2"),
        (["net.pth"], "torch-pickle", "net.pth"),
        (["config.json", "model.safetensors"], "transformers", "."),
        (["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"], "transformers", "."),
        (["config.json", "model.safetensors", "onnx/model.onnx"], "transformers", "."),
    ],
)
def test_plain_sources(paths: list[str], kind: str, payload: str) -> None:
    assert exporters.detect_kind(paths, read_nothing) == (kind, payload)


@pytest.mark.parametrize(
    ("flavor", "table", "paths", "kind", "payload"),
    [
        ("pytorch", {"model_data": "data"}, ["data/model.pt2"], "pt2", "data/model.pt2"),
        ("pytorch", {"model_data": "data"}, ["data/model.pth"], "torch-pickle", "data/model.pth"),
        ("onnx", {"data": "model.onnx"}, ["model.onnx"], "onnx", "model.onnx"),
        ("transformers", {"model_binary": "m"}, ["m/config.json", "m/model.safetensors"], "transformers", "m"),
        (
            "sentence_transformers",
            {},
            ["somewhere/config.json", "somewhere/model.safetensors"],
            "transformers",
            "somewhere",
        ),
    ],
)
def test_mlflow_directories(flavor: str, table: dict[str, str], paths: list[str], kind: str, payload: str) -> None:
    files = {"MLmodel": mlflow(flavor, **table), **dict.fromkeys([*paths, "conda.yaml", "requirements.txt"], b"")}
    assert exporters.detect_kind(files, files.__getitem__) == (kind, payload)


def test_data_comes_before_code_in_any_order() -> None:
    for paths in itertools.permutations(["model.onnx", "model.pt2", "model.pth"]):
        assert exporters.detect_kind(paths, read_nothing) == ("onnx", "model.onnx")


def detected(files: dict[str, bytes]) -> tuple[str, str]:
    return exporters.detect_kind(files, files.__getitem__)


def refusal(files: dict[str, bytes]) -> SourceError:
    with pytest.raises(SourceError) as caught:
        detected(files)
    assert len(caught.value.message) < 300 and caught.value.hint and len(caught.value.hint) < 300
    return caught.value


def test_nothing_known_says_what_there_is_and_what_would_do() -> None:
    error = refusal({"README.md": b"# text", "weights.xyz": b"\xff\xfe\0\x01"})
    assert error.message == "the source holds no model of a known kind: got `README.md`, `weights.xyz`"
    assert all(word in str(error.hint) for word in ("ONNX", "skops", "CatBoost", "MLflow"))
    assert refusal({}).message.endswith("got no files")


def test_two_candidates_are_no_answer() -> None:
    error = refusal({"a.onnx": GRAPH, "b.onnx": GRAPH})
    assert error.message == "the source holds 2 models: `a.onnx` is an ONNX graph and `b.onnx` is an ONNX graph"
    assert error.hint == "name the one file as the source"


# by content

GRAPH = b"\x08\x08\x12\x07pytorch"


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Write one model in every form that its library writes, by the kind that opens it."""
    import joblib
    import lightgbm
    import numpy as np
    import skops.io
    import torch
    import xgboost

    folder = tmp_path_factory.mktemp("forms")
    features, labels = np.random.default_rng(0).random((60, 3)), np.arange(60) % 2
    boosted = xgboost.XGBClassifier(n_estimators=2).fit(features, labels)
    leaves = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(features, labels)
    network = torch.nn.Linear(3, 1).eval()
    boosted.save_model(folder / "xgboost.ubj")
    boosted.save_model(folder / "xgboost.json")
    leaves.booster_.save_model(folder / "lightgbm.x")
    skops.io.dump(leaves, folder / "sklearn.x")
    torch.save(network, folder / "torch-pickle.new")
    torch.save(network, folder / "torch-pickle.old", _use_new_zipfile_serialization=False)
    torch.jit.script(network).save(str(folder / "torchscript.x"))
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3),)), folder / "pt2.x")
    for protocol in (2, 3, 4, 5):
        (folder / f"sklearn-pickle.{protocol}").write_bytes(pickle.dumps(leaves, protocol))
    for form in ("zlib", "gzip", "bz2", "lzma", "xz"):
        joblib.dump(leaves, folder / f"sklearn-pickle.{form}", compress=(form, 3))
    joblib.dump(leaves, folder / "sklearn-pickle.joblib")
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {"onnx.x": GRAPH}


@pytest.mark.parametrize("ending", [".sav", ".model", ".bin", ".dat", ".lgbm", ".joblib.gz", ".pickle", ""])
def test_content_decides_whatever_the_ending(ending: str, forms: dict[str, bytes]) -> None:
    assert len(forms) == 19
    for name, data in forms.items():
        kind = name.partition(".")[0]
        assert detected({f"model{ending}": data, "README.md": b"# a model"}) == (kind, f"model{ending}"), name


def test_a_pickle_by_name_is_what_it_holds(forms: dict[str, bytes]) -> None:
    assert detected({"model.pkl": forms["torch-pickle.new"]}) == ("torch-pickle", "model.pkl")
    assert detected({"model.pkl": forms["lightgbm.x"]}) == ("lightgbm", "model.pkl")
    assert detected({"model.pkl": forms["sklearn-pickle.gzip"]}) == ("sklearn-pickle", "model.pkl")


def test_large_archive_is_recognised_by_its_beginning(forms: dict[str, bytes]) -> None:
    """What is read of a file to tell its kind is bounded; the list of an archive stands at its end."""
    assert detected({"model.bin": forms["torch-pickle.new"][:-200]})[0] == "torch-pickle"


FOREIGN = {
    "a GGUF file": (b"GGUF\x03\0\0\0", "transformers directory"),
    "weights in safetensors": (b"\x40\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32"}}', "config.json"),
    "weights of ggml": (b"lmgg" + bytes(40), "transformers directory"),
    "a graph of ncnn": (b"7767517\n3 3\nInput x 0 1 x\n", "converted from"),
    "a graph of OpenVINO": (b'<?xml version="1.0"?>\n<net name="m" version="11">', "`runtime: openvino`"),
    "a numpy array": (b"\x93NUMPY\x01\0", "the model itself"),
    "a Parquet table": (b"PAR1" + bytes(9), "the model itself"),
    "a PMML document": (b'<?xml version="1.0"?>\n<PMML version="4.4">', "the library that trained it"),
    "a CRFsuite model": (b"lCRF" + bytes(9), "its own library"),
    "a JSON document": (b'{"weights": [1, 2]}', "begins with `learner`"),
    "text": ("Grüße, Welt\n".encode() * 500, "the model itself"),
    "a compressed file": (gzip.compress(b"a,b\n1,2\n"), "unpack it"),
    "a file of an old version of XGBoost": (b"binf" + bytes(200), "XGBoost 3.0"),
}


@pytest.mark.parametrize("form", FOREIGN)
def test_what_no_exporter_opens_is_named_with_the_way_out(form: str) -> None:
    data, way = FOREIGN[form]
    error = refusal({"model.bin": data})
    assert error.message.startswith(f"the source holds no model of a known kind: `model.bin` is {form}")
    assert way in str(error.hint)


def test_what_onnxruntime_saves_for_itself_is_named(tmp_path: Path) -> None:
    helper = onnx.helper
    ports = [helper.make_tensor_value_info(name, 1, ["N", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    error = refusal({"model.ort": (tmp_path / "model.ort").read_bytes()})
    assert "`model.ort` is a model in ONNX Runtime's own form" in error.message and "`.onnx`" in str(error.hint)


def test_archive_is_recognised_by_its_members() -> None:
    for member, form in (("model.ini", "an archive of H2O"), ("a/b.npy", "numpy arrays"), ("x.txt", "a zip archive")):
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w") as archive:
            archive.writestr(member, "x")
        assert form in refusal({"model.zip": sink.getvalue()}).message


HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(99)


@pytest.mark.parametrize(
    ("kind", "data", "form"),
    [
        ("catboost", b"CBM1" + bytes(40), "a CatBoost model"),
        ("keras-h5", HDF5, "an HDF5 file"),
        ("tflite", b"\x1c\0\0\0TFL3" + bytes(99), "a TensorFlow Lite model"),
    ],
)
def test_every_form_has_an_exporter_or_a_remedy(kind: str, data: bytes, form: str) -> None:
    files = {"model.bin": data}
    if kind in KINDS:
        assert detected(files) == (kind, "model.bin")
    with pytest.raises(SourceError, match=f"`model.bin` is {form}"):
        unknown.by_content(files, files.__getitem__, (), exporters.detect_kind)


@pytest.mark.parametrize(
    "head",
    [gzip.compress(pickle.dumps([1] * 9)), pickle.dumps([1] * 9), b"\x5d\0\0\x80\0"],
    ids=["gzip", "plain", "lzma"],
)
def test_stated_pickle_is_scanned(head: bytes) -> None:
    """Nothing reaches the unpickler that the scanners did not take for a candidate."""
    assert kinds.sniff(head) != "a pickle" or scanners.is_candidate("model.dat", head[: scanners.HEAD])


# MLflow


@pytest.mark.parametrize(
    ("flavor", "way"),
    [
        ("statsmodels", "scikit-learn"),
        ("prophet", "its own program"),
        ("pmdarima", "its own program"),
        ("spacy", "transformers"),
        ("fastai", "mlflow.pytorch"),
        ("paddle", "paddle2onnx"),
        ("h2o", "XGBoost"),
        ("langchain", "service"),
        ("openai", "service"),
        ("diviner", "its own program"),
    ],
)
def test_unsupported_flavor_is_refused_with_a_remedy(flavor: str, way: str) -> None:
    error = refusal({"MLmodel": mlflow(flavor, data="model"), "model/x": b"", "requirements.txt": b""})
    assert f"it is MLflow's flavor `{flavor}`" in error.message
    assert way in str(error.hint)


def test_a_known_flavor_without_its_files_is_named() -> None:
    error = refusal({"MLmodel": mlflow("sklearn", pickled_model="model.pkl"), "conda.yaml": b""})
    assert error.message.startswith("the files of MLflow's flavor `sklearn` are not here in a form that is exported")
    keras = refusal({"MLmodel": mlflow("keras", data="data"), "data/tf_model.h5": HDF5})
    assert "`data/tf_model.h5` is an HDF5 file" in keras.message


def function(artifacts: dict[str, str]) -> bytes:
    entries = {name: {"path": path, "uri": f"file:///elsewhere/{path}"} for name, path in artifacts.items()}
    table = {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl", "artifacts": entries}
    return yaml.safe_dump({"flavors": {"python_function": table}}).encode()


def test_a_python_model_is_called_one() -> None:
    error = refusal({"MLmodel": function({}), "python_model.pkl": pickle.dumps([1, 2, 3])})
    assert error.message.endswith("it is a Python model (MLflow's pyfunc), a program and no graph")
    assert "log the model inside by its own flavor" in str(error.hint)


def test_a_python_model_around_one_model_names_that(forms: dict[str, bytes]) -> None:
    pickled = {"python_model.pkl": pickle.dumps([1, 2, 3]), "artifacts/notes.txt": b"text"}
    for inner in ({"artifacts/net.onnx": GRAPH}, {"artifacts/net": forms["xgboost.ubj"]}):
        (path,) = inner
        files = {"MLmodel": function({"net": path, "notes": "artifacts/notes.txt"}), **pickled, **inner}
        assert f"it wraps one model: give `{path}` of this directory as the source" in str(refusal(files).hint)
    folder = {"artifacts/m/MLmodel": mlflow("sklearn", pickled_model="model.skops"), "artifacts/m/model.skops": b""}
    assert "give `artifacts/m` of" in str(
        refusal({"MLmodel": function({"m": "artifacts/m"}), **pickled, **folder}).hint
    )
    two = {"artifacts/a.onnx": GRAPH, "artifacts/b.onnx": GRAPH}
    both = {"MLmodel": function({"a": "artifacts/a.onnx", "b": "artifacts/b.onnx"}), **pickled, **two}
    assert "by its own flavor" in str(refusal(both).hint), "never one of two"


def test_pickled_weights_are_refused_with_the_remedy() -> None:
    with pytest.raises(SourceError) as caught:
        exporters.detect_kind(["config.json", "pytorch_model.bin"], read_nothing)
    assert caught.value.message == "`pytorch_model.bin` is a pickle, expected `model.safetensors`"
    assert "save_pretrained" in (caught.value.hint or "")


BOMB = "\n".join([*(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(30))])
HOSTILE = [
    b"\xff\xfe",
    b"- a\n- b",
    b"flavors: [",
    b"flavors: 3\n",
    b"flavors: " + b"[" * 100_000,
    b"a: " * 5000,
    b"flavors: {x: 2024-99-99}",
    b"flavors: {onnx: {data: 2024-13-45}}",
    b"? [1]\n: 2",
    b"flavors: {1: 2, ~: 3}",
    b"flavors: !!python/object/apply:os.system [id]",
    b"flavors: {sklearn: {pickled_model: [a, {b: c}]}}",
    f"a0: &a0 [x]\n{BOMB}\nflavors: {{sklearn: {{pickled_model: *a30}}, xgboost: {{data: *a30}}}}".encode(),
    f"a0: &a0 [x]\n{BOMB}\nflavors: {{python_function: {{artifacts: *a30}}}}".encode(),
    b"flavors: {x: 0x" + b"f" * 9000,
    b"a: &a {b: *a}\nflavors: *a",
    b"\0",
    b"",
    b"flavors: .nan",
    b"flavors: {python_function: {artifacts: {a: {path: 3}}}}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_broken_mlmodel_is_a_clear_answer(text: bytes) -> None:
    with pytest.raises(SourceError):
        exporters.detect_kind(["MLmodel"], lambda path: text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("tensor") | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)
TENSORS = st.fixed_dictionaries(
    {"type": st.just("tensor") | VALUES},
    optional={"name": VALUES, "tensor-spec": VALUES | st.dictionaries(st.sampled_from(["dtype", "shape"]), VALUES)},
)


@settings(deadline=None)
@given(
    tables=st.dictionaries(
        st.sampled_from(["sklearn", "onnx", "keras", "python_function", "pytorch", "transformers", "spark", "x"]),
        st.dictionaries(st.sampled_from(["data", "pickled_model", "artifacts", "model_data", "model_binary"]), VALUES)
        | VALUES,
    )
    | VALUES,
    inputs=st.lists(TENSORS, max_size=3) | VALUES,
)
def test_any_mlmodel_gives_a_kind_or_an_error_message(
    tmp_path_factory: pytest.TempPathFactory, tables: object, inputs: object
) -> None:
    text = yaml.safe_dump(
        {"flavors": tables, "signature": {"inputs": json.dumps(inputs, default=str), "outputs": inputs}}
    )
    folder = tmp_path_factory.mktemp("m")
    (folder / "MLmodel").write_text(text)
    (folder / "model.yaml").write_text(text)
    with contextlib.suppress(SourceError):
        detected({"MLmodel": text.encode(), "model.onnx": b"", "model.yaml": text.encode()})
    for read in (
        _mlflow.read_signature,
        _mlflow.read_columns,
        _mlflow.find_example,
        lambda source: _mlflow.trusted_types(source, "sklearn"),
    ):
        with contextlib.suppress(SourceError):
            read(folder)
    bentoml.read_option(folder, "model_class")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_whatever_the_bytes_the_answer_is_a_kind_or_a_sentence(data: bytes) -> None:
    for name in ("MLmodel", "model.yaml", "model.bin"):
        with contextlib.suppress(SourceError):
            detected({name: data})


@pytest.mark.parametrize("kind", KINDS)
def test_every_exporter_provides_the_protocol(kind: str) -> None:
    module = exporters.exporter(kind)
    assert module.TOOLCHAIN and module.EXTRA and module.LOOKS_FOR
    assert module.EXECUTES is (kind.endswith("pickle") or kind in ("torchscript", "savedmodel"))


def test_detection_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom packager import exporters\n"
        "exporters.detect_kind(['config.json', 'model.safetensors'], lambda path: b'')\n"
        "print([m for m in ('torch', 'onnx', 'numpy', 'transformers', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
