# SPDX-License-Identifier: Apache-2.0
"""Every estimator of scikit-learn and the textbook pipelines, as registered models: right, or refused with the reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pytest
import skops.io

from tests.matrix import estimators, verdicts
from tests.matrix.verdicts import Row, drawn, judge

pytestmark = pytest.mark.slow

_KINDS = {"b": "boolean", "i": "long", "u": "long", "f": "double", "O": "string", "U": "string"}
_NO_INPUT = {  # what these take is no table of numbers: they are tools of fitting
    "DictVectorizer",
    "FeatureHasher",
    "LabelBinarizer",
    "LabelEncoder",
    "MultiLabelBinarizer",
    "PatchExtractor",
    "SparseCoder",
    "ClassicalMDS",
}


def registered(model: Any, given: Any, folder: Path) -> Path:
    """Write a model as MLflow does: a skops archive, or a pickle where skops cannot, beside the data frame's signature."""
    folder.mkdir(parents=True)
    name = "model.skops"
    try:
        skops.io.dump(model, folder / name)
    except Exception:
        (folder / name).unlink(missing_ok=True)
        name = "model.pkl"
        joblib.dump(model, folder / name)
    frame = given.to_frame() if isinstance(given, pd.Series) else given
    listed = [{"name": str(name), "type": _KINDS[frame[name].to_numpy().dtype.kind]} for name in frame.columns]
    table = {"flavors": {"sklearn": {"pickled_model": name}}, "signature": {"inputs": json.dumps(listed)}}
    (folder / "MLmodel").write_text(json.dumps(table))
    return folder


def row(name: str, fitted: Callable[[], Any], folder: Path) -> Row:
    try:
        model, given = fitted()
    except Exception as error:
        return Row("sklearn", name, "not-fitted", reason=f"{type(error).__name__}: {error}"[:200])
    return judge("sklearn", name, registered(model, given, folder / "source"), folder / "graph", drawn(seed=77))


def test_every_estimator_is_right_or_refused_with_the_reason(tmp_path: Path) -> None:
    named = [*estimators.library(), *estimators.PIPELINES.items()]
    rows = [
        row(name, fitted, tmp_path / str(number))
        for number, (name, fitted) in enumerate(named)
        if name not in _NO_INPUT
    ]
    verdicts.write("sklearn", [item for item in rows if item.verdict != "not-fitted"])
    counts = Counter(item.verdict for item in rows)
    off = [item for item in rows if item.verdict in ("wrong", "crash", "refused-poor")]
    assert not off, "\n".join(item.line() for item in off)
    assert counts["right"] >= 150 and counts["right"] >= 0.85 * (counts["right"] + counts["refused-clear"])
