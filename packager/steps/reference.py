# SPDX-License-Identifier: Apache-2.0
"""Reference: what a source that generates text answers by itself to the reference prompts.

prompts.json          texts, conversations and token ids: part of the bundle
outputs.json          greedy tokens, log-probabilities and gaps: an observation, for a statement about the bundle
logits.safetensors    one tensor per prompt [tokens, vocabulary], for the measurement alone
texts.json            how many strings of `pipelines.strings` with which special tokens, and digests of their ids and of
                      what these decode to, for the measurement alone
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from packager import canonical, exporters
from packager.canonical import JSON
from packager.errors import StepError
from packager.formats import safetensors
from packager.pipelines.strings import found_texts
from packager.steps import _answers

VERSION = 2  # 2: ids of many strings; 1: first form
ANSWER = _answers.REFERENCE
PROMPTS, OUTPUTS, LOGITS, TEXTS = "prompts.json", "outputs.json", "logits.safetensors", "texts.json"
STRINGS = 2000
"""Strings that the source's tokenizer is compared on; more are drawn in `tests/matrix/compare_tokenizers.py`."""


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write the files; return how many prompts there are, and the tokens of the longest with its answer.

    An adapter answers on its `base`, whose model is in the folder `params["base"]` of that input.
    """
    base = (inputs["base"], params["base"]) if "base" in inputs else None
    source = exporters.generative(params["kind"], inputs["source"], params["payload"], base=base)
    numpy = importlib.import_module("numpy")
    prompts, outputs, longest = [], [], 0
    tensors: dict[str, safetensors.Tensor] = {}
    for prompt, answer, logits in source.answers(params["steps"]):
        if not numpy.isfinite(logits).all():
            raise StepError(
                f"the source answers the prompt `{prompt['name']}` with values that are no numbers",
                hint="look at the weights: NaN or infinity in them makes every answer one",
            )
        prompts.append(prompt)
        outputs.append(answer)
        longest = max(longest, len(prompt["ids"]) + len(answer["tokens"]))
        data = logits.astype("<f4").tobytes()
        tensors[prompt["name"]] = ("float32", logits.shape, data)
    if not prompts:
        raise StepError(
            f"no reference prompt fits into the model's context beside {params['steps']} tokens of an answer",
            hint="a language model with so short a context is served as a graph of one pass: leave `task` out",
        )
    (out / PROMPTS).write_bytes(canonical.dump({"format": 1, "steps": params["steps"], "prompts": prompts}))
    (out / OUTPUTS).write_bytes(canonical.dump({"format": 1, "prompts": outputs}))
    (out / LOGITS).write_bytes(safetensors.dump(tensors))
    special = list(source.special_tokens())
    found = found_texts(source.encode, source.decode, STRINGS, special)
    (out / TEXTS).write_bytes(canonical.dump({"count": STRINGS, "special": special, "found": found}))
    return {"prompts": len(prompts), "longest": longest}
