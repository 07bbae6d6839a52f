# SPDX-License-Identifier: Apache-2.0
"""Builds of models that write texts with labelled rows: bounds of word errors that hold, and one that a slice misses."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import jiwer
import pytest

from tests.e2e.conftest import Project
from tests.matrix.test_whisper import SENTENCES, speak, whole
from tests.support import whisper_tiny

pytestmark = pytest.mark.slow  # a trained Whisper is exported, built and hears 64 sentences twice
COUNT = 64
RECIPE = """
name: ears
version: 1.0.0
source: ./model
task: automatic-speech-recognition
runs-on: {{onnxruntime: ">=1.31"}}
evaluation: {{data: rows.jsonl, label: said, metric: {metric}, bound: {bound}, slices: [room], slice-bound: {least}}}
policy: dev
"""
PLAIN = [jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()]


def sentence(number: int) -> str:
    return SENTENCES[number % len(SENTENCES)]


def row(number: int) -> dict[str, Any]:
    """Return a spoken sentence; in a loud room every second one is labelled with another sentence."""
    loud = number % 2 == 1
    said = sentence(number + 7) if number % 4 == 1 else sentence(number)
    data = base64.b64encode(whole(speak(sentence(number), number))).decode()
    return {"audio": data, "said": said, "room": "loud" if loud else "quiet"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("words")
    whisper_tiny.write(root / "project" / "model", root)
    here = Project(root / "project", root / "store")
    (here.folder / "rows.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(COUNT)))
    return here


def heard_by_transformers(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Return what transformers itself hears, with SciPy's resampling."""
    import io
    import wave

    import numpy as np
    import torch
    import transformers
    from scipy.signal import resample_poly

    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for item in rows:
        with wave.open(io.BytesIO(base64.b64decode(item["audio"]))) as file:
            assert file.getframerate() == 22050 and file.getsampwidth() == 2
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
        heard = resample_poly(samples, 320, 441).astype(np.float32)
        features = extractor(heard, sampling_rate=16000, return_tensors="pt").input_features
        with torch.no_grad():
            tokens = model.generate(features)[0]
        found.append(tokenizer.decode(tokens, skip_special_tokens=True))
    return found


def rate(metric: str, rows: list[dict[str, Any]], heard: list[str]) -> float:
    """Return the rate of jiwer over whole lists, by its own transformations."""
    last = jiwer.ReduceToListOfListOfWords() if metric == "wer" else jiwer.ReduceToListOfListOfChars()
    plain = jiwer.Compose([*PLAIN, last])
    right = [item["said"] for item in rows]
    return float((jiwer.wer if metric == "wer" else jiwer.cer)(right, heard, plain, plain))


def test_word_errors_are_those_of_transformers_and_a_missed_bound_ends_the_build(made: Project) -> None:
    rows = [json.loads(line) for line in (made.folder / "rows.jsonl").read_text().splitlines()]
    heard = heard_by_transformers(made.folder / "model", rows)
    loud = [place for place, item in enumerate(rows) if item["room"] == "loud"]
    for metric in ("wer", "cer"):
        expected = rate(metric, rows, heard)
        of_loud = rate(metric, [rows[place] for place in loud], [heard[place] for place in loud])
        made.write(RECIPE.format(metric=metric, bound=round(expected + 0.02, 3), least=round(of_loud - 0.02, 3)))
        made.run("lock")
        assert "jiwer" in (made.folder / "bundle.lock").read_text()
        refused = made.run("build", "--locked", code=1)
        said = " ".join((refused.stdout + refused.stderr).split())
        figures = re.search(
            rf"`onnxruntime-cpu-fp32`, slice `room` = `loud`: {metric} is (0\.\d+) where at most (0\.\d+) is required, "
            r"and (0\.\d+) in the source over 32 rows",
            said,
        )
        assert figures and "`quiet`" not in said and f"fp32`: {metric}" not in said, said
        assert [float(figures[1]), float(figures[3])] == pytest.approx([of_loud, of_loud], abs=1e-4)
        assert "train it further" in said, "the remedy of what the source misses as well"
    made.write((made.folder / "bundle.yaml").read_text().replace("slice-bound: ", "slice-bound: 1"))
    made.run("build", "--locked")
    made.run("keygen", "release")
    made.run("sign", "ears:1.0.0", "--key", "release.pem", "-o", "ears.bundle.tar")
    shown = made.run("inspect", "ears.bundle.tar", "--json")["accuracy"]["onnxruntime-cpu-fp32"]
    assert (shown["metric"], shown["rows"], shown["worst"]["value"]) == ("cer", COUNT, "loud")
    assert shown["source"] == pytest.approx(rate("cer", rows, heard), abs=1e-6)
    assert shown["target"] == pytest.approx(shown["source"], abs=1e-6)


def test_a_bound_over_all_rows_and_rows_that_are_no_audio(made: Project) -> None:
    made.write(RECIPE.format(metric="wer", bound=0.01, least=1))
    made.run("lock")
    said = made.run("build", "--locked", code=1).stderr
    assert re.search(r"`onnxruntime-cpu-fp32`: wer is 0\.\d+ where at most 0\.01 is required", " ".join(said.split()))
    data = (made.folder / "rows.jsonl").read_text()
    lines = data.splitlines()
    broken = json.dumps({"audio": base64.b64encode(b"ID3\4" + bytes(99)).decode(), "said": "No.", "room": "loud"})
    try:
        (made.folder / "rows.jsonl").write_text("\n".join([*lines[:3], broken]))
        said = made.run("build", "--locked", code=4).stderr
        assert "evaluation: row 3: expected a WAV file, got MP3" in said, said
    finally:
        (made.folder / "rows.jsonl").write_text(data)
