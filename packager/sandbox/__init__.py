# SPDX-License-Identifier: Apache-2.0
"""Where foreign models are opened: a confined process with pinned numerics that can reach nothing."""
