# SPDX-License-Identifier: Apache-2.0
"""A causal language model with its tokenizer as a source: graph, files, and its own answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import packager.exporters._generation.files as beside
from packager.canonical import JSON
from packager.errors import StepError
from packager.exporters import Port
from packager.exporters._generation import reference
from packager.exporters._generation.decoder import Decoder, open_decoder
from packager.exporters._generation.tokenized import Tokenized
from packager.server.generation.sampling import log_probabilities
from packager.server.generation.settings import TASK, TEMPLATE, TOKENIZER

_TOP = 8
_DIGITS = 6  # of log-probabilities and gaps; float32 has fewer


@dataclass(frozen=True, slots=True)
class Source(Tokenized):
    """An opened directory; the tokenizer is transformers' own and takes part in the reference alone."""

    decoder: Decoder
    tokenizer: Any
    special: beside.Special
    sampling: Mapping[str, float]
    travelling: Mapping[str, bytes]
    adapters: tuple[str, ...] = ()

    def with_adapters(self, names: Sequence[str]) -> Source:
        """Return the source whose graph takes adapters of these kinds of layers. Raises StepError."""
        return replace(self, decoder=self.decoder.with_adapters(names), adapters=tuple(sorted(names)))

    @property
    def ports(self) -> tuple[Sequence[Port], Sequence[Port]]:
        return self.decoder.inputs(), self.decoder.outputs()

    def graphs(self, opset: int) -> Mapping[str, Any]:
        return {"model": self.decoder.to_onnx(opset)}

    def files(self) -> Mapping[str, bytes]:
        return self.travelling

    def about(self) -> JSON:
        decoder, special = self.decoder, self.special
        return {
            "task": TASK,
            "architecture": decoder.architecture,
            "vocabulary": decoder.vocabulary,
            "context": decoder.context,
            "special": {"bos": special.bos, "eos": list(special.eos), "pad": special.pad},
            "cache": {"layers": len(decoder.layers), "bytes": decoder.token_bytes},
            "sampling": dict(self.sampling),
            **({"adapters": list(self.adapters)} if self.adapters else {}),
        }

    def answers(self, steps: int) -> Iterator[tuple[JSON, JSON, Any]]:
        for prompt in reference.prompts(self.decoder, self.tokenizer, steps, fixed_time):
            found = reference.answer(self.decoder, self.tokenizer, self.special, prompt, steps)
            yield prompt.to_json(), {"name": prompt.name, **_outputs(found)}, found.logits


def fixed_time(form: str) -> str:
    """Return the one moment at which templates are compared; a build has no clock."""
    return form


def _outputs(answer: reference.Answer) -> dict[str, JSON]:
    """Return the tokens, and of each step the log-probability, the distance to the second, and the most likely."""
    rows, gaps, tops = [], [], []
    for token, logits in zip(answer.tokens, answer.logits, strict=True):
        odds = log_probabilities(logits)
        order = (-odds).argsort(kind="stable")[:_TOP]
        rows.append(round(float(odds[token]), _DIGITS))
        gaps.append(round(float(odds[order[0]] - odds[order[1]]), _DIGITS))
        tops.append([[int(place), round(float(odds[place]), _DIGITS)] for place in order])
    return {"tokens": list(answer.tokens), "text": answer.text, "logprobs": rows, "gaps": gaps, "top": tops}


def open_source(source: Path, folder: Path) -> Source:
    """Open the model, the tokenizer and the settings. Raises StepError for what does not fit together."""
    sampling = beside.sampling(folder)
    decoder = open_decoder(folder)
    tokenizer = beside.open_tokenizer(source, folder)
    special = beside.special_tokens(folder, tokenizer)
    template = beside.chat_template(source, folder)
    return build_source(decoder, tokenizer, special, sampling, beside.tokenizer_json(source, folder), template)


def build_source(
    decoder: Decoder,
    tokenizer: Any,
    special: beside.Special,
    sampling: Mapping[str, float],
    text: bytes,
    template: bytes | None,
) -> Source:
    """Return a source of its opened parts; `text` is `tokenizer.json`. Raises StepError where they do not fit."""
    known = [token for token in (special.bos, special.pad, *special.eos) if token is not None]
    if outside := [token for token in known if token >= decoder.vocabulary]:
        raise StepError(
            f"the special token {outside[0]} is outside of the model's vocabulary of {decoder.vocabulary}",
            hint="correct `eos_token_id`, `bos_token_id` and `pad_token_id` in `generation_config.json`",
        )
    files = {TOKENIZER: text}
    files |= {TEMPLATE: template} if template is not None else {}
    return Source(decoder, tokenizer, special, sampling, files)
