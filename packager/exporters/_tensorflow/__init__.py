# SPDX-License-Identifier: Apache-2.0
"""TensorFlow and Keras models to ONNX."""
