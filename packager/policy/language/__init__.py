# SPDX-License-Identifier: Apache-2.0
"""A part of Rego v1, evaluated as OPA evaluates it; what is not in the part is refused by name."""
