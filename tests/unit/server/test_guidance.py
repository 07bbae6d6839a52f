# SPDX-License-Identifier: Apache-2.0
"""Answers inside a grammar, and calls of tools: over a real tokenizer, with tokens drawn at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from packager.server.generation import tools
from packager.server.generation.guidance import GuidanceError, Guide, Guides, schema_grammar
from packager.server.generation.loop import Job, generate
from packager.server.generation.sampling import Sampling
from packager.server.generation.templates import Template
from packager.server.generation.tokenizer import Tokenizer

pytest.importorskip("llguidance")
pytest.importorskip("tokenizers")
END = 0
CALLS = (
    "{% if tools %}<|system|>{% for t in tools %}{{ t.function | tojson }}{% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% for c in m.tool_calls or [] %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BARE = CALLS.replace("<tool_call>\n", "").replace("\n</tool_call>", "").replace('"arguments"', '"parameters"')
WEATHER = tools.Tool(
    "weather",
    {
        "type": "object",
        "properties": {"city": {"enum": ["Bern", "Oslo"]}, "days": {"$ref": "#/$defs/days"}},
        "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bpe = Library(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(['{"name": "weather", "days": 3}', "</tool_call> <tool_call> Bern Oslo"], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    bpe.save(str(path))
    return path


@pytest.fixture(scope="module")
def guides(file: Path) -> Guides:
    return Guides(file, size(file), (END,))


def size(file: Path) -> int:
    return int(json.loads(file.read_text())["model"]["vocab"].__len__())


class Drawn:
    """A decoder whose logits are noise: what it writes has a form only if something keeps it there."""

    batches = True

    def __init__(self, vocabulary: int, seed: int) -> None:
        self._size, self._chance = vocabulary, np.random.default_rng(seed)

    def empty(self, batch: int = 1) -> None:
        return None

    def step(self, ids: Any, cache: Any, mask: Any = None) -> Any:
        return self._chance.normal(size=(1, 1, self._size)).astype(np.float32)

    def leave(self, cache: Any) -> None:
        pass


def written(file: Path, guides: Guides, grammar: str, seed: int, most: int = 400) -> tuple[str, str | None]:
    decoder: Any = Drawn(size(file), seed)
    job = Job((1,), most, Sampling(temperature=1.0, seed=seed), grammar=grammar)
    steps = list(generate(decoder, Tokenizer.open(file), (END,), job, guide=guides.begin(grammar)))
    return "".join(step.text for step in steps), steps[-1].finish


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
        {"enum": ["yes", "no", 7, None]},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
        {"type": "string", "pattern": "^[a-f]{3,5}$"},
        {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer", "minimum": 5, "maximum": 12}}},
        {"anyOf": [{"const": 1}, {"type": "object", "properties": {"x": {"const": "ü€"}}, "required": ["x"]}]},
    ],
)
def test_noise_becomes_a_document_of_the_schema(schema: dict[str, Any], file: Path, guides: Guides) -> None:
    whole = 0
    for seed in range(4):
        text, finish = written(file, guides, schema_grammar(schema), seed)
        if finish == "stop":
            jsonschema.validate(json.loads(text), schema)
            whole += 1
    assert whole


def test_an_answer_that_is_cut_off_says_so(file: Path, guides: Guides) -> None:
    text, finish = written(file, guides, schema_grammar({"const": "a long constant of many tokens"}), 0, most=3)
    assert finish == "length" and text.startswith('"')


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "strin"}, "strin"),
        ({"type": "string", "format": "moon"}, "moon"),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "does not fetch"),
        ({"$ref": "file:///etc/passwd"}, "does not fetch"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, "minimum"),
        ({"type": "string", "pattern": "("}, "regex"),
    ],
)
def test_schemas_that_cannot_be_kept_are_refused_with_the_reason(
    schema: dict[str, Any], words: str, guides: Guides
) -> None:
    with pytest.raises(GuidanceError, match="is not supported") as refused:
        guides.check(schema_grammar(schema))
    assert words in refused.value.message and "\n" not in refused.value.message


def test_schemas_that_grow_are_refused(guides: Guides) -> None:
    with pytest.raises(GuidanceError, match="longer than 65536 bytes"):
        schema_grammar({"enum": ["x" * 70000]})
    deep: Any = True
    for _ in range(700):
        deep = {"items": deep}
    with pytest.raises(GuidanceError):
        guides.check(schema_grammar({"type": "array", **deep}))
    wide = {"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {"const": i}}} for i in range(20)]} for j in range(20)]}
    with pytest.raises(GuidanceError, match="too large"):
        guides.check(schema_grammar(wide))


def test_every_token_that_ends_an_answer_may_end_a_document(file: Path) -> None:
    guide = Guides(file, size(file), (END, 2)).begin(schema_grammar({"type": "integer"}))
    zeros = np.zeros(size(file), np.float32)
    assert not np.isfinite(guide.allowed(zeros)[[END, 2]]).any()
    guide.accept(Tokenizer.open(file).encode("7")[0])
    assert np.isfinite(guide.allowed(zeros)[[END, 2]]).all() and not np.isfinite(guide.allowed(zeros)[3])


def test_a_tokenizer_that_cannot_be_guided_says_so(file: Path, tmp_path: Path) -> None:
    table = json.loads(file.read_text())
    table["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(GuidanceError, match="cannot be guided by a grammar"):
        Guides(tmp_path / "tokenizer.json", size(file), (END,)).check(schema_grammar({"type": "integer"}))


def test_without_the_library_the_refusal_says_what_is_missing(guides: Guides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(GuidanceError, match="need `llguidance`"):
        guides.check(schema_grammar({"type": "object"}))


def form_of(file: Path, source: str) -> tools.Form | None:
    tokenizer = Tokenizer.open(file)
    return tools.find_form(Template(source), tokenizer, tokenizer.text_of(END))


def test_the_form_of_calls_is_that_of_the_template(file: Path) -> None:
    assert form_of(file, CALLS) == tools.Form("<tool_call>\n", "\n</tool_call>", "arguments")
    assert form_of(file, BARE) == tools.Form("", "", "parameters")
    thinking = CALLS.replace("<tool_call>\n", "<think>\n\n</think>\n\n<tool_call>\n")
    assert form_of(file, thinking) == form_of(file, CALLS)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",  # shows no tools
        CALLS.replace("{{ t.function | tojson }}", "tools"),  # says that there are tools, not which
        CALLS.replace('"name": ', '"id": "x", "name": '),  # a member that the grammar does not have
        CALLS.replace("<tool_call>", "<|user|>"),  # a special token, which no answer shows
        CALLS.replace('{"name": "', "<function=").replace('", "arguments": ', ">"),  # no JSON
        "{% for m in messages %}{{ raise_exception('no') }}{% endfor %}",
    ],
)
def test_other_templates_have_no_form(file: Path, source: str) -> None:
    assert source != CALLS and form_of(file, source) is None


def read(form: tools.Form, text: str, size: int) -> list[str | tools.Call]:
    reader = tools.Reader(form)
    found = [part for start in range(0, len(text), size) for part in reader.add(text[start : start + size])]
    rest = reader.end()
    return [*found, rest] if rest else found


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_calls_are_told_from_text_however_they_arrive(size: int) -> None:
    form = tools.Form("<tool_call>\n", "\n</tool_call>", "arguments")
    one = '<tool_call>\n{"name": "f", "arguments": {"x": "}</tool_call>"}}\n</tool_call>'
    text = f"Let me <tool see.{one}\n{one} <tool_c"
    found = read(form, text, size)
    calls = [part for part in found if isinstance(part, tools.Call)]
    assert calls == [tools.Call("f", '{"x": "}</tool_call>"}')] * 2
    assert "".join(part for part in found if isinstance(part, str)) == "Let me <tool see.\n <tool_c"


def test_noise_becomes_the_call_that_is_required(file: Path, guides: Guides) -> None:
    for source in (CALLS, BARE):
        form = form_of(file, source)
        assert form is not None
        for seed in range(3):
            text, finish = written(file, guides, tools.grammar(form, [WEATHER], free=False, several=True), seed)
            (call,) = read(form, text, 5)
            assert finish == "stop" and isinstance(call, tools.Call) and call.name == "weather"
            jsonschema.validate(json.loads(call.arguments), WEATHER.parameters)


def test_a_model_that_may_choose_writes_text_or_calls(file: Path, guides: Guides) -> None:
    form = form_of(file, CALLS)
    assert form is not None
    grammar = tools.grammar(form, [WEATHER, tools.Tool("other", {"type": "object"})], free=True, several=False)
    guide = guides.begin(grammar)
    tokenizer = Tokenizer.open(file)

    def goes(guide: Guide, text: str) -> bool:
        for token in tokenizer.encode(text, special=False):
            if not np.isfinite(guide.allowed(np.zeros(size(file), np.float32))[token]):
                return False
            guide.accept(token)
        return True

    assert goes(guide, "Plain text with { and <tool>.")
    assert goes(
        guides.begin(grammar), 'Well. <tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}'
    )
    assert not goes(guides.begin(grammar), '<tool_call>\n{"name": "nothing')
    assert not goes(guides.begin(grammar), '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"')
