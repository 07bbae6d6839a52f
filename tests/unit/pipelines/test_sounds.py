# SPDX-License-Identifier: Apache-2.0
"""Audio classification: waves and log-mel spectrograms as the source's extractors make them, and hostile files."""

from __future__ import annotations

import base64
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from packager.errors import StepError
from packager.server.errors import RequestError
from packager.server.pipeline.pipeline import Pipeline, open_pipeline
from packager.server.protocol.interface import Interface
from tests.attacks import raw_fuzz
from tests.support.raw_models import BODY, NAMED, Made, heard
from tests.unit.pipelines.test_served import serving

SPEC = {"task": "audio-classification"}


def wav(samples: Any, rate: int = 16_000) -> bytes:
    data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@pytest.fixture(scope="module")
def folder(spectral: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pipeline")
    facts = spectral.step(out, SPEC)
    assert facts["inputs"] == 42 and facts["largest"] < 1e-5 and facts["rows"] == 42 and facts["max_abs"] < 1e-5
    return out


@pytest.fixture(scope="module")
def opened(spectral: Made, folder: Path) -> Pipeline:
    return open_pipeline(folder, Interface.from_json(spectral.interface))


@pytest.mark.slow  # a second model; the first one has spectrograms
def test_waves_of_zero_mean(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = {"conv_dim": [8, 8], "conv_kernel": [10, 4], "conv_stride": [5, 4], "num_feat_extract_layers": 2}
    more = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
    config = transformers.Wav2Vec2Config(**BODY, **layers, **more, vocab_size=20, **NAMED)
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000)
    made = heard(tmp_path, transformers.Wav2Vec2ForSequenceClassification(config), extractor)
    facts = made.step(tmp_path / "out", SPEC)
    assert facts["inputs"] == 42 and facts["largest"] < 1e-5 and facts["rows"] == 42
    pipeline = open_pipeline(tmp_path / "out", Interface.from_json(made.interface))
    assert pipeline.single
    with pytest.raises(RequestError, match="expected sounds of one length"):
        pipeline.prepare([{"audio": wav(np.zeros(count), 8000)} for count in (900, 1000)])


def test_every_way_in(spectral: Made, folder: Path, opened: Pipeline) -> None:
    data = wav(0.4 * np.sin(np.arange(12_000) / 5))
    with serving(spectral, folder) as client:
        expected = client.ask("/predict", data, content_type="audio/wav")[1]["answers"]
        assert [{item["label"] for item in row} for row in expected] == [{"cat", "dog", "owl"}]
        assert client.ask("/predict", data, content_type="application/octet-stream")[1]["answers"] == expected
        assert client.predict([{"audio": base64.b64encode(data).decode()}]) == expected
        assert client.ask("/predict/about")[1]["input"] == "audio"
        form = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.wav"\r\n\r\n' + data + b"\r\n--x--\r\n"
        assert client.ask("/predict", form, content_type="multipart/form-data; boundary=x")[1]["answers"] == expected
        status, refused = client.ask("/predict", b"\xff\xd8\xff\xe0", content_type="image/jpeg")
        assert status == 400 and "unknown member `image`, expected `audio`" in refused["error"]


@pytest.mark.parametrize("row", [b"", b"RIFF", b"ID3" + b"\0" * 99, wav(np.zeros(10)), wav(np.zeros(900))[:60], "?", 1])
def test_what_is_no_sound(opened: Pipeline, row: Any) -> None:
    with pytest.raises(RequestError, match="row 0"):
        opened.prepare([{"audio": row}])


def test_mangled_files_are_an_answer_or_refused(opened: Pipeline) -> None:
    draw, files = random.Random(0), raw_fuzz.sounds()
    found = Counter()
    for _ in range(300):
        try:
            opened.prepare([{"audio": raw_fuzz.mangle(draw, draw.choice(files), files)}])
            found[200] += 1
        except RequestError as error:
            found[error.status] += 1
    assert set(found) == {200, 400}, found


def test_what_a_file_becomes_at_another_rate_is_held(opened: Pipeline) -> None:
    """A second at 4,000 in bytes is 16,000 samples for the model, each in 8 bytes and more than once."""
    held: list[int] = []
    opened.prepare([{"audio": raw_fuzz.wav(bytes(4000), 4000, bits=8)}], held.append)
    assert sum(held) > 8 * 16_000 + 8 * 4000


def test_another_rate_is_resampled(opened: Pipeline) -> None:
    tone = [0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate) for rate in (16_000, 44_100)]
    here, there = (
        opened.prepare([{"audio": wav(part, rate)}]) for part, rate in zip(tone, (16_000, 44_100), strict=True)
    )
    loud = here.feeds["input_values"] > here.feeds["input_values"].max() - 1
    assert abs(here.feeds["input_values"] - there.feeds["input_values"])[loud].max() < 0.02


def test_another_extractor_ends_the_build(spectral: Made, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in spectral.source.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    transformers.ASTFeatureExtractor(max_length=128, num_mel_bins=64, sampling_rate=8000).save_pretrained(source)
    with pytest.raises(StepError, match="`ASTFeatureExtractor` at 8000 Hz is not known here"):
        spectral.step(tmp_path / "out", SPEC, source=source)
