# SPDX-License-Identifier: Apache-2.0
"""What the server reports: metrics, logs, traces, drift."""
