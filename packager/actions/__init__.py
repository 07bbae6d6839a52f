# SPDX-License-Identifier: Apache-2.0
"""Actions: look a result up, perform the step in a sandboxed worker, remember it."""
