# SPDX-License-Identifier: Apache-2.0
"""Read files of models: recognise them by content, open them as untrusted."""
