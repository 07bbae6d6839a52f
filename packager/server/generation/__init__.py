# SPDX-License-Identifier: Apache-2.0
"""Generate text with an installed decoder: tokenizer, chat template, sampling and the loop, over any `Session`.

In reading order: `settings` (what the contract says), `tokenizer`, `templates`, `decoder` (one step of the graph with
its key-value cache), `sampling`, `loop` (the tokens of one request), `terminal` (the program behind `packager chat`).

It is the reference that bundles are proven with as well: the build measures with the same code that serves.
"""
