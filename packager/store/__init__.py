# SPDX-License-Identifier: Apache-2.0
"""The local store: blobs by digest, names of bundles, cached results, garbage collection."""
