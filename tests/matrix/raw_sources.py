# SPDX-License-Identifier: Apache-2.0
"""Twelve pipelines with raw rows, and what the source's own library answers to each row, one at a time.

Answers of the source and of every way in are brought to one form by `Raw.comparable`: vectors, scores by label, parts
of a text, corners in pixels, one label per pixel, the probability of the second class.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import PIL.Image
import torch
import transformers
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers.pipelines.document_question_answering import select_starts_ends

from tests.support.raw_models import MODELS, Made
from tests.unit.pipelines import test_tables
from tests.unit.pipelines.test_ways import CASES

CORNERS = ("xmin", "ymin", "xmax", "ymax")
TYPES = {"age": "float64", "income": "float64", "town": "string", "note": "string"}


@dataclass(frozen=True)
class Raw:
    """A source with its graph, the pipeline (None for tables), raw rows, and an answer of the source to each."""

    made: Made
    spec: dict[str, Any] | None
    rows: Sequence[Mapping[str, Any]]
    expected: Sequence[Any]

    def comparable(self, answer: Any) -> Any:
        """Return an answer of ours in the form of `expected`."""
        if self.spec is None:
            return test_tables.probabilities([answer])[0]
        return _FORMS.get(self.spec["task"], _scores)(answer)


def _scores(answer: Any) -> Any:
    return {item["label"]: item["score"] for item in answer}


def _spans(answer: Any) -> Any:
    return [[item["label"], item["start"], item["end"], item["score"]] for item in answer]


def _passage(answer: Any) -> Any:
    best = answer[0]
    return [best["start"], best["end"], best["score"]]


def _things(answer: Any) -> Any:
    return [[item["label"], item["score"], *(item[corner] for corner in CORNERS)] for item in answer]


def _regions(answer: Any) -> Any:
    opened = {item["label"]: PIL.Image.open(io.BytesIO(base64.b64decode(item["mask"]))) for item in answer}
    return {label: (np.asarray(mask.convert("L")) > 0).astype(float) for label, mask in opened.items()}


_FORMS: Mapping[str, Callable[[Any], Any]] = {
    "sentence-embedding": lambda answer: answer,
    "token-classification": _spans,
    "question-answering": _passage,
    "object-detection": _things,
    "image-segmentation": _regions,
}


def _pipeline(made: Made, task: str, **settings: Any) -> Any:
    return transformers.pipeline(task, model=str(made.source), device="cpu", **settings)


def _picture(data: bytes) -> Any:
    return PIL.Image.open(io.BytesIO(data)).convert("RGB")


def _embeddings(made: Made, rows: Any) -> list[Any]:
    sentence_transformers = importlib.import_module("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(made.source), device="cpu")
    return [model.encode(row["text"]).tolist() for row in rows]


def _text_classes(made: Made, rows: Any) -> list[Any]:
    asked = _pipeline(made, "text-classification", top_k=None)
    return [_scores(asked([row["text"]], truncation=True)[0]) for row in rows]


def _entities(made: Made, rows: Any) -> list[Any]:
    asked = _pipeline(made, "token-classification", aggregation_strategy="simple")
    return [
        [[item["entity_group"], item["start"], item["end"], float(item["score"])] for item in asked(row["text"])]
        for row in rows
    ]


def _answers(made: Made, rows: Any) -> list[Any]:
    """Answer as transformers' pipeline did until 4.57, by its tokenizer, model and choice of passages."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.source)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(made.source).eval()
    about = json.loads((made.source.parent / "pipeline" / "pipeline.json").read_text())["text"]
    sizes = {"max_length": about["longest"], "stride": about["overlap"]}
    found = []
    for row in rows:
        pair = (row["question"], row["context"])
        more = {"return_overflowing_tokens": True, "return_offsets_mapping": True}
        windows = tokenizer(*pair, truncation="only_second", **sizes, **more).encodings
        found.append(max((_best(model, window, tokenizer.cls_token_id) for window in windows), key=lambda it: it[2]))
    return found


def _best(model: Any, window: Any, null: int) -> list[Any]:
    feeds = {"input_ids": window.ids, "token_type_ids": window.type_ids, "attention_mask": window.attention_mask}
    with torch.no_grad():
        results = model(**{name: torch.tensor([values]) for name, values in feeds.items()})
    sides = zip(window.sequence_ids, window.ids, strict=True)
    outside = np.array([int(side != 1 and token != null) for side, token in sides])
    logits = (results.start_logits.numpy(), results.end_logits.numpy())
    starts, ends, scores, _ = select_starts_ends(*logits, outside, np.array(window.attention_mask), max_answer_len=15)
    words = [window.token_to_word(int(token[0])) for token in (starts, ends)]
    return [window.word_to_chars(words[0], 1)[0], window.word_to_chars(words[1], 1)[1], float(scores[0])]


def _image_classes(made: Made, rows: Any) -> list[Any]:
    asked = _pipeline(made, "image-classification")
    return [_scores(asked(_picture(row["image"]), top_k=3)) for row in rows]


def find_boxes(made: Made, rows: Any) -> list[Any]:
    """Answer by the processor's own function: transformers' pipeline cuts corners to whole pixels."""
    model = transformers.AutoModelForObjectDetection.from_pretrained(made.source).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(made.source)
    found = []
    for picture in (_picture(row["image"]) for row in rows):
        with torch.no_grad():
            results = model(**processor(images=picture, return_tensors="pt"))
        (things,) = processor.post_process_object_detection(results, 0.2, [(picture.height, picture.width)])
        columns = (things[name].tolist() for name in ("labels", "scores", "boxes"))
        listed = [[model.config.id2label[label], score, *box] for label, score, box in zip(*columns, strict=True)]
        found.append(sorted(listed, key=lambda item: -item[1]))
    return found


def _masks(made: Made, rows: Any) -> list[Any]:
    asked = _pipeline(made, "image-segmentation")
    return [
        {item["label"]: (np.asarray(item["mask"]) > 0).astype(float) for item in asked(_picture(row["image"]))}
        for row in rows
    ]


def _sounds(made: Made, rows: Any) -> list[Any]:
    asked = _pipeline(made, "audio-classification")
    waves = [np.frombuffer(row["audio"][44:], "<i2").astype(np.float32) / 32768 for row in rows]
    return [_scores(asked({"raw": wave, "sampling_rate": 16_000}, top_k=3)) for wave in waves]


def _choices(made: Made, rows: Any) -> list[Any]:
    spec = CASES["pair"][0]
    asked = _pipeline(made, "zero-shot-image-classification")
    more = {"candidate_labels": spec["labels"], "hypothesis_template": spec["template"]}
    return [_scores(asked(_picture(row["image"]), **more)) for row in rows]


def _made(name: str, answer: Callable[[Made, Any], list[Any]], folder: Path) -> Raw:
    spec, rows = CASES[name]
    spec = spec if isinstance(spec, dict) else {"task": spec}
    made = MODELS[name](folder)
    made.step(folder / "pipeline", spec, strings=20)
    return Raw(made, spec, rows, answer(made, rows))


def _table(case: str, folder: Path) -> Raw:
    write, wanted = test_tables.CASES[case]
    rows = test_tables.table()[wanted] if wanted else test_tables.table()
    (folder / "source").mkdir()
    kind, expected = write(folder / "source", rows)
    payload = next((folder / "source").iterdir()).name
    inputs = {name: {"dtype": TYPES[name], "shape": ["batch", 1]} for name in rows} if kind == "sklearn" else None
    return _of_table(folder, kind, payload, inputs, rows, expected)


def _registered(folder: Path) -> Raw:
    """A pipeline of scikit-learn as MLflow saves it, with the columns of its signature."""
    rows = test_tables.table()[["age", "income"]]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, test_tables.right(rows))
    signature = mlflow.models.infer_signature(rows, model.predict(rows))
    mlflow.sklearn.save_model(model, folder / "source", signature=signature, serialization_format="skops")
    payload = next((folder / "source").glob("model.*")).name
    loaded = mlflow.sklearn.load_model(str(folder / "source"))
    return _of_table(folder, "sklearn", payload, None, rows, loaded.predict_proba(rows)[:, 1])


def _of_table(folder: Path, kind: str, payload: str, inputs: Any, rows: Any, expected: Any) -> Raw:
    made = test_tables.exported(folder, kind, payload, inputs)
    return Raw(made, None, rows.to_dict("records"), [float(value) for value in expected])


def _of(name: str, answer: Callable[[Made, Any], list[Any]]) -> Callable[[Path], Raw]:
    return lambda folder: _made(name, answer, folder)


PIPELINES: Mapping[str, Callable[[Path], Raw]] = {
    "sentence embedding": _of("encoder", _embeddings),
    "text classification": _of("classifier", _text_classes),
    "token classification": _of("tagger", _entities),
    "question answering": _of("reader", _answers),
    "image classification": _of("pictures_model", _image_classes),
    "object detection": _of("detector", find_boxes),
    "image segmentation": _of("segmenter", _masks),
    "audio classification": _of("spectral", _sounds),
    "pictures and texts": _of("pair", _choices),
    "texts, categories, numbers": lambda folder: _table("texts", folder),
    "XGBoost from CSV": lambda folder: _table("xgboost", folder),
    "scikit-learn from MLflow": _registered,
}
"""Writes each pipeline into an empty directory."""
