# SPDX-License-Identifier: Apache-2.0
"""A trained Whisper on fifty spoken sentences: every token is that of transformers' own `generate`."""

from __future__ import annotations

import io
import json
import math
import subprocess
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from packager.runtime import load_runtime
from packager.server.generation import audio
from packager.server.generation.encoder_decoder import open_pair
from packager.server.generation.seq2seq import Seq2Seq
from packager.server.generation.settings import TOKENIZER, Generation
from packager.server.generation.tokenizer import Tokenizer
from tests.e2e.conftest import Project
from tests.e2e.test_generation import serving
from tests.e2e.test_seq2seq import recipe
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


@pytest.mark.parametrize(
    ("numbers", "pause"), [(range(16), 0.4), (range(20, 50), 0.05), (range(3, 50, 4), 1.5), (range(5), 0.3)]
)
def test_audio_of_any_length_has_the_segments_of_transformers(made: Made, numbers: range, pause: float) -> None:
    """The last is shorter than a pass of 30 seconds, the others take three to six."""
    import torch
    import transformers

    model = transformers.WhisperForConditionalGeneration.from_pretrained(made.source).eval()
    model.generation_config.max_initial_timestamp_index = 50  # as OpenAI's own program has it
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(made.source)
    data = speech(numbers, pause)
    ours = opened(made)
    answer = ours.whole(ours.job_of_audio(data, {"timestamps": True}))
    samples, rate = audio.read_wav(data, math.inf)
    heard = audio.resample(samples, rate, 16000)
    whole_length = {"truncation": False, "padding": "longest"} if len(heard) > 16000 * 30 else {}
    features = extractor(heard, sampling_rate=16000, return_tensors="pt", **whole_length).input_features
    with torch.no_grad():
        theirs = model.generate(features, return_timestamps=True, return_segments=True)["segments"][0]
    words = [[token for token in row["tokens"].tolist() if token < 50256] for row in theirs]
    expected = [(row["start"], row["end"], said) for row, said in zip(theirs, words, strict=True) if said]
    assert answer is not None and answer.segments is not None and len(expected) > 4
    assert [list(segment.tokens) for segment, _ in answer.segments] == [said for *_, said in expected]
    times = [(segment.start, segment.end) for segment, _ in answer.segments]
    assert np.abs(np.array(times) - [(float(start), float(end)) for start, end, _ in expected]).max() < 1e-6
    assert answer.text == "".join(text for _, text in answer.segments)


def test_a_site_answers_long_audio_with_segments_and_subtitles(made: Made, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(made.source)
    (tmp_path / "bundle.yaml").write_text(recipe("ears", SPEECH))
    project = Project(tmp_path, tmp_path / "store", {"PACKAGER_PASSPHRASE": "secret"})
    for words in (("keygen", "release"), ("lock",), ("build",), ("sign", "ears:1.0.0", "--key", "release.pem")):
        project.run(*words)
    project.run("install", "ears:1.0.0", "site", "--key", "release.pub")
    long, text = speech(range(12), 0.4), "museum"
    with serving(tmp_path / "site") as (address, _):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=300)
        asked: dict[str, Any] = {"model": "ears", "file": ("a.wav", long)}
        heard = client.audio.transcriptions.create(**asked, response_format="verbose_json")
        assert heard.segments is not None and len(heard.segments) > 9 and heard.duration > 60
        assert heard.text == "".join(segment.text for segment in heard.segments).strip() and text in heard.text
        assert all(0 <= segment.start < segment.end <= heard.duration + 0.5 for segment in heard.segments)
        subtitles = str(client.audio.transcriptions.create(**asked, response_format="srt"))
        assert subtitles.startswith("1\n00:00:00,") and subtitles.count(" --> ") == len(heard.segments)
        assert str(client.audio.transcriptions.create(**asked, response_format="vtt")).startswith("WEBVTT\n")
        short: dict[str, Any] = {
            "model": "ears",
            "file": ("a.wav", speech(range(1), 0)),
            "response_format": "verbose_json",
        }
        assert client.audio.transcriptions.create(**short).segments is None
        timed = client.audio.transcriptions.create(**short, timestamp_granularities=["segment"])
        assert timed.segments is not None and timed.segments[0].start <= 1.0
    (tmp_path / "takes").mkdir()
    (tmp_path / "takes" / "a.wav").write_bytes(long)
    project.run("run", "site", "takes", "-o", "out.jsonl", "--processes", "1")
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["answer"] == heard.text


def speech(numbers: range, pause: float) -> bytes:
    """Return sentences one after the other as one WAV file, with so many seconds between them."""
    parts = [audio.read_wav(whole(speak(SENTENCES[number], number)), 30) for number in numbers]
    rate = parts[0][1]
    samples = np.concatenate([np.pad(part, (0, int(rate * pause))) for part, _ in parts])
    found = io.BytesIO()
    with wave.open(found, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return found.getvalue()


def opened(made: Made) -> Seq2Seq:
    """Open the exported model on ONNX Runtime."""
    opener = load_runtime("onnxruntime").opener()
    pair = open_pair(lambda path: opener(path, threads=1, device="cpu"), made.graph / "model" / "model.onnx")
    about = Generation.from_json({**made.facts["generation"], "tokenizer": f"sha256:{'0' * 64}", "template": None})
    assert about.decoding is not None and about.audio is not None
    tokenizer = Tokenizer.open(made.graph / TOKENIZER)
    return Seq2Seq(about, about.decoding, pair, tokenizer, None, "onnxruntime")  # type: ignore[arg-type]


def compare(made: Made, places: Sequence[int] = range(len(SENTENCES))) -> list[dict[str, Any]]:
    """Return of sentences the tokens and texts of both sides."""
    import torch
    import transformers
    from scipy.signal import resample_poly

    model = transformers.WhisperForConditionalGeneration.from_pretrained(made.source).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(made.source)
    ours = opened(made)
    about = ours.about
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
