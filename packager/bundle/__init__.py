# SPDX-License-Identifier: Apache-2.0
"""The bundle as data: its record, and readers for every place and form that it can have."""
