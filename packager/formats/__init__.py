# SPDX-License-Identifier: Apache-2.0
"""Parse and write published formats, one file each: bytes to records and back. No clock, no network, no environment."""
