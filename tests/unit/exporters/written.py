# SPDX-License-Identifier: Apache-2.0
"""Write one method of a fitted estimator as a graph, run it, and put the answer beside the estimator's own."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd

from packager.exporters._sklearn import emit
from packager.exporters._sklearn.builder import Builder, Frame, Value


def graph_of(model: Any, given: Any, method: str, opset: int = 18) -> tuple[Any, dict[str, Any]]:
    """Return the graph of a method, and the feeds that `given` (a data frame or a matrix) becomes."""
    feeds = _feeds(given)
    values = [Value(name, _dtype(array), array.shape[1]) for name, array in feeds.items()]
    names = tuple(map(str, given.columns)) if isinstance(given, pd.DataFrame) else ()
    builder = Builder(opset, [*feeds, "answer"])
    answer = emit(builder, model, method, Frame(tuple(values), names))
    return builder.model([(value, value.name) for value in values], [(answer, "answer", 2)]), feeds


def _feeds(given: Any) -> dict[str, Any]:
    if not isinstance(given, pd.DataFrame):
        array = np.asarray(given)
        return {"input": array.reshape(len(array), -1)}
    return {str(name): _array(given[name]) for name in given.columns}


def _array(column: Any) -> Any:
    values = column.to_numpy()
    if values.dtype.kind in "OUS":
        values = np.array(["" if pd.isna(item) else item for item in values], dtype=object)  # text has no other missing
    return (values.astype(object) if values.dtype.kind in "OUS" else values).reshape(-1, 1)


def _dtype(array: Any) -> str:
    return "string" if array.dtype.kind in "OUS" else str(array.dtype.name)


def answers(model: Any, given: Any, method: str, opset: int = 18) -> tuple[Any, Any]:
    """Return what the estimator and its graph compute, as matrices."""
    made, feeds = graph_of(model, given, method, opset)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, feeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = getattr(model, method)(given)
    if isinstance(expected, list):  # probabilities by output
        expected = np.hstack(expected)
    expected = np.asarray(expected.toarray() if hasattr(expected, "toarray") else expected)
    return expected.reshape(len(expected), -1), got


def difference(model: Any, given: Any, method: str, opset: int = 18) -> float:
    """Return the largest difference, relative above one; for labels and text the number of unequal elements."""
    expected, got = answers(model, given, method, opset)
    assert expected.shape == got.shape, (expected.shape, got.shape)
    if got.dtype.kind in "OUSib" or expected.dtype.kind in "OUS":
        return float((expected.astype(got.dtype) != got).sum())
    same = (expected == got) | (np.isnan(expected) & np.isnan(got))
    off = np.abs(expected - got) / np.maximum(1, np.abs(expected))
    return float(np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf)).max(initial=0.0))
