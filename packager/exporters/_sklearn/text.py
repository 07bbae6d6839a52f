# SPDX-License-Identifier: Apache-2.0
"""Text vectorisers of scikit-learn, exact for every text, or refused with the reason."""

from __future__ import annotations

import importlib
from typing import Any

from packager.errors import StepError
from packager.exporters._sklearn import refuse, tokens, writes
from packager.exporters._sklearn.builder import TEXT, Builder, Frame, Value
from packager.exporters._sklearn.characters import cut_characters, grams_of_characters
from packager.exporters._sklearn.preprocessing import normalised
from packager.exporters._sklearn.tokens import Grams

_BEFORE = "prepare the text before the model, or use the default `token_pattern`"
_LOWER = "lower the text before the model and use `lowercase=False`"
_MOST_HASHES = 1 << 18  # every column is a number of the dense result


@writes("transform", "CountVectorizer")
def count_grams(builder: Builder, model: Any, frame: Frame) -> Value:
    return _counts(builder, model, frame)


def _counts(builder: Builder, model: Any, frame: Frame) -> Value:
    """Count every n-gram of the vocabulary in each text, or say whether it occurs."""
    text, grams = _text(model, frame), grams_of(model)
    units, _ = cut_units(builder, model, text, grams)
    found = tokens.count(builder, units, grams)
    found = builder.cast(builder.binary("Greater", found, 0.0), found.dtype) if model.binary else found
    return builder.cast(found, _kind(model))


@writes("transform", "TfidfVectorizer")
def weigh_grams(builder: Builder, model: Any, frame: Frame) -> Value:
    return _weighed(builder, model._tfidf, _counts(builder, model, frame))


@writes("transform", "TfidfTransformer")
def weigh_counts(builder: Builder, model: Any, frame: Frame) -> Value:
    return _weighed(builder, model, builder.matrix(frame))


def _text(model: Any, frame: Frame) -> Value:
    """Return the one column of text. Raises StepError where there is none, or no graph reads it as the model does."""
    refuse_options(model)
    if frame.width != 1 or frame.blocks[0].dtype != "string":
        refuse(model, "takes one column of text", hint="give it one column by its name, without brackets")
    return frame.blocks[0]


def _kind(model: Any) -> str:
    numpy = importlib.import_module("numpy")
    return "float32" if numpy.dtype(model.dtype) == numpy.float32 else "float64"


def _weighed(builder: Builder, model: Any, found: Value) -> Value:
    """Take `1 + log(n)` of counts, multiply with the inverse frequencies, and normalise; zeros stay zeros."""
    if model.sublinear_tf:
        none = builder.binary("Equal", found, 0.0)
        logarithm = builder.add(builder.unary("Log", builder.where(none, 1.0, found)), 1.0)
        found = builder.where(none, 0.0, logarithm)
    if model.use_idf:
        found = builder.mul(found, model.idf_)
    return normalised(builder, found, model.norm, least=0.0) if model.norm else found


@writes("transform", "HashingVectorizer")
def hash_words(builder: Builder, model: Any, frame: Frame) -> Value:
    """Count words by their hashes, those of either sign by themselves; words of a negative hash subtract."""
    if tuple(model.ngram_range) != (1, 1):
        refuse(model, "hashes n-grams, which no ONNX operator joins", hint="use single words (`ngram_range=(1, 1)`)")
    if model.lowercase:
        refuse(model, "hashes final `Σ` after lowering it to `ς`, which ONNX's StringNormalizer does not", hint=_LOWER)
    if model.n_features > _MOST_HASHES:
        refuse(model, f"makes {model.n_features} columns, here at most {_MOST_HASHES}", hint="use a lower `n_features`")
    units, pad = cut_units(builder, model, _text(model, frame), Grams({}, 0))
    stops = [pad, *sorted(model.get_stop_words() or ())]
    whole = builder.cast(Value(builder.node("MurmurHash3", [units.name], domain=TEXT, positive=0), "int32", 1), "int64")
    position = builder.binary("Mod", builder.unary("Abs", whole), int(model.n_features))
    position = builder.where(tokens.is_one_of(builder, units, stops), -1, position)
    below = builder.binary("Less", whole, 0)
    positive = _occurrences(builder, builder.where(below, -1, position), model.n_features)
    negative = _occurrences(builder, builder.where(below, position, -1), model.n_features)
    signed = model.alternate_sign and not model.binary
    found = builder.sub(positive, negative) if signed else builder.add(positive, negative)
    found = builder.cast(builder.binary("Greater", found, 0.0), found.dtype) if model.binary else found
    found = builder.cast(found, _kind(model))
    return normalised(builder, found, model.norm, least=0.0) if model.norm else found


def _occurrences(builder: Builder, positions: Value, width: int) -> Value:
    every = list(range(width))
    made = builder.node(
        "TfIdfVectorizer",
        [positions.name],
        mode="TF",
        max_skip_count=0,
        min_gram_length=1,
        max_gram_length=1,
        ngram_counts=[0],
        ngram_indexes=every,
        pool_int64s=every,
    )
    return Value(made, "float32", width)


def grams_of(model: Any) -> Grams:
    """Return what to count. Raises StepError for a vocabulary in which a letter counts that is lowered differently."""
    return grams_of_words(model) if model.analyzer == "word" else grams_of_characters(model)


def cut_units(builder: Builder, model: Any, text: Value, grams: Grams) -> tuple[Value, str]:
    """Return the words or characters of texts, and what they are filled with."""
    if model.analyzer != "word":
        return cut_characters(builder, model, text, grams)
    expression = tokens.tokenizer(model.token_pattern, lowered=model.lowercase)
    stops = sorted(model.get_stop_words() or ())
    pad = tokens.pad_beside("#", grams.units | set(stops))
    words = tokens.cut(builder, text, expression, pad)
    words = tokens.lower_words(builder, words, grams.units | set(stops)) if model.lowercase else words
    if stops and (grams.longest > 1 or not grams.units.isdisjoint(stops)):
        words = tokens.move_behind(builder, words, stops, pad)
    return words, pad


def grams_of_words(model: Any) -> Grams:
    """Return the n-grams of words; only those of the lengths that the model joins are ever counted."""
    shortest, longest = model.ngram_range
    if longest > 1 and " " in model.token_pattern:
        refuse(model, "joins words that may hold spaces to n-grams", hint=_BEFORE)
    split = {
        tuple(gram.split(" ")) if longest > 1 else (gram,): int(column) for gram, column in model.vocabulary_.items()
    }
    if model.lowercase:
        refuse_sigma([word for gram in split for word in gram])
    counted = {gram: column for gram, column in split.items() if shortest <= len(gram) <= longest}
    return Grams(counted, len(split))


def refuse_options(model: Any) -> None:
    """Raise StepError for a vectoriser that cuts or changes text in a way no graph does."""
    for name in ("tokenizer", "preprocessor"):
        if getattr(model, name) is not None:
            refuse(model, f"calls a custom `{name}`, which a graph cannot hold", hint=_BEFORE)
    if callable(model.analyzer):
        refuse(model, "calls a custom `analyzer`, which a graph cannot hold", hint=_BEFORE)
    if model.input != "content":
        refuse(model, f"reads files (`input={model.input!r}`), which a graph cannot", hint="use `input='content'`")
    if model.strip_accents is not None:
        refuse(
            model,
            f"with `strip_accents={model.strip_accents!r}` has no ONNX form: no operator removes accents",
            hint="use `strip_accents=None`, or remove accents before the model",
        )


def refuse_sigma(words: list[str]) -> None:
    """Raise StepError for a word that holds what Python makes of a final `Σ`, or ONNX of one."""
    for word in words:
        ends = (
            letter == "σ" and after.lower() == after.upper() for letter, after in zip(word, f"{word[1:]} ", strict=True)
        )
        if "ς" in word or any(ends):
            raise StepError(
                f"the vocabulary holds `{word}`: Python lowers a final `Σ` to `ς`, ONNX's StringNormalizer to `σ`",
                hint=_LOWER,
            )
