# SPDX-License-Identifier: Apache-2.0
"""Knobs: what a site may change about a running bundle without changing the bundle."""
