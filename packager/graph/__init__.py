# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs: checks before one is opened, the canonical form, requirements on a runtime."""
