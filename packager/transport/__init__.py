# SPDX-License-Identifier: Apache-2.0
"""Copying bundles: between files, stores, registries and buckets, whole or as deltas."""
