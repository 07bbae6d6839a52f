# SPDX-License-Identifier: Apache-2.0
"""Text vectorisers of scikit-learn as graphs: equal for every text, or refused with the reason."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfTransformer,
    TfidfVectorizer,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from packager.errors import StepError
from tests.unit.exporters.written import difference, graph_of

TEXTS = [
    "The cat sat on the mat",
    "a  b\t\tc \n the CAT",
    "",
    "   ",
    "über Straße ÜBER x_1 é 你好，世界 你好",
    "İstanbul KADİR",
    "don't stop  -- a b a b",
    "Kelvin \u212a K k",
    "\U0001f600 ok ok ok",
    "the the",
    "𐐀 𐐨 𠀀 𐐀a",
    "to be or not to be",
    "\x0b\x0c x\u2003\u2003y",
    "a\x00b",
    "one two three one two",
]
ASKED = [
    *TEXTS,
    "new words only",
    "THE",
    "the cat the mat the",
    "a",
    "  a  ",
    "cat\u3000\u3000mat",
    "e\u0301 É é",
    "\x1c\x1d a",
    "\u200b\u200b a",
    "a\r\n\r\nb",
    "a\ue000b ## #- #",
    "İ İİ x",
    "ΟΔΟΣ ΣΑ ΑΣ1",
    "the a the b a to",
    "𠀀 𐐀 𐐀A",
]
WORDS: list[dict[str, Any]] = [
    {},
    {"binary": True},
    {"ngram_range": (1, 3), "token_pattern": r"\b\w+\b"},
    {"ngram_range": (1, 3), "token_pattern": r"\w+", "max_features": 9},
    {"ngram_range": (2, 3), "lowercase": False},
    {"token_pattern": "[a-z]+"},
    {"token_pattern": r"\w+", "stop_words": ["𐐨"], "ngram_range": (1, 2)},
    {"token_pattern": "[a-z0-9_]{3,}", "ngram_range": (1, 2)},
    {"stop_words": "english"},
    {"stop_words": ["the", "a", "to"], "ngram_range": (1, 3), "token_pattern": r"\w+"},
    {"stop_words": ["the"], "vocabulary": ["the", "cat", "mat"]},
    {"vocabulary": ["cat", "to be or"], "ngram_range": (1, 3)},
    {"vocabulary": ["cat", "the cat"]},
    {"vocabulary": ["the cat", "cat", "the", "cat sat on"], "ngram_range": (1, 2)},
    {"vocabulary": ["ab"], "analyzer": "char"},
    {"vocabulary": ["a ", "a  b", " ", "  ", "b"], "analyzer": "char_wb", "ngram_range": (1, 4)},
]
CHARACTERS: list[dict[str, Any]] = [
    {"analyzer": analyzer, "lowercase": lowercase, "ngram_range": lengths}
    for analyzer in ("char", "char_wb")
    for lowercase in (False, True)
    for lengths in ((1, 1), (1, 3), (2, 4), (4, 6))
]


@pytest.mark.parametrize("options", [*WORDS, *CHARACTERS], ids=str)
def test_counts_are_equal(options: Any) -> None:
    assert difference(CountVectorizer(**options).fit(TEXTS), np.array(ASKED, dtype=object), "transform") == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sublinear_tf": True},
        {"norm": "l1"},
        {"norm": None, "smooth_idf": False},
        {"use_idf": False},
        {"ngram_range": (1, 2), "stop_words": "english"},
        {"analyzer": "char_wb", "ngram_range": (3, 5)},
    ],
)
def test_weights_are_equal(options: Any) -> None:
    asked = np.array(ASKED, dtype=object)
    assert difference(TfidfVectorizer(**options).fit(TEXTS), asked, "transform") <= 1e-12
    assert difference(TfidfVectorizer(dtype=np.float32, **options).fit(TEXTS), asked, "transform") <= 1e-6


def test_counts_are_weighed_behind_their_vectoriser() -> None:
    model = make_pipeline(CountVectorizer(ngram_range=(1, 2)), TfidfTransformer(sublinear_tf=True)).fit(TEXTS)
    assert difference(model, np.array(ASKED, dtype=object), "transform") <= 1e-12


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "l1", "stop_words": "english"},
        {"norm": None, "binary": True},
        {"norm": None, "alternate_sign": False},
        {"norm": None, "analyzer": "char"},
        {"norm": None, "analyzer": "char_wb", "n_features": 7},
    ],
)
def test_hashes_are_equal(options: Any) -> None:
    model = HashingVectorizer(**{"n_features": 64, "lowercase": False, **options})
    assert difference(model, np.array(ASKED, dtype=object), "transform") <= 1e-12


@pytest.mark.parametrize("analyzer", ["word", "char", "char_wb"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_every_letter_is_cut_and_lowered_as_in_python(analyzer: str, lowercase: bool) -> None:
    """All letters with cases, marks and signs of Unicode and some of the others, 64 between two others in a text; but sigma, in a vocabulary of what is around it."""
    known = [chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000 and code != 0x3A3]
    known = [letter for letter in known if unicodedata.category(letter) != "Cn"]  # newer tables know more letters
    known = [letter for letter in known if unicodedata.category(letter) not in ("Lo", "Co") or ord(letter) % 29 == 0]
    texts = np.array(
        [
            "".join(f"a{letter}b {letter}{letter} " for letter in known[start : start + 64])
            for start in range(0, len(known), 64)
        ],
        dtype=object,
    )
    vocabulary = ["a", "b", "ab", "i", "k", "i̇", " ", "ss", "é", "ab b", "ß"]
    length = (1, 1) if analyzer == "word" else (1, 2)
    model = CountVectorizer(
        vocabulary=vocabulary, analyzer=analyzer, lowercase=lowercase, token_pattern=r"\w+", ngram_range=length
    )
    assert difference(model.fit(texts[:1]), texts, "transform") == 0


@pytest.mark.parametrize(
    "model",
    [
        CountVectorizer(stop_words=["the"], ngram_range=(1, 2), lowercase=False),
        CountVectorizer(analyzer="char"),
        CountVectorizer(analyzer="char_wb"),
        HashingVectorizer(n_features=32, lowercase=False),
    ],
)
def test_types_are_known_where_onnx_needs_them(model: Any) -> None:
    """onnx 1.23 reads from null for a `LabelEncoder` behind an operator that it does not know."""
    graph, _ = graph_of(model.fit(TEXTS), np.array(ASKED, dtype=object), "transform")
    encoders = [node for node in graph.graph.node if node.op_type == "LabelEncoder"]
    asked = {name for node in encoders for name in node.input}
    for node in encoders:
        del node.attribute[:]
        node.op_type, node.domain = "Identity", ""
    inferred = onnx.shape_inference.infer_shapes(graph)
    assert encoders and asked <= {value.name for value in inferred.graph.value_info}


@pytest.mark.parametrize("options", [{}, {"stop_words": ["a"]}, {"analyzer": "char"}, {"analyzer": "char_wb"}], ids=str)
@pytest.mark.parametrize("text", ["", " ", "!", "a", "the cat"])
def test_a_text_by_itself(text: str, options: Any) -> None:
    model = CountVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), **options).fit(TEXTS)
    assert difference(model, np.array([text], dtype=object), "transform") == 0


def test_texts_beside_other_columns() -> None:
    frame = pd.DataFrame({"text": ASKED, "kind": ["a", "b"] * (len(ASKED) // 2), "size": range(len(ASKED))})
    parts = [("text", TfidfVectorizer(), "text"), ("kind", OneHotEncoder(), ["kind"])]
    model = ColumnTransformer(parts, remainder="passthrough", sparse_threshold=0).fit(frame[: len(TEXTS)])
    assert difference(model, frame, "transform") <= 1e-12


@pytest.mark.parametrize("opset", [13, 15, 21])
@pytest.mark.parametrize("options", [{"stop_words": ["the"], "ngram_range": (1, 2)}, {"analyzer": "char_wb"}])
def test_any_opset_holds_the_same(options: Any, opset: int) -> None:
    model = TfidfVectorizer(**options).fit(TEXTS)
    assert difference(model, np.array(ASKED, dtype=object), "transform", opset) <= 1e-12


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (CountVectorizer(strip_accents="unicode"), "no operator removes accents"),
        (CountVectorizer(token_pattern=r"\b[a-z]+\b"), "no proven form"),
        (CountVectorizer(token_pattern=r"\w+(?:-\w+)?"), "no proven form"),
        (CountVectorizer(tokenizer=str.split, token_pattern=None), "a custom `tokenizer`"),
        (CountVectorizer(preprocessor=str.lower), "a custom `preprocessor`"),
        (CountVectorizer(analyzer=str.split), "a custom `analyzer`"),
        (CountVectorizer(token_pattern="[a-z ]+", ngram_range=(1, 2)), "may hold spaces"),
        (HashingVectorizer(), "hashes final `Σ`"),
        (HashingVectorizer(lowercase=False, ngram_range=(1, 2)), "hashes n-grams"),
        (HashingVectorizer(lowercase=False), "makes 1048576 columns"),
    ],
)
def test_unmatchable_vectoriser_is_refused(model: Any, words: str) -> None:
    with pytest.raises(StepError, match=words) as caught:
        graph_of(model.fit(TEXTS), np.array(ASKED, dtype=object), "transform")
    assert caught.value.hint


@pytest.mark.parametrize("text", ["οδος", "ασ1", "ΟΔΟΣ"])
@pytest.mark.parametrize("analyzer", ["word", "char"])
def test_vocabulary_with_final_sigma_is_refused(text: str, analyzer: str) -> None:
    given = np.array([[text]], dtype=object)
    with pytest.raises(StepError, match="final `Σ`"):
        graph_of(CountVectorizer(analyzer=analyzer, vocabulary=[text.lower()]).fit([text]), given, "transform")
    plain = CountVectorizer(analyzer=analyzer, lowercase=False).fit([text])
    assert difference(plain, given.reshape(-1), "transform") == 0
