# SPDX-License-Identifier: Apache-2.0
"""Evaluate a subset of Rego v1 as OPA does; everything outside the subset is refused by name."""
