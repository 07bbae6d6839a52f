# SPDX-License-Identifier: Apache-2.0
"""The GPU kit: what a bare machine with a GPU needs to prove GPU claims in minutes, and the report of such a run."""
