# SPDX-License-Identifier: Apache-2.0
"""Data only: texts that the program fills in."""
