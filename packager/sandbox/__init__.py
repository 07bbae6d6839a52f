# SPDX-License-Identifier: Apache-2.0
"""The sandbox: a confined process with pinned numerics, in which untrusted models are opened."""
