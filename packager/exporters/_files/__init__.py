# SPDX-License-Identifier: Apache-2.0
"""Files of models: recognised by content, opened without trust."""
