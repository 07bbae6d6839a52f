# SPDX-License-Identifier: Apache-2.0
"""The programs that execute artefacts, one file or folder each: what it needs, how it compiles, opens and serves."""
