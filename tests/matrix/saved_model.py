# SPDX-License-Identifier: Apache-2.0
"""Runs in an environment with TensorFlow."""

import sys

import tensorflow as tf

tf.keras.utils.set_random_seed(0)
layers = tf.keras.layers
model = tf.keras.Sequential(
    [
        tf.keras.Input((28, 28, 3), name="image"),
        layers.Conv2D(8, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPool2D(),
        layers.Conv2D(16, 3, activation="gelu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5, activation="softmax"),
    ]
)
model.export(sys.argv[1], verbose=False)
