# SPDX-License-Identifier: Apache-2.0
"""Recognise a file by its content: endings (`.sav`, `.model`, `.bin`, `.dat`) say little.

`sniff` names a form. Some are what an exporter opens, whatever the file is called (`OPENED`); of the others it is known
what writes them, and what to do about it (`OTHERS`). Nothing is imported, unpacked but for a first block, or parsed.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Collection

from packager import scanners
from packager.scanners import _packed

_HEAD = 1 << 20  # bytes by which a form is recognised; an archive is recognised by the names in it

OPENED = {
    "a pickle": "sklearn-pickle",
    "an archive of torch": "torch-pickle",
    "a TorchScript archive": "torchscript",
    "an archive of `torch.export`": "pt2",
    "a skops archive": "sklearn",
    "a Keras archive": "keras",
    "an XGBoost model": "xgboost",
    "a LightGBM model": "lightgbm",
    "an ONNX graph": "onnx",
    "a CatBoost model": "catboost",
    "an HDF5 file, as Keras 2 writes models": "keras-h5",
    "a TensorFlow Lite model": "tflite",
}
"""Forms, and the exporters that open them, where those are installed."""

_AS_ONNX = "export it to ONNX with its own library and give that `.onnx` file"
OTHERS = {
    "an HDF5 file, as Keras 2 writes models": "open it with the Keras that wrote it and save it as `.keras`, or with "
    "`model.export(DIR)`",
    "a TensorFlow Lite model": "give the Keras model or SavedModel that it was converted from",
    "a GGUF file": "let its name end in `.gguf`; better still, give the transformers directory it came from",
    "a model in ONNX Runtime's own form": "it is written for one release, perhaps for one processor; give the "
    "`.onnx` file that it was made from",
    "a graph of OpenVINO": "give the ONNX graph or the model that it was converted from; a target of "
    "`runtime: openvino` makes such a graph again",
    "a graph of ncnn": "give the ONNX graph or the model it was converted from",
    "weights of ggml": "they have no graph; give the transformers directory they came from",
    "weights in safetensors": "give the directory that holds its `config.json` too",
    "a numpy array": "an array is no model; give the file of the model itself",
    "an archive of numpy arrays": "arrays are no model; save the model itself",
    "a Parquet table": "a table is no model; give the file of the model itself",
    "a PMML document": "save the model with the library that trained it; PMML is not read",
    "a Core ML model": _AS_ONNX,
    "a CRFsuite model": "a model of sequences of labels has no ONNX form here; serve it with its own library",
    "a fastText model": "it has no ONNX form here; serve it with its own library",
    "a JSON document": "of JSON only XGBoost's own is read, which begins with `learner`; give the model's own file",
    "an archive of H2O": "an H2O MOJO is not read; train with XGBoost or scikit-learn, or export that model to ONNX",
    "a zip archive": "unpack it and give the directory or file inside",
    "a tar archive": "unpack it and give the directory or file inside",
    "a compressed file": "unpack it and give what is inside",
    "text": "give the file of the model itself",
    "a file of an old version of XGBoost": "open it with XGBoost 3.0 or older and save it as `model.ubj`",
}
"""Forms that no exporter opens, and the way out."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (rb"tree\r?\nversion=", "a LightGBM model"),
    (rb"\{L[\s\S]{8}learner\{", "an XGBoost model"),
    (rb'\s*\{\s*"learner"\s*:|\s*\{\s*"version"\s*:\s*\[[\d,\s]+\]\s*,\s*"learner"', "an XGBoost model"),
    (rb"binf|[\s\S]{144}(?:binary|reg|multi|rank|count|survival):", "a file of an old version of XGBoost"),
    (rb"CBM1", "a CatBoost model"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras 2 writes models"),
    (rb"[\s\S]{4}TFL3", "a TensorFlow Lite model"),
    (rb"GGUF", "a GGUF file"),
    (rb"lmgg", "weights of ggml"),
    (rb"[\s\S]{4}ORTM", "a model in ONNX Runtime's own form"),
    (rb"\s*(?:<\?xml[^>]*>\s*)?<net\s", "a graph of OpenVINO"),
    (rb"7767517\r?\n", "a graph of ncnn"),
    (rb'[\s\S]{8}\{\s*"', "weights in safetensors"),
    (rb"\x93NUMPY", "a numpy array"),
    (rb"PAR1", "a Parquet table"),
    (rb"lCRF", "a CRFsuite model"),
    (rb"\xba\x16\x4f\x2f", "a fastText model"),
    (rb"\s*(?:<\?xml[^>]*>\s*)?<PMML", "a PMML document"),
    # ModelProto: the version of the IR, then the producer (2), its version (3), a text (6), the graph (7) or opsets (8)
    (rb"\x08[\x01-\x14](?:[\x12\x1a\x22\x32\x3a\x42]|\x28)", "an ONNX graph"),
)
_PATTERNS = tuple((re.compile(pattern), form) for pattern, form in _STARTS)
_MEMBERS = (
    (r"schema\.json", "a skops archive"),
    (r"(.+/)?(archive_format|models/.+\.json)", "an archive of `torch.export`"),
    (r".+/constants\.pkl", "a TorchScript archive"),
    (r".+/data\.pkl", "an archive of torch"),
    (r"model\.weights\.h5", "a Keras archive"),
    (r".+\.npy", "an archive of numpy arrays"),
    (r"model\.ini|experimental/.+", "an archive of H2O"),
    (r"Data/com\.apple\.CoreML/.+", "a Core ML model"),
)
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF"  # its own exporter says what to do about it
_MEMBER = b"PK\x03\x04"  # what stands before each file of an archive
_TAR, _TAR_AT = b"ustar", 257


def sniff(data: bytes) -> str:
    """Return the form of a file with this content, "" for an unknown one."""
    if data.startswith(_OLD_TORCH):
        return "an archive of torch"
    if scanners.is_pickle(data[:_HEAD]):
        return "a pickle"
    if data.startswith(b"PK\x03\x04"):
        return _archive(data)
    if _packed.is_packed(data):
        return "a compressed file"
    if data[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return "a tar archive"
    found = next((form for pattern, form in _PATTERNS if pattern.match(data[:_HEAD])), "")
    if found or not _is_text(data[:4096]):
        return found
    return "a JSON document" if data.lstrip()[:1] in (b"{", b"[") else "text"


def _archive(data: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names: Collection[str] = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):  # the list stands at the end, if it is here
        names = [_name(data, found.start()) for found in re.finditer(_MEMBER, data[:_HEAD])]
    for pattern, form in _MEMBERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return form
    return "a zip archive"


def _name(data: bytes, position: int) -> str:
    length = int.from_bytes(data[position + 26 : position + 28], "little")
    return data[position + 30 : position + 30 + length].decode("latin-1")


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start > len(data) - 4 > 0  # cut inside a character
    return bool(data) and b"\0" not in data
