# SPDX-License-Identifier: Apache-2.0
"""The interface of a source, found by running it: lengths, integers, indices, masks."""
