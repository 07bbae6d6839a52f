# SPDX-License-Identifier: Apache-2.0
"""The passport of a bundle: one page that says what it is, who signed it, what it needs and where it runs.

contents    the facts of the page, as plain JSON, each with where it comes from
page        the page: HTML without any request, and a script that checks the page's own claims in the browser
dossier     technical documentation for regulators, from the same facts
player      the parts of ONNX Runtime Web that let the page run the model on its reference inputs
"""
