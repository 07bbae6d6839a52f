# SPDX-License-Identifier: Apache-2.0
"""Identify a source that no exporter claims by its names: by content, by flavor, or explain why not in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from packager.errors import SourceError
from packager.exporters._files import kinds, mlflow

Read = Callable[[str], bytes]
Detect = Callable[[Collection[str], Read], tuple[str, str]]

_MOST = 32  # files at the root that are looked into
_ASIDE = (".md", ".rst", ".yaml", ".yml", ".toml", ".cfg", ".py", ".ipynb", ".csv", ".png", ".jpg", ".svg", ".html")
_ASIDE_NAMES = {"license", "licence", "notice", "readme", "requirements.txt", ".gitattributes", ".gitignore"}
_READS = (
    "give the file or directory of one model: ONNX, `.pt2`, skops, safetensors with `config.json`, XGBoost, LightGBM, "
    "CatBoost, Keras, SavedModel, Spark, a pickle or MLflow's directory of one"
)
_NOT_IN_ONNX = "it has no ONNX form here; serve it with its own library"
_CALLS = "it calls a service or a chain of programs, so there is no graph in it to export"
_FLAVORS = {
    "catboost": "save it with `save_model('model.onnx', format='onnx')` and give that file",
    "statsmodels": "it has no ONNX form here; a linear model can be fitted with scikit-learn and logged as that",
    "prophet": "its forecasts are made by its own program for each series; serve it with that",
    "pmdarima": "its forecasts are made by its own program for each series; serve it with that",
    "diviner": "its forecasts are made by its own program for each series; serve it with that",
    "spacy": "log the network in its pipeline by itself, as a transformers or torch model",
    "fastai": "log the network inside with `mlflow.pytorch.log_model(learner.model, …)`",
    "paddle": "convert it with paddle2onnx and log the graph with `mlflow.onnx`",
    "h2o": "train the same with XGBoost, LightGBM or scikit-learn, and log that",
    "mleap": "log the pipeline with `mlflow.spark`",
    "gluon": "export it to ONNX with MXNet and log the graph with `mlflow.onnx`",
    "shap": _NOT_IN_ONNX,
    "johnsnowlabs": _NOT_IN_ONNX,
    "crate": _NOT_IN_ONNX,
    **dict.fromkeys(("langchain", "openai", "llama_index", "dspy", "promptflow", "autogen", "anthropic"), _CALLS),
}
_FUNCTION = "python_function"
_INNER = "log the model inside by its own flavor (sklearn, pytorch, onnx, …); code around it can run beside the bundle"


def correct_kind(kind: str, payload: str, paths: Collection[str], read: Read, known: Collection[str]) -> str:
    """Return the kind of a payload that its name calls a pickle of scikit-learn, by what is in it."""
    if kind != "sklearn-pickle" or payload not in paths:
        return kind
    opened = kinds.OPENED.get(kinds.sniff(read(payload)), kind)
    return opened if opened in known else kind


def by_content(paths: Collection[str], read: Read, known: Collection[str], detect: Detect) -> tuple[str, str]:
    """Return kind and payload of a source by what its files hold. Raises SourceError that says what they are.

    `detect` is called for what an MLflow model wraps.
    """
    if mlflow.MLMODEL in paths:
        raise _of_mlflow(paths, read, detect)
    if {"meta.json", "config.cfg"} <= set(paths):
        raise _refused("it is a spaCy pipeline", _FLAVORS["spacy"])
    forms = {path: kinds.sniff(read(path)) for path in sorted(filter(_may_be_model, paths))[:_MOST]}
    opened = {path: kinds.OPENED[form] for path, form in forms.items() if kinds.OPENED.get(form) in known}
    if len(opened) == 1:
        path, kind = opened.popitem()
        return kind, path
    if opened:
        listed = " and ".join(f"`{path}` is {forms[path]}" for path in list(opened)[:2])
        raise SourceError(f"the source holds {len(opened)} models: {listed}", hint="name the one file as the source")
    raise _unopened(paths, forms)


def _may_be_model(path: str) -> bool:
    name = path.lower()
    return "/" not in name and not name.endswith(_ASIDE) and _ASIDE_NAMES.isdisjoint({name, name.partition(".")[0]})


def _unopened(paths: Collection[str], forms: dict[str, str]) -> SourceError:
    """Say what the most telling file seems to be, and what to do about it."""
    ranks = list(kinds.OTHERS)
    ranked = sorted((ranks.index(form), path) for path, form in forms.items() if form in kinds.OTHERS)
    if ranked:
        rank, path = ranked[0]
        return _refused(f"`{path}` is {ranks[rank]}", kinds.OTHERS[ranks[rank]])
    for path, form in forms.items():
        if form in kinds.OPENED:
            return _refused(f"`{path}` is {form}", _FLAVORS.get(kinds.OPENED[form], _READS))
    return _refused(f"got {_listed(paths)}", _READS)


def _listed(paths: Iterable[str]) -> str:
    names = sorted(paths)
    return ", ".join(f"`{path}`" for path in names[:4]) + (", …" if len(names) > 4 else "") or "no files"


def _refused(what: str, way_out: str) -> SourceError:
    return SourceError(f"the source holds no model of a known kind: {what}", hint=way_out)


def _of_mlflow(paths: Collection[str], read: Read, detect: Detect) -> SourceError:
    """Say which flavor a model of MLflow has, and why that is not exported as it lies here."""
    flavors = mlflow.read_flavors(paths, read)
    named = sorted(set(flavors) - {_FUNCTION})
    if not named:
        return _of_function(flavors.get(_FUNCTION), paths, read, detect)
    other = next((name for name in named if name in _FLAVORS), "")
    if other:
        return _refused(f"it is MLflow's flavor `{other}`", _FLAVORS[other])
    forms = ((path, kinds.sniff(read(path))) for path in sorted(paths) if path.endswith((".h5", ".hdf5", ".tflite")))
    for path, form in forms:
        if form in kinds.OTHERS:
            return _refused(f"`{path}` is {form}", kinds.OTHERS[form])
    return SourceError(
        f"the files of MLflow's flavor `{named[0]:.40}` are not here in a form that is exported, got {_listed(paths)}",
        hint="log the model again in its flavor's own form, or as ONNX, and give its whole directory",
    )


def _of_function(table: object, paths: Collection[str], read: Read, detect: Detect) -> SourceError:
    """Say of a Python model that it is one, and where the model is that it wraps, if that is known."""
    if not isinstance(table, dict):
        return SourceError("`MLmodel` names no flavor, which says how to open the model", hint="log it again")
    inner = [path for path in _artifacts(table) if _opens(path, paths, read, detect)]
    what = "it is a Python model (MLflow's pyfunc), a program and no graph"
    if len(inner) != 1:
        return _refused(what, _INNER)
    around = "the Python around it is not taken along"
    return _refused(what, f"it wraps one model: give `{inner[0]:.120}` of this directory as the source; {around}")


def _artifacts(table: dict[object, object]) -> list[str]:
    """Return the paths of what was logged together with a Python model."""
    stated = table.get("artifacts")
    entries = stated.values() if isinstance(stated, dict) else ()
    paths = (entry.get("path") for entry in entries if isinstance(entry, dict))
    return sorted({path.strip("/") for path in paths if isinstance(path, str)})


def _opens(path: str, paths: Collection[str], read: Read, detect: Detect) -> bool:
    """Say whether a file or directory inside the source is a source itself."""
    below = f"{path}/"
    inside = {name.removeprefix(below): name for name in paths if name.startswith(below)}
    inside = inside or {name.rpartition("/")[2]: name for name in paths if name == path}
    try:
        return bool(inside) and bool(detect(inside, lambda name: read(inside[name])))
    except SourceError:
        return False
