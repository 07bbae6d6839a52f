# SPDX-License-Identifier: Apache-2.0
"""The conformance suite: it drives a command line and imports nothing of the program it judges."""
