# SPDX-License-Identifier: Apache-2.0
"""Write one Keras or TensorFlow model, weights from a fixed seed: `python keras_models.py NAME FOLDER`.

A name begins with the form: `keras` (`.keras`), `h5` (Keras 2, by `tf_keras`), `h5_of_3`, `saved` (SavedModel), `lite`.
Runs in an environment with TensorFlow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

ROWS = np.random.default_rng(0).normal(3.0, 2.0, (64, 13)).astype("float32")


def network(k: Any, *layers: Any) -> Any:
    return k.Sequential(list(layers))


def normalization(k: Any) -> Any:
    layer = k.layers.Normalization()
    layer.adapt(ROWS)
    return network(k, k.Input((13,)), layer, k.layers.Dense(3))


def discretized(k: Any) -> Any:
    layer = k.layers.Discretization(bin_boundaries=[-1.0, 0.5, 2.0])
    return network(k, k.Input((3,)), layer, k.layers.CategoryEncoding(4, output_mode="multi_hot"), k.layers.Dense(2))


def convolutional(k: Any) -> Any:
    return network(
        k,
        k.Input((28, 28, 3), name="image"),
        k.layers.Conv2D(8, 3, activation="relu"),
        k.layers.BatchNormalization(),
        k.layers.SeparableConv2D(8, 3, activation="gelu"),
        k.layers.MaxPool2D(2),
        k.layers.Conv2DTranspose(4, 3),
        k.layers.GlobalAveragePooling2D(),
        k.layers.Dropout(0.5),
        k.layers.Dense(5, activation="softmax"),
    )


def resized(k: Any) -> Any:
    return network(
        k,
        k.Input((None, None, 3), name="image"),
        k.layers.Rescaling(1 / 255),
        k.layers.Resizing(16, 16),
        k.layers.Conv2D(4, 3, padding="same"),
        k.layers.Flatten(),
        k.layers.Dense(2),
    )


def causal(k: Any) -> Any:
    return network(
        k,
        k.Input((None, 4), name="signal"),
        k.layers.Conv1D(8, 3, padding="causal", dilation_rate=2, activation="swish"),
        k.layers.Conv1D(2, 1),
    )


def volume(k: Any) -> Any:
    return network(
        k,
        k.Input((8, 8, 8, 1)),
        k.layers.Conv3D(4, 3),
        k.layers.AveragePooling3D(2),
        k.layers.Flatten(),
        k.layers.Dense(2),
    )


def embedded(k: Any) -> Any:
    return network(
        k,
        k.Input((7,), dtype="int32", name="ids"),
        k.layers.Embedding(97, 8),
        k.layers.GlobalAveragePooling1D(),
        k.layers.Dense(2),
    )


def masked(cell: str) -> Callable[[Any], Any]:
    def make(k: Any) -> Any:
        ids = k.Input((12,), name="ids")
        steps = k.layers.Embedding(50, 8, mask_zero=True)(ids)
        return k.Model(ids, k.layers.Dense(3, activation="softmax")(getattr(k.layers, cell)(6)(steps)))

    return make


def bidirectional(k: Any) -> Any:
    return network(
        k,
        k.Input((None, 5), name="signal"),
        k.layers.Masking(0.0),
        k.layers.Bidirectional(k.layers.GRU(6, return_sequences=True)),
        k.layers.Dense(2),
    )


def time_distributed(k: Any) -> Any:
    return network(k, k.Input((None, 5), name="signal"), k.layers.TimeDistributed(k.layers.Dense(2)))


def attention(k: Any) -> Any:
    x = k.Input((9, 8), name="tokens")
    y = k.layers.LayerNormalization()(x + k.layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True))
    return k.Model(x, k.layers.Dense(2)(k.layers.GlobalMaxPooling1D()(y)))


def two_in_two_out(k: Any) -> Any:
    left, right = k.Input((4,), name="left"), k.Input((2, 2), name="right")
    both = k.layers.Concatenate()([left, k.layers.Flatten()(right)])
    return k.Model([left, right], [k.layers.Dense(3)(both), k.layers.Multiply()([left, left])])


def by_name(k: Any) -> Any:
    """Inputs and outputs as dictionaries, in another order than the alphabet's."""
    b, a = k.Input((3,), name="b"), k.Input((2,), name="a")
    return k.Model({"b": b, "a": a}, {"z": k.layers.Dense(2)(b), "y": k.layers.Dense(1)(a)})


def unused(k: Any) -> Any:
    x, spare = k.Input((3,), name="x"), k.Input((2,), name="spare")
    return k.Model([x, spare], k.layers.Dense(2)(x))


def twice(k: Any) -> Any:
    inner = network(k, k.Input((3,)), k.layers.Dense(3, activation="tanh"))
    x = k.Input((3,), name="output")  # named like what comes out
    return k.Model(x, inner(inner(x)))


def convolved_memory(k: Any) -> Any:
    return network(k, k.Input((4, 8, 8, 1)), k.layers.ConvLSTM2D(3, 3), k.layers.Flatten(), k.layers.Dense(2))


def of_operators(k: Any) -> Any:
    x = k.Input((6,), name="x")
    y = tf.math.sin(x) * 2.0 + x[:, :1] if k.__name__.startswith("tf_keras") else k.ops.sin(x) * 2.0 + x[:, :1]
    return k.Model(x, k.layers.Dense(2)(y))


def halved(k: Any) -> Any:
    return network(
        k, k.Input((6,)), k.layers.Dense(4, activation="relu", dtype="float64"), k.layers.Dense(2, dtype="float64")
    )


def text(k: Any) -> Any:
    layer = k.layers.TextVectorization(max_tokens=20, output_sequence_length=4)
    layer.adapt(["a plain text", "another text"])
    return network(
        k, k.Input((1,), dtype="string"), layer, k.layers.Embedding(20, 4), k.layers.Flatten(), k.layers.Dense(1)
    )


def looked_up(k: Any) -> Any:
    layer = k.layers.StringLookup(vocabulary=["red", "green"], output_mode="one_hot")
    return network(k, k.Input((1,), dtype="string"), layer, k.layers.Dense(1))


def with_lambda(k: Any) -> Any:
    return network(k, k.Input((3,)), k.layers.Lambda(lambda x: x * 2, name="double"), k.layers.Dense(1))


def with_own_layer(k: Any) -> Any:
    class Scaled(k.layers.Layer):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    return network(k, k.Input((3,)), Scaled(), k.layers.Dense(1))


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "normalization": normalization,
    "discretization": discretized,
    "conv2d": convolutional,
    "resizing": resized,
    "causal": causal,
    "conv3d": volume,
    "embedding": embedded,
    "masked_lstm": masked("LSTM"),
    "masked_gru": masked("GRU"),
    "masked_rnn": masked("SimpleRNN"),
    "bidirectional": bidirectional,
    "time_distributed": time_distributed,
    "attention": attention,
    "two_in_two_out": two_in_two_out,
    "by_name": by_name,
    "unused": unused,
    "twice": twice,
    "convlstm": convolved_memory,
    "operators": of_operators,
    "float64": halved,
    "text": text,
    "lookup": looked_up,
    "lambda": with_lambda,
    "own_layer": with_own_layer,
}


class Constants(tf.Module):  # type: ignore[misc]
    """A module with constants as attributes, in two functions."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.scale = tf.constant([1.0, 2.0, 3.0]), tf.constant(0.5)
        self.weight = tf.Variable(np.random.default_rng(1).normal(size=(3, 3)).astype("float32"))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")])
    def affine(self, x: Any) -> Any:
        return {"y": x @ self.weight * self.scale + self.shift}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x"), tf.TensorSpec([3], tf.float32, name="bias")])
    def shifted(self, x: Any, bias: Any) -> Any:
        return {"y": x + bias, "z": tf.reduce_sum(x, axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="ids")])
    def looked_up(self, ids: Any) -> Any:
        return {"row": tf.gather(self.weight, ids)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="x")])
    def looped(self, x: Any) -> Any:
        def step(i: Any, y: Any) -> Any:
            return i + 1, tf.tanh(y @ self.weight) + x

        return {
            "y": tf.while_loop(
                lambda i, y: i < 4,
                step,
                (tf.constant(0), x),
                shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 3])),
            )[1]
        }


def saved(name: str, folder: Path) -> None:
    module = Constants()
    chosen = {
        "constants": {"serving_default": module.affine},
        "loop": {"serving_default": module.looped},
        "gather": {"only": module.looked_up},
        "signatures": {"first": module.affine, "second": module.shifted},
    }
    if name in chosen:
        tf.saved_model.save(module, str(folder), signatures=chosen[name])
    elif name == "own_layer":
        with_own_layer(tf.keras).export(str(folder), verbose=False)
    elif name == "trained":  # by Keras 2, whose optimizer travels along
        import tf_keras

        model = normalization(tf_keras)
        model.compile("adam", "mse")
        model.fit(ROWS, ROWS[:, :3], verbose=0)
        model.save(str(folder), save_format="tf")
    else:
        NETWORKS[name](tf.keras).export(str(folder), verbose=False)


def lite(name: str, folder: Path) -> None:
    quantised = name.startswith("int8_")
    model = NETWORKS[name.removeprefix("int8_")](tf.keras)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantised:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        shape = (1, *model.inputs[0].shape[1:])
        samples = [[np.random.default_rng(n).normal(size=shape).astype("float32")] for n in range(16)]
        converter.representative_dataset = lambda: iter(samples)
    (folder / "model.tflite").write_bytes(converter.convert())


def main(form: str, name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tf.keras.utils.set_random_seed(0)
    if form in ("h5", "h5_of_3"):
        import tf_keras

        tf_keras.utils.set_random_seed(0)
        NETWORKS[name](tf_keras if form == "h5" else tf.keras).save(folder / "model.h5")
    elif form == "keras":
        NETWORKS[name](tf.keras).save(folder / "model.keras")
    else:
        {"saved": saved, "lite": lite}[form](name, folder)


if __name__ == "__main__":
    main(*sys.argv[1].split(":"), Path(sys.argv[2]))  # type: ignore[call-arg,arg-type]
