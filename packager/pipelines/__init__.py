# SPDX-License-Identifier: Apache-2.0
"""Derive the pipeline of a bundle from its source, and compare it with the source's own."""
