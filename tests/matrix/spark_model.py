# SPDX-License-Identifier: Apache-2.0
"""Runs in an environment with Spark."""

import os
import sys

os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
import numpy as np
from pyspark.ml import Pipeline
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import OneHotEncoder, StringIndexer, VectorAssembler
from pyspark.sql import SparkSession

settings = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
builder = SparkSession.builder.master("local[1]")
for name, value in settings.items():
    builder = builder.config(name, value)
session = builder.getOrCreate()
random = np.random.RandomState(0)
numbers, cities = random.randn(300, 2), random.choice(["paris", "london", "köln"], 300)
labels = (numbers[:, 0] + (cities == "paris") > 0.3) ^ (random.rand(300) < 0.1)
rows = [(float(a), float(b), str(c), float(y)) for (a, b), c, y in zip(numbers, cities, labels, strict=True)]
table = session.createDataFrame(rows, ["age", "income", "city", "label"])
stages = [
    StringIndexer(inputCol="city", outputCol="place", handleInvalid="keep"),
    OneHotEncoder(inputCols=["place"], outputCols=["where"], dropLast=False),
    VectorAssembler(inputCols=["age", "income", "where"], outputCol="features"),
    LogisticRegression(regParam=0.01),
]
Pipeline(stages=stages).fit(table).write().overwrite().save(sys.argv[1])
session.stop()
