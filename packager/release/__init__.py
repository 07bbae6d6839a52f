# SPDX-License-Identifier: Apache-2.0
"""Statements about a finished bundle: signatures, provenance, promotion, rebuild."""
