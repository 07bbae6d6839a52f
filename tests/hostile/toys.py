# SPDX-License-Identifier: Apache-2.0
"""Every estimator of scikit-learn, fitted on toy data of the kind it takes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

RANDOM = np.random.RandomState(0)
FEATURES = np.abs(RANDOM.rand(60, 4))
CLASSES = (FEATURES[:, 0] > 0.5).astype(int)
NUMBERS = FEATURES[:, 1] + 0.1
BOTH = np.c_[CLASSES, 1 - CLASSES]
TEXTS = ["a word or two", "one more text"] * 30
SETS = [("a", "b"), ("b",)] * 30
NEEDED = {
    "KernelCenterer": lambda: (FEATURES[:4, :4] @ FEATURES[:4, :4].T,),
    "LabelBinarizer": lambda: (CLASSES,),
    "LabelEncoder": lambda: (CLASSES,),
    "MultiLabelBinarizer": lambda: (SETS,),
    "CountVectorizer": lambda: (TEXTS,),
    "TfidfVectorizer": lambda: (TEXTS,),
    "DictVectorizer": lambda: ([{"a": 1.0}, {"b": 2.0, "c": "x"}],),
    "PatchExtractor": lambda: (RANDOM.rand(2, 8, 8),),
}
ATTEMPTS = (
    (FEATURES, CLASSES),
    (FEATURES, NUMBERS),
    (FEATURES, BOTH),
    (FEATURES,),
    (TEXTS,),
    (FEATURES[:, 0], NUMBERS),
)


def fitted(name: str, kind: type) -> Iterator[Any]:
    """Yield fitted instances of one estimator: the library's own for its tests, or one with what it needs."""
    for model in _instances(name, kind):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for given in (NEEDED[name](),) if name in NEEDED else ATTEMPTS:
                try:
                    yield model.fit(*given)
                    break
                except Exception:
                    continue


def _instances(name: str, kind: type) -> list[Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils._test_common.instance_generator import _construct_instances

    if name == "FrozenEstimator":
        return [kind(LogisticRegression().fit(FEATURES, CLASSES))]
    if name == "SparseCoder":
        return [kind(dictionary=FEATURES[:4])]
    return list(_construct_instances(kind))[:1]
