# SPDX-License-Identifier: Apache-2.0
"""Decoders with a key-value cache: one graph of standard operators, the tokenizer's files, the source's own tokens."""
