# SPDX-License-Identifier: Apache-2.0
"""A language model from its directory to answers at a site: every step of the command line, with real files."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest

from packager.bundle.bundle import open_bundle
from packager.deploy import server_files
from packager.store.store import Store
from tests.e2e.conftest import Project
from tests.support import language_models

RECIPE = """\
name: tiny
version: 1.0.0
source: model
task: text-generation
policy: dev
runs-on:
  onnxruntime: ">=1.31"
"""
ASK = ("--prompt", "What is a module?", "--max-tokens", "12", "--json")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("language-model")
    language_models.write(folder / "model")
    (folder / "bundle.yaml").write_text(RECIPE)
    made = Project(folder, folder / "store", {"PACKAGER_PASSPHRASE": "secret"})
    made.run("keygen", "release")
    made.run("lock")
    made.run("build")
    made.run("sign", "tiny:1.0.0", "--key", "release.pem", "-o", "tiny.bundle.tar")
    return made


@pytest.fixture(scope="module")
def site(project: Project) -> Path:
    project.run("install", "tiny.bundle.tar", "site", "--key", "release.pub")
    return project.folder / "site"


def test_the_bundle_carries_data_alone(project: Project) -> None:
    project.run("unpack", "tiny.bundle.tar", "plain", "--key", "release.pub")
    plain = project.folder / "plain"
    assert sorted(path.name for path in (plain / "generation").iterdir()) == ["chat_template.jinja", "tokenizer.json"]
    contract = json.loads((plain / "contract.json").read_text())
    assert contract["generation"]["context"] == 256
    assert set(contract["targets"]["onnxruntime-cpu-fp32"]["tolerance"]) == {"logits"}
    assert [row["name"] for row in json.loads((plain / "vectors" / "prompts.json").read_text())["prompts"]]
    lock = (plain / "deps" / "onnxruntime" / "requirements.txt").read_text()
    assert "tokenizers==" in lock and "jinja2==" in lock.lower() and "transformers" not in lock


def test_bundle_and_installation_answer_alike(project: Project, site: Path) -> None:
    of_bundle = project.run("chat", "tiny.bundle.tar", "--key", "release.pub", *ASK)
    of_site = project.run("chat", site, *ASK)
    assert of_bundle["tokens"] == of_site["tokens"] and len(of_bundle["tokens"]) == 12
    assert of_bundle["finish"] == "length" and of_bundle["text"] == of_site["text"]


def test_an_unsigned_bundle_is_not_run(project: Project) -> None:
    done = project.run("chat", "tiny:1.0.0", "--prompt", "x", code=2)
    assert "no trusted key" in done.stderr
    project.run("keygen", "other")
    done = project.run("chat", "tiny.bundle.tar", "--key", "other.pub", "--prompt", "x", code=1)
    assert "error:" in done.stderr


def test_a_conversation_goes_on_line_by_line(project: Project, site: Path) -> None:
    done = project.run("chat", site, "--max-tokens", "4", prefix=("sh", "-c", 'printf "Hi\\nAnd now?\\n" | "$@"', "sh"))
    assert "a context of 256 tokens" in done.stderr
    assert done.stdout.count("\n") >= 2


def test_a_prompt_that_does_not_fit_is_refused(project: Project, site: Path) -> None:
    done = project.run("chat", site, "--prompt", "word " * 400, code=2)
    assert "the context 256 for prompt and answer together" in done.stderr
    done = project.run("chat", site, "--prompt", "x", "--temperature", "-1", code=2)
    assert "`temperature`: expected a number from 0 to 100" in done.stderr


def test_an_answer_in_the_terminal_keeps_to_a_schema(project: Project, site: Path) -> None:
    (project.folder / "colour.json").write_text('{"enum": ["red", "green"]}')
    drawn = ("--prompt", "x", "--schema", "colour.json", "--temperature", "1", "--seed", "3")
    assert project.run("chat", site, *drawn).stdout.strip() in ('"red"', '"green"')
    (project.folder / "bad.json").write_text('{"not": {}}')
    done = project.run("chat", site, "--prompt", "x", "--schema", "bad.json", code=2)
    assert "this schema is not supported" in done.stderr
    (project.folder / "bad.json").write_text("[]")
    done = project.run("chat", site, "--prompt", "x", "--schema", "bad.json", code=2)
    assert "`bad.json` holds no JSON schema" in done.stderr
    done = project.run("chat", site, "--prompt", "x", "--schema", "none.json", code=2)
    assert "`none.json` cannot be read: No such file" in done.stderr


def test_seeds_repeat(project: Project, site: Path) -> None:
    def drawn(seed: str) -> object:
        return project.run("chat", site, *ASK, "--temperature", "1", "--seed", seed)["tokens"]

    assert drawn("1") == drawn("1") != drawn("2")


@contextmanager
def serving(site: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve an installation as an operator does; yield its address, and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "packager", "serve", str(site), "--port", str(port), *options]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            assert server.poll() is None
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0, "SIGTERM drains and ends with 0"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with serving(site, "--set", "server.max_in_flight=2") as (found, _):
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    """The unchanged client, without its retries, which would hide refusals."""
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=60)


QUESTION: Any = [{"role": "user", "content": "What is a module?"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
GO = {
    "type": "object",
    "properties": {"to": {"enum": ["Bern", "Oslo"]}},
    "required": ["to"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "go", "parameters": GO}}]  # few tokens: the context has 256


def _schema(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "wanted", "schema": schema}}


def test_the_client_lists_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list().data] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_chat_answers_as_the_command_line(project: Project, site: Path, client: openai.OpenAI) -> None:
    expected = project.run("chat", site, *ASK)
    found = client.chat.completions.create(model="tiny", messages=QUESTION, max_completion_tokens=12)
    assert found.choices[0].message.content == expected["text"]
    assert found.choices[0].finish_reason == "length"
    assert found.usage and (found.usage.prompt_tokens, found.usage.completion_tokens) == (expected["prompt_tokens"], 12)


def test_a_stream_adds_up_to_the_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=20)
    parts = list(
        client.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert [part.choices[0].finish_reason for part in parts if part.choices][-1] == "length"
    assert parts[-1].choices == [] and parts[-1].usage == whole.usage


def test_completions_take_texts_and_ids(client: openai.OpenAI) -> None:
    of_text = client.completions.create(model="tiny", prompt="import sys", max_tokens=6, logprobs=2)
    found = of_text.choices[0].logprobs
    assert found and found.tokens and found.token_logprobs and len(found.tokens) == 6
    assert max(found.token_logprobs) <= 0
    streamed = client.completions.create(model="tiny", prompt="import sys", max_tokens=6, stream=True)
    assert "".join(part.choices[0].text for part in streamed) == of_text.choices[0].text
    assert client.completions.create(model="tiny", prompt=[80, 81], max_tokens=1).usage.prompt_tokens == 2  # type: ignore[union-attr]


def test_log_probabilities_come_with_alternatives(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=3, logprobs=True, top_logprobs=4)
    rows = found.choices[0].logprobs.content  # type: ignore[union-attr]
    assert rows and len(rows) == 3
    for row in rows:
        odds = [item.logprob for item in row.top_logprobs]
        assert len(odds) == 4 and odds == sorted(odds, reverse=True) and odds[0] == row.logprob


def test_seeds_and_stops_hold(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> str | None:
        asked = {"model": "tiny", "messages": QUESTION, "max_tokens": 12, "temperature": 1.0, "seed": seed}
        return client.chat.completions.create(**asked).choices[0].message.content  # type: ignore[no-any-return,call-overload]

    whole = drawn(3)
    assert whole and whole == drawn(3) != drawn(4)
    stop = whole[3:5]
    found = client.chat.completions.create(
        model="tiny", messages=QUESTION, max_tokens=12, temperature=1.0, seed=3, stop=[stop]
    ).choices[0]
    assert (found.message.content, found.finish_reason) == (whole[: whole.index(stop)], "stop")


class Entry(pydantic.BaseModel):
    model_config = {"extra": "forbid"}
    kind: Literal["module", "class"]
    line: int = pydantic.Field(ge=1, le=999)


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_is_a_document_of_the_schema(client: openai.OpenAI, seed: int) -> None:
    drawn: Any = {"model": "tiny", "messages": QUESTION, "max_tokens": 200, "temperature": 1.0, "seed": seed}
    parsed = client.chat.completions.parse(**drawn, response_format=Entry).choices[0]
    assert parsed.finish_reason == "stop" and isinstance(parsed.message.parsed, Entry)
    plain = client.chat.completions.create(**drawn, response_format=_schema(WEATHER))
    assert set(json.loads(plain.choices[0].message.content or "")) == {"city", "days"}
    stream = client.chat.completions.create(**drawn, response_format=_schema(WEATHER), stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in stream)
    assert text == plain.choices[0].message.content


def test_a_tool_is_called_and_its_result_is_read(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": "tiny",
        "messages": QUESTION,
        "max_tokens": 200,
        "tools": TOOLS,
        "temperature": 1.0,
        "seed": 1,
    }
    for choice in ("required", {"type": "function", "function": {"name": "go"}}):
        found = client.chat.completions.create(**asked, tool_choice=choice).choices[0]
        (call,) = found.message.tool_calls or ()
        assert (found.finish_reason, found.message.content, call.function.name) == ("tool_calls", None, "go")
        assert json.loads(call.function.arguments)["to"] in ("Bern", "Oslo")
    parts = list(client.chat.completions.create(**asked, tool_choice="required", stream=True))
    (delta,) = [item for part in parts for item in part.choices[0].delta.tool_calls or ()]
    assert delta.function and delta.function.arguments == call.function.arguments
    assert parts[-1].choices[0].finish_reason == "tool_calls"
    said = {"role": "tool", "tool_call_id": call.id, "content": "Sun."}
    asked["messages"] = [*QUESTION, found.message.model_dump(exclude_none=True), said]
    whole = client.chat.completions.create(**{**asked, "max_tokens": 4}, tool_choice="none").choices[0]
    assert whole.message.tool_calls is None and whole.message.content
    free = client.chat.completions.create(**{**asked, "max_tokens": 8}).choices[0]
    assert free.finish_reason in ("length", "stop", "tool_calls")


def test_the_generate_extension_answers_as_completions(client: openai.OpenAI, address: str) -> None:
    expected = client.completions.create(model="tiny", prompt="import sys", max_tokens=6).choices[0].text

    def asked(path: str, body: dict[str, Any]) -> str:
        request = urllib.request.Request(f"{address}/v2/models/tiny/{path}", json.dumps(body).encode())
        return urllib.request.urlopen(request, timeout=60).read().decode()  # type: ignore[no-any-return]

    body = {"text_input": "import sys", "parameters": {"max_tokens": 6, "details": True}}
    whole = json.loads(asked("generate", body))
    assert (whole["text_output"], whole["model_name"], whole["model_version"]) == (expected, "tiny", "1.0.0")
    assert whole["details"]["finish_reason"] == "length" and len(whole["details"]["tokens"]) == 6
    events = [json.loads(line[6:]) for line in asked("versions/1.0.0/generate_stream", body).splitlines() if line]
    assert "".join(item["text_output"] for item in events) == expected
    assert events[-1]["details"]["finish_reason"] == "length"
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked("generate", {"text_input": "x", "parameters": {"beams": 2}})
    assert refused.value.code == 400 and "`beams` is not supported" in refused.value.read().decode()


def test_tokens_and_their_times_are_counted(client: openai.OpenAI, address: str) -> None:
    def measures() -> dict[str, float]:
        text = urllib.request.urlopen(f"{address}/metrics", timeout=5).read().decode()
        rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name.removeprefix("packager_server_"): float(value) for name, value in rows}

    before = measures()
    used = client.completions.create(model="tiny", prompt="import sys", max_tokens=9).usage
    assert used
    for _ in range(100):  # an answer is counted when its thread has ended, which may be after it was sent
        after = measures()
        grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
        if grown.get('tokens_total{kind="answer"}'):
            break
        time.sleep(0.1)
    assert grown['tokens_total{kind="answer"}'] == used.completion_tokens == 9
    assert grown['tokens_total{kind="prompt"}'] == used.prompt_tokens
    assert grown["first_token_seconds_count"] == grown["token_seconds_count"] == 1
    assert after["cache_bytes"] == 0.0
    stream = client.completions.create(model="tiny", prompt="import sys", max_tokens=200, stream=True)
    next(iter(stream))
    held = measures()["cache_bytes"]
    assert held in (0.0, (used.prompt_tokens + 200) * 2 * 2 * 2 * 16 * 4)  # 0: it was done before it was looked at
    stream.close()


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": _schema({"type": "array", "uniqueItems": True})}, "response_format"),
        ({"response_format": {"type": "json_object"}, "tools": TOOLS}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"extra_body": {"best_of_all": True}}, "best_of_all"),
    ],
)
def test_what_is_not_done_is_refused_by_name(client: openai.OpenAI, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=2, **more)
    assert refused.value.param == param and param in refused.value.message


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="other", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    long: Any = [{"role": "user", "content": "word " * 400}]
    with pytest.raises(openai.BadRequestError) as full:
        client.chat.completions.create(model="tiny", messages=long)
    assert full.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=QUESTION, temperature=-1)
    with pytest.raises(openai.NotFoundError):
        client.post("/embeddings", body={"input": "x"}, cast_to=object)


def test_overload_is_refused_with_a_time_to_wait(client: openai.OpenAI) -> None:
    def ask(number: int) -> object:
        try:
            found = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=150)
            return found.choices[0].message.content
        except openai.RateLimitError as error:
            return int(error.response.headers["retry-after"])

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, range(36)))
    answers = {item for item in found if isinstance(item, str)}
    assert len(answers) == 1, "everyone who was answered got the same answer"
    assert any(isinstance(item, int) and item >= 1 for item in found)


def test_a_client_that_leaves_frees_its_place(address: str, client: openai.OpenAI) -> None:
    for _ in range(4):  # twice as many as the server takes at a time
        stream = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=200, stream=True)
        next(iter(stream))
        stream.close()
        for _ in range(600):
            text = urllib.request.urlopen(f"{address}/metrics", timeout=60).read().decode()
            if "\npackager_server_requests_in_flight 0.0" in text:
                break
            time.sleep(0.1)
        assert "\npackager_server_requests_in_flight 0.0" in text
    assert client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=2).choices


def test_draining_cuts_no_stream(site: Path) -> None:
    with serving(site) as (found, process):
        own = openai.OpenAI(base_url=f"{found}/v1", api_key="none", max_retries=0, timeout=60)
        stream = iter(own.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=200, stream=True))
        next(stream)
        process.send_signal(signal.SIGTERM)
        assert [part.choices[0].finish_reason for part in stream][-1] in ("length", "stop")


def test_conformance_on_the_promised_versions_and_as_installed(project: Project, tmp_path: Path) -> None:
    options = ("--key", "release.pub", "--json", "--cache", tmp_path / "cache", "--runtime", "serve")
    found = project.run("conform", "tiny.bundle.tar", *options, "--runtime", "onnxruntime==1.31.0")
    assert found["verdict"]["passed"] == 2
    for cell in found["cells"]:
        assert set(cell["levels"].values()) == {"pass"}
        assert cell["measures"]["tokens_per_second"] > 0
    done = project.run("conform", "tiny.bundle.tar", code=2)
    assert "none is trusted here" in done.stderr


@pytest.mark.slow  # another export, and an environment
def test_openvino_genai_from_the_recipe_to_an_installation(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai", reason="openvino-genai is not installed")
    other = Project(tmp_path / "elsewhere", tmp_path / "store", {"PACKAGER_PASSPHRASE": "secret"})
    other.folder.mkdir()
    language_models.write(other.folder / "model")
    (other.folder / "bundle.yaml").write_text(f'{RECIPE}  openvino-genai: ">=2026.4"\n')
    other.run("keygen", "release")
    other.run("lock")
    other.run("build")
    other.run("sign", "tiny:1.0.0", "--key", "release.pem", "-o", "tiny.bundle.tar")
    target = ("--target", "openvino-genai-cpu-fp32")
    other.run("install", "tiny.bundle.tar", "own", "--key", "release.pub", *target)
    other.run("install", "tiny.bundle.tar", "plain", "--key", "release.pub")
    found, expected = (other.run("chat", name, *ASK) for name in ("own", "plain"))
    assert found["tokens"] == expected["tokens"]
    options = ("--key", "release.pub", "--json", "--cache", tmp_path / "cache", "--runtime", "openvino-genai")
    (cell,) = other.run("conform", "tiny.bundle.tar", *options)["cells"]
    assert set(cell["levels"].values()) == {"pass"}, cell["reason"]
    names = [check["name"] for check in cell["checks"]]
    assert "prompt plain: greedy tokens of the runtime's own loop" in names
    assert "prompt plain: ids of the runtime's own tokenizer" in names


@pytest.mark.slow  # two more exports
def test_gguf_goes_in_by_consent_and_comes_out(tmp_path: Path) -> None:
    """The file for llama.cpp of one bundle is the source of another, which answers the same."""
    pytest.importorskip("gguf", reason="gguf is not installed")
    secret = {"PACKAGER_PASSPHRASE": "secret"}
    first, second = (Project(tmp_path / name, tmp_path / "store", secret) for name in ("out", "in"))
    for other in (first, second):
        other.folder.mkdir()
        other.run("keygen", "release")
    language_models.write(first.folder / "model")
    (first.folder / "bundle.yaml").write_text(f'{RECIPE}  llama-cpp: ">=0.3"\n')
    first.run("lock")
    first.run("build")
    first.run("sign", "tiny:1.0.0", "--key", "release.pem", "-o", "tiny.bundle.tar")
    first.run("unpack", "tiny.bundle.tar", "plain", "--key", "release.pub")
    (second.folder / "x.gguf").write_bytes((first.folder / "plain/targets/llama-cpp-cpu-fp32/model.gguf").read_bytes())
    recipe = RECIPE.replace("name: tiny", "name: again").replace("source: model", "source: x.gguf")
    (second.folder / "bundle.yaml").write_text(recipe)
    refused = second.run("lock", code=4)
    assert "may hold weights in blocks of fewer bits" in refused.stderr and "dequantize: true" in refused.stderr
    (second.folder / "bundle.yaml").write_text(f"{recipe}dequantize: true\n")
    second.run("lock")
    second.run("build")
    second.run("sign", "again:1.0.0", "--key", "release.pem", "-o", "again.bundle.tar")
    expected = first.run("chat", "tiny.bundle.tar", "--key", "release.pub", *ASK)
    assert second.run("chat", "again.bundle.tar", "--key", "release.pub", *ASK)["tokens"] == expected["tokens"]


@pytest.mark.slow  # a second export
def test_a_second_build_in_another_place_gives_the_same_digest(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "elsewhere", tmp_path / "store")
    other.folder.mkdir()
    language_models.write(other.folder / "model")
    (other.folder / "bundle.yaml").write_text(RECIPE)
    (other.folder / "bundle.lock").write_bytes((project.folder / "bundle.lock").read_bytes())
    again = other.run("build", "--json", PYTHONHASHSEED="77")
    assert again["digest"] == project.run("build", "--json")["digest"]


@pytest.mark.slow  # another export
def test_a_lying_tokenizer_class_fails_the_build(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "lying", tmp_path / "store")
    other.folder.mkdir()
    language_models.write(other.folder / "model")
    language_models.edit(
        other.folder / "model" / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", add_prefix_space=True
    )
    (other.folder / "bundle.yaml").write_text(RECIPE)
    other.run("lock")
    done = other.run("build", code=1)
    assert "output `prompt_ids`" in done.stderr


def test_a_task_needs_a_language_model(project: Project, tmp_path: Path) -> None:
    other = Project(tmp_path / "bert", tmp_path / "store")
    other.folder.mkdir()
    language_models.write(other.folder / "model", "bert")
    (other.folder / "bundle.yaml").write_text(RECIPE)
    done = other.run("lock", code=2)
    assert "is no causal language model with a tokenizer" in done.stderr and "hint:" in done.stderr
    (other.folder / "bundle.yaml").write_text(RECIPE + "inputs: {x: {dtype: float32}}\n")
    done = other.run("lock", code=2)
    assert "`inputs` has no meaning beside `task`" in done.stderr


def test_deployment_files_hold_what_makes_texts(project: Project) -> None:
    bundle = open_bundle(str(project.folder / "tiny.bundle.tar"), lambda: Store(project.store))
    opened = server_files.list_artefact(bundle, "onnxruntime-cpu-fp32")
    assert {"model/model.onnx", "generation/tokenizer.json", "generation/chat_template.jinja"} <= set(opened)
    done = project.run("render", "bentoml", "tiny.bundle.tar", "bento", "--key", "release.pub", code=2)
    assert "`tiny` generates text" in done.stderr
