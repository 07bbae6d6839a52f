# SPDX-License-Identifier: Apache-2.0
r"""Text vectorisers of scikit-learn in ONNX Runtime's operators, exact for every text, or refused with the reason.

What `skl2onnx` emits by itself is silently wrong outside ASCII. Measured over all of Unicode 15 and glibc 2.36:

* Python's `\w` is `[\p{L}\p{N}_]` to RE2, so a tokenizer for the usual patterns exists.
* `StringNormalizer` (locale `C.UTF-8`) lowers like Python but for two letters. `İ` becomes two characters in Python,
  of which the second ends a word; so the words are cut before they are lowered, by a pattern that ends one at `İ`.
  A final `Σ` becomes `ς` in Python; a vocabulary in which that can matter is refused.
* The words of an n-gram are handed over one by one: guessing them from the joined text goes wrong for pruned words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from packager.errors import StepError

_WORDS = r"\p{L}\p{N}_"
_WORDS_BUT_I = r"(?:[^\P{L}İ]|[\p{N}_])"  # RE2 has no intersection of classes
_PATTERN = re.compile(
    r"(?:\(\?u\))?(?P<edge>\\b)?(?:(?P<pair>\\w\\w\+)|(?P<unit>\\w|\[[^\]\[\\]+\])(?P<count>\+|\{\d+,\}))(?P<end>\\b)?"
)
_BEFORE = "prepare the text before the model, or use the default `token_pattern`"


def vectorizers(model: Any) -> list[Any]:
    """Return the fitted text vectorisers anywhere inside an estimator, in the order they are found."""
    return [part for part in parts(model) if hasattr(part, "vocabulary_") and hasattr(part, "token_pattern")]


def parts(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Yield every estimator inside `value`, itself first: attributes, lists, tuples and dicts are followed."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, list | tuple):
        children = list(value)
    elif isinstance(value, dict):
        children = list(value.values())
    elif hasattr(value, "get_params") and hasattr(value, "__dict__"):
        yield value
        children = list(vars(value).values())
    else:
        return
    for child in children:
        yield from parts(child, seen)


def prepare(vectorizer: Any) -> dict[str, Any]:
    """Make a vectoriser (a copy, changed in place) fit for the converter; return the converter's options for it.

    Raises StepError, saying why, for one whose words the graph would cut or change differently.
    """
    _refuse(vectorizer)
    expression = tokenizer(vectorizer.token_pattern, lowered=vectorizer.lowercase)
    grams = {tuple(gram.split(" ")): int(index) for gram, index in vectorizer.vocabulary_.items()}
    if vectorizer.lowercase:
        _refuse_sigma(grams)
    lengths = sorted({len(gram) for gram in grams})
    if lengths != list(range(lengths[0], lengths[-1] + 1)):
        raise StepError(f"the vocabulary holds n-grams of {lengths[0]} and of {lengths[-1]} words, and a gap between")
    vectorizer.vocabulary_, vectorizer.ngram_range = grams, (lengths[0], lengths[-1])
    return {"tokenexp": expression, "locale": "C.UTF-8"}


def _refuse(vectorizer: Any) -> None:
    who = type(vectorizer).__name__
    for name in ("tokenizer", "preprocessor"):
        if getattr(vectorizer, name) is not None:
            raise StepError(f"`{who}` calls a `{name}` of its own, which a graph cannot hold", hint=_BEFORE)
    if callable(vectorizer.analyzer):
        raise StepError(f"`{who}` calls an `analyzer` of its own, which a graph cannot hold", hint=_BEFORE)
    if vectorizer.analyzer != "word":
        raise StepError(
            f"`{who}(analyzer={vectorizer.analyzer!r})` joins runs of white space, which no ONNX operator does",
            hint="use `analyzer='word'`",
        )
    if vectorizer.strip_accents is not None:
        raise StepError(
            f"`{who}(strip_accents={vectorizer.strip_accents!r})` has no ONNX form: no operator removes accents",
            hint="use `strip_accents=None`, or remove accents before the model",
        )
    if vectorizer.stop_words and tuple(vectorizer.ngram_range) != (1, 1):
        raise StepError(
            f"`{who}` removes stop words before it joins words to n-grams, which no ONNX operator does",
            hint="use `stop_words=None` with n-grams, or single words with stop words",
        )


def _refuse_sigma(grams: dict[tuple[str, ...], int]) -> None:
    for gram in grams:
        for word in gram:
            if "ς" in word or word.endswith("σ"):
                raise StepError(
                    f"the vocabulary holds `{word}`: Python lowers a final `Σ` to `ς`, ONNX's StringNormalizer to `σ`",
                    hint="lower the text before the model and use `lowercase=False`",
                )


def tokenizer(pattern: str, *, lowered: bool) -> str:
    r"""Return the RE2 pattern that finds in the unchanged text the words that sklearn finds in the lowered one.

    `pattern` is a run of `\w` or of an ASCII class such as `[a-z0-9]`, at least so many. Raises StepError for others.
    """
    found = _PATTERN.fullmatch(pattern)
    inside = (found["unit"] or r"\w") if found else ""
    bounded = bool(found and (found["edge"] or found["end"]))
    if not found or (bounded and inside != r"\w") or not inside.isascii() or inside.startswith("[^"):
        raise StepError(
            f"token pattern `{pattern:.80}` has no proven form in ONNX Runtime's tokenizer",
            hint="use the default, a run of `\\w`, or a run of a class of ASCII characters such as `[a-z0-9]+`",
        )
    least = 2 if found["pair"] else 1 if found["count"] == "+" else int(found["count"][1:-2])
    return _expression(inside, max(least, 1), lowered)


def _expression(inside: str, least: int, lowered: bool) -> str:
    if not lowered:
        return f"[{_WORDS}]{{{least},}}" if inside == r"\w" else f"{inside}{{{least},}}"
    unit = _WORDS_BUT_I if inside == r"\w" else _before_lowering(inside)
    if not re.fullmatch(inside, "i"):
        return f"{unit}{{{least},}}"
    return f"{unit}{{{least - 1},}}İ|{unit}{{{least},}}"


def _before_lowering(inside: str) -> str:
    """Return the class of characters whose lower form is in the ASCII class `inside` (the Kelvin sign is a `k`)."""
    member = re.compile(inside)
    found = [chr(code) for code in (*range(128), 0x212A) if member.fullmatch(chr(code).lower())]
    return "[" + "".join(f"\\x{{{ord(letter):x}}}" for letter in found) + "]"


def cut_before_lowering(model: Any, helper: Any) -> None:
    """Cut every text of a graph into words first, then lower the words: text → words [N, C] → [N*C] → lower → [N, C].

    Every text gets one more word, because `StringNormalizer` fails on a batch without any: the pad value of the
    `Tokenizer`, which no vocabulary holds. `helper` is `onnx.helper`.
    """
    lowers = {node.output[0]: node for node in model.graph.node if node.op_type == "StringNormalizer"}
    cutters = {node.output[0]: node for node in model.graph.node if node.op_type == "Tokenizer"}
    moved: set[str] = set()
    nodes: list[Any] = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Flatten" and node.input[0] in cutters:
            cutter = cutters[node.input[0]]
            lower = lowers.get(cutter.input[0])
            if lower is not None:
                moved.add(lower.output[0])
                cutter.input[0] = lower.input[0]
            nodes += _behind(model, helper, cutter, node, lower)
    kept = [node for node in nodes if node.op_type != "StringNormalizer" or node.output[0] not in moved]
    replace_nodes(model, kept)


def mend_sublinear(model: Any, helper: Any) -> None:
    """Make `1 + log(n)` of what `skl2onnx` writes as `log(1 + n)` for `sublinear_tf`; no word still counts nothing."""
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes: list[Any] = []
    for node in model.graph.node:
        nodes.append(node)
        added = makers.get(node.input[0]) if node.op_type == "Log" else None
        if added is None or added.op_type != "Add" or not added.input[1].startswith("ones"):
            continue
        added.op_type, result = "Max", node.output[0]
        node.output[0] = f"{result}_log"
        nodes.append(helper.make_node("Min", list(added.input), [f"{result}_any"]))
        nodes.append(helper.make_node("Add", [f"{result}_log", f"{result}_any"], [result]))
    replace_nodes(model, nodes)


def replace_nodes(model: Any, nodes: list[Any]) -> None:
    """Let a graph consist of these nodes, some of which may be its own."""
    copies = [type(node).FromString(node.SerializeToString(deterministic=True)) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _behind(model: Any, helper: Any, cutter: Any, flat: Any, lower: Any) -> list[Any]:
    """Return the nodes between the words of `flat`, which is changed to write elsewhere, and who read them."""
    stem, result = flat.name, flat.output[0]
    pad = next(attribute.s for attribute in cutter.attribute if attribute.name == "pad_value")
    constants = {f"{stem}_all": (7, [1], [-1]), f"{stem}_one": (7, [1], [1]), f"{stem}_pad": (8, [1, 1], [pad])}
    for name, (kind, dims, values) in constants.items():
        model.graph.initializer.append(helper.make_tensor(name, kind, dims, values))
    flat.output[0] = f"{stem}_cut"
    padded = f"{stem}_words" if lower is not None else result
    nodes = [
        helper.make_node("Shape", [f"{stem}_cut"], [f"{stem}_rows"], start=0, end=1),
        helper.make_node("Concat", [f"{stem}_rows", f"{stem}_one"], [f"{stem}_column"], axis=0),
        helper.make_node("Expand", [f"{stem}_pad", f"{stem}_column"], [f"{stem}_pads"]),
        helper.make_node("Concat", [f"{stem}_cut", f"{stem}_pads"], [padded], axis=1),
    ]
    if lower is None:
        return nodes
    words = type(lower).FromString(lower.SerializeToString(deterministic=True))
    words.input[0], words.output[0] = f"{stem}_line", f"{stem}_lower"
    return [
        *nodes,
        helper.make_node("Shape", [padded], [f"{stem}_shape"]),
        helper.make_node("Reshape", [padded, f"{stem}_all"], [f"{stem}_line"]),
        words,
        helper.make_node("Reshape", [f"{stem}_lower", f"{stem}_shape"], [result]),
    ]
