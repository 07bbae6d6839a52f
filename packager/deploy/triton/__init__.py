# SPDX-License-Identifier: Apache-2.0
"""Model repositories of the Triton Inference Server: rendered, stored in buckets, swapped without an outage."""
