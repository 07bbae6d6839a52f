# SPDX-License-Identifier: Apache-2.0
"""Measure a decoder: the artefact, our loop and our tokenizer against what the source answered. No thresholds in here.

Every prompt is one case. The source's own tokens are fed to the artefact one by one, and of each step is kept: the
logits, the token that the artefact finds most likely, and, where that is another one, how far the source was from it.
One case runs two prompts of unequal length as one batch, and one compares the ids of many strings. Where programs of
others use a library's own loop and tokenizer on the artefact, those are compared as well. The source is not opened
here: its answers are files.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packager import canonical, error_causes
from packager.canonical import JSON
from packager.errors import PackagerError, StepError
from packager.formats import safetensors
from packager.runtime import load_runtime
from packager.steps import _answers, _compare

VERSION = 2  # 2: ids of many strings; 1: first form
ANSWER = _answers.MEASURE_GENERATION
OUTPUTS = ("logits", "prompt_ids", "text", "tokens")
"""What is compared of a prompt: logits step by step, its ids, and the text and the tokens of the answer."""
_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class _Expected:
    """A prompt with what the source makes of it."""

    prompt: Mapping[str, JSON]
    answer: Mapping[str, JSON]
    logits: Any

    @property
    def name(self) -> str:
        return str(self.prompt["name"])


def run(inputs: Mapping[str, Path], out: Path, params: Mapping[str, JSON]) -> JSON:
    """Compare the artefact `path` of the tree `artefact`, with the files of `graph`, to the tree `reference`.

    With the input `adapter` the artefact is that of the base, and runs with the matrices in that tree.
    """
    generation = importlib.import_module("packager.server.generation.decoder")
    session = _session(inputs["artefact"] / params["path"], params)
    decoder = generation.open_decoder(session)
    if "adapter" in inputs:
        decoder = _adapted(decoder, session, inputs["adapter"])
    expected = _read(inputs["reference"])
    tokenizer, template = _open_texts(inputs["graph"], params["generation"])
    cases = [_case(decoder, tokenizer, template, item) for item in expected]
    own = _own(generation.open_own_loop(session), expected, inputs["reference"], params["runtime"])
    return {"cases": [*cases, *_batched(decoder, expected), _texts(tokenizer, inputs["reference"]), *own]}


def _adapted(decoder: Any, session: Any, folder: Path) -> Any:
    adapters = importlib.import_module("packager.server.generation.adapters")
    settings = importlib.import_module("packager.server.generation.settings")
    return adapters.AdaptedSteps(decoder, adapters.open_weights(folder / settings.ADAPTER, session.inputs))


def _own(library: Any, expected: Sequence[_Expected], reference: Path, runtime: str) -> Iterator[JSON]:
    """Yield how the library's own loop and tokenizer answer, where programs of others use those."""
    if library is None:
        return
    for item in expected:
        try:
            yield _own_case(library, item, runtime)
        except Exception as error:  # each runtime has its own tree of exceptions
            raise StepError(
                f"{runtime}'s own loop fails on a prompt (`{item.name}`): {error_causes.find_cause(error)}"
            ) from error
    if getattr(library, "every_string", True):
        yield _texts(library, reference, f" in {runtime}'s own tokenizer")


def _own_case(library: Any, item: _Expected, runtime: str) -> JSON:
    """Compare a prompt's ids, tokens and text; behind a token that is another one, answers are not compared."""
    numpy = importlib.import_module("numpy")
    ids, tokens = item.prompt["ids"], item.answer["tokens"]
    found = library.generate(ids, len(tokens))
    if len(found) != len(tokens):
        raise StepError(f"{runtime} answers {len(found)} tokens where {len(tokens)} are wanted")
    same = next((step for step, pair in enumerate(zip(tokens, found, strict=True)) if pair[0] != pair[1]), len(tokens))
    own = numpy.array([*found[: same + 1], *tokens[same + 1 :]])
    text = numpy.array([library.decode(tokens)], object)
    outputs = {
        "logits": _compare.compare(numpy.zeros(0, numpy.float32), numpy.zeros(0, numpy.float32)),
        "prompt_ids": _compare.compare_exactly(
            numpy.array(ids),
            numpy.array(library.encode(item.prompt["text"], special=item.prompt["special"]), numpy.int64),
        ),
        "text": _compare.compare_exactly(numpy.array([item.answer["text"]], object), text),
        "tokens": _compare.compare(numpy.array(tokens), own, _gaps(item.logits, tokens, own)),
    }
    lengths = {"batch": 1, "sequence": len(ids), "past": len(ids) + len(tokens) - 1, "total": len(ids) + len(tokens)}
    return {
        "name": f"prompt {item.name} in {runtime}'s own loop",
        "fill": "prompt",
        "lengths": lengths,
        "outputs": outputs,
    }


def _texts(tokenizer: Any, reference: Path, place: str = "") -> JSON:
    """Return how the ids of many strings, and what these decode to, differ from the source's."""
    numpy = importlib.import_module("numpy")
    strings = importlib.import_module("packager.pipelines.strings")
    compare = importlib.import_module("packager.pipelines.compare")
    wanted = canonical.load((reference / "texts.json").read_bytes(), limit=_LIMIT)
    found = strings.found_texts(tokenizer.encode, tokenizer.decode, wanted["count"], wanted["special"])
    named = [
        f"{compare.show_text(text)} as {made}"
        for text, made in zip(strings.draw_strings(wanted["count"], tokens=wanted["special"]), found, strict=True)
    ]
    theirs = [
        own if made == source else own.removesuffix(made) + source
        for own, made, source in zip(named, found, wanted["found"], strict=True)
    ]
    none = _compare.compare(numpy.zeros(0, numpy.int64), numpy.zeros(0, numpy.int64))
    outputs = {
        "logits": _compare.compare(numpy.zeros(0, numpy.float32), numpy.zeros(0, numpy.float32)),
        "prompt_ids": _compare.compare_exactly(numpy.array(theirs, object), numpy.array(named, object)),
        "text": none,
        "tokens": none,
    }
    lengths = {"batch": 1, "sequence": 1, "past": 0, "total": 1}
    return {"name": f"{wanted['count']} strings{place}", "fill": "prompt", "lengths": lengths, "outputs": outputs}


def _session(path: Path, params: Mapping[str, JSON]) -> Any:
    try:
        return load_runtime(params["runtime"]).opener()(path, threads=1, device=params.get("device", "cpu"))
    except PackagerError:
        raise
    except Exception as error:  # each runtime has its own tree of exceptions
        raise StepError(
            f"`{path.name}` does not load in {params['runtime']}: {error_causes.find_cause(error)}"
        ) from error


def _read(folder: Path) -> list[_Expected]:
    prompts = canonical.load((folder / "prompts.json").read_bytes(), limit=_LIMIT)["prompts"]
    answers = canonical.load((folder / "outputs.json").read_bytes(), limit=_LIMIT)["prompts"]
    numpy = importlib.import_module("numpy")
    tensors = safetensors.parse((folder / "logits.safetensors").read_bytes())
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        _, shape, data = tensors[prompt["name"]]
        found.append(_Expected(prompt, answer, numpy.frombuffer(data, "<f4").reshape(shape)))
    return found


def _open_texts(tree: Path, special: Mapping[str, JSON]) -> tuple[Any, Any]:
    """Open the tokenizer and the template as a site does. Raises StepError."""
    settings = importlib.import_module("packager.server.generation.settings")
    tokenizers = importlib.import_module("packager.server.generation.tokenizer")
    templates = importlib.import_module("packager.server.generation.templates")
    try:
        tokenizer = tokenizers.Tokenizer.open(tree / settings.TOKENIZER)
        if not (tree / settings.TEMPLATE).is_file():
            return tokenizer, None
        bos, eos = (tokenizer.text_of(special[name]) for name in ("bos", "eos"))
        return tokenizer, templates.Template.open(tree / settings.TEMPLATE, bos, eos, now=lambda form: form)
    except ValueError as error:
        raise StepError(str(error), hint="correct it in the source and save that again") from error


def _case(decoder: Any, tokenizer: Any, template: Any, item: _Expected) -> JSON:
    """Run one prompt and its answer through the artefact; return how both differ."""
    numpy = importlib.import_module("numpy")
    ids, tokens = item.prompt["ids"], item.answer["tokens"]
    logits = _run(decoder, ids, tokens, item.name)
    own = logits.argmax(axis=-1)
    text = item.prompt["text"]
    if "messages" in item.prompt:
        text = template.render(item.prompt["messages"])
    made = tokenizer.encode(text, special=item.prompt["special"])
    outputs = {
        "logits": _compare.compare(item.logits[None], logits[None]),
        "prompt_ids": _compare.compare_exactly(numpy.array(ids), numpy.array(made, dtype=numpy.int64)),
        "text": _compare.compare_exactly(
            *(numpy.array([t], object) for t in (item.answer["text"], tokenizer.decode(tokens)))
        ),
        "tokens": _compare.compare(numpy.array(tokens), own, _gaps(item.logits, tokens, own)),
    }
    lengths = {"batch": 1, "sequence": len(ids), "past": len(ids) + len(tokens) - 1, "total": len(ids) + len(tokens)}
    return {"name": f"prompt {item.name}", "fill": "prompt", "lengths": lengths, "outputs": outputs}


def _run(decoder: Any, ids: Sequence[int], tokens: Sequence[int], name: str) -> Any:
    """Return the logits behind a prompt and behind every token but the last, each fed by itself."""
    numpy = importlib.import_module("numpy")
    loop = importlib.import_module("packager.server.generation.loop")
    cache = decoder.empty()
    try:
        rows = [loop.prefill(decoder, ids, cache)]
        rows += [decoder.step(numpy.array([[token]]), cache)[0, -1] for token in tokens[:-1]]
    except Exception as error:  # each runtime has its own tree of exceptions
        raise StepError(
            f"the artefact fails on a prompt that the source answers (`{name}`): {error_causes.find_cause(error)}"
        ) from error
    return numpy.stack(rows)


def _gaps(logits: Any, tokens: Sequence[int], own: Any) -> Any:
    """Return of every step how far the source was from the artefact's token: the difference of its own logits."""
    numpy = importlib.import_module("numpy")
    steps = numpy.arange(len(tokens))
    return logits[steps, list(tokens)].astype("float64") - logits[steps, own]


def _batched(decoder: Any, expected: Sequence[_Expected]) -> list[JSON]:
    """Run the shortest and the longest of the short prompts as one batch, padded on the left, if there are two.

    Nothing where a runtime takes one row at a time.
    """
    numpy = importlib.import_module("numpy")
    short = sorted((item for item in expected if len(item.prompt["ids"]) <= 128), key=lambda i: len(i.prompt["ids"]))
    if len(short) < 2 or not decoder.batches:
        return []
    pair = (short[0], short[-1])
    width = len(pair[1].prompt["ids"])
    ids, mask = numpy.zeros((2, width), numpy.int64), numpy.zeros((2, width), numpy.int64)
    for row, item in enumerate(pair):
        own = item.prompt["ids"]
        ids[row, width - len(own) :], mask[row, width - len(own) :] = own, 1
    logits = decoder.step(ids, decoder.empty(2), mask)[:, -1]
    wanted = numpy.stack([item.logits[0] for item in pair])
    tokens = [item.answer["tokens"][0] for item in pair]
    own = logits.argmax(axis=-1)
    none = _compare.compare(numpy.zeros(0, numpy.int64), numpy.zeros(0, numpy.int64))
    outputs = {
        "logits": _compare.compare(wanted[:, None], logits[:, None]),
        "prompt_ids": none,
        "text": none,
        "tokens": _compare.compare(numpy.array(tokens), own, _gaps(wanted, tokens, own)),
    }
    lengths = {"batch": 2, "sequence": width, "past": 1, "total": width}
    name = f"prompts {pair[0].name} and {pair[1].name} in one batch"
    return [{"name": name, "fill": "prompt", "lengths": lengths, "outputs": outputs}]
