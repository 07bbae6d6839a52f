# SPDX-License-Identifier: Apache-2.0
"""Reference: what an encoder-decoder answers by itself to the reference prompts, greedy and with its beams.

prompts.json          texts and their token ids, or the names of audio files: part of the bundle
audio/NAME.wav        what a speech model hears: part of the bundle
outputs.json          tokens, log-probabilities and gaps: an observation, for a statement about the bundle
logits.safetensors    one tensor per prompt [tokens, vocabulary], and of audio its features, for the measurement alone
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packager import canonical, exporters
from packager.canonical import JSON
from packager.errors import StepError
from packager.formats import safetensors
from packager.steps import _answers
from packager.types import check_path

VERSION = 1  # 1: first form
ANSWER = _answers.REFERENCE_SEQ2SEQ
PROMPTS, OUTPUTS, LOGITS = "prompts.json", "outputs.json", "logits.safetensors"


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Write the files; return how many prompts there are, and the tokens of the longest source and answer."""
    source = exporters.generative(params["kind"], inputs["source"], params["payload"], params["task"])
    prompts, outputs, longest, read = [], [], 1, 1
    tensors: dict[str, safetensors.Tensor] = {}
    for prompt, answer, more in source.answers(params["steps"]):
        logits = more["logits"]
        if not (abs(logits) < float("inf")).all():
            raise StepError(
                f"the source answers the prompt `{prompt['name']}` with values that are no numbers",
                hint="look at the weights: NaN or infinity in them makes every answer one",
            )
        prompts.append(prompt)
        outputs.append(answer)
        longest, read = max(longest, len(prompt["start"]) + len(answer["tokens"])), max(read, len(prompt["ids"]))
        for name, value in (("", logits), ("features ", more.get("features"))):
            if value is not None:
                tensors[f"{name}{prompt['name']}"] = ("float32", value.shape, value.astype("<f4").tobytes())
        if "file" in more:
            path = out / check_path(prompt["audio"])
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(more["file"])
    if not prompts:
        raise StepError("no reference prompt fits into the model's context", hint="state the lengths in `config.json`")
    (out / PROMPTS).write_bytes(canonical.dump({"format": 1, "steps": params["steps"], "prompts": prompts}))
    (out / OUTPUTS).write_bytes(canonical.dump({"format": 1, "prompts": outputs}))
    (out / LOGITS).write_bytes(safetensors.dump(tensors))
    return {"prompts": len(prompts), "longest": longest, "source": read}
