# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol v2: requests, tensors and their bounds, as bytes and without I/O."""
