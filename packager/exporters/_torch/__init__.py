# SPDX-License-Identifier: Apache-2.0
"""Torch modules and programs to ONNX."""
