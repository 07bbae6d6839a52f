# SPDX-License-Identifier: Apache-2.0
"""The lock: every mutable name of a recipe resolved once, and the package environments it pins."""
