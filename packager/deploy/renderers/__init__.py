# SPDX-License-Identifier: Apache-2.0
"""What turns a bundle and its knobs into the files of a deployment: one module per kind, pure, no disk, no network."""
