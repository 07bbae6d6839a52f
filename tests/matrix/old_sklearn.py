# SPDX-License-Identifier: Apache-2.0
"""Runs in an environment with an older scikit-learn."""

import sys

import numpy as np
import skops.io
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

random = np.random.RandomState(0)
x = random.randn(300, 4)
y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(int)
model = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(x, y)
with open(sys.argv[1] + "/model.skops", "wb") as file:
    file.write(skops.io.dumps(model))
