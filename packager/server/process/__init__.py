# SPDX-License-Identifier: Apache-2.0
"""The server as a process of its host: supervision, listeners, signals, limits."""
