# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs: what one must be before it is opened, its canonical form, what it requires of a runtime."""
