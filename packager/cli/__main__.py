# SPDX-License-Identifier: Apache-2.0
"""Allow `python -m packager.cli`."""

from packager.cli import entry

entry()
