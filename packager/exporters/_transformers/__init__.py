# SPDX-License-Identifier: Apache-2.0
"""The parts of the exporter of Hugging Face directories, in the order in which they work.

`opening` opens the weights with their class, `files` reads what lies beside them, `inputs` and `images` describe what
the model takes, `sentence` builds the modules behind an encoder, `graph` finds what comes out and makes the source;
`compared` says what of that counts, `refusing` what is wrong with it.
"""
