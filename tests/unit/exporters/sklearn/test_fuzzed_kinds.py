# SPDX-License-Identifier: Apache-2.0
"""What random tables and models brought to light, kind by kind."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import SGDClassifier

from tests.unit.exporters.written import difference

_RANDOM = np.random.default_rng(0)


def test_scores_far_below_zero_are_uniform_together() -> None:
    """Beyond -709 the logistic function is zero to the library, and no class is the largest of all."""
    rows = _RANDOM.normal(size=(120, 3))
    model = SGDClassifier(loss="log_loss", random_state=0).fit(rows, np.digitize(rows[:, 0], [-0.5, 0.5]))
    model.intercept_ = np.array([-712.0, -714.0, -760.0])
    model.coef_ = model.coef_ / np.abs(model.coef_).max()
    assert difference(model, rows, "predict_proba") < 1e-6
