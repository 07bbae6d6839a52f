# SPDX-License-Identifier: Apache-2.0
"""Admit requests: how many at once, how much memory, how long."""
