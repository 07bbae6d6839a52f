# SPDX-License-Identifier: Apache-2.0
"""Python packages: what a runtime or a toolchain needs, locked, fetched, carried, installed."""
