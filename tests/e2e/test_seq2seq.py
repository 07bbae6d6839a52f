# SPDX-License-Identifier: Apache-2.0
"""A speech model and a text-to-text model from their directories to answers at a site, with real clients and files."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from packager.exporters._generation import signals
from tests.e2e.conftest import Project
from tests.e2e.test_generation import serving
from tests.support import language_models

pytestmark = [pytest.mark.slow]  # two builds, from directory to site
SPEECH, TEXTS = "automatic-speech-recognition", "text2text-generation"
HEARD: dict[str, Any] = {
    "suppress_tokens": [5, 6],
    "begin_suppress_tokens": [9],
    "lang_to_id": {"<|en|>": 10, "<|de|>": 11},
    "task_to_id": {"transcribe": 12, "translate": 13},
    "is_multilingual": True,
    "no_timestamps_token_id": 511,  # what comes behind it in a vocabulary is a time: nothing here
    "max_length": 24,
}


def recipe(name: str, task: str) -> str:
    return f"""\
name: {name}
version: 1.0.0
source: model
task: {task}
policy: dev
runs-on:
  onnxruntime: ">=1.31"
"""


def made(folder: Path, kind: str, name: str, task: str, generation: dict[str, Any]) -> Project:
    language_models.write(folder / "model", kind, generation=generation)
    (folder / "bundle.yaml").write_text(recipe(name, task))
    project = Project(folder, folder / "store", {"PACKAGER_PASSPHRASE": "secret"})
    project.run("keygen", "release")
    project.run("lock")
    project.run("build")
    project.run("sign", f"{name}:1.0.0", "--key", "release.pem", "-o", f"{name}.bundle.tar")
    project.run("install", f"{name}.bundle.tar", "site", "--key", "release.pub")
    return project


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return made(tmp_path_factory.mktemp("speech"), "whisper", "ears", SPEECH, HEARD)


@pytest.fixture(scope="module")
def address(speech: Project) -> Iterator[str]:
    with serving(speech.folder / "site", "--set", "server.max_in_flight=2") as (found, _):
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def samples() -> Any:
    return dict(signals.reference(16000))["syllables"]


def expected(project: Project, samples: Any, **more: Any) -> str:
    """Return what transformers itself makes of samples."""
    import torch
    import transformers

    folder = project.folder / "model"
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    features = extractor(samples, sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        tokens = model.generate(features, task="transcribe", max_new_tokens=20, **more)[0].tolist()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def post(address: str, body: bytes, kind: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_bundle_has_two_graphs_and_the_audio_it_was_proved_with(speech: Project) -> None:
    speech.run("unpack", "ears.bundle.tar", "plain", "--key", "release.pub")
    plain = speech.folder / "plain"
    assert (plain / "model" / "model.onnx").is_file() and (plain / "model" / "encoder" / "model.onnx").is_file()
    assert len(list((plain / "vectors" / "audio").glob("*.wav"))) == 5
    about = json.loads((plain / "contract.json").read_text())["generation"]
    assert about["audio"]["languages"] == {"en": 10, "de": 11} and about["decoding"]["rules"]["suppress"] == [5, 6]
    shown = speech.run("inspect", "ears.bundle.tar").stdout
    assert "up to 2 seconds of audio at 16000 samples a second in 2 languages" in shown


def test_the_client_gets_what_transformers_hears(speech: Project, client: openai.OpenAI, samples: Any) -> None:
    data = signals.wav(samples, 16000)
    found = client.audio.transcriptions.create(model="ears", file=("a.wav", data), language="en")
    assert found.text == expected(speech, samples, language="en") != ""
    assert (found.model_extra or {})["finish"] in ("stop", "length")
    text = client.audio.transcriptions.create(model="ears", file=("a.wav", data), language="en", response_format="text")
    assert str(text).strip() == found.text
    heard = client.audio.transcriptions.create(model="ears", file=("a.wav", data), response_format="verbose_json")
    assert heard.language in ("en", "de") and heard.duration == 2.0
    german = client.audio.transcriptions.create(model="ears", file=("a.wav", data), language="de")
    assert german.text == expected(speech, samples, language="de")
    assert client.audio.translations.create(model="ears", file=("a.wav", data)).text
    assert [model.id for model in client.models.list().data] == ["ears"]


@pytest.mark.parametrize(
    ("file", "more", "words"),
    [
        (b"", {}, "expected a WAV file"),
        (b"ID3\4" + bytes(99), {}, "got MP3"),
        (signals.wav(np.zeros(3000, np.float32), 16000)[:-7], {}, "ends before its samples do"),
        (signals.wav(np.zeros(3000, np.float32), 16000), {"language": "fr"}, "expected one of de, en"),
        (signals.wav(np.zeros(3000, np.float32), 16000), {"prompt": "Hello"}, "`prompt` is not supported"),
        (
            signals.wav(np.zeros(3000, np.float32), 16000),
            {"response_format": "srt"},
            "the model has no tokens of times",
        ),
        (signals.wav(np.zeros(3000, np.float32), 16000), {"response_format": "tsv"}, "expected one of json, text"),
        (
            signals.wav(np.zeros(3000, np.float32), 16000),
            {"timestamp_granularities": ["segment", "word"]},
            "no times of words",
        ),
        (signals.wav(np.zeros(3000, np.float32), 16000), {"temperature": -1}, "expected a number from 0"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    client: openai.OpenAI, file: bytes, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        client.audio.transcriptions.create(model="ears", file=("a.wav", file), **more)


def test_audio_that_is_too_long_or_too_large_is_refused(client: openai.OpenAI) -> None:
    long = signals.wav(np.zeros(16000 * 3, np.float32), 16000)
    with pytest.raises(
        openai.APIStatusError, match=r"3.0 seconds, expected at most 2; send parts, .*ffmpeg"
    ) as refused:
        client.audio.transcriptions.create(model="ears", file=("a.wav", long))
    assert refused.value.status_code == 413
    with pytest.raises(openai.NotFoundError):
        client.audio.transcriptions.create(model="other", file=("a.wav", long))


def test_the_client_of_the_guide_is_answered(address: str, samples: Any, tmp_path: Path, capsys: Any) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "ship-speech-and-translation.md").read_text()
    (tmp_path / "speech.wav").write_bytes(signals.wav(samples, 16000))
    code = guide.split("```python\n")[1].split("```")[0].replace("http://127.0.0.1:8000", address)
    exec(code.replace("speech.wav", str(tmp_path / "speech.wav")), {})
    assert capsys.readouterr().out.strip()


def test_predict_takes_audio_in_every_form(address: str, samples: Any) -> None:
    import base64

    data = signals.wav(samples, 16000)
    status, alone = post(address, data, "audio/wav")
    assert status == 200 and alone["answers"][0]["finish"] in ("stop", "length")
    document = {"rows": [{"audio": base64.b64encode(data).decode()}] * 2}
    status, both = post(address, json.dumps(document).encode(), "application/json")
    assert status == 200 and [row["text"] for row in both["answers"]] == [alone["answers"][0]["text"]] * 2
    for body, kind in ((b"x", "audio/wav"), (b'{"text": "x"}', "application/json"), (b"{", "application/json")):
        assert post(address, body, kind)[0] == 400
    assert post(address, data, "audio/mpeg")[0] == 415


def test_a_folder_of_audio_is_answered_file_by_file(speech: Project, samples: Any) -> None:
    folder = speech.folder / "takes"
    folder.mkdir()
    (folder / "a.wav").write_bytes(signals.wav(samples, 16000))
    (folder / "b.wav").write_bytes(b"RIFF")
    (folder / "c.wav").write_bytes(signals.wav(np.zeros(16000 * 3, np.float32), 16000))
    (folder / "notes.txt").write_text("no audio")
    speech.run("run", "site", "takes", "-o", "out.jsonl", "--processes", "1")
    (row,) = [json.loads(line) for line in (speech.folder / "out.jsonl").read_text().splitlines()]
    assert row["file"] == "a.wav" and row["answer"]
    refused = [json.loads(line) for line in (speech.folder / "out.jsonl.refused.jsonl").read_text().splitlines()]
    assert [row["input"]["file"] for row in refused] == ["b.wav", "c.wav"]
    assert "expected a WAV file" in refused[0]["reason"] and "3.0 seconds, expected at most 2" in refused[1]["reason"]


def test_conformance_compares_what_is_heard(speech: Project, tmp_path: Path) -> None:
    options = ("--key", "release.pub", "--json", "--cache", tmp_path / "cache", "--runtime", "serve")
    (cell,) = speech.run("conform", "ears.bundle.tar", *options)["cells"]
    assert cell["outcome"] == "pass" and cell["levels"]["L3"] == "pass"


def test_another_task_is_refused_before_the_build(tmp_path: Path) -> None:
    other = Project(tmp_path / "other", tmp_path / "store")
    other.folder.mkdir()
    language_models.write(other.folder / "model", "t5")
    (other.folder / "bundle.yaml").write_text(recipe("x", SPEECH))
    done = other.run("lock", code=2)
    assert "what `.` does is `text2text-generation`" in done.stderr and "hint: write `task: text2text" in done.stderr
    (other.folder / "bundle.yaml").write_text(recipe("x", TEXTS).replace('onnxruntime: ">=1.31"', 'openvino: ">=2026"'))
    assert "cannot run `task: text2text-generation`" in other.run("lock", code=2).stderr


def test_texts_are_answered_with_the_publishers_beams(tmp_path: Path) -> None:
    import torch
    import transformers

    project = made(tmp_path / "texts", "t5", "words", TEXTS, {"num_beams": 3, "max_length": 12})
    text = "translate English to German: The house is old."
    folder = project.folder / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        tokens = model.generate(**tokenizer(text, return_tensors="pt"))[0].tolist()[1:]
    found = project.run("chat", "site", "--prompt", text, "--json")
    assert found["tokens"] == tokens
    with serving(project.folder / "site") as (address, _):
        status, answer = post(address, text.encode(), "text/plain")
        assert status == 200 and answer["answers"][0]["text"] == found["text"]
        one = {"text": text, "beams": 1, "max_tokens": 3}
        status, answer = post(address, json.dumps(one).encode(), "application/json")
        assert status == 200 and answer["answers"][0]["tokens"] == 3
        assert post(address, b"word " * 400, "text/plain")[0] == 400
    options = ("--key", "release.pub", "--json", "--cache", tmp_path / "cache", "--runtime", "onnxruntime==1.31.0")
    (cell,) = project.run("conform", "words.bundle.tar", *options)["cells"]
    assert set(cell["levels"].values()) == {"pass"}
