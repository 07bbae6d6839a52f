# SPDX-License-Identifier: Apache-2.0
"""Run the model: sessions, batching, worker processes."""
