# SPDX-License-Identifier: Apache-2.0
"""What `init` proposes by the small files of a source."""

from __future__ import annotations

import json

import pytest

from packager.pipelines import propose

TEXT = ["config.json", "model.safetensors", "tokenizer.json"]
FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]


@pytest.mark.parametrize(
    ("head", "files", "task"),
    [
        ("BertForSequenceClassification", TEXT, "text-classification"),
        ("RobertaForTokenClassification", TEXT, "token-classification"),
        ("BertForQuestionAnswering", TEXT, "question-answering"),
        ("BertForQuestionAnswering", FILES, None),
        ("ViTForImageClassification", FILES, "image-classification"),
        ("ViTForImageClassification", TEXT, None),
        ("DetrForObjectDetection", FILES, "object-detection"),
        ("SegformerForSemanticSegmentation", FILES, "image-segmentation"),
        ("ASTForAudioClassification", FILES, "audio-classification"),
        ("HubertForSequenceClassification", FILES, "audio-classification"),
        ("CLIPModel", [*TEXT, *FILES], "zero-shot-image-classification"),
        ("CLIPModel", TEXT, None),
        ("BertModel", TEXT, None),
    ],
)
def test_the_head_says_the_task(head: str, files: list[str], task: str | None) -> None:
    config = json.dumps({"architectures": [head]}).encode()
    assert propose.detect_task("transformers", ".", files, lambda path: config) == task


@pytest.mark.parametrize("config", [b"", b"[]", b'{"architectures": 3}', b'{"architectures": []}', b"[" * 100_000])
def test_a_hostile_configuration_says_nothing(config: bytes) -> None:
    assert propose.detect_task("transformers", ".", TEXT, lambda path: config) is None
