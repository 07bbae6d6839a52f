# SPDX-License-Identifier: Apache-2.0
"""Models for tables: inputs by column, estimators, critical rows."""
