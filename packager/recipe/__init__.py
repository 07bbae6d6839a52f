# SPDX-License-Identifier: Apache-2.0
"""The recipe: what a person wrote, parsed and checked."""
