# SPDX-License-Identifier: Apache-2.0
"""Whom to believe, and why: keys, certificates, trust files, and the decision over signed statements."""
