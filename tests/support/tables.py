# SPDX-License-Identifier: Apache-2.0
"""Models for tables as MLflow saves them, and how far their graphs are from them."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from packager.steps import export, measure
from tests.unit.exporters.conftest import detected

LEVEL = {"opset": 18, "ir": 8, "seed": 0}
WORDS = (
    "alpha",
    "beta",
    "gamma",
    "don't",
    "x",
    "3.14",
    "foo-bar",
    "a",
    "I",
    "café",
    "über",
    "Hello",
    "WORLD",
    "你好",
    "привет",
    "İstanbul",
    "KADİR",
    "😀",
    "snake_case",
    "½",
)
TRUSTED = (
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


def frame(rows: int = 300) -> pd.DataFrame:
    """Numbers of three scales (one whole), a category and a text, with accents and an expanding capital."""
    random = np.random.RandomState(0)
    return pd.DataFrame(
        {
            "age": random.randn(rows) * 10 + 40,
            "income per year": np.abs(random.randn(rows) * 3e4) + 1e4,
            "visits": random.randint(0, 20, rows),
            "city": random.choice(["par", "lon", "nyc", "Ösl"], rows).astype(object),
            "text": [" ".join(random.choice(WORDS, random.randint(1, 9))) for _ in range(rows)],
        }
    )


def target(table: pd.DataFrame) -> np.ndarray[Any, Any]:
    yes = (table.age > 40) ^ (table.city == "par") | table.text.str.contains("alpha")
    return np.where(yes, "yes", "no").astype(object)


def saved(folder: Path, flavor: str, model: Any, given: Any, answer: Any, **options: Any) -> Path:
    """Save a model with a signature, in the form MLflow chooses by itself."""
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if flavor == "sklearn":
            options.setdefault("skops_trusted_types", list(TRUSTED))
        signature = mlflow.models.infer_signature(given, answer)
        getattr(mlflow, flavor).save_model(model, folder, signature=signature, pip_requirements=["numpy"], **options)
    return folder


def column(given: pd.DataFrame, port: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return a column of a data frame as a client sends it: [rows, 1], a missing text as an empty one."""
    values = given[port["name"]].to_numpy()
    if port["dtype"] == "string":
        return np.array([item if isinstance(item, str) else "" for item in values], dtype=object).reshape(-1, 1)
    return values.astype(port["dtype"]).reshape(-1, 1)


@dataclass(frozen=True)
class Measured:
    """A graph, its facts, and the worst of every output over all cases: unequal elements, or the largest error."""

    tree: Path
    facts: dict[str, Any]
    cases: list[dict[str, Any]]

    @property
    def worst(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for case in self.cases:
            for name, output in case["outputs"].items():
                assert "got" not in output, (case["name"], name, output)
                error = output["unequal"] if "unequal" in output else output["max_abs"] + 1e9 * output["not_finite"]
                found[name] = max(found.get(name, 0.0), error)
        return found


def measured(source: Path, out: Path, **params: Any) -> Measured:
    """Export and measure in this process, as the steps do in workers."""
    kind, payload = detected(source)
    out.mkdir()
    common = {"kind": kind, "payload": payload, **LEVEL, **params}
    facts = export.run({"source": source}, out, common)
    known = {"interface": facts["interface"], "ranges": facts["ranges"], "runtime": "onnxruntime"}
    result = measure.run({"source": source, "artefact": out}, out, {**common, **known, "path": "model/model.onnx"})
    return Measured(out, facts, result["cases"])
