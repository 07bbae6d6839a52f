# SPDX-License-Identifier: Apache-2.0
"""What a bundle promises, and on which runtimes and hosts the promise holds."""
