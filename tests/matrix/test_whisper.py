# SPDX-License-Identifier: Apache-2.0
"""A trained Whisper on fifty spoken sentences: every token is that of transformers' own `generate`."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packager.runtime import load_runtime
from packager.server.generation import audio
from packager.server.generation.encoder_decoder import open_pair
from packager.server.generation.seq2seq import Seq2Seq
from packager.server.generation.settings import TOKENIZER, Generation
from packager.server.generation.tokenizer import Tokenizer
from tests.support import whisper_tiny
from tests.support.tools import tool
from tests.unit.exporters.test_seq2seq import SPEECH, Made, findings, measure, reference, run

pytestmark = pytest.mark.slow
_WHO = ("The old captain", "My neighbour", "A young doctor", "The committee", "Nobody in the village")
_WHAT = (
    "wrote seventeen letters to the museum before the end of March.",
    "has never seen a river as wide as the one near our house.",
    "asked whether the last train to Bristol leaves at nine forty five.",
    "bought three pounds of apples, two loaves of bread and some butter.",
    "did not believe that the machine could translate so many words.",
    "walked slowly across the bridge, because the ice was still thin.",
    "remembers the summer of nineteen eighty four very well.",
    "said that the answer was correct, but nobody had asked the question.",
    "opened the window, looked at the clouds, and closed it again.",
    "will meet the engineers tomorrow morning at half past ten.",
)
SENTENCES = [f"{who} {what}" for what in _WHAT for who in _WHO]
_VOICES = ("en-us", "en-gb")


def speak(text: str, number: int) -> bytes:
    """Return a sentence as a WAV file of 22,050 samples a second."""
    options = ["-v", _VOICES[number % 2], "-s", str(140 + 10 * (number % 4)), "--stdout", text]
    return subprocess.run([tool("espeak-ng"), *options], check=True, capture_output=True).stdout


def whole(data: bytes) -> bytes:
    """Return the file with its lengths: espeak-ng writes to a pipe before it knows them."""
    place = data.index(b"data") + 4
    return (
        data[:4]
        + (len(data) - 8).to_bytes(4, "little")
        + data[8:place]
        + ((len(data) - place - 4).to_bytes(4, "little") + data[place + 4 :])
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("whisper")
    source = whisper_tiny.write(folder / "source", folder)
    params = {"kind": "transformers", "payload": ".", "opset": 18, "ir": 10, "task": SPEECH}
    facts = run("export_generation", {"source": source}, folder / "graph", params)
    return Made(source, folder / "graph", reference(source, folder / "reference", SPEECH), facts, SPEECH)


def test_the_trained_model_passes_the_build(made: Made, tmp_path: Path) -> None:
    assert findings(measure(made, tmp_path / "m")) == []


def test_fifty_sentences_have_the_tokens_of_transformers(made: Made) -> None:
    rows = compare(made)
    assert [row for row in rows if row["ours"] != row["theirs"]] == []
    assert len(rows) == 50 and max(row["features"] for row in rows) < 1e-3


def compare(made: Made, places: Sequence[int] = range(len(SENTENCES))) -> list[dict[str, Any]]:
    """Return of sentences the tokens and texts of both sides."""
    import torch
    import transformers
    from scipy.signal import resample_poly

    model = transformers.WhisperForConditionalGeneration.from_pretrained(made.source).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(made.source)
    opener = load_runtime("onnxruntime").opener()
    pair = open_pair(lambda path: opener(path, threads=1, device="cpu"), made.graph / "model" / "model.onnx")
    about = Generation.from_json({**made.facts["generation"], "tokenizer": f"sha256:{'0' * 64}", "template": None})
    assert about.decoding is not None and about.audio is not None
    tokenizer = Tokenizer.open(made.graph / TOKENIZER)
    ours = Seq2Seq(about, about.decoding, pair, tokenizer, None, "onnxruntime")  # type: ignore[arg-type]
    found = []
    for number in places:
        text = SENTENCES[number]
        data = whole(speak(text, number))
        samples, rate = audio.read_wav(data, 30)
        heard = resample_poly(samples.astype(np.float64), 320, 441).astype(np.float32)
        assert rate == 22050
        features = extractor(heard, sampling_rate=16000, return_tensors="pt").input_features
        with torch.no_grad():
            theirs = model.generate(features)[0].tolist()
        job = ours.job_of_audio(data, {})
        answer = ours.whole(job)
        assert answer is not None and job.features is not None
        start = list(answer.start)
        theirs = theirs[len(start) :] if theirs[: len(start)] == start else theirs
        tokens = [token for token in answer.tokens if token not in about.eos]
        theirs = [token for token in theirs if token not in about.eos]
        worst = float(np.abs(job.features - features[0].numpy()).max())
        found.append({"said": text, "ours": tokens, "theirs": theirs, "text": answer.text, "features": worst})
    return found
